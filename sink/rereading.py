"""Reads ranges of a log again that the sink passed without a record, to prove that no record is in them.

A consumer of its own starts at the first offset of a range, so that whatever moved the sink's reader has not moved
this one. When the first record that it returns lies behind the range, or the log ends there, the range holds only
marks of transactions, records of aborted transactions, or what compaction removed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from marketdata.errors import TickstreamError
from runtime.kafka import close, consumer_config
from runtime.settings import CommonSettings
from sink.batch import Partition
from sink.brokers import BrokersUnavailable
from sink.positions import Jump

LIMIT_S = 10.0
_READ_AT_ONCE = 500
# As for the sink's own reader, what is not there any more is an error, not a place to jump from.
_GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})  # noqa: SLF001 - librdkafka's names


class Skipped(TickstreamError):  # noqa: N818 - named for what it is about, like the others
    """The sink's reader passed over a record, or it is no longer possible to know; it must read again."""


class Rereader:
    """A second reader, which connects when it is first needed. Not for two threads at once."""

    def __init__(self, settings: CommonSettings) -> None:
        self._settings = settings
        self._consumer: Consumer | None = None

    def close(self) -> None:
        """Close the connection; a later check makes a new one."""
        if self._consumer is not None:
            close(self._consumer)
            self._consumer = None

    def check(self, jumps: Sequence[Jump]) -> None:
        """Return when no committed record lies in any of the jumps.

        Raises Skipped when one does or the log begins behind a jump, BrokersUnavailable when Kafka does not respond.
        """
        if not jumps:
            return
        waiting: dict[Partition, list[Jump]] = {}
        for jump in jumps:
            waiting.setdefault(jump.partition, []).append(jump)
        try:
            self._read(waiting)
        except KafkaException as error:
            raise BrokersUnavailable(
                f"Kafka does not return the records that may have been skipped: {error}"
            ) from error

    def _read(self, waiting: dict[Partition, list[Jump]]) -> None:
        if self._consumer is None:
            self._consumer = Consumer(
                consumer_config(self._settings, "tickstream-sink-rereading")
                | {
                    "client.id": "tickstream-sink-rereading",
                    "auto.offset.reset": "error",
                    "enable.partition.eof": True,
                    "queued.max.messages.kbytes": 4 * 1024,
                }
            )
        consumer = self._consumer
        consumer.assign([TopicPartition(*partition, jumps[0].start) for partition, jumps in waiting.items()])
        try:
            deadline = time.monotonic() + LIMIT_S
            while waiting:
                if time.monotonic() > deadline:
                    raise BrokersUnavailable("Kafka does not return in time the records that may have been skipped")
                for message in consumer.consume(_READ_AT_ONCE, 0.1):
                    self._see(message, waiting)
        finally:
            consumer.unassign()

    @staticmethod
    def _see(message: Message, waiting: dict[Partition, list[Jump]]) -> None:
        partition, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        jumps = waiting.get(partition)
        if jumps is None:
            return
        error = message.error()
        if error is not None and error.code() in _GONE:
            raise Skipped(f"{partition} has no offset {jumps[0].start} any more: {error.str()}")
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            return  # the client tries again
        while jumps and jumps[0].end <= offset:
            jumps.pop(0)
        if jumps and error is not None:
            raise Skipped(f"{partition} ends at {offset}, and was read to {jumps[-1].end}")
        if jumps and jumps[0].start <= offset:
            raise Skipped(f"{partition}: offset {offset} was passed over, from {jumps[0].start} to {jumps[0].end}")
        if not jumps:
            del waiting[partition]
