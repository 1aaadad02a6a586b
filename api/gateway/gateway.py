"""The WebSocket gateway without its sockets: subscribers, what each is sent, and what happens to slow clients.

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
from typing import Any

import orjson
from prometheus_client import Counter, Gauge

from api.core import messages
from api.core.changes import (
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
from api.core.clocks import Clocks
from api.core.consolidated import Product, Views
from api.core.market import Market
from api.core.symbol_state import SymbolState
from api.gateway import stream_messages
from api.gateway.frames import Frame
from api.gateway.stream_messages import StreamMessages
from api.gateway.subscribers import Client, Connection, Limits, Stream, StreamKey
from api.gateway.subscriptions import Refused, Request, interval_named, keys_of, read_request
from marketdata.events import ALL_SYMBOLS, ALL_VENUES, AnyEvent

_CHANNEL_OF: dict[type[Change], str] = {
    TickerChanged: "ticker",
    Traded: "trades",
    CandleChanged: "candles",
    DerivativeChanged: "derivatives",
    MetricsChanged: "metrics",
    AnomalyFound: "anomalies",
    StatusChanged: "status",
}

CLIENTS = Gauge("tickstream_ws_clients", "WebSocket clients connected.")
UNSENT = Gauge("tickstream_ws_unsent_bytes", "Bytes that wait to be sent, of all WebSocket clients.")
STREAMS = Gauge("tickstream_ws_streams", "Streams that at least one WebSocket client subscribes to.")
SENT = Counter("tickstream_ws_messages_total", "Messages written to WebSocket clients, by channel.", ["channel"])
CONFLATED = Counter("tickstream_ws_conflated_total", "Changes left out for slow clients, by channel.", ["channel"])
CUT = Counter("tickstream_ws_cut_total", "Clients cut, by reason.", ["reason"])
BOOK_VALID = Gauge("tickstream_book_valid", "1 while a book may be trusted, else 0.", ["venue", "symbol"])

CLOSE_GOING_AWAY = 1001
CLOSE_POLICY = 1008


class Gateway:
    """All clients and streams. `clocks` judge what is stale; `ready` returns whether the market is known by now."""

    def __init__(
        self, market: Market, limits: Limits, stale_ns: int, clocks: Clocks, ready: Callable[[], bool]
    ) -> None:
        self.market = market
        self.limits = limits
        self._ready = ready
        self._clients: dict[Client, None] = {}
        self._streams: dict[StreamKey, Stream] = {}
        self._touched: list[Client] = []
        self._views = Views(market, clocks.now, stale_ns)
        self._messages = StreamMessages(self._views, clocks, stale_ns)

    # Clients

    @property
    def is_full(self) -> bool:
        """Return whether another client would be one too many."""
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
        """Send a client the reason, and end its connection."""
        if client.cut:
            return
        client.cut = True
        CUT.labels(code).inc()
        for key in list(client.streams):
            self._unsubscribe(client, key)
        client.dirty.clear()
        client.append(_error(client, None, code, message))
        client.flush()
        client.connection.close(CLOSE_POLICY, code)

    def received(self, client: Client, text: bytes) -> None:
        """Answer what a client sent."""
        if client.cut:
            return
        identity: int | str | None = None
        try:
            request = read_request(text)
            identity = request.id
            if request.op == "ping":
                client.append(client.encode({"type": "pong", "id": identity}))
            elif request.op == "subscribe":
                self._subscribe_all(client, request)
            else:
                self._unsubscribe_all(client, request)
        except Refused as refused:
            client.append(
                _error(client, refused.identity if identity is None else identity, refused.code, str(refused))
            )
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
        """Take an event in, collect messages for the subscribers, and return for how many; `flush` sends them."""
        sent = 0
        for change in self.market.apply(event, offset):
            sent += self._publish(change)
        return sent

    def flush(self) -> None:
        """Write what was collected for each client, and resume those that were left out of a batch."""
        touched, self._touched = self._touched, []
        for client in touched:
            client.flush()
            if client.dirty and not client.paused:
                self.drained(client)

    def touched(self, client: Client) -> None:
        """Note that a client has something to be written at the end of this batch."""
        self._touched.append(client)

    def expire(self) -> None:
        """Publish books, tickers and derivatives that have become stale or fresh; called about once a second."""
        for stream in list(self._streams.values()):
            if stream.key.channel == "book":
                if self._messages.book_trust(stream.state) != stream.trust:
                    self._publish_update(stream, (), ())
            elif stream.key.channel == "derivatives":
                known, trust = stream.state.derivative, self._messages.derivative_trust(stream.state)
                if known is not None and trust != stream.trust:
                    stream.trust = trust
                    known.number += 1
                    self._send_events(stream, self._messages.derivatives(stream, ()))
            elif stream.key.channel == "ticker" and self._messages.ticker_trust(stream.state) != stream.trust:
                stream.state.ticker_number += 1
                self._publish_ticker(stream)
        for symbol, product in self._views.renew():
            self._publish_consolidated(symbol, product)
        UNSENT.set(sum(client.connection.backlog() for client in self._clients))
        for state in self.market.states():
            if state.book.ts_recv:
                BOOK_VALID.labels(state.venue, state.symbol).set(self._messages.book_trust(state).valid)
        self.flush()

    def close(self) -> None:
        """Close every client's connection."""
        for client in list(self._clients):
            client.connection.close(CLOSE_GOING_AWAY, "the server is going away")

    # Subscriptions

    def _subscribe_all(self, client: Client, request: Request) -> None:
        if not self._ready():
            raise Refused("not_ready", "the market is still being read; ask again in a second")
        keys = keys_of(self.market, request)
        new = [key for key in keys if key not in client.streams]
        if len(client.streams) + len(new) > self.limits.subscriptions_max:
            raise Refused("too_many_subscriptions", f"at most {self.limits.subscriptions_max} streams a connection")
        answer = {"type": "subscribed", "id": request.id, "channels": request.channels, "symbols": request.symbols}
        if "book" in request.channels:
            answer["depth"] = request.depth
        if "candles" in request.channels:
            answer["interval"] = interval_named(self.market, request)
        client.append(client.encode(answer))
        for key in keys:
            stream = self._stream(key)
            if stream is None:
                continue
            stream.subscribers[client] = None
            client.streams[key] = stream
            # A stream that is subscribed again is sent from its state on.
            client.dirty[stream] = None
        if not client.paused:
            self.drained(client)

    def _unsubscribe_all(self, client: Client, request: Request) -> None:
        for key in keys_of(self.market, request):
            # Statuses of a whole connection are sent as long as any of its symbols is subscribed.
            if key.symbol != ALL_SYMBOLS or not any(
                other.channel == key.channel and other.venue == key.venue and other.symbol != ALL_SYMBOLS
                for other in client.streams
            ):
                self._unsubscribe(client, key)
        answer = {"type": "unsubscribed", "id": request.id, "channels": request.channels, "symbols": request.symbols}
        client.append(client.encode(answer))

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
                stream.trust = self._messages.book_trust(state)
                state.depths[key.depth] = 1
            elif key.channel == "ticker":
                stream.trust = self._messages.ticker_trust(state)
            elif key.channel == "derivatives":
                stream.trust = self._messages.derivative_trust(state)
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
            stream.trust = self._messages.derivative_trust(change.state)
            new = self._messages.derivatives(stream, change.derivative.event.liquidations)
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
                stream.trust = self._messages.book_trust(stream.state)
                sent += self._send_states(stream, self._messages.book(stream), stream.sequence)
            elif depth in change.views:
                sent += self._publish_update(stream, *change.views[depth])
            elif change.trust_changed:
                sent += self._publish_update(stream, (), ())
        return sent

    def _publish_update(self, stream: Stream, bids: Iterable[Any], asks: Iterable[Any]) -> int:
        stream.sequence += 1
        stream.trust = self._messages.book_trust(stream.state)
        message = self._messages.book_update(stream, bids, asks)
        return self._send_states(stream, message, stream.sequence)

    def _publish_ticker(self, stream: Stream) -> int:
        stream.trust = self._messages.ticker_trust(stream.state)
        if stream.state.ticker is None or stream.trust is None:
            return 0
        return self._send_states(stream, self._messages.ticker(stream, stream.trust), stream.state.ticker_number)

    def _publish_consolidated(self, symbol: str, product: Product) -> int:
        stream = self._streams[StreamKey("consolidated", ALL_VENUES, symbol, product)]
        stream.sequence += 1
        return self._send_states(stream, self._messages.consolidated(stream), stream.sequence)

    def _latest(self, client: Client, stream: Stream, last: int | None) -> list[bytes]:
        """Return the frames that bring a client to the present: all when it knows nothing, else what it missed."""
        flag = {"snapshot": True} if last is None else {"conflated": True}
        return [client.encode(message | flag) for message in self._messages.present(stream, last)]

    def _send_states(self, stream: Stream, message: messages.Json, number: int) -> int:
        frame, sent = Frame(orjson.dumps(message)), 0
        for client in stream.subscribers:
            sent += client.send_state(stream, client.choose(frame), number - 1)
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


def _error(client: Client, identity: int | str | None, code: str, message: str) -> bytes:
    return client.encode({"type": "error", "id": identity, "code": code, "message": message})
