"""The Coinbase feed tells the truth about the recording, computed a second way."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from marketdata.book import L2Book
from marketdata.clock import parse_rfc3339
from marketdata.codec import Codec
from marketdata.events import EVENTS, BookUpdate, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output
from producers.venues import make_feed
from producers.venues.kit.venue import LiveFeed
from runtime.recordings import Recorded


@pytest.fixture(scope="module")
def played(recording: list[Recorded]) -> tuple[LiveFeed, list[Output]]:
    """The feed after the whole recording, REST answer included, and all that it said."""
    feed = make_feed("coinbase")
    out = feed.opened(recording[0].ts_recv)
    (request,) = [output for output in out if isinstance(output, Fetch)]
    for line in recording:
        if line.t == "http":
            out += feed.fetched(request, line.frame, line.ts_recv)
        elif line.t == "recv":
            out += feed.received(line.frame, line.ts_recv)
    return feed, out


@pytest.fixture(scope="module")
def sent(recording: list[Recorded]) -> list[dict[str, Any]]:
    """The recording's frames as plain JSON values."""
    return [json.loads(line.data) for line in recording if line.t == "recv"]


def test_nothing_of_the_recording_is_refused_or_missing(played: tuple[LiveFeed, list[Output]]) -> None:
    """400 frames, no gap, no dead letter, no duplicate."""
    feed, out = played
    assert feed.counts["frames"] == 400
    assert [feed.counts[name] for name in ("dead_letters", "gaps", "duplicates", "deltas_before_snapshot")] == [0] * 4
    assert [event.kind for event in out if isinstance(event, FeedStatus)] == ["connected"]


def test_every_trade_comes_once_oldest_first_with_the_takers_side(
    played: tuple[LiveFeed, list[Output]], sent: list[dict[str, Any]]
) -> None:
    """Ids, prices, sizes and times are the venue's; ids are contiguous and rise; sides are inverted."""
    expected: dict[str, dict[int, tuple[str, ...]]] = {}
    for frame in sent:
        for event in frame["events"]:
            for trade in event.get("trades", ()):
                side = {"BUY": "sell", "SELL": "buy"}[trade["side"]]
                expected.setdefault(trade["product_id"], {})[int(trade["trade_id"])] = (
                    trade["price"], trade["size"], side, str(parse_rfc3339(trade["time"])),
                )  # fmt: skip
    assert {symbol: len(trades) for symbol, trades in expected.items()} == {"BTC-USD": 123, "ETH-USD": 117}
    for symbol, trades in expected.items():
        got = [
            (int(trade.trade_id), (trade.price, trade.size, trade.side, str(trade.ts_event)))
            for event in played[1] if isinstance(event, Trades) and event.symbol == symbol for trade in event.trades
        ]  # fmt: skip
        assert got == sorted(trades.items())
        assert [number for number, _ in got] == list(range(got[0][0], got[0][0] + len(got)))


def test_aggressor_is_the_side_that_crosses_to_the_price(played: tuple[LiveFeed, list[Output]]) -> None:
    """Buyers take at or above the middle of the book, sellers at or below.

    Coinbase documents `side` of market_trades as the maker's side ("WebSocket Channels", Market Trades); taken as the
    aggressor's, nearly every trade of the recording would be on the wrong side of the book.
    """
    quotes: dict[str, Quote] = {}
    right = wrong = 0
    for event in played[1]:
        if isinstance(event, Quote):
            quotes[event.symbol] = event
        elif isinstance(event, Trades) and event.symbol in quotes:
            quote = quotes[event.symbol]
            assert quote.bid is not None
            assert quote.ask is not None
            middle = (Decimal(quote.bid) + Decimal(quote.ask)) / 2
            for trade in event.trades:
                bought = Decimal(trade.price) > middle
                right += bought == (trade.side == "buy")
                wrong += bought != (trade.side == "buy")
    assert right > 30
    assert wrong <= right // 10


def independent_books(sent: list[dict[str, Any]]) -> dict[tuple[str, str], dict[Decimal, Decimal]]:
    """Return (symbol, side) to levels, from the raw frames with plain dicts of Decimals."""
    books: dict[tuple[str, str], dict[Decimal, Decimal]] = {}
    for event in [event for frame in sent if frame["channel"] == "l2_data" for event in frame["events"]]:
        if event["type"] == "snapshot":
            books |= {(event["product_id"], side): {} for side in ("bid", "offer")}
        for level in event["updates"]:
            levels = books[event["product_id"], level["side"]]
            levels[Decimal(level["price_level"])] = Decimal(level["new_quantity"])
    return {side: {price: size for price, size in levels.items() if size} for side, levels in books.items()}


def test_final_book_equals_one_computed_independently(
    played: tuple[LiveFeed, list[Output]], sent: list[dict[str, Any]]
) -> None:
    """The events give the same levels as the raw frames do."""
    books: dict[str, L2Book] = {}
    for event in played[1]:
        if isinstance(event, BookUpdate) and event.kind == "snapshot":
            book = books[event.symbol] = L2Book()
            book.bids.replace(event.bid_prices, event.bid_sizes)
            book.asks.replace(event.ask_prices, event.ask_sizes)
        elif isinstance(event, BookUpdate) and event.kind == "update":
            books[event.symbol].bids.apply(event.bid_prices, event.bid_sizes)
            books[event.symbol].asks.apply(event.ask_prices, event.ask_sizes)
    got = {
        (symbol, name): {Decimal(price): Decimal(size) for price, size in side.top()}
        for symbol, book in books.items()
        for name, side in (("bid", book.bids), ("offer", book.asks))
    }
    assert got == independent_books(sent)
    assert {side: len(levels) > 6_000 for side, levels in got.items()} == dict.fromkeys(got, True)


def test_each_event_says_line_sequence_and_both_clocks(
    played: tuple[LiveFeed, list[Output]], sent: list[dict[str, Any]]
) -> None:
    """Book changes have the matching engine's time, which all changes of one event share, and the frame's number."""
    numbers = {
        frame["sequence_num"]: {level["event_time"] for event in frame["events"] for level in event["updates"]}
        for frame in sent if frame["channel"] == "l2_data"
    }  # fmt: skip
    changes = [e for e in played[1] if isinstance(e, BookUpdate) and e.kind != "heartbeat"]
    assert [change.sequence for change in changes] == list(numbers)
    for change in changes:
        assert change.line == "coinbase/0"
        assert change.sequence is not None
        (time,) = numbers[change.sequence]
        assert change.ts_event == parse_rfc3339(time)
        assert abs(change.ts_recv - change.ts_event) < 1_000_000_000


def test_heartbeats_vouch_for_every_symbol(played: tuple[LiveFeed, list[Output]]) -> None:
    """Nine heartbeats: for each symbol nine empty Trades and nine book heartbeats, all valid."""
    empty = [e for e in played[1] if isinstance(e, Trades) and not e.trades]
    beats = [e for e in played[1] if isinstance(e, BookUpdate) and e.kind == "heartbeat"]
    for events in (empty, beats):
        assert sorted((e.symbol, e.valid) for e in events) == [("BTC-USD", True)] * 9 + [("ETH-USD", True)] * 9


@pytest.mark.parametrize("kind", [Trades, BookUpdate])
def test_nothing_comes_after_a_heartbeat_ruled_it_out(
    played: tuple[LiveFeed, list[Output]], kind: type[Trades | BookUpdate]
) -> None:
    """What a heartbeat vouched for holds: every later trade and book change is younger."""
    vouched: dict[str, int] = {}
    checked = 0
    for event in played[1]:
        if not isinstance(event, kind):
            continue
        if (isinstance(event, Trades) and not event.trades) or getattr(event, "kind", "") == "heartbeat":
            vouched[event.symbol] = event.ts_event
        elif event.symbol in vouched:
            times = [trade.ts_event for trade in event.trades] if isinstance(event, Trades) else [event.ts_event]
            assert min(times) >= vouched[event.symbol]
            checked += 1
    assert checked > 20


def test_tickers_become_quotes_with_the_days_statistics(
    played: tuple[LiveFeed, list[Output]], sent: list[dict[str, Any]]
) -> None:
    """Every field is the venue's own string."""
    expected = [ticker for frame in sent if frame["channel"] == "ticker" for e in frame["events"] for ticker in
                e["tickers"]]  # fmt: skip
    quotes = [event for event in played[1] if isinstance(event, Quote)]
    assert [
        (q.symbol, q.bid, q.bid_size, q.ask, q.ask_size, q.last, q.volume_24h, q.high_24h, q.low_24h, q.change_24h)
        for q in quotes
    ] == [
        (t["product_id"], t["best_bid"], t["best_bid_quantity"], t["best_ask"], t["best_ask_quantity"], t["price"],
         t["volume_24_h"], t["high_24_h"], t["low_24_h"], t["price_percent_chg_24_h"])
        for t in expected
    ]  # fmt: skip


def test_products_are_announced_first_with_their_increments(played: tuple[LiveFeed, list[Output]]) -> None:
    """The REST answer, which came before the first frame, gives tick size, size increment and smallest order."""
    instruments = [event for event in played[1] if isinstance(event, Instrument)]
    assert [(i.symbol, i.base_currency, i.quote_currency, i.tick_size, i.size_increment, i.min_order_size, i.status)
            for i in instruments] == [
        ("BTC-USD", "BTC", "USD", "0.01", "0.00000001", "0.00000001", "online"),
        ("ETH-USD", "ETH", "USD", "0.01", "0.00000001", "0.00000001", "online"),
    ]  # fmt: skip
    seen: set[str] = set()
    for event in played[1]:
        if isinstance(event, Instrument):
            seen.add(event.symbol)
        elif isinstance(event, Trades | BookUpdate | Quote):
            assert event.symbol in seen


def test_every_event_fits_its_schema(played: tuple[LiveFeed, list[Output]]) -> None:
    """Each event survives Avro unchanged."""
    codec = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})
    for event in played[1]:
        if isinstance(event, EVENTS):
            assert codec.decode(codec.encode(event)) == event


def test_the_same_frames_give_the_same_events(recording: list[Recorded], played: tuple[LiveFeed, list[Output]]) -> None:
    """The feed reads no clock and no chance."""
    feed = make_feed("coinbase")
    out = feed.opened(recording[0].ts_recv)
    (request,) = [output for output in out if isinstance(output, Fetch)]
    for line in recording:
        if line.t == "http":
            out += feed.fetched(request, line.frame, line.ts_recv)
        elif line.t == "recv":
            out += feed.received(line.frame, line.ts_recv)
    assert out == played[1]
