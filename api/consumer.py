"""Reads the public topics on a thread of its own and hands events, in batches, to the event loop.

Every API process reads every partition itself; no consumer group divides them and no offset is committed. A start:

1. Read the compacted topics to their end (md.books for its full checkpoints, md.candles of the last day,
   md.instruments) and keep the last record of each key, undecoded.
2. Hand over what matters of them.
3. Read md.book_updates from where the oldest checkpoint stands, leaving out, per symbol, what its checkpoint already
   reflects; the other topics from a bounded tail; md.candles and md.instruments from where step 1 ended.
4. When the end of each partition was seen once, the market is known: `caught_up`.

Kafka or the registry missing or going away is waited out, and readiness says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import msgspec
import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from marketdata import topics
from marketdata.clock import SECOND_NS
from marketdata.codec import Codec
from marketdata.errors import CodecError, TickstreamError, Unavailable
from marketdata.events import RESYNCING, AnyEvent, Book
from marketdata.headers import Headers, hops_of
from runtime.health import Readiness
from runtime.kafka import consumer_config, headers_of
from runtime.metrics import DROPPED
from runtime.registry import Registry, RegistryFailing, decode
from runtime.settings import CommonSettings

KAFKA = "kafka"
REGISTRY = "registry"
DATABASE = "database"

BATCH_MAX = 200
# Batches that the loop has not handled yet; more would only be memory.
_OUTSTANDING_MAX = 8
_POLL_S = 0.1
_RETRY_S = 1.0
_CALL_TIMEOUT_S = 5.0
_CHECK_S = 2.0

_TAIL_RECORDS_MAX = 10_000
_TAIL_S = 600
_DAY_S = 25 * 3600
# Book updates that may be read again at a start, a partition. Most are left out by their key alone, undecoded.
_UPDATES_MAX = 2_000_000
# Read at least what came within this time, so that a symbol too young for a checkpoint is found by its snapshot: a
# book that changes is checkpointed every few seconds.
_YOUNG_S = 120

_TAIL = (topics.QUOTES, topics.TRADES, topics.ANOMALIES, topics.STATUS)

_LOG = structlog.get_logger()


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One event with where it stood and the headers that it came with. `restored` marks a checkpoint."""

    event: AnyEvent
    offset: int
    headers: Headers
    restored: bool = False
    live: bool = True


class Distrust(msgspec.Struct, frozen=True):
    """A book whose updates after its checkpoint are not kept any more."""

    venue: str
    symbol: str
    reason: str = RESYNCING


Deliver = Callable[[list[Delivery | Distrust]], None]
Offsets = dict[tuple[str, int], int]


class _Stopped(Exception):  # noqa: N818 - not an error: the way out of a thread that is told to stop
    """The consumer was told to stop."""


class MarketConsumer:
    """The consumer's thread, as a context manager. `deliver` is called on that thread, with bounded batches.

    `deliver` must call `handled` once for each batch when it is done with it, from any thread.
    """

    def __init__(self, settings: CommonSettings, readiness: Readiness, deliver: Deliver) -> None:
        self._settings = settings
        self._readiness = readiness
        self._deliver = deliver
        self._stop = threading.Event()
        self._room = threading.Semaphore(_OUTSTANDING_MAX)
        self._caught_up = False
        self._brokers_down = ""
        self._threads = [
            threading.Thread(target=self._run, name="market-consumer", daemon=True),
            threading.Thread(target=self._watch_registry, name="registry-watch", daemon=True),
        ]

    @property
    def caught_up(self) -> bool:
        """Tell whether everything that the topics held at the start was handed over."""
        return self._caught_up

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._room.release()
        for thread in self._threads:
            thread.join(_CALL_TIMEOUT_S * 2)

    def handled(self) -> None:
        """Make room for another batch."""
        self._room.release()

    def _run(self) -> None:
        registry = Registry(self._settings.registry_url, timeout_s=_CALL_TIMEOUT_S)
        try:
            while not self._stop.is_set():
                try:
                    self._read(registry, self._codec(registry))
                except _Stopped:
                    return
                except (KafkaException, TickstreamError) as error:
                    self._readiness.down(KAFKA, str(error))
                    _LOG.warning("the market is not readable; trying again", error=str(error))
                    self._stop.wait(_RETRY_S)
        finally:
            registry.close()

    def _codec(self, registry: Registry) -> Codec:
        while True:
            try:
                codec = registry.codec()
            except TickstreamError as error:
                self._readiness.down(REGISTRY, str(error))
                if self._stop.wait(_RETRY_S):
                    raise _Stopped from None
            else:
                self._readiness.up(REGISTRY)
                return codec

    def _watch_registry(self) -> None:
        registry = Registry(self._settings.registry_url, timeout_s=_CALL_TIMEOUT_S)
        was_failing = False
        while not self._stop.wait(_CHECK_S):
            is_failing = False
            try:
                registry.lookup(topics.TRADES.schema)
            except RegistryFailing as error:
                # It usually keeps its schemas in our database. When that is away, the database is what is missing;
                # between two failures its own check has noticed.
                is_failing = True
                if was_failing and self._readiness.is_up(DATABASE):
                    self._readiness.down(REGISTRY, str(error))
            except TickstreamError as error:
                self._readiness.down(REGISTRY, str(error))
            else:
                self._readiness.up(REGISTRY)
            was_failing = is_failing
        registry.close()

    # Reading

    def _read(self, registry: Registry, codec: Codec) -> None:
        consumer = Consumer(
            consumer_config(self._settings, "api")
            | {"enable.partition.eof": True, "client.id": "tickstream-api", "error_cb": self._kafka_error}
        )
        try:
            reader = _Reader(self, consumer, registry, codec, self._settings.topic_prefix)
            start = reader.compacted()
            reader.follow(start)
        finally:
            consumer.close()

    def _kafka_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - the client's own name of it
            self._readiness.down(KAFKA, error.str())
            self._brokers_down = error.str()

    def progress(self, consumer: Any, *, caught_up: bool) -> None:
        """Note that the market is known, once the end of each partition was seen, and that Kafka answers again."""
        if caught_up and not self._caught_up:
            self._caught_up = True
            _LOG.info("the market is known")
            # Behind all that was handed over: only when the loop has handled that is the market known to clients.
            self._room.acquire()
            self._deliver([])
        elif self._brokers_down:
            try:
                consumer.list_topics(topics.TRADES.physical(self._settings.topic_prefix), timeout=_RETRY_S)
            except KafkaException:
                return
            self._brokers_down = ""
            if self._caught_up:
                self._readiness.up(KAFKA)

    def hand_over(self, batch: list[Delivery | Distrust]) -> None:
        """Give a batch to the loop, waiting while it has too many; raises _Stopped when told to stop."""
        if not batch:
            return
        self._room.acquire()
        if self._stop.is_set():
            raise _Stopped
        self._deliver(batch)

    def wait_for_registry(self, why: str) -> None:
        """Note that the registry does not answer, and wait a little; raises _Stopped when told to stop."""
        self._readiness.down(REGISTRY, why)
        if self._stop.wait(_RETRY_S):
            raise _Stopped

    def check_stop(self) -> None:
        """Raise _Stopped when told to stop."""
        if self._stop.is_set():
            raise _Stopped


class _Reader:
    """One pass from start to the loss of Kafka."""

    def __init__(self, owner: MarketConsumer, consumer: Any, registry: Registry, codec: Codec, prefix: str) -> None:
        self._owner = owner
        self._consumer = consumer
        self._registry = registry
        self._codec = codec
        self._prefix = prefix
        self._reflected: dict[bytes, int] = {}  # book key -> last offset that its checkpoint reflects
        self._checkpoints: dict[bytes, Message] = {}

    def compacted(self) -> Offsets:
        """Read the compacted topics, hand over what matters, and return where to go on with each partition."""
        books, instruments = self._partitions(topics.BOOKS), self._partitions(topics.INSTRUMENTS)
        candles = self._by_time(self._partitions(topics.CANDLES), _DAY_S)
        last: dict[tuple[str, bytes], Message] = {}
        ends: Offsets = {}
        books_topic = topics.BOOKS.physical(self._prefix)
        for message in self._to_end([*books, *instruments, *candles], ends):
            topic, key = str(message.topic()), message.key() or b""
            if topic != books_topic or key.endswith(b"|full"):
                last[topic, key] = message
        start = self._update_starts(
            [message for (topic, _), message in last.items() if topic == books_topic and message.value()]
        )
        tails = {(each.topic, each.partition): each.offset for each in self._tails()}
        # All that may fail was asked for: from here on nothing is handed over twice.
        self._hand_over_decoded((message for message in last.values() if message.value()), restored=True)
        self._distrust(start)
        return start | tails | {where: offset for where, offset in ends.items() if where[0] != books_topic}

    def follow(self, start: Offsets) -> None:
        """Read on from there, for ever."""
        self._consumer.assign([TopicPartition(topic, number, offset) for (topic, number), offset in start.items()])
        behind = set(start)
        updates_topic = topics.BOOK_UPDATES.physical(self._prefix)
        while True:
            self._owner.check_stop()
            batch: list[Delivery | Distrust] = []
            live = not behind
            for message in self._poll():
                if message.error() is not None:
                    self._end_of_partition(message, behind)
                elif message.topic() != updates_topic or not self._is_reflected(message):
                    delivery = self._decode(message, live=live)
                    if delivery is not None:
                        batch.append(delivery)
            self._owner.hand_over(batch)
            self._owner.progress(self._consumer, caught_up=not behind)

    def _is_reflected(self, message: Message) -> bool:
        """Tell whether the checkpoint that the start began with holds this book update already."""
        return int(message.offset() or 0) <= self._reflected.get(message.key() or b"", -1)

    # The parts of both

    def _partitions(self, topic: topics.Topic) -> list[TopicPartition]:
        name = topic.physical(self._prefix)
        found = self._consumer.list_topics(name, timeout=_CALL_TIMEOUT_S).topics[name]
        if found.error is not None or not found.partitions:
            raise Unavailable(f"Kafka has no topic {name}: run `tickstream topics apply` ({found.error})")
        return [TopicPartition(name, number, 0) for number in found.partitions]

    def _by_time(self, partitions: list[TopicPartition], seconds: int) -> list[TopicPartition]:
        since_ms = (time.time_ns() - seconds * SECOND_NS) // 1_000_000
        asked = [TopicPartition(each.topic, each.partition, since_ms) for each in partitions]
        found: list[TopicPartition] = self._consumer.offsets_for_times(asked, timeout=_CALL_TIMEOUT_S)
        return found

    def _watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        low, high = self._consumer.get_watermark_offsets(partition, timeout=_CALL_TIMEOUT_S)
        return low, high

    def _tails(self) -> Iterator[TopicPartition]:
        for topic in _TAIL:
            for partition in self._by_time(self._partitions(topic), _TAIL_S):
                low, high = self._watermarks(partition)
                since = high if partition.offset in {OFFSET_END, -1} else partition.offset
                offset = max(low, since, high - _TAIL_RECORDS_MAX)
                yield TopicPartition(partition.topic, partition.partition, offset)

    def _update_starts(self, checkpoints: list[Message]) -> Offsets:
        """Return where to begin with md.book_updates, and note what each checkpoint reflects."""
        oldest: dict[int, int] = {}
        for message in checkpoints:
            position = hops_of(headers_of(message)).input
            if position is None:
                continue
            self._reflected[_book_key(message)] = position.offset
            oldest[position.partition] = min(position.offset + 1, oldest.get(position.partition, position.offset + 1))
        starts: Offsets = {}
        for young in self._by_time(self._partitions(topics.BOOK_UPDATES), _YOUNG_S):
            low, high = self._watermarks(young)
            since = high if young.offset in {OFFSET_END, -1} else young.offset
            wanted = min(oldest.get(young.partition, since), since)
            starts[young.topic, young.partition] = max(low, wanted, high - _UPDATES_MAX)
        self._checkpoints = {_book_key(message): message for message in checkpoints}
        return starts

    def _distrust(self, starts: Offsets) -> None:
        """Tell of books whose next updates are not kept any more: theirs is a hole that nobody can fill."""
        lost: list[Delivery | Distrust] = []
        for key, message in self._checkpoints.items():
            position = hops_of(headers_of(message)).input
            if position is None or position.offset + 1 < starts.get((position.topic, position.partition), 0):
                venue, _, symbol = key.decode().partition(":")
                lost.append(Distrust(venue, symbol))
        self._owner.hand_over(lost)

    def _to_end(self, partitions: list[TopicPartition], ends: Offsets) -> Iterator[Message]:
        """Yield the records of these partitions up to their end, and note where that is."""
        self._consumer.assign(partitions)
        behind = {(each.topic, each.partition) for each in partitions}
        while behind:
            self._owner.check_stop()
            for message in self._poll():
                if message.error() is None:
                    yield message
                else:
                    where = self._end_of_partition(message, behind)
                    if where is not None:
                        ends.setdefault(where, int(message.offset() or 0))
            self._owner.progress(self._consumer, caught_up=False)
        self._consumer.unassign()

    def _poll(self) -> list[Message]:
        """Return what is there, at least one record or the end of one partition, or nothing after a while."""
        first = self._consumer.poll(_POLL_S)
        if first is None:
            return []
        return [first, *self._consumer.consume(BATCH_MAX - 1, 0)]

    @staticmethod
    def _end_of_partition(message: Message, behind: set[tuple[str, int]]) -> tuple[str, int] | None:
        error = message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's own name of it
            where = (str(message.topic()), int(message.partition() or 0))
            behind.discard(where)
            return where
        if error is not None and not error.retriable() and error.fatal():
            raise KafkaException(error)
        return None

    def _decode(self, message: Message, *, live: bool, restored: bool = False) -> Delivery | None:
        try:
            event = self._event(message.value() or b"")
        except CodecError as error:
            DROPPED.labels("api", "undecodable").inc()
            _LOG.warning(
                "a record is not readable", topic=message.topic(), partition=message.partition(),
                offset=message.offset(), error=str(error),
            )  # fmt: skip
            return None
        return Delivery(event, int(message.offset() or 0), headers_of(message), restored=restored, live=live)

    def _event(self, data: bytes) -> AnyEvent:
        """Return the event that the bytes hold; a registry that is needed and does not answer is waited for."""
        while True:
            try:
                return decode(self._codec, self._registry, data)
            except Unavailable as error:
                self._owner.wait_for_registry(str(error))

    def _hand_over_decoded(self, messages: Iterable[Message], *, restored: bool) -> None:
        batch: list[Delivery | Distrust] = []
        for message in messages:
            delivery = self._decode(message, live=False, restored=restored)
            if delivery is None or (isinstance(delivery.event, Book) and delivery.event.kind != "full"):
                continue
            batch.append(delivery)
            if len(batch) >= BATCH_MAX:
                self._owner.hand_over(batch)
                batch = []
        self._owner.hand_over(batch)


def _book_key(checkpoint: Message) -> bytes:
    key: bytes = checkpoint.key() or b""
    return key.removesuffix(b"|full")
