"""A simulated exchange on free ports, and an independent client (the websockets package) that rebuilds its books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest
import websockets

from infra.simulator import web
from infra.simulator.limits import Limits
from infra.simulator.venues.coinbase.control import create_app
from infra.simulator.venues.coinbase.server import Exchange

LIMIT_S = 60.0

Book = dict[str, dict[Decimal, Decimal]]


class Client:
    """A WebSocket client that keeps every frame and applies level2 as the venue's documents say."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []
        self.books: dict[str, Book] = {}

    async def ask(self, kind: str, channel: str, *symbols: str) -> None:
        """Send a subscribe or unsubscribe message."""
        await self.socket.send(json.dumps({"type": kind, "channel": channel, "product_ids": list(symbols)}))

    async def subscribe(self, channel: str, *symbols: str) -> dict[str, Any]:
        """Subscribe and return the frame that acknowledges it."""
        await self.ask("subscribe", channel, *symbols)
        return await self.until(lambda frame: frame.get("channel") == "subscriptions")

    async def next(self) -> dict[str, Any]:
        """Return the next frame, applied."""
        frame: dict[str, Any] = json.loads(await self.socket.recv())
        self.frames.append(frame)
        if frame.get("channel") == "l2_data":
            for event in frame["events"]:
                self._apply(event)
        return frame

    async def until(self, right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read until a frame is the right one, and return it."""
        while True:
            frame = await self.next()
            if right(frame):
                return frame

    def _apply(self, event: dict[str, Any]) -> None:
        if event["type"] == "snapshot":
            self.books[event["product_id"]] = {"bid": {}, "offer": {}}
        book = self.books[event["product_id"]]
        for update in event["updates"]:
            price, quantity = Decimal(update["price_level"]), Decimal(update["new_quantity"])
            if quantity:
                book[update["side"]][price] = quantity
            else:
                book[update["side"]].pop(price, None)


class Venue:
    """A running exchange with its HTTP client."""

    def __init__(self, exchange: Exchange, http: httpx.AsyncClient) -> None:
        self.exchange = exchange
        self.http = http

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        """Connect a client that takes whatever comes, also while the scenario looks elsewhere."""
        url = f"ws://127.0.0.1:{self.exchange.port}"
        async with websockets.connect(url, **{"max_size": None, "max_queue": None, "proxy": None} | options) as socket:
            yield Client(socket)

    async def get(self, path: str, **params: Any) -> Any:
        """Return a JSON answer."""
        answer = await self.http.get(path, params=params)
        answer.raise_for_status()
        return answer.json()

    async def fault(self, **fault: Any) -> Any:
        """Put a fault to work and return what it hit."""
        answer = await self.http.post("/faults", json=fault)
        answer.raise_for_status()
        return answer.json()

    async def book(self, symbol: str, **params: Any) -> Book:
        """Return the exchange's own book in the form of the client's."""
        answer = await self.get(f"/book/{symbol}", **params)
        sides = {"bid": answer["bids"], "offer": answer["asks"]}
        return {side: {Decimal(price): Decimal(size) for price, size in levels} for side, levels in sides.items()}


@asynccontextmanager
async def _venue(**options: Any) -> AsyncIterator[Venue]:
    exchange = Exchange(options.pop("symbols", ("BTC-USD", "ETH-USD")), **{"limits": Limits()} | options)
    async with (
        exchange.serve("127.0.0.1", 0),
        web.serve(create_app(exchange), "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S, trust_env=False) as http,
    ):
        yield Venue(exchange, http)


@pytest.fixture
def venue() -> Callable[..., AbstractAsyncContextManager[Venue]]:
    """Opens an exchange with options of its own."""
    return _venue


@pytest.fixture
def bounded() -> Callable[[Awaitable[None]], None]:
    """Runs a scenario in a loop of its own, for a minute at most."""

    def run(scenario: Awaitable[None]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(LIMIT_S):
                await scenario

        asyncio.run(limited())

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits until a condition holds; the scenario's own limit ends a wait in vain."""

    async def wait(condition: Callable[[], bool]) -> None:
        # Conditions of all sorts, none of which says when it changes.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    return wait
