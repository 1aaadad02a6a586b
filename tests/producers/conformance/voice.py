"""A venue's side of one connection, as its documents describe it: what it answers, refuses and sends."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, NamedTuple

from marketdata.feed import Fetch
from producers.venues.kit.venue import Signer

Fate = Literal["accepted", "refused", "unanswered"]
BIDS, ASKS = (("9", "1"),), (("11", "2"),)  # the book of every product
PRICE, SIZE = "10", "0.5"  # of every trade, whose aggressor buys


class Asked(NamedTuple):
    """What one message of ours asks for; `verb` is `subscribe` or `unsubscribe`."""

    verb: str
    channel: str
    name: str


class Voice(ABC):
    """One connection of a venue; `names` are two of its products, `book` and `trades` their channels."""

    names: ClassVar[tuple[str, str]]
    book: ClassVar[str]
    trades: ClassVar[str]
    token: Signer | None = None
    answers_each: ClassVar[bool] = False
    """Whether each product of a message is answered by itself, so that one may stay without an answer."""
    answers_first: ClassVar[bool] = False
    """Whether no data can come before the answer, which says what they are."""
    refuses_whole: ClassVar[bool] = False
    """Whether a message is refused as a whole for one product that is not possible."""

    def greeting(self, ts: int) -> list[bytes]:
        """Return what the venue sends to a new connection."""
        del ts
        return []

    @abstractmethod
    def asked(self, message: bytes) -> list[Asked]:
        """Return what a message of ours asks for; nothing where it is no subscription."""

    def accepted(self, asked: list[Asked], fates: Callable[[Asked], Fate]) -> list[Asked]:
        """Return what of a message's subscriptions the venue takes."""
        found = [fates(one) for one in asked]
        if ("unanswered" in found and not self.answers_each) or ("refused" in found and self.refuses_whole):
            return []
        return [one for one, fate in zip(asked, found, strict=True) if fate == "accepted"]

    @abstractmethod
    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Return the venue's answer to a message of ours."""

    @abstractmethod
    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the book that follows its subscription."""

    @abstractmethod
    def trade(self, name: str, number: int, ts: int) -> list[bytes]:
        """Return a trade; numbers rise by one per product."""

    def alive(self, ts: int) -> list[bytes]:
        """Return what shows that the connection is alive, and no more."""
        del ts
        return []

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Return what REST answers, None where it does not; `traded` is the number of the product's last trade."""
        del request, traded, ts
        return None


def whole(fates: list[Fate]) -> Fate:
    """Return the fate of a message that is answered as one."""
    return next((fate for fate in ("unanswered", "refused") if fate in fates), "accepted")  # type: ignore[return-value]


def write(value: Any) -> bytes:
    """Return a JSON frame."""
    return json.dumps(value, separators=(",", ":")).encode()


def ms(ts: int) -> int:
    """Return a time in milliseconds."""
    return ts // 1_000_000


def iso(ts: int) -> str:
    """Return a time as RFC 3339 with microseconds."""
    return datetime.fromtimestamp(ts // 1_000 / 1_000_000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
