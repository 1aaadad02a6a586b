"""The services of the platform as real processes on the shared test infrastructure, each test with its own topics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from infra.local.settings import free_port
from marketdata.events import EVENTS
from marketdata.topics import TOPICS, Topic
from runtime.admin import TopicAdmin
from runtime.registry import Registry
from runtime.settings import CommonSettings
from sink import migrations
from tests.waiting import WAIT_S, wait_for
from tickstream.reader import Reader

ROOT = Path(__file__).parents[2]


class Services:
    """Starts, kills and restarts the platform's services, all on one topic prefix and database schema."""

    def __init__(self, endpoints: Any, prefix: str, schema: str, folder: Path) -> None:
        self.folder = folder
        self.schema = schema
        self.ports = {name: free_port() for name in ("exchange", "control", "producer", "stream-apps", "sink", "api")}
        self.database_url: str = endpoints.database_url
        self.env = os.environ | {
            "TICKSTREAM_KAFKA_BROKERS": endpoints.kafka_brokers,
            "TICKSTREAM_REGISTRY_URL": endpoints.registry_url,
            "TICKSTREAM_DATABASE_URL": endpoints.database_url,
            "TICKSTREAM_REDIS_URL": endpoints.redis_url,
            "TICKSTREAM_TOPIC_PREFIX": prefix,
            "TICKSTREAM_GROUP_PREFIX": prefix,
            "TICKSTREAM_DATABASE_SCHEMA": schema,
            "TICKSTREAM_API_PORT": str(self.ports["api"]),
            "TICKSTREAM_EXCHANGE_PORT": str(self.ports["exchange"]),
            "TICKSTREAM_EXCHANGE_CONTROL_PORT": str(self.ports["control"]),
            "COINBASE_WS_URL": f"ws://127.0.0.1:{self.ports['exchange']}",
            "COINBASE_REST_URL": f"http://127.0.0.1:{self.ports['control']}",
            "COINBASE_PRODUCTS": "BTC-USD,ETH-USD",
            "TICKSTREAM_WORKER": "tested",
            "TICKSTREAM_SINK_WORKER": "tested",
        }
        # One client for all looks, without certificates: reading them costs more than any answer.
        self.http = httpx.Client(timeout=10, verify=False, trust_env=False)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self.kafka = CommonSettings(
            kafka_brokers=endpoints.kafka_brokers, registry_url=endpoints.registry_url, topic_prefix=prefix
        )
        TopicAdmin(self.kafka).apply()
        registry = Registry(endpoints.registry_url)
        for event in EVENTS:
            registry.register(event.schema)
        registry.close()
        migrations.upgrade(endpoints.database_url, schema)

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.ports['api']}"

    @property
    def control_url(self) -> str:
        """Where the simulated exchange (or the replay server) takes orders."""
        return f"http://127.0.0.1:{self.ports['control']}"

    def start(self, name: str, *module: str, **env: str) -> None:
        """Start a service, for example `start("sink", "sink")`; its log goes to the test's folder."""
        metrics = {"TICKSTREAM_METRICS_PORT": str(self.ports[name])} if name in self.ports else {}
        self._commands[name] = [sys.executable, "-m", *module]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self._commands[name], env=self.env | metrics | env, stdout=log, stderr=log, cwd=ROOT
            )
        self.env |= env

    def start_all(self, *exchange: str, **env: str) -> None:
        """Start every service with this exchange (`infra.simulator` or the replay server with its arguments)."""
        self.env |= env
        self.start("exchange", *exchange)
        self.start("stream-apps", "stream_apps")
        self.start("sink", "sink")
        self.start("api", "api")
        self.wait_ready("stream-apps", "sink", "api")
        self.start("producer", "producers.live")

    def wait_ready(self, *names: str) -> None:
        """Wait until these services say in /readyz that all they depend on answers."""
        for name in names:
            url = f"http://127.0.0.1:{self.ports[name]}/readyz"
            wait_for(f"{name} to be ready", lambda url=url: self.http.get(url).json()["status"] == "ready")  # type: ignore[misc]

    def restart(self, name: str) -> None:
        """Start a service again with the command that started it first."""
        self.start(name, *self._commands[name][2:])

    def kill(self, name: str) -> None:
        """End a service at once, as a crash would: SIGKILL."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def end(self, name: str) -> None:
        """End a service in order, and wait for it."""
        self.processes[name].terminate()
        self.processes[name].wait(WAIT_S)

    def stop(self) -> None:
        """Stop what still runs, the producer first."""
        self.http.close()
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def remove(self) -> None:
        """Delete the topics and tables, for an owner that the tests' own fixtures do not clean up after."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(f'DROP SCHEMA "{self.schema}" CASCADE')
        names = [topic.physical(self.kafka.topic_prefix) for topic in TOPICS]
        admin = AdminClient({"bootstrap.servers": self.kafka.kafka_brokers})
        for deleted in admin.delete_topics(names).values():
            deleted.result(30)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query in this test's schema."""
        with psycopg.connect(self.database_url, options=f"-c search_path={self.schema},public") as connection:
            return connection.execute(query, values).fetchall()

    def get(self, path: str, **params: str | int) -> Any:
        """Return the JSON answer of the API; raises on an error status."""
        answer = self.http.get(f"{self.api_url}{path}", params=params)
        answer.raise_for_status()
        return answer.json()

    def events(self, topic: Topic) -> list[Any]:
        """Return all events of a topic, each partition in order."""
        reader = Reader(self.kafka, topic)
        try:
            ends = reader.ends()
            start, stop = ({p: end[which] for p, end in ends.items()} for which in (0, 1))
            return [reader.decode(message) for message in reader.read(start, stop)]
        finally:
            reader.close()

    def logs(self) -> str:
        """Return the last lines of each log, for a failing test's message."""
        return "\n".join(
            f"== {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in sorted(self.folder.glob("*.log"))
        )


@pytest.fixture(scope="session")
def services_of() -> type[Services]:
    """The class `Services`, for modules that share one platform among their own tests."""
    return Services


@pytest.fixture(scope="module")  # it works as long as it stands, and the tests after it need the processor
def platform(endpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The whole platform on the simulated exchange, ready, for tests that only look at it."""
    name = f"platform_{os.getpid()}"
    running = Services(endpoints, f"{name}.", name, tmp_path_factory.mktemp("platform"))
    try:
        running.start_all("infra.simulator", TICKSTREAM_EXCHANGE_RATE="100")
        running.wait_ready("producer")
        yield running
    finally:
        running.stop()
        running.remove()


@pytest.fixture
def services(
    endpoints: Any, topic_prefix: str, database_schema: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Services]:
    """The services, none started yet; all stopped at the end, their logs printed when the test failed."""
    running = Services(endpoints, topic_prefix, database_schema, tmp_path)
    failed_before = request.session.testsfailed
    yield running
    running.stop()
    if request.session.testsfailed > failed_before:
        sys.stderr.write(running.logs())
