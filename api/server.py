"""The HTTP server: uvicorn, with limits on what one connection may send, hold and delay.

uvicorn's own `HttpToolsProtocol` has no limit on a request's head and no deadline but that of idle connections, so
`HttpProtocol` adds what RFC 9110 and RFC 9112 leave to servers (https://www.rfc-editor.org/rfc/rfc9112, 2.3 and 9.5;
https://www.rfc-editor.org/rfc/rfc9110, 15.5.9; RFC 6585, https://www.rfc-editor.org/rfc/rfc6585, 5 for 431):
1. What a request has beside its body (head, chunk sizes, trailers) is limited in bytes and number: 431. A body: 413.
   Data is parsed in pieces, so that nothing beyond a limit is kept.
2. A head and a body have a deadline each from their first byte: 408. An idle connection has one, and so has a client
   that does not read its response. One lazy timer a connection serves all: a request sets only a number.
3. While a response is under way, no more than one further request is parsed; uvicorn reads on after it.
4. After a refusal the rest is dropped for a moment, so that the peer can read the reason, and the connection aborted.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from math import inf
from pathlib import Path
from typing import Any

import httptools
import structlog
import uvicorn
from msgspec import Struct
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.hosts import problem_body

HEAD_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100
BODY_BYTES_MAX = 1024 * 1024
_PIECE_BYTES = 4096
# What a refused client may still send: about what was on its way already.
_DROPPED_BYTES_MAX = 1024 * 1024
_LINGER_S = 1.0
# A client that reads a large response more slowly than this does not read it.
_READ_BYTES_PER_S_MIN = 1024
# Deadlines are looked at no less often than this.
_CHECK_S = 5.0
_BACKLOG = 2048
_SHUTDOWN_S = 8
_LOG = structlog.get_logger()


class HttpLimits(Struct, frozen=True):
    """What one connection may take, in seconds, and how many there may be."""

    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 30.0
    send_s: float = 30.0
    connections_max: int = 6_000


class _Refused(Exception):  # noqa: N818 - it ends the parsing, and is answered
    """The request breaks a limit."""


class _Flow(FlowControl):
    """uvicorn's flow control, which does not read on while a connection has more than it may parse."""

    def __init__(self, transport: asyncio.Transport, protocol: HttpProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Read on, if what was read is used up; uvicorn asks for it with every `receive` of the application."""
        if not self._protocol.has_rest:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with limits; uvicorn makes one a connection."""

    def __init__(self, limits: HttpLimits, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self._check_s = min(limits.head_s, limits.body_s, limits.idle_s, limits.send_s, _CHECK_S)
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = inf
        self._is_in_request = False  # between a request's first and last byte
        self._is_head_complete = False
        self._received_bytes = 0
        self._body_bytes = 0
        self._rest = b""  # arrived, and to be parsed once the responses before it are sent
        self._refusal = (HTTPStatus.BAD_REQUEST, "this is not an HTTP request")
        self._running: RequestResponseCycle | None = None
        self._is_refused = False
        self._dropped_bytes = 0
        self._unread: tuple[float, int] | None = None  # since when the client reads too slowly, and what it left then

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        """Begin, unless there are too many connections already."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._deadline = self.loop.time() + self._limits.head_s
        if len(self.connections) > self._limits.connections_max:
            transport.abort()
            return
        self._timer = self.loop.call_later(self._check_s, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_timer()
        self._rest = b""
        self.pipeline.clear()
        if self._running is not None:
            # uvicorn notes it for the newest request only, which may still wait for this one.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, or keep it until the response before it is sent."""
        if self._is_refused:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > _DROPPED_BYTES_MAX:
                self.transport.abort()
        elif self._rest:
            self._rest += data  # at most what the transport had read before it was paused
        else:
            self._feed(data)

    def pause_writing(self) -> None:
        """Note that the client is behind."""
        super().pause_writing()
        self._unread = (self.loop.time(), self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Note that the client has read."""
        super().resume_writing()
        self._unread = None

    # What the parser calls

    def on_message_begin(self) -> None:
        """Start the deadline of the head."""
        super().on_message_begin()
        self._is_in_request, self._is_head_complete = True, False
        self._received_bytes = self._body_bytes = 0
        self._deadline = self.loop.time() + self._limits.head_s

    def on_headers_complete(self) -> None:
        """Start the deadline of the body, and the request."""
        self._check_size()
        self._is_head_complete = True
        self._deadline = self.loop.time() + self._limits.body_s
        if not self.url.startswith(b"/"):
            self._use_host_of_target()
        super().on_headers_complete()
        if not (self.parser.should_upgrade() and self._should_upgrade()):
            self.headers = []  # trailers follow here; the request has its own list

    def on_body(self, body: bytes) -> None:
        """Limit the body."""
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MAX:
            self._stop(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {BODY_BYTES_MAX} bytes")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the deadline of the body: now it is our turn."""
        self._is_in_request = False
        self._deadline = inf
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the deadline of an idle connection, and parse what has waited."""
        super().on_response_complete()
        if not self._is_in_request and self.cycle.response_complete:
            self._deadline = self.loop.time() + self._limits.idle_s
        if self._rest and not self.pipeline and not self.transport.is_closing():
            rest, self._rest = self._rest, b""
            self._feed(rest)
            if not self.has_rest and not self.pipeline:
                self.flow.resume_reading()

    @property
    def has_rest(self) -> bool:
        """Return whether more has arrived than may be parsed now."""
        return bool(self._rest)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket, if the request is complete and alone."""
        self._check_size()
        head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.scope["headers"])
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
        elif head_bytes > HEAD_BYTES_MAX - 64:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head has at most {HEAD_BYTES_MAX} bytes")
        elif self.scope["method"] != "GET" or self.scope["http_version"] != "1.1":
            self._refuse(HTTPStatus.BAD_REQUEST, "a WebSocket begins with GET and HTTP/1.1")
        else:
            self._stop_timer()
            try:
                super().handle_websocket_upgrade()
            except Exception:  # noqa: BLE001 - one client's request, whatever is wrong with it
                _LOG.exception("a WebSocket's handshake failed")
                self.transport.abort()

    # Parts

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _feed(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE_BYTES):
            if self.pipeline:
                self._rest = data[at:]
                self.flow.pause_reading()
                return
            if self.transport.is_closing() or self._is_refused:
                return
            piece = data[at : at + _PIECE_BYTES]
            self._unset_keepalive_if_required()
            try:
                self.parser.feed_data(piece)
                self._received_bytes += len(piece)
                self._check_size(_PIECE_BYTES)
            except httptools.HttpParserUpgrade:
                self._upgrade()
                return
            except (httptools.HttpParserError, _Refused):
                self._refuse(*self._refusal)
                return

    def _upgrade(self) -> None:
        if self._should_upgrade():
            try:
                self.handle_websocket_upgrade()
            except _Refused:
                self._refuse(*self._refusal)
        elif self.cycle is not None:
            # Another protocol, which we do not have: the request is answered as it is, and nothing can follow it.
            self.cycle.keep_alive = False

    def _check_size(self, more_bytes: int = 0) -> None:
        """Check all but the body; `more_bytes` may belong to a request before, within the same piece."""
        if self._received_bytes - self._body_bytes > HEAD_BYTES_MAX + more_bytes:
            self._stop(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head has at most {HEAD_BYTES_MAX} bytes")
        if self.headers is not None and len(self.headers) > HEADERS_MAX:
            self._stop(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head has at most {HEADERS_MAX} fields")

    def _stop(self, status: HTTPStatus, detail: str) -> None:
        self._refusal = (status, detail)
        raise _Refused

    def _use_host_of_target(self) -> None:
        """Replace Host by the host of an absolute target, as RFC 9112 3.2.2 asks."""
        target = httptools.parse_url(self.url)
        if target.host:
            port = b"" if target.port is None else b":%d" % target.port
            self.headers[:] = [each for each in self.headers if each[0] != b"host"]
            self.headers.append((b"host", target.host + port))

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer with a problem and end the connection; where another response is under way, only end it."""
        self._is_refused = True
        self._rest = b""
        cycle = self.cycle
        is_busy = cycle is not None and not cycle.response_complete
        if self.transport.is_closing():
            return
        if is_busy and (bool(self.pipeline) or cycle.response_started or not self._is_head_complete):
            self.transport.abort()
            return
        if is_busy:
            cycle.disconnected = True
            cycle.message_event.set()
        body = problem_body(status, detail)
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n%s"
            % (status.value, status.phrase.encode(), len(body), body)
        )
        self._stop_timer()
        self._timer = self.loop.call_later(_LINGER_S, self.transport.abort)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _check(self) -> None:
        """Look at the deadlines, and again when the next one may have passed."""
        now = self.loop.time()
        if self.transport.is_closing() and self._unread is None:
            self._unread = (now, self.transport.get_write_buffer_size())
        if self._unread is not None and not self._reads(now):
            self.transport.abort()
            return
        if now >= self._deadline and not self.transport.is_closing():
            if self._is_in_request:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
            elif self.transport.get_write_buffer_size():
                self.transport.abort()
            else:
                self.transport.close()
            return
        wait_s = self._check_s if self.transport.is_closing() else min(self._deadline - now, self._check_s)
        self._timer = self.loop.call_later(wait_s, self._check)

    def _reads(self, now: float) -> bool:
        """Return whether a client that is behind has read enough of its response lately."""
        assert self._unread is not None  # noqa: S101 - for the type checker
        since, then_bytes = self._unread
        if now - since < self._limits.send_s:
            return True
        left_bytes = self.transport.get_write_buffer_size()
        self._unread = (now, left_bytes)
        return then_bytes - left_bytes >= _READ_BYTES_PER_S_MIN * (now - since)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Server(uvicorn.Server):
    """uvicorn's server with a deadline for TLS handshakes.

    It stops without failure on a signal: uvicorn's own raises the signal again at the end.
    """

    def __init__(self, config: uvicorn.Config, limits: HttpLimits) -> None:
        super().__init__(config)
        self._handshake_s = limits.head_s

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in order on SIGTERM and SIGINT while the context lasts."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[Any] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Start the application and listen."""
        config = self.config
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        make = functools.partial(
            config.http_protocol_class,
            config=config,  # type: ignore[call-arg] # as uvicorn calls it
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        try:
            server = await asyncio.get_running_loop().create_server(
                make,
                host=config.host,
                port=config.port,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self._handshake_s if config.ssl else None,
            )
        except OSError as error:
            _LOG.error("cannot listen", host=config.host, port=config.port, error=str(error))
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self.servers = [server]
        _LOG.info("listening", host=config.host, port=server.sockets[0].getsockname()[1], tls=config.ssl is not None)
        self.started = True


def make_server(
    app: Any,
    websocket: Any,
    *,
    host: str,
    port: int,
    limits: HttpLimits,
    trusted_proxies: list[str],
    certificate: Path | None,
    key: Path | None,
) -> Server:
    """Return a server of an ASGI application and of a WebSocket protocol (see `api.gateway.websocket`).

    `X-Forwarded-For` and `X-Forwarded-Proto` are used from trusted proxies only. With a certificate it serves TLS 1.3.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=functools.partial(HttpProtocol, limits),  # type: ignore[arg-type] # called as a class would be
        ws=websocket,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
        timeout_keep_alive=int(limits.idle_s) + 1,  # ours comes first
        timeout_graceful_shutdown=_SHUTDOWN_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_context_factory=_tls_13 if certificate is not None else None,
    )
    return Server(config, limits)


def _tls_13(_: uvicorn.Config, default: Any) -> ssl.SSLContext:
    """Return uvicorn's context without the versions before TLS 1.3 (RFC 8446)."""
    context: ssl.SSLContext = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
