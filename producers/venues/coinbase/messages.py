"""What Coinbase Advanced Trade sends, and how its values are read.

Sources: "WebSocket Channels" (https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels)
and the REST answers of the same names. Fields that are not used are not named, and are skipped without being built.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from marketdata.events import Trade
from producers.venues.coinbase.products import Flags, RestProduct
from producers.venues.kit.values import Number, Text, check_trade, integer, iso_ns


class _Envelope(msgspec.Struct):
    channel: str
    timestamp: str
    sequence_num: Number
    events: list[msgspec.Raw]


class _Error(msgspec.Struct):
    type: Literal["error"]
    message: str = ""


class _Level(msgspec.Struct, gc=False):
    side: Literal["bid", "offer"]
    price_level: Text
    new_quantity: Text


class BookEvent(msgspec.Struct):
    """A whole book, or absolute sizes of levels that changed."""

    type: Literal["snapshot", "update"]
    product_id: str
    updates: list[_Level]


class _BookFrame(msgspec.Struct):
    channel: Literal["l2_data"]
    timestamp: str
    sequence_num: Number
    events: list[BookEvent]


class _TradesEvent(msgspec.Struct):
    type: Literal["snapshot", "update"]
    trades: list[msgspec.Raw]


class _Trade(msgspec.Struct):
    product_id: str
    trade_id: str
    price: Text
    size: Text
    time: str
    side: Literal["BUY", "SELL"]


class _Ticker(msgspec.Struct):
    product_id: str
    price: str = ""
    volume_24_h: str = ""
    low_24_h: str = ""
    high_24_h: str = ""
    price_percent_chg_24_h: str = ""
    best_bid: str = ""
    best_bid_quantity: str = ""
    best_ask: str = ""
    best_ask_quantity: str = ""


class _TickerEvent(msgspec.Struct):
    tickers: list[_Ticker]


class _Heartbeat(msgspec.Struct):
    current_time: str


class _StatusProduct(Flags, kw_only=True):
    id: str
    status: str
    base_currency: str = ""
    quote_currency: str = ""
    quote_increment: str = ""
    base_increment: str = ""


class _StatusEvent(msgspec.Struct):
    products: list[_StatusProduct]


class _Subscriptions(msgspec.Struct):
    subscriptions: dict[str, list[str]]


class _RestTrades(msgspec.Struct):
    trades: list[msgspec.Raw]


class _RestProducts(msgspec.Struct):
    products: list[msgspec.Raw]


class _Named(msgspec.Struct):
    product_id: str


ENVELOPE = msgspec.json.Decoder(_Envelope)
ERROR = msgspec.json.Decoder(_Error)
BOOK_FRAME = msgspec.json.Decoder(_BookFrame)
BOOK_EVENT = msgspec.json.Decoder(BookEvent)
TRADES_EVENT = msgspec.json.Decoder(_TradesEvent)
_TRADE = msgspec.json.Decoder(_Trade)
TICKER_EVENT = msgspec.json.Decoder(_TickerEvent)
HEARTBEAT = msgspec.json.Decoder(_Heartbeat)
STATUS_EVENT = msgspec.json.Decoder(_StatusEvent)
SUBSCRIPTIONS = msgspec.json.Decoder(_Subscriptions)
REST_PRODUCTS = msgspec.json.Decoder(_RestProducts)
REST_TRADES = msgspec.json.Decoder(_RestTrades)
REST_PRODUCT = msgspec.json.Decoder(RestProduct)
NAMED = msgspec.json.Decoder(_Named)


def read_trade(raw: msgspec.Raw) -> tuple[str, Trade]:
    """Return product id and trade, as the stream and REST write it. Raises BadEvent."""
    sent = _TRADE.decode(raw)
    integer(sent.trade_id, "trade_id", "bad_trade_id")
    check_trade(sent.price, sent.size)
    return sent.product_id, Trade(
        trade_id=sent.trade_id,
        ts_event=iso_ns(sent.time, "time"),
        price=sent.price,
        size=sent.size,
        side="sell" if sent.side == "BUY" else "buy",
    )


def go_time(text: str) -> int:
    """Return the time of a heartbeat, which Go's `time.String` wrote: `2026-08-09 21:05:48.85 +0000 UTC m=+4.2`."""
    parts = text.split(" ")
    if len(parts) >= 3:
        return iso_ns(f"{parts[0]}T{parts[1]}{parts[2]}", "current_time")
    return iso_ns(text, "current_time")
