"""Alpaca's US equities stream v2: JSON or msgpack frames in, events out.

Theory of operation, with the source of each step. DOCS is Alpaca's "WebSocket Stream"
(https://docs.alpaca.markets/docs/streaming-market-data) and "Real-time Stock Data"
(https://docs.alpaca.markets/docs/real-time-stock-pricing-data).

1. The venue greets with `connected`; then there are 10 s to log in (DOCS, "Authentication"). After `authenticated` the
   feed subscribes, a message for each channel: trades with their bars, quotes, and trading statuses, which not every
   plan has. It uses the encoding of the welcome message, detected from its first byte: JSON text or a msgpack array.
2. What is refused for good is not tried again: a wrong key (402), a plan without this source (409), too many symbols
   (405) or no such ones (400). What passes is: another session of the account (406), time (404), a slow line (407).
   A free plan has one connection, with 30 symbols of trades and quotes (DOCS, "Subscription plans"), so that more
   connections would not help. Messages are answered in order, each by a list of every subscription that there is.
3. Nothing is numbered and nothing checks a frame: what a lost connection or an unreadable message costs becomes a gap,
   which history fills. Silence is normal, so it is no sign of death: the socket is pinged instead.
4. Trade ids belong to an exchange and restart each day, so an id here is day-exchange-id. The day is New York's: the
   sessions lie between 04:00 and 20:00 there, so a day that begins at 06:00 UTC never cuts one. The venue does not name
   the aggressor (DOCS, "Trades": no field has a side). A correction has the new id, and the old one beside it; a cancel
   has the id of what it takes back.
5. Halts and resumptions without a connection are not repeated, so halts are forgotten with the connection.
   Status codes depend on the tape (DOCS, "Status Codes"): 2 and 3 halt and resume on A and B, H and P halt and T
   resumes on C and O. With Q only quotes resume, so it is an auction until T.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent
from marketdata.events import DISCONNECTED, Instrument, Quote, Trade
from marketdata.feed import Output, Refused, Send
from producers.venues.alpaca import bars, messages
from producers.venues.kit import quotes, trades
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.orders import Orders
from producers.venues.kit.products import MATCHING, Product
from producers.venues.kit.trade_ids import Recent
from producers.venues.kit.values import UNREADABLE, numbers
from producers.venues.kit.venue import Signer

_TRADES, _QUOTES, _STATUSES = "trades", "quotes", "statuses"
# What one message subscribes, by our channels: bars are made of trades.
_SUBSCRIBED = {_TRADES: (_TRADES, "bars", "updatedBars"), _QUOTES: (_QUOTES,), _STATUSES: (_STATUSES,)}
_ALL = "*"

_CTA, _UTP = frozenset("AB"), frozenset("CO")
_STATES = {_CTA: {"2": "halted", "3": "online"}, _UTP: {"H": "halted", "P": "halted", "Q": "auction", "T": "online"}}
_OTHER_STATUSES = {_CTA: frozenset("56789ACDEF"), _UTP: frozenset[str]()}

# Errors by code: those that only other settings can end, with what to do, and those that may pass.
_FINAL = {
    400: ("invalid_syntax", "check ALPACA_PRODUCTS: Alpaca does not know how to read one of them"),
    402: ("auth_failed", "check APCA_API_KEY_ID and APCA_API_SECRET_KEY: Alpaca does not accept them"),
    405: ("symbol_limit", "take fewer ALPACA_PRODUCTS: a free plan has 30 symbols of trades and quotes on `iex`"),
    409: ("insufficient_subscription", "set ALPACA_MARKET=iex, or have the plan of this key changed"),
}
_PASSING = {
    401: "not_authenticated",
    404: "auth_timeout",
    406: "connection_limit",
    407: "slow_client",
    500: "internal_error",
}


class _Memory:
    """The memory of one symbol: published ids, the last quote, and the revisions of the last bars."""

    __slots__ = ("ids", "quote", "revisions")

    def __init__(self) -> None:
        self.ids = Recent()
        self.quote: Quote | None = None
        self.revisions: dict[int, int] = {}


class AlpacaFeed(VenueFeed):
    """One line of Alpaca's stocks. `products` are tickers, or `*` for every one.

    `counts` has, besides what every feed counts: corrections, cancels, candles, statuses.
    """

    venue = "alpaca"
    amends_trades = True
    book_channel, trades_channel = _QUOTES, _TRADES
    carries = (_TRADES,)  # it has no books: the ledger's other channel is that of quotes
    channels = (_TRADES, _QUOTES, _STATUSES)
    starts_with_data = ()
    awaited = ()
    silence_ns = None  # a stream of few stocks may be silent for hours; the socket is pinged
    login_ns = 10 * SECOND_NS
    products_max = 15_000  # about 11,000 are listed in the US

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        names = None if products is None else tuple(dict.fromkeys(name.upper() for name in products))
        takes_all = _ALL in (names or ())
        super().__init__(line=line, products=(_ALL,) if takes_all else names, token=token, takes_all=takes_all)
        self._memories: dict[str, _Memory] = {}
        self._codec: messages.Encoding = messages.Json
        self._orders = Orders()
        self._is_listed = False  # the venue has listed what is subscribed

    # --- Hooks of the base ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        """Begin a call at our own time: where stocks rest for hours, the venue's newest says nothing of now."""
        return Call(self._line, ts, None, payload)

    def _describe(self, name: str) -> Instrument:
        return messages.describe(name)

    def _begin(self) -> None:
        super()._begin()
        self._orders.begin()
        self._is_listed = False

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterable[Output]:
        del call
        self._orders.number(verb, channel, names)
        return (Send(self._codec.encode({"action": verb, **{key: list(names) for key in _SUBSCRIBED[channel]}})),)

    def _channels_of(self, product: Product) -> set[str]:
        known = {_QUOTES} if self._memory(product).quote is not None else set()
        return known | {_TRADES} if product.ts_trade is not None else known

    def _recover_trades(self, call: Call, product: Product) -> None:
        """Leave the trades between two connections to history, once the venue sends the new ones."""
        if self._is_listed:
            self._ledger.give_up_trades(call, product, "between two connections")

    def _lose_all(self, call: Call, reason: str) -> None:
        for product in self._products:
            self._invalidate_quote(call, product)
        super()._lose_all(call, reason)

    def _lose_subscription(self, call: Call, channel: str, name: str, reason: str, detail: str) -> None:
        super()._lose_subscription(call, channel, name, reason, detail)
        for product in self._products_of(call, channel, name) if channel == _QUOTES else ():
            self._invalidate_quote(call, product)

    def _memory(self, product: Product) -> _Memory:
        memory = self._memories.get(product.name)
        if memory is None:
            memory = self._memories[product.name] = _Memory()
        return memory

    # --- Frames ---

    def _read(self, call: Call) -> None:
        codec = messages.encoding_of(call.payload)
        try:
            received: list[messages.Message] = codec.all.decode(call.payload)
        except UNREADABLE:
            received = self._readable(call, codec)
        else:
            self._codec = codec
        self._take_all(call, received)

    def _readable(self, call: Call, codec: messages.Encoding) -> list[messages.Message]:
        """Return what can be read of a frame that cannot be read whole: one bad message does not cost the others."""
        try:
            raws = codec.each.decode(call.payload)
        except UNREADABLE as error:
            call.dead("malformed_json" if codec is messages.Json else "malformed_msgpack", str(error))
            self._lose_trades(call, self._products, "bad_frame")
            return []
        self._codec = codec
        frame, good = call.payload, []
        for raw in raws:
            try:
                good.append(codec.one.decode(raw))
            except UNREADABLE as error:
                call.payload = bytes(raw)
                self._bad_message(call, codec, error)
        call.payload = frame
        return good

    def _bad_message(self, call: Call, codec: messages.Encoding, error: Exception) -> None:
        kind, name = "", ""
        try:
            named = codec.named.decode(call.payload)
            kind, name = named.T, named.S if isinstance(named.S, str) else ""
        except UNREADABLE:
            pass
        if kind in messages.OTHERS:
            self.counts["ignored"] += 1
            return
        call.dead("bad_frame" if kind in messages.KINDS else "unknown_frame", str(error))
        if kind not in messages.WITHOUT_TRADES:
            product = self._products.get(name)
            self._lose_trades(call, self._products if product is None else (product,), "bad_frame")

    def _take_all(self, call: Call, received: Iterable[messages.Message]) -> None:
        """Take messages in order; neighbouring trades of one symbol are one event."""
        batch: list[Trade] = []
        owner: Product | None = None

        def publish() -> None:
            if owner is not None and batch:
                self._publish(call, owner, batch)
            batch.clear()

        for message in received:
            if isinstance(message, messages.CONTROL):
                self._control(call, message)
                continue
            try:
                product = self._products.find(call, message.S)
                if product is None:
                    continue
                ts = call.venue_time(messages.time_of(message.t), "t")
                self._advance(call, ts)
                call.now = ts
                if not isinstance(message, messages.EXECUTIONS):
                    publish()
                    self._other(call, product, message)
                    continue
                trade = messages.read_execution(message, ts)
                trades.check(product.instrument, trade)
                if product is not owner:
                    publish()
                    owner = product
                batch.append(trade)
            except BadEvent as error:
                publish()
                call.dead_value(error)
                lost = self._products.get(message.S)
                if isinstance(message, messages.EXECUTIONS) and lost is not None:
                    self._lose_trades(call, (lost,), "bad_trade")
        publish()

    def _other(
        self, call: Call, product: Product, message: messages.QuoteSent | messages.BarSent | messages.StatusSent
    ) -> None:
        if isinstance(message, messages.QuoteSent):
            self._quote(call, product, message)
        elif isinstance(message, messages.StatusSent):
            self._status(call, product, message)
        else:
            start, call.now = call.now, call.now + MINUTE_NS
            self.ts_venue = max(self.ts_venue or 0, call.now)
            bars.send(call, product, message, start, self._memory(product).revisions)

    # --- Logging in and subscribing ---

    def _control(self, call: Call, message: messages.Control) -> None:
        if isinstance(message, messages.Error):
            self._error(call, message)
        elif isinstance(message, messages.Subscription):
            self._listed(call, message)
        elif message.msg == "connected" and self._wanted and self._token is not None:
            login = {"action": "auth", **msgspec.json.decode(self._token(call.ts))}
            call.out.append(Send(self._codec.encode(login)))
        elif message.msg == "authenticated" and self._wanted:
            self._subscribe(call)

    def _listed(self, call: Call, message: messages.Subscription) -> None:
        """Take the list of every subscription that there is, which answers our oldest message (DOCS, "Subscribe")."""
        order = self._orders.oldest()
        if not self._is_listed and not message.trades:
            return
        if not self._is_listed:
            self._is_listed = True
            self._forget_halts(call)
        if self._wanted:
            sent = {_TRADES: message.trades, _QUOTES: message.quotes, _STATUSES: message.statuses}
            listed = {(channel, name) for channel, names in sent.items() for name in names or ()}
            # A channel that the message does not have is as it was.
            listed |= {(channel, name) for channel, name, _ in self._subscriptions if sent[channel] is None}
            self._take_list(call, listed, order)
        for product in self._products:
            is_refused = self._subscriptions.state(_TRADES, self._subscription_of(product)) == "refused"
            if self._ledger.is_pending(product, _TRADES) and not is_refused:
                self._recover_trades(call, product)

    def _forget_halts(self, call: Call) -> None:
        for product in self._products:
            if product.instrument.status not in MATCHING:
                detail = "it was halted before the connection was lost"
                self._products.learn(call, product, detail=detail, status="unknown")

    def _error(self, call: Call, error: messages.Error) -> None:
        """Give up, try again, or go on: as the code says, and whether anything was subscribed before."""
        call.dead("venue_error", error.msg, field="code", value=str(error.code))
        order = self._orders.oldest()
        if error.code in _FINAL and not self._is_listed:
            self._ts_login_due = None
            call.out.append(Refused(*_FINAL[error.code]))
        elif error.code in _PASSING:
            self._give_up(call, _PASSING[error.code])
        elif order is not None and order.verb == "subscribe":
            for name in order.names:
                self._refused(call, order.channel, name, detail=f"{error.code} {error.msg}")

    # --- Trades ---

    def _publish(self, call: Call, product: Product, batch: list[Trade]) -> None:
        """Publish the trades and amendments of one symbol that are new."""
        ids = self._memory(product).ids
        fresh = [trade for trade in batch if ids.is_new(f"{trade.action}{trade.trade_id}")]
        self.counts["duplicates"] += len(batch) - len(fresh)
        for trade in fresh:
            if trade.action != "new":
                self.counts["corrections" if trade.action == "correct" else "cancels"] += 1
        if fresh:
            trades.send(call, product, fresh)

    def _lose_trades(self, call: Call, products: Iterable[Product], detail: str) -> None:
        """Enter trades that may be missing without a way to request them: the gap stays open until history fills it."""
        for product in products:
            if product.ts_trade is not None and not self._ledger.is_pending(product, _TRADES):
                self.counts["gaps"] += 1
                trades.missing(call, product)
                self._ledger.lose_trades(call, product, detail)

    # --- Quotes and statuses ---

    def _quote(self, call: Call, product: Product, sent: messages.QuoteSent) -> None:
        bid, bid_size, ask, ask_size = numbers([sent.bp, sent.bs, sent.ap, sent.as_], "bp, bs, ap or as")
        for field, text in (("bp", bid), ("bs", bid_size), ("ap", ask), ("as", ask_size)):
            if text.startswith("-"):
                raise BadEvent("negative", field, text)
        # A side that nobody quotes has the price 0.
        quotes.send(call, product, call.now, bid=None if is_zero(bid) else bid, bid_size=bid_size,
                    ask=None if is_zero(ask) else ask, ask_size=ask_size)  # fmt: skip
        quote = call.out[-1]
        if isinstance(quote, Quote):
            self._memory(product).quote = quote
        self._ledger.account(call, product, _QUOTES, call.now)

    def _invalidate_quote(self, call: Call, product: Product) -> None:
        """State in the stream of quotes itself that the last one may not be trusted any more."""
        memory = self._memory(product)
        if memory.quote is not None and memory.quote.reason != DISCONNECTED:
            memory.quote = msgspec.structs.replace(memory.quote, ts_recv=call.ts, valid=False, reason=DISCONNECTED)
            call.out.append(memory.quote)

    def _status(self, call: Call, product: Product, sent: messages.StatusSent) -> None:
        tape = next((tape for tape in _STATES if sent.z in tape and sent.z), None)
        if tape is None:
            raise BadEvent("unknown_tape", "z", sent.z[:200])
        state = _STATES[tape].get(sent.sc)
        if state is None and sent.sc not in _OTHER_STATUSES[tape]:
            raise BadEvent("unknown_status", "sc", sent.sc[:200])
        self.counts["statuses"] += 1
        if state is not None:
            detail = f"{sent.sc} {sent.sm}; {sent.rc} {sent.rm}".strip("; ")[:1000]
            self._products.learn(call, product, detail=detail, status=state)
