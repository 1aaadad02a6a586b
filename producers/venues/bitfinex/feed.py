"""Bitfinex v2: public market data frames in, events out.

DOCS is Bitfinex's "WebSocket API v2": "General", https://docs.bitfinex.com/docs/ws-general, "Public Channels",
https://docs.bitfinex.com/docs/ws-public, and a page of each channel; see `book`, `rows` and `names`.

1. The venue greets each connection with `info` and a version. Send `conf` with flags 65536 (number every frame),
   131072 (checksums) and 32768 (time of every frame), then subscribe to book (P0, 100 levels), trades and ticker of
   each product, to `status` of derivatives, and once to the liquidations of all. The answer `subscribed` has the
   channel's id, an `error` its code and what was asked for; every frame of data is `[id, ...]`. A channel whose answer
   did not come is left alone, and reported once: nothing in its frames names the product.
2. The number and the time follow the payload; numbers are small and times are in ms, which distinguishes them. Numbers
   rise by one over all channels of the connection, heartbeats too (checked on a recording). A skipped one means that
   any book may have missed a change: all are cleared and subscribed again. An old number is dropped.
3. Trades: `te` when executed, `tu` 1 to 2 s later with the same id: the first to arrive is published. The amount has
   the taker's side (DOCS, "Trades", see `rows`). Ids belong to the whole venue, so that a missing one shows nothing;
   after a loss the snapshot of the last trades must reach back to one that is known, or REST is asked.
4. `hb` comes on each channel after 15 s without a change (DOCS). 30 s without any frame are a dead connection.
5. Numbers are JSON numbers; they stay the venue's digits, in fixed-point form. Where frames have no time, books and
   tickers get our own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from marketdata.book import L2Book
from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import DISCONNECTED, GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.bitfinex import rows
from producers.venues.bitfinex.book import Book, read_level
from producers.venues.bitfinex.names import describe, full_name, is_derivative
from producers.venues.kit import books, listed_trades, trades
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.products import Product
from producers.venues.kit.sequence import Sequence
from producers.venues.kit.values import INT64_MAX, Columns, ms_ns
from producers.venues.kit.venue import Signer

SEQUENCE, CHECKSUMS, TIMESTAMPS = 65_536, 131_072, 32_768
LISTED_MAX = 10_000  # trades in one answer of REST
VOUCH_NS = 2 * SECOND_NS  # without the venue's own clock a heartbeat's time is ours
CHANNELS_MAX = 1_000  # a connection has 25 (DOCS)
_MS_MIN = 10**12  # no number gets so far, and every time in ms since 2001 is above

_BOOK, _TRADES, _TICKER, _STATUS = "book", "trades", "ticker", "status"
_LIQUIDATIONS = "liquidations"  # our name: the venue's is `status` with a key of its own
_ALL_LIQUIDATIONS = "liq:global"
_DERIVATIVE = "deriv:"
_HEAD = re.compile(rb"\s*\[\s*(\d{1,15})\s*,")

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
    key: str = ""
    precision: str = msgspec.field(name="prec", default="P0")
    length: Any = msgspec.field(name="len", default="100")
    flags: int = -1  # every one, where an answer does not say
    version: int = 0
    code: int = 0
    message: str = msgspec.field(name="msg", default="")

    @property
    def what(self) -> tuple[str, str]:
        """Our name of the channel, and the product's; an empty channel for one that is not read."""
        if self.channel in {_BOOK, _TRADES, _TICKER} and self.symbol.startswith("t"):
            return self.channel, self.symbol
        if self.channel == _STATUS and self.key == _ALL_LIQUIDATIONS:
            return _LIQUIDATIONS, ""
        if self.channel == _STATUS and self.key.startswith(_DERIVATIVE):
            return _STATUS, self.key.removeprefix(_DERIVATIVE)
        return "", ""


_EVENT = msgspec.json.Decoder(_Event)
_DATA = msgspec.json.Decoder(list[Any], float_hook=str)


class _Channel:
    """One subscription; `product` is None where it is of all."""

    __slots__ = ("book", "has_levels", "id", "kind", "length", "precision", "product")

    def __init__(self, sent: _Event, kind: str, product: Product | None) -> None:
        self.id = sent.id
        self.kind = kind
        self.product = product
        self.precision = sent.precision
        self.length = str(sent.length)
        self.book = Book(is_raw=sent.precision == "R0")
        self.has_levels = kind == _BOOK and not self.book.is_raw


class BitfinexFeed(VenueFeed):
    """One line of Bitfinex; products such as tBTCUSD, or just BTCUSD.

    `duplicates` counts old frames, `repeats` trades that were published before, as by `tu`.
    """

    venue = "bitfinex"
    book_channel = _BOOK
    trades_channel = _TRADES
    silence_ns = 30 * SECOND_NS
    ping = b'{"event":"ping"}'
    awaited = (_BOOK,)
    channels = (_BOOK, _TRADES, _TICKER, _STATUS)
    # DOCS, "Public Channels": 25 channels at the same time, 20 connections a minute.
    limits = Limits(subscriptions=25, arguments=1, connects=(Rate(20, 60),))

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        names = None if products is None else tuple(dict.fromkeys(map(full_name, products)))
        super().__init__(line=line, products=names, token=token)
        self._sequence = Sequence()
        self._channels: dict[int, _Channel] = {}
        self._left_alone: set[int] = set()  # ignored channels that were already reported
        self._checked = True

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book that is kept to check it, by the venue's name; None where nothing is to be checked."""
        mine = (c.book.levels for c in self._of(_BOOK, name))
        return next(mine, None) if self._checked else None

    # --- What is sent to the venue ---

    def _begin(self) -> None:
        super()._begin()
        self._sequence.forget()
        self._channels.clear()
        self._left_alone.clear()
        self._checked = True
        self.ts_venue = None

    def _introduce(self, call: Call) -> Iterator[Output]:
        yield _send(event="conf", flags=SEQUENCE + CHECKSUMS + TIMESTAMPS)
        if any(map(is_derivative, self._wanted or ())):
            yield from self._request(call, _LIQUIDATIONS, ("",))

    def _request(self, call: Call, channel: str, names: Iterable[str]) -> list[Output]:
        """Subscribe only derivatives to `status`."""
        return super()._request(call, channel, filter(is_derivative, names) if channel == _STATUS else names)

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterator[Output]:
        del call
        for name in names:
            mine = self._of(channel, name)
            if verb == "unsubscribe":
                yield from (_send(event=verb, chanId=one.id) for one in mine)
            elif channel in {_STATUS, _LIQUIDATIONS}:
                key = f"{_DERIVATIVE}{name}" if name else _ALL_LIQUIDATIONS
                yield _send(event=verb, channel=_STATUS, key=key)
            elif channel == _BOOK:
                precision, length = (mine[0].precision, mine[0].length) if mine else ("P0", "100")
                yield _send(event=verb, channel=channel, symbol=name, prec=precision, freq="F0", len=length)
            else:
                yield _send(event=verb, channel=channel, symbol=name)

    def _of(self, kind: str, name: str) -> list[_Channel]:
        """Return the subscriptions of a kind and product."""
        return [one for one in self._channels.values()
                if one.kind == kind and ("" if one.product is None else one.product.name) == name]  # fmt: skip

    # --- Frames ---

    def _read(self, call: Call) -> None:
        frame = call.payload
        if frame[:1] == b"{":
            with call.refusing("bad_frame"):
                self._event(call, _EVENT.decode(frame))
            return
        change = _CHANGE.fullmatch(frame)
        if change is None or not self._change(call, change):
            self._data(call, _DATA.decode(frame))

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
        elif sent.event == "info":
            self._informed(call, sent)
        elif sent.event == "error":
            channel, name = sent.what
            if channel:
                self._refused(call, channel, name, detail=f"{sent.code} {sent.message}")
            else:
                call.dead("venue_error", f"{sent.code} {sent.message}", field="event", value=sent.event)
        elif sent.event != "pong":
            call.dead("unknown_event", f"no event {sent.event[:100]!r} is known", field="event", value=sent.event[:200])

    def _informed(self, call: Call, sent: _Event) -> None:
        """Start over at a greeting: the venue greets each connection once, and recordings may omit a disconnect."""
        if sent.version and (self._channels or self._sequence.last is not None):
            self._begin()
            self._lose_all(call, DISCONNECTED)
        elif sent.code in _RECONNECT_CODES:
            call.out.append(Reconnect("venue_restart"))

    def _subscribed(self, call: Call, sent: _Event) -> None:
        self._left_alone.add(sent.id)
        kind, name = sent.what
        product = self._products.find(call, name) if name else None
        if not kind or (name and product is None):
            self.counts["ignored"] += not kind
            return
        others = self._of(kind, name)
        if kind == _BOOK and product is not None and product.book_valid and any(
            (c.precision, c.length) != (sent.precision, str(sent.length)) for c in others
        ):  # fmt: skip
            self.counts["ignored"] += 1  # each book has one primary channel
            return
        for other in others:
            del self._channels[other.id]
        self._channels[sent.id] = _Channel(sent, kind, product)
        self._acknowledged(call, kind, name)
        if kind == _BOOK:
            self._repairs.wait(_BOOK, name, call.ts)

    def _change(self, call: Call, found: re.Match[bytes]) -> bool:
        """Process a change of one level; False, without a change, if its channel has no levels."""
        number, price, count, sign, amount, sequence, time = found.groups()
        channel = self._channels.get(int(number))
        if channel is None or not channel.has_levels:
            return False
        call.now = call.ts
        if time is not None:
            call.now = self.ts_venue = call.venue_time(ms_ns(int(time), "timestamp"), "timestamp")
        if sequence is None or self._follow(call, int(sequence)):
            prices, sizes = [price.decode()], [amount.decode() if count != b"0" else "0"]
            self._levels(call, channel, ([], [], prices, sizes) if sign else (prices, sizes, [], []))
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
            expected = self._sequence.expected
            self._lose(call, tuple(self._products), (_BOOK, _TRADES), GAP, f"{expected} was due, {sequence} came",
                       expected=expected, received=sequence)  # fmt: skip
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
        elif channel.product is None:
            if kind != "hb":
                self._liquidations(call, payload)
        else:
            self._take(call, channel, channel.product, kind, payload)

    def _unknown(self, call: Call, number: int) -> None:
        """Report once a channel that nobody announced, as where a recording begins in the middle."""
        if number not in self._left_alone and len(self._left_alone) < CHANNELS_MAX:
            self._left_alone.add(number)
            detail = f"no `subscribed` came for channel {number}: it is not known what its frames are"
            call.dead("unknown_channel", detail, field="chanId", value=str(number))

    def _take(self, call: Call, channel: _Channel, product: Product, kind: str, payload: Any) -> None:
        if kind == "hb":
            self._heartbeat(call, channel, product)
        elif kind == "cs":
            self._checksum(call, channel, product, payload)
        elif channel.kind == _BOOK:
            self._book(call, channel, product, payload)
        elif channel.kind == _TICKER:
            rows.send_quote(call, product, payload)
        elif channel.kind == _STATUS:
            rows.send_status(call, product, payload)
        elif kind in {"te", "tu"}:
            self._trade(call, product, payload)
        elif kind == "":
            self._trades_snapshot(call, product, payload)
        else:
            self.counts["ignored"] += 1

    def _heartbeat(self, call: Call, channel: _Channel, product: Product) -> None:
        self.counts["heartbeats"] += 1
        if channel.kind == _BOOK and product.book_valid:
            books.heartbeat(call, product, call.now)
        elif channel.kind == _TRADES and not self._trades_wait(product):
            trades.heartbeat(call, product, call.now - VOUCH_NS)

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        """Return the product whose channel the frame names, or, of an unknown channel, any book."""
        head = _HEAD.match(payload)
        channel = None if head is None else self._channels.get(int(head[1]))
        if channel is None:
            return None, (_BOOK,)
        names = () if channel.product is None else (channel.product.name,)
        return names, (channel.kind,) if channel.kind in {_BOOK, _TRADES} else ()

    # --- Books ---

    def _book(self, call: Call, channel: _Channel, product: Product, payload: Any) -> None:
        if not isinstance(payload, list):
            raise BadEvent("bad_frame", "book", str(payload)[:200])
        # A change is one level, a snapshot a list of them.
        if len(payload) == 3 and not isinstance(payload[0], list):
            if channel.has_levels:
                self._levels(call, channel, read_level(payload))
            elif product.book_valid:
                self._levels(call, channel, channel.book.change_orders([payload]))
            else:
                self.counts["deltas_before_snapshot"] += 1
            return
        if not all(isinstance(row, list) and len(row) == 3 for row in payload):
            raise BadEvent("bad_frame", "book", str(payload)[:200])
        self._snapshot(call, product, call.now, channel.book.replace(payload))

    def _levels(self, call: Call, channel: _Channel, columns: Columns) -> None:
        product = channel.product
        if product is not None and books.update(call, product, call.now, columns) and self._checked:
            channel.book.levels.apply(columns)

    def _checksum(self, call: Call, channel: _Channel, product: Product, sent: Any) -> None:
        if type(sent) is not int:
            raise BadEvent("bad_frame", "checksum", str(sent)[:200])
        if product.book_valid and channel.kind == _BOOK:
            self._is_proven(call, product, sent, channel.book.checksum())

    # --- Trades and liquidations ---

    def _trade(self, call: Call, product: Product, row: Any) -> None:
        was_pending = self._ledger.is_pending(product, _TRADES)
        listed_trades.take(call, product, self._ledger, [rows.read_trade(row)], again="repeats")
        if not was_pending and self._ledger.is_pending(product, _TRADES):
            self.counts["gaps"] += 1
            self._repairs.lost(call, (product.name,), (_TRADES,), "bad_trade")

    def _trades_snapshot(self, call: Call, product: Product, listed: Any) -> None:
        reaches_back, whole = self._take_listed(call, product, listed, "live")
        if reaches_back and whole:
            self._ledger.account(call, product, _TRADES, call.now)
        elif self._ledger.is_pending(product, _TRADES):
            since = (product.ts_trade_before or 0) // MILLISECOND_NS
            path = f"v2/trades/{product.name}/hist?limit={LISTED_MAX}&sort=1&start={since}"
            call.out.append(Fetch(path, "trades", product.name))

    def _take_listed(self, call: Call, product: Product, listed: Any, origin: str) -> tuple[bool, bool]:
        """Publish the trades of a list that are new; return whether they reach back to before a loss, and are whole."""
        if not isinstance(listed, list):
            raise BadEvent("bad_frame", "trades", str(listed)[:200])

        def read(row: Any) -> tuple[str, Trade]:
            return product.name, rows.read_trade(row)

        batches, whole = self._read_each(call, listed, read)
        batch = sorted(batches.get(product.name, ()), key=lambda trade: int(trade.trade_id))
        return listed_trades.take(call, product, self._ledger, batch, again="repeats", origin=origin), whole

    def _answered(self, call: Call, request: Fetch) -> bool:
        product = self._products.get(request.symbol)
        if request.purpose != "trades" or product is None:
            return False
        listed = _DATA.decode(call.payload)
        # A list that is not full has all since the time that was asked for.
        reaches_back, whole = self._take_listed(call, product, listed, "repair")
        whole = whole and (reaches_back or product.unproven) and len(listed) < LISTED_MAX
        listed_trades.end_loss(call, product, self._ledger, whole=whole)
        return True

    def _liquidations(self, call: Call, payload: Any) -> None:
        if not isinstance(payload, list):
            raise BadEvent("bad_frame", "liquidations", str(payload)[:200])

        def take(row: Any) -> None:
            name = rows.liquidated(row)
            product = None if name is None else self._products.find(call, name)
            if product is not None:
                rows.send_liquidation(call, product, row)

        call.each(payload if payload and isinstance(payload[0], list) else [payload], take, "bad_liquidation")

    def _describe(self, name: str) -> Instrument:
        return describe(name)


def _send(**fields: Any) -> Send:
    return Send(msgspec.json.encode(fields))
