"""An API as a real process before the shared Kafka, registry and TimescaleDB, each test with its own topics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import msgspec
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg import sql
from websockets.asyncio.client import ClientConnection, connect

from infra.local.settings import free_port
from infra.local.table import Endpoints
from marketdata.book_state import CHAIN, OPERATOR, BooksState
from marketdata.clock import MILLISECOND_NS
from marketdata.codec import Codec
from marketdata.commit import PIPELINE_GROUP, Mark
from marketdata.events import EVENTS, AnyEvent, Checkpoint
from marketdata.headers import HOPS, Hops, Position
from marketdata.state import pack_state
from marketdata.topics import INGEST_BOOKS, INSTRUMENTS, PARTITIONS, PUBLIC, TOPICS
from runtime.admin import TopicAdmin
from runtime.kafka import consumer_config, producer_config
from runtime.registry import Registry
from runtime.settings import CommonSettings
from sink import migrations
from tests.waiting import WAIT_S, wait_for

ROOT = Path(__file__).parents[2]


class Stage:
    """The topics before the API, the tables beside it, and the API itself."""

    def __init__(self, endpoints: Endpoints, prefix: str, schema: str, folder: Path, codec: Codec) -> None:
        self.endpoints = endpoints
        self.prefix = prefix
        self.schema = schema
        self.codec = codec
        self.kafka = CommonSettings(
            kafka_brokers=endpoints.kafka_brokers, registry_url=endpoints.registry_url, topic_prefix=prefix
        )
        self.producer = Producer(producer_config(self.kafka, "test"))
        self.env = (
            os.environ
            | endpoints.environment()
            | {"TICKSTREAM_TOPIC_PREFIX": prefix, "TICKSTREAM_DATABASE_SCHEMA": schema, "TICKSTREAM_STALE_S": "3600"}
        )
        self.log = folder / "api.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.inputs: Counter[int] = Counter()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def make_topics(self) -> None:
        """Make every topic."""
        TopicAdmin(self.kafka).apply(TOPICS)

    def make_tables(self) -> None:
        """Make every table."""
        migrations.upgrade(self.endpoints.database_url, self.schema)

    def produce(self, *events: AnyEvent, headers: dict[str, bytes] | None = None, t_recv: int = 0) -> None:
        """Write events to their topics; `t_recv` is when they were really received, as their headers state it."""

        def delivered(error: Any, _: Any) -> None:
            assert error is None, error

        for event in events:
            topic = INSTRUMENTS if event.schema == "Instrument" else PUBLIC[event.schema]
            extra: dict[str, str | bytes | None] = dict(headers or {})
            partition = self.partition(event)
            if event.schema == "BookUpdate":
                position = Position(INGEST_BOOKS.physical(self.prefix), partition, self.inputs[partition])
                extra.setdefault(HOPS, Hops(t_recv=t_recv, input=position).to_header())
                self.inputs[partition] += 1
            elif t_recv:
                extra.setdefault(HOPS, Hops(t_recv=t_recv).to_header())
            self.producer.produce(
                topic.physical(self.prefix),
                key=event.key.encode(),
                value=self.codec.encode(event),
                headers=extra,
                partition=partition,
                on_delivery=delivered,
            )
        assert self.producer.flush(30) == 0

    @staticmethod
    def partition(event: AnyEvent) -> int:
        """Return the partition of an event's market: a candle goes where its market goes."""
        return crc32(f"{event.venue}:{getattr(event, 'symbol', '')}".encode()) % PARTITIONS

    def save(self, venue: str, symbol: str, state: BooksState) -> None:
        """Write a book's checkpoint, which reflects all updates so far, and commit it, as the pipeline does."""
        event = Checkpoint(
            venue=venue,
            symbol=symbol,
            chain=CHAIN,
            partition=0,
            offset=0,
            topic_id="id",
            ts_recv=time.time_ns(),
            states={OPERATOR: pack_state(state)},
        )
        partition = self.partition(event)
        end = self.inputs[partition]
        self.produce(msgspec.structs.replace(event, partition=partition, offset=end - 1))
        mark = Mark(topic_id="id", replay_from=end, checkpoints_since_ms=event.ts_recv // MILLISECOND_NS)
        group = Consumer(consumer_config(self.kafka, PIPELINE_GROUP))
        where = TopicPartition(INGEST_BOOKS.physical(self.prefix), partition, end, mark.text())
        group.commit(offsets=[where], asynchronous=False)
        group.close()

    def start(self, **env: str) -> None:
        """Start the API process; it may not be ready yet."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api"],
                env=self.env | {"TICKSTREAM_API_PORT": str(self.port)} | env,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        wait_for("the API to answer", lambda: self.client.get("/healthz").status_code == 200)

    def ready(self) -> None:
        """Wait until everything that the API depends on answers and the topics are read."""
        wait_for("the API to be ready", lambda: self.get("/readyz")["status"] == "ready")

    def kill(self) -> None:
        """End the API at once, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Ask the API to leave; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def get(self, path: str, status: int = 200, **parameters: Any) -> Any:
        """Return the JSON of an answer with this status."""
        answer = self.client.get(path, params=parameters)
        assert answer.status_code == status, (answer.status_code, answer.text[:2000])
        return answer.json()

    def metric(self, line: str) -> float:
        """Return the value of one line of /metrics, 0 when it is not there."""
        text = self.client.get("/metrics").text
        values = [found.split()[-1] for found in text.splitlines() if found.startswith(line)]
        return float(values[0]) if values else 0.0

    def execute(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each row in this test's schema, as the owner."""
        options = f"-c search_path={self.schema},public -c timezone=UTC"
        with psycopg.connect(self.endpoints.database_url, options=options) as connection:
            connection.cursor().executemany(statement, list(rows))

    def remove(self) -> None:
        """Remove topics and tables."""
        admin = AdminClient({"bootstrap.servers": self.endpoints.kafka_brokers})
        mine = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(self.prefix)]
        for removal in admin.delete_topics(mine).values():
            removal.result(timeout=10)
        with psycopg.connect(self.endpoints.database_url, autocommit=True) as owner:
            owner.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self.schema)))

    def clear(self) -> None:
        """End what still runs."""
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)


class Gate:
    """A TCP proxy in front of the database that can be closed and opened."""

    def __init__(self, url: str) -> None:
        parts = psycopg.conninfo.conninfo_to_dict(url)
        self._target = (str(parts["host"]), int(str(parts["port"])))
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._port = free_port()
        self.url = psycopg.conninfo.make_conninfo(url, host="127.0.0.1", port=self._port)
        self.open()

    def open(self) -> None:
        """Accept connections."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections and cut those there are."""
        listener, self._listener = self._listener, None
        for one in (listener, *self._sockets):
            if one is not None:
                with contextlib.suppress(OSError):  # the other end may be gone already
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = listener.accept()
                self._sockets.append(client)
                server = socket.create_connection(self._target)
                self._sockets.append(server)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the gate was closed, or one end went away
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class Socket:
    """A WebSocket client that knows our messages."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **message: Any) -> None:
        """Send a message."""
        await self.connection.send(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        """Return the next message."""
        async with asyncio.timeout(WAIT_S):
            message: dict[str, Any] = json.loads(await self.connection.recv())
            return message

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Return messages up to the first that is wanted."""
        messages = []
        while True:
            messages.append(await self.receive())
            if wanted(messages[-1]):
                return messages

    async def subscribe(self, *channels: str, symbols: tuple[str, ...] = ("BTC-USD",), **more: Any) -> dict[str, Any]:
        """Subscribe and return the answer."""
        await self.send(op="subscribe", id=1, channels=list(channels), symbols=list(symbols), **more)
        return await self.receive()


@asynccontextmanager
async def open_socket(stage: Stage, *, slow: bool = False, **options: Any) -> AsyncIterator[Socket]:
    """Connect to the API's WebSocket; a slow client's own buffers hold little, so that the server must hold it."""
    if slow:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        small.connect(("127.0.0.1", stage.port))
        options |= {"sock": small, "max_queue": 1}
    options = {"max_size": 64 * 1024 * 1024, "compression": None, "proxy": None} | options
    async with connect(f"ws://127.0.0.1:{stage.port}/ws", **options) as connection:
        yield Socket(connection)


@pytest.fixture(scope="session")
def codec(endpoints: Endpoints) -> Codec:
    """A codec with every schema registered."""
    registry = Registry(endpoints.registry_url)
    try:
        for event in EVENTS:
            registry.register(event.schema)
        return registry.codec()
    finally:
        registry.close()


@pytest.fixture(scope="session")
def shared(endpoints: Endpoints, codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One API that is ready, for every test that only adds a market of its own (see `symbol`)."""
    with _running(endpoints, codec, tmp_path_factory.mktemp("api")) as one:
        yield one


@pytest.fixture(scope="session")
def secured(endpoints: Endpoints, codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One API that is ready and serves nobody without a key; tests make keys and markets of their own."""
    with _running(endpoints, codec, tmp_path_factory.mktemp("secured"), TICKSTREAM_API_ANONYMOUS="0") as one:
        yield one


@contextmanager
def _running(endpoints: Endpoints, codec: Codec, folder: Path, **env: str) -> Iterator[Stage]:
    name = uuid.uuid4().hex[:8]
    one = Stage(endpoints, f"t{name}.", f"t_{name}", folder, codec)
    one.make_topics()
    one.make_tables()
    one.start(**env)
    one.ready()
    yield one
    one.clear()
    one.remove()


@pytest.fixture
def symbol() -> str:
    """A symbol that no other test uses."""
    return f"{uuid.uuid4().hex[:10].upper()}-USD"


@pytest.fixture
def bare_stage(
    endpoints: Endpoints,
    topic_prefix: str,
    database_schema: str,
    tmp_path: Path,
    codec: Codec,
) -> Iterator[Stage]:
    """No topics, no tables, no API process yet; its log is printed when the test failed."""
    one = Stage(endpoints, topic_prefix, database_schema, tmp_path, codec)
    yield one
    one.clear()
    if one.log.exists():
        sys.stderr.write(one.log.read_text(errors="replace")[-4000:])


@pytest.fixture
def stage(bare_stage: Stage) -> Stage:
    """Topics and tables, and no API process yet."""
    bare_stage.make_topics()
    bare_stage.make_tables()
    return bare_stage


@pytest.fixture
def api(stage: Stage) -> Stage:
    """Topics, tables and an API that is ready."""
    stage.start()
    stage.ready()
    return stage


@pytest.fixture
def gate(endpoints: Endpoints) -> Iterator[Gate]:
    """A gate before the database, open; `url` is the API role's address through it."""
    one = Gate(endpoints.api_database_url)
    yield one
    one.close()


@pytest.fixture(name="open_socket")
def open_socket_() -> Callable[..., Any]:
    """The function `open_socket`, which test modules cannot import from here."""
    return open_socket
