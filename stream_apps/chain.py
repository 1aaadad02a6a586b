"""The operators that process one input topic, as one pure step: an event in, all resulting events out.

A chain begins with the operators that read the input topic. Each event that an operator returns is published, and also
passed to the operators of the chain that read its topic. A state belongs to one chain, one key and one operator, so the
output of a chain depends only on its input topic. A topic that is the input of a chain is read by that chain only, also
where operators of other chains write it: under another key, and so to other partitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from marketdata.events import AnyEvent
from marketdata.operator import Lost, Operator
from marketdata.topics import INGEST, PUBLIC, VENUE_PRICES

# A chain's states of one key, by operator name, and `Runs` under `RUNS`; only operators that have processed an event of
# the key have one.
States = dict[str, Any]

RUNS = "runs"
# Producers' runs that are remembered for each key; a run ends with its process.
RUNS_MAX = 16

# The topics that feeds write, and the one that an operator writes under another key; each is the input of one chain.
INPUTS: tuple[str, ...] = (
    *dict.fromkeys(topic.name for topic in INGEST.values() if topic.name.startswith("md.ingest.")),
    VENUE_PRICES.name,
)


class Runs(msgspec.Struct):
    """The number of the last record that each of the last runs of producers wrote for one key."""

    last: dict[str, int] = {}

    def takes(self, run: str, number: int) -> bool:
        """Return whether a record is new, and remember it: a number that does not rise is a repetition."""
        last = self.last
        known = last.get(run)
        if known is None:
            if len(last) >= RUNS_MAX:
                del last[next(iter(last))]
        elif number <= known:
            return False
        last[run] = number
        return True


class Chain:
    """One input topic's operators and the states of every key. Not safe for several threads."""

    def __init__(self, topic: str, operators: Sequence[Operator[Any]]) -> None:
        """Take the logical name of the input topic, and all operators; those not reachable from the topic are ignored.

        Raises ValueError when the operators form a cycle.
        """
        self.topic = topic
        self.keys: dict[str, States] = {}
        self._roots = tuple(operator for operator in operators if operator.input == topic)
        self._readers: dict[str, tuple[Operator[Any], ...]] = {}
        self.operators = self._reachable(operators)

    def _reachable(self, operators: Sequence[Operator[Any]]) -> tuple[Operator[Any], ...]:
        found: dict[str, Operator[Any]] = {}

        def follow(operator: Operator[Any], path: tuple[str, ...]) -> None:
            if operator.name in path:
                raise ValueError(f"the operators form a cycle: {' -> '.join((*path, operator.name))}")
            found[operator.name] = operator
            for name in operator.outputs:
                # An input of another chain is read there, in that chain's order.
                readers = tuple(reader for reader in operators if reader.input == name and name not in INPUTS)
                self._readers[name] = readers
                for reader in readers:
                    follow(reader, (*path, operator.name))

        for root in self._roots:
            follow(root, ())
        return tuple(found.values())

    def takes(self, key: str, run: str, number: int) -> bool:
        """Return whether a record of a key is new: not one that the same run of a producer has written before.

        Kafka's client can write a batch twice, where a broker fails between the write and its response.
        """
        states = self.keys.get(key)
        if states is None:
            states = self.keys[key] = {}
        runs = states.get(RUNS)
        if runs is None:
            runs = states[RUNS] = Runs()
        return bool(runs.takes(run, number))

    def step(self, event: AnyEvent, key: str) -> list[AnyEvent]:
        """Return the events to publish for one event of a key (`venue:symbol`), in order.

        An operator that raises may leave the key's states partly updated: discard the chain and build a new one.
        """
        states = self.keys.get(key)
        if states is None:
            states = self.keys[key] = {}
        out: list[AnyEvent] = []
        for operator in self._roots:
            name = operator.name
            state = states.get(name)
            if state is None:
                state = operator.start(key)
            states[name], outputs = operator.step(state, event)
            if outputs:
                self._pass_on(states, key, outputs, out)
        return out

    def lose(self, loss: Lost, keys: Iterable[str] | None = None) -> list[AnyEvent]:
        """Return the events to publish after a loss of records, for these keys or for every key seen so far."""
        out: list[AnyEvent] = []
        for key in sorted(self.keys) if keys is None else keys:
            states = self.keys.setdefault(key, {})
            for operator in self._roots:
                state = states.get(operator.name)
                if state is None:
                    state = operator.start(key)
                states[operator.name], outputs = operator.lost(state, key, loss)  # type: ignore[attr-defined]  # a root
                self._pass_on(states, key, outputs, out)
        return out

    def _pass_on(self, states: States, key: str, events: list[AnyEvent], out: list[AnyEvent]) -> None:
        """Append events to the output, and pass each to the operators that read its topic."""
        for event in events:
            out.append(event)
            for operator in self._readers[PUBLIC[event.schema].name]:
                name = operator.name
                state = states.get(name)
                if state is None:
                    state = operator.start(key)
                states[name], outputs = operator.step(state, event)
                if outputs:
                    self._pass_on(states, key, outputs, out)


def make_chains(operators: Sequence[Operator[Any]]) -> dict[str, Chain]:
    """Return the chain of each input topic, by the topic's logical name."""
    return {topic: Chain(topic, operators) for topic in INPUTS}
