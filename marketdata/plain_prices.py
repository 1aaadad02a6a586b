"""The prices of one message of trades as floats, and the usual message of new trades, in plain Python."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from marketdata.events import Trade

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


def add_consecutive(trades: Sequence[Trade], ts_event: object, ts_recv: object, since: int, ends: array[int]) -> int:
    """Return -1: in plain Python the general way looks at every trade. See `_trades.pyx` for the quick way."""
    del trades, ts_event, ts_recv, since, ends
    return -1
