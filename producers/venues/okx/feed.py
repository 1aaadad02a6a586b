"""OKX v5: public market data frames in, events out.

Theory of operation, with the source of each step. DOCS is OKX's "API v5", sections "WebSocket", "Order book channel",
"Trades channel" and "Tickers channel"; RULES is the project's own list of venue rules, checked on recordings.

1. Subscribe to books, trades and tickers, one `{channel, instId}` each. A connection that is silent for 30 s is closed
   by the venue: send the text `ping` before, the answer is the text `pong` (DOCS).
2. `books` (also books-l2-tbt, books50-l2-tbt): `snapshot` replaces the book, `update` sets absolute sizes, 0 removes
   the level; a level is [price, size, "0", orders] (DOCS). `books5` sends a whole book of 5 levels each time, `bbo-tbt`
   the best level, which is a quote here.
3. `prevSeqId` of each update must equal the `seqId` before it, else updates are lost: clear the book and subscribe
   again. Equal `seqId` and `prevSeqId` mean that nothing changed. A `seqId` below its `prevSeqId` means that the venue
   began to number anew (DOCS): the whole book is told again, so that consumers follow the new numbers. So it is when
   levels come under an equal number, which consumers of several lines would take for a duplicate.
4. Older captures have no `seqId`. There the time in ms rises with each update of an instrument (checked on recordings)
   and stands for the number; an older time that was not seen before means that frames came out of order.
5. `checksum` is the signed CRC32 of the best 25 levels, bid and ask in turn, "price:size" of the venue's own strings
   joined by ":" (DOCS). Since June 2026 it is always 0, which means that there is none (RULES).
6. `side` of a trade is the taker's (DOCS, "Trades channel": trade side of taker). Trade ids rise by one per
   instrument (checked on recordings); with `count` above 1 a trade stands for so many, and has the id of the last. A
   skipped id is a gap, which REST's last 500 trades fill.

Names: an `instId` is BASE-QUOTE already, with what kind of contract it is behind (`BTC-USD-SWAP`, `BTC-USD-220527`,
`BTC-USD-210924-66000-C`), and is the symbol as it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Annotated, Literal
from zlib import crc32

import msgspec

from marketdata.book import L2Book, levels_in_turn
from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.decimals import EXACT, plain
from marketdata.errors import BadEvent
from marketdata.events import CHECKSUM, GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.kit import books, numbered_trades, quotes
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
    INT64_MAX,
    UNREADABLE,
    Columns,
    Text,
    check_trade,
    expiry_ns,
    given,
    levels,
    ms_ns,
    price,
)
from producers.venues.kit.venue import Signer

PING_NS = 15 * SECOND_NS
SILENCE_NS = 30 * SECOND_NS
CHECKED_LEVELS = 25
_ARGS_MAX = 100  # one request may have 64 KB (DOCS)

_BOOK = "books"
_TRADES = "trades"
_INCREMENTAL = frozenset({"books", "books-l2-tbt", "books50-l2-tbt", "books-elp"})
_ALWAYS_WHOLE = "books5"
_BEST = "bbo-tbt"
_BOOKS = _INCREMENTAL | {_ALWAYS_WHOLE, _BEST}
_TRADE_CHANNELS = frozenset({"trades", "trades-all"})

_INST_ID = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9_]{1,20}(-[A-Za-z0-9.]{1,20}){0,3}", re.ASCII)
_HEAD = re.compile(rb'\{"arg":\{"channel":"([a-z0-9-]+)","instId":"([A-Za-z0-9._-]+)"')
_STATES = {"live": "online", "suspend": "halted", "preopen": "halted", "test": "online"}

# --- What the venue sends. Fields that are not used are not named, and are skipped without being built. ---


# The first book of an instrument has no number before it, which is -1; what events cannot hold is none.
_SeqId = Annotated[int, msgspec.Meta(ge=-INT64_MAX, le=INT64_MAX)]


class _Arg(msgspec.Struct, gc=False):
    channel: str
    name: str = msgspec.field(name="instId", default="")


class _Book(msgspec.Struct):
    asks: msgspec.Raw
    bids: msgspec.Raw
    ts: str
    checksum: int = 0
    number: _SeqId | None = msgspec.field(name="seqId", default=None)
    previous: _SeqId | None = msgspec.field(name="prevSeqId", default=None)


class _BookFrame(msgspec.Struct):
    arg: _Arg
    data: list[_Book]
    action: Literal["snapshot", "update", ""] = ""


class _Frame(msgspec.Struct):
    arg: _Arg | None = None
    event: str = ""
    code: str = ""
    msg: str = ""
    data: list[msgspec.Raw] = []


class _Trade(msgspec.Struct):
    name: str = msgspec.field(name="instId")
    trade_id: str = msgspec.field(name="tradeId")
    px: Text
    sz: Text
    side: Literal["buy", "sell"]
    ts: str
    count: str = "1"


class _Ticker(msgspec.Struct):
    name: str = msgspec.field(name="instId")
    ts: str
    last: str = ""
    bid: str = msgspec.field(name="bidPx", default="")
    bid_size: str = msgspec.field(name="bidSz", default="")
    ask: str = msgspec.field(name="askPx", default="")
    ask_size: str = msgspec.field(name="askSz", default="")
    vol24h: str = ""
    high24h: str = ""
    low24h: str = ""


class _Listed(msgspec.Struct):
    name: str = msgspec.field(name="instId")
    tick_size: str = msgspec.field(name="tickSz", default="")
    size_increment: str = msgspec.field(name="lotSz", default="")
    min_size: str = msgspec.field(name="minSz", default="")
    state: str = ""
    contract: str = msgspec.field(name="ctType", default="")
    value: str = msgspec.field(name="ctVal", default="")
    multiplier: str = msgspec.field(name="ctMult", default="")
    settled_in: str = msgspec.field(name="settleCcy", default="")
    expires_ms: str = msgspec.field(name="expTime", default="")
    strike: str = msgspec.field(name="stk", default="")


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw]


_BOOK_FRAME = msgspec.json.Decoder(_BookFrame)
_FRAME = msgspec.json.Decoder(_Frame)
_TRADE = msgspec.json.Decoder(_Trade)
_TICKER = msgspec.json.Decoder(_Ticker)
_LISTED = msgspec.json.Decoder(_Listed)
_ANSWER = msgspec.json.Decoder(_Answer)


class _State:
    """One instrument's book as the venue numbers it, and which channels speak for it."""

    __slots__ = ("book", "channel", "last", "recent", "sequence", "trades")

    def __init__(self) -> None:
        self.book = L2Book()
        self.channel = ""
        self.trades = ""
        self.recent = Recent()
        self.last: int | None = None  # seqId, or time in ms, of the last change
        self.sequence = 0  # what the last event said


class OkxFeed:
    """One line of OKX. `products` (instIds) None accepts every instrument that is seen, and subscribes none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, quotes, heartbeats
    (pongs), gaps, resyncs, duplicates, deltas_before_snapshot, ignored, dead_letters, checksums_right and
    checksums_wrong.
    """

    venue = "okx"

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        del token  # public channels take none
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._wanted = products
        self._products = Listing(products, _describe)
        self._states: dict[str, _State] = {}
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
        """Subscribe to every channel and ask for the instruments' increments."""
        self._repairs.begin()
        call = self._call(ts)
        self._liveness.opened(call)
        if self._wanted:
            args = [(channel, name) for channel in (_BOOK, _TRADES, "tickers") for name in self._wanted]
            call.out += [_order("subscribe", args[at : at + _ARGS_MAX]) for at in range(0, len(args), _ARGS_MAX)]
            for name in self._wanted:
                self._repairs.wait(_BOOK, name, ts)
        call.out += self._ask_products(ts)
        for product in self._products:
            if self._ledger.is_pending(product, _TRADES):
                call.out.append(_fetch_trades(product.name))
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = self._call(ts, frame)
        if b'"channel":"b' in frame[:40]:
            try:
                book = _BOOK_FRAME.decode(frame)
            except UNREADABLE:
                pass  # the general way finds out what is wrong with it
            else:
                self._books(call, book)
                return call.out
        self._general(call)
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Learn the instruments' increments, or take the last trades where some were missing."""
        call = self._call(ts, body)
        if request.purpose not in {"products", "trades"}:
            self.counts["ignored"] += 1
            return call.out
        try:
            items = _ANSWER.decode(body).data
        except UNREADABLE as error:
            call.dead(f"bad_{request.purpose}", str(error))
            return call.out
        if request.purpose == "trades":
            self._take_trades(call, items, "")
            return call.out
        learn_each(call, items, _LISTED, self._learn)
        return call.out

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence, ping, and ask again for snapshots that did not come."""
        call = self._call(ts)
        if not self._liveness.ticked(call):
            return call.out
        if self._liveness.ping_due(ts, PING_NS):
            call.out.append(Send(b"ping"))
        self._repairs.ticked(call)
        if self._products.is_due(ts):
            call.out += self._ask_products(ts)
        return call.out

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per symbol, until the next connection's snapshots."""
        self._repairs.begin()
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book that is kept to check it, by the venue's name; None without one."""
        state = self._states.get(name)
        return None if state is None else state.book

    # --- Frames ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _ask_products(self, ts: int) -> list[Fetch]:
        self._products.asked(ts)
        kinds = ("SPOT", "SWAP", "FUTURES") if self._wanted is None else sorted({*map(_listed_as, self._wanted)})
        return [Fetch(f"api/v5/public/instruments?instType={kind}", "products") for kind in kinds if kind]

    def _state(self, product: Product) -> _State:
        state = self._states.get(product.name)
        if state is None:
            state = self._states[product.name] = _State()
        return state

    def _heard(self, call: Call, text: str) -> int:
        """Return the venue's time of a frame, and store it as the venue's clock."""
        ts = _time(text)
        self.ts_venue = call.heard(ts, self.ts_venue)
        return ts

    def _general(self, call: Call) -> None:
        if call.payload == b"pong":
            self.counts["heartbeats"] += 1
            return
        try:
            frame = _FRAME.decode(call.payload)
            channel = "" if frame.arg is None else frame.arg.channel
            book = _BOOK_FRAME.decode(call.payload) if channel in _BOOKS and not frame.event else None
        except UNREADABLE as error:
            call.dead_frame(error)
            self._unreadable(call)
            return
        if frame.event:
            self._event(call, frame)
        elif book is not None:
            self._books(call, book)
        else:
            self._others(call, frame, channel)

    def _others(self, call: Call, frame: _Frame, channel: str) -> None:
        if channel in _TRADE_CHANNELS:
            self._take_trades(call, frame.data, channel)
        elif channel == "tickers":
            for raw in frame.data:
                with call.refusing("bad_frame"):
                    self._ticker(call, _TICKER.decode(raw))
        elif channel:
            self.counts["ignored"] += 1
        else:
            call.dead("unknown_frame", "it names neither a channel nor an event")
            self._missed(call, self._products)

    def _event(self, call: Call, frame: _Frame) -> None:
        if frame.event in {"subscribe", "unsubscribe", "channel-conn-count"}:
            self.counts["subscriptions"] += 1
        elif frame.event == "notice":  # the venue closes this connection soon, for an upgrade (DOCS)
            call.out.append(Reconnect("notice"))
        else:
            call.dead("venue_error", f"{frame.code} {frame.msg}", field="event", value=frame.event[:200])

    def _unreadable(self, call: Call) -> None:
        """A frame that cannot be read may have been a book change, unless its head says what else it was."""
        head = _HEAD.match(call.payload)
        if head is None:
            self._missed(call, self._products)
            return
        channel, name = (part.decode() for part in head.groups())
        if channel in _INCREMENTAL or channel == _ALWAYS_WHOLE:
            product = self._products.get(name)
            self._missed(call, () if product is None else (product,))

    # --- What is lost, and how it is asked for ---

    def _lose_all(self, call: Call, reason: str) -> None:
        for product in self._products:
            self._forget(product)
        self._ledger.lose_all(call, self._products, reason, subscribed=bool(self._wanted))

    def _forget(self, product: Product) -> None:
        state = self._states.get(product.name)
        if state is not None:
            state.last = None
            state.recent = Recent()

    def _missed(self, call: Call, products: Iterable[Product]) -> None:
        """Clear the books that may have missed a change, and ask for them again."""
        missed = [product for product in products if product.book_seen]
        if missed:
            self._lose(call, missed, GAP, "bad_frame")

    def _lose(
        self, call: Call, products: Collection[Product], reason: str, detail: str,
        *, expected: int | None = None, received: int | None = None,
    ) -> None:  # fmt: skip
        self.counts["gaps"] += 1
        for product in products:
            self._forget(product)
            self._ledger.lose(call, product, reason, {_BOOK}, detail=detail, channel=_BOOK, expected=expected,
                              received=received)  # fmt: skip
        self._repairs.lost(call, [product.name for product in products], (_BOOK,), detail)

    def _again(self, _: Call, __: str, names: Collection[str]) -> list[Output]:
        """Return the requests for new snapshots of each book's primary channel."""
        states = ((name, self._states.get(name)) for name in names)
        args = [(state.channel if state and state.channel else _BOOK, name) for name, state in states]
        return [_order("unsubscribe", args), _order("subscribe", args)]

    # --- Books ---

    def _books(self, call: Call, frame: _BookFrame) -> None:
        channel = frame.arg.channel
        product: Product | None = None
        try:
            product = self._products.find(call, frame.arg.name)
            if product is None:
                return
            for sent in frame.data:
                ts_event = self._heard(call, sent.ts)
                if channel == _BEST:
                    _best(call, product, ts_event, sent)
                elif channel == _ALWAYS_WHOLE or channel in _INCREMENTAL:
                    self._book(call, product, ts_event, frame, sent)
                else:
                    self.counts["ignored"] += 1
        except BadEvent as error:
            call.dead_value(error)
            if channel != _BEST:
                self._missed(call, self._products if product is None else (product,))

    def _book(self, call: Call, product: Product, ts_event: int, frame: _BookFrame, sent: _Book) -> None:
        state = self._state(product)
        is_snapshot = frame.action != "update"
        if frame.arg.channel != state.channel:
            # Each book has one primary channel: the first with a snapshot; a channel with all changes is preferred.
            if not is_snapshot or (product.book_valid and state.channel in _INCREMENTAL):
                self.counts["ignored" if state.channel else "deltas_before_snapshot"] += 1
                return
            state.channel = frame.arg.channel
        columns = _columns(sent)
        is_numbered = sent.number is not None and sent.number >= 0
        number = sent.number if sent.number is not None and is_numbered else ts_event // MILLISECOND_NS
        if not self._is_next(call, product, state, sent, number, is_snapshot=is_snapshot):
            return
        before, state.last = state.last, number
        # Without numbers, two changes of one millisecond must still be distinguishable across lines.
        state.sequence = call.sequence = number if is_numbered or number > state.sequence else state.sequence + 1
        if not self._is_proven(call, product, state, sent, columns, is_snapshot=is_snapshot):
            return
        if is_snapshot:
            books.snapshot(call, product, ts_event, columns)
            self._repairs.came(_BOOK, product.name)
            self._ledger.account(call, product, _BOOK, ts_event)
        elif is_numbered and number == before and not columns[0] and not columns[2]:
            books.heartbeat(call, product, ts_event)
        elif before is not None and (number < before or (is_numbered and number == before)):
            books.snapshot(call, product, ts_event, _whole(state.book))
        else:
            books.update(call, product, ts_event, columns, even_empty=True)

    def _is_next(
        self, call: Call, product: Product, state: _State, sent: _Book, number: int, *, is_snapshot: bool
    ) -> bool:
        """Tell whether a change follows the one before; one that does not, and was not seen, is a loss."""
        last = state.last
        is_numbered = sent.number == number
        is_new = state.recent.is_new((is_snapshot, sent.previous, number, sent.checksum))
        if not product.book_valid or last is None:
            self.counts["deltas_before_snapshot"] += not is_snapshot
            return is_snapshot
        in_order = sent.previous == last if is_numbered else number >= last
        if is_new and (is_snapshot or in_order):
            return True
        if not is_new:
            if in_order and is_numbered and number == last:  # nothing changed, again
                return True
            self.counts["duplicates"] += 1
            return False
        self._lose(call, (product,), GAP, "sequence", expected=last,
                   received=number if sent.previous is None else sent.previous)  # fmt: skip
        return False

    def _is_proven(
        self, call: Call, product: Product, state: _State, sent: _Book, columns: Columns, *, is_snapshot: bool
    ) -> bool:  # fmt: skip
        """Apply a change to the feed's own book; return whether the venue's checksum, if any, is correct."""
        bids, asks = state.book.bids, state.book.asks
        if is_snapshot:
            bids.replace(columns[0], columns[1])
            asks.replace(columns[2], columns[3])
        else:
            bids.apply(columns[0], columns[1])
            asks.apply(columns[2], columns[3])
        if not sent.checksum:
            return True
        if sent.checksum == checksum(state.book):
            self.counts["checksums_right"] += 1
            return True
        self.counts["checksums_wrong"] += 1
        self._lose(call, (product,), CHECKSUM, "checksum")
        return False

    # --- Trades and tickers ---

    def _take_trades(self, call: Call, items: list[msgspec.Raw], channel: str) -> None:
        """Take trades of a channel, or of REST when it has no name."""
        payload, whole = call.payload, True
        batches: dict[str, dict[int, tuple[int, Trade]]] = {}
        for raw in items:
            # A bad trade shows as a gap in the ids; the other trades of the frame are kept.
            call.payload = bytes(raw)
            with call.refusing("bad_frame") as reading:
                sent = _TRADE.decode(raw)
                trade, stands_for = _read_trade(sent)
                if self._products.find(call, sent.name) is not None:
                    self._heard(call, sent.ts)
                    batches.setdefault(sent.name, {})[int(trade.trade_id)] = stands_for, trade
            whole = whole and not reading.failed
        call.payload = payload
        for name, batch in batches.items():
            self._trades(call, self._products[name], batch, channel, whole=whole)

    def _trades(
        self, call: Call, product: Product, batch: dict[int, tuple[int, Trade]], channel: str, *, whole: bool
    ) -> None:  # fmt: skip
        state = self._state(product)
        state.trades = state.trades or channel
        if channel and channel != state.trades:  # the other channel has the same trades
            self.counts["ignored"] += 1
            return
        if channel:
            call.sequence = None
        ids = product.trade_ids
        numbered: list[Numbered] = []
        for number, (stands_for, trade) in sorted(batch.items()):
            if ids.last is not None and number - stands_for <= ids.last < number - 1 and not numbered:
                ids.last = number - 1  # the numbers between are within this trade
            numbered.append((number, trade))
        if numbered_trades.take(call, product, self._ledger, numbered, snapshot=not channel, whole=whole):
            self.counts["gaps"] += 1
            self.counts["resyncs"] += 1
            call.out.append(_fetch_trades(product.name))

    def _learn(self, call: Call, sent: _Listed) -> None:
        self._products.know(
            call, sent.name, tick_size=price(sent.tick_size, "tickSz"),
            size_increment=price(sent.size_increment, "lotSz"), min_order_size=price(sent.min_size, "minSz"),
            status=_STATES.get(sent.state, "unknown"), expiry=expiry_ns(sent.expires_ms, "expTime"),
            strike=given(sent.strike, "stk"), contract_multiplier=_multiplier(sent),
            settlement_currency=sent.settled_in or None,
            inverse=sent.contract == "inverse" if sent.contract else None,
        )  # fmt: skip

    def _ticker(self, call: Call, sent: _Ticker) -> None:
        product = self._products.find(call, sent.name)
        if product is None:
            return
        quotes.send(
            call, product, self._heard(call, sent.ts),
            bid=price(sent.bid, "bidPx"), bid_size=given(sent.bid_size, "bidSz"),
            ask=price(sent.ask, "askPx"), ask_size=given(sent.ask_size, "askSz"),
            last=price(sent.last, "last"), volume_24h=given(sent.vol24h, "vol24h"),
            high_24h=price(sent.high24h, "high24h"), low_24h=price(sent.low24h, "low24h"),
        )  # fmt: skip


# --- Reading and writing values ---


def checksum(book: L2Book) -> int:
    """Return OKX's checksum of a book: signed CRC32 over its best levels, each `price:size`, bid and ask in turn."""
    value = crc32(levels_in_turn(book.bids, book.asks, CHECKED_LEVELS))
    return value - (1 << 32) if value >> 31 else value


def _whole(book: L2Book) -> Columns:
    bids, asks = book.bids.top(), book.asks.top()
    return [p for p, _ in bids], [s for _, s in bids], [p for p, _ in asks], [s for _, s in asks]


def _columns(sent: _Book) -> Columns:
    return (*levels(sent.bids, "bids"), *levels(sent.asks, "asks"))


def _best(call: Call, product: Product, ts_event: int, sent: _Book) -> None:
    bid_prices, bid_sizes, ask_prices, ask_sizes = _columns(sent)
    quotes.send(call, product, ts_event, bid=next(iter(bid_prices), None), bid_size=next(iter(bid_sizes), None),
                ask=next(iter(ask_prices), None), ask_size=next(iter(ask_sizes), None))  # fmt: skip


def _time(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadEvent("bad_time", "ts", text[:200])
    return ms_ns(int(text), "ts")


def _count(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadEvent("bad_trade_id", field, text[:200])
    return int(text)


def _read_trade(sent: _Trade) -> tuple[Trade, int]:
    """Return a trade and how many it stands for."""
    number = _count(sent.trade_id, "tradeId")
    check_trade(sent.px, sent.sz, ("px", "sz"))
    trade = Trade(trade_id=str(number), ts_event=_time(sent.ts), price=sent.px, size=sent.sz, side=sent.side)
    return trade, _count(sent.count, "count")


def _fetch_trades(name: str) -> Fetch:
    return Fetch(path=f"api/v5/market/trades?instId={name}&limit=500", purpose="trades", symbol=name)


def _order(verb: str, args: Iterable[tuple[str, str]]) -> Send:
    return Send(
        msgspec.json.encode({"op": verb, "args": [{"channel": channel, "instId": name} for channel, name in args]})
    )


def _listed_as(name: str) -> str:
    return {"spot": "SPOT", "perpetual": "SWAP", "future": "FUTURES"}.get(_kind(name), "")


def _kind(name: str) -> str:
    parts = name.split("-")
    if len(parts) == 2:
        return "spot"
    if len(parts) == 3:
        return "perpetual" if parts[2] == "SWAP" else "future"
    return "option"


def _multiplier(sent: _Listed) -> str | None:
    """Return the face value of a contract: ctVal times ctMult, in the currency ctValCcy. Raises BadEvent."""
    value, multiplier = given(sent.value, "ctVal"), given(sent.multiplier, "ctMult")
    if value is None or multiplier is None or multiplier == "1":
        return value
    return plain(EXACT.multiply(Decimal(value), Decimal(multiplier)))


def _describe(name: str) -> Instrument:
    if _INST_ID.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "instId", name[:200])
    base, quote = name.split("-")[:2]
    return Instrument(venue=OkxFeed.venue, symbol=name, ts_recv=0, venue_symbol=name, base_currency=base,
                      quote_currency=quote, kind=_kind(name))  # fmt: skip
