"""The WebSocket on uvicorn's port: uvicorn accepts and reads the upgrade request, picows handles the protocol.

Measured on one core, picows moves far more messages than Starlette's own WebSocket (`bench/websocket.py`). uvicorn
hands a connection over by making `Config.ws(config=..., server_state=..., app_state=...)`, calling `connection_made`
with the transport, `data_received` with the upgrade request, and `transport.set_protocol`. `Upgraded` is that protocol:
it feeds picows, and keeps uvicorn's list of connections, so that a shutdown waits for the goodbyes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined] # compiled, and left out of its stubs

from api.gateway.clients import Client
from api.gateway.fan_out import FanOut
from api.gateway.frames import EXTENSION, accepts_deflate, inflate

PATH = "/ws"
REQUEST_BYTES_MAX = 64 * 1024
# What the kernel may hold for one client: old states that cannot be taken back, so it is kept small.
_SOCKET_BUFFER_BYTES = 256 * 1024
_HANDSHAKE_TIMEOUT_S = 5.0
_READ_BUFFER_BYTES = 2048
# How long a client that is being disconnected may read what is left.
_LINGER_S = 5.0
_LOGGER = logging.getLogger("picows.server")
# picows logs every connection at level info.
_LOGGER.setLevel(logging.ERROR)


class Listener(WSListener):
    """One client's socket, as picows reports it and as the gateway uses it."""

    def __init__(self, gateway: FanOut, deflate: bool) -> None:
        super().__init__()
        self.deflate = deflate
        self._gateway = gateway
        self._client: Client | None = None
        self._socket: Any = None
        self._message = bytearray()
        self._compressed = False

    # What picows calls

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Set the limits and make the client known."""
        self._socket = transport
        under = transport.underlying_transport
        conflate_bytes = self._gateway.limits.conflate_bytes
        under.set_write_buffer_limits(high=conflate_bytes, low=conflate_bytes // 4)
        under.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        self._client = self._gateway.connected(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Put messages together and hand them on."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code() or WSCloseCode.OK, b"")
            transport.disconnect()
        elif frame.msg_type == WSMsgType.BINARY:
            self.close(WSCloseCode.UNSUPPORTED_DATA.value, "text messages only")
        elif frame.msg_type in {WSMsgType.TEXT, WSMsgType.CONTINUATION}:
            self._part(frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - picows' signature
        """Forget the client."""
        if self._client is not None:
            self._gateway.disconnected(self._client)

    def pause_writing(self) -> None:
        """Note that this client is behind."""
        if self._client is not None:
            self._client.paused = True

    def resume_writing(self) -> None:
        """Give the client what it missed."""
        if self._client is not None and not self._client.cut:
            self._gateway.drained(self._client)

    def _part(self, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self._message.clear()
            self._compressed = frame.rsv1
        self._message += frame.get_payload_as_memoryview()
        if len(self._message) > REQUEST_BYTES_MAX:
            self.close(WSCloseCode.MESSAGE_TOO_BIG.value, f"at most {REQUEST_BYTES_MAX} bytes")
        elif frame.fin and self._client is not None:
            message = bytes(self._message)
            self._message.clear()
            if self._compressed:
                try:
                    message = inflate(message, REQUEST_BYTES_MAX)
                except ValueError as error:
                    self.close(WSCloseCode.INVALID_TEXT.value, str(error)[:100])
                    return
            self._gateway.received(self._client, message)

    # What the gateway calls

    def write(self, frames: list[bytes]) -> None:
        """Send frames that are ready for the wire."""
        if not self._socket.is_close_frame_sent and not self._socket.is_disconnected:
            self._socket.underlying_transport.writelines(frames)

    def backlog(self) -> int:
        """Return how many bytes the socket did not take yet."""
        size: int = self._socket.underlying_transport.get_write_buffer_size()
        return size

    def close(self, code: int, reason: str) -> None:
        """Send what is left and a close frame; a peer that takes nothing any more is dropped after a while."""
        if self._socket is None or self._socket.is_close_frame_sent or self._socket.is_disconnected:
            return
        self._socket.send_close(WSCloseCode(code), reason.encode())
        under = self._socket.underlying_transport
        loop = asyncio.get_running_loop()
        # The peer answers with its own close frame, upon which the connection ends; this is for those that do not.
        loop.call_later(_LINGER_S, under.abort)


class Upgraded(asyncio.Protocol):
    """A connection that uvicorn handed over; uvicorn makes one a connection."""

    def __init__(self, gateway: FanOut, ping_s: float, server_state: Any) -> None:
        self._connections: set[Any] = server_state.connections
        self._gateway = gateway
        self._listener: Listener | None = None
        self._protocol: Any = WSProtocol(
            None, None, False, self._listen, _LOGGER, True, _HANDSHAKE_TIMEOUT_S,
            True, ping_s, ping_s, WSAutoPingStrategy.PING_WHEN_IDLE, True, REQUEST_BYTES_MAX, None, _READ_BUFFER_BYTES,
        )  # fmt: skip

    def _listen(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        path = (request.path or b"").partition(b"?")[0].decode("ascii", "replace")
        if path != PATH:
            return _refusal(404, "There is one WebSocket: /ws")
        if self._gateway.is_full:
            return _refusal(503, "Too many WebSocket connections; try again later")
        deflate = accepts_deflate(",".join(request.headers.getall("Sec-WebSocket-Extensions", [])))
        self._listener = Listener(self._gateway, deflate)
        headers = {"Sec-WebSocket-Extensions": EXTENSION} if deflate else None
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(headers), self._listener)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._connections.add(self)
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Give picows what came, in pieces of its buffer's size."""
        if self._listener is None:
            data = _plain_upgrade(data)
        view = memoryview(data)
        while view:
            buffer = self._protocol.get_buffer(len(view))
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            self._protocol.buffer_updated(size)
            view = view[size:]

    def eof_received(self) -> bool:
        """Close when the peer did."""
        closed: bool = self._protocol.eof_received()
        return closed

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._connections.discard(self)
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on that the transport holds much."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the transport holds little."""
        self._protocol.resume_writing()

    def shutdown(self) -> None:
        """Close the connection; uvicorn calls this when it stops."""
        if self._listener is not None:
            self._listener.close(WSCloseCode.GOING_AWAY.value, "the server is going away")


def protocol(gateway: FanOut, ping_s: float) -> Callable[..., asyncio.Protocol]:
    """Return what `uvicorn.Config(ws=...)` takes."""

    def upgraded(*, config: Any, server_state: Any, app_state: Any) -> asyncio.Protocol:  # noqa: ARG001 - uvicorn's call
        return Upgraded(gateway, ping_s, server_state)

    return upgraded


def _refusal(status: int, detail: str) -> WSUpgradeResponseWithListener:
    body = f'{{"type":"about:blank","title":"{detail}","status":{status},"detail":"{detail}"}}'.encode()
    response = WSUpgradeResponse.create_error_response(status, body, {"Content-Type": "application/problem+json"})
    return WSUpgradeResponseWithListener(response, None)


def _plain_upgrade(request: bytes) -> bytes:
    """Return the request with `Connection: Upgrade` alone: Firefox says `keep-alive, Upgrade`, which picows refuses."""
    lines = request.split(b"\r\n")
    return b"\r\n".join(b"connection: Upgrade" if line[:11].lower() == b"connection:" else line for line in lines)
