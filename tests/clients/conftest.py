"""A real API (and sink) process on topics of its own, fed with events that the test publishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from psycopg import sql

from infra.local.settings import free_port
from infra.local.table import Endpoints
from marketdata.events import EVENTS, AnyEvent
from marketdata.topics import Topic
from runtime.admin import TopicAdmin
from runtime.kafka import producer_config
from runtime.registry import Registry
from runtime.settings import CommonSettings
from sink import migrations
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


class Platform:
    """The services behind the client, and a producer of their topics."""

    def __init__(self, endpoints: Endpoints, prefix: str, schema: str, folder: Path) -> None:
        self._folder = folder
        self._prefix = prefix
        self._schema = schema
        self._database_url = endpoints.database_url
        self._ports = {"api": free_port(), "sink": free_port()}
        self._env = os.environ | {
            "TICKSTREAM_KAFKA_BROKERS": endpoints.kafka_brokers,
            "TICKSTREAM_REGISTRY_URL": endpoints.registry_url,
            "TICKSTREAM_DATABASE_URL": endpoints.database_url,
            "TICKSTREAM_TOPIC_PREFIX": prefix,
            "TICKSTREAM_GROUP_PREFIX": prefix,
            "TICKSTREAM_DATABASE_SCHEMA": schema,
            "TICKSTREAM_API_PORT": str(self._ports["api"]),
            "TICKSTREAM_STALE_S": "600",
        }
        settings = CommonSettings(
            kafka_brokers=endpoints.kafka_brokers, registry_url=endpoints.registry_url, topic_prefix=prefix
        )
        TopicAdmin(settings).apply()
        registry = Registry(endpoints.registry_url)
        for event in EVENTS:
            registry.register(event.schema)
        self._codec = registry.codec()
        registry.close()
        migrations.upgrade(endpoints.database_url, schema)
        self._producer = Producer(producer_config(settings, "tests"))
        self._admin = AdminClient({"bootstrap.servers": endpoints.kafka_brokers})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self._ports['api']}"

    def start(self, name: str) -> None:
        """Start the api or the sink and wait until it is ready."""
        env = self._env | {"TICKSTREAM_METRICS_PORT": str(self._ports[name])}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", name], env=env, stdout=log, stderr=log, cwd=ROOT
            )
        ready = f"http://127.0.0.1:{self._ports[name]}/readyz"
        wait_for(
            f"{name} to be ready",
            lambda: httpx.get(ready, timeout=2, verify=False, trust_env=False).json()["status"] == "ready",
        )

    def kill(self, name: str) -> None:
        """End a service at once, as a crash would."""
        self._processes[name].send_signal(signal.SIGKILL)
        self._processes[name].wait()

    def publish(self, topic: Topic, *events: AnyEvent) -> None:
        """Write events to a topic and wait until Kafka has them."""
        for event in events:
            self._producer.produce(topic.physical(self._prefix), self._codec.encode(event), event.key)
        assert self._producer.flush(10) == 0

    def wait_rows(self, table: str, symbol: str, count: int) -> None:
        """Wait until a table has so many rows of a symbol."""
        name = sql.Identifier(self._schema, table)
        query = sql.SQL("SELECT count(*) FROM {} WHERE symbol = %s").format(name)

        def reached() -> bool:
            with psycopg.connect(self._database_url) as connection:
                row = connection.execute(query, (symbol,)).fetchone()
            return row is not None and int(row[0]) >= count

        wait_for(f"{count} rows of {symbol} in {table}", reached)

    def remove(self) -> None:
        """Remove the topics and the database schema."""
        topics = [topic for topic in self._admin.list_topics(timeout=10).topics if topic.startswith(self._prefix)]
        for removal in self._admin.delete_topics(topics).values():
            removal.result(timeout=10)
        with psycopg.connect(self._database_url, autocommit=True) as owner:
            owner.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self._schema)))

    def stop(self) -> None:
        """Stop what still runs."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def platform(endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A ready API and sink, shared by the tests of the clients; each test has a symbol of its own."""
    name = uuid.uuid4().hex[:8]
    running = Platform(endpoints, f"t{name}.", f"t_{name}", tmp_path_factory.mktemp("platform"))
    try:
        running.start("api")
        running.start("sink")
        yield running
    finally:
        running.stop()
        running.remove()


@pytest.fixture
def symbol(request: pytest.FixtureRequest) -> str:
    """A symbol that no other test uses."""
    return f"{uuid.uuid5(uuid.NAMESPACE_OID, request.node.nodeid).hex[:8].upper()}-USD"
