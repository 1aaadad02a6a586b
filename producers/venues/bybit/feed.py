"""Bybit v5: public market data frames in, events out.

Theory of operation, with the source of each step. DOCS is Bybit's "V5 API", sections "Connect", "Orderbook", "Trade"
and "Ticker" of "WebSocket Stream"; RULES is the project's own list of venue rules, checked on a recording.

1. Each market (spot, linear, inverse) has a socket of its own, and the same name means different products there
   (RULES): BTCUSDT is BTC-USDT on the spot market and BTC-USDT-PERP, a perpetual, on the linear one. Frames do not say
   which, so that the connection's first frames tell: the answer to a subscription carries the text `subscribe` on the
   spot market and none on the others; derivatives' tickers have marks and changes, spot's have neither; spot trade ids
   are numbers; a book frame has its time before its type on the spot market (all checked on a recording).
   A recording may have lost its connections' names: then each frame belongs to the feed of the market that it names.
2. Subscribe to orderbook.200, publicTrade and tickers, at most 10 topics a message (DOCS, spot). Send a ping every 20 s
   (DOCS); 30 s without a frame are a dead connection.
3. `orderbook.N`: a `snapshot` always replaces the book, also in the middle, also with `u` = 1 after a restart of the
   service (DOCS); `delta` sets absolute sizes, 0 removes. `u` rises by one with each delta of a topic (RULES): a
   skipped one clears the book and subscribes again. One depth speaks for a book: the first. `orderbook.1` is a quote
   here, the best of a book of its own: its deltas too set absolute sizes, 0 removes, and a side that did not change is
   left out. After a skipped `u` it has no sides until its next snapshot. `orderbook.rpi`, with the orders of price
   improvement, is another book and ignored. `cts` is the matching engine's time (DOCS).
4. `publicTrade`: `S` is the taker's side (DOCS, "Trade": S, side of taker). Ids have no order that DOCS promise. After
   a loss REST's recent trades must reach back to one that was told before it; they are asked for once, and again only
   when no answer came.
5. `tickers`: a delta has only the fields that changed, others stay (DOCS). Spot tickers have no bid and ask.

Names: a spot or perpetual name is split at the longest quote currency that it ends with; that gave the currencies of
every product of recorded instrument lists. BTCPERP is settled in USDC (DOCS). What comes after a currency or a "-" is
the delivery, and stays behind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Literal

import msgspec

from marketdata.book import L2Book
from marketdata.clock import SECOND_NS
from marketdata.decimals import decimal, plain
from marketdata.errors import BadEvent
from marketdata.events import GAP, DeadLetter, Instrument, Trade
from marketdata.feed import Fetch, Output, Send
from producers.venues.kit import books, listed_trades, quotes
from producers.venues.kit.calls import REFUSED, Call, Line
from producers.venues.kit.gaps import ASKED_NS, Ledger
from producers.venues.kit.instruments import Listing, learn_each
from producers.venues.kit.liveness import Liveness
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.repairs import Repairs
from producers.venues.kit.trade_ids import Recent
from producers.venues.kit.values import (
    Columns,
    Number,
    Text,
    check_decimals,
    check_trade,
    expiry_ns,
    given,
    ms_ns,
    price,
)
from producers.venues.kit.venue import LiveFeed, Signer

PING_NS = 20 * SECOND_NS
SILENCE_NS = 30 * SECOND_NS
QUIET_NS = 5 * SECOND_NS
RESTARTED = 1  # the `u` of a snapshot after a restart of the service
_TOPICS_MAX = 10
_HEAD_BYTES = 200  # a frame's topic, type and time

_BOOK, _TRADES = "orderbook", "publicTrade"
_DEPTH = "orderbook.200"

QUOTES = ("USDT", "USDC", "USDE", "USD1", "USDQ", "USDR", "RLUSD", "XUSD", "USD", "EUR", "GBP", "BRL", "TRY", "PLN",
          "BTC", "ETH", "SOL", "MNT", "DAI", "BIT", "AED", "ARS", "KZT", "UAH", "JPY")  # fmt: skip
_TRADE_ID = re.compile(rb'"i":\s*"([^"]+)"')
_SPLIT = re.compile(rf"([A-Z0-9]+?)({'|'.join(sorted(QUOTES, key=len, reverse=True))})")
_DATED = re.compile(rf"([A-Z0-9]+?)({'|'.join(sorted(QUOTES, key=len, reverse=True))})?(?:-(\w+)|([FGHJKMNQUVXZ]\d\d))")
_OPTION = re.compile(r"([A-Z0-9]+)-\d{1,2}[A-Z]{3}\d\d-[0-9.]+-[CP](?:-([A-Z]+))?")
_NAME = re.compile(r"[A-Z0-9][A-Za-z0-9.-]{1,39}", re.ASCII)
_BOOK_TOPIC = re.compile(rb'"topic":"orderbook\.\d')
_HEAD = re.compile(rb'"topic":\s*"(\w+)(?:\.[A-Za-z0-9]+)?\.([A-Za-z0-9-]+)"')
_SAYS_SNAPSHOT = re.compile(rb'"type":\s*"snapshot"')
_SAYS_SUBSCRIBED = re.compile(rb'"op":\s*"subscribe"')
_SAYS_SPOT = re.compile(rb'"ret_msg":\s*"subscribe"')

_STATES = {
    "Trading": "online",
    "PreLaunch": "halted",
    "Settling": "halted",
    "Delivering": "halted",
    "Closed": "delisted",
}

_Levels = list[tuple[Text, Text]]

# --- What the venue sends. Fields that are not used are not named. ---


class _Book(msgspec.Struct, gc=False):
    name: str = msgspec.field(name="s")
    bids: _Levels = msgspec.field(name="b")
    asks: _Levels = msgspec.field(name="a")
    update: Number = msgspec.field(name="u")
    cross: int = msgspec.field(name="seq", default=0)


class _BookFrame(msgspec.Struct, gc=False):
    topic: str
    type: Literal["snapshot", "delta"]
    ts: Number
    data: _Book
    matched: Number = msgspec.field(name="cts", default=0)


class _Frame(msgspec.Struct):
    topic: str = ""
    type: str = ""
    ts: Number = 0
    op: str = ""
    success: bool = True
    message: str | None = msgspec.field(name="ret_msg", default=None)
    data: msgspec.Raw = msgspec.Raw()


class _Trade(msgspec.Struct, gc=False):
    name: str = msgspec.field(name="s")
    id: str = msgspec.field(name="i")
    ms: Number = msgspec.field(name="T")
    price: Text = msgspec.field(name="p")
    size: Text = msgspec.field(name="v")
    side: Literal["Buy", "Sell"] = msgspec.field(name="S")


class _RestTrade(msgspec.Struct, gc=False):
    id: str = msgspec.field(name="execId")
    ms: str = msgspec.field(name="time")
    price: Text
    size: Text
    side: Literal["Buy", "Sell"]


class _Filter(msgspec.Struct):
    tick_size: str = msgspec.field(name="tickSize", default="")
    step: str = msgspec.field(name="qtyStep", default="")
    precision: str = msgspec.field(name="basePrecision", default="")
    min_size: str = msgspec.field(name="minOrderQty", default="")


class _Listed(msgspec.Struct):
    symbol: str
    status: str = ""
    contract: str = msgspec.field(name="contractType", default="")
    option: str = msgspec.field(name="optionsType", default="")
    settled_in: str = msgspec.field(name="settleCoin", default="")
    delivered_ms: str = msgspec.field(name="deliveryTime", default="")
    prices: _Filter = msgspec.field(name="priceFilter", default_factory=_Filter)
    sizes: _Filter = msgspec.field(name="lotSizeFilter", default_factory=_Filter)


class _Result(msgspec.Struct):
    category: str = ""
    items: list[msgspec.Raw] = msgspec.field(name="list", default_factory=list)


class _Answer(msgspec.Struct):
    result: _Result


_BOOK_FRAME = msgspec.json.Decoder(_BookFrame)
_FRAME = msgspec.json.Decoder(_Frame)
_TRADE_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TRADE = msgspec.json.Decoder(_Trade)
_REST_TRADE = msgspec.json.Decoder(_RestTrade)
_TICKER = msgspec.json.Decoder(dict[str, Any])
_ANSWER = msgspec.json.Decoder(_Answer)
_LISTED = msgspec.json.Decoder(_Listed)


class _State:
    """What one product's channels said last."""

    __slots__ = ("best", "best_last", "last", "recent", "ticker", "topic", "ts_asked")

    def __init__(self) -> None:
        self.topic = ""
        self.last: int | None = None  # `u` of the last change
        self.best = L2Book()  # of orderbook.1
        self.best_last: int | None = None  # `u` of its last change, None until a snapshot
        self.recent = Recent()
        self.ts_asked: int | None = None  # when REST's trades were asked for since the last loss
        self.ticker: dict[str, str | None] = {}  # as quotes have it


class BybitFeed:
    """One line of Bybit, of one market. `products` (such as BTCUSDT) None accepts all, and subscribes none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, quotes, heartbeats
    (pongs), gaps, resyncs, duplicates, deltas_before_snapshot, ignored, dead_letters.
    """

    venue = "bybit"

    def __init__(
        self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None,
        is_spot: bool | None = None, counts: Counter[str] | None = None,
    ) -> None:  # fmt: skip
        del token  # public channels take none
        self._line = Line(self.venue, line)
        self.counts = self._line.counts = self._line.counts if counts is None else counts
        self.ts_venue: int | None = None
        self._wanted = products
        self._is_spot = is_spot  # None until known from a frame
        self._products = Listing(products, self._describe)
        self._listed: dict[tuple[bool, str], dict[str, Any]] = {}
        self._states: dict[str, _State] = {}
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        self._repairs = Repairs(self._products, self._ledger, self._again)
        self._liveness = Liveness(SILENCE_NS, self._lose_all)
        self._ts_ping = 0
        self._ts_opened = 0

    # --- The contract of marketdata.feed.Feed ---

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products to subscribe; None where only frames show them."""
        return None if self._wanted is None or self._is_spot is None else self._products.symbols(self._wanted)

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published."""
        call = self._call(ts)
        if self._is_spot is None and previous.market:
            self._is_spot = previous.market == "spot"
        names = self._wanted or () if self._is_spot is not None else ()
        self._products.resume(call, self._ledger, previous, names)
        return call.out

    def opened(self, ts: int) -> list[Output]:
        """Subscribe to every topic and ask for the products' increments."""
        self._ts_ping = self._ts_opened = ts
        self._repairs.begin()
        call = self._call(ts)
        self._liveness.opened(call)
        if self._wanted:
            topics = [f"{kind}.{name}" for kind in (_DEPTH, _TRADES, "tickers") for name in self._wanted]
            call.out += _orders("subscribe", topics)
            for name in self._wanted:
                self._repairs.wait(_BOOK, name, ts)
        call.out += self._ask_products(ts)
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = self._call(ts, frame)
        try:
            if _BOOK_TOPIC.search(frame, 0, _HEAD_BYTES) is not None:
                self._book(call, _BOOK_FRAME.decode(frame))
            else:
                self._general(call, _FRAME.decode(frame))  # finds books as well, where somebody spaced the JSON
        except REFUSED as error:
            call.dead_frame(error)
            self._unreadable(call)
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Learn the products' increments, or take the recent trades where some may be missing."""
        call = self._call(ts, body)
        if request.purpose not in {"products", "trades"}:
            self.counts["ignored"] += 1
            return call.out
        with call.refusing(f"bad_{request.purpose}"):
            result = _ANSWER.decode(body).result
            if request.purpose == "products":
                self._learn(call, result)
            elif (product := self._products.get(request.symbol)) is not None:
                read = [_read_rest_trade(_REST_TRADE.decode(raw)) for raw in reversed(result.items)]
                whole = listed_trades.take(call, product, self._ledger, read, again="repeats", origin="repair")
                listed_trades.end_loss(call, product, self._ledger, whole=whole)
        return call.out

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence, ping, and ask again for snapshots that did not come."""
        call = self._call(ts)
        if not self._liveness.ticked(call):
            return call.out
        if ts - self._ts_ping >= PING_NS:
            self._ts_ping = ts
            call.out.append(Send(b'{"op":"ping"}'))
        self._repairs.ticked(call)
        if ts - self._ts_opened >= QUIET_NS:  # the subscription holds by now, though nothing was traded
            for product in self._products:
                if self._ledger.is_pending(product, _TRADES):
                    self._ask_trades(call, product)
        if self._products.is_due(ts):
            call.out += self._ask_products(ts)
        return call.out

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per symbol, until the next connection's snapshots."""
        self._repairs.begin()
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    def heard(self, ts: int) -> None:
        """Take note that the connection is there, whoever the frame was for."""
        self._liveness.ts_heard = ts

    # --- Frames ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _ask_products(self, ts: int) -> list[Fetch]:
        self._products.asked(ts)
        path = "v5/market/instruments-info?category={}&status=Trading&limit=1000"
        return [Fetch(path.format(category), "products") for category in ("linear", "spot")]

    def _heard(self, call: Call, ms: int) -> None:
        if ms:
            self.ts_venue = call.heard(ms_ns(ms, "ts"), self.ts_venue)

    def _find(self, call: Call, name: str, *, is_spot: bool) -> tuple[Product, _State] | None:
        """Return a product and its state; `is_spot` is what this frame tells, if no earlier one did."""
        if self._is_spot is None:
            self._is_spot = is_spot
        product = self._products.find(call, name)
        if product is None:
            return None
        return product, self._state(name)

    def _state(self, name: str) -> _State:
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = _State()
        return state

    def _general(self, call: Call, frame: _Frame) -> None:
        topic, _, name = frame.topic.rpartition(".")
        if topic == _TRADES:
            self._heard(call, frame.ts)
            self._trades(call, frame.data)
        elif topic == "tickers":
            self._heard(call, frame.ts)
            self._ticker(call, name, frame)
        elif topic.startswith(_BOOK) and topic[len(_BOOK) + 1 :].isdigit():
            self._book(call, _BOOK_FRAME.decode(call.payload))
        elif frame.topic:
            self.counts["ignored"] += 1
        elif frame.op in {"ping", "pong"}:
            self.counts["heartbeats"] += 1
        elif frame.op and not frame.success:
            call.dead("venue_error", frame.message or "", field="op", value=frame.op[:200])
        elif frame.op in {"subscribe", "unsubscribe"}:
            self.counts["subscriptions"] += 1
            if self._is_spot is None and frame.message is not None:
                self._is_spot = frame.message == "subscribe"
        else:
            raise BadEvent("unknown_frame", "topic", call.payload[:100].decode(errors="replace"))

    def _unreadable(self, call: Call) -> None:
        """A frame that cannot be read may have been a change of the product that it names, or of any."""
        head = _HEAD.search(call.payload[:200])
        if head is None:
            self._missed(call, [product for product in self._products if product.book_seen], "bad_frame")
            for each in self._products:
                if each.ts_trade is not None:
                    self._trades_missed(call, each)
            return
        product = self._products.get(head.group(2).decode())
        if product is None:
            return
        if head.group(1) == b"orderbook":
            if product.book_seen:
                self._missed(call, (product,), "bad_frame")
        elif head.group(1) == b"publicTrade":
            self._trades_missed(call, product)

    # --- What is lost, and how it is asked for ---

    def _lose_all(self, call: Call, reason: str) -> None:
        for product in self._products:
            self._forget(product)
        for state in self._states.values():
            state.best_last = None
        self._ledger.lose_all(call, self._products, reason, subscribed=bool(self._wanted))

    def _forget(self, product: Product) -> None:
        state = self._states.get(product.name)
        if state is not None:
            state.last = None
            state.recent = Recent()
            state.ticker = {}
            state.ts_asked = None

    def _missed(self, call: Call, products: Collection[Product], detail: str, **fields: int | None) -> None:
        if not products:
            return
        self.counts["gaps"] += 1
        for product in products:
            self._forget(product)
            self._ledger.lose(call, product, GAP, {_BOOK}, detail=detail, channel=_BOOK, **fields)
        self._repairs.lost(call, [product.name for product in products], (_BOOK,), detail)

    def _trades_missed(self, call: Call, product: Product) -> None:
        """Ids do not reveal missing trades here, so REST's recent trades are checked."""
        self.counts["gaps"] += 1
        self._ledger.lose(call, product, GAP, {_TRADES}, detail="bad_frame", channel=_TRADES)
        self._ask_trades(call, product)

    def _again(self, _: Call, __: str, names: Collection[str]) -> list[Output]:
        """Return the requests for new snapshots of each book's primary depth."""
        states = ((name, self._states.get(name)) for name in names)
        topics = [f"{state.topic if state and state.topic else _DEPTH}.{name}" for name, state in states]
        return [*_orders("unsubscribe", topics), *_orders("subscribe", topics)]

    # --- Books ---

    def _book(self, call: Call, frame: _BookFrame) -> None:
        sent = frame.data
        head = call.payload[:120]
        found = self._find(call, sent.name, is_spot=-1 < head.find(b'"ts"') < head.find(b'"type"'))
        if found is None:
            return
        product, state = found
        self._heard(call, frame.ts)
        columns = _columns(sent)
        topic = frame.topic.rpartition(".")[0]
        if topic == "orderbook.1":
            self._best(call, product, state, frame, columns)
            return
        ts_event = ms_ns(frame.matched or frame.ts, "cts")
        is_snapshot = frame.type == "snapshot"
        if topic != state.topic:
            if not is_snapshot or product.book_valid:
                self.counts["ignored" if product.book_valid else "deltas_before_snapshot"] += 1
                return
            state.topic = topic
        if not self._is_next(call, product, state, frame):
            return
        state.last = call.sequence = sent.update
        if is_snapshot:
            books.snapshot(call, product, ts_event, columns)
            self._repairs.came(_BOOK, product.name)
            self._ledger.account(call, product, _BOOK, ts_event)
        else:
            books.update(call, product, ts_event, columns, even_empty=True)

    def _is_next(self, call: Call, product: Product, state: _State, frame: _BookFrame) -> bool:
        """Tell whether a change follows the one before; one that does not, and was not seen, is a loss."""
        number = frame.data.update
        is_new = state.recent.is_new((frame.type, number, frame.data.cross, frame.ts))
        if not product.book_valid or state.last is None:
            self.counts["deltas_before_snapshot"] += frame.type == "delta"
            return frame.type == "snapshot"
        if not is_new:
            self.counts["duplicates"] += 1
            return False
        if frame.type == "snapshot" or number == state.last + 1:
            return True
        self._missed(call, (product,), "sequence", expected=state.last + 1, received=number)
        return False

    def _best(self, call: Call, product: Product, state: _State, frame: _BookFrame, columns: Columns) -> None:
        """Publish the best levels that orderbook.1 leaves."""
        ts_event = ms_ns(frame.matched or frame.ts, "cts")
        books.check(call, product, ts_event, columns)
        number, last = frame.data.update, state.best_last
        is_lost = False
        if frame.type == "snapshot" or number == RESTARTED:
            state.best.bids.replace(columns[0], columns[1])
            state.best.asks.replace(columns[2], columns[3])
        elif last is None:
            self.counts["deltas_before_snapshot"] += 1
            return
        elif number <= last:
            self.counts["duplicates"] += 1
            return
        elif number > last + 1:
            self.counts["gaps"] += 1
            is_lost = True
            state.best.clear()
        else:
            state.best.bids.apply(columns[0], columns[1])
            state.best.asks.apply(columns[2], columns[3])
        state.best_last = None if is_lost else number
        for side, level in zip(("bid", "ask"), state.best.best(), strict=True):
            state.ticker[side], state.ticker[f"{side}_size"] = level or (None, None)
        validity: dict[str, Any] = {"valid": False, "reason": GAP} if is_lost else {}
        quotes.send(call, product, ts_event, **state.ticker, **validity)

    # --- Trades and tickers ---

    def _trades(self, call: Call, data: msgspec.Raw) -> None:
        batches: dict[str, list[Trade]] = {}
        frame, failed = call.payload, False
        for raw in _TRADE_LIST.decode(data):
            # One trade that cannot be read does not cost its neighbours.
            call.payload = bytes(raw)
            with call.refusing("bad_frame") as reading:
                sent = _TRADE.decode(raw)
                trade = _read_trade(sent.id, sent.ms, sent.price, sent.size, sent.side)
                if self._find(call, sent.name, is_spot=sent.id.isdigit()) is not None:
                    batches.setdefault(sent.name, []).append(trade)
            failed = failed or reading.failed
        call.payload = frame
        if failed:
            self._unreadable(call)
        for name, batch in batches.items():
            product = self._products[name]
            listed_trades.take(call, product, self._ledger, batch, again="duplicates")
            if self._ledger.is_pending(product, _TRADES):
                self._ask_trades(call, product)

    def _ask_trades(self, call: Call, product: Product) -> None:
        """Ask REST for the recent trades, unless the answer may still come."""
        state = self._state(product.name)
        if state.ts_asked is None or call.ts - state.ts_asked >= ASKED_NS:
            state.ts_asked = call.ts
            call.out.append(self._fetch_trades(product))

    def _fetch_trades(self, product: Product) -> Fetch:
        category = "spot" if self._is_spot else "inverse" if product.instrument.quote_currency == "USD" else "linear"
        limit = 60 if self._is_spot else 1000
        path = f"v5/market/recent-trade?category={category}&symbol={product.name}&limit={limit}"
        return Fetch(path, "trades", product.name)

    def _ticker(self, call: Call, name: str, frame: _Frame) -> None:
        sent = _TICKER.decode(frame.data)
        found = self._find(call, name, is_spot=frame.type == "snapshot" and "markPrice" not in sent)
        if found is None:
            return
        product, state = found
        if frame.type == "snapshot":
            state.ticker = {}
        state.ticker |= _quoted(sent)  # raises before anything is kept
        quotes.send(call, product, call.now, **state.ticker)

    # --- Products ---

    def _learn(self, call: Call, result: _Result) -> None:
        is_spot = result.category == "spot"

        def learn(_: Call, sent: _Listed) -> None:
            self._listed[is_spot, sent.symbol] = {
                "tick_size": price(sent.prices.tick_size, "tickSize"),
                "size_increment": price(sent.sizes.step or sent.sizes.precision, "qtyStep"),
                "min_order_size": price(sent.sizes.min_size, "minOrderQty"),
                "status": _STATES.get(sent.status, "unknown"),
                "expiry": expiry_ns(sent.delivered_ms, "deliveryTime"),
                # An option is named for it: BTC-27DEC24-70000-C.
                "strike": given(sent.symbol.split("-")[2], "symbol") if sent.option else None,
                "settlement_currency": sent.settled_in or None,
                "inverse": sent.contract.startswith("Inverse") if sent.contract else None,
            }

        learn_each(call, result.items, _LISTED, learn)
        for product in self._products:
            learned = self._listed.get((bool(self._is_spot), product.name))
            if learned is not None:
                self._products.learn(call, product, **learned)

    def _describe(self, name: str) -> Instrument:
        is_spot = bool(self._is_spot)
        learned = self._listed.get((is_spot, name), {})
        return msgspec.structs.replace(describe(name, is_spot=is_spot), **learned)


class MixedFeed:
    """A line of which nobody says what market it is of: one feed, and another one if frames of both markets come.

    The order of a book's fields is the weakest sign: it matters only where the others were of both markets, or none.
    """

    venue = BybitFeed.venue

    def __init__(self, line: str) -> None:
        self.counts: Counter[str] = Counter()
        self.ts_venue: int | None = None
        self._line = line
        self._usual = BybitFeed(line=line, counts=self.counts)
        self._feeds: dict[bool, BybitFeed] = {}
        self._signs: set[bool] = set()
        self._only: BybitFeed | None = None  # whose the books are, while all signs are of one market

    @property
    def _all(self) -> list[BybitFeed]:
        return [self._usual, *(feed for feed in self._feeds.values() if feed is not self._usual)]

    def symbols(self) -> frozenset[str] | None:
        """Return None: known only from frames."""
        return None

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Return nothing: a recording does not continue what an earlier process published."""
        del previous, ts
        return []

    def opened(self, ts: int) -> list[Output]:
        """Start over."""
        self._signs.clear()
        self._only = None
        return _once(feed.opened(ts) for feed in self._all)

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what a frame means to the feed of its market; what nobody can read may have been of either."""
        only = self._only
        if only is not None and frame.startswith(b'{"topic":"orderbook'):
            out = only.received(frame, ts)
            self.ts_venue = only.ts_venue
            return out
        is_spot = self._market(frame)
        feed = self._usual if is_spot is None else self._feeds.get(is_spot) or self._begun(is_spot, ts)
        self._only = feed if len(self._signs) == len(self._feeds) == 1 else None
        out = feed.received(frame, ts)
        if len(self._feeds) > 1:
            out += self._told_to_other(feed, frame, ts, is_lost=is_spot is None and any(map(_is_letter, out)))
        self.ts_venue = feed.ts_venue or self.ts_venue
        return out

    def _told_to_other(self, feed: BybitFeed, frame: bytes, ts: int, *, is_lost: bool) -> list[Output]:
        """Let the other feed know that there is a connection, and of a frame that nobody can read."""
        (other,) = (one for one in self._all if one is not feed)
        other.heard(ts)
        return [event for event in other.received(frame, ts) if not _is_letter(event)] if is_lost else []

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Give an answer to the feed that asked, a list of products to both."""
        if request.purpose != "trades":
            return _once(feed.fetched(request, body, ts) for feed in self._all)
        feed = self._feeds.get("category=spot" in request.path, self._usual)
        return feed.fetched(request, body, ts)

    def ticked(self, ts: int) -> list[Output]:
        """Let both see to their connection."""
        return _once(feed.ticked(ts) for feed in self._all)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid."""
        return _once(feed.closed(reason, ts) for feed in self._all)

    def _begun(self, is_spot: bool, ts: int) -> BybitFeed:
        """Begin the feed of a market that was not seen yet; the first one is there already."""
        feed = BybitFeed(line=self._line, is_spot=is_spot, counts=self.counts) if self._feeds else self._usual
        feed.heard(ts)
        self._feeds[is_spot] = feed
        return feed

    def _market(self, frame: bytes) -> bool | None:
        """Return whether a frame is from the spot market, None if it does not show that."""
        head = _HEAD.search(frame, 0, _HEAD_BYTES)
        kind = b"" if head is None else head[1]
        if kind == b"orderbook":
            if len(self._signs) == 1:
                return next(iter(self._signs))
            return -1 < frame.find(b'"ts"', 0, _HEAD_BYTES) < frame.find(b'"type"', 0, _HEAD_BYTES)
        sign = None
        if kind == b"tickers":
            sign = b'"markPrice"' not in frame and _SAYS_SNAPSHOT.search(frame, 0, _HEAD_BYTES) is not None
        elif kind == b"publicTrade":
            found = _TRADE_ID.search(frame)
            sign = None if found is None else found[1].isdigit()
        elif not kind and _SAYS_SUBSCRIBED.search(frame):
            sign = _SAYS_SPOT.search(frame) is not None
        if sign is not None:
            self._signs.add(sign)
        return sign


def _is_letter(output: Output) -> bool:
    return isinstance(output, DeadLetter)


def _once(outputs: Iterable[list[Output]]) -> list[Output]:
    """Return what several feeds say, and what they say alike once."""
    said: list[Output] = []
    for output in outputs:
        said += [one for one in output if one not in said]
    return said


def make(*, line: str, products: tuple[str, ...] | None, token: Signer | None) -> LiveFeed:
    """Return a feed of one market; without products, one of a recording that may mix markets."""
    return MixedFeed(line) if products is None else BybitFeed(line=line, products=products, token=token)


# --- Reading and writing values ---

_TICKER_FIELDS = {
    "bid1Price": "bid", "bid1Size": "bid_size", "ask1Price": "ask", "ask1Size": "ask_size", "lastPrice": "last",
    "volume24h": "volume_24h", "highPrice24h": "high_24h", "lowPrice24h": "low_24h", "price24hPcnt": "change_24h",
}  # fmt: skip
_MAY_BE_ZERO = frozenset({"volume24h", "bid1Size", "ask1Size"})


def _quoted(changed: dict[str, Any]) -> dict[str, str | None]:
    """Return those of a ticker's fields that a quote has, as it has them. Raises BadEvent."""
    values: dict[str, str | None] = {}
    for key, field in _TICKER_FIELDS.items():
        if key not in changed:
            continue
        text = changed[key]
        if not isinstance(text, str):
            raise BadEvent("bad_type", key, str(text)[:200])
        if key == "price24hPcnt":
            values[field] = plain(decimal(text, key) * 100) if text else None
        else:
            values[field] = given(text, key) if key in _MAY_BE_ZERO else price(text, key)
    return values


def _columns(sent: _Book) -> Columns:
    bids, asks = sent.bids, sent.asks
    columns: Columns = ([p for p, _ in bids], [s for _, s in bids], [p for p, _ in asks], [s for _, s in asks])
    if bids or asks:
        check_decimals(columns[0] + columns[1] + columns[2] + columns[3], "level")
    return columns


def _read_trade(number: str, ms: int, trade_price: str, size: str, side: str) -> Trade:
    if not 0 < len(number) <= 64:
        raise BadEvent("bad_trade_id", "i", number[:200])
    check_trade(trade_price, size, ("p", "v"))
    return Trade(trade_id=number, ts_event=ms_ns(ms, "T"), price=trade_price, size=size, side=side.lower())


def _read_rest_trade(sent: _RestTrade) -> Trade:
    if not (sent.ms.isascii() and sent.ms.isdigit() and len(sent.ms) < 19):
        raise BadEvent("bad_time", "time", sent.ms[:200])
    return _read_trade(sent.id, int(sent.ms), sent.price, sent.size, sent.side)


def _orders(verb: str, topics: Iterable[str]) -> list[Send]:
    listed = list(topics)
    return [
        Send(msgspec.json.encode({"op": verb, "args": listed[at : at + _TOPICS_MAX]}))
        for at in range(0, len(listed), _TOPICS_MAX)
    ]


def describe(name: str, *, is_spot: bool) -> Instrument:
    """Return what a name means on its market. Raises BadEvent for what is no name."""
    if _NAME.fullmatch(name) is None:
        raise BadEvent("bad_symbol", "symbol", name[:200])
    base, quote, rest, kind = _split(name, is_spot=is_spot)
    symbol = "-".join(part for part in (base, quote, rest) if part)
    return Instrument(venue=BybitFeed.venue, symbol=symbol, ts_recv=0, venue_symbol=name, base_currency=base,
                      quote_currency=quote, kind=kind)  # fmt: skip


def _split(name: str, *, is_spot: bool) -> tuple[str, str, str, str]:
    """Return base and quote currency, what comes behind them, and the kind of product."""
    if is_spot:
        match = _SPLIT.fullmatch(name)
        return (match.group(1), match.group(2), "", "spot") if match else (name, "", "", "spot")
    if match := _OPTION.fullmatch(name):
        base, quote = match.group(1), match.group(2) or "USDC"
        return base, quote, name.removeprefix(f"{base}-").removesuffix(f"-{quote}"), "option"
    if match := _SPLIT.fullmatch(name):
        return match.group(1), match.group(2), "PERP", "perpetual"
    if name.endswith("PERP"):
        return name.removesuffix("PERP"), "USDC", "PERP", "perpetual"
    if match := _DATED.fullmatch(name):
        return match.group(1), match.group(2) or "USDC", match.group(3) or match.group(4), "future"
    return name, "", "PERP", "perpetual"
