"""The venues' histories served on a real port by a thread of their own, and one made-up past to compare with."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import uvloop

from infra.simulator import web
from infra.simulator.venues.history import Histories, create_app
from infra.simulator.venues.tape import MINUTE_NS
from marketdata.events import Candle, Instrument, Trade
from producers.history.rest import Options, Rest
from producers.venues import make_history
from producers.venues.kit.history import Access, Budget, History, Span

T = TypeVar("T")

LIMIT_S = 60.0
PAST_MINUTES = 1_000
QUICK = Options(backoff_base_s=0.001, settle_ns=0)


class Served:
    """The server's address and state; its past began PAST_MINUTES before it was started."""

    def __init__(self) -> None:
        self.begins = (time.time_ns() // MINUTE_NS - PAST_MINUTES) * MINUTE_NS
        self.venue = Histories(self.begins)
        self.url = ""

    def minute(self, number: float) -> int:
        """Return a time, as minutes since the past began."""
        return self.begins + int(number * MINUTE_NS)

    def access(self, **more: str) -> Access:
        """Return how the server is reached."""
        return Access(**({"rest_url": self.url, "key": "key", "secret": "secret"} | more))

    def history(self, venue: str, budget: Budget | None = None) -> History:
        """Return a venue's adapter with a budget that no test waits for."""
        made = make_history(venue, self.access())
        made.budget = budget or Budget(burst=1e9, per_s=1e9)
        return made

    def symbol(self, venue: str) -> str:
        """Return a symbol that the venue trades, as we write it."""
        names = {"alpaca": "AAPL", "databento": "ESU4", "bybit": "BTC-USDT", "okx": "BTC-USDT",
                 "kraken_futures": "BTC-USD-PI", "deribit": "BTC-USD-PERPETUAL",
                 "hyperliquid": "BTC-USD-PERPETUAL"}  # fmt: skip
        return names.get(venue, "BTC-USDT" if "binance" in venue else "BTC-USD")

    def candles(
        self, history: History, start: int, end: int, interval: str = "1m", options: Options = QUICK
    ) -> tuple[list[Candle], list[Span]]:
        """Fetch candles and what is missing."""

        async def fetch() -> tuple[list[Candle], list[Span]]:
            found: list[Candle] = []
            missing: list[Span] = []
            async with Rest(history, options) as rest:
                async for chunk in rest.fetch_candles(self.symbol(history.venue), interval, start, end):
                    found += chunk.events
                    missing += chunk.missing
            return found, missing

        return run(fetch())

    def trades(
        self, history: History, start: int, end: int, options: Options = QUICK
    ) -> tuple[list[Trade], list[Span]]:
        """Fetch trades and what is missing."""

        async def fetch() -> tuple[list[Trade], list[Span]]:
            found: list[Trade] = []
            missing: list[Span] = []
            async with Rest(history, options) as rest:
                async for chunk in rest.fetch_trades(self.symbol(history.venue), start, end):
                    found += (trade for batch in chunk.events for trade in batch.trades)
                    missing += chunk.missing
            return found, missing

        return run(fetch())

    def symbols(self, history: History) -> list[Instrument]:
        """Fetch what the venue trades."""

        async def fetch() -> list[Instrument]:
            async with Rest(history, QUICK) as rest:
                return await rest.get_symbols()

        return run(fetch())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, for LIMIT_S at most."""

    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await work

    return uvloop.run(limited())


@pytest.fixture(scope="session")
def _served() -> Iterator[Served]:
    served = Served()
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with web.serve(create_app(served.venue), "127.0.0.1", 0) as port:
            served.url = f"http://127.0.0.1:{port}"
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="histories")
    thread.start()
    assert started.wait(LIMIT_S)
    yield served
    loop.call_soon_threadsafe(stop.set)
    thread.join(LIMIT_S)
    loop.close()


@pytest.fixture
def served(_served: Served) -> Iterator[Served]:
    """The server, as if nothing had happened before."""
    _served.venue.forget()
    yield _served
    _served.venue.forget()
