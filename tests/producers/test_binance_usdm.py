"""The Binance USD-M futures feed tells the truth about its recording, and follows the chain of `pu`."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output
from producers.venues.binance.feed import BinanceFeed, RestProduct, rest_fields
from producers.venues.binance.spot import make as make_spot
from producers.venues.binance.usdm import make
from runtime import recordings
from runtime.recordings import Recorded

RECORDING = Path(__file__).resolve().parents[3] / "shared" / "recordings" / "binance_usdm_btcusdt.jsonl.zst"
T0 = 1_800_000_000_000_000_000
T0_MS = T0 // 1_000_000
Played = tuple[BinanceFeed, list[Output]]


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
    """Changes cover (40, 60] and (60, 70], the second with a hole in the ids; one older than `pu` is too old."""
    feed = make(line="binance_usdm/0")
    feed.opened(T0)
    (request,) = fetches(feed.received(diff(50, 60, 40), T0))
    feed.received(diff(65, 70, 60), T0)
    out = feed.fetched(request, body(number), T0)
    assert [o.kind for o in out if isinstance(o, BookUpdate)] == said
    assert bool(fetches(out)) == (not said)


def test_broken_chain_clears_and_asks_for_a_snapshot() -> None:
    """`pu` alone tells: the ids may have holes."""
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
    """A hole in the ids of `aggTrade` is filled from REST's aggTrades."""
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
    assert [[t.trade_id for t in o.trades] for o in out if isinstance(o, Trades)] == [["8", "9"]]
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
