"""Kraken's names of pairs and currencies, the states of pairs, and the list of pairs of its REST API.

Names are case-sensitive: a tokenised stock is written `AAPLx/USD`. The WebSocket API v1 and REST write XBT and XDG
where v2 writes BTC and DOGE; our symbols are those of v2.

Sources: "Instruments" (https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/instrument), "Get Tradable
Asset Pairs" (https://docs.kraken.com/api/docs/rest-api/get-tradable-asset-pairs).
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import Instrument
from producers.venues.kit.values import price

VENUE = "kraken"
PAIRS_PATH = "0/public/AssetPairs"

_PAIR = re.compile(r"([A-Za-z0-9.]{1,20})/([A-Za-z0-9.]{1,20})", re.ASCII)
_MODERN = {"XBT": "BTC", "XDG": "DOGE"}
_LEGACY = {modern: legacy for legacy, modern in _MODERN.items()}

_STATES = {
    "online": "online",
    "reduce_only": "online",  # orders match, but positions may not grow
    "limit_only": "limit_only",
    "post_only": "post_only",
    "cancel_only": "cancel_only",
    "maintenance": "halted",
    "work_in_progress": "halted",
    "delisted": "delisted",
}


class RestPair(msgspec.Struct):
    """A pair of AssetPairs. Dark pools have no `wsname`."""

    wsname: str = ""
    pair_decimals: Annotated[int, msgspec.Meta(ge=0, le=32)] | None = None
    lot_decimals: Annotated[int, msgspec.Meta(ge=0, le=32)] | None = None
    tick_size: str = ""
    ordermin: str = ""
    status: str = ""


class _RestPairs(msgspec.Struct):
    result: dict[str, msgspec.Raw]


REST_PAIR = msgspec.json.Decoder(RestPair)
REST_PAIRS = msgspec.json.Decoder(_RestPairs)


def modern(name: str) -> str:
    """Return a pair's or currency's name as v2 writes it."""
    return "/".join(_MODERN.get(currency, currency) for currency in name.split("/"))


def legacy(name: str) -> str:
    """Return a pair's or currency's name as v1 and REST write it."""
    return "/".join(_LEGACY.get(currency, currency) for currency in name.split("/"))


def describe(pair: str) -> Instrument:
    """Return the instrument of a pair's name, of v1 or of v2. Raises BadEvent."""
    if _PAIR.fullmatch(pair) is None:
        raise BadEvent("bad_symbol", "symbol", pair[:200])
    base, quote = modern(pair).split("/")
    return Instrument(venue=VENUE, symbol=f"{base}-{quote}", ts_recv=0, venue_symbol=pair, base_currency=base,
                      quote_currency=quote)  # fmt: skip


def status_of(state: str) -> str:
    """Return our state of a pair or of the whole venue. Raises BadEvent for one that is not documented."""
    try:
        return _STATES[state]
    except KeyError:
        raise BadEvent("unknown_status", "status", state[:200]) from None


def rest_fields(sent: RestPair) -> dict[str, Any]:
    """Return a pair from REST, without its state, as fields of an Instrument. Raises BadEvent."""
    return {
        "tick_size": price(sent.tick_size, "tick_size") or _increment(sent.pair_decimals),
        "size_increment": _increment(sent.lot_decimals),
        "min_order_size": price(sent.ordermin, "ordermin"),
    }


def _increment(decimals: int | None) -> str | None:
    if decimals is None:
        return None
    return f"0.{'1':0>{decimals}}" if decimals else "1"
