"""An L2 order book: absolute sizes per price level, exact, with the best levels at hand.

Theory of operation. A side keeps its levels in a dict from a sortable key to the venue's own (price, size) strings,
and the keys in a sorted list with the best at the END, where most changes happen, so that inserting and deleting move
little memory. Keys are floats while every price has at most 15 significant digits (distinct decimals of 15 digits are
distinct floats in the same order); the first longer price turns the side's keys into Decimals. Asks use negated keys.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from marketdata.decimals import is_zero

Level = tuple[str, str]  # (price, size)

# 15 digits and a point; longer strings may still be short numbers with trailing zeros, and are looked at closely.
_FLOAT_LENGTH_MAX = 15
_FLOAT_DIGITS_MAX = 15


def _fits_float(price: str) -> bool:
    return len(price) <= _FLOAT_LENGTH_MAX or len(Decimal(price).normalize().as_tuple().digits) <= _FLOAT_DIGITS_MAX


class Side:
    """One side of a book. `sign` is 1 for bids and -1 for asks."""

    __slots__ = ("_keys", "_levels", "_number", "_sign")

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._number: type[float | Decimal] = float
        self._levels: dict[Any, Level] = {}
        self._keys: list[Any] = []

    def __len__(self) -> int:
        """Return the number of levels."""
        return len(self._keys)

    def replace(self, prices: Iterable[str], sizes: Iterable[str]) -> None:
        """Forget every level and take these; order does not matter, zero sizes are left out."""
        prices = list(prices)
        self._number = float if all(map(_fits_float, prices)) else Decimal
        number, sign = self._number, self._sign
        self._levels = {
            sign * number(price): (price, size) for price, size in zip(prices, sizes, strict=True) if not is_zero(size)
        }
        self._keys = sorted(self._levels)

    def apply(self, prices: Sequence[str], sizes: Sequence[str]) -> None:
        """Set each price to its absolute size; a zero size removes the level, and removing an absent one is normal."""
        levels, keys, number, sign = self._levels, self._keys, self._number, self._sign
        for price, size in zip(prices, sizes, strict=True):
            if len(price) > _FLOAT_LENGTH_MAX and number is float and not _fits_float(price):
                self._be_exact()
                levels, keys, number = self._levels, self._keys, self._number
            key = sign * number(price)
            if size == "0" or is_zero(size):
                if levels.pop(key, None) is not None:
                    del keys[bisect_left(keys, key)]
            else:
                if key not in levels:
                    insort(keys, key)
                levels[key] = (price, size)

    def _be_exact(self) -> None:
        self._number = Decimal
        self._levels = {self._sign * Decimal(price): (price, size) for price, size in self._levels.values()}
        self._keys = sorted(self._levels)

    def truncate(self, depth: int) -> None:
        """Forget every level beyond the best `depth`."""
        excess = len(self._keys) - depth
        if excess > 0:
            for key in self._keys[:excess]:
                del self._levels[key]
            del self._keys[:excess]

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
        level = self._levels.get(self._sign * self._number(price))
        return level[1] if level else None

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
        return bool(self.bids.best_key() > -self.asks.best_key())
