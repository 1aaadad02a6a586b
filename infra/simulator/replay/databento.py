"""A simulated live gateway of Databento, which plays one of their files over TCP to authenticated clients.

Theory of operation. It uses the text and binary protocols that `producers.venues.databento.gateway` describes, from
Databento's documentation.

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
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import databento_dbn
import structlog
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest

from infra.simulator.replay.recording import Answers, Contents, RecordedConnection
from marketdata import dbn
from marketdata.clock import SECOND_NS
from marketdata.errors import CodecError
from marketdata.orders import ASK, BID, OrderBook
from runtime import recordings

Fault = Literal["disconnect", "mute", "drop", "corrupt", "skip"]
Sleep = Callable[[float], Awaitable[None]]

END_REASON = "end of recording"
VERSION = "0.7.2"
LINE_BYTES_MAX = 64 * 1024
WRITE_BYTES = 64 * 1024
HEARTBEAT_S = 30.0
ALL_SYMBOLS = "ALL_SYMBOLS"
_HEARTBEAT, _ACKNOWLEDGED, _REPLAYED, _UNSET = 0, 1, 3, 255

# The schemas whose records have each kind.
_SCHEMAS = {
    dbn.MBO: {"mbo"},
    dbn.MBP_1: {"mbp-1", "tbbo"},
    dbn.TBBO: {"tbbo"},
    dbn.MBP_10: {"mbp-10"},
    dbn.TRADE: {"trades"},
    dbn.CMBP_1: {"cmbp-1"},
    dbn.TCBBO: {"tcbbo"},
    dbn.BBO_1S: {"bbo-1s"},
    dbn.BBO_1M: {"bbo-1m"},
    dbn.CBBO_1S: {"cbbo-1s"},
    dbn.CBBO_1M: {"cbbo-1m"},
    dbn.STATUS: {"status"},
    dbn.DEFINITION: {"definition"},
    dbn.STATISTICS: {"statistics"},
    dbn.IMBALANCE: {"imbalance"},
    dbn.OHLCV_1S: {"ohlcv-1s"},
    dbn.OHLCV_1M: {"ohlcv-1m"},
    dbn.OHLCV_1H: {"ohlcv-1h"},
    dbn.OHLCV_1D: {"ohlcv-1d"},
}

_LOG = structlog.get_logger()
_RECORDS = Counter("tickstream_gateway_records_total", "Records that were played.")


class Client:
    """One client's connection: its subscriptions and its progress."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.id = number
        self.reader = reader
        self.writer = writer
        self.heartbeat_s = HEARTBEAT_S
        self.sent = 0
        self.finished = False
        self.subscriptions: list[dict[str, str]] = []
        self._waiting: list[bytes] = []
        self._bytes = 0

    def line(self, **fields: object) -> None:
        """Send a line of text."""
        self.writer.write(("|".join(f"{name}={value}" for name, value in fields.items()) + "\n").encode())

    async def read_line(self) -> dict[str, str]:
        """Return the fields of the client's next line. Raises EOFError when it has disconnected."""
        try:
            line = await self.reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
            raise EOFError from error
        parts = (part.partition("=") for part in line.decode(errors="replace").strip().split("|"))
        return {name: value for name, _, value in parts}

    async def send(self, record: bytes) -> None:
        """Buffer a record, and send the buffer when it is large enough."""
        self._waiting.append(record)
        self._bytes += len(record)
        if self._bytes >= WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Send the buffer, and wait while the client reads slowly. Raises EOFError when it has disconnected."""
        if self.writer.is_closing() or self.reader.at_eof():
            raise EOFError
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        self.writer.write(data)
        try:
            await self.writer.drain()
            await asyncio.sleep(0)  # yield to other tasks
        except ConnectionError as error:
            raise EOFError from error

    def view(self, frames: int) -> dict[str, Any]:
        """Return the client's progress."""
        return {
            "client": self.id,
            "recorded_connection": None,
            "sent": self.sent,
            "frames": frames,
            "finished": self.finished,
        }


class Gateway:
    """The gateway of one file. `speed` divides the recorded intervals; infinity is as fast as the client reads.

    `keys` are the accepted API keys, None accepts any. `heartbeat_s` overrides the interval that clients request.
    """

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
        self.files = (file,)
        self.speed = speed
        self.loop = loop
        self.port = 0
        self.clients: dict[int, Client] = {}
        self.finished = 0
        self.refused = 0
        self.past = 0  # so many records were sent
        self.faults = dict(faults or {})
        self._keys = keys
        self._heartbeat_s = heartbeat_s
        self._sleep = sleep
        self._next = 1
        self._tasks: set[asyncio.Task[None]] = set()
        self._version = databento_dbn.DBN_VERSION
        self._schema: str | None = None
        self.dataset = ""
        self.began = 0
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
                if kind not in dbn.SIZES and kind not in _SCHEMAS:
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
                elif record[1] in _SCHEMAS:
                    yield line.ts_recv, bytes(self._decoded(record))

    # --- Serving ---

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[Gateway]:
        """Serve on a port (0 takes a free one, see `port`) until the context ends."""
        server = await asyncio.start_server(self._accept, host, port, limit=LINE_BYTES_MAX)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for client in list(self.clients.values()):
                client.writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(self._next, reader, writer)
        self._next += 1
        self.clients[client.id] = client
        task = asyncio.create_task(self._attend(client), name=f"gateway-{client.id}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("the gateway failed", task=task.get_name(), exc_info=error)

    async def _attend(self, client: Client) -> None:
        """Serve one client from the greeting to the end."""
        try:
            if await self._authenticated(client):
                await self._play(client)
        except EOFError:
            _LOG.info("client left", client=client.id, sent=client.sent)
        finally:
            self.clients.pop(client.id, None)
            client.writer.close()

    async def _authenticated(self, client: Client) -> bool:
        """Greet and authenticate a client, and read its subscriptions; False if it is rejected."""
        challenge = secrets.token_urlsafe(24)
        client.line(lsg_version=VERSION)
        client.line(cram=challenge)
        asked = await client.read_line()
        error = self._refusal(challenge, asked)
        if error is not None:
            self.refused += 1
            client.line(success=0, error=error)
            with suppress(ConnectionError):
                await client.writer.drain()
            return False
        client.heartbeat_s = self._heartbeat_s or float(asked.get("heartbeat_interval_s") or HEARTBEAT_S)
        client.line(success=1, session_id=client.id)
        while "start_session" not in (told := await client.read_line()):
            client.subscriptions.append(told)
        return True

    def _refusal(self, challenge: str, asked: Mapping[str, str]) -> str | None:
        if asked.get("encoding") != "dbn" or asked.get("compression", "none") != "none" or asked.get("ts_out") == "1":
            return "Only uncompressed DBN is supported here"
        if self.dataset and asked.get("dataset") not in {"", self.dataset}:
            return f"The dataset is {self.dataset}"
        digest, _, bucket = asked.get("auth", "").partition("-")
        if self._keys is not None and not any(
            bucket == key[-5:] and digest == hashlib.sha256(f"{challenge}|{key}".encode()).hexdigest()
            for key in self._keys
        ):
            return "Authentication failed."
        return None

    # --- Playing ---

    async def _play(self, client: Client) -> None:
        """Send the subscribed records, from the requested start to the end."""
        kinds, starts = self._wanted(client)
        numbers = self._numbers(client)
        await self._begin(client, numbers)
        head = self.past
        for subscription in client.subscriptions:
            if subscription.get("snapshot") == "1" and head:
                await self._snapshot(client, numbers, head)
        behind, clock, ts = bool(starts), _Clock(self.speed), self.began
        for place, (ts, record) in enumerate(self._played()):
            kind, number = record[1], dbn.HEADER.unpack_from(record)[3]
            wanted = kind in kinds and number in numbers
            if place < head:
                if wanted and _happened(record, ts) >= starts.get(kind, dbn.INT64_MAX):
                    await client.send(record)
                continue
            if behind:
                behind = await self._is_replayed(client, ts, len(starts))
            await self._until(client, clock, ts)
            if wanted and not await self._spoilt(client, place, record):
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
            await client.send(_system(ts, "Finished replay", _REPLAYED))
        return False

    def _wanted(self, client: Client) -> tuple[set[int], dict[int, int]]:
        """Return the subscribed kinds of records, and the start of those requested from the past."""
        kinds: set[int] = set()
        starts: dict[int, int] = {}
        for subscription in client.subscriptions:
            for kind, schemas in _SCHEMAS.items():
                # Files distinguish these two only by their metadata, which may be missing.
                if subscription.get("schema") in schemas:
                    kinds.add(kind)
                    if "start" in subscription:
                        starts[kind] = min(int(subscription["start"]), starts.get(kind, dbn.INT64_MAX))
        return kinds, starts

    def _numbers(self, client: Client) -> set[int]:
        asked = {name for one in client.subscriptions for name in one.get("symbols", "").split(",")}
        if ALL_SYMBOLS in asked:
            return set(self._names)
        return {number for number, name in self._names.items() if name in asked or str(number) in asked}

    async def _begin(self, client: Client, numbers: Collection[int]) -> None:
        """Send the metadata without instruments, then the mapping of every number, and errors for unknown symbols."""
        metadata = databento_dbn.Metadata(
            dataset=self.dataset,
            start=self.began,
            stype_in=None,
            stype_out=dbn.INSTRUMENT_ID,
            schema=None if self._schema is None else databento_dbn.Schema.from_str(str(self._schema)),
            version=databento_dbn.DBN_VERSION,
        )
        await client.send(bytes(metadata))
        for number in sorted(numbers):
            await client.send(self._mapping(number))
        asked = {name for one in client.subscriptions for name in one.get("symbols", "").split(",")}
        known = {ALL_SYMBOLS, *self._names.values(), *map(str, self._names)}
        for name in sorted(asked - known):
            await client.send(self._error(f"Failed to resolve symbol {name}", 4))
        schemas = dict.fromkeys(one.get("schema", "") for one in client.subscriptions)
        for number, schema in enumerate(schemas, start=1):
            text = f"Subscription request {number} for {schema} data succeeded"
            await client.send(_system(self.began, text, _ACKNOWLEDGED))
        await client.flush()

    def _mapping(self, number: int) -> bytes:
        name, raw = self._names[number], dbn.RAW_SYMBOL
        return bytes(databento_dbn.SymbolMappingMsg(0, number, self.began, raw, name, raw, name, 0, dbn.INT64_MAX))

    def _error(self, text: str, code: int) -> bytes:
        return bytes(databento_dbn.ErrorMsg(self.began, text, is_last=True, code=databento_dbn.ErrorCode(code)))

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
            for record in _snapshot_records(book, newest[key]):
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
            await client.send(_system(clock.ts(ts, max(0.0, wait_s)), "Heartbeat", _HEARTBEAT))
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
                await client.send(self._error("Skipped records after slow reading", 7))
        return True

    async def _finish(self, client: Client) -> None:
        """Announce the end of the file."""
        client.finished = True
        self.finished += 1
        if not self.loop:
            await client.send(_system(0, END_REASON, _UNSET))
        await client.flush()
        _LOG.info("played to the end", client=client.id, sent=client.sent)
        if self.loop:
            self.past = 0
            client.writer.transport.abort()

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
                "clients": [client.view(frames) for client in self.clients.values()],
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


def _system(ts: int, text: str, code: int) -> bytes:
    return bytes(databento_dbn.SystemMsg(ts, text, databento_dbn.SystemCode(code)))


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


def _snapshot_records(book: OrderBook, newest: bytes) -> Iterator[bytes]:
    """Yield a book as a clear and adds, all flagged, the last as such; `newest` is the last record before it."""
    length, kind, publisher, number, ts, *_, ts_recv, _, sequence = dbn.ORDER.unpack(newest[: dbn.ORDER.size])
    flags = dbn.SNAPSHOT | dbn.BAD_TS_RECV
    rest = [
        (order_id, level.price, size, ord("B") if side == BID else ord("A"))
        for side in (BID, ASK)
        for level in book.levels(side)
        for order_id, size in book.queue(side, level.price)
    ]
    rows = [(0, dbn.UNDEF_PRICE, 0, ord("N"), ord("R")), *((*one, ord("A")) for one in rest)]
    for place, (order_id, price, size, side_letter, action) in enumerate(rows, start=1):
        last = dbn.LAST if place == len(rows) else 0
        yield dbn.ORDER.pack(length, kind, publisher, number, ts, order_id, price, size, flags | last, 0, action,
                             side_letter, ts_recv, 0, sequence)  # fmt: skip
