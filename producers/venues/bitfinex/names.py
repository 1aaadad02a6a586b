"""Bitfinex's names: `tBTCUSD` is BTC-USD.

DOCS is "Public Channels", https://docs.bitfinex.com/docs/ws-public: a name of six characters has two currencies of
three, and longer currencies have a colon between them: `tDUSK:USD` is DUSK-USD. Currencies keep the venue's codes (UST
is Tether). Two currencies that end with F0 make a perpetual: `tBTCF0:USTF0`.
"""

from __future__ import annotations

import re

from marketdata.errors import BadEvent
from marketdata.events import Instrument

_SYMBOL = re.compile(r"t(?:([A-Z0-9]{3})([A-Z0-9]{3})|([A-Z0-9]{2,20}):([A-Z0-9]{2,20}))", re.ASCII)


def full_name(name: str) -> str:
    """Return the venue's name of a product that may have been written without its `t`, or in lower case."""
    return name if name[:1] == "t" and name[1:].isupper() else f"t{name.upper()}"


def describe(name: str) -> Instrument:
    """Return the instrument of the venue's name. Raises BadEvent."""
    match = _SYMBOL.fullmatch(name)
    if match is None:
        raise BadEvent("bad_symbol", "symbol", name[:200])
    base, quote = (part for part in match.groups() if part is not None)
    kind = "perpetual" if is_derivative(name) else "spot"
    return Instrument(venue="bitfinex", symbol=f"{base}-{quote}", ts_recv=0, venue_symbol=name,
                      base_currency=base, quote_currency=quote, kind=kind)  # fmt: skip


def is_derivative(name: str) -> bool:
    """Return whether a name is that of a perpetual."""
    base, _, quote = name.partition(":")
    return base.endswith("F0") and quote.endswith("F0")
