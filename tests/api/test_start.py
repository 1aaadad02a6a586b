"""A start of the API: its books are those of md.book_updates from the beginning, whatever it restores them from."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from api.core.checkpoints import NEAR_RECORDS, BookStart, Commit, RestoredBook
from api.core.consumer import KAFKA, REGISTRY, BookInvalidated, Delivery, Item, MarketConsumer
from api.core.market import Market
from infra.local.table import Endpoints
from marketdata import topics
from marketdata.book import L2Book
from marketdata.book_state import CHAIN, OPERATOR, BooksState
from marketdata.codec import Codec
from marketdata.commit import PIPELINE_GROUP, Mark
from marketdata.events import AnyEvent, BookUpdate, Checkpoint
from marketdata.headers import HOPS, Hops, Position, hops_of
from marketdata.state import pack_state
from runtime.health import Readiness
from runtime.kafka import consumer_config, headers_of
from runtime.settings import CommonSettings
from tests.waiting import wait_for

PROJECT = Path(__file__).resolve().parents[2]
INGEST, UPDATES, STATE = topics.INGEST_BOOKS, topics.BOOK_UPDATES, topics.STATE
TS = 1_786_309_548_228_568_123
PARTITION = 1
Levels = dict[str, str]
Columns = list[list[str]]


def change(symbol: str, kind: str, bids: Levels | None = None, asks: Levels | None = None, **more: Any) -> BookUpdate:
    """Return a change of a book."""
    bids, asks = bids or {}, asks or {}
    fields: dict[str, Any] = {"line": "sim/0", "ts_event": TS, "ts_recv": time.time_ns()} | more
    return BookUpdate(
        venue="sim", symbol=symbol, kind=kind, bid_prices=list(bids), bid_sizes=list(bids.values()),
        ask_prices=list(asks), ask_sizes=list(asks.values()), **fields,
    )  # fmt: skip


def state(bids: Levels, asks: Levels) -> BooksState:
    """Return the state of a valid book."""
    book = L2Book.unpack([list(bids), list(bids.values()), list(asks), list(asks.values())])
    return BooksState(book=book, updates=3, marked="", reason="", ts_event=TS, ts_recv=time.time_ns(), line="sim/0")


class World:
    """The topics of one test, written as the pipeline writes them, or by a pipeline."""

    def __init__(self, endpoints: Endpoints, prefix: str, codec: Codec, folder: Path) -> None:
        self.endpoints = endpoints
        self.prefix = prefix
        self.codec = codec
        self.folder = folder
        self.settings = CommonSettings(
            kafka_brokers=endpoints.kafka_brokers, registry_url=endpoints.registry_url, topic_prefix=prefix,
            group_prefix=prefix,
        )  # fmt: skip
        self.producer = Producer({"bootstrap.servers": endpoints.kafka_brokers})
        self.admin = AdminClient({"bootstrap.servers": endpoints.kafka_brokers})
        self.processes: list[subprocess.Popen[bytes]] = []

    def make_topics(self) -> None:
        """Create every topic."""
        new = [NewTopic(each.physical(self.prefix), num_partitions=4, config=each.config()) for each in topics.TOPICS]
        for created in self.admin.create_topics(new).values():
            created.result(timeout=30)
        wait_for("leaders", lambda: all(self.has_leaders(each) for each in topics.TOPICS))

    def has_leaders(self, topic: topics.Topic) -> bool:
        """Return whether every partition of a topic answers."""
        with suppress(KafkaException):
            consumer = Consumer(consumer_config(self.settings, "test"))
            for number in range(4):
                consumer.get_watermark_offsets(TopicPartition(topic.physical(self.prefix), number), timeout=10)
            consumer.close()
            return True
        return False

    def write(self, topic: topics.Topic, event: AnyEvent, partition: int = PARTITION, **more: Any) -> None:
        """Write an event."""
        self.producer.produce(
            topic.physical(self.prefix), key=event.key.encode(), value=self.codec.encode(event), partition=partition,
            **more,
        )  # fmt: skip
        self.producer.poll(0)

    def publish(self, offset: int, event: BookUpdate) -> None:
        """Write a book update as the output of the input record at `offset`."""
        hops = Hops(input=Position(INGEST.physical(self.prefix), PARTITION, offset))
        self.write(UPDATES, event, headers={HOPS: hops.to_header()})

    def save(self, symbol: str, offset: int, packed: bytes, topic_id: str = "id") -> None:
        """Write a checkpoint."""
        event = Checkpoint(
            venue="sim", symbol=symbol, chain=CHAIN, partition=PARTITION, offset=offset, topic_id=topic_id,
            ts_recv=time.time_ns(), states={OPERATOR: packed},
        )  # fmt: skip
        self.write(STATE, event)

    def commit(self, offset: int, replay_from: int, topic_id: str = "id") -> None:
        """Commit as the pipeline does, after everything that was written so far."""
        assert self.producer.flush(30) == 0
        mark = Mark(topic_id=topic_id, replay_from=replay_from, checkpoints_since_ms=time.time_ns() // 1_000_000)
        consumer = Consumer(consumer_config(self.settings, PIPELINE_GROUP))
        where = TopicPartition(INGEST.physical(self.prefix), PARTITION, offset, mark.text())
        consumer.commit(offsets=[where], asynchronous=False)
        consumer.close()

    def published(self) -> list[Any]:
        """Return all records of md.book_updates."""
        consumer = Consumer(consumer_config(self.settings, "test") | {"enable.partition.eof": True})
        consumer.assign([TopicPartition(UPDATES.physical(self.prefix), number, 0) for number in range(4)])
        behind, found = {0, 1, 2, 3}, []
        while behind:
            for message in consumer.consume(1_000, 1.0):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    behind.discard(message.partition() or 0)
        consumer.close()
        return found

    def worker(self) -> subprocess.Popen[bytes]:
        """Start a pipeline worker."""
        dropped = ("TICKSTREAM_", "PYTHONDONTWRITEBYTECODE")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        environment |= self.endpoints.environment() | {
            "PYTHONPATH": str(PROJECT),
            "TICKSTREAM_TOPIC_PREFIX": self.prefix,
            "TICKSTREAM_GROUP_PREFIX": self.prefix,
            "TICKSTREAM_METRICS_PORT": "0",
            "TICKSTREAM_ENGINE": "direct",
            "TICKSTREAM_SESSION_SECONDS": "6",
            "TICKSTREAM_CHECKPOINT_SECONDS": "1",
            "TICKSTREAM_WORKER": "only",
        }
        with (self.folder / "worker.log").open("ab") as log:
            command = [sys.executable, "-m", "stream_apps"]
            process = subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End what is left."""
        for process in self.processes:
            process.kill()
            process.wait(10)
        self.producer.flush(10)


@pytest.fixture
def world(endpoints: Endpoints, topic_prefix: str, codec: Codec, tmp_path: Path) -> Iterator[World]:
    """Topics of this test's own."""
    made = World(endpoints, topic_prefix, codec, tmp_path)
    made.make_topics()
    yield made
    made.close()
    log = tmp_path / "worker.log"
    if log.exists():
        sys.stdout.write(log.read_text(errors="replace")[-4000:])


class Follower:
    """The part of the API that keeps books, as a context manager.

    `restored` has the input offset of each checkpoint, `seen` each state of each book with its input offset.
    """

    def __init__(self, world: World) -> None:
        self.market = Market()
        self.restored: dict[str, int] = {}
        self.seen: list[tuple[str, int, Columns]] = []
        self.applied: Counter[str] = Counter()
        self._consumer = MarketConsumer(world.settings, Readiness(KAFKA, REGISTRY), self._deliver)

    def _deliver(self, batch: list[Item]) -> None:
        for item in batch:
            if isinstance(item, RestoredBook):
                self.market.restore(item.venue, item.symbol, item.state)
                self.restored[item.symbol] = item.offset
                self.seen.append((item.symbol, item.offset, self.columns(item.symbol)))
            elif isinstance(item, BookInvalidated):
                self.market.invalidate(item.venue, item.symbol, item.reason)
            elif isinstance(item, Delivery) and isinstance(item.event, BookUpdate):
                self.market.apply(item.event, item.offset)
                position = hops_of(item.headers).input
                self.applied[item.event.symbol] += 1
                if position is not None:
                    self.seen.append((item.event.symbol, position.offset, self.columns(item.event.symbol)))
        self._consumer.handled()

    def __enter__(self) -> Self:
        self._consumer.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.__exit__()

    @property
    def caught_up(self) -> bool:
        """Whether the market is known."""
        return self._consumer.caught_up

    def columns(self, symbol: str) -> Columns:
        """Return a book's levels."""
        found = self.market.find("sim", symbol)
        return found.book.book.pack() if found is not None else []

    def trust(self, symbol: str) -> str | None:
        """Return why a book is invalid; empty when it is valid, None for a symbol that is unknown."""
        found = self.market.find("sim", symbol)
        return None if found is None else found.book.trust.reason


Wait = Callable[..., Any]


def test_a_book_is_its_checkpoint_and_the_updates_after_it(world: World, wait_for: Wait) -> None:
    """Updates that the checkpoint contains are left out; a symbol without a checkpoint begins with its snapshot."""
    world.publish(0, change("A", "snapshot", {"100": "1"}, {"101": "1"}))
    world.publish(1, change("A", "update", {"100": "2"}))
    # Levels that no update has: only the checkpoint can be their source.
    world.save("A", 3, pack_state(state({"100": "5", "42": "42"}, {"101": "1"})))
    world.publish(3, change("A", "update", {"100": "5"}))
    world.publish(4, change("B", "snapshot", {"7": "1"}))
    world.publish(6, change("A", "update", {"99": "3"}))
    world.commit(7, 4)
    with Follower(world) as follower:
        wait_for("the market", lambda: follower.caught_up)
        assert follower.columns("A") == [["100", "99", "42"], ["5", "3", "42"], ["101"], ["1"]]
        assert follower.columns("B") == [["7"], ["1"], [], []]
        assert (follower.trust("A"), follower.trust("B")) == ("", "")
        assert follower.applied == {"A": 1, "B": 1}
        world.publish(7, change("A", "update", {"42": "0"}))
        wait_for("what follows", lambda: follower.columns("A")[0] == ["100", "99"])


def test_a_start_reads_only_as_far_back_as_it_must(world: World, wait_for: Wait) -> None:
    """Of a long log neither the old updates nor the old checkpoints are read."""
    records = 20 * NEAR_RECORDS
    for offset in range(records):
        world.publish(offset, change("A", "update", {"1": str(offset)}))
    world.save("A", records - 10, pack_state(state({"1": str(records - 10), "42": "1"}, {})))
    world.commit(records, records - 9)
    with Follower(world) as follower:
        wait_for("the market", lambda: follower.caught_up)
        assert follower.columns("A") == [["1", "42"], [str(records - 1), "1"], [], []] or follower.columns("A") == [
            ["42", "1"], ["1", str(records - 1)], [], []
        ]  # fmt: skip
        assert follower.applied == {"A": 9}


def test_the_position_is_before_the_first_needed_update_and_near_it(world: World) -> None:
    """However far back that is; the log's own start where nothing is before it."""
    first, records = 1_000, 16 * NEAR_RECORDS
    for offset in range(first, first + records):
        world.publish(offset, change("A", "heartbeat"))
    assert world.producer.flush(60) == 0
    with closing(BookStart(world.settings)) as start:
        for needed in (-500, 0, 1, records // 16, records // 2, records - 5, records):
            mark = Mark(topic_id="id", replay_from=first + needed, checkpoints_since_ms=0)
            found = start.updates(PARTITION, Commit(first + records, mark))
            assert found.complete_from == 0
            assert found.offset < max(1, needed)
            assert needed - found.offset <= max(NEAR_RECORDS, (records - needed) // 2)


def test_checkpoints_that_an_open_transaction_hides_are_waited_for(world: World) -> None:
    """The commit that relies on them may be visible before they are."""
    producer = Producer({"bootstrap.servers": world.endpoints.kafka_brokers, "transactional.id": world.prefix})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(STATE.physical(world.prefix), key=b"key", value=b"value", partition=PARTITION)
    assert producer.flush(30) == 0
    world.commit(7, 7)
    waits: list[str] = []

    def commit() -> None:
        if not waits:
            producer.commit_transaction(30)
        waits.append("")

    with closing(BookStart(world.settings)) as start:
        commits = start.commits([0, 1, 2, 3])
        assert [(number, commit.offset) for number, commit in commits.items()] == [(PARTITION, 7)]
        (found,) = start.checkpoints(commits, commit)
        assert (found.partition, found.offset) == (PARTITION, 0)
    assert waits


def test_a_book_whose_updates_are_not_kept_waits_for_its_snapshot(world: World, wait_for: Wait) -> None:
    """It is known and not trusted; another, whose checkpoint is younger than what is missing, is valid."""
    for offset in range(10):
        world.publish(offset, change("A", "update", {"1": str(offset)}))
    world.save("A", 3, pack_state(state({"1": "3"}, {})))
    world.save("B", 7, pack_state(state({"9": "1"}, {})))
    world.commit(10, 4)
    where = TopicPartition(UPDATES.physical(world.prefix), PARTITION, 8)
    for removal in world.admin.delete_records([where]).values():
        removal.result(timeout=10)
    with Follower(world) as follower:
        wait_for("the market", lambda: follower.caught_up)
        assert (follower.trust("A"), follower.trust("B")) == ("resyncing", "")
        assert follower.columns("A") == [[], [], [], []]
        assert follower.columns("B") == [["9"], ["1"], [], []]
        world.publish(10, change("A", "snapshot", {"5": "5"}))
        wait_for("the snapshot", lambda: follower.trust("A") == "")


def test_a_checkpoint_of_an_unknown_version_is_not_used(world: World, wait_for: Wait) -> None:
    """The book is not trusted until its next snapshot, and other books are not affected."""
    world.save("A", 1, msgspec.msgpack.encode({"version": 99}))
    world.save("B", 1, pack_state(state({"9": "1"}, {})))
    event = change("C", "snapshot", {"1": "1"})
    world.write(STATE, event, headers={})  # no checkpoint at all, and no key of one
    topic, key = STATE.physical(world.prefix), f"{CHAIN}|sim:C".encode()
    world.producer.produce(topic, key=key, value=world.codec.encode(event), partition=PARTITION)
    world.producer.produce(topic, key=f"{CHAIN}|sim:D".encode(), value=b"no record", partition=PARTITION)
    world.publish(2, change("A", "update", {"1": "2"}))
    world.commit(3, 2)
    with Follower(world) as follower:
        wait_for("the market", lambda: follower.caught_up)
        assert [follower.trust(symbol) for symbol in "ABCD"] == ["resyncing", "", "resyncing", "resyncing"]
        world.publish(3, change("A", "snapshot", {"5": "5"}))
        wait_for("the snapshot", lambda: follower.trust("A") == "")


def test_without_a_pipeline_there_are_no_books_and_the_first_one_is_found(world: World, wait_for: Wait) -> None:
    """The group has never committed: the market is known, empty, and follows what comes."""
    with Follower(world) as follower:
        wait_for("the market", lambda: follower.caught_up)
        assert follower.trust("A") is None
        world.publish(0, change("A", "snapshot", {"1": "1"}))
        wait_for("the book", lambda: follower.columns("A") == [["1"], ["1"], [], []])
    with Follower(world) as follower:
        wait_for("the market", lambda: follower.caught_up)
        assert follower.columns("A") == [["1"], ["1"], [], []]


def test_a_forgotten_checkpoint_is_no_book(world: World, wait_for: Wait) -> None:
    """A tombstone of the pipeline removes the symbol."""
    world.save("A", 1, pack_state(state({"1": "1"}, {})))
    world.producer.produce(STATE.physical(world.prefix), key=f"{CHAIN}|sim:A".encode(), partition=PARTITION)
    world.commit(2, 2)
    with Follower(world) as follower:
        wait_for("the market", lambda: follower.caught_up)
        assert follower.trust("A") is None


def test_input_offsets_that_restart_void_the_restored_books(world: World, wait_for: Wait) -> None:
    """After the input topic was created again, offsets of checkpoints and of older updates cannot be compared."""
    for offset in range(50, 60):
        world.publish(offset, change("A", "snapshot" if offset == 50 else "update", {str(offset): "1"}))
    world.publish(0, change("A", "clear", valid=False, reason="gap"))
    world.publish(1, change("A", "snapshot", {"7": "7"}))
    world.publish(2, change("A", "update", {"8": "8"}))
    world.save("A", 1, pack_state(state({"7": "7"}, {})), topic_id="new")
    world.commit(3, 2, topic_id="new")
    with Follower(world) as follower:
        wait_for("the market", lambda: follower.caught_up)
        assert follower.columns("A") == [["8", "7"], ["8", "7"], [], []]
        assert follower.trust("A") == ""


class Load:
    """Changes of many books, written to the pipeline's input until it is stopped, so many a second at most."""

    def __init__(self, world: World, symbols: int, seed: int, rate: int) -> None:
        self._world = world
        self._pause_s = 100 / rate
        self._symbols = [f"S{number}" for number in range(symbols)]
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert self._world.producer.flush(60) == 0

    def _run(self) -> None:
        counts: Counter[str] = Counter()
        while not self._stop.is_set():
            # Some symbols are busy, some are changed now and then.
            index = min(int(self._random.expovariate(0.3)), len(self._symbols) - 1)
            symbol = self._symbols[index]
            self._world.write(INGEST, self._next(symbol, counts[symbol]), index % 4)
            counts[symbol] += 1
            self.sent += 1
            if self.sent % 100 == 0:
                self._world.producer.flush(30)
                self._stop.wait(self._pause_s)

    def _next(self, symbol: str, number: int) -> BookUpdate:
        """Return the next change: one level appears, the one of 20 changes ago goes; at times all is new."""
        if number == 0 or self._random.random() < 0.0005:
            return change(symbol, "snapshot", {f"{100 + at}": "1" for at in range(5)}, {"9000": str(number + 1)})
        added, removed = f"{1000 + number % 977}", f"{1000 + (number - 20) % 977}"
        return change(symbol, "update", {added: str(number), removed: "0"})


def states_of(messages: list[Any], codec: Codec) -> dict[str, dict[int, Columns]]:
    """Return each book after each update, by symbol and input offset, made from md.book_updates alone."""
    books: dict[str, L2Book] = defaultdict(L2Book)
    found: dict[str, dict[int, Columns]] = defaultdict(dict)
    for message in messages:
        event = codec.decode(message.value())
        assert isinstance(event, BookUpdate)
        book = books[event.symbol]
        if event.kind == "update":
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)
        else:
            book.bids.replace(event.bid_prices, event.bid_sizes)
            book.asks.replace(event.ask_prices, event.ask_sizes)
        position = hops_of(headers_of(message)).input
        assert position is not None
        assert position.offset not in found[event.symbol], "an update was published twice"
        found[event.symbol][position.offset] = book.pack()
    return found


def test_starts_under_load_give_the_books_of_the_log_at_every_update(world: World, wait_for: Wait) -> None:
    """A pipeline at full speed, killed once; starts at random moments; each book of each start equals the log's."""
    seed = random.SystemRandom().randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    worker = world.worker()
    followers: list[Follower] = []
    with Load(world, symbols=16, seed=seed, rate=3_000) as load:
        wait_for("the pipeline's first checkpoints", lambda: world_has_checkpoints(world))
        for number in range(4):
            begin = load.sent + chance.randrange(100, 3_000)
            wait_for("a random moment", lambda begin=begin: load.sent >= begin)
            if number == 2:
                worker.kill()
                worker.wait(10)
                worker = world.worker()
            with Follower(world) as follower:
                wait_for("the market", lambda follower=follower: follower.caught_up)
                more = follower.applied.total() + 200
                wait_for("more", lambda follower=follower, more=more: follower.applied.total() >= more)
            followers.append(follower)
    with Follower(world) as last:
        wait_for("the market", lambda: last.caught_up)
        wait_for("the pipeline to be done", lambda: is_done(world))
        truth = states_of(world.published(), world.codec)
        ends = {symbol: states[max(states)] for symbol, states in truth.items()}
        wait_for("the last update", lambda: {symbol: last.columns(symbol) for symbol in ends} == ends)
    assert any(follower.restored for follower in followers)
    assert last.restored.keys() == truth.keys()
    inputs = {symbol: sorted(states) for symbol, states in truth.items()}
    for follower in [*followers, last]:
        assert follower.seen
        for symbol, offset, columns in follower.seen:
            at = inputs[symbol][bisect_right(inputs[symbol], offset) - 1]
            assert columns == truth[symbol][at], (symbol, offset, at)


def world_has_checkpoints(world: World) -> bool:
    """Return whether md.state has a record in each partition."""
    consumer = Consumer(consumer_config(world.settings, "test"))
    try:
        return all(
            consumer.get_watermark_offsets(TopicPartition(STATE.physical(world.prefix), number), timeout=10)[1] > 0
            for number in range(4)
        )
    finally:
        consumer.close()


def is_done(world: World) -> bool:
    """Return whether the pipeline has committed all of its input."""
    topic = INGEST.physical(world.prefix)
    consumer = Consumer(consumer_config(world.settings, PIPELINE_GROUP))
    try:
        wanted = [TopicPartition(topic, number) for number in range(4)]
        return all(
            each.offset == consumer.get_watermark_offsets(each, timeout=10)[1]
            for each in consumer.committed(wanted, timeout=10)
        )
    finally:
        consumer.close()
