"""Gaps that nobody closes any more are closed by what makes their symbol whole, once, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from marketdata.clock import SECOND_NS
from marketdata.events import SYMBOL, AnyEvent, BookUpdate, FeedStatus, Quote, RawFrame, Trades
from producers.live.orphaned_gaps import PATIENCE_NS, ClosingSink, OrphanedGaps
from producers.venues import find_venue
from producers.venues.kit.published import PreviousRun, Published
from producers.venues.kit.venue import Venue

TS = 1_786_309_548_228_568_123
WHO: dict[str, Any] = {"venue": "v", "symbol": "BTC-USD", "ts_event": TS, "ts_recv": TS, "line": "v/0"}
LEVELS: dict[str, Any] = {"bid_prices": ["1"], "bid_sizes": ["1"], "ask_prices": ["2"], "ask_sizes": ["1"]}
RETIRED = FeedStatus(**(WHO | {"kind": "ended", "reason": "retired", "line": "v/9", "symbol": "*"}))


def gap(gap_id: str = "g", **more: Any) -> FeedStatus:
    """Return a gap that was opened before."""
    fields = {
        "kind": "gap",
        "reason": "disconnected",
        "gap_id": gap_id,
        "ts_from": TS - 9,
        "line": "v/9",
        "sequence": 3,
    }
    return FeedStatus(**(WHO | fields | more))


def continued(**more: Any) -> FeedStatus:
    """Return the gap that a feed of this process opens where an earlier one ended."""
    return gap("new", reason="restarted", line="v/0", **more)


def book(kind: str = "snapshot", **more: Any) -> BookUpdate:
    """Return a book, or a change of it."""
    return BookUpdate(**(WHO | LEVELS | {"kind": kind} | more))


def published(gaps: OrphanedGaps, *events: AnyEvent) -> list[FeedStatus]:
    """Return what is published beside the events that pass, which stay as they are and in order."""
    passed: list[AnyEvent] = []

    class Behind:
        async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
            assert (line, t_recv, raw) == ("v/0", 7, None)
            passed.extend(events)

    asyncio.run(ClosingSink(Behind(), gaps).write("v/0", events, 7))
    assert [event for event in passed if any(event is one for one in events)] == list(events)
    return [event for event in passed if isinstance(event, FeedStatus) and event not in events]


VENUE = Venue(
    name="v", ws_url="ws://v", rest_url="http://v", make=find_venue("okx").make, sequence_scope=SYMBOL,
    amends_trades=True,
)  # fmt: skip


@pytest.fixture
def gaps() -> OrphanedGaps:
    """The gaps of a process that starts."""
    return OrphanedGaps()


def start(gaps: OrphanedGaps, *left: FeedStatus) -> list[AnyEvent]:
    """Start with gaps that an earlier process left open, of a symbol that it published; return what is published."""
    symbols = {"BTC-USD": Published(ts_whole=TS, lines=frozenset({"v/0"}))}
    return gaps.start(PreviousRun(symbols=symbols, gaps=left), {"BTC-USD", "ETH-USD"}, ["v/0"], VENUE, TS + 70)


def test_a_gap_that_a_killed_process_left_is_closed_with_the_one_that_continues_it(gaps: OrphanedGaps) -> None:
    """Not by a book, since trades may be missing yet; a gap of a symbol that is not ours is another process's."""
    assert start(gaps, gap("one"), gap("two", line="v/8"), gap("other", symbol="XRP-USD")) == []
    assert not published(gaps, continued(), book(), book("heartbeat"), Trades(**WHO))
    assert not published(gaps, gap("another", kind="resynced"))
    closed = published(gaps, continued(kind="resynced", ts_event=TS + 5))
    assert [(one.gap_id, one.kind, one.line, one.reason) for one in closed] == [
        ("one", "resynced", "v/9", "restarted"), ("two", "resynced", "v/8", "restarted")]  # fmt: skip
    assert (closed[0].ts_from, closed[0].ts_to, closed[0].sequence) == (TS - 9, TS + 5, None)
    assert not published(gaps, continued(kind="resynced"))


@pytest.mark.parametrize(
    "left", [gap(channel="trades", ts_to=TS), gap(channel="trades", expected=4, received=6)]
)  # fmt: skip
def test_gaps_of_trades_with_a_range_wait_for_history(gaps: OrphanedGaps, left: FeedStatus) -> None:
    """Neither a feed that continues nor a successor brings those trades."""
    start(gaps, left)
    assert not published(gaps, continued(), continued(kind="resynced"))
    assert not published(gaps, book(line="v/1"), left, RETIRED)


def test_lines_that_are_no_more_are_interrupted() -> None:
    """They would count as alive for a moment, and the stream as valid; the lines that go on speak for themselves."""
    events = OrphanedGaps().start(
        PreviousRun(symbols={"BTC-USD": Published(ts_whole=TS + 3, lines=frozenset({"v/0", "v/0+"}))}),
        None, ["v/0"], VENUE, TS + 70,
    )  # fmt: skip
    assert [(type(e), e.line, e.valid, e.reason, e.ts_event) for e in events if isinstance(e, Trades | BookUpdate)] == [
        (Trades, "v/0+", False, "gap", TS + 3), (BookUpdate, "v/0+", False, "gap", TS + 3)]  # fmt: skip
    assert [e.amendable if isinstance(e, Trades) else e.sequence_scope for e in events
            if isinstance(e, Trades | BookUpdate)] == [True, SYMBOL]  # fmt: skip


@pytest.mark.parametrize(
    ("left", "kinds"),
    [
        (gap(), ["resynced", "gap"]),
        (gap(channel="book"), ["resynced"]),
        (gap(channel="trades"), ["resynced", "gap"]),
        (gap(ts_from=None), ["resynced"]),  # nothing good ever came before
    ],
)
def test_the_gap_of_a_retired_line_is_closed_by_its_whole_successor(
    gaps: OrphanedGaps, left: FeedStatus, kinds: list[str]
) -> None:
    """At once where that has the book; what was traded meanwhile is a gap with both ends, for history to fill."""
    assert not published(gaps, left, book(line="v/9"), book(line="v/0"))
    closed = published(gaps, RETIRED)
    assert [one.kind for one in closed] == kinds
    assert (closed[0].gap_id, closed[0].reason, closed[0].detail) == ("g", "succeeded", "by v/0, which is whole")
    if "gap" in kinds:
        trades = closed[1]
        assert (trades.gap_id, trades.channel, trades.line) == ("g/trades", "trades", "v/0")
        assert (trades.ts_from, trades.ts_to, trades.expected, trades.received) == (TS - 9, TS, None, None)


def test_several_gaps_of_a_retired_line_miss_the_same_trades_once(gaps: OrphanedGaps) -> None:
    """Each is closed when the book comes; the longest time of them is what history has to fill."""
    mine = [gap("one"), gap("two", ts_from=TS - 20), gap("three", ts_from=None), gap("over")]
    assert not published(gaps, *mine, gap("other", line="v/1"), gap("over", kind="resynced"), RETIRED)
    *closed, trades = published(gaps, book())
    assert [one.gap_id for one in closed] == ["one", "two", "three"]
    assert (trades.kind, trades.gap_id, trades.ts_from) == ("gap", "two/trades", TS - 20)
    assert not published(gaps, msgspec.structs.replace(RETIRED, line="v/0"), book())


@pytest.mark.parametrize("event", [Trades(**WHO), Quote(**WHO, bid="1"), book("heartbeat")])
def test_where_no_book_comes_any_valid_event_closes_after_a_while(gaps: OrphanedGaps, event: AnyEvent) -> None:
    """As of a venue of which only trades or quotes are had; an invalid one never does."""
    published(gaps, gap(), RETIRED)
    later = TS + PATIENCE_NS
    assert not published(gaps, event)
    assert not published(gaps, msgspec.structs.replace(event, ts_recv=later - 1))
    assert not published(gaps, msgspec.structs.replace(event, ts_recv=later, valid=False, reason="gap"))
    assert not published(gaps, msgspec.structs.replace(event, ts_recv=later, symbol="ETH-USD"))
    assert [one.kind for one in published(gaps, msgspec.structs.replace(event, ts_recv=later))] == ["resynced", "gap"]


def test_a_gap_of_a_symbol_of_which_nothing_was_published_is_closed_by_its_first_book(gaps: OrphanedGaps) -> None:
    """No feed has anything to continue there, so that none opens a gap of its own."""
    start(gaps, gap(symbol="ETH-USD", ts_from=None))
    closed = published(gaps, book(symbol="ETH-USD"))
    assert [(one.kind, one.reason) for one in closed] == [("resynced", "restarted")]


def test_a_feed_that_closes_its_gaps_itself_is_left_alone(gaps: OrphanedGaps) -> None:
    """Nothing is published for a line that lives, however many books come."""
    later = book(ts_recv=TS + 99 * SECOND_NS)
    assert not published(gaps, gap(), book(), book("clear"), book(), gap(kind="resynced"), later)
