"""The frames that a WebSocket server sends within one turn of the event loop, which leave together in one write.

A write to a client that waits for data wakes it, which costs more than the frame itself: thousands of frames a second
need to share their writes. Frames wait until the end of the turn at most, and at most `WAITING_BYTES_MAX` bytes wait.
"""

from __future__ import annotations

import asyncio
import struct

from picows import WSCloseCode, WSMsgType, WSTransport

WAITING_BYTES_MAX = 64 * 1024

_FIN = 0x80
_SHORT_MAX, _MEDIUM_MAX = 125, 0xFFFF
_SHORT, _MEDIUM, _LONG = struct.Struct(">BB"), struct.Struct(">BBH"), struct.Struct(">BBQ")


def header(kind: WSMsgType, size: int) -> bytes:
    """Return the header of a server's whole frame with a payload of `size` bytes (RFC 6455, 5.2)."""
    first = _FIN | kind.value
    if size <= _SHORT_MAX:
        return _SHORT.pack(first, size)
    if size <= _MEDIUM_MAX:
        return _MEDIUM.pack(first, 126, size)
    return _LONG.pack(first, 127, size)


class Outbox:
    """What is to be sent on one connection; frames keep their order, those that picows sends itself excepted."""

    def __init__(self, transport: WSTransport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._waiting_bytes = 0
        self.buffered_bytes = 0

    def send(self, kind: WSMsgType, payload: bytes) -> None:
        """Send a frame by the end of this turn of the loop; nothing is sent after a close frame."""
        if self._transport.is_close_frame_sent or self._transport.is_disconnected:
            return
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(header(kind, len(payload)))
        self._parts.append(payload)
        self._waiting_bytes += len(payload)
        if self._waiting_bytes > WAITING_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Send now what waits, and note how many bytes the socket has not yet taken."""
        parts, self._parts = self._parts, []
        self._waiting_bytes = 0
        if not parts or self._transport.is_disconnected:
            return
        socket = self._transport.underlying_transport
        socket.write(b"".join(parts))
        self.buffered_bytes = socket.get_write_buffer_size()

    def close(self, code: WSCloseCode, reason: bytes) -> None:
        """Send what waits, then a close frame."""
        self.flush()
        self._transport.send_close(code, reason)
