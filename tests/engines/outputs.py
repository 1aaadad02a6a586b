"""What the tests' operator must have written, whatever happened to the workers, and what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marketdata import topics
from marketdata.events import Trades
from marketdata.headers import HOPS, Hops
from stream_apps.chain import INPUTS, make_chains
from stream_apps.pipeline import Pipeline, Record, Shell, Start
from tests.engines import counting

ENGINES = ["faust", "direct"]
OUTPUTS = ("md.trades", "md.candles", "md.dead_letters")
INPUT_TOPIC = "md.ingest.trades"
START_NS = 1_780_000_000_000_000_000

# Rounds come fast here, so that a kill meets every phase of them.
FAST = {"checkpoint_seconds": "0.3", "checkpoint_inputs": "20"}

Seen = dict[tuple[str, int], list[tuple[str, tuple[int, int], bytes]]]


def expected(lab: Any, events: list[Trades], symbols: int = 6) -> Seen:
    """Return what an undisturbed run writes, by topic and partition, from the pipeline alone."""
    seen: Seen = {}
    shell = Shell(operators=counting.make_operators, decode=lab.codec.decode, encode=lab.codec.encode,
                  clock=lambda: START_NS, prefix=lab.prefix)  # fmt: skip
    starts = {name: Start(offset=0, topic_id="") for name in INPUTS}
    pipelines = [
        Pipeline(number, make_chains(counting.make_operators()), starts, shell) for number in range(topics.PARTITIONS)
    ]
    offsets = [0] * topics.PARTITIONS
    names = {lab.physical(name): name for name in OUTPUTS}
    for event in events:
        partition = int(event.symbol[1 : event.symbol.index("-")]) % symbols % topics.PARTITIONS
        value = lab.codec.encode(event)
        record = Record(lab.physical(INPUT_TOPIC), offsets[partition], event.key.encode(), value, None, 0)
        offsets[partition] += 1
        pipelines[partition].step(record)
        batch = pipelines[partition].batch()
        assert batch is not None
        for output in batch.outputs:
            if output.topic not in names:
                continue  # a checkpoint
            header = dict(output.headers)[HOPS]
            assert isinstance(header, bytes)
            position = Hops.from_header(header).input
            assert position is not None
            line = (output.key.decode(), (position.offset, position.index), output.value or b"")
            seen.setdefault((names[output.topic], partition), []).append(line)
    return seen


def seen(lab: Any) -> Seen:
    """Return what was written, by topic and partition, in order."""
    found: Seen = {}
    for name in OUTPUTS:
        for written in lab.written(name):
            found.setdefault((name, written.partition), []).append((written.key, written.position, written.value))
    return found


def await_exactly(lab: Any, until: Callable[..., Any], wanted: Seen) -> None:
    """Wait until there are as many outputs as there must be, then compare."""
    count = sum(len(lines) for lines in wanted.values())
    until(lambda: sum(len(lines) for lines in seen(lab).values()) >= count, f"{count} outputs")
    assert seen(lab) == wanted
