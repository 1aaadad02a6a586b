"""Bars of time by recipe: candles of other lengths, by the rules of `candles`.

1. Trades are first added to a bar of the largest length that divides those of all recipes. It is merged into the bar of
   each recipe, so that longer bars are the exact sums of shorter ones.
2. Late trades, amendments, repairs, gaps and halts have the effect that they have on candles, while a bar is kept:
   two hours, or less where the recipes would have more than `KEPT_MAX` bars then (12 minutes with bars of 1 s). A live
   trade that is older becomes a dead letter. History does not recompute bars by recipe.
3. When the recipes of a symbol change, its bars begin again: those that contain the change are invalid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from functools import reduce
from math import gcd
from typing import cast

from marketdata.clock import SECOND_NS
from marketdata.events import AnyEvent, Trades
from marketdata.ohlcv import Bar
from marketdata.recipes import Recipe
from marketdata.sided_bar import SidedBar
from stream_apps.operators.candle_state import CandlesState, Interval, Kept, Layout, Limits, Step
from stream_apps.operators.candles import Candles, add_fast

# Bars of all lengths that a symbol's state keeps: about 200 KB.
KEPT_MAX = 720
OPEN_NS = SECOND_NS


class KeptSided(Kept, array_like=True, gc=False):
    """One bar; see `Kept`."""

    bar: SidedBar | None  # type: ignore[assignment]  # it has the interface of a Bar


class SidedInterval(Interval):
    """The bars of one length; see `Interval`."""

    candles: dict[int, KeptSided] = {}  # type: ignore[assignment]  # noqa: RUF012 - msgspec copies it


class TimeBarsState(CandlesState):
    """One symbol's bars of time, and the lengths that they have."""

    intervals: list[SidedInterval]  # type: ignore[assignment]
    pending: SidedBar | None = None  # type: ignore[assignment]
    lengths: tuple[int, ...] = ()


class TimeBars:
    """The operator."""

    name = "time_bars"
    input = "md.trades"
    outputs: tuple[str, ...] = ("md.candles", "md.status", "md.dead_letters")
    state = TimeBarsState

    def __init__(self, recipes: Iterable[Recipe]) -> None:
        """Take the recipes of kind time."""
        self._recipes = tuple(sorted(recipes, key=lambda recipe: recipe.length_ns))
        self._layouts: dict[frozenset[str], tuple[Layout, Limits]] = {}
        self._candles = Candles(name=self.name)

    @property
    def counts(self) -> Counter[str]:
        """Counters by reason."""
        return self._candles.counts

    def start(self, key: str) -> TimeBarsState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return TimeBarsState(intervals=[])

    def step(self, state: TimeBarsState, event: AnyEvent) -> tuple[TimeBarsState, list[AnyEvent]]:
        """Return the bars after a message of trades or a heartbeat, and the events to publish."""
        assert isinstance(event, Trades)  # noqa: S101 - the topic's schema
        chosen = [recipe for recipe in self._recipes if not recipe.symbols or event.key in recipe.symbols]
        if not chosen:
            return state, []
        names = frozenset(recipe.name for recipe in chosen)
        made = self._layouts.get(names)
        if made is None:
            made = self._layouts[names] = lay_out(chosen)
        layout, limits = made
        if state.lengths != layout.lengths:
            state = TimeBarsState(intervals=[SidedInterval() for _ in layout.lengths], lengths=layout.lengths)
        added = add_fast(state, event, limits, layout.lengths[0])
        if added and state.now - state.flushed < limits.open_ns:
            return state, []
        return state, self._candles.advance(state, Step(event, limits, layout), added=added)


def lay_out(recipes: Iterable[Recipe]) -> tuple[Layout, Limits]:
    """Return the layout of bars of time, shortest first, and how long they are kept."""
    by_length: dict[int, Recipe | None] = {recipe.length_ns: recipe for recipe in recipes}
    by_length.setdefault(reduce(gcd, by_length), None)
    lengths = tuple(sorted(by_length))
    ordered = tuple(by_length[length] for length in lengths)
    keep_ns = int(KEPT_MAX / sum(Fraction(1, length) for length in lengths))
    layout = Layout(
        names=tuple(None if recipe is None else recipe.interval for recipe in ordered),
        lengths=lengths,
        bar=cast("type[Bar]", SidedBar),
        markers_max=KEPT_MAX,
        recipes=ordered,
    )
    return layout, Limits(open_ns=OPEN_NS, keep_ns=min(Limits().keep_ns, keep_ns))
