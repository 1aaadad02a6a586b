"""The event of a product's best bid and offer as the venue itself tells it."""

from __future__ import annotations

from typing import Any

from marketdata.events import Quote
from producers.feed_kit.calls import Call
from producers.feed_kit.products import Product


def send(call: Call, product: Product, ts_event: int, **values: Any) -> None:
    """Tell a quote; `values` are the fields of Quote that the venue gave, a price that is not there as None.

    A size without its price says nothing and is left out.
    """
    for side in ("bid", "ask"):
        if values.get(side) is None and values.get(f"{side}_size") is not None:
            values[f"{side}_size"] = None
    call.line.counts["quotes"] += 1
    call.out.append(
        Quote(venue=call.line.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts, line=call.line.name,
              sequence=call.sequence, source="venue", **values, **product.validity)
    )  # fmt: skip
