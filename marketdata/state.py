"""Operator states as msgpack bytes: exact, with compact forms of the types that msgspec does not know.

msgspec itself encodes structs, integers, strings, bytes, dicts (in their order) and Decimals (as text). Any other type
of a state's field has two methods: `pack` returns plain values, and the class method `unpack` turns them into an equal
value, which behaves identically afterwards. A book packs into four columns.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

from marketdata.errors import CodecError

State = TypeVar("State", bound=msgspec.Struct)


def enc_hook(value: Any) -> Any:
    """Return what msgspec encodes in place of a value that it does not know.

    Raises NotImplementedError for a type without `pack`, as msgspec expects.
    """
    try:
        pack = type(value).pack
    except AttributeError:
        raise NotImplementedError(f"a state cannot hold a {type(value).__name__}") from None
    return pack(value)


def dec_hook(kind: Any, value: Any) -> Any:
    """Return the value of a type that msgspec does not know from what `pack` returned.

    Raises NotImplementedError for a type without `unpack`; ValueError and TypeError come from `unpack`.
    """
    try:
        unpack = kind.unpack
    except AttributeError:
        raise NotImplementedError(f"a state cannot hold a {kind!r}") from None
    return unpack(value)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=enc_hook)


_DECODERS: dict[type[msgspec.Struct], msgspec.msgpack.Decoder[Any]] = {}  # one for each operator's state
_MAKING = threading.Lock()


def _decoder(kind: type[msgspec.Struct]) -> msgspec.msgpack.Decoder[Any]:
    """Return the decoder of a class, made by one thread at a time.

    While msgspec reads a class, another thread that needs the same class takes what is only half read, and crashes the
    process. Partitions recover in threads of their own.
    """
    found = _DECODERS.get(kind)
    if found is None:
        with _MAKING:
            found = _DECODERS[kind] = msgspec.msgpack.Decoder(kind, dec_hook=dec_hook)
    return found


def pack_state(state: msgspec.Struct) -> bytes:
    """Return a state as msgpack."""
    return _ENCODER.encode(state)


def unpack_state(data: bytes, kind: type[State]) -> State:
    """Return the state of class `kind` that `data` holds.

    Raises CodecError when it holds another kind of state.
    """
    try:
        state: State = _decoder(kind).decode(data)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise CodecError(f"a checkpoint does not hold a {kind.__name__}: {error}") from error
    return state
