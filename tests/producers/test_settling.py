"""Gaps that nobody closes any more are settled by what makes their symbol whole, once, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from marketdata.clock import SECOND_NS
from marketdata.events import AnyEvent, BookUpdate, FeedStatus, Quote, RawFrame, Trade, Trades
from producers.settling import PATIENCE_NS, Gaps, Settling

TS = 1_786_309_548_228_568_123
WHO: dict[str, Any] = {"venue": "v", "symbol": "BTC-USD", "ts_event": TS, "ts_recv": TS, "line": "v/0"}
LEVELS: dict[str, Any] = {"bid_prices": ["1"], "bid_sizes": ["1"], "ask_prices": ["2"], "ask_sizes": ["1"]}


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


def book(kind: str = "snapshot", **more: Any) -> BookUpdate:
    """Return a book, or a change of it."""
    return BookUpdate(**(WHO | LEVELS | {"kind": kind} | more))


def told(gaps: Gaps, *events: AnyEvent) -> list[FeedStatus]:
    """Return what is told beside the events that pass, which stay as they are and in order."""
    passed: list[AnyEvent] = []

    class Behind:
        async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
            assert (line, t_recv, raw) == ("v/0", 7, None)
            passed.extend(events)

    asyncio.run(Settling(Behind(), gaps).write("v/0", events, 7))
    assert [event for event in passed if any(event is one for one in events)] == list(events)
    return [event for event in passed if isinstance(event, FeedStatus) and event not in events]


@pytest.fixture
def gaps() -> Gaps:
    """The gaps of a process that starts."""
    return Gaps()


def test_a_gap_that_a_crash_left_is_closed_by_the_first_whole_book(gaps: Gaps) -> None:
    """Not by another symbol's; what was traded meanwhile is a gap with both ends, for history to fill."""
    gaps.left_over([gap(expected=7, received=9)])  # of the connection's sequence, which says nothing of trade ids
    assert not told(gaps, book(symbol="ETH-USD"), book("heartbeat"), book("clear"), Trades(**WHO))
    closed, trades = told(gaps, book(ts_event=TS + 5))
    assert (closed.kind, closed.gap_id, closed.line, closed.reason) == ("resynced", "g", "v/9", "restarted")
    assert (closed.ts_from, closed.ts_to, closed.sequence) == (TS - 9, TS + 5, None)
    assert (trades.kind, trades.gap_id, trades.channel, trades.line) == ("gap", "g/trades", "trades", "v/0")
    assert (trades.ts_from, trades.ts_to, trades.expected, trades.received) == (TS - 9, TS + 5, None, None)
    assert not told(gaps, book())


def test_several_lines_miss_the_same_trades_once(gaps: Gaps) -> None:
    """Each line's gap is closed; the longest time of them is what history has to fill."""
    gaps.left_over([gap("one"), gap("two", ts_from=TS - 20), gap("three", ts_from=None)])
    *closed, trades = told(gaps, book())
    assert [one.gap_id for one in closed] == ["one", "two", "three"]
    assert (trades.kind, trades.gap_id, trades.ts_from) == ("gap", "two/trades", TS - 20)


@pytest.mark.parametrize(
    ("left", "kinds"),
    [
        (gap(channel="book"), ["resynced"]),
        (gap(channel="trades"), ["resynced", "gap"]),
        (gap(ts_from=None), ["resynced"]),  # nothing good ever came before
        (gap(channel="trades", ts_to=TS), []),
        (gap(channel="market_trades", expected=4, received=6), []),
    ],
)
def test_only_what_history_cannot_find_by_itself_is_told_anew(gaps: Gaps, left: FeedStatus, kinds: list[str]) -> None:
    """A gap of the book has no trades; one of trades with a range or with ids waits for history as it is."""
    gaps.left_over([left])
    assert [one.kind for one in told(gaps, book())] == kinds


@pytest.mark.parametrize("event", [Trades(**WHO), Quote(**WHO, bid="1"), book("heartbeat")])
def test_where_no_book_comes_any_valid_event_settles_after_a_while(gaps: Gaps, event: AnyEvent) -> None:
    """As of a venue of which only trades or quotes are had; an invalid one never does."""
    gaps.left_over([gap()])
    later = TS + PATIENCE_NS
    assert not told(gaps, event)
    assert not told(gaps, msgspec.structs.replace(event, ts_recv=later - 1))
    assert not told(gaps, msgspec.structs.replace(event, ts_recv=later, valid=False, reason="gap"))
    assert not told(gaps, msgspec.structs.replace(event, ts_recv=later, symbol="ETH-USD"))
    assert [one.kind for one in told(gaps, msgspec.structs.replace(event, ts_recv=later))] == ["resynced", "gap"]


def test_the_gaps_of_a_retired_line_are_closed_by_its_whole_successor(gaps: Gaps) -> None:
    """At once where that has the book, else when it comes; other lines' gaps and closed ones are left alone."""
    ended = FeedStatus(**(WHO | {"kind": "ended", "reason": "retired", "line": "v/9", "symbol": "*"}))
    mine = [gap("one"), gap("two", symbol="ETH-USD"), gap("other", line="v/1"), gap("over")]
    assert not told(gaps, *mine, gap("over", kind="resynced"), book(line="v/9"), book(line="v/0"))
    closed, _ = told(gaps, ended)
    assert (closed.gap_id, closed.reason, closed.detail) == ("one", "succeeded", "by v/0, which is whole")
    later = told(gaps, book(symbol="ETH-USD"))
    assert [(one.gap_id, one.reason) for one in later] == [("two", "succeeded"), ("two/trades", "gap")]
    assert not told(gaps, msgspec.structs.replace(ended, line="v/0"), book())


def test_trades_that_a_killed_process_cut_off_are_told_to_be_missing(gaps: Gaps) -> None:
    """At once in their stream, so that candles know; on the ledger with both ends when the symbol is whole again."""
    last = Trades(**WHO, sequence=5, trades=(Trade(trade_id="1", ts_event=TS, price="1", size="1", side="buy"),))
    over = Trades(**(WHO | {"symbol": "ETH-USD"}), valid=False, reason="gap")
    (mark,) = gaps.cut_off([last, over], TS + 70)
    assert (mark.valid, mark.reason, mark.trades, mark.ts_event, mark.ts_recv) == (False, "gap", (), TS, TS + 70)
    assert (mark.line, mark.sequence) == ("v/0", None)
    (told_of,) = told(gaps, book(symbol="ETH-USD"), book(ts_event=TS + 90))
    assert (told_of.kind, told_of.channel, told_of.ts_from, told_of.ts_to) == ("gap", "trades", TS, TS + 90)
    assert not told(gaps, book())


def test_a_feed_that_closes_its_gaps_itself_is_not_spoken_for(gaps: Gaps) -> None:
    """A line that lives is asked nothing, however many books come."""
    assert not told(gaps, gap(), book(), book("clear"), book(), gap(kind="resynced"), book(ts_recv=TS + 99 * SECOND_NS))
