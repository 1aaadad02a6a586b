"""The protocol of Databento's live gateway, without what it plays: greeting, authentication, subscriptions, limits.

1. The gateway greets with its version and a challenge, each a line of text. The client answers with a digest of the
   challenge and its key, and the dataset. The answer is `success=1` with a session id, or `success=0` with an error.
2. The client subscribes, a line for each schema and list of symbols, and sends `start_session`. Then records follow:
   metadata, the mapping of each instrument, an error record for each symbol that does not resolve (code 4), and a
   system record that acknowledges each schema.
3. A team has 10 sessions of a dataset at a time; a further one is answered with an error record (code 3) and closed. A
   sixth connection of one address within a second is closed at once. More than ten subscriptions a second are delayed.

Sources: "Connection limits" and "Errors", https://databento.com/docs/api-live/basics/connection-limits and .../errors.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Self

import databento_dbn
import structlog

from infra.simulator.limits import Limits, Window
from marketdata import dbn
from marketdata.orders import ASK, BID, OrderBook

VERSION = "0.7.2"
LINE_BYTES_MAX = 64 * 1024
WRITE_BYTES = 64 * 1024
HEARTBEAT_S = 30.0
ALL_SYMBOLS = "ALL_SYMBOLS"

# `streams` counts sessions of one dataset, `messages` subscriptions.
LIMITS = Limits(streams=10, messages=(10, 1), attempts=(5, 1))
UNLIMITED = Limits()

HEARTBEAT, ACKNOWLEDGED, REPLAYED, UNSET = 0, 1, 3, 255  # codes of system records
TOO_MANY_SESSIONS, UNRESOLVED, INVALID, SKIPPED, AGED_OUT = 3, 4, 5, 7, 8  # codes of error records

# The schemas whose records have each kind.
SCHEMAS = {
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


class Client:
    """One client's connection: its subscriptions and its progress."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.id = number
        self.reader = reader
        self.writer = writer
        self.heartbeat_s = HEARTBEAT_S
        self.sent = 0
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


class GatewayServer(ABC):
    """Serves authenticated clients; `play` sends what they subscribed.

    `keys` are the accepted API keys, None accepts any. `heartbeat_s` overrides the interval that clients request.
    """

    def __init__(
        self, *, keys: Collection[str] | None = None, heartbeat_s: float | None = None, limits: Limits = UNLIMITED
    ) -> None:
        self.port = 0
        self.clients: dict[int, Client] = {}
        self.refused: Counter[str] = Counter()
        self.dataset = ""
        self.began = 0
        self._keys = keys
        self._heartbeat_s = heartbeat_s
        self._limits = limits
        self._attempts = Window(limits.attempts)
        self._next = 1
        self._sessions: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def play(self, client: Client) -> None:
        """Send the subscribed records until the end. Raises EOFError when the client has disconnected."""

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[Self]:
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
        if not self._attempts.takes(time.monotonic()):
            self.refused["attempts"] += 1
            writer.transport.abort()
            return
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
                await self._subscribed(client)
        except EOFError:
            _LOG.info("client left", client=client.id, sent=client.sent)
        finally:
            self.clients.pop(client.id, None)
            self._sessions.discard(client.id)
            client.writer.close()

    async def _authenticated(self, client: Client) -> bool:
        """Greet and authenticate a client; False if it is rejected."""
        challenge = secrets.token_urlsafe(24)
        client.line(lsg_version=VERSION)
        client.line(cram=challenge)
        asked = await client.read_line()
        error = self._refusal(challenge, asked)
        if error is not None:
            self.refused[error] += 1
            client.line(success=0, error=error)
            with suppress(ConnectionError):
                await client.writer.drain()
            return False
        client.heartbeat_s = self._heartbeat_s or float(asked.get("heartbeat_interval_s") or HEARTBEAT_S)
        client.line(success=1, session_id=client.id)
        return True

    async def _subscribed(self, client: Client) -> None:
        """Read the subscriptions of an authenticated client, then play."""
        window = Window(self._limits.messages)
        while "start_session" not in (asked := await client.read_line()):
            await asyncio.sleep(window.wait_s(time.monotonic()))
            window.takes(time.monotonic())
            client.subscriptions.append(asked)
        if self._limits.streams is not None and len(self._sessions) >= self._limits.streams:
            self.refused["sessions"] += 1
            await client.send(metadata(self.dataset, self.began))
            await client.send(error(self.began, "User has reached their open connection limit", TOO_MANY_SESSIONS))
            await client.flush()
            return
        self._sessions.add(client.id)
        await self.play(client)

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

    async def begin(
        self,
        client: Client,
        names: Mapping[int, str],
        schema: str | None = None,
        is_refused: Callable[[str], bool] = lambda _name: False,
    ) -> set[int]:
        """Send what a session begins with; return the subscribed instruments."""
        asked = _asked(client.subscriptions)
        refused = {name for name in sorted(asked) if is_refused(name)}
        numbers = {number for number in subscribed(client.subscriptions, names) if names[number] not in refused}
        await client.send(metadata(self.dataset, self.began, schema))
        for number in sorted(numbers):
            await client.send(mapping(number, names[number], self.began))
        known = {ALL_SYMBOLS, *names.values(), *map(str, names)} - refused
        for name in sorted(asked - known):
            self.refused["symbol"] += 1
            await client.send(error(self.began, f"Failed to resolve symbol {name}", UNRESOLVED))
        schemas = dict.fromkeys(one.get("schema", "") for one in client.subscriptions)
        for place, name in enumerate(schemas, start=1):
            text = f"Subscription request {place} for {name} data succeeded"
            await client.send(system(self.began, text, ACKNOWLEDGED))
        await client.flush()
        return numbers


def _asked(subscriptions: Iterable[Mapping[str, str]]) -> set[str]:
    return {name for one in subscriptions for name in one.get("symbols", "").split(",")}


def subscribed(subscriptions: Iterable[Mapping[str, str]], names: Mapping[int, str]) -> set[int]:
    """Return which of these instruments are subscribed, by their symbols, their numbers or as all."""
    asked = _asked(subscriptions)
    return {n for n, name in names.items() if ALL_SYMBOLS in asked or name in asked or str(n) in asked}


def wanted(subscriptions: Iterable[Mapping[str, str]]) -> tuple[set[int], dict[int, int]]:
    """Return the subscribed kinds of records, and the start of those requested from the past."""
    kinds: set[int] = set()
    starts: dict[int, int] = {}
    for subscription in subscriptions:
        for kind, schemas in SCHEMAS.items():
            # Files distinguish some of these only by their metadata, which may be missing.
            if subscription.get("schema") in schemas:
                kinds.add(kind)
                if "start" in subscription:
                    starts[kind] = min(int(subscription["start"]), starts.get(kind, dbn.INT64_MAX))
    return kinds, starts


def metadata(dataset: str, began: int, schema: str | None = None) -> bytes:
    """Return the metadata of a session, which names no instruments."""
    return bytes(databento_dbn.Metadata(
        dataset=dataset,
        start=began,
        stype_in=None,
        stype_out=dbn.INSTRUMENT_ID,
        schema=None if schema is None else databento_dbn.Schema.from_str(schema),
        version=databento_dbn.DBN_VERSION,
    ))  # fmt: skip


def mapping(number: int, name: str, ts: int) -> bytes:
    """Return the record that maps an instrument's number to its symbol."""
    raw = dbn.RAW_SYMBOL
    return bytes(databento_dbn.SymbolMappingMsg(0, number, ts, raw, name, raw, name, 0, dbn.INT64_MAX))


def system(ts: int, text: str, code: int) -> bytes:
    """Return a system record."""
    return bytes(databento_dbn.SystemMsg(ts, text, databento_dbn.SystemCode(code)))


def error(ts: int, text: str, code: int) -> bytes:
    """Return an error record."""
    return bytes(databento_dbn.ErrorMsg(ts, text, is_last=True, code=databento_dbn.ErrorCode(code)))


def snapshot_records(book: OrderBook, newest: bytes) -> Iterator[bytes]:
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
