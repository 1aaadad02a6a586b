"""Kraken Futures: market data frames of its WebSocket API v1 in, events out.

1. Subscribe the feeds `book`, `trade` and `ticker` by contract, and `heartbeat` for the connection. Contracts are
   acknowledged by `subscribed`, one by one or several at once. An error names none: those of its message that are not
   acknowledged are requested again by themselves, and only the one at fault is refused.
2. `book_snapshot` replaces the book and has its `seq`; each `book` then changes one price to an absolute quantity, 0
   removes it, and its `seq` is one more than the last of that contract (held on a recording). A lower or equal number
   is old and dropped. After a skipped one the book is lost and subscribed again.
   A snapshot whose number and time are not newer than those of the book is an old one that came again: it is dropped,
   unless it is of a connection that has sent no book yet. A lower number with a newer time is a reset of the numbers.
3. `trade_snapshot` has the last 100 trades, newest first; `trade` is one. Their `seq` is a number of its own that rises
   by one per contract (held on a recording), which shows what is lost; `uid` is the id that REST knows them by. `side`
   is the taker's ("Trade": the classification of the taker side in the matched trade), so it is the aggressor's as it
   stands. For `type` see `CONDITIONS`.
4. Numbers are JSON numbers, kept digit for digit. Times are milliseconds.
5. A heartbeat has the venue's time, and vouches for what happened up to one second earlier. Where the feed `heartbeat`
   is not subscribed, as in recordings, nothing vouches. Fifteen seconds without a frame mean a dead connection.
6. `suspended` and `post_only` of the ticker and `tradeable` of REST `instruments` contain a contract's state. A
   contract that has a maturity stops trading then (`lastTradingTime`, the ticker's `maturityTime`): it is delisted.

Sources, below https://docs.kraken.com/exchange/api-reference/futures-websocket/: "Book" (book), "Trade" (trade),
"Ticker" (ticker), "Heartbeat" (heartbeat); and "Derivatives Rate Limits" (https://docs.kraken.com/api/docs/guides/
futures-rate-limits).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal

import msgspec

from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.events import GAP, HIGH_LOW, OPEN_CLOSE, Instrument, Trade, Trades
from marketdata.feed import Fetch, Output, Send
from producers.venues.kit import books, derivatives, numbered_trades, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.instruments import learn_each
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.numbered_trades import Numbered
from producers.venues.kit.orders import Order, Orders
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.sequence import Sequence
from producers.venues.kit.values import (
    UNREADABLE,
    Columns,
    Number,
    Text,
    check_trade,
    ms_ns,
    number,
    numbers,
    sent_ms_ns,
)
from producers.venues.kit.venue import Signer
from producers.venues.kraken_futures.names import (
    CONTRACT,
    CONTRACTS,
    INSTRUMENTS_PATH,
    VENUE,
    Contract,
    describe,
    is_contract,
    optional_number,
    optional_price,
    rest_fields,
)

VOUCH_NS = SECOND_NS

# "Derivatives Rate Limits": 100 requests a second on the WebSocket. Its 100 connections at once are far from what one
# needs, because nothing limits how many contracts one connection carries.
LIMITS = Limits(messages=(Rate(100, 1),))

_BOOK, _TRADES, _TICKER = "book", "trade", "ticker"
# An account's own; each has a `_snapshot` beside it.
_UNUSED_FEEDS = frozenset({
    "open_orders", "open_orders_verbose", "open_positions", "fills", "notifications_auth", "account_log", "balances",
    "account_balances_and_margins", "deposits_withdrawals",
})  # fmt: skip

# What a trade of each `type` is excluded from ("Trade": fill, liquidation, assignment, termination, block). A
# liquidation is matched in the book like any fill. Positions that are assigned or terminated, and blocks, change hands
# at a price that no book had.
_OFF_BOOK = (HIGH_LOW, OPEN_CLOSE)
CONDITIONS: dict[str, tuple[str, ...]] = {
    "liquidation": (), "assignment": _OFF_BOOK, "termination": _OFF_BOOK, "block": _OFF_BOOK,
}  # fmt: skip

# --- What the venue sends; numbers stay in its own writing, see `values.numbers` ---

_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=9_223_372_036_854)]


class _Change(msgspec.Struct):
    feed: Literal["book"]
    product_id: str
    side: Literal["buy", "sell"]
    seq: Number
    price: Any
    qty: Any
    timestamp: int


class _Level(msgspec.Struct, gc=False):
    price: Any
    qty: Any


class _Snapshot(msgspec.Struct):
    product_id: str
    seq: Number
    bids: list[_Level]
    asks: list[_Level]
    timestamp: int


class _Trade(msgspec.Struct):
    product_id: str
    uid: Text
    side: Literal["buy", "sell"]
    seq: Number
    time: _Milliseconds
    qty: Any
    price: Any
    type: str = "fill"


class _TradeList(msgspec.Struct):
    product_id: str
    trades: list[msgspec.Raw]


class _Ticker(msgspec.Struct):
    product_id: str
    bid: Any = None
    bid_size: Any = None
    ask: Any = None
    ask_size: Any = None
    last: Any = None
    volume: Any = None
    high: Any = None
    low: Any = None
    change: Any = None
    time: int | None = None
    suspended: bool | None = None
    post_only: bool = False
    maturity: _Milliseconds | None = msgspec.field(name="maturityTime", default=None)
    mark: Any = msgspec.field(name="markPrice", default=None)
    index: Any = None
    open_interest: Any = msgspec.field(name="openInterest", default=None)
    funding_rate: Any = None
    relative_funding_rate: Any = None
    relative_funding_rate_prediction: Any = None
    next_funding_ms: Any = msgspec.field(name="next_funding_rate_time", default=None)


class _Beat(msgspec.Struct):
    time: _Milliseconds


class _Object(msgspec.Struct):
    feed: str = ""
    event: str = ""
    product_id: str = ""
    product_ids: list[str] = []
    message: str = ""


_CHANGE = msgspec.json.Decoder(_Change, float_hook=str)
_SNAPSHOT = msgspec.json.Decoder(_Snapshot, float_hook=str)
_TRADE = msgspec.json.Decoder(_Trade, float_hook=str)
_TRADE_LIST = msgspec.json.Decoder(_TradeList)
_TICKERS = msgspec.json.Decoder(_Ticker, float_hook=str)
_BEAT = msgspec.json.Decoder(_Beat)
_OBJECT = msgspec.json.Decoder(_Object)

_CHANGE_PREFIX = b'{"feed":"book",'


def make_trade(uid: str, ts_event: int, values: tuple[Any, Any], side: str, kind: str) -> Trade:
    """Return a trade of the stream or of REST, of price and size; `kind` is the venue's `type`. Raises BadEvent."""
    traded_price, traded_size = number(values[0], "price"), number(values[1], "qty")
    check_trade(traded_price, traded_size, ("price", "qty"))
    return Trade(trade_id=uid, ts_event=ts_event, price=traded_price, size=traded_size, side=side,
                 liquidation=kind == "liquidation", conditions=() if kind == "fill" else (kind,),
                 excluded_from=CONDITIONS.get(kind, ()))  # fmt: skip


class KrakenFuturesFeed(VenueFeed):
    """One line of Kraken Futures; contracts may be named in small letters, as REST does."""

    venue = VENUE
    book_channel = _BOOK
    trades_channel = _TRADES
    channels = (_BOOK, _TRADES, _TICKER)
    limits = LIMITS
    silence_ns = 15 * SECOND_NS  # heartbeats come every few seconds at most; tickers and books far more often

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        names = None if products is None else tuple(name.upper() for name in products)
        super().__init__(line=line, products=names, token=token)
        self._sequences: dict[str, Sequence] = {}
        self._orders = Orders()

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published; trades are numbered by the events' sequences."""
        call = self._call(ts)
        self._products.resume(call, self._ledger, previous, self._wanted or (), by_sequence=True)
        return call.out

    # --- The connection ---

    def _begin(self) -> None:
        super()._begin()
        self._orders.begin()
        self._sequences.clear()

    def _introduce(self, call: Call) -> Iterable[Output]:
        del call
        return (_order("subscribe", "heartbeat"),)

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterable[Output]:
        del call
        self._orders.number(verb, channel, names)
        return (_order(verb, channel, names),)

    def _recover_trades(self, call: Call, product: Product) -> None:
        # The snapshot that the subscription brings.
        if self._wanted:
            self._repairs.wait(_TRADES, product.name, call.ts)

    # --- Frames ---

    def _read(self, call: Call) -> None:
        frame = call.payload
        if frame.startswith(_CHANGE_PREFIX):
            self._change(call, _CHANGE.decode(frame))
            return
        sent = _OBJECT.decode(frame)
        match sent.feed:
            case _ if sent.event:
                self._event(call, sent)
            case "book":
                self._change(call, _CHANGE.decode(frame))
            case "book_snapshot":
                self._take_snapshot(call, _SNAPSHOT.decode(frame))
            case "trade":
                self._take_trade(call)
            case "trade_snapshot":
                self._take_trades(call, _TRADE_LIST.decode(frame))
            case "ticker" | "ticker_lite":
                self._ticker(call, _TICKERS.decode(frame))
            case "heartbeat":
                self._heartbeat(call, _BEAT.decode(frame).time)
            case feed if feed.removesuffix("_snapshot") in _UNUSED_FEEDS:
                self.counts["ignored"] += 1
            case feed:
                call.dead("unknown_channel", f"no feed {feed[:100]!r} is known", field="feed", value=feed[:200])

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        try:
            sent = _OBJECT.decode(payload)
        except UNREADABLE:
            return None, (_BOOK, _TRADES)
        channel = sent.feed.removesuffix("_snapshot")
        if sent.event or channel not in {_BOOK, _TRADES}:
            return (), ()
        name = sent.product_id
        is_known = name in self._products or (name and not self._products.accepts(name))
        return ((name,) if is_known else None), (channel,)

    def _event(self, call: Call, sent: _Object) -> None:
        if sent.event in {"error", "alert", "subscribed_failed", "unsubscribed_failed"}:
            call.dead("venue_error", sent.message, field="message", value=sent.message[:200])
            if sent.event != "unsubscribed_failed":
                self._refused_message(call, self._oldest_order(), sent.message)
        elif sent.event == "subscribed":
            for name in sent.product_ids:
                if self._products.find(call, name) is not None:
                    self._acknowledged(call, sent.feed, name)
        else:
            self.counts["ignored"] += 1

    def _oldest_order(self) -> Order | None:
        """Return the oldest message of ours with the contracts of it that are not acknowledged: an error names none."""
        while (order := self._orders.oldest()) is not None:
            names = [name for name in order.names if self._subscriptions.state(order.channel, name) == "requested"]
            if names:
                return order._replace(names=tuple(names))
        return None

    # --- Books ---

    def _change(self, call: Call, sent: _Change) -> None:
        product = self._products.find(call, sent.product_id)
        if product is None:
            return
        ts_event = self._event_time(call, sent.timestamp, ms_ns, "timestamp")
        call.sequence = sent.seq
        values = numbers([sent.price, sent.qty], "book")
        if product.book_valid and not self._follows(call, product, sent.seq):
            return
        level = values[:1], values[1:]
        columns: Columns = (*level, [], []) if sent.side == "buy" else ([], [], *level)
        books.update(call, product, ts_event, columns)

    def _follows(self, call: Call, product: Product, seq: int) -> bool:
        """Check the number of a change; False when the change is old, or one before it is lost."""
        sequence = self._sequences[product.name]
        verdict = sequence.take(seq)
        if verdict == "next":
            return True
        if verdict == "old":
            self.counts["duplicates"] += 1
            return False
        detail = GAP if verdict == "lost" else "sequence_restarted"
        self._lose(call, (product,), (_BOOK,), GAP, detail, expected=sequence.expected, received=seq)
        return False

    def _take_snapshot(self, call: Call, sent: _Snapshot) -> None:
        product = self._products.find(call, sent.product_id)
        if product is None:
            return
        ts_event = self._event_time(call, sent.timestamp, ms_ns, "timestamp")
        if self._is_old(product, sent.seq, ts_event):
            self.counts["duplicates"] += 1
            return
        call.sequence = sent.seq
        columns = (*_columns(sent.bids), *_columns(sent.asks))
        sequence = self._sequences[product.name] = Sequence()
        sequence.take(sent.seq)
        self._snapshot(call, product, ts_event, columns)

    def _is_old(self, product: Product, seq: int, ts_event: int) -> bool:
        """Return whether a snapshot is older than what this connection sent; where a book is lost, its end will do."""
        before = self._sequences.get(product.name)
        if before is None or before.last is None or ts_event > (product.ts_book or 0):
            return False
        return seq < before.last + product.book_valid

    # --- Trades ---

    def _take_trade(self, call: Call) -> None:
        name, numbered = self._read_trade(call, call.payload)
        product = self._products.find(call, name)
        if product is None:
            return
        self._advance(call, numbered[1].ts_event)
        call.sequence = numbered[0]
        skipped = numbered_trades.take(call, product, self._ledger, [numbered])
        self._publish_liquidations(call, product)
        if skipped and (_TRADES, name) not in self._repairs:
            self.counts["gaps"] += 1
            self._repairs.lost(call, (name,), (_TRADES,), "trade_gap")

    def _take_trades(self, call: Call, sent: _TradeList) -> None:
        product = self._products.find(call, sent.product_id)
        if product is None:
            return
        # A bad trade shows as a gap in the sequence; the other trades of the frame are kept.
        batches, whole = self._read_each(call, sent.trades, lambda raw: self._read_trade(call, raw))
        self._came(call, _TRADES, product.name)
        batch = batches.get(product.name, [])
        if not batch:
            numbered_trades.give_up(call, product, self._ledger)
            return
        batch.sort(key=itemgetter(0))
        call.sequence = batch[-1][0]
        numbered_trades.take(call, product, self._ledger, batch, snapshot=True, whole=whole)
        self._publish_liquidations(call, product)

    @staticmethod
    def _read_trade(call: Call, raw: bytes | msgspec.Raw) -> tuple[str, Numbered]:
        sent = _TRADE.decode(raw)
        ts_event = call.venue_time(ms_ns(sent.time, "time"), "time")
        return sent.product_id, (sent.seq, make_trade(sent.uid, ts_event, (sent.price, sent.qty), sent.side, sent.type))

    @staticmethod
    def _publish_liquidations(call: Call, product: Product) -> None:
        """Publish the liquidations among this call's trades; the order that liquidates is the taker."""
        forced = [
            derivatives.liquidation(call, ts_event=trade.ts_event, side=trade.side, price=trade.price, size=trade.size,
                                    liquidation_id=trade.trade_id)
            for event in call.out if isinstance(event, Trades)
            for trade in event.trades if trade.liquidation
        ]  # fmt: skip
        if forced:
            derivatives.send(call, product, call.now, liquidations=forced)

    # --- Tickers, heartbeats, states ---

    def _ticker(self, call: Call, sent: _Ticker) -> None:
        product = self._products.find(call, sent.product_id)
        if product is None:
            return
        ts_event = call.now
        if sent.time is not None:
            ts_event = max(self._event_time(call, sent.time, ms_ns, "time"), call.now)
        if sent.suspended is not None:  # ticker_lite has no such field
            state = "halted" if sent.suspended else "post_only" if sent.post_only else "online"
            if product.instrument.status != "delisted":
                self._products.learn(call, product, status=state)
        if sent.maturity:
            self._products.learn(call, product, expiry=sent.maturity * MILLISECOND_NS)
        quotes.send(
            call, product, ts_event,
            bid=optional_price(sent.bid, "bid"), bid_size=optional_number(sent.bid_size, "bid_size"),
            ask=optional_price(sent.ask, "ask"), ask_size=optional_number(sent.ask_size, "ask_size"),
            last=optional_price(sent.last, "last"), volume_24h=optional_number(sent.volume, "volume"),
            high_24h=optional_price(sent.high, "high"), low_24h=optional_price(sent.low, "low"),
            change_24h=optional_number(sent.change, "change"),
        )  # fmt: skip
        self._derivative(call, product, ts_event, sent)

    @staticmethod
    def _derivative(call: Call, product: Product, ts_event: int, sent: _Ticker) -> None:
        """Publish mark, index, open interest and funding of a ticker.

        The funding rates that are published are the relative ones: a fraction of the spot price, for the period that
        ends at the next funding time. `funding_rate` is an amount in the contract's own units, so that it compares with
        no other venue's. A rate of zero is left out ("Ticker": if zero, the field is not populated), which differs from
        an unknown one by the time of the next funding.
        """
        rate, predicted = sent.relative_funding_rate, sent.relative_funding_rate_prediction
        if sent.next_funding_ms and sent.funding_rate is None:
            rate = "0" if rate is None else rate
        values = derivatives.read(
            call, number, mark_price=sent.mark, index_price=sent.index, open_interest=sent.open_interest,
            funding_rate=rate, predicted_funding_rate=predicted,
        )  # fmt: skip
        due = derivatives.read(call, sent_ms_ns, next_funding_ts=sent.next_funding_ms)
        derivatives.send(call, product, ts_event, **values, **due)

    def _heartbeat(self, call: Call, milliseconds: int) -> None:
        self.counts["heartbeats"] += 1
        self._advance(call, milliseconds * MILLISECOND_NS)
        self._vouch(call, milliseconds * MILLISECOND_NS - VOUCH_NS)

    def _tick(self, call: Call) -> None:
        for product in self._products:
            expiry = product.instrument.expiry
            if expiry is not None and call.now >= expiry and product.instrument.status != "delisted":
                self._products.learn(call, product, status="delisted")

    def _fetch_products(self) -> Iterable[Fetch]:
        return (Fetch(path=INSTRUMENTS_PATH, purpose="products"),)

    def _learn_products(self, call: Call) -> None:
        learn_each(call, CONTRACTS.decode(call.payload).instruments, CONTRACT, self._learn_rest)

    def _learn_rest(self, call: Call, sent: Contract) -> None:
        name = sent.symbol.upper()
        if is_contract(name):
            self._products.know(call, name, **rest_fields(sent))
        else:
            self.counts["ignored"] += 1

    def _describe(self, name: str) -> Instrument:
        return describe(name)


# --- Reading and writing values ---

_price_of, _qty_of = attrgetter("price"), attrgetter("qty")


def _columns(levels: list[_Level]) -> tuple[list[str], list[str]]:
    return numbers(list(map(_price_of, levels)), "price"), numbers(list(map(_qty_of, levels)), "qty")


def _order(verb: str, feed: str, names: Collection[str] | None = None) -> Send:
    order: dict[str, Any] = {"event": verb, "feed": feed}
    if names is not None:
        order["product_ids"] = list(names)
    return Send(msgspec.json.encode(order))
