"""Lost input records: everything downstream is invalid at once, the ledger has an entry, and valid data ends it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import Anomaly, AnyEvent, Book, BookUpdate, Candle, FeedStatus, Metrics, Quote, Trades
from marketdata.operator import Lost
from stream_apps.chain import Chain
from stream_apps.operators import make_operators

KEY = "coinbase:BTC-USD"
REASONS = ["undecodable", "retention", "recreated", "truncated"]


def loss(make: Any, channel: str, seconds: float, offset: int = 41, **more: Any) -> Lost:
    """Return a loss of records of one input topic, detected at a time."""
    fields: dict[str, Any] = {"count": 1, "reason": "undecodable", "partition": 2} | more
    return Lost(topic=f"md.ingest.{channel}", offset=offset, ts=make.ts(seconds), **fields)


def play(channel: str, events: list[AnyEvent | Lost]) -> list[list[AnyEvent]]:
    """Return the outputs of one input topic's chain for each event or loss."""
    chain = Chain(f"md.ingest.{channel}", make_operators())
    return [chain.lose(event) if isinstance(event, Lost) else chain.step(event, KEY) for event in events]


def ledger(published: list[list[AnyEvent]]) -> list[tuple[str, str | None, str | None, int | None, int | None]]:
    """Return the entries of the ledger."""
    statuses = [event for out in published for event in out if isinstance(event, FeedStatus)]
    return [(one.kind, one.gap_id, one.channel, one.ts_from, one.ts_to) for one in statuses]


@pytest.mark.parametrize("reason", REASONS)
def test_lost_trades_invalidate_candles_since_the_last_valid_time_until_repaired(make: Any, reason: str) -> None:
    """Only those; the gap stays open until the repair closes it."""
    beats = [make.heartbeat(second) for second in range(0, 250, 2)]
    events: list[AnyEvent | Lost] = [*beats[:35], loss(make, "trades", 70, reason=reason, count=None), *beats[36:]]
    published = play("trades", [*events, make.heartbeat(80, origin="repair", complete_from=make.ts(60))])
    invalid, entry, anomaly = published[35]
    assert isinstance(invalid, Trades)
    assert (invalid.ts_event, invalid.valid, invalid.reason, invalid.trades) == (make.ts(68), False, "gap", ())
    assert isinstance(entry, FeedStatus)
    assert reason in entry.detail
    assert isinstance(anomaly, Anomaly)
    gap_id = f"md.ingest.trades|2|41|{KEY}"
    assert ledger(published) == [("gap", gap_id, "trades", make.ts(68), make.ts(70))]
    minutes = [one for out in published for one in out if isinstance(one, Candle) and one.interval == "1m"]
    assert [(one.start, one.revision, one.valid, one.reason) for one in minutes] == [
        (make.ts(0), 0, True, ""),
        (make.ts(60), 0, False, "gap"),
        (make.ts(120), 0, True, ""),
        (make.ts(180), 0, True, ""),
        (make.ts(60), 1, True, ""),
    ]


def test_the_stream_of_trades_is_valid_again_with_the_next_good_event(make: Any) -> None:
    """Also when that event does not advance time."""
    published = play("trades", [make.heartbeat(1), loss(make, "trades", 2), make.heartbeat(1), make.heartbeat(3)])
    assert [(one.valid, one.reason) for out in published for one in out if isinstance(one, Trades)] == [
        (True, ""), (False, "gap"), (True, ""), (True, "")]  # fmt: skip


def test_a_lost_record_of_books_clears_the_book_until_the_next_snapshot(make: Any) -> None:
    """With any lines: quote and book are invalid at once, updates are dropped, and a snapshot closes the gap."""
    snapshot = make.book("snapshot", 1, [("10", "1")], [("11", "1")], sequence=5)
    other = make.book("snapshot", 1.1, [("10", "1")], [("11", "1")], sequence=5, line="coinbase/1")
    change = make.book("update", 3, [("10", "2")], sequence=7)
    again = make.book("snapshot", 4, [("10", "3")], [("11", "1")], sequence=8)
    published = play("books", [snapshot, other, loss(make, "books", 2), loss(make, "books", 2, 50), change, again])
    kinds = [[getattr(one, "kind", type(one).__name__) for one in out] for out in published]
    assert kinds[2] == ["clear", "Quote", "Book", "Metrics", "VenuePrice", "gap", "gap"]
    for event in published[2]:
        if isinstance(event, BookUpdate | Quote | Book | Metrics):
            assert (event.valid, event.reason) == (False, "gap")
    assert kinds[4] == []
    first, second = (f"md.ingest.books|2|{offset}|{KEY}" for offset in (41, 50))
    assert ledger(published) == [
        ("gap", first, "books", make.ts(1), None),
        ("gap", second, "books", make.ts(1), None),
        ("resynced", first, "books", make.ts(1), make.ts(4)),
        ("resynced", second, "books", make.ts(1), make.ts(4)),
    ]
    books = [one for one in published[5] if isinstance(one, Book)]
    assert [(one.valid, one.bid_sizes) for one in books] == [(True, ["3"])]


def test_a_lost_quote_is_invalid_until_the_next_one(make: Any) -> None:
    """Even if it equals the last one before the loss."""
    same = make.quote(1)
    published = play("quotes", [same, same, loss(make, "quotes", 2), same])
    assert [[(one.valid, one.reason, one.bid) for one in out if isinstance(one, Quote)] for out in published] == [
        [(True, "", "99")], [], [(False, "gap", None)], [(True, "", "99")]]  # fmt: skip
    gap_id = f"md.ingest.quotes|2|41|{KEY}"
    assert ledger(published) == [
        ("gap", gap_id, "quotes", make.ts(1), None), ("resynced", gap_id, "quotes", make.ts(1), make.ts(1))
    ]  # fmt: skip


@pytest.mark.parametrize("channel", ["status", "candles"])
def test_a_lost_status_or_historical_candle_is_on_the_ledger_and_closed_at_once(make: Any, channel: str) -> None:
    """Nothing downstream depends on it; a scan of stored data finds missing candles."""
    chain = Chain(f"md.ingest.{channel}", make_operators())
    published = chain.lose(loss(make, channel, 2, count=7), [KEY])
    gap_id = f"md.ingest.{channel}|2|41|{KEY}"
    assert ledger([published]) == [("gap", gap_id, channel, None, None), ("resynced", gap_id, channel, None, None)]
    assert "7 records" in next(one.detail for one in published if isinstance(one, FeedStatus))


def test_the_entries_of_many_losses_are_bounded(make: Any) -> None:
    """While a book waits for its snapshot, the last entry covers later losses."""
    events: list[AnyEvent | Lost] = [make.book("snapshot", 1, [("10", "1")])]
    events += [loss(make, "books", 2, offset) for offset in range(100)]
    published = play("books", [*events, make.book("snapshot", 9, [("10", "1")])])
    entries = ledger(published)
    assert len([one for one in entries if one[0] == "gap"]) == len([one for one in entries if one[0] == "resynced"])
    assert len(entries) <= 40


@given(data=st.data(), count=st.integers(1, 60))
@settings(max_examples=60)
def test_wherever_records_are_lost_no_valid_candle_misses_a_trade(make: Any, data: st.DataObject, count: int) -> None:
    """Any trades and heartbeats may be lost: a valid candle still contains all of its trades."""
    events: list[Trades] = []
    for number in range(count):
        events.append(make.heartbeat(5 * number))
        events += [make.trades(make.trade(f"{number}", 5 * number + data.draw(st.integers(0, 4))))]
    lost = data.draw(st.sets(st.integers(0, len(events) - 1), max_size=5))
    made: list[AnyEvent | Lost] = []
    for place, event in enumerate(events):
        made.append(loss(make, "trades", 5 * count, place) if place in lost else event)
    made += [make.heartbeat(5 * count + 4 * step) for step in range(1, 40)]
    times = [trade.ts_event for event in events for trade in event.trades]
    for out in play("trades", made):
        for candle in out:
            if isinstance(candle, Candle) and candle.valid and candle.state != "open":
                assert candle.trades == sum(candle.start <= ts < candle.end for ts in times)
