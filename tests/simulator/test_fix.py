"""The simulated FIX venue behind a real socket: our own line follows it through faults and broken connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

import msgspec
import pytest
import uvloop

from infra.simulator.faults import Fault
from infra.simulator.venues.fix.server import FixExchange, FixVenue
from marketdata.book import L2Book
from marketdata.events import AnyEvent, BookUpdate, FeedStatus, RawFrame
from marketdata.fix.steps import Identity
from producers.live.__main__ import LineStates, Recorded, connections
from producers.live.publisher import Publisher
from producers.live.settings import load_for_venue
from runtime.health import Readiness

LIMIT_S = 60.0


class Kept:
    """A sink that follows one book."""

    def __init__(self) -> None:
        self.book = L2Book()
        self.valid = False
        self.kinds: list[str] = []

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Take what one frame brought."""
        for event in events:
            if isinstance(event, FeedStatus):
                self.kinds.append(event.kind)
            elif isinstance(event, BookUpdate):
                self.valid = event.kind != "clear"
                if event.kind in {"snapshot", "clear"}:
                    self.book.clear()
                self.book.bids.apply(event.bid_prices, event.bid_sizes)
                self.book.asks.apply(event.ask_prices, event.ask_sizes)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is in many places
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("begin", ["FIX.4.4", "FIXT.1.1"])
def test_line_follows_the_venue_through_faults(begin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames lost and spoilt, and a connection that breaks: each time the book is the venue's own again."""
    given = {"TICKSTREAM_VENUE": "fix", "FIX_TARGET_COMP_ID": "THEM", "FIX_SENDER_COMP_ID": "US",
             "FIX_BEGIN_STRING": begin, "FIX_SYMBOLS": "BTC-USD", "FIX_HEARTBEAT_SECONDS": "1"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    async def scenario() -> None:
        venue = FixVenue(Identity(sender="THEM", target="US", begin=begin, heartbeat_s=1), ["BTC-USD"], by="id")
        sink = Kept()
        async with FixExchange(venue).serve("127.0.0.1", 0) as line:
            monkeypatch.setenv("FIX_URL", f"tcp://127.0.0.1:{line.port}")
            # The producer's own lines, as it makes them from the environment; only Kafka is not there.
            (ours,) = connections(
                *load_for_venue(), Recorded(lines=1), cast("Publisher", sink), LineStates(Readiness("venue"))
            )
            task = asyncio.create_task(ours.run())

            def same() -> bool:
                bids, asks = venue.markets["BTC-USD"].levels()
                book = sink.book
                return sink.valid and (book.bids.top(None), book.asks.top(None)) == (
                    [(f"{price}", f"{bids[price]}") for price in sorted(bids, reverse=True)],
                    [(f"{price}", f"{asks[price]}") for price in sorted(asks)],
                )

            await until(same)
            for fault in (Fault(kind="drop"), Fault(kind="corrupt", variant="truncated"), Fault(kind="reorder")):
                injected = line.inject(msgspec.structs.replace(fault, channel="X"))
                line.move(3)
                assert [hit.channel for hit in injected.hits] == ["X"]
                for _ in range(20):
                    line.move(2)
                await until(same)
            assert sink.kinds.count("gap") == sink.kinds.count("resynced") == 3
            line.inject(Fault(kind="disconnect"))
            await until(lambda: line.connections == 2)
            await until(same)
            ours.stop()
            async with asyncio.timeout(LIMIT_S):
                await task

    uvloop.run(scenario())
