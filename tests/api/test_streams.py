"""The streams without sockets: what a follower is given, and when."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from api.core.clocks import Clocks
from api.core.market import Market
from api.core.trust import Trust
from api.gateway.kept_frames import Kept
from api.gateway.stream import Named
from api.gateway.stream_key import StreamKey
from api.gateway.streams import Streams
from api.gateway.subscriptions import Refused, Request
from marketdata.clock import SECOND_NS
from marketdata.events import BookUpdate

T0 = 1_786_309_548 * SECOND_NS
STALE_NS = 10 * SECOND_NS


class Clock:
    """Our clock, which the test sets."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> int:
        """Return the time."""
        return self.now


class Counting(Clocks):
    """Clocks that count how often somebody judges an age."""

    judged = 0

    def now(self, venue: str, ts_recv: int) -> int:
        """Return the time by the clock of a venue."""
        self.judged += 1
        return super().now(venue, ts_recv)


class Follower:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.streams: dict[int, StreamKey] = {}
        self.frames: list[tuple[str, bytes]] = []

    def subscribed(self, client: int, request: Request, interval: str, streams: list[Named]) -> None:
        """Keep the streams."""
        del client, request, interval
        self.streams |= dict(streams)

    def changed(self, identity: int, kept: list[Kept]) -> None:
        """Keep the frames."""
        self.frames += [(self.streams[identity].symbol, one.frame.plain) for one in kept]

    def flush(self) -> None:
        """Nothing is collected."""

    def refused(self, client: int, refused: Refused) -> None:
        """Fail: no request here is wrong."""
        raise refused

    def unsubscribed(self, client: int, request: Request, keys: list[StreamKey]) -> None:
        """Nothing is unsubscribed here."""

    def present(self, identity: int, kept: list[Kept], *, conflated: bool) -> None:
        """Nobody asks for the present here."""

    def missed(self, client: int, identity: int, kept: list[Kept], *, recovered: bool) -> None:
        """Nobody resumes here."""


class Stage:
    """Streams of the books of some symbols, each followed."""

    def __init__(self, symbols: int) -> None:
        self.clock = Clock()
        self.clocks = Counting(self.clock)
        self.streams = Streams(Market(), self.clocks, stale_ns=STALE_NS, kept_bytes=1 << 20, ready=lambda: True)
        self.follower = Follower()
        self.names = [f"S{number}-USD" for number in range(symbols)]
        for name in self.names:
            self.book(name, "snapshot")
        for start in range(0, symbols, 200):
            request = Request(op="subscribe", channels=["book"], symbols=self.names[start : start + 200])
            self.streams.subscribe(self.follower, 1, request)

    def book(self, symbol: str, kind: str) -> None:
        """Handle an event of a book, received now."""
        levels: dict[str, Any] = {"bid_prices": ["1"], "bid_sizes": ["1"]} if kind == "snapshot" else {}
        event = BookUpdate(
            venue="sim",
            symbol=symbol,
            ts_event=self.clock.now,
            ts_recv=self.clock.now,
            line="sim/0",
            kind=kind,
            **levels,
        )
        self.streams.handle(event, 0, "00000000")

    def trusts(self) -> dict[str, bool]:
        """Return whether each book is valid, by its last frame."""
        return {symbol: b'"valid":true' in frame for symbol, frame in self.follower.frames}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("beat"), st.integers(0, 2)),
            st.tuples(st.just("wait"), st.integers(1, 13)),
        ),
        max_size=40,
    )
)
def test_a_book_is_stale_exactly_while_nothing_was_received_for_longer_than_the_limit(steps: list[Any]) -> None:
    """Whatever comes and however long nothing does: the last frame of each says what is true within a second."""
    stage = Stage(3)
    received = dict.fromkeys(stage.names, T0)
    for kind, number in steps:
        if kind == "beat":
            stage.book(stage.names[number], "heartbeat")
            received[stage.names[number]] = stage.clock.now
        else:
            for _ in range(number):
                stage.clock.now += SECOND_NS
                stage.streams.expire()
        expected = {symbol: stage.clock.now - ts <= STALE_NS for symbol, ts in received.items()}
        assert dict.fromkeys(stage.names, True) | stage.trusts() == expected
    assert dict(stage.streams.market.named(stage.names[0])[0].depths) == {50: 1}
    assert stage.streams.market.named(stage.names[0])[0].book.trust == Trust(True)


def test_fresh_books_cost_nothing_each_second() -> None:
    """Only what may have become stale is looked at; what is stale waits for its next event."""
    stage = Stage(2_000)
    before = stage.clocks.judged
    for _ in range(9):
        stage.clock.now += SECOND_NS
        stage.streams.expire()
    assert stage.clocks.judged == before
    stage.clock.now += 2 * SECOND_NS
    stage.streams.expire()
    assert not any(stage.trusts().values())
    assert len(stage.trusts()) == 2_000
    stage.book(stage.names[7], "heartbeat")
    assert [symbol for symbol, valid in stage.trusts().items() if valid] == [stage.names[7]]
