"""Gemini market data v2: frames in, events out.

Theory of operation, with the source of each step. DOCS is Gemini's "WebSocket API: Market Data v2" and "REST API:
Symbol Details, Trade History"; checked on a recording where it says so.

1. Subscribe to `l2` for every symbol in one message. The first `l2_updates` of a symbol is the whole book, with the
   last trades beside it (DOCS: the existing state of the book and the last trades); only that one has `trades`.
2. Later `l2_updates` set absolute quantities, [side, price, quantity]; 0 removes the level. They have no number, no
   checksum and no time: nothing but the connection proves them whole, and they get our own time. What can be seen is
   seen: a frame that cannot be read, and a book that is crossed while orders match, clear the book and subscribe again.
3. `side` of a `trade` is the taker's (DOCS, "Level 2 Data": side of the taker in the trade). Trade ids rise and leave
   some out (checked on a recording). After a lost connection the last trades must reach back to one that is known, or
   REST is asked.
4. A `heartbeat` comes every 5 s (checked on a recording); 15 s without a frame are a dead connection. It vouches for
   what happened up to a second before it was sent.
5. REST `symbols/details`: there `quote_increment` is the step of prices and `tick_size` that of quantities (DOCS).

Names: BTCUSD is split at the longest quote currency that it ends with, and `PERP` behind it stays behind (BTCGUSDPERP
is BTC-GUSD-PERP); with two exceptions that gave the currencies of all 347 products of recorded details.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal

import msgspec

from marketdata.book import L2Book
from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import CROSSED, GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Send
from producers.venues.kit import books, idle, listed_trades, trades
from producers.venues.kit.calls import REFUSED, Call, Line
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.liveness import Liveness
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.repairs import Repairs
from producers.venues.kit.values import Columns, Number, Text, check_decimals, check_trade, ms_ns, number
from producers.venues.kit.venue import Signer

LISTED_MAX = 500  # trades in one answer of REST
SILENCE_NS = 15 * SECOND_NS
VOUCH_NS = SECOND_NS

_BOOK, _TRADES = "l2", "trade"

QUOTES = ("USD", "GUSD", "RLUSD", "USDC", "USDT", "EUR", "GBP", "SGD", "BTC", "ETH", "SOL", "DAI", "FIL", "BCH", "LTC")
_SPLIT = re.compile(rf"([A-Z0-9]{{1,20}}?)({'|'.join(sorted(QUOTES, key=len, reverse=True))})(PERP)?")
_EXCEPTIONS = {"PAXGUSD": ("PAXG", "USD"), "USDGUSD": ("USDG", "USD")}
_NAME = re.compile(r"[A-Z0-9]{2,40}", re.ASCII)
_NAMED = re.compile(rb'"symbol":"([A-Z0-9]{2,40})"')
_STATES = {"open": "online", "closed": "halted", "cancel_only": "cancel_only", "post_only": "post_only",
           "limit_only": "limit_only"}  # fmt: skip

# --- What the venue sends. Fields that are not used are not named. ---


class _Level(msgspec.Struct, array_like=True, gc=False):
    side: Literal["buy", "sell"]
    price: Text
    size: Text


class _Trade(msgspec.Struct, gc=False):
    symbol: str
    price: Text
    quantity: Text
    side: Literal["buy", "sell"]
    timestamp: Number
    tid: Number | None = None
    event: Number | None = msgspec.field(name="event_id", default=None)


class _Book(msgspec.Struct):
    symbol: str
    changes: list[_Level]
    trades: list[_Trade] | None = None


class _Kind(msgspec.Struct):
    type: str = ""
    result: str = ""
    reason: str = ""
    timestamp: Number = 0


class _RestTrade(msgspec.Struct):
    tid: Number
    price: Text
    amount: Text
    type: str
    timestampms: Number


class _Details(msgspec.Struct):
    symbol: str
    tick_size: Any = None
    quote_increment: Any = None
    min_order_size: Any = None
    status: str = ""


_KIND = msgspec.json.Decoder(_Kind)
_BOOK_FRAME = msgspec.json.Decoder(_Book)
_TRADE = msgspec.json.Decoder(_Trade)
_REST_TRADES = msgspec.json.Decoder(list[_RestTrade])
_DETAILS = msgspec.json.Decoder(_Details, float_hook=str)


class GeminiFeed:
    """One line of Gemini. `products` (such as BTCUSD) None accepts every symbol that is seen, and subscribes none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, heartbeats, gaps,
    resyncs, duplicates (trades that came again), repeats (trades of a new snapshot that were published before),
    deltas_before_snapshot, ignored, dead_letters.
    """

    venue = "gemini"
    silence_ns = SILENCE_NS

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        del token  # public data takes none
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._wanted = None if products is None else tuple(name.upper() for name in products)
        self._products = Listing(self._wanted, describe)
        self._books: dict[str, L2Book] = {}
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        self._repairs = Repairs(self._products, self._ledger, self._again)
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
        """Subscribe to every symbol, and ask for their increments."""
        self._repairs.begin()
        call = self._call(ts)
        self._products.asked(ts)
        self._liveness.opened(call)
        if self._wanted:
            call.out.append(_order("subscribe", self._wanted))
            call.out += [_fetch_details(name) for name in self._wanted]
            for name in self._wanted:
                self._repairs.wait(_BOOK, name, ts)
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = self._call(ts, frame)
        try:
            sent = _KIND.decode(frame)
            if sent.type == "l2_updates":
                self._book(call, _BOOK_FRAME.decode(frame))
            elif sent.type == "trade":
                trade = _TRADE.decode(frame)
                product = self._find(call, trade.symbol)
                if product is not None:
                    was_pending = self._ledger.is_pending(product, _TRADES)
                    listed_trades.take(call, product, self._ledger, [_read_trade(trade)], again="duplicates")
                    if not was_pending and self._ledger.is_pending(product, _TRADES):
                        call.out.append(_fetch_trades(product))
            else:
                self._other(call, sent)
        except REFUSED as error:
            call.dead_frame(error)
            self._unreadable(call)
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Learn a symbol's increments, or take the last trades where some may be missing."""
        call = self._call(ts, body)
        with call.refusing(f"bad_{request.purpose}"):
            if request.purpose == "details":
                self._learn(call, _DETAILS.decode(body))
            elif request.purpose == "trades" and (product := self._products.get(request.symbol)) is not None:
                read = [_read_rest_trade(sent) for sent in _REST_TRADES.decode(body) if sent.type in {"buy", "sell"}]
                read.sort(key=_number_of)
                whole = listed_trades.take(call, product, self._ledger, read, again="repeats", origin="repair")
                # A list that is not full has all since the time that was asked for, which is before the loss.
                whole = whole or (product.unproven and len(read) < LISTED_MAX)
                listed_trades.end_loss(call, product, self._ledger, whole=whole)
            else:
                self.counts["ignored"] += 1
        return call.out

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence, and snapshots that were asked for and did not come."""
        call = self._call(ts)
        if self._liveness.ticked(call):
            self._repairs.ticked(call)
            if self._products.is_due(ts):
                call.out += map(_fetch_details, self._wanted or self._products.names())
        return call.out

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return idle.time_passed(self._call(ts), self._products, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per symbol, until the next connection's snapshots."""
        self._repairs.begin()
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book that is kept to see it cross, by the venue's name; None without one."""
        return self._books.get(name)

    # --- Frames ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, None, payload)

    def _find(self, call: Call, name: str) -> Product | None:
        """Return a product; ask for its increments on first sight, unless that was done on connecting."""
        is_new = name not in self._products
        product = self._products.find(call, name)
        if product is not None and is_new and self._wanted is None:
            call.out.append(_fetch_details(name))
        return product

    def _other(self, call: Call, sent: _Kind) -> None:
        if sent.type == "heartbeat" and not sent.timestamp:
            self.counts["heartbeats"] += 1  # as the older interface sends it: it vouches for nothing
        elif sent.type == "heartbeat":
            with call.refusing("bad_frame"):  # it may be wrong itself, but changes no book
                self._heartbeat(call, ms_ns(sent.timestamp, "timestamp"))
        elif sent.result == "error":
            call.dead("venue_error", sent.reason, field="reason", value=sent.reason[:200])
        elif sent.type or sent.result:
            self.counts["ignored"] += 1
        else:
            raise BadEvent("unknown_frame", "type", call.payload[:100].decode(errors="replace"))

    def _heartbeat(self, call: Call, ts: int) -> None:
        self.counts["heartbeats"] += 1
        self.ts_venue = call.venue_time(ts, "timestamp")
        for product in self._products:
            if product.ts_trade is not None and not self._ledger.is_pending(product, _TRADES):
                trades.heartbeat(call, product, ts - VOUCH_NS)
            if product.book_valid:
                books.heartbeat(call, product, ts - VOUCH_NS)

    def _unreadable(self, call: Call) -> None:
        """A frame that cannot be read may have been a change or trade of the symbol that it names, or of any."""
        named = _NAMED.search(call.payload)
        product = None if named is None else self._products.get(named.group(1).decode())
        missed = [p for p in self._products if p.book_seen] if named is None else [product] if product else []
        if b'"type":"trade"' in call.payload and b'"changes"' not in call.payload:
            for one in missed:
                self._ledger.lose(call, one, GAP, {_TRADES}, detail="bad_frame", channel=_TRADES)
                call.out.append(_fetch_trades(one))
        elif missed:
            self._missed(call, missed, GAP, "bad_frame")

    # --- What is lost, and how it is asked for ---

    def _lose_all(self, call: Call, reason: str) -> None:
        self._ledger.lose_all(call, self._products, reason, subscribed=bool(self._wanted))

    def _missed(self, call: Call, products: Collection[Product], reason: str, detail: str) -> None:
        self.counts["gaps"] += 1
        for product in products:
            self._ledger.lose(call, product, reason, {_BOOK}, detail=detail, channel=_BOOK)
        self._repairs.lost(call, [product.name for product in products], (_BOOK,), detail)

    @staticmethod
    def _again(_: Call, __: str, names: Collection[str]) -> list[Output]:
        """Return what brings new snapshots."""
        return [_order("unsubscribe", names), _order("subscribe", names)]

    # --- Books and trades ---

    def _book(self, call: Call, sent: _Book) -> None:
        product = self._find(call, sent.symbol)
        if product is None:
            return
        columns = _columns(sent.changes)
        read = [_read_trade(trade) for trade in sent.trades or ()]
        book = self._books.setdefault(product.name, L2Book())
        if sent.trades is None:
            if not product.book_valid:
                self.counts["deltas_before_snapshot"] += 1
                return
            book.bids.apply(columns[0], columns[1])
            book.asks.apply(columns[2], columns[3])
        else:
            book.bids.replace(columns[0], columns[1])
            book.asks.replace(columns[2], columns[3])
        if book.is_crossed() and product.validity["valid"]:
            self._missed(call, (product,), CROSSED, "crossed")
            return
        if sent.trades is None:
            books.update(call, product, call.ts, columns)
            return
        books.snapshot(call, product, call.ts, columns)
        self._repairs.came(_BOOK, product.name)
        self._ledger.account(call, product, _BOOK, call.ts)
        read.sort(key=_number_of)
        if listed_trades.take(call, product, self._ledger, read, again="repeats"):
            self._ledger.account(call, product, _TRADES, call.ts)
        elif self._ledger.is_pending(product, _TRADES):
            call.out.append(_fetch_trades(product))

    def _learn(self, call: Call, sent: _Details) -> None:
        name = sent.symbol.upper()
        self._products.know(
            call, name,
            tick_size=None if sent.quote_increment is None else number(sent.quote_increment, "quote_increment"),
            size_increment=None if sent.tick_size is None else number(sent.tick_size, "tick_size"),
            min_order_size=None if sent.min_order_size is None else number(sent.min_order_size, "min_order_size"),
            status=_STATES.get(sent.status, "unknown"),
        )  # fmt: skip


# --- Reading and writing values ---


def _columns(levels: list[_Level]) -> Columns:
    columns: Columns = ([], [], [], [])
    for level in levels:
        at = 0 if level.side == "buy" else 2
        columns[at].append(level.price)
        columns[at + 1].append(level.size)
    if levels:
        check_decimals(columns[0] + columns[1] + columns[2] + columns[3], "changes")
    return columns


def _read_trade(sent: _Trade) -> Trade:
    check_trade(sent.price, sent.quantity, ("price", "quantity"))
    if sent.tid is not None:
        name = str(sent.tid)
    elif sent.event is not None:
        # Before there was a `tid`: one event may fill several orders, each at a price and size of its own.
        name = f"{sent.event}:{sent.price}:{sent.quantity}"
    else:
        raise BadEvent("bad_trade_id", "tid", "")
    return Trade(
        trade_id=name, ts_event=ms_ns(sent.timestamp, "timestamp"), price=sent.price, size=sent.quantity, side=sent.side
    )


def _read_rest_trade(sent: _RestTrade) -> Trade:
    check_trade(sent.price, sent.amount, ("price", "amount"))
    return Trade(trade_id=str(sent.tid), ts_event=ms_ns(sent.timestampms, "timestampms"), price=sent.price,
                 size=sent.amount, side=sent.type)  # fmt: skip


def _order(verb: str, names: Collection[str]) -> Send:
    return Send(msgspec.json.encode({"type": verb, "subscriptions": [{"name": "l2", "symbols": list(names)}]}))


def _fetch_details(name: str) -> Fetch:
    return Fetch(f"v1/symbols/details/{name.lower()}", "details", name)


def _number_of(trade: Trade) -> int:
    return int(trade.trade_id.partition(":")[0])


def _fetch_trades(product: Product) -> Fetch:
    # A second earlier, so that the last trade before the loss is among them.
    since = max(0, (product.ts_trade_before or 0) // SECOND_NS - 1)
    path = f"v1/trades/{product.name.lower()}?limit_trades={LISTED_MAX}&timestamp={since}"
    return Fetch(path, "trades", product.name)


def describe(name: str) -> Instrument:
    """Return what a name means. Raises BadEvent for what is no name."""
    if _NAME.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "symbol", name[:200])
    match = _SPLIT.fullmatch(name)
    base, quote, rest = match.groups() if match else (name, "", None)
    base, quote = _EXCEPTIONS.get(name, (base, quote))
    return Instrument(venue=GeminiFeed.venue, symbol="-".join(part for part in (base, quote, rest) if part), ts_recv=0,
                      venue_symbol=name, base_currency=base, quote_currency=quote,
                      kind="perpetual" if rest else "spot")  # fmt: skip
