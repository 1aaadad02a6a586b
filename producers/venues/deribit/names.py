"""Deribit's instrument names: futures, perpetuals, options and spot pairs.

Source: "Naming conventions", https://docs.deribit.com/articles/deribit-quickstart: BTC-25MAR23, BTC-PERPETUAL,
BTC-25MAR23-420-C, SOL_USDC-PERPETUAL, XRP_USDC-30JUN23-0d625-C (`d` is the decimal point) and BTC_USDC. Contracts end
at 08:00 UTC. Combinations (BTC-FS-..., BTC-CS-...) are several instruments in one, and are refused.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import Instrument

VENUE = "deribit"
_END = "08:00"
_NAME = re.compile(
    r"(?P<base>[A-Z0-9]{2,12})(?:_(?P<quote>[A-Z0-9]{2,12}))?"
    r"(?:-(?P<contract>PERPETUAL|(?P<date>\d{1,2}[A-Z]{3}\d{2})(?:-(?P<strike>\d{1,12}(?:d\d{1,8})?)-(?P<right>[CP]))?))?",
    re.ASCII,
)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def describe(name: str) -> Instrument:
    """Return the instrument of a name, for example `BTC-USD-29MAR24-50000-C`. Raises BadEvent for what is none."""
    named = _NAME.fullmatch(name)
    if named is None or (named["contract"] is None and named["quote"] is None):
        raise BadEvent("bad_symbol", "instrument_name", name[:200])
    base, quote, contract = named["base"], named["quote"] or "USD", named["contract"]
    kind = "spot"
    if contract is not None:
        kind = "perpetual" if contract == "PERPETUAL" else "option" if named["right"] else "future"
    strike = named["strike"]
    return Instrument(
        venue=VENUE, symbol="-".join(filter(None, (base, quote, contract))), ts_recv=0, venue_symbol=name,
        base_currency=base, quote_currency=quote, kind=kind,
        expiry=None if named["date"] is None else _expiry(named["date"], name),
        strike=None if strike is None else strike.replace("d", "."),
    )  # fmt: skip


def find(name: str) -> Instrument:
    """Return the instrument of the venue's name or of our symbol. Raises BadEvent for what is neither."""
    base, *rest = name.split("-")
    if len(rest) > 1 and rest[0] == "USD":
        return describe("-".join((base, *rest[1:])))
    if rest and _NAME.fullmatch(name) is None:
        return describe("-".join((f"{base}_{rest[0]}", *rest[1:])))
    return describe(name)


def _expiry(text: str, name: str) -> int:
    day, month, year = text[:-5], text[-5:-2], text[-2:]
    try:
        date = datetime(2000 + int(year), _MONTHS.index(month) + 1, int(day), int(_END[:2]), tzinfo=UTC)
    except ValueError:
        raise BadEvent("bad_symbol", "instrument_name", name[:200]) from None
    return int(date.timestamp()) * SECOND_NS
