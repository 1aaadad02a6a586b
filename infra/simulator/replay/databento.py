"""A simulated live gateway of Databento, which plays one of their files over TCP to authenticated clients.

Theory of operation. The protocol is that of `infra.simulator.venues.databento.gateway`, without its limits.

1. Time advances with the file's records, at their recorded intervals divided by the speed, and only while a client is
   connected. Records sent to one client are in the past for the next, except for a snapshot that was not sent
   completely.
2. Each schema is acknowledged by a system message. A subscription without `start` begins now; orders with `snapshot`
   receive the current book: a clear, then every order by priority. With `start` it first receives past records from
   that event time on, then a system message for each such schema.
3. A heartbeat is sent when nothing else was sent for the client's heartbeat interval.
4. After the last record a system message announces the end; if the file is played in a loop, the connection breaks
   instead.

Faults happen once, before the record with their number: `disconnect` resets the connection, `mute` stops sending,
`drop` omits the record, `corrupt` damages its length, `skip` reports that the client was too slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import databento_dbn
import structlog
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest

from infra.simulator.replay.recording import Answers, Contents, RecordedConnection
from infra.simulator.venues.databento.gateway import (
    HEARTBEAT,
    REPLAYED,
    SCHEMAS,
    SKIPPED,
    UNSET,
    Client,
    GatewayServer,
    error,
    snapshot_records,
    system,
    wanted,
)
from marketdata import dbn
from marketdata.clock import SECOND_NS
from marketdata.errors import CodecError
from marketdata.orders import ASK, BID, OrderBook
from runtime import recordings

Fault = Literal["disconnect", "mute", "drop", "corrupt", "skip"]
Sleep = Callable[[float], Awaitable[None]]

END_REASON = "end of recording"

_LOG = structlog.get_logger()
_RECORDS = Counter("tickstream_gateway_records_total", "Records that were played.")


class Gateway(GatewayServer):
    """The gateway of one file. `speed` divides the recorded intervals; infinity is as fast as the client reads."""

    def __init__(
        self,
        file: Path,
        *,
        speed: float = 1.0,
        loop: bool = False,
        keys: Collection[str] | None = None,
        faults: Mapping[int, Fault] | None = None,
        heartbeat_s: float | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(keys=keys, heartbeat_s=heartbeat_s)
        self.files = (file,)
        self.speed = speed
        self.loop = loop
        self.finished = 0
        self._ended: set[int] = set()  # clients that received everything
        self.past = 0  # so many records were sent
        self.faults = dict(faults or {})
        self._sleep = sleep
        self._version = databento_dbn.DBN_VERSION
        self._schema: str | None = None
        self._names: dict[int, str] = {}
        self._symbols = dbn.Symbols()
        frames = self._survey()
        self.contents = Contents([RecordedConnection(None, frames=frames)], Answers(), self.began)

    # --- The file ---

    def _survey(self) -> int:
        """Read the file once, for its metadata, its symbols and its length."""
        count = 0
        for line in recordings.read(self.files[0]):
            if line.t == recordings.DAMAGED:
                _LOG.warning("the recording is damaged", detail=line.data)
                continue
            frame, at = line.frame, 0
            if not count and not isinstance(line, recordings.RecordedBytes):
                raise CodecError(f"{self.files[0]} is not a file of Databento's")
            if frame.startswith(dbn.MAGIC):
                at = dbn.metadata_size(frame) or len(frame)
                metadata = dbn.decode_metadata(frame[:at])
                self._version, self._schema, self.dataset = metadata.version, metadata.schema, metadata.dataset
                self._symbols.learn_metadata(metadata)
                self.began = line.ts_recv
            for record in _records(frame, at):
                kind, number = record[1], dbn.HEADER.unpack_from(record)[3]
                if kind == dbn.SYMBOL_MAPPING:
                    mapping = self._decoded(record)
                    self._symbols.learn(number, mapping.stype_out_symbol or mapping.stype_in_symbol)
                if kind not in dbn.SIZES and kind not in SCHEMAS:
                    continue
                count += 1
                if number not in self._names:
                    found = self._symbols.find(number, line.ts_recv)
                    self._names[number] = found[0] if found else str(number)
        if not count:
            raise CodecError("the file contains no record: there is nothing to play")
        return count

    def _decoded(self, record: bytes) -> Any:
        decoder = databento_dbn.DBNDecoder(has_metadata=False, input_version=self._version, upgrade_policy=dbn.UPGRADED)
        return decoder.write_and_decode(record)[0]

    def _played(self) -> Iterator[tuple[int, bytes]]:
        """Yield (time of receipt, record) of the whole file, in the newest version."""
        for line in recordings.read(self.files[0]):
            if line.t == recordings.DAMAGED:
                continue
            frame = line.frame
            at = (dbn.metadata_size(frame) or 0) if frame.startswith(dbn.MAGIC) else 0
            for record in _records(frame, at):
                if record[1] in dbn.SIZES:
                    yield line.ts_recv, record
                elif record[1] in SCHEMAS:
                    yield line.ts_recv, bytes(self._decoded(record))

    # --- Playing ---

    async def play(self, client: Client) -> None:
        """Send the subscribed records, from the requested start to the end."""
        kinds, starts = wanted(client.subscriptions)
        numbers = await self.begin(client, self._names, self._schema)
        head = self.past
        for subscription in client.subscriptions:
            if subscription.get("snapshot") == "1" and head:
                await self._snapshot(client, numbers, head)
        behind, clock, ts = bool(starts), _Clock(self.speed), self.began
        for place, (ts, record) in enumerate(self._played()):
            kind, number = record[1], dbn.HEADER.unpack_from(record)[3]
            is_wanted = kind in kinds and number in numbers
            if place < head:
                if is_wanted and _happened(record, ts) >= starts.get(kind, dbn.INT64_MAX):
                    await client.send(record)
                continue
            if behind:
                behind = await self._is_replayed(client, ts, len(starts))
            await self._until(client, clock, ts)
            if is_wanted and not await self._spoilt(client, place, record):
                await client.send(record)
                client.sent += 1
                _RECORDS.inc()
            if not _within_snapshot(record):
                self.past = max(self.past, place + 1)
        if behind:
            await self._is_replayed(client, ts, len(starts))
        await self._finish(client)

    @staticmethod
    async def _is_replayed(client: Client, ts: int, schemas: int) -> bool:
        """Announce the end of past records for each schema; return that the client is up to date."""
        for _ in range(schemas):
            await client.send(system(ts, "Finished replay", REPLAYED))
        return False

    async def _snapshot(self, client: Client, numbers: Collection[int], head: int) -> None:
        """Send the resting orders of each book after the first `head` records."""
        orders: dict[tuple[int, int], OrderBook] = {}
        newest: dict[tuple[int, int], bytes] = {}
        for place, (_, record) in enumerate(self._played()):
            if place >= head:
                break
            if record[1] == dbn.MBO and dbn.HEADER.unpack_from(record)[3] in numbers:
                _, _, publisher, number, *_ = fields = dbn.ORDER.unpack(record[: dbn.ORDER.size])
                book = orders.setdefault((publisher, number), OrderBook())
                _apply(book, fields)
                newest[publisher, number] = record
        for key, book in orders.items():
            for record in snapshot_records(book, newest[key]):
                await client.send(record)
        await client.flush()

    async def _until(self, client: Client, clock: _Clock, ts: int) -> None:
        """Wait until a record is due, with heartbeats."""
        wait_s = clock.wait_s(ts)
        if wait_s <= 0:
            return
        await client.flush()
        while wait_s > client.heartbeat_s:
            await self._sleep(client.heartbeat_s)
            wait_s = clock.wait_s(ts)
            await client.send(system(clock.ts(ts, max(0.0, wait_s)), "Heartbeat", HEARTBEAT))
            await client.flush()
        if wait_s > 0:
            await self._sleep(wait_s)

    async def _spoilt(self, client: Client, place: int, record: bytes) -> bool:
        """Perform the faults before this record; True if it must not be sent."""
        fault = self.faults.pop(place, None)
        if fault is None:
            return False
        _LOG.info("fault", kind=fault, record=place, client=client.id)
        match fault:
            case "disconnect":
                await client.flush()
                client.writer.transport.abort()
                raise EOFError
            case "mute":
                await client.flush()
                await client.reader.read()
                raise EOFError
            case "corrupt":
                await client.send(b"\0" + record[1:])
                await client.flush()
                await client.reader.read()
                raise EOFError
            case "skip":
                await client.send(error(self.began, "Skipped records after slow reading", SKIPPED))
        return True

    async def _finish(self, client: Client) -> None:
        """Announce the end of the file."""
        self._ended.add(client.id)
        self.finished += 1
        if not self.loop:
            await client.send(system(0, END_REASON, UNSET))
        await client.flush()
        _LOG.info("played to the end", client=client.id, sent=client.sent)
        if self.loop:
            self.past = 0
            client.writer.transport.abort()

    def _progress(self, client: Client, frames: int) -> dict[str, Any]:
        """Return the progress of a client."""
        return {
            "client": client.id,
            "recorded_connection": None,
            "sent": client.sent,
            "frames": frames,
            "finished": client.id in self._ended,
        }

    def app(self, venue: str) -> FastAPI:
        """Return the HTTP application: progress of clients, health and metrics."""
        app = FastAPI(title="Tickstream gateway", docs_url=None, redoc_url=None)
        frames = self.contents.connections[0].frames

        @app.get("/healthz")
        @app.get("/readyz")
        async def health() -> dict[str, Any]:
            """The recording being played."""
            return {"status": "alive", "venue": venue, "files": [file.name for file in self.files]}

        @app.get("/progress")
        async def progress() -> dict[str, Any]:
            """The recording, its start, the progress of each client, and how many received all of it."""
            return {
                "recorded": [{"connection": None, "frames": frames}],
                "began": self.began,
                "dataset": self.dataset,
                "clients": [self._progress(client, frames) for client in self.clients.values()],
                "finished": self.finished,
            }

        @app.get("/metrics")
        async def metrics() -> Response:
            """Prometheus metrics."""
            return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

        return app


class _Clock:
    """The recorded time, which starts at the first record that is waited for."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._now = asyncio.get_running_loop().time
        self._start: tuple[float, int] | None = None

    def wait_s(self, ts: int) -> float:
        """Return how long to wait for a record of this time."""
        if self._start is None:
            self._start = (self._now(), ts)
        began, first = self._start
        return began + (ts - first) / SECOND_NS / self._speed - self._now()

    def ts(self, due: int, wait_s: float) -> int:
        """Return the recorded time at which a due record has this long to wait."""
        return due - int(wait_s * self._speed * SECOND_NS)


def _records(frame: bytes, at: int) -> Iterator[bytes]:
    while at < len(frame):
        size = frame[at] * dbn.WORD
        yield frame[at : at + size]
        at += size


def _within_snapshot(record: bytes) -> bool:
    """Return whether this is inside a snapshot, where no client can start."""
    flags = dbn.ORDER.unpack_from(record)[8] if record[1] == dbn.MBO else 0
    return bool(flags & dbn.SNAPSHOT) and not flags & dbn.LAST


def _happened(record: bytes, ts: int) -> int:
    """Return the time by which past records are requested; orders of a snapshot are not events."""
    if record[1] == dbn.MBO and dbn.ORDER.unpack_from(record)[8] & dbn.SNAPSHOT:
        return -1
    happened: int = dbn.HEADER.unpack_from(record)[4]
    return ts if record[1] in {dbn.BBO_1S, dbn.BBO_1M, dbn.CBBO_1S, dbn.CBBO_1M} else happened


def _apply(book: OrderBook, fields: tuple[int, ...]) -> None:
    _, _, _, _, _, order_id, price, size, _, _, action, side, *_ = fields
    match chr(action):
        case "R":
            book.clear()
        case "A":
            book.add(order_id, BID if side == ord("B") else ASK, price, size)
        case "M":
            book.modify(order_id, price, size)
        case "C":
            book.reduce(order_id, size)
