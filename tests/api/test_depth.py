"""A view of a book's best levels, kept up to date by changes alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from api.core.depth import Edges
from marketdata.book import L2Book, Level

PRICES = st.sampled_from(
    [f"{whole}.{cent:02d}" for whole in (99, 100, 101) for cent in (0, 1, 50)] + ["100.0000000000000001"]
)
SIZES = st.sampled_from(["0", "0.000", "1", "2.5", "1e-8"])
SIDE = st.dictionaries(PRICES, SIZES, max_size=6).map(lambda levels: (list(levels), list(levels.values())))


def apply(view: dict[str, str], changes: list[Level]) -> None:
    """Do what a client does with the levels of an l2_update."""
    for price, size in changes:
        if size == "0":
            view.pop(price, None)
        else:
            view[price] = size


@settings(deadline=None)
@given(depth=st.integers(1, 5), updates=st.lists(st.tuples(SIDE, SIDE), max_size=12))
def test_changes_keep_a_view_exact_at_every_step(
    depth: int, updates: list[tuple[tuple[list[str], list[str]], tuple[list[str], list[str]]]]
) -> None:
    """Whatever the updates, the view before and the changes give exactly the best N levels after."""
    book = L2Book()
    views: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for bids, asks in updates:
        edges = Edges(book, depth)
        book.bids.apply(*bids)
        book.asks.apply(*asks)
        for view, changes in zip(views, edges.changes(book, bids[0], asks[0]), strict=True):
            apply(view, changes)
        assert views[0] == dict(book.bids.top(depth))
        assert views[1] == dict(book.asks.top(depth))


def test_a_change_beyond_the_view_is_no_change() -> None:
    """What happens below the N-th best level is told to nobody who watches N levels."""
    book = L2Book()
    book.bids.replace(["100", "99", "98"], ["1", "1", "1"])
    edges = Edges(book, 2)
    book.bids.apply(["98", "97"], ["5", "5"])
    assert edges.changes(book, ["98", "97"], []) == ([], [])


def test_a_level_that_leaves_the_view_is_removed_and_one_that_enters_is_set() -> None:
    """A new best level pushes the last one out of the view; its removal brings that one back."""
    book = L2Book()
    book.asks.replace(["100", "101", "102"], ["1", "2", "3"])
    edges = Edges(book, 2)
    book.asks.apply(["99"], ["9"])
    assert edges.changes(book, [], ["99"]) == ([], [("99", "9"), ("101", "0")])
    edges = Edges(book, 2)
    book.asks.apply(["99"], ["0"])
    assert edges.changes(book, [], ["99"]) == ([], [("99", "0"), ("101", "2")])
