"""Kraken spot: market data frames of WebSocket API v1 and v2 in, events out.

Theory of operation, with the source of each step. DOCS is Kraken's "Spot WebSockets" v1 and v2, channels book, trade,
ticker, instrument, and its guides "Book checksum" v1 and v2; RULES is the project's own list of venue rules, checked
on a recording of v1.

1. The API version is detected from the form of messages: v1 sends arrays and objects with `event`, v2 objects with
   `channel` or `method`. A connection counts as v2 until it proves to be v1, which starts with `systemStatus`;
   subscriptions and repairs use the detected API version. v1 writes XBT and XDG where v2 writes BTC and
   DOGE; our symbols use the latter.
2. A book begins with a snapshot (v1 `as`, `bs`) of the subscribed depth. Updates set absolute volumes, 0 removes a
   level, in the order of the message (DOCS: never by time). Then each side is cut to the subscribed depth (DOCS), since
   no removal is sent for levels that fall out of it: they are published as removed, so that no consumer keeps them.
3. Each update, and in v2 each snapshot, carries a CRC32 over the ten best asks, low to high, and the ten best bids,
   high to low: price and volume without the point and without leading zeros, as the venue wrote them (DOCS). It is
   checked at every message, after the cut. If it is wrong, the update is not published: the book is cleared, a gap
   opened, and the book subscribed again. The third loss within a minute reconnects.
4. There is no sequence. A loss that touches only levels below the tenth is not noticed until these levels rise; that
   is all that the venue offers to prove.
5. Trades: `side` is the taker's, v1 "triggering order side", v2 "the side of the taker order" (DOCS), so it is the
   aggressor's as it stands. v2 numbers trades per pair without gaps (DOCS: `trade_id` is a sequence number, unique per
   book); its snapshot has the last 50. v1 has neither ids nor a snapshot: an id is made of time, price, volume, side
   and, for equal trades of one message, an ordinal; what a lost connection hid stays on the ledger.
6. A heartbeat comes every second (RULES: also beside data) without a time. It vouches for the venue's last time plus
   what passed since by our clock, less one second. Five seconds without any frame mean a dead connection.
7. `systemStatus`, channels `status` and `instrument`, and REST `AssetPairs` contain the state of the venue and of
   pairs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal
from zlib import crc32

import msgspec

from marketdata.book import L2Book, Side, levels_digits
from marketdata.clock import SECOND_NS
from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from marketdata.events import CHECKSUM, GAP, Instrument, Trade
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
from producers.venues.kit.trade_ids import Recent
from producers.venues.kit.values import (
    UNREADABLE,
    Columns,
    Number,
    Text,
    check_decimals,
    check_trade,
    iso_ns,
    number,
    numbers,
    price,
    seconds_ns,
)
from producers.venues.kit.venue import Signer

CHECKED = 10  # levels a side that the checksum covers
DEPTHS = (10, 25, 100, 500, 1000)
DEPTH = 1000
PAIRS_PATH = "0/public/AssetPairs"
SILENCE_NS = 5 * SECOND_NS
VOUCH_NS = SECOND_NS

_BOOK = "book"
_TRADES = "trade"
_UNUSED_CHANNELS = frozenset({"ohlc", "level3", "executions", "balances"})

_PAIR = re.compile(r"([A-Za-z0-9.]{1,20})/([A-Za-z0-9.]{1,20})", re.ASCII)
MODERN = {"XBT": "BTC", "XDG": "DOGE"}
LEGACY = {modern: legacy for legacy, modern in MODERN.items()}

_STATES = {
    "online": "online",
    "reduce_only": "online",  # orders match, but positions may not grow
    "limit_only": "limit_only",
    "post_only": "post_only",
    "cancel_only": "cancel_only",
    "maintenance": "halted",
    "work_in_progress": "halted",
    "delisted": "delisted",
}

# --- What the venue sends in v1 ---


class _Level1(msgspec.Struct, array_like=True, gc=False):
    price: Text
    volume: Text
    time: Text
    kind: str = ""


class _Change1(msgspec.Struct):
    asks: list[_Level1] = msgspec.field(name="a", default_factory=list)
    bids: list[_Level1] = msgspec.field(name="b", default_factory=list)
    all_asks: list[_Level1] | None = msgspec.field(name="as", default=None)
    all_bids: list[_Level1] | None = msgspec.field(name="bs", default=None)
    checksum: str | None = msgspec.field(name="c", default=None)


class _Trade1(msgspec.Struct, array_like=True):
    price: Text
    volume: Text
    time: Text
    side: Literal["b", "s"]


class _Ticker1(msgspec.Struct):
    """`a` and `b` are [price, whole lots, lots]; `c` [last price, lots]; the others [today, last 24 hours]."""

    a: tuple[Text, Any, Text]
    b: tuple[Text, Any, Text]
    c: tuple[Text, Text]
    v: tuple[Text, Text]
    l: tuple[Text, Text]  # noqa: E741 - the venue's name
    h: tuple[Text, Text]


class _Spread1(msgspec.Struct, array_like=True):
    bid: Text
    ask: Text
    time: Text
    bid_volume: Text | None = None
    ask_volume: Text | None = None


# --- What the venue sends in v2; numbers stay in its own writing, see `values.numbers` ---


class _Level2(msgspec.Struct, gc=False):
    price: Any
    qty: Any


class _Book2(msgspec.Struct):
    symbol: str
    bids: list[_Level2] = []
    asks: list[_Level2] = []
    checksum: int | None = None
    timestamp: str = ""


class _BookFrame2(msgspec.Struct):
    channel: Literal["book"]
    type: Literal["snapshot", "update"]
    data: list[_Book2]


class _Trade2(msgspec.Struct):
    symbol: str
    side: Literal["buy", "sell"]
    price: Any
    qty: Any
    trade_id: Number
    timestamp: str


class _Ticker2(msgspec.Struct):
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


class _System2(msgspec.Struct):
    system: str


class _Pair2(msgspec.Struct):
    symbol: str
    base: str
    quote: str
    status: str
    price_increment: Any = None
    qty_increment: Any = None
    qty_min: Any = None


class _Instruments2(msgspec.Struct):
    pairs: list[msgspec.Raw] = []


class _Result2(msgspec.Struct):
    channel: str = ""
    symbol: str = ""
    depth: int | None = None


# --- Objects of both, and REST ---


class _Object(msgspec.Struct):
    """Every object that is no book of v2. `event` is v1's; `channel` and `method` are v2's."""

    event: str | None = None
    channel: str | None = None
    method: str | None = None
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")
    status: str = ""
    pair: str = ""
    channel_name: str = msgspec.field(name="channelName", default="")
    message: str = msgspec.field(name="errorMessage", default="")
    error: str | None = None
    success: bool = True
    result: msgspec.Raw = msgspec.Raw(b"{}")


class RestPair(msgspec.Struct):
    """A pair of AssetPairs."""

    wsname: str = ""
    pair_decimals: Annotated[int, msgspec.Meta(ge=0, le=32)] | None = None
    lot_decimals: Annotated[int, msgspec.Meta(ge=0, le=32)] | None = None
    tick_size: str = ""
    ordermin: str = ""
    status: str = ""


class _RestPairs(msgspec.Struct):
    result: dict[str, msgspec.Raw]


class _Named(msgspec.Struct):
    symbol: str


_BOOK1 = msgspec.json.Decoder(tuple[int, _Change1, str, str])
_PARTS1 = msgspec.json.Decoder(list[msgspec.Raw])
_CHANGE1 = msgspec.json.Decoder(_Change1)
_TRADES1 = msgspec.json.Decoder(list[_Trade1])
_TICKER1 = msgspec.json.Decoder(_Ticker1)
_SPREAD1 = msgspec.json.Decoder(_Spread1)
_TEXT = msgspec.json.Decoder(str)
_BOOK2 = msgspec.json.Decoder(_BookFrame2, float_hook=str)
_TRADE2 = msgspec.json.Decoder(_Trade2, float_hook=str)
_TICKERS2 = msgspec.json.Decoder(list[_Ticker2], float_hook=str)
_SYSTEM2 = msgspec.json.Decoder(list[_System2])
_INSTRUMENTS2 = msgspec.json.Decoder(_Instruments2)
_PAIR2 = msgspec.json.Decoder(_Pair2, float_hook=str)
_RESULT2 = msgspec.json.Decoder(_Result2)
_NAMED2 = msgspec.json.Decoder(list[_Named])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(_Object)
_REST_PAIRS = msgspec.json.Decoder(_RestPairs)
_REST_PAIR = msgspec.json.Decoder(RestPair)

_BOOK2_PREFIX = b'{"channel":"book"'


class _Book:
    """One pair's book, cut to the subscribed depth, with the checksum of its best levels."""

    __slots__ = ("_asks_checksum", "_bids_digits", "_depth", "_last", "_ts", "checksum", "levels")

    def __init__(self, depth: int, columns: Columns) -> None:
        self.levels = L2Book()
        self.levels.bids.replace(columns[0], columns[1])
        self.levels.asks.replace(columns[2], columns[3])
        self.levels.bids.truncate(depth)
        self.levels.asks.truncate(depth)
        self._depth = depth
        self._ts = 0
        self._last = columns
        self._bids_digits = levels_digits(self.levels.bids, CHECKED)
        self._asks_checksum = crc32(levels_digits(self.levels.asks, CHECKED))
        self.checksum = crc32(self._bids_digits, self._asks_checksum)

    def is_old(self, ts: int, columns: Columns) -> bool:
        """Tell whether a change is older than the last one and concerns one of its levels: it came out of order.

        The checksum does not show it when the later change took the earlier one back. That times alone go back is
        no proof, since nothing documents that they may not.
        """
        return ts < self._ts and not (
            set(columns[0]).isdisjoint(self._last[0]) and set(columns[2]).isdisjoint(self._last[2])
        )

    def apply(self, ts: int, columns: Columns) -> Columns:
        """Apply the changes and return them with the removal of what fell out of the depth."""
        self._ts, self._last = ts, columns
        bid_prices, bid_sizes, ask_prices, ask_sizes = columns
        if bid_prices:
            bid_prices, bid_sizes = _applied(self.levels.bids, self._depth, bid_prices, bid_sizes)
            self._bids_digits = levels_digits(self.levels.bids, CHECKED)
        if ask_prices:
            ask_prices, ask_sizes = _applied(self.levels.asks, self._depth, ask_prices, ask_sizes)
            self._asks_checksum = crc32(levels_digits(self.levels.asks, CHECKED))
        self.checksum = crc32(self._bids_digits, self._asks_checksum)
        return bid_prices, bid_sizes, ask_prices, ask_sizes


def _applied(side: Side, depth: int, prices: list[str], sizes: list[str]) -> tuple[list[str], list[str]]:
    side.apply(prices, sizes)
    if gone := side.truncate(depth):
        return [*prices, *(price for price, _ in gone)], sizes + ["0"] * len(gone)
    return prices, sizes


class KrakenFeed:
    """One line of Kraken spot. `products` None accepts every pair that is seen, and subscribes none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, quotes,
    heartbeats, gaps, resyncs, checksums_right, checksums_wrong, duplicates (changes and trades that came before),
    deltas_before_snapshot, ignored, subscriptions, dead_letters.
    """

    venue = "kraken"
    silence_ns = SILENCE_NS

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        del token  # public channels take none
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._ts_heard = 0  # when, by our clock, the venue's time was heard
        self._wanted = products
        accepted = None if products is None else {form(name) for name in products for form in (_modern, _legacy)}
        self._products = Listing(accepted, self._describe)
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        self._repairs = Repairs(self._products, self._ledger, self._again)
        self._books: dict[str, _Book] = {}
        self._depths: dict[str, int] = {}
        self._traded: dict[str, Recent] = {}
        self._frames_seen = Recent()
        self._begun: Counter[str] = Counter()  # snapshots by pair: what came before one says nothing of what follows
        self._subscribed: set[tuple[str, str]] = set()
        self._speaks_v1 = False
        self._system = "online"
        self._liveness = Liveness(SILENCE_NS, self._lose_all)

    # --- The contract of marketdata.feed.Feed ---

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products to subscribe; None where only frames show them."""
        return None if self._wanted is None else self._products.symbols(map(_modern, self._wanted))

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published."""
        call = self._call(ts)
        self._products.resume(call, self._ledger, previous, map(_modern, self._wanted or ()))
        return call.out

    def opened(self, ts: int) -> list[Output]:
        """Subscribe to every channel and ask for the pairs' increments."""
        self._repairs.begin()
        self._subscribed.clear()
        call = self._call(ts)
        self._liveness.opened(call)
        self._subscribe(call)
        self._products.asked(ts)
        call.out.append(Fetch(path=PAIRS_PATH, purpose="products"))
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = Call(self._line, ts, self.ts_venue, frame)
        if frame.startswith(b"["):
            self._array(call)
        elif frame.startswith(_BOOK2_PREFIX):
            self._books2(call)
        else:
            self._object(call)
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Learn the pairs' increments and states from the REST answer to `products`."""
        call = self._call(ts, body)
        if request.purpose != "products":
            self.counts["ignored"] += 1
            return call.out
        with call.refusing("bad_products"):
            learn_each(call, _REST_PAIRS.decode(body).result.values(), _REST_PAIR, self._learn_rest)
        return call.out

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence, and snapshots that were asked for and did not come."""
        call = self._call(ts)
        if self._liveness.ticked(call):
            self._repairs.ticked(call)
            if self._products.is_due(ts):
                call.out.append(Fetch(path=PAIRS_PATH, purpose="products"))
        return call.out

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return idle.time_passed(self._call(ts), self._products, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per pair, until the next connection's snapshots."""
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book that is kept to check it, by the venue's name; None without one."""
        book = self._books.get(name)
        return None if book is None else book.levels

    # --- Losses and their repair ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _lose_all(self, call: Call, reason: str) -> None:
        """The connection is gone, and with it every book."""
        self._repairs.begin()
        self._subscribed.clear()
        self._books.clear()
        self._ledger.lose_all(call, self._products, reason, subscribed=bool(self._wanted))

    def _missed(self, call: Call, names: Collection[str], channels: set[str]) -> None:
        """A frame could not be read: these pairs, or all when none is named, may have missed something."""
        products = [product for product in map(self._products.get, names) if product is not None]
        if names and not products:
            return
        products = products or list(self._products)
        if not products:
            return
        self.counts["gaps"] += 1
        for product in products:
            touched = channels & self._ledger.channels(product, subscribed=bool(self._wanted))
            self._books.pop(product.name, None)
            if self._speaks_v1 and _TRADES in touched:
                touched.discard(_TRADES)
                self._unknown_trades(call, product)
            self._ledger.lose(call, product, GAP, touched, detail="bad_frame")
        self._repairs.lost(call, [product.name for product in products], sorted(channels), "bad_frame")

    def _unknown_trades(self, call: Call, product: Product) -> None:
        """Trades without ids may be missing. Only a backfill can show that: the gap stays open, candles are invalid."""
        self._ledger.lose_trades(call, product, detail="v1 has no trade ids")
        trades.missing(call, product)

    def _again(self, call: Call, channel: str, names: Collection[str]) -> list[Output]:  # noqa: ARG002 - unsigned
        """Return what brings new snapshots; v1 has none of trades."""
        if self._speaks_v1 and channel == _TRADES:
            return []
        return [*self._orders("unsubscribe", channel, names), *self._orders("subscribe", channel, names)]

    # --- Frames of v1 ---

    def _array(self, call: Call) -> None:
        self._speaks_v1 = True
        if b'"book' in call.payload[-64:]:
            try:
                _, change, channel, pair = _BOOK1.decode(call.payload)
            except UNREADABLE:
                pass  # the general way finds out what is wrong with it, or that it has one part for each side
            else:
                self._book1(call, channel, pair, change)
                return
        channel = pair = ""
        with call.refusing("bad_frame") as reading:
            parts = _PARTS1.decode(call.payload)
            if len(parts) < 4:
                raise BadEvent("bad_frame", "frame", f"{len(parts)} parts")
            channel, pair = _TEXT.decode(parts[-2]), _TEXT.decode(parts[-1])
            self._parts1(call, channel, pair, parts[1:-2])
        if reading.failed:
            self._missed(call, (pair,) if pair in self._products else (), _concerned(channel))

    def _parts1(self, call: Call, channel: str, pair: str, parts: list[msgspec.Raw]) -> None:
        kind = channel.partition("-")[0]
        if kind == _BOOK:
            changes = [_CHANGE1.decode(part) for part in parts]
            self._book1(call, channel, pair, _merged(changes))
        elif kind == _TRADES:
            self._trades1(call, pair, _TRADES1.decode(parts[0]))
        elif kind in {"ticker", "spread"}:
            product = self._products.find(call, pair)
            if product is not None:
                (_ticker1 if kind == "ticker" else _spread1)(call, product, parts[0])
        else:
            self._unused(call, channel)

    def _unused(self, call: Call, channel: str) -> None:
        if channel.partition("-")[0] in _UNUSED_CHANNELS:
            self.counts["ignored"] += 1
        else:
            call.dead("unknown_channel", f"no channel {channel[:100]!r} is known", field="channel", value=channel[:200])

    def _book1(self, call: Call, channel: str, pair: str, change: _Change1) -> None:
        snapshot = change.all_asks is not None or change.all_bids is not None
        bids = change.all_bids or [] if snapshot else change.bids
        asks = change.all_asks or [] if snapshot else change.asks
        try:
            product = self._products.find(call, pair)
            if product is None:
                return
            columns = _columns1(bids, asks)
            ts = _last_time1(bids or asks, bids and asks, call.now)
            checksum = None if change.checksum is None else _checksum1(change.checksum)
            if self._is_again(call, (pair,), snapshot=snapshot):
                return
            if snapshot:
                self._depths[pair] = _depth1(channel)
                self._begun[pair] += 1
            self._heard(call, ts)
            self._book(call, product, ts, columns, checksum, snapshot=snapshot)
        except BadEvent as error:
            call.dead_value(error)
            self._missed(call, (pair,) if pair in self._products else (), {_BOOK})

    def _is_again(self, call: Call, names: Collection[str], *, snapshot: bool) -> bool:
        """Tell whether a frame came before: with its times in microseconds no change is twice the same.

        A snapshot that comes again is old where the book goes on from it, and good where a new one is waited for.
        """
        begun = () if snapshot else [self._begun[name] for name in names]
        if self._frames_seen.is_new(hash((*begun, call.payload))):
            return False
        known = [product for name in names if (product := self._products.get(name)) is not None]
        if snapshot and not all(product.book_valid for product in known):
            return False
        self.counts["duplicates"] += 1
        return True

    def _trades1(self, call: Call, pair: str, sent: list[_Trade1]) -> None:
        product = self._products.find(call, pair)
        if product is None:
            return
        seen = self._traded.setdefault(pair, Recent())
        alike: dict[str, int] = {}
        batch: list[Trade] = []
        for trade in sent:
            trade_id = f"{trade.time}-{trade.price}-{trade.volume}-{trade.side}"
            check_trade(trade.price, trade.volume, ("price", "volume"))
            ordinal = alike[trade_id] = alike.get(trade_id, -1) + 1
            read = Trade(
                trade_id=f"{trade_id}-{ordinal}" if ordinal else trade_id,
                ts_event=_time1(trade.time),
                price=trade.price,
                size=trade.volume,
                side="buy" if trade.side == "b" else "sell",
            )
            call.venue_time(read.ts_event, "time")
            if seen.is_new(read.trade_id):
                batch.append(read)
            else:
                self.counts["duplicates"] += 1
        self._resume_trades1(call, product)
        if batch:
            batch.sort(key=attrgetter("ts_event"))
            self._heard(call, batch[-1].ts_event)
            trades.send(call, product, batch)

    def _resume_trades1(self, call: Call, product: Product) -> None:
        """Trades come again after a lost connection: nobody knows which happened meanwhile."""
        if self._ledger.is_pending(product, _TRADES):
            self._unknown_trades(call, product)
            self._ledger.account(call, product, _TRADES, call.now)

    # --- Frames of v2 ---

    def _books2(self, call: Call) -> None:
        self._speaks_v1 = False
        try:
            frame = _BOOK2.decode(call.payload)
        except UNREADABLE as error:
            call.dead_frame(error)
            self._missed(call, self._named2(call.payload), {_BOOK})
            return
        snapshot = frame.type == "snapshot"
        timed = snapshot or any(book.timestamp for book in frame.data)
        if timed and self._is_again(call, [book.symbol for book in frame.data], snapshot=snapshot):
            return
        for book in frame.data:
            with call.refusing("bad_frame") as reading:
                product = self._products.find(call, book.symbol)
                if product is None:
                    continue
                self._begun[book.symbol] += snapshot
                columns = _columns2(book)
                ts = iso_ns(book.timestamp, "timestamp") if book.timestamp else call.now
                self._heard(call, ts)
                self._book(call, product, ts, columns, book.checksum, snapshot=snapshot)
            if reading.failed:
                self._missed(call, (book.symbol,) if book.symbol in self._products else (), {_BOOK})

    def _named2(self, payload: bytes) -> Collection[str]:
        """Return the known pairs that a frame names, as far as it can be read at all; none means any."""
        try:
            names = {item.symbol for item in _NAMED2.decode(_OBJECT.decode(payload).data)}
        except UNREADABLE:
            return ()
        return names if names <= set(self._products.names()) else ()

    def _object(self, call: Call) -> None:
        with call.refusing("malformed_json") as reading:
            sent = _OBJECT.decode(call.payload)
        if reading.failed:
            self._missed(call, (), {_BOOK, _TRADES})
        elif sent.event is not None:
            self._event1(call, sent)
        elif sent.method is not None:
            self._answer2(call, sent)
        elif sent.channel is not None:
            self._channel2(call, sent)
        else:
            call.dead("bad_frame", "an object without event, method and channel")

    def _event1(self, call: Call, sent: _Object) -> None:
        if not self._speaks_v1:
            self._speaks_v1 = True
            if self._liveness.is_open:
                self._subscribe(call)
        if sent.event == "heartbeat":
            self._heartbeat(call)
        elif sent.event == "systemStatus":
            with call.refusing("bad_frame"):
                self._system_is(call, sent.status)
        elif sent.status == "error" or sent.event == "error":
            call.dead("venue_error", sent.message, field="message", value=sent.message[:200])
        elif sent.event == "subscriptionStatus" and sent.pair:
            with call.refusing("bad_frame"):
                self._acknowledged(call, sent.channel_name, sent.pair, _depth1(sent.channel_name))
        else:
            self.counts["ignored"] += 1

    def _answer2(self, call: Call, sent: _Object) -> None:
        self._speaks_v1 = False
        if not sent.success or sent.error:
            message = sent.error or ""
            call.dead("venue_error", message, field="error", value=message[:200])
        elif sent.method == "subscribe":
            with call.refusing("bad_frame"):
                result = _RESULT2.decode(sent.result)
                self._acknowledged(call, result.channel, result.symbol, result.depth)

    def _acknowledged(self, call: Call, channel: str, pair: str, depth: int | None) -> None:
        """A subscription stands: from now on silence about the pair means that nothing happens."""
        self.counts["subscriptions"] += 1
        product = self._products.find(call, pair) if pair else None
        if product is None:
            return
        kind = channel.partition("-")[0]
        self._subscribed.add((kind, pair))
        if kind == _BOOK and depth is not None:
            self._depths[pair] = depth
        if kind == _TRADES and self._speaks_v1:
            self._resume_trades1(call, product)

    def _channel2(self, call: Call, sent: _Object) -> None:
        self._speaks_v1 = False
        channel = sent.channel or ""
        with call.refusing("bad_frame") as reading:
            match channel:
                case "heartbeat":
                    self._heartbeat(call)
                case "trade":
                    self._trades2(call, sent)
                case "ticker":
                    for ticker in _TICKERS2.decode(sent.data):
                        self._ticker2(call, ticker)
                case "instrument":
                    self._instruments2(call, sent)
                case "status":
                    for system in _SYSTEM2.decode(sent.data):
                        self._system_is(call, system.system)
                case "book":
                    self._books2(call)  # its first key is not the channel
                case _:
                    self._unused(call, channel)
        if reading.failed and channel == _TRADES:
            self._missed(call, self._named2(call.payload), {_TRADES})

    def _trades2(self, call: Call, sent: _Object) -> None:
        batches: dict[str, list[Numbered]] = {}
        payload, whole = call.payload, True
        for raw in _ITEMS.decode(sent.data):
            # A bad trade shows as a gap in the ids; the other trades of the frame are kept.
            call.payload = bytes(raw)
            with call.refusing("bad_frame") as reading:
                trade = _TRADE2.decode(raw)
                traded_price, size = number(trade.price, "price"), number(trade.qty, "qty")
                check_trade(traded_price, size, ("price", "qty"))
                read = Trade(
                    trade_id=str(trade.trade_id),
                    ts_event=iso_ns(trade.timestamp, "timestamp"),
                    price=traded_price,
                    size=size,
                    side=trade.side,
                )
                call.venue_time(read.ts_event, "timestamp")
                if self._products.find(call, trade.symbol) is not None:
                    batches.setdefault(trade.symbol, []).append((trade.trade_id, read))
            whole = whole and not reading.failed
        call.payload = payload
        for pair, batch in batches.items():
            product = self._products[pair]
            batch.sort(key=itemgetter(0))
            self._heard(call, batch[-1][1].ts_event)
            snapshot = sent.type == "snapshot"
            if snapshot:
                self._repairs.came(_TRADES, pair)
            skipped = numbered_trades.take(call, product, self._ledger, batch, snapshot=snapshot, whole=whole)
            if skipped and (_TRADES, pair) not in self._repairs:
                self.counts["gaps"] += 1
                self._repairs.lost(call, (pair,), (_TRADES,), "trade_hole")

    def _ticker2(self, call: Call, ticker: _Ticker2) -> None:
        product = self._products.find(call, ticker.symbol)
        if product is None:
            return
        ts = iso_ns(ticker.timestamp, "timestamp") if ticker.timestamp else call.now
        self._heard(call, ts)
        quotes.send(
            call, product, max(call.now, ts),
            bid=_price2(ticker.bid, "bid"), bid_size=_number2(ticker.bid_qty, "bid_qty"),
            ask=_price2(ticker.ask, "ask"), ask_size=_number2(ticker.ask_qty, "ask_qty"),
            last=_price2(ticker.last, "last"), volume_24h=_number2(ticker.volume, "volume"),
            high_24h=_price2(ticker.high, "high"), low_24h=_price2(ticker.low, "low"),
            change_24h=_number2(ticker.change_pct, "change_pct"),
        )  # fmt: skip

    # --- Books, whichever API brought them ---

    def _book(
        self, call: Call, product: Product, ts: int, columns: Columns, checksum: int | None, *, snapshot: bool
    ) -> None:
        """Verify a snapshot or an update, and publish it only if it is correct."""
        if snapshot:
            depth = self._depths.get(product.name) or (DEPTH if self._wanted else _depth_of(columns))
            book = self._books[product.name] = _Book(depth, columns)
            if self._is_right(call, product, book, checksum):
                self._repairs.came(_BOOK, product.name)
                books.snapshot(call, product, ts, columns)
                self._ledger.account(call, product, _BOOK, ts)
            return
        known = self._books.get(product.name)
        if known is None:
            self.counts["deltas_before_snapshot"] += 1
        elif known.is_old(ts, columns):
            self._wrong(call, product, GAP, "a change came out of order")
        else:
            columns = known.apply(ts, columns)
            if self._is_right(call, product, known, checksum):
                # A level that comes back into the depth brings its old time with it.
                books.update(call, product, max(ts, product.ts_book or 0), columns)

    def _is_right(self, call: Call, product: Product, book: _Book, checksum: int | None) -> bool:
        if checksum is None:
            return True
        if checksum == book.checksum:
            self.counts["checksums_right"] += 1
            return True
        self.counts["checksums_wrong"] += 1
        detail = f"the venue's checksum is {checksum}, the book's {book.checksum}"
        self._wrong(call, product, CHECKSUM, detail)
        return False

    def _wrong(self, call: Call, product: Product, reason: str, detail: str) -> None:
        """The book is not the venue's: it is of no use to anyone until the next snapshot."""
        self.counts["gaps"] += 1
        del self._books[product.name]
        self._ledger.lose(call, product, reason, {_BOOK}, channel=_BOOK, detail=detail)
        self._repairs.lost(call, (product.name,), (_BOOK,), reason)

    # --- Heartbeats, states, instruments ---

    def _heard(self, call: Call, ts_event: int) -> None:
        """Note the venue's time; it never goes back."""
        self.ts_venue = call.heard(ts_event, self.ts_venue)
        if ts_event == self.ts_venue:
            self._ts_heard = call.ts

    def _heartbeat(self, call: Call) -> None:
        self.counts["heartbeats"] += 1
        if self.ts_venue is None:
            return
        vouched = self.ts_venue + max(0, call.ts - self._ts_heard) - VOUCH_NS
        for product in self._products:
            if not self._trades_wait(product):
                trades.heartbeat(call, product, vouched)
            if product.book_valid:
                books.heartbeat(call, product, vouched)

    def _trades_wait(self, product: Product) -> bool:
        """Whether trades of the pair are not subscribed, or may still come late: then nothing can be vouched for."""
        if product.ts_trade is None and (_TRADES, product.name) not in self._subscribed:
            return True
        return self._ledger.is_pending(product, _TRADES) or (_TRADES, product.name) in self._repairs

    def _system_is(self, call: Call, word: str) -> None:
        """Take the state of the whole venue, which each pair has while it is not `online`."""
        state = status_of(word)
        if state == self._system:
            return
        self._system = state
        for product in self._products:
            self._products.learn(call, product, status=state)

    def _instruments2(self, call: Call, sent: _Object) -> None:
        learn_each(call, _INSTRUMENTS2.decode(sent.data).pairs, _PAIR2, self._learn2)

    def _learn2(self, call: Call, pair: _Pair2) -> None:
        self._products.know(
            call, pair.symbol, tick_size=_price2(pair.price_increment, "price_increment"),
            size_increment=_price2(pair.qty_increment, "qty_increment"),
            min_order_size=_price2(pair.qty_min, "qty_min"), status=self._status_of(pair.status),
        )  # fmt: skip

    def _learn_rest(self, call: Call, sent: RestPair) -> None:
        if not sent.wsname:
            self.counts["ignored"] += 1  # dark-pool pairs, which have no WebSocket name
            return
        for name in {sent.wsname, _modern(sent.wsname)}:
            self._products.know(call, name, status=self._status_of(sent.status), **rest_fields(sent))

    def _status_of(self, word: str) -> str:
        """Return a pair's state; the venue's own comes first while it is not online."""
        state = status_of(word) if word else "unknown"
        return state if self._system == "online" else self._system

    def _describe(self, pair: str) -> Instrument:
        return msgspec.structs.replace(describe(pair), status=self._status_of(""))

    # --- What is sent to the venue ---

    def _subscribe(self, call: Call) -> None:
        if not self._wanted:
            return
        names = [(_legacy if self._speaks_v1 else _modern)(name) for name in self._wanted]
        if not self._speaks_v1:
            call.out.append(_send({"method": "subscribe", "params": {"channel": "instrument"}}))
        for channel in (_BOOK, _TRADES, "ticker"):
            call.out += self._orders("subscribe", channel, names)
        for name in names:
            self._repairs.wait(_BOOK, name, call.ts)
            product = self._products.get(name)
            if product is not None and not self._speaks_v1 and self._ledger.is_pending(product, _TRADES):
                self._repairs.wait(_TRADES, name, call.ts)

    def _orders(self, verb: str, channel: str, names: Iterable[str]) -> list[Output]:
        """Return the orders for these pairs, one for each depth that they are subscribed at."""
        if channel != _BOOK:
            return [self._order(verb, channel, list(names), None)]
        depths: dict[int, list[str]] = {}
        for name in names:
            depths.setdefault(self._depths.get(name, DEPTH), []).append(name)
        return [self._order(verb, channel, those, depth) for depth, those in depths.items()]

    def _order(self, verb: str, channel: str, names: list[str], depth: int | None) -> Send:
        options: dict[str, Any] = {} if depth is None else {"depth": depth}
        if self._speaks_v1:
            return _send({"event": verb, "pair": names, "subscription": {"name": channel, **options}})
        if verb == "subscribe":
            options |= {"snapshot": True} | ({"event_trigger": "bbo"} if channel == "ticker" else {})
        return _send({"method": verb, "params": {"channel": channel, "symbol": names, **options}})


# --- Reading values ---

_price_of, _qty_of = attrgetter("price"), attrgetter("qty")


def _columns1(bids: list[_Level1], asks: list[_Level1]) -> Columns:
    # As a rule a change has one side only.
    bid_prices = [level.price for level in bids] if bids else []
    bid_sizes = [level.volume for level in bids] if bids else []
    ask_prices = [level.price for level in asks] if asks else []
    ask_sizes = [level.volume for level in asks] if asks else []
    check_decimals(bid_prices + bid_sizes + ask_prices + ask_sizes, "level")
    return bid_prices, bid_sizes, ask_prices, ask_sizes


def _columns2(book: _Book2) -> Columns:
    return (
        numbers(list(map(_price_of, book.bids)), "price") if book.bids else [],
        numbers(list(map(_qty_of, book.bids)), "qty") if book.bids else [],
        numbers(list(map(_price_of, book.asks)), "price") if book.asks else [],
        numbers(list(map(_qty_of, book.asks)), "qty") if book.asks else [],
    )


def _merged(changes: list[_Change1]) -> _Change1:
    """Return the parts of one message as one: one part has the asks, the next the bids and the checksum."""
    merged = _Change1()
    for change in changes:
        merged.asks += change.asks
        merged.bids += change.bids
        if change.all_asks is not None:
            merged.all_asks = change.all_asks
        if change.all_bids is not None:
            merged.all_bids = change.all_bids
        merged.checksum = change.checksum if merged.checksum is None else merged.checksum
    return merged


def _ticker1(call: Call, product: Product, raw: msgspec.Raw) -> None:
    sent = _TICKER1.decode(raw)
    quotes.send(
        call, product, call.now,
        bid=price(sent.b[0], "bid"), bid_size=_decimal(sent.b[2], "bid"),
        ask=price(sent.a[0], "ask"), ask_size=_decimal(sent.a[2], "ask"),
        last=price(sent.c[0], "last"), volume_24h=_decimal(sent.v[1], "volume"),
        high_24h=price(sent.h[1], "high"), low_24h=price(sent.l[1], "low"),
    )  # fmt: skip


def _spread1(call: Call, product: Product, raw: msgspec.Raw) -> None:
    sent = _SPREAD1.decode(raw)
    quotes.send(
        call, product, _time1(sent.time),
        bid=price(sent.bid, "bid"), bid_size=price(sent.bid_volume or "", "bid_volume"),
        ask=price(sent.ask, "ask"), ask_size=price(sent.ask_volume or "", "ask_volume"),
    )  # fmt: skip


def _time1(text: str) -> int:
    """Return UTC nanoseconds of `1618678142.557535`, v1's usual form, or of any other number of seconds."""
    digits = text.replace(".", "")
    if len(text) == 17 and len(digits) == 16 and text[10] == "." and digits.isdecimal():
        return int(digits) * 1000
    return seconds_ns(text, "time")


def _last_time1(levels: list[_Level1], more: list[_Level1], default: int) -> int:
    """Return the latest time of a message's levels."""
    if len(levels) == 1 and not more:
        return _time1(levels[0].time)
    return _time1(max([level.time for level in levels + more])) if levels else default


def _checksum1(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise BadEvent("bad_checksum", "c", text[:200])
    return int(text)


def _depth1(channel: str) -> int:
    """Return the depth in a channel's name such as `book-1000`."""
    depth = channel.partition("-")[2]
    return int(depth) if depth.isascii() and depth.isdigit() and 0 < len(depth) <= 4 else DEPTHS[0]


def _depth_of(columns: Columns) -> int:
    """Return the smallest depth that Kraken has for a snapshot of this size, if no response stated the depth."""
    levels = max(len(columns[0]), len(columns[2]))
    return next((depth for depth in DEPTHS if levels <= depth), levels)


def _concerned(channel: str) -> set[str]:
    """Return which of the channels that may miss something a frame of this channel concerns."""
    kind = channel.partition("-")[0]
    if kind in {_BOOK, _TRADES}:
        return {kind}
    return set() if kind in {"ticker", "spread"} | _UNUSED_CHANNELS else {_BOOK, _TRADES}


def _decimal(text: str, field: str) -> str:
    decimal(text, field)
    return text


def _number2(value: Any, field: str) -> str | None:
    return None if value is None else number(value, field)


def _price2(value: Any, field: str) -> str | None:
    return None if value is None else price(number(value, field), field)


def _increment(decimals: int | None) -> str | None:
    if decimals is None:
        return None
    return f"0.{'1':0>{decimals}}" if decimals else "1"


def describe(pair: str) -> Instrument:
    """Return the instrument of a pair's name, of v1 or of v2. Raises BadEvent."""
    named = _PAIR.fullmatch(pair)
    if named is None:
        raise BadEvent("bad_symbol", "symbol", pair[:200])
    base, quote = (MODERN.get(currency, currency) for currency in named.groups())
    return Instrument(venue=KrakenFeed.venue, symbol=f"{base}-{quote}", ts_recv=0, venue_symbol=pair,
                      base_currency=base, quote_currency=quote)  # fmt: skip


def rest_fields(sent: RestPair) -> dict[str, Any]:
    """Return a pair from REST, without its state, as fields of an Instrument. Raises BadEvent."""
    return {
        "tick_size": price(sent.tick_size, "tick_size") or _increment(sent.pair_decimals),
        "size_increment": _increment(sent.lot_decimals),
        "min_order_size": price(sent.ordermin, "ordermin"),
    }


def status_of(word: str) -> str:
    """Return our word for a pair's state. Raises BadEvent for a word that is not documented."""
    try:
        return _STATES[word]
    except KeyError:
        raise BadEvent("unknown_status", "status", word[:200]) from None


def _renamed(name: str, names: dict[str, str]) -> str:
    return "/".join(names.get(currency, currency) for currency in name.split("/"))


def _modern(name: str) -> str:
    return _renamed(name, MODERN)


def _legacy(name: str) -> str:
    return _renamed(name, LEGACY)


def _send(order: dict[str, Any]) -> Send:
    return Send(msgspec.json.encode(order))
