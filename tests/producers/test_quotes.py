"""Best bid and offer as venues send them."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.errors import BadEvent
from marketdata.events import GAP, HALTED, Instrument, Quote
from producers.venues.kit import quotes
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.products import Product


@pytest.mark.parametrize(
    ("size", "shown"), [("0", (None, None)), ("0.000", (None, None)), ("0.001", ("11", "0.001")), (None, ("11", None))]
)
def test_price_with_nothing_to_trade_at_it_is_no_best_price(size: str | None, shown: tuple[str | None, ...]) -> None:
    """As a level of size 0 is none in a book; a venue that sends no sizes keeps its prices."""
    product = Product(
        Instrument(venue="acme", symbol="A-B", ts_recv=0, venue_symbol="AB", base_currency="A", quote_currency="B")
    )
    call = Call(Line("acme", "acme/0"), 10**18, None)
    quotes.send(call, product, 10**18, bid="10", bid_size="1", ask="11", ask_size=size)
    (quote,) = call.out
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.bid_size) == ("10", "1")
    assert (quote.ask, quote.ask_size) == shown


@settings(deadline=None)
@given(st.decimals(-2, 2, places=3).map(str), st.sampled_from(["bid", "ask", "last"]))
def test_price_of_a_spot_product_is_above_zero(price: str, field: str) -> None:
    """Any other is refused, by its exact value."""
    product = Product(
        Instrument(venue="acme", symbol="A-B", ts_recv=0, venue_symbol="AB", base_currency="A", quote_currency="B",
                   kind="spot")
    )  # fmt: skip
    call = Call(Line("acme", "acme/0"), 10**18, None)
    if Decimal(price) > 0:
        quotes.send(call, product, 10**18, **{field: price})
        assert getattr(call.out[0], field) == price
    else:
        with pytest.raises(BadEvent):
            quotes.send(call, product, 10**18, **{field: price})
        assert call.out == []


def test_quote_with_a_reason_is_not_valid() -> None:
    """Whatever the product is; without one, the quote is as valid as the product."""
    instrument = Instrument(venue="acme", symbol="A-B", ts_recv=0, venue_symbol="AB", base_currency="A",
                            quote_currency="B")  # fmt: skip
    halted = msgspec.structs.replace(instrument, status="halted")
    call = Call(Line("acme", "acme/0"), 10**18, None)
    for one in (instrument, halted):
        for reason in (None, GAP):
            quotes.send(call, Product(one), 10**18, bid="10", reason=reason)
    assert [(quote.valid, quote.reason) for quote in call.out if isinstance(quote, Quote)] == [
        (True, ""), (False, GAP), (False, HALTED), (False, GAP),
    ]  # fmt: skip
