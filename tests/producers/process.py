"""The producer as a process, and what it wrote to Kafka."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from infra.local.settings import free_port
from marketdata.codec import Codec
from marketdata.topics import INGEST, PARTITIONS
from producers.live.publisher import Publisher
from runtime.health import Readiness
from runtime.settings import CommonSettings
from runtime.tracing import Tracing
from tests.waiting import wait_for

LIMIT_S = 60.0


def end_of(consumer: Consumer, topic: str, partition: int) -> int:
    """Return a partition's end; a topic that was just made may still be without a leader for a moment."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            end: int = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=LIMIT_S)[1]
        except KafkaException:
            assert time.monotonic() < deadline
        else:
            return end


def all_messages(settings: CommonSettings) -> dict[str, list[Message]]:
    """Return every message of this test's topics, by schema, in the order of each partition."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_brokers, "group.id": "unused", "fetch.wait.max.ms": 10,
                         "enable.auto.commit": False, "fetch.message.max.bytes": 32 * 1024 * 1024})  # fmt: skip
    schemas = {topic.physical(settings.topic_prefix): schema for schema, topic in INGEST.items()}
    everywhere = [(name, number) for name, schema in schemas.items() for number in range(PARTITIONS)]
    messages: dict[str, list[Message]] = {schema: [] for schema in INGEST}
    try:
        ends = {where: end_of(consumer, *where) for where in everywhere}
        left = {where: end for where, end in ends.items() if end}
        consumer.assign([TopicPartition(*where, 0) for where in left])
        deadline = time.monotonic() + LIMIT_S
        while left:
            assert time.monotonic() < deadline, left
            for message in consumer.consume(1000, timeout=0.5):
                assert message.error() is None
                where = (message.topic() or "", message.partition() or 0)
                messages[schemas[where[0]]].append(message)
                if message.offset() == ends[where] - 1:
                    del left[where]
    finally:
        consumer.close()
    return messages


@asynccontextmanager
async def publishing(settings: CommonSettings, codec: Codec) -> AsyncIterator[Publisher]:
    """A publisher that is flushed at the end."""
    with Tracing("producer", None) as tracing:
        publisher = Publisher(settings, codec, tracing, Readiness("kafka"))
        yield publisher
        assert await publisher.close(LIMIT_S) == 0


class Process:
    """`python -m producers.live`, with its health address."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.port = free_port()
        root = Path(__file__).resolve().parents[2]
        own = {"TICKSTREAM_METRICS_PORT": str(self.port), "PYTHONPATH": str(root)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "producers.live"],
            cwd=root,
            env=os.environ | own | environment,
            stderr=subprocess.PIPE,
        )

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of the health server; status 0 while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""

        def holds() -> bool:
            if self.process.poll() is not None:
                pytest.fail(self.process.communicate()[1].decode()[-3000:])
            return condition()

        wait_for("a condition of the producer", holds, LIMIT_S)


@contextmanager
def producer(environment: dict[str, str]) -> Iterator[Process]:
    """Run the producer; it must end in order when asked to."""
    running = Process(environment)
    try:
        yield running
        running.process.send_signal(signal.SIGTERM)
        log = running.process.communicate(timeout=LIMIT_S)[1].decode()
        assert running.process.returncode == 0, log[-3000:]
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()
