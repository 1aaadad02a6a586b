"""Operator states as msgpack bytes: exact, with order books as columns.

msgspec encodes structs, integers, texts, bytes, dicts (in their order) and Decimals (as text) itself. A book becomes
four columns, best levels first; a book made of them gives the same levels, in the same spelling, for every change.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from marketdata.book import L2Book
from marketdata.errors import CodecError

State = TypeVar("State", bound=msgspec.Struct)


def enc_hook(value: Any) -> Any:
    """Return what msgspec encodes in place of a value it does not know: the columns of a book.

    Raises NotImplementedError for any other type, as msgspec expects.
    """
    if type(value) is L2Book:
        return value.columns()
    raise NotImplementedError(f"a state cannot hold a {type(value).__name__}")


def dec_hook(kind: type, value: Any) -> Any:
    """Return the value of a type that msgspec does not know: a book from its columns.

    Raises NotImplementedError for any other type, and ValueError for columns that are not those of a book.
    """
    if kind is L2Book:
        return L2Book.from_columns(value)
    raise NotImplementedError(f"a state cannot hold a {kind.__name__}")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=enc_hook)


@lru_cache(maxsize=64)
def _decoder(kind: type[msgspec.Struct]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=dec_hook)


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
