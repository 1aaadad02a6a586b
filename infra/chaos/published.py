"""Reads the topics of the platform under test, and what the sink stored of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from marketdata.errors import CodecError, TickstreamError, Unavailable
from marketdata.events import AnyEvent
from marketdata.topics import Topic
from runtime.kafka import close, consumer_config
from runtime.registry import Registry, decode
from runtime.settings import CommonSettings

READ_SECONDS_MAX = 180.0
TIMEOUT_SECONDS = 10.0


# Rows by (partition, offset) of the record that they come from.
Places = dict[tuple[int, int], int]
# The first offset and the end of each partition.
Ends = dict[int, tuple[int, int]]


class Published(NamedTuple):
    """One committed record of a topic; `event` is None for a tombstone."""

    partition: int
    offset: int
    event: AnyEvent | None


class Gap(NamedTuple):
    """One entry of the ledger; times are UTC nanoseconds, None where the entry leaves them open."""

    gap_id: str
    symbol: str
    channel: str | None
    state: str
    reason: str
    ts_from: int | None
    ts_to: int | None
    expected: int | None
    received: int | None
    detected: int
    repaired: int | None
    repaired_by: str | None


class Topics:
    """A consumer without a group, which commits nothing."""

    def __init__(self, settings: CommonSettings) -> None:
        self._settings = settings
        self._consumer = Consumer(consumer_config(settings, "chaos") | {"enable.partition.eof": True})
        self._registry = Registry(settings.registry_url)
        self._codec = self._registry.codec()
        self._held: dict[Topic, Ends] = {}

    def close(self) -> None:
        """Leave Kafka and the registry."""
        close(self._consumer)
        self._registry.close()

    def hold(self, topics: Iterable[Topic]) -> None:
        """Read these topics up to their ends as they are now, whatever comes later.

        A record of the exchange that is fetched afterwards contains all that they hold, so that a venue that reconnects
        meanwhile is not compared with it. Raises Unavailable when Kafka does not answer.
        """
        self._held = {topic: self.ends(topic) for topic in topics}

    def ends(self, topic: Topic) -> Ends:
        """Return partition -> (first offset, end); raises Unavailable when Kafka does not answer."""
        name = topic.physical(self._settings.topic_prefix)
        try:
            partitions = self._consumer.list_topics(name, timeout=TIMEOUT_SECONDS).topics[name].partitions
            return {
                number: self._consumer.get_watermark_offsets(TopicPartition(name, number), timeout=TIMEOUT_SECONDS)
                for number in partitions
            }
        except KafkaException as error:
            raise Unavailable(f"Kafka does not answer: {error.args[0]}") from error

    def read(self, topic: Topic) -> Iterator[Published]:
        """Yield every committed record up to the end, as it is now or as it is held, each partition in order.

        Raises TickstreamError when it takes too long, as where a transaction stays open, or for unreadable bytes.
        """
        name = topic.physical(self._settings.topic_prefix)
        ends = self._held.get(topic) or self.ends(topic)
        left = {number for number, (low, high) in ends.items() if low < high}
        self._consumer.assign([TopicPartition(name, number, ends[number][0]) for number in left])
        deadline = time.monotonic() + READ_SECONDS_MAX
        while left:
            if time.monotonic() > deadline:
                raise TickstreamError(f"{name}: partitions {sorted(left)} could not be read to their end")
            for message in self._consumer.consume(2_000, 0.5):
                number, offset = int(message.partition() or 0), int(message.offset() or 0)
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's public constant
                        raise TickstreamError(f"{name}: {error}")
                    left.discard(number)
                    continue
                if offset >= ends[number][1]:
                    left.discard(number)
                elif number in left:
                    yield Published(number, offset, self._event(name, number, offset, message.value()))

    def _event(self, name: str, partition: int, offset: int, value: bytes | None) -> AnyEvent | None:
        if value is None:
            return None
        try:
            return decode(self._codec, self._registry, value)
        except CodecError as error:
            raise TickstreamError(f"{name}[{partition}]@{offset}: {error}") from error


def query(url: str, text: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(url, options="-c search_path=tickstream,public", connect_timeout=10) as database:
        return database.execute(text).fetchall()


def ledger(url: str) -> list[Gap]:
    """Return the gap ledger, oldest entry first."""
    rows = query(
        url,
        "SELECT gap_id, symbol, channel, state, reason, ts_from_ns, ts_to_ns, expected, received, "
        "(extract(epoch FROM detected_at) * 1e9)::bigint, (extract(epoch FROM repaired_at) * 1e9)::bigint, "
        "repaired_by FROM gaps ORDER BY detected_at",
    )
    return [Gap(*row) for row in rows]
