"""A venue's side of one connection, as its documents describe it: what it answers, refuses and sends."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice, product
from typing import Any, ClassVar, Literal, NamedTuple

from marketdata.events import HIGH_LOW, OPEN_CLOSE
from marketdata.feed import Fetch
from producers.venues.kit.venue import Signer

Fate = Literal["accepted", "refused", "unanswered"]
BIDS, ASKS = (("9", "1"),), (("11", "2"),)  # the book of every product
PRICE, SIZE = "10", "0.5"  # of every trade, whose aggressor buys


PRICES = (HIGH_LOW, OPEN_CLOSE)


class Asked(NamedTuple):
    """What one message of ours asks for; `verb` is `subscribe` or `unsubscribe`."""

    verb: str
    channel: str
    name: str


class Mark(NamedTuple):
    """What a venue's documents say of a trade with these fields: its conditions, and what it does not update."""

    fields: dict[str, Any]
    conditions: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    liquidation: bool = False


class Said(NamedTuple):
    """A message about a derivative, and the fields of its event; `request` is that which REST answers with it."""

    message: Any
    values: dict[str, Any]
    request: Fetch | None = None


class FakeVenue(ABC):
    """One connection of a venue; `names` are two of its products, `book` and `trades` their channels."""

    names: ClassVar[tuple[str, str]]
    book: ClassVar[str]
    trades: ClassVar[str]
    size: ClassVar[str] = SIZE
    """The size of every trade."""
    base: ClassVar[str] = "BTC"
    """What is replaced in the first name to make other products."""
    token: Signer | None = None
    market: ClassVar[str] = ""
    derivative: ClassVar[str] = ""
    """The product of `derived`, where the venue has derivatives."""
    marks: ClassVar[tuple[Mark, ...]] = ()
    ordinary: ClassVar[tuple[str, ...]] = ()
    """The conditions of an ordinary trade."""
    marks_by_rest: ClassVar[bool] = False
    """Whether only REST marks trades, and the stream does not."""
    messages: ClassVar[tuple[str, ...]] = ()
    """The channels of the messages of `derived`."""
    message_bytes: ClassVar[int] = 65_536
    """The longest message that the venue takes from us."""
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
    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return a trade of SIZE; numbers rise by one per product, and `fields` are more of the venue's own."""

    def accepted_later(self, name: str, ts: int) -> list[bytes]:
        """Return what a venue sends by itself, without a new request, once it takes a subscription that it refused."""
        del name, ts
        return []

    def marked(self, name: str, number: int, ts: int, price: str, mark: Mark) -> list[bytes]:
        """Return a trade with a mark."""
        return self.trade(name, number, ts, price, **mark.fields)

    def derived(self, ts: int) -> list[Said]:
        """Return messages about `derivative`, of which each is complete or has as little as the documents allow."""
        del ts
        return []

    def products(self, count: int) -> tuple[str, ...]:
        """Return names of this many products, such as the venue has."""
        letters = product("ABCDEFGHIJ", repeat=3)
        return tuple(self.names[0].replace(self.base, "".join(each), 1) for each in islice(letters, count))

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
    return next((fate for fate in ("unanswered", "refused") if fate in fates), "accepted")


def write(value: Any) -> bytes:
    """Return a JSON frame."""
    return json.dumps(value, separators=(",", ":")).encode()


def ms(ts: int) -> int:
    """Return a time in milliseconds."""
    return ts // 1_000_000


def iso(ts: int) -> str:
    """Return a time as RFC 3339 with microseconds."""
    return datetime.fromtimestamp(ts // 1_000 / 1_000_000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
