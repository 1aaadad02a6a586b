"""What Binance sends, as types, and its trades as ours; the documents are named in `feed`.

Fields that are not used are not named.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from marketdata.events import EXCLUSIONS, Trade
from producers.venues.binance.names import time_ns
from producers.venues.kit.values import Columns, Number, Text, check_trade, levels

# What `X` says of an execution that is no market trade: candles leave it out, as Binance's own do, and neither
# `aggTrade` nor REST has it. ADL and INSURANCE_FUND close positions of liquidated accounts.
NOT_TRADED = frozenset({"INSURANCE_FUND", "ADL", "NA"})


class Depth(msgspec.Struct, gc=False):
    """Changes of a book, of absolute sizes."""

    name: str = msgspec.field(name="s")
    first: Number = msgspec.field(name="U")
    final: Number = msgspec.field(name="u")
    bids: msgspec.Raw = msgspec.field(name="b")
    asks: msgspec.Raw = msgspec.field(name="a")
    ms: int = msgspec.field(name="E")
    matched_ms: int = msgspec.field(name="T", default=0)
    previous: Number | None = msgspec.field(name="pu", default=None)

    def columns(self) -> Columns:
        """Return the levels. Raises BadEvent."""
        return (*levels(self.bids, "b"), *levels(self.asks, "a"))


class Ticker(msgspec.Struct, gc=False):
    """The best bid and offer."""

    name: str = msgspec.field(name="s")
    number: Number = msgspec.field(name="u")
    bid: Text = msgspec.field(name="b")
    bid_size: Text = msgspec.field(name="B")
    ask: Text = msgspec.field(name="a")
    ask_size: Text = msgspec.field(name="A")
    ms: int = msgspec.field(name="E", default=0)
    matched_ms: int = msgspec.field(name="T", default=0)


class StreamTrade(msgspec.Struct, gc=False):
    """One execution."""

    name: str = msgspec.field(name="s")
    number: Number = msgspec.field(name="t")
    price: Text = msgspec.field(name="p")
    size: Text = msgspec.field(name="q")
    traded_ms: Number = msgspec.field(name="T")
    buyer_made: bool = msgspec.field(name="m")
    ms: int = msgspec.field(name="E")
    cause: str = msgspec.field(name="X", default="MARKET")


class AggTrade(msgspec.Struct, gc=False):
    """Executions of one taker order at one price, in one."""

    number: Number = msgspec.field(name="a")
    price: Text = msgspec.field(name="p")
    size: Text = msgspec.field(name="q")
    traded_ms: Number = msgspec.field(name="T")
    buyer_made: bool = msgspec.field(name="m")
    name: str = msgspec.field(name="s", default="")  # not in REST's answer, which has the same fields otherwise
    ms: int = msgspec.field(name="E", default=0)
    cause: str = "MARKET"


class RestTrade(msgspec.Struct, gc=False):
    """One execution, as REST sends it."""

    number: Number = msgspec.field(name="id")
    price: Text
    size: Text = msgspec.field(name="qty")
    traded_ms: Number = msgspec.field(name="time")
    buyer_made: bool = msgspec.field(name="isBuyerMaker")
    cause: str = "MARKET"


class MarkPrice(msgspec.Struct, gc=False):
    """Mark and index price and the funding of one symbol; a contract with a delivery has none."""

    name: str = msgspec.field(name="s")
    ms: int = msgspec.field(name="E")
    mark: str = msgspec.field(name="p", default="")
    index: str = msgspec.field(name="i", default="")
    rate: str = msgspec.field(name="r", default="")
    funding_ms: Any = msgspec.field(name="T", default=None)


class ForcedOrder(msgspec.Struct, gc=False):
    """The order that liquidates a position."""

    name: str = msgspec.field(name="s")
    side: Literal["BUY", "SELL"] = msgspec.field(name="S")
    size: Text = msgspec.field(name="q")
    price: Text = msgspec.field(name="p")
    traded_ms: Number = msgspec.field(name="T")
    average: str = msgspec.field(name="ap", default="")
    filled: str = msgspec.field(name="z", default="")


class Liquidated(msgspec.Struct, gc=False):
    """The latest liquidation of one symbol within a second."""

    ms: int = msgspec.field(name="E")
    order: ForcedOrder = msgspec.field(name="o")


class Interest(msgspec.Struct):
    """REST's open interest of one symbol, in the units of a trade's size."""

    interest: Text = msgspec.field(name="openInterest")
    ms: Number = msgspec.field(name="time")


class Snapshot(msgspec.Struct):
    """A whole book of REST."""

    number: Number = msgspec.field(name="lastUpdateId")
    bids: msgspec.Raw
    asks: msgspec.Raw
    matched_ms: int = msgspec.field(name="T", default=0)

    def columns(self) -> Columns:
        """Return the levels. Raises BadEvent."""
        return (*levels(self.bids, "bids"), *levels(self.asks, "asks"))


class Products(msgspec.Struct):
    """exchangeInfo."""

    symbols: list[msgspec.Raw]


class Combined(msgspec.Struct, gc=False):
    """A frame of a combined stream, or an answer to a message of ours."""

    stream: str = ""
    data: msgspec.Raw = msgspec.Raw()
    result: Any = msgspec.UNSET
    error: Any = msgspec.UNSET
    code: Any = msgspec.UNSET
    number: Any = msgspec.field(name="id", default=None)


class Head(msgspec.Struct, gc=False):
    """What shows the kind of a frame."""

    event: str = msgspec.field(name="e", default="")
    final: Any = msgspec.field(name="lastUpdateId", default=None)
    bid: Any = msgspec.field(name="b", default=None)
    bid_size: Any = msgspec.field(name="B", default=None)


class _DepthFrame(msgspec.Struct, gc=False):
    data: Depth


class _TickerFrame(msgspec.Struct, gc=False):
    data: Ticker


class _TradeFrame(msgspec.Struct, gc=False):
    data: StreamTrade


class _AggTradeFrame(msgspec.Struct, gc=False):
    data: AggTrade


class _MarkPriceFrame(msgspec.Struct, gc=False):
    data: MarkPrice


COMBINED = msgspec.json.Decoder(Combined)
HEAD = msgspec.json.Decoder(Head)
SNAPSHOT = msgspec.json.Decoder(Snapshot)
INTEREST = msgspec.json.Decoder(Interest)
PRODUCTS = msgspec.json.Decoder(Products)
ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
REST_TRADE = msgspec.json.Decoder(RestTrade)
REST_AGG_TRADE = msgspec.json.Decoder(AggTrade)

BARE: dict[str, msgspec.json.Decoder[Any]] = {
    "depthUpdate": msgspec.json.Decoder(Depth),
    "bookTicker": msgspec.json.Decoder(Ticker),
    "trade": msgspec.json.Decoder(StreamTrade),
    "aggTrade": msgspec.json.Decoder(AggTrade),
    "markPriceUpdate": msgspec.json.Decoder(MarkPrice),
    "forceOrder": msgspec.json.Decoder(Liquidated),
}
"""By the event's name."""
FRAMES: dict[bytes, msgspec.json.Decoder[Any]] = {
    b'depth"': msgspec.json.Decoder(_DepthFrame),
    b"depth@": msgspec.json.Decoder(_DepthFrame),
    b"bookTi": msgspec.json.Decoder(_TickerFrame),
    b'trade"': msgspec.json.Decoder(_TradeFrame),
    b"aggTra": msgspec.json.Decoder(_AggTradeFrame),
    b"markPr": msgspec.json.Decoder(_MarkPriceFrame),
}
"""Of combined streams, by the first bytes after the `@` of the stream's name."""


def read_trade(sent: StreamTrade | AggTrade | RestTrade) -> Trade:
    """Return a trade; its id is that of the stream with the same kind of trades. Raises BadEvent."""
    check_trade(sent.price, sent.size)
    side = "sell" if sent.buyer_made else "buy"
    cause = sent.cause
    if cause == "MARKET":
        return Trade(trade_id=str(sent.number), ts_event=time_ns(sent.traded_ms, "T"), price=sent.price,
                     size=sent.size, side=side)  # fmt: skip
    return Trade(trade_id=str(sent.number), ts_event=time_ns(sent.traded_ms, "T"), price=sent.price, size=sent.size,
                 side=side, liquidation=cause in {"INSURANCE_FUND", "ADL"}, conditions=(cause,),
                 excluded_from=EXCLUSIONS if cause in NOT_TRADED else ())  # fmt: skip
