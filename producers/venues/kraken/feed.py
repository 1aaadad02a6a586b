"""Kraken spot's live feed: market data frames of the WebSocket API v2 in, events out. `feed_v1` reads the older API.

1. Subscribe `instrument` (with tokenised assets), `book`, `trade` and `ticker`. Each pair of a request is acknowledged
   by a message of its own, or refused with `success: false` and an error.
2. A book begins with a snapshot; changes of absolute sizes follow, in the order of the message. Snapshots and changes
   carry a checksum, see `book`. If it is wrong, the change is not published: the book is lost and subscribed again.
   Books have no sequence: a loss that touches only levels below the tenth is not noticed until these levels rise; that
   is all that the venue offers to prove.
3. Trades: `side` is the taker's ("Trade": the side of the taker order), so it is the aggressor's as it stands.
   `trade_id` is a sequence number, unique per book, without gaps; the snapshot of a subscription has the last 50.
4. A heartbeat comes about once a second, also beside data (checked on a recording), and has no time. It vouches for
   the venue's last time plus what passed since by our clock, less one second. Five seconds without a frame mean a dead
   connection.
5. Channels `status` and `instrument`, and REST AssetPairs, contain the state of the venue and of pairs.

Sources, below https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/: "Book" (book), "Trade" (trade),
"Ticker" (ticker), "Instruments" (instrument), "Status" (status), "Heartbeat" (heartbeat); and "Spot WebSocket
Introduction" (https://docs.kraken.com/exchange/guides/websockets/introduction).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from operator import attrgetter, itemgetter
from typing import Any, Literal

import msgspec

from marketdata.book import L2Book
from marketdata.clock import SECOND_NS
from marketdata.events import GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Send
from producers.venues.kit import books, numbered_trades, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.instruments import learn_each
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.numbered_trades import Numbered
from producers.venues.kit.products import Product
from producers.venues.kit.trade_ids import Recent
from producers.venues.kit.values import UNREADABLE, Columns, Number, check_trade, iso_ns, number, numbers, price
from producers.venues.kit.venue import Signer
from producers.venues.kraken.book import Book, depth_of
from producers.venues.kraken.names import (
    PAIRS_PATH,
    REST_PAIR,
    REST_PAIRS,
    VENUE,
    RestPair,
    describe,
    modern,
    rest_fields,
    status_of,
)

DEPTH = 1000
VOUCH_NS = SECOND_NS

# Connection attempts of one address ("Spot WebSocket Introduction": about 150 in ten minutes). How quickly we may send
# is not documented: it varies with the venue's load. Nor is how much one connection carries.
LIMITS = Limits(connects=(Rate(150, 600),))
_ALREADY = "Already subscribed"

_BOOK, _TRADES, _TICKER = "book", "trade", "ticker"
UNUSED_CHANNELS = frozenset({"ohlc", "level3", "executions", "balances"})

# --- What the venue sends; numbers stay in its own writing, see `values.numbers` ---


class _Level(msgspec.Struct, gc=False):
    price: Any
    qty: Any


class _PairBook(msgspec.Struct):
    symbol: str
    bids: list[_Level] = []
    asks: list[_Level] = []
    checksum: int | None = None
    timestamp: str = ""


class _BookFrame(msgspec.Struct):
    channel: Literal["book"]
    type: Literal["snapshot", "update"]
    data: list[_PairBook]


class _Trade(msgspec.Struct):
    symbol: str
    side: Literal["buy", "sell"]
    price: Any
    qty: Any
    trade_id: Number
    timestamp: str


class _Ticker(msgspec.Struct):
    symbol: str
    bid: Any = None
    bid_qty: Any = None
    ask: Any = None
    ask_qty: Any = None
    last: Any = None
    volume: Any = None
    high: Any = None
    low: Any = None
    change_pct: Any = None
    timestamp: str = ""


class _System(msgspec.Struct):
    system: str


class _Pair(msgspec.Struct):
    symbol: str
    status: str
    price_increment: Any = None
    qty_increment: Any = None
    qty_min: Any = None


class _Instruments(msgspec.Struct):
    pairs: list[msgspec.Raw] = []


class _Result(msgspec.Struct):
    channel: str = ""
    symbol: str = ""
    depth: int | None = None


class _Object(msgspec.Struct):
    """Every frame that is not a book: an answer with a `method`, or data of a `channel`."""

    channel: str | None = None
    method: str | None = None
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")
    symbol: str = ""
    error: str | None = None
    success: bool = True
    result: msgspec.Raw = msgspec.Raw(b"{}")


class _Named(msgspec.Struct):
    symbol: str


_BOOKS = msgspec.json.Decoder(_BookFrame, float_hook=str)
_TRADE = msgspec.json.Decoder(_Trade, float_hook=str)
_TICKERS = msgspec.json.Decoder(list[_Ticker], float_hook=str)
_SYSTEMS = msgspec.json.Decoder(list[_System])
_INSTRUMENTS = msgspec.json.Decoder(_Instruments)
_PAIR = msgspec.json.Decoder(_Pair, float_hook=str)
_RESULT = msgspec.json.Decoder(_Result)
_NAMED = msgspec.json.Decoder(list[_Named])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(_Object)

_BOOK_PREFIX = b'{"channel":"book"'


class KrakenFeed(VenueFeed):
    """One line of Kraken spot. `counts` also has checksums_right and checksums_wrong."""

    venue = VENUE
    book_channel = _BOOK
    trades_channel = _TRADES
    silence_ns = 5 * SECOND_NS
    channels = (_BOOK, _TRADES, _TICKER)
    limits = LIMITS

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        self._system = "online"
        self._ts_heard = 0  # when, by our clock, the venue's newest time was received
        self._books: dict[str, Book] = {}
        self._depths: dict[str, int] = {}
        self._frames_seen = Recent()
        self._begun: Counter[str] = Counter()  # snapshots by pair: frames from before one say nothing of those after it
        names = None if products is None else tuple(dict.fromkeys(map(self.named, products)))
        super().__init__(line=line, products=names, token=token)

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book that is kept to check it, by the venue's name; None without one."""
        book = self._books.get(name)
        return None if book is None else book.levels

    @staticmethod
    def named(name: str) -> str:
        """Return a pair's name as this version of the API writes it."""
        return modern(name)

    # --- The connection ---

    def _forget(self, product: Product) -> None:
        self._books.pop(product.name, None)

    def _advance(self, call: Call, ts: int) -> None:
        self.ts_venue = call.advanced(ts, self.ts_venue)
        if ts == self.ts_venue:
            self._ts_heard = call.ts

    def _introduce(self, call: Call) -> Iterable[Output]:
        del call
        return (_order("subscribe", "instrument", include_tokenized_assets=True),)

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterable[Output]:
        """Return the orders for these pairs, one for each depth that they are subscribed at."""
        del call
        options: dict[str, Any] = {} if verb == "unsubscribe" else {"snapshot": True}
        if channel == _BOOK:
            return [_order(verb, channel, symbol=those, depth=depth, **options)
                    for depth, those in self._by_depth(names).items()]  # fmt: skip
        if channel == _TICKER and options:
            options["event_trigger"] = "bbo"
        return [_order(verb, channel, symbol=list(names), **options)]

    def _recover_trades(self, call: Call, product: Product) -> None:
        # The snapshot that the subscription brings.
        self._repairs.wait(_TRADES, product.name, call.ts)

    def _by_depth(self, names: Iterable[str]) -> dict[int, list[str]]:
        depths: dict[int, list[str]] = {}
        for name in names:
            depths.setdefault(self._depths.get(name, DEPTH), []).append(name)
        return depths

    # --- Frames ---

    def _read(self, call: Call) -> None:
        if call.payload.startswith(_BOOK_PREFIX):
            self._read_books(call)
            return
        sent = _OBJECT.decode(call.payload)
        if sent.method is not None:
            self._read_answer(call, sent)
        elif sent.channel is not None:
            self._read_channel(call, sent.channel, sent)
        else:
            call.dead("bad_frame", "an object without method and channel")

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        channels = {_BOOK} if payload.startswith(_BOOK_PREFIX) else {_BOOK, _TRADES}
        try:
            sent = _OBJECT.decode(payload)
            if sent.channel not in channels:
                return (), ()
            channels = {sent.channel}
            names = {item.symbol for item in _NAMED.decode(sent.data)}
        except UNREADABLE:
            return None, channels
        return (names if all(name in self._products for name in names) else None), channels

    def _read_answer(self, call: Call, sent: _Object) -> None:
        result = _RESULT.decode(sent.result)
        channel, pair = result.channel, result.symbol or sent.symbol
        error = sent.error or ""
        if sent.success and not error:
            if sent.method == "subscribe":
                self._subscribed(call, channel, pair, result.depth)
            return
        call.dead("venue_error", error, field="error", value=error[:200])
        if sent.method != "subscribe":
            return
        # A refusal names the pair, and not the channel: a connection's requests are answered in order.
        channel = channel or next((one for one, name in self._subscriptions.pending() if name == pair), "")
        if channel and error.startswith(_ALREADY):
            self._acknowledged(call, channel, pair)
        elif channel:
            self._refused(call, channel, pair, detail=error)

    def _read_channel(self, call: Call, channel: str, sent: _Object) -> None:
        match channel:
            case "heartbeat":
                self._heartbeat(call)
            case "trade":
                self._read_trades(call, sent)
            case "ticker":
                for ticker in _TICKERS.decode(sent.data):
                    self._ticker(call, ticker)
            case "instrument":
                learn_each(call, _INSTRUMENTS.decode(sent.data).pairs, _PAIR, self._learn_pair)
            case "status":
                for system in _SYSTEMS.decode(sent.data):
                    self._system_is(call, system.system)
            case "book":
                self._read_books(call)  # its first key is not the channel
            case _ if channel in UNUSED_CHANNELS:
                self.counts["ignored"] += 1
            case _:
                call.dead("unknown_channel", f"no channel {channel[:100]!r} is known", field="channel",
                          value=channel[:200])  # fmt: skip

    def _subscribed(self, call: Call, channel: str, pair: str, depth: int | None) -> None:
        """Note a subscription: from now on silence about the pair means that nothing happens."""
        if pair and self._products.find(call, pair) is None:
            return
        self._acknowledged(call, channel, pair)
        if channel == _BOOK and depth is not None:
            self._depths[pair] = depth

    # --- Books ---

    def _read_books(self, call: Call) -> None:
        frame = _BOOKS.decode(call.payload)
        snapshot = frame.type == "snapshot"
        timed = snapshot or any(book.timestamp for book in frame.data)
        if timed and self._came_before(call, [book.symbol for book in frame.data], snapshot=snapshot):
            return
        for book in frame.data:
            with call.refusing("bad_frame") as reading:
                product = self._products.find(call, book.symbol)
                if product is None:
                    continue
                self._begun[book.symbol] += snapshot
                columns = _columns(book)
                ts = self._event_time(call, book.timestamp, iso_ns, "timestamp") if book.timestamp else call.now
                self._take_book(call, product, ts, columns, book.checksum, snapshot=snapshot)
            if reading.failed:
                self._book_missed(call, book.symbol)

    def _came_before(self, call: Call, names: Collection[str], *, snapshot: bool) -> bool:
        """Return whether a frame came before: with its times in microseconds no change is twice the same.

        A snapshot that comes again is old where the book goes on from it, and good where a new one is waited for.
        """
        begun = () if snapshot else map(self._begun.__getitem__, names)
        if self._frames_seen.is_new(hash((*begun, call.payload))):
            return False
        known = [product for name in names if (product := self._products.get(name)) is not None]
        if snapshot and not all(product.book_valid for product in known):
            return False
        self.counts["duplicates"] += 1
        return True

    def _take_book(
        self, call: Call, product: Product, ts: int, columns: Columns, checksum: int | None, *, snapshot: bool
    ) -> None:
        """Check a snapshot or a change, and publish it only if it is right."""
        if snapshot:
            depth = self._depths.get(product.name) or (DEPTH if self._wanted else depth_of(columns))
            book = self._books[product.name] = Book(depth, columns)
            self._came(call, _BOOK, product.name)
            if checksum is None or self._is_proven(call, product, checksum, book.checksum):
                self._snapshot(call, product, ts, columns)
            return
        known = self._books.get(product.name)
        if known is None:
            self.counts["deltas_before_snapshot"] += 1
        elif known.is_old(ts, columns):
            self._lose(call, (product,), (_BOOK,), GAP, "a change came out of order")
        else:
            columns = known.apply(ts, columns)
            if checksum is None or self._is_proven(call, product, checksum, known.checksum):
                # A level that comes back into the depth brings its old time with it.
                books.update(call, product, max(ts, product.ts_book or 0), columns)

    def _book_missed(self, call: Call, name: str) -> None:
        """Lose the book that a change was of, or every book where the name is not one of ours."""
        named = self._products.get(name)
        self._lose(call, self._products if named is None else (named,), (_BOOK,), GAP, "bad_frame")

    # --- Trades and tickers ---

    def _read_trades(self, call: Call, sent: _Object) -> None:
        def read(raw: msgspec.Raw) -> tuple[str, Numbered]:
            trade = _TRADE.decode(raw)
            traded_price, size = number(trade.price, "price"), number(trade.qty, "qty")
            check_trade(traded_price, size, ("price", "qty"))
            ts_event = call.venue_time(iso_ns(trade.timestamp, "timestamp"), "timestamp")
            return trade.symbol, (trade.trade_id, Trade(trade_id=str(trade.trade_id), ts_event=ts_event,
                                                        price=traded_price, size=size, side=trade.side))  # fmt: skip

        # A bad trade shows as a gap in the ids; the other trades of the frame are kept.
        batches, whole = self._read_each(call, _ITEMS.decode(sent.data), read)
        snapshot = sent.type == "snapshot"
        for pair, batch in batches.items():
            batch.sort(key=itemgetter(0))
            self._advance(call, batch[-1][1].ts_event)
            if snapshot:
                self._came(call, _TRADES, pair)
            skipped = numbered_trades.take(call, self._products[pair], self._ledger, batch, snapshot=snapshot,
                                           whole=whole)  # fmt: skip
            if skipped and (_TRADES, pair) not in self._repairs:
                self.counts["gaps"] += 1
                self._repairs.lost(call, (pair,), (_TRADES,), "trade_gap")

    def _ticker(self, call: Call, ticker: _Ticker) -> None:
        product = self._products.find(call, ticker.symbol)
        if product is None:
            return
        ts = self._event_time(call, ticker.timestamp, iso_ns, "timestamp") if ticker.timestamp else call.now
        quotes.send(
            call, product, max(call.now, ts),
            bid=_price(ticker.bid, "bid"), bid_size=_number(ticker.bid_qty, "bid_qty"),
            ask=_price(ticker.ask, "ask"), ask_size=_number(ticker.ask_qty, "ask_qty"),
            last=_price(ticker.last, "last"), volume_24h=_number(ticker.volume, "volume"),
            high_24h=_price(ticker.high, "high"), low_24h=_price(ticker.low, "low"),
            change_24h=_number(ticker.change_pct, "change_pct"),
        )  # fmt: skip

    # --- Heartbeats, states, instruments ---

    def _heartbeat(self, call: Call) -> None:
        self.counts["heartbeats"] += 1
        if self.ts_venue is not None:
            self._vouch(call, self.ts_venue + max(0, call.ts - self._ts_heard) - VOUCH_NS)

    def _system_is(self, call: Call, sent: str) -> None:
        """Take the state of the whole venue, which each pair has while it is not `online`."""
        state = status_of(sent)
        if state == self._system:
            return
        self._system = state
        for product in self._products:
            self._products.learn(call, product, status=state)

    def _learn_pair(self, call: Call, pair: _Pair) -> None:
        self._products.know(
            call, pair.symbol, tick_size=_price(pair.price_increment, "price_increment"),
            size_increment=_price(pair.qty_increment, "qty_increment"),
            min_order_size=_price(pair.qty_min, "qty_min"), status=self._status_of(pair.status),
        )  # fmt: skip

    def _fetch_products(self) -> Iterable[Fetch]:
        return (Fetch(path=PAIRS_PATH, purpose="products"),)

    def _learn_products(self, call: Call) -> None:
        learn_each(call, REST_PAIRS.decode(call.payload).result.values(), REST_PAIR, self._learn_rest)

    def _learn_rest(self, call: Call, sent: RestPair) -> None:
        if not sent.wsname:
            self.counts["ignored"] += 1
            return
        for name in self._rest_names(sent.wsname):
            self._products.know(call, name, status=self._status_of(sent.status), **rest_fields(sent))

    def _rest_names(self, name: str) -> tuple[str, ...]:
        """Return the names by which a pair of REST may appear in frames."""
        return (self.named(name),)

    def _status_of(self, sent: str) -> str:
        """Return a pair's state; the venue's own comes first while it is not online."""
        state = status_of(sent) if sent else "unknown"
        return state if self._system == "online" else self._system

    def _describe(self, name: str) -> Instrument:
        return msgspec.structs.replace(describe(name), status=self._status_of(""))


# --- Reading and writing values ---

_price_of, _qty_of = attrgetter("price"), attrgetter("qty")


def _columns(book: _PairBook) -> Columns:
    return (
        numbers(list(map(_price_of, book.bids)), "price") if book.bids else [],
        numbers(list(map(_qty_of, book.bids)), "qty") if book.bids else [],
        numbers(list(map(_price_of, book.asks)), "price") if book.asks else [],
        numbers(list(map(_qty_of, book.asks)), "qty") if book.asks else [],
    )


def _number(value: Any, field: str) -> str | None:
    return None if value is None else number(value, field)


def _price(value: Any, field: str) -> str | None:
    return None if value is None else price(number(value, field), field)


def _order(verb: str, channel: str, **params: Any) -> Send:
    return Send(msgspec.json.encode({"method": verb, "params": {"channel": channel, **params}}))
