"""Bars of trades, volume or value: each ends with the trade that completes its recipe's size.

1. The trades of md.trades count in their order of arrival. A trade counts whole in one bar: the one that reaches the
   size ends the bar, and what it has beyond the size is not carried over. So the sums of the bars are the sums of the
   trades. A trade that is excluded from volume brings a bar no closer to its size.
2. `start` is the time of the trade that began the bar and `end` is one nanosecond after its newest trade. Within a bar,
   the open and the close follow event order, as in candles. `number` rises by one with each bar.
3. A late trade counts in the bar that is open when it arrives. Only live trades count: a repair or a backfill arrives
   after later trades, and would move the limits of every bar since.
4. While the stream is invalid, trades may be missing. The bar that is open then, or the next one to begin, is invalid
   with the stream's reason, and so is each bar until the stream is valid again. A halt loses no trades.
5. A bar is published as `final` when it ends, and while it is `open` at most once per `OPEN_NS` of event time.
6. Corrections and cancels do not move the limits of bars. They change the counts and sums of their trade's bar. Its
   prices stay exact when the trade set none of them, or when every trade of the bar is remembered; otherwise the bar
   becomes invalid with reason `amended`. A closed bar is published again as `revised` while it is one of the last
   `CLOSED_MAX`; after that the amendment becomes a dead letter.

The state of a recipe is one bar of about 300 bytes. If the venue amends trades, also the last closed bars and up to
5,000 trades, at about 60 bytes each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

import msgspec

from marketdata.bar_candle import candle_of, of_recipe
from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.decimals import EXACT
from marketdata.errors import BadEvent
from marketdata.events import AMENDED, GAP, HALTED, VOLUME, AnyEvent, Candle, Trade, Trades
from marketdata.recipes import Recipe
from marketdata.sided_bar import SidedBar
from stream_apps.operators.amendments import TradeMemory
from stream_apps.operators.candle_amendments import are_inner
from stream_apps.operators.validation import letter, part

CLOSED_MAX = 64
KEEP_NS = 120 * MINUTE_NS
OPEN_NS = SECOND_NS
REMEMBERED_MAX = 5_000


class TradeBar(msgspec.Struct, gc=False):
    """One bar. It contains the trades of the memory with an item of [first, last]; `last` is None while it is open.

    `bar` is None when every trade of it was cancelled. `revision` is -1 until the bar is final.
    """

    number: int
    start: int
    end: int
    bar: SidedBar | None
    first: int
    last: int | None = None
    reason: str = ""
    revision: int = -1


class RecipeBars(msgspec.Struct):
    """The bars of one recipe: the open one, what it has of the recipe's size, and the last closed ones.

    `reason` invalidates the open bar, or the next one if none is open. `published` is the event time of the last
    publication; `changed` states that the open bar has changed since.
    """

    next_number: int = 0
    open: TradeBar | None = None
    filled: Decimal = Decimal(0)
    reason: str = ""
    published: int = 0
    changed: bool = False
    closed: list[TradeBar] = []


class TradeBarsState(msgspec.Struct):
    """One symbol's bars by the hash of their recipe; `now` is the newest event time, `reason` the stream's now.

    `swept` is the event time at which old trades were last evicted from `memory`.
    """

    recipes: dict[str, RecipeBars] = {}
    now: int = 0
    reason: str = ""
    memory: TradeMemory | None = None
    swept: int = 0


Chosen = tuple[Recipe, RecipeBars]


class TradeBars:
    """The operator."""

    name = "trade_bars"
    input = "md.trades"
    outputs: tuple[str, ...] = ("md.candles", "md.dead_letters")
    state = TradeBarsState

    def __init__(self, recipes: Iterable[Recipe]) -> None:
        """Take the recipes of kind trades, volume and value."""
        self.counts: Counter[str] = Counter()
        self._recipes = tuple(recipes)

    def start(self, key: str) -> TradeBarsState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return TradeBarsState()

    def step(self, state: TradeBarsState, event: AnyEvent) -> tuple[TradeBarsState, list[AnyEvent]]:
        """Return the bars after a message of trades or a heartbeat, and the events to publish."""
        assert isinstance(event, Trades)  # noqa: S101 - the topic's schema
        if event.origin != "live":
            self.counts["history"] += len(event.trades)
            return state, []
        chosen = self._choose(state, event.key)
        if not chosen:
            return state, []
        if not state.now and event.amendable:
            state.memory = TradeMemory()
        step = _Step(state, event)
        _judge(step, chosen)
        self._take(step, chosen)
        state.now = max(state.now, event.ts_event)
        for one in chosen:
            _publish_open(step, one)
        if state.memory is not None and state.now - state.swept >= MINUTE_NS:
            state.memory.forget(state.now - KEEP_NS)
            state.swept = state.now
        return state, step.out

    def _take(self, step: _Step, chosen: list[Chosen]) -> None:
        """Add the trades of the event, and apply its amendments."""
        state = step.state
        unknown: list[Trade] = []
        for trade in step.event.trades:
            if trade.action != "new":
                if not self._amend(step, chosen, trade):
                    unknown.append(trade)
                continue
            state.now = max(state.now, trade.ts_event)
            counted = trade if state.memory is None else self._remember(state.memory, trade)
            if counted is not None and not counted.updates_nothing:
                for one in chosen:
                    _add(step, one, counted)
        if unknown:
            self.counts["unknown_original"] += len(unknown)
            error = BadEvent("unknown_original", "trade_id", unknown[0].trade_id)
            step.out.append(letter(step.event, error, stage=self.name, payload=part(step.event, unknown)))

    def _choose(self, state: TradeBarsState, key: str) -> list[Chosen]:
        """Return the recipes of a key with their bars; those of recipes that are configured no more are forgotten."""
        recipes = state.recipes
        chosen = []
        for recipe in self._recipes:
            if recipe.covers(key):
                bars = recipes.get(recipe.hash)
                if bars is None:
                    bars = recipes[recipe.hash] = RecipeBars()
                chosen.append((recipe, bars))
        if len(recipes) > len(chosen):
            state.recipes = {recipe.hash: bars for recipe, bars in chosen}
        return chosen

    def _remember(self, memory: TradeMemory, trade: Trade) -> Trade | None:
        """Remember a new trade, as changed by amendments that arrived before it; None when it does not count."""
        counted = memory.standing(trade)
        if counted is None:
            self.counts["amended_before"] += 1
        else:
            memory.keep(counted, live=True, limit=REMEMBERED_MAX)
        return counted

    def _amend(self, step: _Step, chosen: list[Chosen], amendment: Trade) -> bool:
        """Apply a correction or a cancel; False when the bars of its trade are not known any more."""
        state = step.state
        memory = state.memory
        if memory is None:  # the venue's first amendment: earlier trades were not remembered
            memory = state.memory = TradeMemory(forgotten=state.now)
        replaced = memory.amend(amendment, state.now)
        if replaced is None:
            if not memory.forgotten:  # nothing was evicted: the trade has not arrived yet
                return True
            for one in chosen:
                _distrust(step, one, memory.forgotten)
            return False
        self.counts["amended"] += 1
        counted, old, new = replaced
        # Every recipe replaces the trade, also after one whose bar is not kept.
        are_kept = [_replace(step, one, counted.item, old, new) for one in chosen]
        return all(are_kept)


class _Step:
    """One step: the state, the event, and the events to publish."""

    __slots__ = ("event", "out", "state")

    def __init__(self, state: TradeBarsState, event: Trades) -> None:
        self.state = state
        self.event = event
        self.out: list[AnyEvent] = []


def _judge(step: _Step, chosen: list[Chosen]) -> None:
    """Note whether trades may be missing before or within this event."""
    state, event = step.state, step.event
    state.reason = "" if event.valid or event.reason == HALTED else event.reason or GAP
    if state.reason:
        for _, bars in chosen:
            bars.reason = bars.reason or state.reason
            if bars.open is not None and not bars.open.reason:
                bars.open.reason, bars.changed, bars.published = bars.reason, True, 0  # due at once


def _add(step: _Step, one: Chosen, trade: Trade) -> None:
    """Add a trade to the open bar, or begin one; publish the bar if the trade completes it."""
    recipe, bars = one
    made, ts = bars.open, trade.ts_event
    if made is None:
        items = 0 if step.state.memory is None else step.state.memory.items
        made = bars.open = TradeBar(bars.next_number, ts, ts + 1, SidedBar(trade), items, reason=bars.reason)
        bars.next_number += 1
        bars.filled = Decimal(0)
    else:
        made.end = max(made.end, ts + 1)
        if made.bar is None:
            made.bar = SidedBar(trade)
        else:
            made.bar.add_trade(trade)
    bars.changed = True
    bars.filled = EXACT.add(bars.filled, _part(recipe, trade))
    if bars.filled >= recipe.size:
        _end(step, one, made)


def _part(recipe: Recipe, trade: Trade) -> Decimal:
    """Return what a trade contributes to its bar's size; a value below zero (a negative price) as its amount."""
    if VOLUME in trade.excluded_from:
        return Decimal(0)
    if recipe.kind == "trades":
        return Decimal(1)
    size = Decimal(trade.size)
    return size if recipe.kind == "volume" else abs(EXACT.multiply(Decimal(trade.price), size))


def _end(step: _Step, one: Chosen, made: TradeBar) -> None:
    """End the open bar and publish it as final."""
    state, (_, bars) = step.state, one
    made.revision = 0
    bars.open, bars.changed, bars.reason = None, False, state.reason
    if state.memory is not None:
        made.last = state.memory.items
        bars.closed.append(made)
        del bars.closed[:-CLOSED_MAX]
    bars.published = state.now
    step.out.append(_candle(step, one, made))


def _publish_open(step: _Step, one: Chosen) -> None:
    _, bars = one
    if bars.changed and bars.open is not None and step.state.now - bars.published >= OPEN_NS:
        bars.published, bars.changed = step.state.now, False
        step.out.append(_candle(step, one, bars.open))


def _distrust(step: _Step, one: Chosen, until: int) -> None:
    """Invalidate the kept bars that may contain an amended trade up to `until` which is not remembered."""
    _, bars = one
    for made in [*bars.closed, *([bars.open] if bars.open is not None else ())]:
        if made.start <= until and made.bar is not None and not made.bar.amended:
            made.bar.amended = True
            _publish_change(step, one, made)


def _replace(step: _Step, one: Chosen, item: int, old: Trade, new: Trade | None) -> bool:
    """Replace a trade in its bar, or remove it when `new` is None; False when that bar is not kept."""
    _, bars = one
    if old.updates_nothing and new is None:
        return True
    made = next((kept for kept in bars.closed if kept.first <= item <= (kept.last or 0)), None)
    if made is None and bars.open is not None and bars.open.first <= item:
        made = bars.open
    if made is None:
        return False
    bar = made.bar
    if bar is None:
        if new is not None:
            made.bar = SidedBar(new)
            _publish_change(step, one, made)
        return True
    exact = not bar.amended and are_inner(bar, old, new)
    bar.subtract(old)
    if new is not None:
        bar.add_trade(new)
    if not exact:
        recomputed = _recomputed(step.state.memory, made, bar.items)
        if recomputed is None and bar.items:
            bar.amended = True
        else:
            made.bar = recomputed
    _publish_change(step, one, made)
    return True


def _recomputed(memory: TradeMemory | None, made: TradeBar, items: int) -> SidedBar | None:
    """Return a bar recomputed from its remembered trades, None when not all `items` are there."""
    if memory is None:
        return None
    last = memory.items if made.last is None else made.last
    found = [
        (counted.item, counted.trade(identity))
        for identity, counted in memory.trades.items()
        if made.first <= counted.item <= last and not counted.updates_nothing
    ]
    if not found or len(found) != items:
        return None
    ordered = [trade for _, trade in sorted(found, key=lambda each: each[0])]
    bar = SidedBar(ordered[0])
    for trade in ordered[1:]:
        bar.add_trade(trade)
    return bar


def _publish_change(step: _Step, one: Chosen, made: TradeBar) -> None:
    """Publish a closed bar as revised; an open one is published when it is due."""
    if made.last is None:
        one[1].changed = True
        return
    made.revision += 1
    step.out.append(_candle(step, one, made))


def _candle(step: _Step, one: Chosen, made: TradeBar) -> Candle:
    recipe, bar = one[0], made.bar
    event = step.event
    candle = candle_of(
        bar,
        venue=event.venue,
        symbol=event.symbol,
        origin=event.origin,
        interval=recipe.interval,
        start=made.start,
        end=made.end,
        ts_event=step.state.now,
        ts_recv=event.ts_recv,
        revision=made.revision,
        reason=made.reason or (AMENDED if bar is not None and bar.amended else ""),
        number=made.number,
    )
    return of_recipe(candle, recipe, bar)
