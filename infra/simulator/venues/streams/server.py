"""The simulated streams behind real sockets: limits of connections and messages, market data each interval, REST.

A connection attempt beyond the venue's limit is answered 429. A client that sends more messages than the venue allows,
or one that is too long, is disconnected with 1008. Everything else is the venue's own session.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from infra.simulator import web
from infra.simulator.outbox import Outbox
from infra.simulator.venues.streams.market import Market
from infra.simulator.venues.streams.session import Ended, Session, write
from marketdata.errors import SettingsError

CONNECTIONS_MAX = 1_024
SYMBOLS_MAX = 1_000
WRITE_BUFFER_BYTES_MAX = 64 * 1024 * 1024


class Window:
    """Counts events of the last `seconds`; pure."""

    def __init__(self, limit: tuple[int, float] | None) -> None:
        self._count, self._seconds = limit or (0, 0.0)
        self._times: deque[float] = deque()

    def takes(self, now: float) -> bool:
        """Note an event, and return whether it is within the limit."""
        if not self._count:
            return True
        while self._times and self._times[0] <= now - self._seconds:
            self._times.popleft()
        if len(self._times) >= self._count:
            return False
        self._times.append(now)
        return True


class Client(WSListener):
    """One connection: the venue's session, and the frames on their way."""

    def __init__(self, venue: Streams, session: Session) -> None:
        super().__init__()
        self.session = session
        self._venue = venue
        self._messages = Window(session.limits.messages)
        self._transport: WSTransport | None = None
        self._outbox: Outbox | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Greet the client as the venue does."""
        self._transport, self._outbox = transport, Outbox(transport)
        self._venue.clients[self] = None
        self.send(self.session.opened(self._venue.clock()))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer a message of the client."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type in {WSMsgType.TEXT, WSMsgType.BINARY}:
            message = frame.get_payload_as_bytes()
            try:
                self._check(message)
                self.send(self.session.received(message, self._venue.clock()))
            except Ended as ended:
                self._venue.ended[ended.reason] += 1
                self.end(ended.code, ended.reason)

    def _check(self, message: bytes) -> None:
        if len(message) > self.session.limits.message_bytes:
            raise Ended(1009, "message too long")
        if not self._messages.takes(time.monotonic()):
            raise Ended(1008, "Too many requests")

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - picows calls it with the transport
        """Forget the client, and keep what it was refused."""
        self._venue.forget(self)

    def send(self, frames: list[bytes]) -> None:
        """Send frames; a client that reads too slowly is disconnected."""
        if self._outbox is None:
            return
        for frame in frames:
            self._outbox.send(WSMsgType.TEXT, frame)
        if self._outbox.buffered_bytes > WRITE_BUFFER_BYTES_MAX:
            self.end(1008, "too slow")

    def end(self, code: int, reason: str) -> None:
        """Close the connection."""
        if self._outbox is not None and self._transport is not None:
            self._outbox.close(WSCloseCode(code), reason.encode())
            self._transport.disconnect()


class Streams:
    """One simulated venue. `every_s` is the interval of market data; with 0 only `step` causes it."""

    def __init__(
        self, session: type[Session], symbols: int, *, every_s: float = 1.0, clock: Callable[[], int] = time.time_ns
    ) -> None:
        if not 1 <= symbols <= SYMBOLS_MAX:
            raise SettingsError(f"symbols: {symbols} is not between 1 and {SYMBOLS_MAX}")
        self.session = session
        self.markets = {name: Market(number) for number, name in enumerate(session.names(symbols))}
        self.clients: dict[Client, None] = {}
        self.ended: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.clock = clock
        self.port = 0
        self._every_s = every_s
        self._attempts = Window(session.limits.attempts)

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[Streams]:
        """Serve the WebSocket on a port (0 selects a free one, see `port`) until the context ends."""
        server = await ws_create_server(self._accept, host, port, enable_auto_pong=True)
        self.port = server.sockets[0].getsockname()[1]
        task = asyncio.create_task(self._live(), name="market")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.close()
            for client in list(self.clients):
                client.end(1001, "going away")
            await server.wait_closed()

    def _accept(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        if len(self.clients) >= CONNECTIONS_MAX or not self._attempts.takes(time.monotonic()):
            self.refused["attempts"] += 1
            refusal = WSUpgradeResponse.create_error_response(HTTPStatus.TOO_MANY_REQUESTS, b"too many connections")
            return WSUpgradeResponseWithListener(refusal, None)
        session = self.session(self.markets, request.path.decode().partition("?")[0])
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(), Client(self, session))

    def forget(self, client: Client) -> None:
        """Remove a client that left."""
        self.clients.pop(client, None)
        self.refused.update(client.session.refused)

    async def _live(self) -> None:
        while self._every_s:
            await asyncio.sleep(self._every_s)
            self.step()

    def step(self) -> None:
        """Change every market once, and send what clients subscribed."""
        ts = self.clock()
        steps = {name: market.step(ts) for name, market in self.markets.items()}
        for client in list(self.clients):
            client.send(client.session.stepped(steps, ts))

    def view(self) -> dict[str, Any]:
        """Return what each client subscribed, and what was refused so far."""
        refused = self.refused + Counter(reason for client in self.clients for reason in client.session.refused)
        return {
            "symbols": len(self.markets),
            "connections": [{"path": one.session.path, "streams": len(one.session.subscribed)} for one in self.clients],
            "refused": dict(refused),
            "ended": dict(self.ended),
        }


def create_app(venue: Streams) -> FastAPI:
    """Return the venue's REST interface, with `/connections`, `/healthz` and `/metrics` of our own."""
    app = FastAPI(title="Simulated streams", docs_url=None, redoc_url=None)

    @app.get("/connections")
    async def connections() -> dict[str, Any]:
        """What each client subscribed, and what was refused."""
        return venue.view()

    @app.get("/healthz")
    @app.get("/readyz")
    async def health() -> dict[str, str]:
        """Whether the venue runs."""
        return {"status": "alive"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/{path:path}")
    async def rest(path: str, request: Request) -> Response:
        """Answer as the venue does."""
        found = _answer(venue, f"/{path}", request.query_params)
        if found is None:
            raise HTTPException(404, f"there is no /{path} here")
        return Response(write(found), media_type="application/json")

    return app


def _answer(venue: Streams, path: str, query: Mapping[str, str]) -> Any:
    try:
        return venue.session.answer(venue.markets, path, query)
    except KeyError as error:
        raise HTTPException(400, f"invalid or missing {error}") from None


@asynccontextmanager
async def serve(venue: Streams, host: str, port: int, rest_port: int) -> AsyncIterator[int]:
    """Serve a venue's WebSocket and REST; give the port of REST."""
    async with venue.serve(host, port), web.serve(create_app(venue), host, rest_port) as found:
        yield found
