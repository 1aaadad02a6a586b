"""Binance's names of symbols and its exchangeInfo, as ours.

Binance writes BTCUSDT. The name is split at the longest quote currency that it ends with, from the list of all that
Binance trades against; that gave the currencies of every symbol of a recorded exchangeInfo. A name that ends with none
stays whole. A future's delivery date stays at the end: BTCUSDT_240927 is BTC-USDT_240927. COIN-M writes its perpetuals
BTCUSD_PERP.

The tick size in exchangeInfo binds new orders only: after a change old ones rest between the ticks (0.25974 beside a
tick of 0.0001 on a recorded snapshot). It is therefore not published as the instrument's.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent
from marketdata.events import Instrument
from producers.venues.binance.markets import Market
from producers.venues.kit.values import check_decimals, in_range

QUOTES = (
    "USDT", "USDC", "FDUSD", "TUSD", "BUSD", "USDP", "USDS", "USD1", "USDE", "BFUSD", "BTC", "ETH", "BNB", "XRP", "TRX",
    "DOGE", "DOT", "SOL", "DAI", "VAI", "UST", "PAX", "EURI", "EUR", "GBP", "AUD", "TRY", "RUB", "BRL", "UAH",
    "NGN", "ZAR", "PLN", "RON", "ARS", "COP", "CZK", "MXN", "JPY", "IDR", "IDRT", "BIDR", "BVND", "BKRW", "GYEN",
)  # fmt: skip
_QUOTE = "|".join(sorted(QUOTES, key=len, reverse=True))
_SPLIT = re.compile(rf"(.+?)({_QUOTE})(_\d{{6}})?")
_IN_COIN = re.compile(r"(.+?)(USD)(_PERP|_\d{6})")
_NAME = re.compile(r"\w{2,40}")

_STATES = {
    "TRADING": "online",
    "HALT": "halted",
    "BREAK": "halted",
    "PRE_TRADING": "halted",
    "POST_TRADING": "halted",
    "END_OF_DAY": "halted",
    "AUCTION_MATCH": "auction",
    "PENDING_TRADING": "halted",
    "PRE_SETTLE": "halted",
    "SETTLING": "halted",
    "PRE_DELIVERING": "halted",
    "DELIVERING": "halted",
    "DELIVERED": "delisted",
    "CLOSE": "delisted",
}


class RestProduct(msgspec.Struct):
    """A symbol of exchangeInfo; COIN-M calls its state `contractStatus`."""

    symbol: str
    status: str = ""
    contractStatus: str = ""  # noqa: N815 - the venue's own name, here and below
    baseAsset: str = ""  # noqa: N815
    quoteAsset: str = ""  # noqa: N815
    contractType: str = ""  # noqa: N815
    contractSize: int | None = None  # noqa: N815
    marginAsset: str = ""  # noqa: N815
    deliveryDate: int = 0  # noqa: N815
    filters: list[dict[str, Any]] = []


def split(name: str) -> tuple[str, str, str]:
    """Return base currency, quote currency and a future's delivery; no quote when it is not known."""
    found = _IN_COIN.fullmatch(name) or _SPLIT.fullmatch(name)
    if found is None:
        return name, "", ""
    return found[1], found[2], "" if found[3] == "_PERP" else found[3] or ""


def describe(market: Market, name: str) -> Instrument:
    """Return the instrument of the venue's name. Raises BadEvent."""
    if _NAME.fullmatch(name) is None or name != name.upper():
        raise BadEvent("bad_symbol", "symbol", name[:200])
    base, quote, delivery = split(name)
    return Instrument(venue=market.venue, symbol=f"{base}-{quote}{delivery}" if quote else name, venue_symbol=name,
                      ts_recv=0, base_currency=base, quote_currency=quote,
                      kind="future" if delivery else market.kind)  # fmt: skip


def find(market: Market, name: str) -> Instrument:
    """Return the instrument of our symbol (`BTC-USDT`, `BTC-USDT_240927`) or of the venue's name. Raises BadEvent."""
    ours = "-" in name
    found = describe(market, name.replace("-", "") + (market.perpetual if ours and "_" not in name else ""))
    if ours and found.symbol != name:
        raise BadEvent("bad_symbol", "symbol", name[:200])
    return found


def rest_fields(sent: RestProduct) -> dict[str, Any]:
    """Return a symbol from REST as fields of an Instrument. Raises BadEvent."""
    learned: dict[str, Any] = {"status": _STATES.get(sent.status or sent.contractStatus, "unknown")}
    if sent.baseAsset and sent.quoteAsset:
        learned |= {"base_currency": sent.baseAsset, "quote_currency": sent.quoteAsset}
    if sent.contractType:
        learned["kind"] = "perpetual" if "PERPETUAL" in sent.contractType else "future"
        if learned["kind"] == "future" and sent.deliveryDate:  # a perpetual's is in the year 2100
            learned["expiry"] = time_ns(sent.deliveryDate, "deliveryDate")
    if sent.contractSize is not None:
        learned["contract_multiplier"] = str(sent.contractSize)
    if sent.marginAsset:
        learned["settlement_currency"] = sent.marginAsset
        if sent.baseAsset:
            learned["inverse"] = sent.marginAsset == sent.baseAsset
    for rule in sent.filters:
        if rule.get("filterType") == "LOT_SIZE":
            learned["size_increment"] = _increment(rule.get("stepSize"), "stepSize")
            learned["min_order_size"] = _increment(rule.get("minQty"), "minQty")
    return learned


def _increment(text: Any, field: str) -> str | None:
    if not isinstance(text, str):
        return None
    check_decimals([text], field)
    return None if is_zero(text) else text


_MICROSECONDS_FROM = 10**14  # of 1973; in milliseconds the same number is of the year 5138


def time_ns(time: int, field: str) -> int:
    """Return UTC nanoseconds of a time in milliseconds or microseconds, depending on its magnitude. Raises BadEvent."""
    return in_range(time * (MILLISECOND_NS if time < _MICROSECONDS_FROM else 1_000), time, field)
