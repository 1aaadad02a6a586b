"""Coinbase Advanced Trade: market data frames in, events out.

Theory of operation, with the source of each step. DOCS is Coinbase's "Advanced Trade WebSocket Overview", "WebSocket
Channels" and "WebSocket Rate Limits"; RULES is the project's own list of venue rules, checked on a recording.

1. Subscribe within 5 s of connecting, one message per channel, each with its own token when a key is set; a token
   lives for two minutes (DOCS). Channels: heartbeats, level2, market_trades, ticker, status. All are public.
2. `sequence_num` rises by one per frame over all channels of a connection (RULES; DOCS do not state the scope). A
   connection whose first number is not 0 may have lost its first snapshots: ask for them again. A lower or equal
   number is old: drop it. A run of old numbers that itself counts up means that the venue reset the sequence: treat
   it as a loss.
3. A number that was skipped means that a frame is lost, and it may have been any symbol's: every book is cleared and
   every symbol gets a gap on the ledger; then level2 and market_trades are unsubscribed and subscribed again, which
   brings a fresh book snapshot and the last 100 or so trades. The third loss within a minute reconnects instead, since
   a snapshot costs up to 5 MB.
4. Channel `l2_data`: an event `snapshot` replaces the book, `update` sets absolute quantities, 0 removes the level;
   sides are `bid` and `offer` (DOCS). Updates before the snapshot are ignored. An event that cannot be read means that
   the book missed a change: clear it and ask again, for that symbol alone.
5. Channel `market_trades`: batches of 250 ms, newest first; `side` is the maker's (DOCS), so the aggressor is the
   opposite. Trade ids rise by one per product (RULES): a skipped id is a gap of that symbol's trades. The trade
   snapshot that follows a new subscription fills it, or proves that the venue has no such trade. One that does not
   reach back far enough is followed by REST's list of trades, which is longer.
6. Heartbeats come every second (DOCS). Five seconds without any frame mean a dead connection: books are stale,
   reconnect. A heartbeat vouches for what happened up to 250 ms earlier: trades wait that long for their batch (DOCS)
   and book changes were 12 to 120 ms old when sent (RULES). While trades may be missing it vouches for no trades.
7. Channel `status` and REST `products` contain each product's state; while no orders match, events are `halted`.

A gap is closed (`resynced`) when everything that it may have touched is accounted for: the book by a snapshot, the
trades by a trade snapshot or by the very next trade id. Trades that stay missing get a gap of their own, open until a
later trade snapshot or a backfill covers it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection
from operator import itemgetter
from typing import Any, ClassVar, Literal

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.kit import books, idle, numbered_trades, quotes, trades
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing, learn_each
from producers.venues.kit.liveness import Liveness
from producers.venues.kit.numbered_trades import Numbered
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.repairs import Repairs
from producers.venues.kit.sequence import Sequence
from producers.venues.kit.values import (
    UNREADABLE,
    Columns,
    Number,
    Text,
    check_decimals,
    check_trade,
    given,
    iso_ns,
    price,
)
from producers.venues.kit.venue import Signer

CHANNELS = ("heartbeats", "level2", "market_trades", "ticker", "status")
PRODUCTS_PATH = "api/v3/brokerage/market/products"

# Channels that Coinbase has and this feed has no use for; a frame of theirs only counts in the sequence.
_UNUSED_CHANNELS = frozenset({"candles", "ticker_batch", "user", "futures_balance_summary"})

SILENCE_NS = 5 * SECOND_NS  # five heartbeats missed
VOUCH_NS = SECOND_NS // 4
LISTED_MAX = 1_000  # trades in one answer of REST
TOKEN_PAUSE_NS = 600 * SECOND_NS  # how long to go on without a token that was refused; the channels are public
_PRODUCT_ID = re.compile(r"[A-Z0-9][A-Z0-9.]{0,19}(-[A-Z0-9.]{1,20}){1,3}", re.ASCII)

_BOOK = "level2"
_TRADES = "market_trades"

_STATES = {
    "online": "online",
    "offline": "halted",
    "halted": "halted",
    "trading_disabled": "halted",
    "internal": "halted",
    "cancel_only": "cancel_only",
    "post_only": "post_only",
    "limit_only": "limit_only",
    "auction": "auction",
    "auction_mode": "auction",
    "delisted": "delisted",
}

# --- What the venue sends. Fields that are not used are not named, and are skipped without being built. ---


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


class _BookEvent(msgspec.Struct):
    type: Literal["snapshot", "update"]
    product_id: str
    updates: list[_Level]


class _BookFrame(msgspec.Struct):
    channel: Literal["l2_data"]
    timestamp: str
    sequence_num: Number
    events: list[_BookEvent]


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


class _Flags(msgspec.Struct):
    """The switches that both the status channel and REST have; they come before the word in `status`."""

    trading_disabled: bool = False
    is_disabled: bool = False
    cancel_only: bool = False
    post_only: bool = False
    limit_only: bool = False
    auction_mode: bool = False


class _StatusProduct(_Flags, kw_only=True):
    id: str
    status: str
    base_currency: str = ""
    quote_currency: str = ""
    quote_increment: str = ""
    base_increment: str = ""


class _StatusEvent(msgspec.Struct):
    products: list[_StatusProduct]


class RestProduct(_Flags, kw_only=True):
    """A product as REST lists it."""

    product_id: str
    status: str = ""
    base_currency_id: str = ""
    quote_currency_id: str = ""
    quote_increment: str = ""
    price_increment: str = ""
    base_increment: str = ""
    base_min_size: str = ""
    product_type: str = "SPOT"


class _RestTrades(msgspec.Struct):
    trades: list[msgspec.Raw]


class _RestProducts(msgspec.Struct):
    products: list[msgspec.Raw]


class _Named(msgspec.Struct):
    product_id: str


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_ERROR = msgspec.json.Decoder(_Error)
_BOOK_FRAME = msgspec.json.Decoder(_BookFrame)
_BOOK_EVENT = msgspec.json.Decoder(_BookEvent)
_TRADES_EVENT = msgspec.json.Decoder(_TradesEvent)
_TRADE = msgspec.json.Decoder(_Trade)
_TICKER_EVENT = msgspec.json.Decoder(_TickerEvent)
_HEARTBEAT = msgspec.json.Decoder(_Heartbeat)
_STATUS_EVENT = msgspec.json.Decoder(_StatusEvent)
_REST_PRODUCTS = msgspec.json.Decoder(_RestProducts)
_REST_TRADES = msgspec.json.Decoder(_RestTrades)
_REST_PRODUCT = msgspec.json.Decoder(RestProduct)
_NAMED = msgspec.json.Decoder(_Named)

_BOOK_PREFIX = b'{"channel":"l2_data"'
_EVENT_TIME = re.compile(rb'"event_time":\s*"([^"]*)')


class CoinbaseFeed:
    """One line of Coinbase Advanced Trade. `products` None accepts every product that is seen, and subscribes none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, quotes,
    heartbeats, gaps, resyncs, duplicates (old frames, and trades that were sent before), deltas_before_snapshot,
    ignored (frames of channels and products that were not asked for), dead_letters.
    """

    venue = "coinbase"
    silence_ns = SILENCE_NS

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._wanted = products
        # "-USDC" products mirror "-USD" ones, whose name the channels may then carry (DOCS).
        accepted = None if products is None else {*products, *(p[:-1] for p in products if p.endswith("-USDC"))}
        self._products = Listing(accepted, describe)
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        self._repairs = Repairs(self._products, self._ledger, self._again)
        self._sequence = Sequence()
        self._token = token
        self._token_from = 0
        self._liveness = Liveness(SILENCE_NS, self._lose_all)

    # --- The contract of marketdata.feed.Feed ---

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products to subscribe; None where only frames show them."""
        return None if self._wanted is None else self._products.symbols(self._wanted)

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published."""
        call = self._call(ts)
        self._products.resume(call, self._ledger, previous, self._wanted or ())
        return call.out

    def opened(self, ts: int) -> list[Output]:
        """Subscribe to every channel and ask for the products' increments."""
        self._sequence.forget()
        self._repairs.begin()
        call = self._call(ts)
        self._liveness.opened(call)
        if self._wanted:
            call.out += [self._order("subscribe", channel, self._wanted, ts) for channel in CHANNELS]
            for symbol in self._wanted:
                self._repairs.wait(_BOOK, symbol, ts)
        for product in self._products:
            if self._ledger.is_pending(product, _TRADES):
                self._repairs.wait(_TRADES, product.name, ts)
        self._products.asked(ts)
        call.out.append(Fetch(path=PRODUCTS_PATH, purpose="products"))
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return the outputs of one frame."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = self._call(ts, frame)
        if frame.startswith(_BOOK_PREFIX):
            try:
                book = _BOOK_FRAME.decode(frame)
            except UNREADABLE:
                pass  # the general way finds out what is wrong with it, and with which event
            else:
                if len(book.events) == 1:
                    if self._accept(call, book.timestamp, book.sequence_num):
                        self._book_event(call, book.events[0], frame)
                    return call.out
        self._general(call)
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Learn the products' increments and states, or take the last trades where a snapshot did not reach back."""
        call = self._call(ts, body)
        with call.refusing(f"bad_{request.purpose}"):
            if request.purpose == "products":
                learn_each(call, _REST_PRODUCTS.decode(body).products, _REST_PRODUCT, self._learn_rest)
            elif request.purpose == _TRADES:
                self._rest_trades(call, request.symbol)
            else:
                self.counts["ignored"] += 1
        return call.out

    def ticked(self, ts: int) -> list[Output]:
        """Detect silence, and requested snapshots that did not arrive."""
        call = self._call(ts)
        if self._liveness.ticked(call):
            self._repairs.ticked(call)
            if self._products.is_due(ts):
                call.out.append(Fetch(path=PRODUCTS_PATH, purpose="products"))
        return call.out

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return idle.time_passed(self._call(ts), self._products, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per symbol, until the next connection's snapshots."""
        self._sequence.forget()
        self._repairs.begin()
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    # --- Frames ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _general(self, call: Call) -> None:
        try:
            envelope = _ENVELOPE.decode(call.payload)
        except UNREADABLE as error:
            self._unreadable(call, error)
            return
        if not self._accept(call, envelope.timestamp, envelope.sequence_num):
            return
        channel, events = envelope.channel, envelope.events
        take = self._takers.get(channel)
        if channel == "market_trades":
            self._trades_frame(call, events)
        elif take is not None:
            for raw in events:
                with call.refusing("bad_frame"):
                    take(self, call, raw)
        elif channel in _UNUSED_CHANNELS:
            self.counts["ignored"] += 1
        else:
            detail = f"no channel {channel[:100]!r} is known"
            call.dead("unknown_channel", detail, field="channel", value=channel[:200])

    def _unreadable(self, call: Call, error: Exception) -> None:
        try:
            message = _ERROR.decode(call.payload).message
        except UNREADABLE:
            call.dead_frame(error)
            return
        call.dead("venue_error", message, field="message", value=message[:200])
        if "auth" in message.lower() and self._token is not None and call.ts >= self._token_from:
            self._token_from = call.ts + TOKEN_PAUSE_NS
            call.out.append(Reconnect("authentication_failed"))

    def _accept(self, call: Call, time: str, sequence: int) -> bool:
        """Check the sequence and the frame's time; False when the frame is old and to be left alone."""
        with call.refusing("bad_time"):
            call.now = self.ts_venue = call.venue_time(iso_ns(time, "timestamp"), "timestamp")
        call.sequence = sequence
        match self._sequence.take(sequence):
            case "first":
                self._first(call, sequence)
            case "lost":
                self._frames_lost(call, GAP)
            case "old":
                self.counts["duplicates"] += 1
                return False
            case "restarted":
                self.counts["duplicates"] += 1
                self._frames_lost(call, "sequence_restarted")
        return True

    def _first(self, call: Call, sequence: int) -> None:
        """Take a connection's first number. Numbers began at 0 on the recording; later means that snapshots are lost.

        No gap: nothing of this connection was relied on. Where numbers begin elsewhere, it costs a second snapshot.
        """
        if sequence and self._liveness.is_open and self._wanted:
            self.counts["late_starts"] += 1
            for channel in (_BOOK, _TRADES):
                self._repairs.again(call, channel, self._wanted, "late_start")

    # --- Losses and their repair ---

    def _frames_lost(self, call: Call, detail: str) -> None:
        """Handle missing frames of the connection, which may concern any symbol."""
        self.counts["gaps"] += 1
        self._lose_all(call, GAP, detail=detail, expected=self._sequence.expected, received=call.sequence)
        self._repairs.lost(call, self._wanted or self._products.names(), (_BOOK, _TRADES), detail)

    def _lose_all(self, call: Call, reason: str, **fields: Any) -> None:
        self._ledger.lose_all(call, self._products, reason, subscribed=bool(self._wanted), **fields)

    def _again(self, call: Call, channel: str, symbols: Collection[str]) -> list[Output]:
        """Return the requests for new snapshots."""
        return [self._order(verb, channel, symbols, call.ts) for verb in ("unsubscribe", "subscribe")]

    # --- Books ---

    def _book_raw(self, call: Call, raw: msgspec.Raw) -> None:
        data = bytes(raw)
        try:
            event = _BOOK_EVENT.decode(data)
        except UNREADABLE as error:
            call.dead("bad_frame", str(error))
            self._book_missed(call, data)
        else:
            self._book_event(call, event, data)

    def _book_event(self, call: Call, event: _BookEvent, data: bytes) -> None:
        try:
            product = self._products.find(call, event.product_id)
            if product is None:
                return
            ts_event = _book_time(data, call.now)
            columns = _columns(event.updates)
            if event.type == "update":
                books.update(call, product, ts_event, columns)
                return
            books.snapshot(call, product, ts_event, columns)
        except BadEvent as error:
            call.dead_value(error)
            self._book_missed(call, b"", event.product_id)
            return
        self._repairs.came(_BOOK, product.name)
        self._ledger.account(call, product, _BOOK, ts_event)

    def _book_missed(self, call: Call, data: bytes, named: str = "") -> None:
        """A book event could not be read: its symbol, or every symbol when even that is unknown, missed a change."""
        with contextlib.suppress(*UNREADABLE):
            named = named or _NAMED.decode(data).product_id
        if named and not self._products.accepts(named):
            return
        symbols = (named,) if _PRODUCT_ID.fullmatch(named) else self._products.names()
        if not symbols:
            return
        products = [product for product in map(self._products.get, symbols) if product is not None]
        self.counts["gaps"] += 1
        for product in products:
            self._ledger.lose(call, product, GAP, {_BOOK}, detail="bad_frame", channel=_BOOK,
                              expected=call.sequence, received=call.sequence)  # fmt: skip
        self._repairs.lost(call, symbols, (_BOOK,), "bad_frame")

    # --- Trades ---

    def _trades_frame(self, call: Call, events: list[msgspec.Raw]) -> None:
        payload, whole = call.payload, True
        batches: dict[str, list[Numbered]] = {}
        snapshots: set[str] = set()
        for raw in events:
            call.payload = payload
            with call.refusing("bad_frame"):
                event = _TRADES_EVENT.decode(raw)
                batch, is_whole = self._read_trades(call, event.trades)
                whole = whole and is_whole
                for symbol, read in batch.items():
                    batches.setdefault(symbol, []).extend(read)
                    if event.type == "snapshot":
                        snapshots.add(symbol)
        call.payload = payload
        for symbol, numbered in batches.items():
            self._trades(call, self._products[symbol], numbered, snapshot=symbol in snapshots, whole=whole)

    def _read_trades(self, call: Call, raws: list[msgspec.Raw]) -> tuple[dict[str, list[Numbered]], bool]:
        """Return trades by product, and whether all could be read; a bad one is a gap that the ids will show."""
        batches: dict[str, list[Numbered]] = {}
        payload, whole = call.payload, True
        for raw in raws:
            call.payload = bytes(raw)
            with call.refusing("bad_frame") as reading:
                symbol, trade = read_trade(raw)
                if self._products.find(call, symbol) is not None:
                    batches.setdefault(symbol, []).append((int(trade.trade_id), trade))
            whole = whole and not reading.failed
        call.payload = payload
        return batches, whole

    def _rest_trades(self, call: Call, symbol: str) -> None:
        batches, whole = self._read_trades(call, _REST_TRADES.decode(call.payload).trades)
        product = self._products.get(symbol)
        if product is not None and symbol in batches:
            batch = sorted(batches[symbol], key=itemgetter(0))
            self._repairs.came(_TRADES, symbol)
            numbered_trades.take(call, product, self._ledger, batch, snapshot=True, whole=whole)

    def _trades(self, call: Call, product: Product, batch: list[Numbered], *, snapshot: bool, whole: bool) -> None:
        batch.sort(key=itemgetter(0))
        if snapshot:
            self._repairs.came(_TRADES, product.name)
        is_live = self._liveness.is_open and self._wanted is not None
        skipped = numbered_trades.take(call, product, self._ledger, batch, snapshot=snapshot, whole=whole,
                                       final=not is_live)  # fmt: skip
        if snapshot and skipped:
            self._repairs.wait(_TRADES, product.name, call.ts, tries=1)
            call.out.append(Fetch(f"{PRODUCTS_PATH}/{product.name}/ticker?limit={LISTED_MAX}", _TRADES, product.name))
        elif skipped and (_TRADES, product.name) not in self._repairs:
            self.counts["gaps"] += 1
            self._repairs.lost(call, (product.symbol,), (_TRADES,), "trade_hole")

    # --- Tickers, heartbeats, states ---

    def _tickers(self, call: Call, raw: msgspec.Raw) -> None:
        for ticker in _TICKER_EVENT.decode(raw).tickers:
            product = self._products.find(call, ticker.product_id)
            if product is None:
                continue
            quotes.send(
                call, product, call.now,
                bid=price(ticker.best_bid, "best_bid"), bid_size=given(ticker.best_bid_quantity, "best_bid_quantity"),
                ask=price(ticker.best_ask, "best_ask"), ask_size=given(ticker.best_ask_quantity, "best_ask_quantity"),
                last=price(ticker.price, "price"), volume_24h=given(ticker.volume_24_h, "volume_24_h"),
                high_24h=price(ticker.high_24_h, "high_24_h"), low_24h=price(ticker.low_24_h, "low_24_h"),
                change_24h=given(ticker.price_percent_chg_24_h, "price_percent_chg_24_h"),
            )  # fmt: skip

    def _heartbeat(self, call: Call, raw: msgspec.Raw) -> None:
        self.counts["heartbeats"] += 1
        vouched = call.venue_time(_go_time(_HEARTBEAT.decode(raw).current_time), "current_time") - VOUCH_NS
        for product in self._products:
            if not self._trades_wait(product):
                trades.heartbeat(call, product, vouched)
            if product.book_valid:
                books.heartbeat(call, product, vouched)

    def _trades_wait(self, product: Product) -> bool:
        """Whether trades of the symbol are not subscribed, or may still come late: then nothing can be vouched for."""
        if product.ts_trade is None and self._wanted is None:
            return True
        return self._ledger.is_pending(product, _TRADES) or (_TRADES, product.name) in self._repairs

    def _statuses(self, call: Call, raw: msgspec.Raw) -> None:
        for sent in _STATUS_EVENT.decode(raw).products:
            # This channel may list every product of the venue: only those that are traded here become events.
            if sent.id not in self._products and (self._wanted is None or not self._products.accepts(sent.id)):
                self.counts["ignored"] += 1
                continue
            status = _state(sent, sent.status)
            product = self._products.find(call, sent.id)
            if product is not None:
                before = product.instrument
                self._products.learn(
                    call,
                    product,
                    base_currency=sent.base_currency or before.base_currency,
                    quote_currency=sent.quote_currency or before.quote_currency,
                    tick_size=price(sent.quote_increment, "quote_increment") or before.tick_size,
                    size_increment=price(sent.base_increment, "base_increment") or before.size_increment,
                    status=status,
                )

    def _learn_rest(self, call: Call, sent: RestProduct) -> None:
        self._products.know(call, sent.product_id, **rest_fields(sent))

    def _order(self, verb: str, channel: str, products: Collection[str], ts: int) -> Send:
        order: dict[str, Any] = {"type": verb, "product_ids": list(products), "channel": channel}
        if self._token is not None and ts >= self._token_from:
            order["jwt"] = self._token(ts)
        return Send(msgspec.json.encode(order))

    _takers: ClassVar[dict[str, Callable[[CoinbaseFeed, Call, msgspec.Raw], None]]] = {
        "l2_data": _book_raw,
        "ticker": _tickers,
        "heartbeats": _heartbeat,
        "status": _statuses,
        "subscriptions": lambda feed, _call, _raw: feed.counts.update(subscriptions=1),
    }


# --- Reading values ---


def _columns(levels: list[_Level]) -> Columns:
    """Return bid prices, bid sizes, ask prices, ask sizes, all checked to be decimals.

    The venue sends bids first, so both sides are slices as a rule. Raises BadEvent.
    """
    # Half the time that `map` with `attrgetter` takes.
    sides = [level.side for level in levels]
    prices = [level.price_level for level in levels]
    sizes = [level.new_quantity for level in levels]
    check_decimals(prices, "price_level")
    check_decimals(sizes, "new_quantity")
    bids = sides.count("bid")
    if "offer" not in sides[:bids]:
        return prices[:bids], sizes[:bids], prices[bids:], sizes[bids:]
    is_bid = [side == "bid" for side in sides]
    pairs = list(zip(is_bid, prices, sizes, strict=True))
    return (
        [price for bid, price, _ in pairs if bid],
        [size for bid, _, size in pairs if bid],
        [price for bid, price, _ in pairs if not bid],
        [size for bid, _, size in pairs if not bid],
    )


def _book_time(data: bytes, default: int) -> int:
    """Return when an event's changes were made: all of one event share one time on the recording.

    A snapshot may have the time 0, as the one of DOCS ("Level2 Channel") does: that is none.
    """
    found = _EVENT_TIME.search(data)
    told = 0 if found is None else iso_ns(found[1].decode("ascii", "replace"), "event_time")
    return told or default


def read_trade(raw: msgspec.Raw) -> tuple[str, Trade]:
    """Return product id and trade, as the stream and REST write it. Raises BadEvent."""
    sent = _TRADE.decode(raw)
    if not (sent.trade_id.isascii() and sent.trade_id.isdigit() and len(sent.trade_id) < 19):
        raise BadEvent("bad_trade_id", "trade_id", sent.trade_id)
    check_trade(sent.price, sent.size)
    return sent.product_id, Trade(
        trade_id=sent.trade_id,
        ts_event=iso_ns(sent.time, "time"),
        price=sent.price,
        size=sent.size,
        side="sell" if sent.side == "BUY" else "buy",
    )


def _go_time(text: str) -> int:
    """Return the time of a heartbeat, which Go's `time.String` wrote: `2026-08-09 21:05:48.85 +0000 UTC m=+4.2`."""
    parts = text.split(" ")
    if len(parts) >= 3:
        return iso_ns(f"{parts[0]}T{parts[1]}{parts[2]}", "current_time")
    return iso_ns(text, "current_time")


def rest_fields(sent: RestProduct) -> dict[str, Any]:
    """Return a product from REST as fields of an Instrument. Raises BadEvent."""
    base, quote = _currencies(sent.product_id)
    return {
        "base_currency": sent.base_currency_id or base,
        "quote_currency": sent.quote_currency_id or quote,
        "tick_size": price(sent.price_increment or sent.quote_increment, "price_increment"),
        "size_increment": price(sent.base_increment, "base_increment"),
        "min_order_size": price(sent.base_min_size, "base_min_size"),
        "status": _state(sent, sent.status) if sent.status else "unknown",
        "kind": {"SPOT": "spot", "FUTURE": "future"}.get(sent.product_type, "spot"),
    }


def describe(product_id: str) -> Instrument:
    """Return the instrument of the venue's name. Raises BadEvent."""
    if _PRODUCT_ID.fullmatch(product_id) is None:
        raise BadEvent("bad_symbol", "product_id", product_id[:200])
    base, quote = _currencies(product_id)
    return Instrument(venue=CoinbaseFeed.venue, symbol=product_id, ts_recv=0, venue_symbol=product_id,
                      base_currency=base, quote_currency=quote)  # fmt: skip


def _currencies(product_id: str) -> tuple[str, str]:
    base, _, quote = product_id.partition("-")
    return base, quote


def _state(flags: _Flags, word: str) -> str:
    if flags.trading_disabled or flags.is_disabled:
        return "halted"
    for name in ("cancel_only", "post_only", "limit_only"):
        if getattr(flags, name):
            return name
    if flags.auction_mode:
        return "auction"
    try:
        return _STATES[word]
    except KeyError:
        raise BadEvent("unknown_status", "status", word) from None
