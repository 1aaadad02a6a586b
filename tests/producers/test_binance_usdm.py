"""The Binance USD-M futures feed tells the truth about its recording, and follows the chain of `pu`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from marketdata.book import L2Book
from marketdata.events import EXCLUSIONS, BookUpdate, DeadLetter, Derivative, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.live.settings import load_for_venue
from producers.venues import find_venue, make_feed
from producers.venues.binance.feed import BinanceFeed
from producers.venues.binance.markets import COINM
from producers.venues.binance.names import RestProduct, describe, find, rest_fields
from runtime import recordings
from runtime.recordings import Recorded

RECORDING = Path(__file__).resolve().parents[3] / "shared" / "recordings" / "binance_usdm_btcusdt.jsonl.zst"
SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
T0_MS = T0 // 1_000_000
Played = tuple[BinanceFeed, list[Output]]


def make(*, line: str, products: tuple[str, ...] | None = None, venue: str = "binance_usdm") -> BinanceFeed:
    """Return a live feed of all streams of these products, or that of a recording."""
    feed = make_feed(venue, line=line, products=products)
    assert isinstance(feed, BinanceFeed)
    return feed


make_spot = partial(make, venue="binance_spot")


@pytest.fixture(scope="module")
def lines() -> list[Recorded]:
    """The recording's lines."""
    if not RECORDING.exists():
        pytest.skip(f"the recordings are absent: no {RECORDING}")
    return list(recordings.read(RECORDING))


@pytest.fixture(scope="module")
def played(lines: list[Recorded]) -> Played:
    """The feed after the recording, and all that it said."""
    feed = make(line="binance_usdm/0")
    out = feed.opened(lines[0].ts_recv)
    for line in lines:
        if line.t == "http":
            out += feed.fetched(fetches(out)[0], line.frame, line.ts_recv)
        else:
            out += feed.received(line.frame, line.ts_recv)
    return feed, out


def fetches(out: list[Output], purpose: str = "snapshot") -> list[Fetch]:
    """Return the requests of one purpose."""
    return [output for output in out if isinstance(output, Fetch) and output.purpose == purpose]


def sent(lines: list[Recorded], channel: str) -> list[dict[str, Any]]:
    """Return the payloads of one channel, as plain JSON values."""
    frames = (json.loads(line.data) for line in lines if line.t == "recv")
    return [frame["data"] for frame in frames if frame["stream"].partition("@")[2] == channel]


def apply(book: L2Book, event: BookUpdate) -> None:
    """Follow a book as a consumer does."""
    if event.kind == "snapshot":
        book.bids.replace(event.bid_prices, event.bid_sizes)
        book.asks.replace(event.ask_prices, event.ask_sizes)
    else:
        book.bids.apply(event.bid_prices, event.bid_sizes)
        book.asks.apply(event.ask_prices, event.ask_sizes)


def kinds(out: list[Output]) -> list[str]:
    """Return what happened to books and on the ledger, in order."""
    return [f"{o.symbol} {o.kind}" for o in out if isinstance(o, BookUpdate | FeedStatus)]


def test_nothing_of_the_recording_is_refused_or_missing(played: Played) -> None:
    """No gap, no dead letter, no duplicate, although our clock was 1.27 s behind the venue's."""
    counts = played[0].counts
    assert [counts[name] for name in ("frames", "trades", "quotes", "snapshots")] == [93_953, 21_313, 66_089, 1]
    assert [counts[name] for name in ("gaps", "dead_letters", "duplicates", "ignored")] == [0] * 4
    assert all(event.ts_recv < event.ts_event for event in played[1] if isinstance(event, Quote))


def test_trades_are_the_venues_own_with_the_takers_side(played: Played, lines: list[Recorded]) -> None:
    """Ids are contiguous. `m` true: the buyer is the maker ("Aggregate Trade Streams"), so the seller took."""
    got = [trade for event in played[1] if isinstance(event, Trades) for trade in event.trades]
    assert [(t.trade_id, t.price, t.size, t.side, t.ts_event) for t in got] == [
        (str(t["t"]), t["p"], t["q"], "sell" if t["m"] else "buy", t["T"] * 1_000_000) for t in sent(lines, "trade")
    ]
    assert [int(t.trade_id) for t in got] == list(range(int(got[0].trade_id), int(got[0].trade_id) + len(got)))


def test_book_equals_the_ticker_at_the_same_update_id(played: Played) -> None:
    """Wherever a change ends at the update id of a bookTicker, best prices and sizes are the same."""
    book, checked = L2Book(), 0
    tickers = {event.sequence: event for event in played[1] if isinstance(event, Quote)}
    for event in played[1]:
        if isinstance(event, BookUpdate):
            apply(book, event)
            assert not book.is_crossed()
            quote = tickers.get(event.sequence)
            if quote is not None:
                assert book.best() == ((quote.bid, quote.bid_size), (quote.ask, quote.ask_size))
                checked += 1
    assert checked > 100


def test_final_book_equals_one_computed_independently(played: Played, lines: list[Recorded]) -> None:
    """Level by level, from the raw frames with plain dicts of Decimals, by the venue's documented steps."""
    body = json.loads(next(line for line in lines if line.t == "http").data)
    expected = {side: {Decimal(p): Decimal(q) for p, q in body[side]} for side in ("bids", "asks")}
    last, joined = body["lastUpdateId"], False
    for diff in sent(lines, "depth@0ms"):
        if diff["u"] < body["lastUpdateId"]:
            continue
        assert diff["pu"] == last if joined else diff["U"] <= last <= diff["u"]
        last, joined = diff["u"], True
        for side, levels in (("bids", diff["b"]), ("asks", diff["a"])):
            expected[side] |= {Decimal(p): Decimal(q) for p, q in levels}
    book = L2Book()
    for event in played[1]:
        if isinstance(event, BookUpdate):
            apply(book, event)
    assert {Decimal(p): Decimal(q) for p, q in book.bids.top()} == {p: q for p, q in expected["bids"].items() if q}
    assert {Decimal(p): Decimal(q) for p, q in book.asks.top()} == {p: q for p, q in expected["asks"].items() if q}


def test_contract_is_announced_as_a_perpetual(played: Played) -> None:
    """Without a word from REST, by the market's own rule of names."""
    (told,) = [event for event in played[1] if isinstance(event, Instrument)]
    assert (told.symbol, told.venue_symbol, told.kind) == ("BTC-USDT", "BTCUSDT", "perpetual")


# --- Steps, with frames made by hand ---


def diff(first: int, final: int, previous: int, symbol: str = "BTCUSDT") -> bytes:
    """Return one book change."""
    return json.dumps({"stream": f"{symbol.lower()}@depth@100ms", "data": {
        "e": "depthUpdate", "E": T0_MS, "T": T0_MS, "s": symbol, "U": first, "u": final, "pu": previous,
        "b": [["100", "1"]], "a": []}}).encode()  # fmt: skip


def body(number: int) -> bytes:
    """Return a REST snapshot."""
    return json.dumps({"lastUpdateId": number, "E": T0_MS, "T": T0_MS, "bids": [["99", "1"]], "asks": []}).encode()


@pytest.mark.parametrize(("number", "said"), [
    (39, []), (40, ["snapshot", "update", "update"]), (45, ["snapshot", "update", "update"]),
    (60, ["snapshot", "update"]),
    (70, ["snapshot"]), (75, ["snapshot"]),
])  # fmt: skip
def test_snapshot_joins_the_chain_wherever_it_lies(number: int, said: list[str]) -> None:
    """Changes cover (40, 60] and (60, 70], the second with a gap in the ids; one older than `pu` is too old."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)
    (request,) = fetches(feed.received(diff(50, 60, 40), T0))
    feed.received(diff(65, 70, 60), T0)
    out = feed.fetched(request, body(number), T0)
    assert [o.kind for o in out if isinstance(o, BookUpdate)] == said
    assert bool(fetches(out)) == (not said)


def test_broken_chain_clears_and_asks_for_a_snapshot() -> None:
    """Only `pu` shows a loss: the ids may have gaps."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)
    (request,) = fetches(feed.received(diff(50, 60, 40), T0))
    feed.fetched(request, body(55), T0)
    assert kinds(feed.received(diff(80, 90, 60), T0)) == ["BTC-USDT update"]
    out = feed.received(diff(91, 95, 89), T0)
    assert kinds(out) == ["BTC-USDT clear", "BTC-USDT gap", "BTC-USDT resync"]
    gap = next(o for o in out if isinstance(o, FeedStatus))
    assert (gap.expected, gap.received) == (90, 89)
    (request,) = fetches(out)
    assert (request.path, request.weight) == ("fapi/v1/depth?symbol=BTCUSDT&limit=1000", 20)
    assert kinds(feed.fetched(request, body(95), T0)) == ["BTC-USDT snapshot", "BTC-USDT resynced"]


def test_executions_are_told_by_one_kind_of_trade_alone() -> None:
    """`trade` and `aggTrade` tell the same; the first that comes is kept."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)
    common = {"E": T0_MS, "s": "BTCUSDT", "p": "1", "q": "2", "T": T0_MS, "m": False}
    said = [
        [t.trade_id for o in feed.received(json.dumps(common | own).encode(), T0) if isinstance(o, Trades)
         for t in o.trades]
        for own in ({"e": "aggTrade", "a": 7}, {"e": "trade", "t": 900, "X": "MARKET"}, {"e": "aggTrade", "a": 8})
    ]  # fmt: skip
    assert said == [["7"], [], ["8"]]


@pytest.mark.parametrize(("make", "wrong"), [
    (make, diff(50, 60, 40).replace(b'"pu": 40, ', b"")), (make_spot, diff(50, 60, 40)),
])  # fmt: skip
def test_changes_of_the_other_market_are_refused(make: Callable[..., BinanceFeed], wrong: bytes) -> None:
    """A recording of the wrong market would make a book that nothing proves."""
    feed = make(line="binance/0")
    feed.opened(T0)
    (letter,) = [o for o in feed.received(wrong, T0) if isinstance(o, DeadLetter)]
    assert (letter.reason, letter.field) == ("wrong_market", "pu")


def test_partial_books_are_whole_and_no_changes() -> None:
    """`depth20` of futures says depthUpdate and has `U`, `u` and `pu`, but the best levels; its chain is none."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)
    for first, final, previous in ((50, 60, 40), (80, 90, 79)):
        out = feed.received(diff(first, final, previous).replace(b"@depth@", b"@depth20@"), T0)
        assert kinds(out) == ["BTC-USDT snapshot"]
    assert (feed.counts["gaps"], feed.counts["ignored"]) == (0, 0)


def test_id_that_is_no_trades_is_no_gap() -> None:
    """The stream `trade` sends such ids with neither price nor quantity, and `X` NA."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)
    said = [
        feed.received(json.dumps({"e": "trade", "E": T0_MS, "T": T0_MS, "s": "BTCUSDT", "t": number, "p": value,
                                  "q": value, "X": cause, "m": True}).encode(), T0)
        for number, value, cause in ((1, "5", "MARKET"), (2, "0", "NA"), (3, "5", "MARKET"), (5, "5", "MARKET"))
    ]  # fmt: skip
    assert [[t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] for out in said] == [
        ["1"], [], ["3"], ["5"]]  # fmt: skip
    assert not [o for out in said for o in out if isinstance(o, DeadLetter)]
    assert [len(fetches(out, "trades")) for out in said] == [0, 0, 0, 1]


def test_aggregate_trades_are_asked_for_from_the_first_that_is_missing() -> None:
    """A gap in the ids of `aggTrade` is filled from REST's aggTrades."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)

    def agg(number: int) -> dict[str, Any]:
        return {"a": number, "p": "1", "q": "2", "f": 1, "l": 1, "T": T0_MS, "m": False}

    def frame(number: int) -> bytes:
        return json.dumps({"e": "aggTrade", "E": T0_MS, "s": "BTCUSDT_240927"} | agg(number)).encode()

    told = [o for o in feed.received(frame(7), T0) if isinstance(o, Instrument)]
    assert (told[0].symbol, told[0].kind) == ("BTC-USDT_240927", "future")
    (request,) = fetches(feed.received(frame(10), T0), "trades")
    assert request.path == "fapi/v1/aggTrades?symbol=BTCUSDT_240927&fromId=8&limit=1000"
    out = feed.fetched(request, json.dumps([agg(8), agg(9), agg(10)]).encode(), T0)
    assert [[t.trade_id for t in o.trades] for o in out if isinstance(o, Trades)] == [["8", "9"], [], []]
    assert kinds(out) == ["BTC-USDT_240927 resynced"]


def test_a_listed_contract_has_its_expiry_and_settlement() -> None:
    """As exchangeInfo lists them: a perpetual's delivery date, in the year 2100, is none."""
    common: dict[str, Any] = {"status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "marginAsset": "USDT"}
    perpetual = RestProduct(symbol="BTCUSDT", contractType="PERPETUAL", deliveryDate=4_133_404_800_000, **common)
    future = RestProduct(symbol="BTCUSDT_260925", contractType="CURRENT_QUARTER", deliveryDate=1_790_323_200_000,
                         **common)  # fmt: skip
    inverse = RestProduct(symbol="BTCUSD_PERP", contractType="PERPETUAL", **common | {"marginAsset": "BTC"})
    fields = [rest_fields(one) for one in (perpetual, future, inverse)]
    assert [(one["kind"], one.get("expiry"), one["settlement_currency"], one["inverse"]) for one in fields] == [
        ("perpetual", None, "USDT", False),
        ("future", 1_790_323_200_000_000_000, "USDT", False),
        ("perpetual", None, "BTC", True),
    ]


# --- Two addresses ---


def endpoint(name: str) -> BinanceFeed:
    """Return a live feed of one address."""
    (found,) = [one for one in find_venue("binance_usdm").endpoints if one.name == name]
    feed = found.make(line=f"binance_usdm/{name}/0", products=("BTCUSDT",), token=None)
    assert isinstance(feed, BinanceFeed)
    return feed


def acknowledge(feed: BinanceFeed, out: list[Output]) -> list[Output]:
    """Answer every subscription as the venue does."""
    orders = [json.loads(o.frame) for o in out if isinstance(o, Send)]
    return [o for order in orders for o in feed.received(f'{{"result":null,"id":{order["id"]}}}'.encode(), T0)]


def streams(out: list[Output]) -> list[str]:
    """Return the streams that these outputs subscribe to."""
    return [stream for o in out if isinstance(o, Send) for stream in json.loads(o.frame)["params"]]


def trade(number: int, **fields: Any) -> bytes:
    """Return one aggregate trade."""
    data = {"e": "aggTrade", "E": T0_MS, "s": "BTCUSDT", "a": number, "p": "100", "q": "1", "f": number, "l": number,
            "T": T0_MS, "m": True}  # fmt: skip
    return json.dumps({"stream": "btcusdt@aggTrade", "data": data | fields}).encode()


def test_each_stream_is_subscribed_at_the_address_that_carries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public and market data by the "Important WebSocket Change Notice"; the other address would stay silent."""
    monkeypatch.setenv("TICKSTREAM_VENUE", "binance_usdm")
    monkeypatch.delenv("BINANCE_USDM_PRODUCTS", raising=False)
    settings, venue = load_for_venue()
    assert {(stream.name, stream.url): streams(endpoint(stream.name.rpartition("/")[2]).opened(T0))
            for stream in settings.streams_of(venue)} == {
        ("binance_usdm/public", "wss://fstream.binance.com/public/stream"): [
            "btcusdt@bookTicker", "btcusdt@depth@100ms"],
        ("binance_usdm/market", "wss://fstream.binance.com/market/stream"): [
            "btcusdt@aggTrade", "btcusdt@markPrice@1s", "btcusdt@forceOrder"],
    }  # fmt: skip


def test_what_one_address_loses_touches_its_own_channels_alone() -> None:
    """The book's connection says nothing of trades, and that of trades leaves the book alone; each gap closes."""
    public, market = endpoint("public"), endpoint("market")
    for feed in (public, market):
        assert acknowledge(feed, feed.opened(T0)) == []
    public.fetched(fetches(public.received(diff(41, 50, 40), T0))[0], body(45), T0)
    market.received(trade(1), T0)
    lost = {feed: feed.closed("reset", T0) for feed in (public, market)}
    assert kinds(lost[public]) == ["* disconnected", "BTC-USDT clear", "BTC-USDT gap"]
    assert kinds(lost[market]) == ["* disconnected", "BTC-USDT gap"]
    for feed in (public, market):
        feed.opened(T0)
    again = public.received(diff(61, 70, 60), T0)
    assert kinds(public.fetched(fetches(again)[0], body(65), T0)) == [
        "BTC-USDT snapshot", "BTC-USDT update", "BTC-USDT resynced"]  # fmt: skip
    (request,) = fetches(market.opened(T0), "trades")
    rows = [{"a": number, "p": "100", "q": "1", "f": number, "l": number, "T": T0_MS, "m": True} for number in (2, 3)]
    out = market.fetched(request, json.dumps(rows).encode(), T0)
    assert [t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] == ["2", "3"]
    assert kinds(out) == ["BTC-USDT resynced"]


def test_an_address_that_acknowledges_and_sends_nothing_is_noticed() -> None:
    """As the old address does with trades: the connection that carries them has no frame, and is left for dead."""
    market = endpoint("market")
    acknowledge(market, market.opened(T0))
    market.received(trade(1), T0)
    out = market.ticked(T0 + 31 * SECOND)
    assert "BTC-USDT gap" in kinds(out)
    assert [o.reason for o in out if isinstance(o, Reconnect)] == ["heartbeat_missed"]


# --- What is no market trade ---


def single(number: int, cause: str, *, price: str = "27000.10", size: str = "0.010") -> bytes:
    """Return one execution with its cause."""
    data = {"e": "trade", "E": T0_MS, "T": T0_MS, "s": "BTCUSDT", "t": number, "p": price, "q": size, "X": cause,
            "m": False}  # fmt: skip
    return json.dumps({"stream": "btcusdt@trade", "data": data}).encode()


@pytest.mark.parametrize(
    ("cause", "excluded", "is_forced"),
    [("MARKET", (), False), ("INSURANCE_FUND", EXCLUSIONS, True), ("ADL", EXCLUSIONS, True), ("NA", EXCLUSIONS, False),
     ("SOMETHING_NEW", (), False)],
)  # fmt: skip
def test_a_marked_execution_is_published_and_leaves_candles_alone(
    cause: str, excluded: tuple[str, ...], *, is_forced: bool
) -> None:
    """Case 04 and its neighbours: its id is no gap, and a condition that nobody knows excludes nothing."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)
    out = [
        o for number, one in ((1, "MARKET"), (2, cause), (3, "MARKET")) for o in feed.received(single(number, one), T0)
    ]
    told = [t for o in out if isinstance(o, Trades) for t in o.trades]
    assert [t.trade_id for t in told] == ["1", "2", "3"]
    assert (told[1].excluded_from, told[1].liquidation) == (excluded, is_forced)
    assert told[1].conditions == (() if cause == "MARKET" else (cause,))
    assert not [o for o in out if isinstance(o, FeedStatus)]


@pytest.mark.parametrize(("price", "size"), [("0", "0.000"), ("0", "1"), ("5", "0")])
def test_an_id_of_no_execution_is_passed_over(price: str, size: str) -> None:
    """Price or size is 0: nothing was traded, and the id is used up."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)
    out = [o for frame in (single(1, "MARKET"), single(2, "NA", price=price, size=size), single(3, "MARKET"))
           for o in feed.received(frame, T0)]  # fmt: skip
    assert [t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] == ["1", "3"]
    assert not [o for o in out if isinstance(o, FeedStatus | DeadLetter)]


@pytest.mark.parametrize(
    ("field", "price", "size"), [("b", "-1", "1"), ("a", "-0.5", "0"), ("b", "0", "1"), ("a", "0.00", "0.5")]
)
def test_a_best_price_that_is_not_above_zero_is_a_dead_letter(field: str, price: str, size: str) -> None:
    """It names field and value; a side without orders has price and size 0."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)

    def best(number: int, **changed: str) -> list[Output]:
        data = {"e": "bookTicker", "u": number, "s": "BTCUSDT", "b": "10", "B": "1", "a": "11", "A": "1", "T": T0_MS,
                "E": T0_MS, **changed}  # fmt: skip
        return feed.received(json.dumps({"stream": "btcusdt@bookTicker", "data": data}).encode(), T0)

    out = best(1, **{field: price, field.upper(): size})
    assert not [o for o in out if isinstance(o, Quote)]
    (letter,) = (o for o in out if isinstance(o, DeadLetter))
    assert (letter.reason, letter.field, letter.value) == ("not_positive", field, price)
    (quote,) = (o for o in best(2, **{field: "0.0", field.upper(): "0"}) if isinstance(o, Quote))
    assert (quote.valid, [quote.bid, quote.ask].count(None)) == (True, 1)


# --- Derivatives ---


def derived(out: list[Output]) -> list[Derivative]:
    """Return the derivative events among these outputs."""
    return [o for o in out if isinstance(o, Derivative)]


MARK = {"e": "markPriceUpdate", "E": T0_MS, "s": "BTCUSDT", "p": "11794.15000000", "i": "11784.62659091",
        "P": "11784.25641265", "r": "0.00038167", "T": T0_MS + 3_600_000}  # fmt: skip


def test_mark_prices_are_published_digit_for_digit() -> None:
    """The documented frame ("Mark Price Stream"), combined and bare; a delivery contract has no funding."""
    feed = endpoint("market")
    feed.opened(T0)
    for frame in ({"stream": "btcusdt@markPrice@1s", "data": MARK}, MARK):
        (event,) = derived(feed.received(json.dumps(frame).encode(), T0))
        assert (event.symbol, event.ts_event) == ("BTC-USDT", T0)
        assert (event.mark_price, event.index_price) == ("11794.15000000", "11784.62659091")
        assert (event.funding_rate, event.next_funding_ts) == ("0.00038167", T0 + 3_600 * SECOND)
        assert (event.open_interest, event.liquidations) == (None, ())
    (event,) = derived(feed.received(json.dumps(MARK | {"r": "", "T": 0}).encode(), T0))
    assert (event.mark_price, event.funding_rate, event.next_funding_ts) == ("11794.15000000", None, None)


def test_a_bad_value_of_a_mark_price_costs_none_of_its_neighbours() -> None:
    """It is a dead letter that names field and value."""
    feed = endpoint("market")
    feed.opened(T0)
    out = feed.received(json.dumps({"stream": "btcusdt@markPrice@1s", "data": MARK | {"i": "x"}}).encode(), T0)
    (event,) = derived(out)
    assert (event.mark_price, event.index_price) == ("11794.15000000", None)
    assert [(o.field, o.value) for o in out if isinstance(o, DeadLetter)] == [("index_price", "x")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("sell", "9910", "0.014")),
        ({"S": "BUY", "ap": "9912.5", "z": "0.010"}, ("buy", "9912.5", "0.010")),
        ({"ap": "", "z": ""}, ("sell", "9910", "0.014")),
    ],
)
def test_liquidations_have_what_was_executed(fields: dict[str, str], expected: tuple[str, str, str]) -> None:
    """Average price and filled size of the order ("Liquidation Order Streams"); its own where there are none."""
    order = {"s": "BTCUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "9910", "ap": "9910",
             "X": "FILLED", "l": "0.014", "z": "0.014", "T": T0_MS - 1}  # fmt: skip
    frame = {"stream": "btcusdt@forceOrder", "data": {"e": "forceOrder", "E": T0_MS, "o": order | fields}}
    feed = endpoint("market")
    feed.opened(T0)
    (event,) = derived(feed.received(json.dumps(frame).encode(), T0))
    (one,) = event.liquidations
    assert (one.side, one.price, one.size) == expected
    assert (one.ts_event, event.ts_event) == (T0 - 1_000_000, T0)


def test_open_interest_is_requested_of_each_symbol_once_a_minute() -> None:
    """Spread over the minute, within the budget; nothing is caught up after a pause."""
    names = tuple(f"A{number}USDT" for number in range(100))
    (market,) = [one for one in find_venue("binance_usdm").endpoints if one.name == "market"]
    feed = market.make(line="binance_usdm/market/0", products=names, token=None)
    assert isinstance(feed, BinanceFeed)
    acknowledge(feed, feed.opened(T0))
    asked: list[str] = []
    for second in range(1, 121):
        now = T0 + second * SECOND
        waiting = fetches(feed.received(trade(second, s=names[0]), now) + feed.ticked(now), "interest")
        while waiting:
            request = waiting.pop()
            asked.append(request.symbol)
            answer = {"openInterest": "10659.509", "symbol": request.symbol, "time": now // 1_000_000}
            waiting += fetches(feed.fetched(request, json.dumps(answer).encode(), now), "interest")
    counts = Counter(asked)
    assert set(counts) == set(names)
    assert set(counts.values()) <= {1, 2}
    assert sum(counts.values()) <= 200
    feed.received(trade(500, s=names[0]), T0 + 1_000 * SECOND)
    assert len(fetches(feed.ticked(T0 + 1_000 * SECOND), "interest")) <= 4
    assert not fetches(endpoint("public").ticked(T0 + 61 * SECOND), "interest")


def test_open_interest_is_what_rest_says() -> None:
    """At its own time ("Open Interest")."""
    feed = endpoint("market")
    feed.opened(T0)
    answer = b'{"openInterest":"10659.509","symbol":"BTCUSDT","time":1800000000000}'
    (event,) = derived(feed.fetched(Fetch("", "interest", "BTCUSDT"), answer, T0))
    assert (event.open_interest, event.ts_event, event.mark_price) == ("10659.509", T0, None)


# --- COIN-M ---


def test_coin_margined_contracts_are_a_matter_of_facts() -> None:
    """Documented frames of COIN-M through the same feed; the multiplier is the size of a contract."""
    feed = BinanceFeed(COINM, line="binance_coinm/0", products=("BTCUSD_PERP", "BTCUSD_200925"))
    out = feed.opened(T0)
    assert "btcusd_perp@markPrice@1s" in streams(out)
    assert [request.path for request in fetches(out, "products")] == ["dapi/v1/exchangeInfo"]
    frame = json.loads(diff(41, 50, 40, "BTCUSD_PERP"))
    frame["data"] |= {"ps": "BTCUSD", "st": 2}
    out = feed.received(json.dumps(frame).encode(), T0)
    (told,) = [o for o in out if isinstance(o, Instrument)]
    assert (told.venue, told.symbol, told.kind, told.base_currency) == ("binance_coinm", "BTC-USD", "perpetual", "BTC")
    (request,) = fetches(out)
    assert request.path == "dapi/v1/depth?symbol=BTCUSD_PERP&limit=1000"
    assert kinds(feed.fetched(request, body(45), T0)) == ["BTC-USD snapshot", "BTC-USD update"]
    assert describe(COINM, "BTCUSD_200925").symbol == "BTC-USD_200925"
    assert find(COINM, "BTC-USD").venue_symbol == "BTCUSD_PERP"
    learned = rest_fields(msgspec.json.decode(json.dumps({
        "symbol": "BTCUSD_PERP", "contractStatus": "TRADING", "contractType": "PERPETUAL", "contractSize": 100,
        "baseAsset": "BTC", "quoteAsset": "USD", "marginAsset": "BTC"}), type=RestProduct))  # fmt: skip
    assert (learned["contract_multiplier"], learned["inverse"], learned["status"]) == ("100", True, "online")


def test_frames_of_the_other_margin_are_left_alone() -> None:
    """COIN-M moves into the streams of USD-M: `st` says which a frame is, whatever its name."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)
    for kind, ignored in ((2, 1), (1, 1)):
        frame = json.loads(diff(41, 50, 40, "BTCUSD_PERP" if kind == 2 else "BTCUSDT"))
        frame["data"]["st"] = kind
        out = feed.received(json.dumps(frame).encode(), T0)
        assert bool([o for o in out if isinstance(o, Instrument)]) == (kind == 1)
        assert feed.counts["ignored"] == ignored
