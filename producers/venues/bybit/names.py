"""Bybit's names of products and lists of instruments, as ours.

Documents: Bybit API, "Get Instruments Info", https://bybit-exchange.github.io/docs/v5/market/instrument, and "Symbol
naming", https://bybit-exchange.github.io/docs/v5/enum#symbol.

A name means different products on different markets: BTCUSDT is the pair BTC-USDT on the spot market and a perpetual,
BTC-USDT-PERP, on the linear one. A spot or perpetual name is split at the longest quote currency that it ends with;
that gave the currencies of every product of recorded lists. BTCPERP is settled in USDC. What follows a currency or a
"-" is the delivery, and stays at the end: BTCUSDH26, BTC-26DEC25 (in USDC), BTCUSDT-26DEC25.

Options (BTC-26DEC25-100000-C) are refused: they have a socket of their own, whose trades are subscribed by base coin.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import Instrument
from producers.venues.kit.values import expiry_ns, price

VENUE = "bybit"
SPOT, LINEAR, INVERSE = "spot", "linear", "inverse"

QUOTES = ("USDT", "USDC", "USDE", "USD1", "USDQ", "USDR", "RLUSD", "XUSD", "USD", "EUR", "GBP", "BRL", "TRY", "PLN",
          "BTC", "ETH", "SOL", "MNT", "DAI", "BIT", "AED", "ARS", "KZT", "UAH", "JPY")  # fmt: skip
# A contract of the inverse market is worth one unit of the quote currency ("Place Order": its qty is in USD).
_INVERSE_CONTRACT = "1"

_QUOTE = "|".join(sorted(QUOTES, key=len, reverse=True))
_NAME = re.compile(r"[A-Z0-9][A-Za-z0-9.-]{1,39}", re.ASCII)
_PAIR = re.compile(rf"([A-Z0-9]+?)({_QUOTE})")
_DATED = re.compile(rf"([A-Z0-9]+?)({_QUOTE})?(?:-(\w+)|([FGHJKMNQUVXZ]\d\d))")
_OPTION = re.compile(r"[A-Z0-9]+-\d{1,2}[A-Z]{3}\d\d-[0-9.]+-[CP](?:-[A-Z]+)?")

_STATES = {
    "Trading": "online",
    "PreLaunch": "halted",
    "Settling": "halted",
    "Delivering": "halted",
    "Closed": "delisted",
}


class _Filter(msgspec.Struct):
    tick_size: str = msgspec.field(name="tickSize", default="")
    step: str = msgspec.field(name="qtyStep", default="")
    precision: str = msgspec.field(name="basePrecision", default="")
    min_size: str = msgspec.field(name="minOrderQty", default="")


class Listed(msgspec.Struct):
    """A product of REST's list."""

    symbol: str
    status: str = ""
    contract: str = msgspec.field(name="contractType", default="")
    settled_in: str = msgspec.field(name="settleCoin", default="")
    delivered_ms: str = msgspec.field(name="deliveryTime", default="")
    prices: _Filter = msgspec.field(name="priceFilter", default_factory=_Filter)
    sizes: _Filter = msgspec.field(name="lotSizeFilter", default_factory=_Filter)


def describe(name: str, market: str) -> Instrument:
    """Return what a name means on its market. Raises BadEvent for what is no name, and for options."""
    if _NAME.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "symbol", name[:200])
    if _OPTION.fullmatch(name):
        raise BadEvent("option_not_supported", "symbol", name)
    base, quote, rest, kind = _split(name, market)
    symbol = "-".join(part for part in (base, quote, rest) if part)
    contract: dict[str, Any] = {}
    if market == INVERSE:
        contract = {"inverse": True, "settlement_currency": base, "contract_multiplier": _INVERSE_CONTRACT}
    return Instrument(venue=VENUE, symbol=symbol, ts_recv=0, venue_symbol=name, base_currency=base,
                      quote_currency=quote, kind=kind, **contract)  # fmt: skip


def market_of(instrument: Instrument) -> str:
    """Return the market of one of our instruments."""
    if instrument.kind == "spot":
        return SPOT
    return INVERSE if is_inverse(instrument.venue_symbol) else LINEAR


def find(name: str) -> Instrument:
    """Return the instrument of our symbol, or of a name of the venue, which may have its market before it.

    Our symbol is BTC-USDT, BTC-USDT-PERP or BTC-USD-H26. The venue's BTCUSDT is that of the spot market, as long as no
    market is named and the spot market can have such a name. Raises BadEvent.
    """
    market, _, bare = name.rpartition(":")
    if market:
        if market not in {SPOT, LINEAR, INVERSE}:
            raise BadEvent("bad_market", "symbol", name[:200])
        return describe(bare, market)
    for candidate, candidate_market in _candidates(name):
        if _NAME.fullmatch(candidate) and not _OPTION.fullmatch(candidate):
            found = describe(candidate, candidate_market)
            if found.symbol == name:
                return found
    if is_inverse(name):
        return describe(name, INVERSE)
    return describe(name, LINEAR if name.endswith("PERP") or "-" in name else SPOT)


def _candidates(symbol: str) -> list[tuple[str, str]]:
    """Return the names of the venue, each with its market, whose product may have this symbol."""
    base, _, rest = symbol.partition("-")
    quote, _, delivery = rest.partition("-")
    if not delivery:
        return [(base + quote, SPOT)] if quote else []
    market = INVERSE if quote == "USD" else LINEAR
    in_usdc = [(f"{base}PERP" if delivery == "PERP" else f"{base}-{delivery}", LINEAR)] if quote == "USDC" else []
    named = [base + quote] if delivery == "PERP" else [f"{base}{quote}{delivery}", f"{base}{quote}-{delivery}"]
    return [*in_usdc, *((name, market) for name in named)]


def is_inverse(name: str) -> bool:
    """Return whether a derivative's name is that of the inverse market: a contract in USD, which coins settle."""
    match = _PAIR.fullmatch(name) or _DATED.fullmatch(name)
    return match is not None and match[2] == "USD"


def _split(name: str, market: str) -> tuple[str, str, str, str]:
    """Return base and quote currency, what follows them, and the kind of product."""
    match = _PAIR.fullmatch(name)
    if market == SPOT:
        return (match[1], match[2], "", "spot") if match else (name, "", "", "spot")
    if match:
        return match[1], match[2], "PERP", "perpetual"
    if name.endswith("PERP"):
        return name.removesuffix("PERP"), "USDC", "PERP", "perpetual"
    if match := _DATED.fullmatch(name):
        return match[1], match[2] or "USDC", match[3] or match[4], "future"
    return name, "", "PERP", "perpetual"


def listed_fields(sent: Listed) -> dict[str, Any]:
    """Return a product of REST's list as fields of an Instrument. Raises BadEvent."""
    fields: dict[str, Any] = {
        "tick_size": price(sent.prices.tick_size, "tickSize"),
        "size_increment": price(sent.sizes.step or sent.sizes.precision, "qtyStep"),
        "min_order_size": price(sent.sizes.min_size, "minOrderQty"),
        "status": _STATES.get(sent.status, "unknown"),
        "expiry": expiry_ns(sent.delivered_ms, "deliveryTime"),
    }
    if sent.settled_in:
        fields["settlement_currency"] = sent.settled_in
    if sent.contract:
        fields["inverse"] = sent.contract.startswith("Inverse")
    return fields
