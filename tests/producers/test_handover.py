"""A line's successor takes over before the venue ends it: every trade once, one whole book, no gap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from marketdata.book import L2Book
from marketdata.clock import MILLISECOND_NS
from marketdata.events import AnyEvent, BookUpdate, FeedStatus, RawFrame, Trades
from producers.live.connection import Connection, Options
from producers.live.handover import Handover
from producers.rest import Client
from producers.venues import make_feed
from tickstream.pipe import Pipeline

LIMIT_S = 30.0
BEGAN_MS = 1_780_000_000_000


class Venue:
    """A venue of Binance's protocol with one product: each step is a change and a trade, told to whoever listens."""

    def __init__(self) -> None:
        self.number = 1_000
        self.trade = 0
        self.book = L2Book()
        self.book.bids.replace(["100.00"], ["1"])
        self.book.asks.replace(["101.00"], ["1"])
        self.listening: set[ServerConnection] = set()
        self.mute = False

    async def __call__(self, connection: ServerConnection) -> None:
        """Take a client."""
        with suppress(ConnectionClosed):
            await connection.recv()
            if not self.mute:
                self.listening.add(connection)
            await connection.wait_closed()
        self.listening.discard(connection)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer REST requests on the same port."""
        if "/depth" in request.path:
            sides = {"bids": self.book.bids.top(), "asks": self.book.asks.top()}
            return connection.respond(200, json.dumps({"lastUpdateId": self.number} | sides))
        if "/trades" in request.path:
            told = range(max(1, self.trade - 999), self.trade + 1)
            times = {number: BEGAN_MS + 1_000 + number for number in told}
            return connection.respond(200, json.dumps([
                {"id": number, "price": "100.50", "qty": "1", "time": times[number], "isBuyerMaker": False}
                for number in told
            ]))  # fmt: skip
        return connection.respond(200, '{"symbols": []}') if "/exchangeInfo" in request.path else None

    def step(self) -> None:
        """Change the book, trade once, and tell everybody."""
        self.number += 1
        self.trade += 1
        level = [f"{90 + self.number % 10}.50", str(1 + self.number % 7)]
        self.book.bids.apply([level[0]], [level[1]])
        ms, symbol = BEGAN_MS + self.number, {"s": "BTCUSDT"}
        change = symbol | {"e": "depthUpdate", "E": ms, "U": self.number, "u": self.number, "b": [level], "a": []}
        trade = symbol | {"e": "trade", "E": ms, "T": ms, "t": self.trade, "p": "100.50", "q": "1", "m": False}
        broadcast(self.listening, json.dumps({"stream": "btcusdt@depth@100ms", "data": change}))
        broadcast(self.listening, json.dumps({"stream": "btcusdt@trade", "data": trade}))

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve, a step each few milliseconds; yields host and port."""

        async def go_on() -> None:
            while True:
                await asyncio.sleep(0.004)
                self.step()

        async with serve(self, "127.0.0.1", 0, process_request=self.answer) as server:
            stepping = asyncio.create_task(go_on())
            yield f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            stepping.cancel()


class Consumer:
    """What is behind the lines: the operators, and one who follows what they publish and holds it to its rules."""

    def __init__(self) -> None:
        self.book = L2Book()
        self.trades: list[int] = []
        self.kinds: list[str] = []
        self.gaps: list[FeedStatus] = []
        self.statuses: list[tuple[str, str]] = []
        self.ts = 0
        self.invalid = 0
        self._pipeline = Pipeline()

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Take what a line brings."""
        for event in events:
            for topic, output in self._pipeline.push(event):
                self._take(topic, output)

    def _take(self, topic: str, output: AnyEvent) -> None:
        if topic == "md.trades" and isinstance(output, Trades):
            self.invalid += not output.valid
            self.trades += [int(trade.trade_id) for trade in output.trades]
            self.ts = max(self.ts, output.ts_event)
        elif topic == "md.book_updates" and isinstance(output, BookUpdate):
            self.kinds.append(output.kind)
            if output.kind == "snapshot":
                self.book.bids.replace(output.bid_prices, output.bid_sizes)
                self.book.asks.replace(output.ask_prices, output.ask_sizes)
            self.book.bids.apply(output.bid_prices, output.bid_sizes)
            self.book.asks.apply(output.ask_prices, output.ask_sizes)
        elif topic == "md.status" and isinstance(output, FeedStatus):
            self.statuses.append((output.line, output.kind))
            if output.kind == "gap" and output.channel != "candles":
                self.gaps.append(output)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; the scenario's own limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - what is waited for is in many places
        await asyncio.sleep(0.005)


@asynccontextmanager
async def line_to(address: str, consumer: Consumer, **options: Any) -> AsyncIterator[Handover]:
    """Run one line that is replaced again and again, and stop it in order."""
    rest = Client("binance_spot", f"http://{address}")
    connecting = Options(ws_url=f"ws://{address}", rest_url=rest.url, tick_s=0.02, stable_s=0, backoff_base_s=0.001)

    def connect(line: str) -> Connection:
        feed = make_feed("binance_spot", line=line, products=("BTCUSDT",))
        return Connection(feed, line, consumer, connecting, rest)

    quick = {"lifetime_s": 0.3, "overlap_s": 0.05, "patience_s": LIMIT_S, "look_s": 0.01} | options
    line = Handover("binance_spot/0", connect, **quick)
    task = asyncio.create_task(line.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield line
    finally:
        line.stop()
        async with asyncio.timeout(LIMIT_S):
            await task


def test_successors_take_over_and_nothing_is_lost_or_doubled() -> None:
    """Over several generations: each trade once and in order, never an invalid book, no gap, one line left."""

    async def scenario() -> None:
        venue, consumer = Venue(), Consumer()
        async with venue.serve() as address, line_to(address, consumer):
            await until(lambda: consumer.statuses.count(("binance_spot/0", "ended")) >= 2)
            count = len(consumer.trades)
            await until(lambda: len(consumer.trades) > count + 20)
            assert len(venue.listening) <= 2
            assert "clear" not in consumer.kinds
            assert consumer.gaps == []
            assert consumer.invalid == 0
            first, last = consumer.trades[0], consumer.trades[-1]
            assert consumer.trades == list(range(first, last + 1))
            assert consumer.ts == (BEGAN_MS + 1_000 + last) * MILLISECOND_NS
            assert ("binance_spot/0+", "ended") in consumer.statuses
            behind = venue.book.bids.top()
            await until(lambda: consumer.book.bids.top() == behind or venue.book.bids.top() == consumer.book.bids.top())
        assert "clear" in consumer.kinds, "stopping the last connection is a disconnection like any other"

    uvloop.run(scenario())


def test_successor_that_gets_no_book_is_given_up_and_the_old_line_goes_on() -> None:
    """A venue that accepts and says nothing replaces nobody: the old line stays, whole."""

    async def scenario() -> None:
        venue, consumer = Venue(), Consumer()
        async with venue.serve() as address, line_to(address, consumer, patience_s=0.2):
            await until(lambda: len(consumer.trades) > 10)
            venue.mute = True
            await until(lambda: ("binance_spot/0+", "ended") in consumer.statuses)
            count = len(consumer.trades)
            await until(lambda: len(consumer.trades) > count + 10)
            assert ("binance_spot/0", "ended") not in consumer.statuses
            assert "clear" not in consumer.kinds

    uvloop.run(scenario())


def test_line_that_the_venue_ends_first_connects_anew() -> None:
    """Where no successor came in time, the end is a gap that is told and closed, as without succession."""

    async def scenario() -> None:
        venue, consumer = Venue(), Consumer()
        async with venue.serve() as address, line_to(address, consumer, lifetime_s=3_600.0):
            await until(lambda: "snapshot" in consumer.kinds)
            for connection in list(venue.listening):
                connection.transport.abort()
            await until(lambda: ("binance_spot/0", "resynced") in consumer.statuses)
            assert "clear" in consumer.kinds
            assert ("binance_spot/0+", "connected") not in consumer.statuses

    uvloop.run(scenario())
