"""Hyperliquid: public market data frames in, events out.

Theory of operation. DOCS is "Hyperliquid Docs", https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api,
with the pages "Subscriptions", "Timeouts and heartbeats", "Notation" and "Rate limits and user limits".

1. One message subscribes one channel of one coin; it is answered by `subscriptionResponse` with the same subscription,
   or by `error`, whose text repeats it (DOCS).
2. A connection that nothing is sent on for 60 seconds is closed: `ping` before, the answer is `pong` (DOCS).
3. `l2Book` sends the best 20 levels of each side, whole each time (DOCS): every frame is a snapshot, and one that is
   lost is replaced by the next. Nothing numbers them; an older `time` than the last is left out.
4. `trades`: the first frame has the last trades, later ones each new trade. `tid` identifies a trade and does not
   count. `side` is the aggressor's: A (ask) sells, B (bid) buys (DOCS, "Notation": the "aggressing side for trades").
5. `bbo` has the best bid and offer, null for an empty side; books have the same, so that it is read and not subscribed,
   which leaves more of the address's subscriptions. `activeAssetCtx` has what belongs to a perpetual: mark and
   oracle price, the funding rate of the current hour and open interest in coins (DOCS).
6. Limits of one address: 1,000 subscriptions, 100 connections, 2,000 messages a minute (DOCS).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.events import Instrument, Trade
from marketdata.feed import Output, Send
from producers.venues.hyperliquid.names import VENUE, describe
from producers.venues.kit import derivatives, listed_trades, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.products import Product
from producers.venues.kit.values import Columns, Text, check_trade, given, ms_ns, number, pair_columns, price
from producers.venues.kit.venue import Signer

FUNDING_INTERVAL_S = 3_600
_BOOK, _TRADES, _BEST, _CONTEXT = "l2Book", "trades", "bbo", "activeAssetCtx"
_SIDES = {"A": "sell", "B": "buy"}
_HEAD = re.compile(rb'"channel"\s*:\s*"(\w+)"')
_COIN = re.compile(rb'"coin"\s*:\s*"([^"\\]{1,60})"')
_REFUSED = re.compile(r'"type"\s*:\s*"(\w+)"\s*,\s*"coin"\s*:\s*"([^"\\]{1,60})"')

# --- What the venue sends. Fields that are not used are not named, and are skipped without being built. ---


class _Frame(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Level(msgspec.Struct, gc=False):
    px: Text
    sz: Text


class _Book(msgspec.Struct):
    coin: str
    time: int
    levels: tuple[list[_Level], list[_Level]]


class _Best(msgspec.Struct):
    coin: str
    time: int
    bbo: tuple[_Level | None, _Level | None]


class _Trade(msgspec.Struct):
    coin: str
    side: Literal["A", "B"]
    px: Text
    sz: Text
    time: int
    tid: int


class _Values(msgspec.Struct):
    funding: str | None = None
    open_interest: str | None = msgspec.field(name="openInterest", default=None)
    mark: str | None = msgspec.field(name="markPx", default=None)
    oracle: str | None = msgspec.field(name="oraclePx", default=None)


class _Context(msgspec.Struct):
    coin: str
    ctx: _Values


class _Subscription(msgspec.Struct):
    type: str = ""
    coin: str = ""


class _Response(msgspec.Struct):
    method: str = ""
    subscription: _Subscription = msgspec.field(default_factory=_Subscription)


_FRAME = msgspec.json.Decoder(_Frame)
BOOK = msgspec.json.Decoder(_Book)
_BEST_OF = msgspec.json.Decoder(_Best)
_TRADE_OF = msgspec.json.Decoder(_Trade)
_CONTEXT_OF = msgspec.json.Decoder(_Context)
_RESPONSE_OF = msgspec.json.Decoder(_Response)
_TEXT_OF = msgspec.json.Decoder(str)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])


class HyperliquidFeed(VenueFeed):
    """One line of Hyperliquid; products are coins. `heartbeats` counts pongs."""

    venue = VENUE
    book_channel = _BOOK
    trades_channel = _TRADES
    channels = (_BOOK, _TRADES, _CONTEXT)
    silence_ns = 45 * SECOND_NS
    ping = b'{"method":"ping"}'
    # The limits of one address (point 6) are those of a connection here: more connections add none.
    limits = Limits(
        subscriptions=1_000, arguments=1, messages=(Rate(30, 1), Rate(2_000, 60)), connects=(Rate(100, 60),)
    )

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        super().__init__(line=line, products=products, token=token)
        self._ts_books: dict[str, int] = {}
        self._listed: set[str] = set()  # coins whose last trades have come since they were subscribed

    # --- What is sent to the venue ---

    def _begin(self) -> None:
        super()._begin()
        self._ts_books.clear()
        self._listed.clear()

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterable[Output]:
        del call
        for name in names:
            if channel == _TRADES:
                self._listed.discard(name)
            order = {"method": verb, "subscription": {"type": channel, "coin": name}}
            yield Send(msgspec.json.encode(order))

    # --- Frames ---

    def _read(self, call: Call) -> None:
        frame = _FRAME.decode(call.payload)
        if frame.channel == _BOOK:
            self._book(call, BOOK.decode(frame.data))
        elif frame.channel == _TRADES:
            self._take_trades(call, _RAWS.decode(frame.data))
        elif frame.channel == _BEST:
            self._best(call, _BEST_OF.decode(frame.data))
        elif frame.channel in {_CONTEXT, "activeSpotAssetCtx"}:
            self._context(call, _CONTEXT_OF.decode(frame.data))
        elif frame.channel == "pong":
            self.counts["heartbeats"] += 1
        elif frame.channel == "subscriptionResponse":
            self._responded(call, _RESPONSE_OF.decode(frame.data))
        elif frame.channel == "error":
            self._error(call, _TEXT_OF.decode(frame.data))
        else:
            self.counts["ignored"] += 1

    def _responded(self, call: Call, sent: _Response) -> None:
        wanted = sent.subscription
        if sent.method == "subscribe" and self._products.accepts(wanted.coin):
            self._acknowledged(call, wanted.type, wanted.coin)

    def _error(self, call: Call, text: str) -> None:
        call.dead("venue_error", text[:500], field="data", value=text[:200])
        refused = _REFUSED.search(text.replace('\\"', '"'))
        if refused is not None and self._products.accepts(refused[2]):
            self._refused(call, refused[1], refused[2], detail=text[:200])

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        head, coin = _HEAD.search(payload), _COIN.search(payload)
        kind = None if head is None else head[1].decode()
        if kind not in {None, _BOOK, _TRADES}:
            return (), ()
        names = None if coin is None else (coin[1].decode(errors="replace"),)
        return names, ((_BOOK, _TRADES) if kind is None else (kind,))

    # --- Books, quotes ---

    def _book(self, call: Call, sent: _Book) -> None:
        product = self._products.find(call, sent.coin)
        if product is None:
            return
        columns = columns_of(sent)
        ts_event = self._event_time(call, sent.time, ms_ns, "time")
        if ts_event < self._ts_books.get(sent.coin, 0):
            self.counts["duplicates"] += 1
            return
        if ts_event != call.ts:  # that of receipt, which is not the venue's clock
            self._ts_books[sent.coin] = ts_event
        self._snapshot(call, product, ts_event, columns)

    def _best(self, call: Call, sent: _Best) -> None:
        product = self._products.find(call, sent.coin)
        if product is None:
            return
        ts_event = self._event_time(call, sent.time, ms_ns, "time")
        values: dict[str, str | None] = {}
        for name, level in zip(("bid", "ask"), sent.bbo, strict=True):
            values[name] = None if level is None else price(level.px, name)
            values[f"{name}_size"] = None if level is None else given(level.sz, f"{name}_size")
        quotes.send(call, product, ts_event, **values)

    def _context(self, call: Call, sent: _Context) -> None:
        product = self._products.find(call, sent.coin)
        if product is None:
            return
        values = sent.ctx
        funding = derivatives.read(call, number, funding_rate=values.funding)
        derivatives.send(
            call, product, call.now, mark_price=values.mark, index_price=values.oracle,
            open_interest=values.open_interest, **funding,
            funding_interval=None if funding["funding_rate"] is None else FUNDING_INTERVAL_S,
        )  # fmt: skip

    # --- Trades ---

    def _take_trades(self, call: Call, items: list[msgspec.Raw]) -> None:
        def read(raw: msgspec.Raw) -> tuple[str, Trade]:
            sent = _TRADE_OF.decode(raw)
            check_trade(sent.px, sent.sz, ("px", "sz"))
            trade = Trade(trade_id=str(sent.tid), ts_event=ms_ns(sent.time, "time"), price=sent.px, size=sent.sz,
                          side=_SIDES[sent.side])  # fmt: skip
            self._advance(call, trade.ts_event)
            return sent.coin, trade

        batches, whole = self._read_each(call, items, read)
        for name, batch in batches.items():
            product = self._products[name]
            reaches_back = listed_trades.take(call, product, self._ledger, batch, again="repeats")
            if name not in self._listed:
                self._listed.add(name)
                self._repairs.came(_TRADES, name)
                listed_trades.end_loss(call, product, self._ledger, whole=reaches_back and whole)
        if not whole:
            self._lose(call, self._named(batches), (_TRADES,), "gap", "bad_frame")

    def _named(self, batches: Collection[str]) -> list[Product]:
        """Return the products of a frame; any where it names none that can be read."""
        return [self._products[name] for name in batches] or list(self._products)

    # --- Products ---

    def _describe(self, name: str) -> Instrument:
        return describe(name)


def columns_of(sent: _Book) -> Columns:
    """Return a book of the stream or of REST, best levels first. Raises BadEvent."""
    bids, asks = ([(level.px, level.sz) for level in side] for side in sent.levels)
    return pair_columns(bids, asks, "levels")
