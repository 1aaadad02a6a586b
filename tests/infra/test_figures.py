"""The live screen's figures are those of the running Kafka and services."""

from __future__ import annotations

import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from rich.console import Console

from infra.local.figures import Figures, Reader, quantile
from infra.local.screen import SERVICES, addresses, draw, service_ports, summary
from infra.local.settings import free_port
from infra.local.state import Row, State
from infra.local.table import Endpoints

METRICS = CollectorRegistry()
HOP = Histogram("tickstream_hop_latency_ms", "-", ["hop"], buckets=(1, 10, 100), registry=METRICS)
ROWS = Counter("tickstream_rows_stored_total", "-", ["table"], registry=METRICS)
VALID = Gauge("tickstream_book_valid", "-", ["venue", "symbol"], registry=METRICS)


@pytest.fixture
def metrics() -> Iterator[str]:
    """Serve the metrics above as a service does; yield their address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(generate_latest(METRICS))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()


def test_lag_and_rate_are_those_of_kafka(endpoints: Endpoints, topic_prefix: str) -> None:
    """A group that committed 2 of 5 lags by 3; what comes between two readings is the rate."""
    topic = f"{topic_prefix}md.trades.v1"
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_brokers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(timeout=20)
    producer = Producer({"bootstrap.servers": endpoints.kafka_brokers})

    def produce(count: int) -> None:
        for _ in range(count):
            producer.produce(topic, b"x")
        assert producer.flush(20) == 0

    produce(5)
    group = f"{topic_prefix}reader"
    consumer = Consumer({"bootstrap.servers": endpoints.kafka_brokers, "group.id": group, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(topic, 0, 2)], asynchronous=False)
    consumer.close()
    reader = Reader(endpoints.kafka_brokers, {})
    first = reader.read()
    assert first.topic_ends[topic] == 5
    assert first.lags[group] == 3
    assert first.topic_rates == {}
    produce(7)
    second = reader.read()
    assert second.topic_ends[topic] == 12
    assert second.topic_rates[topic] > 0
    assert second.lags[group] == 10
    assert second.silent == ()


def test_metrics_of_services_are_read_and_silent_ones_named(endpoints: Endpoints, metrics: str) -> None:
    """Latency is that since the reading before; a service that does not answer is said to be silent."""
    gone = f"http://127.0.0.1:{free_port()}/metrics"
    reader = Reader(endpoints.kafka_brokers, {"sink": metrics, "api": gone})
    for _ in range(100):
        HOP.labels("ingest").observe(50)
    reader.read()
    for _ in range(10):
        HOP.labels("ingest").observe(0.5)
    ROWS.labels("trades").inc(12)
    VALID.labels("coinbase", "BTC-USD").set(1)
    VALID.labels("coinbase", "ETH-USD").set(0)
    figures = reader.read()
    assert [(hop.name, hop.count, hop.p50_ms) for hop in figures.hops] == [("ingest", 10, 0.5)]
    assert figures.rows == {"trades": 12}
    assert figures.valid == {"coinbase:BTC-USD": True, "coinbase:ETH-USD": False}
    assert figures.silent == ("api",)


def test_kafka_that_does_not_answer_is_named_too() -> None:
    """The screen goes on without Kafka, and says so."""
    assert Reader(f"127.0.0.1:{free_port()}", {}).read().silent == ("kafka",)


@pytest.mark.parametrize(("share", "expected"), [(0.25, 0.5), (0.5, 1.0), (0.65, 5.5), (0.8, 10.0), (0.9, math.inf)])
def test_quantile_lies_between_the_bounds_of_its_bucket(share: float, expected: float) -> None:
    """As Prometheus reads it; beyond the last bound it is more than anybody measured."""
    assert quantile({1.0: 40.0, 10.0: 64.0, math.inf: 80.0}, share) == pytest.approx(expected)


def test_screen_and_line_show_what_is_not_valid(metrics: str) -> None:
    """Both forms show rates, lag, rows, validity, restarts and who is silent."""
    figures = Figures(
        topic_rates={"md.ingest.trades.v1": 12.0},
        topic_ends={"md.ingest.trades.v1": 1200},
        lags={"tickstream-sink": 7},
        rows={"trades": 99},
        valid={"coinbase:BTC-USD": True, "coinbase:ETH-USD": False},
        silent=("api",),
    )
    rows = [Row("kafka", state="ready", restarts=2)]
    line = summary(figures, rows)
    assert "ingest 12/s, lag 7, stored 99 rows, books valid 1/2, restarts 2" in line
    assert line.endswith("no answer from api")
    console = Console(width=160, force_terminal=False)
    with console.capture() as captured:
        console.print(draw(figures, rows, {"Dashboard": metrics}))
    text = captured.get()
    for expected in ("coinbase:ETH-USD  not valid", "tickstream-sink  7", "1,200", metrics, "no answer from api"):
        assert expected in text


def test_only_what_runs_has_an_address() -> None:
    """The Kafka UI may be left out."""
    where = {f"port_{name}": "1" for name in (*SERVICES, "kafka_ui")} | {"kafka_brokers": "", "registry_url": ""}
    for rows, shown in (([Row("kafka-ui")], True), ([Row("kafka")], False)):
        assert ("Kafka UI" in addresses(State(None, True, "", rows, where))) == shown


def test_metrics_of_every_stream_worker_are_shown() -> None:
    """The first worker has the usual port; the others are named by their number."""
    where = {f"port_{name}": "1" for name in SERVICES} | {"port_stream_apps_2": "2"}
    known = State(None, True, "", [], where | {"kafka_brokers": "", "registry_url": ""})
    assert service_ports(known)["stream_apps_2"] == "2"
    assert "stream-apps-2:2" in addresses(known)["Metrics"]
