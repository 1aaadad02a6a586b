"""What a correction or a cancel does to the candles of its trade.

1. Volumes and counts are exact in every candle of the trade. So are the prices where the trade was none of them. Else a
   minute is recomputed from its remembered trades, and a longer candle from its minutes. Where not all of those are
   there any more, the candle is invalid, `amended`.
2. We cannot tell which candles contain a forgotten trade: all with trades up to the newest forgotten one are `amended`,
   and a dead letter holds the amendment. A complete repair does not help, as it only adds. Where nothing was forgotten,
   the trade never came: the amendment waits for it, as it may yet come by a slower line.
"""

from __future__ import annotations

from collections import Counter

from marketdata.bars import Bar
from marketdata.events import Trade
from stream_apps.operators.amendments import Counted, TradeMemory, amended
from stream_apps.operators.candle_state import LENGTHS, CandlesState, Step
from stream_apps.operators.candle_validity import closed_reasons, revise


def amend(state: CandlesState, step: Step, amendment: Trade, counts: Counter[str]) -> bool:
    """Apply a correction or a cancel to candles that hold all trades; False when its trade was forgotten."""
    memory = state.memory
    if memory is None:  # the venue's first: what came before was not remembered
        memory = state.memory = TradeMemory(forgotten=state.now)
    original = amendment.original_id or amendment.trade_id
    correction = amendment if amendment.action == "correct" else None
    counted = memory.trades.get(original)
    if counted is None:
        memory.wait(original, max(amendment.ts_event, state.now), correction)
        return _distrust(state, step, memory)
    counts["amended"] += 1
    old = counted.trade(original)
    new = None if correction is None else memory.standing(amended(old, correction), original)
    memory.settle(original, counted, new)
    _replace(state, step, counted, old, new)
    return True


def counts_in(state: CandlesState, counted: Counted, end: int) -> bool:
    """Return whether a counted trade is in its candle that ends at `end`: some are history's."""
    return counted.live or end > (state.first or 0)


def _distrust(state: CandlesState, step: Step, memory: TradeMemory) -> bool:
    """Trust no candle that may contain a forgotten trade; True when there is none."""
    until = memory.forgotten + 1 if memory.forgotten else 0
    if until > memory.uncertain_until:
        before = closed_reasons(state, step, 0, until)
        memory.uncertain_until = until
        revise(state, step, before)
        for interval in state.intervals:
            open_ones = [label for label in interval.candles if interval.next <= label < until]
            interval.changed += [label for label in open_ones if label not in interval.changed]
    return not until


def _replace(state: CandlesState, step: Step, counted: Counted, old: Trade, new: Trade | None) -> None:
    """Put a trade in the place of another one in its six candles, or nothing."""
    for at, (interval, length) in enumerate(zip(state.intervals, LENGTHS, strict=True)):
        label = counted.ts - counted.ts % length
        kept = interval.candles.get(label)
        if kept is None or kept.bar is None or not counts_in(state, counted, label + length):
            continue
        bar = kept.bar
        exact = not bar.amended and _is_none_of_the_prices(bar, old, new)
        bar.subtract(old)
        if new is not None:
            bar.add_trade(new)
        if not exact:
            made = _recomputed(state, at, label, bar.trades)
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


def _recomputed(state: CandlesState, at: int, label: int, trades: int) -> Bar | None:
    """Return a candle of its remembered trades or of its minutes, None when they are not all there."""
    end = label + LENGTHS[at]
    if at:
        minutes = state.intervals[0].candles
        bars = [kept.bar for start, kept in sorted(minutes.items()) if label <= start < end and kept.bar is not None]
        if not bars or sum(bar.trades for bar in bars) != trades or any(bar.amended for bar in bars):
            return None
        made = bars[0].copy()
        for bar in bars[1:]:
            made.add(bar)
        return made
    memory = state.memory.trades if state.memory is not None else {}
    found = [
        (counted.item, counted.trade(identity))
        for identity, counted in memory.items()
        if label <= counted.ts < end and counts_in(state, counted, end)
    ]
    if not found or len(found) != trades:
        return None
    ordered = [trade for _, trade in sorted(found, key=lambda one: one[0])]
    made = Bar(ordered[0])
    for trade in ordered[1:]:
        made.add_trade(trade)
    return made


def _is_none_of_the_prices(bar: Bar, old: Trade, new: Trade | None) -> bool:
    """Return whether open, high, low and close stay right when `new` takes the place of `old`."""
    return bar.is_between(old.price) and bar.is_inner(old) and (new is None or bar.is_inner(new))
