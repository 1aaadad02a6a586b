"""Hyperliquid's coins and pairs.

A perpetual is its coin (`BTC`, `kPEPE`), settled in USDC; a spot pair is `PURR/USDC`. Pairs by number (`@107`) and
perpetuals of other builders (`dex:COIN`) do not show what they are, and are refused.

Source: "Asset IDs" and "Notation", https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api.
"""

from __future__ import annotations

import re

from marketdata.errors import BadEvent
from marketdata.events import Instrument

VENUE = "hyperliquid"
_PERPETUAL = re.compile(r"[A-Za-z0-9]{1,20}", re.ASCII)
_SPOT = re.compile(r"([A-Za-z0-9]{1,20})/([A-Za-z0-9]{1,20})", re.ASCII)
_OURS = "-USD-PERPETUAL"


def describe(name: str) -> Instrument:
    """Return the instrument of the venue's name. Raises BadEvent for what is none."""
    pair = _SPOT.fullmatch(name)
    if pair is not None:
        base, quote = pair.groups()
        return Instrument(venue=VENUE, symbol=f"{base}-{quote}", ts_recv=0, venue_symbol=name, base_currency=base,
                          quote_currency=quote)  # fmt: skip
    if _PERPETUAL.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "coin", name[:200])
    return Instrument(venue=VENUE, symbol=name + _OURS, ts_recv=0, venue_symbol=name, base_currency=name,
                      quote_currency="USD", kind="perpetual", settlement_currency="USDC", inverse=False)  # fmt: skip


def find(name: str) -> Instrument:
    """Return the instrument of the venue's name or of our symbol. Raises BadEvent for what is neither."""
    return describe(name.removesuffix(_OURS).replace("-", "/"))
