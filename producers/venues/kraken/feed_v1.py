"""Kraken's WebSocket API v1, as older recordings contain it: frames in, events out. Live lines use v2 (`feed`).

1. Frames are arrays of [channel number, one or two parts, channel, pair], or objects with `event`; a connection starts
   with `systemStatus`. Names are XBT and XDG where v2 writes BTC and DOGE, and values are strings.
2. A book's snapshot has `as` and `bs`, a change `a`, `b` or both, in one part for each side; the last part has the
   checksum `c` of the book after the change. Snapshots have none. The channel's name has the depth (`book-1000`).
3. Trades have neither ids nor a snapshot: an id is made of time, price, volume, side and, for equal trades of one
   message, an ordinal; what a lost connection hid stays on the ledger. `side` is the taker's ("Trade": triggering order
   side), so it is the aggressor's as it stands.
4. Everything else is as in v2.

Sources, below https://docs.kraken.com/exchange/api-reference/spot-websocket-v1/: "Book" (book), "Trade" (trade),
"Ticker" (ticker), "Spread" (spread).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter
from typing import Any, Literal

import msgspec

from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from marketdata.events import Trade
from marketdata.feed import Output, Send
from producers.venues.kit import quotes, trades
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product
from producers.venues.kit.trade_ids import Recent
from producers.venues.kit.values import UNREADABLE, Columns, Text, check_decimals, check_trade, price, seconds_ns
from producers.venues.kit.venue import Signer
from producers.venues.kraken.book import DEPTHS
from producers.venues.kraken.feed import UNUSED_CHANNELS, KrakenFeed
from producers.venues.kraken.names import legacy

_BOOK, _TRADES, _TICKER, _SPREAD = "book", "trade", "ticker", "spread"
_CHECKSUM_DIGITS_MAX = 10

# --- What the venue sends ---


class _Level(msgspec.Struct, array_like=True, gc=False):
    price: Text
    volume: Text
    time: Text
    kind: str = ""


class _Change(msgspec.Struct):
    asks: list[_Level] = msgspec.field(name="a", default_factory=list)
    bids: list[_Level] = msgspec.field(name="b", default_factory=list)
    all_asks: list[_Level] | None = msgspec.field(name="as", default=None)
    all_bids: list[_Level] | None = msgspec.field(name="bs", default=None)
    checksum: str | None = msgspec.field(name="c", default=None)


class _Trade(msgspec.Struct, array_like=True):
    price: Text
    volume: Text
    time: Text
    side: Literal["b", "s"]


class _Ticker(msgspec.Struct):
    """`a` and `b` are [price, whole lots, lots]; `c` [last price, lots]; the others [today, last 24 hours]."""

    a: tuple[Text, Any, Text]
    b: tuple[Text, Any, Text]
    c: tuple[Text, Text]
    v: tuple[Text, Text]
    l: tuple[Text, Text]  # noqa: E741 - the venue's name
    h: tuple[Text, Text]


class _Spread(msgspec.Struct, array_like=True):
    bid: Text
    ask: Text
    time: Text
    bid_volume: Text | None = None
    ask_volume: Text | None = None


class _Event(msgspec.Struct):
    event: str
    status: str = ""
    pair: str = ""
    channel: str = msgspec.field(name="channelName", default="")
    message: str = msgspec.field(name="errorMessage", default="")


_BOOK_FRAME = msgspec.json.Decoder(tuple[int, _Change, str, str])
_PARTS = msgspec.json.Decoder(list[msgspec.Raw])
_CHANGE = msgspec.json.Decoder(_Change)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_TRADE = msgspec.json.Decoder(_Trade)
_TICKER_PART = msgspec.json.Decoder(_Ticker)
_SPREAD_PART = msgspec.json.Decoder(_Spread)
_TEXT = msgspec.json.Decoder(str)
_EVENT = msgspec.json.Decoder(_Event)


class KrakenV1Feed(KrakenFeed):
    """One connection of Kraken spot that uses v1; what it counts is what `KrakenFeed` counts."""

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        self._traded: dict[str, Recent] = {}
        super().__init__(line=line, products=products, token=token)

    @staticmethod
    def named(name: str) -> str:
        """Return a pair's name as this version of the API writes it."""
        return legacy(name)

    # --- The connection ---

    def _introduce(self, call: Call) -> Iterable[Output]:
        del call
        return ()

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterable[Output]:
        del call
        if channel == _BOOK:
            return [_order(verb, those, {"name": channel, "depth": depth})
                    for depth, those in self._by_depth(names).items()]  # fmt: skip
        return [_order(verb, list(names), {"name": channel})]

    def _again(self, call: Call, channel: str, names: Collection[str]) -> Iterable[Output]:
        return () if channel == _TRADES else super()._again(call, channel, names)

    def _recover_trades(self, call: Call, product: Product) -> None:
        """Do nothing: trades have no snapshot, see `_resume_trades`."""

    def _lose(
        self, call: Call, products: Iterable[Product], channels: Collection[str], reason: str, detail: str,
        *, expected: int | None = None, received: int | None = None,
    ) -> None:  # fmt: skip
        touched = tuple(products)
        if _TRADES in channels:
            channels = set(channels) - {_TRADES}
            for product in touched:
                if product.ts_trades_whole is not None:
                    self._lose_trades(call, product)
        super()._lose(call, touched, channels, reason, detail, expected=expected, received=received)

    def _lose_trades(self, call: Call, product: Product) -> None:
        """Trades without ids may be missing. Only a backfill can show that: the gap stays open, candles are invalid."""
        self._ledger.lose_trades(call, product, detail="v1 has no trade ids")
        trades.missing(call, product)

    # --- Frames ---

    def _read(self, call: Call) -> None:
        if not call.payload.startswith(b"["):
            self._read_event(call, _EVENT.decode(call.payload))
            return
        if b'"book' in call.payload[-64:]:
            try:
                _, change, channel, pair = _BOOK_FRAME.decode(call.payload)
            except UNREADABLE:
                pass  # what follows shows what is wrong with it, or that it has one part for each side
            else:
                self._read_book(call, channel, pair, change)
                return
        self._read_parts(call, *_split(call.payload))

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        if payload.startswith(b"{"):
            try:
                _EVENT.decode(payload)
            except UNREADABLE:
                return None, (_BOOK, _TRADES)
            return (), ()
        try:
            channel, pair, _ = _split(payload)
        except (BadEvent, *UNREADABLE):
            return None, (_BOOK, _TRADES)
        kind = channel.partition("-")[0]
        if kind in {_TICKER, _SPREAD} | UNUSED_CHANNELS:
            return (), ()
        channels = (kind,) if kind in {_BOOK, _TRADES} else (_BOOK, _TRADES)
        return ((pair,) if pair in self._products else None), channels

    def _read_parts(self, call: Call, channel: str, pair: str, parts: list[msgspec.Raw]) -> None:
        kind = channel.partition("-")[0]
        if kind == _BOOK:
            self._read_book(call, channel, pair, _merged([_CHANGE.decode(part) for part in parts]))
        elif kind == _TRADES:
            self._read_pair_trades(call, pair, _ITEMS.decode(parts[0]))
        elif kind in {_TICKER, _SPREAD}:
            product = self._products.find(call, pair)
            if product is not None:
                (_ticker if kind == _TICKER else _spread)(call, product, parts[0])
        elif kind in UNUSED_CHANNELS:
            self.counts["ignored"] += 1
        else:
            call.dead("unknown_channel", f"no channel {channel[:100]!r} is known", field="channel", value=channel[:200])

    def _read_event(self, call: Call, sent: _Event) -> None:
        if sent.event == "heartbeat":
            self._heartbeat(call)
        elif sent.event == "systemStatus":
            self._system_is(call, sent.status)
        elif sent.status == "error" or sent.event == "error":
            call.dead("venue_error", sent.message, field="message", value=sent.message[:200])
        elif sent.event == "subscriptionStatus" and sent.pair:
            kind = sent.channel.partition("-")[0]
            self._subscribed(call, kind, sent.pair, _depth(sent.channel))
            product = self._products.get(sent.pair)
            if kind == _TRADES and product is not None:
                self._resume_trades(call, product)
        else:
            self.counts["ignored"] += 1

    # --- Books ---

    def _read_book(self, call: Call, channel: str, pair: str, change: _Change) -> None:
        snapshot = change.all_asks is not None or change.all_bids is not None
        bids = change.all_bids or [] if snapshot else change.bids
        asks = change.all_asks or [] if snapshot else change.asks
        product = self._products.find(call, pair)
        if product is None:
            return
        columns = _columns(bids, asks)
        ts = _last_time(bids or asks, bids and asks, call.now)
        checksum = None if change.checksum is None else _checksum(change.checksum)
        if self._came_before(call, (pair,), snapshot=snapshot):
            return
        if snapshot:
            self._depths[pair] = _depth(channel)
            self._begun[pair] += 1
        self._advance(call, ts)
        self._take_book(call, product, ts, columns, checksum, snapshot=snapshot)

    # --- Trades ---

    def _read_pair_trades(self, call: Call, pair: str, sent: list[msgspec.Raw]) -> None:
        product = self._products.find(call, pair)
        if product is None:
            return
        seen = self._traded.setdefault(pair, Recent())
        alike: dict[str, int] = {}
        batch: list[Trade] = []

        def take(raw: msgspec.Raw) -> None:
            trade = _read_trade(raw, alike)
            call.venue_time(trade.ts_event, "time")
            if seen.is_new(trade.trade_id):
                batch.append(trade)
            else:
                self.counts["duplicates"] += 1

        whole = call.each(sent, take)
        self._resume_trades(call, product)
        if batch:
            batch.sort(key=attrgetter("ts_event"))
            self._advance(call, batch[-1].ts_event)
            trades.send(call, product, batch)
        if not whole:
            self._lose_trades(call, product)

    def _resume_trades(self, call: Call, product: Product) -> None:
        """Trades come again after a lost connection: nobody knows which happened meanwhile."""
        if self._ledger.is_pending(product, _TRADES):
            self._lose_trades(call, product)
            self._ledger.account(call, product, _TRADES, call.now)


# --- Reading and writing values ---


def _split(frame: bytes) -> tuple[str, str, list[msgspec.Raw]]:
    """Return channel, pair and parts of an array. Raises BadEvent, or what msgspec raises."""
    parts = _PARTS.decode(frame)
    if len(parts) < 4:
        raise BadEvent("bad_frame", "frame", f"{len(parts)} parts")
    return _TEXT.decode(parts[-2]), _TEXT.decode(parts[-1]), parts[1:-2]


def _columns(bids: list[_Level], asks: list[_Level]) -> Columns:
    # As a rule a change has one side only.
    bid_prices = [level.price for level in bids] if bids else []
    bid_sizes = [level.volume for level in bids] if bids else []
    ask_prices = [level.price for level in asks] if asks else []
    ask_sizes = [level.volume for level in asks] if asks else []
    check_decimals(bid_prices + bid_sizes + ask_prices + ask_sizes, "level")
    return bid_prices, bid_sizes, ask_prices, ask_sizes


def _merged(changes: list[_Change]) -> _Change:
    """Return the parts of one message as one: one part has the asks, the next the bids and the checksum."""
    merged = _Change()
    for change in changes:
        merged.asks += change.asks
        merged.bids += change.bids
        if change.all_asks is not None:
            merged.all_asks = change.all_asks
        if change.all_bids is not None:
            merged.all_bids = change.all_bids
        merged.checksum = change.checksum if merged.checksum is None else merged.checksum
    return merged


def _read_trade(raw: msgspec.Raw, alike: dict[str, int]) -> Trade:
    """Return a trade with an id made of what it is; `alike` counts equal ones of one message. Raises BadEvent."""
    sent = _TRADE.decode(raw)
    check_trade(sent.price, sent.volume, ("price", "volume"))
    trade_id = f"{sent.time}-{sent.price}-{sent.volume}-{sent.side}"
    ordinal = alike[trade_id] = alike.get(trade_id, -1) + 1
    return Trade(trade_id=f"{trade_id}-{ordinal}" if ordinal else trade_id, ts_event=_time(sent.time),
                 price=sent.price, size=sent.volume, side="buy" if sent.side == "b" else "sell")  # fmt: skip


def _ticker(call: Call, product: Product, raw: msgspec.Raw) -> None:
    sent = _TICKER_PART.decode(raw)
    quotes.send(
        call, product, call.now,
        bid=price(sent.b[0], "bid"), bid_size=_decimal(sent.b[2], "bid"),
        ask=price(sent.a[0], "ask"), ask_size=_decimal(sent.a[2], "ask"),
        last=price(sent.c[0], "last"), volume_24h=_decimal(sent.v[1], "volume"),
        high_24h=price(sent.h[1], "high"), low_24h=price(sent.l[1], "low"),
    )  # fmt: skip


def _spread(call: Call, product: Product, raw: msgspec.Raw) -> None:
    sent = _SPREAD_PART.decode(raw)
    quotes.send(
        call, product, _time(sent.time),
        bid=price(sent.bid, "bid"), bid_size=price(sent.bid_volume or "", "bid_volume"),
        ask=price(sent.ask, "ask"), ask_size=price(sent.ask_volume or "", "ask_volume"),
    )  # fmt: skip


def _decimal(text: str, field: str) -> str:
    decimal(text, field)
    return text


def _time(text: str) -> int:
    """Return UTC nanoseconds of `1618678142.557535`, the usual form, or of any other number of seconds."""
    digits = text.replace(".", "")
    if len(text) == 17 and len(digits) == 16 and text[10] == "." and digits.isdecimal():
        return int(digits) * 1000
    return seconds_ns(text, "time")


def _last_time(levels: list[_Level], more: list[_Level], default: int) -> int:
    """Return the latest time of a message's levels."""
    if len(levels) == 1 and not more:
        return _time(levels[0].time)
    return _time(max([level.time for level in levels + more])) if levels else default


def _checksum(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _CHECKSUM_DIGITS_MAX):
        raise BadEvent("bad_checksum", "c", text[:200])
    return int(text)


def _depth(channel: str) -> int:
    """Return the depth in a channel's name such as `book-1000`."""
    depth = channel.partition("-")[2]
    return int(depth) if depth.isascii() and depth.isdigit() and 0 < len(depth) <= 4 else DEPTHS[0]


def _order(verb: str, names: list[str], subscription: dict[str, Any]) -> Send:
    return Send(msgspec.json.encode({"event": verb, "pair": names, "subscription": subscription}))
