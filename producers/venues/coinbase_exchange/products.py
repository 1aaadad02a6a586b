"""Coinbase Exchange's products: their names, increments and states, from REST or from the channel `status`.

Sources: "Get all known trading pairs" (https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/
get-all-known-trading-pairs), "Exchange WebSocket Channels" (https://docs.cdp.coinbase.com/exchange/websocket-feed/
channels).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import Instrument
from producers.venues.kit.values import price

VENUE = "coinbase_exchange"
PRODUCTS_PATH = "products"

_PRODUCT_ID = re.compile(r"[A-Z0-9][A-Z0-9.]{0,19}(-[A-Z0-9.]{1,20}){1,3}", re.ASCII)
_STATES = {"online": "online", "offline": "halted", "internal": "halted", "delisted": "delisted"}


class ListedProduct(msgspec.Struct):
    """A product of REST or of the status channel; its switches come before the state in `status`."""

    id: str
    base_currency: str = ""
    quote_currency: str = ""
    quote_increment: str = ""
    base_increment: str = ""
    base_min_size: str = ""
    status: str = ""
    trading_disabled: bool | None = None
    cancel_only: bool | None = None
    post_only: bool | None = None
    limit_only: bool | None = None
    auction_mode: bool | None = None


PRODUCT = msgspec.json.Decoder(ListedProduct)
PRODUCTS = msgspec.json.Decoder(list[msgspec.Raw])


def describe(product_id: str) -> Instrument:
    """Return the instrument of the venue's name. Raises BadEvent."""
    if _PRODUCT_ID.fullmatch(product_id) is None:
        raise BadEvent("bad_symbol", "product_id", product_id[:200])
    base, _, quote = product_id.partition("-")
    return Instrument(venue=VENUE, symbol=product_id, ts_recv=0, venue_symbol=product_id, base_currency=base,
                      quote_currency=quote)  # fmt: skip


def learned(sent: ListedProduct, before: Instrument) -> dict[str, Any]:
    """Return a product as fields of its Instrument, which was `before`. Raises BadEvent."""
    return {
        "base_currency": sent.base_currency or before.base_currency,
        "quote_currency": sent.quote_currency or before.quote_currency,
        "tick_size": price(sent.quote_increment, "quote_increment") or before.tick_size,
        "size_increment": price(sent.base_increment, "base_increment") or before.size_increment,
        "min_order_size": price(sent.base_min_size, "base_min_size") or before.min_order_size,
        "status": _state(sent, before.status),
    }


def _state(sent: ListedProduct, before: str) -> str:
    if sent.trading_disabled:
        return "halted"
    for name in ("cancel_only", "post_only", "limit_only"):
        if getattr(sent, name):
            return name
    if sent.auction_mode:
        return "auction"
    if not sent.status:
        return before
    try:
        return _STATES[sent.status]
    except KeyError:
        raise BadEvent("unknown_status", "status", sent.status[:200]) from None
