"""What a venue needs to know of us: its own settings, and what signs our messages and keeps them free of secrets."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_settings import NoDecode


def _by_comma(value: object) -> object:
    """Return `BTC-USD,ETH-USD` as a tuple, each name once; nothing at all is as if not given."""
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_by_comma)]


class VenueSettings(BaseModel):
    """The settings of one venue alone; each field's `validation_alias` is its environment variable."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How the producer is started: `lines` is the number of redundant lines, `market` the one that is chosen."""

    is_replay: bool = False
    lines: int = 1
    market: str = ""


class Handshake(msgspec.Struct, frozen=True, kw_only=True):
    """How a WebSocket is opened: additional headers, and whether frames are binary messages."""

    headers: tuple[tuple[str, str], ...] = ()
    binary: bool = False


class Tokens(Protocol):
    """What signs a feed's messages, and can take what is secret out of them again."""

    def __call__(self, ts: int) -> str:
        """Return what goes into a message at this time, UTC nanoseconds."""

    def redact(self, frame: bytes) -> bytes:
        """Return a frame of ours as it may be stored."""
