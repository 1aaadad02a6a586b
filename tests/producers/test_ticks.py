"""Prices off the tick are counted exactly, whatever the tick and however prices are written."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import BookUpdate, Instrument, Quote
from producers.venues.kit import books, quotes
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.products import Product
from producers.venues.kit.ticks import Tick

T0 = 1_800_000_000 * SECOND_NS

decimals = st.decimals(min_value=-10_000, max_value=10_000, places=4).map(str)


@given(tick=st.sampled_from(["1", "0.1", "0.01", "0.010", "0.05", "0.25", "10", "5", "0.0001", "1e-2"]),
       prices=st.lists(decimals | st.sampled_from(["1e1", "0.10", "5.", ".5"])))  # fmt: skip
def test_count_is_that_of_exact_arithmetic(tick: str, prices: list[str]) -> None:
    """Also when the same prices are asked for once more."""
    off = sum(Decimal(price) % Decimal(tick) != 0 for price in prices)
    mine = Tick(tick)
    assert mine.count_off(prices) == off
    assert mine.count_off(prices) == off


def test_a_tick_of_zero_says_nothing() -> None:
    """As of a venue that lists none."""
    assert Tick("0").count_off(["1.23"]) == 0


def product(kind: str, tick: str | None = "0.5") -> tuple[Call, Product]:
    """Return a product and a call that concerns it."""
    instrument = Instrument(venue="v", symbol="A-B", ts_recv=T0, venue_symbol="AB", base_currency="A",
                            quote_currency="B", kind=kind, tick_size=tick)  # fmt: skip
    return Call(Line("v", "v/0"), T0, None), Product(instrument)


def test_levels_and_quotes_off_the_tick_are_published_and_counted() -> None:
    """Orders of an older tick still rest in the venue's book."""
    call, mine = product("spot")
    books.snapshot(call, mine, T0, (["9.5", "9.1"], ["1", "1"], ["10.2"], ["1"]))
    books.update(call, mine, T0, (["9.3"], ["0"], [], []))
    quotes.send(call, mine, T0, bid="9.5", ask="10.2", last="9.75")
    assert call.line.counts["off_tick"] == 5
    assert [type(event) for event in call.out] == [BookUpdate, BookUpdate, Quote]


@pytest.mark.parametrize("kind", ["spot", "equity"])
@pytest.mark.parametrize("price", ["-1", "0", "0.00"])
@pytest.mark.parametrize("field", ["bid", "ask", "last"])
def test_a_quote_that_is_not_above_zero_is_refused_where_that_cannot_be(kind: str, price: str, field: str) -> None:
    """Nothing is published of it; a contract may be quoted below zero."""
    call, mine = product(kind)
    with pytest.raises(BadEvent, match="not_positive"):
        quotes.send(call, mine, T0, **{field: price})
    assert call.out == []
    call, mine = product("future")
    quotes.send(call, mine, T0, **{field: price})
    assert len(call.out) == 1
