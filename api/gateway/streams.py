"""The streams that somebody follows: the market's changes as frames, encoded once, for all who follow them.

Theory of operation. A stream is one channel of one symbol (for books: at one depth; for candles: of one interval). It
is made when somebody first follows it, and kept for a while after the last follower left, so that a client that lost
its connection can resume.

1. A follower is the fan-out of one process: the one here, or that of a socket worker (`api.gateway.link`). It is sent
   each change once, whatever the number of its clients.
2. `present` is what brings a client to the present: the state, or the newest events. Changes after it follow without a
   gap, because both are made on one loop.
3. `sequence` grows by one with each change of a stream, while the process lives. Positions (`api.core.positions`)
   outlive it: the last frames of a stream are kept by position (`api.gateway.kept_frames`), and a client that names
   the position of its last message gets exactly what came after it.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
import structlog
from confluent_kafka import KafkaException
from prometheus_client import Gauge

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
from api.core.consumer import Source, Sources
from api.core.market import Market
from api.core.positions import Position, position
from api.core.records import RecordReader, Unreachable
from api.core.symbol_state import SymbolState
from api.gateway import stream_messages
from api.gateway.frames import Frame
from api.gateway.kept_frames import Budget, Kept, KeptFrames
from api.gateway.stream import Follower, Stream
from api.gateway.stream_key import StreamKey
from api.gateway.stream_messages import Placed, StreamMessages
from api.gateway.subscriptions import Refused, Request, interval_named, keys_of
from marketdata.clock import SECOND_NS
from marketdata.errors import TickstreamError
from marketdata.events import ALL_VENUES, STALE, AnyEvent, RawFrame

STREAMS = Gauge("tickstream_ws_streams", "Streams that at least one WebSocket client subscribes to.")

# A stream is kept for this long after its last follower has left, and so many at most.
LINGER_S = 120.0
LINGERING_MAX = 5_000

SCHEMAS = {
    "book": "BookUpdate",
    "trades": "Trades",
    "candles": "Candle",
    "derivatives": "Derivative",
    "metrics": "Metrics",
    "anomalies": "Anomaly",
    "status": "FeedStatus",
}
"""The schema of the records that a channel's positions are of; the other channels are made of several topics."""

# What a client missed of these is read again from Kafka, at most so many messages of one stream.
_READ_AGAIN = frozenset({"trades", "candles", "metrics", "anomalies", "status"})
MISSED_MAX = 10_000
# Beyond the number of any item of a record.
_ITEMS_MAX = 1 << 30

# How soon to look again at what a replay's clock may make stale, or has.
_LOOK_NS = SECOND_NS

_LOG = structlog.get_logger()

_CHANNELS: dict[type[Change], str] = {
    TickerChanged: "ticker",
    Traded: "trades",
    CandleChanged: "candles",
    DerivativeChanged: "derivatives",
    MetricsChanged: "metrics",
    AnomalyFound: "anomalies",
    StatusChanged: "status",
}


class Streams:
    """All streams. `clocks` judge what is stale; `ready` returns whether the market is known by now."""

    def __init__(
        self,
        market: Market,
        clocks: Clocks,
        *,
        stale_ns: int,
        kept_bytes: int,
        ready: Callable[[], bool],
        records: RecordReader | None = None,
    ) -> None:
        self.market = market
        self._ready = ready
        self._streams: dict[StreamKey, Stream] = {}
        self._by_identity: dict[int, Stream] = {}
        self._followers: dict[Follower, None] = {}
        self._lingering: dict[Stream, None] = {}
        self._last_identity = 0
        self._views = Views(market, clocks.now, stale_ns)
        self._messages = StreamMessages(self._views, clocks, stale_ns)
        self._budget = Budget(kept_bytes)
        self._sources: dict[str, Source] = {}
        self._heads: dict[str, int] = {}
        self._clock = clocks.clock
        # When to look whether a stream is stale, and the streams that are, by symbol.
        self._due: list[tuple[int, int]] = []
        self._stale: dict[SymbolState, dict[Stream, None]] = {}
        self._records = records
        self._resuming: set[asyncio.Task[None]] = set()

    # Followers

    def add(self, follower: Follower) -> None:
        """Take in the fan-out of a process."""
        self._followers[follower] = None

    def remove(self, follower: Follower) -> None:
        """Forget a fan-out, whose process has ended."""
        self._followers.pop(follower, None)
        for stream in list(self._streams.values()):
            if stream.followers.pop(follower, None) is not None:
                self._left(stream)

    def subscribe(self, follower: Follower, client: int, request: Request) -> None:
        """Answer a client's subscription: the follower gets the streams' changes from now on."""
        if not self._ready():
            refused = Refused("not_ready", "the market is still being read; ask again in a second", request.id)
            follower.refused(client, refused)
            return
        try:
            keys = keys_of(self.market, request)
            interval = interval_named(self.market, request) if "candles" in request.channels else ""
        except Refused as refused:
            follower.refused(client, refused.to(request.id))
            return
        streams = [stream for key in keys if (stream := self._stream(key)) is not None]
        for stream in streams:
            stream.followers[follower] = stream.followers.get(follower, 0) + 1
            stream.left_at = None
            self._lingering.pop(stream, None)
        self._count()
        follower.subscribed(client, request, interval, [(stream.identity, stream.key) for stream in streams])

    def unsubscribe(self, follower: Follower, client: int, request: Request) -> None:
        """Answer a client that no longer wants some streams."""
        try:
            keys = keys_of(self.market, request)
        except Refused as refused:
            follower.refused(client, refused.to(request.id))
            return
        follower.unsubscribed(client, request, keys)

    def present(self, follower: Follower, identity: int, *, conflated: bool) -> None:
        """Give a follower the present of a stream; `conflated` marks it for clients that were left out of changes."""
        stream = self._by_identity.get(identity)
        if stream is not None and follower in stream.followers:
            follower.present(identity, self._present(stream, conflated=conflated), conflated=conflated)

    def resume(self, follower: Follower, client: int, identity: int, since: Position | int) -> None:
        """Give a follower what one of its clients has missed since a position, or since a time (UTC nanoseconds)."""
        stream = self._by_identity.get(identity)
        if stream is None or follower not in stream.followers:
            return
        kept = self._kept_since(stream, since) if isinstance(since, Position) else None
        if kept is not None:
            follower.missed(client, stream.identity, kept, recovered=True)
            return
        task = asyncio.get_running_loop().create_task(self._recover(follower, client, stream, since))
        self._resuming.add(task)
        task.add_done_callback(self._resuming.discard)

    def unfollow(self, follower: Follower, identity: int, followed: int) -> None:
        """Stop sending a stream, unless the follower was given it more often than it knew of (`followed`)."""
        stream = self._by_identity.get(identity)
        if stream is not None and stream.followers.get(follower) == followed:
            del stream.followers[follower]
            self._left(stream)
            self._count()

    # Data

    def assigned(self, sources: Sources) -> None:
        """Take in which partitions are read from now on."""
        self._sources = sources.by_epoch
        self._heads = {epoch: source.start - 1 for epoch, source in sources.by_epoch.items()} | {
            epoch: offset for epoch, offset in self._heads.items() if epoch in sources.by_epoch
        }

    def handle(self, event: AnyEvent, offset: int, epoch: str) -> bool:
        """Take an event in; return whether a follower was given something. `flush` sends it."""
        sent = False
        for change in self.market.apply(event, offset, epoch):
            sent = self._publish(change) or sent
        self._heads[epoch] = offset
        if self._stale:
            self._refresh(event)
        return sent

    def flush(self) -> None:
        """Let each follower send what was collected."""
        for follower in self._followers:
            follower.flush()

    def expire(self) -> None:
        """Publish what has become stale or fresh, and drop streams that nobody resumed; called once a second."""
        now_ns = self._clock()
        while self._due and self._due[0][0] <= now_ns:
            _, identity = heapq.heappop(self._due)
            stream = self._by_identity.get(identity)
            if stream is not None:
                self._renew(stream)
                self._look_again(stream, now_ns)
        for symbol, product in self._views.renew():
            self._publish_consolidated(symbol, product)
        now = time.monotonic()
        for stream in list(self._lingering):
            if len(self._lingering) <= LINGERING_MAX and now - (stream.left_at or now) < LINGER_S:
                break
            self._drop(stream)
        self.flush()

    def books(self) -> Iterator[tuple[str, str, bool]]:
        """Yield venue and symbol of each book that was received, and whether it may be trusted now."""
        for state in list(self.market.states()):  # who reads may pause, and new symbols arrive meanwhile
            if state.book.ts_recv:
                yield state.venue, state.symbol, self._messages.book_trust(state).valid

    # Streams

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
            self._last_identity += 1
            stream = self._streams[key] = self._by_identity[self._last_identity] = Stream(
                self._last_identity, key, state
            )
            self._keep(stream, [])
            if key.channel == "book":
                stream.trust = self._messages.book_trust(state)
                state.depths[key.depth] = 1
            elif key.channel == "ticker":
                stream.trust = self._messages.ticker_trust(state)
            elif key.channel == "derivatives":
                stream.trust = self._messages.derivative_trust(state)
            self._look_again(stream, 0)
        return stream

    def _left(self, stream: Stream) -> None:
        if not stream.followers:
            stream.left_at = time.monotonic()
            self._lingering[stream] = None

    def _drop(self, stream: Stream) -> None:
        key = stream.key
        self._lingering.pop(stream, None)
        self._stale.get(stream.state, {}).pop(stream, None)
        del self._streams[key]
        del self._by_identity[stream.identity]
        if stream.kept is not None:
            stream.kept.clear()
        if isinstance(key.variant, Product):
            self._views.remove(key.symbol, key.variant)
        if key.channel == "book":
            del stream.state.depths[key.depth]

    def _count(self) -> None:
        STREAMS.set(len(self._streams) - len(self._lingering))

    # Messages

    def _present(self, stream: Stream, *, conflated: bool) -> list[Kept]:
        """Return the frames of the present, made once for all clients that ask for the same."""
        token = (stream.state.messages, stream.sequence, stream.trust)
        known = stream.prepared.get(conflated)
        # The ages of venues are in a consolidated view: it is never old.
        if known is not None and known[0] == token and stream.key.channel != "consolidated":
            return known[1]
        flag = {"conflated": True} if conflated else {"snapshot": True}
        kept = [
            self._framed(stream, one._replace(message=one.message | flag)) for one in self._messages.present(stream)
        ]
        stream.prepared[conflated] = (token, kept)
        return kept

    def _framed(self, stream: Stream, placed: Placed, extra: int = 0) -> Kept:
        """Return a message as a frame, with its position where it has one."""
        place = placed.offset, placed.item + extra
        schema = SCHEMAS.get(stream.key.channel)
        epoch = stream.state.epochs.get(schema) if schema is not None and placed.offset >= 0 else None
        message = placed.message
        if epoch is not None:
            message["position"] = position(epoch, *place)
        return Kept(place, placed.number, placed.ts_event, Frame.of(orjson.dumps(message)))

    def _look_again(self, stream: Stream, now_ns: int) -> None:
        """Note when to look again whether a stream's value is stale: when it will be, or was by a replay's clock."""
        stale_at = self._messages.stale_at(stream)
        if stale_at is None:
            return
        if stream.trust is not None and stream.trust.reason == STALE:
            # Only an event makes it fresh.
            self._stale.setdefault(stream.state, {})[stream] = None
        at = stale_at if stale_at > now_ns else now_ns + _LOOK_NS
        heapq.heappush(self._due, (at, stream.identity))

    def _refresh(self, event: AnyEvent) -> None:
        """Publish what an event has made fresh, also one that changes nothing else, such as a heartbeat."""
        state = None if isinstance(event, RawFrame) else self.market.find(event.venue, event.symbol)
        for stream in self._stale.pop(state, ()) if state is not None else ():
            self._renew(stream)
            if stream.trust is not None and stream.trust.reason == STALE:
                self._stale.setdefault(stream.state, {})[stream] = None

    def _renew(self, stream: Stream) -> None:
        """Publish a book, ticker or derivative whose age has changed what may be trusted."""
        channel, state = stream.key.channel, stream.state
        if channel == "book":
            if self._messages.book_trust(state) != stream.trust:
                self._send(stream, [self._update(stream, (), ())])
        elif channel == "derivatives":
            known, trust = state.derivative, self._messages.derivative_trust(state)
            if known is not None and trust != stream.trust:
                stream.trust = trust
                known.number += 1
                self._send(stream, self._messages.derivatives(stream, ()))
        elif channel == "ticker" and self._messages.ticker_trust(state) != stream.trust:
            state.ticker_number += 1
            self._publish_ticker(stream)

    def _publish(self, change: Change) -> bool:
        """Send a change to who follows its streams; return whether anybody does."""
        if isinstance(change, BookChanged):
            return self._publish_book(change)
        sent = False
        if isinstance(change, TickerChanged):
            for view in self._views.changed(change.state):
                sent = self._publish_consolidated(*view) or sent
        variant = change.candle.candle.interval if isinstance(change, CandleChanged) else 0
        stream = self._find(_CHANNELS[type(change)], change.state, variant)
        if stream is None:
            return sent
        return (
            self._publish_ticker(stream) or sent
            if isinstance(change, TickerChanged)
            else self._send(stream, self._placed(stream, change))
        )

    def _placed(self, stream: Stream, change: Change) -> list[Placed]:
        """Return the messages of a change of anything but books and tickers."""
        state = change.state
        match change:
            case Traded():
                found = [stream_messages.trade(state, trade) for trade in change.trades]
            case CandleChanged():
                found = [stream_messages.candle(state, change.candle)]
            case MetricsChanged():
                found = [stream_messages.metrics(state, change.metrics)]
            case AnomalyFound():
                found = [stream_messages.anomaly(state, change.anomaly)]
            case StatusChanged():
                found = [stream_messages.status(state, change.status)]
            case DerivativeChanged():
                stream.trust = self._messages.derivative_trust(state)
                found = self._messages.derivatives(stream, change.derivative.event.liquidations)
            case _:
                found = []
        return found

    def _find(self, channel: str, state: SymbolState, variant: int | str = 0) -> Stream | None:
        return self._streams.get(StreamKey(channel, state.venue, state.symbol, variant))

    def _publish_book(self, change: BookChanged) -> bool:
        state, sent = change.state, False
        for depth in list(state.depths):
            stream = self._find("book", state, depth)
            if stream is None:
                continue
            if change.views is None:
                stream.sequence += 1
                stream.trust = self._messages.book_trust(state)
                sent = self._send(stream, [self._messages.book(stream)]) or sent
            elif depth in change.views:
                sent = self._send(stream, [self._update(stream, *change.views[depth])]) or sent
            elif change.trust_changed:
                sent = self._send(stream, [self._update(stream, (), ())]) or sent
        return sent

    def _update(self, stream: Stream, bids: Iterable[Any], asks: Iterable[Any]) -> Placed:
        stream.sequence += 1
        stream.trust = self._messages.book_trust(stream.state)
        return self._messages.book_update(stream, bids, asks)

    def _publish_ticker(self, stream: Stream) -> bool:
        stream.trust = self._messages.ticker_trust(stream.state)
        if stream.state.ticker is None or stream.trust is None:
            return False
        return self._send(stream, [self._messages.ticker(stream, stream.trust)])

    def _publish_consolidated(self, symbol: str, product: Product) -> bool:
        stream = self._streams[StreamKey("consolidated", ALL_VENUES, symbol, product)]
        stream.sequence += 1
        return self._send(stream, [self._messages.consolidated(stream)])

    def _send(self, stream: Stream, placed: list[Placed]) -> bool:
        """Send messages to a stream's followers and keep them; return whether there is a follower."""
        kept: list[Kept] = []
        for one in placed:
            # What time alone changed has the place of the last record, and comes after its items.
            extra = 0
            if stream.last is not None and (one.offset, one.item) <= stream.last:
                extra = stream.last[1] + 1 - one.item if one.offset == stream.last[0] else 0
            framed = self._framed(stream, one, extra)
            stream.last = framed.place
            kept.append(framed)
        self._keep(stream, kept)
        for follower in stream.followers:
            follower.changed(stream.identity, kept)
        return bool(stream.followers)

    # What was missed

    def _keep(self, stream: Stream, kept: list[Kept]) -> None:
        """Keep frames for clients that resume; what came before the first is not here."""
        schema = SCHEMAS.get(stream.key.channel)
        epoch = stream.state.epochs.get(schema) if schema is not None else None
        if epoch is None:
            return
        if stream.kept is None or stream.kept.epoch != epoch:
            # With the first frames: nothing of the stream has come before. Else what has come is its present.
            handled = self._heads.get(epoch, -1), _ITEMS_MAX
            present = [] if kept else [(each.offset, each.item) for each in self._messages.present(stream)]
            floor = max((place for place in present if place[0] >= 0), default=handled)
            if stream.kept is not None:
                stream.kept.clear()
            stream.kept = KeptFrames(self._budget, epoch, floor)
        for one in kept:
            stream.kept.add(one)

    def _kept_since(self, stream: Stream, since: Position) -> list[Kept] | None:
        kept = stream.kept
        if kept is None or kept.epoch != since.epoch:
            return None
        return kept.since((since.offset, since.item))

    async def _recover(self, follower: Follower, client: int, stream: Stream, since: Position | int) -> None:
        """Read what a client has missed from Kafka, and then give it with what came meanwhile."""
        try:
            missed = await self._missed(stream, since)
        except (Unreachable, TickstreamError, KafkaException) as error:
            _LOG.info("a client could not resume", stream=str(stream.key), reason=str(error))
            missed = None
        if follower not in stream.followers:
            return
        if missed is None:
            follower.missed(client, stream.identity, [], recovered=False)
        else:
            follower.missed(client, stream.identity, missed, recovered=True)

    async def _missed(self, stream: Stream, since: Position | int) -> list[Kept] | None:
        """Return the frames after a position or from a time on; None where that is not possible."""
        channel, state = stream.key.channel, stream.state
        kept, records = stream.kept, self._records
        if channel not in _READ_AGAIN or kept is None or records is None or kept.epoch not in self._sources:
            return None
        source = self._sources[kept.epoch]
        if isinstance(since, Position):
            if since.epoch != kept.epoch:
                return None
            place, ts = (since.offset, since.item), 0
        else:
            place, ts = (await records.offset_at(source, since) - 1, _ITEMS_MAX), since
        found: list[Placed] = []
        while place < kept.floor:
            floor = kept.floor
            events = await records.read(source, f"{state.venue}:{state.symbol}", place[0], floor[0])
            for offset, event in events:
                found += [
                    one
                    for one in stream_messages.of_event(stream.key, state, event, offset)
                    if place < (one.offset, one.item) <= floor and one.ts_event >= ts
                ]
            place = floor
            if len(found) > MISSED_MAX:
                return None
        newest = [one for one in kept.since(place) or [] if ts == 0 or one.ts_event >= ts]
        return [*self._numbered(stream, found, newest), *newest]

    def _numbered(self, stream: Stream, found: list[Placed], newest: list[Kept]) -> list[Kept]:
        """Return messages that were read again as frames, with the numbers before those that follow."""
        following = newest[0].number if newest else self._messages.number(stream) + 1
        framed: list[Kept] = []
        for number, one in enumerate(found, following - len(found)):
            one.message["sequence"] = number
            framed.append(self._framed(stream, one._replace(number=number)))
        return framed
