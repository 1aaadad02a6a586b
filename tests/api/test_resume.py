"""Clients that were away get what they missed, exactly: from memory, from Kafka, or else the present."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from marketdata.events import Trade, Trades
from tests.api.test_websocket import ClientBook, book, known, trade

SYMBOL = "BTC-USD"


def several(symbol: str, number: int, count: int) -> Trades:
    """Return one message with several trades."""
    trades = tuple(
        Trade(trade_id=f"{number}-{item}", ts_event=time.time_ns(), price="100", size="1", side="buy")
        for item in range(count)
    )
    return msgspec.structs.replace(trade(symbol, number), trades=trades, ts_event=time.time_ns())


def ids(messages: list[dict[str, Any]]) -> list[str]:
    """Return the trades' ids."""
    return [message["data"]["trade_id"] for message in messages if message["type"] == "trade"]


async def missed(client: Any) -> tuple[bool, list[dict[str, Any]]]:
    """Return whether a stream was recovered, and what was missed."""
    resumed = (await client.until(lambda message: message["type"] == "resumed"))[-1]
    return resumed["recovered"], [await client.receive() for _ in range(resumed["messages"])]


def test_a_client_that_was_away_gets_every_trade_once(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """Also those of the rest of a record of which it had the first; numbers and positions go on."""

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.subscribe("trades", symbols=(symbol,))
            shared.produce(several(symbol, 1, 3))
            first = (await client.until(lambda message: message["type"] == "trade" and "snapshot" not in message))[-1]
            assert first["data"]["trade_id"] == "1-0"
        shared.produce(several(symbol, 2, 2), trade(symbol, 3))
        async with open_socket(shared) as client:
            await client.subscribe("trades", symbols=(symbol,), since=first["position"])
            recovered, found = await missed(client)
            while len(found) < 5:  # the rest came live
                found.append(await client.receive())
            assert recovered
            assert ids(found) == ["1-1", "1-2", "2-0", "2-1", "3"]
            assert [one["sequence"] - first["sequence"] for one in found] == [1, 2, 3, 4, 5]
            shared.produce(trade(symbol, 4))
            assert (await client.receive())["data"]["trade_id"] == "4"

    shared.produce(book(symbol, "snapshot", {"100": "1"}, {"101": "2"}))
    known(shared, symbol, wait_for)
    asyncio.run(follow())


def test_a_book_resumes_with_the_changes_that_were_missed(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """Applied to the book as it was, they give the book as it is, without another snapshot."""

    async def follow() -> None:
        mirror = ClientBook()
        async with open_socket(shared) as client:
            await client.subscribe("book", symbols=(symbol,), depth=5)
            snapshot = await client.receive()
            mirror.take(snapshot)
        for size in range(2, 9):
            shared.produce(book(symbol, "update", {"100": str(size)}, {str(100 + size): "1"}))
        async with open_socket(shared) as client:
            await client.subscribe("book", symbols=(symbol,), depth=5, since=snapshot["position"])
            recovered, found = await missed(client)
            assert recovered
            while not found or found[-1]["data"]["bids"] != [["100", "8"]]:
                found.append(await client.receive())
            assert {message["type"] for message in found} == {"l2_update"}
            for message in found:
                mirror.take(message)
        async with open_socket(shared) as client:
            await client.subscribe("book", symbols=(symbol,), depth=5)
            present = await client.receive()
            assert mirror.levels() == (present["data"]["bids"], present["data"]["asks"])

    shared.produce(book(symbol, "snapshot", {"100": "1"}, {"101": "2"}))
    known(shared, symbol, wait_for)
    asyncio.run(follow())


def test_positions_outlive_the_api(stage: Any, open_socket: Any, wait_for: Any) -> None:
    """After a restart nothing is in memory: what was missed is read from Kafka once more."""
    position = ""

    async def before() -> None:
        nonlocal position
        async with open_socket(stage) as client:
            await client.subscribe("trades")
            stage.produce(several(SYMBOL, 1, 2))
            position = (await client.until(lambda message: message["type"] == "trade"))[-1]["position"]

    async def after() -> None:
        async with open_socket(stage) as client:
            await client.subscribe("trades", since=position)
            recovered, found = await missed(client)
            assert recovered
            assert ids(found) == ["1-1", *[str(number) for number in range(2, 40)]]
            numbers = [one["sequence"] for one in found]
            assert numbers == list(range(numbers[0], numbers[0] + len(found)))
            stage.produce(trade(SYMBOL, 40))
            live = await client.receive()
            assert (live["data"]["trade_id"], live["sequence"]) == ("40", numbers[-1] + 1)

    stage.start()
    stage.ready()
    stage.produce(book(SYMBOL, "snapshot", {"100": "1"}, {"101": "2"}))
    known(stage, SYMBOL, wait_for)
    asyncio.run(before())
    assert stage.stop() == 0
    stage.produce(*[trade(SYMBOL, number) for number in range(2, 40)])
    stage.start()
    stage.ready()
    known(stage, SYMBOL, wait_for)
    asyncio.run(after())


def test_from_a_time_on_history_comes_first_and_then_what_is_live(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """Without a seam: each trade once, in order."""

    async def follow() -> None:
        async with open_socket(shared) as client:
            sending = threading.Thread(target=shared.produce, args=[several(symbol, n, 1) for n in range(60, 120)])
            sending.start()
            await client.subscribe("trades", symbols=(symbol,), since=since)
            recovered, found = await missed(client)
            assert recovered
            while len(found) < 90:
                found.append(await client.receive())
            sending.join()
            assert ids(found) == [f"{number}-0" for number in range(30, 120)]

    shared.produce(book(symbol, "snapshot", {"100": "1"}, {"101": "2"}), *[several(symbol, n, 1) for n in range(30)])
    known(shared, symbol, wait_for)
    wait_for("the trades", lambda: len(shared.get(f"/api/v1/market/{symbol}/trades", limit=100)["data"]) == 30)
    since = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    shared.produce(*[several(symbol, number, 1) for number in range(30, 60)])
    asyncio.run(follow())


def test_what_cannot_be_recovered_is_said_and_the_present_follows(stage: Any, open_socket: Any, wait_for: Any) -> None:
    """A position of another life of the topic, of another channel, and a book whose changes are no longer in memory."""

    async def follow() -> None:
        async with open_socket(stage) as client:
            for since in ("00000000:5", position_of_book):
                await client.subscribe("trades", since=since)
                recovered, found = await missed(client)
                assert (recovered, found) == (False, [])
                assert (await client.receive())["snapshot"] is True
            await client.subscribe("book", since=position_of_book, depth=5)
            recovered, found = await missed(client)
            assert (recovered, found) == (False, [])
            assert (await client.receive())["type"] == "l2_snapshot"
            for channel, since in (("ticker", "00000000:5"), ("trades", "yesterday"), ("book", "2026-01-01")):
                answer = await client.subscribe(channel, since=since)
                assert (answer["type"], answer["code"]) == ("error", "bad_since")

    async def book_position() -> str:
        async with open_socket(stage) as client:
            await client.subscribe("book", depth=5)
            position: str = (await client.receive())["position"]
            return position

    stage.start(TICKSTREAM_WS_RESUME_BYTES="0")
    stage.ready()
    stage.produce(book(SYMBOL, "snapshot", {"100": "1"}, {"101": "2"}), trade(SYMBOL, 1))
    known(stage, SYMBOL, wait_for)
    wait_for("the trade", lambda: stage.get(f"/api/v1/market/{SYMBOL}/trades")["data"])
    position_of_book = asyncio.run(book_position())
    stage.produce(book(SYMBOL, "update", {"100": "2"}, {}))
    wait_for("the update", lambda: stage.get(f"/api/v1/market/{SYMBOL}/orderbook")["data"]["bids"] == [["100", "2"]])
    asyncio.run(follow())


class Mirror:
    """What a client knows that subscribes to trades and a book, and goes on where it was after each loss."""

    def __init__(self, symbol: str) -> None:
        self.trades: list[str] = []
        self.book = ClientBook()
        self.snapshots = 0
        self._symbol = symbol
        self._positions: dict[str, str] = {}

    async def subscribe(self, client: Any) -> None:
        """Subscribe to both, from where it was."""
        for channel in ("trades", "book"):
            since = {"since": self._positions[channel]} if self._positions else {}
            await client.send(op="subscribe", id=1, channels=[channel], symbols=[self._symbol], depth=10, **since)

    async def take(self, client: Any) -> None:
        """Take the next message in."""
        message = await client.receive()
        if message["type"] == "trade":
            self.trades.append(message["data"]["trade_id"])
            self._positions["trades"] = message["position"]
        elif message["type"] in {"l2_snapshot", "l2_update"}:
            self.snapshots += message["type"] == "l2_snapshot"
            self.book.take(message)
            self._positions["book"] = message["position"]


def test_a_client_cut_at_random_under_load_has_every_trade_once_and_a_right_book(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """Two hundred times, in the middle of whatever it is sent."""
    cuts, total = 200, 6_000
    chance = random.Random(7)

    def load() -> None:
        for number in range(0, total, 20):
            batch = range(number, number + 20)
            shared.produce(
                *[trade(symbol, each) for each in batch],
                *[book(symbol, "update", {str(90 + each % 7): str(each + 1)}, {str(110 + each % 5): str(each + 1)})
                  for each in batch[::4]],
            )  # fmt: skip

    async def follow() -> None:
        mirror = Mirror(symbol)
        async with open_socket(shared) as client:
            await mirror.subscribe(client)
            while not mirror.trades or not mirror.snapshots:
                await mirror.take(client)
        loading.start()
        for _ in range(cuts):
            async with open_socket(shared) as client:
                await mirror.subscribe(client)
                for _ in range(chance.randrange(4, 60)):
                    await mirror.take(client)
                client.connection.transport.abort()
        async with open_socket(shared) as client:
            await mirror.subscribe(client)
            while mirror.trades[-1] != str(total - 1):
                await mirror.take(client)
            shared.produce(book(symbol, "update", {"80": "1"}, {}))
            while "80" not in mirror.book.sides["bids"]:
                await mirror.take(client)
        assert mirror.trades == ["first", *[str(number) for number in range(total)]]
        assert mirror.snapshots == 1
        found = shared.get(f"/api/v1/market/{symbol}/orderbook", depth=10)["data"]
        assert mirror.book.levels() == (found["bids"], found["asks"])

    first = trade(symbol, 0)
    first = msgspec.structs.replace(first, trades=(msgspec.structs.replace(first.trades[0], trade_id="first"),))
    shared.produce(book(symbol, "snapshot", {"90": "1"}, {"110": "2"}), first)
    known(shared, symbol, wait_for)
    wait_for("the trade", lambda: shared.get(f"/api/v1/market/{symbol}/trades")["data"])
    loading = threading.Thread(target=load)
    asyncio.run(follow())
    loading.join()
