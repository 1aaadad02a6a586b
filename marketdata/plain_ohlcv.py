"""Open, high, low, close and exact volumes (OHLCV) of an interval's trades, in plain Python.

Theory of operation. The result does not depend on the order in which trades are added or bars are merged. Event order
is time, then trade id where ids are numbers, then arrival: the open is the first price in that order, the close the
last. If a price has two notations, high and low keep the smaller text. Sums are exact decimals.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from marketdata.decimals import EXACT, plain
from marketdata.events import Trade

_ZERO = Decimal(0)
_NUMBER_DIGITS_MAX = 18

# Open, high, low, close, volume, quote volume, buy volume, as published: no exponents.
Figures = tuple[str, str, str, str, str, str, str]


def order_of(identity: str) -> int:
    """Return the sort order of a trade id among trades of equal time: its number, or -1 if it is not a number."""
    fits = len(identity) <= _NUMBER_DIGITS_MAX and identity.isascii() and identity.isdigit()
    return int(identity) if fits else -1


def unexponent(price: str) -> str:
    """Return a price as the venue wrote it, unless it wrote an exponent."""
    return plain(Decimal(price)) if "e" in price or "E" in price else price


class Bar:
    """The OHLCV of at least one trade. `amended`: its prices are uncertain after an amendment."""

    __slots__ = (
        "amended", "buy_volume", "close", "close_key", "high", "high_value", "low", "low_value", "open", "open_key",
        "quote_volume", "trades", "volume",
    )  # fmt: skip

    def __init__(self, trade: Trade) -> None:
        text = trade.price
        price, size = Decimal(text), Decimal(trade.size)
        self.trades = 1
        self.open = self.high = self.low = self.close = text
        self.open_key = self.close_key = (trade.ts_event, order_of(trade.trade_id))
        self.high_value = self.low_value = price
        self.volume = size
        self.quote_volume = EXACT.multiply(price, size)
        self.buy_volume = size if trade.side == "buy" else _ZERO
        self.amended = False

    def add_trade(self, trade: Trade) -> None:
        """Add one trade, which arrived later."""
        text = trade.price
        price, size = Decimal(text), Decimal(trade.size)
        key = (trade.ts_event, order_of(trade.trade_id))
        self.trades += 1
        if key >= self.close_key:
            self.close, self.close_key = text, key
        elif key < self.open_key:
            self.open, self.open_key = text, key
        if price >= self.high_value and (price > self.high_value or text < self.high):
            self.high, self.high_value = text, price
        if price <= self.low_value and (price < self.low_value or text < self.low):
            self.low, self.low_value = text, price
        self.volume = EXACT.add(self.volume, size)
        self.quote_volume = EXACT.fma(price, size, self.quote_volume)
        if trade.side == "buy":
            self.buy_volume = EXACT.add(self.buy_volume, size)

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
        if other.open_key < self.open_key:
            self.open, self.open_key = other.open, other.open_key
        if other.close_key >= self.close_key:
            self.close, self.close_key = other.close, other.close_key
        if (other.high_value, self.high) > (self.high_value, other.high):
            self.high, self.high_value = other.high, other.high_value
        if (other.low_value, other.low) < (self.low_value, self.low):
            self.low, self.low_value = other.low, other.low_value
        self.volume = EXACT.add(self.volume, other.volume)
        self.quote_volume = EXACT.add(self.quote_volume, other.quote_volume)
        self.buy_volume = EXACT.add(self.buy_volume, other.buy_volume)

    def subtract(self, trade: Trade) -> None:
        """Subtract a trade from the count and the sums; prices stay unchanged."""
        price, size = Decimal(trade.price), Decimal(trade.size)
        self.trades -= 1
        self.volume = EXACT.subtract(self.volume, size)
        self.quote_volume = EXACT.subtract(self.quote_volume, EXACT.multiply(price, size))
        if trade.side == "buy":
            self.buy_volume = EXACT.subtract(self.buy_volume, size)

    def is_inner(self, trade: Trade) -> bool:
        """Return whether a trade is certainly neither the first nor the last."""
        return self.open_key < (trade.ts_event, order_of(trade.trade_id)) < self.close_key

    def is_between(self, price: str) -> bool:
        """Return whether a price is certainly neither the highest nor the lowest."""
        return self.low_value < Decimal(price) < self.high_value

    def figures(self) -> Figures:
        """Return open, high, low, close, volume, quote volume and buy volume as published."""
        return (
            unexponent(self.open),
            unexponent(self.high),
            unexponent(self.low),
            unexponent(self.close),
            plain(self.volume),
            plain(self.quote_volume),
            plain(self.buy_volume),
        )

    def copy(self) -> Bar:
        """Return a bar of the same trades."""
        return type(self).unpack(self.pack())

    def pack(self) -> list[Any]:
        """Return the bar as plain values: its count, prices, keys, and sums as decimal strings."""
        return [
            self.trades, self.open, *self.open_key, self.high, self.low, self.close, *self.close_key,
            plain(self.volume), plain(self.quote_volume), plain(self.buy_volume), self.amended,
        ]  # fmt: skip

    @classmethod
    def unpack(cls, packed: list[Any]) -> Bar:
        """Return the bar that `pack` encoded. Raises ValueError for anything else."""
        bar = cls.__new__(cls)
        bar.trades, bar.open, ts_open, at_open, bar.high, bar.low, bar.close, ts_close, at_close = packed[:9]
        bar.open_key, bar.close_key = (ts_open, at_open), (ts_close, at_close)
        bar.high_value, bar.low_value = Decimal(bar.high), Decimal(bar.low)
        bar.volume, bar.quote_volume, bar.buy_volume = map(Decimal, packed[9:12])
        (bar.amended,) = packed[12:]
        return bar
