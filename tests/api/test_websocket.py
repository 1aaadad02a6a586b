"""The WebSocket, through the independent `websockets` client, from records in the real Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.core.positions import read_position
from marketdata.book import L2Book
from marketdata.book_state import BooksState
from marketdata.events import Anomaly, BookUpdate, Candle, FeedStatus, Quote, Trade, Trades
from marketdata.headers import HOPS, Hops

TS = 1_786_309_548_228_568_123
STAMP = "2026-08-09T21:05:48.228568Z"


def source(symbol: str, **more: Any) -> dict[str, Any]:
    """Return what every event has."""
    fields = {"venue": "coinbase", "symbol": symbol, "line": "coinbase/0", "ts_event": TS, "ts_recv": time.time_ns()}
    return fields | more


def book(symbol: str, kind: str, bids: dict[str, str], asks: dict[str, str], **more: Any) -> BookUpdate:
    """Return a change of a book."""
    return BookUpdate(
        **source(symbol, **more), kind=kind, bid_prices=list(bids), bid_sizes=list(bids.values()),
        ask_prices=list(asks), ask_sizes=list(asks.values()),
    )  # fmt: skip


def trade(symbol: str, number: int, size: str = "0.1") -> Trades:
    """Return one trade."""
    one = Trade(trade_id=str(number), ts_event=TS, price="100", size=size, side="buy")
    return Trades(**source(symbol), trades=(one,))


def candle(symbol: str, minute: int, close: str, **more: Any) -> Candle:
    """Return the candle of a minute."""
    start = TS // 60_000_000_000 * 60_000_000_000 + minute * 60_000_000_000
    return Candle(
        venue="coinbase", symbol=symbol, interval="1m", start=start, end=start + 60_000_000_000, ts_event=TS,
        ts_recv=TS, open="1", high="9", low="1", close=close, volume="1", trades=1, **more,
    )  # fmt: skip


def known(api: Any, symbol: str, wait_for: Any) -> None:
    """Wait until a symbol is known."""
    wait_for("the symbol", lambda: api.client.get(f"/api/v1/market/{symbol}/orderbook").status_code == 200)


class ClientBook:
    """A book as a client keeps it, by the rules of the documentation alone."""

    def __init__(self) -> None:
        self.sides: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}
        self.sequence: int | None = None
        self.valid = False
        self.reason = ""

    def take(self, message: dict[str, Any]) -> None:
        """Apply a message; fails on a gap."""
        assert message["type"] in {"l2_snapshot", "l2_update"}, message
        if message["type"] == "l2_snapshot":
            self.sides = {side: dict(message["data"][side]) for side in self.sides}
            if not message.get("snapshot") and not message.get("conflated"):
                assert message["sequence"] == (self.sequence or 0) + 1
        else:
            assert message["sequence"] == (self.sequence or 0) + 1
            for side, levels in self.sides.items():
                for price, size in message["data"][side]:
                    if size == "0":
                        levels.pop(price, None)
                    else:
                        levels[price] = size
        self.sequence = message["sequence"]
        self.valid, self.reason = message["valid"], message["reason"]
        if not self.valid and self.reason in {"gap", "resyncing", "disconnected"}:
            self.sides = {"bids": {}, "asks": {}}

    def levels(self) -> tuple[list[list[str]], list[list[str]]]:
        """Return bids and asks, best first, as messages have them."""
        bids, asks = (
            [list(level) for level in sorted(self.sides[side].items(), key=lambda each: Decimal(each[0]))]
            for side in ("bids", "asks")
        )
        return bids[::-1], asks


PRICES = st.sampled_from([f"{whole}.{cent:02d}" for whole in (9, 10) for cent in range(0, 100, 20)])
SIZES = st.sampled_from(["0", "1", "2.50", "1e-8"])
SIDE = st.dictionaries(PRICES, SIZES, max_size=4)
CHANGES = st.one_of(
    st.tuples(st.just("update"), SIDE, SIDE),
    st.tuples(st.just("update"), SIDE, SIDE),
    st.tuples(st.just("update"), SIDE, SIDE),
    st.tuples(st.sampled_from(["snapshot", "clear", "heartbeat"]), SIDE, SIDE),
)
_numbers: Iterator[int] = iter(range(10**9))


def model(changes: list[tuple[str, dict[str, str], dict[str, str]]], depth: int) -> list[tuple[Any, ...]]:
    """Return the states that a client that watches so many levels must see, one for each change that it can see."""
    mine, is_known, states = L2Book(), True, []
    mine.bids.replace(["1"], ["1"])
    last: tuple[Any, ...] = ({"1": "1"}, {}, True, "")
    for kind, bids, asks in changes:
        fresh = kind == "snapshot"
        if kind == "snapshot":
            mine.bids.replace(bids.keys(), bids.values())
            mine.asks.replace(asks.keys(), asks.values())
            is_known = True
        elif kind == "clear":
            mine.clear()
            is_known = False
        elif kind == "update" and is_known:
            mine.bids.apply(list(bids), list(bids.values()))
            mine.asks.apply(list(asks), list(asks.values()))
        reason = "gap" if not is_known else "crossed" if mine.is_crossed() else ""
        now = (dict(mine.bids.top(depth)), dict(mine.asks.top(depth)), not reason, reason)
        if fresh or now != last:
            states.append(now)
        last = now
    return states


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(depth=st.sampled_from([1, 5, 1000]), changes=st.lists(CHANGES, min_size=1, max_size=25))
def test_snapshot_and_deltas_rebuild_the_book_at_every_sequence(
    shared: Any, open_socket: Any, wait_for: Any, depth: int, changes: list[tuple[str, dict[str, str], dict[str, str]]]
) -> None:
    """Whatever the stream does, the client's levels and validity are those of the model, change by change."""
    symbol = f"H{next(_numbers)}-{os.getpid()}"
    shared.produce(book(symbol, "snapshot", {"1": "1"}, {}))
    known(shared, symbol, wait_for)

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.subscribe("book", "trades", symbols=(symbol,), depth=depth)
            mine = ClientBook()
            mine.take(await client.receive())
            assert mine.sides == {"bids": {"1": "1"}, "asks": {}}
            shared.produce(
                *[
                    book(symbol, kind, {}, {}, valid=kind != "clear", reason="gap" if kind == "clear" else "")
                    if kind in {"clear", "heartbeat"}
                    else book(symbol, kind, bids, asks)
                    for kind, bids, asks in changes
                ]
            )
            states = model(changes, depth)
            seen: list[tuple[Any, ...]] = []
            while len(seen) < len(states):
                message = await client.receive()
                mine.take(message)
                state = (dict(mine.sides["bids"]), dict(mine.sides["asks"]), mine.valid, mine.reason)
                # A level set to the size that it has is a change of the stream that no client can see.
                if message["type"] == "l2_snapshot" or not seen or state != seen[-1]:
                    if not seen and message["type"] == "l2_update" and state == ({"1": "1"}, {}, True, ""):
                        continue
                    seen.append(state)
            assert seen == states

    asyncio.run(follow())


def test_a_subscription_begins_with_the_state_of_each_stream(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """Book, ticker, candles, trades, anomalies and status as they are, then each change with the next number."""
    anomaly = Anomaly(
        venue="coinbase", symbol=symbol, ts_event=TS, ts_recv=TS, anomaly_id="a1", kind="gap", severity="warning",
        metric="m", value="2", limit="1", evidence={"why": "test"},
    )  # fmt: skip
    gap = FeedStatus(**source(symbol), kind="gap", reason="sequence", detail="text", gap_id="g", expected=1, received=3)
    events = [
        book(symbol, "snapshot", {"100": "1"}, {"101": "2"}),
        Quote(**source(symbol), source="book", bid="100", bid_size="1", ask="101", ask_size="2"),
        candle(symbol, 0, "5"), trade(symbol, 1), anomaly, gap,
    ]  # fmt: skip

    async def follow() -> None:
        async with open_socket(shared) as client:
            answer = await client.subscribe(
                "book", "ticker", "candles", "trades", "anomalies", "status", symbols=(symbol,), depth=5
            )
            assert answer == {
                "type": "subscribed", "id": 1, "symbols": [symbol], "depth": 5, "interval": "1m",
                "channels": ["book", "ticker", "candles", "trades", "anomalies", "status"],
            }  # fmt: skip
            first = {message["type"]: message for message in [await client.receive() for _ in range(6)]}
            assert all(message["snapshot"] for message in first.values())
            # All but the ticker bring what one record contains.
            assert {kind for kind, message in first.items() if "position" not in message} == {"ticker"}
            assert read_position(first["l2_snapshot"].pop("position"))
            who = {
                "venue": "coinbase", "symbol": symbol, "timestamp": STAMP, "ts_event": str(TS), "valid": True,
                "reason": "",
            }  # fmt: skip
            assert first["l2_snapshot"] == who | {
                "type": "l2_snapshot", "sequence": 0, "depth": 5, "snapshot": True,
                "data": {"bids": [["100", "1"]], "asks": [["101", "2"]]},
            }  # fmt: skip
            assert first["ticker"]["data"]["bid"] == "100"
            assert first["trade"]["data"] == {
                "trade_id": "1", "price": "100", "size": "0.1", "side": "buy", "liquidation": False,
            }  # fmt: skip
            assert first["candle"]["data"]["close"] == "5"
            assert first["anomaly"]["data"] == {
                "anomaly_id": "a1", "kind": "gap", "severity": "warning", "metric": "m", "value": "2", "limit": "1",
                "evidence": {"why": "test"}, "phase": "start", "usual": None, "text": "", "start": STAMP, "peak": None,
                "end": None,
            }  # fmt: skip
            assert first["status"]["data"] == {
                "kind": "gap", "reason": "sequence", "detail": "text", "line": "coinbase/0", "channel": None,
                "gap_id": "g", "expected": 1, "received": 3,
            }  # fmt: skip
            shared.produce(
                book(symbol, "update", {"100": "7"}, {}),
                Quote(**source(symbol), source="book", bid="100", bid_size="7", ask="101", ask_size="2"),
                candle(symbol, 0, "6"), trade(symbol, 2), anomaly, gap,
            )  # fmt: skip
            following: dict[str, int] = {}
            while set(following) != {"l2_update", "ticker", "candle", "trade", "anomaly", "status"}:
                message = await client.receive()
                assert "snapshot" not in message
                following.setdefault(message["type"], message["sequence"])
            for kind, sequence in following.items():
                before = first["l2_snapshot" if kind == "l2_update" else kind]["sequence"]
                assert sequence == before + 1, kind

    shared.produce(*events)
    known(shared, symbol, wait_for)
    health = "/api/v1/status"
    wait_for("the status", lambda: shared.get(health, symbol=symbol)["data"]["events"])
    wait_for("the trade", lambda: shared.get(f"/api/v1/market/{symbol}/trades")["data"])
    wait_for("the candle", lambda: shared.get(f"/api/v1/market/{symbol}/candles")["data"])
    wait_for("the quote", lambda: shared.get(f"/api/v1/market/{symbol}/ticker")["data"]["last"])
    wait_for("the anomaly", lambda: shared.metric('tickstream_api_events_total{schema="Anomaly"}') >= 1)
    asyncio.run(follow())


def test_an_amendment_says_what_it_amends_here_and_over_rest(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """A correction names the trade whose place it takes, a cancel has that trade's id; plain trades say neither."""
    told = [
        Trade(trade_id=name, ts_event=TS + 1, price="5", size="1", side="buy", action=action, original_id=original)
        for name, action, original in (("1", "new", ""), ("2", "correct", "1"), ("2", "cancel", ""))
    ]
    common = {"price": "5", "size": "1", "side": "buy", "liquidation": False}
    shown = [
        common | {"trade_id": "1"},
        common | {"trade_id": "2", "action": "correct", "original_id": "1"},
        common | {"trade_id": "2", "action": "cancel"},
    ]

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.subscribe("trades", symbols=(symbol,))
            assert [(await client.receive())["data"] for _ in told] == shown

    shared.produce(Trades(**source(symbol), trades=tuple(told)))
    path = f"/api/v1/market/{symbol}/trades"
    wait_for("the trades", lambda: len(shared.client.get(path).json().get("data", ())) == len(told))
    more = {"timestamp": STAMP, "ts_event": str(TS + 1), "valid": True, "reason": ""}
    answered = [{name: one[name] for name in one if name != "ts_recv"} for one in shared.get(path)["data"]]
    assert answered == [each | more for each in reversed(shown)]
    asyncio.run(follow())


def test_a_gap_is_told_at_once_and_a_snapshot_ends_it(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """Valid, then an l2_update that is invalid and empty, nothing until the snapshot, then valid and numbered on."""
    shared.produce(book(symbol, "snapshot", {"100": "1"}, {"101": "1"}))
    known(shared, symbol, wait_for)

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.subscribe("book", symbols=(symbol,))
            assert (await client.receive())["valid"]
            shared.produce(
                book(symbol, "clear", {}, {}, valid=False, reason="gap"),
                book(symbol, "update", {"100": "2"}, {}),
                book(symbol, "snapshot", {"90": "1"}, {"91": "1"}),
                book(symbol, "heartbeat", {}, {}, valid=False, reason="halted"),
            )
            gap, fresh, halt = [await client.receive() for _ in range(3)]
            assert (gap["type"], gap["valid"], gap["reason"], gap["sequence"]) == ("l2_update", False, "gap", 1)
            assert gap["data"] == {"bids": [], "asks": []}
            assert (fresh["type"], fresh["valid"], fresh["sequence"]) == ("l2_snapshot", True, 2)
            assert fresh["data"] == {"bids": [["90", "1"]], "asks": [["91", "1"]]}
            assert (halt["type"], halt["valid"], halt["reason"], halt["sequence"]) == ("l2_update", False, "halted", 3)

    asyncio.run(follow())


def test_silence_makes_a_book_stale_and_a_beat_ends_it(stage: Any, open_socket: Any, wait_for: Any) -> None:
    """Nobody needs to ask: the subscriber is told when the last word is too old, and when it is not any more."""
    stage.start(TICKSTREAM_STALE_S="4")
    stage.ready()
    stage.produce(book("BTC-USD", "snapshot", {"100": "1"}, {"101": "1"}))
    known(stage, "BTC-USD", wait_for)

    async def follow() -> None:
        async with open_socket(stage) as client:
            await client.subscribe("book")
            messages = await client.until(lambda message: message.get("reason") == "stale")
            stale = messages[-1]
            assert stale["data"] == {"bids": [], "asks": []} or stale["type"] == "l2_snapshot"
            stage.produce(book("BTC-USD", "heartbeat", {}, {}))
            again = (await client.until(lambda message: message["valid"]))[-1]
            assert again["type"] == "l2_update"

    asyncio.run(follow())
    wait_for("REST to say the same", lambda: stage.get("/api/v1/market/BTC-USD/orderbook")["reason"] == "stale")


def test_streams_end_when_they_are_unsubscribed(shared: Any, symbol: str, open_socket: Any, wait_for: Any) -> None:
    """After the answer to an unsubscribe nothing of that channel comes; others go on."""
    shared.produce(book(symbol, "snapshot", {"100": "1"}, {"101": "1"}))
    known(shared, symbol, wait_for)

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.subscribe("book", "trades", symbols=(symbol,))
            await client.receive()
            await client.send(op="unsubscribe", id="u", channels=["book"], symbols=[symbol])
            assert await client.receive() == {
                "type": "unsubscribed", "id": "u", "channels": ["book"], "symbols": [symbol],
            }  # fmt: skip
            shared.produce(book(symbol, "update", {"100": "2"}, {}), trade(symbol, 1))
            wait_for("the book", lambda: shared.get(f"/api/v1/market/{symbol}/orderbook")["data"]["bids"][0][1] == "2")
            assert (await client.receive())["type"] == "trade"
            await client.send(op="ping", id=2)
            assert await client.receive() == {"type": "pong", "id": 2}

    asyncio.run(follow())


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no json", "bad_request"),
        ('{"op": "subscribe"}', "bad_request"),
        ('{"op": "dance", "id": 7}', "bad_request"),
        ('{"op": "subscribe", "id": 7, "channels": ["book"], "symbols": ["BTC-USD"], "depht": 5}', "bad_request"),
        ('{"op": "subscribe", "id": 7, "channels": ["books"], "symbols": ["BTC-USD"]}', "unknown_channel"),
        ('{"op": "subscribe", "id": 7, "channels": ["book"], "symbols": ["NO-SUCH"]}', "unknown_symbol"),
        ('{"op": "subscribe", "id": 7, "channels": ["book"], "symbols": ["BTC-USD"], "depth": 7}', "bad_depth"),
        ('{"op": "subscribe", "id": 7, "channels": ["candles"], "symbols": ["B"], "interval": "2m"}', "bad_interval"),
        ("[]", "bad_request"),
        ('"\\ud800"', "bad_request"),
    ],
)
def test_a_wrong_request_is_answered_and_the_connection_goes_on(
    shared: Any, open_socket: Any, message: str, code: str
) -> None:
    """An error with a code, the request's id where it has one, and a sentence; then business as usual."""

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.connection.send(message)
            answer = await client.receive()
            assert (answer["type"], answer["code"]) == ("error", code)
            assert answer["message"]
            assert answer["id"] == (7 if '"id": 7' in message else None)
            await client.send(op="ping", id=8)
            assert (await client.receive())["type"] == "pong"

    asyncio.run(follow())


def test_a_symbol_of_several_venues_must_say_which(shared: Any, symbol: str, open_socket: Any, wait_for: Any) -> None:
    """The error names the venues; with one of them it works."""
    shared.produce(book(symbol, "snapshot", {"1": "1"}, {}), book(symbol, "snapshot", {"2": "1"}, {}, venue="kraken"))
    wait_for("both", lambda: shared.client.get(f"/api/v1/market/{symbol}/ticker").status_code == 409)

    async def follow() -> None:
        async with open_socket(shared) as client:
            answer = await client.subscribe("book", symbols=(symbol,))
            assert answer["code"] == "ambiguous_symbol"
            assert "coinbase, kraken" in answer["message"]
            assert (await client.subscribe("book", symbols=(symbol,), venue="kraken"))["type"] == "subscribed"
            assert (await client.receive())["data"]["bids"] == [["2", "1"]]

    asyncio.run(follow())


def test_compression_is_spoken_when_it_is_offered(shared: Any, symbol: str, open_socket: Any, wait_for: Any) -> None:
    """A large snapshot and small updates arrive the same, and the client's own compressed requests are read."""
    bids = {f"{1 + number / 1000:.3f}": "1" for number in range(1000)}
    shared.produce(book(symbol, "snapshot", bids, {}))
    known(shared, symbol, wait_for)

    async def follow() -> None:
        async with open_socket(shared, compression="deflate") as client:
            assert "permessage-deflate" in client.connection.response.headers["Sec-WebSocket-Extensions"]
            await client.subscribe("book", symbols=(symbol,), depth=1000, venue="coinbase")
            assert dict((await client.receive())["data"]["bids"]) == bids
            shared.produce(book(symbol, "update", {"1.000": "0"}, {}))
            assert (await client.receive())["data"]["bids"] == [["1.000", "0"]]

    asyncio.run(follow())


def test_there_is_one_websocket_and_it_needs_a_proper_request(shared: Any) -> None:
    """Another path is 404 as a problem; a browser's `Connection: keep-alive, Upgrade` is accepted."""
    upgrade = {
        "Connection": "keep-alive, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    missing = shared.client.get("/other", headers=upgrade)
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json()["status"] == 404
    accepted = shared.client.get("/ws", headers=upgrade)
    assert accepted.status_code == 101
    assert accepted.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_too_large_a_message_ends_the_connection(shared: Any, open_socket: Any) -> None:
    """Close code 1009, and nobody else is concerned."""

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.connection.send("x" * 70_000)
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009

    asyncio.run(follow())


def test_connections_and_subscriptions_have_limits(stage: Any, open_socket: Any, wait_for: Any) -> None:
    """One connection too many is refused with 503; one stream too many is answered with an error."""
    stage.start(TICKSTREAM_WS_CLIENTS_MAX="1", TICKSTREAM_WS_SUBSCRIPTIONS_MAX="2")
    stage.ready()
    stage.produce(book("BTC-USD", "snapshot", {"1": "1"}, {}))
    known(stage, "BTC-USD", wait_for)

    async def follow() -> None:
        async with open_socket(stage) as client:
            assert (await client.subscribe("book", "ticker", "trades"))["code"] == "too_many_subscriptions"
            assert (await client.subscribe("book", "ticker"))["type"] == "subscribed"
            with pytest.raises(InvalidStatus) as refused:
                async with open_socket(stage):
                    pass
            assert refused.value.response.status_code == 503
        await asyncio.to_thread(wait_for, "the place to be free", lambda: stage.metric("tickstream_ws_clients") == 0)
        async with open_socket(stage) as another:
            await another.send(op="ping")
            assert (await another.receive())["type"] == "pong"

    asyncio.run(follow())


def test_a_slow_reader_of_books_gets_the_latest_state_and_memory_stays(
    stage: Any, open_socket: Any, wait_for: Any
) -> None:
    """Megabytes of updates for a client that reads nothing: then the latest state, marked, and numbered on."""
    stage.start(TICKSTREAM_WS_CONFLATE_BYTES="65536", TICKSTREAM_WS_CUT_BYTES="262144")
    stage.ready()
    bids = {f"{1 + number / 1000:.3f}": "1" for number in range(500)}
    stage.produce(book("BTC-USD", "snapshot", bids, {"9": "1"}))
    known(stage, "BTC-USD", wait_for)

    async def follow() -> None:
        async with open_socket(stage, slow=True) as client:
            await client.subscribe("book", "candles", depth=1000)
            mine = ClientBook()
            mine.take(await client.receive())
            unsent: list[float] = []
            # 600 updates of 500 levels each are some 4 MB for this client, who now reads nothing.
            stage.produce(
                *[book("BTC-USD", "update", dict.fromkeys(bids, str(number + 2)), {}) for number in range(600)]
            )
            stage.produce(candle("BTC-USD", 0, "5"), candle("BTC-USD", 1, "6"), candle("BTC-USD", 0, "7", revision=1))

            def is_current() -> bool:
                unsent.append(stage.metric("tickstream_ws_unsent_bytes"))
                return bool(stage.get("/api/v1/market/BTC-USD/orderbook")["data"]["bids"][0][1] == "601")

            await asyncio.to_thread(wait_for, "the last update", is_current)
            await asyncio.to_thread(wait_for, "bytes to wait", lambda: stage.metric("tickstream_ws_unsent_bytes") > 0)
            unsent.append(stage.metric("tickstream_ws_unsent_bytes"))
            # The first limit and one batch of at most 200 updates of some 9 kB.
            assert 0 < max(unsent) < 65_536 + 200 * 9_000
            assert stage.metric('tickstream_ws_conflated_total{channel="book"}') > 100
            conflated = 0
            candles: dict[str, str] = {}
            while not (mine.sides["bids"].get("1.000") == "601" and len(candles) == 2):
                message = await client.receive()
                if message["type"] == "candle":
                    candles[message["data"]["start"]] = message["data"]["close"]
                    continue
                conflated += bool(message.get("conflated"))
                mine.take(message)
            assert conflated >= 1
            assert sorted(candles.values()) == ["6", "7"]
            assert mine.sides["bids"] == dict.fromkeys(bids, "601")
            stage.produce(book("BTC-USD", "update", {"1.000": "5"}, {}))
            mine.take(await client.receive())
            assert mine.sides["bids"]["1.000"] == "5"

    asyncio.run(follow())


def test_a_slow_reader_of_trades_is_told_and_cut(stage: Any, open_socket: Any, wait_for: Any) -> None:
    """No trade is left out in silence: every one up to the cut, then `slow_consumer`, then the end."""
    stage.start(TICKSTREAM_WS_CONFLATE_BYTES="65536", TICKSTREAM_WS_CUT_BYTES="262144")
    stage.ready()
    stage.produce(book("BTC-USD", "snapshot", {"1": "1"}, {"9": "1"}))
    known(stage, "BTC-USD", wait_for)

    async def follow() -> None:
        async with open_socket(stage, slow=True) as client:
            await client.subscribe("trades")
            many = tuple(
                Trade(trade_id=str(number), ts_event=TS, price="100", size="1" + "0" * 200, side="buy")
                for number in range(500)
            )
            stage.produce(*[Trades(**source("BTC-USD"), trades=many) for _ in range(20)])
            cut = 'tickstream_ws_cut_total{reason="slow_consumer"}'
            await asyncio.to_thread(wait_for, "the cut", lambda: stage.metric(cut) == 1)
            sequences: list[int] = []
            last: dict[str, Any] = {}
            while last.get("type") != "error":
                last = await client.receive()
                if last["type"] == "trade":
                    sequences.append(last["sequence"])
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
            assert (last["type"], last["code"]) == ("error", "slow_consumer")
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "slow_consumer")
            assert all(later == earlier + 1 for earlier, later in pairwise(sequences))
            assert len(sequences) < 10_000
        wait_for("the client to be forgotten", lambda: stage.metric("tickstream_ws_clients") == 0)

    asyncio.run(follow())


async def read_to_end(client: Any) -> None:
    """Read until the connection closes: what was on its way before comes first."""
    while True:
        await client.receive()


def test_a_restart_says_goodbye_and_restores_the_book(stage: Any, open_socket: Any, wait_for: Any) -> None:
    """SIGTERM closes with 1001 and exit status 0; after a crash the book is the checkpoint plus what came since."""
    stage.start()
    stage.ready()
    stage.produce(book("BTC-USD", "snapshot", {"100": "1", "99": "1"}, {"101": "1"}))
    stage.produce(book("BTC-USD", "update", {"99": "2"}, {}))
    known(stage, "BTC-USD", wait_for)

    async def goodbye() -> None:
        async with open_socket(stage) as client:
            await client.subscribe("book")
            await client.receive()
            assert await asyncio.to_thread(stage.stop) == 0
            with pytest.raises(ConnectionClosed) as closed:
                await read_to_end(client)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001

    asyncio.run(goodbye())
    # The checkpoint holds levels that no update in the topic has: only who reads it can know them.
    saved = L2Book.unpack([["100", "99", "42"], ["1", "2", "42"], ["101"], ["1"]])
    state = BooksState(book=saved, updates=2, marked="", reason="", ts_event=TS, ts_recv=time.time_ns())
    stage.save("coinbase", "BTC-USD", state)
    stage.produce(book("BTC-USD", "update", {"98": "3"}, {"101": "0", "102": "4"}))
    want = {"bids": [["100", "1"], ["99", "2"], ["98", "3"], ["42", "42"]], "asks": [["102", "4"]]}
    for _ in range(2):
        stage.start()
        stage.ready()
        wait_for("the book", lambda: stage.get("/api/v1/market/BTC-USD/orderbook")["data"] == want)
        assert stage.get("/api/v1/market/BTC-USD/orderbook")["valid"]
        stage.kill()


def test_an_api_without_kafka_starts_says_so_and_recovers(bare_stage: Any, open_socket: Any, wait_for: Any) -> None:
    """Topics that are not there yet: alive, not ready, a WebSocket that says so; then everything works."""
    bare_stage.make_tables()
    bare_stage.start()
    checks = wait_for("the reason", lambda: "topics apply" in json.dumps(bare_stage.get("/readyz", 503)))
    assert checks
    assert bare_stage.get("/api/v1/market/BTC-USD/ticker", 503)["detail"]

    async def refused() -> None:
        async with open_socket(bare_stage) as client:
            assert (await client.subscribe("book"))["code"] == "not_ready"

    asyncio.run(refused())
    bare_stage.make_topics()
    bare_stage.ready()
    bare_stage.produce(book("BTC-USD", "snapshot", {"1": "1"}, {"2": "1"}))
    known(bare_stage, "BTC-USD", wait_for)


def test_every_delivered_event_is_measured_from_hop_to_hop(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """The headers' times become latencies once the event was written to a client."""
    shared.produce(book(symbol, "snapshot", {"1": "1"}, {"2": "1"}))
    known(shared, symbol, wait_for)
    names = ("recv_to_produced", "produced_to_processed", "processed_to_client", "socket_to_client")
    lines = [f'tickstream_hop_latency_ms_count{{hop="{name}"}}' for name in names]
    before = [shared.metric(line) for line in lines]

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.subscribe("book", symbols=(symbol,))
            await client.receive()
            now = time.time_ns()
            hops = Hops(now - 3_000_000, now - 2_000_000, now - 1_000_000)
            shared.produce(book(symbol, "update", {"1": "2"}, {}), headers={HOPS: hops.to_header()})
            await client.receive()

    asyncio.run(follow())
    wait_for("the measurements", lambda: [shared.metric(line) for line in lines] == [count + 1 for count in before])
