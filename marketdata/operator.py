"""What a stream operator is: a pure step from one key's state and one event to a new state and output events.

An engine (Faust, the direct loop, `tickstream pipe`) owns Kafka and the clock. For each input record it calls `step`,
writes the outputs, and now and then stores `checkpoint` so that a restart can go on from there. Steps are
deterministic: the same state and event always give the same outputs, which is what lets a restarted engine recognise
outputs that it already wrote.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from marketdata.events import AnyEvent

State = TypeVar("State")


class Operator(Protocol, Generic[State]):
    """One stream operator. `inputs` and `checkpoints` are logical topic names, as in `marketdata.topics`."""

    name: str
    inputs: tuple[str, ...]
    checkpoints: str

    def start(self, key: str) -> State:
        """Return the state of a key (`venue:symbol`) that was never seen."""

    def step(self, state: State, event: AnyEvent) -> tuple[State, list[AnyEvent]]:
        """Return the state after the event, and what to publish; the state given may be changed in place."""

    def checkpoint(self, state: State, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as an event of the topic `checkpoints`; `positions` maps input topic to last offset."""

    def restore(self, checkpoint: AnyEvent) -> State:
        """Return the state that a checkpoint holds."""
