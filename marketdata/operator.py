"""The operator contract: pure functions from one key's state and one event to a new state and output events.

The pipeline owns Kafka, the clock and the checkpoints. It calls `step` for each input record, publishes the outputs,
hands them to the operators that read those topics, and stores the states now and then.

Rules that both sides follow:

1. An operator reads one input topic. A state belongs to one ingest topic, one key and one operator, and sees the
   events of that key in order.
2. `step` and `lost` are deterministic: the same state and the same argument always give the same outputs. They read no
   clock, no side table and no other topic, and `counts` never influences an output. That is what makes recovery exact:
   the pipeline replays records from a checkpoint and gets the outputs that it published before.
3. A state is a msgspec Struct that holds all that later outputs depend on. The pipeline encodes it with `pack_state`
   and `unpack_state` of `marketdata.state`; a state that went through both gives the same outputs from there on.
4. `step` of an operator on an ingest topic raises on no event that the schema allows: what it cannot use comes back as
   a `DeadLetter`. Other operators raise on none that an operator before them publishes. Should one raise all the same,
   its state may be half changed: the pipeline discards it and rebuilds it from the checkpoint.
5. A `DeadLetter` with an empty `payload` concerns the whole input record: the pipeline puts in the record's bytes. One
   with a payload concerns a part of it, which the operator wrote there as JSON (a `Trades` with the bad trade alone),
   so that a redrive repeats nothing that was good. The pipeline sets `topic`, `partition` and `offset` in both.
6. `counts` only grows, by reason. The pipeline exports it as a metric. It is not part of the state.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol, TypeVar, runtime_checkable

import msgspec

from marketdata.events import AnyEvent

State = TypeVar("State")


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """Input records of one partition that can never be read.

    `topic` is the logical name of the input topic, `offset` the first lost offset, `count` how many records are lost
    (None when unknown), `ts` the time (UTC nanoseconds) of the record that revealed the loss. `reason` is
    `undecodable`, `retention`, `recreated` or `truncated`.
    """

    topic: str
    partition: int
    offset: int
    count: int | None
    ts: int
    reason: str


class Operator(Protocol[State]):
    """One stream operator. `input` and `outputs` are logical topic names; `state` is the class of its states."""

    name: str
    input: str
    outputs: tuple[str, ...]
    state: type[State]
    counts: Counter[str]

    def start(self, key: str) -> State:
        """Return the state of a key (`venue:symbol`) that was never seen."""

    def step(self, state: State, event: AnyEvent) -> tuple[State, list[AnyEvent]]:
        """Return the state after the event, and what to publish, in order; `state` may be changed in place."""


@runtime_checkable
class RootOperator(Operator[State], Protocol[State]):
    """An operator that reads an `md.ingest.*` topic, and so learns when records of it are lost."""

    def lost(self, state: State, key: str, loss: Lost) -> tuple[State, list[AnyEvent]]:
        """Return the state after a loss that may concern this key, and what makes its data invalid downstream.

        The outputs contain a `FeedStatus` of kind `gap` for the ledger, with a `gap_id` made of the topic, the
        partition, the offset and the symbol.
        """


AnyOperator = Operator[Any]
