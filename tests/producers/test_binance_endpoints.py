"""Binance USD-M over its two addresses, against the simulated venue on real sockets: one symbol, two connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
import uvloop

from infra.simulator.venues.streams.server import Streams, create_app
from infra.simulator.venues.streams.sessions import SESSIONS
from infra.simulator.venues.table import serve
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, Derivative, FeedStatus, Quote, RawFrame, Trades
from producers.live.__main__ import LineStates, Recorded, connections
from producers.live.settings import load_for_venue
from runtime.health import Readiness

if TYPE_CHECKING:
    from producers.live.publisher import Publisher

LIMIT_S = 60.0
PUBLIC, MARKET = "binance_usdm/public/0", "binance_usdm/market/0"


class Kept:
    """A sink that keeps what each line published."""

    def __init__(self) -> None:
        self.events: list[tuple[str, AnyEvent]] = []

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Keep what one frame brought."""
        del t_recv, raw
        self.events += [(line, event) for event in events]

    def symbols(self, line: str, kind: type[AnyEvent]) -> set[str]:
        """Return the symbols of which a line published events of a kind."""
        return {event.symbol for from_line, event in self.events
                if from_line == line and isinstance(event, kind) and not isinstance(event, RawFrame)}  # fmt: skip

    def traded(self) -> set[str]:
        """Return the symbols of which trades were published."""
        return {event.symbol for _, event in self.events if isinstance(event, Trades) and event.trades}

    def interest(self) -> set[str]:
        """Return the symbols of which the open interest is known."""
        return {event.symbol for _, event in self.events if isinstance(event, Derivative) and event.open_interest}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is in many places
            await asyncio.sleep(0.01)


def test_one_symbol_over_two_connections_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Books and quotes come over one address, trades, marks and open interest over the other, without a gap."""
    symbols = 40
    monkeypatch.setenv("TICKSTREAM_VENUE", "binance_usdm")
    for name in ("BINANCE_USDM_WS_URL", "BINANCE_USDM_URL", "TICKSTREAM_SOURCE", "TICKSTREAM_LINES"):
        monkeypatch.delenv(name, raising=False)

    async def scenario() -> None:
        streams = Streams(SESSIONS["binance_usdm"], symbols, every_s=0.2)
        async with serve(streams, create_app(streams), "127.0.0.1", 0, 0) as rest:
            monkeypatch.setenv("BINANCE_USDM_PRODUCTS", ",".join(streams.markets))
            monkeypatch.setenv("BINANCE_USDM_REST_URL", f"http://127.0.0.1:{rest}")
            settings, venue = load_for_venue()
            venue = msgspec.structs.replace(venue, ws_url=f"ws://127.0.0.1:{streams.port}")
            sink = Kept()
            lines = connections(
                settings, venue, Recorded(lines=1), cast("Publisher", sink), LineStates(Readiness("venue"))
            )
            tasks = [asyncio.create_task(line.run()) for line in lines]
            try:
                await until(
                    lambda: (
                        len(sink.symbols(PUBLIC, BookUpdate)) == symbols
                        and len(sink.traded()) == symbols
                        and len(sink.interest()) >= symbols // 10
                    )
                )
                view = streams.view()
                clients = streams.connections()
            finally:
                for line in lines:
                    line.stop()
                async with asyncio.timeout(LIMIT_S):
                    await asyncio.gather(*tasks)
        assert not view["refused"]
        assert not view["ended"]
        assert {one["path"]: one["streams"] for one in clients} == {
            "/public/stream": 2 * symbols, "/market/stream": 3 * symbols}  # fmt: skip
        assert sink.symbols(PUBLIC, Trades) == sink.symbols(PUBLIC, Derivative) == set()
        assert sink.symbols(MARKET, BookUpdate) == sink.symbols(MARKET, Quote) == set()
        assert len(sink.symbols(MARKET, Derivative)) == len(sink.symbols(PUBLIC, Quote)) == symbols
        running = [event for _, event in sink.events if isinstance(event, FeedStatus | DeadLetter)]
        first_end = next(at for at, event in enumerate(running) if getattr(event, "kind", "") == "disconnected")
        assert {getattr(event, "kind", "dead") for event in running[:first_end]} == {"connected"}

    uvloop.run(scenario())
