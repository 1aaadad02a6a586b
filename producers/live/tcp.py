"""A line over plain TCP, or TLS: bytes, which a splitter of the venue's cuts into frames."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import cast
from urllib.parse import urlsplit

from producers.live.inbox import Inbox, Item
from producers.venues.kit.venue import FrameError, Splitter

# What was sent last has this long to go before the socket is closed anyway.
CLOSE_S = 1.0


class _Receiver(asyncio.Protocol):
    """Receives from the socket into the inbox."""

    def __init__(self, inbox: Inbox, splitter: Splitter | None) -> None:
        self._inbox = inbox
        self._splitter = splitter
        self._reason = "connection_lost"
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the socket."""
        self._transport = cast("asyncio.Transport", transport)
        self._inbox.wire = Tcp(self._transport)

    def data_received(self, data: bytes) -> None:
        """Stamp and keep the frames that are whole now; without a splitter the bytes as they come."""
        ts = time.time_ns()
        if self._splitter is None:
            self._inbox.put(Item("frame", ts, data))
            return
        try:
            for frame in self._splitter.split(data):
                self._inbox.put(Item("frame", ts, frame))
        except FrameError as error:
            self._reason = error.reason
            if self._transport is not None:
                self._transport.abort()

    def eof_received(self) -> None:
        """The other side ended it in order."""
        self._reason = "closed"

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        """Keep the end behind the frames that came before it."""
        self._inbox.put(Item("end", time.time_ns(), reason=self._reason))


class Tcp:
    """The socket, as `producers.live.inbox.Wire`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    @property
    def is_up(self) -> bool:
        """Whether something can still be sent."""
        return not self._transport.is_closing()

    def send(self, frame: bytes) -> None:
        """Send these bytes."""
        if self.is_up:
            self._transport.write(frame)

    def report_caught_up(self) -> None:
        """Do nothing: only replays over WebSocket ask."""

    def send_close(self) -> None:
        """Do nothing: TCP has no close message, and a venue's protocol that has one sends it itself."""

    def disconnect(self) -> None:
        """Close the socket, after CLOSE_S even if the other side has stopped reading."""
        if self.is_up:
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSE_S, self._transport.abort)

    def pause(self) -> None:
        """Stop reading."""
        if self.is_up:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.is_up:
            self._transport.resume_reading()


async def connect(url: str, inbox: Inbox, splitter: Splitter | None) -> Tcp:
    """Connect to `tcp://host:port` or `tls://host:port`; what comes goes to the inbox.

    Raises OSError, which TLS's refusals are.
    """
    address = urlsplit(url)
    transport, _ = await asyncio.get_running_loop().create_connection(
        lambda: _Receiver(inbox, splitter),
        address.hostname or "",
        address.port or 0,
        ssl=ssl.create_default_context() if address.scheme == "tls" else None,
    )
    return Tcp(transport)
