"""What a stream app is to an engine: a consumer group, its operators, and how often they are checkpointed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from marketdata.events import Instrument
from marketdata.operator import Operator
from marketdata.topics import DEAD_LETTERS, topic
from stream_apps.engines.task import Cadence


class App(msgspec.Struct, frozen=True, kw_only=True):
    """One app.

    `build` makes the operators, which may look up known instruments. `cadence` is None for the settings' own.
    """

    name: str
    build: Callable[[Mapping[str, Instrument]], tuple[Operator[Any], ...]]
    cadence: Cadence | None = None

    def group(self, prefix: str) -> str:
        """Return the app's consumer group."""
        return f"{prefix}tickstream-{self.name}"


def written_topics(operator: Operator[Any]) -> tuple[str, ...]:
    """Return the logical topics that get what a step gives, the engine's own dead letters among them."""
    return tuple(dict.fromkeys((*operator.outputs, DEAD_LETTERS.name)))


def by_input(app: App, instruments: Mapping[str, Instrument]) -> dict[str, list[Operator[Any]]]:
    """Return an app's operators by their input topic (logical name).

    Raises ValueError for an operator that no engine can run exactly once: its state would depend on the order of two
    topics, or its outputs could not go to the partition number of their input.
    """
    found: dict[str, list[Operator[Any]]] = {}
    for operator in app.build(instruments):
        if len(operator.inputs) != 1:
            raise ValueError(f"operator {operator.name} has {len(operator.inputs)} inputs; each operator takes one")
        names = (*operator.inputs, operator.checkpoints, *written_topics(operator))
        if len({topic(name).partitions for name in names}) != 1:
            raise ValueError(f"the topics of operator {operator.name} differ in their number of partitions")
        found.setdefault(operator.inputs[0], []).append(operator)
    return found
