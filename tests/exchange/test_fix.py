"""The simulated FIX venue behind a real socket: our own line follows it through faults and broken connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import pytest
import uvloop

from infra.exchange.fix import FixVenue, serve
from marketdata.book import L2Book
from marketdata.events import AnyEvent, BookUpdate, FeedStatus, RawFrame
from marketdata.fix.session import Identity
from producers.connection import Connection, Options
from producers.feeds import make_feed
from producers.feeds.fix import VENUE
from producers.tokens import FixLogin

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
def test_line_follows_the_venue_through_faults(begin: str) -> None:
    """Frames lost and spoilt, and a connection that breaks: each time the book is the venue's own again."""

    async def scenario() -> None:
        venue = FixVenue(Identity(sender="THEM", target="US", begin=begin, heartbeat_s=1), ["BTC-USD"], by_id=True)
        token = FixLogin(
            senders=("US",), target="THEM", begin=begin, heartbeat_s=1, reset=True, username="", password=""
        )
        sink, feed = Kept(), make_feed("fix", products=("BTC-USD",), token=token)
        async with serve(venue) as line:
            options = Options(ws_url=f"tcp://127.0.0.1:{line.port}", rest_url="http://127.0.0.1:9",
                              splitter=VENUE.splitter, tick_s=0.05, backoff_base_s=0.01)  # fmt: skip
            ours = Connection(feed, "fix/0", sink, options)
            task = asyncio.create_task(ours.run())

            def same() -> bool:
                line.send(venue.ticked(time.time_ns()))
                bids, asks = venue.markets["BTC-USD"].levels()
                book = sink.book
                return sink.valid and (book.bids.top(None), book.asks.top(None)) == (
                    [(f"{price}", f"{bids[price]}") for price in sorted(bids, reverse=True)],
                    [(f"{price}", f"{asks[price]}") for price in sorted(asks)],
                )

            await until(same)
            for fault in (lambda frame: (), lambda frame: (frame[:-9] + frame[-8:],), lambda frame: (frame[5:], frame)):
                line.fault = fault
                line.send(venue.move(time.time_ns(), 3))
                line.fault = lambda frame: (frame,)
                for _ in range(20):
                    line.send(venue.move(time.time_ns(), 2))
                await until(same)
            assert sink.kinds.count("gap") == sink.kinds.count("resynced") == 3
            line.hang_up()
            await until(lambda: line.connections == 2)
            await until(same)
            ours.stop()
            async with asyncio.timeout(LIMIT_S):
                await task

    uvloop.run(scenario())
