"""What waits between a socket and the connection's task, and stops the socket's reading when it is too much."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import Literal, Protocol

import msgspec
from prometheus_client import Counter

from marketdata.feed import Fetch

INBOX_FRAMES_MAX = 20_000

_PAUSES = Counter("tickstream_read_pauses_total", "Times that reading stopped because of back-pressure.", ["line"])


class Wire(Protocol):
    """An open socket of whatever kind, as the connection's task uses it; nothing here raises once it is closed."""

    @property
    def is_up(self) -> bool:
        """Whether something can still be sent."""

    def send(self, frame: bytes) -> None:
        """Send one frame of ours."""

    def report_caught_up(self) -> None:
        """Answer a replay server that asked whether all that it sent has been handled."""

    def send_close(self) -> None:
        """Send a close message where the protocol has one."""

    def disconnect(self) -> None:
        """Close, after what was sent has gone or could not go for a while."""

    def pause(self) -> None:
        """Stop reading: TCP makes the other side wait."""

    def resume(self) -> None:
        """Read again."""


class Item(msgspec.Struct, gc=False):
    """What waits in the inbox: a frame, a REST answer with its request, a replay server's question, or the end."""

    kind: Literal["frame", "answer", "caught_up", "end"]
    ts: int
    data: bytes = b""
    request: Fetch | None = None
    reason: str = ""


class Inbox:
    """Keeps what the socket's callback brings, in order, for the connection's task."""

    def __init__(self, bytes_max: int, line: str) -> None:
        self.items: deque[Item] = deque()
        self.filled = asyncio.Event()
        self.bytes = 0
        self.paused = False
        self.ts_recorded: int | None = None  # in a replay, when the next frame came
        self.ts_pong = 0  # when the venue last answered a ping, UTC ns; everything that it sent before is in the inbox
        self.read_since = -math.inf  # when reading began again after a pause
        self.wire: Wire | None = None
        self._bytes_max = bytes_max
        self._line = line

    def put(self, item: Item) -> None:
        """Keep something for the connection's task."""
        self.items.append(item)
        self.bytes += len(item.data)
        self.filled.set()
        full = self.bytes > self._bytes_max or len(self.items) > INBOX_FRAMES_MAX
        if full and not self.paused and self.wire is not None:
            self.paused = True
            _PAUSES.labels(self._line).inc()
            self.wire.pause()

    def take(self) -> Item:
        """Return the oldest item, and read on when little is left."""
        item = self.items.popleft()
        self.bytes -= len(item.data)
        if not self.items:
            self.filled.clear()
        if self.paused and self.bytes < self._bytes_max // 4 and len(self.items) < INBOX_FRAMES_MAX // 4:
            self.paused = False
            self.read_since = time.monotonic()
            if self.wire is not None:
                self.wire.resume()
        return item
