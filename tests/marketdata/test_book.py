"""The book equals a naive one that keeps exact decimals in a dict, at every step."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.book import L2Book, Side, float_keys

# One number in the ways that venues spell it, close neighbours that floats cannot tell apart, and the extremes.
SPELLINGS = ["1", "1.0", "1.000", "01", "1e0", "10e-1", "0.1e1", "100E-2"]
CLOSE = ["1.0000000000000001", "1.00000000000000012", "1.0000000000000002", "0.99999999999999999", "1.1", "0.9"]
LONG = [
    "123456789012345678901234567890.1",
    "123456789012345678901234567890.2",
    "1.0000000000000000000000000000000000000001",
    "0.000000000000000000000000000001",
    "9007199254740993",
    "9007199254740992",
    "999999999999999",
    "999999999999999.5",
    "1e-300",
    "1e300",
    "1e400",
    "-1",
    "-37.63",
]
PRICE = (
    st.sampled_from(SPELLINGS + CLOSE + LONG)
    | st.integers(1, 30).map(str)
    | st.decimals(0, 1000, places=2, allow_nan=False).map(str)
    | st.decimals(0, 10, places=18, allow_nan=False).map(str)
)
SIZE = st.sampled_from(["0", "0.0", "0.00000000", "0e-8", "0E+5", ".0", "0."]) | st.sampled_from(
    ["1", "0.5", "1e-400", "0.00000001", "2.50", "1e-9"]
)
CHANGES = st.lists(st.tuples(PRICE, SIZE), max_size=8)
STEPS = st.lists(st.tuples(st.booleans(), CHANGES), max_size=12)


class NaiveSide:
    """What a side means, in the plainest way."""

    def __init__(self) -> None:
        self.levels: dict[Decimal, tuple[str, str]] = {}

    def apply(self, changes: list[tuple[str, str]]) -> None:
        """Set each price to its size, or remove it."""
        for price, size in changes:
            if Decimal(size) == 0:
                self.levels.pop(Decimal(price), None)
            else:
                self.levels[Decimal(price)] = (price, size)

    def top(self, *, best_is_highest: bool) -> list[tuple[str, str]]:
        """Return the levels, best first."""
        return [self.levels[price] for price in sorted(self.levels, reverse=best_is_highest)]


@given(sign=st.sampled_from([1, -1]), steps=STEPS, depth=st.integers(0, 4))
def test_a_side_equals_the_naive_one_at_every_step(
    sign: int, steps: list[tuple[bool, list[tuple[str, str]]]], depth: int
) -> None:
    """Snapshots and changes in any spelling, with prices of any length, give the same levels in the same order."""
    side, naive = Side(sign), NaiveSide()
    for is_snapshot, changes in steps:
        prices, sizes = [price for price, _ in changes], [size for _, size in changes]
        if is_snapshot:
            # A price that a snapshot names twice has no defined size.
            unique = {Decimal(price): (price, size) for price, size in changes}
            prices, sizes = [price for price, _ in unique.values()], [size for _, size in unique.values()]
            side.replace(prices, sizes)
            naive.levels.clear()
            naive.apply(list(unique.values()))
        else:
            side.apply(prices, sizes)
            naive.apply(changes)
        expected = naive.top(best_is_highest=sign > 0)
        assert side.top() == expected
        assert len(side) == len(expected)
        assert side.best() == (expected[0] if expected else None)
        assert side.top(depth) == expected[:depth]
        for price, size in expected:
            assert side.size_at(price) == size
        assert side.size_at("7777777") is None
        assert side.size_at("77.7777777777777777777") is None


@given(bids=CHANGES, asks=CHANGES)
def test_crossed_means_that_the_exact_best_bid_is_above_the_exact_best_ask(
    bids: list[tuple[str, str]], asks: list[tuple[str, str]]
) -> None:
    """Also when one side is kept in floats and the other in decimals."""
    book, naive_bids, naive_asks = L2Book(), NaiveSide(), NaiveSide()
    book.bids.apply([price for price, _ in bids], [size for _, size in bids])
    book.asks.apply([price for price, _ in asks], [size for _, size in asks])
    naive_bids.apply(bids)
    naive_asks.apply(asks)
    crossed = bool(naive_bids.levels and naive_asks.levels) and max(naive_bids.levels) > min(naive_asks.levels)
    assert book.is_crossed() == crossed


@given(
    st.lists(
        st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str) | st.sampled_from(["5.", ".5", "007"]),
        max_size=9,
    )
)
def test_many_prices_have_the_keys_that_each_has_alone(prices: list[str]) -> None:
    """Whatever the quick way cannot read is read the usual way."""
    assert float_keys(prices) == [float(price) for price in prices]


def test_a_locked_book_is_not_crossed() -> None:
    """Equal prices, in any spelling, are locked."""
    book = L2Book()
    book.bids.apply(["0.1"], ["1"])
    book.asks.apply(["0.100000000000000000000"], ["1"])
    assert not book.is_crossed()
    assert book.best() == (("0.1", "1"), ("0.100000000000000000000", "1"))


def test_a_bid_that_only_decimals_see_above_the_ask_is_crossed() -> None:
    """Floats would call these prices equal."""
    book = L2Book()
    book.asks.apply(["0.1"], ["1"])
    book.bids.apply(["0.10000000000000000001"], ["1"])
    assert book.is_crossed()


@given(changes=CHANGES, depth=st.integers(0, 5), sign=st.sampled_from([1, -1]))
def test_truncating_keeps_the_best(changes: list[tuple[str, str]], depth: int, sign: int) -> None:
    """What is beyond the depth is forgotten and may be set again."""
    side = Side(sign)
    side.apply([price for price, _ in changes], [size for _, size in changes])
    before = side.top()
    side.truncate(depth)
    assert side.top() == before[:depth]
    prices, sizes = [price for price, _ in before], [size for _, size in before]
    side.apply(prices, sizes)
    assert side.top() == before


def test_clearing_forgets_everything() -> None:
    """A cleared book is empty on both sides."""
    book = L2Book()
    book.bids.apply(["1"], ["1"])
    book.asks.apply(["2"], ["1"])
    book.clear()
    assert book.best() == (None, None)


def test_uneven_columns_are_refused() -> None:
    """A price without a size is no level."""
    with pytest.raises(ValueError, match="zip"):
        Side(1).apply(["1", "2"], ["1"])
    with pytest.raises(ValueError, match="zip"):
        Side(1).replace(["1", "2"], ["1"])
