"""One partition of all input topics as a plain value: records in; outputs, checkpoints and offsets out.

Theory of operation. An engine owns Kafka. It gives each record to `step`, takes a `Batch` now and then, and writes all
of it in one transaction: outputs, checkpoints and the offsets of every input topic. So

1. a committed offset is exactly the frontier of what was published: nothing before it is missing, nothing after it is
   there;
2. the commit's metadata (`Mark`) says from which offset a key's records must be stepped again to rebuild its state, and
   how old the oldest checkpoint is that is still needed;
3. after any failure the pipeline is discarded. A new one starts from the checkpoints, steps the records up to the
   frontier without publishing (`replay`), and continues.

A key is dirty from the first record that its last checkpoint does not reflect. The offset to replay from is that of the
key that has been dirty for longest; keys are checkpointed often enough that replay stays short (`Cadence`). A new key's
first checkpoint comes with its first outputs: when its topic is deleted and re-created, Kafka deletes its
commits, and only checkpoints say which symbols lost something.

A record that cannot be decoded, or an offset that is missing, is a loss: its symbols become invalid at once (see
`Chain.lose`). A record that makes an operator raise is excluded: the pipeline is built again, and the record becomes a
dead letter then (`Excluded`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from marketdata import topics
from marketdata.clock import MILLISECOND_NS
from marketdata.commit import Mark
from marketdata.errors import CodecError, TickstreamError
from marketdata.events import ALL_SYMBOLS, AnyEvent, Checkpoint, DeadLetter
from marketdata.headers import HOPS, Hops, Position, cloudevent
from marketdata.operator import Lost, Operator
from marketdata.output_headers import OutputHeaders
from marketdata.partitions import partition_of
from marketdata.plain_headers import Header
from marketdata.state import pack_state
from marketdata.topics import PARTITIONS, VENUE_PRICES
from stream_apps.chain import Chain

SOURCE = "pipeline"

# A transaction is closed once its outputs have this size; the largest message is four times as large.
BATCH_BYTES = 8 * 1024 * 1024
# Or after so many records.
BATCH_RECORDS = 1_000
# So many checkpoints share a transaction with outputs, so that no batch waits long for them.
CHECKPOINTS_MAX = 32
CHECKPOINT_BYTES_MAX = 2 * 1024 * 1024
# A checkpoint is written again after this time although nothing changed, so that recovery reads only so much.
REFRESH_MS = 600_000
# A key without records for this long is forgotten, as is its checkpoint.
FORGET_MS = 7 * 86_400_000
# A commit says how old the checkpoints are with this slack at most.
MARK_MS = 10_000
# A longer key names no symbol.
SYMBOL_LENGTH_MAX = 200

_log = structlog.get_logger(__name__)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One input record as Kafka gave it."""

    topic: str
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, Any]] | None
    timestamp_ms: int


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to write; its partition is the pipeline's where it is None."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[Header]
    partition: int | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Where a pipeline resumes in one input topic: the frontier, and what was lost before it, if anything.

    `log_start` is the first offset that Kafka still has: records before it are lost, while offsets that are missing
    behind it never were records (transaction markers).
    """

    offset: int
    topic_id: str
    log_start: int = 0
    loss: Lost | None = None


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """One key's checkpoint: the offset of the last record that it reflects, and the state of each operator."""

    offset: int
    states: dict[str, Any]
    saved_ms: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction writes: outputs in order, and by input topic the offset to commit with its metadata.

    There is always an offset, so that Kafka checks that the writer still owns the partition. A topic that has not moved
    is left out, which makes the transaction shorter. `size` is that of the outputs, bytes. `inputs` counts the records
    behind it; `t_produced` is when the last of them that has outputs was produced, 0 where that is unknown.
    """

    outputs: list[Output]
    offsets: dict[str, tuple[int, str]]
    inputs: int
    size: int = 0
    t_produced: int = 0


class Cadence(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a checkpoint's age, in records of its input topic and in milliseconds."""

    inputs: int = 20_000
    ms: int = 30_000


MakeOperators = Callable[[], Sequence[Operator[Any]]]


class Shell(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline needs from the process around it.

    `operators` makes the operators of one pipeline. `decode` raises CodecError for bytes that are not one of our
    records, and Unavailable when the registry is needed and unavailable. `span` is `runtime.tracing.Tracing.span`, None
    where no traces are collected. `clock` gives UTC nanoseconds. `partitions` is the number of partitions of the keyed
    topics, which decides where an output goes that has another key than its input.
    """

    operators: MakeOperators
    decode: Callable[[bytes], AnyEvent]
    encode: Callable[[AnyEvent], bytes]
    clock: Callable[[], int]
    span: Callable[[str, bytes | None, int, int, dict[str, str | int] | None], bytes] | None = None
    trace: Callable[[], bytes] = lambda: b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00"
    prefix: str = ""
    partitions: int = PARTITIONS


class Excluded(TickstreamError):  # noqa: N818 - named for what becomes of the record
    """A record made an operator raise: build the pipeline again with this record among those excluded."""

    def __init__(self, topic: str, offset: int, detail: str) -> None:
        self.topic = topic
        self.offset = offset
        self.detail = detail
        super().__init__(f"{topic} offset {offset}: {detail}")


class _Key:
    """The state of a key's checkpoint: from which offset and since when it is dirty, and when it was written last."""

    __slots__ = ("dirty_from", "dirty_ms", "saved_ms", "stepped_ms")

    def __init__(self, saved_ms: int, now_ms: int) -> None:
        self.dirty_from: int | None = None
        self.dirty_ms = 0
        self.saved_ms = saved_ms
        self.stepped_ms = now_ms


class _Input:
    """One input topic: its chain, the next offset, and the keys in the order in which they became dirty or were saved.

    `fresh` are the dirty ones that have no checkpoint. `reflected` has the offsets of checkpoints that replay has not
    reached yet.
    """

    def __init__(self, chain: Chain, physical: str, partition: int, start: Start) -> None:
        self.chain = chain
        self.physical = physical
        self.next = start.offset
        self.topic_id = start.topic_id
        self.log_start = start.log_start
        self.loss = start.loss
        self.keys: dict[str, _Key] = {}
        self.dirty: dict[str, _Key] = {}
        self.fresh: dict[str, _Key] = {}
        self.saved: dict[str, _Key] = {}
        self.reflected: dict[str, int] = {}
        self.headers = OutputHeaders(physical, partition, SOURCE)

    @property
    def replay_from(self) -> int:
        """The first offset that some key's checkpoint does not reflect."""
        first = next(iter(self.dirty.values()), None)
        return self.next if first is None or first.dirty_from is None else first.dirty_from


class Pipeline:
    """All chains on one partition number. Not safe for several threads."""

    def __init__(
        self,
        partition: int,
        chains: Mapping[str, Chain],
        starts: Mapping[str, Start],
        shell: Shell,
        *,
        cadence: Cadence | None = None,
        excluded: Mapping[tuple[str, int], str] | None = None,
    ) -> None:
        """Take the chains and starts by logical topic; `excluded` has details by (physical topic, offset)."""
        self.partition = partition
        self.counts: Counter[str] = Counter()
        self._shell = shell
        self._cadence = cadence or Cadence()
        self._excluded = excluded or {}
        self._inputs = {
            topics.topic(name).physical(shell.prefix): _Input(
                chain, topics.topic(name).physical(shell.prefix), partition, starts[name]
            )
            for name, chain in chains.items()
        }
        self._public = {name: topic.physical(shell.prefix) for name, topic in topics.PUBLIC.items()}
        self._state_topic = topics.STATE.physical(shell.prefix)
        self._outputs: list[Output] = []
        self._bytes = 0
        self._stepped = 0
        self._t_produced = 0
        self._save_all = False
        self._committed: dict[str, tuple[int, Mark]] = {}

    # -- records in

    def restore(self, topic: str, key: str, restored: Restored) -> None:
        """Take in a key's checkpoint of an input topic (physical name), before any record is stepped."""
        entry = self._inputs[topic]
        entry.chain.keys[key] = restored.states
        kept = entry.keys[key] = _Key(restored.saved_ms, restored.saved_ms)
        entry.saved[key] = kept
        entry.reflected[key] = restored.offset

    def replay(self, topic: str, first: int, records: Iterable[Record]) -> None:
        """Step a topic's records from offset `first` up to the frontier without publishing.

        Those that a key's checkpoint reflects are left out. Raises Excluded and Unavailable, as `step` does.
        """
        entry = self._inputs[topic]
        frontier, entry.next = entry.next, first
        for record in records:
            if entry.next <= record.offset < frontier:
                self._take(entry, record, publish=False)
        entry.next = frontier

    def resume(self) -> None:
        """Make public what was lost before the frontier; call it once, after replay and before `step`."""
        for entry in self._inputs.values():
            # In whatever order they were restored: the first one says how old the oldest checkpoint is.
            entry.saved = dict(sorted(entry.saved.items(), key=lambda item: item[1].saved_ms))
            if entry.loss is not None:
                self._lose(entry, entry.loss, None, publish=True)
                entry.loss = None

    def step(self, record: Record) -> None:
        """Take one record; one that was taken before is ignored.

        Raises Unavailable when the registry is needed and away: call again with the same record. Raises Excluded when
        an operator raised: discard the pipeline.
        """
        entry = self._inputs[record.topic]
        if record.offset >= entry.next:
            self._take(entry, record, publish=True)
            self._stepped += 1

    def _take(self, entry: _Input, record: Record, *, publish: bool) -> None:
        offset = record.offset
        start = self._shell.clock()
        if self._excluded and (record.topic, offset) in self._excluded:
            self._skip_to(entry, record, publish=publish)
            detail = self._excluded[record.topic, offset]
            if publish:
                entry.headers.begin(record.headers, offset, record.timestamp_ms, start, "")
                self._emit(entry, record, [_letter(record, "operator_error", detail)], None, start)
            entry.next = offset + 1
            return
        try:
            event = self._shell.decode(record.value or b"")
        except CodecError as error:
            self._skip_to(entry, record, publish=publish)
            self._undecodable(entry, record, error, start, publish=publish)
            entry.next = offset + 1
            return
        if offset > entry.next:
            self._skip_to(entry, record, publish=publish)
        self._process(entry, record, event, start, publish=publish)
        entry.next = offset + 1

    def _process(self, entry: _Input, record: Record, event: AnyEvent, start: int, *, publish: bool) -> None:
        """Pass an event through its chain, unless a key's checkpoint reflects it or it is a repetition."""
        offset, key, headers = record.offset, event.key, entry.headers
        if entry.reflected and not publish and offset <= entry.reflected.get(key, -1):
            return
        headers.begin(record.headers, offset, record.timestamp_ms, start, "")
        if headers.run and not entry.chain.takes(key, headers.run, headers.number):
            self.counts["repeated"] += 1
            return
        try:
            outputs = entry.chain.step(event, key)
            if outputs and publish:
                self._emit(entry, record, outputs, event, start)
        except Exception as error:
            _log.exception("operator failed", key=key, topic=record.topic, partition=self.partition, offset=offset)
            raise Excluded(record.topic, offset, f"{type(error).__name__}: {error}"[:1000]) from error
        kept = entry.keys.get(key)
        if kept is None or kept.dirty_from is None:
            self._touch(entry, key, offset, start)

    @staticmethod
    def _touch(entry: _Input, key: str, offset: int, now_ns: int) -> None:
        """Note that a key's state changed."""
        now_ms = now_ns // MILLISECOND_NS
        kept = entry.keys.get(key)
        if kept is None:
            kept = entry.keys[key] = entry.fresh[key] = _Key(now_ms, now_ms)
        if kept.dirty_from is None:
            kept.dirty_from = offset
            kept.dirty_ms = kept.stepped_ms = now_ms
            entry.dirty[key] = kept

    # -- losses and dead letters

    def _loss(self, entry: _Input, offset: int, count: int, reason: str, ts: int) -> Lost:
        return Lost(topic=entry.chain.topic, partition=self.partition, offset=offset, count=count, ts=ts, reason=reason)

    def _skip_to(self, entry: _Input, record: Record, *, publish: bool) -> None:
        """Note that records between the last one and this one are lost, where the log begins only behind them."""
        missing = min(record.offset, entry.log_start) - entry.next
        if missing > 0:
            loss = self._loss(entry, entry.next, missing, "retention", record.timestamp_ms * MILLISECOND_NS)
            self._lose(entry, loss, None, publish=publish)

    def _lose(self, entry: _Input, loss: Lost, keys: Iterable[str] | None, *, publish: bool) -> None:
        """Make symbols invalid: the given ones, or all that were seen."""
        named = sorted(entry.chain.keys) if keys is None else list(keys)
        now = self._shell.clock()
        record = Record(entry.physical, loss.offset, None, None, None, loss.ts // MILLISECOND_NS)
        for key in named:
            if not publish and loss.offset <= entry.reflected.get(key, -1):
                continue  # in replay: the key's checkpoint reflects it
            outputs = entry.chain.lose(loss, (key,))
            # From here the loss is seen again when it is replayed.
            self._touch(entry, key, min(loss.offset, entry.next), now)
            if publish:
                entry.headers.begin(None, record.offset, record.timestamp_ms, now, f"lost|{key}|")
                self._emit(entry, record, outputs, None, now)
        # A loss at the start of the log cannot be replayed once retention has moved on.
        self._save_all = self._save_all or keys is None
        if publish:
            self.counts[f"lost_{loss.reason}"] += loss.count or 1
            _log.error("records lost", topic=loss.topic, partition=loss.partition, offset=loss.offset,
                       count=loss.count, reason=loss.reason, symbols=len(named))  # fmt: skip

    def _undecodable(self, entry: _Input, record: Record, error: CodecError, start: int, *, publish: bool) -> None:
        """Put an undecodable record into a dead letter; the symbol that its key names, or all, lost something."""
        letter = _letter(record, "undecodable", str(error))
        if publish:
            entry.headers.begin(record.headers, record.offset, record.timestamp_ms, start, "")
            self._emit(entry, record, [letter], None, start)
        named = None if letter.symbol == ALL_SYMBOLS else (letter.key,)
        loss = self._loss(entry, record.offset, 1, "undecodable", record.timestamp_ms * MILLISECOND_NS)
        self._lose(entry, loss, named, publish=publish)

    # -- outputs

    def _emit(
        self, entry: _Input, record: Record, events: Sequence[AnyEvent], source: AnyEvent | None, start: int
    ) -> None:
        """Add a record's outputs; `entry.headers` has begun with it. `source` is its event, whose bytes are reused."""
        made = entry.headers
        self._t_produced = made.t_produced
        if self._shell.span is not None:
            attributes: dict[str, str | int] = {
                "messaging.destination.name": record.topic,
                "messaging.kafka.message.offset": record.offset,
                "messaging.destination.partition.id": self.partition,
            }
            made.trace = self._shell.span(SOURCE, made.trace, start, self._shell.clock(), attributes)
        elif made.trace is None:
            made.trace = self._shell.trace()
        for index, event in enumerate(events):
            if event is source:
                value, key = record.value, record.key or event.key.encode()
            else:
                plain = self._addressed(event, record) if type(event) is DeadLetter else event
                value, key = self._shell.encode(plain), plain.key.encode()
            schema = event.schema
            where = None
            if schema == VENUE_PRICES.schema or entry.chain.topic == VENUE_PRICES.name:
                where = partition_of(key, self._shell.partitions)
            self._outputs.append(Output(self._public[schema], key, value, made.build(schema, key, index), where))
            self._bytes += len(value or b"")

    def _addressed(self, letter: DeadLetter, record: Record) -> DeadLetter:
        """Return a dead letter with the position of the record that it is about, and its bytes where it has none."""
        payload = letter.payload or record.value or b""
        return msgspec.structs.replace(
            letter, topic=record.topic, partition=self.partition, offset=record.offset, payload=payload
        )

    # -- batches out

    def counted(self) -> Iterator[tuple[str, Counter[str]]]:
        """Yield what the pipeline and each operator of each chain has counted, with a name for each."""
        yield SOURCE, self.counts
        seen: set[int] = set()
        for entry in self._inputs.values():
            for operator in entry.chain.operators:
                if id(operator) not in seen:
                    seen.add(id(operator))
                    yield operator.name, operator.counts

    @property
    def is_full(self) -> bool:
        """Whether a batch should be taken before more records are stepped."""
        return self._bytes >= BATCH_BYTES or self._stepped >= BATCH_RECORDS

    @property
    def has_outputs(self) -> bool:
        """Whether anything waits to be published."""
        return bool(self._outputs)

    @property
    def is_clean(self) -> bool:
        """Whether every key's checkpoint reflects all of its records."""
        return not any(entry.dirty for entry in self._inputs.values())

    def positions(self) -> dict[str, int]:
        """Return the next offset of each input topic (physical name)."""
        return {name: entry.next for name, entry in self._inputs.items()}

    def batch(self, *, everything: bool = False) -> Batch | None:
        """Return what to write now, None when there is nothing to write and no offset to commit.

        `everything` takes a checkpoint of every dirty key, as many as fit into one transaction: repeat until
        `is_clean`. The batch counts as written; when it is not, discard the pipeline.
        """
        outputs, self._outputs = self._outputs, []
        inputs, self._stepped = self._stepped, 0
        size, self._bytes = self._bytes, 0
        now_ms = self._shell.clock() // MILLISECOND_NS
        checkpoints = self._checkpoints(now_ms, everything=everything or self._save_all)
        size += sum(len(checkpoint.value or b"") for checkpoint in checkpoints)
        outputs += checkpoints
        self._save_all = self._save_all and not self.is_clean
        reached = {name: (entry.next, self._mark(entry, now_ms)) for name, entry in self._inputs.items()}
        due = {name: at for name, at in reached.items() if self._is_due(name, *at)}
        if not outputs and self.positions() == {name: offset for name, (offset, _) in self._committed.items()}:
            return None
        chosen = due or reached
        self._committed |= chosen
        offsets = {name: (offset, mark.text()) for name, (offset, mark) in chosen.items()}
        return Batch(outputs=outputs, offsets=offsets, inputs=inputs, size=size, t_produced=self._t_produced)

    @staticmethod
    def _mark(entry: _Input, now_ms: int) -> Mark:
        oldest = next(iter(entry.saved.values()), None)
        since = now_ms if oldest is None else oldest.saved_ms
        return Mark(topic_id=entry.topic_id, replay_from=entry.replay_from, checkpoints_since_ms=since)

    def _is_due(self, name: str, offset: int, mark: Mark) -> bool:
        """Return whether a topic's commit differs from the last one; the age of its checkpoints only now and then."""
        if name not in self._committed:
            return True
        before, old = self._committed[name]
        aged = mark.checkpoints_since_ms - old.checkpoints_since_ms
        return (offset, mark.replay_from) != (before, old.replay_from) or aged >= MARK_MS

    def _checkpoints(self, now_ms: int, *, everything: bool) -> list[Output]:
        found: list[Output] = []
        left = BATCH_BYTES if everything else CHECKPOINT_BYTES_MAX
        for entry in self._inputs.values():
            for key, kept in list(entry.fresh.items()):
                if left <= 0:
                    break
                left -= self._save(entry, key, kept, now_ms, found)
            for key, kept in list(itertools.islice(entry.dirty.items(), 1_000 if everything else CHECKPOINTS_MAX)):
                is_due = (
                    everything
                    or entry.next - (kept.dirty_from or 0) >= self._cadence.inputs
                    or now_ms - kept.dirty_ms >= self._cadence.ms
                )
                if not is_due or left <= 0 or (not everything and len(found) >= CHECKPOINTS_MAX):
                    break
                left -= self._save(entry, key, kept, now_ms, found)
            for key, kept in list(itertools.islice(entry.saved.items(), CHECKPOINTS_MAX)):
                if now_ms - kept.saved_ms < REFRESH_MS or left <= 0 or len(found) >= CHECKPOINTS_MAX:
                    break
                if kept.dirty_from is None and now_ms - kept.stepped_ms >= FORGET_MS:
                    self._forget(entry, key, found)
                else:
                    left -= self._save(entry, key, kept, now_ms, found)
        return found

    def _save(self, entry: _Input, key: str, kept: _Key, now_ms: int, found: list[Output]) -> int:
        """Add a key's checkpoint and return its size."""
        venue, _, symbol = key.partition(":")
        states = {name: pack_state(state) for name, state in entry.chain.keys.get(key, {}).items()}
        event = Checkpoint(
            venue=venue,
            symbol=symbol,
            chain=entry.chain.topic,
            partition=self.partition,
            offset=entry.next - 1,
            topic_id=entry.topic_id,
            ts_recv=now_ms * MILLISECOND_NS,
            states=states,
        )
        value = self._shell.encode(event)
        identity = f"{entry.physical}|{self.partition}|{event.offset}|{key}"
        hops = Hops(t_processed=event.ts_recv, input=Position(entry.physical, self.partition, event.offset, -1))
        headers: list[Header] = [
            *cloudevent(event.schema, SOURCE, identity=identity, subject=event.key.encode(), ts=event.ts_recv).items(),
            (HOPS, hops.to_header()),
        ]
        found.append(Output(self._state_topic, event.key.encode(), value, headers))
        entry.dirty.pop(key, None)
        entry.fresh.pop(key, None)
        entry.saved.pop(key, None)
        entry.saved[key] = kept  # last: the order is that of the writing
        kept.dirty_from = None
        kept.saved_ms = now_ms
        return len(value)

    def _forget(self, entry: _Input, key: str, found: list[Output]) -> None:
        """Forget a key that had no records for long, and its checkpoint."""
        found.append(Output(self._state_topic, f"{entry.chain.topic}|{key}".encode(), None, []))
        entry.saved.pop(key, None)
        entry.keys.pop(key, None)
        entry.chain.keys.pop(key, None)
        self.counts["forgotten"] += 1


def _letter(record: Record, reason: str, detail: str) -> DeadLetter:
    """Return the dead letter of a record that no chain can take; it is of all symbols where the key names none."""
    venue, found, symbol = (record.key or b"").decode("utf-8", "replace").partition(":")
    known = bool(found and venue and symbol and len(symbol) <= SYMBOL_LENGTH_MAX)
    return DeadLetter(
        venue=venue if known else "unknown",
        symbol=symbol if known else ALL_SYMBOLS,
        ts_recv=record.timestamp_ms * MILLISECOND_NS,
        stage=SOURCE,
        reason=reason,
        detail=detail[:1000],
        payload=record.value or b"",
    )
