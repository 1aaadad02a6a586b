"""Common settings of Kafka clients, and helpers for confluent-kafka."""

from __future__ import annotations

import logging
import threading
from typing import Any

from confluent_kafka import KafkaError

from marketdata.headers import Headers
from marketdata.topics import MESSAGE_BYTES_MAX
from runtime.settings import CommonSettings

# Java's default, so that clients in any language choose the same partition for a key.
PARTITIONER = "murmur2_random"

# Receives the client's own log lines, which would otherwise go to standard error as plain text.
LOG = logging.getLogger("librdkafka")


def producer_config(settings: CommonSettings, client: str) -> dict[str, Any]:
    """Return the settings of an idempotent producer that waits for all replicas and never reorders records."""
    return {
        "bootstrap.servers": settings.kafka_brokers,
        "client.id": client,
        "logger": LOG,
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "lz4",
        "partitioner": PARTITIONER,
        "linger.ms": 1,
        "socket.nagle.disable": True,
        "message.max.bytes": MESSAGE_BYTES_MAX,
        "queue.buffering.max.messages": 100_000,
        "queue.buffering.max.kbytes": 256 * 1024,
        "message.timeout.ms": 0,  # no limit: retry through an outage of Kafka, and never drop an accepted record
        "reconnect.backoff.max.ms": 2_000,
    }


def consumer_config(settings: CommonSettings, group: str) -> dict[str, Any]:
    """Return the settings of a consumer without automatic commits that reads only committed records."""
    return {
        "bootstrap.servers": settings.kafka_brokers,
        "group.id": f"{settings.group_prefix}{group}",
        "logger": LOG,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 250,
        "socket.nagle.disable": True,
        "fetch.message.max.bytes": MESSAGE_BYTES_MAX,
        "fetch.max.bytes": 2 * MESSAGE_BYTES_MAX,
        "queued.max.messages.kbytes": 64 * 1024,
        "session.timeout.ms": 6_000,
        "heartbeat.interval.ms": 1_000,
        "max.poll.interval.ms": 300_000,
        "reconnect.backoff.max.ms": 2_000,
        "allow.auto.create.topics": False,
    }


def close(consumer: Any, limit_s: float = 10.0) -> bool:
    """Leave the group; False when Kafka did not respond in time, so that the member stays until its session ends.

    While a commit is pending, confluent-kafka's `close` waits for the response without a limit (librdkafka issue 3740),
    and no signal handler runs meanwhile.
    """
    closing = threading.Thread(target=consumer.close, name="consumer-close", daemon=True)
    closing.start()
    closing.join(limit_s)
    return not closing.is_alive()


def is_fatal(error: Any) -> bool:
    """Return whether a confluent-kafka error is permanent for its client, which requires a restart of the process.

    A consumer reports such an error through a message, without setting `fatal()`.
    """
    return bool(error.fatal() or error.code() == KafkaError._FATAL)  # noqa: SLF001 - its public name


def headers_of(message: Any) -> Headers:
    """Return a confluent-kafka message's headers as a dict."""
    return dict(message.headers() or ())
