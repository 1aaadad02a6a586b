"""Candles: md.trades to open, high, low, close and volume of 1m, 5m, 15m, 1h, 4h and 1d, on event time.

1. A candle covers [start, end) in UTC and is labelled by its start. Time is the newest `ts_event` seen, of trades and
   heartbeats; the watermark is that less a grace period.
2. A candle is `open` while the watermark has not reached its end: published when it starts and then at most every
   `open_ns` of event time. It is `final` once the watermark has, and `revised` by each later change.
3. A late trade changes high, low and volume; the open only when it is the first in event order, the close only when it
   is the last. Event order is time, then trade id where ids are numbers, then arrival.
4. Candles are kept for `keep_ns`. A live trade older than that can no longer be added rightly and becomes a dead
   letter. Candles that are no longer kept, and those before the first live event, belong to history (see `history`):
   old trades of a backfill or a repair leave them alone.
5. An interval without a trade becomes a marker (no prices, `trades` 0), valid when heartbeats tell that there was
   nothing, invalid with a reason when nobody can tell: `halted`, or a hole in the data.
6. A repair that is complete from one time to another closes the holes between them, and candles become valid.
7. Holes are: everything before the first event; from the last heartbeat before a `gap` or `disconnected` to the next
   valid event; and silence longer than `silence_ns` of a stream that has heartbeats. A candle that a hole touches is
   invalid even when it has trades; a halt spoils only intervals without any.
8. A cancel takes a trade back, and a correction takes its place: at its time, and on its side unless it tells another.
   Neither says when the trade was or how much, so the trades of venues that amend are remembered by id for as long as
   their minutes are kept, at most `REMEMBERED_MAX`. Volumes and counts are then exact in every candle of the trade. So
   are the prices where the trade was none of them; else a minute is made anew of its remembered trades, and a longer
   candle of its minutes. Where not all of those are there any more, the candle is invalid, `amended`.
9. Of a trade that is remembered no more nobody knows its candles: all with trades up to the newest forgotten one are
   `amended`, and a dead letter holds the amendment. A complete repair does not help, as it only adds. Where nothing was
   forgotten, the trade never came: an amendment waits for it, as it may yet come by a slower line. What a repair brings
   of a correction that is counted is not counted again.
10. A closed candle that was told to be `amended` is given up: history makes it anew of the trades that stand, and
   nothing that comes later is told of it here.
11. When time jumps over more than `MARKERS_MAX` intervals, only the last of them get markers, and one gap on the
   ledger tells of the rest.

Trades go into a bar of their minute first, which is merged into the six candles when something is to be published or
the minute changes: all six always hold the same trades, at a sixth of the work.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from itertools import islice
from typing import Any

import msgspec

from marketdata.clock import MILLISECOND_NS, SECOND_NS, format_rfc3339
from marketdata.decimals import EXACT, plain
from marketdata.errors import BadEvent
from marketdata.events import AMENDED, AMENDING, GAP, HALTED, AnyEvent, Candle, FeedStatus, Trade, Trades
from stream_apps.operators.validation import letter, part

MINUTE_NS = 60 * SECOND_NS
INTERVALS: dict[str, int] = {
    "1m": MINUTE_NS,
    "5m": 5 * MINUTE_NS,
    "15m": 15 * MINUTE_NS,
    "1h": 60 * MINUTE_NS,
    "4h": 240 * MINUTE_NS,
    "1d": 1440 * MINUTE_NS,
}
_NAMES = tuple(INTERVALS)
_LENGTHS = tuple(INTERVALS.values())

GRACE_NS = 2 * SECOND_NS
OPEN_NS = 250 * MILLISECOND_NS
SILENCE_NS = 5 * SECOND_NS
KEEP_NS = 120 * MINUTE_NS
MARKERS_MAX = 120
HOLES_MAX = 256
# Trades that amendments can find; what a checkpoint holds, so there is a limit.
REMEMBERED_MAX = 20_000

# What ended the gap of a jump: nothing repairs it here, and nothing waits for it.
PASSED_OVER = "passed_over"

_ZERO = Decimal(0)


class Bar(msgspec.Struct, array_like=True, gc=False):
    """Some trades of one interval. Keys are (ts_event, trade id as a number or -1): the event order."""

    trades: int
    open: str
    open_key: tuple[int, int]
    high: str
    high_value: Decimal
    low: str
    low_value: Decimal
    close: str
    close_key: tuple[int, int]
    volume: Decimal
    quote_volume: Decimal
    buy_volume: Decimal
    amended: bool = False

    def add(self, other: Bar) -> None:
        """Take in the trades of another bar, which arrived later."""
        self.trades += other.trades
        if other.open_key < self.open_key:
            self.open, self.open_key = other.open, other.open_key
        if other.close_key >= self.close_key:
            self.close, self.close_key = other.close, other.close_key
        # One price in two spellings: take the lesser text, so that the order of arrival does not matter.
        if (other.high_value, self.high) > (self.high_value, other.high):
            self.high, self.high_value = other.high, other.high_value
        if (other.low_value, other.low) < (self.low_value, self.low):
            self.low, self.low_value = other.low, other.low_value
        self.volume = EXACT.add(self.volume, other.volume)
        self.quote_volume = EXACT.add(self.quote_volume, other.quote_volume)
        self.buy_volume = EXACT.add(self.buy_volume, other.buy_volume)

    def add_trade(self, trade: Trade) -> None:
        """Take in one trade, which arrived later."""
        text = trade.price
        price, size = Decimal(text), Decimal(trade.size)
        key = (trade.ts_event, _order(trade.trade_id))
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

    def take(self, known: Known) -> None:
        """Take a trade out of the sums."""
        price, size = Decimal(known.price), Decimal(known.size)
        self.trades -= 1
        self.volume = EXACT.subtract(self.volume, size)
        self.quote_volume = EXACT.subtract(self.quote_volume, EXACT.multiply(price, size))
        if known.side == "buy":
            self.buy_volume = EXACT.subtract(self.buy_volume, size)

    def is_inner(self, trade: Trade) -> bool:
        """Tell whether a trade is certainly neither the first nor the last."""
        return self.open_key < (trade.ts_event, _order(trade.trade_id)) < self.close_key


class Known(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A counted trade; `live` tells whether it is in candles that end before the first event, `item` its arrival."""

    ts: int
    price: str
    size: str
    side: str
    live: bool
    item: int

    def trade(self, identity: str) -> Trade:
        """Return the trade."""
        return Trade(trade_id=identity, ts_event=self.ts, price=self.price, size=self.size, side=self.side)


class Waiting(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An amendment of a trade that never came: when it came itself, and the correction that takes its place, if any."""

    ts: int
    trade: Trade | None


class Memory(msgspec.Struct):
    """What amendments need of one symbol: counted trades by id, in order of arrival but for corrections.

    `forgotten` is the newest time of a counted trade that is remembered no more, `spoilt` up to when candles may hold
    one that was amended. `settled` are the ids, with the times, of trades whose amendment is done, and of corrections:
    whoever brings them once more (a repair, a slower line) changes nothing.
    """

    trades: dict[str, Known] = {}
    forgotten: int = 0
    spoilt: int = 0
    waiting: dict[str, Waiting] = {}
    settled: dict[str, int] = {}
    items: int = 0

    def standing(self, trade: Trade, original: str = "") -> Trade | None:
        """Return what a trade counts as that comes now, or takes the place of `original`: None when it does not count.

        Amendments may have come before it, and it may be counted already.
        """
        now = trade
        while (waiting := self.waiting.pop(now.trade_id, None)) is not None:
            self.settled[now.trade_id] = now.ts_event
            if waiting.trade is None:
                return None
            kept_id = waiting.trade.trade_id == now.trade_id
            now = amended(now, waiting.trade)
            if kept_id:
                return now
        if now.trade_id != original and (now.trade_id in self.trades or now.trade_id in self.settled):
            return None
        if now is not trade:
            self.settled[now.trade_id] = now.ts_event
        return now

    def keep(self, trade: Trade, *, live: bool, limit: int) -> None:
        """Remember a counted trade."""
        self.items += 1
        self.trades[trade.trade_id] = Known(
            trade.ts_event, trade.price, trade.size, trade.side, live=live, item=self.items
        )
        if len(self.trades) > limit:
            # Several at once: finding the first of a dict is slow when its beginning was deleted.
            for oldest in list(islice(self.trades, 1 + limit // 8)):
                self.forgotten = max(self.forgotten, self.trades.pop(oldest).ts)

    def forget(self, since: int) -> None:
        """Forget what is older than every kept minute."""
        for identity in [identity for identity, known in self.trades.items() if known.ts < since]:
            self.forgotten = max(self.forgotten, self.trades.pop(identity).ts)
        self.settled = {identity: ts for identity, ts in self.settled.items() if ts >= since}
        self.waiting = {identity: one for identity, one in self.waiting.items() if one.ts >= since}


def amended(trade: Trade, correction: Trade) -> Trade:
    """Return a trade after its correction, which keeps the time, and the side unless it tells another."""
    side = trade.side if correction.side == "unknown" else correction.side
    return msgspec.structs.replace(correction, ts_event=trade.ts_event, side=side)


def _order(identity: str) -> int:
    return int(identity) if len(identity) <= 18 and identity.isascii() and identity.isdigit() else -1


def _bar(trade: Trade) -> Bar:
    text = trade.price
    price, size = Decimal(text), Decimal(trade.size)
    key = (trade.ts_event, _order(trade.trade_id))
    cost = EXACT.multiply(price, size)
    return Bar(1, text, key, text, price, text, price, text, key, size, cost, size if trade.side == "buy" else _ZERO)


class Kept(msgspec.Struct, array_like=True, gc=False):
    """One candle: its trades, if any, its last revision (-1 before the first final), whether it was published.

    `given_up` is a closed one that history makes anew; its trades still count in longer candles.
    """

    bar: Bar | None
    revision: int = -1
    shown: bool = False
    given_up: bool = False


class Hole(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Event time [start, end) in which trades may be missing, or were halted."""

    start: int
    end: int
    reason: str


class Interval(msgspec.Struct):
    """The candles of one interval. Those that start before `next` are closed; `changed` are open and unpublished."""

    next: int = 0
    candles: dict[int, Kept] = {}
    changed: list[int] = []
    published: int = 0


class CandlesState(msgspec.Struct):
    """One symbol's candles.

    `now` is the newest event time, `first` the oldest, `vouched` the last heartbeat's; `bad_since` is when the hole
    began that is not over yet.
    """

    intervals: list[Interval]
    first: int | None = None
    now: int = 0
    vouched: int | None = None
    bad_since: int | None = None
    bad_reason: str = ""
    holes: list[Hole] = []
    pending: Bar | None = None
    pending_start: int = 0
    flushed: int = 0
    memory: Memory | None = None


class _Step:
    """What one step has found so far: closed candles that changed, and what is to be published."""

    __slots__ = ("event", "out", "revised")

    def __init__(self, event: Trades) -> None:
        self.event = event
        self.revised: set[tuple[int, int]] = set()
        self.out: list[AnyEvent] = []


class Candles:
    """The operator. Times are event time in nanoseconds; `keep_ns` is how late a trade may be."""

    name = "candles"
    input = "md.trades"
    outputs: tuple[str, ...] = ("md.candles", "md.status", "md.dead_letters")
    state = CandlesState

    def __init__(
        self,
        *,
        grace_ns: int = GRACE_NS,
        open_ns: int = OPEN_NS,
        silence_ns: int = SILENCE_NS,
        keep_ns: int = KEEP_NS,
        remembered_max: int = REMEMBERED_MAX,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._grace_ns = grace_ns
        self._open_ns = open_ns
        self._silence_ns = silence_ns
        self._keep_ns = keep_ns
        self._remembered_max = remembered_max

    def start(self, key: str) -> CandlesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return CandlesState(intervals=[Interval() for _ in _NAMES])

    def step(self, state: CandlesState, event: AnyEvent) -> tuple[CandlesState, list[AnyEvent]]:
        """Return the candles after some trades or a heartbeat, and what of them is to be published."""
        assert isinstance(event, Trades)  # noqa: S101 - the topic's schema
        step = _Step(event)
        if state.first is None:
            if event.origin != "live":
                self.counts["history"] += len(event.trades)
                return state, []
            self._begin(state, event)
        self._judge(state, step)
        if event.trades:
            self._take(state, step)
        if event.origin == "live":
            state.now = max(state.now, event.ts_event)
        if state.pending is not None and state.pending_start < state.intervals[0].next:
            self._merge(state, step)
        closes = state.now - self._grace_ns >= state.intervals[0].next + MINUTE_NS
        if closes:
            self._close(state, step)
        if step.revised:
            self._publish_revised(state, step)
        self._publish_open(state, step)
        if closes:
            self._forget(state)
            if state.memory is not None:
                state.memory.forget(self._kept_from(state))
        return state, step.out

    def _begin(self, state: CandlesState, event: Trades) -> None:
        first = min([trade.ts_event for trade in event.trades] + [event.ts_event])
        state.first = state.now = first
        if event.venue in AMENDING:
            state.memory = Memory()
        state.holes.append(Hole(0, first, GAP))
        for interval, length in zip(state.intervals, _LENGTHS, strict=True):
            interval.next = first - first % length

    # -- what is known of the data

    def _judge(self, state: CandlesState, step: _Step) -> None:
        """Find out whether data is missing between what came before and this event, or is missing no more."""
        event = step.event
        if event.origin != "live":
            if event.complete_from is not None:
                self._complete(state, step, event.complete_from, event.ts_event)
            return
        if state.bad_since is not None and (event.valid or event.reason != state.bad_reason):
            since = state.bad_since
            self._hole(state, step, Hole(since, max(event.ts_event, state.now, since + 1), state.bad_reason))
            state.bad_since = None
        if state.vouched is not None and event.ts_event - state.now > self._silence_ns:
            self._hole(state, step, Hole(state.now, event.ts_event, GAP))
        if event.valid:
            if not event.trades:
                state.vouched = max(state.vouched or 0, event.ts_event)
        elif state.bad_since is None:
            state.bad_reason = event.reason or GAP
            # Trades that are missing may be older than the newest that came, but not than the last heartbeat.
            complete = state.now - self._grace_ns if state.vouched is None else state.vouched
            since = event.ts_event if event.reason == HALTED else min(complete, event.ts_event)
            before = self._reasons(state, since, state.now)
            state.bad_since = since
            self._revise(state, step, before)

    def _hole(self, state: CandlesState, step: _Step, hole: Hole) -> None:
        before = self._reasons(state, hole.start, hole.end)
        state.holes.append(hole)
        if len(state.holes) > HOLES_MAX:
            one, two = state.holes[1:3]  # the first is what came before the first event, if that still matters
            state.holes[1:3] = [Hole(min(one.start, two.start), max(one.end, two.end), GAP)]
        self._revise(state, step, before)

    def _complete(self, state: CandlesState, step: _Step, start: int, end: int) -> None:
        """Take [start, end) out of the holes; what a halt left empty stays so."""
        before = self._reasons(state, start, end)
        holes: list[Hole] = []
        for hole in state.holes:
            if hole.reason == HALTED or hole.end <= start or end <= hole.start:
                holes.append(hole)
                continue
            if hole.start < start:
                holes.append(Hole(hole.start, start, hole.reason))
            if end < hole.end:
                holes.append(Hole(end, hole.end, hole.reason))
        state.holes = holes
        self._revise(state, step, before)

    def _reasons(self, state: CandlesState, start: int, end: int) -> dict[tuple[int, int], str]:
        """Return what is published of the closed candles that [start, end) touches."""
        start = max(start, state.first or 0, self._kept_from(state))
        reasons = {}
        for at, (interval, length) in enumerate(zip(state.intervals, _LENGTHS, strict=True)):
            for label in range(start - start % length, min(end, interval.next), length):
                kept = interval.candles.get(label)
                if kept is None or not kept.given_up:
                    reasons[at, label] = self._reason(state, label, length, kept.bar if kept else None)
        return reasons

    def _revise(self, state: CandlesState, step: _Step, before: dict[tuple[int, int], str]) -> None:
        for (at, label), reason in before.items():
            kept = state.intervals[at].candles.get(label)
            if self._reason(state, label, _LENGTHS[at], kept.bar if kept else None) != reason:
                if kept is None:
                    state.intervals[at].candles[label] = Kept(None, revision=0, shown=True)
                step.revised.add((at, label))

    @staticmethod
    def _reason(state: CandlesState, start: int, length: int, bar: Bar | None) -> str:
        """Return why a candle may not be trusted, empty when it may."""
        end = start + length
        halted = False
        if state.bad_since is not None and state.bad_since < end:
            if state.bad_reason != HALTED:
                return state.bad_reason
            halted = True
        for hole in state.holes:
            if hole.start < end and hole.end > start:
                if hole.reason != HALTED:
                    return hole.reason
                halted = True
        if bar is not None:
            spoilt = bar.amended or (state.memory is not None and start < state.memory.spoilt)
            return AMENDED if spoilt else ""
        if halted:
            return HALTED
        return GAP if state.vouched is None else ""

    # -- trades

    def _kept_from(self, state: CandlesState) -> int:
        since = state.now - self._keep_ns
        return since - since % MINUTE_NS

    def _take(self, state: CandlesState, step: _Step) -> None:
        live = step.event.origin == "live"
        late: list[Trade] = []
        unknown: list[Trade] = []
        for trade in step.event.trades:
            ts = trade.ts_event
            if trade.action != "new":
                if not self._amend(state, step, trade):
                    unknown.append(trade)
                continue
            if ts >= state.now:
                state.now = ts
            elif ts < self._kept_from(state):
                late.append(trade)
                continue
            if state.memory is None:
                self._add(state, step, trade)
            else:
                self._remember(state, state.memory, step, trade)
        if late and live:
            self._refuse(step, late, "late", "ts_event")
        elif late:
            self.counts["history"] += len(late)
        if unknown:
            self._refuse(step, unknown, "unknown_original", "trade_id")

    def _add(self, state: CandlesState, step: _Step, trade: Trade) -> None:
        minute = trade.ts_event - trade.ts_event % MINUTE_NS
        if state.pending is not None and minute == state.pending_start:
            state.pending.add_trade(trade)
        else:
            self._merge(state, step)
            state.pending, state.pending_start = _bar(trade), minute

    def _refuse(self, step: _Step, trades: list[Trade], reason: str, field: str) -> None:
        """Put trades that no candle can take into a dead letter."""
        self.counts[reason] += len(trades)
        error = BadEvent(reason, field, getattr(trades[0], field))
        step.out.append(letter(step.event, error, stage=self.name, payload=part(step.event, trades)))

    def _remember(self, state: CandlesState, memory: Memory, step: _Step, trade: Trade) -> None:
        """Add and remember what a new trade counts as, after amendments that came before it."""
        counted = memory.standing(trade)
        if counted is None:
            self.counts["amended_before"] += 1
        else:
            memory.keep(counted, live=step.event.origin == "live", limit=self._remembered_max)
            self._add(state, step, counted)

    # -- amendments

    def _amend(self, state: CandlesState, step: _Step, amendment: Trade) -> bool:
        """Do a correction or a cancel; False when the trade is one that nobody remembers."""
        self._merge(state, step)
        memory = state.memory
        if memory is None:  # the venue's first: what came before was not remembered
            memory = state.memory = Memory(forgotten=state.now)
        original = amendment.original_id or amendment.trade_id
        correction = amendment if amendment.action == "correct" else None
        known = memory.trades.get(original)
        if known is None:
            before = memory.waiting.get(original)
            if correction is not None and before is not None and before.trade is not None:
                correction = amended(before.trade, correction)
            memory.waiting[original] = Waiting(max(amendment.ts_event, state.now), correction)
            if len(memory.waiting) > REMEMBERED_MAX:
                del memory.waiting[next(iter(memory.waiting))]
            return self._spoil(state, step, memory)
        self.counts["amended"] += 1
        old = known.trade(original)
        new = None if correction is None else memory.standing(amended(old, correction), original)
        del memory.trades[original]
        memory.settled[original] = known.ts
        if new is not None:
            memory.settled[new.trade_id] = known.ts
            memory.trades[new.trade_id] = Known(
                new.ts_event, new.price, new.size, new.side, live=known.live, item=known.item
            )
        self._replace(state, step, known, old, new)
        return True

    def _spoil(self, state: CandlesState, step: _Step, memory: Memory) -> bool:
        """Trust no candle that may hold a forgotten trade; True when there is none."""
        spoilt = memory.forgotten + 1 if memory.forgotten else 0
        if spoilt > memory.spoilt:
            before = self._reasons(state, 0, spoilt)
            memory.spoilt = spoilt
            self._revise(state, step, before)
            for interval in state.intervals:
                open_ones = [label for label in interval.candles if interval.next <= label < spoilt]
                interval.changed += [label for label in open_ones if label not in interval.changed]
        return not spoilt

    def _replace(self, state: CandlesState, step: _Step, known: Known, old: Trade, new: Trade | None) -> None:
        """Put a trade in the place of another one in its six candles, or nothing."""
        for at, (interval, length) in enumerate(zip(state.intervals, _LENGTHS, strict=True)):
            label = known.ts - known.ts % length
            kept = interval.candles.get(label)
            if kept is None or kept.bar is None or not _counts(state, known, label + length):
                continue
            bar = kept.bar
            exact = not bar.amended and _is_none_of_the_prices(bar, old, new)
            bar.take(known)
            if new is not None:
                bar.add_trade(new)
            if not exact:
                made = self._anew(state, at, label, bar.trades)
                if made is None and bar.trades:
                    bar.amended = True
                else:
                    kept.bar = made
            if kept.given_up:
                continue
            if label < interval.next:
                step.revised.add((at, label))
            elif label not in interval.changed:
                interval.changed.append(label)

    @staticmethod
    def _anew(state: CandlesState, at: int, label: int, trades: int) -> Bar | None:
        """Return a candle made of its remembered trades or of its minutes, None when they are not all there."""
        end = label + _LENGTHS[at]
        bars: list[Bar] = []
        if at == 0 and state.memory is not None:
            found = [
                (known.item, known.trade(identity))
                for identity, known in state.memory.trades.items()
                if label <= known.ts < end and _counts(state, known, end)
            ]
            bars = [_bar(trade) for _, trade in sorted(found, key=lambda one: one[0])]
        elif at:
            minutes = state.intervals[0].candles
            bars = [
                kept.bar for start, kept in sorted(minutes.items()) if label <= start < end and kept.bar is not None
            ]
        if not bars or sum(bar.trades for bar in bars) != trades or any(bar.amended for bar in bars):
            return None
        made = msgspec.structs.replace(bars[0])
        for bar in bars[1:]:
            made.add(bar)
        return made

    @staticmethod
    def _merge(state: CandlesState, step: _Step) -> None:
        """Move the waiting trades into the six candles that they belong to."""
        pending, minute = state.pending, state.pending_start
        if pending is None:
            return
        state.pending = None
        for at, (interval, length) in enumerate(zip(state.intervals, _LENGTHS, strict=True)):
            label = minute - minute % length
            kept = interval.candles.get(label)
            closed = label < interval.next
            if label + length <= (state.first or 0) and step.event.origin != "live":
                continue  # history's
            if kept is None:
                # Closed and not here: its marker was its first final, unless it is older than the first event.
                had_marker = closed and label + length > (state.first or 0)
                kept = interval.candles[label] = Kept(None, 0 if had_marker else -1)
            if kept.bar is None:
                kept.bar = msgspec.structs.replace(pending)
            else:
                kept.bar.add(pending)
            if kept.given_up:
                continue
            if closed:
                step.revised.add((at, label))
            elif label not in interval.changed:
                interval.changed.append(label)

    # -- publishing

    def _close(self, state: CandlesState, step: _Step) -> None:
        """Publish every candle whose end the watermark has reached as final."""
        self._merge(state, step)
        watermark = state.now - self._grace_ns
        skipped: list[int] = []
        for at, (interval, length) in enumerate(zip(state.intervals, _LENGTHS, strict=True)):
            stop = watermark - watermark % length
            if interval.next >= stop:
                continue
            marked_from = max(interval.next, stop - MARKERS_MAX * length)
            if marked_from > interval.next:
                skipped += [interval.next, marked_from]
            labels = {label for label in interval.candles if interval.next <= label < stop}
            for label in sorted(labels.union(range(marked_from, stop, length))):
                kept = interval.candles.get(label)
                if kept is not None:
                    kept.revision = 0
                step.out.append(self._closed(state, step, at, label, kept or Kept(None, 0)))
            interval.next = stop
            interval.changed = [label for label in interval.changed if label >= stop]
        if skipped:
            step.out += _jump(step.event, min(skipped), max(skipped))
            self.counts["jumps"] += 1

    def _forget(self, state: CandlesState) -> None:
        kept_from = self._kept_from(state)
        for interval, length in zip(state.intervals, _LENGTHS, strict=True):
            for label in [label for label in interval.candles if label + length <= kept_from]:
                del interval.candles[label]
        oldest = kept_from - kept_from % _LENGTHS[-1]
        if any(hole.end <= oldest for hole in state.holes):
            state.holes = [hole for hole in state.holes if hole.end > oldest]

    def _publish_revised(self, state: CandlesState, step: _Step) -> None:
        for at, label in sorted(step.revised):
            kept = state.intervals[at].candles[label]
            kept.revision += 1
            self.counts["revised" if kept.revision else "before_first"] += 1
            step.out.append(self._closed(state, step, at, label, kept))

    def _closed(self, state: CandlesState, step: _Step, at: int, start: int, kept: Kept) -> Candle:
        candle = self._candle(state, step, at, start, kept)
        kept.given_up = candle.reason == AMENDED
        return candle

    def _publish_open(self, state: CandlesState, step: _Step) -> None:
        new = state.pending is not None and state.pending_start not in state.intervals[0].candles
        if not new and state.now - state.flushed < self._open_ns:
            return
        state.flushed = state.now
        self._merge(state, step)
        for at, interval in enumerate(state.intervals):
            if not interval.changed:
                continue
            due = state.now - interval.published >= self._open_ns
            for label in sorted(interval.changed):
                kept = interval.candles[label]
                if due or not kept.shown:
                    kept.shown = True
                    interval.changed.remove(label)
                    interval.published = state.now
                    step.out.append(self._candle(state, step, at, label, kept))

    def _candle(self, state: CandlesState, step: _Step, at: int, start: int, kept: Kept) -> Candle:
        event, bar = step.event, kept.bar
        length = _LENGTHS[at]
        reason = self._reason(state, start, length, bar)
        known: dict[str, Any] = {"quote_volume": "0", "buy_volume": "0", "trades": 0}
        if bar is not None:
            known = {
                "open": _text(bar.open),
                "high": _text(bar.high),
                "low": _text(bar.low),
                "close": _text(bar.close),
                "volume": plain(bar.volume),
                "quote_volume": plain(bar.quote_volume),
                "buy_volume": plain(bar.buy_volume),
                "trades": bar.trades,
            }
        return Candle(
            venue=event.venue,
            symbol=event.symbol,
            interval=_NAMES[at],
            start=start,
            end=start + length,
            ts_event=state.now,
            ts_recv=event.ts_recv,
            state="open" if kept.revision < 0 else "revised" if kept.revision else "final",
            revision=max(kept.revision, 0),
            origin=event.origin,
            valid=not reason,
            reason=reason,
            **known,
        )


def _counts(state: CandlesState, known: Known, end: int) -> bool:
    """Tell whether a counted trade is in its candle that ends at `end`: some are history's."""
    return known.live or end > (state.first or 0)


def _is_none_of_the_prices(bar: Bar, old: Trade, new: Trade | None) -> bool:
    """Tell whether open, high, low and close stay right when `new` takes the place of `old`."""
    price = Decimal(old.price)
    inside = bar.low_value < price < bar.high_value and bar.is_inner(old)
    return inside and (new is None or bar.is_inner(new))


def _text(price: str) -> str:
    """Return a price as the venue wrote it, unless it wrote an exponent."""
    return plain(Decimal(price)) if "e" in price or "E" in price else price


def _jump(event: Trades, start: int, end: int) -> list[FeedStatus]:
    """Return the one gap, already closed, that tells of the intervals which get no markers."""
    gap_id = f"{event.venue}:{event.symbol}:candles:{start}"
    opened = FeedStatus(
        venue=event.venue,
        symbol=event.symbol,
        ts_event=event.ts_event,
        ts_recv=event.ts_recv,
        line=event.line,
        kind="gap",
        reason=GAP,
        detail=f"no data: no candles from {format_rfc3339(start)} to {format_rfc3339(end)}",
        channel="candles",
        gap_id=gap_id,
        ts_from=start,
        ts_to=end,
    )
    return [opened, msgspec.structs.replace(opened, kind="resynced", reason=PASSED_OVER, detail="time went on")]
