"""One side of an L2 book in plain Python, for machines without compiled code: exact, with quick access to the top.

Theory of operation. A side keeps its levels in dicts from a sortable key to the venue's own price and size strings,
and the keys in a sorted list with the best at the END, where most changes happen, so that inserting and deleting move
little memory. Keys are floats while every price has at most 15 significant digits (distinct decimals of 15 digits are
distinct floats in the same order); the first longer price, or one with an exponent, turns the side's keys into
Decimals. Asks use negated keys, so that their best is at the end too.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import zip_longest
from operator import neg
from typing import Any

import msgspec

from marketdata.decimals import is_zero, may_have_zero

Level = tuple[str, str]  # (price, size)

# Up to 15 characters always fit a float; longer strings may be short numbers with trailing zeros, and are checked.
_FLOAT_LENGTH_MAX = 15
_FLOAT_DIGITS_MAX = 15

_FLOATS = msgspec.json.Decoder(list[float])
_FEW = 4  # up to here checking each price is faster than checking the joined text

# A decimal string that is not less than this, as text, starts with a digit that is not 0, and so is not zero.
_ABOVE_ZERO = "1"


def _fits_float(price: str) -> bool:
    if "e" in price or "E" in price:
        return False  # may be beyond a float's range, and is rare
    return len(price) <= _FLOAT_LENGTH_MAX or len(price.replace(".", "").strip("-0")) <= _FLOAT_DIGITS_MAX


def _fit_float(prices: Sequence[str]) -> bool:
    if len(prices) > _FEW:
        text = "".join(prices)
        if "e" not in text and "E" not in text and max(map(len, prices)) <= _FLOAT_LENGTH_MAX:
            return True
    for price in prices:
        # Nearly every price is short, and this check is cheaper than a call.
        if (len(price) > _FLOAT_LENGTH_MAX or "e" in price or "E" in price) and not _fits_float(price):
            return False
    return True


def float_keys(prices: Sequence[str]) -> list[Any]:
    """Return decimal strings as floats, which is what takes most of the time that a large book needs."""
    if len(prices) > _FEW:
        try:
            return _FLOATS.decode(f"[{','.join(prices)}]")  # a quarter of the time of float() on each
        except msgspec.DecodeError:  # such as .5, which is not valid JSON
            return list(map(float, prices))
    return list(map(float, prices))


def _negative_float_keys(prices: Sequence[str]) -> list[Any]:
    if len(prices) > _FEW:
        try:
            return _FLOATS.decode(f"[-{',-'.join(prices)}]")
        except msgspec.DecodeError:  # such as a negative price
            return list(map(neg, float_keys(prices)))
    return [-float(price) for price in prices]


def _decimal_keys(prices: Sequence[str]) -> list[Any]:
    return list(map(Decimal, prices))


def _negative_decimal_keys(prices: Sequence[str]) -> list[Any]:
    return list(map(Decimal.copy_negate, map(Decimal, prices)))  # unlike a minus sign, this never rounds


class Side:
    """One side of a book. `sign` is 1 for bids and -1 for asks."""

    __slots__ = ("_exact", "_keys", "_keys_of", "_prices", "_sign", "_sizes")

    def __init__(self, sign: int) -> None:
        self._sign = sign
        # Two dicts of strings, not one of pairs: the garbage collector does not track them, and tracking pairs costs
        # more than all other work on a large snapshot.
        self._prices: dict[Any, str] = {}
        self._sizes: dict[Any, str] = {}
        self._keys: list[Any] = []
        self._use(exact=False)

    def __len__(self) -> int:
        """Return the number of levels."""
        return len(self._keys)

    def _use(self, *, exact: bool) -> None:
        self._exact = exact
        self._keys_of: Callable[[Sequence[str]], list[Any]]
        if self._sign > 0:
            self._keys_of = _decimal_keys if exact else float_keys
        else:
            self._keys_of = _negative_decimal_keys if exact else _negative_float_keys

    def replace(self, prices: Iterable[str], sizes: Iterable[str]) -> None:
        """Replace all levels by these, in any order; zero sizes are ignored."""
        prices, sizes = list(prices), list(sizes)
        self._use(exact=not _fit_float(prices))
        keys = self._keys_of(prices)
        self._prices = dict(zip(keys, prices, strict=True))
        self._sizes = dict(zip(keys, sizes, strict=True))
        if may_have_zero(sizes):
            for key in [key for key, size in self._sizes.items() if is_zero(size)]:
                del self._prices[key], self._sizes[key]
        self._keys = sorted(self._sizes)

    def apply(self, prices: Sequence[str], sizes: Sequence[str]) -> None:
        """Set each price to its absolute size; a zero size removes the level, and removing an absent one is normal."""
        if not prices:
            return
        if not self._exact and not _fit_float(prices):
            self.be_exact()
        price_at, size_at, keys = self._prices, self._sizes, self._keys
        for key, price, size in zip(self._keys_of(prices), prices, sizes, strict=True):
            if size == "0" or (size < _ABOVE_ZERO and is_zero(size)):
                if size_at.pop(key, None) is not None:
                    del price_at[key], keys[bisect_left(keys, key)]
            else:
                if key not in size_at:
                    insort(keys, key)
                price_at[key] = price
                size_at[key] = size

    def be_exact(self) -> None:
        """Use Decimals as keys until the next snapshot."""
        self._use(exact=True)
        prices, sizes = list(self._prices.values()), list(self._sizes.values())
        keys = self._keys_of(prices)
        self._prices = dict(zip(keys, prices, strict=True))
        self._sizes = dict(zip(keys, sizes, strict=True))
        self._keys = sorted(keys)

    def _levels(self, keys: list[Any]) -> list[Level]:
        return list(zip(map(self._prices.__getitem__, keys), map(self._sizes.__getitem__, keys), strict=True))

    def truncate(self, depth: int) -> list[Level]:
        """Remove every level beyond the best `depth`, and return the removed levels."""
        excess = len(self._keys) - depth
        if excess <= 0:
            return []
        forgotten = [(self._prices.pop(key), self._sizes.pop(key)) for key in self._keys[:excess]]
        del self._keys[:excess]
        return forgotten

    def best(self) -> Level | None:
        """Return the best level as (price, size), or None when the side is empty."""
        if not self._keys:
            return None
        key = self._keys[-1]
        return self._prices[key], self._sizes[key]

    def top(self, depth: int | None = None) -> list[Level]:
        """Return the best `depth` levels (all when None), best first."""
        if depth is None:
            return self._levels(self._keys[::-1])
        return self._levels(self._keys[: -depth - 1 : -1]) if depth > 0 else []

    def best_columns(self, depth: int) -> tuple[list[str], list[str]]:
        """Return prices and sizes of the best `depth` levels, best first."""
        keys = self._keys[: -depth - 1 : -1] if depth > 0 else []
        return list(map(self._prices.__getitem__, keys)), list(map(self._sizes.__getitem__, keys))

    def size_at(self, price: str) -> str | None:
        """Return the size at a price, or None when there is no such level."""
        if not self._exact and not _fits_float(price):
            self.be_exact()
        return self._sizes.get(self.key(price))

    def nth(self, depth: int) -> Level | None:
        """Return the `depth`-th best level (1 is the best), or None when there are fewer."""
        if not 0 < depth <= len(self._keys):
            return None
        key = self._keys[-depth]
        return self._prices[key], self._sizes[key]

    def key(self, price: str) -> Any:
        """Return the sort key of a price; a greater key is better. It is valid until the next change."""
        return self._keys_of((price,))[0]

    def between(self, low: Any, high: Any) -> list[Level]:
        """Return the levels whose keys are in [low, high), worst first; None leaves that end open."""
        start = 0 if low is None else bisect_left(self._keys, low)
        end = len(self._keys) if high is None else bisect_left(self._keys, high)
        return self._levels(self._keys[start:end])

    def best_key(self) -> Any:
        """Return the sortable key of the best level; only for a side that is not empty."""
        return self._keys[-1]


def levels_in_turn(bids: Side, asks: Side, depth: int) -> bytes:
    """Return `price:size` of the best levels, bid and ask in turn, joined by colons."""
    columns = (*bids.best_columns(depth), *asks.best_columns(depth))
    if len(columns[0]) == len(columns[2]):
        texts = [""] * (4 * len(columns[0]))
        for at, column in enumerate(columns):  # no loop over levels
            texts[at::4] = column
    else:
        texts = [text for level in zip_longest(*columns) for text in level if text is not None]
    return ":".join(texts).encode()


def levels_digits(side: Side, depth: int) -> bytes:
    """Return the digits of the best levels' prices and sizes, each without leading zeros."""
    return "".join(map(_digits, *side.best_columns(depth))).encode()


# Cached, because few levels change at a time.
@lru_cache(1_000)
def _digits(price: str, size: str) -> str:
    return price.replace(".", "").lstrip("0") + size.replace(".", "").lstrip("0")
