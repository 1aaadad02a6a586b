"""The operators that one input topic leads to, as one pure step: an event in, everything that follows from it out.

A chain begins with the operators whose input is the topic itself. What an operator returns also goes to each operator
of the chain whose input is the topic that it is published to. States belong to one chain, one key and one operator, so
what a chain publishes is a function of its one input topic and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from marketdata.events import AnyEvent
from marketdata.operator import Lost, Operator
from marketdata.topics import INGEST, PUBLIC

# What a chain holds of one key: a state of each operator that has seen an event of it, by the operator's name.
States = dict[str, Any]

# The topics that feeds write and chains begin with.
INPUTS: tuple[str, ...] = tuple(
    dict.fromkeys(topic.name for topic in INGEST.values() if topic.name.startswith("md.ingest."))
)


class Chain:
    """One input topic's operators and the states of every key. Not safe for several threads."""

    def __init__(self, topic: str, operators: Sequence[Operator[Any]]) -> None:
        """Take the logical name of the input topic and all operators; those that it does not lead to are left out.

        Raises ValueError when operators lead in a circle.
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
                raise ValueError(f"operators lead in a circle: {' -> '.join((*path, operator.name))}")
            found[operator.name] = operator
            for name in operator.outputs:
                readers = tuple(reader for reader in operators if reader.input == name)
                self._readers[name] = readers
                for reader in readers:
                    follow(reader, (*path, operator.name))

        for root in self._roots:
            follow(root, ())
        return tuple(found.values())

    def step(self, event: AnyEvent, key: str) -> list[AnyEvent]:
        """Return what is to be published for one event of a key (`venue:symbol`), in order.

        An operator that raises leaves the key's states half changed: drop the whole chain and build it again.
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
        """Return what is to be published now that records were lost: of these keys, or of every key that was seen."""
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
        """Add events to what is to be published, and give each to the operators that read its topic."""
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
