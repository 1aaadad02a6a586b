"""The Kafka UI shows topics and decoded messages, to its own page only."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from infra.local.folders import PROJECT, Folders
from infra.local.process import Answers
from infra.local.settings import free_port
from infra.local.table import Endpoints

SCHEMA = {"type": "record", "name": "UiTrade", "fields": [{"name": "price", "type": "string"}]}


@pytest.fixture
def page(endpoints: Endpoints, eventually: Callable[..., Any]) -> Iterator[str]:
    """The running UI's address, without the scheme."""
    port = free_port()
    command: list[str | Path] = [
        Folders().kafka_ui / "bin/python",
        PROJECT / "infra/local/kafka_ui/serve.py",
        str(port),
    ]
    with subprocess.Popen([*command, endpoints.kafka_brokers, endpoints.registry_url]) as process:
        try:
            eventually(lambda: Answers(f"http://127.0.0.1:{port}/healthz").fault() is None, 60)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def fill(endpoints: Endpoints, topic: str, price: str) -> None:
    """Produce a screenful of Avro records."""
    versions = f"{endpoints.registry_url}/subjects/{topic}-value/versions"
    schema_id = httpx.post(versions, json={"schema": json.dumps(SCHEMA)}, timeout=20).raise_for_status().json()["id"]
    body = BytesIO(b"\0" + schema_id.to_bytes(4, "big"))
    body.seek(5)
    fastavro.schemaless_writer(body, SCHEMA, {"price": price})
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_brokers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(timeout=20)
    producer = Producer({"bootstrap.servers": endpoints.kafka_brokers})
    for _ in range(30):
        producer.produce(topic, body.getvalue(), key="coinbase:BTC-USD")
    assert producer.flush(20) == 0


def test_messages_are_decoded_by_the_registry(endpoints: Endpoints, topic_prefix: str, page: str) -> None:
    """The page lists the topic, and its session shows the field's name and value out of Avro bytes."""
    topic = f"{topic_prefix}trades"
    fill(endpoints, topic, "67000.10")
    assert f"/topics/{topic}/oldest" in httpx.get(f"http://{page}/", timeout=20).text
    shown = b""
    with connect(f"ws://{page}/sessions/topics/{topic}/oldest?width=160&height=40", max_size=None) as session:
        while b"'price': '67000.10'" not in shown:
            part = session.recv(timeout=60)
            shown += part if isinstance(part, bytes) else part.encode()
    assert b"coinbase:BTC-USD" in shown


def test_session_is_refused_to_other_sites(page: str) -> None:
    """A page from elsewhere, or a name that only resolves to us, cannot drive the UI, which can delete topics."""
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{page}/sessions/admin", additional_headers={"Origin": "http://example.com"})
    assert httpx.get(f"http://{page}/", headers={"Host": "example.com"}, timeout=20).status_code == 403


def test_topic_name_cannot_smuggle_a_command(page: str) -> None:
    """What is no topic name never reaches a command line."""
    with pytest.raises(InvalidStatus, match="404"):
        connect(f"ws://{page}/sessions/topics/a;id/oldest")
