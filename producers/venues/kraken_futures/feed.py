"""Kraken Futures: market data frames of its WebSocket API v1 in, events out.

Theory of operation, with the source of each step. DOCS is Kraken's "Futures WebSockets", feeds book, trade, ticker,
ticker_lite and heartbeat; RULES is the project's own list of venue rules, checked on a recording.

1. Subscribe to feeds by product: book, trade, ticker, and heartbeat for the connection (DOCS).
2. `book_snapshot` replaces the book and gives its `seq`; each `book` then changes one price to an absolute quantity,
   0 removes it, and its `seq` is one more than the last of that product (DOCS; RULES: no gap). A lower or equal number
   is old: drop it. A skipped one means that a change of this product is lost: clear its book, open its gap, subscribe
   its book again. The third loss within a minute reconnects.
3. `trade_snapshot` has the last 100 trades, newest first; `trade` is one. Their `seq` is a number of its own that rises
   by one per product (RULES), which shows what is lost; `uid` is the id that REST knows them by. `side` is the taker's
   (DOCS: "the classification of the taker side in the matched trade"), so it is the aggressor's as it stands.
   A `type` of liquidation marks a forced trade in the book; block, assignment and termination are agreed or assigned
   outside of it (DOCS: "One of fill, liquidation, assignment, termination, block"), at prices that are not the book's:
   they are taken to set no price of a candle (inferred), and their volume counts.
4. Numbers are JSON numbers: kept digit for digit. Times are milliseconds.
5. A heartbeat has the venue's time. It vouches for what happened up to one second earlier. Where the feed heartbeat is
   not subscribed, as in recordings, nothing vouches. Fifteen seconds without any frame mean a dead connection.
6. `suspended` and `post_only` of the ticker and `tradeable` of REST `instruments` contain a product's state.

Symbols: `PI_XBTUSD` (inverse perpetual) is BTC-USD-PI, `FI_ETHUSD_211231` is ETH-USD-FI-211231: the kind of contract
is a part of the name, since several trade the same pair.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal

import msgspec

from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import GAP, HIGH_LOW, OPEN_CLOSE, Instrument, Trade
from marketdata.feed import Fetch, Output, Send
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
    check_trade,
    iso_ns,
    ms_ns,
    number,
    numbers,
    price,
)
from producers.venues.kit.venue import Signer

INSTRUMENTS_PATH = "derivatives/api/v3/instruments"
SILENCE_NS = 15 * SECOND_NS  # heartbeats come every few seconds at most; tickers and books far more often
VOUCH_NS = SECOND_NS

_BOOK = "book"
_TRADES = "trade"
_FEEDS = (_BOOK, _TRADES, "ticker")
# An account's own; each has a `_snapshot` beside it.
_UNUSED_FEEDS = frozenset({
    "open_orders", "open_orders_verbose", "open_positions", "fills", "notifications_auth", "account_log", "balances",
    "account_balances_and_margins", "deposits_withdrawals",
})  # fmt: skip

_PRODUCT = re.compile(r"([A-Z]{2})_([A-Z0-9]{2,15}?)(USDT|USDC|USD|EUR|GBP|XBT)(?:_([0-9A-Z]{1,10}))?", re.ASCII)
_MODERN = {"XBT": "BTC", "XDG": "DOGE"}

# --- What the venue sends; numbers stay in its own writing, see `values.numbers` ---

_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=9_223_372_036_854)]


class _Change(msgspec.Struct):
    feed: Literal["book"]
    product_id: str
    side: Literal["buy", "sell"]
    seq: Number
    price: Any
    qty: Any
    timestamp: _Milliseconds


class _Level(msgspec.Struct, gc=False):
    price: Any
    qty: Any


_OUTSIDE_THE_BOOK = frozenset({"assignment", "termination", "block"})


class _Snapshot(msgspec.Struct):
    product_id: str
    seq: Number
    bids: list[_Level]
    asks: list[_Level]
    timestamp: _Milliseconds


class _Trade(msgspec.Struct):
    product_id: str
    uid: Text
    side: Literal["buy", "sell"]
    seq: Number
    time: _Milliseconds
    qty: Any
    price: Any
    type: str = "fill"


class _Trades(msgspec.Struct):
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
    high24h: Any = None
    low24h: Any = None
    change: Any = None
    time: _Milliseconds | None = None
    suspended: bool | None = None
    post_only: bool = False


class _Beat(msgspec.Struct):
    time: _Milliseconds


class _Object(msgspec.Struct):
    feed: str = ""
    event: str = ""
    product_id: str = ""
    product_ids: list[str] = []
    message: str = ""


class _Contract(msgspec.Struct):
    symbol: str
    tradeable: bool | None = None
    kind: str = msgspec.field(name="type", default="")
    last_traded: str = msgspec.field(name="lastTradingTime", default="")
    tick: Any = msgspec.field(name="tickSize", default=None)
    size: Any = msgspec.field(name="contractSize", default=None)
    precision: Annotated[int, msgspec.Meta(ge=-16, le=32)] | None = msgspec.field(
        name="contractValueTradePrecision", default=None
    )


class _Contracts(msgspec.Struct):
    instruments: list[msgspec.Raw]


_CHANGE = msgspec.json.Decoder(_Change, float_hook=str)
_SNAPSHOT = msgspec.json.Decoder(_Snapshot, float_hook=str)
_TRADE = msgspec.json.Decoder(_Trade, float_hook=str)
_TRADES_SENT = msgspec.json.Decoder(_Trades)
_TICKER = msgspec.json.Decoder(_Ticker, float_hook=str)
_BEAT = msgspec.json.Decoder(_Beat)
_OBJECT = msgspec.json.Decoder(_Object)
_CONTRACT = msgspec.json.Decoder(_Contract, float_hook=str)
_CONTRACTS = msgspec.json.Decoder(_Contracts)

_CHANGE_PREFIX = b'{"feed":"book",'


class KrakenFuturesFeed:
    """One line of Kraken Futures. `products` None accepts every product that is seen, and subscribes none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, quotes,
    heartbeats, gaps, resyncs, duplicates (changes and trades that came before), deltas_before_snapshot, ignored,
    subscriptions, dead_letters.
    """

    venue = "kraken_futures"
    silence_ns = SILENCE_NS

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        del token  # public feeds take none
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._wanted = None if products is None else tuple(name.upper() for name in products)
        self._products = Listing(self._wanted, _describe)
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        self._repairs = Repairs(self._products, self._ledger, self._again)
        self._sequences: dict[str, Sequence] = {}
        self._subscribed: set[tuple[str, str]] = set()
        self._liveness = Liveness(SILENCE_NS, self._lose_all)

    # --- The contract of marketdata.feed.Feed ---

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products to subscribe; None where only frames show them."""
        return None if self._wanted is None else self._products.symbols(self._wanted)

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published."""
        call = self._call(ts)
        self._products.resume(call, self._ledger, previous, self._wanted or (), by_sequence=True)
        return call.out

    def opened(self, ts: int) -> list[Output]:
        """Subscribe to every feed and ask for the products' increments."""
        self._repairs.begin()
        self._subscribed.clear()
        call = self._call(ts)
        self._liveness.opened(call)
        if self._wanted:
            call.out.append(_send({"event": "subscribe", "feed": "heartbeat"}))
            call.out += [_order("subscribe", feed, self._wanted) for feed in _FEEDS]
            for name in self._wanted:
                self._repairs.wait(_BOOK, name, ts)
                product = self._products.get(name)
                if product is not None and self._ledger.is_pending(product, _TRADES):
                    self._repairs.wait(_TRADES, name, ts)
        self._products.asked(ts)
        call.out.append(Fetch(path=INSTRUMENTS_PATH, purpose="products"))
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = self._call(ts, frame)
        if frame.startswith(_CHANGE_PREFIX):
            try:
                change = _CHANGE.decode(frame)
            except UNREADABLE:
                pass  # the general way finds out what is wrong with it
            else:
                self._change(call, change)
                return call.out
        self._general(call)
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Learn the products' increments and states from the REST answer to `products`."""
        call = self._call(ts, body)
        if request.purpose != "products":
            self.counts["ignored"] += 1
            return call.out
        with call.refusing("bad_products"):
            learn_each(call, _CONTRACTS.decode(body).instruments, _CONTRACT, self._learn_rest)
        return call.out

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence, and snapshots that were asked for and did not come."""
        call = self._call(ts)
        if self._liveness.ticked(call):
            self._repairs.ticked(call)
            if self._products.is_due(ts):
                call.out.append(Fetch(path=INSTRUMENTS_PATH, purpose="products"))
        return call.out

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return idle.time_passed(self._call(ts), self._products, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per product, until the next connection's snapshots."""
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    # --- Losses and their repair ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _lose_all(self, call: Call, reason: str) -> None:
        """The connection is gone, and with it every book."""
        self._repairs.begin()
        self._subscribed.clear()
        self._ledger.lose_all(call, self._products, reason, subscribed=bool(self._wanted))

    def _missed(self, call: Call, name: str, channels: set[str]) -> None:
        """A frame could not be read: this product, or all when none is known by the name, missed something."""
        named = self._products.get(name)
        if named is None and name and not self._products.accepts(name):
            return
        products = [named] if named is not None else list(self._products)
        if not products:
            return
        self.counts["gaps"] += 1
        for product in products:
            touched = channels & self._ledger.channels(product, subscribed=bool(self._wanted))
            self._ledger.lose(call, product, GAP, touched, detail="bad_frame")
        self._repairs.lost(call, [product.name for product in products], sorted(channels), "bad_frame")

    @staticmethod
    def _again(_: Call, channel: str, names: Collection[str]) -> list[Output]:
        """Return what brings new snapshots."""
        return [_order("unsubscribe", channel, names), _order("subscribe", channel, names)]

    # --- Frames ---

    def _general(self, call: Call) -> None:
        with call.refusing("malformed_json") as reading:
            sent = _OBJECT.decode(call.payload)
        if reading.failed:
            self._missed(call, "", {_BOOK, _TRADES})
            return
        if sent.event:
            self._event(call, sent)
            return
        with call.refusing("bad_frame") as reading:
            self._feed(call, sent.feed)
        if reading.failed:
            concerned = {"book": {_BOOK}, "book_snapshot": {_BOOK}, "trade": {_TRADES}, "trade_snapshot": {_TRADES}}
            if channels := concerned.get(sent.feed):
                self._missed(call, sent.product_id, channels)

    def _feed(self, call: Call, feed: str) -> None:
        match feed:
            case "book":
                self._change(call, _CHANGE.decode(call.payload))
            case "book_snapshot":
                self._snapshot(call, _SNAPSHOT.decode(call.payload))
            case "trade":
                self._trade(call)
            case "trade_snapshot":
                self._trade_snapshot(call, _TRADES_SENT.decode(call.payload))
            case "ticker" | "ticker_lite":
                self._ticker(call, _TICKER.decode(call.payload))
            case "heartbeat":
                self._heartbeat(call, _BEAT.decode(call.payload).time)
            case _ if feed.removesuffix("_snapshot") in _UNUSED_FEEDS:
                self.counts["ignored"] += 1
            case _:
                call.dead("unknown_channel", f"no feed {feed[:100]!r} is known", field="feed", value=feed[:200])

    def _event(self, call: Call, sent: _Object) -> None:
        if sent.event in {"error", "alert", "subscribed_failed", "unsubscribed_failed"}:
            call.dead("venue_error", sent.message, field="message", value=sent.message[:200])
        elif sent.event == "subscribed":
            self.counts["subscriptions"] += 1
            with call.refusing("bad_frame"):
                for name in sent.product_ids:
                    if self._products.find(call, name) is not None:
                        self._subscribed.add((sent.feed, name))
        else:
            self.counts["ignored"] += 1

    # --- Books ---

    def _change(self, call: Call, sent: _Change) -> None:
        try:
            product = self._products.find(call, sent.product_id)
            if product is None:
                return
            self._heard(call, sent.timestamp)
            call.sequence = sent.seq
            values = numbers([sent.price, sent.qty], "book")
            if product.book_valid and not self._follows(call, product, sent.seq):
                return
            level = values[:1], values[1:]
            columns: Columns = (*level, [], []) if sent.side == "buy" else ([], [], *level)
            books.update(call, product, sent.timestamp * MILLISECOND_NS, columns)
        except BadEvent as error:
            call.dead_value(error)
            self._missed(call, sent.product_id, {_BOOK})

    def _follows(self, call: Call, product: Product, seq: int) -> bool:
        """Check the number of a change; False when the change is old, or one before it is lost."""
        sequence = self._sequences[product.name]
        verdict = sequence.take(seq)
        if verdict == "next":
            return True
        if verdict == "old":
            self.counts["duplicates"] += 1
            return False
        self.counts["gaps"] += 1
        detail = GAP if verdict == "lost" else "sequence_restarted"
        self._ledger.lose(call, product, GAP, {_BOOK}, channel=_BOOK, detail=detail, expected=sequence.expected,
                          received=seq)  # fmt: skip
        self._repairs.lost(call, (product.name,), (_BOOK,), detail)
        return False

    def _snapshot(self, call: Call, sent: _Snapshot) -> None:
        product = self._products.find(call, sent.product_id)
        if product is None:
            return
        self._heard(call, sent.timestamp)
        call.sequence = sent.seq
        columns = (*_columns(sent.bids), *_columns(sent.asks))
        sequence = self._sequences[product.name] = Sequence()
        sequence.take(sent.seq)
        self._repairs.came(_BOOK, product.name)
        ts_event = sent.timestamp * MILLISECOND_NS
        books.snapshot(call, product, ts_event, columns)
        self._ledger.account(call, product, _BOOK, ts_event)

    # --- Trades ---

    def _trade(self, call: Call) -> None:
        product, numbered = self._read_trade(call, call.payload)
        if product is None:
            return
        self._heard(call, numbered[1].ts_event // MILLISECOND_NS)
        call.sequence = numbered[0]
        if numbered_trades.take(call, product, self._ledger, [numbered]):
            self._ask_for_trades(call, product)

    def _trade_snapshot(self, call: Call, sent: _Trades) -> None:
        batch: list[Numbered] = []
        payload, whole = call.payload, True
        product = self._products.find(call, sent.product_id)
        for raw in sent.trades if product is not None else ():
            # A bad trade shows as a gap in the sequence; the other trades of the frame are kept.
            call.payload = bytes(raw)
            with call.refusing("bad_frame") as reading:
                owner, numbered = self._read_trade(call, raw)
                call.venue_time(numbered[1].ts_event, "time")
                if owner is product:
                    batch.append(numbered)
            whole = whole and not reading.failed
        call.payload = payload
        if product is None:
            return
        self._repairs.came(_TRADES, product.name)
        if not batch:
            numbered_trades.give_up(call, product, self._ledger)
            return
        batch.sort(key=itemgetter(0))
        call.sequence = batch[-1][0]
        numbered_trades.take(call, product, self._ledger, batch, snapshot=True, whole=whole)

    def _read_trade(self, call: Call, raw: bytes | msgspec.Raw) -> tuple[Product | None, Numbered]:
        sent = _TRADE.decode(raw)
        traded_price, size = number(sent.price, "price"), number(sent.qty, "qty")
        check_trade(traded_price, size, ("price", "qty"))
        product = self._products.find(call, sent.product_id)
        read = Trade(
            trade_id=sent.uid,
            ts_event=ms_ns(sent.time, "time"),
            price=traded_price,
            size=size,
            side=sent.side,
            liquidation=sent.type == "liquidation",
            conditions=() if sent.type == "fill" else (sent.type,),
            excluded_from=(HIGH_LOW, OPEN_CLOSE) if sent.type in _OUTSIDE_THE_BOOK else (),
        )
        return product, (sent.seq, read)

    def _ask_for_trades(self, call: Call, product: Product) -> None:
        if (_TRADES, product.name) not in self._repairs:
            self.counts["gaps"] += 1
            self._repairs.lost(call, (product.name,), (_TRADES,), "trade_hole")

    # --- Tickers, heartbeats, states ---

    def _heard(self, call: Call, milliseconds: int) -> None:
        """Note the venue's time; it never goes back."""
        self.ts_venue = call.heard(milliseconds * MILLISECOND_NS, self.ts_venue)

    def _ticker(self, call: Call, sent: _Ticker) -> None:
        product = self._products.find(call, sent.product_id)
        if product is None:
            return
        if sent.time is not None:
            self._heard(call, sent.time)
        if sent.suspended is not None:  # ticker_lite has no such field
            state = "halted" if sent.suspended else "post_only" if sent.post_only else "online"
            self._products.learn(call, product, status=state)
        quotes.send(
            call, product, max(call.now, (sent.time or 0) * MILLISECOND_NS),
            bid=_price(sent.bid, "bid"), bid_size=_number(sent.bid_size, "bid_size"),
            ask=_price(sent.ask, "ask"), ask_size=_number(sent.ask_size, "ask_size"),
            last=_price(sent.last, "last"), volume_24h=_number(sent.volume, "volume"),
            high_24h=_price(sent.high24h, "high24h"), low_24h=_price(sent.low24h, "low24h"),
            change_24h=_number(sent.change, "change"),
        )  # fmt: skip

    def _heartbeat(self, call: Call, milliseconds: int) -> None:
        self.counts["heartbeats"] += 1
        self._heard(call, milliseconds)
        vouched = milliseconds * MILLISECOND_NS - VOUCH_NS
        for product in self._products:
            if not self._trades_wait(product):
                trades.heartbeat(call, product, vouched)
            if product.book_valid:
                books.heartbeat(call, product, vouched)

    def _trades_wait(self, product: Product) -> bool:
        """Whether trades of the product are not subscribed, or may still come late: then nothing is vouched for."""
        if product.ts_trade is None and (_TRADES, product.name) not in self._subscribed:
            return True
        return self._ledger.is_pending(product, _TRADES) or (_TRADES, product.name) in self._repairs

    def _learn_rest(self, call: Call, sent: _Contract) -> None:
        name = sent.symbol.upper()
        if _PRODUCT.fullmatch(name) is None:
            self.counts["ignored"] += 1  # indices, which nobody trades
            return
        increment = _number(sent.size, "contractSize") if sent.precision is None else _increment(sent.precision)
        is_inverse = sent.kind == "futures_inverse"
        self._products.know(
            call, name, tick_size=_price(sent.tick, "tickSize"), size_increment=increment,
            status="unknown" if sent.tradeable is None else "online" if sent.tradeable else "halted",
            expiry=iso_ns(sent.last_traded, "lastTradingTime") if sent.last_traded else None,
            contract_multiplier=_number(sent.size, "contractSize"),
            settlement_currency=_describe(name).base_currency if is_inverse else None,
            inverse=is_inverse if sent.kind else None,
        )  # fmt: skip


# --- Reading values ---

_price_of, _qty_of = attrgetter("price"), attrgetter("qty")


def _columns(levels: list[_Level]) -> tuple[list[str], list[str]]:
    return numbers(list(map(_price_of, levels)), "price"), numbers(list(map(_qty_of, levels)), "qty")


def _number(value: Any, field: str) -> str | None:
    return None if value is None else number(value, field)


def _price(value: Any, field: str) -> str | None:
    return None if value is None else price(number(value, field), field)


def _increment(decimals: int) -> str:
    return f"0.{'1':0>{decimals}}" if decimals > 0 else "1" + "0" * -decimals


def _describe(name: str) -> Instrument:
    named = _PRODUCT.fullmatch(name)
    if named is None:
        raise BadEvent("bad_symbol", "product_id", name[:200])
    contract, base, quote, maturity = named.groups()
    base, quote = _MODERN.get(base, base), _MODERN.get(quote, quote)
    return Instrument(
        venue=KrakenFuturesFeed.venue, symbol="-".join(filter(None, (base, quote, contract, maturity))), ts_recv=0,
        venue_symbol=name, base_currency=base, quote_currency=quote, kind="future" if maturity else "perpetual",
    )  # fmt: skip


def _order(verb: str, feed: str, names: Collection[str]) -> Send:
    return _send({"event": verb, "feed": feed, "product_ids": list(names)})


def _send(order: dict[str, Any]) -> Send:
    return Send(msgspec.json.encode(order))
