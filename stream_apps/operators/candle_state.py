"""The state of one symbol's candles, and the intermediate results of one step."""

from __future__ import annotations

import msgspec

from marketdata.clock import MILLISECOND_NS, MINUTE_NS, SECOND_NS
from marketdata.events import AnyEvent, Trades
from marketdata.intervals import INTERVALS
from marketdata.ohlcv import Bar
from marketdata.recipes import Recipe
from stream_apps.operators.amendments import TradeMemory

INTERRUPTIONS_MAX = 256


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Which candles a state has: names and lengths in nanoseconds, shortest first; the first length divides all others.

    A name of None is not published. `bar` is the class that sums trades. `recipes` are those of bars by recipe, in the
    order of the lengths; empty for the candles that are always made. A jump of time makes `markers_max` candles without
    trades of one length at most.
    """

    names: tuple[str | None, ...]
    lengths: tuple[int, ...]
    bar: type[Bar]
    markers_max: int
    recipes: tuple[Recipe | None, ...] = ()


CANDLES = Layout(names=tuple(INTERVALS), lengths=tuple(INTERVALS.values()), bar=Bar, markers_max=120)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in nanoseconds of event time.

    Candles wait `grace_ns` for late trades. Open candles are published every `open_ns`. A stream with heartbeats has an
    event each minute, and at least every `silence_ns`. Candles are kept for `keep_ns`. Up to `remembered_max` trades
    can be amended.
    """

    grace_ns: int = 2 * SECOND_NS
    open_ns: int = 250 * MILLISECOND_NS
    silence_ns: int = 2 * MINUTE_NS
    keep_ns: int = 120 * MINUTE_NS
    remembered_max: int = 5_000


class Kept(msgspec.Struct, array_like=True, gc=False):
    """One candle: its trades, if any, its last revision (-1 before it is final), and whether it was published.

    `left_to_history`: history recomputes this closed candle. Its trades still count in longer candles.
    `has_uncounted`: a trade arrived that does not count, so that the stream was there although the bar is empty.
    """

    bar: Bar | None
    revision: int = -1
    shown: bool = False
    left_to_history: bool = False
    has_uncounted: bool = False


class Interruption(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A span [start, end) of event time in which trades may be missing or trading was halted."""

    start: int
    end: int
    reason: str


class Interval(msgspec.Struct):
    """The candles of one interval. Candles before `next` are closed; `changed` are open with unpublished changes."""

    next: int = 0
    candles: dict[int, Kept] = {}
    changed: list[int] = []
    published: int = 0


class CandlesState(msgspec.Struct):
    """One symbol's candles.

    `now` is the newest event time, `first` that of the first event, `heartbeat_ts` that of the last heartbeat.
    `bad_since` is the start of the current interruption. `pending` are trades of the shortest length that are not
    merged into candles yet.
    """

    intervals: list[Interval]
    first: int | None = None
    now: int = 0
    heartbeat_ts: int | None = msgspec.field(default=None, name="vouched")  # its name in checkpoints
    bad_since: int | None = None
    bad_reason: str = ""
    interruptions: list[Interruption] = []
    pending: Bar | None = None
    pending_start: int = 0
    flushed: int = 0
    memory: TradeMemory | None = None


class Step:
    """One step: its event, changed closed candles as (index of the interval, start), and the events to publish."""

    __slots__ = ("event", "layout", "limits", "out", "revised")

    def __init__(self, event: Trades, limits: Limits, layout: Layout) -> None:
        self.event = event
        self.limits = limits
        self.layout = layout
        self.revised: set[tuple[int, int]] = set()
        self.out: list[AnyEvent] = []


def kept_from(state: CandlesState, step: Step) -> int:
    """Return the start of the oldest candle of the shortest length that is kept."""
    since = state.now - step.limits.keep_ns
    return since - since % step.layout.lengths[0]


def kept_at(state: CandlesState, interval: Interval, label: int, length: int) -> Kept:
    """Return the kept candle of an interval, new where there was none."""
    kept = interval.candles.get(label)
    if kept is None:
        # A closed candle without state was published as a marker, unless it is older than the first event.
        had_marker = label < interval.next and label + length > (state.first or 0)
        kept = interval.candles[label] = Kept(None, 0 if had_marker else -1)
    return kept


def mark_changed(step: Step, at: int, interval: Interval, label: int, kept: Kept) -> None:
    """Have a candle published whose bar has changed, unless history owns it."""
    if kept.left_to_history:
        return
    if label < interval.next:
        step.revised.add((at, label))
    elif label not in interval.changed:
        interval.changed.append(label)
