"""Reads the public topics on a thread of its own and hands events, in batches, to the event loop.

Every API process reads every partition itself; it joins no consumer group and commits no offset. A start:

1. Read the checkpoints of the books (see `api.core.checkpoints`), md.instruments, and md.candles of the last day to
   their end. Keep the last record of each key, undecoded.
2. Hand them over.
3. Read on: md.book_updates from a position before the first update that no checkpoint contains, without those that the
   symbol's checkpoint contains; md.candles and md.instruments from where step 1 ended; the other topics from a bounded
   tail.
4. When everything that the topics held at the start was handed over, the market is known: `caught_up`.

While Kafka or the registry is unavailable the thread waits, and readiness reports it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import msgspec
import structlog
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from api.core.checkpoints import (
    KEY_PREFIX,
    BookStart,
    Commit,
    Reflected,
    RestoredBook,
    UpdatesStart,
    restored,
    symbol_of,
)
from api.core.last_records import LastRecords
from api.core.positions import epoch_of
from marketdata import topics
from marketdata.clock import SECOND_NS
from marketdata.codec import Codec
from marketdata.errors import CodecError, TickstreamError, Unavailable
from marketdata.events import RESYNCING, AnyEvent
from marketdata.headers import Headers
from runtime.health import Dependent, Readiness
from runtime.kafka import LOG, consumer_config, headers_of, is_fatal
from runtime.metrics import DROPPED
from runtime.registry import Registry, RegistryFailing, decode
from runtime.settings import CommonSettings

KAFKA = "kafka"
REGISTRY = "registry"
DATABASE = "database"

BATCH_MAX = 200
# Batches that the loop has not handled yet; more would only use memory.
_OUTSTANDING_MAX = 8
_POLL_S = 0.1
_RETRY_S = 1.0
_CALL_TIMEOUT_S = 5.0
_CHECK_S = 2.0

_TAIL_RECORDS_MAX = 10_000
_TAIL_S = 600
_DAY_S = 25 * 3600

_TAIL = (topics.QUOTES, topics.TRADES, topics.DERIVATIVES, topics.METRICS, topics.ANOMALIES, topics.STATUS)

_LOG = structlog.get_logger()


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One event with its place and headers. `live` is false for what the topics held before the start.

    `epoch` names the partition that the record is in (see `api.core.positions`).
    """

    event: AnyEvent
    epoch: str
    offset: int
    headers: Headers
    live: bool = True


class Source(msgspec.Struct, frozen=True):
    """A partition that is read, by its physical topic, and the first offset that was read of it."""

    topic: str
    partition: int
    start: int


class Sources(msgspec.Struct, frozen=True):
    """The partitions that are read from now on, by epoch."""

    by_epoch: dict[str, Source]


class BookInvalidated(msgspec.Struct, frozen=True):
    """A book that is not to be trusted until its next snapshot: its checkpoint or updates after it are missing."""

    venue: str
    symbol: str
    reason: str = RESYNCING


Item = Delivery | RestoredBook | BookInvalidated | Sources
Deliver = Callable[[list[Item]], None]
Where = tuple[str, int]  # topic and partition
Offsets = dict[Where, int]


class _Stopped(Exception):  # noqa: N818 - not an error: how the thread leaves when the process stops
    """The consumer was asked to stop."""


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
        # It keeps its schemas in our database.
        self._registry_health = Dependent(readiness, REGISTRY, needs=DATABASE)
        self._caught_up = False
        self._brokers_down = ""
        self._threads = [
            threading.Thread(target=self._run, name="market-consumer", daemon=True),
            threading.Thread(target=self._watch_registry, name="registry-watch", daemon=True),
        ]

    @property
    def caught_up(self) -> bool:
        """Whether everything that the topics held at the start was handed over."""
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
                    _LOG.warning("the market cannot be read; trying again", error=str(error))
                    self._stop.wait(_RETRY_S)
        finally:
            registry.close()

    def _codec(self, registry: Registry) -> Codec:
        while True:
            began = time.monotonic()
            try:
                codec = registry.codec()
            except TickstreamError as error:
                self.wait_for_registry(error, began)
            else:
                self._registry_health.up()
                return codec

    def _watch_registry(self) -> None:
        registry = Registry(self._settings.registry_url, timeout_s=_CALL_TIMEOUT_S)
        while not self._stop.wait(_CHECK_S):
            began = time.monotonic()
            try:
                registry.lookup(topics.TRADES.schema)
            except TickstreamError as error:
                self._registry_failed(error, began)
            else:
                self._registry_health.up()
        registry.close()

    def _registry_failed(self, error: TickstreamError, began: float) -> None:
        if isinstance(error, RegistryFailing):
            self._registry_health.failed(began, str(error))
        else:
            self._readiness.down(REGISTRY, str(error))

    # Reading

    def _read(self, registry: Registry, codec: Codec) -> None:
        consumer = Consumer(
            consumer_config(self._settings, "api")
            | {"enable.partition.eof": True, "client.id": "tickstream-api", "error_cb": self._kafka_error}
        )
        try:
            reader = _Reader(self, consumer, registry, codec, self._settings)
            reader.follow(reader.restore())
        finally:
            consumer.close()

    def _kafka_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - its public name
            self._readiness.down(KAFKA, error.str())
            self._brokers_down = error.str()

    def progress(self, consumer: Any, *, caught_up: bool) -> None:
        """Note that Kafka answers again, and that the market is known once it was read up to its end at the start."""
        if caught_up and not self._caught_up:
            self._caught_up = True
            _LOG.info("the market is known")
            # The loop handles this empty batch after all that was handed over: only then do clients see the market.
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

    def hand_over(self, batch: list[Item]) -> None:
        """Give a batch to the loop, waiting while it has too many; raises _Stopped when asked to stop."""
        if not batch:
            return
        self._room.acquire()
        if self._stop.is_set():
            raise _Stopped
        self._deliver(batch)

    def wait_for_registry(self, error: TickstreamError, began: float) -> None:
        """Note that a request which began then failed, and wait a little; raises _Stopped when asked to stop."""
        self._registry_failed(error, began)
        if self._stop.wait(_RETRY_S):
            raise _Stopped

    def check_stop(self) -> None:
        """Raise _Stopped when asked to stop."""
        if self._stop.is_set():
            raise _Stopped


class _Reader:
    """One pass from the start to the loss of Kafka."""

    def __init__(
        self, owner: MarketConsumer, consumer: Any, registry: Registry, codec: Codec, settings: CommonSettings
    ) -> None:
        self._owner = owner
        self._consumer = consumer
        self._registry = registry
        self._codec = codec
        self._settings = settings
        self._prefix = settings.topic_prefix
        self._reflected = Reflected(settings.topic_prefix)
        self._ends: Offsets = {}  # of what the topics held at the start
        self._epochs: dict[Where, str] = {}

    def restore(self) -> Offsets:
        """Read checkpoints, instruments and candles, hand them over, and return where each partition resumes."""
        began = time.monotonic()
        instruments = self._partitions(topics.INSTRUMENTS)
        candles = self._by_time(self._partitions(topics.CANDLES), _DAY_S)
        self._partitions(topics.STATE)
        updates_topic = topics.BOOK_UPDATES.physical(self._prefix)
        numbers = [each.partition for each in self._partitions(topics.BOOK_UPDATES)]
        books = BookStart(self._settings)
        try:
            commits = books.commits(numbers)
            checkpoints = books.checkpoints(commits, self._owner.check_stop)
            ends: Offsets = {}
            states, last = self._last_of_each_key([*checkpoints, *instruments, *candles], ends)
            updates = {number: books.updates(number, commits.get(number)) for number in numbers}
        finally:
            books.close()
        start = ends | self._tails()
        for number, begin in updates.items():
            start[updates_topic, number] = begin.offset
            self._ends[updates_topic, number] = self._watermarks(TopicPartition(updates_topic, number))[1]
        behind = sum(self._ends[updates_topic, number] - begin.offset for number, begin in updates.items())
        _LOG.info("checkpoints read", books=len(states), updates=behind, seconds=round(time.monotonic() - began, 3))
        self._epochs = self._name_epochs(list(start))
        # Everything that may fail was asked for: from here on nothing is handed over twice.
        by_epoch = {self._epochs[where]: Source(*where, offset) for where, offset in start.items()}
        self._owner.hand_over([Sources(by_epoch)])
        self._hand_over(self._deliveries(last))
        self._hand_over(self._books(states, commits, updates))
        return start

    def follow(self, start: Offsets) -> None:
        """Read on from there, until the process stops."""
        self._consumer.assign([TopicPartition(topic, number, offset) for (topic, number), offset in start.items()])
        behind = set(start)
        updates_topic = topics.BOOK_UPDATES.physical(self._prefix)
        while True:
            self._owner.check_stop()
            batch: list[Item] = []
            live = not behind
            for message in self._poll():
                where = self._end_of_partition(message)
                if where is None and message.error() is None:
                    if message.topic() == updates_topic:
                        invalid = self._reflected.take(message)
                        if invalid is not None:
                            batch += [BookInvalidated(*symbol_of(key)) for key in invalid]
                            batch += self._decoded(message, live=live)
                    else:
                        batch += self._decoded(message, live=live)
                    if behind:
                        where = self._end_reached(message)
                if where in behind:
                    behind.discard(where)
                    if where[0] == updates_topic:
                        self._reflected.at_end(where[1])
            self._owner.hand_over(batch)
            self._owner.progress(self._consumer, caught_up=not behind)

    # What a start hands over

    def _last_of_each_key(
        self, partitions: list[TopicPartition], ends: Offsets
    ) -> tuple[dict[bytes, Message], list[Message]]:
        """Return the last checkpoint of each book's key and the last other record of each key; note the others' ends.

        A key whose last record is a tombstone is left out.
        """
        states: dict[bytes, Message] = {}
        last = LastRecords(topics.CANDLES.physical(self._prefix))
        state_topic = topics.STATE.physical(self._prefix)
        for message in self._to_end(partitions, ends):
            key = message.key() or b""
            if message.topic() != state_topic:
                last.add(message)
            elif key.startswith(KEY_PREFIX):
                states[key.removeprefix(KEY_PREFIX)] = message
        for where in [where for where in ends if where[0] == state_topic]:
            del ends[where]
        return (
            {key: message for key, message in states.items() if message.value() is not None},
            list(last.messages()),
        )

    def _deliveries(self, messages: Iterable[Message]) -> Iterator[Item]:
        for message in messages:
            yield from self._decoded(message, live=False)

    def _books(
        self, states: dict[bytes, Message], commits: dict[int, Commit], updates: dict[int, UpdatesStart]
    ) -> Iterator[Item]:
        """Yield each book as its checkpoint has it, or that it is not to be trusted."""
        for key, message in states.items():
            partition = int(message.partition() or 0)
            try:
                book = restored(self._event(message.value() or b""), commits[partition])
            except CodecError as error:
                self._undecodable(message, error)
                yield BookInvalidated(*symbol_of(key))
                continue
            if book is None:
                continue
            self._reflected.add(partition, key, book.offset)
            yield book
            if book.offset + 1 < updates[partition].complete_from:
                yield BookInvalidated(book.venue, book.symbol)

    def _hand_over(self, items: Iterable[Item]) -> None:
        batch: list[Item] = []
        for item in items:
            batch.append(item)
            if len(batch) >= BATCH_MAX:
                self._owner.hand_over(batch)
                batch = []
        self._owner.hand_over(batch)

    # Positions

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

    def _name_epochs(self, partitions: list[Where]) -> dict[Where, str]:
        """Return the epoch of each partition. Raises Unavailable when Kafka does not answer."""
        names = sorted({topic for topic, _ in partitions})
        admin = AdminClient(
            {"bootstrap.servers": self._settings.kafka_brokers, "client.id": "tickstream-api"}, logger=LOG
        )
        asked = admin.describe_topics(TopicCollection(names), request_timeout=_CALL_TIMEOUT_S)
        try:
            ids = {name: str(future.result(_CALL_TIMEOUT_S).topic_id) for name, future in asked.items()}
        except TimeoutError as error:
            raise Unavailable(f"Kafka does not return the ids of the topics: {error}") from error
        return {where: epoch_of(ids[where[0]], where[1]) for where in partitions}

    def _watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        low, high = self._consumer.get_watermark_offsets(partition, timeout=_CALL_TIMEOUT_S)
        return low, high

    def _tails(self) -> Offsets:
        """Return where to begin with the topics of which only the newest records matter, and note their ends."""
        starts: Offsets = {}
        for topic in _TAIL:
            for partition in self._by_time(self._partitions(topic), _TAIL_S):
                low, high = self._watermarks(partition)
                since = high if partition.offset in {OFFSET_END, -1} else partition.offset
                starts[partition.topic, partition.partition] = max(low, since, high - _TAIL_RECORDS_MAX)
                self._ends[partition.topic, partition.partition] = high
        return starts

    # Records

    def _to_end(self, partitions: list[TopicPartition], ends: Offsets) -> Iterator[Message]:
        """Yield the records of these partitions up to their end, and note where that is."""
        self._consumer.assign(partitions)
        behind = {(each.topic, each.partition) for each in partitions}
        while behind:
            self._owner.check_stop()
            for message in self._poll():
                where = self._end_of_partition(message)
                if where is not None:
                    behind.discard(where)
                    ends.setdefault(where, int(message.offset() or 0))
                elif message.error() is None:
                    yield message
            self._owner.progress(self._consumer, caught_up=False)
        self._consumer.unassign()

    def _poll(self) -> list[Message]:
        """Return what is there, at least one record or the end of one partition, or nothing after a while."""
        first = self._consumer.poll(_POLL_S)
        if first is None:
            return []
        return [first, *self._consumer.consume(BATCH_MAX - 1, 0)]

    @staticmethod
    def _end_of_partition(message: Message) -> Where | None:
        """Return the partition whose end this is; None for a record and for an error that passes."""
        error = message.error()
        if error is None:
            return None
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            return str(message.topic()), int(message.partition() or 0)
        if is_fatal(error):
            raise KafkaException(error)
        return None

    def _end_reached(self, message: Message) -> Where | None:
        """Return the partition of a record with which all is read that the partition held at the start.

        Under load a partition may never report its end.
        """
        where = str(message.topic()), int(message.partition() or 0)
        end = self._ends.get(where)
        return where if end is not None and int(message.offset() or 0) + 1 >= end else None

    def _decoded(self, message: Message, *, live: bool) -> list[Delivery]:
        """Return the delivery of a record, nothing for one that cannot be decoded."""
        try:
            event = self._event(message.value() or b"")
        except CodecError as error:
            self._undecodable(message, error)
            return []
        where = str(message.topic()), int(message.partition() or 0)
        return [
            Delivery(event, self._epochs.get(where, ""), int(message.offset() or 0), headers_of(message), live=live)
        ]

    def _event(self, data: bytes) -> AnyEvent:
        """Return the event in the bytes; waits for the registry where it is needed and away."""
        while True:
            began = time.monotonic()
            try:
                return decode(self._codec, self._registry, data)
            except Unavailable as error:
                self._owner.wait_for_registry(error, began)

    @staticmethod
    def _undecodable(message: Message, error: CodecError) -> None:
        DROPPED.labels("api", "undecodable").inc()
        _LOG.warning(
            "a record cannot be decoded", topic=message.topic(), partition=message.partition(),
            offset=message.offset(), error=str(error),
        )  # fmt: skip
