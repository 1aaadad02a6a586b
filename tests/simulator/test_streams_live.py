"""Hundreds of symbols over real sockets: a producer's connections to each simulated venue stay within its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
import uvloop

from infra.simulator.venues import facts
from infra.simulator.venues.table import Setup, Simulated, make, serve
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, FeedStatus, Quote, RawFrame, Trades
from producers.live.__main__ import LineStates, Recorded, connections
from producers.live.settings import load_for_venue
from producers.venues import VENUES
from runtime.health import Readiness

LIMIT_S = 120.0
# Where the venue's limits of connections or messages make more symbols a matter of minutes, fewer are enough.
SYMBOLS = {"binance_usdm": 40, "bitfinex": 40, "deribit": 120, "hyperliquid": 120}
# Changes a second over all symbols, where 300 are not right: these venues choose the symbol of each change at random.
RATES = {"alpaca": 1_500.0, "coinbase": 1_500.0, "fix": 3_000.0}


@dataclass
class Followed:
    """A sink that keeps which symbols have a valid book (or quote) and a valid trade."""

    books: dict[str, bool] = field(default_factory=dict)
    trades: set[str] = field(default_factory=set)
    problems: list[AnyEvent] = field(default_factory=list)

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Take the events of one frame."""
        del line, t_recv, raw
        for event in events:
            if isinstance(event, BookUpdate):
                self.books[event.symbol] = event.valid
            elif isinstance(event, Quote):
                self.books.setdefault(event.symbol, True)
            elif isinstance(event, Trades) and event.valid and event.trades:
                self.trades.add(event.symbol)
            elif isinstance(event, DeadLetter) or (isinstance(event, FeedStatus) and event.kind in {"gap", "stale"}):
                self.problems.append(event)


async def follow(name: str, symbols: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Followed, Simulated]:
    """Run a producer's connections until every symbol has a book and a trade."""
    here = facts.VENUES[name]
    venue, app = make(name, Setup(symbols=tuple(here.names(symbols)), rate=RATES.get(name, symbols)))
    for variable, value in here.environment.items():
        monkeypatch.setenv(variable, value)
    sink = Followed()
    async with serve(venue, app, "127.0.0.1", 0, 0) as rest:
        settings, ours = load_for_venue(
            venue=name, source="live", ws_url=f"{here.scheme}://127.0.0.1:{venue.port}{here.path}",
            rest_url=f"http://127.0.0.1:{rest}", products=tuple(here.names(symbols)),
        )  # fmt: skip
        lines = connections(settings, ours, Recorded(lines=1), sink, LineStates(Readiness("venue")))
        tasks = [asyncio.create_task(line.run()) for line in lines]
        async with asyncio.timeout(LIMIT_S):
            while len(sink.trades) < symbols or len(sink.books) < symbols:  # noqa: ASYNC110 - several lines write it
                await asyncio.sleep(0.05)
        found = Followed(dict(sink.books), set(sink.trades), list(sink.problems))  # stopping loses every book
        for line in lines:
            line.stop()
        await asyncio.gather(*tasks)
    return found, venue


@pytest.mark.parametrize("venue", sorted(VENUES))
def test_hundreds_of_symbols_are_followed_within_the_venues_limits(venue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each symbol gets a valid book and trades, nothing is lost, and the venue refuses and ends nothing."""
    symbols = SYMBOLS.get(venue, 300)
    sink, simulated = uvloop.run(follow(venue, symbols, monkeypatch))
    assert sink.problems == []
    assert all(sink.books.values())
    view = simulated.view()
    assert (view["symbols"], view["refused"], view["ended"]) == (symbols, {}, {})
