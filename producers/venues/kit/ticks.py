"""Prices that are no multiple of the tick that the venue lists: counted, never refused.

What we know of a tick may be old, as a venue that changes it does not announce it, and orders of an older tick still
rest in the book. A trade off the tick is a reason to ask the venue for its products again (`kit.instruments`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from marketdata.decimals import EXACT, FRACTION_DIGITS_MAX

# Prices whose remainder was calculated, by their text; a book has some thousands.
CHECKED_MAX = 10_000


class Tick:
    """The tick of one product. A column of prices is matched in one go where the tick is a power of ten."""

    __slots__ = ("_checked", "_tick", "_usual", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._tick = Decimal(text)
        self._checked: dict[str, bool] = {}
        sign, ones, exponent = self._tick.normalize().as_tuple()
        self._usual: re.Pattern[str] | None = None
        if ones == (1,) and not sign and isinstance(exponent, int) and -FRACTION_DIGITS_MAX <= exponent <= 0:
            fraction = rf"(?:\.\d{{1,{-exponent}}}0*)?" if exponent else r"(?:\.0+)?"
            self._usual = re.compile(rf"(?:-?\d+{fraction},)*+", re.ASCII)

    def count_off(self, prices: Sequence[str]) -> int:
        """Return how many of these decimals are no multiple of the tick; none of a tick that is not above zero."""
        if self._tick <= 0 or not prices:
            return 0
        if self._usual is not None and self._usual.fullmatch(",".join(prices) + ",") is not None:
            return 0
        return sum(not self._is_on(price) for price in prices)

    def _is_on(self, price: str) -> bool:
        known = self._checked.get(price)
        if known is None:
            if len(self._checked) >= CHECKED_MAX:
                self._checked.clear()
            known = self._checked[price] = EXACT.remainder(Decimal(price), self._tick) == 0
        return known
