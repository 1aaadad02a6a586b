"""The prices of one message of trades as floats, and the usual message of new trades, in plain Python."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

from marketdata.decimals import LENGTH_MAX, WHOLE_DIGITS_MAX
from marketdata.events import Trade

# The usual notation of a decimal within the limits. Others may be right as well, and are checked exactly.
USUAL = rf"\d{{1,{WHOLE_DIGITS_MAX}}}(?:\.\d{{1,{LENGTH_MAX - WHOLE_DIGITS_MAX - 2}}})?"
_PRICES = re.compile(rf"(?:-?{USUAL},)*+", re.ASCII)
_SIZES = re.compile(rf"(?:{USUAL},)*+", re.ASCII)

# Place of the last new trade (-1: none) and its price, place of the one furthest from `before` and its price, `before`
# (0 for none), the volume so far, and the decimal places that the prices need (-1: one has an exponent).
Survey = tuple[int, float, int, float, float, float, int]


def survey(trades: Sequence[Trade], before: str | None, minute: int, volume: float) -> Survey:
    """Return what the new trades of a message are like.

    `before` is the price before them. Sizes of those made since `minute` are added to `volume`.
    """
    price_before = float(before) if before is not None else 0.0
    at_last = at_furthest = -1
    last = furthest = 0.0
    most = -1.0
    places = 0
    for at, trade in enumerate(trades):
        if trade.action != "new":
            continue
        text = trade.price
        at_last, last = at, float(text)
        if "e" in text or "E" in text:
            places = -1
        elif places >= 0 and "." in text:
            places = max(places, len(text.rstrip("0")) - text.index(".") - 1)
        distance = abs(last - price_before)
        if distance > most:
            most, at_furthest, furthest = distance, at, last
        if trade.ts_event >= minute:
            volume += float(trade.size)
    return at_last, last, at_furthest, furthest, price_before, volume, places


def are_usual_prices(prices: Sequence[str]) -> bool:
    """Return whether all are decimals of the usual notation; others may be right as well."""
    return _matches(_PRICES, prices)


def are_usual_sizes(sizes: Sequence[str]) -> bool:
    """Return whether all are decimals of the usual notation and none is negative; others may be right as well."""
    return _matches(_SIZES, sizes)


def _matches(pattern: re.Pattern[str], column: Sequence[str]) -> bool:
    try:
        text = ",".join(column) + "," if column else ""
    except TypeError:  # one is no string
        return False
    return pattern.fullmatch(text) is not None and text.count(",") == len(column)


def are_usual_trades(trades: Sequence[Trade], ts_event: object, ts_recv: object) -> bool:
    """Return False: in plain Python every trade is checked by itself. See `_trades.pyx` for the quick way."""
    del trades, ts_event, ts_recv
    return False


def add_consecutive(trades: Sequence[Trade], ts_event: object, ts_recv: object, since: int, ends: array[int]) -> int:
    """Return -1: in plain Python the general way looks at every trade. See `_trades.pyx` for the quick way."""
    del trades, ts_event, ts_recv, since, ends
    return -1
