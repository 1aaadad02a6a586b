"""One client of the simulated Coinbase Advanced Trade: its requests, the limits on them, and what it was sent.

1. A client has five seconds to subscribe, with one message for each channel. Snapshots come first, then
   `subscriptions`.
2. A connection has a limited number of `level2` streams: 16 were seen to work, and 32 to be refused with "too many L2
   streams" (https://github.com/JKorf/Coinbase.Net/issues/19).
3. Eight messages a second and eight connections a second of one address. The documents do not say what happens beyond:
   here the connection is closed with 1008, and an attempt to connect is answered 429.
4. A client that reads too slowly is disconnected when its buffer is full; nothing waits for it.

Sources, below https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/: "WebSocket Overview"
(websocket-overview), "Advanced Trade WebSocket Rate Limits" (websocket-rate-limits).
"""

from __future__ import annotations

import asyncio
import time
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec
import structlog
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport
from prometheus_client import Counter

from infra.simulator.ends import reset
from infra.simulator.faults import Hit
from infra.simulator.limits import Limits
from infra.simulator.outbox import Outbox
from infra.simulator.venues.coinbase import frames

if TYPE_CHECKING:
    from infra.simulator.venues.coinbase.server import Exchange

BOOK, TRADES, TICKER, TICKER_BATCH = "level2", "market_trades", "ticker", "ticker_batch"
HEARTBEATS, STATUS, CANDLES = "heartbeats", "status", "candles"
CHANNELS = (BOOK, TRADES, TICKER, TICKER_BATCH, HEARTBEATS, STATUS, CANDLES)
PRIVATE_CHANNELS = ("user", "futures_balance_summary")
WIRE = {BOOK: "l2_data"}

# `streams` counts level2 alone.
LIMITS = Limits(streams=16, address_messages=(8, 1), attempts=(8, 1), message_bytes=64 * 1024)

_LOG = structlog.get_logger()
_FRAMES = Counter("tickstream_exchange_frames_total", "Frames that the simulated exchange made.", ["channel"])
_FRAMES_OF = {
    wire: _FRAMES.labels(wire) for wire in (*(WIRE.get(channel, channel) for channel in CHANNELS), "subscriptions")
}
_CUT_OFF = Counter("tickstream_exchange_cut_off_total", "Connections that the simulated exchange ended.", ["reason"])


class Request(msgspec.Struct, frozen=True):
    """What a client may send; a `jwt` is not looked at, since every channel here is public."""

    type: str
    channel: str
    product_ids: list[str] | None = None


_REQUEST = msgspec.json.Decoder(Request)


class BookFrames:
    """Which version of one book each frame of a connection led to, newest last; at most twice `kept` frames."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._sequences = array("q")
        self._versions = array("q")

    def add(self, sequence: int, version: int) -> None:
        """Add the next frame."""
        if len(self._sequences) >= 2 * self._kept:
            del self._sequences[: self._kept]
            del self._versions[: self._kept]
        self._sequences.append(sequence)
        self._versions.append(version)

    def last(self, sequence: int | None) -> tuple[int, int] | None:
        """Return (sequence, version) of the last frame up to a sequence; None when there was none."""
        place = len(self._sequences) if sequence is None else bisect_right(self._sequences, sequence)
        return (self._sequences[place - 1], self._versions[place - 1]) if place else None

    def all(self) -> list[tuple[int, int]]:
        """Return (sequence, version) of each frame, oldest first."""
        return list(zip(self._sequences, self._versions, strict=True))


class Connection(WSListener):
    """One client: its subscriptions, its numbering, and which book each number stands for."""

    def __init__(self, exchange: Exchange, number: int) -> None:
        super().__init__()
        self._exchange = exchange
        self._transport: WSTransport | None = None
        self._outbox: Outbox | None = None
        self.id = number
        self.sequence = 0
        self.channels: dict[str, dict[str, None]] = {}
        self.opened = exchange.clock()
        self.closed: int | None = None
        self.peer = ""
        self._books: dict[str, BookFrames] = {}
        self._deadline: asyncio.TimerHandle | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Begin; the client now has its time to subscribe."""
        self._transport, self._outbox = transport, Outbox(transport)
        host, port, *_ = transport.underlying_transport.get_extra_info("peername") or ("?", 0)
        self.peer = f"{host}:{port}"
        self._exchange.joined(self)
        self._deadline = asyncio.get_running_loop().call_later(
            self._exchange.subscribe_timeout_s, self.end, "no_subscribe", WSCloseCode.POLICY_VIOLATION
        )

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer one message of the client."""
        if frame.msg_type == WSMsgType.CLOSE:
            if self._outbox is not None:
                self._outbox.flush()
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type in {WSMsgType.TEXT, WSMsgType.BINARY}:
            if not self._exchange.messages.takes(time.monotonic()):
                self.end("too many messages", WSCloseCode.POLICY_VIOLATION)
                return
            problem = self._request(frame.get_payload_as_bytes())
            if problem:
                self._exchange.refused[problem] += 1
                self._answer(frames.error(problem))
        elif frame.msg_type == WSMsgType.PING and not self._is_mute():
            transport.send_pong(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - picows calls it with the transport
        """Forget the client, but keep what a test may ask about it."""
        if self._deadline is not None:
            self._deadline.cancel()
        self.closed = self._exchange.clock()
        self._transport = self._outbox = None
        self._exchange.left(self)

    def _request(self, payload: bytes) -> str | None:
        """Perform a request; return what is wrong with it, if anything."""
        try:
            message = _REQUEST.decode(payload)
        except msgspec.MsgspecError as error:
            return f"malformed message: {error}"
        problem = self._refusal(message)
        if problem is None:
            (self._subscribe if message.type == "subscribe" else self._unsubscribe)(
                message.channel, message.product_ids or []
            )
        return problem

    def _refusal(self, message: Request) -> str | None:
        if message.type not in {"subscribe", "unsubscribe"}:
            return f"unknown message type {message.type!r}: there are subscribe and unsubscribe"
        if message.channel in PRIVATE_CHANNELS:
            return "authentication failure"
        if message.channel not in CHANNELS:
            return f"unknown channel {message.channel!r}: there are {', '.join(CHANNELS)}"
        unknown = [symbol for symbol in message.product_ids or () if symbol not in self._exchange.markets]
        if message.channel == HEARTBEATS or message.type == "unsubscribe":
            return None
        wanted = message.product_ids or list(self._exchange.markets)
        refused = unknown or [symbol for symbol in wanted if self._is_refused(message.channel, symbol)]
        if refused:
            return f"{', '.join(refused)} is not a valid product"
        streams = {*self.channels.get(BOOK, ()), *wanted} if message.channel == BOOK else ()
        limit = self._exchange.limits.streams
        return "too many L2 streams" if limit is not None and len(streams) > limit else None

    def _is_refused(self, channel: str, symbol: str) -> bool:
        hit = Hit(self.id, self.sequence, WIRE.get(channel, channel), symbol, self._exchange.clock())
        return self._exchange.injector.refuses(hit)

    def _is_mute(self) -> bool:
        return self._exchange.injector.is_mute(self.id, self._exchange.clock())

    def _subscribe(self, channel: str, wanted: list[str]) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        symbols = [HEARTBEATS] if channel == HEARTBEATS else list(dict.fromkeys(wanted)) or list(self._exchange.markets)
        self._exchange.send_snapshots(self, channel, symbols)
        self.channels.setdefault(channel, {}).update(dict.fromkeys(symbols))
        self.send("subscriptions", "", frames.subscriptions(self.channels))

    def _unsubscribe(self, channel: str, wanted: list[str]) -> None:
        left = [symbol for symbol in self.channels.get(channel, ()) if wanted and symbol not in wanted]
        if left and channel != HEARTBEATS:
            self.channels[channel] = dict.fromkeys(left)
        else:
            self.channels.pop(channel, None)
        self.send("subscriptions", "", frames.subscriptions(self.channels))

    def wants(self, channel: str, symbol: str) -> bool:
        """Return whether the client subscribed to a product's channel."""
        return symbol in self.channels.get(channel, ())

    def send(self, channel: str, symbol: str, events: bytes, version: int | None = None) -> None:
        """Number a frame and send it, or what the faults make of it; `version` is the book that it leads to."""
        sequence, now = self.sequence, self._exchange.clock()
        self.sequence += 1
        if version is not None:
            if symbol not in self._books:
                self._books[symbol] = BookFrames(self._exchange.frames_kept)
            self._books[symbol].add(sequence, version)
        wire = WIRE.get(channel, channel)
        _FRAMES_OF[wire].inc()
        frame = frames.frame(wire, now, sequence, events)
        for data in self._exchange.injector.frames(Hit(self.id, sequence, wire, symbol, now), frame):
            self._write(data)

    def _answer(self, frame: bytes) -> None:
        if not self._is_mute():
            self._write(frame)

    def was_sent(self, symbol: str) -> bool:
        """Return whether the client was ever sent a product's book."""
        return symbol in self._books

    def book_frames(self, symbol: str) -> list[tuple[int, int]]:
        """Return the (sequence, version) of each book frame that was sent, oldest first."""
        return self._books[symbol].all() if symbol in self._books else []

    def version_at(self, symbol: str, sequence: int | None) -> tuple[int, int] | None:
        """Return the (sequence, version) of the last book frame up to a sequence; None when there was none."""
        return self._books[symbol].last(sequence) if symbol in self._books else None

    def end(self, reason: str, code: WSCloseCode) -> None:
        """Close the connection from our side."""
        if self._transport is None or self._outbox is None:
            return
        _CUT_OFF.labels(reason).inc()
        self._exchange.ended[reason] += 1
        _LOG.info("connection ended", connection=self.id, reason=reason)
        self._outbox.close(code, reason.encode())
        self._transport.disconnect()

    def reset(self) -> None:
        """Break the connection without a close frame: TCP reset."""
        if self._transport is not None:
            reset(self._transport.underlying_transport)

    def _write(self, data: bytes) -> None:
        outbox = self._outbox
        if outbox is None:
            return
        outbox.send(WSMsgType.TEXT, data)
        if outbox.buffered_bytes > self._exchange.write_buffer_bytes_max:
            _CUT_OFF.labels("slow").inc()
            _LOG.warning("client reads too slowly, connection reset", connection=self.id, peer=self.peer)
            self.reset()
