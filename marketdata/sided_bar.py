"""A bar that also counts and sums its trades by aggressor side, composed of three plain bars with one arithmetic.

It has the interface of `marketdata.ohlcv.Bar`. Candles use that one, which is cheaper; bars by recipe use this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, NamedTuple

from marketdata.decimals import plain
from marketdata.events import Trade
from marketdata.ohlcv import Bar, Figures

# Of a rounded average: more than any price has, so that the average of equal prices is that price.
VWAP_DIGITS = 18

_ROUNDED = Context(prec=VWAP_DIGITS, rounding=ROUND_HALF_EVEN)


class BySide(NamedTuple):
    """Trades and volumes by aggressor side, as published. Trades of an unknown side are in neither."""

    buy_trades: int
    sell_trades: int
    sell_volume: str


def vwap(quote_volume: str | None, volume: str) -> str | None:
    """Return the volume-weighted average price: the exact quotient of two exact sums, rounded once.

    It has at most 18 significant digits, rounded half to even. None when it is unknown or there is no volume.
    """
    base = Decimal(volume)
    if quote_volume is None or not base:
        return None
    return plain(_ROUNDED.divide(Decimal(quote_volume), base))


class SidedBar:
    """The OHLCV of at least one trade, in total and by side. `amended`: its prices are uncertain after an amendment."""

    __slots__ = ("_buys", "_sells", "_total")

    def __init__(self, trade: Trade) -> None:
        self._total = Bar(trade)
        self._buys = Bar(trade) if trade.side == "buy" else None
        self._sells = Bar(trade) if trade.side == "sell" else None

    @property
    def trades(self) -> int:
        """The number of trades that add volume."""
        return self._total.trades

    @property
    def items(self) -> int:
        """The number of trades in it, counted or not."""
        return self._total.items

    @property
    def amended(self) -> bool:
        """Whether its prices are uncertain after an amendment."""
        return self._total.amended

    @amended.setter
    def amended(self, value: bool) -> None:
        self._total.amended = value

    def add_trade(self, trade: Trade) -> None:
        """Add one trade, which arrived later."""
        self._total.add_trade(trade)
        if trade.side == "buy":
            if self._buys is None:
                self._buys = Bar(trade)
            else:
                self._buys.add_trade(trade)
        elif trade.side == "sell":
            if self._sells is None:
                self._sells = Bar(trade)
            else:
                self._sells.add_trade(trade)

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

    def add(self, other: SidedBar) -> None:
        """Add the trades of another bar, which arrived later."""
        self._total.add(other._total)
        self._buys = _sum(self._buys, other._buys)
        self._sells = _sum(self._sells, other._sells)

    def subtract(self, trade: Trade) -> None:
        """Subtract a trade from the counts and the sums; prices stay unchanged."""
        self._total.subtract(trade)
        if trade.side == "buy" and self._buys is not None:
            self._buys.subtract(trade)
        elif trade.side == "sell" and self._sells is not None:
            self._sells.subtract(trade)

    def is_inner(self, trade: Trade) -> bool:
        """Return whether a trade is certainly neither the first nor the last."""
        return self._total.is_inner(trade)

    def is_between(self, price: str) -> bool:
        """Return whether a price is certainly neither the highest nor the lowest."""
        return self._total.is_between(price)

    def figures(self) -> Figures:
        """Return open, high, low, close, volume, quote volume and buy volume as published."""
        return self._total.figures()

    def by_side(self) -> BySide:
        """Return the trades of buyers and sellers and the sellers' volume."""
        buys, sells = self._buys, self._sells
        return BySide(
            0 if buys is None else buys.trades,
            0 if sells is None else sells.trades,
            "0" if sells is None else sells.figures()[4],
        )

    def copy(self) -> SidedBar:
        """Return a bar of the same trades."""
        return type(self).unpack(self.pack())

    def pack(self) -> list[Any]:
        """Return the bar as plain values."""
        return [None if bar is None else bar.pack() for bar in (self._total, self._buys, self._sells)]

    @classmethod
    def unpack(cls, packed: list[Any]) -> SidedBar:
        """Return the bar that `pack` encoded. Raises ValueError for anything else."""
        bar = cls.__new__(cls)
        total, buys, sells = packed
        bar._total = Bar.unpack(total)  # noqa: SLF001 - its own
        bar._buys = None if buys is None else Bar.unpack(buys)  # noqa: SLF001
        bar._sells = None if sells is None else Bar.unpack(sells)  # noqa: SLF001
        return bar


def _sum(one: Bar | None, other: Bar | None) -> Bar | None:
    if other is None:
        return one
    if one is None:
        return other.copy()
    one.add(other)
    return one
