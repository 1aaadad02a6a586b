"""A connection that fell silent is given up once; one that ended is reported, and every book with it is lost."""

from __future__ import annotations

from marketdata.events import DISCONNECTED, STALE, FeedStatus
from marketdata.feed import Output, Reconnect
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.liveness import Liveness

MS = 1_000_000
SILENCE = 5_000 * MS


class Feed:
    """The least feed that lives: it notes why it lost its books, and what was published of that."""

    def __init__(self) -> None:
        self.line = Line("acme", "acme-1")
        self.lost: list[tuple[str, str]] = []
        self.liveness = Liveness(SILENCE, lambda _, reason: self.lost.append((reason, self.liveness.end)))

    def call(self, ts: int) -> Call:
        """Begin a call at this time."""
        return Call(self.line, ts, None)


def statuses_of(out: list[Output]) -> list[tuple[str, str]]:
    """Return what was published and requested, with its reason."""
    return [(each.kind, each.reason) if isinstance(each, FeedStatus) else ("?", str(each)) for each in out]


def test_silence_longer_than_the_limit_gives_the_connection_up_once() -> None:
    """At the limit itself it still lives; later ticks find nothing to see to, until the next connection."""
    feed = Feed()
    feed.liveness.opened(feed.call(0))
    assert feed.liveness.ticked(feed.call(SILENCE))
    late = feed.call(SILENCE + 7 * MS)
    assert not feed.liveness.ticked(late)
    assert feed.lost == [(STALE, "no frame for 5007 ms")]
    assert statuses_of(late.out[:1]) == [("heartbeat_missed", STALE)]
    assert late.out[1:] == [Reconnect("heartbeat_missed")]
    assert not feed.liveness.ticked(feed.call(3 * SILENCE))
    feed.liveness.opened(feed.call(4 * SILENCE))
    assert feed.liveness.ticked(feed.call(5 * SILENCE))
    assert len(feed.lost) == 1


def test_end_of_a_connection_loses_every_book_whether_it_was_silent_or_not() -> None:
    """Its reason goes out and is there for each gap."""
    feed = Feed()
    feed.liveness.opened(feed.call(0))
    feed.liveness.ticked(feed.call(2 * SILENCE))
    gone = feed.call(2 * SILENCE)
    feed.liveness.closed(gone, "1006")
    assert statuses_of(gone.out) == [("disconnected", "1006")]
    assert feed.lost[1:] == [(DISCONNECTED, "1006")]
    assert not feed.liveness.ticked(feed.call(2 * SILENCE))


def test_venue_is_asked_for_a_word_after_silence_and_not_again_at_once() -> None:
    """A frame puts it off, and so does the last request, answered or not."""
    liveness = Feed().liveness
    assert not liveness.is_open
    liveness.opened(Feed().call(0))
    asked = []
    for ts in range(100, 10_000, 100):
        if ts == 3_000:
            liveness.ts_heard = ts
        if liveness.ping_due(ts, 1_000):
            asked.append(ts)
    assert asked == [1_100, 2_200, 4_100, 5_200, 6_300, 7_400, 8_500, 9_600]
