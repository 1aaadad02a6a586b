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
    """Volume, high, low and change in percent over the last 24 hours, as decimal strings.

    A price is None where no trade set one: trades may be excluded from it (`Trade.excluded_from`).
    """

    volume: str
    high: str | None
    low: str | None
    change: str | None


class _Span(msgspec.Struct, frozen=True):
    """The numbers of consecutive minutes."""

    volume: Decimal
    high: Decimal | None
    low: Decimal | None
    opened: Decimal | None
    close: Decimal | None

    def followed_by(self, later: _Span) -> _Span:
        """Return the numbers of both."""
        highs = [high for high in (self.high, later.high) if high is not None]
        lows = [low for low in (self.low, later.low) if low is not None]
        return _Span(
            self.volume + later.volume,
            max(highs, default=None),
            min(lows, default=None),
            later.opened if self.opened is None else self.opened,
            self.close if later.close is None else later.close,
        )


class Day:
    """The one-minute candles of the last 24 hours up to the newest; holds 1,440 at most."""

    def __init__(self) -> None:
        self._candles: dict[int, Candle] = {}
        self._newest = 0
        self._settled: _Span | None = None  # all but the newest

    def add(self, candle: Candle) -> None:
        """Take a new or corrected candle in; one that is older than the day is ignored."""
        if candle.interval != INTERVAL or candle.start <= self._newest - _MINUTES * _MINUTE_NS:
            return
        if candle.open is None and candle.high is None and not Decimal(candle.volume):
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
        day = _span(newest)
        if self._settled is None:
            self._settle()
        if self._settled is not None:
            day = self._settled.followed_by(day)
        change: Decimal | None = None
        if day.opened is not None and day.close is not None:
            moved = day.close - day.opened
            change = moved * 100 / abs(day.opened) if day.opened else Decimal(0)
        return Statistics(
            plain(day.volume),
            None if day.high is None else plain(day.high),
            None if day.low is None else plain(day.low),
            None if change is None else plain(change.quantize(_PERCENT_PLACES)),
        )

    def _settle(self) -> None:
        for start in sorted(self._candles):
            if start != self._newest:
                span = _span(self._candles[start])
                self._settled = span if self._settled is None else self._settled.followed_by(span)


def _span(candle: Candle) -> _Span:
    return _Span(
        Decimal(candle.volume), _decimal(candle.high), _decimal(candle.low), _decimal(candle.open),
        _decimal(candle.close),
    )  # fmt: skip


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
