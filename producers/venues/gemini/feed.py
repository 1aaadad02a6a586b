"""Gemini's WebSocket API: frames in, events out.

DOCS is Gemini's "WebSocket API", https://developer.gemini.com/websocket/introduction (version 0.10.7), with "Stream
Reference" (.../websocket/streams), "Message Format" (.../websocket/message-format) and "Order Book Reconstruction"
(.../tools/typescript-sdk/deep-dives/order-book). The archived "Market Data v2" is `feed_v2`, for recordings.

1. Subscribe to `btcusd@depth@100ms` and `btcusd@trade` of each product, one stream a request: one that the venue does
   not know refuses the whole request. The answer has the request's `id`, and `status` 200 or an `error` (DOCS). How
   much a connection may ask for is what `conninfo` answers: 7,000 requests in 10 s, 300 connections in 5 minutes.
2. With `?snapshot=-1` in the address the first `depthUpdate` of a subscription is the whole book; nothing in it says so
   (DOCS, "Snapshot Parameter"). Later ones set absolute quantities, 0 removes the level.
3. `u` is the last update id of a frame and `U` the first, in a range that all products share. A frame whose `u` is not
   above the last one is old; one with `U` above it comes behind a gap (DOCS, "Order Book Reconstruction"): `U` is the
   `u` of the frame before (the documents only say "first update id"). As long as no connection has shown this, a
   frame may also begin one above; once it has, books that followed such a frame are lost.
4. After a gap the depth stream is unsubscribed, and subscribed again when the answer is here: what comes before the
   answer is of the old subscription, and the first frame after it is the new book. In a recording nobody is asked; a
   frame with `U` equal to `u` is a whole book there, since a change covers at least one id.
5. `trade`: `t` is the id, `E` the time in ns; `m` is whether the buyer was the maker (DOCS, "Trade Stream"): then the
   taker sold. Ids rise and leave some out (checked on recordings), so that after a lost connection REST is asked for
   the trades since, once the subscription is acknowledged.
6. A quiet book sends nothing: `ping` is sent after 10 s without a frame, and answered with its id (DOCS). 25 s of
   silence are a dead connection. An answer vouches for what happened up to a second before.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Send
from producers.venues.gemini.names import describe, fetch_details, read_details
from producers.venues.gemini.trades import LISTED_MAX, fetch_trades, make_trade, number_of, read_listed
from producers.venues.kit import books, listed_trades
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.products import Product
from producers.venues.kit.values import Number, Text, check_trade, in_range, levels
from producers.venues.kit.venue import Signer

VOUCH_NS = SECOND_NS
OK = 200
# So many old frames in a row, each above the one before, mean that the venue reset its ids.
OLD_RUN_MAX = 8

_PING = "ping"
_DEPTH, _TRADE = "depth@100ms", "trade"
_NAMED = re.compile(rb'"s(?:ymbol)?":\s*"([A-Za-z0-9]{2,40})"')


class _Error(msgspec.Struct):
    code: int = 0
    msg: str = ""


class _Frame(msgspec.Struct):
    kind: str = msgspec.field(name="e", default="")
    time: int = msgspec.field(name="E", default=0)
    symbol: str = msgspec.field(name="s", default="")
    first: Number | None = msgspec.field(name="U", default=None)
    last: Number | None = msgspec.field(name="u", default=None)
    bids: msgspec.Raw = msgspec.field(name="b", default_factory=lambda: msgspec.Raw(b"[]"))
    asks: msgspec.Raw = msgspec.field(name="a", default_factory=lambda: msgspec.Raw(b"[]"))
    trade: Number | None = msgspec.field(name="t", default=None)
    price: Text | None = msgspec.field(name="p", default=None)
    size: Text | None = msgspec.field(name="q", default=None)
    buyer_made: bool | None = msgspec.field(name="m", default=None)
    partial: Number | None = msgspec.field(name="lastUpdateId", default=None)
    id: Any = None
    status: int = 0
    error: _Error | None = None


_FRAME = msgspec.json.Decoder(_Frame)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class Chain:
    """The update ids of one product's book. `last` is that of the book that consumers have, None without one.

    `awaits`: `first`, the next frame is the whole book; `answer`, that is so after the venue's answer; `whole`, a frame
    that cannot be a change is.
    """

    __slots__ = ("awaits", "last", "old", "old_run")

    def __init__(self) -> None:
        self.last: int | None = None
        self.awaits = "first"
        self.old = 0
        self.old_run = 0

    def is_reset(self, last: int) -> bool:
        """Note an old frame; return whether so many came in order that the ids start again."""
        self.old_run = self.old_run + 1 if last > self.old else 1
        self.old = last
        return self.old_run >= OLD_RUN_MAX


class GeminiFeed(VenueFeed):
    """One line of Gemini; products such as BTCUSD. `repeats` counts trades that were published before."""

    venue = "gemini"
    book_channel = "depth"
    trades_channel = _TRADE
    silence_ns = 25 * SECOND_NS
    ping = msgspec.json.encode({"id": _PING, "method": "ping"})
    awaited = (book_channel,)
    channels = (_DEPTH, _TRADE)
    book_subscription = _DEPTH
    limits = Limits(arguments=1, messages=(Rate(7_000, 10),), connects=(Rate(300, 300),))

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        names = None if products is None else tuple(dict.fromkeys(name.upper() for name in products))
        super().__init__(line=line, products=names, token=token)
        self._chains: dict[str, Chain] = {}
        self._requests: dict[str, tuple[str, str, str]] = {}  # id to method, channel and product
        self._requests_made = 0
        self._overlaps = False  # a frame began at the id where the one before ended
        self._assumed: set[str] = set()  # products with a frame that began one above, while nothing did

    # --- What is sent to the venue ---

    def _begin(self) -> None:
        super()._begin()
        self._chains.clear()
        self._requests.clear()
        self._assumed.clear()

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterator[Output]:
        del call
        for name in names:
            self._requests_made += 1
            number = str(self._requests_made)
            self._requests[number] = (verb, channel, name)
            sent = {"id": number, "method": verb, "params": [f"{name.lower()}@{channel}"]}
            yield Send(msgspec.json.encode(sent))

    def _again(self, call: Call, channel: str, names: Collection[str]) -> Iterator[Output]:
        if channel == self.trades_channel:
            yield from (fetch_trades(self._products[name]) for name in names if name in self._products)
            return
        for name in names if self._wanted is not None else ():
            self._chains.setdefault(name, Chain()).awaits = "answer"
        yield from self._unsubscribe(call, _DEPTH, names)

    def _fetch_products(self) -> list[Fetch]:
        return list(map(fetch_details, self._wanted or self._products.names()))

    # --- Frames ---

    def _read(self, call: Call) -> None:
        sent = _FRAME.decode(call.payload)
        if sent.kind == "depthUpdate":
            self._depth(call, sent)
        elif sent.id is not None or sent.status:
            self._reply(call, sent)
        elif not sent.kind and sent.trade is not None:
            self._trade(call, sent)
        elif sent.kind or sent.partial is not None or sent.last is not None:
            self.counts["ignored"] += 1
        else:
            raise BadEvent("unknown_frame", "e", call.payload[:100].decode(errors="replace"))

    def _reply(self, call: Call, sent: _Frame) -> None:
        if sent.id == _PING:
            self.counts["heartbeats"] += 1
            self._vouch(call, call.ts - VOUCH_NS)
            return
        verb, channel, name = self._requests.pop(str(sent.id), ("", "", ""))
        if not verb or self._wanted is None:
            self.counts["ignored"] += 1  # the answer to a recorded request, as a rule
        elif verb == "unsubscribe":
            chain = self._chains.setdefault(name, Chain())
            if chain.awaits == "answer":  # whether or not there was a subscription
                chain.awaits = "first"
                call.out += self._request(call, channel, (name,))
        elif sent.error is not None:
            self._refused(call, channel, name, detail=f"{sent.error.code} {sent.error.msg}")
        elif sent.status != OK:
            call.dead("bad_frame", "an answer without an error", field="status", value=str(sent.status))
        else:
            self._acknowledged(call, channel, name)
            product = self._products.get(name)
            if product is not None and channel == _TRADE and self._ledger.is_pending(product, _TRADE):
                call.out.append(fetch_trades(product))

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        named = _NAMED.search(payload)
        names = None if named is None else (named[1].decode().upper(),)
        is_trade = b'"t":' in payload and b'"U":' not in payload
        return names, (self.trades_channel if is_trade else self.book_channel,)

    def _find(self, call: Call, name: str) -> Product | None:
        """Return a product; ask for its details on first sight, unless that was done on connecting."""
        product = self._products.get(name)
        if product is None:
            product = self._products.find(call, name)
            if product is not None and self._wanted is None:
                call.out.append(fetch_details(name))
        return product

    # --- Books ---

    def _depth(self, call: Call, sent: _Frame) -> None:
        first, last = sent.first, sent.last
        if first is None or last is None or last < first:
            raise BadEvent("bad_sequence", "U", f"{first} to {last}")
        columns = (*levels(sent.bids, "b"), *levels(sent.asks, "a"))
        product = self._find(call, sent.symbol.upper())
        if product is None:
            return
        ts_event = self._event_time(call, sent.time, _nanoseconds, "E")
        chain = self._chains.setdefault(product.name, Chain())
        if chain.last is not None and not self._follows(call, product, chain, first, last):
            return
        if chain.last is None:
            if chain.awaits == "answer" or (chain.awaits == "whole" and not (self._overlaps and first == last)):
                self.counts["deltas_before_snapshot"] += 1
                return
            call.sequence = last
            self._snapshot(call, product, ts_event, columns)
            if self._wanted is None and self._ledger.is_pending(product, self.trades_channel):
                call.out.append(fetch_trades(product))
        else:
            call.sequence = last
            books.update(call, product, ts_event, columns, even_empty=True)
        chain.last, chain.old_run = last, 0

    def _follows(self, call: Call, product: Product, chain: Chain, first: int, last: int) -> bool:
        """Return whether a frame is to be read: it follows the one before, or is a whole book behind a loss."""
        before = chain.last or 0
        if last <= before and not chain.is_reset(last):
            self.counts["duplicates"] += 1
            return False
        if last > before and first <= before + (not self._overlaps):
            if first > before:
                self._assumed.add(product.name)
            elif first == before and not self._overlaps:
                self._overlaps = True
                assumed = [self._products[name] for name in sorted(self._assumed)]
                self._lose(call, assumed, (self.book_channel,), GAP, "sequence")
            return chain.last is not None
        self._lose(call, (product,), (self.book_channel,), GAP, "sequence", expected=before, received=first)
        return self._wanted is None

    def _forget(self, product: Product) -> None:
        chain = self._chains.get(product.name)
        if chain is not None:
            chain.last, chain.old_run = None, 0
            chain.awaits = "whole" if self._wanted is None else "answer"

    # --- Trades and products ---

    def _trade(self, call: Call, sent: _Frame) -> None:
        price, size = sent.price or "", sent.size or ""
        check_trade(price, size, ("p", "q"))
        if sent.buyer_made is None:
            raise BadEvent("unknown_side", "m", "")
        product = self._find(call, sent.symbol.upper())
        if product is None:
            return
        ts_event = _nanoseconds(sent.time, "E")
        self._advance(call, ts_event)
        side = "sell" if sent.buyer_made else "buy"
        trade = make_trade(str(sent.trade), ts_event, price, size, side)
        self._take_live(call, product, trade)

    def _take_live(self, call: Call, product: Product, trade: Trade) -> None:
        """Publish a trade of the stream; one that no event may hold is asked for again."""
        was_pending = self._ledger.is_pending(product, self.trades_channel)
        listed_trades.take(call, product, self._ledger, [trade], again="duplicates")
        if not was_pending and self._ledger.is_pending(product, self.trades_channel):
            call.out.append(fetch_trades(product))

    def _answered(self, call: Call, request: Fetch) -> bool:
        product = self._products.get(request.symbol)
        if request.purpose != "trades" or product is None:
            return False
        items = _ITEMS.decode(call.payload)
        batches, whole = self._read_each(call, items, lambda raw: (product.name, read_listed(raw)))
        batch = sorted(batches.get(product.name, ()), key=number_of)
        # A list that is not full has all since the time that was asked for, which is before the loss.
        reaches_back = listed_trades.take(call, product, self._ledger, batch, again="repeats", origin="repair")
        reaches_back = reaches_back or (product.unproven and len(items) < LISTED_MAX)
        listed_trades.end_loss(call, product, self._ledger, whole=whole and reaches_back)
        return True

    def _describe(self, name: str) -> Instrument:
        return describe(name)

    def _learn_products(self, call: Call) -> None:
        name, learned = read_details(call.payload)
        self._products.know(call, name, **learned)


def _nanoseconds(time: int, field: str) -> int:
    """Return a time of the venue, which is in nanoseconds already. Raises BadEvent for one that no event can hold."""
    return in_range(time, time, field)
