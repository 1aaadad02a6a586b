"""Binance's live feed: frames in, events out; `markets` states in what its markets differ.

Documents, at https://developers.binance.com/docs/: "WebSocket Streams for Binance"
(binance-spot-api-docs/web-socket-streams), "Websocket Market Streams" and "Important WebSocket Change Notice"
(derivatives/usds-margined-futures/websocket-market-streams), and there "How to manage a local order book correctly",
"Mark Price Stream", "Liquidation Order Streams" and, of REST, "Open Interest". "Recorded" was checked on a recording.

1. Subscribe with `SUBSCRIBE` messages, one a channel; the answer has our `id`. An unknown symbol is acknowledged as
   well and never sends anything, so that a symbol that exchangeInfo does not list counts as refused.
2. Book: a diff stream numbers its changes per symbol, and the snapshot comes by REST; `kit.diffs` joins them. Spot:
   drop diffs with `u` <= `lastUpdateId`, the first one kept has `U` <= `lastUpdateId` + 1 <= `u`, afterwards `U` >
   local + 1 is a loss. Futures: update ids are not contiguous, each `pu` is the `u` before ("How to manage ..."). We
   take `pu` <= `lastUpdateId` for the first: since nothing lies between `pu` and `U`, it lets through each snapshot
   that the rule does, and also one from between two diffs, which on a quiet symbol is the usual one.
   The snapshot is requested when the first change of the symbol is here, so that nothing lies between; a symbol without
   changes is asked for after `QUIET_NS`. Levels beyond the snapshot stay unknown until touched.
3. A skipped number concerns that symbol alone: its book is cleared and its snapshot requested again. All requests share
   one budget of REST weight (`kit.requests`).
4. Trades: ids of a symbol rise by one (recorded). A skipped id is a gap of that symbol's trades, which REST's last
   trades fill. `m` is true when the buyer was the maker ("Trade Streams"), so the seller is the aggressor. `trade` and
   `aggTrade` have the same executions: a symbol's first kind is kept, the other ignored. On the futures market `X`
   marks what is no market trade (`messages.NOT_TRADED`); some ids belong to no trade at all: price or size is 0.
5. `bookTicker` is the best bid and offer at update id `u`; a lower or equal `u` is old. On the spot market it carries
   no time: it gets the venue's newest.
6. A frame that cannot be read and may have been a book change clears the symbol that it names, or every one. An
   unreadable trade shows as a gap in the ids.
7. A quiet connection is asked for its subscriptions, which it must answer; without a frame for `silence_ns` it is dead.
   A connection lives for 24 hours. An hour earlier the shell starts a successor beside it (`Venue.lifetime_s`); if none
   could take over, it is left ten minutes earlier, and at once when the venue says that it shuts down.
8. Futures: `markPrice@1s` has mark and index price and funding. `forceOrder` has only the latest liquidation of a
   symbol within 1,000 ms ("Liquidation Order Streams"): others of that second are never sent. Open interest comes by
   REST, of each symbol once a minute.
9. Times are milliseconds, or microseconds where a connection was opened with `timeUnit=MICROSECOND`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from operator import itemgetter
from typing import Any

import msgspec

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent
from marketdata.events import GAP, SYMBOL, Instrument
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.binance import requests
from producers.venues.binance.markets import AGG_TRADE, DEPTH, MARK_PRICE, Market
from producers.venues.binance.messages import (
    BARE,
    COMBINED,
    FRAMES,
    HEAD,
    INTEREST,
    ITEMS,
    PRODUCTS,
    REST_AGG_TRADE,
    REST_TRADE,
    SNAPSHOT,
    AggTrade,
    Combined,
    Depth,
    Head,
    Liquidated,
    MarkPrice,
    StreamTrade,
    Ticker,
    read_trade,
)  # fmt: skip
from producers.venues.binance.names import RestProduct, describe, rest_fields, time_ns
from producers.venues.kit import books, derivatives, numbered_trades, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.diffs import Diff, Diffs
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.instruments import learn_each
from producers.venues.kit.numbered_trades import Numbered
from producers.venues.kit.orders import Orders
from producers.venues.kit.products import Product
from producers.venues.kit.requests import Requests
from producers.venues.kit.sequence import OLD_RUN_MAX
from producers.venues.kit.values import UNREADABLE, check_decimals, sent_ms_ns
from producers.venues.kit.venue import Signer

UNDER_WAY_MAX = 4
QUIET_NS = 5 * SECOND_NS
AGE_NS_MAX = (24 * 60 - 10) * MINUTE_NS

_BOOK, _TRADES = "depth", "trade"
_LISTED = msgspec.json.Decoder(RestProduct)
_NAMED = re.compile(rb'"stream":\s*"([^"@]{2,80})@(\w+)["@]|"e":\s*"(\w+)"[^{}\[\]]{0,80}"s":\s*"([^"]{2,80})"')
_TYPE = re.compile(rb'"st":\s*(\d)')


class State:
    """What a feed knows of one product besides the kit's: its changes, its last quote, its kind of trades."""

    __slots__ = ("diffs", "old_quotes", "product", "quote", "trades")

    def __init__(self, product: Product) -> None:
        self.product = product
        self.diffs = Diffs()
        self.quote = -1
        self.old_quotes = 0
        self.trades = ""


class BinanceFeed(VenueFeed):
    """One line of one market, or of one address of it, which carries only some `channels`."""

    book_channel = _BOOK
    trades_channel = _TRADES
    book_subscription = DEPTH
    starts_with_data = ()
    silence_ns = 30 * SECOND_NS
    sequence_scope = SYMBOL
    ping = b'{"method":"LIST_SUBSCRIPTIONS","id":0}'

    def __init__(
        self, market: Market, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None,
        channels: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        self.venue = market.venue
        self.limits = market.limits
        self.trades_subscription = market.trades
        self.channels = market.channels if channels is None else channels
        carried = ((DEPTH, _BOOK), (market.trades, _TRADES))
        self.carries = {channel for stream, channel in carried if stream in self.channels}
        self._market = market
        super().__init__(line=line, products=products, token=token)
        self._states: dict[str, State] = {}
        self._orders = Orders()
        # A feed that subscribes to nothing plays what was recorded: its requests cost the venue nothing.
        played = products is None
        self._requests = Requests(
            under_way_max=None if played else UNDER_WAY_MAX,
            weight_per_minute=None if played else market.weight_per_minute,
        )
        self._quiet: set[str] = set()
        self._unlisted: frozenset[str] = frozenset()
        self._interest = requests.InterestTurns(market)
        self._ts_opened = 0

    # --- What is sent to the venue ---

    def opened(self, ts: int) -> list[Output]:
        """Subscribe to every stream and ask for the products' increments."""
        self._ts_opened = ts
        self._interest.begin(ts)
        self._quiet = set(self._wanted or ()) if DEPTH in self.channels else set()
        return super().opened(ts) + self._requests.due(ts)

    def _begin(self) -> None:
        super()._begin()
        self._orders.begin()
        self._requests.forget()

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> list[Output]:
        del call
        streams = [f"{name.lower()}@{channel}" for name in names]
        number = self._orders.number(verb, channel, names)
        return [Send(msgspec.json.encode({"method": verb.upper(), "id": number, "params": streams}))]

    def _again(self, call: Call, channel: str, names: Collection[str]) -> list[Output]:
        """Return nothing: snapshots and missing trades come by REST, and are requested again by `kit.requests`."""
        del call, channel, names
        return []

    def _fetch_products(self) -> list[Fetch]:
        self._requests.ask(requests.products(self._market))
        return []

    def _ask_book(self, name: str) -> None:
        self._requests.ask(requests.book(self._market, name, len(self._wanted or ())))

    def _recover_trades(self, call: Call, product: Product) -> None:
        state = self._state(call, product.name)
        if state is not None:
            self._ask_trades(state)

    def _ask_trades(self, state: State) -> None:
        market, name = self._market, state.product.name
        if self._subscriptions.state(market.trades, name) == "refused":
            return  # they would show nothing of the time after them
        self._requests.ask(requests.trades(market, name, state.trades or market.trades, state.product.trade_ids))

    def _tick(self, call: Call) -> None:
        if call.ts - self._ts_opened > AGE_NS_MAX:
            self._liveness.is_open = False
            call.out.append(Reconnect("connection_age"))
            return
        if self._quiet and call.ts - self._ts_opened > QUIET_NS:
            # A book without changes after it would be old at once.
            live = {name for name in self._quiet if self._subscriptions.is_live(DEPTH, name, self._mark(DEPTH, name))}
            for name in sorted(live):
                self._ask_book(name)
            self._quiet -= live
        if self._wanted and self._market.interest_weight and MARK_PRICE in self.channels:
            for request in self._interest.due(call.ts, self._wanted):
                self._requests.ask(request)
        call.out += self._requests.due(call.ts)

    # --- Frames ---

    def _read(self, call: Call) -> None:
        frame = call.payload
        at = frame.find(b"@", 0, 64) + 1
        decoder = FRAMES.get(frame[at : at + 6]) if at else None
        if decoder is None:
            self._general(call)
        else:
            try:
                message = decoder.decode(frame).data
            except UNREADABLE:
                self._general(call)  # finds out what is wrong with it
            else:
                self._take(call, message)
        if self._requests.waiting:
            call.out += self._requests.due(call.ts)

    def _take(self, call: Call, message: Any) -> None:
        kind = type(message)
        if kind is Ticker:
            self._quote(call, message)
        elif kind is Depth:
            self._depth(call, message)
        elif kind is StreamTrade or kind is AggTrade:
            self._trade(call, message)
        elif kind is MarkPrice:
            self._mark_price(call, message)
        else:
            self._liquidation(call, message)

    def _general(self, call: Call) -> None:
        """Read a frame that is bare, or wrong, or of another stream."""
        frame = COMBINED.decode(call.payload)
        data = bytes(frame.data) or call.payload
        if data is call.payload and self._control(call, frame):
            return
        head = Head() if data[:1] == b"[" else HEAD.decode(data)
        is_best = head.event == "" and isinstance(head.bid, str) and isinstance(head.bid_size, str)
        decoder = BARE.get("bookTicker" if is_best else head.event)
        if decoder is not None:
            self._take(call, decoder.decode(data))
        elif head.event == "serverShutdown":
            call.out.append(Reconnect("server_shutdown"))
        elif frame.stream.partition("@")[2] in self.channels:
            raise BadEvent("bad_frame", "stream", frame.stream[:200])
        elif head.event or frame.stream:
            self.counts["ignored"] += 1
        else:
            raise BadEvent("unknown_frame", "e", "")

    def _control(self, call: Call, frame: Combined) -> bool:
        """Return whether a frame answers a message of ours; a refusal is a dead letter, too."""
        refusal = frame.error if frame.code is msgspec.UNSET else frame.code
        if refusal is msgspec.UNSET and frame.result is msgspec.UNSET:
            return False
        order = self._orders.answered(frame.number)
        is_refused = refusal is not msgspec.UNSET
        if is_refused:
            call.dead("venue_error", repr(refusal))
        if is_refused:
            self._refused_message(call, order, repr(refusal)[:200])
        elif order is not None and order.verb == "subscribe":
            for name in order.names:
                if name not in self._unlisted:
                    self._acknowledged(call, order.channel, name)
        return True

    def _recovered(self, call: Call, channel: str, name: str) -> None:
        super()._recovered(call, channel, name)
        if channel == DEPTH:
            self._quiet.add(name)

    def _state(self, call: Call, name: str) -> State | None:
        state = self._states.get(name)
        if state is None:
            kind = self._market.symbol_type
            if kind and (found := _TYPE.search(call.payload)) is not None and int(found[1]) != kind:
                self.counts["ignored"] += 1
                return None
            product = self._products.find(call, name)
            if product is None:
                return None
            state = self._states[name] = State(product)
            if self._liveness.is_open and self._ledger.is_pending(product, _TRADES):
                self._ask_trades(state)
        return state

    # --- Losses and their repair ---

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        """Return books only: a trade that is missing shows by the ids."""
        found = _NAMED.search(payload[:400])
        if found is None:
            return None, (_BOOK,)
        stream, channel, event, name = found.groups()
        is_book = (channel or event).startswith(b"depth")
        return ((stream or name).decode(errors="replace").upper(),), (_BOOK,) if is_book else ()

    def _unreadable(self, call: Call) -> None:
        names, channels = self._concerned(call.payload)
        concerned = self._states if names is None else self._states.keys() & set(names)
        for name in list(concerned) if channels else ():
            state = self._states[name]
            state.diffs.lose()
            if state.product.book_valid:
                self._lost(call, state, "bad_frame", None, None)
        call.out += self._requests.due(call.ts)

    def _lost(self, call: Call, state: State, detail: str, expected: int | None, received: int | None) -> None:
        product = state.product
        self.counts["gaps"] += 1
        self.counts["resyncs"] += 1
        self._ledger.lose(call, product, GAP, {_BOOK}, detail=detail, channel=_BOOK, expected=expected,
                          received=received)  # fmt: skip
        self._ask_book(product.name)
        if product.gap is not None:
            call.status(product.symbol, "resync", product.gap, reason=detail, channel=_BOOK)

    def _forget(self, product: Product) -> None:
        state = self._states.get(product.name)
        if state is not None:
            state.diffs.forget()

    def _lose_all(self, call: Call, reason: str) -> None:
        super()._lose_all(call, reason)
        for state in self._states.values():
            state.quote = -1

    # --- Books ---

    def _depth(self, call: Call, message: Depth) -> None:
        state = self._states.get(message.name) or self._state(call, message.name)
        if state is None:
            return
        call.sequence = message.final
        matched = message.matched_ms  # the engine's time, which only futures have
        ts = self._event_time(call, matched or message.ms, time_ns, "T" if matched else "E")
        columns = message.columns()
        if (message.previous is not None) != self._market.names_previous:
            raise BadEvent("wrong_market", "pu", message.previous)
        diffs, last = state.diffs, state.diffs.last
        if last is None:
            books.check(call, state.product, ts, columns)  # before it waits for a snapshot
        match diffs.take(Diff(message.first, message.final, message.previous, ts, columns)):
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

    def _rest_snapshot(self, call: Call, request: Fetch) -> None:
        snapshot = SNAPSHOT.decode(call.payload)
        columns = snapshot.columns()
        matched = time_ns(snapshot.matched_ms, "T") if snapshot.matched_ms else None
        state = self._state(call, request.symbol)
        if state is not None:
            books.check(call, state.product, matched or call.now, columns)
        self._requests.came(request)
        is_refused = self._subscriptions.state(DEPTH, request.symbol) == "refused"
        if state is None or state.diffs.last is not None or is_refused:
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

    def _trade(self, call: Call, message: StreamTrade | AggTrade) -> None:
        state = self._states.get(message.name) or self._state(call, message.name)
        if state is None:
            return
        kind = "trade" if type(message) is StreamTrade else AGG_TRADE
        if state.trades != kind:
            if state.trades:
                self.counts["ignored"] += 1
                return
            state.trades = kind
        self._event_time(call, message.ms, time_ns, "E")
        if message.cause == "NA" and (is_zero(message.price) or is_zero(message.size)):
            self.counts["ignored"] += 1
            state.product.trade_ids.pass_over(message.number)
            return
        trade = read_trade(message)
        call.venue_time(trade.ts_event, "T")
        self._trades(call, state, [(message.number, trade)], listed=False)

    def _trades(
        self, call: Call, state: State, batch: list[Numbered], *, listed: bool, whole: bool = True
    ) -> None:  # fmt: skip
        """Publish trades by rising id; `listed`: REST has every trade from the first of them to the last."""
        product = state.product
        skipped = numbered_trades.take(call, product, self._ledger, batch, snapshot=listed, whole=whole)
        self.counts["gaps"] += skipped
        is_missing = product.trade_ids.skipped or product.unproven
        if not listed and is_missing and (skipped or self._ledger.is_pending(product, _TRADES)):
            self._ask_trades(state)

    def _rest_trades(self, call: Call, request: Fetch) -> None:
        decoder: msgspec.json.Decoder[Any] = REST_AGG_TRADE if "/aggTrades?" in request.path else REST_TRADE
        batch: list[Numbered] = []

        def take(raw: msgspec.Raw) -> None:
            sent = decoder.decode(raw)
            batch.append((sent.number, read_trade(sent)))

        whole = call.each(ITEMS.decode(call.payload), take, "bad_trades")
        batch.sort(key=itemgetter(0))
        state = self._state(call, request.symbol)
        self._requests.came(request)
        if state is None or state.product.ts_trade is None:
            return
        if batch:
            self._trades(call, state, batch, listed=True, whole=whole)
        elif whole and not state.product.unproven and not state.product.trade_ids.skipped:  # none since the last
            self._ledger.account(call, state.product, _TRADES, call.now)

    # --- Quotes and derivatives ---

    def _quote(self, call: Call, message: Ticker) -> None:
        state = self._states.get(message.name) or self._state(call, message.name)
        if state is None:
            return
        if message.number <= state.quote and state.old_quotes < OLD_RUN_MAX:
            state.old_quotes += 1
            self.counts["duplicates"] += 1
            return
        bid, bid_size, ask, ask_size = message.bid, message.bid_size, message.ask, message.ask_size
        check_decimals([bid, bid_size, ask, ask_size], "bookTicker")
        best_bid = bid if bid >= "1" else _offered(bid, bid_size, "b")
        best_ask = ask if ask >= "1" else _offered(ask, ask_size, "a")
        if message.ms:
            self._event_time(call, message.ms, time_ns, "E")
        ts = self._event_time(call, message.matched_ms, time_ns, "T") if message.matched_ms else call.now
        state.quote, state.old_quotes = message.number, 0
        call.sequence = message.number
        quotes.send(call, state.product, ts, bid=best_bid, bid_size=bid_size, ask=best_ask, ask_size=ask_size)

    def _mark_price(self, call: Call, sent: MarkPrice) -> None:
        state = self._state(call, sent.name)
        if state is None:
            return
        ts = self._event_time(call, sent.ms, time_ns, "E")
        derivatives.send(call, state.product, ts, mark_price=sent.mark, index_price=sent.index, funding_rate=sent.rate,
                         **derivatives.read(call, sent_ms_ns, next_funding_ts=sent.funding_ms))  # fmt: skip

    def _liquidation(self, call: Call, sent: Liquidated) -> None:
        order = sent.order
        state = self._state(call, order.name)
        if state is None:
            return
        ts = self._event_time(call, sent.ms, time_ns, "E")
        is_filled = bool(order.average and order.filled)
        found = derivatives.liquidation(
            call, ts_event=time_ns(order.traded_ms, "T"), side=order.side.lower(),
            price=order.average if is_filled else order.price, size=order.filled if is_filled else order.size,
        )  # fmt: skip
        derivatives.send(call, state.product, ts, liquidations=(found,))

    def _rest_interest(self, call: Call, request: Fetch) -> None:
        sent = INTEREST.decode(call.payload)
        state = self._state(call, request.symbol)
        self._requests.came(request)
        if state is not None:
            derivatives.send(call, state.product, time_ns(sent.ms, "time"), open_interest=sent.interest)

    # --- REST ---

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Return what a REST answer means: products, a book snapshot, the last trades, or open interest."""
        return super().fetched(request, body, ts) + self._requests.due(ts)

    def _answered(self, call: Call, request: Fetch) -> bool:
        """Take an answer; one that cannot be used leaves its request under way: its deadline asks again, no sooner."""
        take = {"snapshot": self._rest_snapshot, "trades": self._rest_trades, "interest": self._rest_interest}.get(
            request.purpose
        )
        if take is not None:
            take(call, request)
        return take is not None

    def _learn_products(self, call: Call) -> None:
        products = PRODUCTS.decode(call.payload).symbols
        self._requests.came(Fetch("", "products"))
        listed: set[str] = set()

        def learn(on: Call, sent: RestProduct) -> None:
            listed.add(sent.symbol)
            self._products.know(on, sent.symbol, **rest_fields(sent))

        refused = self.counts["dead_letters"]
        learn_each(call, products, _LISTED, learn)
        if self.counts["dead_letters"] != refused or not listed:
            return  # what could not be read may have been any of ours
        self._unlisted = frozenset(self._wanted or ()) - listed
        for name in sorted(self._unlisted):
            self._quiet.discard(name)
            for channel in self.channels:
                self._refused(call, channel, name, detail=f"exchangeInfo does not list {name}")

    def _describe(self, name: str) -> Instrument:
        return describe(self._market, name)


def _offered(price: str, size: str, field: str) -> str | None:
    """Return a price of bookTicker, None for a side without orders, which has price and size 0. Raises BadEvent."""
    is_absent = is_zero(price)
    if price[0] == "-" or (is_absent and not is_zero(size)):
        raise BadEvent("not_positive", field, price)
    return None if is_absent else price
