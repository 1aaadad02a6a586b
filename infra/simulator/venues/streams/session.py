"""One client's connection to a simulated venue, pure: what it sends, and what the venue answers or refuses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from infra.simulator.venues.streams.market import Market, Step

R = TypeVar("R")
Subscription = tuple[str, str]
"""A channel and a symbol, by the venue's own names."""


class Ended(Exception):  # noqa: N818 - it is no error of ours
    """The venue closes the connection; `code` is that of the close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a venue documents of one connection and one address; None is no limit.

    `streams`: subscriptions of one connection. `messages`: (count, seconds) of a client's messages; beyond it the
    venue closes the connection. `attempts`: (count, seconds) of connections of one address; beyond it the venue
    answers 429. `message_bytes`: the longest message.
    """

    streams: int | None = None
    messages: tuple[int, float] | None = None
    attempts: tuple[int, float] | None = None
    message_bytes: int = 65_536


class Session(ABC):
    """The venue's side of one connection; `markets` has the symbols that the venue lists, by its own names."""

    limits: ClassVar[Limits] = Limits()

    def __init__(self, markets: Mapping[str, Market], path: str) -> None:
        self.markets = markets
        self.path = path
        self.subscribed: dict[Subscription, None] = {}
        self.refused: list[str] = []

    def opened(self, ts: int) -> list[bytes]:  # noqa: ARG002 - most venues greet nobody
        """Return what the venue sends to a new client."""
        return []

    @abstractmethod
    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer one message of the client. Raises Ended."""

    @abstractmethod
    def stepped(self, steps: Mapping[str, Step], ts: int) -> list[bytes]:
        """Return the frames of what changed, for what is subscribed."""

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:  # noqa: ARG003 - a venue without REST knows no path
        """Return what the venue's REST interface answers, or None for an unknown path."""
        return None

    @classmethod
    def names(cls, count: int) -> list[str]:
        """Return this many symbols, by the venue's own names."""
        return [f"C{number:03d}USDT" for number in range(count)]

    def is_full(self, wanted: Iterable[Subscription]) -> bool:
        """Return whether the connection may not have these subscriptions as well."""
        new = {one for one in wanted if one not in self.subscribed}
        return self.limits.streams is not None and len(self.subscribed) + len(new) > self.limits.streams

    def refuse(self, reason: str) -> None:
        """Record a refusal, for the server's metrics and for tests."""
        self.refused.append(reason)


def read(message: bytes, kind: type[R]) -> R:
    """Return a client's request. Raises Ended for what is none."""
    try:
        return msgspec.json.decode(message, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Ended(1008, "not a request") from None


def write(value: Any) -> bytes:
    """Return a frame."""
    return msgspec.json.encode(value)
