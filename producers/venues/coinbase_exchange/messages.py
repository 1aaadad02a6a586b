"""The messages of Coinbase Exchange's WebSocket and REST, as far as they are used.

Sources: "Exchange WebSocket Channels" (https://docs.cdp.coinbase.com/exchange/websocket-feed/channels), "Get product
book" and "Get product trades" (https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import msgspec

from marketdata.events import Trade
from marketdata.feed import Send
from producers.venues.kit.values import Columns, Number, Text, check_decimals, check_trade, iso_ns

Side = Literal["buy", "sell"]
Depth = Literal["level2_batch", "level2", "full"]
"""The channel of books."""

TAGS = frozenset(
    {"snapshot", "l2update", "received", "activate", "open", "done", "change", "match", "last_match", "ticker",
     "heartbeat", "status", "subscriptions", "error"}
)  # fmt: skip
# Frames that change no book, whatever they contain.
NO_BOOK = frozenset({"ticker", "heartbeat", "last_match", "status", "subscriptions", "error", "auction"})
UNUSED = frozenset({"auction", "rfq_match", "balance", "profile"})

_TYPE = re.compile(rb'"type":\s*"(\w{1,40})"')
_NAMED = re.compile(rb'"product_id":\s*"([A-Z0-9.\-]{1,80})"')
_HEAD_BYTES = 1_000  # an order's message is shorter, and a snapshot begins with its names


class PriceSize(msgspec.Struct, array_like=True, gc=False):
    """A level of a snapshot."""

    price: Text
    size: Text


class LevelChange(msgspec.Struct, array_like=True, gc=False):
    """A level of a change."""

    side: Side
    price: Text
    size: Text


class Snapshot(msgspec.Struct, tag_field="type", tag="snapshot"):
    """A whole book of levels."""

    product_id: str
    bids: list[PriceSize]
    asks: list[PriceSize]
    time: str | None = ""


class L2Update(msgspec.Struct, tag_field="type", tag="l2update"):
    """Levels that have another size now."""

    product_id: str
    changes: list[LevelChange]
    time: str | None = ""


class Received(msgspec.Struct, tag_field="type", tag="received", gc=False):
    """An order that the venue accepted."""

    product_id: str
    sequence: Number
    time: str
    order_id: str = ""


class Activate(msgspec.Struct, tag_field="type", tag="activate", gc=False):
    """A stop order that became active; documented without a sequence."""

    product_id: str
    sequence: Number | None = None
    time: str = ""


class Open(msgspec.Struct, tag_field="type", tag="open", gc=False):
    """An order that rests in the book now; `time` is empty where some recorders write a book."""

    product_id: str
    sequence: Number
    order_id: Text
    side: Side
    price: Text
    remaining_size: Text
    time: str = ""


class Done(msgspec.Struct, tag_field="type", tag="done", gc=False):
    """An order that is filled or canceled."""

    product_id: str
    sequence: Number
    time: str
    order_id: Text
    price: str | None = None
    reason: str = ""


class OrderChange(msgspec.Struct, tag_field="type", tag="change", gc=False):
    """An order that has another size or price now."""

    product_id: str
    sequence: Number
    time: str
    order_id: Text
    price: Text | None = None
    new_price: Text | None = None
    new_size: Text | None = None


class Match(msgspec.Struct, tag_field="type", tag="match", gc=False):
    """A trade; `side` is the maker's."""

    product_id: str
    trade_id: Number
    time: str
    side: Side
    price: Text
    size: Text
    sequence: Number | None = None
    maker_order_id: str = ""


class LastMatch(Match, tag_field="type", tag="last_match", gc=False):
    """The last trade before the subscription began."""


class Ticker(msgspec.Struct, tag_field="type", tag="ticker", gc=False):
    """The best bid and offer, the last price and the last 24 hours."""

    product_id: str
    sequence: Number | None = None
    time: str = ""
    price: str = ""
    best_bid: str = ""
    best_bid_size: str = ""
    best_ask: str = ""
    best_ask_size: str = ""
    volume_24h: str = ""
    low_24h: str = ""
    high_24h: str = ""


class Heartbeat(msgspec.Struct, tag_field="type", tag="heartbeat", gc=False):
    """The last sequence and trade id of a product."""

    product_id: str
    time: str
    sequence: Number = 0
    last_trade_id: Number = 0


class Status(msgspec.Struct, tag_field="type", tag="status"):
    """Every product of the venue."""

    products: list[msgspec.Raw]


class Channel(msgspec.Struct):
    """A channel of `subscriptions`."""

    name: str
    product_ids: list[str] = []


class Subscriptions(msgspec.Struct, tag_field="type", tag="subscriptions"):
    """Everything that the connection is subscribed to."""

    channels: list[Channel] = []


class Error(msgspec.Struct, tag_field="type", tag="error"):
    """A refusal, or another error."""

    message: str = ""
    reason: str = ""


class Login(msgspec.Struct):
    """What the shell's signer gives: the channel of books, and the fields that sign one subscription."""

    channel: Depth
    signed: dict[str, str]


class Kind(msgspec.Struct):
    """Any message."""

    type: str


class RestOrder(msgspec.Struct, array_like=True, gc=False):
    """An order of a book of level 3."""

    price: Text
    size: Text
    order_id: Text


class RestBook(msgspec.Struct):
    """A book of level 3; `sequence` was documented as text and is sent as a number."""

    sequence: Any
    bids: list[RestOrder]
    asks: list[RestOrder]
    time: str = ""


class RestTrade(msgspec.Struct):
    """A trade of REST; `side` is the maker's."""

    trade_id: Number
    time: str
    side: Side
    price: Text
    size: Text


OrderMessage = Received | Activate | Open | Done | OrderChange | Match
Message = L2Update | OrderMessage | Ticker | Heartbeat | Snapshot | LastMatch | Status | Subscriptions | Error

FRAME: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
KIND = msgspec.json.Decoder(Kind)
LOGIN = msgspec.json.Decoder(Login)
REST_BOOK = msgspec.json.Decoder(RestBook)
REST_TRADES = msgspec.json.Decoder(list[msgspec.Raw])
REST_TRADE = msgspec.json.Decoder(RestTrade)


def read_trade(sent: Match | RestTrade) -> Trade:
    """Return a trade; the venue sends the maker's side, and the aggressor's is the opposite. Raises BadEvent."""
    check_trade(sent.price, sent.size)
    return Trade(trade_id=str(sent.trade_id), ts_event=iso_ns(sent.time, "time"), price=sent.price, size=sent.size,
                 side="buy" if sent.side == "sell" else "sell")  # fmt: skip


class Head(NamedTuple):
    """What can still be read of a frame that cannot: its type and the product's name, empty where they are unknown."""

    kind: str
    name: str


def head_of(payload: bytes) -> Head:
    """Return the head of a frame that cannot be read."""
    head = payload[:_HEAD_BYTES]
    kind, name = _TYPE.search(head), _NAMED.search(head)
    return Head("" if kind is None else kind[1].decode(), "" if name is None else name[1].decode())


_price_of, _size_of = attrgetter("price"), attrgetter("size")


def columns(bids: Sequence[PriceSize | LevelChange], asks: Sequence[PriceSize | LevelChange]) -> Columns:
    """Return levels of both sides as columns. Raises BadEvent for what is no number."""
    bid_prices, bid_sizes = list(map(_price_of, bids)), list(map(_size_of, bids))
    ask_prices, ask_sizes = list(map(_price_of, asks)), list(map(_size_of, asks))
    if bids or asks:
        check_decimals(bid_prices + bid_sizes + ask_prices + ask_sizes, "level")
    return bid_prices, bid_sizes, ask_prices, ask_sizes


def subscription(verb: str, channel: str, products: Collection[str], signed: Mapping[str, str]) -> Send:
    """Return the message that (un)subscribes products of a channel; `signed` are the fields that sign it."""
    order: dict[str, Any] = {"type": verb, "channels": [channel], **signed}
    if products:
        order["product_ids"] = list(products)
    return Send(msgspec.json.encode(order))
