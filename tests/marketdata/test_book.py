"""The book equals a naive one with exact decimals in a dict at every step, compiled and in plain Python."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Sequence
from decimal import Decimal
from itertools import chain, zip_longest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata import compiled, plain_side
from marketdata.book import L2Book
from marketdata.plain_side import float_keys

# Notations of one number, close neighbours that are equal as floats, and extreme values.
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
# Without a C compiler there is no compiled code to test.
IMPLEMENTATIONS: list[Any] = [plain_side] if compiled.code is None else [plain_side, compiled.code]
IMPLEMENTATION = st.sampled_from(IMPLEMENTATIONS)
CHANGES = st.lists(st.tuples(PRICE, SIZE), max_size=8)
STEPS = st.lists(st.tuples(st.booleans(), CHANGES), max_size=12)


def columns(levels: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return prices and sizes."""
    return [price for price, _ in levels], [size for _, size in levels]


def make_book(code: Any) -> L2Book:
    """Return a book with sides of one implementation."""
    book = L2Book()
    book.bids, book.asks = code.Side(1), code.Side(-1)
    return book


class NaiveSide:
    """A naive side."""

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


@given(code=IMPLEMENTATION, sign=st.sampled_from([1, -1]), steps=STEPS, depth=st.integers(0, 4))
def test_a_side_equals_the_naive_one_at_every_step(
    code: Any, sign: int, steps: list[tuple[bool, list[tuple[str, str]]]], depth: int
) -> None:
    """Snapshots and updates in any notation, with prices of any length, give the same levels in the same order."""
    side, naive = code.Side(sign), NaiveSide()
    for is_snapshot, changes in steps:
        prices, sizes = columns(changes)
        if is_snapshot:
            # Of a price that a snapshot names twice, the last counts.
            side.replace(prices, sizes)
            naive.levels.clear()
            naive.apply(changes)
        else:
            side.apply(prices, sizes)
            naive.apply(changes)
        expected = naive.top(best_is_highest=sign > 0)
        assert side.top() == expected
        assert len(side) == len(expected)
        assert side.best() == (expected[0] if expected else None)
        assert side.top(depth) == expected[:depth]
        assert side.nth(depth) == (expected[depth - 1] if 0 < depth <= len(expected) else None)
        for price, size in expected:
            assert side.size_at(price) == size
        assert side.size_at("7777777") is None
        assert side.size_at("77.7777777777777777777") is None
        keys = [side.key(price) for price, _ in expected]
        assert keys == sorted(keys, reverse=True)
        if keys:
            assert side.best_key() == keys[0]
            assert side.between(keys[-1], keys[0]) == expected[:0:-1]
            assert side.between(None, None) == expected[::-1]


@given(code=IMPLEMENTATION, bids=CHANGES, asks=CHANGES)
def test_crossed_means_that_the_exact_best_bid_is_above_the_exact_best_ask(
    code: Any, bids: list[tuple[str, str]], asks: list[tuple[str, str]]
) -> None:
    """Also if one side uses floats and the other decimals."""
    book, naive_bids, naive_asks = make_book(code), NaiveSide(), NaiveSide()
    book.bids.apply(*columns(bids))
    book.asks.apply(*columns(asks))
    naive_bids.apply(bids)
    naive_asks.apply(asks)
    crossed = bool(naive_bids.levels and naive_asks.levels) and max(naive_bids.levels) > min(naive_asks.levels)
    assert book.is_crossed() == crossed


@given(code=IMPLEMENTATION, bids=CHANGES, asks=CHANGES, depth=st.integers(0, 5))
def test_texts_under_checksums_are_the_best_levels_as_the_venue_wrote_them(
    code: Any, bids: list[tuple[str, str]], asks: list[tuple[str, str]], depth: int
) -> None:
    """Alternating with colons, and as digits without leading zeros; also if a side has fewer levels."""
    book = make_book(code)
    book.bids.apply(*columns(bids))
    book.asks.apply(*columns(asks))
    in_turn = chain(*zip_longest(book.bids.top(depth), book.asks.top(depth)))
    expected = ":".join(f"{price}:{size}" for price, size in filter(None, in_turn))
    assert code.levels_in_turn(book.bids, book.asks, depth) == expected.encode()
    digits = [text.replace(".", "").lstrip("0") for level in book.bids.top(depth) for text in level]
    assert code.levels_digits(book.bids, depth) == "".join(digits).encode()


@given(
    st.lists(
        st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str) | st.sampled_from(["5.", ".5", "007"]),
        max_size=9,
    )
)
def test_many_prices_have_the_keys_that_each_has_alone(prices: list[str]) -> None:
    """Prices that the fast path cannot read take the general path."""
    assert float_keys(prices) == [float(price) for price in prices]


@pytest.mark.parametrize("code", IMPLEMENTATIONS)
def test_a_locked_book_is_not_crossed(code: Any) -> None:
    """Equal prices, in any notation, are locked."""
    book = make_book(code)
    book.bids.apply(["0.1"], ["1"])
    book.asks.apply(["0.100000000000000000000"], ["1"])
    assert not book.is_crossed()
    assert book.best() == (("0.1", "1"), ("0.100000000000000000000", "1"))


@pytest.mark.parametrize("code", IMPLEMENTATIONS)
def test_a_bid_above_the_ask_only_as_decimals_is_crossed(code: Any) -> None:
    """As floats these prices are equal."""
    book = make_book(code)
    book.asks.apply(["0.1"], ["1"])
    book.bids.apply(["0.10000000000000000001"], ["1"])
    assert book.is_crossed()


@given(code=IMPLEMENTATION, changes=CHANGES, depth=st.integers(0, 5), sign=st.sampled_from([1, -1]))
def test_truncating_keeps_the_best(code: Any, changes: list[tuple[str, str]], depth: int, sign: int) -> None:
    """Levels beyond the depth are returned and removed, and may be set again."""
    side = code.Side(sign)
    side.apply(*columns(changes))
    before = side.top()
    assert side.truncate(depth) == before[depth:][::-1]
    assert side.top() == before[:depth]
    side.apply(*columns(before))
    assert side.top() == before


@pytest.mark.parametrize("code", IMPLEMENTATIONS)
def test_clearing_removes_everything(code: Any) -> None:
    """A cleared book is empty on both sides."""
    book = make_book(code)
    book.bids.apply(["1"], ["1"])
    book.asks.apply(["2"], ["1"])
    book.clear()
    assert book.best() == (None, None)


@pytest.mark.parametrize("code", IMPLEMENTATIONS)
def test_uneven_columns_are_refused(code: Any) -> None:
    """A level needs both a price and a size."""
    for prices, sizes in ((["1", "2"], ["1"]), (["1"], ["1", "2"]), (["1"], [])):
        with pytest.raises(ValueError, match=r"zip|as many"):
            code.Side(1).apply(prices, sizes)
        with pytest.raises(ValueError, match=r"zip|as many"):
            code.Side(1).replace(prices, sizes)


@pytest.mark.parametrize("code", IMPLEMENTATIONS)
def test_many_levels_in_any_order_are_sorted(code: Any) -> None:
    """Books may be rising, falling or mixed, and have thousands of levels or updates."""
    prices = [f"{number // 100}.{number % 100:02}" for number in range(1, 3_000)]
    mixed = [prices[number * 1_009 % len(prices)] for number in range(len(prices))]
    for order in (prices, prices[::-1], mixed):
        side = code.Side(-1)
        side.replace(order, order)
        assert [price for price, _ in side.top()] == prices
        side.replace([], [])
        side.apply(order, order)
        side.apply(order[::2], ["0"] * len(order[::2]))
        assert {price for price, _ in side.top()} == set(order[1::2])


@pytest.mark.parametrize("code", IMPLEMENTATIONS)
def test_a_side_releases_its_strings(code: Any) -> None:
    """After replacing, removing, truncating, switching to decimals or deleting, reference counts are as before."""
    price, size, other = "123456.5", "7654.5", "0.5"
    held = [sys.getrefcount(text) for text in (price, size, other)]
    for final in ("apply", "zero", "replace", "truncate", "exact", "uneven"):
        side = code.Side(1)
        side.apply([price, "1"], [size, other])
        side.apply([price, price], [other, size])
        if final == "zero":
            side.apply([price, "1"], ["0", "0.0"])
        elif final == "replace":
            side.replace([price, price], [size, "0"])
        elif final == "truncate":
            side.truncate(0)
        elif final == "exact":
            side.apply(["1e5"], [size])
        elif final == "uneven":
            with pytest.raises(ValueError, match=r"zip|as many"):
                side.apply([price], [])
        assert code.levels_in_turn(side, side, 5) is not None
    del side
    assert [sys.getrefcount(text) for text in (price, size, other)] == held


@pytest.mark.parametrize("code", IMPLEMENTATIONS)
def test_a_side_does_not_grow_with_use(code: Any) -> None:
    """Rounds of updates, new books and texts leak no memory."""

    def rounds(count: int) -> None:
        side = code.Side(-1)
        for number in range(count):
            side.replace([str(number), f"{number}.5"], ["1", "2"])
            side.apply([f"{number}.25"] * 80, ["3"] * 80)
            side.truncate(1)
            code.levels_in_turn(side, side, 10)
            code.levels_digits(side, 10)

    tracemalloc.start()
    try:
        rounds(1_000)  # caches have reached their limits by then
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        rounds(1_000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000  # less than a short string per round


@pytest.mark.parametrize("wrong", [None, 1, 1.5, b"1", ["1"]])
def test_what_is_no_string_is_refused_by_the_compiled_side(wrong: Any) -> None:
    """Before anything changes."""
    for code in IMPLEMENTATIONS[1:]:
        side = code.Side(1)
        side.apply(["1"], ["2"])
        for prices, sizes in (["2", wrong], ["1", "1"]), (["2", "1"], ["1", wrong]):
            for change in (side.apply, side.replace):
                with pytest.raises(TypeError, match="strings"):
                    change(prices, sizes)
        assert side.top() == [("1", "2")]
