"""Which candles are valid: interruptions of the trades, and what ends them.

1. Interruptions are: everything before the first event; from when trades were last complete before a `gap` to the next
   valid event; halts; and a jump of the time by more than `silence_ns` on a stream that has heartbeats. How long a
   venue may be silent is not judged here: its feed states what is missing, and each minute that nothing is.
2. A candle that overlaps an interruption is invalid even when it has trades. A halt invalidates only candles without
   trades.
3. A candle without a bar is valid where heartbeats show that there were no trades, or where a trade arrived that does
   not count: its conditions exclude it from everything, or it was cancelled. Such a trade may be corrected and then
   count: where that may have happened, the candle is as uncertain as one with a bar.
4. A repair that is complete for a span of time removes the interruptions within it.
5. A candle whose reason changes after it was published is published again at once, the open one too: nothing else may
   come that publishes it while trades are missing.
"""

from __future__ import annotations

from marketdata.events import AMENDED, GAP, HALTED
from stream_apps.operators.candle_state import (
    INTERRUPTIONS_MAX,
    CandlesState,
    Interruption,
    Kept,
    Step,
    kept_from,
)

Reasons = dict[tuple[int, int], str]


def judge(state: CandlesState, step: Step) -> None:
    """Update the interruptions: an event may reveal missing data, end an interruption, or repair one."""
    event, limits = step.event, step.limits
    if event.origin != "live":
        if event.complete_from is not None:
            _complete(state, step, event.complete_from, event.ts_event)
        return
    if state.bad_since is not None and (event.valid or event.reason != state.bad_reason):
        since = state.bad_since
        _interrupt(state, step, Interruption(since, max(event.ts_event, state.now, since + 1), state.bad_reason))
        state.bad_since = None
    if state.heartbeat_ts is not None and event.ts_event - state.now > limits.silence_ns:
        _interrupt(state, step, Interruption(state.now, event.ts_event, GAP))
    if event.valid:
        if not event.trades:
            state.heartbeat_ts = max(state.heartbeat_ts or 0, event.ts_event)
    elif state.bad_since is None:
        state.bad_reason = event.reason or GAP
        # Missing trades may be a little older than the newest event, but not older than the last heartbeat.
        complete = max(state.heartbeat_ts or 0, state.now - limits.grace_ns)
        since = event.ts_event if event.reason == HALTED else min(complete, event.ts_event)
        before = published_reasons(state, step, since, state.now + 1)
        state.bad_since = since
        revise(state, step, before)


def published_reasons(state: CandlesState, step: Step, start: int, end: int) -> Reasons:
    """Return the published reasons of the candles that overlap [start, end)."""
    start = max(start, state.first or 0, kept_from(state, step))
    reasons = {}
    for at, (interval, length) in enumerate(zip(state.intervals, step.layout.lengths, strict=True)):
        for label in range(start - start % length, min(end, max(interval.next, state.now + 1)), length):
            kept = interval.candles.get(label)
            if label < interval.next:
                is_published = kept is None or not kept.left_to_history
            else:
                is_published = kept is not None and kept.shown
            if is_published:
                reasons[at, label] = reason_of(state, label, length, kept)
    return reasons


def revise(state: CandlesState, step: Step, before: Reasons) -> None:
    """Mark the candles whose reason differs from `before`, so that they are published again."""
    for (at, label), reason in before.items():
        interval = state.intervals[at]
        kept = interval.candles.get(label)
        if reason_of(state, label, step.layout.lengths[at], kept) == reason:
            continue
        if label < interval.next:
            if kept is None:
                interval.candles[label] = Kept(None, revision=0, shown=True)
            step.revised.add((at, label))
        elif kept is not None:
            kept.shown, state.flushed = False, 0  # due at once
            if label not in interval.changed:
                interval.changed.append(label)


def reason_of(state: CandlesState, start: int, length: int, kept: Kept | None) -> str:
    """Return why a candle is invalid, empty when it is valid."""
    end = start + length
    bar = None if kept is None else kept.bar
    halted = False
    if state.bad_since is not None and state.bad_since < end:
        if state.bad_reason != HALTED:
            return state.bad_reason
        halted = True
    for one in state.interruptions:
        if one.start < end and one.end > start:
            if one.reason != HALTED:
                return one.reason
            halted = True
    has_uncounted = kept is not None and kept.has_uncounted
    if (bar is not None or has_uncounted) and state.memory is not None and start < state.memory.uncertain_until:
        return AMENDED
    if bar is not None:
        return AMENDED if bar.amended else ""
    if halted:
        return HALTED
    return "" if state.heartbeat_ts is not None or has_uncounted else GAP


def _interrupt(state: CandlesState, step: Step, one: Interruption) -> None:
    before = published_reasons(state, step, one.start, one.end)
    state.interruptions.append(one)
    if len(state.interruptions) > INTERRUPTIONS_MAX:
        older, newer = state.interruptions[1:3]  # the first covers the time before the first event, while it is kept
        joined = Interruption(min(older.start, newer.start), max(older.end, newer.end), GAP)
        state.interruptions[1:3] = [joined]
    revise(state, step, before)


def _complete(state: CandlesState, step: Step, start: int, end: int) -> None:
    """Remove [start, end) from the interruptions, except from halts."""
    before = published_reasons(state, step, start, end)
    left: list[Interruption] = []
    for one in state.interruptions:
        if one.reason == HALTED or one.end <= start or end <= one.start:
            left.append(one)
            continue
        if one.start < start:
            left.append(Interruption(one.start, start, one.reason))
        if end < one.end:
            left.append(Interruption(end, one.end, one.reason))
    state.interruptions = left[:1] + left[1:][-INTERRUPTIONS_MAX:]
    revise(state, step, before)
