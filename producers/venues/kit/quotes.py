"""The event of a product's best bid and offer as the venue itself sends it."""

from __future__ import annotations

from typing import Any

from marketdata.decimals import is_zero
from marketdata.errors import BadEvent
from marketdata.events import POSITIVE_KINDS, Quote
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product

_PRICES = ("bid", "ask", "last")


def send(call: Call, product: Product, ts_event: int, **values: Any) -> None:
    """Publish a quote; `values` are the fields of Quote that the venue gave, a price that is not there as None.

    They may name another validity than the product's. A size without its price means nothing and is left out, and so is
    a price with nothing to trade at it: a size of 0 gives no level. Raises BadEvent for a price
    that is not above zero, where that cannot be.
    """
    prices = [values[name] for name in _PRICES if values.get(name) is not None]
    if product.instrument.kind in POSITIVE_KINDS:
        for price in prices:
            if price[0] == "-" or is_zero(price):
                raise BadEvent("not_positive", "quote", price)
    for side in ("bid", "ask"):
        size = values.get(f"{side}_size")
        if size is not None and (values.get(side) is None or is_zero(size)):
            values[side] = values[f"{side}_size"] = None
    call.line.counts["quotes"] += 1
    if off_tick := product.count_off_tick(prices):
        call.line.counts["off_tick"] += off_tick
    call.out.append(
        Quote(venue=call.line.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts, line=call.line.name,
              sequence=call.sequence, sequence_scope=call.line.sequence_scope, source="venue",
              **(product.validity | values))
    )  # fmt: skip
