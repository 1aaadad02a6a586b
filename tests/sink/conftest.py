"""A sink as a real process between the shared Kafka and TimescaleDB; each test has its own topics and schema."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.local.settings import free_port
from infra.local.table import Endpoints
from marketdata.codec import Codec
from marketdata.events import EVENTS, AnyEvent, DeadLetter, Trade, Trades
from marketdata.topics import INSTRUMENTS, PARTITIONS, PUBLIC, Topic
from runtime.admin import TopicAdmin
from runtime.health import Readiness
from runtime.kafka import headers_of, producer_config
from runtime.registry import Registry
from runtime.settings import CommonSettings
from runtime.tracing import Tracing
from sink import migrations
from sink.brokers import DeadLetterPublisher
from sink.service import GROUP, TOPICS, Sink
from sink.settings import SinkSettings
from sink.writer import Writer
from tests.waiting import WAIT_S, wait_for

ROOT = Path(__file__).parents[2]
TS = 1_786_309_548_228_568_123  # 2026-08-09T21:05:48.228568123Z


def trades(number: int, count: int = 1, symbol: str = "BTC-USD", **changes: Any) -> Trades:
    """Return message `number` with `count` trades, whose ids contain the message and index."""
    return Trades(
        venue="coinbase",
        symbol=symbol,
        ts_event=TS + number,
        ts_recv=TS + number + 1_000,
        line="coinbase/0",
        sequence=number,
        trades=tuple(
            Trade(
                trade_id=f"{symbol}/{number}/{item}",
                ts_event=TS + number,
                price=f"{64_000 + number}.0{item}",
                size="0.12345678",
                side="buy",
            )
            for item in range(count)
        ),
        **changes,
    )


class Gate:
    """A TCP proxy in front of the database that can be closed, frozen, or set to cut a connection at its COMMIT."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener: socket.socket | None = None
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._frozen = threading.Event()
        self.cut_commit: str | None = None  # "before" or "after" it reached the server; once
        self.port = free_port()
        self.open()

    def open(self) -> None:
        """Accept connections again."""
        self._frozen.clear()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._listener)

    def ports(self) -> list[int]:
        """Return the local ports of its connections to the server, which identify its sessions there."""
        return [one.getsockname()[1] for one in self._sockets if one.fileno() >= 0]

    def freeze(self) -> None:
        """Stop forwarding data, like a server that hangs."""
        self._frozen.set()

    def close(self) -> None:
        """Refuse new connections and break existing ones."""
        if self._listener is not None:
            self._cut(self._listener)
        for one in self._sockets:
            self._cut(one)
        for thread in self._threads:
            thread.join(10)
        for one in self._sockets:
            one.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._sockets.clear()
        self._threads.clear()

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    @staticmethod
    def _cut(one: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it may be closed already
            one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            self._start(self._pump, client, server, True)
            self._start(self._pump, server, client, False)

    def _pump(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if self._frozen.is_set():
                    return
                if is_client and self.cut_commit and b"COMMIT" in data:
                    when, self.cut_commit = self.cut_commit, None
                    self._cut(source)
                    if when == "before":
                        break
                target.sendall(data)
        self._cut(target)


class Services:
    """The topics before the sink, the sink itself, and the tables after it."""

    def __init__(self, endpoints: Endpoints, prefix: str, schema: str, folder: Path, codec: Codec) -> None:
        self.endpoints = endpoints
        self.prefix = prefix
        self.schema = schema
        self.codec = codec
        self.kafka = CommonSettings(
            kafka_brokers=endpoints.kafka_brokers, registry_url=endpoints.registry_url, topic_prefix=prefix
        )
        TopicAdmin(self.kafka).apply(TOPICS)
        migrations.upgrade(endpoints.database_url, schema)
        self.producer = Producer(producer_config(self.kafka, "test"))
        self._folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}

    def produce(self, events: Iterable[AnyEvent], headers: dict[str, bytes] | None = None) -> None:
        """Write events to their topics, and wait for their delivery."""
        for event in events:
            topic = INSTRUMENTS if event.schema == "Instrument" else PUBLIC[event.schema]
            self.produce_bytes(topic, event.key.encode(), self.codec.encode(event), headers)
        assert self.producer.flush(30) == 0

    def produce_bytes(
        self, topic: Topic, key: bytes, value: bytes | None, headers: dict[str, bytes] | None = None
    ) -> None:
        """Write one raw record."""
        self.producer.poll(0)
        self.producer.produce(topic.physical(self.prefix), key=key, value=value, headers=dict(headers or {}))

    def start(self, name: str = "sink", **env: str) -> None:
        """Start a sink process."""
        self.ports[name] = free_port()
        variables = os.environ | self.environment(self.ports[name]) | {"TICKSTREAM_SINK_WORKER": name} | env
        with (self._folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "sink"], env=variables, stdout=log, stderr=log, cwd=ROOT
            )

    def delete_before(self, partition: TopicPartition) -> None:
        """Delete a partition's records below an offset, as retention does."""
        admin = AdminClient({"bootstrap.servers": self.endpoints.kafka_brokers})
        for deletion in admin.delete_records([partition]).values():
            deletion.result(30)

    def environment(self, port: int) -> dict[str, str]:
        """Return a sink's settings with small windows, so that a test sees many transactions."""
        return self.endpoints.environment() | {
            "TICKSTREAM_TOPIC_PREFIX": self.prefix,
            "TICKSTREAM_GROUP_PREFIX": self.prefix,
            "TICKSTREAM_DATABASE_SCHEMA": self.schema,
            "TICKSTREAM_METRICS_PORT": str(port),
            "TICKSTREAM_SINK_WINDOW_MS": "10",
        }

    @contextlib.contextmanager
    def inside(self, **changes: Any) -> Iterator[Sink]:
        """Run a sink in this process, for a test that accesses its internals."""
        given = {name.removeprefix("TICKSTREAM_").lower(): value for name, value in self.environment(0).items()}
        fields = {name: value for name, value in given.items() if name in SinkSettings.model_fields}
        settings = SinkSettings(**(fields | changes))
        readiness = Readiness("kafka", "database", "registry", "reading")
        readiness.up("registry")
        writer = Writer(
            settings.dsn,
            self.schema,
            publish=DeadLetterPublisher(settings, self.codec).publish,
            decode=self.codec.decode,
            now=time.time_ns,
        )
        registry, stop = Registry(self.endpoints.registry_url), threading.Event()
        with Tracing("sink", None) as tracing:
            sink = Sink(
                settings, readiness=readiness, registry=registry, codec=self.codec, writer=writer, tracing=tracing
            )
            thread = threading.Thread(target=sink.run, args=[stop])
            thread.start()
            try:
                yield sink
            finally:
                stop.set()
                thread.join(60)
                registry.close()
        assert not thread.is_alive()

    def signal(self, number: signal.Signals, name: str = "sink") -> None:
        """Send a signal to a sink."""
        self.processes[name].send_signal(number)

    def kill(self, name: str = "sink") -> None:
        """Kill a sink, like a crash."""
        self.signal(signal.SIGKILL, name)
        self.processes[name].wait(10)

    def stop(self, name: str = "sink") -> int:
        """Stop a sink with SIGTERM once it has a handler; return its exit status."""
        wait_for("a handler of SIGTERM", lambda: _catches(self.processes[name].pid, signal.SIGTERM))
        self.signal(signal.SIGTERM, name)
        return self.processes[name].wait(30)

    def clear(self) -> None:
        """Stop running processes."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(10)

    def ready(self, name: str = "sink") -> httpx.Response:
        """Return the response of /readyz."""
        return httpx.get(f"http://127.0.0.1:{self.ports[name]}/readyz", timeout=5, verify=False, trust_env=False)

    def metric(self, line: str, name: str = "sink") -> float | None:
        """Return the value of one line of /metrics, None if it is missing."""
        text = httpx.get(f"http://127.0.0.1:{self.ports[name]}/metrics", timeout=5, verify=False, trust_env=False).text
        values = [found.split()[-1] for found in text.splitlines() if found.startswith(line)]
        return float(values[0]) if values else None

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query in this test's schema."""
        options = f"-c search_path={self.schema},public -c timezone=UTC"
        with psycopg.connect(self.endpoints.database_url, options=options) as connection:
            return connection.execute(query, values).fetchall()

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    @contextlib.contextmanager
    def commits_held(self) -> Iterator[Callable[[], int]]:
        """Block the COMMIT of every transaction that stores records during the context.

        Yields a function that waits for a sink's COMMIT and returns the process id of its session on the server.
        """
        options = f"-c search_path={self.schema}"
        with psycopg.connect(self.endpoints.database_url, options=options, autocommit=True) as owner:
            key = owner.execute("SELECT hashtext(current_schema)").fetchone()
            assert key is not None
            owner.execute("SELECT pg_advisory_lock(%s)", key)
            owner.execute(
                f"CREATE OR REPLACE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
                f"'BEGIN PERFORM pg_advisory_xact_lock_shared({key[0]}); RETURN NULL; END'"
            )
            owner.execute(
                "CREATE CONSTRAINT TRIGGER wait_for_test AFTER UPDATE ON kafka_offsets DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION wait_for_test()"
            )

            def held() -> int | None:
                row = owner.execute(
                    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
                    "AND %s = ANY(pg_blocking_pids(pid))",
                    [owner.info.backend_pid],
                ).fetchone()
                return int(row[0]) if row else None

            yield lambda: wait_for("a COMMIT that waits", held)
            owner.execute("SELECT pg_advisory_unlock(%s)", key)
            # Dropped once no transaction uses it.
            owner.execute("DROP TRIGGER wait_for_test ON kafka_offsets")

    def end_session(self, pid: int) -> None:
        """Terminate a session of the server, and with it its uncommitted transaction."""
        with psycopg.connect(self.endpoints.sink_database_url, autocommit=True) as same_role:
            ended = same_role.execute("SELECT pg_terminate_backend(%s, 30000)", [pid]).fetchone()
        assert ended == (True,)

    def wait_rows(self, table: str, number: int, limit_s: float = WAIT_S) -> None:
        """Wait until a table has at least a number of rows."""
        wait_for(f"{number} rows in {table}, {self.count(table)} now", lambda: self.count(table) >= number, limit_s)

    def letters(self, number: int) -> list[tuple[DeadLetter, dict[str, bytes]]]:
        """Return the first dead letters of the sink in Kafka, with their headers."""
        topic = next(one for one in TOPICS if one.schema == "DeadLetter")
        consumer = self._consumer("look")
        consumer.assign([TopicPartition(topic.physical(self.prefix), number, 0) for number in range(PARTITIONS)])
        found: list[tuple[DeadLetter, dict[str, bytes]]] = []

        def look() -> bool:
            for message in consumer.consume(number, 0.5):
                assert message.error() is None, message.error()
                if "ce_id" not in headers_of(message):
                    continue  # published by the test itself
                letter = self.codec.decode(message.value() or b"")
                assert isinstance(letter, DeadLetter)
                found.append((letter, headers_of(message)))
            return len(found) >= number

        wait_for(f"{number} dead letters", look)
        consumer.close()
        return found

    def _consumer(self, group: str) -> Consumer:
        # Without commits: a consumer with pending commits may wait in close() without a limit.
        brokers, group = self.endpoints.kafka_brokers, f"{self.prefix}{group}"
        return Consumer({"bootstrap.servers": brokers, "group.id": group, "enable.auto.commit": False})

    def committed(self) -> int:
        """Return the sum of the group's committed offsets in Kafka over all partitions."""
        consumer = self._consumer(GROUP)
        partitions = [
            TopicPartition(topic.physical(self.prefix), number) for topic in TOPICS for number in range(PARTITIONS)
        ]
        total = sum(max(0, partition.offset) for partition in consumer.committed(partitions, timeout=10))
        consumer.close()
        return total


def _catches(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler of a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) & 1 << number - 1)


@pytest.fixture(scope="session")
def codec(endpoints: Endpoints) -> Codec:
    """A codec with every schema registered."""
    return registered(endpoints)


def registered(endpoints: Endpoints) -> Codec:
    """Register every schema and return a codec that knows them."""
    registry = Registry(endpoints.registry_url)
    for event in EVENTS:
        registry.register(event.schema)
    known = registry.codec()
    registry.close()
    return known


@pytest.fixture
def build_services(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Services]]:
    """A function that creates topics and tables, with a sink not started yet; prints its log if the test failed."""
    failed_before = request.session.testsfailed
    with contextlib.ExitStack() as stack:

        def build(endpoints: Endpoints, prefix: str, schema: str, codec: Codec | None = None) -> Services:
            one = Services(endpoints, prefix, schema, tmp_path, codec or registered(endpoints))
            stack.callback(one.clear)
            return one

        yield build
    if request.session.testsfailed > failed_before:
        for path in sorted(tmp_path.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            sys.stderr.write("\n".join([f"== {path.name}", *lines[-25:], ""]))


@pytest.fixture
def services(
    endpoints: Endpoints, topic_prefix: str, database_schema: str, codec: Codec, build_services: Callable[..., Services]
) -> Services:
    """Topics, tables and a sink between the shared servers; the sink stops before its topics and tables are deleted."""
    return build_services(endpoints, topic_prefix, database_schema, codec)


@pytest.fixture
def gate(endpoints: Endpoints) -> Iterator[tuple[Gate, str]]:
    """A proxy in front of the database, and the sink's connection URL through it."""
    parts = psycopg.conninfo.conninfo_to_dict(endpoints.sink_database_url)
    one = Gate(str(parts["host"]), int(str(parts["port"])))
    yield one, psycopg.conninfo.make_conninfo(endpoints.sink_database_url, host="127.0.0.1", port=one.port)
    one.close()


@pytest.fixture(name="trades")
def trades_() -> Callable[..., Trades]:
    """The function `trades`, which test modules cannot import from here."""
    return trades
