"""What a task finds in Kafka after a restart, and what a worker does while something is not there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from confluent_kafka import Producer

from infra.local import stack
from infra.local.folders import Folders
from infra.local.settings import StackSettings
from infra.local.table import Endpoints
from marketdata.events import BookUpdate, Checkpoint, Instrument, Trades
from marketdata.headers import HOPS, Hops, Position, cloudevent
from runtime.settings import load
from stream_apps.engines.instruments import Instruments
from stream_apps.engines.recovery import TAIL_RECORDS, Recovery
from stream_apps.engines.task import CHECKPOINT, Record
from stream_apps.operators.books import Books
from stream_apps.settings import StreamSettings
from tests.waiting import wait_for

INPUT_TOPIC = "md.ingest.trades"


def settings_of(lab: Any) -> StreamSettings:
    """Return settings for the laboratory's Kafka and topics."""
    return load(
        StreamSettings,
        kafka_brokers=lab.endpoints.kafka_brokers,
        registry_url=lab.endpoints.registry_url,
        topic_prefix=lab.prefix,
        group_prefix=lab.prefix,
    )


def first_input(lab: Any, offset: int, topic: str = INPUT_TOPIC, age_s: float = 0.0) -> Record:
    """Return the input at which a task starts."""
    return Record(
        topic=lab.physical(topic),
        partition=1,
        offset=offset,
        key=b"sim:A-USD",
        value=b"",
        headers={},
        timestamp_ms=int((time.time() - age_s) * 1000),
    )


def put(lab: Any, topic: str, event: Any, *, at: Position, source: str, by: Producer | None = None) -> None:
    """Write an output record as an engine does."""
    headers = cloudevent(event.schema, source, identity="x", subject=b"x", ts=0) | {HOPS: Hops(input=at).to_header()}
    (by or lab.producer).produce(
        lab.physical(topic),
        key=event.key.encode(),
        value=lab.codec.encode(event),
        partition=1,
        headers=list(headers.items()),
    )


@pytest.fixture
def recovery(lab: Any) -> Iterator[Recovery]:
    """What is tested."""
    made = Recovery(settings_of(lab), lab.codec.decode)
    yield made
    made.close()


def state(counting: ModuleType, symbol: str, events: int) -> Checkpoint:
    """Return a checkpoint of the counting operator."""
    saved: Checkpoint = counting.Counting().checkpoint(counting.Count(events=events), f"sim:{symbol}", {})
    return saved


def test_the_last_checkpoint_of_each_key_is_found(lab: Any, recovery: Recovery, counting: ModuleType) -> None:
    """Of this operator only; the position decides, not the place in the log."""
    topic = lab.physical(INPUT_TOPIC)
    for symbol, events, offset in [("A-USD", 1, 10), ("B-USD", 2, 11), ("A-USD", 3, 30), ("A-USD", 9, 20)]:
        put(
            lab,
            "md.state",
            state(counting, symbol, events),
            at=Position(topic, 1, offset, CHECKPOINT),
            source="counting",
        )
    put(lab, "md.state", state(counting, "A-USD", 77), at=Position(topic, 1, 99, CHECKPOINT), source="another")
    lab.producer.flush(10)
    found = recovery.recover(counting.Counting(), first_input(lab, 12)).checkpoints
    assert {key: (at.offset, at.state.events) for key, at in found.items()} == {
        "sim:A-USD": (30, 3),
        "sim:B-USD": (11, 2),
    }


def test_the_last_position_is_found_behind_many_records_of_others(
    lab: Any, recovery: Recovery, counting: ModuleType
) -> None:
    """Outputs of other operators and of other inputs share the topic; reading goes back as far as needed."""
    topic = lab.physical(INPUT_TOPIC)
    one = lab.trades("A-USD", 1)
    put(lab, "md.trades", one, at=Position(topic, 1, 41, 0), source="counting")
    put(lab, "md.trades", one, at=Position(topic, 1, 41, 1), source="counting")
    for number in range(3 * TAIL_RECORDS):
        put(lab, "md.trades", one, at=Position(topic, 1, 1000 + number, 0), source="another")
        put(lab, "md.trades", one, at=Position("elsewhere", 1, 2000 + number, 0), source="counting")
    lab.producer.flush(10)
    found = recovery.recover(counting.Counting(), first_input(lab, 12)).written
    assert found == {lab.physical("md.trades"): Position(topic, 1, 41, 1)}


def test_what_a_transaction_did_not_commit_was_not_written(lab: Any, recovery: Recovery, counting: ModuleType) -> None:
    """Aborted records are no outputs, and one of another writer that is open delays, but hides nothing."""
    topic = lab.physical(INPUT_TOPIC)
    one = lab.trades("A-USD", 1)
    config = {"bootstrap.servers": lab.endpoints.kafka_brokers, "transaction.timeout.ms": 6_000}
    aborted, opened = (Producer(config | {"transactional.id": f"{lab.prefix}{name}"}) for name in ("a", "b"))
    for producer in (aborted, opened):
        producer.init_transactions(30)
        producer.begin_transaction()
    put(lab, "md.trades", one, at=Position(topic, 1, 50, 0), source="counting")
    lab.producer.flush(10)
    put(lab, "md.trades", one, at=Position(topic, 1, 60, 0), source="counting", by=aborted)
    aborted.flush(10)
    aborted.abort_transaction(10)
    put(lab, "md.trades", one, at=Position(topic, 1, 70, 0), source="another", by=opened)
    opened.flush(10)
    put(lab, "md.trades", one, at=Position(topic, 1, 51, 0), source="counting")
    lab.producer.flush(10)
    found = recovery.recover(counting.Counting(), first_input(lab, 12)).written
    assert found == {lab.physical("md.trades"): Position(topic, 1, 51, 0)}


def test_an_operators_own_checkpoint_counts_once_the_offset_is_beyond_it(lab: Any, recovery: Recovery) -> None:
    """A full book before the committed offset is used, one after it is not: its quotes may not be written yet."""
    topic = lab.physical("md.book_updates")
    operator = Books(full_updates=2)
    key = operator.start("sim:A-USD")
    for offset in range(9):
        ts = 1_780_000_000_000_000_000 + offset
        update = BookUpdate(
            venue="sim",
            symbol="A-USD",
            ts_event=ts,
            ts_recv=ts,
            line="l",
            kind="update" if offset else "snapshot",
            bid_prices=["1"],
            bid_sizes=[str(offset + 1)],
            ask_prices=["2"],
            ask_sizes=["1"],
        )
        key, events = operator.step(key, update)
        if offset == 2:
            saved = operator.checkpoint(key, "sim:A-USD", {})
            put(lab, "md.books", saved, at=Position(topic, 1, offset, CHECKPOINT), source="books")
        for index, event in enumerate(event for event in events if event.schema == "Book"):
            put(lab, "md.books", event, at=Position(topic, 1, offset, index), source="books")
    lab.producer.flush(10)
    for committed, used in ((0, 2), (5, 3), (6, 5), (100, 7)):
        found = recovery.recover(operator, first_input(lab, committed, "md.book_updates")).checkpoints["sim:A-USD"]
        assert (found.offset, found.state.book.best()[0]) == (used, ("1", str(used + 1)))


def test_an_instrument_listed_just_before_its_first_trade_is_known(lab: Any) -> None:
    """A miss reads to the end of the topic before it says no, as asked where one is old; others come by themselves."""
    with Instruments(settings_of(lab), lab.codec.decode) as known:
        assert known.get("sim:A-USD") is None

        def listed(symbol: str, tick: str) -> None:
            event = Instrument(
                venue="sim",
                symbol=symbol,
                ts_recv=1,
                venue_symbol=symbol,
                base_currency=symbol[0],
                quote_currency="USD",
                tick_size=tick,
            )
            lab.send("md.instruments", event, 2)
            lab.producer.flush(10)

        listed("B-USD", "0.01")
        assert known["sim:B-USD"].tick_size == "0.01"
        listed("B-USD", "0.05")
        known.read_again("sim:B-USD")
        assert known["sim:B-USD"].tick_size == "0.05"
        listed("A-USD", "0.1")
        wait_for("an instrument that nobody asked for", lambda: "sim:A-USD" in known, 10)
        assert sorted(known) == ["sim:A-USD", "sim:B-USD"]


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


@pytest.mark.parametrize("engine", ["faust", "direct"])
def test_a_kafka_that_is_away_for_a_while_loses_and_doubles_nothing(
    own_kafka: tuple[Endpoints, Folders], lab: Any, tmp_path: Path, until: Callable[..., Any], engine: str
) -> None:
    """A short stop is survived by the process; after a long one it ends with an error, and its successor goes on."""
    endpoints, folders = own_kafka
    here = type(lab)(endpoints, "away.", lab.codec, tmp_path)
    here.make_topics()
    sent = 0
    worker = None

    def supervised() -> Any:
        nonlocal worker
        if worker is None or not worker.alive():
            worker = here.worker(engine, session_seconds="12", checkpoint_seconds="0.5")
        return worker

    def send_and_check(count: int) -> None:
        nonlocal sent
        here.send_trades(range(sent, sent + count))
        sent += count
        until(lambda: supervised() and len(here.written("md.trades")) >= sent, f"{sent} outputs", 120)

    try:
        send_and_check(120)
        kafka = _kafka_pid(folders)
        for stop_s, survives in ((3.0, True), (16.0, False)):
            before = supervised()
            here.send_trades_unflushed(range(sent, sent + 60))
            sent += 60
            os.kill(kafka, signal.SIGSTOP)
            stopped = time.monotonic()
            until(lambda stopped=stopped, stop_s=stop_s: time.monotonic() - stopped > stop_s, "the pause", 30)
            os.kill(kafka, signal.SIGCONT)
            here.producer.flush(60)
            send_and_check(60)
            assert supervised() is before or not survives
        by_key: dict[str, list[int]] = {}
        for written in here.written("md.trades"):
            event = lab.codec.decode(written.value)
            assert isinstance(event, Trades)
            by_key.setdefault(written.key, []).append(event.sequence or 0)
        assert len(by_key) == 6
        for numbers in by_key.values():
            assert numbers == list(range(1, sent // 6 + 1))
    finally:
        here.close()


def test_a_worker_waits_for_its_topics(lab: Any, until: Callable[..., Any]) -> None:
    """Started too early it says what it waits for, tells that it is not ready, and can be stopped."""
    here = type(lab)(lab.endpoints, f"{lab.prefix}late.", lab.codec, lab.folder)
    worker = here.worker("faust")
    until(lambda: "there is no topic" in worker.log.read_text(), "what it waits for", 30)
    assert worker.terminate() == 0
    here.close()
