"""Where the books of a start come from: the pipeline's checkpoints, and the updates that they do not contain yet.

Theory of operation. The pipeline saves the states of each symbol in md.state now and then. A checkpoint reflects its
input topic up to an offset, and each record of md.book_updates states the offset of its input (header `hops`). Both,
and the offsets that the pipeline commits with them, become visible by one transaction, but not at one moment. So:

1. Read the commits (`Commit`). A `Mark` limits how old a needed checkpoint is, and from which input offset on there are
   updates that no checkpoint contains.
2. Wait until no transaction that was open then hides checkpoints. Read md.state from the time in the mark to its end.
3. Begin with md.book_updates at a record whose input is before the mark's offset. Input offsets grow along a partition,
   so that the position is found by looking at single records, first near the end, then farther back.
4. Leave out each update that its symbol's checkpoint contains (`Reflected`).

Without a commit (the pipeline has never run, or its group was deleted) no checkpoint is used: a book becomes known by
its first snapshot in what md.book_updates still has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from marketdata import topics
from marketdata.book_state import CHAIN, OPERATOR, BooksState
from marketdata.commit import CLOCK_SLACK_MS, PIPELINE_GROUP, Mark
from marketdata.errors import CodecError, Unavailable
from marketdata.events import AnyEvent, Checkpoint
from marketdata.headers import Position, hops_of
from marketdata.state import unpack_state
from runtime.kafka import LOG, consumer_config, headers_of
from runtime.settings import CommonSettings

KEY_PREFIX = f"{CHAIN}|".encode()

# Book updates of one partition that a start reads at most. Most are left out without being decoded.
UPDATES_MAX = 2_000_000
# How far before the end the first look is, and how many records too many are not worth another look.
NEAR_RECORDS = 4_096

_CALL_TIMEOUT_S = 5.0
_WAIT_S = 0.05
# One record is looked at, whatever its size; Kafka sends a larger one whole.
_FETCH_BYTES = 16 * 1024


class Commit(msgspec.Struct, frozen=True):
    """What the pipeline committed for one partition of md.ingest.books: the next input offset, and its mark."""

    offset: int
    mark: Mark


class UpdatesStart(msgspec.Struct, frozen=True):
    """Where to begin with one partition of md.book_updates.

    Updates whose input is before `complete_from` may be missing there; 0 means that none is.
    """

    offset: int
    complete_from: int = 0


class RestoredBook(NamedTuple):
    """One symbol's book as its checkpoint has it, which reflects the input records up to `offset`."""

    venue: str
    symbol: str
    offset: int
    state: BooksState


def symbol_of(key: bytes) -> tuple[str, str]:
    """Return venue and symbol of a key `venue:symbol`."""
    venue, _, symbol = key.decode("utf-8", "replace").partition(":")
    return venue, symbol


def restored(event: AnyEvent, commit: Commit) -> RestoredBook | None:
    """Return the book in a checkpoint; None when the symbol has never had one.

    Raises CodecError for a checkpoint of a version that this API does not know, and for any other event.
    """
    if not isinstance(event, Checkpoint):
        raise CodecError(f"{topics.STATE.name} contains a {event.schema}, which is not a checkpoint")
    packed = event.states.get(OPERATOR)
    if packed is None:
        return None
    # The offset of a topic that was deleted and created again says nothing about the topic that exists now.
    offset = event.offset if event.topic_id == commit.mark.topic_id else -1
    return RestoredBook(event.venue, event.symbol, offset, unpack_state(packed, BooksState))


class Reflected:
    """Which book updates the restored books contain already. For one start.

    An input offset that is lower than the one before it means that the pipeline's input topic was created again or
    truncated. The pipeline has cleared every book then, so from there on nothing is left out.
    """

    def __init__(self, prefix: str) -> None:
        self._topic = topics.INGEST_BOOKS.physical(prefix)
        self._partitions: dict[int, _Restored] = {}

    def add(self, partition: int, key: bytes, offset: int) -> None:
        """Note the last input offset that a symbol's checkpoint reflects."""
        found = self._partitions.setdefault(partition, _Restored())
        found.offsets[key] = offset
        found.until = max(found.until, offset)

    def take(self, message: Any) -> list[bytes] | None:
        """Return None for an update that its symbol's checkpoint contains.

        For any other, return the keys of the books that are not to be trusted before it is applied: mostly none, and
        every restored book of the partition where input offsets restart.
        """
        partition = message.partition()
        found = self._partitions.get(partition)
        if found is None:
            return []
        position = _position(message, self._topic)
        if position is None:
            return []
        if position.offset < found.last:
            return list(self._partitions.pop(partition).offsets)
        found.last = position.offset
        if found.is_at_end and position.offset > found.until:
            del self._partitions[partition]
            return []
        return None if position.offset <= found.offsets.get(message.key() or b"", -1) else []

    def at_end(self, partition: int) -> None:
        """Note that what a partition held at the start was read."""
        found = self._partitions.get(partition)
        if found is not None:
            found.is_at_end = True


class BookStart:
    """Finds out where a start reads checkpoints and updates. For one thread; close it after use.

    All methods raise Unavailable or KafkaException when Kafka does not answer.
    """

    def __init__(self, settings: CommonSettings) -> None:
        self._settings = settings
        self._topic = topics.INGEST_BOOKS.physical(settings.topic_prefix)
        self._updates = topics.BOOK_UPDATES.physical(settings.topic_prefix)
        self._admin = AdminClient(
            {"bootstrap.servers": settings.kafka_brokers, "client.id": "tickstream-api-start"}, logger=LOG
        )
        self._reader = Consumer(
            consumer_config(settings, "api")
            | {
                "client.id": "tickstream-api-start",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                "fetch.message.max.bytes": _FETCH_BYTES,
                "fetch.max.bytes": topics.MESSAGE_BYTES_MAX,
                "queued.min.messages": 1,
            }
        )

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()

    def commits(self, partitions: list[int]) -> dict[int, Commit]:
        """Return what the pipeline has committed, by partition; those without a mark are left out."""
        group = f"{self._settings.group_prefix}{PIPELINE_GROUP}"
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(self._topic, number) for number in partitions])
        future = self._admin.list_consumer_group_offsets([asked], request_timeout=_CALL_TIMEOUT_S)[group]
        found = {}
        for each in self._result(future, "what the pipeline has committed").topic_partitions:
            mark = Mark.parse(each.metadata)
            if each.offset >= 0 and mark is not None:
                found[each.partition] = Commit(each.offset, mark)
        return found

    def checkpoints(self, commits: Mapping[int, Commit], check_stop: Callable[[], None]) -> list[TopicPartition]:
        """Return where to begin with md.state, once all that the commits rely on can be read up to its end.

        That takes as long as a transaction takes that is open now: at most its time limit, should the pipeline have
        died. `check_stop` is called meanwhile, and may raise.
        """
        topic = topics.STATE.physical(self._settings.topic_prefix)
        partitions = [TopicPartition(topic, number) for number in commits]
        if not partitions:
            return []
        latest = self._admin.list_offsets(
            {each: OffsetSpec.latest() for each in partitions},  # type: ignore[no-untyped-call]
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=_CALL_TIMEOUT_S,
        )
        ends = {each: self._result(future, f"the end of {topic}").offset for each, future in latest.items()}
        for each, end in ends.items():
            while self._watermarks(each)[1] < end:
                check_stop()
                time.sleep(_WAIT_S)
        since = [
            TopicPartition(topic, number, max(0, commit.mark.checkpoints_since_ms - CLOCK_SLACK_MS))
            for number, commit in commits.items()
        ]
        starts: list[TopicPartition] = self._reader.offsets_for_times(since, timeout=_CALL_TIMEOUT_S)
        return starts

    def updates(self, partition: int, commit: Commit | None) -> UpdatesStart:
        """Return where to begin with a partition of md.book_updates."""
        low, high = self._watermarks(TopicPartition(self._updates, partition))
        floor = max(low, high - UPDATES_MAX)
        if commit is None:
            return UpdatesStart(floor)
        wanted = commit.mark.replay_from
        start, later, records = high, high, NEAR_RECORDS
        first: int | None = None
        while start > floor:
            start, later = max(floor, high - records), start
            first = self._first_input(partition, start)
            if first is not None and first < wanted:
                return UpdatesStart(self._nearest(partition, start, later, high, wanted))
            records *= 4
        # All that is kept begins with `start`. A log that begins with its first record has lost nothing.
        known_from = commit.offset if first is None else min(first, commit.offset)
        return UpdatesStart(start, known_from if start > 0 and wanted < known_from else 0)

    def _nearest(self, partition: int, start: int, later: int, high: int, wanted: int) -> int:
        """Return a position that is early enough, as `start` is, nearer to `later`, which is not."""
        while later - start > max(NEAR_RECORDS, (high - later) // 4):
            middle = (start + later) // 2
            first = self._first_input(partition, middle)
            if first is not None and first < wanted:
                start = middle
            else:
                later = middle
        return start

    def _first_input(self, partition: int, offset: int) -> int | None:
        """Return the input offset of the first update at or after `offset`; None without one, or when it is unknown."""
        self._reader.assign([TopicPartition(self._updates, partition, offset)])
        deadline = time.monotonic() + _CALL_TIMEOUT_S
        try:
            while time.monotonic() < deadline:
                message = self._reader.poll(_WAIT_S)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    position = _position(message, self._topic)
                    return None if position is None else position.offset
                if error.code() == error._PARTITION_EOF:  # noqa: SLF001 - its public name
                    return None
                if not error.retriable():
                    raise KafkaException(error)
        finally:
            self._reader.unassign()
        raise Unavailable(f"{self._updates}/{partition} could not be read from {offset}")

    def _watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        """Return the start and the end of a log; what an open transaction has written is behind the end."""
        low, high = self._reader.get_watermark_offsets(partition, timeout=_CALL_TIMEOUT_S)
        return low, high

    @staticmethod
    def _result(future: Any, what: str) -> Any:
        try:
            return future.result(_CALL_TIMEOUT_S * 2)
        except (KafkaException, TimeoutError) as error:
            raise Unavailable(f"Kafka does not answer with {what}: {error}") from error


class _Restored:
    """The restored books of one partition."""

    __slots__ = ("is_at_end", "last", "offsets", "until")

    def __init__(self) -> None:
        self.offsets: dict[bytes, int] = {}  # key -> last input offset that its checkpoint reflects
        self.until = -1  # the highest of these
        self.last = -1  # the input offset of the last update
        self.is_at_end = False


def _position(message: Any, topic: str) -> Position | None:
    """Return an update's input position in `topic`; None when it states none there."""
    position = hops_of(headers_of(message)).input
    if position is None or position.topic != topic or position.partition != message.partition():
        return None
    return position
