"""Each fault of each simulated venue, over real sockets: what a producer's connection reports, and that it recovers.

The wall clock runs several times as fast as the event loop, so that a venue's silence and the deadline of a request
take a second or two. What is measured by the loop's own clock is shortened to match.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import msgspec
import pytest
import uvloop
from fastapi import FastAPI

from infra.simulator.faults import Fault
from infra.simulator.venues import facts
from infra.simulator.venues.table import Setup, Simulated, make, serve
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, FeedStatus, Quote, RawFrame, Trades
from producers.live import __main__ as live
from producers.live.connection import Options
from producers.live.settings import load_for_venue
from producers.venues import VENUES
from runtime.health import Readiness

LIMIT_S = 30.0
QUIET_S = 0.5
RATE = 40.0


class Names(NamedTuple):
    """A venue's names of what the faults affect: the frames of books, and what is refused, where it differs.

    `is_lost`: a lost frame of books is noticed. `speed` is that of the wall clock: a venue that is given up after a few
    seconds of silence needs a slower one.
    """

    book: str
    is_lost: bool = True
    refused: str = ""
    speed: int = 20


# Alpaca's quotes and Hyperliquid's books are whole in each frame and not numbered; Coinbase Exchange guarantees level2.
NAMES = {
    "alpaca": Names("quotes", is_lost=False),
    "binance_spot": Names("depth@100ms"),
    "binance_usdm": Names("depth@100ms"),
    "bitfinex": Names("book"),
    "bybit": Names("orderbook.200"),
    "coinbase": Names("level2", speed=3),
    "coinbase_exchange": Names("matches", refused="level2_batch", speed=5),
    "databento": Names("mbo"),
    "deribit": Names("book"),
    "fix": Names("X", refused="V"),
    "gemini": Names("depth@100ms"),
    "hyperliquid": Names("l2Book", is_lost=False),
    "kraken": Names("book", speed=5),
    "kraken_futures": Names("book"),
    "okx": Names("books"),
}


@dataclass
class Followed:
    """A sink that keeps whether each symbol is valid, and everything that was reported.

    A venue without books is judged by its quotes. Elsewhere they do not count: they are valid before the book is here.
    """

    has_books: bool = True
    statuses: list[FeedStatus] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    books: dict[str, bool] = field(default_factory=dict)
    trades: dict[str, bool] = field(default_factory=dict)
    were_invalid: set[str] = field(default_factory=set)
    updates: int = 0
    since: float = 0.0

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Take the events of one frame."""
        del line, t_recv, raw
        for event in events:
            if isinstance(event, BookUpdate | Trades | Quote):
                if isinstance(event, Trades):
                    self.trades[event.symbol] = event.valid
                elif isinstance(event, BookUpdate) == self.has_books:
                    self.books[event.symbol] = event.valid
                self.updates += 1
                if not event.valid:
                    self.were_invalid.add(event.symbol)
            elif isinstance(event, FeedStatus):
                self.statuses.append(event)
                self.since = time.monotonic()
            elif isinstance(event, DeadLetter):
                self.dead.append(event)

    def is_healthy(self) -> bool:
        """Return whether both symbols have a valid book (or quote) and valid trades."""
        return len(self.books) == len(self.trades) == 2 and all((*self.books.values(), *self.trades.values()))

    def has(self, kind: str, *reasons: str) -> bool:
        """Return whether a status was reported, for one of these reasons if there are any."""
        return any(one.kind == kind and (not reasons or one.reason in reasons) for one in self.statuses)

    def gaps(self, *reasons: str) -> set[str]:
        """Return the symbols with a gap on the ledger, for one of these reasons if there are any."""
        return {one.symbol for one in self.statuses if one.kind == "gap" and (not reasons or one.reason in reasons)}

    def open_gaps(self) -> set[str | None]:
        """Return the ids of the gaps that nothing has closed, without those of trades, which history fills."""
        closed = {one.gap_id for one in self.statuses if one.kind == "resynced"}
        gaps = {one.gap_id for one in self.statuses if one.kind == "gap" and one.channel not in TRADES}
        return gaps - closed

    def forget(self) -> None:
        """Forget what was reported so far."""
        self.statuses.clear()
        self.were_invalid.clear()


class Line(NamedTuple):
    """A producer's connections to a simulated venue with two symbols, by the venue's names."""

    venue: Simulated
    sink: Followed
    symbols: tuple[str, ...]
    names: Names

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        while not condition():  # noqa: ASYNC110 - several lines write what it looks at
            await asyncio.sleep(0.01)

    async def healthy(self) -> None:
        """Wait until all is valid and nothing more is reported, then forget what was."""
        await self.until(lambda: self.sink.is_healthy() and time.monotonic() - self.sink.since > QUIET_S)
        self.sink.forget()

    async def recovered(self) -> None:
        """Wait until all is valid, and every gap of a book is closed."""
        await self.until(lambda: self.sink.is_healthy() and not self.sink.open_gaps())


TRADES = frozenset({"trades"} | {venue.trades_channel for venue in VENUES.values()})


async def run(name: str, scenario: Callable[[Line], Awaitable[None]], venue: Simulated, app: FastAPI) -> None:
    """Run a producer's connections to a simulated venue, and a scenario beside them."""
    here = facts.VENUES[name]
    symbols = tuple(here.names(2))
    sink = Followed(has_books=name != "alpaca")
    async with asyncio.timeout(LIMIT_S), serve(venue, app, "127.0.0.1", 0, 0) as rest:
        settings, ours = load_for_venue(
            venue=name, source="live", ws_url=f"{here.scheme}://127.0.0.1:{venue.port}{here.path}",
            rest_url=f"http://127.0.0.1:{rest}", products=symbols,
        )  # fmt: skip
        mute_s, ping_s = ours.mute_s and 1.0, ours.ping_s and 0.5
        ours = msgspec.structs.replace(ours, mute_s=mute_s, ping_s=ping_s)
        states = live.LineStates(Readiness("venue"))
        lines = live.connections(settings, ours, live.Recorded(lines=1), sink, states)
        tasks = [asyncio.create_task(line.run()) for line in lines]
        try:
            await scenario(Line(venue, sink, symbols, NAMES[name]))
        except asyncio.CancelledError:
            reported = [(one.kind, one.reason, one.symbol, one.channel) for one in sink.statuses[-20:]]
            print(scenario.__name__, sink.books, sink.trades, sink.open_gaps(), *reported, sep="\n")  # noqa: T201
            raise
        finally:
            for line in lines:
                line.stop()
            await asyncio.gather(*tasks)


async def lost_frame(line: Line) -> None:
    """A frame of a book that is lost is a gap, the symbol is invalid, and the book begins again."""
    await line.healthy()
    lost = line.venue.inject(Fault(kind="drop", channel=line.names.book))
    await line.until(lambda: lost.done)
    if line.names.is_lost:
        await line.until(lambda: bool(line.sink.gaps("gap", "checksum") and line.sink.were_invalid))
        await line.recovered()
        return
    updates = line.sink.updates
    await line.until(lambda: line.sink.updates > updates + 20 and line.sink.is_healthy())
    assert not line.sink.has("gap")


async def mute_connection(line: Line) -> None:
    """A connection that stays open and sends nothing is replaced; until then both symbols are invalid."""
    await line.healthy()
    line.venue.inject(Fault(kind="mute", seconds=10_000))
    await line.until(lambda: line.sink.has("disconnected"))
    # A feed may notice the silence of one channel before that of the connection.
    assert len(line.sink.gaps()) == len(line.sink.were_invalid) == 2
    line.venue.injector.clear()
    await line.recovered()


async def cut_connection(line: Line) -> None:
    """A connection that breaks is a gap of both symbols, and is made again."""
    await line.healthy()
    line.venue.inject(Fault(kind="disconnect"))
    await line.until(lambda: line.sink.has("disconnected"))
    assert len(line.sink.gaps("disconnected")) == len(line.sink.were_invalid) == 2
    await line.recovered()


async def refused_symbol(line: Line) -> None:
    """A channel of one symbol that the venue refuses is stated, and on the ledger; it comes later."""
    sink = line.sink
    # Where the line was slow to start, the symbols have a gap before.
    await line.until(lambda: sink.has("unsubscribed") and bool(sink.gaps("unsubscribed", "stale", "disconnected")))
    await line.recovered()


def simulated(name: str, *faults: Fault) -> tuple[Simulated, FastAPI]:
    """Return a venue with two symbols; some venues choose the symbol of each change at random."""
    rate = RATE if name not in {"alpaca", "coinbase", "fix"} else 5 * RATE
    symbols = tuple(facts.VENUES[name].names(2))
    return make(name, Setup(symbols=symbols, rate=rate, faults=faults, clock=lambda: time.time_ns()))  # noqa: PLW0108 - it is replaced


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the wall clock faster; connections look at it often, and pause shortly."""
    began, wall = time.monotonic_ns(), time.time_ns()
    monkeypatch.setattr(live, "Options", partial(Options, tick_s=0.05, backoff_base_s=0.05))

    def run_at(speed: int) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: wall + (time.monotonic_ns() - began) * speed)

    return run_at


@pytest.mark.parametrize("name", sorted(VENUES))
def test_each_fault_is_reported_and_the_line_recovers(
    name: str, quick: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost frame, a mute connection, a broken one and a refused symbol, each on a venue of its own."""
    here, names = facts.VENUES[name], NAMES[name]
    for variable, value in here.environment.items():
        monkeypatch.setenv(variable, value)
    quick(names.speed)
    refused = Fault(kind="refuse", channel=names.refused or names.book, symbol=here.names(2)[1], count=2)

    async def scenarios() -> None:
        # A venue takes a while to make, in which nothing else runs.
        venues = [simulated(name), simulated(name), simulated(name), simulated(name, refused)]
        async with asyncio.TaskGroup() as group:
            for scenario, made in zip(
                (lost_frame, mute_connection, cut_connection, refused_symbol), venues, strict=True
            ):
                group.create_task(run(name, scenario, *made))

    uvloop.run(scenarios())
