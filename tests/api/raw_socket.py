"""A WebSocket client that sends any bytes, for tests of what the server does with wrong ones."""

from __future__ import annotations

import socket
import struct
import time
from typing import Self

from websockets.frames import Close

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
_LIMIT_S = 20.0
_UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def frame(first: int, payload: bytes = b"", *, masked: bool = True, length: int | None = None) -> bytes:
    """Return a frame as a client sends it; `first` has the opcode and the FIN and RSV bits."""
    size = len(payload) if length is None else length
    mark = 0x80 if masked else 0
    if size <= 125:
        head = struct.pack("!BB", first, mark | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, mark | 126, size)
    else:
        head = struct.pack("!BBQ", first, mark | 127, size)
    return head + (bytes(4) if masked else b"") + payload  # masked with zeros, which changes nothing


class RawSocket:
    """A connection to `/ws`, after the handshake; use it as a context manager."""

    def __init__(self, port: int, extensions: str = "", headers: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_LIMIT_S)
        offered = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
        self.socket.sendall(f"{_UPGRADE}{offered}{headers}\r\n".encode())
        self.answer = b""
        while b"\r\n\r\n" not in self.answer:
            self.answer += self._more()
        self.answer, _, self._unread = self.answer.partition(b"\r\n\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        """Send frames at once."""
        self.socket.sendall(b"".join(frames))

    def receive(self) -> tuple[int, bytes]:
        """Return the opcode and the payload of the next frame; fails when the connection ends."""
        self._need(2)
        opcode, size, head = self._unread[0] & 0xF, self._unread[1], 2
        if size == 126:
            self._need(4)
            size, head = struct.unpack("!H", self._unread[2:4])[0], 4
        elif size == 127:
            self._need(10)
            size, head = struct.unpack("!Q", self._unread[2:10])[0], 10
        self._need(head + size)
        payload, self._unread = self._unread[head : head + size], self._unread[head + size :]
        return opcode, payload

    def close_code(self) -> int:
        """Return the code of the close frame that the server sends, whatever comes before it, and wait for the end."""
        while True:
            opcode, payload = self.receive()
            if opcode == CLOSE:
                break
        self.wait_closed()
        return Close.parse(payload).code

    def wait_closed(self, limit_s: float = _LIMIT_S) -> None:
        """Wait until the server has closed the connection."""
        deadline = time.monotonic() + limit_s
        self.socket.settimeout(limit_s)
        try:
            while self.socket.recv(65_536):
                assert time.monotonic() < deadline, "the server keeps sending"
        except ConnectionError:
            return

    def trickle(self, data: bytes, size: int) -> None:
        """Send the first bytes one by one and then the rest, unless the server ends the connection before."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for at in range(min(size, len(data))):
                self.socket.sendall(data[at : at + 1])
            self.socket.sendall(data[size:])
        except ConnectionError:
            return

    def flood(self, data: bytes, size: int) -> int:
        """Send these bytes again and again until so many were sent or the server ends it; return how many were."""
        sent = 0
        try:
            while sent < size:
                self.socket.sendall(data)
                sent += len(data)
        except (ConnectionError, TimeoutError):
            pass
        return sent

    def _need(self, size: int) -> None:
        while len(self._unread) < size:
            self._unread += self._more()

    def _more(self) -> bytes:
        data = self.socket.recv(65_536)
        assert data, "the server ended the connection"
        return data
