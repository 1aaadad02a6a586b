"""Metrics of a book: spread, depth, imbalance, microprice and order flow, at a set cadence of event time.

`Books` owns the book and calls this module, so that no update is applied twice and no other state holds the book.

1. Metrics describe the book at a multiple of the cadence: with every event before that time and none at or after it.
   The first event that shows that the time has passed publishes them; of several times that passed at once only the
   last is published, because the book was the same at each.
2. Metrics are also published when the book becomes valid or invalid, at once. While it is invalid they have no values.
3. Each describes the order flow since the metrics before it, so that the intervals follow each other without a gap.

Order flow imbalance is defined by R. Cont, A. Kukanov, S. Stoikov: "The Price Impact of Order Book Events", Journal of
Financial Econometrics 12 (2014), equation (4), https://arxiv.org/abs/1011.6402: the sum over all changes of the best
levels of

    [P_b >= P_b'] q_b - [P_b <= P_b'] q_b' - [P_a <= P_a'] q_a + [P_a >= P_a'] q_a'

where P and q are prices and sizes of the best bid (b) and ask (a), and ' marks those before the change. What a venue
sends as one update counts as one change. The microprice is the middle price weighted by the sizes of the other side,
"microprice" in J. Gatheral, R. Oomen: "Zero-intelligence realized variance estimation", Finance and Stochastics 14
(2010), https://doi.org/10.1007/s00780-009-0120-1.

Sums, differences and products are exact. Quotients are rounded half-even to `DIGITS` significant digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any

import msgspec

from marketdata.book import L2Book, Level, Side
from marketdata.book_state import BooksState, MetricsState
from marketdata.clock import SECOND_NS
from marketdata.decimals import EXACT, plain
from marketdata.events import BookUpdate, Metrics

DIGITS = 18
# A distance beyond this would select every level of the side, and one below zero makes no sense.
BPS_MAX = 10_000
DISTANCES_MAX = 20

_QUOTIENT = Context(prec=DIGITS, rounding=ROUND_HALF_EVEN)
# A side's keys are floats while its prices have at most 15 digits: a limit rounded to as many selects the same levels.
_LOWER_LIMIT = Context(prec=15, rounding=ROUND_CEILING)
_UPPER_LIMIT = Context(prec=15, rounding=ROUND_FLOOR)
_TEN_THOUSAND = Decimal(10_000)
_HALF = Decimal("0.5")
_ZERO = Decimal(0)


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The cadence, nanoseconds of event time, and the distances of the depths in basis points, ascending."""

    every_ns: int = SECOND_NS
    depth_bps: tuple[Decimal, ...] = (Decimal(5), Decimal(10), Decimal(25))

    def __post_init__(self) -> None:
        """Raise ValueError for values that make no metrics."""
        if self.every_ns <= 0:
            raise ValueError(f"the cadence must be positive, not {self.every_ns} ns")
        if len(self.depth_bps) > DISTANCES_MAX:
            raise ValueError(f"at most {DISTANCES_MAX} distances, not {len(self.depth_bps)}")
        if any(not 0 < each <= BPS_MAX for each in self.depth_bps):
            raise ValueError(f"distances must be above 0 and at most {BPS_MAX} basis points")
        if list(self.depth_bps) != sorted(set(self.depth_bps)):
            raise ValueError("distances must be ascending, each once")


def passed(state: BooksState, event: BookUpdate, settings: MetricsSettings) -> Metrics | None:
    """Return the metrics of a time that an event shows to have passed; call it before the event changes the book.

    `state.ts_event` must be the time of the event already.
    """
    kept, now = state.metrics, state.ts_event
    at = now - now % settings.every_ns
    kept.due = at + settings.every_ns
    if not kept.since:
        kept.since = now
        return None
    return _take(state, event, settings, at) if at > kept.since else None


def changed(state: BooksState, event: BookUpdate, settings: MetricsSettings) -> Metrics:
    """Return the metrics of a book that just became valid or invalid."""
    return _take(state, event, settings, max(state.ts_event, state.metrics.since))


def add_flow(
    kept: MetricsState, before: tuple[Level | None, Level | None], bid: Level | None, ask: Level | None
) -> None:
    """Add a change of the best levels of a valid book; without both sides the interval's flow is unknown."""
    old_bid, old_ask = before
    if old_bid is None or old_ask is None or bid is None or ask is None:
        kept.flow = None
        return
    bids, bid_moved = _side_flow(old_bid, bid, 1)
    asks, ask_moved = _side_flow(old_ask, ask, -1)
    if kept.flow is not None:
        kept.flow = EXACT.add(kept.flow, EXACT.subtract(bids, asks))
    kept.best_price_changes += bid_moved or ask_moved


def _side_flow(before: Level, now: Level, sign: int) -> tuple[Decimal, bool]:
    """Return what a side's best level contributes, and whether its price changed; `sign` is 1 for bids, -1 for asks."""
    if now == before:
        return _ZERO, False
    if now[0] == before[0]:
        return EXACT.subtract(Decimal(now[1]), Decimal(before[1])), False
    better = EXACT.compare(Decimal(now[0]), Decimal(before[0])) * sign
    if better > 0:
        return Decimal(now[1]), True
    if better < 0:
        return EXACT.minus(Decimal(before[1])), True
    return EXACT.subtract(Decimal(now[1]), Decimal(before[1])), False


def _take(state: BooksState, event: BookUpdate, settings: MetricsSettings, at: int) -> Metrics:
    """Return the metrics at a time, and begin the next interval."""
    kept = state.metrics
    values = {} if state.reason else _values(state.book, settings.depth_bps)
    metrics = Metrics(
        venue=event.venue,
        symbol=event.symbol,
        ts_event=at,
        ts_recv=event.ts_recv,
        line=state.line,
        sequence=state.sequence,
        origin=event.origin,
        valid=not state.reason,
        reason=state.reason,
        ts_from=kept.since,
        order_flow=None if kept.flow is None or state.reason else plain(kept.flow),
        changes=kept.changes,
        best_price_changes=kept.best_price_changes,
        **values,
    )
    kept.since = at
    kept.flow = _ZERO if metrics.mid is not None else None
    kept.changes = kept.best_price_changes = 0
    return metrics


def _values(book: L2Book, distances: Sequence[Decimal]) -> dict[str, Any]:
    """Return the values of a valid book by their names; those that need both sides are left out without them."""
    bid, ask = book.best()
    values: dict[str, Any] = {}
    if bid is not None:
        values["bid"], values["bid_size"] = bid
    if ask is not None:
        values["ask"], values["ask_size"] = ask
    if bid is None or ask is None:
        return values
    (bid_price, bid_size), (ask_price, ask_size) = map(Decimal, bid), map(Decimal, ask)
    mid = EXACT.multiply(EXACT.add(bid_price, ask_price), _HALF)
    spread = EXACT.subtract(ask_price, bid_price)
    sizes = EXACT.add(bid_size, ask_size)
    weighted = EXACT.add(EXACT.multiply(bid_price, ask_size), EXACT.multiply(ask_price, bid_size))
    values["mid"], values["spread"] = plain(mid), plain(spread)
    values["microprice"] = plain(_QUOTIENT.divide(weighted, sizes))
    values["imbalance"] = plain(_QUOTIENT.divide(EXACT.subtract(bid_size, ask_size), sizes))
    if mid > 0:
        values["spread_bps"] = _in_bps(spread, mid)
        values["depth_bps"] = [plain(each) for each in distances]
        values["bid_depths"], values["bid_reach_bps"] = _depths(book.bids, mid, distances, -1)
        values["ask_depths"], values["ask_reach_bps"] = _depths(book.asks, mid, distances, 1)
    return values


def _in_bps(distance: Decimal, mid: Decimal) -> str:
    return plain(_QUOTIENT.divide(EXACT.multiply(distance, _TEN_THOUSAND), mid))


def _depths(side: Side, mid: Decimal, distances: Sequence[Decimal], sign: int) -> tuple[list[str], str]:
    """Return the sums of sizes within each distance, and how far the side reaches; `sign` is -1 for bids."""
    depths: list[str] = []
    sum_, key = _ZERO, None
    with localcontext(EXACT):
        for distance in distances:
            limit = mid * (_TEN_THOUSAND + sign * distance) / _TEN_THOUSAND
            worse = _key(side, limit, sign)
            sum_ = sum((Decimal(size) for _, size in side.between(worse, key)), start=sum_)
            key = worse
            depths.append(plain(sum_))
        worst = side.nth(len(side))
        assert worst is not None  # noqa: S101 - there is a best level
        return depths, _in_bps((Decimal(worst[0]) - mid) * sign, mid)


def _key(side: Side, limit: Decimal, sign: int) -> float | Decimal:
    """Return the sort key of a limit; levels at the limit or better have this key or a greater one."""
    if isinstance(side.best_key(), float):
        limit = (_LOWER_LIMIT if sign < 0 else _UPPER_LIMIT).plus(limit)
    found: float | Decimal = side.key(plain(limit))
    return found
