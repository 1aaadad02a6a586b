"""Coinbase Exchange, the older feed beside Advanced Trade: frames in, events out, from levels or from single orders.

1. Subscribe within 5 s of connecting ("Exchange WebSocket Overview"). `level2_batch` is `level2` in batches of 50 ms
   and needs no key; `full` sends every order. Which of them a product's book comes from is seen in the frames:
   whichever brings a book first. `level2` and `full` want each subscription signed ("Exchange WebSocket
   Authentication"); the shell's signer does it and names the channel. A key that is refused will be refused again, so
   that is final; what may pass is not. `subscriptions` answers each message with everything that the connection is
   subscribed to, `error` refuses one as a whole.
2. Levels: `snapshot`, then `l2update`s of absolute sizes, 0 removes. They have no number: the channel guarantees
   delivery ("Exchange WebSocket Channels"). What can be seen is seen: a change that cannot be read, and a book that is
   crossed while orders match, clear the book and subscribe again.
3. Orders: see `orders`. REST's book of level 3 is fetched when a book is missing.
4. `side` of `match`, of `last_match` and of REST's trades is the maker's ("Exchange WebSocket Channels": if it is sell,
   the maker was a sell order, an up-tick), so the aggressor is the opposite. Trade ids rise by one per product (held on
   a recording); `matches` may drop messages, and then REST's last trades are requested.
5. A `heartbeat` comes each second and has the last sequence and trade id of a product. What a heartbeat named and is
   not here when the next one comes is lost. Where all of it is here it vouches for everything until then, for levels,
   which have no numbers, until `VOUCH_NS` earlier. `silence_ns` without a frame mean a dead connection.
6. Channel `status` and REST `products` contain each product's state; while no orders match, events are `halted`.
7. An impossible time, such as 0001-01-01T00:00:00Z (Go's zero time), does not make the rest of a message wrong: book
   changes and quotes with one get the time at which the frame was received. A trade with one is a dead letter, because
   its time decides its candle; its id stays missing until REST's trades bring it. A heartbeat with one vouches for
   nothing.
8. Unknown types of messages are no error, new ones may come at any time ("Exchange WebSocket Overview"); each is a dead
   letter.

Sources: "Exchange WebSocket Overview", "Exchange WebSocket Channels", "Exchange WebSocket Authentication" and "Exchange
WebSocket Rate Limits" (overview, channels, authentication and rate-limits below
https://docs.cdp.coinbase.com/exchange/websocket-feed/).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal

from marketdata.book import L2Book
from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import CROSSED, GAP, SYMBOL, Instrument
from marketdata.feed import Fetch, Output, Refused
from producers.venues.coinbase_exchange import messages as sent
from producers.venues.coinbase_exchange.orders import OrderBooks, read_act, read_book
from producers.venues.coinbase_exchange.products import (
    PRODUCT,
    PRODUCTS,
    PRODUCTS_PATH,
    VENUE,
    ListedProduct,
    describe,
    learned,
)
from producers.venues.coinbase_exchange.trades import TradeNumbers, read_match
from producers.venues.kit import books, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.instruments import learn_each
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.numbered_orders import NumberedOrders, Whole
from producers.venues.kit.orders import Orders
from producers.venues.kit.products import Product
from producers.venues.kit.requests import Requests
from producers.venues.kit.values import UNREADABLE, given, iso_ns, price
from producers.venues.kit.venue import Signer

# "Exchange WebSocket Rate Limits": 8 requests to connect a second of one address (20 in a burst), and 100 messages a
# second. An account has at most 10 subscriptions to one channel of one product, which is one a connection.
LIMITS = Limits(messages=(Rate(100, 1),), connects=(Rate(8, 1),))

VOUCH_NS = SECOND_NS // 4
UNDER_WAY_MAX = 3  # a book of level 3 has megabytes

_BOOK, _TRADES = "level2", "matches"

# Error texts for a rejected key. They are not documented as a list, so they are matched by kind.
_UNAUTHORIZED = re.compile(
    r"authenticat|invalid (?:api )?key|invalid signature|invalid passphrase|ip .*whitelist", re.IGNORECASE
)
_PASSING = re.compile(r"timestamp|expired|too many|rate limit|internal|unavailable|time-?d? ?out", re.IGNORECASE)
_ADVICE = (
    "check COINBASE_EXCHANGE_API_KEY, _SECRET and _PASSPHRASE: Coinbase Exchange does not accept them for "
    "COINBASE_EXCHANGE_DEPTH"
)


class _State:
    """What a feed knows of one product besides the kit's. `kind`: what its book comes from, as far as was seen."""

    __slots__ = ("claimed", "kind", "levels", "orders")

    def __init__(self) -> None:
        self.orders = NumberedOrders()
        self.forget()

    def forget(self) -> None:
        """Start over, as after a reconnect."""
        self.kind: Literal["", "levels", "orders"] = ""
        self.levels = L2Book()
        self.orders.forget()
        self.claimed = (0, 0)  # the last sequence and trade id that a heartbeat named


class CoinbaseExchangeFeed(VenueFeed):
    """One line of Coinbase Exchange.

    `depth` is the channel to subscribe for books, unless the signer `token` names it; what comes is read whichever it
    is. `counts` also has snapshots_too_old, unknown_makers, unknown_orders and impossible_times.
    """

    venue = VENUE
    book_channel = _BOOK
    trades_channel = _TRADES
    silence_ns = 5 * SECOND_NS  # five heartbeats missed
    sequence_scope = SYMBOL
    awaited = (_BOOK,)
    limits = LIMITS

    def __init__(
        self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None,
        depth: sent.Depth = "level2_batch",
    ) -> None:  # fmt: skip
        self._depth: sent.Depth = depth if token is None else sent.LOGIN.decode(token(0)).channel
        is_full = self._depth == "full"
        self.book_subscription = self._depth
        self.trades_subscription = self._depth if is_full else _TRADES
        self.starts_with_data = () if is_full else (self._depth,)
        self.channels = tuple(dict.fromkeys((self._depth, self.trades_subscription, "ticker", "heartbeat")))
        super().__init__(line=line, products=products, token=token)
        self._sent = Orders()
        self._states: dict[str, _State] = {}
        self._requests = Requests(under_way_max=UNDER_WAY_MAX if products else None, weight_per_minute=None)
        self._trades = TradeNumbers(self.counts, self._ledger, self._requests)
        self._orders = OrderBooks(self.counts, snapshot=self._snapshot, lose=self._lose_orders, request=self._no_book)

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book of levels that is kept to see it cross; None for one of orders."""
        state = self._states.get(name)
        return state.levels if state is not None and state.kind == "levels" else None

    # --- The connection ---

    def opened(self, ts: int) -> list[Output]:
        """Subscribe; a book of orders is fetched once the subscription stands."""
        out = super().opened(ts)
        if self._depth == "full":
            for name in self._wanted or ():
                self._repairs.came(_BOOK, name)
        return out

    def _begin(self) -> None:
        super()._begin()
        self._requests.forget()
        self._sent.begin()

    def _forget(self, product: Product) -> None:
        if product.name in self._states:
            self._states[product.name].forget()

    def _introduce(self, call: Call) -> Iterable[Output]:
        self._sent.number("subscribe", "status", ())
        return (sent.subscription("subscribe", "status", (), self._sign(call.ts)),)

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterable[Output]:
        self._sent.number(verb, channel, names)
        return (sent.subscription(verb, channel, names, self._sign(call.ts) if verb == "subscribe" else {}),)

    def _sign(self, ts: int) -> Mapping[str, str]:
        """Return what signs one subscription, nothing where there is no key."""
        return {} if self._token is None else sent.LOGIN.decode(self._token(ts)).signed

    def _tick(self, call: Call) -> None:
        call.out += self._requests.due(call.ts)

    # --- Frames ---

    def _read(self, call: Call) -> None:
        try:
            message = sent.FRAME.decode(call.payload)
        except UNREADABLE as error:
            self._read_unknown(call, error)
        else:
            try:
                self._takers[type(message)](self, call, message)
            except BadEvent as error:
                call.dead_value(error)
                self._missed(call, getattr(message, "product_id", ""), is_match=type(message) is sent.Match)
        if self._requests.waiting:
            call.out += self._requests.due(call.ts)

    def _read_unknown(self, call: Call, error: Exception) -> None:
        """Take a frame that cannot be read: it may have been a book change, unless its head says that it was not."""
        try:
            kind = sent.KIND.decode(call.payload).type
        except UNREADABLE:
            kind = ""
        if kind in sent.UNUSED:
            self.counts["ignored"] += 1
            return
        if kind and kind not in sent.TAGS:
            call.dead("unknown_frame", str(error), field="type", value=kind[:200])
            return
        call.dead_frame(error)
        head = sent.head_of(call.payload)
        if head.kind not in sent.NO_BOOK:
            self._missed(call, head.name, is_match=head.kind == "match")

    def _heard(self, call: Call, time: str | None) -> int:
        """Return when something was, by the venue's clock, which never runs back; without a time it is now.

        Raises BadEvent here, because a change may wait for a snapshot before it is published.
        """
        if not time:
            return call.now
        ts = iso_ns(time, "time")
        self._advance(call, ts)
        return ts

    def _heard_or_now(self, call: Call, time: str | None) -> int:
        """Return when something was, as `_heard`, or when its frame was received where that time is impossible."""
        try:
            return self._heard(call, time)
        except BadEvent:
            self.counts["impossible_times"] += 1
            return call.ts

    def _find(self, call: Call, name: str) -> tuple[Product, _State] | None:
        product = self._products.find(call, name)
        if product is None:
            return None
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = _State()
        return product, state

    # --- What is lost, and how it is requested again ---

    def _missed(self, call: Call, name: str, *, is_match: bool = False) -> None:
        """Clear the book that may have missed a change, all where its name is unknown; a match changes no levels."""
        for found in (name,) if name in self._states else tuple(self._states):
            state, product = self._states[found], self._products[found]
            is_levels = state.kind == "levels"
            if not is_levels:
                state.orders.miss()
            if product.book_valid and not (is_levels and is_match):
                if is_levels:
                    self._lose_levels(call, product, state, GAP, "bad_frame")
                else:
                    self._lose_orders(call, product, "bad_frame")

    def _lose_levels(self, call: Call, product: Product, state: _State, reason: str, detail: str) -> None:
        self.counts["gaps"] += 1
        self._ledger.lose(call, product, reason, {_BOOK}, detail=detail, channel=_BOOK)
        state.levels.clear()
        self._repairs.lost(call, (product.name,), (_BOOK,), detail)

    def _lose_orders(
        self, call: Call, product: Product, detail: str, *, expected: int | None = None, received: int | None = None
    ) -> None:
        self.counts["gaps"] += 1
        self._ledger.lose(call, product, GAP, {_BOOK}, detail=detail, channel="full", expected=expected,
                          received=received)  # fmt: skip
        self._request_book(call, product.name, detail)

    def _no_book(self, call: Call, product: Product, reason: str) -> None:
        if self._states[product.name].kind == "orders":
            self._request_book(call, product.name, reason)

    def _request_book(self, call: Call, name: str, reason: str) -> None:
        if ("book", name) not in self._requests:
            self._requests.ask(Fetch(f"products/{name}/book?level=3", "book", name))
            self._report_resync(call, name, reason)

    def _report_resync(self, call: Call, name: str, reason: str) -> None:
        product = self._products.get(name)
        if product is not None and product.gap is not None:
            self.counts["resyncs"] += 1
            call.status(product.symbol, "resync", product.gap, reason=reason, channel=_BOOK)

    # --- Books from levels ---

    def _take_snapshot(self, call: Call, message: sent.Snapshot) -> None:
        found = self._find(call, message.product_id)
        if found is None:
            return
        columns = sent.columns(message.bids, message.asks)
        ts_event = self._heard_or_now(call, message.time)
        product, state = found
        if state.orders.at is not None:
            self.counts["ignored"] += 1
            return
        state.kind = "levels"
        state.orders.forget()
        state.levels.replace(columns)
        self._snapshot(call, product, ts_event, columns)

    def _take_update(self, call: Call, message: sent.L2Update) -> None:
        found = self._find(call, message.product_id)
        if found is None:
            return
        changes = message.changes
        columns = sent.columns([change for change in changes if change.side == "buy"],
                           [change for change in changes if change.side == "sell"])  # fmt: skip
        ts_event = self._heard_or_now(call, message.time)
        product, state = found
        if state.kind == "orders":
            self.counts["ignored"] += 1
            return
        if product.book_valid:
            state.levels.apply(columns)
            if state.levels.is_crossed() and product.validity["valid"]:
                self._lose_levels(call, product, state, CROSSED, "crossed")
                return
        books.update(call, product, ts_event, columns)

    # --- Books from orders ---

    def _take_order(self, call: Call, message: sent.OrderMessage) -> None:
        """Take a message of one order; a match is a trade besides."""
        found = self._find(call, message.product_id)
        if found is None:
            return
        act = read_act(message, self._heard_or_now(call, message.time))
        is_match = isinstance(message, sent.Match)
        trade = read_match(call, message) if isinstance(message, sent.Match) else None
        product, state = found
        call.sequence = message.sequence
        if not is_match and state.kind != "levels" and message.sequence is not None:
            state.kind = "orders"
        if state.kind == "levels" or message.sequence is None:
            self.counts["ignored"] += not is_match
        elif type(message) is sent.Open and not message.time:
            state.orders.row(act)
        else:
            self._orders.take(call, product, state.orders, act)
        if trade is not None:
            self._trades.take(call, product, trade)

    def _answered(self, call: Call, request: Fetch) -> bool:
        match request.purpose:
            case "book":
                self._rest_book(call, request)
            case "trades":
                self._trades.take_rest(call, request, self._products.get(request.symbol))
            case _:
                return False
        call.out += self._requests.due(call.ts)
        return True

    def _rest_book(self, call: Call, request: Fetch) -> None:
        answer = sent.REST_BOOK.decode(call.payload)
        number, book = read_book(answer)
        ts = self._rest_time(call, answer.time)
        found = self._find(call, request.symbol)
        self._requests.came(request)
        if found is None or found[1].kind == "levels" or found[1].orders.at is not None:
            self.counts["ignored"] += 1
            return
        product, state = found
        state.kind = "orders"
        if not self._orders.join(call, product, state.orders, Whole(number, ts, book)):
            self._requests.again(request, call.ts)
            self._report_resync(call, product.name, "useless_snapshot")

    def _rest_time(self, call: Call, time: str) -> int:
        if not time:
            return call.now
        try:
            return call.venue_time(iso_ns(time, "time"), "time")
        except BadEvent:
            self.counts["impossible_times"] += 1
            return call.ts

    # --- Trades ---

    def _last_match(self, call: Call, message: sent.LastMatch) -> None:
        with call.refusing("bad_frame"):
            found = self._find(call, message.product_id)
            if found is not None:
                self._heard(call, message.time)
                call.sequence = message.sequence
                self._trades.take(call, found[0], sent.read_trade(message))
                self._trades.account(call, found[0])

    # --- Tickers, heartbeats, states ---

    def _ticker(self, call: Call, message: sent.Ticker) -> None:
        with call.refusing("bad_frame"):
            found = self._find(call, message.product_id)
            if found is None:
                return
            ts_event = self._heard_or_now(call, message.time)
            call.sequence = message.sequence
            quotes.send(
                call, found[0], ts_event,
                bid=price(message.best_bid, "best_bid"), bid_size=given(message.best_bid_size, "best_bid_size"),
                ask=price(message.best_ask, "best_ask"), ask_size=given(message.best_ask_size, "best_ask_size"),
                last=price(message.price, "price"), volume_24h=given(message.volume_24h, "volume_24h"),
                high_24h=price(message.high_24h, "high_24h"), low_24h=price(message.low_24h, "low_24h"),
            )  # fmt: skip

    def _heartbeat(self, call: Call, message: sent.Heartbeat) -> None:
        with call.refusing("bad_frame"):
            found = self._find(call, message.product_id)
            if found is None:
                return
            self.counts["heartbeats"] += 1
            ts_event = self._heard(call, message.time)
            product, state = found
            claimed, state.claimed = state.claimed, (message.sequence, message.last_trade_id)
            self._vouch_for_book(call, product, state, ts_event, claimed[0])
            self._trades.vouch(call, product, ts_event, claimed[1], message.last_trade_id)

    def _vouch_for_book(self, call: Call, product: Product, state: _State, ts: int, claimed: int) -> None:
        at = state.orders.at
        if at is None:
            if product.book_valid:
                books.heartbeat(call, product, ts - VOUCH_NS)
        elif at < claimed:
            state.orders.miss(floor=claimed)
            self._lose_orders(call, product, "heartbeat", expected=at + 1, received=claimed)
        elif at >= state.claimed[0]:
            call.sequence = at
            books.heartbeat(call, product, ts)
            call.sequence = None

    def _status(self, call: Call, message: sent.Status) -> None:
        learn_each(call, message.products, PRODUCT, self._learn_status)

    def _learn_status(self, call: Call, listed: ListedProduct) -> None:
        # This channel lists every product of the venue: only those that are traded here become events.
        if listed.id not in self._products and (self._wanted is None or not self._products.accepts(listed.id)):
            self.counts["ignored"] += 1
        elif (product := self._products.find(call, listed.id)) is not None:
            self._products.learn(call, product, **learned(listed, product.instrument))

    def _fetch_products(self) -> Iterable[Fetch]:
        return (Fetch(PRODUCTS_PATH, "products"),)

    def _learn_products(self, call: Call) -> None:
        learn_each(call, PRODUCTS.decode(call.payload), PRODUCT, self._learn_rest)

    def _learn_rest(self, call: Call, listed: ListedProduct) -> None:
        if self._products.accepts(listed.id):
            known = self._products.get(listed.id)
            self._products.know(call, listed.id, **learned(listed, known.instrument if known else describe(listed.id)))

    def _describe(self, name: str) -> Instrument:
        return describe(name)

    # --- Subscriptions ---

    def _listed(self, call: Call, message: sent.Subscriptions) -> None:
        """Take the list of everything that the connection is subscribed to, which answers our oldest message."""
        listed = {(self._channel_of(one.name), name) for one in message.channels for name in one.product_ids}
        for channel, name in self._take_list(call, listed, self._sent.oldest()):
            if channel == "full":
                self._subscribed_orders(call, name)

    def _channel_of(self, listed: str) -> str:
        # The list may have another name for the channel of books than the one that was requested (level2_50).
        return self._depth if listed.startswith(_BOOK) and self._depth.startswith(_BOOK) else listed

    def _subscribed_orders(self, call: Call, name: str) -> None:
        """Fetch a book of orders: their messages come from now on, so that it can be joined to them, however quiet."""
        state = self._states.get(name)
        if self._wanted is not None and (state is None or (state.kind != "levels" and state.orders.at is None)):
            self._request_book(call, name, "no_book")

    def _error(self, call: Call, message: sent.Error) -> None:
        said = f"{message.message}: {message.reason}" if message.reason else message.message
        call.dead("venue_error", said, field="message", value=said[:200])
        if self._wanted and _UNAUTHORIZED.search(said) and not _PASSING.search(said):
            call.out.append(Refused("auth_failed", _ADVICE))
        else:
            self._refused_message(call, self._sent.oldest(), said)

    _takers: ClassVar[dict[type, Callable[[CoinbaseExchangeFeed, Call, Any], None]]] = {
        sent.L2Update: _take_update,
        sent.Snapshot: _take_snapshot,
        **dict.fromkeys(
            (sent.Received, sent.Activate, sent.Open, sent.Done, sent.OrderChange, sent.Match), _take_order
        ),
        sent.LastMatch: _last_match,
        sent.Ticker: _ticker,
        sent.Heartbeat: _heartbeat,
        sent.Status: _status,
        sent.Subscriptions: _listed,
        sent.Error: _error,
    }
