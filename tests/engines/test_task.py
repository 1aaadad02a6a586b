"""The engine-independent core: what is written, skipped and suppressed, and that no crash changes the outcome."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata import topics
from marketdata.codec import Codec
from marketdata.errors import Unavailable, UnknownSchema
from marketdata.events import EVENTS, AnyEvent, DeadLetter, Trade, Trades
from marketdata.headers import HOPS, TRACEPARENT, Hops, Position
from stream_apps.engines.task import CHECKPOINT, Cadence, Checkpoint, Output, Record, Recovered, Shell, Task

TOPIC = topics.INGEST_TRADES.physical()
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS)})


class Clock:
    """Seconds and nanoseconds that move only when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def seconds(self) -> float:
        """Tell the monotonic time."""
        return self.now

    def nanoseconds(self) -> int:
        """Tell the wall clock."""
        return int(self.now * 1_000_000_000)


def shell(clock: Clock, decode: Any = CODEC.decode) -> Shell:
    """Return what a task needs, with the test's clock."""
    return Shell(
        decode=decode,
        encode=CODEC.encode,
        span=lambda _name, parent, _start, _end, _attributes: parent or b"new",
        clock=clock.nanoseconds,
        seconds=clock.seconds,
        observe=lambda _: None,
    )


def event(symbol: str, *identities: str) -> Trades:
    """Return an event with a trade for each id."""
    both = tuple(Trade(trade_id=name, ts_event=5, price="1", size="1", side="buy") for name in identities)
    return Trades(venue="sim", symbol=symbol, ts_event=5, ts_recv=6, line="sim/0", trades=both)


def record(offset: int, content: AnyEvent | bytes, headers: dict[str, bytes] | None = None) -> Record:
    """Return an input record of partition 2."""
    key = content.key.encode() if not isinstance(content, bytes) else b"sim:X-USD"
    value = CODEC.encode(content) if not isinstance(content, bytes) else content
    return Record(topic=TOPIC, partition=2, offset=offset, key=key, value=value, headers=headers or {}, timestamp_ms=77)


def make(counting: ModuleType, clock: Clock, recovered: Recovered | None = None, **cadence: Any) -> Task:
    """Return a task that counts."""
    return Task(
        counting.Counting(),
        2,
        recovered=recovered or Recovered(),
        shell=shell(clock),
        cadence=Cadence(**cadence),
    )


def position(output: Output) -> Position:
    """Return the position that an output names."""
    found = hops(output).input
    assert found is not None
    return found


def hops(output: Output) -> Hops:
    """Return the hops that an output names."""
    value = dict(output.headers)[HOPS]
    assert isinstance(value, bytes)
    return Hops.from_header(value)


def test_an_output_goes_to_its_inputs_partition_and_names_its_input(counting: ModuleType) -> None:
    """Partition, key, position with an index per topic, hop times, trace and CloudEvents attributes."""
    task = make(counting, Clock())
    headers = {HOPS: Hops(1, 2, 3).to_header(), TRACEPARENT: b"trace", "other": b"x"}
    outputs = [output for n in range(3) for output in task.step(record(n, event("A-USD", str(n)), headers))]
    third = [output for output in outputs if position(output).offset == 2]
    assert [(output.topic, position(output).index) for output in third] == [
        ("md.trades.v1", 0),
        ("md.candles.v1", 0),
        ("md.candles.v1", 1),
    ]
    assert {output.partition for output in outputs} == {2}
    assert third[0].key == b"sim:A-USD"
    assert third[1].key == b"sim:A-USD|1m|0"
    told = dict(third[0].headers)
    assert hops(third[0]) == Hops(1, 2, 1_000_000_000_000, Position("md.ingest.trades.v1", 2, 2, 0))
    assert told[TRACEPARENT] == b"trace"
    assert told["ce_source"] == b"tickstream/counting"
    assert told["ce_type"] == b"tickstream.md.Trades.v1"
    assert told["ce_id"] == b"counting|md.ingest.trades.v1|2|2|0"
    assert told["ce_subject"] == b"sim:A-USD"
    assert "other" not in told


def test_an_undecodable_record_becomes_a_dead_letter(counting: ModuleType) -> None:
    """The bytes, the address and the operator's name are kept, and the next record is stepped."""
    task = make(counting, Clock())
    (output,) = task.step(record(4, b"garbage"))
    letter = CODEC.decode(output.value)
    assert isinstance(letter, DeadLetter)
    assert (letter.stage, letter.reason, letter.payload) == ("counting", "undecodable", b"garbage")
    assert (letter.topic, letter.partition, letter.offset) == (TOPIC, 2, 4)
    assert (letter.venue, letter.symbol, letter.ts_recv) == ("sim", "X-USD", 77_000_000)
    assert task.step(record(5, event("A-USD", "1")))[0].topic == "md.trades.v1"


def test_a_record_without_a_value_becomes_a_dead_letter(counting: ModuleType) -> None:
    """A tombstone in an input topic is nobody's event."""
    (output,) = make(counting, Clock()).step(msgspec.structs.replace(record(0, b""), value=None, key=None))
    letter = CODEC.decode(output.value)
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.venue, letter.symbol) == ("undecodable", "unknown", "*")


def test_an_operators_exception_becomes_a_dead_letter_and_the_key_goes_on(counting: ModuleType) -> None:
    """`operator_error` with the input's bytes; the next input of the key gives its output."""
    task = make(counting, Clock())
    bad = record(0, event("A-USD", "boom"))
    (output,) = task.step(bad)
    letter = CODEC.decode(output.value)
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.payload, letter.offset) == ("operator_error", bad.value, 0)
    assert "boom" in letter.detail
    assert [output.topic for output in task.step(record(1, event("A-USD", "1")))] == ["md.trades.v1"]


def test_a_dead_letters_own_payload_is_kept(counting: ModuleType) -> None:
    """Where an operator says which part of its input was bad, that part is what is kept."""
    task = make(counting, Clock())
    task.operator._letter = lambda event, state: DeadLetter(  # type: ignore[attr-defined]
        venue="sim", symbol="A-USD", ts_recv=1, stage="counting", reason="part", payload=b"part"
    )
    outputs = [output for n in range(7) for output in task.step(record(n, event("A-USD", str(n))))]
    letter = CODEC.decode(outputs[-1].value)
    assert isinstance(letter, DeadLetter)
    assert (letter.payload, letter.offset) == (b"part", 6)


def test_a_registry_that_is_away_loses_nothing(counting: ModuleType) -> None:
    """The same record is taken again once its schema can be fetched."""
    answers: list[Any] = [Unavailable("away"), None]

    def decode(data: bytes) -> AnyEvent:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return CODEC.decode(data)

    clock = Clock()
    task = Task(counting.Counting(), 2, recovered=Recovered(), shell=shell(clock, decode), cadence=Cadence())
    with pytest.raises(Unavailable):
        task.step(record(0, event("A-USD", "1")))
    assert len(task.step(record(0, event("A-USD", "1")))) == 1


def test_a_schema_that_the_registry_does_not_know_is_a_dead_letter(counting: ModuleType) -> None:
    """Waiting would not help."""

    def decode(_data: bytes) -> AnyEvent:
        raise UnknownSchema("no such id", 999)

    clock = Clock()
    task = Task(counting.Counting(), 2, recovered=Recovered(), shell=shell(clock, decode), cadence=Cadence())
    (output,) = task.step(record(0, event("A-USD", "1")))
    assert output.topic == "md.dead_letters.v1"


def test_a_record_delivered_twice_is_stepped_once(counting: ModuleType) -> None:
    """Engines seek back after a rebalance; the task knows where it was."""
    task = make(counting, Clock())
    assert task.step(record(3, event("A-USD", "1")))
    assert task.step(record(3, event("A-USD", "1"))) == []
    assert task.step(record(2, event("A-USD", "0"))) == []


def test_inputs_that_the_checkpoint_reflects_are_skipped(counting: ModuleType) -> None:
    """Only the key's own checkpoint counts; other keys step the same inputs."""
    recovered = Recovered(
        checkpoints={"sim:A-USD": Checkpoint(offset=5, record_key="k", state=counting.Count(events=6, chain="abc"))}
    )
    task = make(counting, Clock(), recovered)
    assert task.step(record(4, event("A-USD", "4"))) == []
    assert len(task.step(record(5, event("B-USD", "5")))) == 1
    outputs = task.step(record(6, event("A-USD", "6")))
    echoed = CODEC.decode(outputs[0].value)
    assert isinstance(echoed, Trades)
    assert echoed.sequence == 7


def test_outputs_that_are_written_are_suppressed(counting: ModuleType) -> None:
    """Per output topic, up to and with the last position there."""
    written = {
        "md.trades.v1": Position(TOPIC, 2, 2, 0),
        "md.candles.v1": Position(TOPIC, 2, 2, 0),
    }
    task = make(counting, Clock(), Recovered(written=written))
    outputs = [output for n in range(4) for output in task.step(record(n, event("A-USD", str(n))))]
    assert [(output.topic, position(output).offset, position(output).index) for output in outputs] == [
        ("md.candles.v1", 2, 1),
        ("md.trades.v1", 3, 0),
    ]


def test_a_checkpoint_is_due_after_seconds_or_inputs(counting: ModuleType) -> None:
    """Changed keys only; a burst has to wait a second."""
    clock = Clock()
    task = make(counting, clock, inputs=3, seconds=5.0)
    assert task.checkpoint() is None
    task.step(record(0, event("A-USD", "0")))
    due = task.checkpoint()
    assert due is not None
    assert (due.checkpoints, due.offset) == ([], 0)
    clock.now += 5
    due = task.checkpoint()
    assert due is not None
    assert [(output.topic, position(output)) for output in due.checkpoints] == [
        ("md.state.v1", Position(TOPIC, 2, 0, CHECKPOINT))
    ]
    task.saved()
    clock.now += 50
    due = task.checkpoint()
    assert due is not None
    assert (due.checkpoints, due.offset) == ([], 1)
    for n in range(1, 4):
        task.step(record(n, event("A-USD", str(n))))
    due = task.checkpoint()
    assert due is not None
    assert len(due.checkpoints) == 1
    task.saved()
    for n in range(4, 8):
        task.step(record(n, event("A-USD", str(n))))
    due = task.checkpoint()
    assert due is not None
    assert (due.checkpoints, due.offset) == ([], 4)


def test_a_quiet_changed_key_holds_the_offset_back_until_it_is_checkpointed(counting: ModuleType) -> None:
    """The committed offset never passes an input that no checkpoint reflects."""
    clock = Clock()
    task = make(counting, clock, inputs=2, seconds=5.0)
    task.step(record(0, event("QUIET-USD", "0")))
    clock.now += 2
    for n in range(1, 6):
        task.step(record(n, event("BUSY-USD", str(n))))
    due = task.checkpoint()
    assert due is not None
    assert ([output.key for output in due.checkpoints], due.offset) == ([b"counting|sim:BUSY-USD"], 0)
    task.saved()
    clock.now += 3
    due = task.checkpoint()
    assert due is not None
    assert ([output.key for output in due.checkpoints], due.offset) == ([b"counting|sim:QUIET-USD"], 6)


def test_a_checkpoint_that_was_not_written_is_due_again(counting: ModuleType) -> None:
    """Without `saved` the inputs count as not reflected, however often it is tried."""
    clock = Clock()
    task = make(counting, clock, inputs=2, seconds=5.0)
    task.step(record(7, event("A-USD", "0")))
    for _ in range(3):
        due = task.checkpoint(everything=True)
        assert due is not None
        assert len(due.checkpoints) == 1
    task.step(record(8, event("A-USD", "1")))
    due = task.checkpoint()
    assert due is not None
    assert (due.checkpoints, due.offset) == ([], 7)


def test_an_operators_own_checkpoint_needs_no_other(counting: ModuleType) -> None:
    """An output under the checkpoint's key makes the key clean."""
    clock = Clock()
    operator = counting.Counting()
    operator.outputs = (*operator.outputs, "md.state")
    operator_step = operator.step

    def step(state: Any, given: AnyEvent) -> tuple[Any, list[AnyEvent]]:
        state, events = operator_step(state, given)
        if state.events == 3:
            events.append(operator.checkpoint(state, "sim:A-USD", {}))
        return state, events

    operator.step = step
    task = Task(operator, 2, recovered=Recovered(), shell=shell(clock), cadence=Cadence())
    task.step(record(0, event("A-USD", "0")))
    due = task.checkpoint(everything=True)
    assert due is not None
    assert len(due.checkpoints) == 1
    task.saved()
    task.step(record(1, event("A-USD", "1")))
    task.step(record(2, event("A-USD", "2")))
    due = task.checkpoint(everything=True)
    assert due is not None
    assert (due.checkpoints, due.offset) == ([], 3)


class Log:
    """A small Kafka: output topics, checkpoints and the committed offset, as a crash leaves them."""

    def __init__(self, counting: ModuleType) -> None:
        self.counting = counting
        self.outputs: list[Output] = []
        self.checkpoints: list[Output] = []
        self.committed = 0

    def recovered(self) -> Recovered:
        """Return what a new life finds."""
        written: dict[str, Position] = {}
        for output in self.outputs:
            written[output.topic] = max(position(output), written.get(output.topic, position(output)))
        checkpoints = {}
        for output in self.checkpoints:
            saved: Any = CODEC.decode(output.value)
            state = self.counting.Counting().restore(saved)
            checkpoints[f"{saved.venue}:{saved.symbol}"] = Checkpoint(
                offset=position(output).offset, record_key=saved.key, state=state
            )
        return Recovered(checkpoints=checkpoints, written=written)

    def seen(self) -> dict[str, list[tuple[Position, bytes]]]:
        """Return positions and values by topic, in order."""
        by_topic: dict[str, list[tuple[Position, bytes]]] = {}
        for output in self.outputs:
            by_topic.setdefault(output.topic, []).append((position(output), output.value))
        return by_topic


def _live(task: Task, log: Log, inputs: list[Record], plan: Any, *, last: bool) -> None:
    """Run one life: outputs reach the log topic by topic up to where the crash cuts each; rounds save and commit."""
    waiting: list[Output] = []
    steps, rounds, cuts = plan
    todo = inputs[log.committed :]
    todo = todo if last else todo[:steps]
    for number, given_record in enumerate(todo):
        waiting += task.step(given_record)
        if number in rounds or (last and number == len(todo) - 1):
            due = task.checkpoint(everything=number % 2 == 0)
            log.outputs += waiting
            waiting = []
            if due is not None:
                log.checkpoints += due.checkpoints
                task.saved()
                log.committed = due.offset
    kept: dict[str, int] = {}
    for output in waiting:
        if kept.get(output.topic, 0) < cuts.get(output.topic, 0):
            kept[output.topic] = kept.get(output.topic, 0) + 1
            log.outputs.append(output)


CUTS = st.dictionaries(st.sampled_from(["md.trades.v1", "md.candles.v1", "md.dead_letters.v1"]), st.integers(0, 30))
LIVES = st.lists(st.tuples(st.integers(0, 40), st.sets(st.integers(0, 40), max_size=4), CUTS), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(symbols=st.lists(st.integers(0, 3), min_size=1, max_size=60), lives=LIVES)
def test_no_series_of_crashes_changes_what_is_written(
    counting: ModuleType, symbols: list[int], lives: list[Any]
) -> None:
    """Whatever reached the log before each crash, in the end each output is there once, and in order."""
    inputs = [record(n, b"bad" if n % 11 == 10 else event(f"S{s}-USD", str(n))) for n, s in enumerate(symbols)]
    undisturbed = Log(counting)
    whole = make(counting, Clock())
    undisturbed.outputs = [output for given_record in inputs for output in whole.step(given_record)]
    log = Log(counting)
    for plan in lives:
        _live(make(counting, Clock(), log.recovered()), log, inputs, plan, last=False)
    _live(make(counting, Clock(), log.recovered()), log, inputs, (0, set(), {}), last=True)
    assert log.seen() == undisturbed.seen()
