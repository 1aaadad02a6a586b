"""Best bid and offer as venues send them."""

from __future__ import annotations

import pytest

from marketdata.events import Instrument, Quote
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
