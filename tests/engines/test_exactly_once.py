"""Worker processes on the real Kafka: whatever happens to them, each output is there once and in order."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from marketdata.events import DeadLetter
from tests.engines.outputs import ENGINES, FAST, INPUT_TOPIC, await_exactly, expected


@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_killed_again_and_again_writes_everything_once(
    lab: Any, until: Callable[..., Any], events: Any, engine: str
) -> None:
    """Kill -9 at different points of its work, before and between checkpoints; the last life finishes."""
    sent = 0
    for life in range(5):
        worker = lab.worker(engine, **FAST)
        before = len(lab.written("md.trades"))
        lab.send_trades(range(sent, sent + 400))
        sent += 400
        enough = before + (1, 400, 150, 30, 250)[life]
        until(lambda enough=enough: len(lab.written("md.trades")) >= enough, f"{enough} outputs")
        worker.kill()
    lab.worker(engine, **FAST)
    await_exactly(lab, until, expected(lab, events(range(sent))))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_drained_worker_leaves_nothing_to_do_again(
    lab: Any, until: Callable[..., Any], events: Any, engine: str
) -> None:
    """SIGTERM ends with exit code 0 in ten seconds, everything is checkpointed, and the next worker goes on."""
    worker = lab.worker(engine)
    lab.send_trades(range(300))
    await_exactly(lab, until, expected(lab, events(range(300))))
    began = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - began < 10
    lab.await_decided()
    saved = {written.key: written.position for written in lab.written("md.state")}
    assert len(saved) == 6
    lab.worker(engine)
    lab.send_trades(range(300, 360))
    await_exactly(lab, until, expected(lab, events(range(360))))


def test_the_engines_take_over_from_each_other(lab: Any, until: Callable[..., Any], events: Any) -> None:
    """Checkpoints, offsets and positions mean the same to both, also after a kill."""
    for life, engine in enumerate(["faust", "direct", "faust", "direct"]):
        worker = lab.worker(engine, **FAST)
        lab.send_trades(range(life * 200, life * 200 + 200))
        enough = life * 200 + 120
        until(lambda enough=enough: len(lab.written("md.trades")) >= enough, f"{enough} outputs")
        worker.kill()
    lab.worker("faust", **FAST)
    await_exactly(lab, until, expected(lab, events(range(800))))


@pytest.mark.parametrize("engine", ENGINES)
def test_partitions_that_move_between_workers_lose_and_double_nothing(
    lab: Any, until: Callable[..., Any], events: Any, engine: str
) -> None:
    """A second worker joins, the first drains, a third joins and the second is killed."""
    sent = 0

    def send_and_wait(count: int) -> None:
        nonlocal sent
        lab.send_trades(range(sent, sent + count))
        sent += count
        until(lambda: len(lab.written("md.trades")) >= sent, f"{sent} outputs")

    def shares(worker: Any) -> bool:
        return '"rebuilt"' in worker.log.read_text()

    first = lab.worker(engine, worker="", **FAST)
    send_and_wait(200)
    second = lab.worker(engine, worker="", **FAST)

    def shares_after_more(worker: Any) -> bool:
        send_and_wait(24)
        return shares(worker)

    until(lambda: shares_after_more(second), "a share for the second worker")
    lab.send_trades(range(sent, sent + 300))
    sent += 300
    assert first.terminate() == 0
    send_and_wait(100)
    third = lab.worker(engine, worker="", **FAST)
    until(lambda: shares_after_more(third), "a share for the third worker")
    lab.send_trades(range(sent, sent + 300))
    sent += 300
    second.kill()
    send_and_wait(100)
    assert third.alive()
    await_exactly(lab, until, expected(lab, events(range(sent))))


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_inputs_become_dead_letters_and_the_rest_goes_on(
    lab: Any, until: Callable[..., Any], engine: str, metrics: Callable[[int], str], free_port: int
) -> None:
    """Bytes that are no record, an unknown schema, an event at which the operator fails; and the counters."""
    lab.worker(engine, metrics_port=str(free_port))
    lab.send_bytes(INPUT_TOPIC, b"sim:S0-USD", b"not avro", 0)
    lab.send_bytes(INPUT_TOPIC, b"sim:S0-USD", b"\0\x7f\xff\xff\xff\x01", 0)
    lab.send_bytes(INPUT_TOPIC, b"sim:S0-USD", None, 0)
    boom = lab.trades("S0-USD", 1)
    boom = msgspec.structs.replace(
        boom, trades=(msgspec.structs.replace(boom.trades[0], trade_id="boom"), boom.trades[1])
    )
    lab.send(INPUT_TOPIC, boom, 0)
    for number in range(7):
        lab.send(INPUT_TOPIC, lab.trades("S0-USD", number), 0)
    lab.producer.flush(10)
    letters = [lab.codec.decode(written.value) for written in lab.await_written("md.dead_letters", 5)]
    assert all(isinstance(letter, DeadLetter) for letter in letters)
    assert [(letter.reason, letter.offset) for letter in letters] == [
        ("undecodable", 0),
        ("undecodable", 1),
        ("undecodable", 2),
        ("operator_error", 3),
        ("seventh", 10),
    ]
    assert letters[0].payload == b"not avro"
    assert letters[0].topic == lab.physical(INPUT_TOPIC)
    lab.await_written("md.trades", 7)
    wanted = 'market_data_dropped_msgs_total{reason="seventh",stage="counting"} 1.0'
    until(lambda: wanted in metrics(free_port), wanted, 10)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_event_of_five_megabytes_passes(lab: Any, engine: str) -> None:
    """The largest frame that was recorded is a book snapshot of this size."""
    one = lab.trades("S1-USD", 1)
    big = msgspec.structs.replace(
        one, trades=tuple(msgspec.structs.replace(one.trades[0], trade_id=f"{n:050d}") for n in range(70_000))
    )
    lab.worker(engine)
    lab.send(INPUT_TOPIC, big, 1)
    lab.send(INPUT_TOPIC, lab.trades("S1-USD", 2), 1)
    lab.producer.flush(30)
    written = lab.await_written("md.trades", 2)
    assert len(written[0].value) > 5_000_000
    echoed = lab.codec.decode(written[0].value)
    assert len(echoed.trades) == 70_000


@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_that_was_suspended_for_too_long_writes_nothing_more(
    lab: Any, until: Callable[..., Any], events: Any, engine: str
) -> None:
    """Its partitions belong to another worker by then; when it wakes up, no record is doubled or lost."""
    first = lab.worker(engine, worker="", **FAST)
    lab.send_trades(range(200))
    until(lambda: len(lab.written("md.trades")) >= 200, "200 outputs")
    first.signal(signal.SIGSTOP)
    lab.worker(engine, worker="", **FAST)
    lab.send_trades(range(200, 500))
    until(lambda: len(lab.written("md.trades")) >= 500, "500 outputs")
    first.signal(signal.SIGCONT)
    lab.send_trades(range(500, 800))
    await_exactly(lab, until, expected(lab, events(range(800))))


@pytest.mark.parametrize("engine", ENGINES)
def test_workers_frozen_amid_a_backlog_five_times_lose_and_double_nothing(
    lab: Any, until: Callable[..., Any], engine: str
) -> None:
    """Each time for longer than a session, so that the other worker takes over; twelve symbols in four partitions."""
    workers = [lab.worker(engine, worker="", **FAST) for _ in range(2)]
    sent = 0

    def send(count: int) -> int:
        nonlocal sent
        lab.send_trades(range(sent, sent + count), symbols=12)
        sent += count
        return sent

    def await_outputs(count: int) -> None:
        until(lambda: len(lab.written("md.trades")) >= count, f"{count} outputs")

    def rebuilt(worker: Any) -> int:
        count: int = worker.log.read_text().count('"rebuilt"')
        return count

    await_outputs(send(240))
    for turn in range(5):
        frozen = workers[turn % 2]
        before = rebuilt(frozen)
        await_outputs(send(600) - 500)
        frozen.signal(signal.SIGSTOP)
        await_outputs(send(120))
        frozen.signal(signal.SIGCONT)
        until(lambda frozen=frozen, before=before: rebuilt(frozen) > before, "its share again")
    await_exactly(lab, until, expected(lab, [lab.trades(f"S{each % 12}-USD", each) for each in range(sent)], 12))
    assert all(worker.alive() for worker in workers)
