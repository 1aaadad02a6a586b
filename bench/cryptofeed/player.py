"""Plays recorded frames through cryptofeed's own message handlers, best bid and ask read after every book change.

    python -m bench.cryptofeed.player measure|changing|withhold TASK

Runs in cryptofeed's environment, which has nothing of ours. An exception out of a handler makes cryptofeed connect
again; frames after it belong to a connection that is gone, so the run ends there when the books are watched.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from bench.feed_task import LEVELS, Played, Task, Watch, serve
from cryptofeed import exchanges  # type: ignore[import-not-found]
from cryptofeed.defines import L2_BOOK, TICKER, TRADES  # type: ignore[import-not-found]
from cryptofeed.symbols import Symbols  # type: ignore[import-not-found]

EXCHANGES = {
    "coinbase": exchanges.Coinbase,
    "binance_spot": exchanges.Binance,
    "binance_usdm": exchanges.BinanceFutures,
    "bitfinex": exchanges.Bitfinex,
    "kraken": exchanges.Kraken,
    "kraken_futures": exchanges.KrakenFutures,
    "okx": exchanges.OKX,
    "bybit": exchanges.Bybit,
    "gemini": exchanges.Gemini,
}


class Line:
    """One connection, as far as the handlers look at it."""

    def __init__(self, name: str, market: str, subscription: dict[str, Any]) -> None:
        self.uuid = name
        self.address = f"wss://venue/{market}"
        self.subscription = subscription

    async def write(self, message: str) -> None:
        """Send nothing: what the venue said is recorded."""


class Rest:
    """Answers requests for snapshots with the recorded ones, once each."""

    def __init__(self, bodies: list[tuple[str, str]]) -> None:
        self._bodies = list(bodies)

    async def read(self, _: str) -> str:
        """Return the next body. Raises LookupError when there is none."""
        if not self._bodies:
            raise LookupError("no snapshot was recorded")
        return self._bodies.pop(0)[1]


class Consumer:
    """The callbacks."""

    def __init__(self, watch: Watch | None) -> None:
        self.played = Played()
        self.place = 0
        self._watch = watch

    async def book(self, book: Any, _: float) -> None:
        """Read the best levels of a book that changed."""
        played = self.played
        played.events += 1
        played.books += 1
        bids, asks = book.book.bids, book.book.asks
        is_whole = len(bids) > 0 and len(asks) > 0
        if is_whole:
            bids.index(0)
            asks.index(0)
        else:
            played.one_sided += 1
        if self._watch is not None:
            levels = tuple([side.index(at) for at in range(min(LEVELS, len(side)))] for side in (bids, asks))
            self._watch(self.place, book.symbol, levels)

    async def trade(self, trade: Any, _: float) -> None:
        """Take a trade."""
        self.played.events += 1
        self.played.sides[trade.id] = trade.side

    async def ticker(self, *_: Any) -> None:
        """Take a ticker."""
        self.played.events += 1


def play(task: Task, withheld: int | None, watch: Watch | None) -> Played:
    """Play the frames from a new start."""
    return asyncio.run(_play(task, withheld, watch))


async def _play(task: Task, withheld: int | None, watch: Watch | None) -> Played:
    exchange = EXCHANGES[task.venue]
    kinds = {symbol: "perpetual" if symbol.endswith("-PERP") else "spot" for symbol in task.symbols}
    Symbols.set(exchange.id, task.symbols, {"instrument_type": kinds, "tick_size": {}})
    consumer = Consumer(watch)
    callbacks = {L2_BOOK: consumer.book, TRADES: consumer.trade, TICKER: consumer.ticker}
    channels = [channel for channel in callbacks if channel in exchange.websocket_channels]
    feed = exchange(
        symbols=list(task.symbols), channels=channels, callbacks=callbacks, checksum_validation=task.checked
    )
    feed.http_conn = Rest(task.bodies)
    lines: dict[str, Line] = {}
    for conn in dict.fromkeys(frame[0] for frame in task.frames):
        lines[conn] = Line(conn, task.markets.get(conn, ""), feed.subscription)
        if task.venue != "coinbase":  # its subscription wants a key, and sets nothing up
            await feed.subscribe(lines[conn])
    for place, (conn, ts, frame) in enumerate(task.frames):
        if place == withheld:
            continue
        consumer.place = place
        try:
            await feed.message_handler(frame, lines[conn], ts / 1e9)
        except Exception:  # noqa: BLE001 - whatever it is, cryptofeed connects again
            consumer.played.given_up += 1
            if watch is not None:
                break
    return consumer.played


if __name__ == "__main__":
    logging.disable()  # what it does not know it warns of; that would be the measurement
    serve(play, sys.argv[1:])
