"""One line of a venue: owns the connection and the clock, drives a feed and performs its outputs.

Theory of operation.

1. Connect within `CONNECT_S`, call the feed's `opened`, and send the returned frames, no quicker than the venue allows.
2. The socket's callback only timestamps a frame and puts it into the inbox. A single task reads the inbox, so that the
   feed is called in order. REST responses and clock ticks use the same inbox.
3. When Kafka is slow the task waits in the sink's `write`, the inbox fills, and at `INBOX_BYTES_MAX` the socket is no
   longer read, so TCP makes the venue wait. Reading resumes when the inbox is nearly empty. Meanwhile silence does not
   mean a dead connection.
4. A connection that is open and brings no market data is replaced (`live.silence`).
5. When either side closes the connection, the feed's `closed` is called once, and a new connection is opened after a
   backoff. A connection without any frame is a failure for the breaker; one that lasted `STABLE_S` resets the backoff.
6. A replay server closes with a special reason at the end of the recording: books stay unchanged, and there is no
   reconnect. The clock is the recorder's, which the replay server sends, so that the feed publishes what it would have
   published live. When the server asks whether all frames are processed, the reply waits for pending requests.
7. A connection that another line continues is retired: it reports its end and clears its books, but opens no gap.
8. If the venue refuses the feed permanently, or the backoff policy allows no further attempt, there is no reconnect:
   the line reports the reason and stays down until the process is restarted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter as Counts
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Protocol, TypeGuard
from urllib.parse import urlsplit

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from marketdata.clock import AHEAD_NS_MAX
from marketdata.events import ALL_SYMBOLS, AnyEvent, BookUpdate, FeedStatus, RawFrame
from marketdata.feed import Fetch, Output, Reconnect, Refused, Send
from producers.live import tcp, websocket
from producers.live.inbox import Inbox, Item, Wire
from producers.live.pacing import Gate, Outgoing, Pacer
from producers.live.silence import DataSilence
from producers.live.websocket import END_REASON
from producers.rest import Client
from producers.venues.kit.backoff import Backoff, Breaker, Policy, State
from producers.venues.kit.idle import Idle, Proof
from producers.venues.kit.limits import Limits
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.venue import LiveFeed, Splitter
from runtime.metrics import DROPPED, WS_LATENCY_MS

INBOX_BYTES_MAX = 32 * 1024 * 1024
CONNECT_S = 10.0
TICK_S = 1.0
STABLE_S = 10.0
QUIET_S = 10.0
LAST_ANSWERS_S = 5.0
# Messages that wait for the venue's rate: those of 5,000 products with some channels, one message each.
OUTGOING_MAX = 20_000
# Yield to other tasks, including the socket, after this many frames.
TURN_FRAMES = 32

_LOG = structlog.get_logger()
_FRAMES = Counter("tickstream_frames_total", "Frames received.", ["venue", "line"])
_RECONNECTS = Counter("tickstream_reconnects_total", "Connections that ended, by reason.", ["venue", "line", "reason"])
_GAPS = Counter("tickstream_gaps_total", "Losses detected by the feeds.", ["venue", "line"])
_OFF_TICK = Counter(
    "tickstream_off_tick_total",
    "Prices that are not a multiple of the venue's tick size; they are published.",
    ["venue", "line"],
)
_BREAKER = Gauge("tickstream_breaker_state", "0 closed, 1 half open, 2 open.", ["venue", "line"])
_DOWN = Counter("tickstream_lines_down_total", "Lines that stay down, by reason.", ["venue", "line", "reason"])
_CONNECTED = Gauge("tickstream_connected", "1 while the connection is up.", ["venue", "line"])
_INBOX = Gauge("tickstream_inbox_bytes", "Bytes received and not processed yet.", ["venue", "line"])

# Messages that a feed drops on purpose, by the name of their counter.
_DROPPED_NAMES = ("duplicates", "deltas_before_snapshot", "ignored")


class Sink(Protocol):
    """The destination of events; while `write` waits, nothing more is read."""

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Write the events of one frame, and the frame."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a connection; tests use shorter times. The scheme of `ws_url` selects the kind of socket."""

    ws_url: str
    rest_url: str
    replay: bool = False
    began: int | None = None
    """In a replay, the start of the recording; the clock is then the recorder's."""
    tick_s: float = TICK_S
    stable_s: float = STABLE_S
    backoff: Policy = Policy()
    backoff_base_s: float | None = None
    """Replaces the policy's base delay in tests."""
    binary: bool = False
    """Whether frames are sent as binary WebSocket messages."""
    headers: tuple[tuple[str, str], ...] = ()
    """Additional headers of the WebSocket handshake."""
    ping_s: float | None = None
    """After this long without a frame a WebSocket is pinged; after as long again without a reply it is dead."""
    inbox_bytes_max: int = INBOX_BYTES_MAX
    splitter: Callable[[], Splitter] | None = None
    mute_s: float | None = None
    """After this long without market data a connection is replaced, though it is open (see `live.silence`)."""
    limits: Limits = Limits()
    """How quickly messages may be sent; a replay has none."""
    connects: Gate | None = None
    """How quickly connections may be attempted: shared by all lines of the venue."""
    sends: Pacer | None = None
    """How quickly messages may be sent by all lines of the venue together."""
    proof: Proof = "none"
    """What shows after a silence in a recording that no trade is missing."""
    redact: Callable[[bytes], bytes] = bytes
    on_state: Callable[[str, str], None] = lambda _line, _state: None
    """Called with the line and `ok`, why the line is down, or an empty text when it has ended."""


class Connection:
    """One line, over any number of connections, until `stop`."""

    def __init__(self, feed: LiveFeed, line: str, sink: Sink, options: Options, rest: Client | None = None) -> None:
        self.line = line
        self._feed = feed
        self._sink = sink
        self._options = options
        self._stopping = asyncio.Event()
        policy = options.backoff
        if options.backoff_base_s is not None:
            policy = msgspec.structs.replace(policy, base_s=options.backoff_base_s, least_s=0.0)
        self._rest = rest or Client(feed.venue, options.rest_url)
        self._outgoing = Outgoing((), OUTGOING_MAX)
        self._silence = DataSilence(None if options.replay else options.mute_s)
        self._backoff = Backoff.by(policy)
        self._breaker = Breaker()
        self._wire: Wire | None = None
        self._inbox = Inbox(options.inbox_bytes_max, line)
        self._fetches: dict[Fetch, asyncio.Task[None]] = {}
        self._counted: Counts[str] = Counts()
        self._frames_here = 0
        self._frames_counted = 0
        self._number = 0
        self._reconnect: str | None = None
        self._refused: Refused | None = None
        self._ts_recorded = options.began
        self._retiring = False
        self._previous: PreviousRun | None = None
        self._since_s: float | None = None
        self._idle = Idle(feed, options.proof, recorded=options.began is not None)
        self._whole: set[str] = set()  # symbols whose book this line has published completely
        self.ended = asyncio.Event()
        labels = (feed.venue, line)
        self._frames_total = _FRAMES.labels(*labels)
        self._gaps_total = _GAPS.labels(*labels)
        self._off_tick_total = _OFF_TICK.labels(*labels)
        self._connected = _CONNECTED.labels(*labels)
        self._inbox_bytes = _INBOX.labels(*labels)
        self._latency = WS_LATENCY_MS.labels(feed.venue)
        _BREAKER.labels(*labels).set(self._breaker.state)

    def _now(self) -> int:
        return time.time_ns() if self._ts_recorded is None else self._ts_recorded

    @property
    def symbols(self) -> frozenset[str] | None:
        """Our symbols of the products to subscribe; None where only frames show them."""
        return self._feed.symbols()

    def resume(self, previous: PreviousRun) -> None:
        """Continue the streams of earlier processes once `run` is called."""
        self._previous = previous

    def stop(self) -> None:
        """Close the connection cleanly; `run` returns soon."""
        self._stopping.set()
        self._inbox.filled.set()

    def retire(self) -> None:
        """Close the connection cleanly without a gap, because another line continues it."""
        self._retiring = True
        self.stop()

    @property
    def age_s(self) -> float:
        """Seconds since the connection was opened; 0 when it is not open."""
        return 0.0 if self._since_s is None else time.monotonic() - self._since_s

    def is_beside(self, other: Connection) -> bool:
        """Return whether this line is up and has published every book that the other one has."""
        return self._since_s is not None and self._frames_here > 0 and self._whole >= other._whole

    def restart(self, reason: str) -> None:
        """Close this connection and open a new one, because published data may be wrong."""
        if self._reconnect is None:
            self._reconnect = reason
            self._inbox.filled.set()

    async def run(self) -> None:
        """Keep the line up until `stop`, the end of a replay, or a permanent failure.

        Raises the sink's error when it cannot continue.
        """
        async with self._rest as rest:
            if self._previous is not None:
                ts = self._now()
                await self._perform(self._feed.resume(self._previous, ts), ts, rest)
            while not self._stopping.is_set():
                began = time.monotonic()
                reason = await self._attempt(rest)
                if self.ended.is_set():
                    await self._stopping.wait()
                    return
                if self._stopping.is_set():
                    self._options.on_state(self.line, "")
                    return
                if self._refused is not None:
                    await self._stay_down("refused", self._refused.reason, self._refused.advice)
                    return
                _RECONNECTS.labels(self._feed.venue, self.line, reason).inc()
                await self._failed_or_not(reason, time.monotonic() - began)

    async def _failed_or_not(self, reason: str, lasted_s: float) -> None:
        if not self._frames_here:
            await self._report(self._breaker.failed(), reason)
        if lasted_s >= self._options.stable_s and self._frames_here:
            self._backoff.succeeded()
        wait_s = self._backoff.failed(random.random())  # noqa: S311 - jitter is no secret
        if self._backoff.is_exhausted:
            advice = f"it failed {self._backoff.failures} times in a row; restart the producer when the cause is fixed"
            await self._stay_down("given_up", reason, advice)
            return
        self._options.on_state(self.line, f"{reason}, next attempt in {wait_s:.1f} s")
        _LOG.warning("connection ended", line=self.line, reason=reason, wait_s=round(wait_s, 2),
                     failures=self._backoff.failures)  # fmt: skip
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), wait_s)

    async def _stay_down(self, kind: str, reason: str, advice: str) -> None:
        """Report that the line stays down, with the reason, and wait until it is stopped."""
        self._options.on_state(self.line, f"{kind}, {reason}: {advice}")
        _LOG.error(kind, line=self.line, reason=reason, advice=advice)
        _DOWN.labels(self._feed.venue, self.line, reason).inc()
        _BREAKER.labels(self._feed.venue, self.line).set(State.OPEN)
        ts = self._now()
        await self._write([self._status(kind, reason, ts, detail=advice)], ts)
        await self._stopping.wait()

    async def _attempt(self, rest: Client) -> str:
        """Open one connection, run it, and return why it ended."""
        self._frames_here = self._frames_counted = self._number = 0
        self._reconnect = None
        self._outgoing = Outgoing(self._options.limits.messages, OUTGOING_MAX, self._options.sends)
        if self._options.connects is not None:
            await self._options.connects.turn()
        self._breaker.attempted()
        _BREAKER.labels(self._feed.venue, self.line).set(self._breaker.state)
        inbox = self._inbox = Inbox(self._options.inbox_bytes_max, self.line)
        inbox.ts_recorded = self._ts_recorded = self._options.began
        try:
            async with asyncio.timeout(CONNECT_S):
                self._wire = await self._connect(inbox)
        except (OSError, TimeoutError) as error:
            _LOG.warning("no connection", line=self.line, url=self._options.ws_url, error=str(error) or repr(error))
            return "connect_failed"
        _LOG.info("connected", line=self.line, url=self._options.ws_url)
        self._connected.set(1)
        self._since_s = time.monotonic()
        try:
            return await self._live(rest)
        finally:
            self._connected.set(0)
            self._since_s = None
            for task in self._fetches.values():
                task.cancel()
            self._fetches.clear()
            self._wire.disconnect()
            self._wire = None

    async def _connect(self, inbox: Inbox) -> Wire:
        url, splitter = self._options.ws_url, self._options.splitter
        if urlsplit(url).scheme in {"tcp", "tls"}:
            return await tcp.connect(url, inbox, splitter() if splitter is not None else None)
        options = self._options
        return await websocket.connect(
            url, inbox, headers=options.headers, binary=options.binary, ping_s=options.ping_s
        )

    async def _live(self, rest: Client) -> str:
        ts = self._now()
        await self._write((), ts, self._raw("connect", b"", ts, self._options.ws_url))
        await self._perform(self._feed.opened(ts), ts, rest)
        self._idle.opened(ts)
        inbox, tick = self._inbox, time.monotonic() + self._options.tick_s
        self._silence.begin(time.monotonic())
        turns = 0
        while True:
            if self._stopping.is_set() or self._reconnect is not None:
                return await self._end(self._reconnect or "stopped")
            await self._wait(inbox, tick)
            if inbox.items:
                item = inbox.take()
                if self._ts_recorded is not None:
                    self._ts_recorded = max(self._ts_recorded, item.ts)
                if item.kind == "end":
                    return await self._end(item.reason)
                await self._work(item, rest)
            turns += 1
            if turns % TURN_FRAMES == 0:
                await asyncio.sleep(0)
            now = time.monotonic()
            if now >= tick:
                tick = now + self._options.tick_s
                self._inbox_bytes.set(inbox.bytes)
                self._count()
                # Waiting or unread frames do not count as silence.
                if not inbox.items and not inbox.paused and now - inbox.read_since > QUIET_S * self._options.tick_s:
                    ts = self._now()
                    await self._perform(self._idle.came(inbox.ts_pong) + self._feed.ticked(ts), ts, rest)
                    if self._silence.is_mute(self._feed.counts, now):
                        self.restart("mute")

    async def _work(self, item: Item, rest: Client) -> None:
        if item.kind == "answer" and item.request is not None:
            # In a replay, frames before the response may have advanced the recorder's clock.
            ts = max(item.ts, self._ts_recorded or 0)
            raw = self._raw("http", item.data, ts, self._options.rest_url + "/" + item.request.path)
            await self._perform(self._feed.fetched(item.request, item.data, ts), ts, rest, raw)
            return
        if item.kind == "caught_up":
            self._answer_caught_up(item)
            return
        self._frames_here += 1
        passed = self._idle.came(item.ts)
        outputs = self._feed.received(item.data, item.ts)
        if passed:
            outputs = passed + outputs
        if self._frames_here == 1:
            self._options.on_state(self.line, "ok")
            await self._report(self._breaker.succeeded(), "frames received")
        venue_ts = self._feed.ts_venue
        if venue_ts is not None and not self._options.replay:
            self._latency.observe(max(0, item.ts - venue_ts) / 1e6)
        raw = self._raw("recv", item.data, item.ts)
        if _are_events(outputs):
            await self._write(outputs, item.ts, raw)
        else:
            await self._perform(outputs, item.ts, rest, raw)

    def _answer_caught_up(self, item: Item) -> None:
        """Reply to a replay server that all frames are processed, once all REST requests and responses are too."""
        if self._fetches:
            done = asyncio.gather(*self._fetches.values(), return_exceptions=True)
            inbox = self._inbox
            done.add_done_callback(lambda _: inbox.put(item))
        elif self._wire is not None:
            self._wire.report_caught_up()

    async def _perform(self, outputs: list[Output], ts: int, rest: Client, raw: RawFrame | None = None) -> None:
        """Perform the feed's outputs; frames are sent first, so that a repair does not wait for Kafka."""
        events: list[AnyEvent] = []
        sent: list[RawFrame] = []
        for output in outputs:
            if isinstance(output, Send):
                sent += self._queue(output)
            elif isinstance(output, Fetch):
                self._ask(output, rest)
            elif isinstance(output, Reconnect):
                self.restart(output.reason)
            elif isinstance(output, Refused):
                self._refused = output
                self.restart(output.reason)
            else:
                events.append(output)
        if events or raw is not None:
            await self._write(events, ts, raw)
        for frame in sent:
            await self._write((), frame.ts_recv, frame)

    async def _write(self, events: Collection[AnyEvent], ts: int, raw: RawFrame | None = None) -> None:
        """Publish; latency is measured with the real clock, also in a replay."""
        for event in events:
            if type(event) is BookUpdate and event.kind != "update":
                if event.kind == "clear":
                    self._whole.discard(event.symbol)
                else:
                    self._whole.add(event.symbol)
        await self._sink.write(self.line, events, ts if self._ts_recorded is None else time.time_ns(), raw)

    async def _wait(self, inbox: Inbox, tick: float) -> None:
        """Send what is due, then wait until something is received, the next message is due, or the next tick is."""
        for raw in self._sent():
            await self._write((), raw.ts_recv, raw)
        if not inbox.items:
            now = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(tick - now, self._outgoing.wait_s(now)))):
                    await inbox.filled.wait()

    def _queue(self, output: Send) -> list[RawFrame]:
        """Send a frame as soon as the venue's rate allows; return what was sent now."""
        if not self._outgoing.put(output.frame):
            self.restart("too_many_messages")
        return self._sent()

    def _sent(self) -> list[RawFrame]:
        """Send the waiting frames that may go now, and return them as raw frames to publish."""
        sent: list[RawFrame] = []
        while len(self._outgoing) and (frame := self._outgoing.take(time.monotonic())) is not None:
            sent += self._send(frame)
        return sent

    def _send(self, frame: bytes) -> list[RawFrame]:
        """Send a frame if the socket is open; return it as a raw frame to publish."""
        if self._wire is None or not self._wire.is_up:
            return []
        self._wire.send(frame)
        return [self._raw("send", self._options.redact(frame), self._now())]

    def _ask(self, request: Fetch, rest: Client) -> None:
        """Make a request unless it is pending; the response goes to the inbox of the requesting connection."""
        if request not in self._fetches:
            task = self._fetches[request] = asyncio.create_task(self._fetch(request, rest, self._inbox))
            task.add_done_callback(lambda done: self._asked(request, done))

    def _asked(self, request: Fetch, done: asyncio.Task[None]) -> None:
        if self._fetches.get(request) is done:
            del self._fetches[request]

    async def _fetch(self, request: Fetch, rest: Client, inbox: Inbox) -> None:
        body = await rest.get(request)
        if body is not None:
            inbox.put(Item("answer", self._now(), body, request))

    async def _last_answers(self) -> None:
        """Wait for pending REST responses at the end of a replay, and pass them to the feed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_ANSWERS_S):
                while self._fetches or self._inbox.items:
                    if self._fetches:
                        await asyncio.wait(self._fetches.values())
                        await asyncio.sleep(0)
                    while self._inbox.items:
                        await self._work(self._inbox.take(), self._rest)

    async def _end(self, reason: str) -> str:
        """Report the end of the connection."""
        self._count()
        is_over = reason == END_REASON and self._options.replay
        if is_over:
            await self._last_answers()
        ts = self._now()
        if is_over:
            self.ended.set()
            _LOG.info("end of recording", line=self.line, counts=dict(self._feed.counts))
            await self._write([self._status("ended", END_REASON, ts)], ts)
            return reason
        reason = reason.replace(" ", "_")
        outputs = self._feed.closed(reason, ts)
        sent = [raw for output in outputs if isinstance(output, Send) for raw in self._send(output.frame)]
        if self._wire is not None:
            self._wire.send_close()
        events = _events(outputs)
        if self._retiring:
            events = [event for event in events if not isinstance(event, FeedStatus)]
            events.append(self._status("ended", "retired", ts))
        await self._write(events, ts)
        for raw in sent:
            await self._write((), raw.ts_recv, raw)
        return reason

    async def _report(self, kind: str | None, reason: str) -> None:
        """Report a change of the breaker's state."""
        _BREAKER.labels(self._feed.venue, self.line).set(self._breaker.state)
        if kind is not None:
            log = _LOG.error if kind == "breaker_open" else _LOG.info
            log(kind, line=self.line, failures=self._breaker.failures, reason=reason)
            ts = self._now()
            await self._write([self._status(kind, reason, ts)], ts)

    def _status(self, kind: str, reason: str, ts: int, detail: str = "") -> FeedStatus:
        ts_event = min(self._feed.ts_venue or ts, ts + AHEAD_NS_MAX)
        return FeedStatus(venue=self._feed.venue, symbol=ALL_SYMBOLS, line=self.line, kind=kind, reason=reason,
                          detail=detail, ts_event=ts_event, ts_recv=ts)  # fmt: skip

    def _raw(self, kind: str, data: bytes, ts: int, url: str | None = None) -> RawFrame:
        number = self._number
        self._number += 1
        return RawFrame(
            venue=self._feed.venue, line=self.line, number=number, ts_recv=ts, kind=kind, data=data, url=url
        )

    def _count(self) -> None:
        """Export the counters' changes since the last call."""
        self._frames_total.inc(self._frames_here - self._frames_counted)
        self._frames_counted = self._frames_here
        counts = self._feed.counts
        if counts["off_tick"] != self._counted["off_tick"]:
            self._off_tick_total.inc(counts["off_tick"] - self._counted["off_tick"])
            self._counted["off_tick"] = counts["off_tick"]
        for name in _DROPPED_NAMES:
            if counts[name] != self._counted[name]:
                DROPPED.labels("feed", name).inc(counts[name] - self._counted[name])
                self._counted[name] = counts[name]
        if counts["gaps"] != self._counted["gaps"]:
            self._gaps_total.inc(counts["gaps"] - self._counted["gaps"])
            self._counted["gaps"] = counts["gaps"]


_ORDERS = frozenset({Send, Fetch, Reconnect, Refused})


def _are_events(outputs: list[Output]) -> TypeGuard[list[AnyEvent]]:
    """Return whether all outputs of a feed are events."""
    return all(type(output) not in _ORDERS for output in outputs)


def _events(outputs: list[Output]) -> list[AnyEvent]:
    return [output for output in outputs if not isinstance(output, Send | Fetch | Reconnect | Refused)]
