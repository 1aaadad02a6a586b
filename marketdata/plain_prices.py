"""Loops over the trades of one message: prices as floats, and checks of the usual notation, in plain Python."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

from marketdata.decimals import LENGTH_MAX, WHOLE_DIGITS_MAX
from marketdata.events import OPEN_CLOSE, VOLUME, Trade

# The usual notation of a decimal within the limits. Other notations may be valid too, and are checked exactly.
USUAL = rf"\d{{1,{WHOLE_DIGITS_MAX}}}(?:\.\d{{1,{LENGTH_MAX - WHOLE_DIGITS_MAX - 2}}})?"
_PRICES = re.compile(rf"(?:-?{USUAL},)*+", re.ASCII)
_SIZES = re.compile(rf"(?:{USUAL},)*+", re.ASCII)

# Index of the last new trade that sets a last price (-1: none) and its price, index and price of the one furthest from
# `before`, `before` (0 if unknown), the volume so far, and the largest number of decimal places (-1: an exponent).
Survey = tuple[int, float, int, float, float, float, int]


def survey(trades: Sequence[Trade], before: str | None, minute: int, volume: float) -> Survey:
    """Return statistics of the new trades in a message, without what they are excluded from.

    `before` is the price before them. Sizes of trades since `minute` are added to `volume`.
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
        if "e" in text or "E" in text:
            places = -1
        elif places >= 0 and "." in text:
            places = max(places, len(text.rstrip("0")) - text.index(".") - 1)
        if OPEN_CLOSE not in trade.excluded_from:
            at_last, last = at, float(text)
            distance = abs(last - price_before)
            if distance > most:
                most, at_furthest, furthest = distance, at, last
        if trade.ts_event >= minute and VOLUME not in trade.excluded_from:
            volume += float(trade.size)
    return at_last, last, at_furthest, furthest, price_before, volume, places


def are_usual_prices(prices: Sequence[str]) -> bool:
    """Return whether all are decimals in the usual notation; others may be valid too."""
    return _matches(_PRICES, prices)


def are_usual_sizes(sizes: Sequence[str]) -> bool:
    """Return whether all are decimals in the usual notation and none is negative; others may be valid too."""
    return _matches(_SIZES, sizes)


def _matches(pattern: re.Pattern[str], column: Sequence[str]) -> bool:
    try:
        text = ",".join(column) + "," if column else ""
    except TypeError:  # a value is not a string
        return False
    return pattern.fullmatch(text) is not None and text.count(",") == len(column)


def are_usual_trades(trades: Sequence[Trade], ts_event: object, ts_recv: object) -> bool:
    """Return False: plain Python has no fast path, and checks each trade. `_trades.pyx` has one."""
    del trades, ts_event, ts_recv
    return False


def add_consecutive(trades: Sequence[Trade], ts_event: object, ts_recv: object, since: int, ends: array[int]) -> int:
    """Return -1: plain Python has no fast path, and processes each trade. `_trades.pyx` has one."""
    del trades, ts_event, ts_recv, since, ends
    return -1
