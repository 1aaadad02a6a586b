"""Open, high, low, close and exact volumes (OHLCV) of an interval's trades, in plain Python.

Theory of operation. The result does not depend on the order in which trades are added or bars are merged. Event order
is time, then trade id where ids are numbers, then arrival: the open is the first price in that order, the close the
last. If a price has two notations, high and low keep the smaller text. Sums are exact decimals.

A trade that is excluded from volume adds nothing to the sums and the count of trades; one that is excluded from
high_low or open_close sets neither of these two prices. A pair of prices that no trade sets is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from marketdata.decimals import EXACT, plain
from marketdata.events import HIGH_LOW, OPEN_CLOSE, VOLUME, Trade

_ZERO = Decimal(0)
_NUMBER_DIGITS_MAX = 18

_NO_KEY = (0, 0)

# Open, high, low, close, volume, quote volume, buy volume, as published: no exponents.
Figures = tuple[str | None, str | None, str | None, str | None, str, str, str]


def order_of(identity: str) -> int:
    """Return the sort order of a trade id among trades of equal time: its number, or -1 if it is not a number."""
    fits = len(identity) <= _NUMBER_DIGITS_MAX and identity.isascii() and identity.isdigit()
    return int(identity) if fits else -1


def unexponent(price: str) -> str:
    """Return a price as the venue wrote it, unless it wrote an exponent."""
    return plain(Decimal(price)) if "e" in price or "E" in price else price


class Bar:
    """The OHLCV of at least one trade. `amended`: its prices are uncertain after an amendment.

    `trades` counts those that add volume, `uncounted` the others that set a price.
    """

    __slots__ = (
        "amended", "buy_volume", "close", "close_key", "high", "high_value", "low", "low_value", "open", "open_key",
        "quote_volume", "trades", "uncounted", "volume",
    )  # fmt: skip

    open: str | None
    high: str | None
    low: str | None
    close: str | None

    def __init__(self, trade: Trade) -> None:
        self.trades = self.uncounted = 0
        self.open = self.high = self.low = self.close = None
        self.open_key = self.close_key = _NO_KEY
        self.high_value = self.low_value = _ZERO
        self.volume = self.quote_volume = self.buy_volume = _ZERO
        self.amended = False
        self.add_trade(trade)

    @property
    def items(self) -> int:
        """The number of trades in it, counted or not."""
        return self.trades + self.uncounted

    def add_trade(self, trade: Trade) -> None:
        """Add one trade, which arrived later; one that updates nothing changes nothing."""
        excluded = trade.excluded_from
        if not excluded:
            self._add_volume(trade)
            self._add_open_close(trade)
            self._add_high_low(trade.price)
            return
        if trade.updates_nothing:
            return
        if VOLUME in excluded:
            self.uncounted += 1
        else:
            self._add_volume(trade)
        if OPEN_CLOSE not in excluded:
            self._add_open_close(trade)
        if HIGH_LOW not in excluded:
            self._add_high_low(trade.price)

    def _add_volume(self, trade: Trade) -> None:
        size = Decimal(trade.size)
        self.trades += 1
        self.volume = EXACT.add(self.volume, size)
        self.quote_volume = EXACT.fma(Decimal(trade.price), size, self.quote_volume)
        if trade.side == "buy":
            self.buy_volume = EXACT.add(self.buy_volume, size)

    def _add_open_close(self, trade: Trade) -> None:
        key = (trade.ts_event, order_of(trade.trade_id))
        if self.open is None:
            self.open, self.open_key = trade.price, key
            self.close, self.close_key = trade.price, key
        elif key >= self.close_key:
            self.close, self.close_key = trade.price, key
        elif key < self.open_key:
            self.open, self.open_key = trade.price, key

    def _add_high_low(self, text: str) -> None:
        price = Decimal(text)
        if self.high is None or price > self.high_value or (price == self.high_value and text < self.high):
            self.high, self.high_value = text, price
        if self.low is None or price < self.low_value or (price == self.low_value and text < self.low):
            self.low, self.low_value = text, price

    def add_new(self, trades: Sequence[Trade], start: int, end: int) -> int:
        """Add trades if all are new ones of [start, end); return the newest time, or -1 without a change."""
        newest = -1
        for trade in trades:
            ts = trade.ts_event
            if trade.action != "new" or not start <= ts < end:
                return -1
            newest = max(newest, ts)
        for trade in trades:
            self.add_trade(trade)
        return newest

    def add(self, other: Bar) -> None:
        """Add the trades of another bar, which arrived later."""
        self.trades += other.trades
        self.uncounted += other.uncounted
        if other.open is not None:
            if self.open is None or other.open_key < self.open_key:
                self.open, self.open_key = other.open, other.open_key
            if self.close is None or other.close_key >= self.close_key:
                self.close, self.close_key = other.close, other.close_key
        if other.high is not None and other.low is not None:
            if self.high is None or (other.high_value, self.high) > (self.high_value, other.high):
                self.high, self.high_value = other.high, other.high_value
            if self.low is None or (other.low_value, other.low) < (self.low_value, self.low):
                self.low, self.low_value = other.low, other.low_value
        self.volume = EXACT.add(self.volume, other.volume)
        self.quote_volume = EXACT.add(self.quote_volume, other.quote_volume)
        self.buy_volume = EXACT.add(self.buy_volume, other.buy_volume)

    def subtract(self, trade: Trade) -> None:
        """Subtract a trade from the counts and the sums; prices stay unchanged."""
        if trade.updates_nothing:
            return
        if VOLUME in trade.excluded_from:
            self.uncounted -= 1
            return
        price, size = Decimal(trade.price), Decimal(trade.size)
        self.trades -= 1
        self.volume = EXACT.subtract(self.volume, size)
        self.quote_volume = EXACT.subtract(self.quote_volume, EXACT.multiply(price, size))
        if trade.side == "buy":
            self.buy_volume = EXACT.subtract(self.buy_volume, size)

    def is_inner(self, trade: Trade) -> bool:
        """Return whether a trade is certainly neither the first nor the last."""
        if self.open is None:
            return False
        return self.open_key < (trade.ts_event, order_of(trade.trade_id)) < self.close_key

    def is_between(self, price: str) -> bool:
        """Return whether a price is certainly neither the highest nor the lowest."""
        return self.high is not None and self.low_value < Decimal(price) < self.high_value

    def figures(self) -> Figures:
        """Return open, high, low, close, volume, quote volume and buy volume as published."""
        return (
            None if self.open is None else unexponent(self.open),
            None if self.high is None else unexponent(self.high),
            None if self.low is None else unexponent(self.low),
            None if self.close is None else unexponent(self.close),
            plain(self.volume),
            plain(self.quote_volume),
            plain(self.buy_volume),
        )

    def copy(self) -> Bar:
        """Return a bar of the same trades."""
        return type(self).unpack(self.pack())

    def pack(self) -> list[Any]:
        """Return the bar as plain values: its counts, prices, keys, and sums as decimal strings."""
        return [
            self.trades, self.open, *self.open_key, self.high, self.low, self.close, *self.close_key,
            plain(self.volume), plain(self.quote_volume), plain(self.buy_volume), self.amended, self.uncounted,
        ]  # fmt: skip

    @classmethod
    def unpack(cls, packed: list[Any]) -> Bar:
        """Return the bar that `pack` encoded. Raises ValueError for anything else."""
        bar = cls.__new__(cls)
        bar.trades, bar.open, ts_open, at_open, bar.high, bar.low, bar.close, ts_close, at_close = packed[:9]
        bar.open_key, bar.close_key = (ts_open, at_open), (ts_close, at_close)
        bar.high_value = _ZERO if bar.high is None else Decimal(bar.high)
        bar.low_value = _ZERO if bar.low is None else Decimal(bar.low)
        bar.volume, bar.quote_volume, bar.buy_volume = map(Decimal, packed[9:12])
        # Checkpoints written before trades had exclusions end with `amended`.
        bar.amended, bar.uncounted = packed[12:] if len(packed) > 13 else [*packed[12:], 0]
        return bar
