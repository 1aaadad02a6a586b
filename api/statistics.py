"""The statistics of the last 24 hours, from one-minute candles, for venues that send none themselves."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.decimals import plain
from marketdata.events import Candle

INTERVAL = "1m"
_MINUTE_NS = 60 * SECOND_NS
_MINUTES = 24 * 60
_PERCENT_PLACES = Decimal("0.0001")


class Statistics(msgspec.Struct, frozen=True):
    """Volume, high, low and change in percent over the last 24 hours, as decimal strings."""

    volume: str
    high: str
    low: str
    change: str


class Day:
    """The one-minute candles of the last 24 hours up to the newest; holds 1,440 at most."""

    def __init__(self) -> None:
        self._candles: dict[int, Candle] = {}
        self._newest = 0
        self._settled: tuple[Decimal, Decimal, Decimal, Decimal] | None = None  # all but the newest

    def add(self, candle: Candle) -> None:
        """Take a new or corrected candle in; one that is older than the day is ignored."""
        if candle.interval != INTERVAL or candle.start <= self._newest - _MINUTES * _MINUTE_NS:
            return
        if candle.open is None:
            self._forget(candle.start)
            return
        if candle.start > self._newest:
            self._newest = candle.start
            oldest = self._newest - _MINUTES * _MINUTE_NS
            self._candles = {start: kept for start, kept in self._candles.items() if start > oldest}
            self._settled = None
        elif candle.start < self._newest:
            self._settled = None
        self._candles[candle.start] = candle

    def _forget(self, start: int) -> None:
        """Leave out a minute whose trades were all taken back."""
        if self._candles.pop(start, None) is not None:
            self._settled = None
            self._newest = max(self._candles, default=0)

    def statistics(self) -> Statistics | None:
        """Return the statistics, or None while there is no candle with a trade."""
        newest = self._candles.get(self._newest)
        if newest is None:
            return None
        volume, high, low, opened = _numbers(newest)
        if self._settled is None:
            self._settle()
        if self._settled is not None:
            volume += self._settled[0]
            high, low = max(high, self._settled[1]), min(low, self._settled[2])
            opened = self._settled[3]
        close = Decimal(newest.close or "0")
        change = (close - opened) * 100 / abs(opened) if opened else Decimal(0)
        return Statistics(plain(volume), plain(high), plain(low), plain(change.quantize(_PERCENT_PLACES)))

    def _settle(self) -> None:
        settled = [_numbers(self._candles[start]) for start in sorted(self._candles) if start != self._newest]
        if settled:
            self._settled = (
                sum((numbers[0] for numbers in settled), Decimal(0)),
                max(numbers[1] for numbers in settled),
                min(numbers[2] for numbers in settled),
                settled[0][3],
            )


def _numbers(candle: Candle) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    return (
        Decimal(candle.volume),
        Decimal(candle.high or "0"),
        Decimal(candle.low or "0"),
        Decimal(candle.open or "0"),
    )
