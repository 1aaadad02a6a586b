"""Hundreds of symbols over real sockets: a producer's connections to each simulated venue stay within its limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
import uvloop

from infra.simulator.venues.streams.__main__ import SESSIONS
from infra.simulator.venues.streams.server import Streams, serve
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, FeedStatus, RawFrame, Trades
from producers.live.__main__ import LineStates, Recorded, connections
from producers.live.settings import load_for_venue
from runtime.health import Readiness

LIMIT_S = 120.0
# Where the venue's limits of connections or messages make more symbols a matter of minutes, fewer are enough.
SYMBOLS = {"binance_usdm": 40, "bitfinex": 40, "deribit": 120, "hyperliquid": 120}
PATHS = {"bybit": "/v5/public/spot", "gemini": "/?snapshot=-1", "kraken": "/v2"}


@dataclass
class Followed:
    """A sink that keeps which symbols have a valid book and a valid trade."""

    books: dict[str, bool] = field(default_factory=dict)
    trades: set[str] = field(default_factory=set)
    problems: list[AnyEvent] = field(default_factory=list)

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Take the events of one frame."""
        del line, t_recv, raw
        for event in events:
            if isinstance(event, BookUpdate):
                self.books[event.symbol] = event.valid
            elif isinstance(event, Trades) and event.valid and event.trades:
                self.trades.add(event.symbol)
            elif isinstance(event, DeadLetter) or (isinstance(event, FeedStatus) and event.kind in {"gap", "stale"}):
                self.problems.append(event)


async def follow(venue_name: str, symbols: int, every_s: float) -> tuple[Followed, Streams, float]:
    """Run a producer's connections until every symbol has a book and a trade; return how long that took too."""
    streams = Streams(SESSIONS[venue_name], symbols, every_s=every_s)
    sink = Followed()
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(serve(streams, "127.0.0.1", 0, 0))
        settings, venue = load_for_venue(
            venue=venue_name, source="live", ws_url=f"ws://127.0.0.1:{streams.port}{PATHS.get(venue_name, '')}",
            rest_url=f"http://127.0.0.1:{rest}", products=tuple(streams.markets),
        )  # fmt: skip
        lines = connections(settings, venue, Recorded(lines=1), sink, LineStates(Readiness("venue")))
        began = time.monotonic()
        tasks = [asyncio.create_task(line.run()) for line in lines]
        async with asyncio.timeout(LIMIT_S):
            while len(sink.trades) < symbols or len(sink.books) < symbols:  # noqa: ASYNC110 - several lines write it
                await asyncio.sleep(0.05)
        took = time.monotonic() - began
        found = Followed(dict(sink.books), set(sink.trades), list(sink.problems))  # stopping loses every book
        for line in lines:
            line.stop()
        await asyncio.gather(*tasks)
    return found, streams, took


@pytest.mark.parametrize("venue", sorted(SESSIONS))
def test_hundreds_of_symbols_are_followed_within_the_venues_limits(venue: str) -> None:
    """Each symbol gets a valid book and trades, nothing is lost, and the venue refuses and ends nothing."""
    symbols = SYMBOLS.get(venue, 300)
    sink, streams, _ = uvloop.run(follow(venue, symbols, every_s=1.0))
    assert sink.problems == []
    assert all(sink.books.values())
    view = streams.view()
    assert (view["refused"], view["ended"]) == ({}, {})
