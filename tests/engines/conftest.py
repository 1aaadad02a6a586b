"""A laboratory for the engines: own topics on the real Kafka, worker processes, and what they wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from infra.local import settings
from infra.local.table import Endpoints
from marketdata import topics
from marketdata.codec import Codec
from marketdata.events import EVENTS, AnyEvent, Trade, Trades
from marketdata.headers import hops_of, record_id
from runtime.registry import Registry
from tests.waiting import WAIT_S, wait_for

PROJECT = Path(__file__).resolve().parents[2]
COUNTING = Path(__file__).with_name("counting.py")
SECOND_NS = 1_000_000_000
START_NS = 1_780_000_000 * SECOND_NS


class Written(msgspec.Struct, frozen=True):
    """One output record, without what may differ between runs: times and trace ids."""

    topic: str
    partition: int  # of the input
    key: str
    input: str
    position: tuple[int, int]
    value: bytes


class WorkerProcess:
    """One worker process; its log is in `log`."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(command, env=environment, cwd=PROJECT, stderr=out, stdout=out)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def alive(self) -> bool:
        """Return whether it runs."""
        return self._process.poll() is None

    def how(self) -> str:
        """Return whether it runs, or how it ended: a crash leaves no other trace."""
        code = self._process.poll()
        return "running" if code is None else f"ended with {code}"

    def kill(self) -> None:
        """End it without a chance to do anything."""
        self._process.kill()
        self._process.wait(10)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def terminate(self, limit_s: float = 15.0) -> int:
        """Ask it to drain and return its exit code."""
        if self.alive():
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(limit_s)

    def wait(self, limit_s: float) -> int:
        """Return its exit code."""
        return self._process.wait(limit_s)


class Lab:
    """Topics, inputs, workers and outputs of one test."""

    def __init__(self, endpoints: Endpoints, prefix: str, codec: Codec, folder: Path) -> None:
        self.endpoints = endpoints
        self.prefix = prefix
        self.codec = codec
        self.folder = folder
        self.workers: list[WorkerProcess] = []
        self.producer = Producer(
            {"bootstrap.servers": endpoints.kafka_brokers, "message.max.bytes": 32 << 20, "enable.idempotence": True}
        )
        # The run that numbers the records, as a producer of ours does; none without it.
        self.run = ""
        self._consumer = Consumer(
            {
                "bootstrap.servers": endpoints.kafka_brokers,
                "group.id": f"{prefix}lab",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,  # looks are short and many
            }
        )
        self._seen: dict[str, tuple[dict[int, int], list[Written]]] = {}

    def close(self) -> None:
        """End what is left."""
        for worker in self.workers:
            if worker.alive():
                worker.kill()
        self._consumer.close()

    def physical(self, name: str) -> str:
        """Return Kafka's name of a topic."""
        return topics.topic(name).physical(self.prefix)

    @staticmethod
    def trades(symbol: str, number: int) -> Trades:
        """Return an event with two trades that no other number has."""
        ts = START_NS + number * 1_000_000
        both = tuple(
            Trade(trade_id=f"{number}-{which}", ts_event=ts, price="100.1", size="0.5", side="buy")
            for which in range(2)
        )
        return Trades(venue="sim", symbol=symbol, ts_event=ts, ts_recv=ts, line="sim/0", trades=both)

    def make_topics(self) -> None:
        """Create every topic, small: hundreds of segments are no part of these tests.

        Without a retention, as some inputs have times of long ago: Kafka would delete them within five minutes.
        """
        admin = AdminClient({"bootstrap.servers": self.endpoints.kafka_brokers})
        new = [
            NewTopic(
                self.physical(topic.name),
                num_partitions=topics.PARTITIONS,
                config=topic.config() | {"retention.ms": "-1"},
            )
            for topic in topics.TOPICS
        ]
        for created in admin.create_topics(new).values():
            created.result(timeout=30)
        for topic in topics.TOPICS:
            for partition in range(topics.PARTITIONS):
                self._end(self.physical(topic.name), partition)

    def send(self, name: str, event: AnyEvent, partition: int, headers: dict[str, bytes] | None = None) -> None:
        """Produce an input."""
        self.send_bytes(name, event.key.encode(), self.codec.encode(event), partition, headers)

    def send_bytes(
        self, name: str, key: bytes, value: bytes | None, partition: int, headers: dict[str, bytes] | None = None
    ) -> None:
        """Produce an input that need not be a record of ours."""
        self.producer.produce(
            self.physical(name), key=key, value=value, partition=partition, headers=list((headers or {}).items())
        )
        self.producer.poll(0)

    def send_trades(self, numbers: range, symbols: int = 6) -> None:
        """Produce one event per number, spread over symbols and partitions."""
        self.send_trades_unflushed(numbers, symbols)
        self.producer.flush(30)

    def send_trades_unflushed(self, numbers: range, symbols: int = 6) -> None:
        """The same without waiting until Kafka has them."""
        for number in numbers:
            symbol = number % symbols
            headers = {"ce_id": record_id("lab", self.run, number)} if self.run else None
            self.send("md.ingest.trades", self.trades(f"S{symbol}-USD", number), symbol % topics.PARTITIONS, headers)

    def worker(
        self, engine: str, *, script: Path | None = COUNTING, args: tuple[str, ...] = (), **env: str
    ) -> WorkerProcess:
        """Start a worker process."""
        dropped = ("TICKSTREAM_", "PYTHONDONTWRITEBYTECODE")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        environment |= self.endpoints.environment()
        environment |= {
            "PYTHONPATH": str(PROJECT),
            "TICKSTREAM_TOPIC_PREFIX": self.prefix,
            "TICKSTREAM_GROUP_PREFIX": self.prefix,
            "TICKSTREAM_METRICS_PORT": "0",
            "TICKSTREAM_ENGINE": engine,
            "TICKSTREAM_SESSION_SECONDS": "6",
            "TICKSTREAM_WORKER": "only",
        }
        environment |= {f"TICKSTREAM_{name.upper()}": value for name, value in env.items()}
        command = [sys.executable, *([str(script)] if script else ["-m", "stream_apps"]), *args]
        started = WorkerProcess(command, environment, self.folder / f"worker-{len(self.workers)}.log")
        self.workers.append(started)
        return started

    def written(self, name: str) -> list[Written]:
        """Return what is in an output topic now, committed, in order per partition."""
        topic = self.physical(name)
        nexts, found = self._seen.setdefault(topic, (dict.fromkeys(range(topics.PARTITIONS), 0), []))
        ends = {partition: self._end(topic, partition) for partition in nexts}
        behind = {partition for partition, end in ends.items() if nexts[partition] < end}
        if not behind:
            return list(found)
        self._consumer.assign([TopicPartition(topic, partition, nexts[partition]) for partition in behind])
        deadline = time.monotonic() + 20
        while behind and time.monotonic() < deadline:
            message = self._consumer.poll(0.2)
            if message is None:
                continue
            partition, offset, error = message.partition(), message.offset(), message.error()
            assert partition is not None
            assert offset is not None
            if error is None:
                nexts[partition] = offset + 1
                found.append(_written(name, message))
            elif error.code() == KafkaError._PARTITION_EOF:
                nexts[partition] = offset
                behind.discard(partition)
        self._consumer.unassign()
        return list(found)

    def _end(self, topic: str, partition: int) -> int:
        """Return the end of a partition; that of a topic just made may have no leader yet."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            with suppress(KafkaException):
                return self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
            self._consumer.poll(0.1)
        pytest.fail(f"{topic} has no leader")

    def await_decided(self) -> None:
        """Wait until every transaction is decided: Kafka answers a commit before its records are visible everywhere."""
        admin = AdminClient({"bootstrap.servers": self.endpoints.kafka_brokers})
        wanted = {
            TopicPartition(self.physical(topic.name), partition): OffsetSpec.latest()  # type: ignore[no-untyped-call]
            for topic in topics.TOPICS
            for partition in range(topics.PARTITIONS)
        }

        def ends(level: IsolationLevel) -> dict[tuple[str, int], int]:
            asked = admin.list_offsets(wanted, isolation_level=level, request_timeout=10)
            return {(at.topic, at.partition): found.result(11).offset for at, found in asked.items()}

        wait_for(
            "every transaction to be decided",
            lambda: ends(IsolationLevel.READ_COMMITTED) == ends(IsolationLevel.READ_UNCOMMITTED),
        )

    def await_written(self, name: str, count: int, limit_s: float = WAIT_S) -> list[Written]:
        """Return an output topic's records once there are so many."""
        wait_for(f"{count} records in {name}", lambda: len(self.written(name)) >= count, limit_s)
        return self.written(name)


def _written(name: str, message: Any) -> Written:
    headers = dict(message.headers() or ())
    position = hops_of(headers).input
    assert position is not None
    # Prices of venues are keyed by the pair, so they may be in another partition than their input.
    assert name == topics.VENUE_PRICES.name or position.partition == message.partition()
    return Written(
        topic=name,
        partition=position.partition,
        key=message.key().decode(),
        input=position.topic,
        position=(position.offset, position.index),
        value=message.value(),
    )


@pytest.fixture(scope="session")
def codec(endpoints: Endpoints) -> Codec:
    """A codec with the registry's ids."""
    registry = Registry(endpoints.registry_url)
    found = Codec({event.schema: registry.register(event.schema) for event in EVENTS})
    registry.close()
    return found


@pytest.fixture
def lab(endpoints: Endpoints, topic_prefix: str, codec: Codec, tmp_path: Path) -> Iterator[Lab]:
    """A laboratory with its own topics."""
    made = Lab(endpoints, topic_prefix, codec, tmp_path)
    made.make_topics()
    try:
        yield made
    finally:
        for worker in made.workers:
            with suppress(OSError):
                sys.stdout.write(f"--- {worker.log.name}, {worker.how()}\n{worker.log.read_text()[-6000:]}\n")
        made.close()


@pytest.fixture
def until() -> Callable[..., Any]:
    """Waiting for a condition, with a limit."""
    return lambda condition, what, limit_s=WAIT_S: wait_for(what, condition, limit_s)


@pytest.fixture
def metrics() -> Callable[[int], str]:
    """A worker's metrics, by port."""
    return lambda port: httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5, verify=False, trust_env=False).text


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    return settings.free_port()


@pytest.fixture
def free_ports() -> tuple[int, int]:
    """Two of them."""
    return settings.free_port(), settings.free_port()


@pytest.fixture
def events(lab: Any) -> Callable[[range], list[Trades]]:
    """The events that `lab.send_trades` sends for a range of numbers."""

    def made(numbers: range) -> list[Trades]:
        return [lab.trades(f"S{number % 6}-USD", number) for number in numbers]

    return made
