"""The simulated exchange over real sockets: the venue's protocol, and books that a client can rebuild exactly."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import websockets

from infra.simulator.venues.coinbase.frames import go_time_text, time_text
from marketdata.clock import parse_rfc3339
from runtime.recordings import read

RECORDING = Path(__file__).parents[3] / "shared" / "recordings" / "coinbase_advanced.jsonl.zst"
BTC, ETH = "BTC-USD", "ETH-USD"
PUBLIC = ("market_trades", "candles", "ticker", "level2", "heartbeats")

Opens = Callable[..., Any]
Bounded = Callable[[Any], None]


def _shape(value: Any) -> Any:
    """A value's structure: keys, types and, in arrays, the structure of an element."""
    if isinstance(value, dict):
        # What is subscribed to depends on the client, not on the shape.
        return {key: "channels" if key == "subscriptions" else _shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return type(value).__name__


def _kind(frame: dict[str, Any]) -> str:
    return f"{frame['channel']} {frame['events'][0].get('type', '')}".strip()


@pytest.mark.skipif(not RECORDING.exists(), reason="the recordings are not beside the project")
def test_frames_have_the_shape_of_the_recorded_ones(venue: Opens, bounded: Bounded) -> None:
    """Every kind of frame in the recording also comes from the exchange, with the same keys in the same order."""
    recorded: dict[str, Any] = {}
    for line in read(RECORDING):
        if line.t == "recv":
            frame = json.loads(line.data)
            recorded.setdefault(_kind(frame), _shape(frame))
    assert len(recorded) == 10

    async def scenario() -> None:
        async with venue(rate=1_000) as exchange, exchange.client() as client:
            for channel in PUBLIC:
                await client.subscribe(channel, BTC, ETH)
            made: dict[str, Any] = {}
            while made.keys() != recorded.keys():
                for frame in [*client.frames, await client.next()]:
                    made.setdefault(_kind(frame), _shape(frame))
            assert made == recorded
            assert json.dumps(made) == json.dumps({key: recorded[key] for key in made}), "keys in another order"

    bounded(scenario())


@pytest.mark.skipif(not RECORDING.exists(), reason="the recordings are not beside the project")
def test_products_have_the_keys_of_the_recorded_ones(venue: Opens, bounded: Bounded) -> None:
    """REST lists products with the same keys as Coinbase did."""
    body = next(json.loads(line.data) for line in read(RECORDING) if line.t == "http")

    async def scenario() -> None:
        async with venue(rate=0) as exchange:
            answer = await exchange.get("/api/v3/brokerage/market/products")
            assert answer.keys() == body.keys()
            assert list(answer["products"][0]) == list(body["products"][0])
            assert [one["product_id"] for one in answer["products"]] == [BTC, ETH]

    bounded(scenario())


def test_sequence_counts_every_frame_of_a_connection(venue: Opens, bounded: Bounded) -> None:
    """`sequence_num` begins at 0 and rises by one over all channels, for each connection by itself."""

    async def scenario() -> None:
        async with venue(rate=500) as exchange, exchange.client() as early, exchange.client() as late:
            for client in (early, late):
                for channel in (*PUBLIC, "status"):
                    await client.subscribe(channel)
                await client.until(lambda frame: frame["sequence_num"] >= 300)
                assert [frame["sequence_num"] for frame in client.frames] == list(range(len(client.frames)))

    bounded(scenario())


def test_snapshot_and_updates_rebuild_the_book_at_each_sequence(venue: Opens, bounded: Bounded) -> None:
    """After any frame the client's book is the exchange's own at that sequence, level for level."""

    async def scenario() -> None:
        async with venue(rate=400) as exchange, exchange.client() as client:
            await client.subscribe("market_trades", BTC, ETH)
            await client.subscribe("level2", BTC, ETH)
            for _ in range(60):
                frame = await client.next()
                for symbol in (BTC, ETH):
                    own = await exchange.book(symbol, sequence=frame["sequence_num"], connection=1)
                    assert client.books[symbol] == own
                    assert max(own["bid"]) < min(own["offer"])

    bounded(scenario())


def test_book_of_the_past_can_be_asked_for_after_the_connection_is_gone(venue: Opens, bounded: Bounded) -> None:
    """A closed connection's sequences still tell its books, found by the time at which it was open."""

    async def scenario() -> None:
        async with venue(rate=400) as exchange:
            async with exchange.client() as client:
                await client.subscribe("level2", BTC)
                last = await client.until(lambda frame: frame["sequence_num"] >= 20)
            async with exchange.client() as other:
                await other.subscribe("level2", BTC)
                await other.until(lambda frame: frame["sequence_num"] >= 40)
                at = parse_rfc3339(last["timestamp"])
                own = await exchange.book(BTC, sequence=last["sequence_num"], at=at)
                assert client.books[BTC] == own
                assert await exchange.book(BTC, sequence=last["sequence_num"]) != own, "the later connection's"

    bounded(scenario())


def test_resubscribing_brings_a_fresh_snapshot(venue: Opens, bounded: Bounded) -> None:
    """After a gap a client unsubscribes and subscribes again, and has the exchange's book at once."""

    async def scenario() -> None:
        async with venue(rate=400) as exchange, exchange.client() as client:
            await client.subscribe("level2", BTC, ETH)
            await client.until(lambda frame: frame["sequence_num"] >= 30)
            await client.ask("unsubscribe", "level2", BTC)
            ack = await client.until(lambda frame: frame["channel"] == "subscriptions")
            assert ack["events"] == [{"subscriptions": {"level2": [ETH]}}]
            stopped = len(client.frames)
            await client.until(lambda frame: len(client.frames) > stopped + 20)
            assert {frame["events"][0]["product_id"] for frame in client.frames[stopped:]} == {ETH}
            client.books[BTC] = {"bid": {Decimal(1): Decimal(1)}, "offer": {}}
            ack = await client.subscribe("level2", BTC)
            snapshot = next(
                frame
                for frame in client.frames[stopped:]
                if frame["channel"] == "l2_data" and frame["events"][0]["type"] == "snapshot"
            )
            assert snapshot["events"][0]["product_id"] == BTC
            assert client.books[BTC] == await exchange.book(BTC, sequence=ack["sequence_num"], connection=1)

    bounded(scenario())


def test_trades_come_once_newest_first_with_the_makers_side(venue: Opens, bounded: Bounded) -> None:
    """Snapshot and updates give each trade id once and without a gap; a sell fills bids, so its maker bought."""

    async def scenario() -> None:
        async with venue(rate=1_000) as exchange, exchange.client() as client:
            await client.subscribe("market_trades", BTC)
            await client.until(lambda frame: len(client.frames) > 15)
            ids: list[int] = []
            for frame in client.frames:
                for event in frame["events"]:
                    batch = [int(trade["trade_id"]) for trade in event.get("trades", ())]
                    assert batch == sorted(batch, reverse=True)
                    ids.extend(reversed(batch))
            assert ids == list(range(ids[0], ids[0] + len(ids)))
            assert len(ids) > 100
            sides = {
                int(trade["trade_id"]): trade["side"]
                for frame in client.frames
                for event in frame["events"]
                for trade in event.get("trades", ())
            }
            for trade in exchange.exchange.markets[BTC].trades:
                if trade.trade_id in sides:
                    assert sides[trade.trade_id] == {1: "BUY", -1: "SELL"}[trade.maker_side]

    bounded(scenario())


def test_late_subscriber_does_not_hear_a_trade_twice(venue: Opens, bounded: Bounded) -> None:
    """Trades that wait for the batch go to earlier subscribers before a newcomer's snapshot holds them."""

    async def scenario() -> None:
        async with venue(rate=2_000, batch_ms=300) as exchange, exchange.client() as early, exchange.client() as late:
            for client in (early, late):
                await client.subscribe("market_trades", BTC)
            for client in (early, late):
                await client.until(lambda frame: len(client.frames) > 6)  # noqa: B023 - called at once
                ids = [
                    int(trade["trade_id"])
                    for frame in client.frames
                    for event in frame["events"]
                    for trade in reversed(event.get("trades", ()))
                ]
                assert ids == list(range(ids[0], ids[0] + len(ids)))

    bounded(scenario())


def test_ticker_says_what_the_book_and_the_trades_say(venue: Opens, bounded: Bounded) -> None:
    """On a quiet market the ticker's best prices are the book's, and its price is the last trade's."""

    async def scenario() -> None:
        async with venue(rate=0) as exchange, exchange.client() as client:
            await client.subscribe("market_trades", ETH)
            await client.subscribe("ticker", ETH)
            await client.subscribe("level2", ETH)
            by_channel = {_kind(frame): frame["events"][0] for frame in client.frames}
            (ticker,) = by_channel["ticker snapshot"]["tickers"]
            book = client.books[ETH]
            assert Decimal(ticker["best_bid"]) == max(book["bid"])
            assert Decimal(ticker["best_ask"]) == min(book["offer"])
            assert Decimal(ticker["best_bid_quantity"]) == book["bid"][max(book["bid"])]
            assert Decimal(ticker["best_ask_quantity"]) == book["offer"][min(book["offer"])]
            assert ticker["price"] == by_channel["market_trades snapshot"]["trades"][0]["price"]
            assert Decimal(ticker["low_24_h"]) <= Decimal(ticker["price"]) <= Decimal(ticker["high_24_h"])

    bounded(scenario())


def test_heartbeats_come_each_second_and_count(venue: Opens, bounded: Bounded) -> None:
    """The counter rises by one with each heartbeat."""

    async def scenario() -> None:
        async with venue(rate=0) as exchange, exchange.client() as client:
            await client.subscribe("heartbeats")
            beats = [(await client.next())["events"][0] for _ in range(3)]
            counters = [beat["heartbeat_counter"] for beat in beats]
            assert counters == list(range(counters[0], counters[0] + 3))
            assert all(beat["current_time"].split(" m=+")[0].endswith(" +0000 UTC") for beat in beats)

    bounded(scenario())


def test_times_are_written_as_go_does() -> None:
    """Trailing zeros of the fraction are cut off; the monotonic part always has nine digits."""
    assert time_text(1_786_309_548_228_568_804) == "2026-08-09T21:05:48.228568804Z"
    assert time_text(1_786_309_548_250_000_000) == "2026-08-09T21:05:48.25Z"
    assert time_text(1_786_309_548_000_000_000) == "2026-08-09T21:05:48Z"
    assert time_text(1_786_309_548_504_361_999, 6) == "2026-08-09T21:05:48.504361Z"
    text = go_time_text(1_786_309_548_854_840_045, 41_691_260_485_341)
    assert text == "2026-08-09 21:05:48.854840045 +0000 UTC m=+41691.260485341"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("{", "malformed"),
        ("[]", "malformed"),
        ('{"type":"subscribe"}', "malformed"),
        ('{"type":"buy","channel":"level2"}', "unknown message type"),
        ('{"type":"subscribe","channel":"level3"}', "unknown channel"),
        ('{"type":"subscribe","channel":"level2","product_ids":["DOGE-USD"]}', "not a valid product"),
        ('{"type":"subscribe","channel":"level2","product_ids":"BTC-USD"}', "malformed"),
        ('{"type":"subscribe","channel":"user"}', "authentication failure"),
    ],
)
def test_bad_request_is_answered_by_an_error(venue: Opens, bounded: Bounded, request_: str, answer: str) -> None:
    """An error frame says what is wrong, has no sequence number, and the connection goes on."""

    async def scenario() -> None:
        async with venue(rate=0) as exchange, exchange.client() as client:
            await client.socket.send(request_)
            error = await client.next()
            assert error.keys() == {"type", "message"}
            assert answer in error["message"]
            assert (await client.subscribe("level2", BTC))["sequence_num"] == 1

    bounded(scenario())


def test_client_that_does_not_subscribe_is_disconnected(venue: Opens, bounded: Bounded) -> None:
    """Without a subscription in time the exchange closes the connection; one with a subscription stays."""

    async def scenario() -> None:
        async with (
            venue(rate=0, subscribe_timeout_s=0.2) as exchange,
            exchange.client() as silent,
            exchange.client() as active,
        ):
            await active.subscribe("heartbeats")
            with pytest.raises(websockets.ConnectionClosedError):
                await silent.next()
            assert silent.socket.close_code == 1008
            await active.next()

    bounded(scenario())


def test_client_that_does_not_read_is_cut_off(venue: Opens, bounded: Bounded, eventually: Any) -> None:
    """A client that asks for much and reads nothing loses its connection; the others do not notice."""

    async def scenario() -> None:
        async with (
            venue(rate=200, write_buffer_bytes_max=1_000_000) as exchange,
            exchange.client() as reader,
            exchange.client(max_queue=1) as sleeper,
        ):
            await reader.subscribe("level2", BTC)
            for _ in range(150):
                await sleeper.ask("subscribe", "level2", BTC, ETH)
            await eventually(lambda: list(exchange.exchange.connections) == [1])
            sequence = reader.frames[-1]["sequence_num"]
            last = await reader.until(lambda frame: frame["sequence_num"] >= sequence + 100)
            assert reader.books[BTC] == await exchange.book(BTC, sequence=last["sequence_num"], connection=1)

    bounded(scenario())


def test_rate_can_be_set_while_it_runs(venue: Opens, bounded: Bounded, eventually: Any) -> None:
    """A rate of 0 is a market that stands still; another rate sets it going at about that pace."""

    async def scenario() -> None:
        async with venue(rate=0) as exchange:
            market = exchange.exchange.markets[BTC]
            version = market.version
            assert (await exchange.get("/rate")) == {"events_per_s": 0}
            assert market.version == version
            assert (await exchange.http.put("/rate", json={"events_per_s": 5_000})).status_code == 200
            await eventually(lambda: market.version > version + 500)
            await exchange.http.put("/rate", json={"events_per_s": 0})
            stopped = market.version
            for _ in range(20):
                await exchange.get("/healthz")
            assert market.version == stopped
            assert (await exchange.http.put("/rate", json={"events_per_s": -1})).status_code == 422

    bounded(scenario())


def test_rest_trades_and_candles_are_those_of_the_market(venue: Opens, bounded: Bounded) -> None:
    """REST gives the newest trades first, within the time asked for, and candles of the granularity asked for."""

    async def scenario() -> None:
        async with venue(rate=0) as exchange:
            path = f"/api/v3/brokerage/market/products/{BTC}"
            market = exchange.exchange.markets[BTC]
            trades = (await exchange.get(f"{path}/ticker", limit=50))["trades"]
            ids = [int(trade["trade_id"]) for trade in trades]
            assert ids == list(range(market.next_trade_id - 1, market.next_trade_id - 51, -1))
            second = market.trades[-100].ts // 10**9
            some = (await exchange.get(f"{path}/ticker", limit=1000, start=second, end=second + 1))["trades"]
            expected = [str(trade.trade_id) for trade in market.trades if trade.ts // 10**9 == second]
            assert [trade["trade_id"] for trade in reversed(some)] == expected
            end = market.ts // 10**9
            candles = await exchange.get(f"{path}/candles", start=end - 3600, end=end, granularity="FIVE_MINUTE")
            starts = [int(candle["start"]) for candle in candles["candles"]]
            assert starts == sorted(starts, reverse=True)
            assert all(start % 300 == 0 for start in starts)
            assert (await exchange.http.get("/api/v3/brokerage/market/products/XXX-USD/ticker")).status_code == 404

    bounded(scenario())


def test_book_changes_that_wait_share_a_frame_and_lose_nothing(venue: Opens, bounded: Bounded) -> None:
    """With a batch of book changes there are few frames, and each leads to the exchange's own book at its sequence."""

    async def scenario() -> None:
        async with venue(rate=2_000, book_batch_ms=50) as exchange, exchange.client() as client:
            await client.subscribe("level2", BTC, ETH)
            for _ in range(40):
                frame = await client.next()
                for symbol in (BTC, ETH):
                    own = await exchange.book(symbol, sequence=frame["sequence_num"], connection=1)
                    assert client.books[symbol] == own
            updates = [len(event["updates"]) for frame in client.frames[3:] for event in frame["events"]]
            assert sum(updates) > 10 * len(updates)
            await exchange.http.put("/book_batch", json={"book_batch_ms": 0})
            assert (await exchange.get("/book_batch")) == {"book_batch_ms": 0}

    bounded(scenario())


def test_newcomer_and_others_agree_while_changes_wait(venue: Opens, bounded: Bounded) -> None:
    """A snapshot is of the moment; changes that waited go to earlier subscribers before it."""

    async def scenario() -> None:
        async with venue(rate=2_000, book_batch_ms=500) as exchange, exchange.client() as early:
            await early.subscribe("level2", BTC)
            await early.until(lambda _: len(early.frames) > 3)
            async with exchange.client() as late:
                await late.subscribe("level2", BTC)
                last = await late.until(lambda _: len(late.frames) > 5)
                own = await exchange.book(BTC, sequence=last["sequence_num"], connection=2)
                assert late.books[BTC] == own

    bounded(scenario())


def test_the_exchanges_record_holds_each_trade_that_was_sent(venue: Opens, bounded: Bounded) -> None:
    """The record's ids rise by one, and each trade is the sent one: price, size, time and the aggressor's side."""

    async def scenario() -> None:
        async with venue(rate=2_000) as exchange, exchange.client() as client:
            await client.subscribe("market_trades", BTC)
            await client.until(lambda _: len(client.frames) > 30)
            await exchange.http.put("/rate", json={"events_per_s": 0})
            (btc, _) = await exchange.get("/record")
            record = (await exchange.get(f"/record/{BTC}/trades"))["trades"]
            assert [int(trade[0]) for trade in record] == list(range(btc["first_trade_id"], btc["last_trade_id"] + 1))
            own = {trade[0]: trade for trade in record}
            for frame in client.frames:
                for event in frame["events"]:
                    for sent in event.get("trades", ()):
                        side = {"BUY": "sell", "SELL": "buy"}[sent["side"]]
                        ts = parse_rfc3339(sent["time"])
                        assert own[sent["trade_id"]] == [sent["trade_id"], ts, sent["price"], sent["size"], side]
            some = await exchange.get(f"/record/{BTC}/trades", since=btc["last_trade_id"] - 4, limit=3)
            assert some["trades"] == record[-5:-2]

    bounded(scenario())


def test_random_sequences_map_to_the_book_frame_before_them(venue: Opens, bounded: Bounded) -> None:
    """A sequence between two book frames stands for the book of the earlier one."""

    async def scenario() -> None:
        async with venue(rate=300) as exchange, exchange.client() as client:
            await client.subscribe("ticker", BTC, ETH)
            await client.subscribe("level2", BTC, ETH)
            await client.until(lambda frame: frame["sequence_num"] >= 150)
            books = [
                frame["sequence_num"]
                for frame in client.frames
                if frame["channel"] == "l2_data" and frame["events"][0]["product_id"] == ETH
            ]
            for sequence in random.Random(1).sample(range(books[0], 150), 30):
                answer = await exchange.get(f"/book/{ETH}", sequence=sequence, depth=1)
                assert answer["book_sequence"] == max(book for book in books if book <= sequence)
            before = await exchange.http.get(f"/book/{ETH}", params={"sequence": books[0] - 1})
            assert before.status_code == 404

    bounded(scenario())


def test_broken_market_is_told_by_health(venue: Opens, bounded: Bounded, eventually: Any) -> None:
    """When the order flow fails for a reason of ours, /healthz says so; a market that stands still looks alive."""

    async def scenario() -> None:
        async with venue(rate=500) as exchange:
            assert (await exchange.http.get("/healthz")).status_code == 200
            exchange.exchange.markets[BTC].book = None
            await eventually(exchange.exchange.broken.is_set)
            assert (await exchange.http.get("/healthz")).status_code == 503

    bounded(scenario())


def test_close_without_a_code_is_answered(venue: Opens, bounded: Bounded) -> None:
    """A client may close without a code (RFC 6455, 7.1.5); the exchange closes too and forgets it."""

    async def scenario() -> None:
        async with venue(rate=0) as exchange:
            reader, writer = await asyncio.open_connection("127.0.0.1", exchange.exchange.port)
            writer.write(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x88\x80\x00\x00\x00\x00")
            answer = await reader.read()
            assert answer[:1] == b"\x88"
            assert exchange.exchange.connections == {}
            writer.close()
            await writer.wait_closed()

    bounded(scenario())
