"""The L3 book equals a naive one at every step, and the levels recorded by NASDAQ, Databento and LOBSTER."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.errors import BadEvent
from marketdata.orders import ASK, BID, Level, OrderBook, Scale, Side

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"

IDS, PRICES, SIZES = st.integers(1, 8), st.integers(-2, 4), st.integers(0, 5)
SIDES = st.sampled_from((BID, ASK))
STEPS = st.lists(
    st.tuples(st.just("add"), IDS, SIDES, PRICES, SIZES)
    | st.tuples(st.just("modify"), IDS, PRICES, SIZES)
    | st.tuples(st.just("reduce"), IDS, SIZES)
    | st.tuples(st.just("remove"), IDS)
    | st.tuples(st.sampled_from(("clear", "take"))),
    max_size=60,
)


class Naive:
    """Orders in one list by priority; everything else is computed from it each time."""

    def __init__(self) -> None:
        self.orders: list[tuple[int, Side, int, int]] = []
        self.told: dict[tuple[Side, int], tuple[int, int]] = {}

    def find(self, order_id: int) -> tuple[int, Side, int, int] | None:
        """Return an order."""
        return next((order for order in self.orders if order[0] == order_id), None)

    def change(self, verb: str, order_id: int, *values: Any) -> bool:
        """Apply a change naively."""
        order = self.find(order_id)
        if (order is None) != (verb == "add"):
            return False
        if order is None:
            side, price, size = values
            new = (order_id, side, price, size)
            at = len(self.orders)
        else:
            at = self.orders.index(order)
            _, side, price, size = order
            match verb:
                case "modify":
                    price, size = values
                case "reduce":
                    size -= values[0]
                case _:
                    size = 0
            new = (order_id, side, price, size)
            del self.orders[at]
            if price != order[2] or size > order[3]:
                at = len(self.orders)
        if new[3] > 0:
            self.orders.insert(at, new)
        return True

    def levels(self, side: Side) -> list[Level]:
        """Return a side, best first."""
        prices = {order[2] for order in self.orders if order[1] == side}
        sizes = {price: [order[3] for order in self.orders if order[1:3] == (side, price)] for price in prices}
        return [Level(price, sum(sizes[price]), len(sizes[price])) for price in sorted(prices, reverse=side == BID)]

    def take(self) -> set[tuple[Side, Level]]:
        """Return the levels that changed since the last call."""
        now = {(side, level.price): level[1:] for side in (BID, ASK) for level in self.levels(side)}
        places = now.keys() | self.told.keys()
        changed = {(s, p) for s, p in places if now.get((s, p)) != self.told.get((s, p))}
        self.told = now
        return {(s, Level(p, *now.get((s, p), (0, 0)))) for s, p in changed}


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_book_equals_a_naive_one_at_every_step(steps: list[tuple[Any, ...]]) -> None:
    """Levels, queues, inconsistent changes, and the changes since the last call, for any sequence of changes."""
    book, naive = OrderBook(), Naive()
    for verb, *values in [*steps, ("take",)]:
        if verb == "take":
            bids, asks = book.take_changes()
            told = [(BID, level) for level in bids] + [(ASK, level) for level in asks]
            assert len(told) == len(set(told))
            assert set(told) == naive.take()
        elif verb == "clear":
            book.clear()
            naive.orders.clear()
        else:
            assert getattr(book, verb)(*values) == naive.change(verb, *values)
        assert len(book) == len(naive.orders)
        for side in (BID, ASK):
            assert book.levels(side) == naive.levels(side)
            assert book.top(side, 2) == naive.levels(side)[:2]
            for price in range(-2, 5):
                line = [(order[0], order[3]) for order in naive.orders if order[1:3] == (side, price)]
                assert book.queue(side, price) == line
        for order_id in range(1, 9):
            order, expected = book.get(order_id), naive.find(order_id)
            assert (order is not None) == (order_id in book) == (expected is not None)
            assert order is None or expected is None or (order.side, order.price, order.size) == expected[1:]


def test_order_keeps_its_priority_only_if_it_does_not_grow() -> None:
    """A smaller size keeps the place in the queue; a larger one, and another price and back, go to its end."""
    book = OrderBook()
    for order_id in "abc":
        book.add(order_id, BID, 100, 5)
    book.modify("a", 100, 4)
    assert [order_id for order_id, _ in book.queue(BID, 100)] == ["a", "b", "c"]
    book.modify("a", 100, 6)
    assert [order_id for order_id, _ in book.queue(BID, 100)] == ["b", "c", "a"]
    book.modify("b", 99, 5)
    book.modify("b", 100, 5)
    assert [order_id for order_id, _ in book.queue(BID, 100)] == ["c", "a", "b"]


# --- Decimal strings ---


@given(value=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=10))
def test_decimals_survive_the_scale(value: Decimal) -> None:
    """A decimal of that many places comes back as the same digits, except for trailing zeros."""
    scale = Scale(10)
    for text in (str(value), format(value, "f"), format(value.normalize(), "f")):
        number = scale.number(text, "price")
        assert number == value.scaleb(10)
        assert Decimal(scale.text(number)) == value
        assert not scale.text(number).endswith((".", ".0"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "not_a_decimal"), (".", "not_a_decimal"), ("1_0", "not_a_decimal"), ("NaN", "not_a_decimal"),
     ("\u0661", "not_a_decimal"), ("1.\u0661", "not_a_decimal"), (" 1", "not_a_decimal"), ("1" * 65, "not_a_decimal"),
     ("0.001", "too_precise"), ("1e-3", "too_precise"), ("1e999", "out_of_range"),
     ("1" * 31, "out_of_range")],
)  # fmt: skip
def test_a_decimal_beyond_the_scale_is_refused(text: str, reason: str) -> None:
    """Nothing is rounded; the error says why."""
    with pytest.raises(BadEvent) as refused:
        Scale(2).number(text, "price")
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("text", "number", "back"),
    [("1", 100, "1"), ("1.10", 110, "1.1"), ("0.010", 1, "0.01"), ("-0.5", -50, "-0.5"), (".5", 50, "0.5"),
     ("1.", 100, "1"), ("12e-1", 120, "1.2"), ("1e2", 10_000, "100"), ("0", 0, "0"), ("-0", 0, "0")],
)  # fmt: skip
def test_every_notation_of_a_decimal_is_read(text: str, number: int, back: str) -> None:
    """Another notation of the same price is the same level."""
    assert Scale(2).number(text, "price") == number
    assert Scale(2).text(number) == back


def test_sum_of_more_digits_than_a_decimal_may_have_is_refused() -> None:
    """Two sizes may add up to more than consumers accept."""
    scale = Scale(2)
    most = scale.number("9" * 30, "size")
    assert scale.text(most) == "9" * 30
    with pytest.raises(BadEvent, match="out_of_range"):
        scale.text(most + scale.number("1", "size"))


def test_whole_numbers_are_a_scale_too() -> None:
    """Without places, text is the number."""
    assert Scale(0).text(Scale(0).number("120", "size")) == "120"


# --- Recordings ---


def rows(name: str) -> Iterator[list[str]]:
    """Yield the rows of a recorded table."""
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as plain:
        yield from csv.reader(io.TextIOWrapper(plain, encoding="ascii"))


def test_nasdaq_orders_add_up_to_databentos_ten_levels() -> None:
    """Price, size and order count of ten levels a side, at every sequence that the ten-level table has."""
    scale = Scale(9)
    header, *table = rows("nasdaq_arl_mbp10.csv.zst")
    sequence_at, first = header.index("sequence"), header.index("bid_px_00")
    expected: dict[str, tuple[list[Level], list[Level]]] = {}
    for row in table:
        sides: tuple[list[Level], list[Level]] = ([], [])
        for at in range(first, first + 60, 3):
            if row[at]:
                price, size, count = row[at : at + 3]
                sides[(at - first) // 3 % 2].append(Level(scale.number(price, "price"), int(size), int(count)))
        expected[row[sequence_at]] = sides

    book, checked, unknown = OrderBook(), 0, 0
    header, *orders = rows("nasdaq_arl_mbo.csv.zst")
    fields = [dict(zip(header, row, strict=True)) for row in orders]
    for at, told in enumerate(fields):
        match told["action"]:
            case "A":
                side: Side = BID if told["side"] == "B" else ASK
                unknown += not book.add(told["order_id"], side, scale.number(told["price"], "price"), int(told["size"]))
            case "C":
                unknown += not book.reduce(told["order_id"], int(told["size"]))
            case "R":
                book.clear()
        is_last = at + 1 == len(fields) or fields[at + 1]["sequence"] != told["sequence"]
        if is_last and told["sequence"] in expected:
            assert (book.top(BID, 10), book.top(ASK, 10)) == expected[told["sequence"]]
            checked += 1
    assert (checked, unknown) == (len(expected), 0)
    assert checked > 1_000


def test_lobsters_messages_lead_from_each_book_to_the_next() -> None:
    """Ten levels a side after 999 messages; orders from before the recording are the first book's levels."""
    books = list(rows("lobster_msft_orderbook50.csv.zst"))
    book, equal = OrderBook(), 0
    for at in range(0, 200, 4):
        ask, ask_size, bid, bid_size = map(int, books[0][at : at + 4])
        book.add((ASK, ask), ASK, ask, ask_size)
        book.add((BID, bid), BID, bid, bid_size)
    for message, levels in zip(list(rows("lobster_msft_message.csv.zst"))[1:], books[1:], strict=True):
        kind, order_id, size, price = map(int, message[1:5])
        side: Side = BID if message[5] == "1" else ASK
        if kind == 1:
            assert book.add(order_id, side, price, size)
        elif kind in {2, 3, 4} and not book.reduce(order_id, size):
            book.reduce((side, price), size)
        values = list(map(int, levels))
        asks, bids = book.top(ASK, 10), book.top(BID, 10)
        equal += [level[:2] for level in asks] == list(zip(values[0:40:4], values[1:40:4], strict=True)) and [
            level[:2] for level in bids
        ] == list(zip(values[2:40:4], values[3:40:4], strict=True))
    assert equal == 999
