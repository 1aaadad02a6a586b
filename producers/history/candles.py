"""Candles of history, pure: made from trades, rolled up to longer intervals, compared with what is stored.

The numbers are those that the stream app makes of the same trades, with the same sums (`marketdata.ohlcv`): exact,
prices as the venue wrote them, event order is time, then trade id where ids are numbers, then arrival.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple

import msgspec

from marketdata.bar_candle import candle_of
from marketdata.clock import MINUTE_NS
from marketdata.decimals import EXACT, plain
from marketdata.events import HALTED, Candle, CandleHistory, Trade
from marketdata.intervals import INTERVALS
from marketdata.ohlcv import Bar
from producers.venues.kit.history import Span

# A day of minutes is one record of some 100 kB.
CANDLES_A_RECORD = 1_440


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The newest revision of a candle in the database."""

    interval: str
    start_ns: int
    state: str
    revision: int
    valid: bool
    reason: str
    open: str | None
    high: str | None
    low: str | None
    close: str | None
    volume: str
    quote_volume: str | None
    buy_volume: str | None
    trades: int | None
    ts_recv_ns: int = 0


class Minutes:
    """Makes one-minute candles of one symbol's trades, each minute once all of its trades are in.

    Corrections and cancels change the trades that they amend, whichever came first, and count for nothing themselves.
    One whose trade never comes is of a minute that was taken before: the scan finds those once it is stored.
    """

    def __init__(self, venue: str, symbol: str, origin: str) -> None:
        self._name = Name(venue, symbol, origin)
        self._trades: list[Trade | None] = []  # in the order in which they came; None is one that was canceled
        self._places: dict[str, int] = {}
        self._amendments: list[Trade] = []

    def add(self, trades: Iterable[Trade]) -> None:
        """Take in trades and what amends them."""
        for trade in trades:
            if trade.action != "new":
                self._amendments.append(trade)
            else:
                self._places[trade.trade_id] = len(self._trades)
                self._trades.append(trade)

    def _amend(self) -> None:
        """Put each correction in the place of its trade: at that one's time, on its side unless it names another."""
        waiting = []
        for amendment in self._amendments:
            place = self._places.pop(amendment.original_id or amendment.trade_id, None)
            known = None if place is None else self._trades[place]
            if place is None or known is None:
                waiting.append(amendment)
            elif amendment.action == "cancel":
                self._trades[place] = None
            else:
                side = known.side if amendment.side == "unknown" else amendment.side
                self._trades[place] = msgspec.structs.replace(amendment, ts_event=known.ts_event, side=side)
                self._places[amendment.trade_id] = place
        self._amendments = waiting

    def _bars(self) -> dict[int, Bar]:
        bars: dict[int, Bar] = {}
        for trade in self._trades:
            if trade is None or trade.updates_nothing:
                continue
            minute = trade.ts_event - trade.ts_event % MINUTE_NS
            bar = bars.get(minute)
            if bar is None:
                bars[minute] = Bar(trade)
            else:
                bar.add_trade(trade)
        return bars

    def take(self, start: int, end: int) -> dict[int, Candle]:
        """Return every minute of [start, end), those without trades as markers, and forget what is older than `end`."""
        self._amend()
        bars, made = self._bars(), {}
        for minute in range(start, end, MINUTE_NS):
            made[minute] = final_candle(self._name, "1m", minute, bars.get(minute))
        self._trades = [trade for trade in self._trades if trade is not None and trade.ts_event >= end]
        self._places = {trade.trade_id: place for place, trade in enumerate(self._trades) if trade is not None}
        # Trades come by time, so that what an older amendment is of was taken already.
        self._amendments = [one for one in self._amendments if one.ts_event >= end]
        return made


class Name(NamedTuple):
    """Whose candles they are, and where they come from."""

    venue: str
    symbol: str
    origin: str


def filled(
    name: Name, interval: str, candles: Mapping[int, Candle], span: tuple[int, int], missing: Collection[Span] = ()
) -> dict[int, Candle]:
    """Return the candles of a span with a marker for each that is absent, except in what the venue does not have."""
    length = INTERVALS[interval]
    found = {}
    for label in range(-(-span[0] // length) * length, span[1] - length + 1, length):
        candle = candles.get(label)
        if candle is None and any(gone.start < label + length and label < gone.end for gone in missing):
            continue
        found[label] = candle or final_candle(name, interval, label)
    return found


def roll_up(parts: Mapping[int, Candle], of: str, to: str) -> dict[int, Candle]:
    """Return the candles of the longer interval `to` whose parts (candles of the interval `of`) are all there."""
    step, length = INTERVALS[of], INTERVALS[to]
    made = {}
    for label in sorted({start - start % length for start in parts}):
        inside = [parts.get(start) for start in range(label, label + length, step)]
        whole = [part for part in inside if part is not None]
        if len(whole) == len(inside):
            made[label] = _joined(whole, to, label)
    return made


def final_candle(name: Name, interval: str, start: int, bar: Bar | None = None) -> Candle:
    """Return the final candle of a bar; without one, the marker of an interval without trades."""
    end = start + INTERVALS[interval]
    return candle_of(
        bar,
        venue=name.venue,
        symbol=name.symbol,
        origin=name.origin,
        interval=interval,
        start=start,
        end=end,
        ts_event=end,
        ts_recv=end,
    )


def _joined(parts: list[Candle], interval: str, start: int) -> Candle:
    first = parts[0]
    candle = final_candle(Name(first.venue, first.symbol, first.origin), interval, start)
    traded = [part for part in parts if part.open is not None or part.high is not None or Decimal(part.volume)]
    if not traded:
        return candle
    # A part has volume and no prices where its trades are excluded from them.
    opened = [part for part in traded if part.open is not None]
    # A sum over parts of which one is unknown is unknown, too.
    return msgspec.structs.replace(
        candle,
        open=opened[0].open if opened else None,
        high=max((part.high for part in traded if part.high is not None), key=Decimal, default=None),
        low=min((part.low for part in traded if part.low is not None), key=Decimal, default=None),
        close=opened[-1].close if opened else None,
        volume=_sum(part.volume for part in traded),
        quote_volume=_sum(part.quote_volume for part in traded),
        buy_volume=_sum(part.buy_volume for part in traded),
        trades=_count(part.trades for part in traded),
    )


def _sum(numbers: Iterable[str | None]) -> str | None:
    total = Decimal(0)
    for number in numbers:
        if number is None:
            return None
        total = EXACT.add(total, Decimal(number))
    return plain(total)


def _count(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(number or 0 for number in known)


def next_revision(candle: Candle, stored: Stored | None, *, changed: bool = False) -> int | None:
    """Return the revision that a candle of history would be, None when what is stored stays.

    A stored, valid candle is replaced only by one that differs and counts at least as many trades: a venue's candle
    without a count never replaces one that was made here. A halt is not a gap. A candle whose trades have `changed`
    since it was made is always replaced.
    """
    if stored is None:
        return 0
    if stored.state == "open" or (not stored.valid and stored.reason == HALTED):
        return None
    if not stored.valid or changed:
        return stored.revision + 1
    if not candle.trades or candle.trades < (stored.trades or 0) or _same(candle, stored):
        return None
    return stored.revision + 1


def _same(candle: Candle, stored: Stored) -> bool:
    return all(
        (None if ours is None else Decimal(ours)) == (None if theirs is None else Decimal(theirs))
        for ours, theirs in (
            (candle.open, stored.open),
            (candle.high, stored.high),
            (candle.low, stored.low),
            (candle.close, stored.close),
            (candle.volume, stored.volume),
        )
    )


def records(candles: Iterable[Candle], line: str, ts_recv: int) -> list[CandleHistory]:
    """Return candles as records: neighbours of one interval and one revision share one."""
    made: list[CandleHistory] = []
    run: list[Candle] = []
    for candle in sorted(candles, key=lambda one: (one.interval, one.start)):
        last = run[-1] if run else None
        follows = last is not None and (last.interval, last.end, last.revision, last.origin) == (
            candle.interval, candle.start, candle.revision, candle.origin
        )  # fmt: skip
        if run and (not follows or len(run) == CANDLES_A_RECORD):
            made.append(_record(run, line, ts_recv))
            run = []
        run.append(candle)
    return [*made, _record(run, line, ts_recv)] if run else made


def _record(run: list[Candle], line: str, ts_recv: int) -> CandleHistory:
    first = run[0]
    return CandleHistory(
        venue=first.venue,
        symbol=first.symbol,
        ts_event=run[-1].end,
        ts_recv=ts_recv,
        line=line,
        origin=first.origin,
        interval=first.interval,
        start=first.start,
        revision=first.revision,
        opens=[one.open or "" for one in run],
        highs=[one.high or "" for one in run],
        lows=[one.low or "" for one in run],
        closes=[one.close or "" for one in run],
        volumes=[one.volume for one in run],
        quote_volumes=[one.quote_volume for one in run],
        buy_volumes=[one.buy_volume for one in run],
        trades=[one.trades for one in run],
    )
