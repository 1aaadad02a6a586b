"""The fan-out of one process: its WebSocket clients, what each is sent, and what happens to slow ones.

Theory of operation. Streams come from a `Source`: the market of this process, or that of another one.

1. A subscription is answered by `subscribed`, then by the present of each stream (`"snapshot": true`, a book as
   `l2_snapshot`), or by what was missed since a position, then by every change. `sequence` grows by one with each
   change of a stream; after a snapshot or a conflated message the next number is one more than that message's.
2. A client's frames are collected while a batch of records is handled, and written in one go at its end.
3. Where a client's unsent bytes pass a limit, streams of states (book, ticker, candles, metrics, consolidated) are
   conflated: changes are left out, and when the client has drained, it gets the latest state with `"conflated": true`.
   Streams of events (trades, derivatives, anomalies, status) cannot be left out: at a second limit the client gets the
   error `slow_consumer` and is disconnected.

So the memory that a client can hold is bounded by the second limit and one batch.
"""

from __future__ import annotations

from typing import Protocol

from prometheus_client import Counter, Gauge

from api.core.positions import Position
from api.gateway.clients import Client, Connection, Followed, Limits
from api.gateway.kept_frames import Kept
from api.gateway.stream import Follower, Named
from api.gateway.stream_key import StreamKey
from api.gateway.subscriptions import Refused, Request, read_request, since_of
from marketdata.events import ALL_SYMBOLS

CLIENTS = Gauge("tickstream_ws_clients", "WebSocket clients connected.")
UNSENT = Gauge("tickstream_ws_unsent_bytes", "Bytes that wait to be sent, of all WebSocket clients.")
SENT = Counter("tickstream_ws_messages_total", "Messages written to WebSocket clients, by channel.", ["channel"])
CONFLATED = Counter("tickstream_ws_conflated_total", "Changes left out for slow clients, by channel.", ["channel"])
CUT = Counter("tickstream_ws_cut_total", "Clients cut, by reason.", ["reason"])
RESUMED = Counter("tickstream_ws_resumed_total", "Streams that clients resumed, by outcome.", ["outcome"])

_COUNTERS = {"sent": SENT, "conflated": CONFLATED, "cut": CUT, "resumed": RESUMED}

CLOSE_GOING_AWAY = 1001
CLOSE_POLICY = 1008


class Source(Protocol):
    """Where streams come from; it answers by calling the follower, at once or later."""

    def subscribe(self, follower: Follower, client: int, request: Request) -> None:
        """Have `subscribed` or `refused` called."""

    def unsubscribe(self, follower: Follower, client: int, request: Request) -> None:
        """Have `unsubscribed` or `refused` called."""

    def present(self, follower: Follower, identity: int, *, conflated: bool) -> None:
        """Have `present` called."""

    def resume(self, follower: Follower, client: int, identity: int, since: Position | int) -> None:
        """Have `missed` called."""

    def unfollow(self, follower: Follower, identity: int, followed: int) -> None:
        """Stop sending a stream that was given to the follower `followed` times."""


class FanOut:
    """All clients of this process."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self.limits = limits
        self._source = source
        self._clients: dict[int, Client] = {}
        self._followed: dict[int, Followed] = {}
        self._touched: list[Client] = []
        self._last_identity = 0

    # Clients

    @property
    def is_full(self) -> bool:
        """Return whether another client would be one too many."""
        return len(self._clients) >= self.limits.clients_max

    def connected(self, connection: Connection) -> Client:
        """Take a new client in."""
        self._last_identity += 1
        client = self._clients[self._last_identity] = Client(self, connection, self._last_identity)
        CLIENTS.set(len(self._clients))
        return client

    def disconnected(self, client: Client) -> None:
        """Forget a client."""
        self._unsubscribe_all(client)
        self._clients.pop(client.identity, None)
        CLIENTS.set(len(self._clients))

    def cut(self, client: Client, code: str, message: str) -> None:
        """Send a client the reason, and end its connection."""
        if client.cut:
            return
        client.cut = True
        CUT.labels(code).inc()
        self._unsubscribe_all(client)
        client.append(_error(client, None, code, message))
        client.flush()
        client.connection.close(CLOSE_POLICY, code)

    def received(self, client: Client, text: bytes) -> None:
        """Answer what a client sent."""
        if client.cut:
            return
        try:
            request = read_request(text)
            if request.op == "ping":
                client.append(client.encode({"type": "pong", "id": request.id}))
            elif request.op == "subscribe":
                self._source.subscribe(self, client.identity, request)
            else:
                self._source.unsubscribe(self, client.identity, request)
        except Refused as refused:
            self.refused(client.identity, refused)
        if client.connection.backlog() > self.limits.cut_bytes:
            self.cut(client, "slow_consumer", "asks faster than it reads")
        self.flush()

    def drained(self, client: Client) -> None:
        """Send a client that can take more what it missed, until it is full again."""
        client.paused = False
        self._catch_up(client)

    def touched(self, client: Client) -> None:
        """Note that a client has something to be written at the end of this batch."""
        self._touched.append(client)

    def flush(self) -> None:
        """Write what was collected for each client, and resume those that were left out of a batch."""
        while self._touched:
            touched, self._touched = self._touched, []
            for client in touched:
                client.flush()
                if client.dirty and not client.paused:
                    self._catch_up(client)

    @property
    def clients(self) -> int:
        """Return how many clients there are."""
        return len(self._clients)

    @property
    def unsent_bytes(self) -> int:
        """Return how many bytes wait to be sent."""
        return sum(client.connection.backlog() for client in self._clients.values())

    def measure(self) -> None:
        """Bring the metrics up to date; called about once a second."""
        UNSENT.set(self.unsent_bytes)

    def close(self) -> None:
        """Close every client's connection."""
        for client in list(self._clients.values()):
            client.connection.close(CLOSE_GOING_AWAY, "the server is going away")

    # What the source calls

    def changed(self, identity: int, kept: list[Kept]) -> None:
        """Send the frames of a change to every client of a stream that is up to date."""
        followed = self._followed.get(identity)
        if followed is None:
            return
        if followed.is_state:
            for one in kept:
                self._send_state(followed, one)
        else:
            self._send_events(followed, kept)

    def refused(self, client: int, refused: Refused) -> None:
        """Answer a request with an error."""
        found = self._clients.get(client)
        if found is not None:
            found.append(_error(found, refused.identity, refused.code, str(refused)))

    def subscribed(self, client: int, request: Request, interval: str, streams: list[Named]) -> None:
        """Answer a subscription, and begin with its streams."""
        for identity, key in streams:
            followed = self._followed.get(identity)
            if followed is None:
                followed = self._followed[identity] = Followed(identity, key)
            followed.follows += 1
        found = self._clients.get(client)
        if found is not None and not found.cut:
            try:
                self._begin(found, request, interval, streams)
            except Refused as refused:
                self.refused(client, refused.to(request.id))
        for identity, _ in streams:
            self._leave(self._followed[identity])

    def unsubscribed(self, client: int, request: Request, keys: list[StreamKey]) -> None:
        """Answer a client that no longer wants some streams."""
        found = self._clients.get(client)
        if found is None:
            return
        for key in keys:
            # Statuses of a whole connection are sent as long as any of its symbols is subscribed.
            if key.symbol != ALL_SYMBOLS or not any(
                other.channel == key.channel and other.venue == key.venue and other.symbol != ALL_SYMBOLS
                for other in found.streams
            ):
                self._unsubscribe(found, key)
        answer = {"type": "unsubscribed", "id": request.id, "channels": request.channels, "symbols": request.symbols}
        found.append(found.encode(answer))

    def present(self, identity: int, kept: list[Kept], *, conflated: bool) -> None:
        """Send the present to the clients that wait for it."""
        followed = self._followed.get(identity)
        if followed is None:
            return
        waiting, followed.asked[conflated] = followed.asked[conflated], {}
        for client in waiting:
            if client.full:
                client.flush()
            if client.paused or followed not in client.dirty:
                continue
            last = client.dirty.pop(followed)
            client.send_all(kept if last is None else [one for one in kept if one.number > last])

    def missed(self, client: int, identity: int, kept: list[Kept], *, recovered: bool) -> None:
        """Send a client that resumes what it missed."""
        found, followed = self._clients.get(client), self._followed.get(identity)
        if found is None or followed is None or followed not in found.resuming:
            return
        if recovered and sum(len(one.frame.plain) for one in kept) > self.limits.cut_bytes:
            # More than a client may hold: it gets the present in its place.
            recovered, kept = False, []
        found.resuming.discard(followed)
        key = followed.key
        answer = {
            "type": "resumed", "channel": key.channel, "venue": key.venue, "symbol": key.symbol,
            "recovered": recovered, "messages": len(kept) if recovered else 0,
        }  # fmt: skip
        found.append(found.encode(answer))
        RESUMED.labels("recovered" if recovered else "present").inc()
        if recovered:
            del found.dirty[followed]
            found.send_all(kept)
        elif not found.paused:
            self._catch_up(found)

    # Subscriptions

    def _begin(self, client: Client, request: Request, interval: str, streams: list[Named]) -> None:
        keys = {key for _, key in streams}
        admission = client.connection.admission
        if "book" in request.channels and request.depth > admission.depth_max:
            raise Refused("tier_limit", f"depth is {request.depth}; the tier includes {admission.depth_max}")
        subscriptions_max = min(self.limits.subscriptions_max, admission.subscriptions_max)
        if len(client.streams.keys() | keys) > subscriptions_max:
            raise Refused("too_many_subscriptions", f"at most {subscriptions_max} streams a connection")
        since = {symbol: since_of(request, symbol) for symbol in (*request.symbols, ALL_SYMBOLS)}
        answer = {"type": "subscribed", "id": request.id, "channels": request.channels, "symbols": request.symbols}
        if "book" in request.channels:
            answer["depth"] = request.depth
        if interval:
            answer["interval"] = interval
        client.append(client.encode(answer))
        resumed: list[tuple[Followed, Position | int]] = []
        for identity, key in streams:
            followed = self._followed[identity]
            followed.clients[client] = None
            client.streams[key] = followed
            # A stream that is subscribed again is sent from its present on.
            client.dirty[followed] = None
            client.resuming.discard(followed)
            position = since.get(key.symbol)
            if position is not None:
                client.resuming.add(followed)
                resumed.append((followed, position))
        for followed, position in resumed:
            self._source.resume(self, client.identity, followed.identity, position)
        if not client.paused:
            self._catch_up(client)

    def _unsubscribe_all(self, client: Client) -> None:
        for key in list(client.streams):
            self._unsubscribe(client, key)
        client.dirty.clear()
        client.resuming.clear()

    def _unsubscribe(self, client: Client, key: StreamKey) -> None:
        followed = client.streams.pop(key, None)
        if followed is None:
            return
        client.dirty.pop(followed, None)
        client.resuming.discard(followed)
        followed.clients.pop(client, None)
        for waiting in followed.asked.values():
            waiting.pop(client, None)
        self._leave(followed)

    def _leave(self, followed: Followed) -> None:
        """Stop following a stream without clients."""
        if not followed.clients and self._followed.get(followed.identity) is followed:
            del self._followed[followed.identity]
            self._source.unfollow(self, followed.identity, followed.follows)

    # Messages

    def _catch_up(self, client: Client) -> None:
        """Ask for the present of each stream of which a client is not up to date, while it can take it."""
        while not client.paused and not client.cut:
            behind = next((one for one in client.dirty if one not in client.resuming and not _waits(one, client)), None)
            if behind is None:
                return
            if client.full:
                client.flush()
                continue
            conflated = client.dirty[behind] is not None
            waiting = behind.asked[conflated]
            waiting[client] = None
            if len(waiting) == 1:
                self._source.present(self, behind.identity, conflated=conflated)

    def _send_state(self, followed: Followed, kept: Kept) -> None:
        sent = 0
        for client in followed.clients:
            sent += client.send_state(followed, client.choose(kept.frame), kept.number - 1)
        SENT.labels(followed.key.channel).inc(sent)
        if sent != len(followed.clients):
            CONFLATED.labels(followed.key.channel).inc(len(followed.clients) - sent)

    def _send_events(self, followed: Followed, kept: list[Kept]) -> None:
        plain = b"".join([one.frame.plain for one in kept])
        deflated = plain
        if any(client.connection.deflate for client in followed.clients):
            deflated = b"".join([one.frame.deflated() for one in kept])
        sent = 0
        for client in list(followed.clients):
            # One that is not up to date gets these with the present, or with what it missed.
            if followed not in client.dirty:
                sent += client.send_event(deflated if client.connection.deflate else plain)
        SENT.labels(followed.key.channel).inc(sent * len(kept))


def _waits(followed: Followed, client: Client) -> bool:
    return any(client in waiting for waiting in followed.asked.values())


def _error(client: Client, identity: int | str | None, code: str, message: str) -> bytes:
    return client.encode({"type": "error", "id": identity, "code": code, "message": message})


def counted() -> list[tuple[str, str, float]]:
    """Return what this process has counted since the last call, by counter and label."""
    found: list[tuple[str, str, float]] = []
    for name, counter in _COUNTERS.items():
        for metric in counter.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    (label,) = sample.labels.values()
                    before = _reported.get((name, label), 0.0)
                    if sample.value != before:
                        _reported[name, label] = sample.value
                        found.append((name, label, sample.value - before))
    return found


def count(found: list[tuple[str, str, float]]) -> None:
    """Add what another process has counted."""
    for name, label, value in found:
        _COUNTERS[name].labels(label).inc(value)


_reported: dict[tuple[str, str], float] = {}
