"""What earlier runs left in Kafka for a task: the last checkpoint of each key, and the last position in each output.

Reading is `read_committed` and goes on to the end of the log as it was when recovery began, so that an open transaction
of another writer delays recovery (at most its time-out) and never hides one of our own records behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from marketdata import topics
from marketdata.errors import CodecError, Unavailable
from marketdata.events import AnyEvent
from marketdata.headers import Headers, Position, hops_of
from marketdata.operator import Operator
from runtime.kafka import consumer_config, headers_of
from runtime.settings import CommonSettings
from stream_apps.engines.apps import written_topics
from stream_apps.engines.task import CHECKPOINT, Checkpoint, Record, Recovered

# Records of the output's tail that are read first; almost always one of ours is among them.
TAIL_RECORDS = 256
# An output is never older than its input by more than the clocks of two machines may disagree.
CLOCK_SLACK_MS = 10_000
# Longer than a transaction of the direct engine may stay open.
READ_SECONDS_MAX = 60.0
# Tasks of one partition recover one after the other and share what was read of the checkpoints.
SHARED_SECONDS = 30.0

WARM_SECONDS_MAX = 3.0

_RPC_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class _Found(msgspec.Struct, frozen=True):
    """A record that may be a checkpoint; `index` is its place among the outputs of the input at `offset`."""

    offset: int
    index: int
    value: bytes


class _Scan:
    """The checkpoints of one partition as read so far, the last of each operator and Kafka key.

    `own_before` is the offset before which the operators' own checkpoints are safe to use; 0 for none of them.
    """

    def __init__(self, start: int, own_before: int) -> None:
        self.next = start
        self.used = time.monotonic()
        self.found: dict[bytes, dict[bytes, _Found]] = {}
        self._own_before = own_before

    def add(self, message: Any) -> None:
        """Take in one record."""
        headers = headers_of(message)
        position = _position(headers)
        if position is None or message.key() is None:
            return
        by_key = self.found.setdefault(headers.get("ce_source", b""), {})
        if message.value() is None:
            by_key.pop(message.key(), None)
            return
        if position.index != CHECKPOINT and position.offset >= self._own_before:
            return
        # A worker that had lost its partitions may have written an old one late: the position decides.
        before = by_key.get(message.key())
        if before is None or position.offset >= before.offset:
            by_key[message.key()] = _Found(position.offset, position.index, message.value())


class Recovery:
    """Reads checkpoints and output tails. Safe for several threads, one at a time."""

    def __init__(self, settings: CommonSettings, decode: Callable[[bytes], AnyEvent]) -> None:
        config = consumer_config(settings, "tickstream-recovery") | {
            "enable.partition.eof": True,
            # A fetch that waits at the end of one partition holds back the next partition that is read.
            "fetch.wait.max.ms": 1,
        }
        self._prefix = settings.topic_prefix
        self._decode = decode
        self._reader = Consumer(config)
        self._ends = Consumer(config | {"isolation.level": "read_uncommitted"})
        self._scans: dict[tuple[str, int], _Scan] = {}
        self._lock = threading.Lock()

    def warm(self, names: Iterable[str]) -> None:
        """Get to know topics (logical names) ahead of time: the client takes a second for each that is new to it."""
        with self._lock:
            ends = [TopicPartition(topics.topic(name).physical(self._prefix), 0, OFFSET_END) for name in names]
            self._reader.assign(ends)
            deadline = time.monotonic() + WARM_SECONDS_MAX
            while ends and time.monotonic() < deadline:
                message = self._reader.poll(0.1)
                if message is not None:
                    ends = [end for end in ends if end.topic != message.topic()]
            self._reader.unassign()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._reader.close()
            self._ends.close()

    def recover(self, operator: Operator[Any], first: Record) -> Recovered:
        """Return what earlier runs left for the task that now gets `first` as its first input.

        Raises Unavailable when Kafka does not answer, CodecError for a checkpoint that cannot be read.
        """
        began = time.monotonic()
        source = b"tickstream/" + operator.name.encode()
        with self._lock:
            try:
                checkpoints = self._checkpoints(operator, source, first)
                written = {}
                for name in written_topics(operator):
                    topic = topics.topic(name).physical(self._prefix)
                    position = self._last_position(topic, source, first)
                    if position is not None:
                        written[topic] = position
            except KafkaException as error:
                raise Unavailable(f"cannot recover {operator.name} from Kafka: {error.args[0]}") from error
        _log.info(
            "recovered",
            operator=operator.name,
            topic=first.topic,
            partition=first.partition,
            offset=first.offset,
            checkpoints={key: checkpoint.offset for key, checkpoint in list(checkpoints.items())[:20]},
            written={topic: position.offset for topic, position in written.items()},
            seconds=round(time.monotonic() - began, 3),
        )
        return Recovered(checkpoints=checkpoints, written=written)

    def _checkpoints(self, operator: Operator[Any], source: bytes, first: Record) -> dict[str, Checkpoint]:
        topic = topics.topic(operator.checkpoints).physical(self._prefix)
        low, high = self._ends.get_watermark_offsets(TopicPartition(topic, first.partition), _RPC_SECONDS)
        self._forget_scans()
        if operator.checkpoints in operator.outputs:
            scan = _Scan(low, first.offset)
        else:
            scan = self._scans.setdefault((topic, first.partition), _Scan(low, 0))
        self._read(topic, first.partition, max(low, scan.next), high, scan.add)
        scan.next, scan.used = high, time.monotonic()
        checkpoints = {}
        for record_key, found in scan.found.get(source, {}).items():
            event: Any = self._decode(found.value)
            try:
                state = operator.restore(event)
            except CodecError:
                if found.index == CHECKPOINT:
                    raise
                continue  # an output under another key
            checkpoint = Checkpoint(offset=found.offset, record_key=record_key.decode(), state=state)
            checkpoints[f"{event.venue}:{event.symbol}"] = checkpoint
        return checkpoints

    def _forget_scans(self) -> None:
        now = time.monotonic()
        self._scans = {at: scan for at, scan in self._scans.items() if now - scan.used < SHARED_SECONDS}

    def _last_position(self, topic: str, source: bytes, first: Record) -> Position | None:
        """Return the last position of this operator and input partition in an output topic, reading backwards."""
        partition = first.partition
        low, high = self._ends.get_watermark_offsets(TopicPartition(topic, partition), _RPC_SECONDS)
        since_ms = min(first.timestamp_ms, time.time_ns() // 1_000_000) - CLOCK_SLACK_MS
        bound = self._ends.offsets_for_times([TopicPartition(topic, partition, max(0, since_ms))], _RPC_SECONDS)[0]
        if bound.error is not None:
            raise KafkaException(bound.error)
        low = high if bound.offset == OFFSET_END else max(low, bound.offset)
        best: Position | None = None

        def visit(message: Any) -> None:
            nonlocal best
            headers = headers_of(message)
            if headers.get("ce_source") != source:
                return
            position = _position(headers)
            if position is None or position.index == CHECKPOINT:
                return
            if position.topic == first.topic and position.partition == partition:
                best = position if best is None else max(best, position)

        end, size = high, TAIL_RECORDS
        while best is None and end > low:
            start = max(low, end - size)
            self._read(topic, partition, start, end, visit)
            end, size = start, size * 8
        return best

    def _read(self, topic: str, partition: int, start: int, end: int, visit: Callable[[Any], None]) -> None:
        """Visit the committed records of [start, end)."""
        if start >= end:
            return
        deadline = time.monotonic() + READ_SECONDS_MAX
        self._reader.assign([TopicPartition(topic, partition, start)])
        try:
            while True:
                message = self._reader.poll(0.5)
                at = None if message is None else message.offset()
                if message is None or at is None:
                    if time.monotonic() > deadline:
                        raise Unavailable(f"{topic}/{partition} could not be read up to {end}: a transaction hangs")
                    continue
                error = message.error()
                if error is None and at < end:
                    visit(message)
                    deadline = time.monotonic() + READ_SECONDS_MAX
                elif error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    if not error.retriable():
                        raise KafkaException(error)
                    continue
                if at >= (end if error is not None else end - 1):
                    return
        finally:
            self._reader.unassign()


def _position(headers: Headers) -> Position | None:
    return hops_of(headers).input
