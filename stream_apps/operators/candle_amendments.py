"""Applies corrections and cancels to the candles of their trades.

1. Volumes and counts stay exact in every candle of the trade. Prices stay exact when the trade set none of them.
   Otherwise a minute is recomputed from its remembered trades, and a longer candle from its minutes. If some of those
   are no longer available, the candle becomes invalid with reason `amended`.
2. It is unknown which candles contain an evicted trade. So an amendment of an unknown trade makes every candle with
   trades up to the newest evicted one `amended`, and becomes a dead letter. A complete repair does not help, because it
   only adds trades. If no trade was evicted, the original has not arrived yet: the amendment waits for it.
"""

from __future__ import annotations

from collections import Counter

from marketdata.events import HIGH_LOW, OPEN_CLOSE, Trade
from marketdata.ohlcv import Bar
from marketdata.sided_bar import SidedBar
from stream_apps.operators.amendments import Counted, Replaced, TradeMemory
from stream_apps.operators.candle_state import CandlesState, Step, kept_at, mark_changed
from stream_apps.operators.candle_validity import published_reasons, revise


def amend(state: CandlesState, step: Step, amendment: Trade, counts: Counter[str]) -> bool:
    """Apply a correction or a cancel; pending trades must be merged. False when its trade may have been evicted."""
    memory = state.memory
    if memory is None:  # the venue's first amendment: earlier trades were not remembered
        memory = state.memory = TradeMemory(forgotten=state.now)
    replaced = memory.amend(amendment, state.now)
    if replaced is None:
        return _invalidate_uncertain(state, step, memory)
    counts["amended"] += 1
    _replace(state, step, replaced)
    return True


def counts_in(state: CandlesState, counted: Counted, end: int) -> bool:
    """Return whether the candle that ends at `end` contains a counted trade; history owns some candles."""
    return counted.live or end > (state.first or 0)


def _invalidate_uncertain(state: CandlesState, step: Step, memory: TradeMemory) -> bool:
    """Invalidate the candles that may contain an evicted trade; True when no trade was evicted."""
    until = memory.forgotten + 1 if memory.forgotten else 0
    if until > memory.uncertain_until:
        before = published_reasons(state, step, 0, until)
        memory.uncertain_until = until
        revise(state, step, before)
    return not until


def _replace(state: CandlesState, step: Step, replaced: Replaced) -> None:
    """Replace a trade in its candles, or remove it."""
    counted, old, new = replaced
    if old.updates_nothing and new is None:
        return
    for at, (interval, length) in enumerate(zip(state.intervals, step.layout.lengths, strict=True)):
        label = counted.ts - counted.ts % length
        if not counts_in(state, counted, label + length):
            continue
        kept = kept_at(state, interval, label, length)
        if kept.bar is not None:
            kept.bar = _changed(state, step, (at, label), kept.bar, replaced)
            kept.has_uncounted = kept.has_uncounted or kept.bar is None
        elif new is not None:
            kept.bar = step.layout.bar(new)
        mark_changed(step, at, interval, label, kept)


def _changed(state: CandlesState, step: Step, place: tuple[int, int], bar: Bar, replaced: Replaced) -> Bar | None:
    """Return a bar with a trade replaced or removed, None when no trade is left."""
    _, old, new = replaced
    exact = not bar.amended and are_inner(bar, old, new)
    bar.subtract(old)
    if new is not None:
        bar.add_trade(new)
    if exact:
        return bar
    made = _recomputed(state, step, place, bar.items)
    if made is None and bar.items:
        bar.amended = True
        return bar
    return made


def _recomputed(state: CandlesState, step: Step, place: tuple[int, int], items: int) -> Bar | None:
    """Return a candle recomputed from its remembered trades or its minutes, None when not all `items` are there."""
    at, label = place
    end = label + step.layout.lengths[at]
    if at:
        minutes = state.intervals[0].candles
        bars = [kept.bar for start, kept in sorted(minutes.items()) if label <= start < end and kept.bar is not None]
        if not bars or sum(bar.items for bar in bars) != items or any(bar.amended for bar in bars):
            return None
        made = bars[0].copy()
        for bar in bars[1:]:
            made.add(bar)
        return made
    memory = state.memory.trades if state.memory is not None else {}
    found = [
        (counted.item, counted.trade(identity))
        for identity, counted in memory.items()
        if label <= counted.ts < end and not counted.updates_nothing and counts_in(state, counted, end)
    ]
    if not found or len(found) != items:
        return None
    ordered = [trade for _, trade in sorted(found, key=lambda one: one[0])]
    made = step.layout.bar(ordered[0])
    for trade in ordered[1:]:
        made.add_trade(trade)
    return made


def are_inner(bar: Bar | SidedBar, old: Trade, new: Trade | None) -> bool:
    """Return whether open, high, low and close stay the same when `new` replaces `old`."""
    return (
        (HIGH_LOW in old.excluded_from or bar.is_between(old.price))
        and (OPEN_CLOSE in old.excluded_from or bar.is_inner(old))
        and (new is None or OPEN_CLOSE in new.excluded_from or bar.is_inner(new))
    )
