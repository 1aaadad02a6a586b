"""Operator states as events: plain JSON in an `OperatorState`, and back."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from marketdata.errors import CodecError
from marketdata.events import AnyEvent, OperatorState

State = TypeVar("State", bound=msgspec.Struct)

TOPIC = "md.state"


def save(operator: str, key: str, ts_recv: int, positions: dict[str, int], state: bytes) -> OperatorState:
    """Return the checkpoint of a key's state; `ts_recv` is that of the last event which the state reflects."""
    venue, _, symbol = key.partition(":")
    return OperatorState(
        venue=venue,
        symbol=symbol,
        operator=operator,
        ts_recv=ts_recv,
        positions=positions,
        state=state.decode(),
    )


def load(checkpoint: AnyEvent, kind: type[State]) -> State:
    """Return the state that a checkpoint holds.

    Raises CodecError when it holds another kind of state.
    """
    if not isinstance(checkpoint, OperatorState):
        raise CodecError(f"a {checkpoint.schema} is no checkpoint of an operator")
    try:
        return msgspec.json.decode(checkpoint.state, type=kind)
    except msgspec.DecodeError as error:
        raise CodecError(f"checkpoint {checkpoint.key} does not hold {kind.__name__}: {error}") from error
