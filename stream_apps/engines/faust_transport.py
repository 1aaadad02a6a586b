"""A Faust transport that reads committed records in batches, without Faust's steps for each message.

Faust's own driver for Kafka waits unnecessarily, which no setting changes: `stream_apps.engines.faust` says
what that cost. A transport is Faust's public place for another driver. This one is Faust's `Consumer` over
`aiokafka.AIOKafkaConsumer`, on the event loop of the application, and a `Fetcher` that passes on whole batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import aiokafka
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import ConsumerStoppedError, NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport import base
from faust.transport.consumer import Consumer as FaustConsumer
from faust.transport.consumer import ensure_TPset
from faust.types import TP
from mode import Service

from stream_apps.engines.transactions import Member
from stream_apps.settings import StreamSettings

# The broker's longest wait for a first record. A partition that is not in the request that waits, because it was paused
# when the request was sent, is not read before the answer.
FETCH_WAIT_MS = 50
# Of one partition at once, and of all; a larger record comes alone.
FETCH_BYTES = 512 * 1024
FETCH_BYTES_ALL = 8 * 1024 * 1024

# So many records come at once: to unpack more would keep the event loop from everything else for too long.
FETCH_RECORDS = 1_000

_FETCH_SECONDS = 1.0
# While a partition is left out, what waits of it must not wait for another one's records when it is wanted again.
_FETCH_SECONDS_SHORT = 0.01

Batch = Mapping[Any, list[Any]]


class _Listener(aiokafka.ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._consumer.app.on_rebalance_start()
        await self._consumer.on_partitions_revoked(ensure_TPset(revoked))

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        await self._consumer.take_assignment(set(assigned))


class Consumer(FaustConsumer):
    """Faust's consumer over aiokafka's. It commits nothing: offsets belong to the pipeline's transactions."""

    consumer_stopped_errors = (ConsumerStoppedError,)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Partition numbers of which enough records wait: their next ones stay where they are.
        self.left_out: Collection[int] = ()

    async def on_start(self) -> None:
        """Connect to Kafka; Faust subscribes a little later."""
        settings = self._settings
        session_ms = int(settings.session_seconds * 1_000)
        self._client = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=settings.kafka_brokers,
            client_id=self.app.conf.broker_client_id,
            group_id=self.app.conf.id,
            group_instance_id=settings.worker or None,
            partition_assignment_strategy=[RangePartitionAssignor],
            isolation_level="read_committed",
            enable_auto_commit=False,
            # An offset that Kafka does not have is handled by `Recovery.locate`, not by a silent jump.
            auto_offset_reset="none",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_bytes=FETCH_BYTES_ALL,
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=max(20_000, session_ms),
            request_timeout_ms=max(20_000, session_ms),
            heartbeat_interval_ms=1_000,
            retry_backoff_ms=50,
            # A re-created topic is noticed within this time.
            metadata_max_age_ms=5_000,
        )
        await self._client.start()

    async def on_stop(self) -> None:
        """Leave the group, unless the worker has a name under which it comes back."""
        await super().on_stop()
        await self._client.stop()

    async def take_assignment(self, assigned: set[Any]) -> None:
        """Pass on what the group assigned; nothing of it is read before `read`."""
        self.app.consumer_generation_id = self._coordinator.generation
        for each in assigned:
            # A position of its own, or aiokafka would look for a committed one.
            self._client.seek(each, 0)
        self._client.pause(*assigned)
        await self.on_partitions_assigned(ensure_TPset(assigned), self._coordinator.generation)

    # -- what the engine uses

    @property
    def _settings(self) -> StreamSettings:
        assert isinstance(self.transport, Transport)  # noqa: S101 - it made this consumer
        return self.transport.settings

    @property
    def _coordinator(self) -> Any:
        return self._client._coordinator  # noqa: SLF001 - aiokafka shows generation and member nowhere else

    def member(self) -> Member:
        """Return what the group made of this worker."""
        coordinator = self._coordinator
        return Member(self.app.conf.id, coordinator.generation, coordinator.member_id, self._settings.worker or None)

    def rejoin(self) -> None:
        """Join the group again, so that it assigns the partitions again."""
        self._coordinator.request_rejoin()

    def read(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Read topics' partitions from these offsets on."""
        assigned = self._client.assignment()
        for (topic, number), offset in offsets.items():
            each = aiokafka.TopicPartition(topic, number)
            if each in assigned:
                self._client.seek(each, offset)
                self._client.resume(each)

    def hold(self, topics: Iterable[str], number: int) -> None:
        """Read a partition of these topics no more until `read`."""
        assigned = self._client.assignment()
        self._client.pause(*(each for topic in topics if (each := aiokafka.TopicPartition(topic, number)) in assigned))

    async def fetch(self) -> Batch:
        """Return records by partition as soon as there are any, none after a second; none of partitions left out.

        Raises OffsetOutOfRangeError and NoOffsetForPartitionError.
        """
        wanted = [each for each in self._client.assignment() if each.partition not in self.left_out]
        if self.left_out and not wanted:
            await asyncio.sleep(_FETCH_SECONDS_SHORT)
            return {}
        wait = _FETCH_SECONDS_SHORT if self.left_out else _FETCH_SECONDS
        fetched: Batch = await self._client.getmany(*wanted, timeout_ms=int(wait * 1_000), max_records=FETCH_RECORDS)
        return fetched

    # -- Faust's interface of a driver

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group."""
        self._client.subscribe(sorted(topics), listener=_Listener(self))

    def assignment(self) -> set[TP]:
        """Return what the group assigned."""
        return ensure_TPset(self._client.assignment())

    def highwater(self, tp: TP) -> int:
        """Return the end of a partition, 0 while it is not known."""
        each = aiokafka.TopicPartition(tp.topic, tp.partition)
        return (self._client.highwater(each) or 0) if each in self._client.assignment() else 0

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the ends of partitions."""
        return await self._client.end_offsets(partitions)  # type: ignore[no-any-return]

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return where partitions begin."""
        return await self._client.beginning_offsets(partitions)  # type: ignore[no-any-return]

    async def position(self, tp: TP) -> int | None:
        """Return the next offset to fetch."""
        return await self._client.position(tp)  # type: ignore[no-any-return]

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Leave all positions as they are: the engine sets them when a partition has recovered."""
        return {}

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Set positions."""
        for tp, offset in partitions.items():
            await self._seek(tp, offset)

    async def _seek(self, partition: TP, offset: int) -> None:
        self._client.seek(aiokafka.TopicPartition(partition.topic, partition.partition), offset)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        raise NotImplementedError(f"the pipeline's transactions commit offsets, not Faust: {offsets}")

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's
        raise NotImplementedError(f"batches go through `fetch`: {active_partitions}, {timeout}")

    def _to_message(self, tp: TP, record: Any) -> Any:
        raise NotImplementedError(f"batches go through `fetch`: {tp}, {record}")

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def create_topic(self, topic: str, *_args: Any, **_kwargs: Any) -> None:
        """Create none: `tickstream topics apply` does."""
        raise NotImplementedError(topic)

    def topic_partitions(self, topic: str) -> int | None:
        """Return the number of a topic's partitions, None where it is not known."""
        found = self._client.partitions_for_topic(topic)
        return None if found is None else len(found)

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:  # noqa: ARG002
        """Return the partition asked for: nothing is produced through Faust."""
        return partition


class Fetcher(Service):
    """Passes on what the consumer fetches, batch by batch."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        super().__init__(**kwargs)

    @Service.task
    async def _fetch(self) -> None:
        consumer: Consumer = self.app.consumer
        transport: Transport = self.app.transport
        while not self.should_stop:
            try:
                batch = await consumer.fetch()
            except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
                transport.on_missing(error)
            except ConsumerStoppedError:
                return
            else:
                if batch:
                    transport.on_batch(batch)


class Transport(base.Transport):
    """Kafka for a Faust application; the application's `transport` is set to it."""

    Consumer = Consumer
    Fetcher = Fetcher
    driver_version = f"aiokafka={aiokafka.__version__}"

    def __init__(
        self,
        app: Any,
        settings: StreamSettings,
        *,
        on_batch: Callable[[Batch], None],
        on_missing: Callable[[Exception], None],
    ) -> None:
        """Take what is called with each batch of records, and with the error for an offset that Kafka does not have."""
        super().__init__(app.conf.broker_consumer, app)
        self.settings = settings
        self.on_batch = on_batch
        self.on_missing = on_missing
