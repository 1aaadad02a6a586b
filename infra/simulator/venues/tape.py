"""A market's whole history, computed instead of stored: any trade or candle of any time, always the same.

Trades follow a pattern of eight minutes, some without any, so that the number of trades before a minute is known
without counting: ids rise by one from `begins`. In minutes of five trades the second and third share a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
MILLISECOND_NS = 1_000_000
TRADES = (3, 0, 5, 1, 0, 0, 2, 4)
_CYCLE = sum(TRADES)
_TWINS = 5


class TapeTrade(NamedTuple):
    """One execution. `ts` is a whole millisecond, in UTC nanoseconds; `bought`: the taker was the buyer."""

    number: int
    ts: int
    price: str
    size: str
    bought: bool


class TapeCandle(NamedTuple):
    """One interval's trades, summed; an interval without trades repeats the last price."""

    start: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    buy_volume: str
    trades: int


class Tape:
    """The history of one market from `begins`, UTC nanoseconds of a whole minute."""

    def __init__(self, begins: int) -> None:
        self.begins = begins // MINUTE_NS * MINUTE_NS

    def trade(self, number: int) -> TapeTrade:
        """Return a trade by its id, from 1 on."""
        cycle, rest = divmod(number - 1, _CYCLE)
        minute = 0
        while rest >= TRADES[minute]:
            rest -= TRADES[minute]
            minute += 1
        start = self.begins + (len(TRADES) * cycle + minute) * MINUTE_NS
        place = 1 if TRADES[minute] == _TWINS and rest == 2 else rest  # the third of five
        ts = start + (place * 60_000 // TRADES[minute] + 7) * MILLISECOND_NS
        price = f"{100 + (number * 7919) % 997 / 100:.2f}"
        size = f"{1 + (number * 31) % 4999}"
        return TapeTrade(number, ts, price, f"{Decimal(size).scaleb(-4):f}", number % 3 != 0)

    def first_at(self, ts: int) -> int:
        """Return the id of the first trade at a time or after it."""
        minutes = max(0, ts - self.begins) // MINUTE_NS
        cycle, minute = divmod(minutes, len(TRADES))
        number = 1 + cycle * _CYCLE + sum(TRADES[:minute])
        while self.trade(number).ts < ts:
            number += 1
        return number

    def between(self, start: int, end: int) -> Iterator[TapeTrade]:
        """Give the trades in [start, end), oldest first."""
        number = self.first_at(start)
        while (trade := self.trade(number)).ts < end:
            yield trade
            number += 1

    def candles(self, length: int, start: int, end: int) -> Iterator[TapeCandle]:
        """Give the candles that begin in [start, end), oldest first, those without trades too."""
        first = max(start, self.begins + length - 1)
        for at in range(-(-first // length) * length, end, length):
            yield self._candle(at, list(self.between(at, at + length)))

    def _candle(self, start: int, trades: list[TapeTrade]) -> TapeCandle:
        if not trades:
            number = self.first_at(start)
            last = self.trade(number - 1).price if number > 1 else "100.00"
            return TapeCandle(start, last, last, last, last, "0.0000", "0.000000", "0.0000", 0)
        prices = [Decimal(trade.price) for trade in trades]
        volume = sum(Decimal(trade.size) for trade in trades)
        money = sum(Decimal(trade.price) * Decimal(trade.size) for trade in trades)
        bought = sum((Decimal(trade.size) for trade in trades if trade.bought), Decimal("0.0000"))
        return TapeCandle(start, trades[0].price, str(max(prices)), str(min(prices)), trades[-1].price, str(volume),
                          str(money), str(bought), len(trades))  # fmt: skip
