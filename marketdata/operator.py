"""The operator contract: pure functions from one key's state and one event to a new state and output events.

The pipeline owns Kafka, the clock and the checkpoints. It calls `step` for each input record, publishes the outputs,
passes them to the operators that read those topics, and stores the states periodically.

Rules that both sides follow:

1. An operator reads one input topic. A state belongs to one ingest topic, one key and one operator, and sees the
   events of that key in order.
2. `step` and `lost` are deterministic: the same state and the same argument always give the same outputs. They read no
   clock, no side table and no other topic, and `counts` never influences an output. That is what makes recovery exact:
   the pipeline replays records from a checkpoint and gets the outputs that it published before.
3. A state is a msgspec Struct with everything that later outputs depend on. The pipeline encodes it with `pack_state`
   and `unpack_state` of `marketdata.state`; a restored state gives the same outputs from then on.
4. `step` of an operator on an ingest topic never raises on an event that the schema allows: it returns unusable data as
   a `DeadLetter`. Other operators never raise on an event that the operators before them publish. If one raises
   nevertheless, its state may be partly updated: the pipeline discards it and rebuilds it from the checkpoint.
5. A `DeadLetter` with an empty `payload` concerns the whole input record: the pipeline fills in the record's bytes. One
   with a payload concerns a part of the record, which the operator encodes as JSON (a `Trades` with only the bad
   trade), so that a redrive repeats no good data. The pipeline sets `topic`, `partition` and `offset` in both.
6. `counts` are counters by reason. The pipeline exports them as a metric. They are not part of the state.
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
        """Return the initial state of a key (`venue:symbol`)."""

    def step(self, state: State, event: AnyEvent) -> tuple[State, list[AnyEvent]]:
        """Return the state after the event, and the events to publish in order; may change `state` in place."""


@runtime_checkable
class RootOperator(Operator[State], Protocol[State]):
    """An operator that reads an `md.ingest.*` topic, and is informed when records of it are lost."""

    def lost(self, state: State, key: str, loss: Lost) -> tuple[State, list[AnyEvent]]:
        """Return the state after a loss that may affect this key, and the events that invalidate its data downstream.

        The outputs contain a `FeedStatus` of kind `gap` for the ledger, with a `gap_id` made of the topic, the
        partition, the offset and the symbol.
        """


AnyOperator = Operator[Any]
