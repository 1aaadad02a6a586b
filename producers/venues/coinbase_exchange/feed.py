"""Coinbase Exchange, the older feed beside Advanced Trade: frames in, events out, from levels or from single orders.

Theory of operation, with the source of each step. DOCS is Coinbase's "Exchange WebSocket Overview", "Exchange WebSocket
Channels" and REST "Get product book" and "Get product trades"; RULES is the project's own list of venue rules.

1. Subscribe within 5 s of connecting (DOCS). `level2_batch` is `level2` in batches of 50 ms and needs no key; `full`
   tells every order. Which of them a product's book comes from is seen in the frames: whichever brings a book first.
   `level2` and `full` want each subscription signed ("Exchange WebSocket Authentication"); the shell's signer does it
   and names the channel. A key that is refused will be refused again, so that is final; what may pass is not.
2. Levels: `snapshot`, then `l2update`s of absolute sizes, 0 removes. They have no number: the channel guarantees
   delivery (DOCS). What can be seen is seen: a change that cannot be read, and a book that is crossed while orders
   match, clear the book and subscribe again.
3. Orders: `sequence` rises by one per product over the messages of `full` (DOCS). They wait while the REST book of
   level 3 is fetched; those up to its sequence are in it, the rest are played on top, and from then on each must follow
   the one before it (DOCS). A skipped number clears the book and starts over.
   `open` enters an order, `change` gives it another size or price, a `match` takes its size from the maker's, `done`
   takes it away. `done` and `change` of orders that do not rest in the book are normal and ignored, and so is a price
   of null, which is a market order's (DOCS). A match with a maker that is not in the book proves the book wrong, and so
   does the cancel of an order that is neither there nor was received since: it rested, so the snapshot was not whole.
   (On the recording no message does, and without the best 7 of its 7,109 orders the 11th one shows it.)
   Some recorders write the book as `open` messages of one sequence without a time: these are a snapshot too.
4. `side` of `match`, of `last_match` and of REST's trades is the maker's (DOCS: if it is sell, the maker was a sell
   order, an up-tick), so the aggressor is the opposite. Trade ids rise by one per product (checked on a recording);
   `matches` may drop messages (DOCS), and then REST's last trades are asked.
5. A `heartbeat` comes each second and names the last sequence and trade id (DOCS). What a heartbeat named and is not
   here when the next one comes is lost. Where all of it is here it vouches for everything until then, for levels, which
   have no numbers, until `VOUCH_NS` earlier. `SILENCE_NS` without a frame mean a dead connection.
6. Channel `status` and REST `products` contain each product's state; while no orders match, events are `halted`.
7. An impossible time, such as 0001-01-01T00:00:00Z (Go's zero time), does not make the rest of a message wrong: book
   changes and quotes with one get the time at which the frame was received. A trade with one is a dead letter, because
   its time decides its candle; its id stays missing until REST's trades bring it. A heartbeat with one vouches for
   nothing.
8. Types of messages that are not known here are no error, new ones may come at any time (DOCS); each is a dead letter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import attrgetter, itemgetter
from typing import Any, ClassVar, Literal

import msgspec

from marketdata.book import L2Book
from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import CROSSED, GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Refused, Send
from marketdata.orders import ASK, BID, Level, OrderBook, Scale
from producers.venues.kit import books, idle, numbered_trades, quotes, trades
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing, learn_each
from producers.venues.kit.liveness import Liveness
from producers.venues.kit.numbered_orders import Act, NumberedOrders, Whole
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.repairs import Repairs
from producers.venues.kit.requests import Requests
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

PRODUCTS_PATH = "products"
SILENCE_NS = 5 * SECOND_NS  # five heartbeats missed
VOUCH_NS = SECOND_NS // 4
UNDER_WAY_MAX = 3  # a book of level 3 has megabytes

_BOOK, _TRADES = "level2", "matches"
_SCALE = Scale(18)  # the venue's finest increments have fewer decimals

_PRODUCT_ID = re.compile(r"[A-Z0-9][A-Z0-9.]{0,19}(-[A-Z0-9.]{1,20}){1,3}", re.ASCII)
_TYPE = re.compile(rb'"type":\s*"(\w{1,40})"')
_NAMED = re.compile(rb'"product_id":\s*"([A-Z0-9.\-]{1,80})"')
_HEAD_BYTES = 1_000  # an order's message is shorter, and a snapshot begins with its names

_STATES = {"online": "online", "offline": "halted", "internal": "halted", "delisted": "delisted"}
_TAGS = frozenset(
    {"snapshot", "l2update", "received", "activate", "open", "done", "change", "match", "last_match", "ticker",
     "heartbeat", "status", "subscriptions", "error"}
)  # fmt: skip
# Frames that change no book, whatever they hold.
_NO_BOOK = frozenset({"ticker", "heartbeat", "last_match", "status", "subscriptions", "error", "auction"})
_UNUSED = frozenset({"auction", "rfq_match", "balance", "profile"})

# Error texts for a rejected key. They are not documented as a list, so they are matched by kind.
_UNAUTHORIZED = re.compile(
    r"authenticat|invalid (?:api )?key|invalid signature|invalid passphrase|ip .*whitelist", re.IGNORECASE
)
_PASSING = re.compile(r"timestamp|expired|too many|rate limit|internal|unavailable|time-?d? ?out", re.IGNORECASE)
_ADVICE = (
    "check COINBASE_EXCHANGE_API_KEY, _SECRET and _PASSPHRASE: Coinbase Exchange does not accept them for "
    "COINBASE_EXCHANGE_DEPTH"
)

Depth = Literal["level2_batch", "level2", "full"]

# --- What the venue sends. Fields that are not used are not named. ---

_Side = Literal["buy", "sell"]


class _PriceSize(msgspec.Struct, array_like=True, gc=False):
    price: Text
    size: Text


class _Change(msgspec.Struct, array_like=True, gc=False):
    side: _Side
    price: Text
    size: Text


class _Snapshot(msgspec.Struct, tag_field="type", tag="snapshot"):
    product_id: str
    bids: list[_PriceSize]
    asks: list[_PriceSize]
    time: str | None = ""


class _L2Update(msgspec.Struct, tag_field="type", tag="l2update"):
    product_id: str
    changes: list[_Change]
    time: str | None = ""


class _Received(msgspec.Struct, tag_field="type", tag="received", gc=False):
    product_id: str
    sequence: Number
    time: str
    order_id: str = ""


class _Activate(msgspec.Struct, tag_field="type", tag="activate", gc=False):
    product_id: str
    sequence: Number | None = None  # documented without one
    time: str = ""


class _Open(msgspec.Struct, tag_field="type", tag="open", gc=False):
    product_id: str
    sequence: Number
    order_id: Text
    side: _Side
    price: Text
    remaining_size: Text
    time: str = ""  # empty where some recorders write a book


class _Done(msgspec.Struct, tag_field="type", tag="done", gc=False):
    product_id: str
    sequence: Number
    time: str
    order_id: Text
    price: str | None = None
    reason: str = ""


class _OrderChange(msgspec.Struct, tag_field="type", tag="change", gc=False):
    product_id: str
    sequence: Number
    time: str
    order_id: Text
    price: Text | None = None
    new_price: Text | None = None
    new_size: Text | None = None


class _Match(msgspec.Struct, tag_field="type", tag="match", gc=False):
    product_id: str
    trade_id: Number
    time: str
    side: _Side
    price: Text
    size: Text
    sequence: Number | None = None
    maker_order_id: str = ""


class _LastMatch(_Match, tag_field="type", tag="last_match", gc=False):
    """The last trade before the subscription began."""


class _Ticker(msgspec.Struct, tag_field="type", tag="ticker", gc=False):
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


class _Heartbeat(msgspec.Struct, tag_field="type", tag="heartbeat", gc=False):
    product_id: str
    time: str
    sequence: Number = 0
    last_trade_id: Number = 0


class _Product(msgspec.Struct):
    """A product of REST or of the status channel; its switches come before the word in `status`."""

    id: str
    base_currency: str = ""
    quote_currency: str = ""
    quote_increment: str = ""
    base_increment: str = ""
    base_min_size: str = ""
    status: str = ""
    trading_disabled: bool | None = None
    cancel_only: bool | None = None
    post_only: bool | None = None
    limit_only: bool | None = None
    auction_mode: bool | None = None


class _Status(msgspec.Struct, tag_field="type", tag="status"):
    products: list[msgspec.Raw]


class _Subscriptions(msgspec.Struct, tag_field="type", tag="subscriptions"):
    pass


class _Error(msgspec.Struct, tag_field="type", tag="error"):
    message: str = ""
    reason: str = ""


class _Login(msgspec.Struct):
    """What the shell's signer gives: the channel of books, and the fields that sign one subscription."""

    channel: Depth
    signed: dict[str, str]


class _Kind(msgspec.Struct):
    type: str


class _RestOrder(msgspec.Struct, array_like=True, gc=False):
    price: Text
    size: Text
    order_id: Text


class _RestBook(msgspec.Struct):
    sequence: Any
    bids: list[_RestOrder]
    asks: list[_RestOrder]
    time: str = ""


class _RestTrade(msgspec.Struct):
    trade_id: Number
    time: str
    side: _Side
    price: Text
    size: Text


_OrderMessage = _Received | _Activate | _Open | _Done | _OrderChange | _Match
_Message = _L2Update | _OrderMessage | _Ticker | _Heartbeat | _Snapshot | _LastMatch | _Status | _Subscriptions | _Error

_FRAME: msgspec.json.Decoder[_Message] = msgspec.json.Decoder(_Message)
_KIND = msgspec.json.Decoder(_Kind)
_LOGIN = msgspec.json.Decoder(_Login)
_PRODUCT = msgspec.json.Decoder(_Product)
_PRODUCTS = msgspec.json.Decoder(list[msgspec.Raw])
_REST_BOOK = msgspec.json.Decoder(_RestBook)
_REST_TRADES = msgspec.json.Decoder(list[_RestTrade])


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


class CoinbaseExchangeFeed:
    """One line of Coinbase Exchange. `products` None accepts every product that is seen, and subscribes none.

    `depth` is the channel to subscribe for books, unless the signer `token` names it; what comes is read whichever it
    is. `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, quotes,
    heartbeats, gaps, resyncs, duplicates, deltas_before_snapshot, snapshots_too_old, unknown_makers, unknown_orders,
    subscriptions, impossible_times, ignored, dead_letters.
    """

    venue = "coinbase_exchange"
    silence_ns = SILENCE_NS

    def __init__(
        self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None,
        depth: Depth = "level2_batch",
    ) -> None:  # fmt: skip
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._wanted = products
        self._token = token
        self._depth: Depth = depth if token is None else _LOGIN.decode(token(0)).channel
        self._products = Listing(products, _describe)
        self._states: dict[str, _State] = {}
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        self._repairs = Repairs(self._products, self._ledger, self._again, awaited=(_BOOK,))
        self._requests = Requests(under_way_max=UNDER_WAY_MAX if products else None, weight_per_minute=None)
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
        self._repairs.begin()
        self._requests.forget()
        call = self._call(ts)
        self._liveness.opened(call)
        if self._wanted:
            trade_channels = () if self._depth == "full" else (_TRADES,)
            channels = (self._depth, *trade_channels, "ticker", "heartbeat")
            call.out.append(_send("subscribe", channels, self._wanted, self._sign(ts)))
            call.out.append(_send("subscribe", ("status",), (), self._sign(ts)))
            for name in self._wanted if self._depth != "full" else ():
                self._repairs.wait(_BOOK, name, ts)
        self._products.asked(ts)
        self._requests.ask(Fetch(PRODUCTS_PATH, "products"))
        return self._done(call)

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = self._call(ts, frame)
        try:
            message = _FRAME.decode(frame)
        except UNREADABLE as error:
            self._unreadable(call, error)
        else:
            self._take(call, message)
        return self._done(call) if self._requests.waiting else call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Take REST's products, the book of a product order by order, or its last trades."""
        call = self._call(ts, body)
        with call.refusing(f"bad_{request.purpose}"):
            match request.purpose:
                case "products":
                    self._rest_products(call, request)
                case "book":
                    self._rest_book(call, request)
                case "trades":
                    self._rest_trades(call, request)
                case _:
                    self.counts["ignored"] += 1
        return self._done(call)

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence, and answers that did not come."""
        call = self._call(ts)
        if not self._liveness.ticked(call):
            return call.out
        self._repairs.ticked(call)
        if self._products.is_due(ts):
            self._requests.ask(Fetch(PRODUCTS_PATH, "products"))
        return self._done(call)

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return idle.time_passed(self._call(ts), self._products, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per symbol, until the next connection's snapshots."""
        self._repairs.begin()
        self._requests.forget()
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book of levels that is kept to see it cross; None for one of orders."""
        state = self._states.get(name)
        return state.levels if state is not None and state.kind == "levels" else None

    # --- Frames ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _done(self, call: Call) -> list[Output]:
        call.out += self._requests.due(call.ts)
        return call.out

    def _sign(self, ts: int) -> Mapping[str, str]:
        """Return what signs one subscription, nothing where there is no key."""
        return {} if self._token is None else _LOGIN.decode(self._token(ts)).signed

    def _heard(self, call: Call, time: str | None) -> int:
        """Return when something was, by the venue's clock, which never runs back; without a time it is now.

        Raises BadEvent here, because a change may wait for a snapshot before it is published.
        """
        if not time:
            return call.now
        ts = iso_ns(time, "time")
        self.ts_venue = call.heard(ts, self.ts_venue)
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

    def _unreadable(self, call: Call, error: Exception) -> None:
        """A frame that cannot be read may have been a book change, unless its head says that it was not."""
        try:
            kind = _KIND.decode(call.payload).type
        except UNREADABLE:
            kind = ""
        if kind in _UNUSED:
            self.counts["ignored"] += 1
            return
        if kind and kind not in _TAGS:
            call.dead("unknown_frame", str(error), field="type", value=kind[:200])
            return
        call.dead_frame(error)
        head = call.payload[:_HEAD_BYTES]
        found, named = _TYPE.search(head), _NAMED.search(head)
        if found is None or found[1].decode() not in _NO_BOOK:
            is_match = found is not None and found[1] == b"match"
            self._missed(call, "" if named is None else named[1].decode(), is_match=is_match)

    # --- What is lost, and how it is asked for ---

    def _lose_all(self, call: Call, reason: str) -> None:
        for state in self._states.values():
            state.forget()
        self._ledger.lose_all(call, self._products, reason, subscribed=bool(self._wanted))

    def _missed(self, call: Call, name: str, *, is_match: bool = False) -> None:
        """Clear the book that may have missed a change, all where its name is unknown; a match changes no levels."""
        for found in (name,) if name in self._states else tuple(self._states):
            state, product = self._states[found], self._products[found]
            is_levels = state.kind == "levels"
            if not is_levels:
                state.orders.miss()
            if product.book_valid and not (is_levels and is_match):
                self._lost(call, product, state, "bad_frame")

    def _lost(
        self, call: Call, product: Product, state: _State, detail: str,
        *, reason: str = GAP, expected: int | None = None, received: int | None = None,
    ) -> None:  # fmt: skip
        self.counts["gaps"] += 1
        channel = "full" if state.kind == "orders" else _BOOK
        self._ledger.lose(call, product, reason, {_BOOK}, detail=detail, channel=channel, expected=expected,
                          received=received)  # fmt: skip
        if state.kind == "orders":
            self._ask_book(call, product.name, detail)
        else:
            state.levels.clear()
            self._repairs.lost(call, (product.name,), (_BOOK,), detail)

    def _again(self, call: Call, _: str, names: Collection[str]) -> list[Output]:
        """Return what brings new snapshots of levels."""
        depth = _BOOK if self._depth == "full" else self._depth
        return [_send("unsubscribe", (depth,), names), _send("subscribe", (depth,), names, self._sign(call.ts))]

    def _ask_book(self, call: Call, name: str, reason: str) -> None:
        if ("book", name) not in self._requests:
            self._requests.ask(Fetch(f"products/{name}/book?level=3", "book", name))
            self._tell_resync(call, name, reason)

    def _tell_resync(self, call: Call, name: str, reason: str) -> None:
        product = self._products.get(name)
        if product is not None and product.gap is not None:
            self.counts["resyncs"] += 1
            call.status(product.symbol, "resync", product.gap, reason=reason, channel=_BOOK)

    # --- Books from levels ---

    def _take(self, call: Call, message: Any) -> None:
        """Take a message; what it says of a book and cannot be loses the book."""
        try:
            self._takers[type(message)](self, call, message)
        except BadEvent as error:
            call.dead_value(error)
            self._missed(call, getattr(message, "product_id", ""), is_match=type(message) is _Match)

    def _snapshot(self, call: Call, message: _Snapshot) -> None:
        found = self._find(call, message.product_id)
        if found is None:
            return
        columns = _columns(message.bids, message.asks)
        ts_event = self._heard_or_now(call, message.time)
        product, state = found
        if state.orders.at is not None:
            self.counts["ignored"] += 1
            return
        state.kind = "levels"
        state.orders.forget()
        state.levels.bids.replace(columns[0], columns[1])
        state.levels.asks.replace(columns[2], columns[3])
        books.snapshot(call, product, ts_event, columns)
        self._repairs.came(_BOOK, product.name)
        self._ledger.account(call, product, _BOOK, ts_event)

    def _l2_update(self, call: Call, message: _L2Update) -> None:
        found = self._find(call, message.product_id)
        if found is None:
            return
        changes = message.changes
        columns = _columns([change for change in changes if change.side == "buy"],
                           [change for change in changes if change.side == "sell"])  # fmt: skip
        ts_event = self._heard_or_now(call, message.time)
        product, state = found
        if state.kind == "orders":
            self.counts["ignored"] += 1
            return
        if product.book_valid:
            levels = state.levels
            if columns[0]:
                levels.bids.apply(columns[0], columns[1])
            if columns[2]:
                levels.asks.apply(columns[2], columns[3])
            if levels.is_crossed() and product.validity["valid"]:
                self._lost(call, product, state, "crossed", reason=CROSSED)
                return
        books.update(call, product, ts_event, columns)

    # --- Books from orders ---

    def _order_message(self, call: Call, message: _OrderMessage) -> None:
        """Take a message of one order; a match is a trade besides."""
        found = self._find(call, message.product_id)
        if found is None:
            return
        act = _act(message, self._heard_or_now(call, message.time))
        is_match = isinstance(message, _Match)
        trade = self._match(call, message) if isinstance(message, _Match) else None
        product, state = found
        call.sequence = message.sequence
        if not is_match and state.kind != "levels" and message.sequence is not None:
            state.kind = "orders"
        if state.kind == "levels" or message.sequence is None:
            self.counts["ignored"] += not is_match
        elif type(message) is _Open and not message.time:
            state.orders.row(act)
        else:
            self._order(call, product, state, act)
        if trade is not None:
            self._trade(call, product, trade)

    def _order(self, call: Call, product: Product, state: _State, act: Act) -> None:
        orders = state.orders
        whole = orders.end_rows(act.ts)
        if whole is not None:
            self._join(call, product, state, whole)
        expected = None if orders.at is None else orders.at + 1
        match orders.take(act):
            case "next":
                self._perform(call, product, state, act)
            case "known":
                self.counts["deltas_before_snapshot"] += 1
            case "old":
                self.counts["duplicates"] += 1
            case "wait":
                if state.kind == "orders":
                    self._ask_book(call, product.name, "no_book")
            case "lost":
                self._lost(call, product, state, "sequence", expected=expected, received=act.number)

    def _perform(self, call: Call, product: Product, state: _State, act: Act) -> None:
        orders = state.orders
        if orders.perform(act):
            books.update(call, product, act.ts, _order_columns(*orders.book.take_changes()))
            return
        self.counts[_unknown(act)] += 1
        orders.miss()
        self._lost(call, product, state, _unknown(act).removesuffix("s"), received=act.number)

    def _join(self, call: Call, product: Product, state: _State, whole: Whole) -> bool:
        """Begin a book with a snapshot and what came after it; False when the snapshot is of no use."""
        orders, book = state.orders, whole.book
        held = len(orders.waiting)
        kept = orders.join(whole)
        if kept is None:
            self.counts["snapshots_too_old"] += 1
            return False
        self.counts["deltas_before_snapshot"] += held - len(kept)
        unknown = Counter(_unknown(act) for act in kept if not orders.perform(act))
        if unknown:
            self.counts.update(unknown)
            orders.miss()
            return False
        book.take_changes()
        ts_event = kept[-1].ts if kept else whole.ts
        sequence, call.sequence = call.sequence, orders.at
        with call.refusing("bad_book") as refusing:
            books.snapshot(call, product, ts_event, _order_columns(book.levels(BID), book.levels(ASK)))
        call.sequence = sequence
        if refusing.failed:
            orders.miss()
            return False
        self._repairs.came(_BOOK, product.name)
        self._ledger.account(call, product, _BOOK, ts_event)
        return True

    def _rest_book(self, call: Call, request: Fetch) -> None:
        sent = _REST_BOOK.decode(call.payload)
        number, book = _sequence(sent.sequence), OrderBook()
        for side, rows in ((BID, sent.bids), (ASK, sent.asks)):
            for row in rows:
                book.add(row.order_id, side, _above_zero(row.price, "price"), _above_zero(row.size, "size"))
        ts = call.now
        if sent.time:
            try:
                ts = call.venue_time(iso_ns(sent.time, "time"), "time")
            except BadEvent:
                self.counts["impossible_times"] += 1
                ts = call.ts
        found = self._find(call, request.symbol)
        self._requests.came(request)
        if found is None or found[1].kind == "levels" or found[1].orders.at is not None:
            self.counts["ignored"] += 1
            return
        product, state = found
        state.kind = "orders"
        if not self._join(call, product, state, Whole(number, ts, book)):
            self._requests.again(request, call.ts)
            self._tell_resync(call, product.name, "useless_snapshot")

    # --- Trades ---

    def _match(self, call: Call, message: _Match) -> Trade | None:
        """Return a match's trade; None for one of an impossible time, a dead letter that still changes its order.

        Raises BadEvent for any other value that no trade may have.
        """
        check_trade(message.price, message.size)
        with call.refusing("bad_frame"):
            call.venue_time(iso_ns(message.time, "time"), "time")
            return _read_trade(message)
        return None

    def _last_match(self, call: Call, message: _LastMatch) -> None:
        with call.refusing("bad_frame"):
            found = self._find(call, message.product_id)
            if found is not None:
                self._heard(call, message.time)
                call.sequence = message.sequence
                self._trade(call, found[0], _read_trade(message))
                self._account_trades(call, found[0])

    def _trade(self, call: Call, product: Product, trade: Trade) -> None:
        skipped = numbered_trades.take(call, product, self._ledger, [(int(trade.trade_id), trade)])
        self.counts["gaps"] += skipped
        is_missing = product.trade_ids.holes or product.unproven
        if is_missing and (skipped or self._ledger.is_pending(product, _TRADES)):
            self._ask_trades(product.name)

    def _account_trades(self, call: Call, product: Product) -> None:
        if not product.trade_ids.holes and not product.unproven:
            self._ledger.account(call, product, _TRADES, call.now)

    def _ask_trades(self, name: str) -> None:
        self._requests.ask(Fetch(f"products/{name}/trades?limit=1000", "trades", name))

    def _rest_trades(self, call: Call, request: Fetch) -> None:
        listed = _REST_TRADES.decode(call.payload)
        batch: list[tuple[int, Trade]] = []
        for sent in listed:
            with call.refusing("bad_trades"):
                batch.append((sent.trade_id, _read_trade(sent)))
        self._requests.came(request)
        product = self._products.get(request.symbol)
        if product is not None and product.ts_trade is not None and batch:
            batch.sort(key=itemgetter(0))
            is_whole = len(batch) == len(listed)
            numbered_trades.take(call, product, self._ledger, batch, snapshot=True, whole=is_whole)

    # --- Tickers, heartbeats, states ---

    def _ticker(self, call: Call, message: _Ticker) -> None:
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

    def _heartbeat(self, call: Call, message: _Heartbeat) -> None:
        with call.refusing("bad_frame"):
            found = self._find(call, message.product_id)
            if found is None:
                return
            self.counts["heartbeats"] += 1
            ts_event = self._heard(call, message.time)
            product, state = found
            claimed, state.claimed = state.claimed, (message.sequence, message.last_trade_id)
            self._vouch_for_book(call, product, state, ts_event, claimed[0])
            self._vouch_for_trades(call, product, ts_event, claimed[1], message.last_trade_id)

    def _vouch_for_book(self, call: Call, product: Product, state: _State, ts: int, claimed: int) -> None:
        at = state.orders.at
        if at is None:
            if product.book_valid:
                books.heartbeat(call, product, ts - VOUCH_NS)
        elif at < claimed:
            state.orders.miss(floor=claimed)
            self._lost(call, product, state, "heartbeat", expected=at + 1, received=claimed)
        elif at >= state.claimed[0]:
            call.sequence = at
            books.heartbeat(call, product, ts)
            call.sequence = None

    def _vouch_for_trades(self, call: Call, product: Product, ts: int, claimed: int, last: int) -> None:
        ids = product.trade_ids
        if ids.last is None:
            return
        if ids.last < claimed:
            ids.skip_to(claimed)
            self.counts["gaps"] += 1
            trades.lose(call, product)
            if not self._ledger.is_pending(product, _TRADES):
                self._ledger.note_skipped(call, product)
            self._ask_trades(product.name)
        if ids.last >= last:
            self._account_trades(call, product)
            if not self._ledger.is_pending(product, _TRADES) and ("trades", product.name) not in self._requests:
                trades.heartbeat(call, product, ts)

    def _status(self, call: Call, message: _Status) -> None:
        learn_each(call, message.products, _PRODUCT, self._product)

    def _product(self, call: Call, sent: _Product) -> None:
        # This channel lists every product of the venue: only those that are traded here become events.
        if sent.id not in self._products and (self._wanted is None or not self._products.accepts(sent.id)):
            self.counts["ignored"] += 1
        elif (product := self._products.find(call, sent.id)) is not None:
            self._products.learn(call, product, **_learned(sent, product.instrument))

    def _rest_products(self, call: Call, request: Fetch) -> None:
        products = _PRODUCTS.decode(call.payload)
        self._requests.came(request)
        learn_each(call, products, _PRODUCT, self._rest_product)

    def _rest_product(self, call: Call, sent: _Product) -> None:
        if self._products.accepts(sent.id):
            known = self._products.get(sent.id)
            self._products.know(call, sent.id, **_learned(sent, known.instrument if known else _describe(sent.id)))

    def _subscriptions(self, call: Call, _message: _Subscriptions) -> None:
        """Messages of orders come from now on: a book that is fetched now can be joined to them, however quiet."""
        self.counts["subscriptions"] += 1
        if self._depth == "full":
            for name in self._wanted or ():
                state = self._states.get(name)
                if state is None or (state.kind != "levels" and state.orders.at is None):
                    self._ask_book(call, name, "no_book")

    def _error(self, call: Call, message: _Error) -> None:
        said = f"{message.message}: {message.reason}" if message.reason else message.message
        call.dead("venue_error", said, field="message", value=said[:200])
        if self._wanted and _UNAUTHORIZED.search(said) and not _PASSING.search(said):
            call.out.append(Refused("auth_failed", _ADVICE))

    _takers: ClassVar[dict[type, Callable[[CoinbaseExchangeFeed, Call, Any], None]]] = {
        _L2Update: _l2_update,
        _Snapshot: _snapshot,
        **dict.fromkeys((_Received, _Activate, _Open, _Done, _OrderChange, _Match), _order_message),
        _LastMatch: _last_match,
        _Ticker: _ticker,
        _Heartbeat: _heartbeat,
        _Status: _status,
        _Subscriptions: _subscriptions,
        _Error: _error,
    }


# --- Reading and writing values ---

_price_of = attrgetter("price")
_size_of = attrgetter("size")


def _columns(bids: list[Any], asks: list[Any]) -> Columns:
    bid_prices, bid_sizes = list(map(_price_of, bids)), list(map(_size_of, bids))
    ask_prices, ask_sizes = list(map(_price_of, asks)), list(map(_size_of, asks))
    if bids or asks:
        check_decimals(bid_prices + bid_sizes + ask_prices + ask_sizes, "level")
    return bid_prices, bid_sizes, ask_prices, ask_sizes


def _order_columns(bids: list[Level], asks: list[Level]) -> Columns:
    text = _SCALE.text
    return (
        [text(level.price) for level in bids], [text(level.size) for level in bids],
        [text(level.price) for level in asks], [text(level.size) for level in asks],
    )  # fmt: skip


def _act(message: _OrderMessage, ts: int) -> Act:
    """Return what a message does to the orders. Raises BadEvent."""
    act = Act(message.sequence or 0, ts)
    if isinstance(message, _Open):
        act.verb, act.order_id, act.side = "enter", message.order_id, BID if message.side == "buy" else ASK
        act.price, act.size = _above_zero(message.price, "price"), _above_zero(message.remaining_size, "size")
    elif isinstance(message, _Done):
        rested = message.reason == "canceled" and message.price is not None
        act.verb, act.order_id = "cancel" if rested else "remove", message.order_id
    elif isinstance(message, _Received) and message.order_id:
        act.verb, act.order_id = "announce", message.order_id
    elif isinstance(message, _Match):
        act.verb, act.order_id, act.size = "reduce", message.maker_order_id, _above_zero(message.size, "size")
    elif isinstance(message, _OrderChange) and message.new_size is not None:
        act.verb, act.order_id, act.size = "modify", message.order_id, _SCALE.number(message.new_size, "new_size")
        act.price = None if message.new_price is None else _above_zero(message.new_price, "new_price")
        if act.size < 0:
            raise BadEvent("negative", "new_size", message.new_size)
    return act


def _above_zero(text: str, field: str) -> int:
    """Return a price or size of an order, scaled. Raises BadEvent."""
    value = _SCALE.number(text, field)
    if value <= 0:
        raise BadEvent("not_positive", field, text)
    return value


def _unknown(act: Act) -> str:
    """Return as what a message is counted whose order is not there."""
    return "unknown_makers" if act.verb == "reduce" else "unknown_orders"


def _read_trade(sent: _Match | _RestTrade) -> Trade:
    """Return a trade; the venue sends the maker's side, and the aggressor's is the opposite."""
    check_trade(sent.price, sent.size)
    return Trade(trade_id=str(sent.trade_id), ts_event=iso_ns(sent.time, "time"), price=sent.price, size=sent.size,
                 side="buy" if sent.side == "sell" else "sell")  # fmt: skip


def _sequence(value: object) -> int:
    """Return the sequence of a REST book, which was documented as text and is sent as a number."""
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadEvent("bad_sequence", "sequence", text[:200])
    return int(text)


def _learned(sent: _Product, before: Instrument) -> dict[str, Any]:
    return {
        "base_currency": sent.base_currency or before.base_currency,
        "quote_currency": sent.quote_currency or before.quote_currency,
        "tick_size": price(sent.quote_increment, "quote_increment") or before.tick_size,
        "size_increment": price(sent.base_increment, "base_increment") or before.size_increment,
        "min_order_size": price(sent.base_min_size, "base_min_size") or before.min_order_size,
        "status": _state(sent, before.status),
    }


def _state(sent: _Product, before: str) -> str:
    if sent.trading_disabled:
        return "halted"
    for name in ("cancel_only", "post_only", "limit_only"):
        if getattr(sent, name):
            return name
    if sent.auction_mode:
        return "auction"
    if not sent.status:
        return before
    try:
        return _STATES[sent.status]
    except KeyError:
        raise BadEvent("unknown_status", "status", sent.status[:200]) from None


def _send(
    verb: str, channels: Iterable[str], products: Collection[str], signed: Mapping[str, str] | None = None
) -> Send:
    order: dict[str, Any] = {"type": verb, "channels": list(channels), **(signed or {})}
    if products:
        order["product_ids"] = list(products)
    return Send(msgspec.json.encode(order))


def _describe(product_id: str) -> Instrument:
    if _PRODUCT_ID.fullmatch(product_id) is None:
        raise BadEvent("bad_symbol", "product_id", product_id[:200])
    base, _, quote = product_id.partition("-")
    return Instrument(venue=CoinbaseExchangeFeed.venue, symbol=product_id, ts_recv=0, venue_symbol=product_id,
                      base_currency=base, quote_currency=quote)  # fmt: skip


"""Its books come from `level2_batch`, which needs no key, unless COINBASE_EXCHANGE_DEPTH says otherwise; `full`, order
by order, is read wherever it is sent."""
