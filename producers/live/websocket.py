"""A line over WebSocket: each message is one frame, whole, however the venue cut it."""

from __future__ import annotations

import ssl
import time

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from producers.live.inbox import Inbox, Item

END_REASON = "end of recording"

# The largest frame recorded has 5 MB; a limit so that no peer can make us hold more.
FRAME_BYTES_MAX = 64 * 1024 * 1024
PING_S = 10.0
TIME_DIGITS_MAX = 19
CAUGHT_UP_QUESTION, CAUGHT_UP = b"caught up?", b"caught up"

# Looked up once: reading an attribute of an enumeration costs as much as the rest of receiving a frame.
_TEXT, _BINARY, _CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
_PONG, _CLOSE = WSMsgType.PONG, WSMsgType.CLOSE


class _Listener(WSListener):
    """Receives from the socket into the inbox."""

    def __init__(self, inbox: Inbox, *, binary: bool) -> None:
        self._inbox = inbox
        self._binary = binary
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._reason = "connection_lost"

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Remember the socket."""
        self._inbox.wire = WebSocket(transport, binary=self._binary)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Stamp and keep a frame; a message in several frames is put together."""
        kind = frame.msg_type
        if kind is _PONG:
            self._pong(frame.get_payload_as_bytes())
            return
        ts = self._now()
        if (kind is _TEXT or kind is _BINARY) and frame.fin:
            self._inbox.put(Item("frame", ts, frame.get_payload_as_bytes()))
        elif kind is _TEXT or kind is _BINARY or kind is _CONTINUATION:
            self._parts.append(frame.get_payload_as_bytes())
            self._parts_bytes += len(self._parts[-1])
            if self._parts_bytes > FRAME_BYTES_MAX:
                self._reason = "frame_too_big"
                transport.disconnect(graceful=False)
            elif frame.fin:
                self._inbox.put(Item("frame", ts, b"".join(self._parts)))
            if frame.fin or self._parts_bytes > FRAME_BYTES_MAX:
                self._parts.clear()
                self._parts_bytes = 0
        elif kind is _CLOSE:
            self._reason = _close_reason(frame)
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        """Note when a ping is answered; called by picows for frames while it waits for a pong."""
        if frame.msg_type is not _PONG:
            return False
        if self._inbox.ts_recorded is None:
            self._inbox.ts_pong = time.time_ns()
        return True

    def _pong(self, text: bytes) -> None:
        """Take the recorded time ahead of a frame, or a replay server's question; other pongs mean nothing."""
        inbox = self._inbox
        if inbox.ts_recorded is None:
            return
        if text.isdigit() and len(text) <= TIME_DIGITS_MAX:
            inbox.ts_recorded = int(text)
        elif text == CAUGHT_UP_QUESTION:
            inbox.put(Item("caught_up", inbox.ts_recorded))

    def _now(self) -> int:
        return time.time_ns() if self._inbox.ts_recorded is None else self._inbox.ts_recorded

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - picows calls it so
        """Keep the end behind the frames that came before it."""
        self._inbox.put(Item("end", self._now(), reason=self._reason))


def _close_reason(frame: WSFrame) -> str:
    text = frame.get_close_message()
    if text and text.decode("utf-8", "replace") == END_REASON and frame.get_close_code() == WSCloseCode.OK:
        return END_REASON
    return f"closed_{int(frame.get_close_code().value)}"


class WebSocket:
    """The socket, as `producers.live.inbox.Wire`."""

    def __init__(self, transport: WSTransport, *, binary: bool = False) -> None:
        self._transport = transport
        self._kind = WSMsgType.BINARY if binary else WSMsgType.TEXT

    @property
    def is_up(self) -> bool:
        """Whether something can still be sent."""
        return not self._transport.is_disconnected

    def send(self, frame: bytes) -> None:
        """Send one message."""
        self._transport.send(self._kind, frame)

    def report_caught_up(self) -> None:
        """Answer a replay server's question."""
        if self.is_up:
            self._transport.send_pong(CAUGHT_UP)

    def send_close(self) -> None:
        """Send a close frame."""
        if self.is_up:
            self._transport.send_close(WSCloseCode.OK)

    def disconnect(self) -> None:
        """Close the socket."""
        self._transport.disconnect()

    def pause(self) -> None:
        """Stop reading."""
        if self.is_up:
            self._transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.is_up:
            self._transport.underlying_transport.resume_reading()


async def connect(
    url: str,
    inbox: Inbox,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    binary: bool = False,
    ping_s: float | None = None,
) -> WebSocket:
    """Connect to `ws://` or `wss://`; what comes goes to the inbox.

    After `ping_s` without a frame the venue is pinged, and after as long again without an answer the socket is closed.
    Raises OSError, which TLS's and the handshake's refusals are made into.
    """
    try:
        transport, _ = await ws_connect(
            lambda: _Listener(inbox, binary=binary),
            url,
            max_frame_size=FRAME_BYTES_MAX,
            ssl_context=ssl.create_default_context() if url.startswith("wss") else None,
            logger_name="line",
            extra_headers=headers,
            enable_auto_ping=ping_s is not None,
            auto_ping_idle_timeout=ping_s or PING_S,
            auto_ping_reply_timeout=ping_s or PING_S,
        )
    except WSError as error:
        raise ConnectionError(str(error)) from error
    return WebSocket(transport, binary=binary)
