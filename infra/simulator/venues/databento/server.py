"""The simulated Databento: a market of many instruments behind the live gateway, order by order.

1. `mbo` and `trades` bring records; `status` and `definition` can be subscribed to, and nothing happens there. Any
   other schema is an invalid subscription (code 5).
2. A subscription without `start` begins with a snapshot of each book: a clear, then every order. With `start` the
   records since come first, and a system record ends them. What is no longer kept has aged out (code 8).
3. A symbol that did not resolve is tried again at each change of the markets. Once it resolves, its mapping and data
   follow in the same session ("Symbology", https://databento.com/docs/api-live/basics/symbology). That its book begins
   with a snapshot, as requested, is our reading.
4. A heartbeat is sent when nothing else was for the client's interval. A client that reads too slowly misses records,
   and is sent an error (code 7); so is one from which a fault drops a record.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, NamedTuple, Self

import structlog

from infra.simulator.faults import Fault, Hit, Injection, Injector, Variant, check
from infra.simulator.limits import Limits
from infra.simulator.venues.databento.gateway import (
    AGED_OUT,
    HEARTBEAT,
    INVALID,
    LIMITS,
    REPLAYED,
    SKIPPED,
    Client,
    GatewayServer,
    error,
    mapping,
    metadata,
    snapshot_records,
    subscribed,
    system,
    wanted,
)
from infra.simulator.venues.facts import DATABENTO_KEY
from infra.simulator.venues.streams.market import Level, Market, Step
from marketdata import dbn
from marketdata.orders import ASK, BID, OrderBook, Side

DATASET = "GLBX.MDP3"
RECORDS_KEPT = 200_000
RECORDS_WAITING_MAX = 200_000
PUBLISHER = 1

_SIMULATED = frozenset({dbn.MBO, dbn.TRADE, dbn.STATUS, dbn.DEFINITION})
_SCHEMA = {dbn.MBO: "mbo", dbn.TRADE: "trades"}
_UNIT = Decimal("1e9")
_LOTS = 100
_LOG = structlog.get_logger()


class Event(NamedTuple):
    """What one change of a market is in one schema: records that belong together."""

    ts: int
    kind: int
    number: int
    records: bytes


class Row(NamedTuple):
    """One order's record; `price` is in units of 1e-9, `size` in lots, side and action by their letters."""

    order: int
    price: int
    size: int
    side: str
    action: str


class Instrument:
    """One market, and its book order by order: each level is one order."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.orders = OrderBook()
        self._market = Market(number)
        self._ids: dict[tuple[Side, str], int] = {}
        self._next_id = number * 1_000_000_000 + 1
        self._newest = b""
        bids, asks = self._market.book()
        self._changes(bids, asks)

    def step(self, ts: int, sequence: int) -> list[Event]:
        """Change the market, and return what happened in each schema."""
        step = self._market.step(ts)
        rows = [*self._changes(step.bids, step.asks), self._trade(step)]
        records = [
            self._record(row, ts, sequence, dbn.LAST if place == len(rows) else 0)
            for place, row in enumerate(rows, start=1)
        ]
        self._newest = records[-1]
        last = rows[-1]
        trade = dbn.TRADE_BODY.pack(dbn.TRADE_BODY.size // dbn.WORD, dbn.TRADE, PUBLISHER, self.number, ts, last.price,
                                    last.size, ord(last.action), ord(last.side), dbn.LAST, 0, ts, 0,
                                    sequence)  # fmt: skip
        return [
            Event(ts, dbn.MBO, self.number, b"".join(records)),
            Event(ts, dbn.TRADE, self.number, trade),
        ]

    def snapshot(self, ts: int) -> bytes:
        """Return the records of the whole book."""
        newest = self._newest or self._record(Row(0, dbn.UNDEF_PRICE, 0, "N", "R"), ts, 0, 0)
        return b"".join(snapshot_records(self.orders, newest))

    def _changes(self, bids: list[Level], asks: list[Level]) -> list[Row]:
        changed = [self._change(BID, *level) for level in bids]
        return changed + [self._change(ASK, *level) for level in asks]

    def _change(self, side: Side, price: str, size: str) -> Row:
        """Perform a change of a level."""
        key, at, lots = (side, price), int(Decimal(price) * _UNIT), int(Decimal(size) * _LOTS)
        letter = "B" if side == BID else "A"
        order = self._ids.get(key)
        if not lots:
            gone = self._ids.pop(key)
            before = self.orders.get(gone)
            self.orders.remove(gone)
            return Row(gone, at, before.size if before is not None else 0, letter, "C")
        if order is None:
            order = self._ids[key] = self._next_id
            self._next_id += 1
            self.orders.add(order, side, at, lots)
            return Row(order, at, lots, letter, "A")
        self.orders.modify(order, at, lots)
        return Row(order, at, lots, letter, "M")

    @staticmethod
    def _trade(step: Step) -> Row:
        trade = step.trade
        lots = int(Decimal(trade.size) * _LOTS)
        return Row(0, int(Decimal(trade.price) * _UNIT), lots, "B" if trade.side == "buy" else "A", "T")

    def _record(self, row: Row, ts: int, sequence: int, flags: int) -> bytes:
        return dbn.ORDER.pack(dbn.ORDER.size // dbn.WORD, dbn.MBO, PUBLISHER, self.number, ts, row.order, row.price,
                              row.size, flags, 0, ord(row.action), ord(row.side), ts, 0, sequence)  # fmt: skip


class Stream:
    """What one client subscribed, and the records on their way to it; at most `RECORDS_WAITING_MAX` of them.

    `unresolved` are the instruments that it subscribed and whose symbols did not resolve yet.
    """

    def __init__(
        self, kinds: Collection[int], numbers: set[int], unresolved: set[int], head: Iterable[bytes]
    ) -> None:  # fmt: skip
        self.kinds = kinds
        self.numbers = numbers
        self.unresolved = unresolved
        self.filled = asyncio.Event()
        self.filled.set()
        self._waiting = deque(head)

    def put(self, records: bytes) -> bool:
        """Add records; return whether there was room for them."""
        if len(self._waiting) >= RECORDS_WAITING_MAX:
            return False
        self._waiting.append(records)
        self.filled.set()
        return True

    def take(self) -> list[bytes]:
        """Return what waits."""
        taken = list(self._waiting)
        self._waiting.clear()
        self.filled.clear()
        return taken


class _Faults(Injector):
    """The faults; the gateway reports records that it dropped."""

    def _dropped(self, sent: Hit) -> list[bytes]:
        return [error(sent.ts, "Skipped records after slow reading", SKIPPED)]

    def _spoil(self, frame: bytes, variant: Variant | None) -> bytes:  # noqa: ARG002 - a length of zero is enough
        return b"\0" + frame[1:]


class DatabentoExchange(GatewayServer):
    """The whole venue. Every `every_s` all markets change; with 0 only `step` causes it."""

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        every_s: float = 1.0,
        keys: Collection[str] = (DATABENTO_KEY,),
        heartbeat_s: float | None = None,
        faults: Iterable[Fault] = (),
        limits: Limits = LIMITS,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(keys=keys, heartbeat_s=heartbeat_s, limits=limits)
        self.clock = clock
        self.dataset = DATASET
        self.began = clock()
        self.injector = _Faults()
        self.broken = asyncio.Event()
        self.symbols = dict(enumerate(dict.fromkeys(symbols), start=1))
        self._instruments = {number: Instrument(number) for number in self.symbols}
        self._every_s = every_s
        self._past: deque[Event] = deque(maxlen=RECORDS_KEPT)
        self._streams: dict[int, Stream] = {}
        self._sequence = 0
        for fault in faults:
            self.inject(fault)

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[Self]:
        """Serve on a port (0 takes a free one, see `port`) until the context ends."""
        task = asyncio.create_task(self._live(), name="market")
        task.add_done_callback(self._live_done)
        try:
            async with super().serve(host, port):
                yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def step(self) -> None:
        """Change every market once, and send it to whoever subscribed."""
        now = self.clock()
        self._sequence += 1
        for client, stream in self._streams.items():
            self._resolve(self.clients[client], stream, now)
        for number, instrument in self._instruments.items():
            for event in instrument.step(now, self._sequence):
                self._past.append(event)
                for client, stream in self._streams.items():
                    if event.kind in stream.kinds and number in stream.numbers:
                        self._publish(client, stream, event)

    def inject(self, fault: Fault) -> Injection:
        """Activate a fault; its channel is a schema.

        Raises ValueError when its symbol or connection does not exist, and for halts, which these markets lack.
        """
        check(fault, self.symbols.values(), self.clients)
        if fault.kind in {"halt", "resume"}:
            raise ValueError("these markets have no halts")
        now = self.clock()
        injection = self.injector.add(fault, now)
        if fault.kind == "disconnect":
            for client in list(self.clients.values()):
                if fault.connection in {None, client.id}:
                    injection.hit(Hit(client.id, client.sent, "", "", now))
                    client.writer.transport.abort()
        return injection

    def view(self) -> dict[str, Any]:
        """Return what was refused so far, by reason."""
        return {"symbols": len(self.symbols), "refused": dict(self.refused), "ended": {}}

    async def play(self, client: Client) -> None:
        """Send what was subscribed, from the requested start or from a snapshot on."""
        kinds, starts = wanted(client.subscriptions)
        refusal = self._invalid(kinds, starts)
        if refusal is not None:
            code, text = refusal
            self.refused[text] += 1
            await client.send(metadata(self.dataset, self.began))
            await client.send(error(self.clock(), text, code))
            await client.flush()
            return
        numbers = await self.begin(client, self.symbols, is_refused=lambda name: self._is_refused(client, name))
        unresolved = subscribed(client.subscriptions, self.symbols) - numbers
        # Nothing may happen in the markets between the head of the stream and what follows it.
        stream = Stream(kinds, numbers, unresolved, self._head(kinds, numbers, starts))
        self._streams[client.id] = stream
        try:
            while True:
                await self._forward(client, stream)
        finally:
            del self._streams[client.id]

    async def _forward(self, client: Client, stream: Stream) -> None:
        """Send what waits, or a heartbeat when nothing comes."""
        try:
            async with asyncio.timeout(client.heartbeat_s):
                await stream.filled.wait()
        except TimeoutError:
            if self.injector.is_mute(client.id, self.clock()):
                return
            await client.send(system(self.clock(), "Heartbeat", HEARTBEAT))
        for records in stream.take():
            await client.send(records)
        await client.flush()

    def _invalid(self, kinds: set[int], starts: dict[int, int]) -> tuple[int, str] | None:
        """Return the code and the text of the error that ends the session, or None."""
        if not kinds or not kinds <= _SIMULATED:
            return INVALID, "Invalid subscription: the schemas here are mbo, trades, status and definition"
        is_full = len(self._past) == RECORDS_KEPT
        if starts and is_full and min(starts.values()) < self._past[0].ts:
            return AGED_OUT, "Replay data is no longer retained"
        return None

    def _head(self, kinds: Collection[int], numbers: Collection[int], starts: dict[int, int]) -> Iterator[bytes]:
        now = self.clock()
        for event in self._past:
            if event.number in numbers and event.ts >= starts.get(event.kind, dbn.INT64_MAX):
                yield event.records
        for _ in starts:
            yield system(now, "Finished replay", REPLAYED)
        if dbn.MBO in kinds and dbn.MBO not in starts:
            for number in sorted(numbers):
                yield self._instruments[number].snapshot(now)

    def _publish(self, client: int, stream: Stream, event: Event) -> None:
        hit = Hit(client, self._sequence, _SCHEMA[event.kind], self.symbols[event.number], event.ts)
        self.clients[client].sent += 1
        for records in self.injector.frames(hit, event.records):
            if not stream.put(records):
                stream.take()
                stream.put(error(event.ts, "Skipped records after slow reading", SKIPPED))

    def _resolve(self, client: Client, stream: Stream, now: int) -> None:
        """Map the symbols that resolve now, and begin their books."""
        for number in sorted(stream.unresolved):
            name = self.symbols[number]
            if not self._is_refused(client, name):
                stream.unresolved.remove(number)
                stream.numbers.add(number)
                stream.put(mapping(number, name, now))
                if dbn.MBO in stream.kinds:
                    stream.put(self._instruments[number].snapshot(now))

    def _is_refused(self, client: Client, name: str) -> bool:
        return any(
            self.injector.refuses(Hit(client.id, client.sent, one.get("schema", ""), name, self.clock()))
            for one in client.subscriptions
            if name in one.get("symbols", "").split(",")
        )

    async def _live(self) -> None:
        while self._every_s:
            await asyncio.sleep(self._every_s)
            self.step()

    def _live_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.broken.set()
            _LOG.error("the venue is broken", exc_info=failure)
