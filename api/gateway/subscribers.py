"""A WebSocket client and the streams that it subscribes to: what it is sent, and what is left out when it is slow."""

from __future__ import annotations

from typing import Protocol

import msgspec
import orjson

from api.core.consolidated import Product
from api.core.messages import Json
from api.core.symbol_state import SymbolState
from api.core.trust import Trust
from api.gateway.frames import Frame


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


class Stream:
    """One stream and its subscribers."""

    __slots__ = ("key", "sequence", "state", "subscribers", "trust")

    def __init__(self, key: StreamKey, state: SymbolState) -> None:
        self.key = key
        self.state = state
        self.subscribers: dict[Client, None] = {}
        self.sequence = 0  # books and consolidated only; the others count in the market's state
        self.trust: Trust | None = None  # as last sent; books, tickers and derivatives only


class Host(Protocol):
    """What a client needs of its gateway."""

    limits: Limits

    def cut(self, client: Client, code: str, message: str) -> None:
        """Send a client an error and end its connection."""

    def touched(self, client: Client) -> None:
        """Note that a client has something to be written at the end of this batch."""


class Client:
    """One WebSocket client."""

    __slots__ = ("_pending", "_pending_bytes", "connection", "cut", "dirty", "gateway", "paused", "streams")

    def __init__(self, gateway: Host, connection: Connection) -> None:
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
            # A burst alone makes no client slow: the socket shows whether this one is.
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

    def encode(self, message: Json) -> bytes:
        """Return a message as a frame that this client reads."""
        return self.choose(Frame(orjson.dumps(message)))

    def choose(self, frame: Frame) -> bytes:
        """Return a frame compressed where the client agreed to it."""
        return frame.deflated() if self.connection.deflate else frame.plain

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
        """Return whether no more should be collected before the socket took some of it."""
        return self.paused or self._pending_bytes > self.gateway.limits.conflate_bytes
