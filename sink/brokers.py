"""The sink's Kafka access other than reading: the ends of partitions, and the delivery of dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from marketdata.codec import Codec
from marketdata.errors import Unavailable
from marketdata.headers import cloudevent
from marketdata.topics import DEAD_LETTERS
from runtime.kafka import producer_config
from runtime.settings import CommonSettings
from sink.batch import Partition, TableRows
from sink.rows import STAGE
from sink.writer import Log

TIMEOUT_S = 10.0


class BrokersUnavailable(Unavailable):
    """Kafka does not respond, or does not accept a dead letter."""


class Brokers:
    """Returns the first and the next offset of each partition."""

    def __init__(self, settings: CommonSettings) -> None:
        self._asked: dict[TopicPartition, Future[Any]] = {}
        self._admin = AdminClient(
            {
                "bootstrap.servers": settings.kafka_brokers,
                "client.id": "tickstream-sink-admin",
                "reconnect.backoff.max.ms": 2_000,
            }
        )

    def logs(self, partitions: Iterable[Partition]) -> dict[Partition, Log]:
        """Return each partition's topic id, first offset and next offset.

        Raises BrokersUnavailable when Kafka does not respond.
        """
        keys = sorted(partitions)
        if not keys:
            return {}
        try:
            described = self._admin.describe_topics(
                TopicCollection(sorted({topic for topic, _ in keys})), request_timeout=TIMEOUT_S
            )
            ids = {topic: str(future.result(TIMEOUT_S).topic_id) for topic, future in described.items()}
            lows = self._offsets(keys, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            highs = self._offsets(keys, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        except (KafkaException, TimeoutError) as error:
            raise BrokersUnavailable(f"Kafka does not return the first and last offsets: {error}") from error
        return {key: Log(ids[key[0]], lows[key], highs[key]) for key in keys}

    def ask_ends(self, partitions: Iterable[Partition]) -> None:
        """Request the end offsets, without waiting for the response."""
        asked = {TopicPartition(*partition): OffsetSpec.latest() for partition in partitions}  # type: ignore[no-untyped-call]
        self._asked = (
            self._admin.list_offsets(asked, request_timeout=TIMEOUT_S, isolation_level=IsolationLevel.READ_COMMITTED)
            if asked
            else {}
        )

    def ends(self) -> dict[Partition, int] | None:
        """Return the requested end offsets that Kafka returned; None while it has not responded.

        An end offset is that after the last record of a finished transaction.
        """
        if not all(future.done() for future in self._asked.values()):
            return None
        asked, self._asked = self._asked, {}
        return {
            (partition.topic, partition.partition): future.result().offset
            for partition, future in asked.items()
            if future.exception() is None
        }

    def _offsets(self, keys: list[Partition], which: OffsetSpec) -> dict[Partition, int]:
        asked = {TopicPartition(topic, partition): which for topic, partition in keys}
        answers = self._admin.list_offsets(asked, request_timeout=TIMEOUT_S)
        return {
            (partition.topic, partition.partition): future.result(TIMEOUT_S).offset
            for partition, future in answers.items()
        }


class DeadLetterPublisher:
    """Publishes dead letters and waits for the delivery of each."""

    def __init__(self, settings: CommonSettings, codec: Codec) -> None:
        self._topic = DEAD_LETTERS.physical(settings.topic_prefix)
        self._codec = codec
        self._producer = Producer(producer_config(settings, "tickstream-sink"))

    def publish(self, records: Sequence[TableRows]) -> None:
        """Publish the dead letters of records.

        The `ce_id` identifies the refused Kafka record and item, so that a second delivery has the same one.

        Raises BrokersUnavailable when not all were delivered in time.
        """
        failures: list[str] = []

        def delivered(error: object, _: object) -> None:
            if error is not None:
                failures.append(str(error))

        try:
            for record in records:
                letter = record.dead_letter
                if letter is None:
                    continue
                subject = letter.key.encode()
                identity = f"{letter.topic}|{letter.partition}|{letter.offset}"
                if record.item is not None:
                    identity += f"|{record.item}"
                self._producer.produce(
                    self._topic,
                    key=subject,
                    value=self._codec.encode(letter),
                    headers=list(
                        cloudevent(letter.schema, STAGE, identity=identity, subject=subject, ts=letter.ts_recv).items()
                    ),
                    on_delivery=delivered,
                )
            waiting = self._producer.flush(TIMEOUT_S)
        except (KafkaException, BufferError) as error:
            raise BrokersUnavailable(f"Kafka accepts no dead letters: {error}") from error
        if waiting or failures:
            self._producer.purge()
            self._producer.flush(TIMEOUT_S)
            raise BrokersUnavailable(
                f"Kafka did not accept every dead letter: {failures[0] if failures else 'no response in time'}"
            )
