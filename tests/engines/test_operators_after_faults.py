"""Every operator, with recipes, metrics and derivatives, after kills and freezes: equal to the pure pipeline."""

from __future__ import annotations

import signal
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from marketdata import topics
from marketdata.events import Candle, Derivative, Metrics
from marketdata.headers import HOPS, Hops
from marketdata.recipes import load_recipes
from stream_apps.chain import INPUTS, make_chains
from stream_apps.operators import make_operators
from stream_apps.pipeline import Pipeline, Record, Shell, Start
from tests.engines.outputs import ENGINES, FAST, START_NS
from tests.engines.test_conformance import SYMBOLS, inputs

RECIPES = """
[recipes.five_seconds]
time = "5s"
[recipes.ten_trades]
trades = 10
[recipes.coins]
volume = "20"
[recipes.value]
value = "5000"
"""
# What the pipeline writes for itself is input as well, in an order that no test can know.
NAMES = [name for name in INPUTS if name != topics.VENUE_PRICES.name]
LIVES = 4

Lines = dict[tuple[str, str, int], list[tuple[str, tuple[int, int], bytes]]]
Sent = tuple[str, int, bytes, bytes]


def sent_of(lab: Any, name: str) -> list[Sent]:
    """Return an input topic's records as (topic, partition, key, value)."""
    return [
        (name, SYMBOLS.index(event.key.split(":")[1]) % topics.PARTITIONS, event.key.encode(), lab.codec.encode(event))
        for event in inputs(name)
    ]


def expected(lab: Any, sent: list[Sent], recipes: Path) -> Lines:
    """Return what an undisturbed run writes, by output topic, input topic and partition, from the pipeline alone."""

    def operators() -> Any:
        return make_operators(load_recipes(recipes))

    shell = Shell(operators=operators, decode=lab.codec.decode, encode=lab.codec.encode, clock=lambda: START_NS,
                  prefix=lab.prefix)  # fmt: skip
    starts = {name: Start(offset=0, topic_id="") for name in INPUTS}
    pipelines = [Pipeline(number, make_chains(operators()), starts, shell) for number in range(topics.PARTITIONS)]
    offsets: dict[tuple[str, int], int] = {}
    lines: Lines = {}
    for name, partition, key, value in sent:
        offset = offsets.get((name, partition), 0)
        offsets[name, partition] = offset + 1
        pipeline = pipelines[partition]
        pipeline.step(Record(lab.physical(name), offset, key, value, None, START_NS // 1_000_000))
        batch = pipeline.batch()
        assert batch is not None
        for output in batch.outputs:
            header = dict(output.headers).get(HOPS)
            if output.topic == lab.physical(topics.STATE.name):
                continue
            assert isinstance(header, bytes)
            position = Hops.from_header(header).input
            assert position is not None
            line = (output.key.decode(), (position.offset, position.index), output.value or b"")
            topic = next(each.name for each in topics.TOPICS if each.physical(lab.prefix) == output.topic)
            lines.setdefault((topic, name, partition), []).append(line)
    return lines


def written(lab: Any, names: set[str]) -> Lines:
    """Return what was written, likewise."""
    lines: Lines = {}
    for name in names:
        for one in lab.written(name):
            source = next(each.name for each in topics.TOPICS if each.physical(lab.prefix) == one.input)
            if source in NAMES:
                lines.setdefault((name, source, one.partition), []).append((one.key, one.position, one.value))
        if name == topics.VENUE_PRICES.name:  # those of one input are in several partitions
            for (of, _, _), prices in lines.items():
                if of == name:
                    prices.sort(key=itemgetter(1))
    return lines


@pytest.mark.timeout(240)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_operator_writes_everything_once_after_kills_and_freezes(
    lab: Any, until: Callable[..., Any], engine: str, tmp_path: Path
) -> None:
    """Each life of the worker ends by a kill amid its work, some of them while it is frozen; the last one finishes."""
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(RECIPES)
    sent = [one for name in NAMES for one in sent_of(lab, name)]
    wanted = expected(lab, sent, recipes)
    names = {name for name, _, _ in wanted}
    assert {"md.candles", "md.metrics", "md.derivatives", "md.books", "md.quotes", "md.status"} <= names
    made = [lab.codec.decode(value) for lines in wanted.values() for _, _, value in lines]
    recipes_made = {one.recipe for one in made if isinstance(one, Candle) and one.state == "final"}
    assert recipes_made >= {"", "five_seconds", "ten_trades", "coins", "value"}
    assert sum(isinstance(one, Metrics) for one in made) > 100
    assert sum(isinstance(one, Derivative) and bool(one.liquidations) for one in made) > 10

    # Every topic in every life, so that each kill meets states of all operators.
    by_topic = [[one for one in sent if one[0] == name] for name in NAMES]
    total = sum(len(lines) for lines in wanted.values())

    def outputs() -> int:
        return sum(len(lines) for lines in written(lab, names).values())

    for life in range(LIVES):
        worker = lab.worker(engine, script=None, recipes=str(recipes), **FAST)
        before = outputs()
        for lines in by_topic:
            share = len(lines) // LIVES + 1
            for name, partition, key, value in lines[life * share : (life + 1) * share]:
                lab.producer.produce(lab.physical(name), value, key, partition, timestamp=START_NS // 1_000_000)
        lab.producer.flush(30)
        until(lambda before=before: outputs() > before + total // (3 * LIVES), "outputs of this life")
        if life % 2:
            worker.signal(signal.SIGSTOP)
        worker.kill()
    lab.worker(engine, script=None, recipes=str(recipes), **FAST)
    until(lambda: outputs() >= total, f"{total} outputs")
    assert written(lab, names) == wanted
