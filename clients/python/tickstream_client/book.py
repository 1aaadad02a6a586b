"""An L2 book kept from a snapshot and numbered updates, exact, best levels first."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from decimal import Decimal

from tickstream_client.messages import Message

Level = tuple[str, str]  # (price, size), as the venue writes them


class _Side:
    """Levels by a key that sorts the best first."""

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._keys: list[Decimal] = []
        self._levels: dict[Decimal, Level] = {}

    def replace(self, levels: Iterable[Sequence[str]]) -> None:
        self._keys.clear()
        self._levels.clear()
        self.apply(levels)

    def apply(self, changes: Iterable[Sequence[str]]) -> None:
        for price, size in changes:
            key = self._sign * Decimal(price)
            if Decimal(size):
                if key not in self._levels:
                    self._keys.insert(bisect_left(self._keys, key), key)
                self._levels[key] = (price, size)
            elif self._levels.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]

    def top(self, depth: int | None) -> list[Level]:
        return [self._levels[key] for key in self._keys[:depth]]


class Book:
    """One symbol's book. It is invalid until its snapshot, after a gap, and whenever the platform says so."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.venue = ""
        self.valid = False
        self.reason = "waiting for a snapshot"
        self.timestamp = ""
        self.sequence = 0
        self._ready = False
        self._suspended: tuple[bool, str] | None = None
        self._bids = _Side(-1)
        self._asks = _Side(1)

    def bids(self, depth: int | None = None) -> list[Level]:
        """Return the best `depth` bids (all when None), best first."""
        return self._bids.top(depth)

    def asks(self, depth: int | None = None) -> list[Level]:
        """Return the best `depth` asks (all when None), best first."""
        return self._asks.top(depth)

    def apply(self, message: Message) -> None:
        """Take an `l2_snapshot` or `l2_update` in; an update before any snapshot changes nothing."""
        if message.type == "l2_snapshot":
            self._bids.replace(message.data["bids"])
            self._asks.replace(message.data["asks"])
            self._ready = True
        elif self._ready:
            self._bids.apply(message.data["bids"])
            self._asks.apply(message.data["asks"])
        else:
            return
        self.venue = message.venue
        self._suspended = None
        self.valid, self.reason = message.valid, message.reason
        self.timestamp, self.sequence = message.timestamp, message.sequence

    def suspend(self, reason: str) -> None:
        """Keep the levels, which are not to be trusted while the connection is lost."""
        if self._ready and self._suspended is None:
            self._suspended = (self.valid, self.reason)
        self.valid, self.reason = False, reason

    def resume(self) -> None:
        """Trust the levels as before the connection was lost: what was missed follows."""
        if self._suspended is not None:
            (self.valid, self.reason), self._suspended = self._suspended, None

    def invalidate(self, reason: str) -> None:
        """Keep the levels to look at, but say that they may not be trusted until the next snapshot."""
        self._ready = False
        self._suspended = None
        self.valid = False
        self.reason = reason
