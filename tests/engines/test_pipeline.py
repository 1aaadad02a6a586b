"""The pipeline as a plain value, over a log that is a list: crashes, losses, and checkpoints at any cadence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from marketdata import topics
from marketdata.codec import Codec
from marketdata.commit import Mark
from marketdata.errors import Unavailable
from marketdata.events import EVENTS, Checkpoint, DeadLetter, Trade, Trades
from marketdata.headers import HOPS, Hops, record_id
from marketdata.operator import Lost
from marketdata.state import unpack_state
from stream_apps.chain import INPUTS, RUNS, RUNS_MAX, Runs, make_chains
from stream_apps.pipeline import MARK_MS, Batch, Cadence, Excluded, Pipeline, Record, Restored, Shell, Start
from tests.engines import counting

INPUT = "md.ingest.trades"
TOPIC = topics.topic(INPUT).physical("")
START_NS = 1_780_000_000_000_000_000
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, 1)})
KEYS = ("sim:A", "sim:B", "sim:C")


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Keep the logs of failures, with their long tracebacks, off the screen."""
    with capture_logs():
        yield


Line = tuple[str, str, tuple[int, int], bytes | None]


def trades(key: str, trade_id: str) -> bytes:
    """Return the bytes of an event with one trade."""
    venue, _, symbol = key.partition(":")
    trade = Trade(trade_id=trade_id, ts_event=START_NS, price="1", size="1", side="buy")
    return CODEC.encode(
        Trades(venue=venue, symbol=symbol, ts_event=START_NS, ts_recv=START_NS, line="l", trades=(trade,))
    )


def record(offset: int, key: str | None, value: bytes | None) -> Record:
    """Return an input record of the trades' topic."""
    return Record(TOPIC, offset, key.encode() if key else None, value, None, START_NS // 1_000_000 + offset)


class Log:
    """What Kafka would hold: inputs, and what transactions wrote. A pipeline is opened from it as recovery does."""

    def __init__(self, records: list[Record], cadence: Cadence) -> None:
        self.records = records
        self.cadence = cadence
        self.written: list[Line] = []
        self.states: list[tuple[int, bytes, bytes | None]] = []
        self.commits: dict[str, tuple[int, str]] = {}
        self.excluded: dict[tuple[str, int], str] = {}
        self.replayed = 0
        self._now = START_NS
        self.shell = Shell(
            operators=counting.make_operators, decode=CODEC.decode, encode=CODEC.encode, clock=self._tick
        )

    def _tick(self) -> int:
        self._now += 1_000_000
        return self._now

    def open(self, loss: Lost | None = None) -> Pipeline:
        """Return a pipeline that has recovered."""
        while True:
            try:
                return self._open(loss)
            except Excluded as error:
                self.excluded[error.topic, error.offset] = error.detail

    def _open(self, loss: Lost | None) -> Pipeline:
        frontier, text = self.commits.get(TOPIC, (0, ""))
        mark = Mark.parse(text)
        starts = {name: Start(offset=0, topic_id="t") for name in INPUTS}
        starts[INPUT] = Start(offset=frontier, topic_id="t", loss=loss)
        self.chains = make_chains(counting.make_operators())
        pipeline = Pipeline(0, self.chains, starts, self.shell, cadence=self.cadence, excluded=self.excluded)
        for checkpoint in self._checkpoints(mark.checkpoints_since_ms if mark else 0):
            kinds: dict[str, type[msgspec.Struct]] = {"counting": counting.Count, RUNS: Runs}
            states = {name: unpack_state(packed, kinds[name]) for name, packed in checkpoint.states.items()}
            restored = Restored(offset=checkpoint.offset, states=states, saved_ms=checkpoint.ts_recv // 1_000_000)
            pipeline.restore(TOPIC, f"{checkpoint.venue}:{checkpoint.symbol}", restored)
        if mark is not None:
            pipeline.replay(TOPIC, mark.replay_from, self.records[mark.replay_from : frontier])
            self.replayed += frontier - mark.replay_from
        pipeline.resume()
        return pipeline

    def _checkpoints(self, since_ms: int) -> Iterator[Checkpoint]:
        last: dict[bytes, bytes | None] = {key: value for ms, key, value in self.states if ms >= since_ms}
        for value in last.values():
            if value is not None:
                event = CODEC.decode(value)
                assert isinstance(event, Checkpoint)
                yield event

    def commit(self, batch: Batch) -> None:
        """Keep a batch, as its transaction would."""
        for output in batch.outputs:
            topic = output.topic.removesuffix(".v1")
            if topic == "md.state":
                self.states.append((self._now // 1_000_000, output.key, output.value))
            else:
                header = dict(output.headers)[HOPS]
                assert isinstance(header, bytes)
                at = Hops.from_header(header).input
                assert at is not None
                self.written.append((topic, output.key.decode(), (at.offset, at.index), output.value))
        self.commits |= batch.offsets

    def frontier(self) -> int:
        """Return the committed offset."""
        return self.commits.get(TOPIC, (0, ""))[0]

    def run(self, batches: list[int], *, last_commits: bool) -> None:
        """One life of a worker: open, step so many records into each batch, and crash; the last may not be kept."""
        pipeline = self.open()
        at = self.frontier()
        for number, size in enumerate(batches, 1):
            try:
                for each in self.records[at : at + size]:
                    pipeline.step(each)
            except Excluded as error:
                self.excluded[error.topic, error.offset] = error.detail
                return
            at = min(at + size, len(self.records))
            batch = pipeline.batch()
            if batch is not None and (number < len(batches) or last_commits):
                self.commit(batch)

    def finish(self) -> None:
        """Work until everything is committed."""
        while self.frontier() < len(self.records):
            self.run([3], last_commits=True)


def undisturbed(records: list[Record], excluded: dict[tuple[str, int], str]) -> list[Line]:
    """Return what one pipeline writes that never fails, with one batch for each record."""
    log = Log(records, Cadence())
    log.excluded = dict(excluded)
    pipeline = log.open()
    for each in records:
        pipeline.step(each)
        batch = pipeline.batch()
        assert batch is not None
        log.commit(batch)
    return log.written


def by_topic(lines: list[Line]) -> dict[str, list[Line]]:
    """Return lines by topic: transactions keep the order of each topic's partition."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line[0], []).append(line)
    return found


KINDS = st.sampled_from(["good"] * 8 + ["bytes", "bytes without a key", "nothing", "boom"])


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    """Inputs of three symbols in one partition: mostly good, some that cannot be decoded or stepped."""
    made = []
    for offset, (key, kind) in enumerate(draw(st.lists(st.tuples(st.sampled_from(KEYS), KINDS), max_size=40))):
        value = {
            "good": trades(key, str(offset)),
            "boom": trades(key, "boom"),
            "bytes": b"not avro",
            "bytes without a key": b"not avro",
            "nothing": None,
        }[kind]
        made.append(record(offset, None if kind == "bytes without a key" else key, value))
    return made


LIVES = st.lists(st.tuples(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.booleans()), max_size=8)


@settings(max_examples=150)
@given(records=logs(), lives=LIVES, inputs=st.integers(1, 30), ms=st.integers(1, 200))
def test_whatever_was_committed_before_each_crash_every_output_exists_once_and_in_order(
    records: list[Record], lives: list[tuple[list[int], bool]], inputs: int, ms: int
) -> None:
    """Workers die after any batch, kept or not, with checkpoints at any cadence; the log is as without a failure."""
    log = Log(records, Cadence(inputs=inputs, ms=ms))
    for batches, last_commits in lives:
        log.run(batches, last_commits=last_commits)
    log.finish()
    assert by_topic(log.written) == by_topic(undisturbed(records, log.excluded))


@st.composite
def repeating_logs(draw: st.DrawFn) -> tuple[list[Record], int]:
    """Records of two producers' runs, some stretches of which Kafka holds twice; and how many different ones."""
    numbers = {"one": 0, "two": 0}
    sent: list[tuple[str, str, int]] = []
    for key, run in draw(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(["one", "two"])), max_size=25)):
        numbers[run] += 1
        sent.append((key, run, numbers[run]))
    log: list[tuple[str, str, int]] = []
    for at, each in enumerate(sent, 1):
        log.append(each)
        if draw(st.integers(0, 5)) == 0:
            back = draw(st.integers(1, at))
            log += [one for one in sent[at - back : at] if one[1] == each[1]]
    made = []
    for offset, (key, run, number) in enumerate(log):
        plain = record(offset, key, trades(key, f"{run}{number}"))
        made.append(msgspec.structs.replace(plain, headers=[("ce_id", record_id("line", run, number))]))
    return made, len(sent)


@settings(max_examples=150)
@given(log=repeating_logs(), lives=LIVES, inputs=st.integers(1, 30))
def test_records_that_kafka_holds_twice_are_taken_once(
    log: tuple[list[Record], int], lives: list[tuple[list[int], bool]], inputs: int
) -> None:
    """As after a broker failed between a write and its response; crashes of workers change nothing."""
    records, different = log
    kept = Log(records, Cadence(inputs=inputs, ms=20))
    for batches, last_commits in lives:
        kept.run(batches, last_commits=last_commits)
    kept.finish()
    assert sum(topic == "md.trades" for topic, *_ in kept.written) == different
    assert by_topic(kept.written) == by_topic(undisturbed(records, {}))


def test_no_more_runs_are_remembered_than_can_be_alive() -> None:
    """The one that is known for longest is forgotten."""
    runs = Runs()
    for number in range(3 * RUNS_MAX):
        assert runs.takes(f"run{number}", 7)
        assert not runs.takes(f"run{number}", 7)
    assert len(runs.last) == RUNS_MAX
    assert not runs.takes(f"run{3 * RUNS_MAX - 1}", 6)
    assert runs.takes("run0", 6)


def test_a_checkpoint_that_is_still_needed_is_found_after_two_recoveries() -> None:
    """The oldest one counts, although a key that was seen before it has a newer one by now."""
    keys = ["sim:C", "sim:A", "sim:B", "sim:A", "sim:C"]
    log = Log([record(offset, key, trades(key, "1")) for offset, key in enumerate(keys)], Cadence(inputs=1))
    log.run([1, 1, 1, 1], last_commits=True)
    log.run([1], last_commits=True)
    log.open()
    assert {key: found["counting"]["events"] for key, found in states(log).items()} == {
        "sim:A": 2,
        "sim:B": 1,
        "sim:C": 2,
    }


@settings(max_examples=60)
@given(records=logs(), size=st.integers(1, 7), inputs=st.integers(1, 30))
def test_replay_gives_the_states_that_the_records_gave(records: list[Record], size: int, inputs: int) -> None:
    """After every batch, a pipeline that is opened from the log has the states of the one that wrote it."""
    log = Log(records, Cadence(inputs=inputs, ms=10_000))
    pipeline = log.open()
    at = 0
    while at < len(records):
        try:
            for each in records[at : at + size]:
                pipeline.step(each)
        except Excluded as error:
            log.excluded[error.topic, error.offset] = error.detail
            pipeline, at = log.open(), log.frontier()
            continue
        at += size
        batch = pipeline.batch()
        assert batch is not None
        log.commit(batch)
        chains, before = log.chains, states(log)
        log.open()
        assert states(log) == before
        log.chains = chains


def states(log: Log) -> dict[str, Any]:
    """Return the states of every key of the pipeline that was opened last."""
    return {
        key: {name: msgspec.to_builtins(state) for name, state in found.items()}
        for key, found in log.chains[INPUT].keys.items()
    }


def test_replay_stays_as_short_as_the_cadence_says() -> None:
    """With a thousand records and a checkpoint after twenty, a new worker steps about twenty again."""
    records = [record(offset, KEYS[offset % 3], trades(KEYS[offset % 3], str(offset))) for offset in range(1_000)]
    log = Log(records, Cadence(inputs=20, ms=10**9))
    log.run([7] * 143, last_commits=True)
    assert log.frontier() == 1_000
    log.replayed = 0
    log.open()
    assert log.replayed <= 20 + 7


def test_a_batch_commits_only_the_topics_that_have_moved_and_the_others_now_and_then() -> None:
    """The first batch of a life commits all; a topic that stands still again when its checkpoints have aged."""
    log = Log([record(offset, "sim:A", trades("sim:A", str(offset))) for offset in range(4)], Cadence())
    everything = {topics.topic(name).physical("") for name in INPUTS}
    pipeline = log.open()

    def committed(each: Record) -> set[str]:
        pipeline.step(each)
        batch = pipeline.batch()
        assert batch is not None
        return set(batch.offsets)

    assert committed(log.records[0]) == everything
    assert committed(log.records[1]) == {TOPIC}
    assert pipeline.batch() is None
    log._now += MARK_MS * 1_000_000
    assert committed(log.records[2]) == everything
    assert committed(log.records[3]) == {TOPIC}


def test_a_drained_pipeline_has_nothing_to_replay() -> None:
    """Everything is checkpointed, in as many batches as it needs."""
    records = [record(offset, f"sim:S{offset}", trades(f"sim:S{offset}", "1")) for offset in range(2_500)]
    log = Log(records, Cadence())
    pipeline = log.open()
    for each in records:
        pipeline.step(each)
    while (batch := pipeline.batch(everything=True)) is not None:
        log.commit(batch)
        if pipeline.is_clean:
            break
    assert pipeline.is_clean
    log.open()
    assert log.replayed == 0
    assert len({key for _, key, _ in log.states}) == 2_500


def test_an_operator_that_raises_leaves_no_half_changed_state() -> None:
    """The event whose second trade fails changed the state with its first; nothing of it is left."""
    first, last = trades("sim:A", "1"), trades("sim:A", "2")
    event = CODEC.decode(trades("sim:A", "half"))
    assert isinstance(event, Trades)
    boom = msgspec.structs.replace(event.trades[0], trade_id="boom")
    half = CODEC.encode(msgspec.structs.replace(event, trades=(event.trades[0], boom)))
    log = Log([record(0, "sim:A", first), record(1, "sim:A", half), record(2, "sim:A", last)], Cadence())
    log.finish()
    letters = [CODEC.decode(value) for topic, _, _, value in log.written if topic == "md.dead_letters" and value]
    assert [(letter.reason, letter.offset, letter.payload) for letter in letters if isinstance(letter, DeadLetter)] == [
        ("operator_error", 1, half)
    ]
    without = Log([record(0, "sim:A", first), record(1, "sim:A", last)], Cadence())
    without.finish()
    lines = [value for topic, _, _, value in log.written if topic == "md.trades"]
    assert lines == [value for topic, _, _, value in without.written if topic == "md.trades"]


def test_a_registry_that_is_away_leaves_the_record_to_be_stepped_again() -> None:
    """Unavailable passes through; nothing of the record was counted or published."""
    log = Log([record(0, "sim:A", trades("sim:A", "1"))], Cadence())
    away = True

    def decode(data: bytes) -> Any:
        if away:
            raise Unavailable("the registry does not answer")
        return CODEC.decode(data)

    log.shell = msgspec.structs.replace(log.shell, decode=decode)
    pipeline = log.open()
    with pytest.raises(Unavailable):
        pipeline.step(log.records[0])
    assert not pipeline.has_outputs
    assert pipeline.positions()[TOPIC] == 0
    away = False
    pipeline.step(log.records[0])
    assert pipeline.has_outputs


@pytest.mark.parametrize("reason", ["retention", "recreated", "truncated"])
def test_a_loss_before_the_frontier_makes_every_known_symbol_invalid_at_once(reason: str) -> None:
    """And is checkpointed with the next batch, as the log will not show it again."""
    log = Log([record(offset, KEYS[offset % 3], trades(KEYS[offset % 3], "1")) for offset in range(6)], Cadence())
    log.run([6], last_commits=True)
    log.written.clear()
    loss = Lost(topic=INPUT, partition=0, offset=6, count=5, ts=START_NS, reason=reason)
    pipeline = log.open(loss)
    batch = pipeline.batch()
    assert batch is not None
    log.commit(batch)
    lost = [CODEC.decode(value) for topic, _, _, value in log.written if topic == "md.trades" and value]
    assert [(event.key, event.valid, event.line) for event in lost if isinstance(event, Trades)] == [
        (key, False, f"lost {reason} 6") for key in KEYS
    ]
    assert pipeline.counts[f"lost_{reason}"] == 5
    assert pipeline.is_clean
    before = states(log)
    log.open()
    assert states(log) == before


def test_records_before_the_start_of_the_log_are_a_loss_and_a_transactions_marks_are_none() -> None:
    """Offsets that are missing behind the log's start never were records."""
    starts = {name: Start(offset=0, topic_id="t") for name in INPUTS}
    log = Log([], Cadence())
    for log_start, lost in ((0, 0), (3, 3), (9, 3)):
        starts[INPUT] = Start(offset=0, topic_id="t", log_start=log_start)
        pipeline = Pipeline(0, make_chains(counting.make_operators()), starts, log.shell)
        pipeline.step(record(3, "sim:A", trades("sim:A", "1")))
        assert pipeline.counts["lost_retention"] == lost
