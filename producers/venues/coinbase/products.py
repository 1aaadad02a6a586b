"""Coinbase Advanced Trade's products: their names, aliases, increments and states.

A product that is quoted in USDC may be an alias of the one in USD: one book, one stream of trades. REST names the other
product in `alias`; the WebSocket channels may send either name ("WebSocket Channels"). `Aliases` resolves both to the
name that is configured.

Sources: "List Public Products" (https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/public/
list-public-products), "WebSocket Channels" (https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/
websocket-channels).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import Instrument
from producers.venues.kit.values import price

VENUE = "coinbase"
PRODUCTS_PATH = "api/v3/brokerage/market/products"

_PRODUCT_ID = re.compile(r"[A-Z0-9][A-Z0-9.]{0,19}(-[A-Z0-9.]{1,20}){1,3}", re.ASCII)
_USD, _USDC = "-USD", "-USDC"

_STATES = {
    "online": "online",
    "offline": "halted",
    "halted": "halted",
    "trading_disabled": "halted",
    "internal": "halted",
    "cancel_only": "cancel_only",
    "post_only": "post_only",
    "limit_only": "limit_only",
    "auction": "auction",
    "auction_mode": "auction",
    "delisted": "delisted",
}


class Flags(msgspec.Struct):
    """The switches that both the status channel and REST have; they come before the state in `status`."""

    trading_disabled: bool = False
    is_disabled: bool = False
    cancel_only: bool = False
    post_only: bool = False
    limit_only: bool = False
    auction_mode: bool = False


class RestProduct(Flags, kw_only=True):
    """A product as REST lists it."""

    product_id: str
    alias: str = ""
    status: str = ""
    base_currency_id: str = ""
    quote_currency_id: str = ""
    quote_increment: str = ""
    price_increment: str = ""
    base_increment: str = ""
    base_min_size: str = ""
    product_type: str = "SPOT"


class Aliases:
    """The other names of configured products. Without `products` every name stands for itself.

    Until REST lists a product, one in USDC is taken for an alias of the one in USD, as nearly all are. Of a pair that
    is configured by both names, the first is published.
    """

    __slots__ = ("_configured", "_names", "products")

    def __init__(self, products: tuple[str, ...] | None) -> None:
        self._configured: frozenset[str] = frozenset()
        self._names: dict[str, str] = {}
        self.products = products
        if products is None:
            return
        kept: dict[str, None] = {}
        for name in products:
            if name in self._names:
                continue
            kept[name] = None
            if twin := _twin(name):
                self._names[twin] = name
        self.products = tuple(kept)
        self._configured = frozenset(kept)

    def resolve(self, name: str) -> str:
        """Return the configured name of the product that the venue calls `name`."""
        return self._names.get(name, name)

    def learn(self, product: RestProduct) -> None:
        """Take what REST says: `alias` is the other name of the product, empty where it has none."""
        name = product.product_id
        if product.alias:
            for one, other in ((name, product.alias), (product.alias, name)):
                if one in self._configured and other not in self._configured:
                    self._names[other] = one
        elif name.endswith(_USDC) and name in self._configured:
            self._names.pop(name[:-1], None)


def _twin(name: str) -> str:
    if name.endswith(_USDC):
        return name[:-1]
    return f"{name}C" if name.endswith(_USD) else ""


def is_product_id(name: str) -> bool:
    """Return whether a text can be the name of a product."""
    return _PRODUCT_ID.fullmatch(name) is not None


def describe(product_id: str) -> Instrument:
    """Return the instrument of the venue's name. Raises BadEvent."""
    if not is_product_id(product_id):
        raise BadEvent("bad_symbol", "product_id", product_id[:200])
    base, quote = _currencies(product_id)
    return Instrument(venue=VENUE, symbol=product_id, ts_recv=0, venue_symbol=product_id, base_currency=base,
                      quote_currency=quote)  # fmt: skip


def rest_fields(sent: RestProduct) -> dict[str, Any]:
    """Return a product from REST as fields of an Instrument. Raises BadEvent."""
    base, quote = _currencies(sent.product_id)
    return {
        "base_currency": sent.base_currency_id or base,
        "quote_currency": sent.quote_currency_id or quote,
        "tick_size": price(sent.price_increment or sent.quote_increment, "price_increment"),
        "size_increment": price(sent.base_increment, "base_increment"),
        "min_order_size": price(sent.base_min_size, "base_min_size"),
        "status": state_of(sent, sent.status) if sent.status else "unknown",
        "kind": {"SPOT": "spot", "FUTURE": "future"}.get(sent.product_type, "spot"),
    }


def state_of(flags: Flags, status: str) -> str:
    """Return our state of a product. Raises BadEvent for one that is not documented."""
    if flags.trading_disabled or flags.is_disabled:
        return "halted"
    for name in ("cancel_only", "post_only", "limit_only"):
        if getattr(flags, name):
            return name
    if flags.auction_mode:
        return "auction"
    try:
        return _STATES[status]
    except KeyError:
        raise BadEvent("unknown_status", "status", status) from None


def _currencies(product_id: str) -> tuple[str, str]:
    base, _, quote = product_id.partition("-")
    return base, quote
