"""Every simulated venue: what makes it, and its HTTP interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import FastAPI

from infra.simulator import web
from infra.simulator.control import create_app
from infra.simulator.faults import Fault, Injection, Injector
from infra.simulator.venues.alpaca import rest as alpaca
from infra.simulator.venues.alpaca.server import AlpacaExchange
from infra.simulator.venues.coinbase import control as coinbase
from infra.simulator.venues.coinbase.server import Exchange
from infra.simulator.venues.databento.server import DatabentoExchange
from infra.simulator.venues.facts import FIX_CLIENT, FIX_PASSWORD, FIX_VENUE, find
from infra.simulator.venues.fix.server import FixExchange, FixVenue
from infra.simulator.venues.streams import server as streams
from infra.simulator.venues.streams.server import Streams
from infra.simulator.venues.streams.sessions import SESSIONS
from marketdata.fix.steps import Identity

FIX_MOVE_S = 0.1
STEP_S_MIN = 0.02


class Simulated(Protocol):
    """A simulated venue."""

    port: int
    broken: asyncio.Event

    @property
    def injector(self) -> Injector:
        """The active faults."""

    def serve(self, host: str, port: int) -> AbstractAsyncContextManager[Any]:
        """Serve on a port (0 takes a free one, see `port`) until the context ends."""

    def inject(self, fault: Fault) -> Injection:
        """Activate a fault. Raises ValueError when its target does not exist."""

    def view(self) -> dict[str, Any]:
        """Return what was refused and ended so far, by reason."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How to simulate a venue: its symbols, changes a second over all of them, and the rest."""

    symbols: tuple[str, ...]
    rate: float = 100.0
    seed: int = 1
    batch_ms: int = 50
    book_batch_ms: int = 50
    faults: Iterable[Fault] = ()
    clock: Callable[[], int] = field(default=time.time_ns)

    @property
    def every_s(self) -> float:
        """The interval in which every market changes once; 0 without a rate."""
        return max(STEP_S_MIN, len(self.symbols) / self.rate) if self.rate else 0.0


def make(name: str, setup: Setup) -> tuple[Simulated, FastAPI]:
    """Return a venue and its HTTP interface.

    Raises SettingsError for a venue that is not simulated, and for symbols that it cannot have.
    """
    find(name)
    if name == "coinbase":
        exchange = Exchange(
            setup.symbols, seed=setup.seed, rate=setup.rate, batch_ms=setup.batch_ms, faults=setup.faults,
            book_batch_ms=setup.book_batch_ms, clock=setup.clock,
        )  # fmt: skip
        return exchange, coinbase.create_app(exchange)
    if name == "alpaca":
        stocks = AlpacaExchange(
            setup.symbols, seed=setup.seed, rate=setup.rate, faults=setup.faults, clock=setup.clock
        )  # fmt: skip
        return stocks, alpaca.create_app(stocks)
    venue = _make(name, setup)
    return venue, streams.create_app(venue) if isinstance(venue, Streams) else create_app(venue)


def _make(name: str, setup: Setup) -> Simulated:
    if name == "databento":
        return DatabentoExchange(setup.symbols, every_s=setup.every_s, faults=setup.faults, clock=setup.clock)
    if name == "fix":
        identity = Identity(sender=FIX_VENUE, target=FIX_CLIENT, username=FIX_CLIENT, password=FIX_PASSWORD)
        market = FixVenue(identity, setup.symbols, seed=setup.seed, by="id", remembers=False)
        moves = max(1, round(setup.rate * FIX_MOVE_S))
        every_s = FIX_MOVE_S if setup.rate else 0.0
        return FixExchange(market, every_s=every_s, moves=moves, faults=setup.faults, clock=setup.clock)
    return Streams(SESSIONS[name], setup.symbols, every_s=setup.every_s, faults=setup.faults, clock=setup.clock)


@asynccontextmanager
async def serve(venue: Simulated, app: FastAPI, host: str, port: int, control_port: int) -> AsyncIterator[int]:
    """Serve a venue and its HTTP interface until the context ends; give the port of HTTP."""
    async with venue.serve(host, port), web.serve(app, host, control_port) as found:
        yield found
