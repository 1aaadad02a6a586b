"""Operator states as events: plain JSON in a `Checkpoint`, and back."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from marketdata.errors import CodecError
from marketdata.events import AnyEvent, Checkpoint

State = TypeVar("State", bound=msgspec.Struct)

TOPIC = "md.state"


def save(operator: str, key: str, ts_recv: int, positions: dict[str, int], state: bytes) -> Checkpoint:
    """Return the checkpoint of a key's state; `ts_recv` is that of the last event which the state reflects."""
    venue, _, symbol = key.partition(":")
    return Checkpoint(
        venue=venue,
        symbol=symbol,
        chain=operator,
        partition=0,
        offset=max(positions.values(), default=-1),
        topic_id="",
        ts_recv=ts_recv,
        states={operator: state},
    )


def load(checkpoint: AnyEvent, kind: type[State]) -> State:
    """Return the state that a checkpoint holds.

    Raises CodecError when it holds another kind of state.
    """
    if not isinstance(checkpoint, Checkpoint) or len(checkpoint.states) != 1:
        raise CodecError(f"a {checkpoint.schema} is no checkpoint of an operator")
    try:
        return msgspec.json.decode(next(iter(checkpoint.states.values())), type=kind)
    except msgspec.DecodeError as error:
        raise CodecError(f"checkpoint {checkpoint.key} does not hold {kind.__name__}: {error}") from error
