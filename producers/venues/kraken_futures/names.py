"""Kraken Futures' names of contracts, and the list of contracts of its REST API.

`PI_XBTUSD` is BTC-USD-PI and `FI_ETHUSD_211231` is ETH-USD-FI-211231: the kind of contract is a part of our symbol,
since several kinds trade the same pair. PI and FI are inverse, PF and FF linear; PI and PF are perpetual, FI and FF
have a maturity. Options (OF) and indices are no contracts that this feed reads.

Sources: "Ticker symbols" (https://support.kraken.com/articles/360022835891-ticker-symbols), "Get instruments"
(https://docs.kraken.com/api/docs/futures-api/trading/get-instruments).
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import Instrument
from producers.venues.kit.values import iso_ns, number, price

VENUE = "kraken_futures"
INSTRUMENTS_PATH = "derivatives/api/v3/instruments"

_CONTRACT = re.compile(r"([A-Z]{2})_([A-Z0-9]{2,15}?)(USDT|USDC|USD|EUR|GBP|XBT)(?:_([0-9A-Z]{1,10}))?", re.ASCII)
_MODERN = {"XBT": "BTC", "XDG": "DOGE"}
_LEGACY = {modern: legacy for legacy, modern in _MODERN.items()}
_IS_INVERSE = {"PI": True, "FI": True, "PF": False, "FF": False}


class Contract(msgspec.Struct):
    """A contract of REST `instruments`; its numbers keep the venue's digits."""

    symbol: str
    tradeable: bool | None = None
    kind: str = msgspec.field(name="type", default="")
    last_traded: str = msgspec.field(name="lastTradingTime", default="")
    tick: Any = msgspec.field(name="tickSize", default=None)
    size: Any = msgspec.field(name="contractSize", default=None)
    precision: Annotated[int, msgspec.Meta(ge=-16, le=32)] | None = msgspec.field(
        name="contractValueTradePrecision", default=None
    )


class _Contracts(msgspec.Struct):
    instruments: list[msgspec.Raw]


CONTRACT = msgspec.json.Decoder(Contract, float_hook=str)
CONTRACTS = msgspec.json.Decoder(_Contracts)


def is_contract(name: str) -> bool:
    """Return whether a name in capitals is that of a contract; REST lists indices besides."""
    return _CONTRACT.fullmatch(name) is not None


def describe(name: str) -> Instrument:
    """Return the instrument of a contract's name. Raises BadEvent."""
    named = _CONTRACT.fullmatch(name)
    if named is None:
        raise BadEvent("bad_symbol", "product_id", name[:200])
    contract, base, quote, maturity = named.groups()
    base, quote = _MODERN.get(base, base), _MODERN.get(quote, quote)
    is_inverse = _IS_INVERSE.get(contract)
    return Instrument(
        venue=VENUE, symbol="-".join(filter(None, (base, quote, contract, maturity))), ts_recv=0, venue_symbol=name,
        base_currency=base, quote_currency=quote, kind="future" if maturity else "perpetual", inverse=is_inverse,
        settlement_currency=base if is_inverse else None,
    )  # fmt: skip


def find(name: str) -> Instrument:
    """Return the instrument of a contract's name or of our symbol. Raises BadEvent for what is neither."""
    base, *rest = name.upper().split("-")
    if len(rest) < len(("quote", "contract")):
        return describe(name.upper())
    quote, contract, *maturity = rest
    return describe("_".join((contract, _LEGACY.get(base, base) + _LEGACY.get(quote, quote), *maturity)))


def rest_fields(sent: Contract) -> dict[str, Any]:
    """Return a contract from REST as fields of an Instrument. Raises BadEvent."""
    size = optional_number(sent.size, "contractSize")
    is_inverse = sent.kind == "futures_inverse"
    return {
        "tick_size": optional_price(sent.tick, "tickSize"),
        "size_increment": size if sent.precision is None else _increment(sent.precision),
        "status": "unknown" if sent.tradeable is None else "online" if sent.tradeable else "halted",
        "expiry": iso_ns(sent.last_traded, "lastTradingTime") if sent.last_traded else None,
        "contract_multiplier": size,
        "settlement_currency": describe(sent.symbol.upper()).base_currency if is_inverse else None,
        "inverse": is_inverse if sent.kind else None,
    }


def optional_number(value: Any, field: str) -> str | None:
    """Return a JSON number digit for digit, None where there is none. Raises BadEvent."""
    return None if value is None else number(value, field)


def optional_price(value: Any, field: str) -> str | None:
    """Return a price digit for digit, None where there is none or it is 0. Raises BadEvent."""
    return None if value is None else price(number(value, field), field)


def _increment(decimals: int) -> str:
    return f"0.{'1':0>{decimals}}" if decimals > 0 else "1" + "0" * -decimals
