"""OKX's names of products and lists of instruments, as ours.

Documents: "OKX API guide", https://www.okx.com/docs-v5/en/, sections "General Info" (#overview-general-info) and "Get
instruments" (#public-data-rest-api-get-instruments).

An `instId` is BASE-QUOTE already, with the kind of contract behind it (`BTC-USD-SWAP`, `BTC-USD-220527`,
`BTC-USD-210924-66000-C`), and is our symbol. The index of a contract (`uly`) is BASE-QUOTE; what follows the quote
currency after "_" is a family of contracts: `BTC-USD_UM-SWAP` and `BTC-USD_UM_XPERP-310404` follow the index BTC-USD
("General Info", table of `uly` and `instFamily`). Contracts of `_XPERP` are perpetual ones among the futures.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import msgspec

from marketdata.decimals import EXACT, plain
from marketdata.errors import BadEvent
from marketdata.events import Instrument
from producers.venues.kit.values import expiry_ns, given, price

VENUE = "okx"
SPOT, PERPETUAL, FUTURE, OPTION = "spot", "perpetual", "future", "option"

_INST_ID = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9_]{1,20}(-[A-Za-z0-9.]{1,20}){0,3}", re.ASCII)
_LISTED_AS = {SPOT: "SPOT", PERPETUAL: "SWAP", FUTURE: "FUTURES"}
_STATES = {"live": "online", "suspend": "halted", "preopen": "halted", "test": "online"}


class Listed(msgspec.Struct):
    """A product of REST's list."""

    name: str = msgspec.field(name="instId")
    tick_size: str = msgspec.field(name="tickSz", default="")
    size_increment: str = msgspec.field(name="lotSz", default="")
    min_size: str = msgspec.field(name="minSz", default="")
    state: str = ""
    contract: str = msgspec.field(name="ctType", default="")
    value: str = msgspec.field(name="ctVal", default="")
    multiplier: str = msgspec.field(name="ctMult", default="")
    settled_in: str = msgspec.field(name="settleCcy", default="")
    expires_ms: str = msgspec.field(name="expTime", default="")
    strike: str = msgspec.field(name="stk", default="")


LISTED = msgspec.json.Decoder(Listed)


def describe(name: str) -> Instrument:
    """Return the instrument of an `instId`, which is our symbol too. Raises BadEvent."""
    if _INST_ID.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "instId", name[:200])
    base, quote = currencies(name)
    return Instrument(venue=VENUE, symbol=name, ts_recv=0, venue_symbol=name, base_currency=base,
                      quote_currency=quote, kind=kind_of(name))  # fmt: skip


def currencies(name: str) -> tuple[str, str]:
    """Return the base and the quote currency of a name."""
    base, quote = name.split("-")[:2]
    return base, quote.partition("_")[0]


def kind_of(name: str) -> str:
    """Return the kind of a product, as in Instrument."""
    parts = name.split("-")
    if len(parts) == 2:
        return SPOT
    if len(parts) == 3:
        return PERPETUAL if parts[2] == "SWAP" else FUTURE
    return OPTION


def pays_funding(name: str) -> bool:
    """Return whether a contract pays funding ("Funding rate channel": `SWAP`, and `FUTURES` that are X-Perps)."""
    return kind_of(name) == PERPETUAL or (kind_of(name) == FUTURE and name.split("-")[1].endswith("_XPERP"))


def listed_as(name: str) -> str:
    """Return the `instType` under which a product is listed, an empty text for an option."""
    return _LISTED_AS.get(kind_of(name), "")


def listed_fields(sent: Listed) -> dict[str, Any]:
    """Return a listed product as fields of Instrument. Raises BadEvent."""
    return {
        "tick_size": price(sent.tick_size, "tickSz"),
        "size_increment": price(sent.size_increment, "lotSz"),
        "min_order_size": price(sent.min_size, "minSz"),
        "status": _STATES.get(sent.state, "unknown"),
        "expiry": expiry_ns(sent.expires_ms, "expTime"),
        "strike": given(sent.strike, "stk"),
        "contract_multiplier": _multiplier(sent),
        "settlement_currency": sent.settled_in or None,
        "inverse": sent.contract == "inverse" if sent.contract else None,
    }


def _multiplier(sent: Listed) -> str | None:
    """Return the face value of a contract: ctVal times ctMult, in the currency ctValCcy. Raises BadEvent."""
    value, multiplier = given(sent.value, "ctVal"), given(sent.multiplier, "ctMult")
    if value is None or multiplier is None or multiplier == "1":
        return value
    return plain(EXACT.multiply(Decimal(value), Decimal(multiplier)))
