"""An L2 order book: absolute sizes per price level, exact, with the best levels at hand.

Theory of operation. A side keeps its levels in a dict from a sortable key to the venue's own (price, size) strings,
and the keys in a sorted list with the best at the END, where most changes happen, so that inserting and deleting move
little memory. Keys are floats while every price has at most 15 significant digits (distinct decimals of 15 digits are
distinct floats in the same order); the first longer price, or one with an exponent, turns the side's keys into
Decimals. Asks use negated keys, so that their best is at the end too.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from marketdata.decimals import is_zero

Level = tuple[str, str]  # (price, size)

# 15 digits and a point; longer strings may still be short numbers with trailing zeros, and are looked at closely.
_FLOAT_LENGTH_MAX = 15
_FLOAT_DIGITS_MAX = 15

# Only a size that starts so can be zero.
_ZERO_STARTS = frozenset("0-.")


def _fits_float(price: str) -> bool:
    if "e" in price or "E" in price:
        return False  # may be beyond a float's range, and is rare
    return len(price) <= _FLOAT_LENGTH_MAX or len(price.replace(".", "").strip("-0")) <= _FLOAT_DIGITS_MAX


def _fit_float(prices: Sequence[str]) -> bool:
    for price in prices:
        # Nearly every price is short; the call would cost more than the look.
        if (len(price) > _FLOAT_LENGTH_MAX or "e" in price or "E" in price) and not _fits_float(price):
            return False
    return True


def _negative_float(price: str) -> float:
    return -float(price)


def _negative_decimal(price: str) -> Decimal:
    return Decimal(price).copy_negate()  # unlike a minus sign, this never rounds


class Side:
    """One side of a book. `sign` is 1 for bids and -1 for asks."""

    __slots__ = ("_exact", "_key", "_keys", "_levels", "_sign")

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._levels: dict[Any, Level] = {}
        self._keys: list[Any] = []
        self._use(exact=False)

    def __len__(self) -> int:
        """Return the number of levels."""
        return len(self._keys)

    def _use(self, *, exact: bool) -> None:
        self._exact = exact
        self._key: Callable[[str], Any]
        if self._sign > 0:
            self._key = Decimal if exact else float
        else:
            self._key = _negative_decimal if exact else _negative_float

    def replace(self, prices: Iterable[str], sizes: Iterable[str]) -> None:
        """Forget every level and take these; order does not matter, zero sizes are left out."""
        prices, sizes = list(prices), list(sizes)
        self._use(exact=not _fit_float(prices))
        self._levels = dict(zip(map(self._key, prices), zip(prices, sizes, strict=True), strict=True))
        if not _ZERO_STARTS.isdisjoint([size[:1] for size in sizes]):
            self._levels = {key: level for key, level in self._levels.items() if not is_zero(level[1])}
        self._keys = sorted(self._levels)

    def apply(self, prices: Sequence[str], sizes: Sequence[str]) -> None:
        """Set each price to its absolute size; a zero size removes the level, and removing an absent one is normal."""
        if not self._exact and not _fit_float(prices):
            self._be_exact()
        levels, keys, key_of = self._levels, self._keys, self._key
        for price, size in zip(prices, sizes, strict=True):
            key = key_of(price)
            if size[:1] in _ZERO_STARTS and is_zero(size):
                if levels.pop(key, None) is not None:
                    del keys[bisect_left(keys, key)]
            else:
                if key not in levels:
                    insort(keys, key)
                levels[key] = (price, size)

    def _be_exact(self) -> None:
        self._use(exact=True)
        self._levels = {self._key(level[0]): level for level in self._levels.values()}
        self._keys = sorted(self._levels)

    def truncate(self, depth: int) -> list[Level]:
        """Forget every level beyond the best `depth`, and return what was forgotten."""
        excess = len(self._keys) - depth
        if excess <= 0:
            return []
        forgotten = [self._levels.pop(key) for key in self._keys[:excess]]
        del self._keys[:excess]
        return forgotten

    def best(self) -> Level | None:
        """Return the best level as (price, size), or None when the side is empty."""
        return self._levels[self._keys[-1]] if self._keys else None

    def top(self, depth: int | None = None) -> list[Level]:
        """Return the best `depth` levels (all when None), best first."""
        levels = self._levels
        keys = self._keys if depth is None else self._keys[-depth:] if depth > 0 else []
        return [levels[key] for key in reversed(keys)]

    def size_at(self, price: str) -> str | None:
        """Return the size at a price, or None when there is no such level."""
        if not self._exact and not _fits_float(price):
            self._be_exact()
        level = self._levels.get(self._key(price))
        return level[1] if level else None

    def nth(self, depth: int) -> Level | None:
        """Return the `depth`-th best level (1 is the best), or None when there are fewer."""
        return self._levels[self._keys[-depth]] if 0 < depth <= len(self._keys) else None

    def key(self, price: str) -> Any:
        """Return the place of a price that the side holds or was told of: greater is better, until the next change."""
        return self._key(price)

    def keys(self, prices: Iterable[str]) -> list[Any]:
        """Return the places of several prices, as `key` does."""
        return list(map(self._key, prices))

    def best_keys(self, depth: int) -> list[Any]:
        """Return the keys of the best `depth` levels, best first; `depth` is at least 1."""
        return self._keys[: -depth - 1 : -1]

    def at(self, key: Any) -> Level:
        """Return the level of a key that the side gave since its last change."""
        return self._levels[key]

    def between(self, low: Any, high: Any) -> list[Level]:
        """Return the levels whose keys are in [low, high), worst first; None leaves that end open."""
        start = 0 if low is None else bisect_left(self._keys, low)
        end = len(self._keys) if high is None else bisect_left(self._keys, high)
        return [self._levels[key] for key in self._keys[start:end]]

    def best_key(self) -> Any:
        """Return the sortable key of the best level; only for a side that is not empty."""
        return self._keys[-1]


class L2Book:
    """Both sides of one symbol's book."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids = Side(1)
        self.asks = Side(-1)

    def clear(self) -> None:
        """Forget everything."""
        self.bids.replace((), ())
        self.asks.replace((), ())

    def best(self) -> tuple[Level | None, Level | None]:
        """Return the best bid and the best ask."""
        return self.bids.best(), self.asks.best()

    def is_crossed(self) -> bool:
        """Tell whether the best bid is above the best ask; equal prices (locked) are not crossed."""
        if not len(self.bids) or not len(self.asks):
            return False
        bid, ask = self.bids.best_key(), self.asks.best_key()
        if type(bid) is float and type(ask) is float:
            return bid > -ask
        # A float next to a Decimal would be compared by its binary value, in which 0.1 is more than 0.1.
        (bid_price, _), (ask_price, _) = self.bids.top(1)[0], self.asks.top(1)[0]
        return Decimal(bid_price) > Decimal(ask_price)
