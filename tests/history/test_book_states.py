"""A published book is compared with a REST book at the same number or time: never a wrong difference, none missed."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.events import Book, BookUpdate
from producers.history import book_states
from producers.history.book_states import BETWEEN, OUT_OF_RANGE, TOO_OLD, UNNUMBERED, UNPUBLISHED, BookStates, Result
from producers.venues.kit.history import RestBook
from producers.venues.kit.values import Columns

DEPTH = 4  # levels a side of the restored book
COMMON: dict[str, Any] = {"venue": "v", "symbol": "A-B", "ts_recv": 0, "line": "v/0"}

Levels = dict[tuple[int, int], int]  # side (0 bid, 1 ask) and price to size


def columns(levels: Mapping[tuple[int, int], int], depth: int | None = None) -> Columns:
    """Return a book as columns, best first, or changes in any order."""
    sides: list[list[str]] = []
    for side in (0, 1):
        prices = sorted((price for at, price in levels if at == side), reverse=side == 0)[:depth]
        sides += [[str(price) for price in prices], [str(levels[side, price]) for price in prices]]
    return sides[0], sides[1], sides[2], sides[3]


def update(mark: int | None, levels: Levels, kind: str = "update", **more: Any) -> BookUpdate:
    """Return an update whose number and time are its mark."""
    bid_prices, bid_sizes, ask_prices, ask_sizes = columns(levels)
    values = {"ts_event": mark or 0, "sequence": mark, "kind": kind, **COMMON} | more
    return BookUpdate(bid_prices=bid_prices, bid_sizes=bid_sizes, ask_prices=ask_prices, ask_sizes=ask_sizes, **values)


def restored(mark: int | None, levels: Levels, by: Any = "sequence", *, valid: bool = True) -> BookStates:
    """Return the states of a book as md.books has it."""
    bid_prices, bid_sizes, ask_prices, ask_sizes = columns(levels, DEPTH)
    states = BookStates(by)
    states.restore(
        Book(ts_event=mark or 0, sequence=mark, valid=valid, reason="" if valid else "gap", depth=DEPTH,
             bid_prices=bid_prices, bid_sizes=bid_sizes, ask_prices=ask_prices, ask_sizes=ask_sizes, **COMMON)
    )  # fmt: skip
    return states


def changed(levels: Levels, changes: Levels) -> Levels:
    """Return a book after changes of absolute sizes."""
    return {key: size for key, size in (levels | changes).items() if size}


def score_of(result: Result | None) -> tuple[int, int, str]:
    """Return what was compared and equal, and the reason."""
    assert result is not None
    return result.score.compared, result.score.equal, result.score.reason


BOOK: Levels = {(0, 99): 5, (0, 98): 7, (1, 101): 3, (1, 102): 4}


def test_a_right_book_is_equal_and_a_wrong_level_is_named() -> None:
    """The level, its size here and its size there."""
    states = restored(10, BOOK)
    states.take(update(11, {(0, 99): 0, (1, 101): 9}))
    right = changed(BOOK, {(0, 99): 0, (1, 101): 9})
    assert score_of(states.compare(RestBook(11, columns(right)))) == (3, 3, "")
    wrong = states.compare(RestBook(11, columns(right | {(1, 101): 8, (0, 99): 1})))
    assert wrong is not None
    assert wrong.is_exact
    assert str(wrong.score) == (
        "book levels 2 of 4 equal (bid 99: none here, 1 there; ask 101: 9 here, 8 there)"
    )  # fmt: skip


def test_sizes_are_compared_as_numbers() -> None:
    """1.50 is 1.5, and a price may be written with other digits."""
    states = restored(10, {(0, 99): 5, (1, 101): 3})
    assert score_of(states.compare(RestBook(10, (["99.00"], ["5.0"], ["101.0"], ["3.000"])))) == (2, 2, "")


def test_a_number_that_is_not_reached_waits_and_one_from_before_is_too_old() -> None:
    """The updates until then are still on their way; those before the restored book are no longer known."""
    states = restored(10, BOOK)
    rest = RestBook(12, columns(BOOK))
    assert states.compare(rest) is None
    states.take(update(12, {(0, 97): 1}, "heartbeat"))  # its number is not that of a book
    assert states.compare(rest) is None
    states.take(update(12, {}))
    assert score_of(states.compare(rest)) == (4, 4, "")
    assert score_of(states.compare(RestBook(9, columns(BOOK)))) == (0, 0, TOO_OLD)


def test_by_time_a_heartbeat_reaches_too() -> None:
    """It states that the book is unchanged until then."""
    states = restored(10, BOOK, "time")
    assert states.compare(RestBook(20, columns(BOOK)), 5) is None
    states.take(update(25, {}, "heartbeat"))
    assert score_of(states.compare(RestBook(20, columns(BOOK)), 5)) == (4, 4, "")


def test_what_is_no_valid_numbered_book_is_not_compared() -> None:
    """With the reason: nothing published, no numbers, a gap, until the next whole book."""
    rest = RestBook(10, columns(BOOK))
    assert score_of(BookStates("sequence").compare(rest)) == (0, 0, UNPUBLISHED)
    assert score_of(restored(None, BOOK).compare(rest)) == (0, 0, UNNUMBERED)
    assert "gap" in score_of(restored(10, BOOK, valid=False).compare(rest))[2]
    states = restored(10, BOOK)
    states.take(update(None, {}, "clear", valid=False, reason="gap"))
    states.take(update(11, {(0, 99): 1}))
    assert "gap" in score_of(states.compare(rest))[2]
    states.take(update(12, BOOK, "snapshot"))
    assert score_of(states.compare(RestBook(12, columns(BOOK)))) == (4, 4, "")
    states.take(update(13, {}, valid=False, reason="halted"))
    assert "halted" in score_of(states.compare(RestBook(12, columns(BOOK))))[2]


def test_whole_books_are_compared_at_their_own_times_only() -> None:
    """A venue that sends nothing but whole books says nothing of the time between two."""
    states = restored(10, BOOK, "time")
    later = BOOK | {(0, 99): 6}
    states.take(update(20, later, "snapshot"))
    assert score_of(states.compare(RestBook(10, columns(BOOK)))) == (4, 4, "")
    assert score_of(states.compare(RestBook(20, columns(later)))) == (4, 4, "")
    assert score_of(states.compare(RestBook(15, columns(BOOK)))) == (0, 0, BETWEEN)


def test_levels_that_only_one_side_can_know_are_not_compared() -> None:
    """Behind the last level of REST, or of the restored book; and nothing at all where they do not overlap."""
    deep: Levels = {(0, price): 1 for price in range(90, 100)}
    states = restored(10, deep)
    states.take(update(11, {(0, 80): 3, (0, 99): 0}))
    assert score_of(states.compare(RestBook(11, columns(changed(deep, {(0, 99): 0}))))) == (3, 3, "")
    assert score_of(states.compare(RestBook(11, columns({(0, 98): 1, (0, 97): 1})))) == (2, 2, "")
    assert score_of(restored(1, {}).compare(RestBook(1, columns({})))) == (0, 0, OUT_OF_RANGE)


def test_old_changes_become_part_of_the_oldest_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is limited; marks from before it are too old."""
    monkeypatch.setattr(book_states, "CHANGES_MAX", 3)
    states = restored(10, BOOK)
    for number in range(11, 21):
        states.take(update(number, {(0, 99): number}))
    assert score_of(states.compare(RestBook(16, columns(BOOK | {(0, 99): 16})))) == (0, 0, TOO_OLD)
    assert score_of(states.compare(RestBook(17, columns(BOOK | {(0, 99): 17})))) == (4, 4, "")


@pytest.mark.parametrize("number", [5, 500])
def test_the_number_of_a_restored_book_may_be_another_one(number: int) -> None:
    """It may be that of a message which only showed that the line works; from the next update on numbers count."""
    states = restored(number, BOOK)
    states.take(update(20, {(0, 99): 6}))
    states.take(update(21, {(0, 99): 7}))
    assert score_of(states.compare(RestBook(20, columns(BOOK | {(0, 99): 6})))) == (4, 4, "")
    assert score_of(states.compare(RestBook(21, columns(BOOK | {(0, 99): 7})))) == (4, 4, "")


class Market(NamedTuple):
    """Single changes of a book, numbered from 1, and the update that each is published in."""

    start: Levels
    changes: list[tuple[tuple[int, int], int]]
    ends: list[int]  # number of the last change of each update

    def at(self, number: int) -> Levels:
        """Return the true book after a number of changes."""
        return changed(self.start, dict(self.changes[:number]))

    def updates(self) -> list[tuple[int, Levels]]:
        """Return the updates: number of the last change, and the levels that changed."""
        starts = [0, *self.ends]
        return [(end, dict(self.changes[start:end])) for start, end in zip(starts, self.ends, strict=False)]


keys = st.one_of(
    st.tuples(st.just(0), st.integers(90, 99)), st.tuples(st.just(1), st.integers(101, 110))
)  # fmt: skip


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Any book, any changes of it, and any way to publish them."""
    start = draw(st.dictionaries(keys, st.integers(1, 9), max_size=20))
    changes = draw(st.lists(st.tuples(keys, st.integers(0, 9)), min_size=1, max_size=30))
    ends = draw(st.sets(st.integers(1, len(changes)))) | {len(changes)}
    return Market(start, changes, sorted(ends))


@given(market=markets(), data=st.data())
def test_for_any_updates_and_any_number_the_comparison_equals_the_truth(market: Market, data: st.DataObject) -> None:
    """A right book never differs; a wrong level is found wherever it is known, and nothing else is."""
    first = data.draw(st.integers(0, len(market.ends)))
    number = (0, *market.ends)[first]
    states = restored(number, market.at(number))
    shown = {(side, price) for side in (0, 1)
             for price in map(int, columns(market.at(number), DEPTH)[2 * side])}  # fmt: skip
    rest_number = data.draw(st.integers(number, len(market.changes)))
    depth = data.draw(st.integers(1, 12))
    after = [(end, levels) for end, levels in market.updates() if end > number]
    settled = [levels for end, levels in after if end <= rest_number]
    wrong = data.draw(st.none() | st.tuples(st.integers(0, 40), st.integers(10, 19)))
    spoilt: tuple[int, int] | None = None
    for at, (end, levels) in enumerate(after):
        if wrong and settled and at == len(settled) - 1:
            spoilt = sorted(levels)[wrong[0] % len(levels)]
        states.take(
            update(end, levels | ({spoilt: wrong[1]} if wrong and spoilt in levels and at < len(settled) else {}))
        )
    truth = market.at(rest_number)
    result = states.compare(RestBook(rest_number, columns(truth, depth)))
    assert result is not None
    assert result.is_exact == (rest_number in {number, *market.ends})
    unsettled: Levels = {}
    if not result.is_exact:
        unsettled = next(levels for end, levels in after if end > rest_number)
    ends = []
    for side, worst in ((0, min), (1, max)):
        sent = [int(price) for price in columns(truth, depth)[2 * side]]
        kept = [price for at, price in shown if at == side]
        ends.append([worst(prices) for prices in (sent, kept) if prices])

    def is_known(key: tuple[int, int]) -> bool:
        return key not in unsettled and all(key[1] >= end if key[0] == 0 else key[1] <= end for end in ends[key[0]])

    sizes = {key: size for key, size in truth.items() if is_known(key)}
    found = set(sizes) | ({spoilt} if spoilt and is_known(spoilt) else set())
    differs = bool(spoilt) and is_known(spoilt or (0, 0))
    assert (result.score.compared, result.score.compared - result.score.equal) == (len(found), int(differs))
    if differs and spoilt and wrong:
        there = truth.get(spoilt, "none")
        assert result.score.examples == (f"{('bid', 'ask')[spoilt[0]]} {spoilt[1]}: {wrong[1]} here, {there} there",)


@given(market=markets(), data=st.data())
def test_by_time_a_right_book_never_differs_whatever_the_clocks_do(market: Market, data: st.DataObject) -> None:
    """Times of stream and REST may each be late by up to the slack; each change is an update here."""
    late = data.draw(st.integers(0, 5))
    lateness = st.integers(0, late)
    times = [10 * at + data.draw(st.integers(0, 9)) for at in range(1, len(market.changes) + 1)]
    states = restored(0, market.start, "time")
    for at, (key, size) in zip(times, market.changes, strict=True):
        states.take(update(at + data.draw(lateness), {key: size}))
    states.take(update(times[-1] + 1_000, {}, "heartbeat"))
    moment = data.draw(st.integers(late, times[-1] + 20))
    truth = market.at(sum(at <= moment for at in times))
    result = states.compare(RestBook(moment + data.draw(lateness), columns(truth, data.draw(st.integers(1, 12)))), late)
    assert result is not None
    assert result.score.equal == result.score.compared
    assert Decimal(result.score.compared) <= 20
