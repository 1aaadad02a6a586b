"""Candles: turns trades into open, high, low, close and volume of 1m, 5m, 15m, 1h, 4h and 1d, in event time.

1. A candle covers [start, end) in UTC and is labelled by its start. Time is the newest `ts_event` of trades and
   heartbeats; the watermark is this time minus a grace period.
2. A candle is `open` until the watermark reaches its end: it is published when it starts, then at most once per
   `open_ns` of event time, and at once when it becomes invalid. Then it becomes `final`, and `revised` with each later
   change.
3. A late trade changes high, low and volume. It changes the open only when it is first in event order, and the close
   only when it is last. Event order is time, then trade id where ids are numbers, then arrival. A trade does not change
   what it is excluded from (`Trade.excluded_from`): a candle may have a volume and no prices, or one pair of them.
4. Candles are kept for `keep_ns`. A live trade older than that can no longer be added correctly and becomes a dead
   letter. Candles that are no longer kept, and those before the first live event, belong to history (see
   `ingest_candles`): old trades of a backfill or a repair do not change them.
5. An interval without trades that count becomes a marker (no prices, `trades` 0). It is valid when heartbeats show that
   there were none, or trades arrived that do not count, and otherwise invalid with a reason: `halted`, or a gap in the
   data (see `candle_validity`).
6. Corrections and cancels change the candles of their trades (see `candle_amendments`). Once a closed candle has been
   published as `amended`, history recomputes it and it is no longer revised here.
7. When time jumps over more than 120 intervals, only the last of them get markers, and one gap on the ledger
   covers the rest.

Trades are first added to a bar of their minute. It is merged into the six candles when something is published or the
minute changes, so all six always contain the same trades at a sixth of the work.

The state of a busy symbol takes about 18 KB in a checkpoint: 160 candles of 110 bytes. Up to 256 interruptions add at
most 7 KB. If the venue amends trades, up to 5,000 of them are remembered, at about 60 bytes each.
"""

from __future__ import annotations

from collections import Counter
from typing import cast

from marketdata.bar_candle import candle_of, of_recipe
from marketdata.clock import format_rfc3339
from marketdata.errors import BadEvent
from marketdata.events import AMENDED, GAP, AnyEvent, Candle, FeedStatus, Trade, Trades
from marketdata.sided_bar import SidedBar
from stream_apps.operators.amendments import TradeMemory
from stream_apps.operators.candle_amendments import amend
from stream_apps.operators.candle_state import (
    CANDLES,
    CandlesState,
    Interruption,
    Interval,
    Kept,
    Limits,
    Step,
    kept_at,
    kept_from,
    mark_changed,
)
from stream_apps.operators.candle_validity import judge, published_reasons, reason_of, revise
from stream_apps.operators.losses import passed_over
from stream_apps.operators.validation import letter, part

__all__ = ["KEEP_NS", "MARKERS_MAX", "Candles", "CandlesState", "Limits"]

KEEP_NS = Limits().keep_ns
_MINUTE_NS = CANDLES.lengths[0]
MARKERS_MAX = CANDLES.markers_max


class Candles:
    """The operator."""

    name: str
    input = "md.trades"
    outputs: tuple[str, ...] = ("md.candles", "md.status", "md.dead_letters")
    state = CandlesState

    def __init__(self, limits: Limits | None = None, name: str = "candles") -> None:
        self.name = name  # the stage of its dead letters
        self.counts: Counter[str] = Counter()
        self._limits = limits or Limits()

    def start(self, key: str) -> CandlesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return CandlesState(intervals=[Interval() for _ in CANDLES.lengths])

    def step(self, state: CandlesState, event: AnyEvent) -> tuple[CandlesState, list[AnyEvent]]:
        """Return the candles after a message of trades or a heartbeat, and the events to publish."""
        assert isinstance(event, Trades)  # noqa: S101 - the topic's schema
        limits = self._limits
        added = add_fast(state, event, limits, _MINUTE_NS)
        if added and state.now - state.flushed < limits.open_ns:
            return state, []
        return state, self.advance(state, Step(event, limits, CANDLES), added=added)

    def advance(self, state: CandlesState, step: Step, *, added: bool) -> list[AnyEvent]:
        """Apply an event to candles of any layout, unless `add_fast` has added it; return the events to publish."""
        limits, unit = step.limits, step.layout.lengths[0]
        if not added and not self._apply(state, step):
            return []
        closes = state.now - limits.grace_ns >= state.intervals[0].next + unit
        if closes:
            self._close(state, step)
        if step.revised:
            self._publish_revised(state, step)
        _publish_open(state, step)
        if closes:
            _forget(state, step)
        return step.out

    def _apply(self, state: CandlesState, step: Step) -> bool:
        """Apply an event; False when there was no live event yet."""
        event = step.event
        if state.first is None:
            if event.origin != "live":
                self.counts["history"] += len(event.trades)
                return False
            _begin(state, step)
        judge(state, step)
        if event.trades:
            self._take(state, step)
        if event.origin == "live":
            state.now = max(state.now, event.ts_event)
        if state.pending is not None and state.pending_start < state.intervals[0].next:
            _merge(state, step)
        return True

    def _take(self, state: CandlesState, step: Step) -> None:
        live = step.event.origin == "live"
        late: list[Trade] = []
        unknown: list[Trade] = []
        for trade in step.event.trades:
            ts = trade.ts_event
            if trade.action != "new":
                _merge(state, step)
                if not amend(state, step, trade, self.counts):
                    unknown.append(trade)
                continue
            if ts >= state.now:
                state.now = ts
            elif ts < kept_from(state, step):
                late.append(trade)
                continue
            if state.memory is None:
                _add(state, step, trade)
            else:
                self._remember(state, state.memory, step, trade)
        if late and live:
            self._refuse(step, late, "late", "ts_event")
        elif late:
            self.counts["history"] += len(late)
        if unknown:
            self._refuse(step, unknown, "unknown_original", "trade_id")

    def _refuse(self, step: Step, trades: list[Trade], reason: str, field: str) -> None:
        """Publish a dead letter with trades that no candle can contain."""
        self.counts[reason] += len(trades)
        error = BadEvent(reason, field, getattr(trades[0], field))
        step.out.append(letter(step.event, error, stage=self.name, payload=part(step.event, trades)))

    def _remember(self, state: CandlesState, memory: TradeMemory, step: Step, trade: Trade) -> None:
        """Add and remember a new trade, as changed by amendments that arrived before it."""
        counted = memory.standing(trade)
        if counted is None:
            self.counts["amended_before"] += 1
        else:
            memory.keep(counted, live=step.event.origin == "live", limit=step.limits.remembered_max)
            _add(state, step, counted)

    def _close(self, state: CandlesState, step: Step) -> None:
        """Publish as final every candle whose end the watermark has reached."""
        _merge(state, step)
        layout, watermark = step.layout, state.now - step.limits.grace_ns
        skipped: list[int] = []
        for at, (interval, length) in enumerate(zip(state.intervals, layout.lengths, strict=True)):
            stop = watermark - watermark % length
            if interval.next >= stop:
                continue
            marked_from = max(interval.next, stop - layout.markers_max * length)
            if marked_from > interval.next:
                skipped += [interval.next, marked_from]
            labels = {label for label in interval.candles if interval.next <= label < stop}
            for label in sorted(labels.union(range(marked_from, stop, length))):
                kept = interval.candles.get(label)
                if kept is not None:
                    kept.revision = 0
                if layout.names[at] is not None:
                    step.out.append(_closed(state, step, at, label, kept or Kept(None, 0)))
            interval.next = stop
            interval.changed = [label for label in interval.changed if label >= stop]
        if skipped:
            step.out += _jump(step, min(skipped), max(skipped))
            self.counts["jumps"] += 1

    def _publish_revised(self, state: CandlesState, step: Step) -> None:
        for at, label in sorted(step.revised):
            kept = state.intervals[at].candles[label]
            kept.revision += 1
            if step.layout.names[at] is None:
                continue
            self.counts["revised" if kept.revision else "before_first"] += 1
            step.out.append(_closed(state, step, at, label, kept))


def _begin(state: CandlesState, step: Step) -> None:
    event = step.event
    first = min([trade.ts_event for trade in event.trades] + [event.ts_event])
    state.first = state.now = first
    if event.amendable:
        state.memory = TradeMemory()
    state.interruptions.append(Interruption(0, first, GAP))
    for interval, length in zip(state.intervals, step.layout.lengths, strict=True):
        interval.next = first - first % length


# --- Trades ---


def add_fast(state: CandlesState, event: Trades, limits: Limits, unit: int) -> bool:
    """Add the trades of an event on the fast path: valid live trades of the newest minute (`unit`), as nearly all are.

    False, with nothing changed, when the event needs the general path.
    """
    pending, now = state.pending, state.now
    if pending is None or state.memory is not None or not event.valid or event.origin != "live" or not event.trades:
        return False
    end = state.pending_start + unit
    ts = event.ts_event
    if now >= end or state.bad_since is not None or (state.heartbeat_ts is not None and ts - now > limits.silence_ns):
        return False
    newest = pending.add_new(event.trades, end - unit, end)
    if newest < 0:
        return False
    state.now = max(now, newest, ts)
    return True


def _add(state: CandlesState, step: Step, trade: Trade) -> None:
    if trade.updates_nothing:
        _note_uncounted(state, step, trade.ts_event)
        return
    minute = trade.ts_event - trade.ts_event % step.layout.lengths[0]
    if state.pending is not None and minute == state.pending_start:
        state.pending.add_trade(trade)
    else:
        _merge(state, step)
        state.pending, state.pending_start = step.layout.bar(trade), minute


def _note_uncounted(state: CandlesState, step: Step, ts: int) -> None:
    """Note in the candles of a time that a trade arrived which does not count: it may be corrected, and then count."""
    if not step.event.valid or ts < (state.first or 0):
        return
    before = published_reasons(state, step, ts, ts + 1)
    for interval, length in zip(state.intervals, step.layout.lengths, strict=True):
        kept_at(state, interval, ts - ts % length, length).has_uncounted = True
    revise(state, step, before)


def _merge(state: CandlesState, step: Step) -> None:
    """Merge the pending trades into their candles, one of each length."""
    pending, minute = state.pending, state.pending_start
    if pending is None:
        return
    state.pending = None
    for at, (interval, length) in enumerate(zip(state.intervals, step.layout.lengths, strict=True)):
        label = minute - minute % length
        if label + length <= (state.first or 0) and step.event.origin != "live":
            continue  # this candle belongs to history
        kept = kept_at(state, interval, label, length)
        if kept.bar is None:
            kept.bar = pending.copy()
        else:
            kept.bar.add(pending)
        mark_changed(step, at, interval, label, kept)


# --- Publishing ---


def _closed(state: CandlesState, step: Step, at: int, start: int, kept: Kept) -> Candle:
    candle = _candle(state, step, at, start, kept)
    # History does not recompute bars by recipe: they stay ours.
    kept.left_to_history = candle.reason == AMENDED and not step.layout.recipes
    return candle


def _publish_open(state: CandlesState, step: Step) -> None:
    new = state.pending is not None and state.pending_start not in state.intervals[0].candles
    if not new and state.now - state.flushed < step.limits.open_ns:
        return
    state.flushed = state.now
    _merge(state, step)
    for at, interval in enumerate(state.intervals):
        if not interval.changed:
            continue
        due = state.now - interval.published >= step.limits.open_ns
        for label in sorted(interval.changed):
            kept = interval.candles[label]
            if due or not kept.shown:
                kept.shown = True
                interval.changed.remove(label)
                interval.published = state.now
                if step.layout.names[at] is None:
                    continue
                step.out.append(_candle(state, step, at, label, kept))


def _forget(state: CandlesState, step: Step) -> None:
    since = kept_from(state, step)
    for interval, length in zip(state.intervals, step.layout.lengths, strict=True):
        for label in [label for label in interval.candles if label + length <= since]:
            del interval.candles[label]
    oldest = min(since - since % length for length in step.layout.lengths)
    if any(one.end <= oldest for one in state.interruptions):
        state.interruptions = [one for one in state.interruptions if one.end > oldest]
    if state.memory is not None:
        state.memory.forget(since)


def _candle(state: CandlesState, step: Step, at: int, start: int, kept: Kept) -> Candle:
    bar, layout = kept.bar, step.layout
    length = layout.lengths[at]
    event = step.event
    candle = candle_of(
        bar,
        venue=event.venue,
        symbol=event.symbol,
        origin=event.origin,
        interval=layout.names[at] or "",
        start=start,
        end=start + length,
        ts_event=state.now,
        ts_recv=event.ts_recv,
        revision=kept.revision,
        reason=reason_of(state, start, length, kept),
    )
    recipe = layout.recipes[at] if layout.recipes else None
    return candle if recipe is None else of_recipe(candle, recipe, cast("SidedBar | None", bar))


def _jump(step: Step, start: int, end: int) -> list[FeedStatus]:
    """Return one gap, already closed, that covers the intervals without markers."""
    event = step.event
    gap_id = f"{event.venue}:{event.symbol}:{'bars' if step.layout.recipes else 'candles'}:{start}"
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
    return passed_over(opened, "time passed without data")
