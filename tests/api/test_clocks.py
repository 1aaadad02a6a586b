"""A replayed value is as old as the recording says; a dead live platform grows stale."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.core.clocks import END_REASON, Clocks
from marketdata.events import ALL_SYMBOLS, FeedStatus
from marketdata.headers import HOPS, Hops, Position, received_at

SECOND = 1_000_000_000
OLD = 1_600_000_000 * SECOND
NOW = 1_786_000_000 * SECOND


class Wall:
    """Our clock, as a test sets it."""

    def __init__(self) -> None:
        self.ts = NOW

    def __call__(self) -> int:
        """Return the time."""
        return self.ts


def ended(venue: str, ts: int) -> FeedStatus:
    """Return what a line reports at the end of a recording."""
    return FeedStatus(
        venue=venue, symbol=ALL_SYMBOLS, ts_event=ts, ts_recv=ts, line=venue, kind="ended", reason=END_REASON
    )


def test_live_values_are_judged_by_our_clock() -> None:
    """Also when every producer is dead and nothing comes any more."""
    wall = Wall()
    clocks = Clocks(wall)
    clocks.note("coinbase", NOW, NOW)
    wall.ts += 3600 * SECOND
    assert clocks.now("coinbase", NOW) == wall.ts
    assert clocks.now("unknown", NOW) == wall.ts


def test_a_replays_clock_is_that_of_its_events_and_stands_still_at_its_end() -> None:
    """What the recording's other events left behind is stale; what was fresh at its end stays so."""
    wall = Wall()
    clocks = Clocks(wall)
    for second in range(30):
        clocks.note("coinbase", OLD + second * SECOND, NOW + second)
    wall.ts += 3600 * SECOND
    assert clocks.now("coinbase", OLD) == OLD + 29 * SECOND
    assert clocks.now("kraken", OLD) == wall.ts, "another venue is live"


def test_a_live_event_after_a_replay_makes_the_venue_live() -> None:
    """Whichever of both is read first: the later received decides; history read late decides nothing."""
    wall = Wall()
    clocks = Clocks(wall)
    clocks.note("coinbase", OLD, NOW)
    clocks.note("coinbase", NOW + SECOND, NOW + SECOND)
    clocks.note("coinbase", OLD + SECOND, NOW)  # an older record of another partition
    assert clocks.now("coinbase", OLD) == wall.ts
    clocks.note("coinbase", OLD + 5 * SECOND, NOW + 2 * SECOND)
    assert clocks.now("coinbase", OLD) == OLD + 5 * SECOND
    assert clocks.now("coinbase", NOW + SECOND) == wall.ts, "it is none of the replay's"


def test_the_end_of_a_recording_with_our_own_clock_stops_it() -> None:
    """A replay over TCP; an event after it, as of another line, makes the clock run again."""
    wall = Wall()
    clocks = Clocks(wall)
    clocks.note("fix", NOW, NOW)
    clocks.note_status(ended("fix", NOW + SECOND))
    wall.ts += 3600 * SECOND
    assert clocks.now("fix", NOW) == NOW + SECOND
    clocks.note("fix", wall.ts, wall.ts)
    assert clocks.now("fix", NOW) == wall.ts


def test_events_without_a_time_of_receipt_decide_nothing() -> None:
    """Such as those of a loss that the pipeline found."""
    wall = Wall()
    clocks = Clocks(wall)
    clocks.note("coinbase", OLD, 0)
    assert clocks.now("coinbase", OLD) == wall.ts


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10**12)), max_size=30))
def test_a_value_newer_than_every_replayed_one_is_always_judged_by_our_clock(events: list[tuple[bool, int]]) -> None:
    """Whatever came before, nothing live is called fresh for being newer than a recording."""
    wall = Wall()
    clocks = Clocks(wall)
    for is_replay, ns in events:
        wall.ts += ns
        clocks.note("v", OLD + ns if is_replay else wall.ts, wall.ts)
    wall.ts += 3600 * SECOND
    assert clocks.now("v", NOW) == wall.ts
    if events and not events[-1][0]:
        assert clocks.now("v", OLD) == wall.ts


def test_time_of_receipt_is_read_from_the_header_alone() -> None:
    """With and without an input record; nothing readable is 0."""
    assert received_at({HOPS: Hops(t_recv=NOW).to_header()}) == NOW
    assert received_at({HOPS: Hops(t_recv=NOW, input=Position("t", 1, 2)).to_header()}) == NOW
    assert received_at({}) == received_at({HOPS: b""}) == received_at({HOPS: b"\x02" * 30}) == 0
