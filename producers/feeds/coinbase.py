"""Coinbase Advanced Trade: market data frames in, events out.

Theory of operation, with the source of each step. DOCS is Coinbase's "Advanced Trade WebSocket Overview", "WebSocket
Channels" and "WebSocket Rate Limits"; RULES is the project's own list of venue rules, checked on a recording.

1. Subscribe within 5 s of connecting, one message per channel, each with its own token when a key is set; a token
   lives for two minutes (DOCS). Channels: heartbeats, level2, market_trades, ticker, status. All are public.
2. `sequence_num` rises by one per frame over all channels of a connection (RULES; DOCS do not state the scope). A
   connection whose first number is not 0 may have lost its first snapshots: ask for them again. A lower or equal
   number is old: drop it. A run of old numbers that itself counts up means that the venue began to number anew: treat
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
   snapshot that follows a new subscription fills it, or proves that the venue has no such trade.
6. Heartbeats come every second (DOCS). Five seconds without any frame mean a dead connection: books are stale,
   reconnect. A heartbeat vouches for what happened up to 250 ms earlier: trades wait that long for their batch (DOCS)
   and book changes were 12 to 120 ms old when sent (RULES). While trades may be missing it vouches for no trades.
7. Channel `status` and REST `products` tell each product's state; where no orders match, what is sent is `halted`.

A gap is closed (`resynced`) when everything that it may have touched is accounted for: the book by a snapshot, the
trades by a trade snapshot or by the very next trade id. Trades that stay missing get a gap of their own, open until a
later trade snapshot or a backfill covers it.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from marketdata.clock import MILLISECOND_NS, SECOND_NS, parse_rfc3339
from marketdata.decimals import decimal, is_zero
from marketdata.errors import BadEvent
from marketdata.events import (
    ALL_SYMBOLS,
    DISCONNECTED,
    GAP,
    HALTED,
    STALE,
    BookUpdate,
    DeadLetter,
    FeedStatus,
    Instrument,
    Quote,
    Trade,
    Trades,
)
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venue import Signer, Venue

CHANNELS = ("heartbeats", "level2", "market_trades", "ticker", "status")
PRODUCTS_PATH = "api/v3/brokerage/market/products"

# Channels that Coinbase has and this feed has no use for; a frame of theirs only counts in the sequence.
_UNUSED_CHANNELS = frozenset({"candles", "ticker_batch", "user", "futures_balance_summary"})

SILENCE_NS = 5 * SECOND_NS  # five heartbeats missed
VOUCH_NS = SECOND_NS // 4
RESYNC_TIMEOUT_NS = 10 * SECOND_NS  # a snapshot of 5 MB came 0.7 s after the subscription on the recording
RESYNC_TIMEOUT_NS_MAX = 60 * SECOND_NS
LOSSES_MAX = 3
LOSSES_WINDOW_NS = 60 * SECOND_NS
OLD_RUN_MAX = 8
TOKEN_PAUSE_NS = 600 * SECOND_NS  # how long to go on without a token that was refused; the channels are public
PRODUCTS_MAX = 5_000  # Coinbase has about 900
HOLES_MAX = 100
INT64_MAX = 2**63 - 1

_PRODUCT_ID = re.compile(r"[A-Z0-9][A-Z0-9.]{0,19}(-[A-Z0-9.]{1,20}){1,3}", re.ASCII)
_ERROR_PATH = re.compile(r"`\$(.*)`")

_BOOK = "level2"
_TRADES = "market_trades"

# Product states in which orders match; in every other known state what is sent is halted.
_MATCHING = frozenset({"online", "limit_only", "unknown"})
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

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]


class _Envelope(msgspec.Struct):
    channel: str
    timestamp: str
    sequence_num: _Number
    events: list[msgspec.Raw]


class _Error(msgspec.Struct):
    type: Literal["error"]
    message: str = ""


class _Level(msgspec.Struct, gc=False):
    side: Literal["bid", "offer"]
    price_level: _Text
    new_quantity: _Text


class _BookEvent(msgspec.Struct):
    type: Literal["snapshot", "update"]
    product_id: str
    updates: list[_Level]


class _BookFrame(msgspec.Struct):
    channel: Literal["l2_data"]
    timestamp: str
    sequence_num: _Number
    events: list[_BookEvent]


class _TradesEvent(msgspec.Struct):
    type: Literal["snapshot", "update"]
    trades: list[msgspec.Raw]


class _Trade(msgspec.Struct):
    product_id: str
    trade_id: str
    price: _Text
    size: _Text
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


class _RestProduct(_Flags, kw_only=True):
    product_id: str
    status: str = ""
    base_currency_id: str = ""
    quote_currency_id: str = ""
    quote_increment: str = ""
    price_increment: str = ""
    base_increment: str = ""
    base_min_size: str = ""
    product_type: str = "SPOT"


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
_REST_PRODUCT = msgspec.json.Decoder(_RestProduct)
_NAMED = msgspec.json.Decoder(_Named)

_BOOK_PREFIX = b'{"channel":"l2_data"'
_EVENT_TIME = b'"event_time":"'

# What msgspec raises on bytes from outside: no JSON, the wrong shape, no UTF-8, nested too deeply.
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Gap:
    """An entry of the ledger that is open: `pending` are the channels that are not yet accounted for."""

    __slots__ = ("gap_id", "pending", "ts_from")

    def __init__(self, gap_id: str, ts_from: int | None, pending: set[str]) -> None:
        self.gap_id = gap_id
        self.ts_from = ts_from
        self.pending = pending


class _Product:
    """What the feed knows of one symbol; it keeps no book, only whether consumers have a good one."""

    __slots__ = (
        "book_seen", "book_valid", "gap", "holes", "instrument", "symbol", "trade_gap", "trade_last", "ts_book",
        "ts_trade",
    )  # fmt: skip

    def __init__(self, symbol: str, instrument: Instrument) -> None:
        self.symbol = symbol
        self.instrument = instrument
        self.book_valid = False
        self.book_seen = False
        self.ts_book: int | None = None
        self.ts_trade: int | None = None
        self.trade_last: int | None = None
        self.holes: list[tuple[int, int]] = []
        self.gap: _Gap | None = None
        self.trade_gap: _Gap | None = None

    @property
    def validity(self) -> dict[str, Any]:
        """The fields `valid` and `reason` of what this symbol sends now."""
        if self.instrument.status in _MATCHING:
            return {"valid": True, "reason": ""}
        return {"valid": False, "reason": HALTED}

    @property
    def ts_last(self) -> int | None:
        """When the last good value of this symbol was made, venue's clock."""
        return max((ts for ts in (self.ts_book, self.ts_trade) if ts is not None), default=None)


class _Call:
    """One call of the feed while it is worked on: what it concerns, and what came of it so far.

    `ts` is our clock. `now` is the venue's as last heard, so that a replayed stream never jumps to our own time.
    """

    __slots__ = ("now", "out", "payload", "sequence", "ts")

    def __init__(self, ts: int, now: int, payload: bytes = b"", sequence: int | None = None) -> None:
        self.ts = ts
        self.now = now
        self.payload = payload
        self.sequence = sequence
        self.out: list[Output] = []


class CoinbaseFeed:
    """One line of Coinbase Advanced Trade. `products` None accepts every product that is seen, and subscribes none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, quotes,
    heartbeats, gaps, resyncs, duplicates (old frames, and trades that were sent before), deltas_before_snapshot,
    ignored (frames of channels and products that were not asked for), dead_letters.
    """

    venue = "coinbase"

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.ts_venue: int | None = None
        self._line = line
        self._wanted = products
        # "-USDC" products mirror "-USD" ones, whose name the channels may then carry (DOCS).
        self._accepted = None if products is None else {*products, *(p[:-1] for p in products if p.endswith("-USDC"))}
        self._token = token
        self._token_from = 0
        self._open = False
        self._ts_alive = 0
        self._sequence: int | None = None
        self._old = 0
        self._old_run = 0
        self._losses: list[int] = []
        self._gap_count = 0
        self._products: dict[str, _Product] = {}
        self._known: dict[str, Instrument] = {}
        # (channel, product) to (deadline, how often it was asked again): snapshots that were asked for.
        self._asked: dict[tuple[str, str], tuple[int, int]] = {}

    # --- The contract of marketdata.feed.Feed ---

    def opened(self, ts: int) -> list[Output]:
        """Subscribe to every channel and ask for the products' increments."""
        self._open = True
        self._ts_alive = ts
        self._sequence = None
        self._old_run = 0
        self._losses.clear()
        self._asked.clear()
        call = self._call(ts)
        call.out.append(self._status(call, ALL_SYMBOLS, "connected"))
        if self._wanted:
            call.out += [self._order("subscribe", channel, self._wanted, ts) for channel in CHANNELS]
            for symbol in self._wanted:
                self._asked[_BOOK, symbol] = (ts + RESYNC_TIMEOUT_NS, 0)
        for product in self._products.values():
            if product.gap is not None and _TRADES in product.gap.pending:
                self._asked[_TRADES, product.symbol] = (ts + RESYNC_TIMEOUT_NS, 0)
        call.out.append(Fetch(path=PRODUCTS_PATH, purpose="products"))
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._ts_alive = ts
        call = self._call(ts, frame)
        if frame.startswith(_BOOK_PREFIX):
            try:
                book = _BOOK_FRAME.decode(frame)
            except _UNREADABLE:
                pass  # the general way finds out what is wrong with it, and with which event
            else:
                if len(book.events) == 1:
                    if self._accept(call, book.timestamp, book.sequence_num):
                        self._book_event(call, book.events[0], frame)
                    return call.out
        self._general(call)
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Learn the products' increments and states from the REST answer to `products`."""
        call = self._call(ts, body)
        if request.purpose != "products":
            self.counts["ignored"] += 1
            return call.out
        try:
            products = _REST_PRODUCTS.decode(body).products
        except _UNREADABLE as error:
            self._dead(call, "bad_products", str(error))
            return call.out
        for raw in products[:PRODUCTS_MAX]:
            call.payload = bytes(raw)
            with _Refusing(self, call, "bad_product"):
                self._learn_rest(call, _REST_PRODUCT.decode(raw))
        return call.out

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence, and snapshots that were asked for and did not come."""
        call = self._call(ts)
        if not self._open:
            return call.out
        silent_ns = ts - self._ts_alive
        if silent_ns > SILENCE_NS:
            self._open = False
            detail = f"no frame for {silent_ns // MILLISECOND_NS} ms"
            call.out.append(self._status(call, ALL_SYMBOLS, "heartbeat_missed", reason=STALE, detail=detail))
            for product in self._products.values():
                self._lose(call, product, STALE, self._channels(product))
            call.out.append(Reconnect("heartbeat_missed"))
            return call.out
        for (channel, symbol), (deadline, tries) in list(self._asked.items()):
            if ts >= deadline:
                self._overdue(call, channel, symbol, tries)
        return call.out

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per symbol, until the next connection's snapshots."""
        self._open = False
        self._sequence = None
        self._asked.clear()
        call = self._call(ts)
        call.out.append(self._status(call, ALL_SYMBOLS, "disconnected", reason=reason))
        for product in self._products.values():
            self._lose(call, product, DISCONNECTED, self._channels(product))
        return call.out

    # --- Frames ---

    def _call(self, ts: int, payload: bytes = b"") -> _Call:
        return _Call(ts, ts if self.ts_venue is None else self.ts_venue, payload)

    def _general(self, call: _Call) -> None:
        try:
            envelope = _ENVELOPE.decode(call.payload)
        except _UNREADABLE as error:
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
                with _Refusing(self, call, "bad_frame"):
                    take(self, call, raw)
        elif channel in _UNUSED_CHANNELS:
            self.counts["ignored"] += 1
        else:
            detail = f"no channel {channel[:100]!r} is known"
            self._dead(call, "unknown_channel", detail, field="channel", value=channel[:200])

    def _unreadable(self, call: _Call, error: Exception) -> None:
        try:
            message = _ERROR.decode(call.payload).message
        except _UNREADABLE:
            shape = isinstance(error, msgspec.ValidationError)
            self._dead(call, "bad_frame" if shape else "malformed_json", str(error))
            return
        self._dead(call, "venue_error", message, field="message", value=message[:200])
        if "auth" in message.lower() and self._token is not None and call.ts >= self._token_from:
            self._token_from = call.ts + TOKEN_PAUSE_NS
            call.out.append(Reconnect("authentication_failed"))

    def _accept(self, call: _Call, time: str, sequence: int) -> bool:
        """Check the sequence and the frame's time; False when the frame is old and to be left alone."""
        with _Refusing(self, call, "bad_time"):
            call.now = self.ts_venue = _ns(time, "timestamp")
        call.sequence = sequence
        last = self._sequence
        if last is None:
            self._first(call, sequence)
        elif sequence == last + 1:
            self._old_run = 0
        elif sequence > last:
            self._frames_lost(call, last + 1, GAP)
        else:
            self.counts["duplicates"] += 1
            self._old_run = self._old_run + 1 if sequence == self._old + 1 else 1
            self._old = sequence
            if self._old_run < OLD_RUN_MAX:
                return False
            self._frames_lost(call, last + 1, "sequence_restarted")
        self._sequence = sequence
        return True

    def _first(self, call: _Call, sequence: int) -> None:
        """Take a connection's first number. Numbers began at 0 on the recording; later means that snapshots are lost.

        No gap: nothing of this connection was relied on. Where numbers begin elsewhere, it costs a second snapshot.
        """
        if sequence and self._open and self._wanted:
            self.counts["late_starts"] += 1
            for channel in (_BOOK, _TRADES):
                self._ask_again(call, channel, self._wanted, "late_start")

    # --- Losses and their repair ---

    def _frames_lost(self, call: _Call, expected: int, detail: str) -> None:
        """Frames of the connection are missing: any symbol may be concerned."""
        self.counts["gaps"] += 1
        self._old_run = 0
        for product in self._products.values():
            self._lose(call, product, GAP, self._channels(product),
                       detail=detail, expected=expected, received=call.sequence)  # fmt: skip
        self._repair(call, self._wanted or tuple(self._products), (_BOOK, _TRADES), detail)

    def _channels(self, product: _Product) -> set[str]:
        """Return the channels by which consumers know this symbol, and which a loss may have touched."""
        channels = {_BOOK} if product.book_seen or self._wanted else set()
        return channels | {_TRADES} if product.trade_last is not None else channels

    def _lose(self, call: _Call, product: _Product, reason: str, channels: set[str], **fields: Any) -> None:
        """Clear the symbol's book and open its gap, or widen the one that is open."""
        if product.book_valid and _BOOK in channels:
            product.book_valid = False
            # No sequence: the frame that shows the loss may itself bring this symbol's next snapshot.
            call.out.append(
                BookUpdate(venue=self.venue, symbol=product.symbol, ts_event=call.now, ts_recv=call.ts,
                           line=self._line, kind="clear", valid=False, reason=reason)
            )  # fmt: skip
        if product.gap is not None:
            product.gap.pending |= channels
        elif channels:
            product.gap = self._gap(call, product, product.ts_last, channels)
            call.out.append(self._status(call, product.symbol, "gap", product.gap, reason=reason, **fields))

    def _gap(self, call: _Call, product: _Product, ts_from: int | None, pending: set[str]) -> _Gap:
        # Unique over restarts by our clock, and the same whenever the same recording is played.
        self._gap_count += 1
        return _Gap(f"{self._line}/{product.symbol}/{call.ts}/{self._gap_count}", ts_from, set(pending))

    def _repair(self, call: _Call, symbols: Collection[str], channels: Iterable[str], reason: str) -> None:
        """Ask for fresh snapshots in place, or reconnect when that was asked for too often."""
        self._losses = [lost for lost in self._losses if call.ts - lost < LOSSES_WINDOW_NS]
        self._losses.append(call.ts)
        if len(self._losses) >= LOSSES_MAX:
            self._losses.clear()
            call.out.append(Reconnect("gaps"))
            return
        for channel in channels:
            self._ask_again(call, channel, symbols, reason)

    def _ask_again(self, call: _Call, channel: str, symbols: Collection[str], reason: str, *, tries: int = 0) -> None:
        if not symbols:
            return
        call.out.append(self._order("unsubscribe", channel, symbols, call.ts))
        call.out.append(self._order("subscribe", channel, symbols, call.ts))
        self.counts["resyncs"] += 1
        deadline = call.ts + min(RESYNC_TIMEOUT_NS << tries, RESYNC_TIMEOUT_NS_MAX)
        for symbol in symbols:
            self._asked[channel, symbol] = (deadline, min(tries, 10))
            product = self._products.get(symbol)
            gap = product and ((product.trade_gap if channel == _TRADES else None) or product.gap)
            if gap:
                call.out.append(self._status(call, symbol, "resync", gap, reason=reason, channel=channel))

    def _overdue(self, call: _Call, channel: str, symbol: str, tries: int) -> None:
        product = self._products.get(symbol)
        del self._asked[channel, symbol]
        if channel == _TRADES:
            if product is not None and product.holes and not tries:
                self._ask_again(call, channel, (symbol,), "no_snapshot", tries=1)
            elif product is not None:
                self._give_up_trades(call, product)
        elif tries and product is not None and product.book_seen:
            call.out.append(Reconnect("no_snapshot"))
        else:
            # A product that never had a book may not exist: it must not cost the others their connection.
            self._ask_again(call, channel, (symbol,), "no_snapshot", tries=tries + 1)

    def _account(self, call: _Call, product: _Product, channel: str, ts_to: int) -> None:
        """Note that a channel of the symbol is whole again, and close the gap when it was the last."""
        gap = product.gap
        if gap is None or channel not in gap.pending:
            return
        gap.pending.discard(channel)
        if not gap.pending:
            product.gap = None
            call.out.append(self._status(call, product.symbol, "resynced", gap, ts_to=ts_to))

    # --- Books ---

    def _book_raw(self, call: _Call, raw: msgspec.Raw) -> None:
        data = bytes(raw)
        try:
            event = _BOOK_EVENT.decode(data)
        except _UNREADABLE as error:
            self._dead(call, "bad_frame", str(error))
            self._book_missed(call, data)
        else:
            self._book_event(call, event, data)

    def _book_event(self, call: _Call, event: _BookEvent, data: bytes) -> None:
        try:
            product = self._product(call, event.product_id)
            if product is None:
                return
            ts_event = _book_time(data, call.now)
            bid_prices, bid_sizes, ask_prices, ask_sizes = _columns(event.updates)
        except BadEvent as error:
            self._dead_value(call, error)
            self._book_missed(call, b"", event.product_id)
            return
        if event.type == "snapshot":
            bid_prices, bid_sizes = _best_first(bid_prices, bid_sizes, descending=True)
            ask_prices, ask_sizes = _best_first(ask_prices, ask_sizes, descending=False)
            product.book_valid = product.book_seen = True
            self._asked.pop((_BOOK, product.symbol), None)
            self.counts["snapshots"] += 1
        elif not product.book_valid:
            self.counts["deltas_before_snapshot"] += 1
            return
        elif not event.updates:
            return
        else:
            self.counts["book_updates"] += 1
        product.ts_book = ts_event
        update = BookUpdate(
            venue=self.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts, line=self._line,
            sequence=call.sequence, kind=event.type, bid_prices=bid_prices, bid_sizes=bid_sizes,
            ask_prices=ask_prices, ask_sizes=ask_sizes, **product.validity,
        )  # fmt: skip
        last = call.out[-1] if call.out else None
        if event.type == "update" and isinstance(last, BookUpdate) and _joins(last, update):
            call.out[-1] = _joined(last, update)
            return
        call.out.append(update)
        if event.type == "snapshot":
            self._account(call, product, _BOOK, ts_event)

    def _book_missed(self, call: _Call, data: bytes, named: str = "") -> None:
        """A book event could not be read: its symbol, or every symbol when even that is unknown, missed a change."""
        with contextlib.suppress(*_UNREADABLE):
            named = named or _NAMED.decode(data).product_id
        if named and self._accepted is not None and named not in self._accepted:
            return
        symbols = [named] if _PRODUCT_ID.fullmatch(named) else list(self._products)
        if not symbols:
            return
        products = [self._products[symbol] for symbol in symbols if symbol in self._products]
        self.counts["gaps"] += 1
        for product in products:
            self._lose(call, product, GAP, {_BOOK}, detail="bad_frame", channel=_BOOK,
                       expected=call.sequence, received=call.sequence)  # fmt: skip
        self._repair(call, symbols, (_BOOK,), "bad_frame")

    # --- Trades ---

    def _trades_frame(self, call: _Call, events: list[msgspec.Raw]) -> None:
        payload = call.payload
        trades: dict[str, list[Trade]] = {}
        snapshots: set[str] = set()
        for raw in events:
            call.payload = payload
            with _Refusing(self, call, "bad_frame"):
                event = _TRADES_EVENT.decode(raw)
                for raw_trade in event.trades:
                    # One bad trade is a hole that the ids will show; it does not cost its neighbours.
                    call.payload = bytes(raw_trade)
                    with _Refusing(self, call, "bad_frame"):
                        symbol, trade = _read_trade(raw_trade)
                        if self._product(call, symbol) is not None:
                            trades.setdefault(symbol, []).append(trade)
                            if event.type == "snapshot":
                                snapshots.add(symbol)
        call.payload = payload
        for symbol, batch in trades.items():
            batch.sort(key=_trade_number)
            self._trades(call, self._products[symbol], batch, snapshot=symbol in snapshots)

    def _trades(self, call: _Call, product: _Product, batch: list[Trade], *, snapshot: bool) -> None:
        before, holes_before = product.trade_last, len(product.holes)
        fresh = self._unsent(product, batch)
        if fresh:
            product.ts_trade = max(product.ts_trade or 0, *(trade.ts_event for trade in fresh))
            repair = before is not None and _trade_number(fresh[0]) < before
            call.out.append(
                Trades(venue=self.venue, symbol=product.symbol, ts_event=fresh[-1].ts_event, ts_recv=call.ts,
                       line=self._line, sequence=call.sequence, origin="repair" if repair else "live",
                       trades=tuple(fresh), **product.validity)
            )  # fmt: skip
        if snapshot:
            self._asked.pop((_TRADES, product.symbol), None)
            # Ids that the snapshot spans and does not have were never trades.
            first, final = _trade_number(batch[0]), _trade_number(batch[-1])
            product.holes = [hole for hole in product.holes if not (first <= hole[0] and hole[1] <= final)]
            self._give_up_trades(call, product)
        elif fresh and before is not None and not product.holes:
            self._account(call, product, _TRADES, call.now)
        elif len(product.holes) > holes_before:
            self._hole(call, product)
        if product.trade_gap is not None and not product.holes:
            gap, product.trade_gap = product.trade_gap, None
            call.out.append(self._status(call, product.symbol, "resynced", gap, channel=_TRADES, ts_to=call.now))

    def _unsent(self, product: _Product, batch: list[Trade]) -> list[Trade]:
        """Return the trades that were not sent before, and note the ids that were skipped or filled in."""
        fresh: list[Trade] = []
        for trade in batch:
            number, last = _trade_number(trade), product.trade_last
            if last is None or number > last:
                if last is not None and number > last + 1:
                    product.holes.append((last + 1, number - 1))
                product.trade_last = number
            elif not _fill(product.holes, number):
                self.counts["duplicates"] += 1
                continue
            fresh.append(trade)
        while len(product.holes) > HOLES_MAX:
            product.holes[:2] = [(product.holes[0][0], product.holes[1][1])]
        self.counts["trades"] += len(fresh)
        return fresh

    def _hole(self, call: _Call, product: _Product) -> None:
        """A trade id was skipped with no frame lost: ask for the last trades again, unless that is under way."""
        if product.gap is not None and _TRADES in product.gap.pending:
            return
        self._note_holes(call, product)
        if (_TRADES, product.symbol) not in self._asked:
            self.counts["gaps"] += 1
            self._repair(call, (product.symbol,), (_TRADES,), "trade_hole")

    def _note_holes(self, call: _Call, product: _Product) -> None:
        if product.holes and product.trade_gap is None:
            product.trade_gap = self._gap(call, product, product.ts_trade, {_TRADES})
            call.out.append(
                self._status(call, product.symbol, "gap", product.trade_gap, reason=GAP, channel=_TRADES,
                             detail="trade ids were skipped", expected=product.holes[0][0],
                             received=product.holes[-1][1] + 1)
            )  # fmt: skip

    def _give_up_trades(self, call: _Call, product: _Product) -> None:
        """No more trades will come by themselves: what is still missing stays on the ledger, and candles hear it."""
        if product.holes:
            self._note_holes(call, product)
            self._empty_trades(call, product, product.ts_trade or call.now, valid=False, reason=GAP)
        self._account(call, product, _TRADES, call.now)

    # --- Tickers, heartbeats, states ---

    def _tickers(self, call: _Call, raw: msgspec.Raw) -> None:
        for ticker in _TICKER_EVENT.decode(raw).tickers:
            product = self._product(call, ticker.product_id)
            if product is None:
                continue
            bid, ask = _price(ticker.best_bid, "best_bid"), _price(ticker.best_ask, "best_ask")
            quote = Quote(
                venue=self.venue, symbol=product.symbol, ts_event=call.now, ts_recv=call.ts, line=self._line,
                sequence=call.sequence, source="venue",
                bid=bid, bid_size=bid and _given(ticker.best_bid_quantity, "best_bid_quantity"),
                ask=ask, ask_size=ask and _given(ticker.best_ask_quantity, "best_ask_quantity"),
                last=_price(ticker.price, "price"), volume_24h=_given(ticker.volume_24_h, "volume_24_h"),
                high_24h=_price(ticker.high_24_h, "high_24_h"), low_24h=_price(ticker.low_24_h, "low_24_h"),
                change_24h=_given(ticker.price_percent_chg_24_h, "price_percent_chg_24_h"),
                **product.validity,
            )  # fmt: skip
            self.counts["quotes"] += 1
            call.out.append(quote)

    def _heartbeat(self, call: _Call, raw: msgspec.Raw) -> None:
        self.counts["heartbeats"] += 1
        vouched = _go_time(_HEARTBEAT.decode(raw).current_time) - VOUCH_NS
        for product in self._products.values():
            if not self._trades_wait(product):
                self._empty_trades(call, product, max(vouched, product.ts_trade or 0), **product.validity)
            if product.book_valid:
                self._book_heartbeat(call, product, max(vouched, product.ts_book or 0))

    def _trades_wait(self, product: _Product) -> bool:
        """Whether trades of the symbol are not subscribed, or may still come late: then nothing can be vouched for."""
        if product.trade_last is None and self._wanted is None:
            return True
        pending = product.gap is not None and _TRADES in product.gap.pending
        return pending or (_TRADES, product.symbol) in self._asked

    def _statuses(self, call: _Call, raw: msgspec.Raw) -> None:
        for sent in _STATUS_EVENT.decode(raw).products:
            # This channel may list every product of the venue: only those that are traded here become events.
            if sent.id not in self._products and sent.id not in (self._accepted or ()):
                self.counts["ignored"] += 1
                continue
            status = _state(sent, sent.status)
            product = self._product(call, sent.id)
            if product is not None:
                before = product.instrument
                self._learn(
                    call,
                    product,
                    base_currency=sent.base_currency or before.base_currency,
                    quote_currency=sent.quote_currency or before.quote_currency,
                    tick_size=_price(sent.quote_increment, "quote_increment") or before.tick_size,
                    size_increment=_price(sent.base_increment, "base_increment") or before.size_increment,
                    status=status,
                )

    def _learn_rest(self, call: _Call, sent: _RestProduct) -> None:
        base, quote = _currencies(sent.product_id)
        learned: dict[str, Any] = {
            "base_currency": sent.base_currency_id or base,
            "quote_currency": sent.quote_currency_id or quote,
            "tick_size": _price(sent.price_increment or sent.quote_increment, "price_increment"),
            "size_increment": _price(sent.base_increment, "base_increment"),
            "min_order_size": _price(sent.base_min_size, "base_min_size"),
            "status": _state(sent, sent.status) if sent.status else "unknown",
            "kind": {"SPOT": "spot", "FUTURE": "future"}.get(sent.product_type, "spot"),
        }
        product = self._products.get(sent.product_id)
        if product is not None:
            self._learn(call, product, **learned)
        self._known[sent.product_id] = Instrument(
            venue=self.venue, symbol=sent.product_id, ts_recv=call.ts, venue_symbol=sent.product_id, **learned
        )

    def _learn(self, call: _Call, product: _Product, **learned: Any) -> None:
        """Take what is new about a product; a change between matching and halted is told in each stream."""
        before = product.instrument
        if all(getattr(before, name) == value for name, value in learned.items()):
            return
        product.instrument = msgspec.structs.replace(before, ts_recv=call.ts, **learned)
        call.out.append(product.instrument)
        status = product.instrument.status
        if (status in _MATCHING) == (before.status in _MATCHING):
            return
        kind = "resumed" if status in _MATCHING else "halted"
        call.out.append(self._status(call, product.symbol, kind, reason=status))
        self._empty_trades(call, product, max(call.now, product.ts_trade or 0), **product.validity)
        if product.book_valid:
            self._book_heartbeat(call, product, max(call.now, product.ts_book or 0))

    # --- Building events ---

    def _product(self, call: _Call, product_id: str) -> _Product | None:
        """Return the product, announced by its Instrument on first sight; None when it was not asked for."""
        product = self._products.get(product_id)
        if product is not None:
            return product
        if self._accepted is not None and product_id not in self._accepted:
            self.counts["ignored"] += 1
            return None
        if _PRODUCT_ID.fullmatch(product_id) is None:
            raise BadEvent("bad_symbol", "product_id", product_id)
        if len(self._products) >= PRODUCTS_MAX:
            raise BadEvent("too_many_symbols", "product_id", product_id)
        known = self._known.get(product_id)
        if known is None:
            base, quote = _currencies(product_id)
            known = Instrument(venue=self.venue, symbol=product_id, ts_recv=call.ts, venue_symbol=product_id,
                               base_currency=base, quote_currency=quote)  # fmt: skip
        product = self._products[product_id] = _Product(product_id, msgspec.structs.replace(known, ts_recv=call.ts))
        call.out.append(product.instrument)
        if known.status not in _MATCHING:
            call.out.append(self._status(call, product_id, "halted", reason=known.status))
        return product

    def _empty_trades(self, call: _Call, product: _Product, ts_event: int, *, valid: bool, reason: str) -> None:
        call.out.append(
            Trades(venue=self.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts, line=self._line,
                   sequence=call.sequence, valid=valid, reason=reason)
        )  # fmt: skip

    def _book_heartbeat(self, call: _Call, product: _Product, ts_event: int) -> None:
        call.out.append(
            BookUpdate(venue=self.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts, line=self._line,
                       sequence=call.sequence, kind="heartbeat", **product.validity)
        )  # fmt: skip

    def _status(self, call: _Call, symbol: str, kind: str, gap: _Gap | None = None, **fields: Any) -> FeedStatus:
        if gap is not None:
            fields |= {"gap_id": gap.gap_id, "ts_from": gap.ts_from}
        return FeedStatus(venue=self.venue, symbol=symbol, ts_event=call.now, ts_recv=call.ts, line=self._line,
                          sequence=call.sequence, kind=kind, **fields)  # fmt: skip

    def _order(self, verb: str, channel: str, products: Collection[str], ts: int) -> Send:
        order: dict[str, Any] = {"type": verb, "product_ids": list(products), "channel": channel}
        if self._token is not None and ts >= self._token_from:
            order["jwt"] = self._token(ts)
        return Send(msgspec.json.encode(order))

    def _dead(
        self, call: _Call, reason: str, detail: str, *, field: str | None = None, value: str | None = None
    ) -> None:
        self.counts["dead_letters"] += 1
        if field is None:
            path = _ERROR_PATH.search(detail)
            field = path.group(1).lstrip(".") if path else None
        call.out.append(
            DeadLetter(venue=self.venue, symbol=ALL_SYMBOLS, ts_recv=call.ts, stage="feed", reason=reason,
                       detail=detail[:1000], field=field, value=value, line=self._line, payload=call.payload)
        )  # fmt: skip

    def _dead_value(self, call: _Call, error: BadEvent) -> None:
        self._dead(call, error.reason, str(error), field=error.field, value=error.value)

    _takers: ClassVar[dict[str, Callable[[CoinbaseFeed, _Call, msgspec.Raw], None]]] = {
        "l2_data": _book_raw,
        "ticker": _tickers,
        "heartbeats": _heartbeat,
        "status": _statuses,
        "subscriptions": lambda feed, _call, _raw: feed.counts.update(subscriptions=1),
    }


class _Refusing:
    """What cannot be read inside this block becomes a dead letter of the call, with its payload."""

    __slots__ = ("_call", "_feed", "_reason")

    def __init__(self, feed: CoinbaseFeed, call: _Call, reason: str) -> None:
        self._feed = feed
        self._call = call
        self._reason = reason

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, BadEvent):
            self._feed._dead_value(self._call, error)  # noqa: SLF001 - a part of the feed that is a class for `with`
            return True
        if isinstance(error, _UNREADABLE):
            self._feed._dead(self._call, self._reason, str(error))  # noqa: SLF001 - as above
            return True
        return False


# --- Reading values ---

_side = attrgetter("side")
_level_price = attrgetter("price_level")
_level_size = attrgetter("new_quantity")

Columns = tuple[list[str], list[str], list[str], list[str]]


def _columns(levels: list[_Level]) -> Columns:
    """Return bid prices, bid sizes, ask prices, ask sizes, all checked to be decimals.

    The venue sends bids first, so both sides are slices as a rule. Raises BadEvent.
    """
    sides = list(map(_side, levels))
    prices = list(map(_level_price, levels))
    sizes = list(map(_level_size, levels))
    _check_decimals(prices, "price_level")
    _check_decimals(sizes, "new_quantity")
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


def _joins(first: BookUpdate, second: BookUpdate) -> bool:
    return (first.symbol, first.sequence, first.kind) == (second.symbol, second.sequence, second.kind)


def _joined(first: BookUpdate, second: BookUpdate) -> BookUpdate:
    """Return two updates of one frame and symbol as one: quantities are absolute, so later ones come later."""
    return msgspec.structs.replace(
        second,
        bid_prices=first.bid_prices + second.bid_prices,
        bid_sizes=first.bid_sizes + second.bid_sizes,
        ask_prices=first.ask_prices + second.ask_prices,
        ask_sizes=first.ask_sizes + second.ask_sizes,
    )


def _check_decimals(values: list[str], field: str) -> None:
    """Raise BadEvent unless every value is a decimal; a snapshot has 60,000, so the usual case takes no loop.

    Without its digits, a list of plain decimals is commas and single points.
    """
    text = ",".join(values)
    if text.isascii():
        rest = text.encode().translate(None, b"0123456789")
        commas = rest.count(b",")
        plain = commas == len(values) - 1 and commas + rest.count(b".") == len(rest)
        if plain and b".." not in rest and "." not in values:
            return
    for value in values:
        decimal(value, field)


def _has_zero(sizes: list[str]) -> bool:
    """Tell whether one of these decimals may be zero: without zeros and points nothing is left of it."""
    rest = b"," + ",".join(sizes).encode().translate(None, b"0.") + b","
    return b",," in rest or b"e" in rest or b"E" in rest


def _best_first(prices: list[str], sizes: list[str], *, descending: bool) -> tuple[list[str], list[str]]:
    """Return a side of a snapshot with the best level first and no empty level, as BookUpdate promises."""
    if _has_zero(sizes):
        kept = [(price, size) for price, size in zip(prices, sizes, strict=True) if not is_zero(size)]
        prices, sizes = [price for price, _ in kept], [size for _, size in kept]
    values = list(map(float, prices))
    if values == sorted(values, reverse=descending):
        return prices, sizes
    pairs = sorted(zip(prices, sizes, strict=True), key=lambda level: Decimal(level[0]), reverse=descending)
    return [price for price, _ in pairs], [size for _, size in pairs]


def _book_time(data: bytes, default: int) -> int:
    """Return when an event's changes were made: all of one event share one time on the recording."""
    at = data.find(_EVENT_TIME)
    if at < 0:
        return default
    start = at + len(_EVENT_TIME)
    return _ns(data[start : data.find(b'"', start)].decode("ascii", "replace"), "event_time")


def _read_trade(raw: msgspec.Raw) -> tuple[str, Trade]:
    sent = _TRADE.decode(raw)
    if not (sent.trade_id.isascii() and sent.trade_id.isdigit() and len(sent.trade_id) < 19):
        raise BadEvent("bad_trade_id", "trade_id", sent.trade_id)
    decimal(sent.price, "price")
    decimal(sent.size, "size")
    return sent.product_id, Trade(
        trade_id=sent.trade_id,
        ts_event=_ns(sent.time, "time"),
        price=sent.price,
        size=sent.size,
        side="sell" if sent.side == "BUY" else "buy",
    )


def _trade_number(trade: Trade) -> int:
    return int(trade.trade_id)


def _fill(holes: list[tuple[int, int]], number: int) -> bool:
    """Take a trade id out of the holes; False when it is in none, which makes it one that was sent before."""
    for place, (first, last) in enumerate(holes):
        if first <= number <= last:
            holes[place : place + 1] = [
                hole for hole in ((first, number - 1), (number + 1, last)) if hole[0] <= hole[1]
            ]
            return True
    return False


def _ns(text: str, field: str) -> int:
    ns = parse_rfc3339(text, field)
    if not 0 <= ns <= INT64_MAX:
        raise BadEvent("bad_time", field, text)
    return ns


def _go_time(text: str) -> int:
    """Return the time of a heartbeat, which Go's `time.String` wrote: `2026-08-09 21:05:48.85 +0000 UTC m=+4.2`."""
    parts = text.split(" ")
    if len(parts) >= 3:
        return _ns(f"{parts[0]}T{parts[1]}{parts[2]}", "current_time")
    return _ns(text, "current_time")


def _given(text: str, field: str) -> str | None:
    """Return a decimal string, or None where the venue left it empty."""
    if not text:
        return None
    decimal(text, field)
    return text


def _price(text: str, field: str) -> str | None:
    """Return a price, or None where there is none: the venue leaves it empty or writes 0."""
    given = _given(text, field)
    return None if given is None or is_zero(given) else given


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


VENUE = Venue(
    name="coinbase",
    ws_url="wss://advanced-trade-ws.coinbase.com",
    rest_url="https://api.coinbase.com",
    make=CoinbaseFeed,
    sequence="connection",
    signed=True,
)
