"""Reads records of one symbol from Kafka once more, for clients that have missed them.

Each question has a consumer of its own, which joins no group, on a thread: the loop never waits for Kafka.
"""

from __future__ import annotations

import asyncio
import time

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from api.core.consumer import Source
from marketdata.codec import Codec
from marketdata.errors import CodecError
from marketdata.events import AnyEvent
from runtime.kafka import consumer_config
from runtime.registry import Registry, decode
from runtime.settings import CommonSettings

# Records that are looked at for one question, most of which are other symbols'.
RECORDS_MAX = 500_000
_AT_ONCE = 5_000
_TIMEOUT_S = 10.0
_CALL_TIMEOUT_S = 5.0
_QUESTIONS_MAX = 4
# Events of a time are in records that were written from a little before it on: clocks differ.
_SLACK_MS = 5_000


class Unreachable(Exception):  # noqa: N818 - an answer, not a failure
    """The records cannot be read: Kafka has deleted them, or there are too many."""


class RecordReader:
    """Answers questions about records, a few at a time."""

    def __init__(self, settings: CommonSettings) -> None:
        self._settings = settings
        self._registry = Registry(settings.registry_url, timeout_s=_CALL_TIMEOUT_S)
        self._codec: Codec | None = None
        self._questions = asyncio.Semaphore(_QUESTIONS_MAX)

    def close(self) -> None:
        """Close the connection to the registry."""
        self._registry.close()

    async def read(self, source: Source, key: str, first: int, last: int) -> list[tuple[int, AnyEvent]]:
        """Return the events of a symbol in [first, last] of a partition, with their offsets.

        Raises Unreachable, and KafkaException or TickstreamError when Kafka or the registry does not answer.
        """
        async with self._questions:
            return await asyncio.to_thread(self._read, source, key, first, last)

    async def offset_at(self, source: Source, ts_ns: int) -> int:
        """Return an offset from which on the records have all events from a time on. Raises as `read` does."""
        async with self._questions:
            return await asyncio.to_thread(self._offset_at, source, ts_ns)

    def _offset_at(self, source: Source, ts_ns: int) -> int:
        consumer = self._consumer()
        try:
            at = TopicPartition(source.topic, source.partition, max(0, ts_ns // 1_000_000 - _SLACK_MS))
            (found,) = consumer.offsets_for_times([at], timeout=_CALL_TIMEOUT_S)
            low, high = consumer.get_watermark_offsets(at, timeout=_CALL_TIMEOUT_S)
            return high if found.offset in {OFFSET_END, -1} else max(low, found.offset)
        finally:
            consumer.close()

    def _read(self, source: Source, key: str, first: int, last: int) -> list[tuple[int, AnyEvent]]:
        if last - first > RECORDS_MAX:
            raise Unreachable(f"{last - first} records are more than the limit of {RECORDS_MAX}")
        consumer = self._consumer()
        try:
            where = TopicPartition(source.topic, source.partition, max(0, first))
            low, _ = consumer.get_watermark_offsets(where, timeout=_CALL_TIMEOUT_S)
            if first + 1 < low:
                raise Unreachable(f"Kafka has deleted the records before {low}")
            consumer.assign([where])
            return self._decoded(self._of_key(consumer, key.encode(), last))
        finally:
            consumer.close()

    @staticmethod
    def _of_key(consumer: Consumer, key: bytes, last: int) -> list[Message]:
        """Return the records of a key, or of its parts (`key|...`), up to an offset."""
        found: list[Message] = []
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            for message in consumer.consume(_AT_ONCE, 0.1):
                offset = int(message.offset() or 0)
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                        return found  # behind the last record there may be markers of transactions
                    raise KafkaException(error)
                named = message.key() or b""
                if offset <= last and (named == key or named.startswith(key + b"|")):
                    found.append(message)
                if offset >= last:
                    return found
        raise Unreachable("Kafka did not answer in time")

    def _decoded(self, messages: list[Message]) -> list[tuple[int, AnyEvent]]:
        if self._codec is None:
            self._codec = self._registry.codec()
        events: list[tuple[int, AnyEvent]] = []
        for message in messages:
            try:
                event = decode(self._codec, self._registry, message.value() or b"")
            except CodecError:
                continue  # reported when it was first read
            events.append((int(message.offset() or 0), event))
        return events

    def _consumer(self) -> Consumer:
        return Consumer(
            consumer_config(self._settings, "api")
            | {"enable.partition.eof": True, "client.id": "tickstream-api-reader"}
        )
