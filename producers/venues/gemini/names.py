"""Gemini's products: what a name means, and what REST says of one.

DOCS is Gemini's "Symbol Details", https://docs.gemini.com/rest/market-data: there `quote_increment` is the step of
prices, and `tick_size` that of quantities.

BTCUSD is split at the longest quote currency that it ends with, and `PERP` behind it stays behind (BTCGUSDPERP is
BTC-GUSD-PERP). With two exceptions that gave the currencies of all 347 products of recorded details. Frames of the
present WebSocket API have names in lower case; ours are in upper case, as in the details.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import Instrument
from marketdata.feed import Fetch
from producers.venues.kit.values import number

QUOTES = ("USD", "GUSD", "RLUSD", "USDC", "USDT", "EUR", "GBP", "SGD", "BTC", "ETH", "SOL", "DAI", "FIL", "BCH", "LTC")
_SPLIT = re.compile(rf"([A-Z0-9]{{1,20}}?)({'|'.join(sorted(QUOTES, key=len, reverse=True))})(PERP)?")
_EXCEPTIONS = {"PAXGUSD": ("PAXG", "USD"), "USDGUSD": ("USDG", "USD")}
_NAME = re.compile(r"[A-Z0-9]{2,40}", re.ASCII)
_STATES = {"open": "online", "closed": "halted", "cancel_only": "cancel_only", "post_only": "post_only",
           "limit_only": "limit_only"}  # fmt: skip


class _Details(msgspec.Struct):
    symbol: str
    tick_size: Any = None
    quote_increment: Any = None
    min_order_size: Any = None
    status: str = ""


_DETAILS = msgspec.json.Decoder(_Details, float_hook=str)


def describe(name: str) -> Instrument:
    """Return what a name in upper case means. Raises BadEvent for a text that is no name."""
    if _NAME.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "symbol", name[:200])
    match = _SPLIT.fullmatch(name)
    base, quote, rest = match.groups() if match else (name, "", None)
    base, quote = _EXCEPTIONS.get(name, (base, quote))
    return Instrument(venue="gemini", symbol="-".join(part for part in (base, quote, rest) if part), ts_recv=0,
                      venue_symbol=name, base_currency=base, quote_currency=quote,
                      kind="perpetual" if rest else "spot")  # fmt: skip


def fetch_details(name: str) -> Fetch:
    """Return the request for one product's details."""
    return Fetch(f"v1/symbols/details/{name.lower()}", "products", name)


def read_details(body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the name, and the fields of Instrument that the details have. Raises BadEvent, or what msgspec raises."""
    sent = _DETAILS.decode(body)
    texts = {"tick_size": sent.quote_increment, "size_increment": sent.tick_size, "min_order_size": sent.min_order_size}
    learned: dict[str, Any] = {ours: None if value is None else number(value, ours) for ours, value in texts.items()}
    return sent.symbol.upper(), learned | {"status": _STATES.get(sent.status, "unknown")}
