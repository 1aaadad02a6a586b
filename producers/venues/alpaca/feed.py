"""Alpaca's US equities stream v2: JSON or msgpack frames in, events out.

Theory of operation, with the source of each step. DOCS is Alpaca's "WebSocket Stream" and "Real-time Stock Data".

1. The venue greets with `connected`; then there are 10 s to log in (DOCS, "Authentication"). After `authenticated` the
   feed subscribes, trading statuses in a message of their own, since not every plan has them. It uses the encoding of
   the welcome message, detected from its first byte: JSON text or a msgpack array.
2. What is refused for good is not tried again: a wrong key (402), a plan without this source (409), too many symbols
   (405) or no such ones (400). What passes is: another session of the account (406), time (404), a slow line (407).
   A free plan has one connection, with 30 symbols of trades and quotes (DOCS, "Subscription plans"), so that more
   connections would not help. `subscription` lists every subscription there is: a product that it leaves out is on
   the ledger, invalid, and vouched for by nothing.
3. Nothing is numbered and nothing checks a frame: what a lost connection or an unreadable message takes away is told
   as a gap, which history fills. Silence is normal, so it is no sign of death: the socket is pinged instead.
4. Trade ids belong to an exchange and restart each day, so an id here is day-exchange-id. The day is New York's: the
   sessions lie between 04:00 and 20:00 there, so a day that begins at 06:00 UTC never cuts one. The venue does not tell
   the aggressor (DOCS, "Trades": no field has a side). A correction has the new id, and the old one beside it; a cancel
   has the id of what it takes back.
5. Bars of a minute are the venue's own candles; an updated one, with late trades, is the next revision (DOCS, "Bars").
6. Halts and resumptions without a connection are not repeated, so halts are forgotten with the connection.
   Status codes depend on the tape (DOCS, "Status Codes"): 2 and 3 halt and resume on A and B, H and P halt and T
   resumes on C and O. With Q only quotes resume, so it is an auction until T.
7. msgpack has prices as binary floats: the shortest decimal that is the same float is what the venue meant.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.msgpack import Ext

from marketdata.clock import MINUTE_NS, SECOND_NS, format_rfc3339
from marketdata.decimals import is_zero, plain
from marketdata.errors import BadEvent
from marketdata.events import ALL_SYMBOLS, DISCONNECTED, UNSUBSCRIBED, Candle, Instrument, Quote, Trade
from marketdata.feed import Fetch, Output, Reconnect, Refused, Send
from producers.venues.alpaca.conditions import exclusions
from producers.venues.kit import idle, quotes, trades
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.products import MATCHING, Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.trade_ids import Recent
from producers.venues.kit.values import UNREADABLE, Number, in_range, iso_ns, number, numbers
from producers.venues.kit.venue import Signer

LOGIN_NS = 10 * SECOND_NS
DAY_BEGINS_NS = 6 * 3_600 * SECOND_NS
DAY_NS = 86_400 * SECOND_NS
BARS_KEPT = 10
SYMBOLS_MAX = 15_000  # about 11,000 are listed in the US

_TRADES, _QUOTES, _STATUSES = "trades", "quotes", "statuses"
_MAIN = (_TRADES, _QUOTES, "bars", "updatedBars")

_NAME = re.compile(r"[A-Z][A-Z0-9]{0,9}(?:\.[A-Z0-9]{1,5})?", re.ASCII)
_TIMESTAMP = -1  # msgpack's own extension type of times
_CTA, _UTP = frozenset("AB"), frozenset("CO")
_STATES = {_CTA: {"2": "halted", "3": "online"}, _UTP: {"H": "halted", "P": "halted", "Q": "auction", "T": "online"}}
_OTHER_STATUSES = {_CTA: frozenset("56789ACDEF"), _UTP: frozenset[str]()}

# Errors by code: those that only other settings can end, with what to do, and those that may pass.
_FINAL = {
    400: ("invalid_syntax", "check ALPACA_PRODUCTS: Alpaca does not know how to read one of them"),
    402: ("auth_failed", "check APCA_API_KEY_ID and APCA_API_SECRET_KEY: Alpaca does not accept them"),
    405: ("symbol_limit", "take fewer ALPACA_PRODUCTS: a free plan has 30 symbols of trades and quotes on `iex`"),
    409: ("insufficient_subscription", "set ALPACA_MARKET=iex, or have the plan of this key changed"),
}
_PASSING = {
    401: "not_authenticated",
    404: "auth_timeout",
    406: "connection_limit",
    407: "slow_client",
    500: "internal_error",
}

# --- What the venue sends. Fields that are not used are not named; numbers are as they were written. ---

Time = str | Ext


class _Success(msgspec.Struct, tag_field="T", tag="success"):
    msg: str


class _Error(msgspec.Struct, tag_field="T", tag="error"):
    code: int
    msg: str = ""


class _Subscription(msgspec.Struct, tag_field="T", tag="subscription"):
    trades: list[str] | None = None
    quotes: list[str] | None = None


class _Trade(msgspec.Struct, tag_field="T", tag="t", gc=False):
    S: str
    i: int
    x: str
    p: Any
    s: Any
    t: Time
    c: tuple[str, ...] | None = None
    z: str = ""


class _Quote(msgspec.Struct, tag_field="T", tag="q", gc=False):
    S: str
    t: Time
    bp: Any = 0
    bs: Any = 0
    ap: Any = 0
    as_: Any = msgspec.field(default=0, name="as")


class _Bar(msgspec.Struct, tag_field="T", tag="b", gc=False):
    S: str
    o: Any
    h: Any
    l: Any  # noqa: E741 - the venue's name
    c: Any
    v: Any
    t: Time
    n: Number | None = None
    vw: Any = 0


class _UpdatedBar(_Bar, tag="u", gc=False):
    pass


class _Status(msgspec.Struct, tag_field="T", tag="s", gc=False):
    S: str
    sc: str
    t: Time
    z: str
    sm: str = ""
    rc: str = ""
    rm: str = ""


class _Correction(msgspec.Struct, tag_field="T", tag="c", gc=False):
    S: str
    x: str
    oi: int
    ci: int
    cp: Any
    cs: Any
    t: Time
    cc: tuple[str, ...] | None = None
    z: str = ""


class _Cancel(msgspec.Struct, tag_field="T", tag="x", gc=False):
    S: str
    i: int
    x: str
    p: Any
    s: Any
    t: Time


_Execution = _Trade | _Correction | _Cancel
_Message = _Success | _Error | _Subscription | _Trade | _Quote | _Bar | _UpdatedBar | _Status | _Correction | _Cancel
_EXECUTIONS = (_Trade, _Correction, _Cancel)
_CONTROL = (_Success, _Error, _Subscription)


class _Named(msgspec.Struct):
    """What can still be read of a message that cannot: its type and symbol."""

    T: str = ""
    S: Any = ""


class _Json:
    """Messages as JSON text."""

    all = msgspec.json.Decoder(list[_Message], float_hook=str)
    each = msgspec.json.Decoder(list[msgspec.Raw])
    one = msgspec.json.Decoder(_Message, float_hook=str)
    named = msgspec.json.Decoder(_Named)
    encode = staticmethod(msgspec.json.encode)


class _Msgpack:
    """Messages as msgpack."""

    all = msgspec.msgpack.Decoder(list[_Message])
    each = msgspec.msgpack.Decoder(list[msgspec.Raw])
    one = msgspec.msgpack.Decoder(_Message)
    named = msgspec.msgpack.Decoder(_Named)
    encode = staticmethod(msgspec.msgpack.encode)


def _encoding(frame: bytes) -> type[_Json | _Msgpack]:
    """Return the encoding of a frame, which is an array in both: msgpack's begin above every letter."""
    return _Msgpack if frame[:1] >= b"\x80" else _Json


class _Seen:
    """The memory of one symbol: published ids, the last quote, and the revisions of the last bars."""

    __slots__ = ("bars", "ids", "quote")

    def __init__(self) -> None:
        self.ids = Recent()
        self.quote: Quote | None = None
        self.bars: dict[int, int] = {}


class AlpacaFeed:
    """One line of Alpaca's stocks. `products` are tickers, or `*` for every one; None accepts what is seen.

    `counts` counts what happened since the feed was made: frames, trades, corrections, cancels, quotes, candles,
    statuses, gaps, duplicates, ignored, dead_letters.
    """

    venue = "alpaca"
    silence_ns = None  # a stream of few stocks may be silent for hours; the socket is pinged

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._wanted = None if products is None else tuple(dict.fromkeys(name.upper() for name in products))
        self._products = Listing(None if "*" in (self._wanted or ()) else self._wanted, describe, limit=SYMBOLS_MAX)
        self._token = token
        self._seen: dict[str, _Seen] = {}
        self._ledger = Ledger(book=_QUOTES, trades=_TRADES)
        self._codec: type[_Json | _Msgpack] = _Json
        self._until: int | None = None
        self._subscribed = False
        self._refused: set[tuple[str, str]] = set()  # channels of products that the venue does not send

    # --- The contract of marketdata.feed.Feed ---

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products to subscribe; None where only frames show them."""
        return None if "*" in (self._wanted or "*") else self._products.symbols(self._wanted or ())

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published."""
        call = self._call(ts)
        names = previous.symbols if "*" in (self._wanted or ()) else self._wanted or ()
        self._products.resume(call, self._ledger, previous, names, has_book=False)
        return call.out

    def opened(self, ts: int) -> list[Output]:
        """Wait for the greeting."""
        self._subscribed = False
        self._refused.clear()
        self._until = ts + LOGIN_NS if self._wanted and self._token is not None else None
        call = self._call(ts)
        call.status(ALL_SYMBOLS, "connected")
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        call = self._call(ts, frame)
        codec = _encoding(frame)
        try:
            messages: list[_Message] = codec.all.decode(frame)
        except UNREADABLE:
            self._one_by_one(call, codec)
        else:
            self._codec = codec
            self._take_all(call, messages)
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:  # noqa: ARG002 - nothing is asked for
        """Ignore an answer that nobody asked for."""
        self.counts["ignored"] += 1
        return []

    def ticked(self, ts: int) -> list[Output]:
        """Notice a login that does not get on; silence after it is normal."""
        if self._until is None or ts < self._until:
            return []
        self._until = None
        return [Reconnect("no_login")]

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        known = [product for product in self._products if (_TRADES, product.name) not in self._refused]
        return idle.time_passed(self._call(ts), known, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Tell that quotes are old from now on, and that trades will be missing."""
        self._until = None
        self._subscribed = False
        call = self._call(ts)
        call.status(ALL_SYMBOLS, "disconnected", reason=reason)
        for product in self._products:
            channels = {_QUOTES} if self._seen_of(product).quote is not None else set()
            channels |= {_TRADES} if product.ts_trade is not None else set()
            self._old_quote(call, product)
            self._ledger.lose(call, product, DISCONNECTED, channels)
        return call.out

    # --- Frames ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, None, payload)

    def _seen_of(self, product: Product) -> _Seen:
        seen = self._seen.get(product.name)
        if seen is None:
            seen = self._seen[product.name] = _Seen()
        return seen

    def _one_by_one(self, call: Call, codec: type[_Json | _Msgpack]) -> None:
        """Take what can be read of a frame that cannot be read whole: one bad message does not cost its neighbours."""
        try:
            raws = codec.each.decode(call.payload)
        except UNREADABLE as error:
            call.dead("malformed_json" if codec is _Json else "malformed_msgpack", str(error))
            self._trades_lost(call, self._products.names(), "bad_frame")
            return
        self._codec = codec
        frame, good = call.payload, []
        for raw in raws:
            try:
                good.append(codec.one.decode(raw))
            except UNREADABLE as error:
                self._bad_message(call, codec, bytes(raw), error)
        call.payload = frame
        self._take_all(call, good)

    def _bad_message(self, call: Call, codec: type[_Json | _Msgpack], raw: bytes, error: Exception) -> None:
        call.payload = raw
        kind, name = "", ""
        try:
            named = codec.named.decode(raw)
            kind, name = named.T, named.S if isinstance(named.S, str) else ""
        except UNREADABLE:
            pass
        if kind in _OTHERS:
            self.counts["ignored"] += 1
            return
        call.dead("bad_frame" if kind in _KINDS else "unknown_frame", str(error))
        if kind not in _NO_TRADES:
            self._trades_lost(call, (name,) if name in self._products else self._products.names(), "bad_frame")

    def _take_all(self, call: Call, messages: list[_Message]) -> None:
        """Take messages in order; neighbouring trades of one symbol are one event."""
        batch: list[tuple[Product, Trade]] = []
        for message in messages:
            try:
                if isinstance(message, _CONTROL):
                    self._control(call, message)
                    continue
                product = self._products.find(call, message.S)
                if product is None:
                    continue
                call.now = self.ts_venue = call.venue_time(_time(message.t), "t")
                if isinstance(message, _EXECUTIONS):
                    trade = _read_execution(message, call.now)
                    trades.check(product.instrument, trade)
                    if batch and batch[-1][0] is not product:
                        self._tell(call, batch)
                        batch = []
                    batch.append((product, trade))
                    continue
                self._tell(call, batch)
                batch = []
                self._other(call, product, message)
            except BadEvent as error:
                self._tell(call, batch)
                batch = []
                call.dead_value(error)
                if isinstance(message, _EXECUTIONS) and message.S in self._products:
                    self._trades_lost(call, (message.S,), "bad_trade")
        self._tell(call, batch)

    def _other(self, call: Call, product: Product, message: _Quote | _Bar | _UpdatedBar | _Status) -> None:
        if isinstance(message, _Quote):
            self._quote(call, product, message)
        elif isinstance(message, _Status):
            self._status(call, product, message)
        else:
            self._bar(call, product, message)

    # --- Logging in and subscribing ---

    def _control(self, call: Call, message: _Success | _Error | _Subscription) -> None:
        if isinstance(message, _Error):
            self._error(call, message)
        elif isinstance(message, _Subscription):
            self._acknowledged(call, message)
        elif message.msg == "connected" and self._wanted and self._token is not None:
            login = {"action": "auth", **msgspec.json.decode(self._token(call.ts))}
            call.out.append(Send(self._codec.encode(login)))
        elif message.msg == "authenticated" and self._wanted:
            names = ["*"] if "*" in self._wanted else list(self._wanted)
            call.out.append(Send(self._codec.encode({"action": "subscribe", **dict.fromkeys(_MAIN, names)})))
            call.out.append(Send(self._codec.encode({"action": "subscribe", _STATUSES: names})))

    def _acknowledged(self, call: Call, message: _Subscription) -> None:
        """The stream is whole from now on; what was traded between two connections is still missing.

        Each message has every subscription that there is (DOCS, "Subscribe"): what was asked for and is not in it was
        refused, and is vouched for by nothing.
        """
        if not self._subscribed and not message.trades:
            return
        if not self._subscribed:
            self._begin(call)
        self._check(call, _TRADES, message.trades)
        self._check(call, _QUOTES, message.quotes)

    def _begin(self, call: Call) -> None:
        """Account for the trades that were missed, and forget halts."""
        self._subscribed = True
        self._until = None
        for product in self._products:
            if product.instrument.status not in MATCHING:
                detail = "it was halted before the connection was lost"
                self._products.learn(call, product, detail=detail, status="unknown")
            if self._ledger.is_pending(product, _TRADES):
                self._ledger.account(call, product, _TRADES, call.now)
                trades.missing(call, product)
                self._ledger.lose_trades(call, product, "between two connections")

    def _check(self, call: Call, channel: str, sent: Collection[str] | None) -> None:
        """State which products a channel does not have, and which it has again."""
        wanted = self._wanted if sent is not None and "*" not in (self._wanted or ()) else None
        for name in wanted or ():
            is_refused, was_refused = name not in (sent or ()), (channel, name) in self._refused
            product = self._products.find(call, name) if is_refused != was_refused else None
            if product is None:
                continue
            if not is_refused:
                self._refused.discard((channel, name))
                call.status(product.symbol, "subscribed", channel=channel)
                continue
            self._refused.add((channel, name))
            detail = "not among the venue's subscriptions"
            call.status(product.symbol, "unsubscribed", reason="refused", channel=channel, detail=detail)
            self._ledger.lose(call, product, UNSUBSCRIBED, {channel}, detail=detail, channel=channel)
            if channel == _TRADES:
                trades.interrupted(call, product)
            else:
                self._old_quote(call, product)

    def _error(self, call: Call, error: _Error) -> None:
        """Give up, try again, or go on: as the code says, and whether anything was had before."""
        call.dead("venue_error", error.msg, field="code", value=str(error.code))
        if error.code in _FINAL and not self._subscribed:
            self._until = None
            call.out.append(Refused(*_FINAL[error.code]))
        elif error.code in _PASSING:
            self._until = None
            call.out.append(Reconnect(_PASSING[error.code]))
        else:  # the last request was refused: that of the statuses, unless the venue goes on to say which are there
            detail = f"{error.code} {error.msg}"
            call.status(ALL_SYMBOLS, "unsubscribed", reason="refused", channel=_STATUSES, detail=detail)

    # --- Trades ---

    def _tell(self, call: Call, batch: list[tuple[Product, Trade]]) -> None:
        """Publish the trades and amendments of one symbol that are new."""
        if not batch:
            return
        product = batch[0][0]
        ids = self._seen_of(product).ids
        fresh = [trade for _, trade in batch if ids.is_new(f"{trade.action}{trade.trade_id}")]
        self.counts["duplicates"] += len(batch) - len(fresh)
        for trade in fresh:
            if trade.action != "new":
                self.counts["corrections" if trade.action == "correct" else "cancels"] += 1
        if fresh:
            trades.send(call, product, fresh)

    def _trades_lost(self, call: Call, names: Collection[str], detail: str) -> None:
        """Trades may be missing that nothing will show: the gap stays open until history fills it."""
        for name in names:
            product = self._products[name]
            if product.ts_trade is not None and not self._ledger.is_pending(product, _TRADES):
                self.counts["gaps"] += 1
                trades.missing(call, product)
                self._ledger.lose_trades(call, product, detail)

    # --- Quotes, bars, statuses ---

    def _quote(self, call: Call, product: Product, sent: _Quote) -> None:
        bid, bid_size, ask, ask_size = numbers([sent.bp, sent.bs, sent.ap, sent.as_], "bp, bs, ap or as")
        for field, text in (("bp", bid), ("bs", bid_size), ("ap", ask), ("as", ask_size)):
            if text.startswith("-"):
                raise BadEvent("negative", field, text)
        # A side that nobody quotes has the price 0.
        quotes.send(call, product, call.now, bid=None if is_zero(bid) else bid, bid_size=bid_size,
                    ask=None if is_zero(ask) else ask, ask_size=ask_size)  # fmt: skip
        told = call.out[-1]
        if isinstance(told, Quote):
            self._seen_of(product).quote = told
        self._ledger.account(call, product, _QUOTES, call.now)

    def _old_quote(self, call: Call, product: Product) -> None:
        """Tell in the stream of quotes itself that the last one may not be trusted any more."""
        seen = self._seen_of(product)
        if seen.quote is not None and seen.quote.reason != DISCONNECTED:
            seen.quote = msgspec.structs.replace(seen.quote, ts_recv=call.ts, valid=False, reason=DISCONNECTED)
            call.out.append(seen.quote)

    def _bar(self, call: Call, product: Product, sent: _Bar | _UpdatedBar) -> None:
        start = call.now
        call.now = self.ts_venue = start + MINUTE_NS
        if start % MINUTE_NS:
            raise BadEvent("bad_time", "t", format_rfc3339(start))
        names = ("o", "h", "l", "c", "v", "vw")
        texts = {name: number(getattr(sent, name), name) for name in names}
        values = {name: Decimal(text) for name, text in texts.items()}
        if not 0 < values["l"] <= min(values["o"], values["c"]) <= max(values["o"], values["c"]) <= values["h"]:
            raise BadEvent("not_a_candle", "h", texts["h"])
        for name in ("v", "vw"):
            if values[name] < 0:
                raise BadEvent("negative", name, texts[name])
        bars = self._seen_of(product).bars
        bars[start] = revision = bars.get(start, -1) + 1 if isinstance(sent, _UpdatedBar) else bars.get(start, 0)
        while len(bars) > BARS_KEPT:
            del bars[next(iter(bars))]
        self.counts["candles"] += 1
        call.out.append(
            Candle(
                venue=self.venue, symbol=product.symbol, interval="1m", start=start, end=start + MINUTE_NS,
                ts_event=start + MINUTE_NS, ts_recv=call.ts, open=texts["o"], high=texts["h"], low=texts["l"],
                close=texts["c"], volume=texts["v"], quote_volume=plain(values["v"] * values["vw"]), trades=sent.n,
                state="revised" if revision else "final", revision=revision, **product.validity,
            )
        )  # fmt: skip

    def _status(self, call: Call, product: Product, sent: _Status) -> None:
        tape = next((tape for tape in _STATES if sent.z in tape and sent.z), None)
        if tape is None:
            raise BadEvent("unknown_tape", "z", sent.z[:200])
        state = _STATES[tape].get(sent.sc)
        if state is None and sent.sc not in _OTHER_STATUSES[tape]:
            raise BadEvent("unknown_status", "sc", sent.sc[:200])
        self.counts["statuses"] += 1
        if state is not None:
            detail = f"{sent.sc} {sent.sm}; {sent.rc} {sent.rm}".strip("; ")[:1000]
            self._products.learn(call, product, detail=detail, status=state)


# --- Reading values ---

# Types of messages: those that are read, those of channels that were not subscribed, those that are no trades.
_KINDS = frozenset({"t", "q", "b", "u", "s", "c", "x", "success", "error", "subscription"})
_OTHERS = frozenset({"d", "l", "i", "o", "n"})
_NO_TRADES = _KINDS - {"t", "c", "x"}


def _time(sent: Time) -> int:
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
    return f"{_day((ts - DAY_BEGINS_NS) // DAY_NS)}-{exchange}-{number_}"


@lru_cache(maxsize=64)
def _day(number_: int) -> str:
    """Return the date of a day since 1970, as eight digits."""
    return format_rfc3339(max(0, number_) * DAY_NS)[:10].replace("-", "")


def _read_execution(sent: _Execution, ts: int) -> Trade:
    if isinstance(sent, _Correction):
        return Trade(
            trade_id=trade_id_of(ts, sent.x, sent.ci), ts_event=ts, price=number(sent.cp, "cp"),
            size=number(sent.cs, "cs"), side="unknown", action="correct", original_id=trade_id_of(ts, sent.x, sent.oi),
            conditions=sent.cc or (), excluded_from=exclusions(sent.cc or (), sent.z, ts),
        )  # fmt: skip
    trade_id, price, size = trade_id_of(ts, sent.x, sent.i), number(sent.p, "p"), number(sent.s, "s")
    if isinstance(sent, _Cancel):
        return Trade(trade_id=trade_id, ts_event=ts, price=price, size=size, side="unknown", action="cancel")
    return Trade(trade_id=trade_id, ts_event=ts, price=price, size=size, side="unknown",
                 conditions=sent.c or (), excluded_from=exclusions(sent.c or (), sent.z, ts))  # fmt: skip


def describe(name: str) -> Instrument:
    """Return the instrument of a stock's symbol. Raises BadEvent."""
    if _NAME.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "S", name[:200])
    return Instrument(venue=AlpacaFeed.venue, symbol=name, ts_recv=0, venue_symbol=name, base_currency=name,
                      quote_currency="USD", kind="equity")  # fmt: skip


STREAMS = "wss://stream.data.alpaca.markets/v2"
