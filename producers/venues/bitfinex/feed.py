"""Bitfinex v2: public market data frames in, events out.

Theory of operation, with the source of each step. DOCS is Bitfinex's "WebSocket API v2": "General", "Public Channels",
"Books", "Raw Books", "Trades", "Ticker" and "WS Checksums"; RULES is the project's own list, checked on a recording.

1. The venue greets each connection with `info` and a version. Send `conf` with flags 65536 (number every frame),
   131072 (checksums) and 32768 (time of every frame), then subscribe to ticker, trades and book (P0, 100 levels) of
   each symbol. The answer `subscribed` gives the channel's id; every frame of data is `[id, ...]`. A channel whose
   answer was not heard is left alone, and told once: nothing in its frames names the symbol.
2. The number and the time follow the payload; numbers are small and times are in ms, so that a frame tells which of
   them it has. Numbers rise by one over all channels of the connection, heartbeats too (RULES). A skipped one means
   that any book may have missed a change: all are cleared and subscribed again; the third time within a minute the
   connection is given up. An old number is dropped.
3. Book (P0 to P4): `[price, count, amount]`; count 0 removes the level; amount above 0 is a bid, below 0 an ask. Raw
   book (R0): `[order, price, amount]`, price 0 removes the order; its orders are summed to levels here.
4. `cs` is the signed CRC32 of the best 25 levels: bid price, amount, ask price, negative amount in turn, joined by ":",
   as JavaScript writes numbers: with an exponent below 1e-6 (DOCS). In a raw book the order's id stands for the price.
5. Trades: `te` when executed, `tu` 1 to 2 s later with the same id: the first to arrive is published. Amount above 0
   means that the taker bought (DOCS, v1 "Trades": the order that causes the trade determines if it is a buy or a sell).
   Ids belong to the whole venue, so that a missing one shows nothing; after a loss the snapshot of the last trades must
   reach back to one that is known, or REST is asked.
6. `hb` comes on each channel after 15 s without a change (DOCS). 30 s without any frame are a dead connection.
7. The ticker's sizes are sums of 25 levels (DOCS), so quotes have no sizes.
8. Numbers are JSON numbers; they stay the venue's digits, in fixed-point form. Where frames have no time, books and
   tickers get our own.

Names: `tBTCUSD` is BTC-USD, since a name of six characters has two currencies of three, and longer currencies have a
colon between them: `tDUSK:USD` is DUSK-USD (DOCS, "Public Pairs"). Currencies keep the venue's codes (UST is Tether).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from decimal import Decimal
from itertools import zip_longest
from typing import Any
from zlib import crc32

import msgspec

from marketdata.book import L2Book, Level
from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.decimals import is_zero, plain
from marketdata.errors import BadEvent
from marketdata.events import CHECKSUM, DISCONNECTED, GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.kit import books, idle, listed_trades, quotes, trades
from producers.venues.kit.calls import REFUSED, Call, Line
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.liveness import Liveness
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.repairs import Repairs
from producers.venues.kit.sequence import Sequence
from producers.venues.kit.values import INT64_MAX, Columns, check_trade, ms_ns, number, numbers
from producers.venues.kit.venue import Signer

SEQUENCE, CHECKSUMS, TIMESTAMPS = 65_536, 131_072, 32_768
SILENCE_NS = 30 * SECOND_NS
LISTED_MAX = 10_000  # trades in one answer of REST
VOUCH_NS = 2 * SECOND_NS  # without the venue's own clock a heartbeat's time is ours
CHECKED_LEVELS = 25
CHANNELS_MAX = 1_000  # a connection has 25 (DOCS)
_MS_MIN = 10**12  # no number gets so far, and every time in ms since 2001 is above

_BOOK, _TRADES, _TICKER = "book", "trades", "ticker"
_SYMBOL = re.compile(r"t(?:([A-Z0-9]{3})([A-Z0-9]{3})|([A-Z0-9]{2,20}):([A-Z0-9]{2,20}))", re.ASCII)
_HEAD = re.compile(rb"\s*\[\s*(\d{1,15})\s*,")
_TICKER_FIELDS = 10

# [channel, [price, count, amount], number, time]: by far the most frequent frame, read in one go. What was matched is
# never given back (`+` after a count), which saves a third of the time; below `_MS_MIN` is a number, above it a time.
_WHOLE = r"(?:0|[1-9]\d{0,15}+)"
_DECIMAL = rf"{_WHOLE}(?:\.\d{{1,16}}+)?+"
_CHANGE = re.compile(
    rf"\[([1-9]\d{{0,14}}+),\[({_DECIMAL}),({_WHOLE}),(-?+)({_DECIMAL})\]"
    rf"(?:,(0|[1-9]\d{{0,11}}+))?(?:,([1-9]\d{{12,15}}+))?\]".encode()
)

# Info codes that end a connection's usefulness: restart, end of maintenance (DOCS, "Info Messages").
_RECONNECT_CODES = frozenset({20051, 20061})


class _Event(msgspec.Struct):
    event: str
    channel: str = ""
    id: int = msgspec.field(name="chanId", default=-1)
    symbol: str = ""
    precision: str = msgspec.field(name="prec", default="P0")
    length: Any = msgspec.field(name="len", default="100")
    flags: int = -1  # every one, where an answer does not say
    version: int = 0
    code: int = 0
    message: str = msgspec.field(name="msg", default="")


_EVENT = msgspec.json.Decoder(_Event)
_DATA = msgspec.json.Decoder(list[Any], float_hook=str)


class _Channel:
    """One subscription; a book's levels, and a raw book's orders, are kept for checksums and sums."""

    __slots__ = ("book", "id", "is_raw", "kind", "length", "orders", "precision", "product", "tells_levels")

    def __init__(self, sent: _Event, product: Product) -> None:
        self.id = sent.id
        self.kind = sent.channel
        self.product = product
        self.precision = sent.precision
        self.length = str(sent.length)
        self.book = L2Book()
        self.orders: dict[int, tuple[str, str]] = {}  # price and signed amount
        self.is_raw = sent.precision == "R0"
        self.tells_levels = sent.channel == _BOOK and not self.is_raw


class BitfinexFeed:
    """One line of Bitfinex. `products` (tBTCUSD, or just BTCUSD) None accepts all that are seen, and subscribes none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, quotes, heartbeats,
    gaps, resyncs, duplicates (old frames), repeats (trades published before, as by `tu`), deltas_before_snapshot,
    ignored, dead_letters, checksums_right and checksums_wrong.
    """

    venue = "bitfinex"
    silence_ns = SILENCE_NS

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        del token  # public channels take none
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._wanted = None if products is None else tuple(dict.fromkeys(map(full_name, products)))
        self._products = Listing(self._wanted, describe)
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        self._repairs = Repairs(self._products, self._ledger, self._again, awaited={_BOOK})
        self._sequence = Sequence()
        self._channels: dict[int, _Channel] = {}
        self._left_alone: set[int] = set()  # ignored channels that were already reported
        self._checked = True
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
        """Switch numbers, checksums and times on, then subscribe to every channel."""
        self._begin()
        call = self._call(ts)
        self._liveness.opened(call)
        if self._wanted:
            call.out.append(_order(event="conf", flags=SEQUENCE + CHECKSUMS + TIMESTAMPS))
            for name in self._wanted:
                call.out += [_subscribe(kind, name) for kind in (_BOOK, _TRADES, _TICKER)]
                self._repairs.wait(_BOOK, name, ts)
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = Call(self._line, ts, self.ts_venue, frame)
        if frame[:1] == b"{":
            with call.refusing("bad_frame"):
                self._event(call, _EVENT.decode(frame))
            return call.out
        try:
            change = _CHANGE.fullmatch(frame)
            if change is None or not self._change(call, change):
                self._data(call, _DATA.decode(frame))
        except REFUSED as error:
            call.dead_frame(error)
            self._unreadable(call)
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Take the last trades, which were asked for because some may be missing."""
        call = self._call(ts, body)
        product = self._products.get(request.symbol)
        if request.purpose != "trades" or product is None:
            self.counts["ignored"] += 1
            return call.out
        with call.refusing("bad_trades"):
            rows = _DATA.decode(body)
            # A list that is not full has all since the time that was asked for.
            reaches_back = self._take_trades(call, product, rows, origin="repair") or product.unproven
            listed_trades.end_loss(call, product, self._ledger, whole=reaches_back and len(rows) < LISTED_MAX)
        return call.out

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence, and snapshots that were asked for and did not come."""
        call = self._call(ts)
        if self._liveness.ticked(call):
            self._repairs.ticked(call)
        return call.out

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return idle.time_passed(self._call(ts), self._products, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per symbol, until the next connection's snapshots."""
        self._begin()
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book that is kept to check it, by the venue's name; None where nothing is to be checked."""
        mine = (c.book for c in self._channels.values() if c.kind == _BOOK and c.product.name == name)
        return next(mine, None) if self._checked else None

    # --- Frames ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _begin(self) -> None:
        """Forget what belonged to a connection."""
        self._sequence.forget()
        self._channels.clear()
        self._left_alone.clear()
        self._repairs.begin()
        self._checked = True
        self.ts_venue = None

    def _event(self, call: Call, sent: _Event) -> None:
        if sent.event == "subscribed":
            self._subscribed(call, sent)
        elif sent.event == "unsubscribed":
            self._channels.pop(sent.id, None)
            self._left_alone.add(sent.id)
        elif sent.event == "conf":
            self._checked = bool(sent.flags & CHECKSUMS)
            if self._wanted and not sent.flags & SEQUENCE:
                call.dead("venue_error", "frames are not numbered, so that no loss shows", field="flags",
                          value=str(sent.flags))  # fmt: skip
                call.out.append(Reconnect("not_numbered"))
        elif sent.event == "info" and sent.version:
            self._greeted(call)
        elif sent.event == "info" and sent.code in _RECONNECT_CODES:
            call.out.append(Reconnect("venue_restart"))
        elif sent.event == "error":
            call.dead("venue_error", f"{sent.code} {sent.message}", field="event", value=sent.event)
        elif sent.event not in {"info", "pong"}:
            call.dead("unknown_event", f"no event {sent.event[:100]!r} is known", field="event", value=sent.event[:200])

    def _greeted(self, call: Call) -> None:
        """Start over: the venue greets each connection once, and recordings may omit a disconnect."""
        if self._channels or self._sequence.last is not None:
            self._begin()
            self._lose(call, self._products, DISCONNECTED, "the venue greets a new connection")

    def _subscribed(self, call: Call, sent: _Event) -> None:
        self._left_alone.add(sent.id)
        if sent.channel not in {_BOOK, _TRADES, _TICKER} or not sent.symbol.startswith("t"):
            self.counts["ignored"] += 1
            return
        product = self._products.find(call, sent.symbol)
        if product is None:
            return
        others = [c for c in self._channels.values() if c.kind == sent.channel and c.product is product]
        if sent.channel == _BOOK and product.book_valid and any(
            (c.precision, c.length) != (sent.precision, str(sent.length)) for c in others
        ):  # fmt: skip
            self.counts["ignored"] += 1  # each book has one primary channel
            return
        for other in others:
            del self._channels[other.id]
        self._channels[sent.id] = _Channel(sent, product)
        if sent.channel == _BOOK:
            self._repairs.wait(_BOOK, product.name, call.ts)

    def _change(self, call: Call, found: re.Match[bytes]) -> bool:
        """Process a change of one level; False, without a change, if its channel has no levels."""
        number, price, count, sign, amount, sequence, time = found.groups()
        channel = self._channels.get(int(number))
        if channel is None or not channel.tells_levels:
            return False
        call.now = call.ts
        if time is not None:
            call.now = self.ts_venue = call.venue_time(ms_ns(int(time), "timestamp"), "timestamp")
        if sequence is None or self._follow(call, int(sequence)):
            level = [price.decode()], [amount.decode() if count != b"0" else "0"]
            self._tell_change(call, channel, ([], [], *level) if sign else (*level, [], []))
        return True

    def _accept(self, call: Call, extras: list[Any]) -> bool:
        """Read a frame's number and time; False when the frame is old and to be left alone."""
        call.now = call.ts
        sequence = None
        for extra in extras:
            if type(extra) is not int or not 0 <= extra <= INT64_MAX:
                raise BadEvent("bad_frame", "sequence", str(extra)[:200])
            if extra >= _MS_MIN:
                call.now = self.ts_venue = call.venue_time(ms_ns(extra, "timestamp"), "timestamp")
            else:
                sequence = extra
        return sequence is None or self._follow(call, sequence)

    def _follow(self, call: Call, sequence: int) -> bool:
        """Follow the frames' numbers; False when the frame is old and to be left alone."""
        call.sequence = sequence
        verdict = self._sequence.take(sequence)
        if verdict == "old":
            self.counts["duplicates"] += 1
            return False
        if verdict in {"lost", "restarted"}:
            self._lost(call)
        return True

    def _data(self, call: Call, values: list[Any]) -> None:
        if len(values) < 2 or type(values[0]) is not int:
            raise BadEvent("bad_frame", "channel", str(values)[:200])
        at = 2 if type(values[1]) is list else 3
        payload = values[at - 1] if len(values) >= at else None
        kind = values[1] if at == 3 else ""
        if kind == "hb":
            at = 2
        if not self._accept(call, values[at:]):
            return
        if type(kind) is not str:
            raise BadEvent("bad_frame", "kind", str(kind)[:200])
        channel = self._channels.get(values[0])
        if channel is None:
            self.counts["ignored"] += 1
            if kind != "hb":  # which may come before the answer
                self._unknown(call, values[0])
            return
        self._take(call, channel, kind, payload)

    def _unknown(self, call: Call, number: int) -> None:
        """Tell once of a channel that nobody announced, as where a recording begins in the middle."""
        if number not in self._left_alone and len(self._left_alone) < CHANNELS_MAX:
            self._left_alone.add(number)
            detail = f"no `subscribed` was heard for channel {number}: it is not known what its frames are"
            call.dead("unknown_channel", detail, field="chanId", value=str(number))

    def _take(self, call: Call, channel: _Channel, kind: str, payload: Any) -> None:
        product = channel.product
        if kind == "hb":
            self._heartbeat(call, channel)
        elif kind == "cs":
            self._checksum(call, channel, payload)
        elif channel.kind == _BOOK:
            self._book(call, channel, payload)
        elif channel.kind == _TICKER:
            _quote(call, product, payload)
        elif kind in {"te", "tu"}:
            was_pending = self._ledger.is_pending(product, _TRADES)
            self._take_trades(call, product, [payload])
            if not was_pending and self._ledger.is_pending(product, _TRADES):
                self._trades_missed(call, product)
        elif kind == "":
            self._trades_snapshot(call, product, payload)
        else:
            self.counts["ignored"] += 1

    def _heartbeat(self, call: Call, channel: _Channel) -> None:
        self.counts["heartbeats"] += 1
        product = channel.product
        if channel.kind == _BOOK and product.book_valid:
            books.heartbeat(call, product, call.now)
        elif channel.kind == _TRADES and not self._ledger.is_pending(product, _TRADES):
            trades.heartbeat(call, product, call.now - VOUCH_NS)

    # --- What is lost, and how it is asked for ---

    def _lost(self, call: Call) -> None:
        detail = f"{self._sequence.expected} was due, {call.sequence} came"
        self.counts["gaps"] += 1
        self._lose(call, self._products, GAP, detail, expected=self._sequence.expected, received=call.sequence)
        self._repairs.lost(call, self._products.names(), (_BOOK, _TRADES), detail)

    def _lose_all(self, call: Call, reason: str) -> None:
        self._lose(call, self._products, reason, self._liveness.end)

    def _lose(self, call: Call, products: Iterable[Product], reason: str, detail: str, **fields: Any) -> None:
        subscribed = bool(self._wanted)
        self._ledger.lose_all(call, products, reason, subscribed=subscribed, detail=detail, **fields)

    def _lose_book(self, call: Call, products: Collection[Product], reason: str, detail: str) -> None:
        self.counts["gaps"] += 1
        for product in products:
            self._ledger.lose(call, product, reason, {_BOOK}, detail=detail, channel=_BOOK)
        self._repairs.lost(call, [product.name for product in products], (_BOOK,), detail)

    def _unreadable(self, call: Call) -> None:
        """A frame that cannot be read may have been of the book or trades whose channel it names, or of any book."""
        head = _HEAD.match(call.payload)
        channel = None if head is None else self._channels.get(int(head.group(1)))
        if channel is None:
            missed = [product for product in self._products if product.book_seen]
        else:
            missed = [channel.product] if channel.kind == _BOOK else []
        if missed:
            self._lose_book(call, missed, GAP, "bad_frame")
        if channel is not None and channel.kind == _TRADES:
            self._ledger.lose(call, channel.product, GAP, {_TRADES}, detail="bad_frame", channel=_TRADES)
            self._trades_missed(call, channel.product)

    def _trades_missed(self, call: Call, product: Product) -> None:
        self.counts["gaps"] += 1
        self._repairs.lost(call, (product.name,), (_TRADES,), "bad_frame")

    def _again(self, _: Call, kind: str, names: Collection[str]) -> list[Output]:
        """Return what brings new snapshots, with the precision and length of the channel that there is."""
        orders: list[Output] = []
        for name in names:
            mine = [c for c in self._channels.values() if c.kind == kind and c.product.name == name]
            orders += [_order(event="unsubscribe", chanId=channel.id) for channel in mine]
            precision, length = (mine[0].precision, mine[0].length) if mine else ("P0", "100")
            orders.append(_subscribe(kind, name, precision, length))
        return orders

    # --- Books ---

    def _book(self, call: Call, channel: _Channel, payload: Any) -> None:
        if not isinstance(payload, list):
            raise BadEvent("bad_frame", "book", str(payload)[:200])
        # A change is one level, a snapshot a list of them.
        if len(payload) == 3 and not isinstance(payload[0], list):
            if channel.is_raw and not channel.product.book_valid:
                self.counts["deltas_before_snapshot"] += 1
                return
            self._tell_change(call, channel, _orders(channel, [payload]) if channel.is_raw else _level(payload))
            return
        if not all(isinstance(row, list) and len(row) == 3 for row in payload):
            raise BadEvent("bad_frame", "book", str(payload)[:200])
        if channel.is_raw:
            channel.orders.clear()
            channel.book.clear()
        columns = _orders(channel, payload) if channel.is_raw else _levels(payload)
        channel.book.bids.replace(columns[0], columns[1])
        channel.book.asks.replace(columns[2], columns[3])
        books.snapshot(call, channel.product, call.now, columns)
        self._repairs.came(_BOOK, channel.product.name)
        self._ledger.account(call, channel.product, _BOOK, call.now)

    def _tell_change(self, call: Call, channel: _Channel, columns: Columns) -> None:
        if books.update(call, channel.product, call.now, columns) and self._checked:
            book = channel.book
            if columns[0]:
                book.bids.apply(columns[0], columns[1])
            if columns[2]:
                book.asks.apply(columns[2], columns[3])

    def _checksum(self, call: Call, channel: _Channel, sent: Any) -> None:
        product = channel.product
        if type(sent) is not int:
            raise BadEvent("bad_frame", "checksum", str(sent)[:200])
        if not product.book_valid or channel.kind != _BOOK:
            return
        if sent == (_raw_checksum(channel.orders) if channel.is_raw else checksum(channel.book)):
            self.counts["checksums_right"] += 1
            return
        self.counts["checksums_wrong"] += 1
        self._lose_book(call, (product,), CHECKSUM, "checksum")

    # --- Trades ---

    def _trades_snapshot(self, call: Call, product: Product, rows: Any) -> None:
        if self._take_trades(call, product, rows):
            self._ledger.account(call, product, _TRADES, call.now)
        elif self._ledger.is_pending(product, _TRADES):
            since = (product.ts_trade_before or 0) // MILLISECOND_NS
            path = f"v2/trades/{product.name}/hist?limit={LISTED_MAX}&sort=1&start={since}"
            call.out.append(Fetch(path, "trades", product.name))

    def _take_trades(self, call: Call, product: Product, rows: Any, *, origin: str = "live") -> bool:
        """Publish the trades that were not published before; return whether they reach back to before a loss."""
        if not isinstance(rows, list):
            raise BadEvent("bad_frame", "trades", str(rows)[:200])
        read = [read_trade(row) for row in rows]
        read.sort(key=lambda trade: int(trade.trade_id))
        return listed_trades.take(call, product, self._ledger, read, again="repeats", origin=origin)


# --- Reading and writing values ---


def checksum(book: L2Book) -> int:
    """Return Bitfinex's checksum of a book of levels: signed CRC32 over its best 25, bid and ask in turn."""
    bids, asks = book.bids.top(CHECKED_LEVELS), book.asks.top(CHECKED_LEVELS)
    return _signed_crc(((p, s) for p, s in bids), ((p, f"-{s}") for p, s in asks))


def _raw_checksum(orders: dict[int, tuple[str, str]]) -> int:
    listed = [(Decimal(price), number, amount) for number, (price, amount) in orders.items()]
    bids = sorted((-price, number, amount) for price, number, amount in listed if amount[0] != "-")
    asks = sorted((price, number, amount) for price, number, amount in listed if amount[0] == "-")
    return _signed_crc(((str(n), a) for _, n, a in bids[:CHECKED_LEVELS]),
                       ((str(n), a) for _, n, a in asks[:CHECKED_LEVELS]))  # fmt: skip


def _signed_crc(bids: Iterable[Level], asks: Iterable[Level]) -> int:
    pairs = zip_longest(bids, asks)
    text = ":".join(_javascript(value) for pair in pairs for level in pair if level is not None for value in level)
    value = crc32(text.encode())
    return value - (1 << 32) if value >> 31 else value


def _javascript(text: str) -> str:
    """Return a decimal as JavaScript prints it: no zeros at the end, an exponent below 1e-6."""
    if "." not in text:
        return text
    text = text.rstrip("0").rstrip(".")
    digits = text.lstrip("-")
    if not digits.startswith("0.000000"):
        return text
    ones = digits[2:].lstrip("0")
    exponent = len(digits) - 2 - len(ones) + 1
    sign = "-" if text[0] == "-" else ""
    return f"{sign}{ones[0]}{'.' if len(ones) > 1 else ''}{ones[1:]}e-{exponent}"


def _levels(rows: list[list[Any]]) -> Columns:
    """Return the columns of [price, count, amount] rows. Raises BadEvent."""
    prices = numbers([row[0] for row in rows], "price")
    amounts = [str(row[2]) for row in rows]
    sizes = numbers([amount.removeprefix("-") for amount in amounts], "amount")
    columns: Columns = ([], [], [], [])
    for row, price, amount, size in zip(rows, prices, amounts, sizes, strict=True):
        count = row[1]
        if type(count) is not int or count < 0:
            raise BadEvent("bad_frame", "count", str(count)[:200])
        if price[0] == "-" or size[0] == "-":
            raise BadEvent("not_positive", "price", f"{price}, {amount}")
        side = 2 if amount[0] == "-" else 0
        columns[side].append(price)
        columns[side + 1].append(size if count else "0")
    return columns


def _level(row: list[Any]) -> Columns:
    """Return the columns of one [price, count, amount]. Raises BadEvent."""
    price, count, amount = number(row[0], "price"), row[1], number(row[2], "amount")
    if type(count) is not int or count < 0:
        raise BadEvent("bad_frame", "count", str(count)[:200])
    if price[0] == "-":
        raise BadEvent("not_positive", "price", price)
    if amount[0] == "-":
        return [], [], [price], [amount[1:] if count else "0"]
    return [price], [amount if count else "0"], [], []


def _orders(channel: _Channel, rows: list[list[Any]]) -> Columns:
    """Follow [order, price, amount] rows in the channel's orders; return the levels that they change as columns.

    Raises BadEvent, and nothing was changed then.
    """
    prices = numbers([row[1] for row in rows], "price")
    amounts = numbers([row[2] for row in rows], "amount")
    if not all(type(row[0]) is int and row[0] >= 0 for row in rows):
        raise BadEvent("bad_frame", "order", str(rows)[:200])
    book = channel.book
    totals: dict[tuple[bool, Decimal], tuple[str, Decimal]] = {}

    def add(price: str, amount: str, sign: int) -> None:
        is_ask = amount[0] == "-"
        key = is_ask, Decimal(price)
        if key not in totals:
            totals[key] = price, Decimal((book.asks if is_ask else book.bids).size_at(price) or "0")
        totals[key] = totals[key][0], totals[key][1] + sign * abs(Decimal(amount))

    for row, price, amount in zip(rows, prices, amounts, strict=True):
        before = channel.orders.pop(row[0], None)
        if before is not None:
            add(*before, -1)
        if not is_zero(price):
            channel.orders[row[0]] = price, amount
            add(price, amount, 1)
    columns: Columns = ([], [], [], [])
    for (is_ask, _), (price, size) in totals.items():
        columns[2 * is_ask].append(price)
        columns[2 * is_ask + 1].append(plain(size))
    book.bids.apply(columns[0], columns[1])
    book.asks.apply(columns[2], columns[3])
    return columns


def read_trade(row: Any) -> Trade:
    """Return a trade from `[id, ms, amount, price]`, as the stream and REST write it. Raises BadEvent."""
    if not isinstance(row, list) or len(row) != 4 or not all(type(v) is int and 0 <= v <= INT64_MAX for v in row[:2]):
        raise BadEvent("bad_frame", "trade", str(row)[:200])
    amount, price = number(row[2], "amount"), number(row[3], "price")
    check_trade(price, amount.lstrip("-"), ("price", "amount"))
    return Trade(
        trade_id=str(row[0]),
        ts_event=ms_ns(row[1], "time"),
        price=price,
        size=amount.lstrip("-"),
        side="sell" if amount[0] == "-" else "buy",
    )


def _quote(call: Call, product: Product, values: Any) -> None:
    if not isinstance(values, list) or len(values) < _TICKER_FIELDS:
        raise BadEvent("bad_frame", "ticker", str(values)[:200])
    bid, ask, last, volume, high, low = (
        None if values[at] is None else number(values[at], "ticker") for at in (0, 2, 6, 7, 8, 9)
    )
    change = None if values[5] is None else plain(Decimal(number(values[5], "change")) * 100)
    quotes.send(call, product, call.now, bid=_above_zero(bid), ask=_above_zero(ask), last=_above_zero(last),
                volume_24h=volume, high_24h=_above_zero(high), low_24h=_above_zero(low), change_24h=change)  # fmt: skip


def _above_zero(price: str | None) -> str | None:
    return None if price is None or is_zero(price) else price


def _order(**fields: Any) -> Send:
    return Send(msgspec.json.encode(fields))


def _subscribe(kind: str, name: str, precision: str = "P0", length: str = "100") -> Send:
    if kind != _BOOK:
        return _order(event="subscribe", channel=kind, symbol=name)
    return _order(event="subscribe", channel=kind, symbol=name, prec=precision, freq="F0", len=length)


def full_name(name: str) -> str:
    """Return the venue's name of a product that may have been written without its `t`, or in lower case."""
    return name if name[:1] == "t" and name[1:].isupper() else f"t{name.upper()}"


def describe(name: str) -> Instrument:
    """Return the instrument of the venue's name. Raises BadEvent."""
    match = _SYMBOL.fullmatch(name)
    if match is None:
        raise BadEvent("bad_symbol", "symbol", name[:200])
    base, quote = (part for part in match.groups() if part is not None)
    kind = "perpetual" if base.endswith("F0") and quote.endswith("F0") else "spot"
    return Instrument(venue=BitfinexFeed.venue, symbol=f"{base}-{quote}", ts_recv=0, venue_symbol=name,
                      base_currency=base, quote_currency=quote, kind=kind)  # fmt: skip
