"""The link between the market's process and one socket worker: streams go one way, requests the other.

Theory of operation. Both ends are a Unix stream socket, so that order is kept: what the market sends after the present
of a stream are the changes after it. A message is the length of its body (4 bytes), its kind (1 byte) and the body.
Frames are the bytes that clients read, made once by the market's process; a worker only copies them. All other messages
are MessagePack.

The market's end (`WorkerLink`) is a `Follower` of the streams; the worker's end (`MarketLink`) is the `Source` of its
fan-out. Neither waits for the other. A worker that reads too slowly is disconnected, and started again.
"""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import msgspec

from api.core.positions import Position
from api.gateway.fan_out import FanOut, Source
from api.gateway.frames import Frame
from api.gateway.kept_frames import Kept
from api.gateway.stream import Follower, Named
from api.gateway.stream_key import StreamKey
from api.gateway.subscriptions import Refused, Request

# Unsent bytes at which a worker is given up: it holds no client up, for those of other workers go on.
BACKLOG_BYTES_MAX = 128 * 1024 * 1024

_HEAD = struct.Struct("!IB")
_STREAM = struct.Struct("!IH")
_FRAME = struct.Struct("!qI")
_CLIENT = struct.Struct("!QB")
_CONTROL, _CHANGED, _PRESENT, _MISSED = range(4)


class Subscribe(msgspec.Struct, tag=True, array_like=True):
    """A client's request."""

    client: int
    request: Request


class Unsubscribe(msgspec.Struct, tag=True, array_like=True):
    """A client's request."""

    client: int
    request: Request


class Present(msgspec.Struct, tag=True, array_like=True):
    """A worker's clients need the present of a stream."""

    identity: int
    conflated: bool


class Resume(msgspec.Struct, tag=True, array_like=True):
    """A client resumes a stream, from a position or from a time on."""

    client: int
    identity: int
    since: Position | int


class Unfollow(msgspec.Struct, tag=True, array_like=True):
    """A worker has no client of a stream any more, which it was given so many times."""

    identity: int
    followed: int


class Figures(msgspec.Struct, tag=True, array_like=True):
    """A worker's clients, the bytes that wait for them, and what it has counted since its last figures."""

    clients: int
    unsent_bytes: int
    counted: list[tuple[str, str, float]]


class Gone(msgspec.Struct, tag=True, array_like=True):
    """A connection that was handed over has ended; `number` is that of its handing over."""

    number: int


class End(msgspec.Struct, tag=True, array_like=True):
    """A connection that was handed over may not be used any longer."""

    number: int
    code: int
    reason: str


class HandOver(msgspec.Struct, array_like=True):
    """What comes with a connection through the door: what its client may use, and the head of its request."""

    number: int
    subscriptions_max: int
    depth_max: int
    subprotocol: str | None
    head: bytes


class Subscribed(msgspec.Struct, tag=True, array_like=True):
    """The answer to a subscription."""

    client: int
    request: Request
    interval: str
    streams: list[Named]


class Unsubscribed(msgspec.Struct, tag=True, array_like=True):
    """The answer to a client that no longer wants some streams."""

    client: int
    request: Request
    keys: list[StreamKey]


class Refusal(msgspec.Struct, tag=True, array_like=True):
    """The answer to a request that was refused."""

    client: int
    code: str
    message: str
    identity: int | str | None


class Close(msgspec.Struct, tag=True, array_like=True):
    """The server is going away: close every client, and end."""


ToMarket = Subscribe | Unsubscribe | Present | Resume | Unfollow | Figures | Gone
ToWorker = Subscribed | Unsubscribed | Refusal | End | Close
_encode = msgspec.msgpack.Encoder().encode
_to_market = msgspec.msgpack.Decoder(ToMarket)
_to_worker = msgspec.msgpack.Decoder(ToWorker)


class _Link(asyncio.Protocol, ABC):
    """What both ends have: messages in, messages out."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.transport: Any = None
        self._on_lost = on_lost
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Report the end."""
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        """Take whole messages, and keep the rest."""
        received = self._received
        received += data
        at, end = 0, len(received)
        with memoryview(received) as view:
            while end - at >= _HEAD.size:
                length, kind = _HEAD.unpack_from(view, at)
                if end - at - _HEAD.size < length:
                    break
                at += _HEAD.size
                with view[at : at + length] as body:
                    self._take(kind, body)
                at += length
        del received[:at]
        self._taken()

    def send(self, message: ToMarket | ToWorker) -> None:
        """Send a message."""
        body = _encode(message)
        self._write(_HEAD.pack(len(body), _CONTROL) + body)

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    @abstractmethod
    def _take(self, kind: int, body: memoryview) -> None:
        """Take a message in; `body` is valid during the call."""

    def _taken(self) -> None:
        """Go on when all is taken that has come."""
        return


class WorkerLink(_Link):
    """The market's end: a follower of the streams, whose clients are in the worker's process."""

    def __init__(
        self, source: Source, on_report: Callable[[Figures | Gone], None], on_lost: Callable[[], None]
    ) -> None:
        super().__init__(on_lost)
        self._source = source
        self._on_report = on_report
        self._pending: list[bytes] = []

    # What the streams call

    def changed(self, identity: int, kept: list[Kept]) -> None:
        """Send the frames of a change at the end of this batch."""
        self._pending.append(_packed(_CHANGED, b"", identity, kept))

    def flush(self) -> None:
        """Send what was collected."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        if self.transport is None or self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size() > BACKLOG_BYTES_MAX:
            self.transport.abort()
            return
        self.transport.writelines(pending)

    def subscribed(self, client: int, request: Request, interval: str, streams: list[Named]) -> None:
        """Send the streams that a client subscribes to."""
        self._in_order(Subscribed(client, request, interval, streams))

    def unsubscribed(self, client: int, request: Request, keys: list[StreamKey]) -> None:
        """Send the streams that a client does not want any more."""
        self._in_order(Unsubscribed(client, request, keys))

    def refused(self, client: int, refused: Refused) -> None:
        """Send the answer to a request that was refused."""
        self._in_order(Refusal(client, refused.code, str(refused), refused.identity))

    def present(self, identity: int, kept: list[Kept], *, conflated: bool) -> None:
        """Send the present of a stream."""
        self.flush()
        self._write(_packed(_PRESENT, bytes([conflated]), identity, kept))

    def missed(self, client: int, identity: int, kept: list[Kept], *, recovered: bool) -> None:
        """Send what a client has missed."""
        self.flush()
        self._write(_packed(_MISSED, _CLIENT.pack(client, recovered), identity, kept))

    def _in_order(self, message: ToWorker) -> None:
        self.flush()
        self.send(message)

    # What the worker sends

    def _take(self, kind: int, body: memoryview) -> None:
        del kind  # a worker sends no frames
        message = _to_market.decode(body)
        match message:
            case Subscribe():
                self._source.subscribe(self, message.client, message.request)
            case Unsubscribe():
                self._source.unsubscribe(self, message.client, message.request)
            case Present():
                self._source.present(self, message.identity, conflated=message.conflated)
            case Resume():
                self._source.resume(self, message.client, message.identity, message.since)
            case Unfollow():
                self._source.unfollow(self, message.identity, message.followed)
            case Figures() | Gone():
                self._on_report(message)


class MarketLink(_Link):
    """The worker's end: the source of its fan-out's streams."""

    def __init__(self, on_lost: Callable[[], None], on_end: Callable[[End | Close], None]) -> None:
        super().__init__(on_lost)
        self.fan_out: FanOut | None = None
        self._on_end = on_end

    # What the fan-out calls

    def subscribe(self, follower: Follower, client: int, request: Request) -> None:
        """Ask for a client's streams."""
        del follower
        self.send(Subscribe(client, request))

    def unsubscribe(self, follower: Follower, client: int, request: Request) -> None:
        """Ask which streams a client does not want any more."""
        del follower
        self.send(Unsubscribe(client, request))

    def present(self, follower: Follower, identity: int, *, conflated: bool) -> None:
        """Ask for the present of a stream."""
        del follower
        self.send(Present(identity, conflated))

    def resume(self, follower: Follower, client: int, identity: int, since: Position | int) -> None:
        """Ask for what a client has missed."""
        del follower
        self.send(Resume(client, identity, since))

    def unfollow(self, follower: Follower, identity: int, followed: int) -> None:
        """Want a stream no more."""
        del follower
        self.send(Unfollow(identity, followed))

    # What the market sends

    def _take(self, kind: int, body: memoryview) -> None:
        fan_out = self.fan_out
        assert fan_out is not None  # noqa: S101 - set before the link is connected
        if kind == _CHANGED:
            fan_out.changed(*_unpacked(body))
        elif kind == _PRESENT:
            identity, kept = _unpacked(body[1:])
            fan_out.present(identity, kept, conflated=bool(body[0]))
        elif kind == _MISSED:
            client, recovered = _CLIENT.unpack_from(body)
            identity, kept = _unpacked(body[_CLIENT.size :])
            fan_out.missed(client, identity, kept, recovered=bool(recovered))
        else:
            self._answer(fan_out, _to_worker.decode(body))

    def _answer(self, fan_out: FanOut, message: ToWorker) -> None:
        match message:
            case Subscribed():
                fan_out.subscribed(message.client, message.request, message.interval, message.streams)
            case Unsubscribed():
                fan_out.unsubscribed(message.client, message.request, message.keys)
            case Refusal():
                fan_out.refused(message.client, Refused(message.code, message.message, message.identity))
            case End() | Close():
                self._on_end(message)

    def _taken(self) -> None:
        if self.fan_out is not None:
            self.fan_out.flush()


def _packed(kind: int, extra: bytes, identity: int, kept: list[Kept]) -> bytes:
    """Return a message of frames."""
    parts = [extra, _STREAM.pack(identity, len(kept))]
    for one in kept:
        plain = one.frame.plain
        parts += (_FRAME.pack(one.number, len(plain)), plain)
    body = b"".join(parts)
    return _HEAD.pack(len(body), kind) + body


def _unpacked(body: memoryview) -> tuple[int, list[Kept]]:
    """Return the stream and the frames of a message. Places stay with the market: only it keeps frames."""
    identity, count = _STREAM.unpack_from(body)
    at = _STREAM.size
    kept: list[Kept] = []
    for _ in range(count):
        number, length = _FRAME.unpack_from(body, at)
        at += _FRAME.size
        kept.append(Kept((0, 0), number, 0, Frame(bytes(body[at : at + length]))))
        at += length
    return identity, kept
