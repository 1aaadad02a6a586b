"""OKX v5: public market data frames in, events out.

Theory of operation. DOCS is "OKX API guide", https://www.okx.com/docs-v5/en/, sections "WebSocket", "Order book
channel", "Trades channel", "Tickers channel". "Recorded" is what was checked on a recording.

1. Subscribe to books, trades and tickers, one `{channel, instId}` each. The venue closes a connection that is silent
   for 30 s: send the text `ping` before, the answer is the text `pong` (DOCS).
2. `books` (also books-l2-tbt, books50-l2-tbt): `snapshot` replaces the book, `update` sets absolute sizes, 0 removes
   the level; a level is [price, size, "0", orders] (DOCS). `books5` sends a whole book of 5 levels each time, `bbo-tbt`
   the best level, which is a quote here. One channel is primary for a book.
3. `prevSeqId` of each update must equal the `seqId` before it, else updates are lost: clear the book and subscribe
   again. Equal `seqId` and `prevSeqId` mean that nothing changed. A `seqId` below its `prevSeqId` means that the venue
   reset the sequence (DOCS): the whole book is published again, so that consumers follow the new numbers; likewise when
   levels come under an equal number, which consumers of several lines would take for a duplicate.
4. `checksum` is the signed CRC32 of the best 25 levels, bid and ask in turn, "price:size" of the venue's own strings
   joined by ":" (DOCS). Since June 2026 it is always 0, which means that there is none (recorded).
5. `side` of a trade is the taker's (DOCS, "Trades channel": trade side of taker). Trade ids rise by one per
   instrument (recorded); with `count` above 1 a trade stands for so many, and has the id of the last. A skipped id is a
   gap, which REST's last 500 trades fill.

Names: `names`. What only contracts have, such as funding: `derivatives`. Books without numbers, as in captures of
before 2023: `feed_2022`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from operator import itemgetter
from typing import Annotated, Literal
from zlib import crc32

import msgspec

from marketdata.book import L2Book, levels_in_turn
from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import GAP, SYMBOL, Instrument, Trade
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.kit import books, numbered_trades, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.instruments import learn_each
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.numbered_trades import Numbered
from producers.venues.kit.products import Product
from producers.venues.kit.trade_ids import Recent
from producers.venues.kit.values import (
    INT64_MAX,
    UNREADABLE,
    Columns,
    Text,
    check_trade,
    given,
    integer,
    levels,
    ms_text_ns,
    price,
)
from producers.venues.kit.venue import Signer
from producers.venues.okx.derivatives import CHANNELS, Derivatives, argument
from producers.venues.okx.names import LISTED, VENUE, Listed, describe, listed_as, listed_fields

CHECKED_LEVELS = 25

_BOOK, _TRADES, _TICKERS = "books", "trades", "tickers"
_INCREMENTAL = frozenset({"books", "books-l2-tbt", "books50-l2-tbt", "books-elp"})
_ALWAYS_WHOLE = "books5"
_BEST = "bbo-tbt"
_BOOKS = _INCREMENTAL | {_ALWAYS_WHOLE, _BEST}
_TRADE_CHANNELS = frozenset({"trades", "trades-all"})

_NAMED = re.compile(r"channel:([a-z0-9-]+), ?inst(?:Id|Type):([A-Za-z0-9._-]+) ")
_HEAD = re.compile(rb'\s*\{\s*"arg":\s*\{\s*"channel":\s*"([a-z0-9-]+)",\s*"inst(?:Id|Type)":\s*"([A-Za-z0-9._-]+)"')


# --- What the venue sends. Fields that are not used are not named, and are skipped without being built. ---


# The first book of an instrument has no number before it, which is -1.
SeqId = Annotated[int, msgspec.Meta(ge=-INT64_MAX, le=INT64_MAX)]


class _Arg(msgspec.Struct, gc=False):
    channel: str
    name: str = msgspec.field(name="instId", default="")


class _EventArg(_Arg, gc=False):
    type: str = msgspec.field(name="instType", default="")


class Book(msgspec.Struct):
    """A whole book or changes of one, with absolute sizes."""

    asks: msgspec.Raw
    bids: msgspec.Raw
    ts: str
    number: SeqId = msgspec.field(name="seqId")
    previous: SeqId | None = msgspec.field(name="prevSeqId", default=None)
    checksum: int = 0


class BookFrame(msgspec.Struct):
    """A frame of a channel of books."""

    arg: _Arg
    data: Sequence[Book]
    action: Literal["snapshot", "update", ""] = ""


class _Frame(msgspec.Struct):
    arg: _EventArg | None = None
    event: str = ""
    code: str = ""
    msg: str = ""
    data: list[msgspec.Raw] = []


# `source` of a trade with an order of the Enhanced Liquidity Program: a trade in the book, which counts as any other.
_ENHANCED_LIQUIDITY = "1"


class _Trade(msgspec.Struct):
    name: str = msgspec.field(name="instId")
    trade_id: str = msgspec.field(name="tradeId")
    px: Text
    sz: Text
    side: Literal["buy", "sell"]
    ts: str
    count: str = "1"
    source: str = "0"


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


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw]


_FRAME = msgspec.json.Decoder(_Frame)
_TRADE = msgspec.json.Decoder(_Trade)
_TICKER = msgspec.json.Decoder(_Ticker)
_ANSWER = msgspec.json.Decoder(_Answer)


class State:
    """One instrument's book as the venue numbers it, and its primary channels."""

    __slots__ = ("book", "channel", "last", "recent", "trades")

    def __init__(self) -> None:
        self.book = L2Book()
        self.channel = ""
        self.trades = ""
        self.recent = Recent()
        self.last: int | None = None  # seqId of the last change


class OkxFeed(VenueFeed):
    """One line of OKX; products are instIds. `heartbeats` counts pongs."""

    venue = VENUE
    book_channel = _BOOK
    trades_channel = _TRADES
    silence_ns = 30 * SECOND_NS
    sequence_scope = SYMBOL
    ping = b"ping"
    channels: tuple[str, ...] = (_BOOK, _TRADES, _TICKERS)
    # "Connect" and "Subscribe" of DOCS; a message may have 64 KB, an argument has under 100 bytes.
    limits = Limits(arguments=100, messages=(Rate(3, 1), Rate(480, 3_600)), connects=(Rate(3, 1),))
    book_frame: msgspec.json.Decoder[BookFrame] = msgspec.json.Decoder(BookFrame)

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        super().__init__(line=line, products=products, token=token)
        self._states: dict[str, State] = {}
        self._derivatives = Derivatives(self._products, products, self._event_time)

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book that is kept to check it, by the venue's name; None without one."""
        state = self._states.get(name)
        return None if state is None else state.book

    # --- What is sent to the venue ---

    def _subscribe(self, call: Call) -> None:
        super()._subscribe(call)
        for channel, names in self._derivatives.subscriptions().items():
            call.out += self._request(call, channel, names)

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> list[Output]:
        del call
        primary = self._states if channel == _BOOK else {}
        args = [argument(primary[name].channel or _BOOK if name in primary else channel, name) for name in names]
        return [Send(msgspec.json.encode({"op": verb, "args": args}))]

    def _again(self, call: Call, channel: str, names: Collection[str]) -> Iterable[Output]:
        return super()._again(call, channel, names) if channel == _BOOK else map(_fetch_trades, names)

    def _recover_trades(self, call: Call, product: Product) -> None:
        call.out.append(_fetch_trades(product.name))

    def _fetch_products(self) -> list[Fetch]:
        kinds = ("SPOT", "SWAP", "FUTURES") if self._wanted is None else sorted({*map(listed_as, self._wanted)})
        return [Fetch(f"api/v5/public/instruments?instType={kind}", "products") for kind in kinds if kind]

    # --- Frames ---

    def _read(self, call: Call) -> None:
        frame = call.payload
        if b'"channel":"b' in frame[:40]:
            try:
                book = self.book_frame.decode(frame)
            except UNREADABLE:
                pass  # the general way finds out what is wrong with it
            else:
                self._books(call, book)
                return
        if frame == b"pong":
            self.counts["heartbeats"] += 1
            return
        sent = _FRAME.decode(frame)
        channel = "" if sent.arg is None else sent.arg.channel
        if sent.event:
            self._event(call, sent)
        elif channel in _BOOKS:
            self._books(call, self.book_frame.decode(frame))
        elif channel in _TRADE_CHANNELS:
            self._take_trades(call, sent.data, channel)
        elif channel == _TICKERS:
            call.each(sent.data, lambda raw: self._ticker(call, _TICKER.decode(raw)))
        elif channel:
            self._derivatives.take(call, channel, sent.data)
        else:
            raise BadEvent("unknown_frame", "arg", frame[:100].decode(errors="replace"))

    def _event(self, call: Call, frame: _Frame) -> None:
        arg = frame.arg or _EventArg("")
        channel, name = arg.channel, arg.name or arg.type
        if frame.event == "error" and (named := _NAMED.search(frame.msg)) is not None:
            channel, name = named.groups()
        channel = _BOOK if channel in _INCREMENTAL else _TRADES if channel in _TRADE_CHANNELS else channel
        is_ours = self._products.accepts(name) or self._subscriptions.state(channel, name) is not None
        if frame.event == "subscribe" and is_ours:
            self._acknowledged(call, channel, name)
        elif frame.event == "notice":  # the venue closes this connection soon, for an upgrade (DOCS)
            call.out.append(Reconnect("notice"))
        elif frame.event in {"error", "channel-conn-count-error"}:
            call.dead("venue_error", f"{frame.code} {frame.msg}", field="event", value=frame.event[:200])
            if channel and is_ours:
                self._refused(call, channel, name, detail=f"{frame.code} {frame.msg}")
        else:
            self.counts["ignored"] += 1

    def _products_of(self, call: Call, channel: str, name: str) -> list[Product]:
        if channel in CHANNELS:
            return self._derivatives.products_of(call, channel, name)
        return super()._products_of(call, channel, name)

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        """Return books only: a trade that is missing shows by the ids."""
        head = _HEAD.match(payload)
        if head is None:
            return None, (_BOOK,)
        channel, name = (part.decode() for part in head.groups())
        return (name,), ((_BOOK,) if channel in _INCREMENTAL or channel == _ALWAYS_WHOLE else ())

    def _forget(self, product: Product) -> None:
        state = self._states.get(product.name)
        if state is not None:
            state.last = None
            state.recent = Recent()

    # --- Books ---

    def _books(self, call: Call, frame: BookFrame) -> None:
        product = self._products.find(call, frame.arg.name)
        if product is None:
            return
        channel = frame.arg.channel
        for sent in frame.data:
            ts_event = self._event_time(call, sent.ts, ms_text_ns, "ts")
            if channel == _BEST:
                _best(call, product, ts_event, sent)
            elif channel == _ALWAYS_WHOLE or channel in _INCREMENTAL:
                self._book(call, product, ts_event, frame, sent)
            else:
                self.counts["ignored"] += 1

    def _state(self, product: Product) -> State:
        state = self._states.get(product.name)
        if state is None:
            state = self._states[product.name] = State()
        return state

    def _book(self, call: Call, product: Product, ts_event: int, frame: BookFrame, sent: Book) -> None:
        state = self._state(product)
        is_snapshot = frame.action != "update"
        if frame.arg.channel != state.channel:
            # Each book has one primary channel: the first with a snapshot; a channel with all changes is preferred.
            if not is_snapshot or (product.book_valid and state.channel in _INCREMENTAL):
                self.counts["ignored" if state.channel else "deltas_before_snapshot"] += 1
                return
            state.channel = frame.arg.channel
        columns = _columns(sent)
        if not self._is_next(call, product, state, sent, is_snapshot=is_snapshot):
            return
        number = call.sequence = sent.number
        before, state.last = state.last, number
        if is_snapshot:
            state.book.replace(columns)
        else:
            state.book.apply(columns)
        if sent.checksum and not self._is_proven(call, product, sent.checksum, checksum(state.book)):
            return
        if is_snapshot:
            self._snapshot(call, product, ts_event, columns)
        elif number == before and not columns[0] and not columns[2]:
            books.heartbeat(call, product, ts_event)
        elif before is not None and number <= before:
            books.snapshot(call, product, ts_event, _whole(state.book))
        else:
            books.update(call, product, ts_event, columns, even_empty=True)

    def _is_next(self, call: Call, product: Product, state: State, sent: Book, *, is_snapshot: bool) -> bool:
        """Return whether a change follows the one before; one that does not, and was not seen, is a loss."""
        last = state.last
        is_new = state.recent.is_new((is_snapshot, sent.previous, sent.number, sent.checksum))
        if not product.book_valid or last is None:
            self.counts["deltas_before_snapshot"] += not is_snapshot
            return is_snapshot
        in_order = sent.previous == last
        if is_new and (is_snapshot or in_order):
            return True
        if not is_new:
            if in_order and sent.number == last:  # nothing changed, again
                return True
            self.counts["duplicates"] += 1
            return False
        received = sent.number if sent.previous is None else sent.previous
        self._lose(call, (product,), (_BOOK,), GAP, "sequence", expected=last, received=received)
        return False

    # --- Trades and tickers ---

    def _answered(self, call: Call, request: Fetch) -> bool:
        if request.purpose == "trades":
            self._take_trades(call, _ANSWER.decode(call.payload).data, "")
        return request.purpose == "trades"

    def _take_trades(self, call: Call, items: list[msgspec.Raw], channel: str) -> None:
        """Take trades of a channel, or of REST when it has no name."""

        def read(raw: msgspec.Raw) -> tuple[str, tuple[int, int, Trade]]:
            sent = _TRADE.decode(raw)
            number, stands_for, trade = _read_trade(sent)
            self._advance(call, trade.ts_event)
            return sent.name, (number, stands_for, trade)

        batches, whole = self._read_each(call, items, read)
        for name, batch in batches.items():
            self._trades(call, self._products[name], batch, channel, whole=whole)

    def _trades(
        self, call: Call, product: Product, batch: list[tuple[int, int, Trade]], channel: str, *, whole: bool
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
        for number, stands_for, trade in sorted(batch, key=itemgetter(0)):
            if ids.last is not None and number - stands_for <= ids.last < number - 1 and not numbered:
                ids.last = number - 1  # the numbers between are within this trade
            numbered.append((number, trade))
        if numbered_trades.take(call, product, self._ledger, numbered, snapshot=not channel, whole=whole):
            self.counts["gaps"] += 1
            self.counts["resyncs"] += 1
            call.out.append(_fetch_trades(product.name))

    def _ticker(self, call: Call, sent: _Ticker) -> None:
        product = self._products.find(call, sent.name)
        if product is None:
            return
        ts_event = self._event_time(call, sent.ts, ms_text_ns, "ts")
        quotes.send(
            call, product, ts_event,
            bid=price(sent.bid, "bidPx"), bid_size=given(sent.bid_size, "bidSz"),
            ask=price(sent.ask, "askPx"), ask_size=given(sent.ask_size, "askSz"),
            last=price(sent.last, "last"), volume_24h=given(sent.vol24h, "vol24h"),
            high_24h=price(sent.high24h, "high24h"), low_24h=price(sent.low24h, "low24h"),
        )  # fmt: skip

    # --- Products ---

    def _describe(self, name: str) -> Instrument:
        return describe(name)

    def _learn_products(self, call: Call) -> None:
        learn_each(call, _ANSWER.decode(call.payload).data, LISTED, self._learn)

    def _learn(self, call: Call, sent: Listed) -> None:
        self._products.know(call, sent.name, **listed_fields(sent))


# --- Reading and writing values ---


def checksum(book: L2Book) -> int:
    """Return OKX's checksum of a book: signed CRC32 over its best levels, each `price:size`, bid and ask in turn."""
    value = crc32(levels_in_turn(book.bids, book.asks, CHECKED_LEVELS))
    return value - (1 << 32) if value >> 31 else value


def _whole(book: L2Book) -> Columns:
    bid_prices, bid_sizes, ask_prices, ask_sizes = book.pack()
    return bid_prices, bid_sizes, ask_prices, ask_sizes


def _columns(sent: Book) -> Columns:
    return (*levels(sent.bids, "bids"), *levels(sent.asks, "asks"))


def _best(call: Call, product: Product, ts_event: int, sent: Book) -> None:
    bid_prices, bid_sizes, ask_prices, ask_sizes = _columns(sent)
    quotes.send(call, product, ts_event, bid=next(iter(bid_prices), None), bid_size=next(iter(bid_sizes), None),
                ask=next(iter(ask_prices), None), ask_size=next(iter(ask_sizes), None))  # fmt: skip


def _read_trade(sent: _Trade) -> tuple[int, int, Trade]:
    """Return a trade's number, how many it stands for, and the trade."""
    number = integer(sent.trade_id, "tradeId", "bad_trade_id")
    check_trade(sent.px, sent.sz, ("px", "sz"))
    trade = Trade(trade_id=str(number), ts_event=ms_text_ns(sent.ts, "ts"), price=sent.px, size=sent.sz, side=sent.side,
                  conditions=("ELP",) if sent.source == _ENHANCED_LIQUIDITY else ())  # fmt: skip
    return number, integer(sent.count, "count", "bad_trade_id"), trade


def _fetch_trades(name: str) -> Fetch:
    return Fetch(path=f"api/v5/market/trades?instId={name}&limit=500", purpose="trades", symbol=name)
