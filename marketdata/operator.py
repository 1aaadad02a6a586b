"""What a stream operator is: a pure step from one key's state and one event to a new state and output events.

An engine (Faust, the direct loop, `tickstream pipe`) owns Kafka and the clock. For each input record it calls `step`,
writes the outputs, and now and then stores `checkpoint` so that a restart can go on from there. Steps are
deterministic: the same state and event always give the same outputs, which is what lets a restarted engine recognise
outputs that it already wrote.

What both sides hold to:

1. A state belongs to one operator, one input topic and one key, and sees that topic's records of that key in order. An
   operator that reads several topics would depend on their order, so each operator has one input topic.
2. `step` raises on no event that its input's schema allows: what it cannot use comes back as a `DeadLetter`.
3. A `DeadLetter` with an empty `payload` concerns the whole input record: the engine puts in the record's bytes. One
   with a payload concerns a part of it, which the operator wrote there as JSON (a `Trades` with the bad trade alone),
   so that a redrive repeats nothing that was good. The engine sets `topic`, `partition` and `offset` in both.
4. An output of the topic `checkpoints` with the key that `checkpoint` would give (the full `Book` of `books`) is as
   good a checkpoint as one that the engine asks for.
5. `counts` only ever grows, by reason; the engine exports it as a metric. It is no part of the state.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, Protocol, TypeVar

from marketdata.events import AnyEvent

State = TypeVar("State")


class Operator(Protocol, Generic[State]):
    """One stream operator. `inputs`, `outputs` (what `step` returns) and `checkpoints` are logical topic names."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    checkpoints: str
    counts: Counter[str]

    def start(self, key: str) -> State:
        """Return the state of a key (`venue:symbol`) that was never seen."""

    def step(self, state: State, event: AnyEvent) -> tuple[State, list[AnyEvent]]:
        """Return the state after the event, and what to publish; the state given may be changed in place."""

    def checkpoint(self, state: State, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as an event of the topic `checkpoints`; `positions` maps input topic to last offset."""

    def restore(self, checkpoint: AnyEvent) -> State:
        """Return the state that a checkpoint holds."""
