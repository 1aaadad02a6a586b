"""The instruments of a FIX venue: how its messages name one, and what they say of it.

1. Symbol (55) names an instrument. Where it is missing, or "[N/A]", SecurityID (48) of SecurityIDSource (22) does (FIX
   5.0SP2, component Instrument; docs.t4login.com, "Market Data Incremental Refresh": no Symbol at all).
2. A message with both names shows that they are one instrument; a later one may have either.
3. SecurityType (167) shows the kind. Without it a name that is a pair is spot, any other is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from marketdata.events import Instrument
from marketdata.fix.codec import Fields, utc_ns

# What Symbol holds where the instrument has none.
NO_SYMBOL = "[N/A]"
IDS_MAX = 50_000

# SecurityType (167) to our kind; any other, such as FXFWD, FXSWAP, FXNDF and MLEG, is unknown.
_KINDS = {"CS": "equity", "PS": "equity", "FUT": "future", "OPT": "option", "FXSPOT": "spot"}
_NO_KIND = frozenset({"", "NONE", "?", "WLD"})  # values of 167 that name no type

# MinPriceIncrement, RoundLot, MinTradeVol, StrikePrice and ContractMultiplier.
_DECIMALS = (("tick_size", 969), ("size_increment", 561), ("min_order_size", 562), ("strike", 202),
             ("contract_multiplier", 231))  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9._/=:+-]{1,40}", re.ASCII)
_PAIR = re.compile(r"([A-Z0-9]{1,20})[-/]([A-Z0-9]{1,20})", re.ASCII)


class Names:
    """Finds the one name of an instrument. `source` is the SecurityIDSource of the products, if those are ids."""

    __slots__ = ("_by_id", "_source")

    def __init__(self, source: str = "") -> None:
        self._source = source
        self._by_id: dict[tuple[str, str], str] = {}

    def find(self, fields: Mapping[int, str]) -> str:
        """Return the name that these fields have, or an empty text."""
        symbol, security, source = fields.get(55, ""), fields.get(48, ""), fields.get(22, "")
        if self._source and security and source in {"", self._source}:
            return security
        if symbol and symbol != NO_SYMBOL:
            if security:
                self._learn(source, security, symbol)
            return symbol
        return self._by_id.get((source, security), security)

    def named(self, name: str) -> Fields:
        """Return the fields that name an instrument in a request."""
        return [(55, NO_SYMBOL), (48, name), (22, self._source)] if self._source else [(55, name)]

    def _learn(self, source: str, security: str, symbol: str) -> None:
        for key in ((source, security), ("", security)):  # entries often omit the source
            self._by_id[key] = symbol
        while len(self._by_id) > IDS_MAX:
            del self._by_id[next(iter(self._by_id))]


def kind_of(security_type: str) -> str | None:
    """Return the kind that a SecurityType shows, None where it shows none."""
    return None if security_type in _NO_KIND else _KINDS.get(security_type, "unknown")


def read_definition(entry: Mapping[int, str], name: str) -> dict[str, Any]:
    """Return what an entry of a SecurityList (y), or a SecurityDefinition (d), says of an instrument. Raises BadEvent.

    Increments and sizes are decimal texts, the expiry is in UTC nanoseconds.
    """
    learned: dict[str, Any] = {}
    for field, tag in _DECIMALS:
        if tag in entry:
            decimal(entry[tag], str(tag))
            learned[field] = entry[tag]
    kind = kind_of(entry.get(167, ""))
    if kind is not None:
        learned["kind"] = kind
    if 541 in entry:  # MaturityDate, with MaturityTime where the venue sends it
        learned["expiry"] = utc_ns(f"{entry[541]}-{entry.get(1079, '00:00:00').removesuffix('Z')}", "541")
    if 120 in entry:
        learned["settlement_currency"] = entry[120]
    if 15 in entry and _PAIR.fullmatch(name) is None:
        learned["quote_currency"] = entry[15]
    return learned


def describe(name: str) -> Instrument:
    """Return what a name alone shows. Raises BadEvent for a text that is no name."""
    if _NAME.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "55", name)
    pair = _PAIR.fullmatch(name)
    base, quote = pair.groups() if pair else (name, "")
    return Instrument(venue="fix", symbol=f"{base}-{quote}" if pair else name, ts_recv=0, venue_symbol=name,
                      base_currency=base, quote_currency=quote, kind="spot" if pair else "unknown")  # fmt: skip
