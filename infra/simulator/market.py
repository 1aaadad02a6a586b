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

from infra.simulator.matching import ASK, BID, Change, Fill, Matching
from infra.simulator.record import ChangeRecord, Trade, TradeRecord
from marketdata.clock import SECOND_NS
from marketdata.errors import SettingsError, TickstreamError

MINUTE_S = 60
DAY_S = 86_400

# The flow keeps about this many resting orders on both sides together; a side with fewer levels gets limit orders only.
ORDERS_TARGET = 1_200
LEVELS_MIN = 20

# What is remembered at least, and at most twice as much: trades for REST and the record, book versions for `book_at`.
BARS_MAX = 2 * DAY_S // MINUTE_S
TRADES_KEPT = 100_000
VERSIONS_KEPT = 50_000

# Events before the start, within the minute before it, so that a new client finds recent trades.
WARM_EVENTS = 2_500
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
# Where the prices of made-up products begin, and their ticks: tens of thousands of ticks each.
_PRICES = (
    ("0.82134", "0.00001"), ("3.4471", "0.0001"), ("12.871", "0.0001"), ("47.362", "0.001"), ("118.525", "0.001"),
    ("352.19", "0.01"), ("905.44", "0.01"), ("2731.08", "0.01"),
)  # fmt: skip
SYMBOLS_MAX = 500


def product(symbol: str) -> Product:
    """Return a product by its symbol such as `BTC-USD`; one that we do not know begins at 100.00.

    Raises SettingsError when it is no such symbol.
    """
    if symbol in _PRODUCTS:
        return _PRODUCTS[symbol]
    base, dash, quote = symbol.partition("-")
    if not (dash and base.isalnum() and quote.isalnum() and symbol == symbol.upper()):
        raise SettingsError(f"COINBASE_PRODUCTS: {symbol!r} is no product; they look like BTC-USD")
    number = base.removeprefix("SIM")
    if number != base and number.isdigit():
        # Prices of four orders of magnitude, each with as many ticks as a market of that price has.
        price, tick = _PRICES[int(number) % len(_PRICES)]
        return Product(symbol, base, quote, f"Simulated {number}", "US Dollar", price, tick)
    return Product(symbol, base, quote, base, quote, "100")


def symbols_of(count: int) -> tuple[str, ...]:
    """Return the symbols of a number of products: the known ones first, then SIM005-USD and so on."""
    known = list(_PRODUCTS)[:count]
    return (*known, *(f"SIM{number:03d}-USD" for number in range(len(known) + 1, count + 1)))


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

    `ts` is the time at which it begins, UTC nanoseconds; trade ids are consecutive from `first_trade_id`.
    """

    def __init__(
        self,
        product: Product,
        seed: int,
        ts: int,
        first_trade_id: int = 1,
        *,
        trades_kept: int = TRADES_KEPT,
        versions_kept: int = VERSIONS_KEPT,
        warm_events: int = WARM_EVENTS,
    ) -> None:
        self.product = product
        self.price = Increment(product.tick)
        self.size = Increment(product.lot)
        self.book = Matching()
        self.halted = False
        self.version = 0
        self.ts = ts
        self.first_trade_id = first_trade_id
        self.trades = TradeRecord(first_trade_id, trades_kept)
        self.bars: deque[Bar] = deque(maxlen=BARS_MAX)
        self._random = random.Random(f"{seed}:{product.symbol}")
        self._tick = float(self.price.value)
        self._lots_per_unit = 1 / float(self.size.value)
        self._anchor = math.log(float(product.price) / self._tick)
        self._fair = self._anchor
        self._changes = ChangeRecord(versions_kept)
        self._closed_at = -1
        self._closed: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._invent_bars(ts - _WARM_NS)
        for place in range(ORDERS_TARGET):
            self._enter_limit(BID if place % 2 else ASK)
        self.book.take_changes()
        for place in range(warm_events):
            self.step(ts - _WARM_NS + place * _WARM_NS // warm_events)

    @property
    def next_trade_id(self) -> int:
        """The id that the next trade gets."""
        return self.trades.first_id + len(self.trades)

    @property
    def versions_kept_from(self) -> int:
        """The oldest version for which `book_at` has an answer."""
        return self.version - len(self._changes)

    def step(self, ts: int) -> Step:
        """Enter one random order at `ts` and return what it did; nothing happens while the product is halted."""
        self.ts = ts
        if self.halted:
            return Step(ts, self.version, [], [])
        self._fair += self._random.gauss(0, _STEP_DEVIATION) + _PULL * (self._anchor - self._fair)
        fills = self._enter()
        trades = [self._record(ts, fill) for fill in fills] if fills else []
        changes = self.book.take_changes()
        self.version += 1
        self._changes.append(changes)
        return Step(ts, self.version, changes, trades)

    def changes_newest_first(self) -> Iterator[list[tuple[int, int, int]]]:
        """Yield what each version changed, (side, ticks, lots before), from the last version to the oldest kept."""
        return self._changes.newest_first()

    def book_at(self, version: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return bids and asks as (ticks, lots), best first, as they were after the step of that version.

        Raises HistoryGone when that is too long ago.
        """
        oldest = self.versions_kept_from
        if not oldest <= version <= self.version:
            raise HistoryGone(f"{self.product.symbol}: book versions {oldest} to {self.version} are at hand")
        sides = {BID: dict(self.book.levels(BID)), ASK: dict(self.book.levels(ASK))}
        for side, ticks, before in self._changes.undone(self.version - version):
            if before:
                sides[side][ticks] = before
            else:
                sides[side].pop(ticks, None)
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
        return list(islice(self.trades.newest_first(start_ns, end_ns), count))

    def _enter(self) -> list[Fill]:
        book = self.book
        if book.depth(BID) < LEVELS_MIN:
            return self._enter_limit(BID)
        if book.depth(ASK) < LEVELS_MIN:
            return self._enter_limit(ASK)
        resting = len(book)
        pressure = min(1.15, resting / ORDERS_TARGET)
        choice = self._random.random()
        if choice < _CANCEL_SHARE * pressure * pressure:
            book.cancel(book.order_id(int(self._random.random() * resting)))
            return []
        if choice < _LIMIT_SHARE + _CANCEL_SHARE:
            return self._enter_limit(BID if self._random.random() < 0.5 else ASK)
        return self._enter_market()

    def _enter_limit(self, side: int) -> list[Fill]:
        fair = math.exp(self._fair)
        choice = self._random.random()
        near, middling, deep = _DISTANCES
        mean = near[1] if choice <= near[0] else middling[1] if choice <= middling[0] else deep[1]
        distance = 0.5 - math.log(1.0 - self._random.random()) * max(0.5, mean * fair)
        ticks = max(1, math.floor(fair - distance) if side == BID else math.ceil(fair + distance))
        return self.book.limit(side, ticks, self._lots(fair))[1]

    def _enter_market(self) -> list[Fill]:
        fair = math.exp(self._fair)
        bid, ask = self.book.best(BID), self.book.best(ASK)
        lean = 0.5 if bid is None or ask is None else 0.5 + 0.15 * math.copysign(1, fair - (bid + ask) / 2)
        side = BID if self._random.random() < lean else ASK
        return self.book.market(side, self._lots(fair))

    def _lots(self, fair: float) -> int:
        value = _VALUE_MEDIAN * min(200.0, math.exp(self._random.gauss(0, _VALUE_SPREAD)))
        size = value / (fair * self._tick)
        # People trade round sizes now and then.
        if self._random.random() < 0.15:
            size = round(size, 2)
        return max(1, round(size * self._lots_per_unit))

    def _record(self, ts: int, fill: Fill) -> Trade:
        trade = self.trades.append(ts, fill.ticks, fill.lots, fill.maker_side)
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
