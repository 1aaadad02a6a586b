"""What Alpaca's stock stream sends, as JSON text or msgpack, and how its values are read.

Sources: "WebSocket Stream" (https://docs.alpaca.markets/docs/streaming-market-data) and "Real-time Stock Data"
(https://docs.alpaca.markets/docs/real-time-stock-pricing-data). Fields that are not used are not named; numbers stay as
they were written. msgpack has prices as binary floats: the shortest decimal that is the same float is what the venue
meant. A frame is an array of messages in both encodings.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.msgpack import Ext

from marketdata.clock import SECOND_NS, format_rfc3339
from marketdata.errors import BadEvent
from marketdata.events import Instrument, Trade
from producers.venues.alpaca.conditions import exclusions
from producers.venues.kit.values import Number, in_range, iso_ns, number

_DAY_BEGINS_NS = 6 * 3_600 * SECOND_NS
_DAY_NS = 86_400 * SECOND_NS

_NAME = re.compile(r"[A-Z][A-Z0-9]{0,9}(?:\.[A-Z0-9]{1,5})?", re.ASCII)
_TIMESTAMP = -1  # msgpack's own extension type of times

Time = str | Ext


class Success(msgspec.Struct, tag_field="T", tag="success"):
    """A step of the login is done: `connected` or `authenticated`."""

    msg: str


class Error(msgspec.Struct, tag_field="T", tag="error"):
    """A refusal, by its code ("WebSocket Stream", section "Errors")."""

    code: int
    msg: str = ""


class Subscription(msgspec.Struct, tag_field="T", tag="subscription"):
    """Every subscription of the connection that there is."""

    trades: list[str] | None = None
    quotes: list[str] | None = None
    statuses: list[str] | None = None


class TradeSent(msgspec.Struct, tag_field="T", tag="t", gc=False):
    """A trade: id, exchange, price, size, conditions and tape."""

    S: str
    i: int
    x: str
    p: Any
    s: Any
    t: Time
    c: tuple[str, ...] | None = None
    z: str = ""


class QuoteSent(msgspec.Struct, tag_field="T", tag="q", gc=False):
    """The best bid and offer; a side that nobody quotes has the price 0."""

    S: str
    t: Time
    bp: Any = 0
    bs: Any = 0
    ap: Any = 0
    as_: Any = msgspec.field(default=0, name="as")


class BarSent(msgspec.Struct, tag_field="T", tag="b", gc=False):
    """A minute bar, labelled by its start."""

    S: str
    o: Any
    h: Any
    l: Any  # noqa: E741 - the venue's name
    c: Any
    v: Any
    t: Time
    n: Number | None = None
    vw: Any = 0


class UpdatedBarSent(BarSent, tag="u", gc=False):
    """A minute bar again, with trades that came late."""


class StatusSent(msgspec.Struct, tag_field="T", tag="s", gc=False):
    """A trading status: its code and message, those of the reason, and the tape."""

    S: str
    sc: str
    t: Time
    z: str
    sm: str = ""
    rc: str = ""
    rm: str = ""


class CorrectionSent(msgspec.Struct, tag_field="T", tag="c", gc=False):
    """A trade that replaces another: the original id, and the corrected id, price, size and conditions."""

    S: str
    x: str
    oi: int
    ci: int
    cp: Any
    cs: Any
    t: Time
    cc: tuple[str, ...] | None = None
    z: str = ""


class CancelSent(msgspec.Struct, tag_field="T", tag="x", gc=False):
    """A trade that is taken back."""

    S: str
    i: int
    x: str
    p: Any
    s: Any
    t: Time


Execution = TradeSent | CorrectionSent | CancelSent
Control = Success | Error | Subscription
Message = Control | Execution | QuoteSent | BarSent | UpdatedBarSent | StatusSent
EXECUTIONS = (TradeSent, CorrectionSent, CancelSent)
CONTROL = (Success, Error, Subscription)


class _Named(msgspec.Struct):
    """What can still be read of a message that cannot: its type and symbol."""

    T: str = ""
    S: Any = ""


class Json:
    """Messages as JSON text."""

    all = msgspec.json.Decoder(list[Message], float_hook=str)
    each = msgspec.json.Decoder(list[msgspec.Raw])
    one = msgspec.json.Decoder(Message, float_hook=str)
    named = msgspec.json.Decoder(_Named)
    encode = staticmethod(msgspec.json.encode)


class Msgpack:
    """Messages as msgpack."""

    all = msgspec.msgpack.Decoder(list[Message])
    each = msgspec.msgpack.Decoder(list[msgspec.Raw])
    one = msgspec.msgpack.Decoder(Message)
    named = msgspec.msgpack.Decoder(_Named)
    encode = staticmethod(msgspec.msgpack.encode)


Encoding = type[Json | Msgpack]


def encoding_of(frame: bytes) -> Encoding:
    """Return the encoding of a frame, which is an array in both: msgpack's begin above every letter."""
    return Msgpack if frame[:1] >= b"\x80" else Json


# Types of messages: those that are read, those of channels that were not subscribed, those that are no trades.
KINDS = frozenset({"t", "q", "b", "u", "s", "c", "x", "success", "error", "subscription"})
OTHERS = frozenset({"d", "l", "i", "o", "n"})
WITHOUT_TRADES = KINDS - {"t", "c", "x"}


def time_of(sent: Time) -> int:
    """Return UTC nanoseconds of a time: RFC 3339 text, or msgpack's timestamp in any of its three lengths."""
    if isinstance(sent, str):
        return iso_ns(sent, "t")
    data = bytes(sent.data)
    if sent.code != _TIMESTAMP or len(data) not in {4, 8, 12}:
        raise BadEvent("bad_time", "t", data.hex())
    if len(data) == 4:
        return int.from_bytes(data, "big") * SECOND_NS
    if len(data) == 8:
        both = int.from_bytes(data, "big")
        nanoseconds, seconds = both >> 34, both & ((1 << 34) - 1)
    else:
        nanoseconds, seconds = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big", signed=True)
    if nanoseconds >= SECOND_NS:
        raise BadEvent("bad_time", "t", data.hex())
    return in_range(seconds * SECOND_NS + nanoseconds, data.hex(), "t")


def trade_id_of(ts: int, exchange: str, number_: int) -> str:
    """Return a trade's id: unlike the venue's, it is never another trade's of the same symbol."""
    if len(exchange) != 1 or not exchange.isascii() or not exchange.isalnum() or number_ < 0:
        raise BadEvent("bad_trade_id", "i", f"{exchange[:10]} {number_}")
    return f"{_day((ts - _DAY_BEGINS_NS) // _DAY_NS)}-{exchange}-{number_}"


@lru_cache(maxsize=64)
def _day(number_: int) -> str:
    """Return the date of a day since 1970, as eight digits."""
    return format_rfc3339(max(0, number_) * _DAY_NS)[:10].replace("-", "")


def read_execution(sent: Execution, ts: int) -> Trade:
    """Return a trade, or what amends one, at `ts` (UTC nanoseconds). Raises BadEvent."""
    if isinstance(sent, CorrectionSent):
        return Trade(
            trade_id=trade_id_of(ts, sent.x, sent.ci), ts_event=ts, price=number(sent.cp, "cp"),
            size=number(sent.cs, "cs"), side="unknown", action="correct", original_id=trade_id_of(ts, sent.x, sent.oi),
            conditions=sent.cc or (), excluded_from=exclusions(sent.cc or (), sent.z, ts),
        )  # fmt: skip
    trade_id, price, size = trade_id_of(ts, sent.x, sent.i), number(sent.p, "p"), number(sent.s, "s")
    if isinstance(sent, CancelSent):
        return Trade(trade_id=trade_id, ts_event=ts, price=price, size=size, side="unknown", action="cancel")
    return Trade(trade_id=trade_id, ts_event=ts, price=price, size=size, side="unknown",
                 conditions=sent.c or (), excluded_from=exclusions(sent.c or (), sent.z, ts))  # fmt: skip


def describe(name: str) -> Instrument:
    """Return the instrument of a stock's symbol. Raises BadEvent."""
    if _NAME.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "S", name[:200])
    return Instrument(venue="alpaca", symbol=name, ts_recv=0, venue_symbol=name, base_currency=name,
                      quote_currency="USD", kind="equity")  # fmt: skip
