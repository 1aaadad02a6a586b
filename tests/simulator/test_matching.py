"""The matching book keeps its promises under any flow of orders."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.simulator.matching import ASK, BID, Matching

_SIDES = st.sampled_from((BID, ASK))
_LOTS = st.integers(1, 50)
_ORDERS = st.lists(
    st.one_of(
        st.tuples(st.just("limit"), _SIDES, st.integers(90, 110), _LOTS),
        st.tuples(st.just("market"), _SIDES, _LOTS),
        st.tuples(st.just("cancel"), st.integers(0, 1_000)),
    ),
    max_size=80,
)


def _play(book: Matching, order: tuple[Any, ...]) -> None:
    match order:
        case ("limit", side, ticks, lots):
            book.limit(side, ticks, lots)
        case ("market", side, lots):
            book.market(side, lots)
        case ("cancel", place) if len(book):
            book.cancel(book.order_id(place % len(book)))


@given(_ORDERS)
@settings(deadline=None)
def test_no_flow_of_orders_crosses_the_book(orders: list[tuple[Any, ...]]) -> None:
    """After every order the best bid is below the best ask, not even equal: equal prices would have matched."""
    book = Matching()
    for order in orders:
        _play(book, order)
        bid, ask = book.best(BID), book.best(ASK)
        assert bid is None or ask is None or bid < ask


@given(_ORDERS)
@settings(deadline=None)
def test_volume_is_conserved(orders: list[tuple[Any, ...]]) -> None:
    """What was entered is resting, traded, cancelled or expired, to the last lot."""
    book = Matching()
    for order in orders:
        _play(book, order)
        resting = sum(order.lots for order in book.resting())
        totals = book.totals
        assert totals.entered == resting + totals.traded + totals.cancelled + totals.expired


@given(_ORDERS)
@settings(deadline=None)
def test_levels_are_the_sums_of_their_orders(orders: list[tuple[Any, ...]]) -> None:
    """The L2 view is what one gets by adding up the resting orders, best price first."""
    book = Matching()
    for order in orders:
        _play(book, order)
    for side in (BID, ASK):
        sums: Counter[int] = Counter()
        for resting in book.resting():
            if resting.side == side:
                sums[resting.ticks] += resting.lots
        assert book.levels(side) == sorted(sums.items(), key=lambda level: -side * level[0])


@given(_ORDERS)
@settings(deadline=None)
def test_changes_alone_rebuild_the_levels(orders: list[tuple[Any, ...]]) -> None:
    """Whoever applies every change, and nothing else, has the book; each change starts from what was before."""
    book = Matching()
    mirror: dict[int, dict[int, int]] = {BID: {}, ASK: {}}
    for order in orders:
        _play(book, order)
        for change in book.take_changes():
            assert mirror[change.side].get(change.ticks, 0) == change.before
            mirror[change.side][change.ticks] = change.after
        for side in (BID, ASK):
            assert {ticks: lots for ticks, lots in mirror[side].items() if lots} == dict(book.levels(side))


@given(st.lists(st.tuples(st.integers(95, 105), _LOTS), min_size=1, max_size=20), _LOTS)
@settings(deadline=None)
def test_fills_go_by_price_then_by_time(asks: list[tuple[int, int]], wanted: int) -> None:
    """A buyer takes the lowest price first, and at one price the oldest order first."""
    book = Matching()
    queue = defaultdict(list)
    for ticks, lots in asks:
        book.limit(ASK, ticks, lots)
        queue[ticks].append(lots)
    expected, left = [], wanted
    for ticks in sorted(queue):
        for lots in queue[ticks]:
            if left:
                expected.append((ticks, min(lots, left), ASK))
                left -= min(lots, left)
    assert [tuple(fill) for fill in book.market(BID, wanted)] == expected
    assert book.totals.expired == left
