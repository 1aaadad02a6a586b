"""The Bybit feed reads the recording whole, and keeps its markets apart."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, TypeGuard

import pytest

from marketdata.book import L2Book
from marketdata.errors import SettingsError
from marketdata.events import BookUpdate, DeadLetter, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect
from producers.venues import make_feed
from producers.venues.bybit.feed import BybitFeed
from producers.venues.bybit.names import INVERSE, LINEAR, SPOT, describe
from runtime import recordings
from runtime.recordings import Recorded
from tests.producers.bybit_messages import (
    CONNECTIONS,
    RECORDING,
    SECOND,
    SYMBOLS,
    T0,
    book,
    derived,
    kinds,
    sent,
)


@pytest.fixture(scope="module")
def lines() -> list[Recorded]:
    """The recording."""
    if not RECORDING.exists():
        pytest.skip(f"the recordings are absent: no {RECORDING}")
    return list(recordings.read(RECORDING))


@pytest.fixture(scope="module")
def played(lines: list[Recorded]) -> dict[str, tuple[BybitFeed, list[Output]]]:
    """One feed a connection after the whole recording, REST answers first, and all that each said."""
    feeds: dict[str, tuple[BybitFeed, list[Output]]] = {}
    for conn, market in CONNECTIONS.items():
        feed = BybitFeed(line=f"bybit/{market}", market=market)
        out = feed.opened(lines[0].ts_recv)
        for line in lines:
            if line.t == "http":
                out += feed.fetched(Fetch("", "products"), line.frame, line.ts_recv)
            elif line.t == "recv" and line.conn == conn:
                out += feed.received(line.frame, line.ts_recv)
        feeds[market] = feed, out
    return feeds


def test_recording_is_read_whole(played: dict[str, tuple[BybitFeed, list[Output]]]) -> None:
    """Every book change, trade and ticker of both markets, and no gap."""
    names = ("snapshots", "book_updates", "trades", "quotes")
    assert [played[SPOT][0].counts[name] for name in names] == [1, 299, 11, 41]
    assert [played[LINEAR][0].counts[name] for name in names] == [2, 795, 221, 378]
    for feed, _ in played.values():
        refused = ("gaps", "dead_letters", "duplicates", "deltas_before_snapshot")
        assert [feed.counts[name] for name in refused] == [0] * 4


def test_same_name_is_another_symbol_on_each_market(played: dict[str, tuple[BybitFeed, list[Output]]]) -> None:
    """BTCUSDT is a spot pair on one connection and a perpetual on the other, each with its own tick size."""
    got = {
        (i.symbol, i.venue_symbol, i.kind, i.base_currency, i.quote_currency, i.tick_size, i.status)
        for _, out in played.values() for i in out if isinstance(i, Instrument)
    }  # fmt: skip
    assert got == {
        ("BTC-USDT", "BTCUSDT", "spot", "BTC", "USDT", "0.1", "online"),
        ("BTC-USDT-PERP", "BTCUSDT", "perpetual", "BTC", "USDT", "0.10", "online"),
        ("SOL-USDT-PERP", "SOLUSDT", "perpetual", "SOL", "USDT", "0.010", "online"),
    }
    contracts = {(i.symbol, i.expiry, i.settlement_currency, i.inverse)
                 for _, out in played.values() for i in out if isinstance(i, Instrument)}  # fmt: skip
    assert contracts == {
        ("BTC-USDT", None, None, None),
        ("BTC-USDT-PERP", None, "USDT", False),
        ("SOL-USDT-PERP", None, "USDT", False),
    }


@pytest.mark.parametrize("conn", CONNECTIONS)
@pytest.mark.parametrize("topic", ["orderbook", "tickers", "publicTrade"])
def test_market_of_a_recording_is_shown_by_each_kind_of_frame_alone(
    lines: list[Recorded], conn: str, topic: str
) -> None:
    """A recording that begins after the subscriptions, with any kind of frame, gives the same symbols."""
    feed = make_feed("bybit")
    out = feed.opened(T0)
    for line in lines:
        if line.t == "recv" and line.conn == conn and f'"topic":"{topic}' in line.data:
            out += feed.received(line.frame, line.ts_recv)
    symbols = {i.symbol for i in out if isinstance(i, Instrument)}
    assert symbols
    assert symbols <= {symbol for (market, _), symbol in SYMBOLS.items() if market == CONNECTIONS[conn]}


def test_every_listed_name_is_split_as_the_venue_splits_it(lines: list[Recorded]) -> None:
    """1,357 products of both markets have the base and quote currency that REST gives."""
    checked = 0
    for result in [json.loads(line.data)["result"] for line in lines if line.t == "http"]:
        for listed in result["list"]:
            published = describe(listed["symbol"], result["category"])
            assert (published.base_currency, published.quote_currency) == (listed["baseCoin"], listed["quoteCoin"])
            checked += 1
    assert checked == 1_357


@pytest.mark.parametrize(
    ("name", "market", "symbol", "kind"),
    [
        ("BTCPERP", LINEAR, "BTC-USDC-PERP", "perpetual"),
        ("BTC-26DEC25", LINEAR, "BTC-USDC-26DEC25", "future"),
        ("BTCUSDT-26DEC25", LINEAR, "BTC-USDT-26DEC25", "future"),
        ("BTCUSD", INVERSE, "BTC-USD-PERP", "perpetual"),
        ("BTCUSDH26", INVERSE, "BTC-USD-H26", "future"),
        ("BTCUSDT", SPOT, "BTC-USDT", "spot"),
    ],
)
def test_names_keep_their_delivery(name: str, market: str, symbol: str, kind: str) -> None:
    """The forms that the documents list; contracts of the inverse market are worth 1 USD and settled in the coin."""
    published = describe(name, market)
    assert (published.symbol, published.kind) == (symbol, kind)
    contract = (published.inverse, published.settlement_currency, published.contract_multiplier)
    assert contract == ((True, "BTC", "1") if market == INVERSE else (None, None, None))


@pytest.mark.parametrize("name", ["BTC-26DEC25-100000-C", "BTC-26DEC25-100000-C-USDT", "ETH-3JAN25-3500.5-P"])
def test_options_are_refused_with_a_reason(name: str) -> None:
    """Before anything is subscribed; in a recording they are dead letters, and cost no other product."""
    with pytest.raises(SettingsError, match=f"BYBIT_PRODUCTS: option_not_supported: symbol = '{name}'"):
        BybitFeed(line="bybit/0", products=("BTCUSDT", name), market=LINEAR)
    feed = BybitFeed(line="bybit/0", market=LINEAR)
    feed.received(book("snapshot", 10, bids=[("9", "1")]), T0)
    out = feed.received(book("snapshot", 10, bids=[("9", "1")]).replace(b"BTCUSDT", name.encode()), T0)
    assert [(o.reason, o.field) for o in out if isinstance(o, DeadLetter)] == [("option_not_supported", "symbol")]
    assert not kinds(out)


def test_final_books_equal_those_computed_independently(
    played: dict[str, tuple[BybitFeed, list[Output]]], lines: list[Recorded]
) -> None:
    """Plain dicts of Decimals over the raw frames give the same levels, at the matching engine's time."""
    expected: dict[str, dict[str, dict[Decimal, Decimal]]] = {}
    times: dict[str, list[int]] = {}
    for symbol, frame in sent(lines, "orderbook"):
        if frame["type"] == "snapshot":
            expected[symbol] = {"b": {}, "a": {}}
        for side, levels in expected[symbol].items():
            levels.update({Decimal(price): Decimal(size) for price, size in frame["data"][side]})
            expected[symbol][side] = {price: size for price, size in levels.items() if size}
        times.setdefault(symbol, []).append(frame["cts"] * 1_000_000)
    got: dict[str, L2Book] = {}
    for event in [e for _, out in played.values() for e in out if isinstance(e, BookUpdate)]:
        book = got.setdefault(event.symbol, L2Book())
        book.bids.apply(event.bid_prices, event.bid_sizes)
        book.asks.apply(event.ask_prices, event.ask_sizes)
        assert event.ts_event == times[event.symbol].pop(0)
    assert {
        symbol: {name: {Decimal(p): Decimal(s) for p, s in side.top()} for name, side in
                 (("b", book.bids), ("a", book.asks))} for symbol, book in got.items()
    } == expected  # fmt: skip


def test_trades_come_once_with_the_takers_side(
    played: dict[str, tuple[BybitFeed, list[Output]]], lines: list[Recorded]
) -> None:
    """Bybit documents `S` of publicTrade as the side of the taker ("Trade"), so it stays as it is."""
    expected = {
        (symbol, t["i"]): (t["p"], t["v"], t["S"].lower(), t["T"] * 1_000_000)
        for symbol, frame in sent(lines, "publicTrade") for t in frame["data"]
    }  # fmt: skip
    got = [
        ((e.symbol, t.trade_id), (t.price, t.size, t.side, t.ts_event))
        for _, out in played.values() for e in out if isinstance(e, Trades) for t in e.trades
    ]  # fmt: skip
    assert dict(got) == expected
    assert len(got) == len(expected) == 232


def test_tickers_changes_are_joined(played: dict[str, tuple[BybitFeed, list[Output]]], lines: list[Recorded]) -> None:
    """A delta has only what changed; the quote has everything."""
    known: dict[str, dict[str, str]] = {}
    expected = []
    for symbol, frame in sent(lines, "tickers"):
        known[symbol] = (known[symbol] if frame["type"] == "delta" else {}) | frame["data"]
        fields = ("bid1Price", "bid1Size", "ask1Price", "ask1Size", "lastPrice", "volume24h")
        expected.append((symbol, *(known[symbol].get(field) for field in fields)))
    got = [(q.symbol, q.bid, q.bid_size, q.ask, q.ask_size, q.last, q.volume_24h)
           for _, out in played.values() for q in out if isinstance(q, Quote)]  # fmt: skip
    for symbol in SYMBOLS.values():
        assert [row for row in got if row[0] == symbol] == [row for row in expected if row[0] == symbol]


def test_markets_in_one_line_are_kept_apart(lines: list[Recorded]) -> None:
    """A recording without connections says of each product what the connections, each by itself, say."""
    lines = [line for line in lines if line.t == "recv"][:400]
    apart: list[Output] = []
    mixed = make_feed("bybit")
    together = mixed.opened(T0)
    for conn, market in CONNECTIONS.items():
        feed = make_feed("bybit", market=market)
        apart += feed.opened(T0)
        for line in lines:
            apart += feed.received(line.frame, line.ts_recv) if line.conn == conn else []
    for line in lines:
        together += mixed.received(line.frame, line.ts_recv)
    said = [
        {symbol: [(type(e), e.ts_event, getattr(e, "bid_prices", None)) for e in out if _is_of(e, symbol)]
         for symbol in ("BTC-USDT", "BTC-USDT-PERP", "SOL-USDT-PERP")}
        for out in (apart, together)
    ]  # fmt: skip
    assert said[0] == said[1]
    assert all(len(events) > 10 for events in said[0].values())
    assert mixed.counts["dead_letters"] == mixed.counts["gaps"] == 0
    assert [o.reason for o in mixed.ticked(lines[-1].ts_recv + SECOND) if isinstance(o, Reconnect)] == []


def _is_of(event: Output, symbol: str) -> TypeGuard[BookUpdate | Quote | Trades]:
    return isinstance(event, BookUpdate | Quote | Trades) and event.symbol == symbol


DERIVED = {
    "markPrice": "mark_price", "indexPrice": "index_price", "openInterest": "open_interest",
    "openInterestValue": "open_interest_value", "fundingRate": "funding_rate",
}  # fmt: skip


def test_derivatives_are_what_the_tickers_had(
    played: dict[str, tuple[BybitFeed, list[Output]]], lines: list[Recorded]
) -> None:
    """Each recorded ticker that has one of the fields is an event with just those, digit for digit, none invented."""
    expected: dict[str, list[dict[str, Any]]] = {}
    for symbol, frame in sent(lines, "tickers"):
        data = frame["data"]
        fields: dict[str, Any] = {ours: data[theirs] for theirs, ours in DERIVED.items() if theirs in data}
        if "nextFundingTime" in data:
            fields["next_funding_ts"] = int(data["nextFundingTime"]) * 1_000_000
        if "fundingIntervalHour" in data:
            fields["funding_interval"] = int(data["fundingIntervalHour"]) * 3600
        if fields:
            expected.setdefault(symbol, []).append(fields)
    names = {*DERIVED.values(), "next_funding_ts", "funding_interval"}
    got: dict[str, list[dict[str, Any]]] = {}
    for event in derived(played[LINEAR][1]):
        had = {name: getattr(event, name) for name in names if getattr(event, name) is not None}
        got.setdefault(event.symbol, []).append(had)
    assert got == expected
    assert sum(map(len, got.values())) > 100
    assert not derived(played[SPOT][1])


def test_inverse_contracts_of_a_recording_are_found_by_their_currency() -> None:
    """Contracts in USD are those of the inverse market: their sizes are in USD, and the coin settles them."""
    mixed = make_feed("bybit")
    mixed.opened(T0)
    mixed.received(b'{"success":true,"ret_msg":"","conn_id":"x","req_id":"1","op":"subscribe"}', T0)
    found = {}
    for name in ("BTCUSDT", "BTCUSD", "BTCUSDH26"):
        for number in (10, 11):
            frame = book("snapshot" if number == 10 else "delta", number, bids=[("9", "1")])
            for event in mixed.received(frame.replace(b"BTCUSDT", name.encode()), T0):
                if isinstance(event, Instrument):
                    found[name] = (event.symbol, event.inverse, event.settlement_currency)
    assert found == {
        "BTCUSDT": ("BTC-USDT-PERP", None, None),
        "BTCUSD": ("BTC-USD-PERP", True, "BTC"),
        "BTCUSDH26": ("BTC-USD-H26", True, "BTC"),
    }
    assert mixed.counts["book_updates"] == 3
