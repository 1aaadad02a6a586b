"""History on the real Kafka, registry and TimescaleDB: stream apps, sink, and a venue over real HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvicorn
from confluent_kafka import Producer

from infra.local.table import Endpoints
from infra.simulator.venues.answers import Answer
from infra.simulator.venues.history import Histories, create_app
from infra.simulator.venues.tape import MINUTE_NS
from marketdata.codec import Codec
from marketdata.events import EVENTS, AnyEvent, Instrument
from marketdata.topics import INGEST
from runtime.admin import TopicAdmin
from runtime.kafka import producer_config
from runtime.registry import Registry
from runtime.settings import CommonSettings
from sink import migrations
from tests.waiting import WAIT_S

ROOT = Path(__file__).parents[2]
DAY_NS = 1440 * MINUTE_NS


class Venue:
    """A venue's REST interface on a real port. `delay_s` holds each answer back; `without` hides trade ids."""

    def __init__(self, begins: int) -> None:
        self.histories = Histories(begins)
        self.delay_s = 0.0
        self.without: frozenset[int] = frozenset()
        self._trades = self.histories.trades
        self.histories.trades = self._visible_trades  # type: ignore[method-assign]
        answer = self.histories.answer

        def slowly(asked: Any) -> Answer:
            time.sleep(self.delay_s)  # a slow venue, not a wait for something
            return answer(asked)

        self.histories.answer = slowly  # type: ignore[method-assign]
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(create_app(self.histories), log_level="warning", lifespan="off"))
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()

    def _visible_trades(self, start: int, end: int, most: int | None = None) -> list[Any]:
        return [one for one in self._trades(start, end, most) if one.number not in self.without]

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(10)


class Pipeline:
    """Topics, tables, stream apps and sink of one test."""

    def __init__(self, endpoints: Endpoints, prefix: str, schema: str, folder: Path) -> None:
        self.schema = schema
        self.folder = folder
        self.endpoints = endpoints
        self.kafka = CommonSettings(
            kafka_brokers=endpoints.kafka_brokers, registry_url=endpoints.registry_url, topic_prefix=prefix
        )
        TopicAdmin(self.kafka).apply()
        registry = Registry(endpoints.registry_url)
        self.codec = Codec({event.schema: registry.register(event.schema) for event in EVENTS})
        registry.close()
        migrations.upgrade(endpoints.database_url, schema)
        dropped = {name: value for name, value in os.environ.items() if not name.startswith("TICKSTREAM_")}
        self.env = dropped | endpoints.environment() | {
            "TICKSTREAM_TOPIC_PREFIX": prefix,
            "TICKSTREAM_GROUP_PREFIX": prefix,
            "TICKSTREAM_DATABASE_SCHEMA": schema,
            "TICKSTREAM_METRICS_PORT": "0",
            "TICKSTREAM_ENGINE": "direct",
            "TICKSTREAM_WORKER": "tested",
            "TICKSTREAM_SINK_WORKER": "tested",
            "TICKSTREAM_SINK_WINDOW_MS": "20",
            "COLUMNS": "200",
        }  # fmt: skip
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *module: str) -> subprocess.Popen[bytes]:
        """Start a process; its log goes to the test's folder."""
        with (self.folder / f"{module[0]}.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", *module], env=self.env, stdout=log, stderr=log, cwd=ROOT)
        self.processes.append(process)
        return process

    def command(self, *args: str, exits: int = 0) -> str:
        """Run `tickstream` with these arguments to its end; return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "tickstream", *args], env=self.env, cwd=ROOT, capture_output=True, text=True,
            timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == exits, done.stdout + done.stderr
        return done.stdout

    def produce(self, *events: AnyEvent) -> None:
        """Write events as a feed does, and wait until Kafka has them."""
        producer = Producer(producer_config(self.kafka, "test"))
        for event in events:
            topic = INGEST[event.schema].physical(self.kafka.topic_prefix)
            producer.produce(topic, key=event.key.encode(), value=self.codec.encode(event))
            if isinstance(event, Instrument):
                assert producer.flush(30) == 0
        assert producer.flush(30) == 0

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query in this test's schema."""
        options = f"-c search_path={self.schema},public -c timezone=UTC"
        with psycopg.connect(self.endpoints.database_url, options=options) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def stop(self) -> None:
        """End what runs."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(20)


@pytest.fixture
def venue() -> Iterator[Venue]:
    """A venue with the last three whole days and today."""
    made = Venue(time.time_ns() // DAY_NS * DAY_NS - 3 * DAY_NS)
    yield made
    made.close()


@pytest.fixture
def pipeline(
    endpoints: Endpoints, topic_prefix: str, database_schema: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Pipeline]:
    """The pipeline, with its processes running; their logs are printed when the test failed."""
    made = Pipeline(endpoints, topic_prefix, database_schema, tmp_path)
    failed_before = request.session.testsfailed
    made.start("stream_apps")
    made.start("sink")
    yield made
    made.stop()
    if request.session.testsfailed > failed_before:
        for path in sorted(tmp_path.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            sys.stderr.write("\n".join([f"== {path.name}", *lines[-25:], ""]))
