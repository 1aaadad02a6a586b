"""The event of a product's best bid and offer as the venue itself sends it."""

from __future__ import annotations

from marketdata.decimals import is_zero
from marketdata.errors import BadEvent
from marketdata.events import POSITIVE_KINDS, Quote
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product


def send(
    call: Call, product: Product, ts_event: int, *, bid: str | None = None, bid_size: str | None = None,
    ask: str | None = None, ask_size: str | None = None, last: str | None = None, volume_24h: str | None = None,
    high_24h: str | None = None, low_24h: str | None = None, change_24h: str | None = None, reason: str | None = None,
) -> None:  # fmt: skip
    """Publish a quote of the fields that the venue gave; a price that is not there is None.

    With a `reason` the quote is not valid, else it is as valid as the product. A size without its price means nothing
    and is left out, and so is a price with nothing to trade at it: a size of 0 gives no level. Raises BadEvent for a
    price that is not above zero, where that cannot be.
    """
    prices = list(filter(None, (bid, ask, last)))
    if product.instrument.kind in POSITIVE_KINDS:
        for price in prices:
            if price < "1" and (price[0] == "-" or is_zero(price)):
                raise BadEvent("not_positive", "quote", price)
    if bid is None or (bid_size is not None and bid_size < "1" and is_zero(bid_size)):
        bid = bid_size = None
    if ask is None or (ask_size is not None and ask_size < "1" and is_zero(ask_size)):
        ask = ask_size = None
    line = call.line
    line.counts["quotes"] += 1
    if off_tick := product.count_off_tick(prices):
        line.counts["off_tick"] += off_tick
    validity = product.validity
    call.out.append(
        Quote(venue=line.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts, line=line.name,
              sequence=call.sequence, sequence_scope=line.sequence_scope, source="venue",
              valid=validity["valid"] and reason is None, reason=validity["reason"] if reason is None else reason,
              bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size, last=last, volume_24h=volume_24h,
              high_24h=high_24h, low_24h=low_24h, change_24h=change_24h)
    )  # fmt: skip
