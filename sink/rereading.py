"""Reads ranges of a log again in which the sink received no record, to prove that they contain none.

A separate consumer starts at the first offset of a range, so it is not affected by whatever changed the position of the
sink's consumer. If the first record that it returns is after the range, or the log ends there, the range contains only
transaction markers, records of aborted transactions, and compacted records.
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
# As for the sink's own consumer, a missing offset is an error, and the position is not reset.
_GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})  # noqa: SLF001 - librdkafka's names


class Skipped(TickstreamError):  # noqa: N818 - named for what it is about, like the others
    """The sink's consumer skipped a record, or this can no longer be ruled out; the sink must read again."""


class Rereader:
    """A second consumer, which connects on first use. Not thread-safe."""

    def __init__(self, settings: CommonSettings) -> None:
        self._settings = settings
        self._consumer: Consumer | None = None

    def close(self) -> None:
        """Close the connection; the next check opens a new one."""
        if self._consumer is not None:
            close(self._consumer)
            self._consumer = None

    def check(self, jumps: Sequence[Jump]) -> None:
        """Return if no jump contains a committed record.

        Raises Skipped if one does or the log starts after a jump, BrokersUnavailable if Kafka does not respond.
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
                    raise BrokersUnavailable("Kafka does not return the records that may have been skipped in time")
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
            raise Skipped(f"{partition} no longer has offset {jumps[0].start}: {error.str()}")
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            return  # the client retries
        while jumps and jumps[0].end <= offset:
            jumps.pop(0)
        if jumps and error is not None:
            raise Skipped(f"{partition} ends at {offset}, but was read to {jumps[-1].end}")
        if jumps and jumps[0].start <= offset:
            raise Skipped(f"{partition}: offset {offset} was skipped, from {jumps[0].start} to {jumps[0].end}")
        if not jumps:
            del waiting[partition]
