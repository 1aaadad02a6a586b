"""Bybit v5: public market data of one market, frames in, events out.

Documents: Bybit API v5, https://bybit-exchange.github.io/docs/v5/: "Connect" (/ws/connect), and of its WebSocket
streams (/websocket/public/) "Orderbook", "Trade", "Ticker" and "All Liquidation"; of REST (/market/) "Get Instruments
Info" and "Get Public Recent Trading History". "Recorded" is what was checked on a recording.

1. Each market (spot, linear, inverse) has a socket of its own, and the same name means different products there
   (`names`). The market of a live line comes from the settings; that of a recording is found by `feed_mixed`.
2. Subscribe to orderbook.200, publicTrade and tickers, and to allLiquidation where there are positions. The answer has
   our `req_id`; with `success` false none of the message's topics is subscribed, so that each product is requested
   again by itself, and only the one at fault is refused. Send a ping every 20 s ("Connect"); 30 s without a frame are
   a dead connection.
3. `orderbook.N`: a `snapshot` always replaces the book, also in the middle, also with `u` = 1 after a restart of the
   service; `delta` sets absolute sizes, 0 removes ("Orderbook"). `u` rises by one with each delta of a topic
   (recorded): a skipped one clears the book and subscribes again. One depth is primary for a book: the first.
   `orderbook.1` is a quote here, the best of a book of its own: its deltas too set absolute sizes, 0 removes, and a
   side that did not change is left out. After a skipped `u` it has no sides until its next snapshot. `orderbook.rpi`,
   with the orders of price improvement, is another book and ignored. `cts` is the matching engine's time.
4. `publicTrade`: `S` is the taker's side ("Trade": side of taker). No order of ids is documented. After a loss REST's
   recent trades must reach back to one that was published before it; they are requested once, and again only when no
   answer came.
5. `tickers`: a delta has only the fields that changed ("Ticker"). Spot tickers have no bid and ask. Those of
   derivatives have mark and index price, open interest and funding as well: each is published as it was sent.
6. `allLiquidation` has every liquidation of the last 500 ms, at its bankruptcy price. `S` is the position's side: `Buy`
   means that a long position was liquidated, which its order sells ("All Liquidation").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from marketdata.book import L2Book
from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent, SettingsError
from marketdata.events import GAP, SYMBOL, Instrument, Liquidation, Trade
from marketdata.feed import Fetch, Output, Send
from producers.venues.bybit.messages import (
    ANSWER,
    BOOK_FRAME,
    DERIVED,
    FRAME,
    ITEMS,
    LIQUIDATION,
    LISTED,
    REST_TRADE,
    TICKER,
    TRADE,
    BookFrame,
    Frame,
    read_quoted,
    read_rest_trade,
    read_trade,
)  # fmt: skip
from producers.venues.bybit.names import SPOT, VENUE, Listed, describe, listed_fields
from producers.venues.kit import books, derivatives, listed_trades, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.instruments import learn_each
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.orders import Orders
from producers.venues.kit.outstanding import ASKED_NS
from producers.venues.kit.products import Product
from producers.venues.kit.trade_ids import Recent
from producers.venues.kit.values import Columns, levels, ms_ns
from producers.venues.kit.venue import Signer

PING_NS = 20 * SECOND_NS
QUIET_NS = 5 * SECOND_NS
RESTARTED = 1  # the `u` of a snapshot after a restart of the service
LIST_PAGES_MAX = 20
# "Connect": 10 topics a message on the spot market, 21,000 characters of topics on a connection (of 130 a product with
# the longest name), and 500 connections of an address in five minutes.
LIMITS = Limits(products=150, arguments=10, connects=(Rate(500, 300),))

_BOOK, _TRADES, _TICKERS, _LIQUIDATIONS = "orderbook", "publicTrade", "tickers", "allLiquidation"
_DEPTH = "orderbook.200"
_HEAD_BYTES = 200  # a frame's topic, type and time
_BOOK_START = re.compile(rb'{"topic":"orderbook\.\d')
_HEAD = re.compile(rb'"topic":\s*"(\w+)(?:\.[A-Za-z0-9]+)?\.([A-Za-z0-9.-]+)"')


class _State:
    """What one product's channels sent last."""

    __slots__ = ("best", "best_last", "last", "recent", "ticker", "topic", "ts_asked")

    def __init__(self) -> None:
        self.topic = ""
        self.last: int | None = None  # `u` of the last change
        self.recent = Recent()
        self.best = L2Book()  # of orderbook.1
        self.best_last: int | None = None  # `u` of its last change, None until a snapshot
        self.ticker: dict[str, str | None] = {}  # as quotes have it
        self.ts_asked: int | None = None  # when REST's trades were requested since the last loss


class BybitFeed(VenueFeed):
    """One line of one market of Bybit; products are names such as BTCUSDT. `heartbeats` counts pongs.

    Raises SettingsError for a product that is no name, or an option.
    """

    venue = VENUE
    book_channel = _BOOK
    trades_channel = _TRADES
    awaited = (_BOOK,)
    book_subscription = _DEPTH
    silence_ns = 30 * SECOND_NS
    ping = b'{"op":"ping"}'
    sequence_scope = SYMBOL
    limits = LIMITS

    def __init__(
        self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None, market: str = SPOT,
    ) -> None:  # fmt: skip
        self._market = market
        for name in products or ():
            try:
                describe(name, market)
            except BadEvent as error:
                raise SettingsError(f"{VENUE.upper()}_PRODUCTS: {error}") from error
        self.channels = (_DEPTH, _TRADES, _TICKERS) if market == SPOT else (_DEPTH, _TRADES, _TICKERS, _LIQUIDATIONS)
        super().__init__(line=line, products=products, token=token)
        self._orders = Orders()
        self._states: dict[str, _State] = {}
        self._ts_ping = self._ts_opened = 0
        self._pages = 0

    def keep_alive(self, ts: int) -> None:
        """Note that the connection is alive: a frame of another market came on it."""
        self._liveness.ts_heard = ts

    def share(self, counts: Counter[str]) -> None:
        """Count together with the feeds of other markets of the same line."""
        self._line.counts = self.counts = counts

    # --- What is sent to the venue ---

    def opened(self, ts: int) -> list[Output]:
        """Subscribe to every topic and ask for the products' increments."""
        self._ts_ping = self._ts_opened = ts
        return super().opened(ts)

    def _begin(self) -> None:
        super()._begin()
        self._orders.begin()

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> list[Output]:
        del call
        topics = [f"{self._topic(channel, name)}.{name}" for name in names]
        order = {"op": verb, "args": topics, "req_id": str(self._orders.number(verb, channel, names))}
        return [Send(msgspec.json.encode(order))]

    def _topic(self, channel: str, name: str) -> str:
        """Return what a channel is called in topics: for books, that of the product's primary depth."""
        state = self._states.get(name) if channel == _DEPTH else None
        return state.topic if state is not None and state.topic else channel

    def _again(self, call: Call, channel: str, names: Collection[str]) -> Iterable[Output]:
        """Subscribe to books again; trades come by REST."""
        return super()._again(call, channel, names) if channel == _BOOK else ()

    def _fetch_products(self) -> list[Fetch]:
        self._pages = 0
        return [self._list("")]

    def _list(self, cursor: str) -> Fetch:
        self._pages += 1
        path = f"v5/market/instruments-info?category={self._market}&status=Trading&limit=1000"
        return Fetch(f"{path}&cursor={cursor}" if cursor else path, "products")

    def _tick(self, call: Call) -> None:
        if call.ts - self._ts_ping >= PING_NS:
            self._ts_ping = call.ts
            call.out.append(Send(self.ping))
        if call.ts - self._ts_opened >= QUIET_NS:
            for product in self._products:  # of which nothing was traded since
                is_live = self._subscriptions.is_live(_TRADES, product.name, self._mark(_TRADES, product.name))
                if is_live and self._ledger.is_pending(product, _TRADES):
                    self._ask_trades(call, product)

    def _ask_trades(self, call: Call, product: Product) -> None:
        """Request REST's recent trades, unless the answer may still come."""
        state = self._state(product.name)
        if state.ts_asked is None or call.ts - state.ts_asked >= ASKED_NS:
            state.ts_asked = call.ts
            limit = 60 if self._market == SPOT else 1000
            path = f"v5/market/recent-trade?category={self._market}&symbol={product.name}&limit={limit}"
            call.out.append(Fetch(path, "trades", product.name))

    # --- Frames ---

    def _read(self, call: Call) -> None:
        if _BOOK_START.match(call.payload) is not None:
            self._book(call, BOOK_FRAME.decode(call.payload))
            return
        frame = FRAME.decode(call.payload)
        topic, _, name = frame.topic.rpartition(".")
        if topic == _TRADES:
            self._event_time(call, frame.ts, ms_ns, "ts")
            self._take_trades(call, frame.data)
        elif topic == _TICKERS:
            self._ticker(call, name, frame)
        elif topic == _LIQUIDATIONS:
            self._liquidations(call, name, frame)
        elif topic.startswith(_BOOK) and topic[len(_BOOK) + 1 :].isdigit():  # written another way
            self._book(call, BOOK_FRAME.decode(call.payload))
        elif frame.topic:
            self.counts["ignored"] += 1
        else:
            self._control(call, frame)

    def _control(self, call: Call, frame: Frame) -> None:
        if frame.op in {"ping", "pong"}:
            self.counts["heartbeats"] += 1
        elif frame.op in {"subscribe", "unsubscribe"}:
            self._ordered(call, frame)
        elif frame.op and not frame.success:
            call.dead("venue_error", frame.message or "", field="op", value=frame.op[:200])
        else:
            raise BadEvent("unknown_frame", "topic", call.payload[:100].decode(errors="replace"))

    def _ordered(self, call: Call, frame: Frame) -> None:
        """Take the answer to a subscription; a recording may have those of messages that were not ours."""
        order = self._orders.answered(frame.number) if frame.number else self._orders.oldest()
        if not frame.success:
            call.dead("venue_error", frame.message or "", field="op", value=frame.op[:200])
            self._refused_message(call, order, frame.message or "")
        elif order is not None and order.verb == "subscribe":
            for name in order.names:
                self._acknowledged(call, order.channel, name)

    def _state(self, name: str) -> _State:
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = _State()
        return state

    # --- Losses ---

    def missed(self, ts: int) -> list[Output]:
        """Lose what a frame may have changed that names nothing, and that another market's feed could not read."""
        call = self._call(ts)
        self._unreadable(call)
        return call.out

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        head = _HEAD.search(payload[:_HEAD_BYTES])
        return (None, (_BOOK, _TRADES, _TICKERS)) if head is None else ((head[2].decode(),), (head[1].decode(),))

    def _unreadable(self, call: Call) -> None:
        super()._unreadable(call)
        names, channels = self._concerned(call.payload)
        for product in self._products if names is None else filter(None, map(self._products.get, names)):
            if _TRADES in channels and (names is not None or product.ts_trade is not None):
                self._trades_missed(call, product)
            if _TICKERS in channels:
                self._ticker_missed(call, product)

    def _trades_missed(self, call: Call, product: Product) -> None:
        """Ids do not show missing trades here, so REST's recent trades are requested."""
        if not self._ledger.is_pending(product, _TRADES):
            self.counts["gaps"] += 1
            self._ledger.lose(call, product, GAP, {_TRADES}, detail="bad_frame", channel=_TRADES)
        self._ask_trades(call, product)

    def _ticker_missed(self, call: Call, product: Product) -> None:
        """Ask for a new snapshot: which fields have changed is not known."""
        state = self._state(product.name)
        if state.ticker:
            state.ticker = {}
            call.out += [*self._unsubscribe(call, _TICKERS, (product.name,)),
                         *self._request(call, _TICKERS, (product.name,))]  # fmt: skip

    def _forget(self, product: Product) -> None:
        state = self._states.get(product.name)
        if state is not None:
            state.last = None
            state.recent = Recent()

    def _lose_all(self, call: Call, reason: str) -> None:
        super()._lose_all(call, reason)
        for state in self._states.values():
            state.best_last = state.ts_asked = None
            state.ticker = {}

    # --- Books ---

    def _book(self, call: Call, frame: BookFrame) -> None:
        sent = frame.data
        product = self._products.find(call, sent.name)
        if product is None:
            return
        state = self._states.get(sent.name) or self._state(sent.name)
        ts_sent = self._event_time(call, frame.ts, ms_ns, "ts")
        columns = (*levels(sent.bids, "b"), *levels(sent.asks, "a"))
        topic = frame.topic.rpartition(".")[0]
        if topic == "orderbook.1":
            self._best(call, product, state, frame, columns)
            return
        ts_event = self._event_time(call, frame.matched, ms_ns, "cts") if frame.matched else ts_sent
        is_snapshot = frame.type == "snapshot"
        if topic != state.topic:
            if not is_snapshot or product.book_valid:
                self.counts["ignored" if product.book_valid else "deltas_before_snapshot"] += 1
                return
            state.topic = topic
        if not self._is_next(call, product, state, frame):
            return
        state.last = call.sequence = sent.update
        if is_snapshot:
            self._snapshot(call, product, ts_event, columns)
        else:
            books.update(call, product, ts_event, columns, even_empty=True)

    def _is_next(self, call: Call, product: Product, state: _State, frame: BookFrame) -> bool:
        """Return whether a change follows the one before; one that does not, and was not seen, is a loss."""
        number = frame.data.update
        is_new = state.recent.is_new((frame.type, number, frame.data.cross, frame.ts))
        if not product.book_valid or state.last is None:
            self.counts["deltas_before_snapshot"] += frame.type == "delta"
            return frame.type == "snapshot"
        if not is_new:
            self.counts["duplicates"] += 1
            return False
        if frame.type == "snapshot" or number == state.last + 1:
            return True
        self._lose(call, (product,), (_BOOK,), GAP, "sequence", expected=state.last + 1, received=number)
        return False

    def _best(self, call: Call, product: Product, state: _State, frame: BookFrame, columns: Columns) -> None:
        """Publish the best levels that orderbook.1 leaves."""
        ts_event = self._event_time(call, frame.matched or frame.ts, ms_ns, "cts")
        books.check(call, product, ts_event, columns)
        number, last = frame.data.update, state.best_last
        is_lost = False
        if frame.type == "snapshot" or number == RESTARTED:
            state.best.replace(columns)
        elif last is None:
            self.counts["deltas_before_snapshot"] += 1
            return
        elif number <= last:
            self.counts["duplicates"] += 1
            return
        elif number > last + 1:
            self.counts["gaps"] += 1
            is_lost = True
            state.best.clear()
        else:
            state.best.apply(columns)
        state.best_last = None if is_lost else number
        for side, level in zip(("bid", "ask"), state.best.best(), strict=True):
            state.ticker[side], state.ticker[f"{side}_size"] = level or (None, None)
        quotes.send(call, product, ts_event, **state.ticker, reason=GAP if is_lost else None)

    # --- Trades ---

    def _take_trades(self, call: Call, data: msgspec.Raw) -> None:
        def read(raw: msgspec.Raw) -> tuple[str, Trade]:
            sent = TRADE.decode(raw)
            return sent.name, read_trade(sent, ms_ns(sent.ms, "T"))

        batches, whole = self._read_each(call, ITEMS.decode(data), read)
        if not whole:
            self._unreadable(call)
        for name, batch in batches.items():
            product = self._products[name]
            listed_trades.take(call, product, self._ledger, batch, again="duplicates")
            if self._ledger.is_pending(product, _TRADES):
                self._ask_trades(call, product)

    def _answered(self, call: Call, request: Fetch) -> bool:
        """Take REST's recent trades, newest first, where some may be missing."""
        product = self._products.get(request.symbol) if request.purpose == "trades" else None
        if product is None:
            return False
        batch: list[Trade] = []
        items = reversed(ANSWER.decode(call.payload).result.items)
        whole = call.each(items, lambda raw: batch.append(read_rest_trade(REST_TRADE.decode(raw))), "bad_trades")
        reaches_back = listed_trades.take(call, product, self._ledger, batch, again="repeats", origin="repair")
        listed_trades.end_loss(call, product, self._ledger, whole=whole and reaches_back)
        return True

    # --- Tickers and liquidations ---

    def _ticker(self, call: Call, name: str, frame: Frame) -> None:
        product = self._products.find(call, name)
        if product is None:
            return
        if frame.ts:
            self._event_time(call, frame.ts, ms_ns, "ts")
        sent = TICKER.decode(frame.data)
        state = self._state(name)
        if frame.type == "snapshot":
            state.ticker = {}
        state.ticker |= read_quoted(sent)  # raises before anything is kept
        quotes.send(call, product, call.now, **state.ticker)
        if self._market != SPOT:
            derived: dict[str, Any] = {}
            for key, value in sent.items():
                if key in DERIVED:
                    field, read = DERIVED[key]
                    derived |= derivatives.read(call, read, **{field: value})
            if derived:
                derivatives.send(call, product, call.now, **derived)

    def _liquidations(self, call: Call, name: str, frame: Frame) -> None:
        product = self._products.find(call, name)
        if product is None:
            return
        self._event_time(call, frame.ts, ms_ns, "ts")
        found: list[Liquidation | None] = []

        def take(raw: msgspec.Raw) -> None:
            sent = LIQUIDATION.decode(raw)
            side = "sell" if sent.position == "Buy" else "buy"
            found.append(derivatives.liquidation(call, ts_event=ms_ns(sent.ms, "T"), side=side, price=sent.price,
                                                 size=sent.size))  # fmt: skip

        call.each(ITEMS.decode(frame.data), take, "bad_liquidation")
        derivatives.send(call, product, call.now, liquidations=found)

    # --- Products ---

    def _describe(self, name: str) -> Instrument:
        return describe(name, self._market)

    def _learn_products(self, call: Call) -> None:
        result = ANSWER.decode(call.payload).result
        if result.category != self._market:
            self.counts["ignored"] += 1
            return
        learn_each(call, result.items, LISTED, self._learn)
        if result.cursor and self._pages < LIST_PAGES_MAX:
            call.out.append(self._list(result.cursor))

    def _learn(self, call: Call, sent: Listed) -> None:
        self._products.know(call, sent.symbol, **listed_fields(sent))
