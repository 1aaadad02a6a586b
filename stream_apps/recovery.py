"""Where a partition's pipeline resumes after a start, a rebalance or a failure, and how its states are restored.

1. `locate` reads what the group committed: the frontier of what was published. It compares that with the current
   log: a re-created topic, or a log that retention or a broker's loss shortened, is a loss that the pipeline publishes.
2. `rebuild` reads the checkpoints of the partition, and steps the records from the oldest one that is still needed up
   to the frontier, without publishing.

A transaction that another worker has open could still change what is read here, so both wait for its end. If it holds
offsets of this partition, the client repeats the request for them; a checkpoint that it holds is in the log, and
committed records are read to the end of the log, whatever that end's fate.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import structlog
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from marketdata import topics
from marketdata.clock import MILLISECOND_NS
from marketdata.commit import CLOCK_SLACK_MS, Mark
from marketdata.errors import CodecError, Unavailable
from marketdata.events import Checkpoint
from marketdata.operator import Lost
from marketdata.state import unpack_state
from runtime.kafka import LOG, consumer_config
from stream_apps.chain import INPUTS, RUNS, Runs, make_chains
from stream_apps.pipeline import Cadence, Pipeline, Record, Restored, Shell, Start
from stream_apps.settings import GROUP, StreamSettings

# Without a record for this long a read has failed; a transaction of another writer may hold it up for a while.
READ_SECONDS_MAX = 60.0
READ_AT_ONCE = 1_000
# Records that made an operator raise, in one rebuilding.
EXCLUDED_MAX = 1_000

_RPC_SECONDS = 10.0
# An offset that is part of an open transaction is waited for: as long as a worker that died leaves one open, and more.
_UNDECIDED_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """Where one partition resumes: starts by logical topic, where each topic's replay begins, how old checkpoints are.

    `replay_from` has no entry for a topic of which nothing has to be replayed.
    """

    partition: int
    starts: dict[str, Start]
    replay_from: dict[str, int]
    checkpoints_since_ms: int

    def offsets(self, prefix: str) -> dict[str, int]:
        """Return the frontier by physical topic."""
        return {topics.topic(name).physical(prefix): start.offset for name, start in self.starts.items()}


class _Log(msgspec.Struct, frozen=True, kw_only=True):
    """One partition's current log: the topic's id, the first offset and the next one."""

    topic_id: str
    low: int
    high: int


class Recovery:
    """Reads commits, checkpoints and inputs of one partition after the other. For one thread; close it after use."""

    def __init__(self, settings: StreamSettings, shell: Shell) -> None:
        self._settings = settings
        self._shell = shell
        # The group's own name: its commits are read. It never joins.
        self._reader = Consumer(
            consumer_config(settings, GROUP)
            | {"client.id": "tickstream-recovery", "enable.partition.eof": True, "fetch.wait.max.ms": 1}
        )
        self._admin = AdminClient(
            {"bootstrap.servers": settings.kafka_brokers, "client.id": "tickstream-recovery"}, logger=LOG
        )

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()

    def locate(self, partition: int) -> Located:
        """Return where a partition resumes.

        Raises Unavailable when Kafka does not answer.
        """
        names = {name: topics.topic(name).physical(self._settings.topic_prefix) for name in INPUTS}
        try:
            wanted = [TopicPartition(physical, partition) for physical in names.values()]
            committed = {each.topic: each for each in self._reader.committed(wanted, _UNDECIDED_SECONDS)}
            _check(committed.values())
            described = self._admin.describe_topics(TopicCollection(list(names.values())), request_timeout=_RPC_SECONDS)
            ids = {physical: str(future.result(_RPC_SECONDS).topic_id) for physical, future in described.items()}
            logs = {
                physical: self._reader.get_watermark_offsets(TopicPartition(physical, partition), _RPC_SECONDS)
                for physical in names.values()
            }
        except (KafkaException, TimeoutError) as error:
            raise Unavailable(
                f"Kafka does not return the committed offset of partition {partition}: {error}"
            ) from error
        starts: dict[str, Start] = {}
        replay_from: dict[str, int] = {}
        since: list[int] = []
        for name, physical in names.items():
            low, high = logs[physical]
            commit = committed[physical]
            mark = Mark.parse(commit.metadata)
            offset = commit.offset if commit.offset >= 0 else None
            log = _Log(topic_id=ids[physical], low=low, high=high)
            start, first = _start(name, partition, log, offset, mark=mark, now_ns=self._shell.clock())
            starts[name] = start
            if first is not None:
                replay_from[name] = first
            # Without a commit (Kafka forgets those of a deleted topic) every checkpoint counts.
            since.append(0 if mark is None else mark.checkpoints_since_ms)
            if start.loss is not None:
                _log.error("the log has changed", topic=physical, partition=partition, committed=offset,
                           log_start=low, log_end=high, reason=start.loss.reason)  # fmt: skip
        return Located(
            partition=partition,
            starts=starts,
            replay_from=replay_from,
            checkpoints_since_ms=min(since, default=0),
        )

    def rebuild(
        self, located: Located, cadence: Cadence, excluded: dict[tuple[str, int], str] | None = None
    ) -> Pipeline:
        """Return the pipeline as it was at the frontier.

        Raises Unavailable when Kafka or the registry does not answer, Excluded when an operator raised at a record that
        is not among those `excluded`, CodecError for a checkpoint that cannot be read.
        """
        began = time.monotonic()
        chains = make_chains(self._shell.operators())
        try:
            checkpoints = self._checkpoints(located)
            starts = self._starts(located, checkpoints)
            pipeline = Pipeline(located.partition, chains, starts, self._shell, cadence=cadence, excluded=excluded)
            for (name, key), checkpoint in checkpoints.items():
                kinds = {RUNS: Runs} | {operator.name: operator.state for operator in chains[name].operators}
                states = {
                    state: unpack_state(packed, kinds[state])
                    for state, packed in checkpoint.states.items()
                    if state in kinds
                }
                # A checkpoint of an earlier topic of the same name does not apply to the offsets of this one.
                offset = checkpoint.offset if checkpoint.topic_id == located.starts[name].topic_id else -1
                physical = topics.topic(name).physical(self._settings.topic_prefix)
                restored = Restored(offset=offset, states=states, saved_ms=checkpoint.ts_recv // MILLISECOND_NS)
                pipeline.restore(physical, key, restored)
            replayed = {}
            for name, first in located.replay_from.items():
                physical = topics.topic(name).physical(self._settings.topic_prefix)
                end = located.starts[name].offset
                pipeline.replay(physical, first, self._read(physical, located.partition, first, end))
                replayed[name] = end - first
        except (KafkaException, TimeoutError) as error:
            raise Unavailable(f"partition {located.partition} cannot be rebuilt: {error!r}") from error
        _log.info(
            "rebuilt",
            partition=located.partition,
            checkpoints=len(checkpoints),
            replayed=replayed,
            seconds=round(time.monotonic() - began, 3),
        )
        pipeline.resume()
        return pipeline

    def _starts(self, located: Located, checkpoints: dict[tuple[str, str], Checkpoint]) -> dict[str, Start]:
        """Return the starts, with a loss where a checkpoint is of an earlier topic of the same name.

        Kafka forgets a topic's commits when it is deleted, so that often only the checkpoints show it.
        """
        starts = dict(located.starts)
        for (name, _), checkpoint in checkpoints.items():
            start = starts[name]
            if checkpoint.topic_id != start.topic_id and start.loss is None:
                loss = Lost(topic=name, partition=located.partition, offset=start.offset, count=None,
                            ts=self._shell.clock(), reason="recreated")  # fmt: skip
                starts[name] = msgspec.structs.replace(start, loss=loss)
        return starts

    def _checkpoints(self, located: Located) -> dict[tuple[str, str], Checkpoint]:
        """Return the last checkpoint of each chain (logical input topic) and key."""
        topic, partition = topics.STATE.physical(self._settings.topic_prefix), located.partition
        low, _ = self._reader.get_watermark_offsets(TopicPartition(topic, partition), _RPC_SECONDS)
        high = self._offset(topic, partition, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        since_ms = max(0, located.checkpoints_since_ms - CLOCK_SLACK_MS)
        first = self._offset(topic, partition, OffsetSpec.for_timestamp(since_ms))
        start = high if first < 0 else max(low, first)
        found: dict[bytes, bytes] = {}
        for record in self._read(topic, partition, start, high):
            if record.key is None:
                continue
            found.pop(record.key, None)  # the order is that of the writing, as `Pipeline.restore` needs it
            if record.value is not None:
                found[record.key] = record.value
        checkpoints = {}
        for value in found.values():
            event = self._shell.decode(value)
            if not isinstance(event, Checkpoint):
                raise CodecError(f"{topic} holds a {event.schema}, not a checkpoint")
            if event.chain in located.starts:
                checkpoints[event.chain, f"{event.venue}:{event.symbol}"] = event
        return checkpoints

    def _offset(self, topic: str, partition: int, at: OffsetSpec) -> int:
        """Return an offset of a log as if all that is written were committed, -1 where there is none."""
        asked = self._admin.list_offsets(
            {TopicPartition(topic, partition): at},
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=_RPC_SECONDS,
        )
        found: int = next(iter(asked.values())).result(_RPC_SECONDS + 1).offset
        return found

    def _read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Record]:
        """Yield the committed records of [start, end)."""
        if start >= end:
            return
        deadline = time.monotonic() + READ_SECONDS_MAX
        # Known before it is assigned: the client would take a second to notice the topic by itself.
        self._reader.list_topics(topic, _RPC_SECONDS)
        self._reader.assign([TopicPartition(topic, partition, start)])
        try:
            at = start
            while at < end:
                messages: list[Any] = self._reader.consume(READ_AT_ONCE, 0.2)
                for message in messages:
                    at = max(at, _passed(message))
                    if message.error() is None and message.offset() < end:
                        yield _record(message)
                if messages:
                    deadline = time.monotonic() + READ_SECONDS_MAX
                elif time.monotonic() > deadline:
                    raise Unavailable(f"{topic}/{partition} could not be read from {start} to {end}")
        finally:
            self._reader.unassign()


def _check(committed: Iterable[TopicPartition]) -> None:
    """Raise KafkaException for an offset that Kafka did not return."""
    for each in committed:
        if each.error is not None:
            raise KafkaException(each.error)


def _passed(message: Any) -> int:
    """Return the next offset behind a message, or behind the end of a partition, which the client reports as an error.

    Raises KafkaException for a permanent error.
    """
    error = message.error()
    if error is None:
        return int(message.offset()) + 1
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
        return int(message.offset())
    if not error.retriable():
        raise KafkaException(error)
    return 0


def _record(message: Any) -> Record:
    return Record(
        message.topic(), message.offset(), message.key(), message.value(), message.headers(), message.timestamp()[1]
    )


def _start(
    name: str, partition: int, log: _Log, committed: int | None, *, mark: Mark | None, now_ns: int
) -> tuple[Start, int | None]:
    """Return where a topic resumes, and from where it is replayed; None where nothing is."""
    topic_id, low, high = log.topic_id, log.low, log.high

    def lost(offset: int, count: int | None, reason: str) -> Lost:
        return Lost(topic=name, partition=partition, offset=offset, count=count, ts=now_ns, reason=reason)

    if committed is None:
        return Start(offset=low, topic_id=topic_id, log_start=low), None
    if mark is not None and mark.topic_id != topic_id:
        return Start(offset=low, topic_id=topic_id, log_start=low, loss=lost(low, None, "recreated")), None
    replay = committed if mark is None else min(mark.replay_from, committed)
    if committed > high:
        loss = lost(high, committed - high, "truncated")
        return Start(offset=high, topic_id=topic_id, log_start=low, loss=loss), max(low, min(replay, high))
    if committed < low:
        loss = lost(committed, low - committed, "retention")
        return Start(offset=low, topic_id=topic_id, log_start=low, loss=loss), None
    if replay < low:  # the frontier is there, but not all records before it
        loss = lost(replay, low - replay, "retention")
        return Start(offset=committed, topic_id=topic_id, log_start=low, loss=loss), low
    return Start(offset=committed, topic_id=topic_id, log_start=low), replay if replay < committed else None
