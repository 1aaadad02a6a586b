"""The book of a FIX venue: every way to change a level comes to what a plain list of levels comes to."""

from __future__ import annotations

from bisect import bisect
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.errors import BadEvent
from producers.venues.fix.book import CHANGE, DELETE, DELETE_FROM, DELETE_THRU, NEW, OVERLAY, Entry, FixBook, Touched
from producers.venues.kit import entries

PRICES = st.integers(1, 30)
SIZES = st.integers(1, 99)
OPERATIONS = st.tuples(
    st.sampled_from("00001122345J"), st.sampled_from("01"), PRICES, SIZES, st.integers(1, 8), st.booleans()
)


class Naive:
    """One side as a list of (price, size), best first."""

    def __init__(self, side: str) -> None:
        self.sign = -1 if side == "0" else 1
        self.levels: list[tuple[int, int]] = []

    def insert(self, price: int, size: int) -> int:
        """Put a level where it belongs and return its number."""
        self.levels = [level for level in self.levels if level[0] != price]
        place = bisect(self.levels, self.sign * price, key=lambda level: self.sign * level[0])
        self.levels.insert(place, (price, size))
        return place + 1


def entry(action: str, side: str, **fields: int) -> Entry:
    """Return an entry with `price`, `size` and `level` where they are given."""
    tags = {"price": 270, "size": 271, "level": 1023}
    return {279: action, 269: side} | {tags[name]: str(value) for name, value in fields.items()}


def draw_entry(naive: dict[str, Naive], operation: tuple[str, str, int, int, int, bool]) -> Entry | None:
    """Make one change of the plain lists and return the entry that states it; None where it makes no sense."""
    action, side, price, size, number, by_price = operation
    book = naive[side]
    if action == NEW:
        return entry(action, side, price=price, size=size, level=book.insert(price, size))
    if action == "J":
        for one in naive.values():
            one.levels.clear()
        return {279: DELETE, 269: action}
    if not 1 <= number <= len(book.levels):
        return None
    at, _ = book.levels[number - 1]
    named = {"price": at} if by_price else {"level": number}
    if action == CHANGE:
        book.levels[number - 1] = (at, size)
        return entry(action, side, size=size, **named)
    if action == OVERLAY:
        del book.levels[number - 1]
        rest = list(book.levels)
        if price in dict(rest) or book.insert(price, size) != number:  # it would not be where it says
            book.levels, price = rest, at
            book.insert(at, size)
        return entry(action, side, price=price, size=size, level=number)
    gone = {DELETE: slice(number - 1, number), DELETE_THRU: slice(number), DELETE_FROM: slice(number - 1, None)}
    del book.levels[gone[action]]
    return entry(action, side, **named)


def sides(book: FixBook) -> dict[str, list[tuple[Decimal, str]]]:
    """Return both sides, best first."""
    bids, bid_sizes, asks, ask_sizes = book.whole()
    pairs = {"0": zip(bids, bid_sizes, strict=True), "1": zip(asks, ask_sizes, strict=True)}
    return {side: sorted(((Decimal(price), size) for price, size in levels), reverse=side == "0")
            for side, levels in pairs.items()}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(operations=st.lists(OPERATIONS, max_size=40), depth=st.sampled_from([0, 0, 5]))
def test_every_change_is_what_it_is_for_a_list_of_levels(
    operations: list[tuple[str, str, int, int, int, bool]], depth: int
) -> None:
    """Whatever names the level, and what was touched is all that changed; beyond the depth nothing is kept."""
    naive, book = {side: Naive(side) for side in "01"}, FixBook(depth)
    for operation in operations:
        before = sides(book)
        told = draw_entry(naive, operation)
        if told is None:
            continue
        touched: Touched = {}
        book.apply(told, touched)
        book.trim(touched)
        for one in naive.values():
            del one.levels[depth or len(one.levels) :]
        after = sides(book)
        assert after == {side: [(Decimal(p), str(s)) for p, s in one.levels] for side, one in naive.items()}
        for side, number in (("0", 0), ("1", 1)):
            changed = {price for price, _ in set(before[side]) ^ set(after[side])}
            assert changed <= {Decimal(price) for at, price in touched if at == number}


def test_a_change_by_number_may_bring_another_price() -> None:
    """Venues of FIX 4.4 know a level by MDEntryPositionNo alone."""
    book = FixBook()
    for price in ("10", "11"):
        book.add({269: "1", 270: price, 271: "1"})
    touched: Touched = {}
    book.apply({279: CHANGE, 269: "1", 290: "2", 270: "12"}, touched)
    assert book.sizes(touched) == ([], [], ["11", "12"], ["0", "1"])


IDS = st.sampled_from(["a", "b", "c", "d"])
BY_ID = st.tuples(
    st.sampled_from("000111225J"), st.sampled_from("01"), IDS, IDS, st.integers(-3, 3), st.integers(0, 3),
    st.booleans(),
)  # fmt: skip


Table = dict[str, tuple[str, int, int]]  # id to side, price and size


def change_table(table: Table, operation: tuple[str, str, str, str, int, int, bool]) -> Entry | None:
    """Make one change of the plain table and return the entry that states it; None where it makes no sense."""
    action, side, name, other, price, size, is_brief = operation
    whole = {279: action, 269: side, 278: name, 270: str(price), 271: str(size)}
    if action == "J":
        table.clear()
        return {279: DELETE, 269: "J"}
    if action == NEW:
        table[name] = (side, price, size)
        return whole
    if other not in table:
        return None
    before = table.pop(other)
    if action == DELETE:
        return {279: DELETE, 278: other}
    if is_brief:
        table[other] = (before[0], before[1], size)
        return {279: action, 278: other, 271: str(size)}
    table[name] = (side, price, size)  # which takes the other's place, and is gone from its own
    return whole | {280: other}


def totals(table: Table, side: str) -> dict[Decimal, str]:
    """Return the levels of a side, price to size."""
    sizes: dict[Decimal, int] = {}
    for at_side, price, size in table.values():
        if at_side == side and size:
            sizes[Decimal(price)] = sizes.get(Decimal(price), 0) + size
    return {price: str(size) for price, size in sizes.items()}


@settings(max_examples=200, deadline=None)
@given(operations=st.lists(BY_ID, max_size=40))
def test_entries_with_ids_are_what_a_table_of_ids_holds(
    operations: list[tuple[str, str, str, str, int, int, bool]],
) -> None:
    """A known id moves with New as with Change, size 0 is no level, and who applies what was touched has the book."""
    table: Table = {}
    book = FixBook()
    followed: dict[str, dict[Decimal, str]] = {"0": {}, "1": {}}
    for operation in operations:
        change = change_table(table, operation)
        if change is None:
            continue
        touched: Touched = {}
        book.apply(change, touched)
        columns = book.sizes(touched)
        for side, at in (("0", 0), ("1", 2)):
            followed[side] |= zip(map(Decimal, columns[at]), columns[at + 1], strict=True)
            expected = totals(table, side)
            assert dict(sides(book)[side]) == expected
            assert {price: size for price, size in followed[side].items() if size != "0"} == expected


class Levels:
    """A book of levels as a plain table: side and price to size and id, and the ids that have no size."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, int], tuple[int, str]] = {}
        self.empty: set[str] = set()

    def change(self, action: str, side: str, name: str, price: int, size: int) -> None:
        """Make one change; an id that is known decides, otherwise the price does."""
        mine = next((at for at, (_, other) in self.table.items() if name and name == other), None)
        is_known = mine is not None or name in self.empty
        self.empty.discard(name)
        if mine is not None:
            del self.table[mine]
        if not is_known or action != DELETE:
            self.table.pop((side, price), None)
        if action != DELETE and size:
            self.table[side, price] = (size, name)
        elif action != DELETE and name:
            self.empty.add(name)

    def side(self, side: str) -> dict[Decimal, str]:
        """Return the levels of a side, price to size."""
        return {Decimal(price): str(size) for (one, price), (size, _) in self.table.items() if one == side}


BY_LEVEL = st.tuples(
    st.sampled_from("00112"), st.sampled_from("01"), st.sampled_from(["", "a", "b"]), st.integers(-2, 2),
    st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(operations=st.lists(BY_LEVEL, max_size=40))
def test_an_id_in_a_book_of_levels_moves_the_level_that_it_set(
    operations: list[tuple[str, str, str, int, int]],
) -> None:
    """A snapshot without ids, changes with some: no level stays where its id came with another price."""
    book, levels = FixBook(), Levels()
    book.add({269: "0", 270: "-9", 271: "1"})
    levels.change(NEW, "0", "", -9, 1)
    followed = {"0": levels.side("0"), "1": levels.side("1")}
    for operation in operations:
        action, side, name, price, size = operation
        levels.change(*operation)
        touched: Touched = {}
        book.apply({279: action, 269: side, 278: name, 270: str(price), 271: str(size)}, touched)
        columns = book.sizes(touched)
        for one, at in (("0", 0), ("1", 2)):
            followed[one] |= zip(map(Decimal, columns[at]), columns[at + 1], strict=True)
            assert dict(sides(book)[one]) == levels.side(one)
            assert {at: size for at, size in followed[one].items() if size != "0"} == levels.side(one)


def test_only_so_many_entries_of_size_zero_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, and a change of it is one of an unknown entry."""
    monkeypatch.setattr(entries, "EMPTY_MAX", 2)
    book = FixBook()
    for name in "abc":
        book.add({269: "0", 278: name, 270: "10", 271: "0"})
    book.apply({279: CHANGE, 278: "b", 271: "4"}, {})
    assert sides(book) == {"0": [(Decimal(10), "4")], "1": []}
    with pytest.raises(BadEvent, match="unknown_entry"):
        book.apply({279: CHANGE, 278: "a", 271: "4"}, {})


def test_a_range_may_begin_at_an_entry() -> None:
    """Of books whose entries have ids every entry of the levels goes."""
    book = FixBook()
    for name, price in (("a", "10"), ("b", "10"), ("c", "9"), ("d", "8")):
        book.add({269: "0", 278: name, 270: price, 271: "1"})
    touched: Touched = {}
    book.apply({279: DELETE_THRU, 278: "c"}, touched)
    assert book.sizes(touched) == (["10", "9"], ["0", "0"], [], [])
    with pytest.raises(BadEvent, match="unknown_entry"):
        book.apply({279: DELETE_THRU, 278: "a"}, touched)
    assert not book.apply({279: DELETE, 278: "a"}, touched)


@pytest.mark.parametrize("told", [
    {279: DELETE, 269: "0", 1023: "2"}, {279: DELETE_FROM, 269: "0", 1023: "0"}, {279: OVERLAY, 269: "0", 1023: "x"},
    {279: DELETE_THRU, 1023: "1"}, {279: DELETE_THRU, 269: "0"}, {279: CHANGE, 269: "0", 1023: "5"},
    {279: CHANGE, 269: "0", 270: "11"}, {279: "6", 269: "0"},
])  # fmt: skip
def test_a_level_that_is_not_there_is_no_change(told: Entry) -> None:
    """Nobody knows then what the venue's book is."""
    book = FixBook()
    book.add({269: "0", 270: "10", 271: "1"})
    with pytest.raises(BadEvent):
        book.apply(told, {})
