"""A WebSocket client: what it is sent, and what is left out when it is slow."""

from __future__ import annotations

from typing import Protocol

import msgspec
import orjson

from api.auth.admission import Admission
from api.core.messages import Json
from api.gateway.frames import Frame
from api.gateway.kept_frames import Kept
from api.gateway.stream_key import StreamKey

# Streams in which the newest state replaces all before it; of the others nothing may be left out.
STATES = frozenset({"book", "ticker", "candles", "metrics", "consolidated"})


class Connection(Protocol):
    """What the fan-out needs of a client's socket."""

    deflate: bool
    admission: Admission

    def write(self, frames: list[bytes]) -> None:
        """Send these frames; what the socket does not take at once is kept."""

    def backlog(self) -> int:
        """Return how many bytes were not sent yet."""

    def close(self, code: int, reason: str) -> None:
        """Send what is left and a close frame, and end."""


class Limits(msgspec.Struct, frozen=True):
    """What one client may ask of us."""

    clients_max: int
    subscriptions_max: int
    conflate_bytes: int
    cut_bytes: int


class Followed:
    """A stream of which this process has clients."""

    __slots__ = ("asked", "clients", "follows", "identity", "is_state", "key")

    def __init__(self, identity: int, key: StreamKey) -> None:
        self.identity = identity
        self.key = key
        self.is_state = key.channel in STATES
        self.clients: dict[Client, None] = {}
        self.follows = 0  # how often it was given to us
        # Clients that wait for the present, by whether they know something of the stream (conflated).
        self.asked: dict[bool, dict[Client, None]] = {False: {}, True: {}}


class Host(Protocol):
    """What a client needs of its fan-out."""

    limits: Limits

    def cut(self, client: Client, code: str, message: str) -> None:
        """Send a client an error and end its connection."""

    def touched(self, client: Client) -> None:
        """Note that a client has something to be written at the end of this batch."""


class Client:
    """One WebSocket client.

    `dirty` are the streams of which the client is not up to date, each with the last number that it was sent (None:
    nothing yet). It is sent no change of these until it was given the present, or what it missed (`resuming`).
    """

    __slots__ = (
        "_host", "_pending", "_pending_bytes", "connection", "cut", "dirty", "identity", "paused", "resuming",
        "streams",
    )  # fmt: skip

    def __init__(self, host: Host, connection: Connection, identity: int) -> None:
        self.connection = connection
        self.identity = identity
        self.streams: dict[StreamKey, Followed] = {}
        self.dirty: dict[Followed, int | None] = {}
        self.resuming: set[Followed] = set()
        self.paused = False
        self.cut = False
        self._host = host
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def send_state(self, followed: Followed, frame: bytes, last: int) -> bool:
        """Send a change of a state, or leave it out and remember that the client knows it up to `last` only."""
        if followed in self.dirty:
            return False
        if self.full:
            # A burst alone makes no client slow: the socket shows whether this one is.
            self.flush()
        if self.paused:
            self.dirty[followed] = last
            return False
        self.append(frame)
        return True

    def send_event(self, frame: bytes) -> bool:
        """Send what must not be left out, or cut the client."""
        if self.cut:
            return False
        if self.full:
            self.flush()
        if self.connection.backlog() + len(frame) > self._host.limits.cut_bytes:
            self._host.cut(self, "slow_consumer", "too slow for a channel of which nothing may be left out")
            return False
        self.append(frame)
        return True

    def send_all(self, kept: list[Kept]) -> None:
        """Send frames that bring the client to the present."""
        for one in kept:
            self.append(self.choose(one.frame))

    def encode(self, message: Json) -> bytes:
        """Return a message as a frame that this client reads."""
        return self.choose(Frame.of(orjson.dumps(message)))

    def choose(self, frame: Frame) -> bytes:
        """Return a frame compressed where the client agreed to it."""
        return frame.deflated() if self.connection.deflate else frame.plain

    def append(self, frame: bytes) -> None:
        """Send a frame at the end of this batch."""
        if not self._pending:
            self._host.touched(self)
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
        return self.paused or self._pending_bytes > self._host.limits.conflate_bytes
