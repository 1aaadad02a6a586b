"""Metrics of books equal a naive computation, cover all of time, and are invalid when the book is."""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import AnyEvent, Metrics
from stream_apps.operators.books import Books
from stream_apps.operators.metrics import MetricsSettings
from tests.operators.test_books import STEPS, Naive, events

Run = Callable[..., list[list[AnyEvent]]]
EVERY = 100_000_000
DISTANCES = (Decimal("0.5"), Decimal(700), Decimal(3_000))


def books() -> Books:
    """Return an operator with metrics each tenth of a second."""
    return Books(settings=MetricsSettings(every_ns=EVERY, depth_bps=DISTANCES))


def found(published: list[list[AnyEvent]]) -> list[Metrics]:
    """Return the metrics."""
    return [event for outputs in published for event in outputs if isinstance(event, Metrics)]


def rounded(value: Fraction) -> str:
    """Return a quotient with 18 significant digits."""
    context = Context(prec=18, rounding=ROUND_HALF_EVEN)
    return format(context.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize(Context(prec=40)), "f")


def same(text: str | None, value: Fraction | None) -> bool:
    """Return whether an exact text has this value."""
    return (text is None) == (value is None) and (text is None or Fraction(text) == value)


def depth(levels: list[tuple[str, str]], limit: Fraction, sign: int) -> Fraction:
    """Return the sum of sizes at a limit or better; `sign` is 1 for asks."""
    return sum((Fraction(size) for price, size in levels if sign * (Fraction(price) - limit) <= 0), Fraction(0))


def flow(old: tuple[Any, Any], new: tuple[Any, Any]) -> Fraction:
    """Return the contribution of one change of the best levels, exactly as the paper writes it."""
    (old_bid, old_bids), (old_ask, old_asks) = (map(Fraction, each) for each in old)
    (bid, bids), (ask, asks) = (map(Fraction, each) for each in new)
    return (bid >= old_bid) * bids - (bid <= old_bid) * old_bids - (ask <= old_ask) * asks + (ask >= old_ask) * old_asks


def check_values(metrics: Metrics, naive: Naive) -> None:
    """Compare every value with one computed from all levels."""
    assert (metrics.valid, metrics.reason) == (not naive.reason, naive.reason)
    bids, asks = ([], []) if naive.reason else (naive.bids, naive.asks)
    assert (metrics.bid, metrics.bid_size) == (bids[0] if bids else (None, None))
    assert (metrics.ask, metrics.ask_size) == (asks[0] if asks else (None, None))
    if not bids or not asks:
        assert (metrics.mid, metrics.spread, metrics.microprice, metrics.imbalance) == (None,) * 4
        assert (metrics.depth_bps, metrics.bid_depths, metrics.ask_depths) == ([], [], [])
        return
    (bid, bid_size), (ask, ask_size) = map(Fraction, bids[0]), map(Fraction, asks[0])
    mid = (bid + ask) / 2
    assert same(metrics.mid, mid)
    assert same(metrics.spread, ask - bid)
    assert metrics.spread_bps == rounded(10_000 * (ask - bid) / mid)
    assert metrics.microprice == rounded((bid * ask_size + ask * bid_size) / (bid_size + ask_size))
    assert metrics.imbalance == rounded((bid_size - ask_size) / (bid_size + ask_size))
    assert metrics.depth_bps == [str(each) for each in DISTANCES]
    for levels, depths, sign in ((bids, metrics.bid_depths, -1), (asks, metrics.ask_depths, 1)):
        limits = [mid * (10_000 + sign * Fraction(each)) / 10_000 for each in DISTANCES]
        assert [Fraction(each) for each in depths] == [depth(levels, limit, sign) for limit in limits]
    assert metrics.bid_reach_bps == rounded(10_000 * (mid - Fraction(bids[-1][0])) / mid)
    assert metrics.ask_reach_bps == rounded(10_000 * (Fraction(asks[-1][0]) - mid) / mid)


class Past:
    """What happened since the last metrics."""

    def __init__(self, naive: Naive) -> None:
        self.flow: Fraction | None = None
        self.best = self.of(naive)

    @staticmethod
    def of(naive: Naive) -> tuple[Any, Any] | None:
        """Return the best levels of a valid book with both sides."""
        return (naive.bids[0], naive.asks[0]) if not naive.reason and naive.bids and naive.asks else None

    def restart(self, naive: Naive) -> None:
        """Begin an interval."""
        self.flow = None if self.of(naive) is None else Fraction(0)

    def see(self, naive: Naive) -> None:
        """Take the book after an event."""
        before, self.best = self.best, self.of(naive)
        if before is None or self.best is None:
            self.flow = None
        elif self.flow is not None:
            self.flow += flow(before, self.best)


@given(steps=STEPS)
@settings(max_examples=150)
def test_metrics_equal_a_naive_computation_over_all_levels(run: Run, make: Any, steps: list[Any]) -> None:
    """At each multiple of the cadence before the event that passes it, and after an event that changes validity."""
    naive, past = Naive(), Past(Naive())
    for event, published in zip(made := events(make, steps), run(books, made), strict=True):
        before = naive.reason
        sampled = found([published])
        if sampled and sampled[0].ts_event % EVERY == 0 and (len(sampled) == 2 or sampled[0].reason == before):
            check_values(sampled[0], naive)
            assert same(sampled[0].order_flow, past.flow)
            past.restart(naive)
            sampled = sampled[1:]
        naive.take(event)
        past.see(naive)
        assert len(sampled) == int(naive.reason != before)
        for metrics in sampled:
            check_values(metrics, naive)
            past.restart(naive)


@given(steps=STEPS, data=st.data())
@settings(max_examples=60)
def test_intervals_follow_each_other_and_a_restart_changes_nothing(
    run: Run, make: Any, steps: list[Any], data: st.DataObject
) -> None:
    """Each interval begins where the last one ended; a multiple of the cadence is never skipped while events come."""
    made = events(make, steps)
    published = run(books, made, restarts=data.draw(st.lists(st.integers(0, max(0, len(made) - 1)), max_size=4)))
    assert published == run(books, made)
    metrics = found(published)
    for earlier, later in pairwise(metrics):
        assert later.ts_from == earlier.ts_event <= later.ts_event
    naive, newest = Naive(), 0
    for event, outputs in zip(made, published, strict=True):
        if event.kind == "update" and naive.waiting:
            continue  # ignored, and shows no time
        assert not newest or event.ts_event // EVERY <= newest // EVERY or found([outputs])
        naive.take(event)
        newest = max(newest, event.ts_event)


def test_no_more_metrics_than_the_cadence_allows(run: Run, make: Any) -> None:
    """A thousand updates in a second make ten; a minute of silence makes one."""
    snapshot = make.book("snapshot", 0, [("10", "1")], [("11", "1")])
    updates = [make.book("update", i / 1000, [("10", str(i))]) for i in range(1, 1001)]
    late = make.book("update", 61.05, [("10", "1")])
    metrics = found(run(books, [snapshot, *updates, late]))
    assert [(one.ts_event - make.ts(0)) // EVERY for one in metrics] == [0, *range(1, 11), 610]
    assert [one.order_flow for one in metrics] == [None, "98", *["100"] * 9, "1"]
    assert [one.changes for one in metrics] == [0, 99, *[100] * 9, 1]


def test_an_ask_that_rises_is_buying_pressure(run: Run, make: Any) -> None:
    """The paper's signs: a bid that falls takes its size away, an ask that rises adds the size that left."""
    steps = [
        make.book("snapshot", 0, [("10", "3"), ("9", "2")], [("11", "5"), ("12", "7")]),
        make.book("update", 0.01, asks=[("11", "0")]),
        make.book("heartbeat", 0.11),
        make.book("update", 0.12, bids=[("10", "0")]),
        make.book("heartbeat", 0.21),
    ]
    metrics = found(run(books, steps))
    assert [(one.order_flow, one.best_price_changes) for one in metrics] == [(None, 0), ("5", 1), ("-3", 1)]


def test_a_book_of_prices_below_zero_has_no_values_relative_to_its_middle(run: Run, make: Any) -> None:
    """Futures have settled there; spread, middle and imbalance are still known."""
    (metrics,) = found(run(books, [make.book("snapshot", 0, [("-3", "1")], [("-1", "3")])]))
    assert (metrics.mid, metrics.spread, metrics.imbalance, metrics.microprice) == ("-2", "2", "-0.5", "-2.5")
    assert (metrics.spread_bps, metrics.depth_bps, metrics.bid_reach_bps) == (None, [], None)


def test_levels_at_a_limit_count_however_many_digits_the_limit_has(run: Run, make: Any) -> None:
    """A price of fifteen digits just outside a limit of more digits is outside, one just inside is inside."""
    mid = Decimal("1.00000000000005")
    limit = mid * (1 - Decimal("0.5") / 10_000)
    inside, outside = Decimal("0.99995000000005"), Decimal("0.99995000000004")
    assert outside < limit < inside
    bids = [("1", "1"), (str(inside), "10"), (str(outside), "100")]
    (metrics,) = found(run(books, [make.book("snapshot", 0, bids, [("1.0000000000001", "1")])]))
    assert metrics.bid_depths[0] == "11"


@pytest.mark.parametrize(
    "wrong", [{"every_ns": 0}, {"depth_bps": (Decimal(5), Decimal(5))}, {"depth_bps": (Decimal(0),)},
              {"depth_bps": (Decimal(10_001),)}, {"depth_bps": tuple(map(Decimal, range(1, 30)))}]
)  # fmt: skip
def test_settings_that_make_no_metrics_are_refused(wrong: dict[str, Any]) -> None:
    """When the settings are read, not when the first metrics are due."""
    with pytest.raises(ValueError, match=r"must be|at most"):
        MetricsSettings(**wrong)
