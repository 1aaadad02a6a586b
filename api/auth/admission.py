"""What a gateway needs to know of access control: whether a socket may open, and how much it may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec


class Refusal(msgspec.Struct, frozen=True):
    """The answer to an upgrade that is refused: a problem (RFC 9457)."""

    status: int
    body: bytes
    headers: dict[str, str]


class Admission(Protocol):
    """What one socket may use."""

    subscriptions_max: int
    depth_max: int
    subprotocol: str | None

    def opened(self, close: Callable[[int, str], None]) -> None:
        """Note that the socket is open; `close` takes a close code and a reason."""

    def closed(self) -> None:
        """Note that the socket is closed."""


class Doorkeeper(Protocol):
    """Decides on upgrades."""

    def admit(self, target: str, headers: Any, peer: str | None) -> Admission | Refusal:
        """Return what the sender of an upgrade to this path and query may use, or the answer that refuses it."""
