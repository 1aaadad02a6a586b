"""What Binance's markets have in common: their frames in, events out; `Market` says in what they differ.

Theory of operation, with the source of each step. DOCS is Binance's "WebSocket Streams", "Websocket Market Streams"
and "How to manage a local order book correctly"; RULES is the project's own list, checked on recordings.

1. Subscribe with `SUBSCRIBE` messages, a few large ones: 5 messages a second may be sent, and a connection carries
   1,024 streams (DOCS). Frames come as `{"stream", "data"}` or bare; both are read.
2. Book: a diff stream numbers its changes per symbol, and the snapshot comes by REST; `kit.diffs` joins them.
   The snapshot is asked for when the first change of the symbol is here, so that nothing lies between (DOCS); a symbol
   without changes is asked for after `QUIET_NS`. Levels beyond the snapshot stay unknown until touched (DOCS).
3. A skipped number concerns that symbol alone: its book is cleared and its snapshot asked for again. All requests share
   one budget of REST weight (`kit.requests`).
4. Trades: ids of a symbol rise by one (RULES). A skipped id is a gap of that symbol's trades; REST's last trades fill
   it. `m` is true when the buyer was the maker (DOCS), so the seller is the aggressor. `trade` and `aggTrade` tell the
   same executions: a symbol's first kind is kept, the other ignored. On the futures market some ids belong to no trade:
   `X` is then "NA", and price and quantity are 0 (seen by others who record it).
5. `bookTicker` is the best bid and offer at update id `u`; a lower or equal `u` is old. On the spot market it carries
   no time: it gets the venue's time as last heard.
6. A frame that cannot be read and may have been a book change clears the symbol that it names, or every one. An
   unreadable trade shows as a gap in the ids.
7. A quiet connection is asked for its subscriptions, which it must answer; `SILENCE_NS` without a frame is death. A
   connection lives for 24 hours (DOCS). An hour earlier the shell starts a successor beside it (`Venue.lifetime_s`); if
   none could take over, it is left ten minutes earlier, and at once when the venue says that it shuts down.
8. `depth5`, `depth10` and `depth20` send the best levels as a whole each time (DOCS). They are not subscribed here; in
   a recording they are the book where no diff stream is joined with its snapshot. A bare whole book names no symbol:
   where only one is known, and waits for its snapshot, it is that; recorders write REST's answer among the frames.
9. Times are milliseconds, or microseconds where a connection was opened with `timeUnit=MICROSECOND` (DOCS).

The tick size in exchangeInfo binds new orders only: after a change old ones rest between the ticks (0.25974 beside a
tick of 0.0001 on a recorded snapshot). It is therefore not published as the instrument's.

Symbols. Binance writes BTCUSDT. The name is split at the longest quote currency that it ends with, from the list of
all that Binance trades against; that gave the currencies of every symbol of a recorded exchangeInfo. A name that ends
with none stays whole. A future's delivery date stays behind: BTCUSDT_240927 is BTC-USDT_240927.
"""

from __future__ import annotations

import contextlib
import re
from operator import itemgetter
from typing import Any, Literal

import msgspec

from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent, SettingsError
from marketdata.events import GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.kit import books, idle, numbered_trades, quotes
from producers.venues.kit.calls import REFUSED, Call, Line
from producers.venues.kit.diffs import Diff, Diffs
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing, learn_each
from producers.venues.kit.liveness import Liveness
from producers.venues.kit.numbered_trades import Numbered
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.requests import Requests
from producers.venues.kit.values import UNREADABLE, Columns, Number, Text, check_decimals, check_trade, in_range

STREAMS_MAX = 1_024
STREAMS_A_MESSAGE = 300
UNDER_WAY_MAX = 4
PROBE_NS = 10 * SECOND_NS
SILENCE_NS = 30 * SECOND_NS
QUIET_NS = 5 * SECOND_NS
AGE_NS_MAX = (24 * 60 - 10) * 60 * SECOND_NS
OLD_MAX = 8  # this many in a row mean that the venue reset the sequence
_MICROSECONDS_FROM = 10**14  # of 1973; in milliseconds the same number is of the year 5138

_BOOK = "depth"
_TRADES = "trade"

QUOTES = (
    "USDT", "USDC", "FDUSD", "TUSD", "BUSD", "USDP", "USDS", "USD1", "USDE", "BFUSD", "BTC", "ETH", "BNB", "XRP", "TRX",
    "DOGE", "DOT", "SOL", "DAI", "VAI", "UST", "PAX", "EURI", "EUR", "GBP", "AUD", "TRY", "RUB", "BRL", "UAH",
    "NGN", "ZAR", "PLN", "RON", "ARS", "COP", "CZK", "MXN", "JPY", "IDR", "IDRT", "BIDR", "BVND", "BKRW", "GYEN",
)  # fmt: skip
_SPLIT = re.compile(rf"(.+?)({'|'.join(sorted(QUOTES, key=len, reverse=True))})(_\d{{6}})?")
_NAME = re.compile(r"\w{2,40}")
_NAMED = re.compile(rb'"stream":\s*"([^"@]{2,80})@(\w+)["@]|"e":\s*"(\w+)"[^{}\[\]]{0,80}"s":\s*"([^"]{2,80})"')
_PARTIAL = re.compile(r"depth\d+\b")

_STATES = {
    "TRADING": "online",
    "HALT": "halted",
    "BREAK": "halted",
    "PRE_TRADING": "halted",
    "POST_TRADING": "halted",
    "END_OF_DAY": "halted",
    "AUCTION_MATCH": "auction",
    "PENDING_TRADING": "halted",
    "PRE_SETTLE": "halted",
    "SETTLING": "halted",
    "PRE_DELIVERING": "halted",
    "DELIVERING": "halted",
    "DELIVERED": "delisted",
    "CLOSE": "delisted",
}


class Market(msgspec.Struct, frozen=True, kw_only=True):
    """In what one market differs from the others. Weights are what its REST interface charges.

    `names_previous`: each change of a book names the one before it (`pu`).
    """

    venue: str
    kind: str
    streams: tuple[str, ...]
    names_previous: bool
    rest: str
    depth_limit: int
    depth_weight: int
    products_weight: int
    trades_weight: int
    agg_trades_weight: int
    weight_per_minute: int


# --- What the venue sends. Fields that are not used are not named. ---

_Levels = list[tuple[Text, Text]]


class _Depth(msgspec.Struct, gc=False):
    name: str = msgspec.field(name="s")
    first: Number = msgspec.field(name="U")
    final: Number = msgspec.field(name="u")
    bids: _Levels = msgspec.field(name="b")
    asks: _Levels = msgspec.field(name="a")
    ms: Number = msgspec.field(name="E")
    matched_ms: Number = msgspec.field(name="T", default=0)
    previous: Number | None = msgspec.field(name="pu", default=None)


class _Ticker(msgspec.Struct, gc=False):
    name: str = msgspec.field(name="s")
    number: Number = msgspec.field(name="u")
    bid: Text = msgspec.field(name="b")
    bid_size: Text = msgspec.field(name="B")
    ask: Text = msgspec.field(name="a")
    ask_size: Text = msgspec.field(name="A")
    ms: Number = msgspec.field(name="E", default=0)
    matched_ms: Number = msgspec.field(name="T", default=0)


class _Trade(msgspec.Struct, gc=False):
    name: str = msgspec.field(name="s")
    number: Number = msgspec.field(name="t")
    price: Text = msgspec.field(name="p")
    size: Text = msgspec.field(name="q")
    traded_ms: Number = msgspec.field(name="T")
    buyer_made: bool = msgspec.field(name="m")
    ms: Number = msgspec.field(name="E")
    cause: str = msgspec.field(name="X", default="MARKET")


class AggTrade(msgspec.Struct, gc=False):
    """Executions of one taker order at one price, in one."""

    number: Number = msgspec.field(name="a")
    price: Text = msgspec.field(name="p")
    size: Text = msgspec.field(name="q")
    traded_ms: Number = msgspec.field(name="T")
    buyer_made: bool = msgspec.field(name="m")
    name: str = msgspec.field(name="s", default="")  # not in REST's answer, which has the same fields otherwise
    ms: Number = msgspec.field(name="E", default=0)
    cause: str = "MARKET"


class RestTrade(msgspec.Struct, gc=False):
    """One execution, as REST sends it."""

    number: Number = msgspec.field(name="id")
    price: Text
    size: Text = msgspec.field(name="qty")
    traded_ms: Number = msgspec.field(name="time")
    buyer_made: bool = msgspec.field(name="isBuyerMaker")
    cause: str = "MARKET"


class _Combined(msgspec.Struct, gc=False):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw()
    result: Any = msgspec.UNSET
    error: Any = msgspec.UNSET
    code: Any = msgspec.UNSET


class _Head(msgspec.Struct, gc=False):
    event: str = msgspec.field(name="e", default="")
    final: Any = msgspec.field(name="lastUpdateId", default=None)
    bid: Any = msgspec.field(name="b", default=None)
    bid_size: Any = msgspec.field(name="B", default=None)


class _DepthFrame(msgspec.Struct, gc=False):
    data: _Depth


class _TickerFrame(msgspec.Struct, gc=False):
    data: _Ticker


class _TradeFrame(msgspec.Struct, gc=False):
    data: _Trade


class _AggTradeFrame(msgspec.Struct, gc=False):
    data: AggTrade


class _Snapshot(msgspec.Struct):
    number: Number = msgspec.field(name="lastUpdateId")
    bids: _Levels
    asks: _Levels
    matched_ms: Number = msgspec.field(name="T", default=0)


class _RestProducts(msgspec.Struct):
    symbols: list[msgspec.Raw]


class RestProduct(msgspec.Struct):
    """A symbol of exchangeInfo."""

    symbol: str
    status: str = ""
    baseAsset: str = ""  # noqa: N815 - the venue's own name, here and below
    quoteAsset: str = ""  # noqa: N815
    contractType: str = ""  # noqa: N815
    marginAsset: str = ""  # noqa: N815
    deliveryDate: int = 0  # noqa: N815
    filters: list[dict[str, Any]] = []


_COMBINED = msgspec.json.Decoder(_Combined)
_HEAD = msgspec.json.Decoder(_Head)
_HEADS = msgspec.json.Decoder(list[_Head])
_SNAPSHOT = msgspec.json.Decoder(_Snapshot)
_REST_PRODUCTS = msgspec.json.Decoder(_RestProducts)
_REST_PRODUCT = msgspec.json.Decoder(RestProduct)
_REST_TRADES = msgspec.json.Decoder(list[RestTrade])
_REST_AGG_TRADES = msgspec.json.Decoder(list[AggTrade])

_Kind = Literal["depth", "bookTicker", "trade", "aggTrade"]
_BARE: dict[_Kind, msgspec.json.Decoder[Any]] = {
    "depth": msgspec.json.Decoder(_Depth),
    "bookTicker": msgspec.json.Decoder(_Ticker),
    "trade": msgspec.json.Decoder(_Trade),
    "aggTrade": msgspec.json.Decoder(AggTrade),
}
_FRAMES: dict[bytes, msgspec.json.Decoder[Any]] = {
    b'depth"': msgspec.json.Decoder(_DepthFrame),
    b"depth@": msgspec.json.Decoder(_DepthFrame),
    b"bookTi": msgspec.json.Decoder(_TickerFrame),
    b'trade"': msgspec.json.Decoder(_TradeFrame),
    b"aggTra": msgspec.json.Decoder(_AggTradeFrame),
}
_EVENTS: dict[str, _Kind] = {
    "depthUpdate": "depth", "bookTicker": "bookTicker", "trade": "trade", "aggTrade": "aggTrade",
}  # fmt: skip


class _State:
    """What a feed knows of one product besides the kit's: its changes, its last quote, its kind of trades."""

    __slots__ = ("diffs", "old_partials", "old_quotes", "partial", "product", "quote", "trades")

    def __init__(self, product: Product) -> None:
        self.product = product
        self.diffs = Diffs()
        self.partial = -1  # update id of the last book of partial depth
        self.old_partials = 0
        self.quote = -1
        self.old_quotes = 0
        self.trades = ""


class BinanceFeed:
    """One line of one Binance market. `products` None accepts every symbol that is seen, and subscribes none.

    `counts` has the keys of every feed: frames, snapshots, book_updates, trades, quotes, gaps, resyncs, duplicates
    (old frames), deltas_before_snapshot (changes that the snapshot had), ignored (streams and symbols that were not
    asked for), dead_letters.
    """

    silence_ns = SILENCE_NS

    def __init__(self, market: Market, *, line: str, products: tuple[str, ...] | None = None) -> None:
        streams = [f"{name.lower()}@{stream}" for name in products or () for stream in market.streams]
        if len(streams) > STREAMS_MAX:
            most = STREAMS_MAX // len(market.streams)
            raise SettingsError(f"{market.venue} carries at most {most} symbols a line; {len(products or ())} are set")
        self.venue = market.venue
        self.ts_venue: int | None = None
        self._market = market
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self._wanted = products
        self._streams = streams
        self._products = Listing(products, self._describe)
        self._states: dict[str, _State] = {}
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        # A feed that subscribes nothing plays what was recorded: its requests cost the venue nothing.
        played = products is None
        self._requests = Requests(
            under_way_max=None if played else UNDER_WAY_MAX,
            weight_per_minute=None if played else market.weight_per_minute,
        )
        self._quiet: set[str] = set()
        self._liveness = Liveness(SILENCE_NS, self._lose_all)
        self._ts_opened = 0
        self._sent = 0

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
        """Subscribe to every stream and ask for the products' increments."""
        self._ts_opened = ts
        self._requests.forget()
        call = self._call(ts)
        self._liveness.opened(call)
        for start in range(0, len(self._streams), STREAMS_A_MESSAGE):
            call.out.append(self._order("SUBSCRIBE", self._streams[start : start + STREAMS_A_MESSAGE]))
        self._quiet = set(self._wanted or ())
        for product in self._products if self._wanted else ():
            state = self._state(call, product.name)
            if state is not None and self._ledger.is_pending(product, _TRADES):
                self._ask_trades(state)
        self._products.asked(ts)
        self._ask_products()
        return self._done(call)

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = Call(self._line, ts, self.ts_venue, frame)
        at = frame.find(b"@", 0, 64) + 1
        decoder = _FRAMES.get(frame[at : at + 6]) if at else None
        if decoder is None:
            self._general(call)
        else:
            try:
                self._take(call, decoder.decode(frame).data)
            except UNREADABLE:
                self._general(call)
            except BadEvent as error:
                call.dead_value(error)
                self._missed(call)
        return self._done(call) if self._requests.waiting else call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Return what a REST answer means: increments and states, a book snapshot, or the last trades."""
        call = self._call(ts, body)
        take = {"products": self._rest_products, "snapshot": self._rest_snapshot, "trades": self._rest_trades}.get(
            request.purpose
        )
        if take is None:
            self.counts["ignored"] += 1
            return call.out
        # An answer that cannot be used leaves its request under way: the deadline asks again, no sooner.
        with call.refusing(f"bad_{request.purpose}"):
            take(call, request)
        return self._done(call)

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence and age, and make requests whose time has come."""
        call = self._call(ts)
        if not self._liveness.ticked(call):
            return call.out
        if self._liveness.ping_due(ts, PROBE_NS):
            call.out.append(self._order("LIST_SUBSCRIPTIONS", []))
        if ts - self._ts_opened > AGE_NS_MAX:
            self._liveness.is_open = False
            call.out.append(Reconnect("connection_age"))
            return call.out
        if self._quiet and ts - self._ts_opened > QUIET_NS:
            for name in sorted(self._quiet):
                self._ask_book(name)
            self._quiet.clear()
        if self._products.is_due(ts):
            self._ask_products()
        return self._done(call)

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return idle.time_passed(self._call(ts), self._products, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid and open a gap per symbol, until the next connection's snapshots."""
        self._requests.forget()
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    # --- Frames ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _done(self, call: Call) -> list[Output]:
        call.out += self._requests.due(call.ts)
        return call.out

    def _order(self, method: str, params: list[str]) -> Send:
        self._sent += 1
        order: dict[str, Any] = {"method": method, "id": self._sent}
        return Send(msgspec.json.encode(order | {"params": params} if params else order))

    def _take(self, call: Call, message: Any) -> None:
        if type(message) is _Ticker:
            self._quote(call, message)
        elif type(message) is _Depth:
            self._depth(call, message)
        else:
            self._trade(call, message)

    def _general(self, call: Call) -> None:
        """Read a frame that is bare, or wrong, or of another stream."""
        try:
            if call.payload[:1] == b"[":
                self._array(_HEADS.decode(call.payload))
                return
            frame = _COMBINED.decode(call.payload)
            data = bytes(frame.data) or call.payload
            kind = self._kind(call, frame, data)
            if kind == "partial":
                self._partial(call, frame.stream.partition("@")[0].upper(), data)
            elif kind is not None:
                self._take(call, _BARE[kind].decode(data))
        except REFUSED as error:
            call.dead_frame(error)
            self._missed(call)

    def _array(self, heads: list[_Head]) -> None:
        """Leave alone what comes as a list where streams are bare: tickers and marks of all symbols, never a change."""
        for head in heads:
            if not head.event or head.event in _EVENTS:
                raise BadEvent("unknown_frame", "e", head.event[:200])
        self.counts["ignored"] += 1

    def _kind(self, call: Call, frame: _Combined, data: bytes) -> _Kind | Literal["partial"] | None:
        """Return the kind of a frame to be read, None for what needs no more."""
        channel = frame.stream.partition("@")[2]
        if data is call.payload and self._control(call, frame):
            return None
        if _PARTIAL.match(channel) is not None:
            return "partial"
        head = _Head() if data[:1] == b"[" else _HEAD.decode(data)
        if head.event in _EVENTS:
            return _EVENTS[head.event]
        if head.event == "" and isinstance(head.bid, str) and isinstance(head.bid_size, str):
            return "bookTicker"
        if channel in _BARE:
            raise BadEvent("bad_frame", "stream", frame.stream[:200])
        if head.event == "serverShutdown":
            call.out.append(Reconnect("server_shutdown"))
        elif head.event or frame.stream:
            self.counts["ignored"] += 1
        elif head.final is not None:
            self._bare_book(call)
        else:
            raise BadEvent("unknown_frame", "e", "")
        return None

    def _control(self, call: Call, frame: _Combined) -> bool:
        """Tell whether a frame answers an order of ours; a refusal is a dead letter."""
        refusal = frame.error if frame.code is msgspec.UNSET else frame.code
        if refusal is not msgspec.UNSET:
            call.dead("venue_error", repr(refusal))
        return refusal is not msgspec.UNSET or frame.result is not msgspec.UNSET

    def _state(self, call: Call, name: str) -> _State | None:
        state = self._states.get(name)
        if state is None:
            product = self._products.find(call, name)
            if product is None:
                return None
            state = self._states[name] = _State(product)
            if self._liveness.is_open and self._ledger.is_pending(product, _TRADES):
                self._ask_trades(state)
        return state

    def _heard(self, call: Call, ms: int) -> None:
        """Take the venue's clock, which never runs back: streams of one connection are a little out of order."""
        self.ts_venue = call.heard(_ns(ms, "E"), self.ts_venue)

    # --- Losses and their repair ---

    def _lose_all(self, call: Call, reason: str) -> None:
        for state in self._states.values():
            state.diffs.forget()
            state.partial = state.quote = -1
        self._ledger.lose_all(call, self._products, reason, subscribed=bool(self._wanted))

    def _missed(self, call: Call) -> None:
        """A frame could not be read: clear the book that it may have changed, or all where it names none."""
        found = _NAMED.search(call.payload[:400])
        states = list(self._states.values())
        if found is not None:
            stream, channel, event, name = found.groups()
            if not (channel or event).startswith(b"depth"):
                return
            with contextlib.suppress(UnicodeError):
                known = self._states.get((stream or name).decode().upper())
                states = [known] if known is not None else []
        for state in states:
            if state.product.book_valid:
                self._lost(call, state, "bad_frame", None, None)
            else:
                state.diffs.lose()

    def _lost(self, call: Call, state: _State, detail: str, expected: int | None, received: int | None) -> None:
        product = state.product
        if detail == "bad_frame":
            state.diffs.lose()
        self.counts["gaps"] += 1
        self.counts["resyncs"] += 1
        self._ledger.lose(call, product, GAP, {_BOOK}, detail=detail, channel=_BOOK, expected=expected,
                          received=received)  # fmt: skip
        self._ask_book(product.name)
        if product.gap is not None:
            call.status(product.symbol, "resync", product.gap, reason=detail, channel=_BOOK)

    def _ask_products(self) -> None:
        market = self._market
        self._requests.ask(Fetch(f"{market.rest}/exchangeInfo", "products", weight=market.products_weight))

    def _ask_book(self, name: str) -> None:
        self._requests.ask(self._book_request(name))

    def _book_request(self, name: str) -> Fetch:
        market = self._market
        path = f"{market.rest}/depth?symbol={name}&limit={market.depth_limit}"
        return Fetch(path, "snapshot", name, market.depth_weight)

    # --- Books ---

    def _depth(self, call: Call, message: _Depth) -> None:
        state = self._state(call, message.name)
        if state is None:
            return
        self._heard(call, message.ms)
        call.sequence = message.final
        ts = _ns(message.matched_ms or message.ms, "T")
        columns = _columns(message.bids, message.asks)
        if (message.previous is not None) != self._market.names_previous:
            raise BadEvent("wrong_market", "pu", message.previous)
        diffs, last = state.diffs, state.diffs.last
        if last is None:
            books.check(call, state.product, ts, columns)  # before it waits for a snapshot
        diff = Diff(message.first, message.final, message.previous, ts, columns)
        match diffs.take(diff):
            case "next":
                books.update(call, state.product, ts, columns)
            case "old":
                self.counts["duplicates"] += 1
            case "known":
                self.counts["deltas_before_snapshot"] += 1
            case "wait":
                self._quiet.discard(message.name)
                self._ask_book(message.name)
            case "lost":
                chained = message.previous is not None
                expected = last if chained or last is None else last + 1
                self._lost(call, state, "", expected, message.previous if chained else message.first)
                books.check(call, state.product, ts, columns)  # it waits now

    def _partial(self, call: Call, name: str, data: bytes) -> None:
        """Take the best levels as the whole book, unless the diff stream has it."""
        state = self._state(call, name)
        if state is None or state.diffs.last is not None:
            self.counts["ignored"] += state is not None
            return
        if self._market.names_previous:
            diff: _Depth = _BARE["depth"].decode(data)
            number, matched_ms, columns = diff.final, diff.matched_ms or diff.ms, _columns(diff.bids, diff.asks)
        else:
            book = _SNAPSHOT.decode(data)
            number, matched_ms, columns = book.number, 0, _columns(book.bids, book.asks)
        if number <= state.partial and state.old_partials < OLD_MAX:
            state.old_partials += 1
            self.counts["duplicates"] += 1
            return
        ts = _ns(matched_ms, "T") if matched_ms else call.now
        call.sequence = number
        books.snapshot(call, state.product, ts, columns)
        state.partial, state.old_partials = number, 0
        self._ledger.account(call, state.product, _BOOK, ts)

    def _bare_book(self, call: Call) -> None:
        """Take a whole book that names no symbol for the snapshot that the only one waits for."""
        if len(self._states) != 1:
            call.dead("no_symbol", "a whole book that is not in a combined stream names no symbol")
            return
        (name,) = self._states
        self._rest_snapshot(call, self._book_request(name))

    def _rest_snapshot(self, call: Call, request: Fetch) -> None:
        snapshot = _SNAPSHOT.decode(call.payload)
        columns = _columns(snapshot.bids, snapshot.asks)
        matched = _ns(snapshot.matched_ms, "T") if snapshot.matched_ms else None
        state = self._state(call, request.symbol)
        if state is not None:
            books.check(call, state.product, matched or call.now, columns)
        self._requests.came(request)
        if state is None or state.diffs.last is not None:
            self.counts["ignored"] += 1
            return
        held = len(state.diffs.waiting)
        kept = state.diffs.join(snapshot.number)
        if kept is None:
            self.counts["snapshots_too_old"] += 1
            self._requests.again(request, call.ts)
            return
        product = state.product
        self.counts["deltas_before_snapshot"] += held - len(kept)
        ts = matched or (min(call.now, kept[0].ts) if kept else call.now)
        call.sequence = snapshot.number
        books.snapshot(call, product, ts, columns)
        for diff in kept:
            # Each has its own number and time, so they stay events of their own, although one answer brought them on.
            said, call.out = call.out, []
            call.sequence = diff.final
            books.update(call, product, diff.ts, diff.columns)
            call.out = said + call.out
        self._ledger.account(call, product, _BOOK, kept[-1].ts if kept else ts)

    # --- Trades ---

    def _trade(self, call: Call, message: _Trade | AggTrade) -> None:
        state = self._state(call, message.name)
        if state is None:
            return
        kind = "trade" if type(message) is _Trade else "aggTrade"
        if state.trades != kind:
            if state.trades:
                self.counts["ignored"] += 1
                return
            state.trades = kind
        self._heard(call, message.ms)
        if message.cause == "NA" and is_zero(message.size):
            self.counts["ignored"] += 1
            state.product.trade_ids.pass_over(message.number)
            return
        trade = read_trade(message)
        call.venue_time(trade.ts_event, "T")
        self._trades(call, state, [(message.number, trade)], listed=False)

    def _trades(self, call: Call, state: _State, batch: list[Numbered], *, listed: bool) -> None:
        """Tell trades by rising id; `listed`: REST gave every trade from the first of them to the last."""
        product = state.product
        skipped = numbered_trades.take(call, product, self._ledger, batch, snapshot=listed)
        self.counts["gaps"] += skipped
        is_missing = product.trade_ids.holes or product.unproven
        if not listed and is_missing and (skipped or self._ledger.is_pending(product, _TRADES)):
            self._ask_trades(state)

    def _ask_trades(self, state: _State) -> None:
        market, name = self._market, state.product.name
        path, weight = f"{market.rest}/trades?symbol={name}&limit=1000", market.trades_weight
        ids = state.product.trade_ids
        if (state.trades or _kind_of(market)) == "aggTrade":
            first = ids.holes[0][0] if ids.holes else None if ids.last is None else ids.last + 1
            since = "" if first is None else f"&fromId={first}"
            path = f"{market.rest}/aggTrades?symbol={name}{since}&limit=1000"
            weight = market.agg_trades_weight
        self._requests.ask(Fetch(path, "trades", name, weight))

    def _rest_trades(self, call: Call, request: Fetch) -> None:
        decoder: msgspec.json.Decoder[Any] = _REST_AGG_TRADES if "/aggTrades?" in request.path else _REST_TRADES
        batch = sorted(((sent.number, read_trade(sent)) for sent in decoder.decode(call.payload)), key=itemgetter(0))
        state = self._state(call, request.symbol)
        self._requests.came(request)
        if state is None or state.product.ts_trade is None:
            return
        if batch:
            self._trades(call, state, batch, listed=True)
        elif not state.product.unproven and not state.product.trade_ids.holes:  # none since the last
            self._ledger.account(call, state.product, _TRADES, call.now)

    # --- Quotes and products ---

    def _quote(self, call: Call, message: _Ticker) -> None:
        state = self._states.get(message.name) or self._state(call, message.name)
        if state is None:
            return
        if message.number <= state.quote and state.old_quotes < OLD_MAX:
            state.old_quotes += 1
            self.counts["duplicates"] += 1
            return
        bid, bid_size, ask, ask_size = message.bid, message.bid_size, message.ask, message.ask_size
        check_decimals([bid, bid_size, ask, ask_size], "bookTicker")
        if message.ms:
            self._heard(call, message.ms)
        ts = _ns(message.matched_ms, "T") if message.matched_ms else call.now
        state.quote, state.old_quotes = message.number, 0
        call.sequence = message.number
        # A side without orders has the price 0.
        quotes.send(call, state.product, ts, bid=None if is_zero(bid) else bid, bid_size=bid_size,
                    ask=None if is_zero(ask) else ask, ask_size=ask_size)  # fmt: skip

    def _rest_products(self, call: Call, request: Fetch) -> None:
        products = _REST_PRODUCTS.decode(call.payload).symbols
        self._requests.came(request)
        learn_each(call, products, _REST_PRODUCT, self._learn)

    def _learn(self, call: Call, sent: RestProduct) -> None:
        self._products.know(call, sent.symbol, **rest_fields(sent))

    def _describe(self, name: str) -> Instrument:
        return describe(self._market, name)


def describe(market: Market, name: str) -> Instrument:
    """Return the instrument of the venue's name. Raises BadEvent."""
    if _NAME.fullmatch(name) is None or name != name.upper():
        raise BadEvent("bad_symbol", "symbol", name[:200])
    base, quote, delivery = split(name)
    return Instrument(venue=market.venue, symbol=f"{base}-{quote}{delivery}" if quote else name, venue_symbol=name,
                      ts_recv=0, base_currency=base, quote_currency=quote,
                      kind="future" if delivery else market.kind)  # fmt: skip


def rest_fields(sent: RestProduct) -> dict[str, Any]:
    """Return a symbol from REST as fields of an Instrument. Raises BadEvent."""
    learned: dict[str, Any] = {"status": _STATES.get(sent.status, "unknown")}
    if sent.baseAsset and sent.quoteAsset:
        learned |= {"base_currency": sent.baseAsset, "quote_currency": sent.quoteAsset}
    if sent.contractType:
        learned["kind"] = "perpetual" if "PERPETUAL" in sent.contractType else "future"
        if learned["kind"] == "future" and sent.deliveryDate:  # a perpetual's is in the year 2100
            learned["expiry"] = _ns(sent.deliveryDate, "deliveryDate")
    if sent.marginAsset:
        learned["settlement_currency"] = sent.marginAsset
        if sent.baseAsset:
            learned["inverse"] = sent.marginAsset == sent.baseAsset
    for rule in sent.filters:
        if rule.get("filterType") == "LOT_SIZE":
            learned["size_increment"] = _increment(rule.get("stepSize"), "stepSize")
            learned["min_order_size"] = _increment(rule.get("minQty"), "minQty")
    return learned


def _kind_of(market: Market) -> str:
    """Return the kind of trades that is subscribed."""
    return "aggTrade" if "aggTrade" in market.streams else "trade"


def split(name: str) -> tuple[str, str, str]:
    """Return base currency, quote currency and what a future has behind them; no quote when it is not known."""
    found = _SPLIT.fullmatch(name)
    return (found[1], found[2], found[3] or "") if found else (name, "", "")


def _columns(bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> Columns:
    bid_prices, bid_sizes = [level[0] for level in bids], [level[1] for level in bids]
    ask_prices, ask_sizes = [level[0] for level in asks], [level[1] for level in asks]
    values = bid_prices + bid_sizes + ask_prices + ask_sizes
    if values:
        check_decimals(values, "level")
    return bid_prices, bid_sizes, ask_prices, ask_sizes


def read_trade(sent: _Trade | AggTrade | RestTrade) -> Trade:
    """Return a trade; its id is that of the stream with the same kind of trades. Raises BadEvent."""
    check_trade(sent.price, sent.size)
    return Trade(trade_id=str(sent.number), ts_event=_ns(sent.traded_ms, "T"), price=sent.price, size=sent.size,
                 side="sell" if sent.buyer_made else "buy",
                 liquidation=sent.cause in {"INSURANCE_FUND", "ADL"})  # fmt: skip


def _ns(time: int, field: str) -> int:
    """Return UTC nanoseconds of a time in milliseconds or microseconds, depending on its magnitude. Raises BadEvent."""
    return in_range(time * (MILLISECOND_NS if time < _MICROSECONDS_FROM else 1_000), time, field)


def _increment(text: Any, field: str) -> str | None:
    if not isinstance(text, str):
        return None
    check_decimals([text], field)
    return None if is_zero(text) else text
