"""The simulated Coinbase Advanced Trade: markets, WebSocket connections and faults behind a real socket.

Theory of operation. One task enters random orders at the set rate. The changes of a product's book go out in one frame,
at once when its last frame is `book_batch_ms` old, else when it is: a recorded connection gets one every 50 ms. Trades
and tickers wait for the batch, as on the venue; products take turns within it, so that the frames are spread over time.
A connection numbers every frame with one `sequence_num` and remembers which version of each book a number stands for,
so that the book can be asked for as it was at that number.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import structlog
from picows import WSCloseCode, WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener, ws_create_server
from prometheus_client import Counter as Metric
from prometheus_client import Gauge

from infra.simulator.ends import too_many_connections
from infra.simulator.faults import Fault, Hit, Injection, Injector, check
from infra.simulator.limits import Limits, Window
from infra.simulator.market import TRADES_KEPT, VERSIONS_KEPT, WARM_EVENTS, HistoryGone, Market, Step, product
from infra.simulator.matching import ASK, BID
from infra.simulator.record import Trade
from infra.simulator.venues.coinbase import frames
from infra.simulator.venues.coinbase.connection import (
    BOOK,
    CANDLES,
    HEARTBEATS,
    LIMITS,
    STATUS,
    TICKER,
    TICKER_BATCH,
    TRADES,
    WIRE,
    Connection,
)
from marketdata.clock import SECOND_NS

SUBSCRIBE_TIMEOUT_S = 5.0
WRITE_BUFFER_BYTES_MAX = 64 * 1024 * 1024
CONNECTIONS_MAX = 256
CONNECTIONS_KEPT = 32
# What is remembered over all products: trades, book versions, and which version each book frame of a connection led to.
TRADES_KEPT_ALL = 4_000_000
VERSIONS_KEPT_ALL = 2_000_000
FRAMES_KEPT_ALL = 1_000_000
WARM_EVENTS_ALL = 250_000  # a quick start matters more than how much happened before it
STEPS_AT_ONCE_MAX = 1_000
BEHIND_S_MAX = 1.0
RATE_NOTICED_S = 0.1
# A shorter sleep is none: the event loop's timers count milliseconds. Where changes wait for their frame anyway, orders
# are entered together more rarely, each with the time at which it was due.
SLEEP_S_MIN, SLEEP_S_MIN_BATCHED = 0.001, 0.005
TURN_MS = 5
STATUS_EVERY_S = 10
TICKER_BATCH_EVERY_S = 5

_LOG = structlog.get_logger()
_ORDERS = Metric("tickstream_exchange_orders_total", "Orders that the simulated exchange's markets entered.")
_CHANGES = Metric("tickstream_exchange_book_changes_total", "Levels that changed in the simulated exchange's books.")
_TRADES = Metric("tickstream_exchange_trades_total", "Trades of the simulated exchange.")
_BEHIND = Metric("tickstream_exchange_skipped_seconds_total", "Seconds of the order flow that were skipped for time.")
_CLIENTS = Gauge("tickstream_exchange_connections", "Open connections of the simulated exchange.")


class Exchange:
    """The whole venue. `clock` gives UTC nanoseconds; `rate` is orders a second over all products."""

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        seed: int = 1,
        rate: float = 100.0,
        batch_ms: int = 50,
        book_batch_ms: int = 0,
        faults: Iterable[Fault] = (),
        subscribe_timeout_s: float = SUBSCRIBE_TIMEOUT_S,
        write_buffer_bytes_max: int = WRITE_BUFFER_BYTES_MAX,
        limits: Limits = LIMITS,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.clock = clock
        self.started = clock()
        self.subscribe_timeout_s = subscribe_timeout_s
        self.write_buffer_bytes_max = write_buffer_bytes_max
        self.limits = limits
        self.messages = Window(limits.address_messages)
        self._attempts = Window(limits.attempts)
        self.refused: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        # Ten microseconds a trade since 1970: a restart continues above every id that an earlier run has used.
        first_id = self.started // 10_000
        symbols = list(symbols)
        kept = {
            "trades_kept": min(TRADES_KEPT, TRADES_KEPT_ALL // max(1, len(symbols))),
            "versions_kept": min(VERSIONS_KEPT, VERSIONS_KEPT_ALL // max(1, len(symbols))),
            "warm_events": min(WARM_EVENTS, WARM_EVENTS_ALL // max(1, len(symbols))),
        }
        self.frames_kept = min(VERSIONS_KEPT, FRAMES_KEPT_ALL // max(1, len(symbols)))
        self.markets = {symbol: Market(product(symbol), seed, self.started, first_id, **kept) for symbol in symbols}
        self.connections: dict[int, Connection] = {}
        self.past: deque[Connection] = deque(maxlen=CONNECTIONS_KEPT)
        self.injector = Injector(seed)
        self.port = 0
        self.broken = asyncio.Event()
        self._batch_s = batch_ms / 1_000
        self.book_batch_ms = book_batch_ms
        self._random = random.Random(seed)
        self._rate = rate
        self._rate_changed = asyncio.Event()
        self._next_connection = 1
        self._pending_trades: dict[str, list[Trade]] = {symbol: [] for symbol in self.markets}
        self._pending_books: dict[str, list[Step]] = {}
        self._books_due: list[tuple[float, str]] = []  # a heap of when the products of `_pending_books` are due
        self._book_sent: dict[str, float] = {}
        self._tickers: set[str] = set()
        self._traded: set[str] = set()
        self._best: dict[str, tuple[Any, ...]] = {}
        self._halt_ends: dict[str, int | None] = {}
        for fault in faults:
            self.inject(fault)

    @property
    def rate(self) -> float:
        """Orders a second over all products."""
        return self._rate

    @rate.setter
    def rate(self, events_per_s: float) -> None:
        self._rate = events_per_s
        self._rate_changed.set()

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[Exchange]:
        """Serve on a port (0 takes a free one, see `port`) and trade, until the context ends."""
        server = await ws_create_server(
            self._accept, host, port, max_frame_size=self.limits.message_bytes, enable_auto_pong=False
        )
        self.port = server.sockets[0].getsockname()[1]
        tasks = [
            asyncio.create_task(task, name=name)
            for name, task in (("orders", self._trade()), ("batch", self._batch()), ("seconds", self._seconds()))
        ]
        # A task ends by an error of ours only; then the exchange is broken and must not look alive.
        for task in tasks:
            task.add_done_callback(self._task_done)
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.close()
            for connection in list(self.connections.values()):
                connection.end("going away", WSCloseCode.GOING_AWAY)
            await server.wait_closed()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken.set()
            _LOG.error("the exchange is broken", task=task.get_name(), exc_info=error)

    def _accept(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:  # noqa: ARG002 - picows' signature
        if len(self.connections) >= CONNECTIONS_MAX or not self._attempts.takes(time.monotonic()):
            self.refused["attempts"] += 1
            return too_many_connections()
        self._next_connection += 1
        connection = Connection(self, self._next_connection - 1)
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(), connection)

    def joined(self, connection: Connection) -> None:
        """Take a new connection in."""
        self.connections[connection.id] = connection
        _CLIENTS.set(len(self.connections))

    def left(self, connection: Connection) -> None:
        """Let a connection go."""
        self.connections.pop(connection.id, None)
        self.past.append(connection)
        self.injector.forget(connection.id)
        _CLIENTS.set(len(self.connections))

    # --- what goes out

    def send_snapshots(self, connection: Connection, channel: str, symbols: list[str]) -> None:
        """Send what a new subscription begins with."""
        if channel == HEARTBEATS:
            return
        if channel == STATUS:
            markets = [self.markets[symbol] for symbol in symbols]
            connection.send(STATUS, "", frames.status("snapshot", markets))
            return
        for symbol in symbols:
            market = self.markets[symbol]
            if channel == BOOK:
                self._flush_book(symbol)
                connection.send(BOOK, symbol, frames.book_snapshot(market), market.version)
            elif channel == TRADES:
                # Others must have what waits, and this client must not get it twice.
                self._flush_trades(symbol)
                recent = market.recent(frames.SNAPSHOT_TRADES)
                connection.send(TRADES, symbol, frames.trades(market, "snapshot", recent))
            elif channel in {TICKER, TICKER_BATCH}:
                events = frames.ticker(market, "snapshot", batch=channel == TICKER_BATCH)
                connection.send(channel, symbol, events)
            elif channel == CANDLES:
                bars = market.candles(frames.CANDLE_S, 0, market.ts // SECOND_NS)[-frames.SNAPSHOT_CANDLES :]
                connection.send(CANDLES, symbol, frames.candles(market, "snapshot", bars))

    def _broadcast(self, channel: str, symbol: str, events: Callable[[], bytes], version: int | None = None) -> None:
        receivers = [one for one in self.connections.values() if one.wants(channel, symbol)]
        if receivers:
            encoded = events()
            for connection in receivers:
                connection.send(channel, symbol, encoded, version)

    def _flush_trades(self, symbol: str) -> None:
        pending = self._pending_trades[symbol]
        if pending:
            self._pending_trades[symbol] = []
            market = self.markets[symbol]
            self._broadcast(TRADES, symbol, partial(frames.trades, market, "update", reversed(pending)))

    def _flush_book(self, symbol: str) -> None:
        steps = self._pending_books.pop(symbol, None)
        if steps:
            self._book_sent[symbol] = time.monotonic()
            market = self.markets[symbol]
            self._broadcast(BOOK, symbol, partial(frames.book_update, market, steps), market.version)

    def _flush_due_books(self, now: float) -> None:
        due = self._books_due
        while due and due[0][0] <= now:
            self._flush_book(heapq.heappop(due)[1])

    def _stepped(self, market: Market, steps: list[Step]) -> None:
        """Take in what a market did: changes and trades wait for their turn, which may be now."""
        symbol, book = market.product.symbol, market.book
        changes = 0
        traded: list[Trade] = []
        for step in steps:
            changes += len(step.changes)
            if step.trades:
                traded += step.trades
        if changes:
            _CHANGES.inc(changes)
            pending = self._pending_books.get(symbol)
            if pending is not None:
                pending += steps
            else:
                self._pending_books[symbol] = steps
                due = self._book_sent.get(symbol, 0.0) + self.book_batch_ms / 1_000
                heapq.heappush(self._books_due, (due, symbol))
        if traded:
            _TRADES.inc(len(traded))
            self._pending_trades[symbol] += traded
            self._traded.add(symbol)
        bid, ask = book.best(BID), book.best(ASK)
        best = (bid, ask, bid and book.size_at(BID, bid), ask and book.size_at(ASK, ask))
        if traded or best != self._best.get(symbol):
            self._best[symbol] = best
            self._tickers.add(symbol)

    # --- what drives it

    async def _trade(self) -> None:
        due = time.monotonic()
        markets = list(self.markets.values())
        while True:
            if not self._rate:
                self._flush_due_books(math.inf)
                await self._rate_changed.wait()
            if self._rate_changed.is_set():
                self._rate_changed.clear()
                due = time.monotonic()
            now = time.monotonic()
            wait_s = min(due, self._books_due[0][0] if self._books_due else due) - now
            if wait_s > 0:
                least_s = SLEEP_S_MIN_BATCHED if self.book_batch_ms else SLEEP_S_MIN
                await asyncio.sleep(max(least_s, min(wait_s, RATE_NOTICED_S)))
            elif due < now - BEHIND_S_MAX:
                _BEHIND.inc(now - due)
                due = now
            due = self._steps_until(due, time.monotonic(), markets)
            self._flush_due_books(time.monotonic())
            # Sockets get their turn also when we are behind.
            await asyncio.sleep(0)

    def _steps_until(self, due: float, now: float, markets: list[Market]) -> float:
        """Enter every order that is due, and return when the next one is due."""
        if not self._rate:
            return due
        stepped: dict[str, list[Step]] = {}
        entered, chance, products, clock = 0, self._random.random, len(markets), self.clock()
        while due <= now and entered < STEPS_AT_ONCE_MAX:
            market = markets[int(chance() * products)]
            stepped.setdefault(market.product.symbol, []).append(market.step(clock - int((now - due) * SECOND_NS)))
            entered += 1
            due -= math.log(1.0 - chance()) / self._rate
        _ORDERS.inc(entered)
        for symbol, steps in stepped.items():
            self._stepped(self.markets[symbol], steps)
        return due

    async def _batch(self) -> None:
        """Send each product's trades and ticker once a batch; the products take turns."""
        symbols = list(self.markets)
        turns = max(1, min(len(symbols), int(self._batch_s * 1_000) // TURN_MS))
        while True:
            for turn in range(turns):
                await asyncio.sleep(self._batch_s / turns)
                for symbol in symbols[turn::turns]:
                    self._flush_trades(symbol)
                    if symbol in self._tickers:
                        self._tickers.discard(symbol)
                        self._broadcast(TICKER, symbol, partial(frames.ticker, self.markets[symbol], "update"))

    async def _seconds(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        second = 0
        while True:
            second = max(second + 1, int(loop.time() - start))
            await asyncio.sleep(max(0.0, start + second - loop.time()))
            now = self.clock()
            self._broadcast(HEARTBEATS, HEARTBEATS, partial(frames.heartbeat, now, now - self.started))
            self._end_halts(now)
            traded, self._traded = self._traded, set()
            for symbol in sorted(traded):
                self._broadcast(CANDLES, symbol, partial(self._last_candle, symbol))
            if second % TICKER_BATCH_EVERY_S == 0:
                for symbol, market in self.markets.items():
                    self._broadcast(TICKER_BATCH, symbol, partial(frames.ticker, market, "update", batch=True))
            if second % STATUS_EVERY_S == 0:
                self._send_status("snapshot", list(self.markets))

    def _last_candle(self, symbol: str) -> bytes:
        market = self.markets[symbol]
        now = market.ts // SECOND_NS
        bars = market.candles(frames.CANDLE_S, now - frames.CANDLE_S, now)[-1:]
        return frames.candles(market, "update", bars)

    def _send_status(self, kind: str, symbols: list[str]) -> None:
        for connection in list(self.connections.values()):
            wanted = [self.markets[symbol] for symbol in symbols if connection.wants(STATUS, symbol)]
            if wanted:
                symbol = wanted[0].product.symbol if len(wanted) == 1 else ""
                connection.send(STATUS, symbol, frames.status(kind, wanted))

    # --- faults

    def inject(self, fault: Fault) -> Injection:
        """Put a fault to work.

        Raises ValueError when it names a product or connection that does not exist.
        """
        check(fault, self.markets, self.connections)
        fault = msgspec.structs.replace(fault, channel=WIRE.get(fault.channel or "", fault.channel))
        now = self.clock()
        injection = self.injector.add(fault, now)
        if fault.kind == "disconnect":
            for connection in list(self.connections.values()):
                if fault.connection in {None, connection.id}:
                    injection.hit(Hit(connection.id, connection.sequence - 1, "", "", now))
                    connection.reset()
        elif fault.kind in {"halt", "resume"}:
            self._halt(injection, halted=fault.kind == "halt", now=now)
        _LOG.info("fault", fault=fault.kind, id=injection.id, channel=fault.channel, symbol=fault.symbol)
        return injection

    def _halt(self, injection: Injection, *, halted: bool, now: int) -> None:
        symbol = injection.fault.symbol
        symbols = [symbol] if symbol else list(self.markets)
        for name in symbols:
            # What happened before the halt is sent before it.
            self._flush_book(name)
            self._flush_trades(name)
            self.markets[name].halted = halted
            ends = now + int(injection.fault.seconds * SECOND_NS) if halted and injection.fault.seconds else None
            self._halt_ends[name] = ends
        for connection in self.connections.values():
            if any(connection.wants(STATUS, name) for name in symbols):
                injection.hit(Hit(connection.id, connection.sequence, STATUS, symbol or "", now))
        self._send_status("update", symbols)

    def _end_halts(self, now: int) -> None:
        for symbol, ends in list(self._halt_ends.items()):
            if ends is not None and now >= ends:
                self.inject(Fault(kind="resume", symbol=symbol))

    # --- what can be asked

    def view(self) -> dict[str, Any]:
        """Return what was refused and ended so far, by reason."""
        return {"symbols": len(self.markets), "refused": dict(self.refused), "ended": dict(self.ended)}

    def connection(self, number: int | None, at: int | None, symbol: str) -> Connection | None:
        """Return a connection by its number, or else the last that was sent a product's book.

        With `at` the last that was open at that time, or if none was, the last before: what it was sent may be read
        a little later than it was closed here.
        """
        known = [*self.past, *self.connections.values()]
        if number is not None:
            return next((one for one in known if one.id == number), None)
        fitting = [one for one in known if one.was_sent(symbol) and (at is None or one.opened <= at)]
        if at is not None:
            open_then = [one for one in fitting if one.closed is None or at <= one.closed]
            fitting = open_then or fitting
        return max(fitting, key=lambda one: one.id, default=None)

    def book_at(
        self, symbol: str, sequence: int | None, number: int | None, at: int | None, depth: int | None
    ) -> dict[str, Any]:
        """Return a product's book as it was at a sequence of a connection, or as it is now.

        Raises HistoryGone when it is no longer known, or never was.
        """
        market = self.markets[symbol]
        if sequence is None and number is None and at is None:
            now = frames.rest_book(market, market.book.levels(BID), market.book.levels(ASK), depth)
            return {"symbol": symbol, "version": market.version, **now}
        connection = self.connection(number, at, symbol)
        entry = connection.version_at(symbol, sequence) if connection else None
        if connection is None or entry is None:
            raise HistoryGone(f"no connection was sent a book of {symbol} up to sequence {sequence}")
        bids, asks = market.book_at(entry[1])
        return {
            "symbol": symbol,
            "connection": connection.id,
            "sequence": sequence,
            "book_sequence": entry[0],
            "version": entry[1],
            **frames.rest_book(market, bids, asks, depth),
        }
