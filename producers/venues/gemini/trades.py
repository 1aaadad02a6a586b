"""Gemini's trades: the sides that are none, and the list of the last trades over REST.

DOCS is "List Trades", https://developer.gemini.com/trading/rest-api/market-data/list-trades: `type` is `buy` or `sell`,
the side of the taker, or `auction` or `block` for what was traded outside the continuous order book, of which no side
is known. A block is matched between a taker and market makers and published ten minutes later ("Block Trading",
https://docs.gemini.com/block-trading/), so that its size counts, and its price is no high, low, open or close.
"""

from __future__ import annotations

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import HIGH_LOW, OPEN_CLOSE, Trade
from marketdata.feed import Fetch
from producers.venues.kit.products import Product
from producers.venues.kit.values import Number, Text, check_trade, ms_ns

LISTED_MAX = 500  # trades in one answer of REST (DOCS)

_TAKERS = frozenset({"buy", "sell"})
# What a trade of these kinds does not update.
_EXCLUDED: dict[str, tuple[str, ...]] = {"auction": (), "block": (HIGH_LOW, OPEN_CLOSE)}


class _Listed(msgspec.Struct):
    tid: Number
    price: Text
    amount: Text
    type: str
    timestampms: Number


LISTED = msgspec.json.Decoder(_Listed)


def read_listed(raw: msgspec.Raw) -> Trade:
    """Read a trade of REST. Raises BadEvent, or what msgspec raises."""
    sent = LISTED.decode(raw)
    check_trade(sent.price, sent.amount, ("price", "amount"))
    return make_trade(str(sent.tid), ms_ns(sent.timestampms, "timestampms"), sent.price, sent.amount, sent.type)


def make_trade(trade_id: str, ts_event: int, price: str, size: str, side: str) -> Trade:
    """Return a trade; `side` is the venue's text. Raises BadEvent for one that is not documented."""
    if side in _TAKERS:
        return Trade(trade_id=trade_id, ts_event=ts_event, price=price, size=size, side=side)
    if side not in _EXCLUDED:
        raise BadEvent("unknown_side", "side", side[:200])
    return Trade(trade_id=trade_id, ts_event=ts_event, price=price, size=size, side="unknown", conditions=(side,),
                 excluded_from=_EXCLUDED[side])  # fmt: skip


def fetch_trades(product: Product) -> Fetch:
    """Return the request for the trades since a loss."""
    # A second earlier, so that the last trade before the loss is among them.
    since = max(0, (product.ts_trade_before or 0) // SECOND_NS - 1)
    path = f"v1/trades/{product.name.lower()}?limit_trades={LISTED_MAX}&timestamp={since}"
    return Fetch(path, "trades", product.name)


def number_of(trade: Trade) -> int:
    """Return the number in a trade's id, by which a list is sorted."""
    return int(trade.trade_id.partition(":")[0])
