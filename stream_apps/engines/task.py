"""The engine-independent core: one operator on one partition of its input topic, pure but for a clock given to it.

How every output comes out exactly once, although an engine may deliver an input again:

1. Each output goes to the partition number of its input and says in its header `hops` which input it reflects and
   which of that input's outputs it is. An engine writes the outputs of one partition in order, so what is in an output
   topic is always a beginning of what has to be there, and one position (the last) tells all that was written.
2. A key's state is checkpointed now and then, always after the outputs that it reflects are safe in Kafka. The
   checkpoint's header `hops` names the last input that it reflects, with `CHECKPOINT` as its index. An output that an
   operator gives under a checkpoint's key is one too, once the committed offset is beyond it: then all is safe.
3. The committed offset never passes the oldest input that some key's checkpoint does not reflect yet.
4. After a crash the input is read again from the committed offset. Inputs that the key's checkpoint reflects are
   skipped; the others are stepped again, which gives the same outputs again; those at or before the last position in
   the output topic are suppressed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from marketdata import topics
from marketdata.errors import CodecError, Unavailable
from marketdata.events import ALL_SYMBOLS, AnyEvent, DeadLetter
from marketdata.headers import HOPS, TRACEPARENT, Headers, Hops, Position, cloudevent, hops_of
from marketdata.operator import Operator

# The place of a checkpoint among the outputs of an input: it is none of them, it reflects everything up to that input.
CHECKPOINT = -1

# Keys that were checkpointed within this time wait, however many inputs they had: a burst must not drown in them.
CHECKPOINT_SECONDS_MIN = 1.0

_MS = 1_000_000

_log = structlog.get_logger(__name__)


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One input record as Kafka gave it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


class Output(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One record to write."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, str | bytes | None]]


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A key's state as found in Kafka under `record_key`, and the last input offset that it reflects."""

    offset: int
    record_key: str
    state: Any


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What earlier runs left in Kafka for one task.

    `checkpoints` is by key (`venue:symbol`), `written` is the last position in each output topic.
    """

    checkpoints: dict[str, Checkpoint] = {}
    written: dict[str, Position] = {}


class Cadence(msgspec.Struct, frozen=True, kw_only=True):
    """How often a key's state is checkpointed: after so many inputs, and after so many seconds at the latest."""

    inputs: int = 500
    seconds: float = 5.0


class Shell(msgspec.Struct, frozen=True, kw_only=True):
    """What a task needs from the process around it.

    `decode` raises CodecError for what is no record of ours and Unavailable when the registry is needed and away.
    `span` is `runtime.tracing.Tracing.span`, `clock` gives UTC nanoseconds, `seconds` a clock that never goes back,
    `observe` takes the nanoseconds since the input passed the hop before.
    """

    decode: Callable[[bytes], AnyEvent]
    encode: Callable[[AnyEvent], bytes]
    span: Callable[[str, bytes | None, int, int, dict[str, str | int] | None], bytes]
    clock: Callable[[], int]
    seconds: Callable[[], float]
    observe: Callable[[int], None]
    prefix: str = ""


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """Checkpoints to write, and the offset that may be committed once they and all outputs before are safe."""

    checkpoints: list[Output]
    offset: int


class _Key:
    """One key's state.

    `dirty_from` is the first input that no checkpoint reflects, `saving_from` the first that none reflects but the one
    that is being written; None when there is none.
    """

    __slots__ = ("dirty_from", "dirty_since", "inputs", "offset", "record_key", "saved_at", "saving_from", "state")

    def __init__(self, state: Any, offset: int, record_key: str) -> None:
        self.state = state
        self.offset = offset
        self.record_key = record_key
        self.dirty_from: int | None = None
        self.saving_from: int | None = None
        self.dirty_since = 0.0
        self.saved_at = float("-inf")
        self.inputs = 0


class Task:
    """One operator on one partition. Not safe for several threads."""

    def __init__(
        self, operator: Operator[Any], partition: int, *, recovered: Recovered, shell: Shell, cadence: Cadence
    ) -> None:
        self.operator = operator
        self.topic = topics.topic(operator.inputs[0]).physical(shell.prefix)
        self.partition = partition
        self.inputs = 0
        self.outputs = 0
        self.suppressed = 0
        self.skipped = 0
        self._shell = shell
        self._cadence = cadence
        self._checkpoints = recovered.checkpoints
        self._checkpoints_topic = topics.topic(operator.checkpoints).physical(shell.prefix)
        self._gives_checkpoints = operator.checkpoints in operator.outputs
        self._written = recovered.written
        self._keys: dict[str, _Key] = {}
        self._next: int | None = None

    def step(self, record: Record) -> list[Output]:
        """Return what has to be written for one input, in order; nothing when it was delivered before.

        Raises Unavailable when the registry or another table of the operator's is needed and away: call again with the
        same record.
        """
        if self._next is not None and record.offset < self._next:
            return []
        start = self._shell.clock()
        try:
            event = self._shell.decode(record.value or b"")
        except Unavailable:
            raise
        except CodecError as error:
            outputs = self._write(record, [_dead_letter(self.operator, record, "undecodable", error)], start)
        else:
            outputs = self._apply(record, event, start)
        self.inputs += 1
        self.outputs += len(outputs)
        self._next = record.offset + 1
        return outputs

    def _apply(self, record: Record, event: AnyEvent, start: int) -> list[Output]:
        name = event.key
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = self._restore(name)
        if record.offset <= key.offset:
            self.skipped += 1
            return []
        events: list[AnyEvent] = []
        try:
            key.state, events = self.operator.step(key.state, event)
            outputs = self._write(record, events, start)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - one bad input must not stop the symbol; it becomes a dead letter
            _log.exception(
                "operator failed",
                operator=self.operator.name,
                key=name,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )
            events = []
            outputs = self._write(record, [_dead_letter(self.operator, record, "operator_error", error)], start)
        key.offset = record.offset
        key.inputs += 1
        if self._gives_checkpoints and key.record_key and any(event.key == key.record_key for event in events):
            self._clean(key)
        elif key.dirty_from is None:
            key.dirty_from = record.offset
            key.dirty_since = self._shell.seconds()
        return outputs

    def _clean(self, key: _Key) -> None:
        """Note that what was just stepped gave a checkpoint by itself."""
        key.dirty_from = key.saving_from = None
        key.inputs = 0
        key.saved_at = self._shell.seconds()

    def _restore(self, name: str) -> _Key:
        found = self._checkpoints.pop(name, None)
        if found is None:
            return _Key(self.operator.start(name), -1, "")
        return _Key(found.state, found.offset, found.record_key)

    def _write(self, record: Record, events: list[AnyEvent], start: int) -> list[Output]:
        """Return the outputs of an input that were not written before."""
        if not events:
            return []
        outputs = []
        indexes: dict[str, int] = {}
        common: tuple[Headers, Hops] | None = None
        for event in events:
            topic = topics.PUBLIC[event.schema].physical(self._shell.prefix)
            index = indexes.get(topic, 0)
            indexes[topic] = index + 1
            position = Position(self.topic, self.partition, record.offset, index)
            written = self._written.get(topic)
            if written is not None and position <= written:
                self.suppressed += 1
                continue
            if common is None:
                common = self._common_headers(record, start)
            outputs.append(self._output(topic, _addressed(event, record), position, common))
        return outputs

    def _common_headers(self, record: Record, start: int) -> tuple[Headers, Hops]:
        """Return the trace, and the hop times so far and this one's."""
        before = hops_of(record.headers)
        end = self._shell.clock()
        attributes: dict[str, str | int] = {
            "messaging.destination.name": record.topic,
            "messaging.kafka.message.offset": record.offset,
            "messaging.destination.partition.id": record.partition,
        }
        parent = record.headers.get(TRACEPARENT)
        headers = {TRACEPARENT: self._shell.span(self.operator.name, parent, start, end, attributes)}
        last = before.t_processed or before.t_produced
        if last:
            self._shell.observe(end - last)
        return headers, Hops(before.t_recv, before.t_produced, end)

    def _output(self, topic: str, event: AnyEvent, position: Position, common: tuple[Headers, Hops]) -> Output:
        trace, hops = common
        name = self.operator.name
        key = event.key.encode()
        attributes = cloudevent(event.schema, name, identity=f"{name}|{position}", subject=key, ts=event.ts_recv)
        headers: list[tuple[str, str | bytes | None]] = [
            *trace.items(),
            *attributes.items(),
            (HOPS, msgspec.structs.replace(hops, input=position).to_header()),
        ]
        return Output(
            topic=topic,
            partition=self.partition,
            key=key,
            value=self._shell.encode(event),
            headers=headers,
        )

    @property
    def position(self) -> int:
        """The offset after the last input that was stepped, 0 before any."""
        return self._next or 0

    def checkpoint(self, *, everything: bool = False) -> Due | None:
        """Return the checkpoints that are due (`everything`: of each key that changed); None before any input.

        Write them after all outputs that `step` returned before are safe in Kafka, and call `saved` when they are safe
        themselves. Without that they are due again.
        """
        if self._next is None:
            return None
        now = self._shell.seconds()
        position = Position(self.topic, self.partition, self._next - 1, CHECKPOINT)
        checkpoints = []
        offset = self._next
        for name, key in self._keys.items():
            if key.saving_from is not None:
                key.dirty_from, key.saving_from = key.saving_from, None
            if key.dirty_from is None:
                continue
            if everything or self._is_due(key, now):
                event = self.operator.checkpoint(key.state, name, {self.topic: position.offset})
                checkpoints.append(self._output(self._checkpoints_topic, event, position, ({}, Hops())))
                key.record_key = event.key
                key.saving_from, key.dirty_from = key.dirty_from, None
                key.inputs = 0
                key.saved_at = now
            else:
                offset = min(offset, key.dirty_from)
        return Due(checkpoints=checkpoints, offset=offset)

    def saved(self) -> None:
        """Note that the checkpoints returned last are safe."""
        for key in self._keys.values():
            key.saving_from = None

    def _is_due(self, key: _Key, now: float) -> bool:
        if now - key.dirty_since >= self._cadence.seconds:
            return True
        return key.inputs >= self._cadence.inputs and now - key.saved_at >= CHECKPOINT_SECONDS_MIN


def _addressed(event: AnyEvent, record: Record) -> AnyEvent:
    """Return the event; a dead letter with the address of the record that it is about, and its bytes if it has none."""
    if not isinstance(event, DeadLetter):
        return event
    return msgspec.structs.replace(
        event,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        payload=event.payload or record.value or b"",
    )


def _dead_letter(operator: Operator[Any], record: Record, reason: str, error: Exception) -> DeadLetter:
    venue, found, symbol = (record.key or b"").decode("utf-8", "replace").partition(":")
    received = hops_of(record.headers).t_recv
    return DeadLetter(
        venue=venue if found else "unknown",
        symbol=symbol if found else ALL_SYMBOLS,
        ts_recv=received or record.timestamp_ms * _MS,
        stage=operator.name,
        reason=reason,
        detail=f"{type(error).__name__}: {error}"[:1000],
        payload=record.value or b"",
    )
