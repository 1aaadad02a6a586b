"""What a venue allows one connection and one address: how much they carry, and how quickly they may ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from marketdata.clock import SECOND_NS

T = TypeVar("T")


class Rate(NamedTuple):
    """At most so many within any span of this many seconds."""

    most: int
    seconds: float

    @property
    def pause_ns(self) -> int:
        """The pause between two, in nanoseconds, with which no span has too many."""
        return int(self.seconds * SECOND_NS / self.most)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The documented limits of one venue; None or nothing is no limit.

    `products`: products on one connection. `subscriptions`: pairs of channel and product on one connection.
    `arguments`: products in one message. `messages`: what we may send on one connection, the shortest span first;
    `address_messages`: the same on all connections of one address. `connects`: attempts of one address to connect.
    """

    products: int | None = None
    subscriptions: int | None = None
    arguments: int | None = None
    messages: tuple[Rate, ...] = ()
    address_messages: tuple[Rate, ...] = ()
    connects: tuple[Rate, ...] = ()

    def products_max(self, channels: int) -> int | None:
        """Return how many products fit on one connection, of which each takes so many channels; None is no limit."""
        by_subscriptions = None if self.subscriptions is None else max(1, self.subscriptions // max(1, channels))
        return min((most for most in (self.products, by_subscriptions) if most is not None), default=None)

    def messages_of(self, items: Sequence[T]) -> Iterator[list[T]]:
        """Return the items by message, each with at most `arguments` of them."""
        most = self.arguments or max(1, len(items))
        return (list(items[at : at + most]) for at in range(0, len(items), most))

    @property
    def message_pause_ns(self) -> int:
        """The pause between two messages of ours, in nanoseconds."""
        return self.messages[0].pause_ns if self.messages else 0
