"""Coinbase Advanced Trade: market data frames in, events out.

1. Subscribe within 5 s of connecting, one message per channel, each with its own token when a key is set; a token
   lives for two minutes ("WebSocket Overview"). Channels: heartbeats, level2, market_trades, ticker, status. All are
   public. A `subscriptions` frame answers each message with everything that the connection is subscribed to (checked on
   a recording); a refusal is a frame of type `error` that names no product.
2. `sequence_num` rises by one per frame over all channels of a connection (held on the recording; the documents do not
   state its scope). A connection whose first number is not 0 may have lost its first snapshots: request them again. A
   lower or equal number is old: drop it. A run of old numbers that itself counts up is a reset, which is a loss.
3. A number that was skipped means that a frame is lost, and it may have been any symbol's: every book is cleared and
   every symbol gets a gap on the ledger; then level2 and market_trades are unsubscribed and subscribed again, which
   brings a fresh book snapshot and the last 100 or so trades. The third loss within a minute reconnects instead, since
   a snapshot costs up to 5 MB.
4. Channel `l2_data`: an event `snapshot` replaces the book, `update` sets absolute quantities, 0 removes the level;
   sides are `bid` and `offer` ("WebSocket Channels"). Updates before the snapshot are ignored. An event that cannot be
   read means that the book missed a change: clear it and request it again, for that symbol alone. An impossible
   `event_time`, such as Go's zero time of the year 1, gives way to the frame's own.
5. Channel `market_trades`: batches of 250 ms, newest first; `side` is the maker's ("WebSocket Channels"), so the
   aggressor is the opposite. Trade ids rise by one per product (held on the recording): a skipped id is a gap of that
   symbol's trades. The trade snapshot that follows a new subscription fills it, or proves that the venue has no such
   trade. One that does not reach back far enough is followed by REST's list of trades, which is longer.
6. Heartbeats come every second ("WebSocket Channels"). Five seconds without any frame mean a dead connection. A
   heartbeat vouches for what happened up to 250 ms earlier: trades wait that long for their batch and book changes were
   12 to 120 ms old when sent (on the recording). It vouches for no trades while some may be missing, nor for those of a
   product whose market_trades the connection is not known to be subscribed to.
7. Channel `status` and REST `products` contain each product's state; while no orders match, events are `halted`.

A gap is closed (`resynced`) when everything that it may have touched is accounted for: the book by a snapshot, the
trades by a trade snapshot or by the very next trade id. Trades that stay missing get a gap of their own, open until a
later trade snapshot or a backfill covers it.

Sources, below https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/: "WebSocket Overview"
(websocket-overview), "WebSocket Channels" (websocket-channels), "WebSocket Rate Limits" (websocket-rate-limits).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterable
from operator import itemgetter
from typing import Any, ClassVar

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import GAP, Instrument
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.coinbase import messages
from producers.venues.coinbase.products import (
    PRODUCTS_PATH,
    VENUE,
    Aliases,
    RestProduct,
    describe,
    is_product_id,
    rest_fields,
    state_of,
)
from producers.venues.kit import books, numbered_trades, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.instruments import learn_each
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.numbered_trades import Numbered
from producers.venues.kit.orders import Orders
from producers.venues.kit.products import Product
from producers.venues.kit.sequence import Sequence
from producers.venues.kit.values import (
    UNREADABLE,
    Columns,
    given,
    iso_ns,
    price,
    side_columns,
)
from producers.venues.kit.venue import Signer

# "WebSocket Rate Limits": 8 connections and 8 unauthenticated messages a second of one address. That a connection
# carries 16 books at most is not documented: "too many L2 streams requested in a single session" came at 32, and 16
# worked (https://github.com/JKorf/Coinbase.Net/issues/19).
# 8 messages and 8 connections a second of one address ("WebSocket Rate Limits"). A connection sends five messages, the
# first of them within 5 s, so that not more than one is opened a second.
LIMITS = Limits(products=16, address_messages=(Rate(6, 1),), connects=(Rate(1, 1),))

# Channels that Coinbase has and this feed has no use for; a frame of theirs only counts in the sequence.
_UNUSED_CHANNELS = frozenset({"candles", "ticker_batch", "user", "futures_balance_summary"})

VOUCH_NS = SECOND_NS // 4
LISTED_MAX = 1_000  # trades in one answer of REST
TOKEN_PAUSE_NS = 600 * SECOND_NS  # how long to go on without a token that was refused; the channels are public

_BOOK, _TRADES, _TICKER = "level2", "market_trades", "ticker"

_BOOK_PREFIX = b'{"channel":"l2_data"'
_EVENT_TIME = re.compile(rb'"event_time":\s*"([^"]*)')


class CoinbaseFeed(VenueFeed):
    """One line of Coinbase Advanced Trade. `counts` also has late_starts and impossible_times."""

    venue = VENUE
    book_channel = _BOOK
    trades_channel = _TRADES
    channels = (_BOOK, _TRADES, _TICKER)
    limits = LIMITS
    silence_ns = 5 * SECOND_NS  # five heartbeats missed

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        self._aliases = Aliases(products)
        super().__init__(line=line, products=self._aliases.products, token=token)
        self._sequence = Sequence()
        self._token_from = 0
        self._orders = Orders()

    # --- The connection ---

    def _begin(self) -> None:
        super()._begin()
        self._sequence.forget()
        self._orders.begin()

    def _introduce(self, call: Call) -> Iterable[Output]:
        return [self._send(call, "subscribe", channel, self._wanted or ()) for channel in ("heartbeats", "status")]

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterable[Output]:
        return (self._send(call, verb, channel, names),)

    def _recover_trades(self, call: Call, product: Product) -> None:
        # The snapshot that the subscription brings.
        self._repairs.wait(_TRADES, product.name, call.ts)

    def _send(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Send:
        self._orders.number(verb, channel, () if channel in {"heartbeats", "status"} else names)
        order: dict[str, Any] = {"type": verb, "product_ids": list(names), "channel": channel}
        if self._token is not None and call.ts >= self._token_from:
            order["jwt"] = self._token(call.ts)
        return Send(msgspec.json.encode(order))

    def _find(self, call: Call, name: str) -> Product | None:
        return self._products.find(call, self._aliases.resolve(name))

    # --- Frames ---

    def _read(self, call: Call) -> None:
        frame = call.payload
        if frame.startswith(_BOOK_PREFIX):
            try:
                book = messages.BOOK_FRAME.decode(frame)
            except UNREADABLE:
                pass  # what follows shows what is wrong with it, and with which event
            else:
                if len(book.events) == 1:
                    if self._accept(call, book.timestamp, book.sequence_num):
                        self._book_event(call, book.events[0], frame)
                    return
        try:
            envelope = messages.ENVELOPE.decode(frame)
        except UNREADABLE:
            if not self._read_error(call):
                raise
        else:
            if self._accept(call, envelope.timestamp, envelope.sequence_num):
                self._read_events(call, envelope.channel, envelope.events)

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        del payload  # the next number shows that this frame is missing, and then everything is lost
        return (), ()

    def _read_events(self, call: Call, channel: str, events: list[msgspec.Raw]) -> None:
        take = self._takers.get(channel)
        if channel == _TRADES:
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

    def _read_error(self, call: Call) -> bool:
        """Read a frame of type `error`; return False when it is none."""
        try:
            message = messages.ERROR.decode(call.payload).message
        except UNREADABLE:
            return False
        call.dead("venue_error", message, field="message", value=message[:200])
        if "auth" in message.lower() and self._token is not None and call.ts >= self._token_from:
            self._token_from = call.ts + TOKEN_PAUSE_NS
            call.out.append(Reconnect("authentication_failed"))
        else:
            self._refused_message(call, self._orders.oldest(), message)
        return True

    def _listed(self, call: Call, raw: msgspec.Raw) -> None:
        """Take the list of everything that the connection is subscribed to, which answers our oldest message."""
        sent = messages.SUBSCRIPTIONS.decode(raw).subscriptions
        listed = {(channel, self._aliases.resolve(name)) for channel in self.channels for name in sent.get(channel, ())}
        self._take_list(call, listed, self._orders.oldest())

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

    def _frames_lost(self, call: Call, detail: str) -> None:
        """Handle missing frames of the connection, which may concern any symbol."""
        self.counts["gaps"] += 1
        self._orders.begin()  # the lost frame may have been an answer
        for product in self._products:
            self._ledger.lose(call, product, GAP, self._ledger.channels(product, subscribed=bool(self._wanted)),
                              detail=detail, expected=self._sequence.expected, received=call.sequence)  # fmt: skip
        self._repairs.lost(call, self._wanted or self._products.names(), (_BOOK, _TRADES), detail)

    # --- Books ---

    def _book_raw(self, call: Call, raw: msgspec.Raw) -> None:
        data = bytes(raw)
        try:
            event = messages.BOOK_EVENT.decode(data)
        except UNREADABLE as error:
            call.dead("bad_frame", str(error))
            named = ""
            with contextlib.suppress(*UNREADABLE):
                named = messages.NAMED.decode(data).product_id
            self._book_missed(call, named)
        else:
            self._book_event(call, event, data)

    def _book_event(self, call: Call, event: messages.BookEvent, data: bytes) -> None:
        try:
            product = self._find(call, event.product_id)
            if product is None:
                return
            levels = event.updates
            columns: Columns = side_columns([level.side for level in levels], "bid",
                                            [level.price_level for level in levels],
                                            [level.new_quantity for level in levels])  # fmt: skip
            ts_event = self._book_time(call, data)
            if event.type == "update":
                books.update(call, product, ts_event, columns)
            else:
                self._snapshot(call, product, ts_event, columns)
        except BadEvent as error:
            call.dead_value(error)
            self._book_missed(call, event.product_id)

    def _book_time(self, call: Call, data: bytes) -> int:
        """Return when an event's changes were made: all of one event share one time on the recording.

        A snapshot may have the time 0, as the one in "WebSocket Channels" does: that is none.
        """
        found = _EVENT_TIME.search(data)
        if found is None:
            return call.now
        try:
            sent = iso_ns(found[1].decode("ascii", "replace"), "event_time")
            return call.venue_time(sent, "event_time") if sent else call.now
        except BadEvent:
            self.counts["impossible_times"] += 1
            return call.now

    def _book_missed(self, call: Call, sent: str) -> None:
        """Lose the book of a product, or every book when even its name is unknown: it missed a change."""
        named = self._aliases.resolve(sent)
        if named and not self._products.accepts(named):
            return
        names = (named,) if is_product_id(named) else self._products.names()
        if not names:
            return
        self.counts["gaps"] += 1
        for product in filter(None, map(self._products.get, names)):
            self._ledger.lose(call, product, GAP, {_BOOK}, detail="bad_frame", channel=_BOOK,
                              expected=call.sequence, received=call.sequence)  # fmt: skip
        self._repairs.lost(call, names, (_BOOK,), "bad_frame")

    # --- Trades ---

    def _trades_frame(self, call: Call, events: list[msgspec.Raw]) -> None:
        batches: dict[str, list[Numbered]] = {}
        snapshots: set[str] = set()
        whole = True

        def take(raw: msgspec.Raw) -> None:
            nonlocal whole
            event = messages.TRADES_EVENT.decode(raw)
            read, is_whole = self._read_each(call, event.trades, self._read_trade)
            whole = whole and is_whole
            for name, trades in read.items():
                batches.setdefault(name, []).extend(trades)
                if event.type == "snapshot":
                    snapshots.add(name)

        call.each(events, take)
        for name, batch in batches.items():
            self._take_trades(call, self._products[name], batch, snapshot=name in snapshots, whole=whole)

    def _read_trade(self, raw: msgspec.Raw) -> tuple[str, Numbered]:
        name, trade = messages.read_trade(raw)
        return self._aliases.resolve(name), (int(trade.trade_id), trade)

    def _take_trades(
        self, call: Call, product: Product, batch: list[Numbered], *, snapshot: bool, whole: bool
    ) -> None:  # fmt: skip
        batch.sort(key=itemgetter(0))
        if snapshot:
            self._came(call, _TRADES, product.name)
        is_live = self._liveness.is_open and self._wanted is not None
        skipped = numbered_trades.take(call, product, self._ledger, batch, snapshot=snapshot, whole=whole,
                                       final=not is_live)  # fmt: skip
        if snapshot and skipped:
            self._repairs.wait(_TRADES, product.name, call.ts, tries=1)
            call.out.append(Fetch(f"{PRODUCTS_PATH}/{product.name}/ticker?limit={LISTED_MAX}", _TRADES, product.name))
        elif skipped and (_TRADES, product.name) not in self._repairs:
            self.counts["gaps"] += 1
            self._repairs.lost(call, (product.name,), (_TRADES,), "trade_gap")

    def _answered(self, call: Call, request: Fetch) -> bool:
        if request.purpose != _TRADES:
            return False
        batches, whole = self._read_each(call, messages.REST_TRADES.decode(call.payload).trades, self._read_trade)
        product = self._products.get(request.symbol)
        if product is not None and request.symbol in batches:
            batch = sorted(batches[request.symbol], key=itemgetter(0))
            self._came(call, _TRADES, request.symbol)
            numbered_trades.take(call, product, self._ledger, batch, snapshot=True, whole=whole)
        return True

    # --- Tickers, heartbeats, states ---

    def _tickers(self, call: Call, raw: msgspec.Raw) -> None:
        for ticker in messages.TICKER_EVENT.decode(raw).tickers:
            product = self._find(call, ticker.product_id)
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
        sent = messages.go_time(messages.HEARTBEAT.decode(raw).current_time)
        self._vouch(call, call.venue_time(sent, "current_time") - VOUCH_NS)

    def _statuses(self, call: Call, raw: msgspec.Raw) -> None:
        for sent in messages.STATUS_EVENT.decode(raw).products:
            # This channel may list every product of the venue: only those that are traded here become events. Of a
            # product with two names, the configured one has its own currencies.
            if sent.id not in self._products and (self._wanted is None or not self._products.accepts(sent.id)):
                self.counts["ignored"] += 1
                continue
            status = state_of(sent, sent.status)
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

    def _fetch_products(self) -> Iterable[Fetch]:
        return (Fetch(path=PRODUCTS_PATH, purpose="products"),)

    def _learn_products(self, call: Call) -> None:
        learn_each(call, messages.REST_PRODUCTS.decode(call.payload).products, messages.REST_PRODUCT, self._learn_rest)

    def _learn_rest(self, call: Call, sent: RestProduct) -> None:
        self._aliases.learn(sent)
        self._products.know(call, sent.product_id, **rest_fields(sent))

    def _describe(self, name: str) -> Instrument:
        return describe(name)

    _takers: ClassVar[dict[str, Callable[[CoinbaseFeed, Call, msgspec.Raw], None]]] = {
        "l2_data": _book_raw,
        "ticker": _tickers,
        "heartbeats": _heartbeat,
        "status": _statuses,
        "subscriptions": _listed,
    }
