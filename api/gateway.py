"""The WebSocket gateway without its sockets: who subscribed to what, what each is sent, and what happens to the slow.

Theory of operation. A stream is one channel of one symbol (for books: at one depth; for candles: of one interval). It
exists while somebody subscribes to it.

1. A subscription is answered by `subscribed`, then by the state of each stream (`"snapshot": true`, a book as
   `l2_snapshot`), then by every change. `sequence` grows by one with each change of a stream; after a snapshot or a
   conflated message the next number is one more than that message's.
2. A change is encoded and framed once, whatever the number of subscribers.
3. A client's frames are collected while a batch of records is handled, and written in one go at its end.
4. Where a client's unsent bytes pass a limit, streams of states (book, ticker, candles, metrics, consolidated) are
   conflated: changes are left out, and when the client has drained, it gets the latest state with `"conflated": true`.
   Streams of events (trades, derivatives, anomalies, status) cannot be left out: at a second limit the client gets the
   error `slow_consumer` and is disconnected.

So the memory that a client can hold is bounded by the second limit and one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, Literal, Protocol

import msgspec
import orjson
from prometheus_client import Counter, Gauge

from api import messages, stream_messages
from api.changes import (
    AnomalyFound,
    BookChanged,
    CandleChanged,
    Change,
    DerivativeChanged,
    MetricsChanged,
    StatusChanged,
    TickerChanged,
    Traded,
)
from api.clocks import Clocks
from api.consolidated import Product, Views, choices
from api.derivatives import STALE_NS as DERIVATIVES_STALE_NS
from api.frames import Frame
from api.market import Market
from api.symbol_state import INTERVALS, SymbolState
from api.trust import Trust, fresh
from marketdata.events import ALL_SYMBOLS, ALL_VENUES, AnyEvent, Liquidation
from marketdata.recipes import interval_of

CHANNELS = (
    "ticker", "trades", "book", "candles", "derivatives", "metrics", "consolidated", "anomalies", "status",
)  # fmt: skip
DEPTHS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
_CHANNEL_OF: dict[type[Change], str] = {
    TickerChanged: "ticker",
    Traded: "trades",
    CandleChanged: "candles",
    DerivativeChanged: "derivatives",
    MetricsChanged: "metrics",
    AnomalyFound: "anomalies",
    StatusChanged: "status",
}
_RECENT_TRADES = 50
_RECENT_ANOMALIES = 20
_RECENT_STATUSES = 10
_SYMBOLS_PER_REQUEST_MAX = 200

CLIENTS = Gauge("tickstream_ws_clients", "WebSocket clients connected.")
UNSENT = Gauge("tickstream_ws_unsent_bytes", "Bytes that wait to be sent, of all WebSocket clients.")
STREAMS = Gauge("tickstream_ws_streams", "Streams that at least one WebSocket client subscribes to.")
SENT = Counter("tickstream_ws_messages_total", "Messages written to WebSocket clients, by channel.", ["channel"])
CONFLATED = Counter("tickstream_ws_conflated_total", "Changes left out for slow clients, by channel.", ["channel"])
CUT = Counter("tickstream_ws_cut_total", "Clients cut, by reason.", ["reason"])
BOOK_VALID = Gauge("tickstream_book_valid", "1 while a book may be trusted, else 0.", ["venue", "symbol"])

CLOSE_GOING_AWAY = 1001
CLOSE_POLICY = 1008


class Connection(Protocol):
    """What the gateway needs of a client's socket."""

    deflate: bool

    def write(self, frames: list[bytes]) -> None:
        """Send these frames; what the socket does not take at once is kept."""

    def backlog(self) -> int:
        """Return how many bytes were not sent yet."""

    def close(self, code: int, reason: str) -> None:
        """Send what is left and a close frame, and end."""


class StreamKey(msgspec.Struct, frozen=True):
    """What a stream is about; `variant` is a book's depth, a candle's interval or a consolidated instrument."""

    channel: str
    venue: str
    symbol: str
    variant: int | str | Product = 0

    @property
    def depth(self) -> int:
        """The depth of a book's stream."""
        assert isinstance(self.variant, int)  # noqa: S101 - for the type checker: its variant
        return self.variant


class Limits(msgspec.Struct, frozen=True):
    """What one client may ask of us."""

    clients_max: int
    subscriptions_max: int
    conflate_bytes: int
    cut_bytes: int


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may send."""

    op: Literal["subscribe", "unsubscribe", "ping"]
    id: int | str | None = None
    channels: list[str] = []
    symbols: list[str] = []
    venue: str | None = None
    depth: int = 50
    interval: str = "1m"
    recipe: str | None = None
    kind: str | None = None


class Refused(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """A request that is answered by an error; `code` is for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Stream:
    """One stream and its subscribers."""

    __slots__ = ("key", "sequence", "state", "subscribers", "trust")

    def __init__(self, key: StreamKey, state: SymbolState) -> None:
        self.key = key
        self.state = state
        self.subscribers: dict[Client, None] = {}
        self.sequence = 0  # books and consolidated only; the others count in the market's state
        self.trust: Trust | None = None  # as last told; books and tickers only


class Client:
    """One WebSocket client."""

    __slots__ = ("_pending", "_pending_bytes", "connection", "cut", "dirty", "gateway", "paused", "streams")

    def __init__(self, gateway: Gateway, connection: Connection) -> None:
        self.gateway = gateway
        self.connection = connection
        self.streams: dict[StreamKey, Stream] = {}
        self.dirty: dict[Stream, int | None] = {}  # the last number sent; None: nothing yet
        self.paused = False
        self.cut = False
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def send_state(self, stream: Stream, frame: bytes, last: int) -> bool:
        """Send a change of a state, or leave it out and remember that the client knows it up to `last` only."""
        if stream in self.dirty:
            return False
        if self.full:
            # A burst alone makes nobody slow: the socket says whether this client is.
            self.flush()
        if self.paused:
            self.dirty[stream] = last
            return False
        self.append(frame)
        return True

    def send_event(self, frame: bytes) -> bool:
        """Send what must not be left out, or cut the client."""
        if self.cut:
            return False
        if self.full:
            self.flush()
        if self.connection.backlog() + len(frame) > self.gateway.limits.cut_bytes:
            self.gateway.cut(self, "slow_consumer", "too slow for a channel of which nothing may be left out")
            return False
        self.append(frame)
        return True

    def append(self, frame: bytes) -> None:
        """Send a frame at the end of this batch."""
        if not self._pending:
            self.gateway.touched(self)
        self._pending.append(frame)
        self._pending_bytes += len(frame)

    def flush(self) -> None:
        """Write what was collected."""
        pending = self._pending
        if pending:
            self._pending = []
            self._pending_bytes = 0
            self.connection.write(pending)

    @property
    def full(self) -> bool:
        """Tell whether no more should be collected before the socket took some of it."""
        return self.paused or self._pending_bytes > self.gateway.limits.conflate_bytes


class Gateway:
    """All clients and streams. `clocks` judge what is stale; `ready` returns whether the market is known by now."""

    def __init__(
        self, market: Market, limits: Limits, stale_ns: int, clocks: Clocks, ready: Callable[[], bool]
    ) -> None:
        self.market = market
        self.limits = limits
        self._stale_ns = stale_ns
        self._clocks = clocks
        self._ready = ready
        self._clients: dict[Client, None] = {}
        self._streams: dict[StreamKey, Stream] = {}
        self._touched: list[Client] = []
        self._views = Views(market, clocks.now, stale_ns)

    # Clients

    @property
    def is_full(self) -> bool:
        """Tell whether another client would be one too many."""
        return len(self._clients) >= self.limits.clients_max

    def connected(self, connection: Connection) -> Client:
        """Take a new client in."""
        client = Client(self, connection)
        self._clients[client] = None
        CLIENTS.set(len(self._clients))
        return client

    def disconnected(self, client: Client) -> None:
        """Forget a client."""
        for key in list(client.streams):
            self._unsubscribe(client, key)
        client.dirty.clear()
        self._clients.pop(client, None)
        CLIENTS.set(len(self._clients))

    def cut(self, client: Client, code: str, message: str) -> None:
        """Tell a client why it is not served any more, and end the connection."""
        if client.cut:
            return
        client.cut = True
        CUT.labels(code).inc()
        for key in list(client.streams):
            self._unsubscribe(client, key)
        client.dirty.clear()
        client.append(self._error(client, None, code, message))
        client.flush()
        client.connection.close(CLOSE_POLICY, code)

    def received(self, client: Client, text: bytes) -> None:
        """Answer what a client sent."""
        if client.cut:
            return
        identity: int | str | None = None
        try:
            try:
                request = msgspec.json.decode(text, type=Request)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                identity = _identity(text)
                raise Refused("bad_request", f"{error}; send for example {_EXAMPLE}") from None
            identity = request.id
            if request.op == "ping":
                client.append(self._plain(client, {"type": "pong", "id": identity}))
            elif request.op == "subscribe":
                self._subscribe_all(client, request)
            else:
                self._unsubscribe_all(client, request)
        except Refused as refused:
            client.append(self._error(client, identity, refused.code, str(refused)))
        if client.connection.backlog() > self.limits.cut_bytes:
            self.cut(client, "slow_consumer", "asks faster than it reads")
        self.flush()

    def drained(self, client: Client) -> None:
        """Send a client that can take more what it missed, until it is full again."""
        client.paused = False
        while client.dirty and not client.paused and not client.cut:
            while client.dirty and not client.full:
                stream, last = next(iter(client.dirty.items()))
                del client.dirty[stream]
                for frame in self._latest(client, stream, last):
                    client.append(frame)
            client.flush()

    # Data

    def handle(self, event: AnyEvent, offset: int) -> int:
        """Take an event in, tell who subscribed, and return to how many clients something went; `flush` sends it."""
        sent = 0
        for change in self.market.apply(event, offset):
            sent += self._publish(change)
        return sent

    def flush(self) -> None:
        """Write what was collected for each client, and go on with those that were left out of a batch."""
        touched, self._touched = self._touched, []
        for client in touched:
            client.flush()
            if client.dirty and not client.paused:
                self.drained(client)

    def touched(self, client: Client) -> None:
        """Note that a client has something to be written at the end of this batch."""
        self._touched.append(client)

    def expire(self) -> None:
        """Tell of books and tickers that became stale, or are not any more; called about once a second."""
        for stream in list(self._streams.values()):
            if stream.key.channel == "book":
                if self._book_trust(stream.state) != stream.trust:
                    self._publish_update(stream, (), ())
            elif stream.key.channel == "derivatives":
                known, trust = stream.state.derivative, self._derivative_trust(stream.state)
                if known is not None and trust != stream.trust:
                    stream.trust = trust
                    known.number += 1
                    self._send_events(stream, self._derivative_messages(stream, ()))
            elif stream.key.channel == "ticker" and self._ticker_trust(stream.state) != stream.trust:
                stream.state.ticker_number += 1
                self._publish_ticker(stream)
        for symbol, product in self._views.renew():
            self._publish_consolidated(symbol, product)
        UNSENT.set(sum(client.connection.backlog() for client in self._clients))
        for state in self.market.states():
            if state.book.ts_recv:
                BOOK_VALID.labels(state.venue, state.symbol).set(self._book_trust(state).valid)
        self.flush()

    def close(self) -> None:
        """Say goodbye to every client."""
        for client in list(self._clients):
            client.connection.close(CLOSE_GOING_AWAY, "the server is going away")

    # Subscriptions

    def _subscribe_all(self, client: Client, request: Request) -> None:
        if not self._ready():
            raise Refused("not_ready", "the market is still being read; ask again in a second")
        keys = self._keys(request)
        new = [key for key in keys if key not in client.streams]
        if len(client.streams) + len(new) > self.limits.subscriptions_max:
            raise Refused("too_many_subscriptions", f"at most {self.limits.subscriptions_max} streams a connection")
        answer = {"type": "subscribed", "id": request.id, "channels": request.channels, "symbols": request.symbols}
        if "book" in request.channels:
            answer["depth"] = request.depth
        if "candles" in request.channels:
            answer["interval"] = self._interval(request)
        client.append(self._plain(client, answer))
        for key in keys:
            stream = self._stream(key)
            if stream is None:
                continue
            stream.subscribers[client] = None
            client.streams[key] = stream
            # Asked for again is asked for anew: the client wants the state.
            client.dirty[stream] = None
        if not client.paused:
            self.drained(client)

    def _unsubscribe_all(self, client: Client, request: Request) -> None:
        for key in self._keys(request):
            # What concerns a whole connection is heard as long as any of its symbols is.
            if key.symbol != ALL_SYMBOLS or not any(
                other.channel == key.channel and other.venue == key.venue and other.symbol != ALL_SYMBOLS
                for other in client.streams
            ):
                self._unsubscribe(client, key)
        answer = {"type": "unsubscribed", "id": request.id, "channels": request.channels, "symbols": request.symbols}
        client.append(self._plain(client, answer))

    def _keys(self, request: Request) -> list[StreamKey]:
        _check(request)
        interval = self._interval(request)
        keys: dict[StreamKey, None] = {}
        for symbol in request.symbols:
            for channel in request.channels:
                if channel == "consolidated":
                    keys[StreamKey(channel, ALL_VENUES, symbol, self._product(symbol, request.kind))] = None
                    continue
                venue = self._venue(symbol, request.venue)
                variant: int | str = 0
                if channel in {"book", "candles"}:
                    variant = request.depth if channel == "book" else interval
                keys[StreamKey(channel, venue, symbol, variant)] = None
                if channel in {"anomalies", "status"}:
                    keys[StreamKey(channel, venue, ALL_SYMBOLS)] = None
        return list(keys)

    def _interval(self, request: Request) -> str:
        """Return the interval of the candles that a request names, in its shortest notation."""
        recipes = self.market.recipes
        if request.recipe is not None:
            if request.recipe not in recipes:
                known = ", ".join(sorted(recipes)) or "none"
                raise Refused("unknown_recipe", f"recipe is {request.recipe[:50]!r}; there are: {known}")
            return recipes[request.recipe]
        name = interval_of(request.interval[:50])
        if name is None or (name not in INTERVALS and name not in recipes.values()):
            known = ", ".join([*INTERVALS, *sorted(recipes.values())])
            raise Refused("bad_interval", f"interval is {request.interval[:50]!r}; it may be {known}")
        return name

    def _product(self, symbol: str, kind: str | None) -> Product:
        found = choices(self.market, symbol, kind)
        if not found:
            if not self.market.named(symbol):
                self._venue(symbol, None)
            raise Refused("unknown_symbol", f"no venue trades {symbol[:50]!r} of a kind that is consolidated")
        if len(found) > 1:
            kinds = ", ".join(sorted({each.kind for each in found}))
            raise Refused("ambiguous_symbol", f"{symbol} is traded as {kinds}: say which with kind")
        return found[0]

    def _venue(self, symbol: str, venue: str | None) -> str:
        venues = self.market.venues_of(symbol)
        if venue is not None:
            if self.market.find(venue, symbol) is None:
                raise Refused("unknown_symbol", f"{venue[:50]!r} does not trade {symbol[:50]!r}")
            return venue
        if not venues:
            near = get_close_matches(symbol[:50].upper(), self.market.symbols(), 3)
            hint = f"; do you mean {', '.join(near)}?" if near else ""
            raise Refused("unknown_symbol", f"no venue trades {symbol[:50]!r}{hint}")
        if len(venues) > 1:
            raise Refused("ambiguous_symbol", f"{symbol} is traded at {', '.join(venues)}: say which with venue")
        return venues[0]

    def _stream(self, key: StreamKey) -> Stream | None:
        stream = self._streams.get(key)
        if stream is None:
            if isinstance(key.variant, Product):
                state: SymbolState | None = SymbolState(key.venue, key.symbol)
                self._views.add(key.symbol, key.variant)
            else:
                state = self.market.state(key.venue, key.symbol)
            if state is None:
                return None
            stream = self._streams[key] = Stream(key, state)
            if key.channel == "book":
                stream.trust = self._book_trust(state)
                state.depths[key.depth] = 1
            elif key.channel == "ticker":
                stream.trust = self._ticker_trust(state)
            elif key.channel == "derivatives":
                stream.trust = self._derivative_trust(state)
            STREAMS.set(len(self._streams))
        return stream

    def _unsubscribe(self, client: Client, key: StreamKey) -> None:
        stream = client.streams.pop(key, None)
        if stream is None:
            return
        client.dirty.pop(stream, None)
        stream.subscribers.pop(client, None)
        if not stream.subscribers:
            del self._streams[key]
            if isinstance(key.variant, Product):
                self._views.remove(key.symbol, key.variant)
            if key.channel == "book":
                del stream.state.depths[key.depth]
            STREAMS.set(len(self._streams))

    # Messages

    def _publish(self, change: Change) -> int:
        if isinstance(change, BookChanged):
            return self._publish_book(change)
        sent = 0
        if isinstance(change, TickerChanged):
            sent = sum(self._publish_consolidated(*view) for view in self._views.changed(change.state))
        variant = change.candle.candle.interval if isinstance(change, CandleChanged) else 0
        stream = self._find(_CHANNEL_OF[type(change)], change.state, variant)
        if stream is None:
            return sent
        if isinstance(change, TickerChanged):
            return sent + self._publish_ticker(stream)
        if isinstance(change, MetricsChanged):
            return self._send_states(
                stream, stream_messages.metrics(change.state, change.metrics), change.metrics.number
            )
        if isinstance(change, CandleChanged):
            return self._send_states(stream, stream_messages.candle(change.state, change.candle), change.candle.number)
        if isinstance(change, Traded):
            new = [stream_messages.trade(change.state, trade) for trade in change.trades]
        elif isinstance(change, AnomalyFound):
            new = [stream_messages.anomaly(change.state, change.anomaly)]
        elif isinstance(change, DerivativeChanged):
            stream.trust = self._derivative_trust(change.state)
            new = self._derivative_messages(stream, change.derivative.event.liquidations)
        else:
            new = [stream_messages.status(change.state, change.status)]
        return self._send_events(stream, new)

    def _find(self, channel: str, state: SymbolState, variant: int | str = 0) -> Stream | None:
        return self._streams.get(StreamKey(channel, state.venue, state.symbol, variant))

    def _publish_book(self, change: BookChanged) -> int:
        state, sent = change.state, 0
        if change.trust_changed:
            BOOK_VALID.labels(state.venue, state.symbol).set(state.book.trust.valid)
        for depth in list(state.depths):
            stream = self._find("book", state, depth)
            if stream is None:
                continue
            if change.views is None:
                stream.sequence += 1
                stream.trust = self._book_trust(stream.state)
                sent += self._send_states(stream, self._book_message(stream), stream.sequence)
            elif depth in change.views:
                sent += self._publish_update(stream, *change.views[depth])
            elif change.trust_changed:
                sent += self._publish_update(stream, (), ())
        return sent

    def _publish_update(self, stream: Stream, bids: Iterable[Any], asks: Iterable[Any]) -> int:
        book = stream.state.book
        stream.sequence += 1
        stream.trust = self._book_trust(stream.state)
        message = messages.numbered(
            "l2_update",
            stream.state,
            book.ts_event,
            stream.trust,
            sequence=stream.sequence,
            data=messages.levels(bids, asks),
        )
        message["depth"] = stream.key.variant
        return self._send_states(stream, message, stream.sequence)

    def _publish_ticker(self, stream: Stream) -> int:
        stream.trust = self._ticker_trust(stream.state)
        if stream.state.ticker is None or stream.trust is None:
            return 0
        return self._send_states(stream, self._ticker_message(stream, stream.trust), stream.state.ticker_number)

    def _publish_consolidated(self, symbol: str, product: Product) -> int:
        stream = self._streams[StreamKey("consolidated", ALL_VENUES, symbol, product)]
        stream.sequence += 1
        return self._send_states(stream, self._consolidated_message(stream), stream.sequence)

    def _consolidated_message(self, stream: Stream) -> messages.Json:
        product = stream.key.variant
        assert isinstance(product, Product)  # noqa: S101 - for the type checker: its variant
        found = self._views.get(stream.key.symbol, product)
        data = found.data(self._clocks.now)
        return messages.numbered(
            "consolidated", stream.state, found.ts_event, found.trust, sequence=stream.sequence, data=data
        )

    def _book_trust(self, state: SymbolState) -> Trust:
        ts_recv = state.book.ts_recv
        return fresh(state.book.trust, ts_recv, self._clocks.now(state.venue, ts_recv), self._stale_ns)

    def _ticker_trust(self, state: SymbolState) -> Trust | None:
        if state.ticker is None:
            return None
        ts_recv = state.ticker_ts_recv
        return fresh(state.ticker.trust, ts_recv, self._clocks.now(state.venue, ts_recv), self._stale_ns)

    def _derivative_trust(self, state: SymbolState) -> Trust | None:
        known = state.derivative
        if known is None:
            return None
        stale_ns = max(self._stale_ns, DERIVATIVES_STALE_NS)
        return fresh(
            Trust(known.valid, known.reason), known.ts_recv, self._clocks.now(state.venue, known.ts_recv), stale_ns
        )

    def _derivative_messages(self, stream: Stream, liquidations: tuple[Liquidation, ...]) -> list[messages.Json]:
        """Return the message of a derivative's newest values; none before the first."""
        known, trust = stream.state.derivative, self._derivative_trust(stream.state)
        if known is None or trust is None:
            return []
        data = messages.derivative(known, liquidations)
        return [messages.numbered("derivative", stream.state, known.ts_event, trust, sequence=known.number, data=data)]

    def _book_message(self, stream: Stream) -> messages.Json:
        book, depth = stream.state.book, stream.key.depth
        sides = messages.levels(book.book.bids.top(depth), book.book.asks.top(depth))
        trust = self._book_trust(stream.state)
        message = messages.numbered(
            "l2_snapshot", stream.state, book.ts_event, trust, sequence=stream.sequence, data=sides
        )
        message["depth"] = depth
        return message

    def _ticker_message(self, stream: Stream, trust: Trust) -> messages.Json:
        ticker = stream.state.ticker
        assert ticker is not None  # noqa: S101 - for the type checker: both callers looked
        number = stream.state.ticker_number
        return messages.numbered("ticker", stream.state, ticker.ts_event, trust, sequence=number, data=ticker.data)

    def _latest(self, client: Client, stream: Stream, last: int | None) -> list[bytes]:
        """Return the frames that bring a client to the present: all when it knows nothing, else what it missed."""
        flag = {"snapshot": True} if last is None else {"conflated": True}
        return [_for(client, Frame(orjson.dumps(message | flag))) for message in self._present(stream, last)]

    def _present(self, stream: Stream, last: int | None) -> list[messages.Json]:
        state = stream.state
        match stream.key.channel:
            case "book":
                present = [self._book_message(stream)]
            case "consolidated":
                present = [self._consolidated_message(stream)]
            case "ticker":
                trust = self._ticker_trust(state)
                present = [self._ticker_message(stream, trust)] if trust is not None else []
            case "derivatives":
                known = state.derivative
                present = self._derivative_messages(stream, known.liquidations()) if known is not None else []
            case "metrics":
                present = [stream_messages.metrics(state, state.metrics)] if state.metrics is not None else []
            case "candles":
                kept = sorted(state.candles.get(str(stream.key.variant), {}).values(), key=lambda candle: candle.number)
                present = [stream_messages.candle(state, candle) for candle in kept if candle.number > (last or 0)]
            case "trades":
                present = [stream_messages.trade(state, trade) for trade in list(state.trades)[-_RECENT_TRADES:]]
            case "anomalies":
                present = [
                    stream_messages.anomaly(state, one) for one in list(state.anomalies.values())[-_RECENT_ANOMALIES:]
                ]
            case _:
                present = [stream_messages.status(state, one) for one in list(state.statuses)[-_RECENT_STATUSES:]]
        return present

    def _send_states(self, stream: Stream, message: messages.Json, number: int) -> int:
        frame, sent = Frame(orjson.dumps(message)), 0
        for client in stream.subscribers:
            sent += client.send_state(
                stream, frame.deflated() if client.connection.deflate else frame.plain, number - 1
            )
        SENT.labels(stream.key.channel).inc(sent)
        if sent != len(stream.subscribers):
            CONFLATED.labels(stream.key.channel).inc(len(stream.subscribers) - sent)
        return sent

    def _send_events(self, stream: Stream, new: list[messages.Json]) -> int:
        frames = [Frame(orjson.dumps(message)) for message in new]
        plain = b"".join(frame.plain for frame in frames)
        deflated = plain
        if any(client.connection.deflate for client in stream.subscribers):
            deflated = b"".join(frame.deflated() for frame in frames)
        sent = 0
        for client in list(stream.subscribers):
            if stream in client.dirty:
                # Its snapshot is still to come, and will hold these.
                continue
            sent += client.send_event(deflated if client.connection.deflate else plain)
        SENT.labels(stream.key.channel).inc(sent * len(new))
        return sent

    def _plain(self, client: Client, message: messages.Json) -> bytes:
        return _for(client, Frame(orjson.dumps(message)))

    def _error(self, client: Client, identity: int | str | None, code: str, message: str) -> bytes:
        return self._plain(client, {"type": "error", "id": identity, "code": code, "message": message})


def _check(request: Request) -> None:
    for name, values in (("channels", request.channels), ("symbols", request.symbols)):
        if not 0 < len(values) <= _SYMBOLS_PER_REQUEST_MAX:
            raise Refused("bad_request", f"{name} must name 1 to {_SYMBOLS_PER_REQUEST_MAX}, not {len(values)}")
    for channel in request.channels:
        if channel not in CHANNELS:
            raise Refused("unknown_channel", f"{channel[:50]!r} is no channel; there are {', '.join(CHANNELS)}")
    if request.depth not in DEPTHS:
        raise Refused("bad_depth", f"depth is {request.depth}; it may be {', '.join(map(str, DEPTHS))}")


_EXAMPLE = '{"op": "subscribe", "id": 1, "channels": ["book"], "symbols": ["BTC-USD"]}'


def _identity(text: bytes) -> int | str | None:
    """Return the id of a request that is otherwise wrong, so that the client can tell which one it was."""
    try:
        identity = orjson.loads(text)["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None
    return identity if isinstance(identity, int | str) else None


def _for(client: Client, frame: Frame) -> bytes:
    return frame.deflated() if client.connection.deflate else frame.plain
