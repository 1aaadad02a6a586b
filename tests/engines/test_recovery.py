"""Where a worker goes on after a stop, a loss or an outage: what recovery finds in Kafka, and what both engines do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local import stack
from infra.local.folders import Folders
from infra.local.settings import StackSettings
from infra.local.table import Endpoints
from marketdata import topics
from marketdata.commit import PIPELINE_GROUP, Mark
from marketdata.errors import Unavailable
from marketdata.events import DeadLetter, Trades
from runtime.settings import load
from stream_apps.pipeline import Cadence, Pipeline, Shell, Start
from stream_apps.recovery import Located, Recovery
from stream_apps.settings import StreamSettings
from tests.engines import counting
from tests.engines.gate import Gate
from tests.engines.outputs import ENGINES, FAST, INPUT_TOPIC
from tests.waiting import wait_for

PARTITION = 1
KEYS = ("sim:A", "sim:B", "sim:C")


def trades(lab: Any, key: str, number: int) -> bytes:
    """Return the bytes of an input event."""
    encoded: bytes = lab.codec.encode(lab.trades(key.removeprefix("sim:"), number))
    return encoded


class Log:
    """The trades' input partition on the real Kafka, and what a worker committed of it."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.topic = lab.physical(INPUT_TOPIC)
        self.settings = load(
            StreamSettings, kafka_brokers=lab.endpoints.kafka_brokers, topic_prefix=lab.prefix, group_prefix=lab.prefix
        )
        self.shell = Shell(
            operators=counting.make_operators,
            decode=lab.codec.decode,
            encode=lab.codec.encode,
            clock=time.time_ns,
            prefix=lab.prefix,
        )
        self.recovery = Recovery(self.settings, self.shell)
        self.admin = AdminClient({"bootstrap.servers": lab.endpoints.kafka_brokers})

    def send(self, count: int) -> None:
        """Append so many records of three symbols in turn."""
        for number in range(count):
            key = KEYS[number % 3]
            self.lab.send_bytes(INPUT_TOPIC, key.encode(), trades(self.lab, key, number), PARTITION)
        self.lab.producer.flush(10)

    def work(self, *, everything: bool) -> Pipeline:
        """Recover, step what is there and commit it, with or without checkpoints; return the pipeline."""
        pipeline = self.recovery.rebuild(self.locate(), Cadence())
        self.step(pipeline, everything=everything)
        return pipeline

    def step(self, pipeline: Pipeline, *, everything: bool) -> None:
        """Step what is there and commit it, with or without checkpoints."""
        start = pipeline.positions()[self.topic]
        for record in self.recovery._read(self.topic, PARTITION, start, self.end()):
            pipeline.step(record)
        batch = pipeline.batch(everything=everything)
        if batch is not None:
            for output in batch.outputs:
                self.lab.producer.produce(output.topic, output.value, output.key, PARTITION, headers=output.headers)
            self.lab.producer.flush(10)
            self.commit(*batch.offsets[self.topic])

    def commit(self, offset: int, metadata: str) -> None:
        """Commit an offset with its metadata."""
        consumer = Consumer(
            {"bootstrap.servers": self.lab.endpoints.kafka_brokers, "group.id": f"{self.lab.prefix}{PIPELINE_GROUP}"}
        )
        at = TopicPartition(self.topic, PARTITION, offset, metadata)
        consumer.commit(offsets=[at], asynchronous=False)
        consumer.close()

    def end(self) -> int:
        """Return the end of the partition."""
        end: int = self.lab._end(self.topic, PARTITION)
        return end

    def delete_before(self, offset: int) -> None:
        """Let the log begin at an offset, as retention does."""
        wanted = [TopicPartition(self.topic, PARTITION, offset)]
        for deleted in self.admin.delete_records(wanted).values():
            deleted.result(10)

    def locate(self) -> Located:
        """Return where the partition goes on, asking again while the broker still takes up a topic made again."""

        def located() -> Located | None:
            try:
                return self.recovery.locate(PARTITION)
            except Unavailable:
                return None

        return wait_for("the broker to lead the topic", located, 30)

    def start(self) -> Start:
        """Return where the trades' topic goes on."""
        return self.locate().starts[INPUT_TOPIC]


@pytest.fixture
def log(lab: Any) -> Iterator[Log]:
    """The trades' input partition."""
    made = Log(lab)
    yield made
    made.recovery.close()


def states(pipeline: Pipeline) -> dict[str, Any]:
    """Return how many events the operator has counted of each key."""
    chain = next(entry.chain for entry in pipeline._inputs.values() if entry.chain.topic == INPUT_TOPIC)
    return {key: found["counting"].events for key, found in chain.keys.items()}


def test_a_checkpoint_behind_an_open_transaction_is_waited_for(log: Log) -> None:
    """Another worker left a transaction open in md.state; what was committed behind it is visible when it has ended."""
    client = {"bootstrap.servers": log.lab.endpoints.kafka_brokers, "transactional.id": f"{log.lab.prefix}other"}
    other = Producer(client)
    other.init_transactions(30)
    pipeline = log.recovery.rebuild(log.locate(), Cadence())
    other.begin_transaction()
    other.produce(log.lab.physical("md.state"), b"never committed", b"other", PARTITION)
    other.flush(10)
    log.send(9)
    log.step(pipeline, everything=True)
    located = log.locate()
    ending = threading.Timer(1.0, other.abort_transaction, (30,))
    ending.start()
    assert states(log.recovery.rebuild(located, Cadence())) == states(pipeline)
    ending.join()


def test_without_a_commit_everything_is_read_and_nothing_is_lost(log: Log) -> None:
    """The log may have begun late: who was not there has missed nothing."""
    log.send(6)
    log.delete_before(2)
    start = log.start()
    assert (start.offset, start.loss) == (2, None)


@pytest.mark.parametrize("everything", [True, False])
def test_states_come_back_from_checkpoints_and_replay(log: Log, everything: bool) -> None:
    """All checkpointed, or only each key's beginning: the states are the same, and so is the frontier."""
    log.send(3)
    log.work(everything=False)
    log.send(27)
    before = states(log.work(everything=everything))
    located = log.locate()
    assert located.starts[INPUT_TOPIC].offset == 30
    assert located.replay_from == ({} if everything else {INPUT_TOPIC: 3})
    assert states(log.recovery.rebuild(located, Cadence())) == before == dict.fromkeys(KEYS, 10)


def test_a_new_key_has_a_checkpoint_with_its_first_output(log: Log) -> None:
    """So that a topic that is made again right after is a loss of every symbol that it ever had."""
    log.send(9)
    log.work(everything=False)
    make_again(log.lab, log.admin)
    located = log.locate()
    assert lost_keys(log, log.recovery.rebuild(located, Cadence())) == list(KEYS)


def test_a_tombstone_without_headers_takes_a_checkpoint_away(log: Log) -> None:
    """As an operator's tools write it, to forget a symbol."""
    log.send(3)
    log.work(everything=True)
    log.lab.producer.produce(log.lab.physical("md.state"), None, f"{INPUT_TOPIC}|sim:B".encode(), PARTITION)
    log.lab.producer.flush(10)
    assert set(states(log.recovery.rebuild(log.locate(), Cadence()))) == {"sim:A", "sim:C"}


def test_a_topic_made_again_under_its_name_is_read_from_its_start_and_a_loss(log: Log) -> None:
    """Kafka forgot its commits; the checkpoints name the topic that they were made of."""
    log.send(9)
    log.work(everything=True)
    make_again(log.lab, log.admin)
    log.send(3)
    located = log.locate()
    assert located.starts[INPUT_TOPIC].offset == 0
    assert lost_keys(log, log.recovery.rebuild(located, Cadence())) == list(KEYS)


def test_a_commit_of_an_earlier_topic_is_a_loss(log: Log) -> None:
    """It names the topic that it was made of."""
    log.send(9)
    log.work(everything=True)
    log.commit(9, Mark(topic_id="earlier", replay_from=9, checkpoints_since_ms=0).text())
    start = log.start()
    assert start.offset == 0
    assert start.loss is not None
    assert start.loss.reason == "recreated"


def test_a_log_that_was_cut_at_its_end_is_read_from_there(log: Log) -> None:
    """A broker that lost its disk comes back with less than was committed."""
    log.send(3)
    log.work(everything=True)
    mark = Mark(topic_id=log.start().topic_id, replay_from=9, checkpoints_since_ms=0)
    log.commit(9, mark.text())
    start = log.start()
    assert start.offset == 3
    assert start.loss is not None
    assert (start.loss.reason, start.loss.offset, start.loss.count) == ("truncated", 3, 6)


def test_a_log_whose_start_has_moved_beyond_the_frontier_is_a_loss(log: Log) -> None:
    """Retention was quicker than a worker that was stopped."""
    log.send(3)
    log.work(everything=True)
    log.send(9)
    log.delete_before(8)
    start = log.start()
    assert start.offset == 8
    assert start.loss is not None
    assert (start.loss.reason, start.loss.offset, start.loss.count) == ("retention", 3, 5)


def test_a_log_without_what_leads_to_the_frontier_is_a_loss_too(log: Log) -> None:
    """The frontier is there, but states cannot be rebuilt: their symbols become invalid."""
    log.send(3)
    log.work(everything=False)
    log.send(6)
    log.work(everything=False)
    log.send(3)
    log.delete_before(6)
    located = log.locate()
    start = located.starts[INPUT_TOPIC]
    assert (start.offset, located.replay_from[INPUT_TOPIC]) == (9, 6)
    assert start.loss is not None
    assert start.loss.reason == "retention"
    assert lost_keys(log, log.recovery.rebuild(located, Cadence())) == list(KEYS)


def lost_keys(log: Log, pipeline: Pipeline) -> list[str]:
    """Return the keys whose loss a pipeline publishes with its first batch."""
    batch = pipeline.batch()
    assert batch is not None
    events = [log.lab.codec.decode(output.value) for output in batch.outputs if output.topic.endswith("md.trades.v1")]
    return [event.key for event in events if not event.valid]


def make_again(lab: Any, admin: AdminClient) -> None:
    """Delete the trades' input topic and make it again; return when the broker knows the new one."""
    name = lab.physical(INPUT_TOPIC)

    def identity() -> str:
        return str(admin.describe_topics(TopicCollection([name]))[name].result(10).topic_id)

    def is_another() -> bool:
        try:
            return identity() != before
        except KafkaException:  # the broker knows neither
            return False

    before = identity()
    for deleted in admin.delete_topics([name]).values():
        deleted.result(10)
    topic = topics.topic(INPUT_TOPIC)

    def made() -> bool:
        new = NewTopic(name, num_partitions=topics.PARTITIONS, config=topic.config())
        try:
            admin.create_topics([new])[name].result(10)
        except Exception:  # noqa: BLE001 - Kafka is still deleting it
            return False
        return True

    wait_for("the topic made again", made, 30)
    wait_for("the broker to know it", is_another, 30)


class Supervised:
    """A worker that is started again when it ends, as a supervisor does."""

    def __init__(self, lab: Any, engine: str, **env: str) -> None:
        self._lab = lab
        self._engine = engine
        self._env = env
        self.worker = lab.worker(engine, **env)

    def look(self) -> None:
        """Start the worker again if it has ended."""
        if not self.worker.alive():
            self.worker = self._lab.worker(self._engine, **self._env)

    def await_outputs(self, what: str, count: int, seen: Callable[[], int], limit_s: float = 120) -> None:
        """Wait until so many outputs are there."""

        def enough() -> bool:
            self.look()
            return seen() >= count

        wait_for(f"{count} {what}", enough, limit_s)


def lines(lab: Any) -> dict[str, list[Trades]]:
    """Return the trades' outputs by key, in order."""
    found: dict[str, list[Trades]] = {}
    for written in lab.written("md.trades"):
        found.setdefault(written.key, []).append(lab.codec.decode(written.value))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_an_input_topic_made_again_while_a_worker_runs_is_a_loss_and_then_read(lab: Any, engine: str) -> None:
    """Every known symbol becomes invalid once, and every new trade is there once."""
    admin = AdminClient({"bootstrap.servers": lab.endpoints.kafka_brokers})
    supervised = Supervised(lab, engine, **FAST)
    lab.send_trades(range(60))
    supervised.await_outputs("outputs", 60, lambda: len(lab.written("md.trades")))
    make_again(lab, admin)
    lab.send_trades(range(60, 120))
    supervised.await_outputs("outputs", 126, lambda: len(lab.written("md.trades")))
    for events in lines(lab).values():
        assert [event.valid for event in events] == [True] * 10 + [False] + [True] * 10
        assert events[10].line.startswith("lost recreated")
        ids = [trade.trade_id for event in events for trade in event.trades]
        assert len(ids) == len(set(ids)) == 40


@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_that_was_assigned_less_than_all_topics_joins_again(lab: Any, engine: str) -> None:
    """While a topic is away; also in a new process, to which Kafka gives what the last one of its name had.

    Faust's client notices within seconds that a topic is gone and leaves its partitions. The other one keeps them; that
    the topic is gone is then known from the worker's own check, for it commits nothing of a topic that is silent.
    """
    admin = AdminClient({"bootstrap.servers": lab.endpoints.kafka_brokers})
    worker = lab.worker(engine, **FAST)
    lab.send_trades(range(60))
    lab.await_written("md.trades", 60)
    name = lab.physical(INPUT_TOPIC)
    noticed = {"faust": "joining the group again", "direct": '"dependency lost"'}[engine]
    admin.delete_topics([name])[name].result(10)
    wait_for("the loss of the topic to be noticed", lambda: noticed in worker.log.read_text(), 60)
    worker.kill()
    admin.create_topics([NewTopic(name, num_partitions=topics.PARTITIONS, config=topics.topic(INPUT_TOPIC).config())])[
        name
    ].result(10)
    lab.worker(engine, **FAST)
    lab.send_trades(range(60, 120))
    lab.await_written("md.trades", 126)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stopped_worker_overtaken_by_retention_says_so_and_goes_on(lab: Any, engine: str) -> None:
    """The symbols of the partition become invalid before its next trades; other partitions are untouched."""
    admin = AdminClient({"bootstrap.servers": lab.endpoints.kafka_brokers})
    worker = lab.worker(engine, **FAST)
    lab.send_trades(range(60))
    lab.await_written("md.trades", 60)
    assert worker.terminate() == 0
    lab.send_trades(range(60, 120))
    physical = lab.physical(INPUT_TOPIC)
    cut = lab._end(physical, PARTITION) - 4
    for deleted in admin.delete_records([TopicPartition(physical, PARTITION, cut)]).values():
        deleted.result(10)
    lab.worker(engine, **FAST)
    # Partition 1 has two symbols of twenty records each, half of them lost but for four.
    lab.await_written("md.trades", 120 - 16 + 2)
    for key, events in lines(lab).items():
        invalid = [event for event in events if not event.valid]
        assert len(invalid) == (1 if key in {"sim:S1-USD", "sim:S5-USD"} else 0)
    assert len(lab.written("md.trades")) == 106


@pytest.mark.parametrize("engine", ENGINES)
def test_a_registry_that_is_away_stops_only_the_partition_that_needs_it(lab: Any, engine: str) -> None:
    """A record with an unknown schema arrives meanwhile; the group keeps the worker for longer than a session."""
    host, _, rest = lab.endpoints.registry_url.removeprefix("http://").partition(":")
    port, _, path = rest.partition("/")
    with Gate(host, int(port)) as gate:
        worker = lab.worker(engine, registry_url=f"http://{gate.address}/{path}", worker="", **FAST)
        lab.send_trades(range(12))
        lab.await_written("md.trades", 12)
        gate.shut()
        lab.send_bytes(INPUT_TOPIC, b"sim:S0-USD", b"\0\x7f\xff\xff\xff\x01", 0)
        sent, since = 12, time.monotonic()
        others = 12 - sum(1 for number in range(12) if number % 6 % topics.PARTITIONS == 0)

        def goes_on() -> bool:
            nonlocal sent, others
            lab.send_trades(range(sent, sent + 12))
            sent += 12
            others += 8
            wait_for(f"{others} outputs of other partitions", lambda: beside(lab) >= others)
            return time.monotonic() - since > 9.0

        wait_for("more than a session", goes_on, 120)
        assert len(lab.written("md.trades")) - beside(lab) == 4
        gate.open()
        lab.await_written("md.trades", sent)
        letters = [lab.codec.decode(written.value) for written in lab.written("md.dead_letters")]
        assert "undecodable" in [letter.reason for letter in letters if isinstance(letter, DeadLetter)]
        assert worker.alive()
        assert worker.log.read_text().count('"assigned"') == 1


def beside(lab: Any) -> int:
    """Return the number of outputs in other partitions than the first."""
    return sum(1 for written in lab.written("md.trades") if written.partition != 0)


@pytest.fixture
def own_kafka(endpoints: Endpoints, tmp_path: Path) -> Iterator[tuple[Endpoints, Folders]]:
    """A Kafka that a test may break; registry and the rest are the shared ones."""
    settings = load(
        StackSettings,
        folder=tmp_path / "stack",
        kafka_port=0,
        controller_port=0,
        registry_url=endpoints.registry_url,
        database_url=endpoints.database_url,
        redis_url=endpoints.redis_url,
    )
    folders = stack.folders_of(settings)
    try:
        yield stack.start_detached(settings, services=False, report=print), folders
    finally:
        stack.down(folders)
        stack.erase(folders)


def _kafka_pid(folders: Folders) -> int:
    return next(row.pid for row in stack.status(folders) if row.name == "kafka" and row.pid is not None)


def _passed(since: float, seconds: float) -> bool:
    return time.monotonic() - since > seconds


@pytest.mark.parametrize("engine", ENGINES)
def test_a_kafka_that_is_away_for_a_while_loses_and_doubles_nothing(
    own_kafka: tuple[Endpoints, Folders], lab: Any, tmp_path: Path, engine: str
) -> None:
    """For less than a session and for longer: no worker is needed but the one that was there."""
    endpoints, folders = own_kafka
    here = type(lab)(endpoints, "away.", lab.codec, tmp_path)
    here.run = "1"  # Kafka's client may write a batch twice when a broker comes back
    here.make_topics()
    supervised = Supervised(here, engine, **FAST)
    sent = 0

    def send_and_check(count: int) -> None:
        nonlocal sent
        here.send_trades(range(sent, sent + count))
        sent += count
        supervised.await_outputs("outputs", sent, lambda: len(here.written("md.trades")))

    try:
        send_and_check(120)
        kafka = _kafka_pid(folders)
        for stop_s in (3.0, 9.0):
            here.send_trades_unflushed(range(sent, sent + 60))
            sent += 60
            os.kill(kafka, signal.SIGSTOP)
            stopped = time.monotonic()
            wait_for("the pause", partial(_passed, stopped, stop_s), 30)
            os.kill(kafka, signal.SIGCONT)
            here.producer.flush(60)
            send_and_check(60)
        by_key = lines(here)
        assert len(by_key) == 6
        for events in by_key.values():
            assert [event.sequence for event in events] == list(range(1, sent // 6 + 1))
    finally:
        here.close()


def test_a_worker_waits_for_its_topics(lab: Any) -> None:
    """Started too early it logs what it waits for, and can be stopped."""
    here = type(lab)(lab.endpoints, f"{lab.prefix}late.", lab.codec, lab.folder)
    worker = here.worker("faust")
    wait_for("what it waits for", lambda: "there is no topic" in worker.log.read_text(), 30)
    assert worker.terminate() == 0
    here.close()
