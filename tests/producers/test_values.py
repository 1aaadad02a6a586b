"""Values of venues are read exactly or refused, whichever way they are looked at."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.clock import AHEAD_NS_MAX, SECOND_NS, TS_MIN
from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from marketdata.events import Instrument
from producers.venues.kit import books
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.products import Product
from producers.venues.kit.values import (
    Columns,
    best_first,
    check_decimals,
    check_trade,
    clean,
    escaped,
    is_clean,
    iso_ns,
    ms_ns,
    number,
    seconds_ns,
    side_columns,
)

NOW = 1_800_000_000 * SECOND_NS
PLAIN = st.decimals(0, 10**6, places=4).map(str)
ANY = st.one_of(PLAIN, st.text("0123456789.,-+eE ", max_size=4), st.sampled_from(["", ".", "1.", ".5", "1..2", "٣"]))


def is_decimal(text: str) -> bool:
    """Tell what a look at one value alone says."""
    try:
        decimal(text, "value")
    except BadEvent:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(plain=st.lists(PLAIN, max_size=12), others=st.lists(ANY, max_size=2), at=st.integers(0, 12))
def test_many_decimals_are_refused_when_one_would_be(plain: list[str], others: list[str], at: int) -> None:
    """The quick look at all of them together says what a look at each does."""
    values = plain[:at] + others + plain[at:]
    if all(map(is_decimal, values)):
        check_decimals(values, "value")
    else:
        with pytest.raises(BadEvent):
            check_decimals(values, "value")


SIGNED = st.one_of(
    ANY, PLAIN.map(lambda text: f"-{text}"), st.sampled_from(["0.000", "-0.0", "00.10", "1e-400", "0e5"])
)


@settings(max_examples=300, deadline=None)
@given(price=SIGNED, size=SIGNED)
def test_price_and_size_of_a_trade_are_decimals_above_zero(price: str, size: str) -> None:
    """The quick look at their text says what their exact values do."""
    if is_decimal(price) and is_decimal(size) and decimal(price, "price") > 0 and decimal(size, "size") > 0:
        check_trade(price, size)
    else:
        with pytest.raises(BadEvent):
            check_trade(price, size)


@given(st.lists(st.tuples(st.sampled_from(["bid", "offer"]), PLAIN, PLAIN), max_size=8))
def test_levels_that_name_their_side_keep_their_order_within_it(levels: list[tuple[str, str, str]]) -> None:
    """Whether one side comes after the other or both are mixed."""
    sides, prices, sizes = ([level[at] for level in levels] for at in range(3))
    bids = [level for level in levels if level[0] == "bid"]
    offers = [level for level in levels if level[0] == "offer"]
    assert side_columns(sides, "bid", prices, sizes) == (
        [price for _, price, _ in bids], [size for _, _, size in bids],
        [price for _, price, _ in offers], [size for _, _, size in offers],
    )  # fmt: skip


@pytest.mark.parametrize("read", [
    lambda: ms_ns(2**62, "ms"), lambda: seconds_ns("-1", "s"), lambda: seconds_ns("1e12", "s"),
    lambda: iso_ns("2026-08-09T21:05:48", "time"), lambda: iso_ns("1969-12-31T23:59:59Z", "time"),
    lambda: number("1e99", "price"), lambda: number("NaN", "price"), lambda: number([], "price"),
    lambda: number(10**31, "price"),
])  # fmt: skip
def test_what_no_event_can_hold_is_refused(read: object) -> None:
    """Times beyond 64 bits, before 1970 or without a zone; numbers of more digits than any venue means."""
    assert callable(read)
    with pytest.raises(BadEvent):
        read()


@pytest.mark.parametrize(("prices", "sizes", "reason"), [
    (["0.00000012", "12.5", "0.3"], ["0", "0.0", "1"], None), (["7", "0"], ["1", "1"], "not_positive"),
    (["0.00", "0.01"], ["1", "1"], "not_positive"), (["5", "-5"], ["1", "1"], "not_positive"),
    ([".0"], ["1"], "not_positive"), (["5", "6"], ["1", "-1"], "negative"), (["5"], ["-0.5"], "negative"),
])  # fmt: skip
def test_no_level_is_told_that_no_book_may_have(prices: list[str], sizes: list[str], reason: str | None) -> None:
    """Whichever side it is on; what may be owed has prices below zero as well, but no sizes."""
    sides: tuple[Columns, Columns] = (prices, sizes, [], []), ([], [], prices, sizes)
    for columns in sides:
        refused: list[str | None] = []
        for kind in ("spot", "future"):
            try:
                books.check(Call(Line("v", "1"), NOW, None), Product(instrument(kind)), NOW, columns)
                refused.append(None)
            except BadEvent as error:
                refused.append(error.reason)
        assert refused == [reason, reason if reason == "negative" else None]


@pytest.mark.parametrize("ts", [0, TS_MIN - 1, NOW + AHEAD_NS_MAX + 1, 1_800_000_000_000])
def test_no_book_is_told_of_a_time_that_cannot_be(ts: int) -> None:
    """Long ago, far ahead or in a wrong unit: consumers would refuse it, and could not ask the venue again."""
    for publish in (books.snapshot, books.update):
        call, product = Call(Line("v", "1"), NOW, None), Product(instrument("spot"))
        product.book_valid = True
        with pytest.raises(BadEvent, match="time_out_of_bounds: ts_event"):
            publish(call, product, ts, (["1"], ["1"], [], []))
        assert call.out == []
        publish(call, product, NOW + AHEAD_NS_MAX, (["1"], ["1"], [], []))
        assert len(call.out) == 1


COLUMN = st.lists(PLAIN, min_size=1, max_size=5)


@given(prices=COLUMN, sizes=COLUMN, sign=st.sampled_from(["", "-"]))
def test_no_level_below_zero_escapes_the_quick_look(prices: list[str], sizes: list[str], sign: str) -> None:
    """Compiled or not, it passes over no level that a closer look would refuse."""
    prices = [f"{sign}{prices[0]}", *prices[1:]]
    for look in (books._look_below, books._has_below):
        assert look(prices, sizes) or all(float(price) > 0 for price in prices)
        assert look(["1"], [f"-{sizes[0]}", *sizes[1:]])
        assert not look(["1", "0.01"], ["0", "2.5"])


def instrument(kind: str) -> Instrument:
    """Return an instrument of a kind."""
    return Instrument(venue="v", symbol="A-B", ts_recv=1, venue_symbol="A-B", base_currency="A", quote_currency="B",
                      kind=kind)  # fmt: skip


@given(prices=st.lists(st.decimals(1, 1_000, places=3).map(str), unique_by=Decimal, max_size=12), down=st.booleans())
@settings(max_examples=40, deadline=None)
def test_sides_are_sorted_by_value_without_empty_levels(prices: list[str], *, down: bool) -> None:
    """By number, not by text; what has size 0 is left out."""
    sizes = [str(place % 3) for place in range(len(prices))]
    got = best_first(prices, sizes, descending=down)
    kept = sorted((Decimal(p), s) for p, s in zip(prices, sizes, strict=True) if s != "0")
    assert [(Decimal(p), s) for p, s in zip(*got, strict=True)] == (kept[::-1] if down else kept)


@given(text=st.text(alphabet=st.characters(exclude_categories=()), max_size=20))
def test_texts_are_clean_without_control_characters_and_lone_surrogates(text: str) -> None:
    """What is escaped is always clean, and unlike before only where it was not."""
    unclean = any(ord(letter) < 0x20 or ord(letter) == 0x7F or 0xD800 <= ord(letter) <= 0xDFFF for letter in text)
    assert is_clean(text) is not unclean
    assert is_clean(escaped(text))
    assert (escaped(text) != text) is unclean
    escaped(text).encode()
    if unclean:
        with pytest.raises(BadEvent, match="control_character"):
            clean(text, "detail")
    else:
        assert clean(text, "detail") == text
