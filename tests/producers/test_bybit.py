"""The Bybit feed tells the truth about the recording, keeps its markets apart, and follows its numbers."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeGuard

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.book import L2Book
from marketdata.errors import SettingsError
from marketdata.events import BookUpdate, DeadLetter, Derivative, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues import make_feed
from producers.venues.bybit.feed import BybitFeed
from producers.venues.bybit.names import INVERSE, LINEAR, SPOT, describe
from runtime import recordings
from runtime.recordings import Recorded

RECORDING = Path(__file__).resolve().parents[3] / "shared" / "recordings" / "bybit.jsonl.zst"
CONNECTIONS = {"BYBIT.ws.3": SPOT, "BYBIT.ws.2": LINEAR}  # of the recording
SYMBOLS = {(SPOT, "BTCUSDT"): "BTC-USDT", (LINEAR, "BTCUSDT"): "BTC-USDT-PERP", (LINEAR, "SOLUSDT"): "SOL-USDT-PERP"}
T0 = 1_790_000_000_000_000_000
MS = 1_790_000_000_000
SECOND = 1_000_000_000


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


def sent(lines: list[Recorded], topic: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (symbol, frame) of the recorded frames of a topic."""
    frames = [(CONNECTIONS[line.conn or ""], json.loads(line.data)) for line in lines if line.t == "recv"]
    return [
        (SYMBOLS[market, frame["topic"].rpartition(".")[2]], frame)
        for market, frame in frames if frame.get("topic", "").startswith(topic)
    ]  # fmt: skip


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
            told = describe(listed["symbol"], result["category"])
            assert (told.base_currency, told.quote_currency) == (listed["baseCoin"], listed["quoteCoin"])
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
    told = describe(name, market)
    assert (told.symbol, told.kind) == (symbol, kind)
    contract = (told.inverse, told.settlement_currency, told.contract_multiplier)
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


# --- Made by hand ---


def book(kind: str, number: int, *, bids: Any = (), asks: Any = (), topic: str = "orderbook.200") -> bytes:
    """Return a book frame as the linear market writes it."""
    data = {"s": "BTCUSDT", "b": bids, "a": asks, "u": number, "seq": 1_000 + number}
    frame = {"topic": f"{topic}.BTCUSDT", "type": kind, "ts": MS, "data": data, "cts": MS}
    return json.dumps(frame, separators=(",", ":")).encode()


def orders(out: list[Output]) -> list[tuple[str, list[str]]]:
    """Return verb and topics of the messages among these outputs."""
    sent = [json.loads(o.frame) for o in out if isinstance(o, Send)]
    return [(order["op"], order["args"]) for order in sent if "args" in order]


def acknowledge(feed: BybitFeed, out: list[Output]) -> list[Output]:
    """Answer every subscription as the venue does."""
    answers: list[Output] = []
    for order in [json.loads(o.frame) for o in out if isinstance(o, Send) and b"args" in o.frame]:
        answer = {"success": True, "ret_msg": "", "conn_id": "x", "req_id": order["req_id"], "op": order["op"]}
        answers += feed.received(json.dumps(answer).encode(), T0)
    return answers


def kinds(out: list[Output]) -> list[str]:
    """Return what kinds of book changes these outputs hold."""
    return [event.kind for event in out if isinstance(event, BookUpdate)]


@pytest.fixture
def feed() -> BybitFeed:
    """A feed that has a book, numbered 10."""
    feed = BybitFeed(line="bybit/0", products=("BTCUSDT",), market=LINEAR)
    assert acknowledge(feed, feed.opened(T0)) == []
    assert kinds(feed.received(book("snapshot", 10, bids=[("9", "1")], asks=[("11", "1")]), T0)) == ["snapshot"]
    return feed


def test_lost_number_clears_the_book_and_subscribes_again(feed: BybitFeed) -> None:
    """The gap closes with the next snapshot, under the same id."""
    assert kinds(feed.received(book("delta", 11, bids=[("9", "2")]), T0)) == ["update"]
    out = feed.received(book("delta", 13, bids=[("9", "3")]), T0)
    assert kinds(out) == ["clear"]
    (gap,) = [o for o in out if isinstance(o, FeedStatus) and o.kind == "gap"]
    assert (gap.expected, gap.received) == (12, 13)
    assert orders(out) == [(verb, ["orderbook.200.BTCUSDT"]) for verb in ("unsubscribe", "subscribe")]
    assert kinds(feed.received(book("delta", 14, bids=[("9", "4")]), T0)) == []
    out = feed.received(book("snapshot", 20, bids=[("9", "5")], asks=[("11", "1")]), T0)
    assert [o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"] == [gap.gap_id]


def test_snapshot_that_its_next_change_overtook_is_found_out_by_the_one_after() -> None:
    """The book is right for its number until 12 comes without 11; nothing later is told on top of it."""
    feed = BybitFeed(line="bybit/0", products=("BTCUSDT",), market=LINEAR)
    feed.opened(T0)
    assert kinds(feed.received(book("delta", 11, bids=[("9", "2")]), T0)) == []
    out = feed.received(book("snapshot", 10, bids=[("9", "1")], asks=[("11", "1")]), T0)
    assert [(o.kind, o.sequence) for o in out if isinstance(o, BookUpdate)] == [("snapshot", 10)]
    assert kinds(feed.received(book("delta", 12, bids=[("9", "3")]), T0)) == ["clear"]


def test_snapshot_in_the_middle_replaces_the_book(feed: BybitFeed) -> None:
    """After a restart of the service `u` is 1 (documented), and counts on from there."""
    assert kinds(feed.received(book("snapshot", 1, bids=[("8", "1")], asks=[("12", "1")]), T0)) == ["snapshot"]
    assert kinds(feed.received(book("delta", 2, bids=[("8", "2")]), T0)) == ["update"]


def test_unreadable_change_is_a_loss_of_that_book(feed: BybitFeed) -> None:
    """At once, whatever its number would have shown later; an unreadable trade is asked for."""
    frame = book("delta", 11, bids=[("x", "2")])
    out = feed.received(frame, T0)
    assert [o.payload for o in out if isinstance(o, DeadLetter)] == [frame]
    assert kinds(out) == ["clear"]
    assert [json.loads(o.frame)["op"] for o in out if isinstance(o, Send)] == ["unsubscribe", "subscribe"]
    out = feed.received(trade("a-1").replace(b'"Sell"', b'"None"').replace(b": ", b":"), T0)
    assert [o.purpose for o in out if isinstance(o, Fetch)] == ["trades"]


def test_trade_of_an_impossible_time_is_asked_for(feed: BybitFeed) -> None:
    """It would be refused behind the feed, which nobody could ask again there."""
    out = feed.received(trade("a-1").replace(f'"T": {MS}'.encode(), b'"T": 5'), T0)
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["time_out_of_bounds"]
    assert not [o for o in out if isinstance(o, Trades)]
    assert [o.purpose for o in out if isinstance(o, Fetch)] == ["trades"]


def test_frame_that_names_nothing_may_have_been_trades(feed: BybitFeed) -> None:
    """Their ids would not show it: the recent ones are asked for, and close the gap behind the next book."""
    feed.received(trade("a-1"), T0)
    (request,) = [o for o in feed.received(b"no frame", T0) if isinstance(o, Fetch)]
    feed.received(book("snapshot", 50, bids=[("9", "1")]), T0)
    out = feed.fetched(request, listed("a-2", "a-1"), T0)
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["a-2"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def test_book_that_says_the_size_of_improving_orders_too_costs_no_book(feed: BybitFeed) -> None:
    """Another book of the same product, with three values a level."""
    feed.received(book("snapshot", 50, bids=[("9", "1")]), T0)
    rpi = json.loads(book("snapshot", 9)) | {"topic": "orderbook.rpi.BTCUSDT"}
    for levels in ([["9", "1", "2"]], []):
        rpi["data"]["b"] = levels
        assert feed.received(json.dumps(rpi, separators=(",", ":")).encode(), T0) == []
    assert feed.counts["ignored"] == 2


def test_snapshot_of_a_ticker_forgets_what_was_before(feed: BybitFeed) -> None:
    """A change keeps the other fields; a snapshot has all that there are."""

    def ticker(kind: str, **fields: str) -> bytes:
        frame = {"topic": "tickers.BTCUSDT", "type": kind, "ts": MS, "data": {"symbol": "BTCUSDT"} | fields}
        return json.dumps(frame, separators=(",", ":")).encode()

    told = [
        (o.bid, o.last) for frame in (
            ticker("snapshot", bid1Price="9", bid1Size="1", markPrice="10"), ticker("delta", lastPrice="10"),
            ticker("snapshot", lastPrice="11", markPrice="10"),
        ) for o in feed.received(frame, T0) if isinstance(o, Quote)
    ]  # fmt: skip
    assert told == [("9", None), ("9", "10"), (None, "11")]


def test_seen_frames_are_dropped_and_other_depths_left_alone(feed: BybitFeed) -> None:
    """A second depth tells the same book; depth 1 is a quote."""
    change = book("delta", 11, bids=[("9", "2")])
    feed.received(change, T0)
    assert feed.received(change, T0) == []
    assert feed.counts["duplicates"] == 1
    assert feed.received(book("snapshot", 99, bids=[("9", "7")], topic="orderbook.50"), T0) == []
    out = feed.received(book("snapshot", 5, bids=[("9", "7")], asks=[("10", "1")], topic="orderbook.1"), T0)
    assert [(q.bid, q.bid_size, q.ask) for q in out if isinstance(q, Quote)] == [("9", "7", "10")]


Row = tuple[str, str]


def best(kind: str, number: int, bids: list[Row], asks: list[Row]) -> bytes:
    """Return a frame of orderbook.1."""
    return book(kind, number, bids=bids, asks=asks, topic="orderbook.1")


def quoted(out: list[Output]) -> list[tuple[Row | None, Row | None, bool]]:
    """Return bid, ask and validity of the quotes among these outputs."""
    return [
        (
            None if q.bid is None else (q.bid, q.bid_size or ""),
            None if q.ask is None else (q.ask, q.ask_size or ""),
            q.valid,
        )
        for q in out
        if isinstance(q, Quote)
    ]


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_size_of_zero_removes_a_best_level(*, is_reversed: bool) -> None:
    """Wherever in the delta it is: never a quote of size zero; a side that is left out stays, one that ends is none."""
    feed = BybitFeed(line="bybit/0", market=LINEAR)

    def top(kind: str, number: int, bids: list[Row], asks: list[Row]) -> tuple[Row | None, Row | None, bool]:
        step = -1 if is_reversed else 1
        (quote,) = quoted(feed.received(best(kind, number, bids[::step], asks[::step]), T0))
        return quote

    bid, ask = ("1849.90", "3.1"), ("1850.20", "0.4")
    top("snapshot", 501, [("1850.10", "2.5")], [("1850.30", "1.25")])
    assert top("delta", 502, [("1850.10", "0"), bid], [ask, ("1850.30", "0.00")]) == (bid, ask, True)
    assert top("delta", 503, [], [(ask[0], "9")]) == (bid, (ask[0], "9"), True)
    assert top("delta", 504, [], [("1850.2", "0")]) == (bid, None, True)
    assert top("delta", 505, [(bid[0], "0")], []) == (None, None, True)
    assert top("delta", 506, [("1", "1"), ("3", "3"), ("2", "2")], [("7", "7"), ("6", "6")]) == (
        ("3", "3"), ("6", "6"), True)  # fmt: skip
    assert top("snapshot", 600, [("5", "5")], []) == (("5", "5"), None, True)
    assert top("delta", 601, [], [("8", "1")]) == (("5", "5"), ("8", "1"), True)


@pytest.mark.parametrize("kind", ["snapshot", "delta"])
def test_a_restart_of_the_service_overwrites_the_best_levels(kind: str) -> None:
    """`u` = 1 is a snapshot (documented), and the next delta follows it."""
    feed = BybitFeed(line="bybit/0", market=LINEAR)
    feed.received(best("snapshot", 501, [("9", "1")], [("11", "1")]), T0)
    assert quoted(feed.received(best(kind, 1, [("8", "2")], [("12", "0")]), T0)) == [(("8", "2"), None, True)]
    assert quoted(feed.received(best("delta", 2, [], [("13", "1")]), T0)) == [(("8", "2"), ("13", "1"), True)]


def test_a_lost_delta_leaves_no_best_levels_until_the_next_snapshot() -> None:
    """One that was seen changes nothing; deltas before a snapshot are counted, also on a new connection."""
    feed = BybitFeed(line="bybit/0", market=LINEAR)
    assert not quoted(feed.received(best("delta", 9, [("9", "1")], []), T0))
    feed.received(best("snapshot", 10, [("9", "1")], [("11", "1")]), T0)
    assert not quoted(feed.received(best("delta", 10, [("9", "0")], []), T0))
    out = feed.received(best("delta", 12, [("9", "2")], []), T0)
    assert quoted(out) == [(None, None, False)]
    assert not quoted(feed.received(best("delta", 13, [("9", "2")], []), T0))
    assert len(quoted(feed.received(best("snapshot", 14, [("9", "1")], []), T0))) == 1
    feed.closed("reset", T0)
    feed.opened(T0)
    assert not quoted(feed.received(best("delta", 15, [("9", "2")], []), T0))
    assert [feed.counts[name] for name in ("deltas_before_snapshot", "duplicates", "gaps")] == [3, 1, 1]


_ROWS = st.lists(
    st.tuples(st.integers(1, 5).map(str), st.integers(0, 3).map(str)), max_size=3, unique_by=lambda r: r[0]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["delta", "delta", "delta", "snapshot", "lost", "twice"]), _ROWS, _ROWS)))
def test_best_levels_are_those_of_all_changes(steps: list[tuple[str, list[Row], list[Row]]]) -> None:
    """Whatever comes, a quote is the best of what snapshot and deltas left, and nothing after a loss."""
    feed = BybitFeed(line="bybit/0", market=LINEAR)
    sides: list[dict[int, str]] = [{}, {}]
    is_known, number = False, 100
    for kind, bids, asks in steps:
        number += {"lost": 2, "twice": 0}.get(kind, 1)
        out = feed.received(best("snapshot" if kind == "snapshot" else "delta", number, bids, asks), T0)
        if not is_known and kind != "snapshot":
            assert not quoted(out)
            continue
        if kind == "twice":
            assert not quoted(out)
            continue
        if kind == "lost":
            is_known = False
            assert quoted(out) == [(None, None, False)]
            continue
        if kind == "snapshot":
            is_known, sides = True, [{}, {}]
        for side, rows in zip(sides, (bids, asks), strict=True):
            side.update({int(price): size for price, size in rows})
        left = [{price: size for price, size in side.items() if size != "0"} for side in sides]
        expected = [(str(at), side[at]) if (at := pick(side, default=0)) else None
                    for pick, side in zip((max, min), left, strict=True)]  # fmt: skip
        assert quoted(out) == [(*expected, True)]


def trade(number: str) -> bytes:
    """Return a frame of one trade of the linear market."""
    data = [{"T": MS, "s": "BTCUSDT", "S": "Sell", "v": "1", "p": "10", "i": number}]
    return json.dumps({"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": MS, "data": data}).encode()


def test_trades_of_a_lost_connection_are_asked_for(feed: BybitFeed) -> None:
    """REST's recent trades reach back to a known one: what was missing is told, and the gap closes."""
    feed.received(trade("a-1"), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    feed.received(book("snapshot", 50, bids=[("9", "1")]), T0)
    (request,) = [o for o in feed.received(trade("a-3"), T0) if isinstance(o, Fetch)]
    assert "category=linear" in request.path
    listed = [{"execId": number, "symbol": "BTCUSDT", "price": "10", "size": "1", "side": "Sell", "time": str(MS)}
              for number in ("a-3", "a-2", "a-1")]  # fmt: skip
    body = json.dumps({"retCode": 0, "result": {"category": "linear", "list": listed}}).encode()
    out = feed.fetched(request, body, T0)
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["a-2"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def listed(*numbers: str) -> bytes:
    """Return REST's recent trades, newest first."""
    rows = [{"execId": number, "price": "10", "size": "1", "side": "Sell", "time": str(MS)} for number in numbers]
    return json.dumps({"result": {"category": "linear", "list": rows}}).encode()


def test_recent_trades_that_do_not_reach_back_before_the_loss_leave_it_on_the_ledger(feed: BybitFeed) -> None:
    """That they have what was told since proves nothing: a-2 may be missing, and the stream says so."""
    feed.received(trade("a-1"), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    feed.received(book("snapshot", 50, bids=[("9", "1")]), T0)
    (request,) = [o for o in feed.received(trade("a-3"), T0) if isinstance(o, Fetch)]
    out = feed.fetched(request, listed("a-4", "a-3"), T0)
    assert [(e.valid, [t.trade_id for t in e.trades]) for e in out if isinstance(e, Trades)] == [
        (False, ["a-4"]), (False, []), (True, [])]  # fmt: skip
    opened, closed = [o for o in out if isinstance(o, FeedStatus)]
    assert (opened.kind, opened.ts_from, closed.kind) == ("gap", MS * 1_000_000, "resynced")
    assert opened.gap_id != closed.gap_id


def test_trades_between_two_losses_do_not_close_the_gap_of_the_first(feed: BybitFeed) -> None:
    """What was told after the first loss is no proof after the second either: a-2 may still be missing."""
    feed.received(trade("a-1"), T0)
    for _ in range(2):
        feed.closed("reset", T0)
        feed.opened(T0)
        feed.received(trade("a-3"), T0)
    (request,) = [o for o in feed.received(trade("a-4"), T0 + 11 * SECOND) if isinstance(o, Fetch)]
    out = feed.fetched(request, listed("a-4", "a-3"), T0)
    assert [o.reason for o in out if isinstance(o, FeedStatus)] == ["gap"]


def test_one_gap_waits_for_everything_that_was_lost_meanwhile(feed: BybitFeed) -> None:
    """It opens with a trade and widens with the book; both have to come."""
    feed.received(trade("a-1"), T0)
    out = feed.received(trade("a-2").replace(b'"Sell"', b'"None"').replace(b": ", b":"), T0)
    (request,) = [o for o in out if isinstance(o, Fetch)]
    feed.received(book("delta", 13, bids=[("9", "3")]), T0)
    out = feed.fetched(request, listed("a-2", "a-1"), T0)
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == []
    out = feed.received(book("snapshot", 20, bids=[("9", "5")]), T0)
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def test_recent_trades_are_asked_for_once_and_again_when_no_answer_came(feed: BybitFeed) -> None:
    """However many trades come meanwhile; an answer that is of no use is the last word."""
    feed.received(trade("a-1"), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    out = [o for at in range(100) for o in feed.received(trade(f"b-{at}"), T0 + at * SECOND // 5)]
    requests = [o for o in out if isinstance(o, Fetch)]
    assert len(requests) == 2
    feed.fetched(requests[0], listed("z-1"), T0 + 20 * SECOND)
    assert not [o for o in feed.received(trade("c"), T0 + 60 * SECOND) if isinstance(o, Fetch)]


def test_pings_are_sent_and_silence_is_left(feed: BybitFeed) -> None:
    """Every 20 s a ping (documented), and sooner on a quiet line; both forms of the answer are heartbeats."""
    assert set(feed.ticked(T0 + 21 * SECOND)) == {Send(b'{"op":"ping"}')}
    for pong in (b'{"success":true,"ret_msg":"pong","conn_id":"x","op":"ping"}', b'{"op":"pong","args":["1"]}'):
        assert feed.received(pong, T0 + 22 * SECOND) == []
    assert feed.counts["heartbeats"] == 2
    out = feed.ticked(T0 + 60 * SECOND)
    assert kinds(out) == ["clear"]
    assert isinstance(out[-1], Reconnect)


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


def test_unreadable_frame_may_have_been_of_either_market() -> None:
    """Both books are cleared, and the frame is one dead letter."""
    mixed = make_feed("bybit")
    mixed.opened(T0)
    level = '"data":{"s":"BTCUSDT","b":[["1","1"]],"a":[["2","1"]],"u":1,"seq":1}'
    mixed.received(f'{{"topic":"orderbook.200.BTCUSDT","ts":{MS},"type":"snapshot",{level}}}'.encode(), T0)
    mixed.received(f'{{"topic":"orderbook.200.BTCUSDT","type":"snapshot","ts":{MS},{level}}}'.encode(), T0)
    out = mixed.received(b"no frame", T0)
    assert {o.symbol for o in out if isinstance(o, BookUpdate)} == {"BTC-USDT", "BTC-USDT-PERP"}
    assert sum(isinstance(o, DeadLetter) for o in out) == 1


def mixed_trades(*ids: str, ms: int = MS) -> bytes:
    """Return one frame of several trades."""
    data = [{"T": ms, "s": "BTCUSDT", "S": "Buy", "v": "0.01", "p": "65000", "i": name} for name in ids]
    return json.dumps({"topic": "publicTrade.BTCUSDT", "ts": MS, "type": "snapshot", "data": data}).encode()


@pytest.mark.parametrize("name", ["bad\x00id", "bad\x1f", "\x7f"])
def test_an_id_with_a_control_character_costs_only_its_own_trade(feed: BybitFeed, name: str) -> None:
    """Case 15: one dead letter, the neighbours are published, and the loss is on the ledger."""
    out = feed.received(mixed_trades("a-1", name, "a-2"), T0)
    (letter,) = [o for o in out if isinstance(o, DeadLetter)]
    assert (letter.reason, letter.field) == ("control_character", "trade_id")
    assert letter.value is not None
    assert letter.value.isprintable()
    assert json.loads(letter.payload)["trade_id"] == name
    assert [t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] == ["a-1", "a-2"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["gap"]


def test_a_listed_trade_of_an_impossible_time_is_no_proof(feed: BybitFeed) -> None:
    """Its neighbours are published; the list is not complete, so that the gap goes to the ledger."""
    feed.received(trade("a-1"), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    (request,) = [o for o in feed.received(trade("a-4"), T0) if isinstance(o, Fetch)]
    body = json.loads(listed("a-4", "a-3", "a-2", "a-1"))
    body["result"]["list"][1]["time"] = str(MS + 10**12)
    out = feed.fetched(request, json.dumps(body).encode(), T0)
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["time_out_of_bounds"]
    assert [t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] == ["a-2"]
    assert [(o.kind, o.channel) for o in out if isinstance(o, FeedStatus)] == [("gap", "publicTrade")]


# --- Derivatives ---


def derived(out: list[Output]) -> list[Derivative]:
    """Return the derivative events among these outputs."""
    return [o for o in out if isinstance(o, Derivative)]


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


def ticker(kind: str, ms: int = MS, **fields: Any) -> bytes:
    """Return a ticker of the linear market, as the documents show it."""
    frame = {"topic": "tickers.BTCUSDT", "type": kind, "data": {"symbol": "BTCUSDT"} | fields, "cs": 1, "ts": ms}
    return json.dumps(frame, separators=(",", ":")).encode()


def test_a_bad_value_of_a_ticker_costs_none_of_its_neighbours(feed: BybitFeed) -> None:
    """It is a dead letter that names field and value; empty values are unknown, and a delta has only its own."""
    out = feed.received(ticker("snapshot", markPrice="x", indexPrice="", openInterest="-1", fundingRate="-0.0001"), T0)
    (event,) = derived(out)
    assert (event.mark_price, event.index_price, event.open_interest) == (None, None, None)
    assert event.funding_rate == "-0.0001"
    assert [(o.field, o.value) for o in out if isinstance(o, DeadLetter)] == [
        ("mark_price", "x"), ("open_interest", "-1")]  # fmt: skip
    (event,) = derived(feed.received(ticker("delta", nextFundingTime=str(MS + 1)), T0))
    assert (event.next_funding_ts, event.funding_rate) == ((MS + 1) * 1_000_000, None)
    assert not derived(feed.received(ticker("delta", bid1Price="9", bid1Size="1"), T0))


def test_an_unreadable_ticker_asks_for_a_new_snapshot_once(feed: BybitFeed) -> None:
    """What it changed is unknown: until the snapshot a quote has only what came since."""
    feed.received(ticker("snapshot", bid1Price="9", bid1Size="1", lastPrice="10"), T0)
    asked = [one for _ in range(2) for one in orders(feed.received(ticker("delta", lastPrice=5), T0))]
    assert asked == [(verb, ["tickers.BTCUSDT"]) for verb in ("unsubscribe", "subscribe")]
    (quote,) = [o for o in feed.received(ticker("delta", lastPrice="11"), T0) if isinstance(o, Quote)]
    assert (quote.bid, quote.last) == (None, "11")


def test_a_lost_book_keeps_the_ticker(feed: BybitFeed) -> None:
    """Only the book is asked for again, so that the ticker's deltas must go on from what is known."""
    feed.received(ticker("snapshot", bid1Price="9", bid1Size="1", markPrice="10"), T0)
    assert kinds(feed.received(book("delta", 13, bids=[("9", "3")]), T0)) == ["clear"]
    (quote,) = [o for o in feed.received(ticker("delta", lastPrice="11"), T0) if isinstance(o, Quote)]
    assert (quote.bid, quote.last) == ("9", "11")


def test_liquidations_are_the_orders_that_close_positions(feed: BybitFeed) -> None:
    """`Buy` is a liquidated long position ("All Liquidation"), which a sell order closes; a bad one costs no other."""
    rows = [
        {"T": MS + 1, "s": "BTCUSDT", "S": "Sell", "v": "20000", "p": "0.04499"},
        {"T": MS + 2, "s": "BTCUSDT", "S": "Buy", "v": "0", "p": "0.04499"},
        {"T": MS + 3, "s": "BTCUSDT", "S": "Hold", "v": "1", "p": "0.04499"},
        {"T": MS + 4, "s": "BTCUSDT", "S": "Buy", "v": "1.50", "p": "0.0450"},
    ]
    frame = {"topic": "allLiquidation.BTCUSDT", "type": "snapshot", "ts": MS + 5, "data": rows}
    out = feed.received(json.dumps(frame, separators=(",", ":")).encode(), T0)
    (event,) = derived(out)
    assert [(one.ts_event, one.side, one.price, one.size) for one in event.liquidations] == [
        ((MS + 1) * 1_000_000, "buy", "0.04499", "20000"),
        ((MS + 4) * 1_000_000, "sell", "0.0450", "1.50"),
    ]
    assert sum(isinstance(o, DeadLetter) for o in out) == 2
    assert event.ts_event == (MS + 5) * 1_000_000


@pytest.mark.parametrize(("market", "has"), [(SPOT, False), (LINEAR, True), (INVERSE, True)])
def test_liquidations_are_subscribed_where_there_are_positions(market: str, *, has: bool) -> None:
    """At most ten topics a message (documented for the spot market), and the lists of the market's own products."""
    names = ("BTCUSD", "ETHUSD", "XRPUSD", "SOLUSD")
    out = BybitFeed(line="bybit/0", products=names, market=market).opened(T0)
    assert all(len(args) <= 10 for _, args in orders(out))
    topics = {topic.rpartition(".")[0] for _, args in orders(out) for topic in args}
    assert topics == {"orderbook.200", "publicTrade", "tickers"} | ({"allLiquidation"} if has else set())
    assert [f"category={market}&" in o.path for o in out if isinstance(o, Fetch)] == [True]


def test_a_long_list_of_products_is_read_page_by_page(feed: BybitFeed) -> None:
    """The next page is requested by the cursor that the venue gives; lists of other markets are left alone."""
    row = {"symbol": "BTCUSDT", "status": "Trading", "contractType": "LinearPerpetual", "settleCoin": "USDT"}

    def answer(category: str, cursor: str) -> bytes:
        return json.dumps({"result": {"category": category, "list": [row], "nextPageCursor": cursor}}).encode()

    (request,) = [o for o in feed.fetched(Fetch("", "products"), answer("linear", "a%3D1"), T0) if isinstance(o, Fetch)]
    assert request.path.endswith("&limit=1000&cursor=a%3D1")
    assert not [o for o in feed.fetched(request, answer("linear", ""), T0) if isinstance(o, Fetch)]
    assert feed.fetched(request, answer("spot", "b"), T0) == []


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


# --- Subscriptions ---


def statuses(out: list[Output]) -> list[tuple[str, str, str | None, str]]:
    """Return kind, symbol, channel and reason of the statuses among these outputs."""
    return [(o.kind, o.symbol, o.channel, o.reason) for o in out if isinstance(o, FeedStatus)]


def refusal(order: dict[str, Any], reason: str = "error:handler not found,topic:publicTrade.NOSUCHUSDT") -> bytes:
    """Return the venue's refusal of a message."""
    return json.dumps({"success": False, "ret_msg": reason, "conn_id": "x", "req_id": order["req_id"],
                       "op": order["op"]}).encode()  # fmt: skip


def test_a_refused_message_costs_only_the_product_at_fault() -> None:
    """The venue refuses all topics of a message: each product is requested by itself, and one is refused for good."""
    feed = BybitFeed(line="bybit/0", products=("BTCUSDT", "NOSUCHUSDT", "ETHUSDT"))
    sent = [json.loads(o.frame) for o in feed.opened(T0) if isinstance(o, Send)]
    by_channel = {order["args"][0].rpartition(".")[0]: order for order in sent}
    out = feed.received(refusal(by_channel["publicTrade"]), T0)
    assert orders(out) == [("subscribe", [f"publicTrade.{name}"]) for name in ("BTCUSDT", "NOSUCHUSDT", "ETHUSDT")]
    assert not statuses(out)
    alone = [json.loads(o.frame) for o in out if isinstance(o, Send)]
    out = feed.received(refusal(alone[1]), T0)
    assert ("unsubscribed", "NOSUCH-USDT", "publicTrade", "refused") in statuses(out)
    assert ("gap", "NOSUCH-USDT", "publicTrade", "unsubscribed") in statuses(out)
    assert [(o.valid, o.symbol) for o in out if isinstance(o, Trades)] == [(False, "NOSUCH-USDT")]
    for order in (alone[0], alone[2]):
        assert feed.received(refusal(order).replace(b"false", b"true"), T0) == []
    assert feed.counts["subscriptions"] == 2


def test_a_subscription_without_an_answer_is_on_the_ledger_and_requested_again(feed: BybitFeed) -> None:
    """Ten seconds without an acknowledgement; the answer that comes at last ends it."""
    late = BybitFeed(line="bybit/0", products=("BTCUSDT",), market=LINEAR)
    late.opened(T0)
    late.received(book("snapshot", 10, bids=[("9", "1")]), T0)  # its data proves the book's
    out = late.ticked(T0 + 15 * SECOND)
    lost = {(kind, channel) for kind, _, channel, _ in statuses(out) if kind == "unsubscribed"}
    assert lost == {("unsubscribed", channel) for channel in ("publicTrade", "tickers", "allLiquidation")}
    late.received(book("delta", 11, bids=[("9", "2")]), T0 + 60 * SECOND)
    again = late.ticked(T0 + 80 * SECOND)
    assert not [o for o in again if isinstance(o, Fetch) and o.purpose == "trades"]  # which would prove nothing
    assert ("subscribe", ["publicTrade.BTCUSDT"]) in orders(again)
    assert ("subscribed", "BTC-USDT-PERP", "publicTrade", "") in statuses(acknowledge(late, again))
    assert not statuses(feed.ticked(T0 + 15 * SECOND))


def test_an_answer_without_a_number_is_that_of_the_oldest_message() -> None:
    """As some gateways of the venue leave it out (recorded on the spot market)."""
    feed = BybitFeed(line="bybit/0", products=("BTCUSDT",))
    feed.opened(T0)
    answer = b'{"success":true,"ret_msg":"subscribe","conn_id":"x","op":"subscribe"}'
    for _ in range(3):
        assert feed.received(answer, T0) == []
    feed.received(book("snapshot", 10, bids=[("9", "1")]), T0)
    assert not statuses(feed.ticked(T0 + 15 * SECOND))
    assert feed.received(answer, T0) == []  # of nothing that was sent
