"""What Bybit sends, as types, and its values as ours; the documents are named in `feed`.

Fields that are not used are not named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from marketdata.decimals import decimal, plain
from marketdata.errors import BadEvent
from marketdata.events import HIGH_LOW, OPEN_CLOSE, Trade
from producers.venues.bybit.names import Listed
from producers.venues.kit.values import Number, Text, check_trade, given, integer, ms_text_ns, price


class Book(msgspec.Struct, gc=False):
    """Levels of one product, with absolute sizes."""

    name: str = msgspec.field(name="s")
    bids: msgspec.Raw = msgspec.field(name="b")
    asks: msgspec.Raw = msgspec.field(name="a")
    update: Number = msgspec.field(name="u")
    cross: int = msgspec.field(name="seq", default=0)


class BookFrame(msgspec.Struct, gc=False):
    """A frame of a topic of books."""

    topic: str
    type: Literal["snapshot", "delta"]
    ts: int
    data: Book
    matched: int = msgspec.field(name="cts", default=0)


class Frame(msgspec.Struct):
    """Any other frame."""

    topic: str = ""
    type: str = ""
    ts: int = 0
    op: str = ""
    success: bool = True
    message: str | None = msgspec.field(name="ret_msg", default=None)
    number: str = msgspec.field(name="req_id", default="")
    data: msgspec.Raw = msgspec.Raw()


class StreamTrade(msgspec.Struct, gc=False):
    """One execution of publicTrade."""

    name: str = msgspec.field(name="s")
    id: str = msgspec.field(name="i")
    ms: Number = msgspec.field(name="T")
    price: Text = msgspec.field(name="p")
    size: Text = msgspec.field(name="v")
    side: Literal["Buy", "Sell"] = msgspec.field(name="S")
    is_block: bool = msgspec.field(name="BT", default=False)
    is_rpi: bool = msgspec.field(name="RPI", default=False)


class RestTrade(msgspec.Struct, gc=False):
    """One of REST's recent trades."""

    id: str = msgspec.field(name="execId")
    ms: str = msgspec.field(name="time")
    price: Text
    size: Text
    side: Literal["Buy", "Sell"]
    is_block: bool = msgspec.field(name="isBlockTrade", default=False)
    is_rpi: bool = msgspec.field(name="isRPITrade", default=False)


class StreamLiquidation(msgspec.Struct):
    """One liquidation of allLiquidation."""

    ms: Number = msgspec.field(name="T")
    position: Literal["Buy", "Sell"] = msgspec.field(name="S")
    size: Text = msgspec.field(name="v")
    price: Text = msgspec.field(name="p")


class Result(msgspec.Struct):
    """What REST's answers have in `result`."""

    category: str = ""
    items: list[msgspec.Raw] = msgspec.field(name="list", default_factory=list)
    cursor: str | None = msgspec.field(name="nextPageCursor", default=None)


class Answer(msgspec.Struct):
    """An answer of REST."""

    result: Result


BOOK_FRAME = msgspec.json.Decoder(BookFrame)
FRAME = msgspec.json.Decoder(Frame)
ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
TRADE = msgspec.json.Decoder(StreamTrade)
REST_TRADE = msgspec.json.Decoder(RestTrade)
LIQUIDATION = msgspec.json.Decoder(StreamLiquidation)
TICKER = msgspec.json.Decoder(dict[str, Any])
ANSWER = msgspec.json.Decoder(Answer)
LISTED = msgspec.json.Decoder(Listed)


def _percent(text: str, field: str) -> str | None:
    return plain(decimal(text, field) * 100) if text else None


def read_text(value: Any, field: str) -> str:
    """Return a value of a ticker, which are all texts. Raises BadEvent."""
    if not isinstance(value, str):
        raise BadEvent("bad_type", field, str(value)[:200])
    return value


def read_time(value: Any, field: str) -> int | None:
    """Return UTC nanoseconds, None for an empty text. Raises BadEvent."""
    text = read_text(value, field)
    return ms_text_ns(text, field) if text else None


def read_hours(value: Any, field: str) -> int | None:
    """Return seconds, None for an empty text. Raises BadEvent."""
    text = read_text(value, field)
    return integer(text, field) * 3_600 if text else None


_Reader = Callable[[str, str], Any]

QUOTED: Mapping[str, tuple[str, _Reader]] = {
    "bid1Price": ("bid", price), "bid1Size": ("bid_size", given), "ask1Price": ("ask", price),
    "ask1Size": ("ask_size", given), "lastPrice": ("last", price), "volume24h": ("volume_24h", given),
    "highPrice24h": ("high_24h", price), "lowPrice24h": ("low_24h", price), "price24hPcnt": ("change_24h", _percent),
}  # fmt: skip
DERIVED: Mapping[str, tuple[str, _Reader]] = {
    "markPrice": ("mark_price", read_text), "indexPrice": ("index_price", read_text),
    "openInterest": ("open_interest", read_text), "openInterestValue": ("open_interest_value", read_text),
    "fundingRate": ("funding_rate", read_text), "nextFundingTime": ("next_funding_ts", read_time),
    "fundingIntervalHour": ("funding_interval", read_hours),
}  # fmt: skip


def read_quoted(sent: Mapping[str, Any]) -> dict[str, str | None]:
    """Return those of a ticker's fields that a quote has, by our names. Raises BadEvent."""
    found: dict[str, str | None] = {}
    for key, value in sent.items():
        if key in QUOTED:
            field, read = QUOTED[key]
            found[field] = read(read_text(value, key), key)
    return found


def read_trade(sent: StreamTrade | RestTrade, ts: int) -> Trade:
    """Return an execution as a trade. Raises BadEvent.

    A block trade is agreed outside of the book and sets no price of a candle; one against an order of retail price
    improvement is a trade in the book like any other.
    """
    if not 0 < len(sent.id) <= 64:
        raise BadEvent("bad_trade_id", "i", sent.id[:200])
    check_trade(sent.price, sent.size, ("p", "v"))
    conditions: tuple[str, ...] = ()
    excluded_from: tuple[str, ...] = ()
    if sent.is_block or sent.is_rpi:
        conditions = ("block",) * sent.is_block + ("RPI",) * sent.is_rpi
        excluded_from = (HIGH_LOW, OPEN_CLOSE) if sent.is_block else ()
    return Trade(trade_id=sent.id, ts_event=ts, price=sent.price, size=sent.size, side=sent.side.lower(),
                 conditions=conditions, excluded_from=excluded_from)  # fmt: skip


def read_rest_trade(sent: RestTrade) -> Trade:
    """Return a trade of REST, with the id that the stream gives it. Raises BadEvent."""
    return read_trade(sent, ms_text_ns(sent.ms, "time"))
