"""A worker's transactions: batches of its partitions are written atomically, and only by the partitions' owner.

Theory of operation.

1. Every transaction contains the offsets of its batches, as a member of the consumer group in one generation. Kafka
   refuses them from a worker that the group no longer knows in that generation, and with them the whole transaction.
   Whoever owns a partition next reads its committed offsets only when no transaction is open that holds any
   (`Recovery.locate`). So a new owner sees commits that nobody can change any more.
2. The transactional ids name the worker. Whoever initialises them fences every earlier process of that name and ends
   the transactions that it left open. What a worker without a name, or one that does not come back, left open ends
   after `TRANSACTION_SECONDS`, and up to 10 s more, for Kafka looks for such transactions only that often.
3. A transaction whose outcome is not known, or that failed in any way, is the end of the producers (`Failed`): the
   worker opens new ones, and its partitions find out by the committed offsets what happened. Only records that Kafka
   has refused for the moment are sent again: it knows them by their numbers.
4. Kafka's second transaction protocol is needed (`transaction.version` 2, KIP-890): each transaction has an epoch of
   its own, so a request that comes late is refused, where the older protocol would apply it to the next transaction
   and lose or tear that (https://cwiki.apache.org/confluence/x/B4nGDQ). No Kafka client for Python speaks it, so the
   requests are made here. They are also fewer: records, offsets and the end, where the older protocol needs five.
5. Two producers alternate. Kafka marks the end of a transaction in its partitions only after it has answered, and makes
   a producer that begins before that wait for 20 ms; the other one need not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition
from confluent_kafka import KafkaError as Code

from marketdata import topics
from marketdata.clock import MILLISECOND_NS
from marketdata.errors import TickstreamError, Unavailable
from stream_apps.engines.requests import (
    ApiVersionsRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    Prepared,
    ProduceRequest,
    TxnOffsetCommitRequest,
)
from stream_apps.pipeline import Batch, Output
from stream_apps.settings import GROUP, StreamSettings

# A worker that dies leaves its transaction open for this long when nobody of its name comes back.
TRANSACTION_SECONDS = 10
INIT_SECONDS = 10.0
# The limit of one request. Kafka ends the transaction before, so a later answer is of no use.
COMMIT_SECONDS = TRANSACTION_SECONDS + 2.0
# Records that Kafka refuses for the moment are sent again for this long.
AGAIN_SECONDS = 2.0
# A record batch is closed at this size before compression; a larger record is a batch by itself.
RECORD_BATCH_BYTES = 1024 * 1024
# Below this size compression costs the broker and every reader more than it saves.
COMPRESS_FROM_BYTES = 16 * 1024

_FEATURE = "transaction.version"
_FEATURE_LEVEL = 2
_ALL_REPLICAS = -1
_RETRY_SECONDS = 0.02
_RETRY_SECONDS_MAX = 0.25
_NOT_YET = {
    Code.CONCURRENT_TRANSACTIONS,
    Code.COORDINATOR_LOAD_IN_PROGRESS,
    Code.COORDINATOR_NOT_AVAILABLE,
    Code.NOT_COORDINATOR,
}
_AGAIN = {Code.CONCURRENT_TRANSACTIONS, Code.NOT_ENOUGH_REPLICAS, Code.COORDINATOR_LOAD_IN_PROGRESS}
_FENCED = {
    Code.INVALID_PRODUCER_EPOCH,
    Code.PRODUCER_FENCED,
    Code.ILLEGAL_GENERATION,
    Code.UNKNOWN_MEMBER_ID,
    Code.FENCED_INSTANCE_ID,
}


class Failed(TickstreamError):  # noqa: N818 - named for what happened
    """A transaction failed, or its outcome is unknown: close the producers, recover, and continue with new ones.

    `is_fenced` says that another process has the worker's name, or that the group no longer knows this one.
    """

    def __init__(self, detail: str, *, is_fenced: bool = False) -> None:
        self.is_fenced = is_fenced
        super().__init__(detail)


class Member(msgspec.Struct, frozen=True):
    """A member of the consumer group in one generation; `instance` is its static name, None without one."""

    group: str
    generation: int
    name: str
    instance: str | None

    @classmethod
    def parse(cls, metadata: bytes) -> Member:
        """Return the member that librdkafka's `consumer_group_metadata` describes.

        The format is that of `rd_kafka_consumer_group_metadata_write`: a mark, the generation, and texts that end with
        NUL; a byte says whether the last, the static member's name, is missing.
        """
        generation = int.from_bytes(metadata[7:11], "little", signed=True)
        group, name, rest = metadata[11:].split(b"\0", 2)
        instance = None if rest[:1] == b"\1" else rest[1:-1].decode()
        return cls(group.decode(), generation, name.decode(), instance)


class _Producer:
    """A transactional id, with the producer's id and epoch that Kafka gave it last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = -1
        self.epoch = -1


class Transactions:
    """The producers of one worker, on one event loop. One `write` at a time."""

    def __init__(self, settings: StreamSettings, worker: str) -> None:
        self._group = f"{settings.group_prefix}{GROUP}"
        self._producers = [_Producer(f"{self._group}-{worker}-{which}") for which in range(2)]
        self._client = AIOKafkaClient(
            bootstrap_servers=settings.kafka_brokers,
            client_id=f"tickstream-pipeline-{worker}",
            request_timeout_ms=int(COMMIT_SECONDS * 1_000),
        )
        self._topics = [topic.physical(settings.topic_prefix) for topic in (*topics.PUBLIC.values(), topics.STATE)]
        self._nodes: dict[str, int] = {}

    @classmethod
    async def open(cls, settings: StreamSettings, worker: str) -> Transactions:
        """Return the producers of a worker, which fence every earlier one of its name.

        Raises Unavailable when Kafka does not answer, or not with the transaction protocol that is needed.
        """
        opened = cls(settings, worker)
        try:
            async with asyncio.timeout(INIT_SECONDS):
                await opened._connect()
        except (TickstreamError, KafkaError, TimeoutError, OSError) as error:
            await opened.close()
            raise Unavailable(f"no transactions: {error or 'no answer'}") from error
        except BaseException:
            await opened.close()
            raise
        return opened

    async def _connect(self) -> None:
        await self._client.bootstrap()
        await self._client.set_topics(self._topics)
        for producer in self._producers:
            await self._initialise(producer)
        self._nodes[self._group] = await self._coordinator(CoordinationType.GROUP, self._group)

    async def _coordinator(self, kind: CoordinationType, name: str) -> int:
        pause = _RETRY_SECONDS
        while True:
            try:
                # A broker that is registering again knows of none, and the client would fail an assertion.
                if self._client.get_random_node() is None:
                    await self._client.force_metadata_update()
                else:
                    return int(await self._client.coordinator_lookup(kind, name))
            except KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY_SECONDS_MAX)

    async def _initialise(self, producer: _Producer) -> None:
        """Give a producer its first epoch, once the transaction before has ended."""
        while True:
            node = await self._coordinator(CoordinationType.TRANSACTION, producer.name)
            versions = await self._ask(node, ApiVersionsRequest("tickstream", "1", {}))
            if (level := versions.feature(_FEATURE)) < _FEATURE_LEVEL:
                raise Unavailable(
                    f"Kafka's feature {_FEATURE} is at level {level}, and {_FEATURE_LEVEL} is needed: where that stays "
                    "so, upgrade Kafka to 4.0 or later, and run "
                    f"`kafka-features.sh upgrade --feature {_FEATURE}={_FEATURE_LEVEL}`"
                )
            request = InitProducerIdRequest(producer.name, TRANSACTION_SECONDS * 1_000, -1, -1, {})
            answer = await self._ask(node, request)
            if answer.error_code not in _NOT_YET:
                _check("initialise", answer.error_code)
                break
            await asyncio.sleep(_RETRY_SECONDS)
        self._nodes[producer.name] = node
        producer.id, producer.epoch = answer.producer_id, answer.producer_epoch

    async def write(self, batches: Mapping[int, Batch], member: Member) -> None:
        """Write the batches of partitions in one transaction: outputs in order, and offsets as a member of the group.

        Raises Failed.
        """
        producer = self._producers[0]
        self._producers.reverse()
        identity = (producer.name, self._group, producer.id, producer.epoch)
        try:
            for requests in self._records(batches, producer):
                await self._append(requests)
            commit = TxnOffsetCommitRequest(
                *identity, member.generation, member.name, member.instance, _offsets(batches), {}
            )
            _check_all("offsets", [await self._ask(self._nodes[self._group], commit)])
            end = EndTxnRequest(producer.name, producer.id, producer.epoch, True, {})
            answer = await self._ask(self._nodes[producer.name], end)
            _check("commit", answer.error_code)
        except (KafkaError, TimeoutError, OSError) as error:
            raise Failed(f"{type(error).__name__}: {error}") from error
        producer.id, producer.epoch = answer.producer_id, answer.producer_epoch

    async def _append(self, requests: list[tuple[int, ProduceRequest]]) -> None:
        """Send records to their nodes."""
        deadline = time.monotonic() + AGAIN_SECONDS
        while True:
            answers = await asyncio.gather(*(self._ask(*each, coordinator=False) for each in requests))
            codes = {code for answer in answers for _, partitions, _ in answer.topics for _, code, *_ in partitions}
            if not codes & _AGAIN or time.monotonic() > deadline:
                _check_all("outputs", answers)
                return
            await asyncio.sleep(_RETRY_SECONDS)

    def _records(self, batches: Mapping[int, Batch], producer: _Producer) -> Iterator[list[tuple[int, ProduceRequest]]]:
        """Yield requests to send at once, each with its node: Kafka takes one record batch of a partition in each."""
        outputs: dict[TopicPartition, list[Output]] = {}
        for partition, batch in batches.items():
            for output in batch.outputs:
                at = TopicPartition(output.topic, partition if output.partition is None else output.partition)
                outputs.setdefault(at, []).append(output)
        left = {at: deque(_record_batches(found, producer)) for at, found in outputs.items()}
        while left:
            by_node: dict[int, dict[str, list[Any]]] = {}
            for at, made in list(left.items()):
                node = self._client.cluster.leader_for_partition(at)
                if node is None or node < 0:
                    raise Failed(f"outputs: {at.topic}/{at.partition} has no leader")
                by_node.setdefault(node, {}).setdefault(at.topic, []).append((at.partition, made.popleft(), {}))
                if not made:
                    del left[at]
            yield [
                (node, ProduceRequest(producer.name, _ALL_REPLICAS, int(COMMIT_SECONDS * 1_000), _topics(found), {}))
                for node, found in by_node.items()
            ]

    async def _ask(self, node: int, request: Any, *, coordinator: bool = True) -> Any:
        group = ConnectionGroup.COORDINATION if coordinator else ConnectionGroup.DEFAULT
        return await self._client.send(node, Prepared(request), group=group)

    async def close(self) -> None:
        """Close the connections. An open transaction ends with the next producers of this name, or its time."""
        await self._client.close()


def _topics(by_topic: Mapping[str, list[Any]]) -> list[Any]:
    """Return what belongs to each topic in the form of a request."""
    return [(topic, partitions, {}) for topic, partitions in by_topic.items()]


def _offsets(batches: Mapping[int, Batch]) -> list[Any]:
    found: dict[str, list[Any]] = {}
    for partition, batch in batches.items():
        for topic, (offset, metadata) in batch.offsets.items():
            # librdkafka, which reads it back, takes the text up to a NUL that it does not add itself.
            found.setdefault(topic, []).append((partition, offset, -1, metadata + "\0", {}))
    return _topics(found)


def _record_batches(outputs: list[Output], producer: _Producer) -> list[bytes]:
    """Return the record batches of one partition, in order."""
    now_ms = time.time_ns() // MILLISECOND_NS
    size = sum(len(output.value or b"") for output in outputs)
    codec = DefaultRecordBatch.CODEC_ZSTD if size >= COMPRESS_FROM_BYTES else DefaultRecordBatch.CODEC_NONE
    made: list[bytes] = []
    builder: Any = None
    number = 0  # in its batch
    for sequence, output in enumerate(outputs):
        record = (now_ms, output.key, output.value, output.headers)
        if builder is None or builder.append(number, *record) is None:
            if builder is not None:
                made.append(bytes(builder.build()))
            builder = DefaultRecordBatchBuilder(2, codec, 1, producer.id, producer.epoch, sequence, RECORD_BATCH_BYTES)
            number = 0
            builder.append(number, *record)
        number += 1
    made.append(bytes(builder.build()))
    return made


def _check(step: str, code: int) -> None:
    if code != 0:
        error = Code(code)
        raise Failed(f"{step}: {error.name()}: {error.str()}", is_fenced=code in _FENCED)


def _check_all(step: str, answers: Iterable[Any]) -> None:
    """Raise Failed for the first error of any topic's partition."""
    for answer in answers:
        for topic, partitions, _ in answer.topics:
            for partition, code, *_ in partitions:
                _check(f"{step}: {topic}/{partition}", code)
