"""A small order-driven market: random limit, cancel and market orders around a moving price; pure, from a seed.

Theory of operation. A fair price walks at random and is drawn back weakly to where it began. Each `step` enters one
order into the matching book: a limit order some distance from the fair price (near, middling or deep), the cancellation
of any resting order, or a market order that leans towards the fair price. As the fair price moves, new limit orders
cross old ones, so that the price follows by trades. Cancellation grows with the number of resting orders, which keeps
the book at a steady size, and a side that runs thin gets limit orders only, so it is never empty.

The flow depends on the seed alone; time is an argument and only stamps what happens.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice, pairwise
from typing import NamedTuple

from infra.exchange.matching import ASK, BID, Change, Fill, Matching
from marketdata.clock import SECOND_NS
from marketdata.errors import SettingsError, TickstreamError

MINUTE_S = 60
DAY_S = 86_400

# Resting orders that the flow settles at, both sides together; and the levels below which a side gets no more takers.
ORDERS_TARGET = 1_200
LEVELS_MIN = 20

# Bounds of what is remembered: bars of two days, trades for REST and snapshots, steps for `book_at`.
BARS_MAX = 2 * DAY_S // MINUTE_S
TRADES_MAX = 50_000
STEPS_MAX = 50_000

# Events before the start, within the minute before it, so that a new client finds recent trades.
_WARM_EVENTS = 2_500
_WARM_NS = MINUTE_S * SECOND_NS

# Of the price, per step: 0.0003 % makes 0.02 % a minute at 50 steps a second, like a calm hour of BTC-USD.
_STEP_DEVIATION = 3e-6
_PULL = 1e-7
# Distance of a limit order from the fair price, of the price: how likely, and the mean.
_DISTANCES = ((0.6, 4e-5), (0.92, 3e-4), (1.0, 8e-3))
_LIMIT_SHARE = 0.52
_CANCEL_SHARE = 0.41
_VALUE_MEDIAN = 600.0
_VALUE_SPREAD = 1.6


class HistoryGone(TickstreamError):  # noqa: N818 - named for what happened
    """A book was asked for as it was before the bounded history begins, or at a time yet to come."""


class Increment:
    """The step of a price or a size: whole steps to decimal strings, exactly and without trailing zeros."""

    __slots__ = ("_places", "_scale", "_unit", "text", "value")

    def __init__(self, text: str) -> None:
        self.text = text
        self.value = Decimal(text)
        exponent = self.value.as_tuple().exponent
        self._places = max(0, -int(exponent))
        self._scale = 10**self._places
        self._unit = int(self.value * self._scale)

    def string(self, steps: int) -> str:
        """Return the decimal string of a number of steps."""
        whole, fraction = divmod(steps * self._unit, self._scale)
        if not fraction:
            return str(whole)
        return f"{whole}.{fraction:0{self._places}d}".rstrip("0")


class Product(NamedTuple):
    """What is traded: names, where the price begins, and the increments of prices and sizes."""

    symbol: str
    base: str
    quote: str
    base_name: str
    quote_name: str
    price: str
    tick: str = "0.01"
    lot: str = "0.00000001"


_PRODUCTS = {
    product.symbol: product
    for product in (
        Product("BTC-USD", "BTC", "USD", "Bitcoin", "US Dollar", "65086.18"),
        Product("ETH-USD", "ETH", "USD", "Ethereum", "US Dollar", "1919.41"),
        Product("SOL-USD", "SOL", "USD", "Solana", "US Dollar", "148.32"),
        Product("XRP-USD", "XRP", "USD", "XRP", "US Dollar", "2.1347", tick="0.0001", lot="0.000001"),
    )
}


def product(symbol: str) -> Product:
    """Return a product by its symbol such as `BTC-USD`; one that we do not know begins at 100.00.

    Raises SettingsError when it is no such symbol.
    """
    if symbol in _PRODUCTS:
        return _PRODUCTS[symbol]
    base, dash, quote = symbol.partition("-")
    if not (dash and base.isalnum() and quote.isalnum() and symbol == symbol.upper()):
        raise SettingsError(f"COINBASE_PRODUCTS: {symbol!r} is no product; they look like BTC-USD")
    return Product(symbol, base, quote, base, quote, "100")


class Trade(NamedTuple):
    """One execution, `ts` in UTC nanoseconds, `maker_side` BID or ASK."""

    trade_id: int
    ts: int
    ticks: int
    lots: int
    maker_side: int


class Bar(NamedTuple):
    """The trades of one minute that begins at `start` (UTC seconds); a minute without trades has no bar."""

    start: int
    open: int
    high: int
    low: int
    close: int
    lots: int


class Step(NamedTuple):
    """What one order did: the levels that changed and the trades, oldest first; `version` numbers the book's states."""

    ts: int
    version: int
    changes: list[Change]
    trades: list[Trade]


class Day(NamedTuple):
    """Statistics of the last 24 hours: prices in ticks, volume in lots."""

    open: int
    high: int
    low: int
    last: int
    lots: int


class Market:
    """One product's market.

    `ts` is the time at which it begins, UTC nanoseconds; trades are numbered up from `first_trade_id` without a hole.
    """

    def __init__(self, product: Product, seed: int, ts: int, first_trade_id: int = 1) -> None:
        self.product = product
        self.price = Increment(product.tick)
        self.size = Increment(product.lot)
        self.book = Matching()
        self.halted = False
        self.version = 0
        self.ts = ts
        self.next_trade_id = first_trade_id
        self.trades: deque[Trade] = deque(maxlen=TRADES_MAX)
        self.bars: deque[Bar] = deque(maxlen=BARS_MAX)
        self._random = random.Random(f"{seed}:{product.symbol}")
        self._anchor = math.log(float(product.price) / float(self.price.value))
        self._fair = self._anchor
        self._history: deque[Step] = deque(maxlen=STEPS_MAX)
        self._closed_at = -1
        self._closed: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._invent_bars(ts - _WARM_NS)
        for place in range(ORDERS_TARGET):
            self._enter_limit(BID if place % 2 else ASK)
        self.book.take_changes()
        for place in range(_WARM_EVENTS):
            self.step(ts - _WARM_NS + place * _WARM_NS // _WARM_EVENTS)

    def step(self, ts: int) -> Step:
        """Enter one random order at `ts` and return what it did; nothing happens while the product is halted."""
        self.ts = ts
        if self.halted:
            return Step(ts, self.version, [], [])
        self._fair += self._random.gauss(0, _STEP_DEVIATION) + _PULL * (self._anchor - self._fair)
        fills = self._enter()
        trades = [self._record(ts, fill) for fill in fills]
        changes = self.book.take_changes()
        self.version += 1
        step = Step(ts, self.version, changes, trades)
        self._history.append(step)
        return step

    def book_at(self, version: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return bids and asks as (ticks, lots), best first, as they were after the step of that version.

        Raises HistoryGone when that is too long ago.
        """
        oldest = self._history[0].version - 1 if self._history else self.version
        if not oldest <= version <= self.version:
            raise HistoryGone(f"{self.product.symbol}: book versions {oldest} to {self.version} are at hand")
        sides = {BID: dict(self.book.levels(BID)), ASK: dict(self.book.levels(ASK))}
        for step in islice(reversed(self._history), self.version - version):
            for change in step.changes:
                if change.before:
                    sides[change.side][change.ticks] = change.before
                else:
                    sides[change.side].pop(change.ticks, None)
        return sorted(sides[BID].items(), reverse=True), sorted(sides[ASK].items())

    def day(self) -> Day:
        """Return the statistics of the 24 hours before the last step."""
        now = self.ts // SECOND_NS
        minute = now - now % MINUTE_S
        if minute != self._closed_at:
            window = [bar for bar in self.bars if minute - DAY_S <= bar.start < minute]
            opening = window[0].open if window else self.bars[-1].open
            high = max((bar.high for bar in window), default=opening)
            low = min((bar.low for bar in window), default=opening)
            self._closed = (opening, high, low, sum(bar.lots for bar in window))
            self._closed_at = minute
        opening, high, low, lots = self._closed
        last = self.bars[-1]
        if last.start == minute:
            high, low, lots = max(high, last.high), min(low, last.low), lots + last.lots
        return Day(opening, high, low, last.close, lots)

    def candles(self, seconds: int, start: int, end: int) -> list[Bar]:
        """Return the bars of `seconds` (a multiple of 60) that begin in [start, end], UTC seconds, oldest first."""
        made: list[Bar] = []
        for bar in self.bars:
            begin = bar.start - bar.start % seconds
            if not start <= begin <= end:
                continue
            if made and made[-1].start == begin:
                was = made[-1]
                made[-1] = Bar(
                    begin, was.open, max(was.high, bar.high), min(was.low, bar.low), bar.close, was.lots + bar.lots
                )
            else:
                made.append(bar._replace(start=begin))
        return made

    def recent(self, count: int, start_ns: int = 0, end_ns: int | None = None) -> list[Trade]:
        """Return at most `count` trades with `start_ns <= ts < end_ns`, newest first."""
        return list(islice(self._between(start_ns, end_ns), count))

    def _between(self, start_ns: int, end_ns: int | None) -> Iterator[Trade]:
        for trade in reversed(self.trades):
            if trade.ts < start_ns:
                return
            if end_ns is None or trade.ts < end_ns:
                yield trade

    def _enter(self) -> list[Fill]:
        for side in (BID, ASK):
            if self.book.depth(side) < LEVELS_MIN:
                return self._enter_limit(side)
        pressure = min(1.15, len(self.book) / ORDERS_TARGET)
        choice = self._random.random()
        if choice < _CANCEL_SHARE * pressure * pressure:
            self.book.cancel(self.book.order_id(self._random.randrange(len(self.book))))
            return []
        if choice < _LIMIT_SHARE + _CANCEL_SHARE:
            return self._enter_limit(self._random.choice((BID, ASK)))
        return self._enter_market()

    def _enter_limit(self, side: int) -> list[Fill]:
        fair = math.exp(self._fair)
        choice = self._random.random()
        mean = next(mean for share, mean in _DISTANCES if choice <= share)
        distance = 0.5 + self._random.expovariate(1 / max(0.5, mean * fair))
        ticks = max(1, math.floor(fair - distance) if side == BID else math.ceil(fair + distance))
        _, fills = self.book.limit(side, ticks, self._lots(fair))
        return fills

    def _enter_market(self) -> list[Fill]:
        fair = math.exp(self._fair)
        bid, ask = self.book.best(BID), self.book.best(ASK)
        lean = 0.5 if bid is None or ask is None else 0.5 + 0.15 * math.copysign(1, fair - (bid + ask) / 2)
        side = BID if self._random.random() < lean else ASK
        return self.book.market(side, self._lots(fair))

    def _lots(self, fair: float) -> int:
        value = _VALUE_MEDIAN * self._random.lognormvariate(0, _VALUE_SPREAD)
        size = Decimal(min(value, 200 * _VALUE_MEDIAN)) / (Decimal(fair) * self.price.value)
        # People trade round sizes now and then.
        if self._random.random() < 0.15:
            size = round(size, 2)
        return max(1, int(size / self.size.value))

    def _record(self, ts: int, fill: Fill) -> Trade:
        trade = Trade(self.next_trade_id, ts, fill.ticks, fill.lots, fill.maker_side)
        self.next_trade_id += 1
        self.trades.append(trade)
        second = ts // SECOND_NS
        start = second - second % MINUTE_S
        last = self.bars[-1]
        if last.start >= start:
            self.bars[-1] = Bar(
                last.start,
                last.open,
                max(last.high, fill.ticks),
                min(last.low, fill.ticks),
                fill.ticks,
                last.lots + fill.lots,
            )
        else:
            self.bars.append(Bar(start, fill.ticks, fill.ticks, fill.ticks, fill.ticks, fill.lots))
        return trade

    def _invent_bars(self, end_ns: int) -> None:
        """Make up the minute bars of the 24 hours before the start, the last of which closes at the first price."""
        end = end_ns // SECOND_NS // MINUTE_S * MINUTE_S
        walk = [0.0]
        for _ in range(DAY_S // MINUTE_S):
            walk.append(walk[-1] + self._random.gauss(0, 3e-4))
        closes = [round(math.exp(self._anchor + value - walk[-1])) for value in walk]
        for number, (opening, close) in enumerate(pairwise(closes)):
            wick = abs(self._random.gauss(0, 1e-4)) * close
            self.bars.append(
                Bar(
                    end - DAY_S + number * MINUTE_S,
                    opening,
                    round(max(opening, close) + wick),
                    max(1, round(min(opening, close) - wick)),
                    close,
                    50 * self._lots(close),
                )
            )
