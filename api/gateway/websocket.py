"""The WebSocket on uvicorn's port: uvicorn accepts and reads the upgrade request, picows handles the protocol.

Measured on one core, picows moves far more messages than Starlette's own WebSocket (`bench/websocket.py`). uvicorn
hands a connection over by making `Config.ws(config=..., server_state=..., app_state=...)`, calling `connection_made`
with the transport, `data_received` with the upgrade request, and `transport.set_protocol`. `Upgraded` is that protocol:
it feeds picows, and keeps uvicorn's list of connections, so that a shutdown waits for the last messages.

Rules of RFC 6455, "The WebSocket Protocol" (https://www.rfc-editor.org/rfc/rfc6455), and of RFC 7692, "Compression
Extensions for WebSocket" (https://www.rfc-editor.org/rfc/rfc7692). picows checks opcodes, masks, lengths and control
frames; `Listener` checks the rest and limits what one client can cost:
1. A message has at most `REQUEST_BYTES_MAX` bytes, in one frame or in many, compressed or inflated (close code 1009).
2. A client sends at most `FRAMES_PER_S_MAX` frames a second (1008).
3. Of several pings in a row only the last one is answered, as RFC 6455 5.5.3 allows, and none while much is unsent.
4. Once a close frame was sent, everything but the peer's own close frame is dropped. The connection is aborted when
   the peer goes on sending, or does not close in time.
5. A client that is silent is pinged; one that stays silent for as long again is disconnected.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
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

from api.auth.admission import Admission, Doorkeeper, Refusal
from api.gateway.clients import Client
from api.gateway.fan_out import FanOut
from api.gateway.frames import EXTENSION, TooLong, accepts_deflate, inflate
from api.hosts import Hosts, problem_body

PATH = "/ws"
REQUEST_BYTES_MAX = 64 * 1024
FRAMES_PER_S_MAX = 2_000
# What the kernel may hold for one client: old states that cannot be taken back, so it is kept small.
_SOCKET_BUFFER_BYTES = 256 * 1024
_HANDSHAKE_TIMEOUT_S = 5.0
_READ_BUFFER_BYTES = 2048
# How long a client that is being disconnected may read what is left; and one that broke a rule.
_LINGER_S = 5.0
_LINGER_AFTER_VIOLATION_S = 1.0
# What such a client may still send: about what was on its way already.
_DROPPED_BYTES_MAX = 1024 * 1024
# Pings are not answered while more than this is unsent.
_PONG_UNSENT_BYTES_MAX = 64 * 1024
_LOG = structlog.get_logger()
_PICOWS_LOG = logging.getLogger("picows.server")
# picows logs every connection at level info, and every mistake of a client as an error.
_PICOWS_LOG.setLevel(logging.CRITICAL)


class Listener(WSListener):
    """One client's socket, as picows reports it and as the gateway uses it."""

    def __init__(self, gateway: FanOut, admission: Admission, deflate: bool, ping_s: float) -> None:
        super().__init__()
        self.admission = admission
        self.deflate = deflate
        self.is_closing = False
        self._gateway = gateway
        self._client: Client | None = None
        self._socket: Any = None
        self._loop = asyncio.get_running_loop()
        self._message = bytearray()
        self._in_message = False
        self._compressed = False
        self._second = 0.0
        self._frames = 0
        self._ping: bytes | None = None
        self._ping_s = ping_s
        self._received_at = self._loop.time()
        self._pinged = False
        self._timer: asyncio.TimerHandle | None = None

    # What picows calls

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Set the limits and make the client known."""
        self._socket = transport
        under = transport.underlying_transport
        conflate_bytes = self._gateway.limits.conflate_bytes
        under.set_write_buffer_limits(high=conflate_bytes, low=conflate_bytes // 4)
        under.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        self._client = self._gateway.connected(self)
        self.admission.opened(self.close)
        self._timer = self._loop.call_later(self._ping_s, self._watch)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Put messages together and hand them on."""
        if frame.msg_type == WSMsgType.CLOSE:
            self._peer_closes(transport, frame.get_payload_as_bytes())
        elif not self.is_closing:
            try:
                self._take(frame)
            except Exception:  # noqa: BLE001 - one client's message, whatever is wrong with it
                _LOG.exception("a message of a WebSocket client could not be handled")
                self.fail(WSCloseCode.INTERNAL_ERROR.value, "the server failed")

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - picows' signature
        """Forget the client."""
        self.is_closing = True
        self._forget()

    def pause_writing(self) -> None:
        """Note that this client is behind."""
        if self._client is not None:
            self._client.paused = True

    def resume_writing(self) -> None:
        """Give the client what it missed."""
        if self._client is not None and not self._client.cut:
            self._gateway.drained(self._client)
        self.answer_ping()

    # What the gateway calls

    def write(self, frames: list[bytes]) -> None:
        """Send frames that are ready for the wire."""
        if not self.is_closing and not self._socket.is_close_frame_sent and not self._socket.is_disconnected:
            self._socket.underlying_transport.writelines(frames)

    def backlog(self) -> int:
        """Return how many bytes the socket did not take yet."""
        size: int = self._socket.underlying_transport.get_write_buffer_size()
        return size

    def close(self, code: int, reason: str) -> None:
        """Send what is left and a close frame; a peer that takes nothing any more is dropped after a while."""
        self._close(code, reason, _LINGER_S)

    # What the connection calls

    def noted(self) -> None:
        """Note that something arrived."""
        self._received_at = self._loop.time()
        self._pinged = False

    def answer_ping(self) -> None:
        """Answer the last ping, unless the client reads too slowly: then later."""
        if self._ping is None or self.is_closing or self.backlog() > _PONG_UNSENT_BYTES_MAX:
            return
        self._socket.send_pong(self._ping)
        self._ping = None

    def fail(self, code: int, reason: str) -> None:
        """End the connection of a client that broke a rule, soon and at once for the gateway."""
        self._close(code, reason, _LINGER_AFTER_VIOLATION_S)
        self._forget()

    def abort_soon(self) -> None:
        """End the connection after picows has sent a close frame itself; it reads no further."""
        self.is_closing = True
        self._forget()
        self._loop.call_later(_LINGER_AFTER_VIOLATION_S, self._socket.underlying_transport.abort)

    # Parts

    def _take(self, frame: WSFrame) -> None:
        now = self._loop.time()
        if now - self._second >= 1:
            self._second, self._frames = now, 0
        self._frames += 1
        if self._frames > FRAMES_PER_S_MAX:
            self.fail(WSCloseCode.POLICY_VIOLATION.value, f"at most {FRAMES_PER_S_MAX} frames a second")
        elif frame.rsv2 or frame.rsv3 or (frame.rsv1 and not (self.deflate and frame.msg_type == WSMsgType.TEXT)):
            self.fail(WSCloseCode.PROTOCOL_ERROR.value, "a reserved bit is set that was not negotiated")
        elif frame.msg_type == WSMsgType.PING:
            self._ping = frame.get_payload_as_bytes()
        elif frame.msg_type == WSMsgType.BINARY:
            self.fail(WSCloseCode.UNSUPPORTED_DATA.value, "text messages only")
        elif frame.msg_type != WSMsgType.PONG:
            self._part(frame)

    def _part(self, frame: WSFrame) -> None:
        starts = frame.msg_type == WSMsgType.TEXT
        payload = frame.get_payload_as_memoryview()
        if starts == self._in_message:
            expected = "a continuation frame" if self._in_message else "the start of a message"
            self.fail(WSCloseCode.PROTOCOL_ERROR.value, f"expected {expected}")
            return
        if len(self._message) + len(payload) > REQUEST_BYTES_MAX:
            self.fail(WSCloseCode.MESSAGE_TOO_BIG.value, f"at most {REQUEST_BYTES_MAX} bytes")
            return
        if starts:
            self._compressed = bool(frame.rsv1)
        self._in_message = not frame.fin
        self._message += payload
        if frame.fin:
            message = bytes(self._message)
            self._message = bytearray()
            self._complete(message)

    def _complete(self, message: bytes) -> None:
        try:
            if self._compressed:
                message = inflate(message, REQUEST_BYTES_MAX)
            message.decode()
        except TooLong as error:
            self.fail(WSCloseCode.MESSAGE_TOO_BIG.value, str(error))
        except UnicodeDecodeError:
            self.fail(WSCloseCode.INVALID_TEXT.value, "the text is not UTF-8")
        except ValueError as error:
            self.fail(WSCloseCode.INVALID_TEXT.value, str(error)[:100])
        else:
            if self._client is not None:
                self._gateway.received(self._client, message)

    def _peer_closes(self, transport: WSTransport, payload: bytes) -> None:
        """Answer the peer's close frame with its own code and end; RFC 6455 7.4 lists the codes that it may use."""
        if not transport.is_close_frame_sent:
            code = int.from_bytes(payload[:2], "big") if payload else WSCloseCode.OK.value
            is_valid = 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
            transport.send_close(code if is_valid else WSCloseCode.PROTOCOL_ERROR.value, b"")  # type: ignore[arg-type]
        self.is_closing = True
        self._forget()
        transport.disconnect()
        self._loop.call_later(_LINGER_AFTER_VIOLATION_S, transport.underlying_transport.abort)

    def _close(self, code: int, reason: str, linger_s: float) -> None:
        if self._socket is None or self.is_closing or self._socket.is_close_frame_sent or self._socket.is_disconnected:
            return
        self.is_closing = True
        self._message = bytearray()
        self._socket.send_close(WSCloseCode(code), reason.encode())
        # The peer answers with its own close frame, upon which the connection ends; this is for those that do not.
        self._loop.call_later(linger_s, self._socket.underlying_transport.abort)

    def _forget(self) -> None:
        self.admission.closed()
        self._message = bytearray()
        self._ping = None
        if self._timer is not None:
            self._timer.cancel()
        client, self._client = self._client, None
        if client is not None:
            self._gateway.disconnected(client)

    def _watch(self) -> None:
        """Ping a silent client, and end the connection of one that does not answer."""
        if self.is_closing:
            return
        silent_s = self._loop.time() - self._received_at
        if silent_s < self._ping_s:
            self._timer = self._loop.call_later(self._ping_s - silent_s, self._watch)
        elif self._pinged:
            self.fail(WSCloseCode.GOING_AWAY.value, "no answer to a ping")
        else:
            self._pinged = True
            self._socket.send_ping()
            self._timer = self._loop.call_later(self._ping_s, self._watch)


class Upgraded(asyncio.Protocol):
    """A connection that uvicorn handed over; uvicorn makes one a connection."""

    def __init__(
        self, gateway: FanOut, doorkeeper: Doorkeeper, ping_s: float, hosts: Hosts, *, server_state: Any
    ) -> None:
        self._connections: set[Any] = server_state.connections
        self._doorkeeper = doorkeeper
        self._gateway = gateway
        self._ping_s = ping_s
        self._hosts = hosts
        self._listener: Listener | None = None
        self._transport: Any = None
        self._is_answered = False
        self._is_broken = False
        self._dropped_bytes = 0
        self._protocol: Any = WSProtocol(
            None, None, False, self._listen, _PICOWS_LOG, True, _HANDSHAKE_TIMEOUT_S,
            False, ping_s, ping_s, WSAutoPingStrategy.PING_WHEN_IDLE, False,
            REQUEST_BYTES_MAX, None, _READ_BUFFER_BYTES,
        )  # fmt: skip

    def _listen(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        hosts = request.headers.getall("Host", [])
        refusal = self._hosts.refusal(hosts, self._transport.get_extra_info("sockname")[0])
        if refusal is not None:
            return _refusal(*refusal)
        if any(not self._hosts.trusts(origin, hosts[0]) for origin in request.headers.getall("Origin", [])):
            return _refusal(
                HTTPStatus.FORBIDDEN,
                "web pages of this origin may not use this API; its operator adds origins by TICKSTREAM_API_ORIGINS",
            )
        path = (request.path or b"").partition(b"?")[0].decode("ascii", "replace")
        if path != PATH:
            return _refusal(HTTPStatus.NOT_FOUND, "There is one WebSocket: /ws")
        if self._gateway.is_full:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Too many WebSocket connections; try again later")
        peer = self._transport.get_extra_info("peername")
        target = (request.path or b"").decode("ascii", "replace")
        admission = self._doorkeeper.admit(target, request.headers, peer[0] if peer else None)
        if isinstance(admission, Refusal):
            response = WSUpgradeResponse.create_error_response(admission.status, admission.body, admission.headers)
            return WSUpgradeResponseWithListener(response, None)
        deflate = accepts_deflate(",".join(request.headers.getall("Sec-WebSocket-Extensions", [])))
        self._listener = Listener(self._gateway, admission, deflate, self._ping_s)
        headers = {"Sec-WebSocket-Extensions": EXTENSION} if deflate else {}
        if admission.subprotocol is not None:
            headers["Sec-WebSocket-Protocol"] = admission.subprotocol
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(headers), self._listener)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._connections.add(self)
        self._transport = transport
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Give picows what came, while it can use it."""
        listener = self._listener
        if not self._is_answered:
            self._is_answered = True
            self._feed(_plain_upgrade(data))
        elif listener is None or self._is_broken:
            self._drop(len(data))
        elif listener.is_closing:
            self._drop(len(data))
            self._feed(data)
        else:
            listener.noted()
            self._feed(data)
            listener.answer_ping()

    def _feed(self, data: bytes) -> None:
        """Give picows data in pieces of half its buffer, so that only a frame that needs it makes the buffer grow."""
        view = memoryview(data)
        while view and not self._transport.is_closing():
            buffer = self._protocol.get_buffer(len(view))
            size = min((len(buffer) + 1) // 2, len(view))
            buffer[:size] = view[:size]
            self._protocol.buffer_updated(size)
            view = view[size:]
            listener = self._listener
            if listener is not None and self._protocol.transport.is_close_frame_sent and not listener.is_closing:
                # picows found a frame that it cannot read, sent the reason, and would keep what comes after it.
                self._is_broken = True
                listener.abort_soon()
                return

    def _drop(self, count: int) -> None:
        self._dropped_bytes += count
        if self._dropped_bytes > _DROPPED_BYTES_MAX:
            self._transport.abort()

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


def protocol(gateway: FanOut, doorkeeper: Doorkeeper, ping_s: float, hosts: Hosts) -> Callable[..., asyncio.Protocol]:
    """Return what `uvicorn.Config(ws=...)` takes."""

    def upgraded(*, config: Any, server_state: Any, app_state: Any) -> asyncio.Protocol:  # noqa: ARG001 - uvicorn's call
        return Upgraded(gateway, doorkeeper, ping_s, hosts, server_state=server_state)

    return upgraded


def _refusal(status: HTTPStatus, detail: str) -> WSUpgradeResponseWithListener:
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    response = WSUpgradeResponse.create_error_response(status, problem_body(status, detail), headers)
    return WSUpgradeResponseWithListener(response, None)


def _plain_upgrade(request: bytes) -> bytes:
    """Return the request with `Connection: Upgrade` alone: Firefox says `keep-alive, Upgrade`, which picows refuses."""
    lines = request.split(b"\r\n")
    return b"\r\n".join(b"connection: Upgrade" if line[:11].lower() == b"connection:" else line for line in lines)
