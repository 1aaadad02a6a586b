"""The simulated streams behind real sockets: limits of connections and messages, market data each interval, faults.

A connection attempt beyond the venue's limit is answered 429. A client that sends more messages than the venue allows,
or one that is too long, is disconnected with 1008. Everything else is the venue's own session. Faults name channels and
symbols as the venue does; a frame that is dropped has used its sequence number.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
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

from infra.simulator import control
from infra.simulator.ends import reset, too_many_connections
from infra.simulator.faults import Fault, Hit, Injection, Injector, check
from infra.simulator.limits import Window
from infra.simulator.market import SYMBOLS_MAX
from infra.simulator.outbox import Outbox
from infra.simulator.venues.streams.market import Market
from infra.simulator.venues.streams.session import Ended, Frame, Session, write
from marketdata.errors import SettingsError

CONNECTIONS_MAX = 1_024
WRITE_BUFFER_BYTES_MAX = 64 * 1024 * 1024

_LOG = structlog.get_logger()


class Client(WSListener):
    """One connection: the venue's session, and the frames on their way."""

    def __init__(self, venue: Streams, number: int, path: str) -> None:
        super().__init__()
        self.id = number
        self.sent = 0
        self.session = session = venue.session(venue.markets, path, self._is_refused)
        self._venue = venue
        self._messages = Window(session.limits.messages)
        self._transport: WSTransport | None = None
        self._outbox: Outbox | None = None

    def _is_refused(self, channel: str, symbol: str) -> bool:
        return self._venue.injector.refuses(Hit(self.id, self.sent, channel, symbol, self._venue.clock()))

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Greet the client as the venue does."""
        self._transport, self._outbox = transport, Outbox(transport)
        self._venue.clients[self.id] = self
        self._answer(self.session.opened(self._venue.clock()))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer a message of the client."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PING:
            if not self._venue.injector.is_mute(self.id, self._venue.clock()):
                transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type in {WSMsgType.TEXT, WSMsgType.BINARY}:
            message = frame.get_payload_as_bytes()
            try:
                self._check(message)
                self._answer(self.session.received(message, self._venue.clock()))
            except Ended as ended:
                self._venue.ended[ended.reason] += 1
                self.end(ended.code, ended.reason)

    def _check(self, message: bytes) -> None:
        if len(message) > self.session.limits.message_bytes:
            raise Ended(1009, "message too long")
        now = time.monotonic()
        if not (self._messages.takes(now) and self._venue.messages.takes(now)):
            raise Ended(1008, "Too many requests")

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - picows calls it with the transport
        """Forget the client, and keep what it was refused."""
        self._venue.forget(self)

    def _answer(self, answers: list[bytes]) -> None:
        self.send([Frame("", "", answer) for answer in answers])

    def send(self, frames: list[Frame]) -> None:
        """Send frames, or what the faults make of them; a client that reads too slowly is disconnected."""
        if self._outbox is None:
            return
        now = self._venue.clock()
        for frame in frames:
            self.sent += 1
            hit = Hit(self.id, self.sent, frame.channel, frame.symbol, now)
            for payload in self._venue.injector.frames(hit, frame.payload):
                self._outbox.send(WSMsgType.TEXT, payload)
        if self._outbox.buffered_bytes > WRITE_BUFFER_BYTES_MAX:
            self.end(1008, "too slow")

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        if self._transport is not None:
            reset(self._transport.underlying_transport)

    def end(self, code: int, reason: str) -> None:
        """Close the connection."""
        if self._outbox is not None and self._transport is not None:
            self._outbox.close(WSCloseCode(code), reason.encode())
            self._transport.disconnect()


class Streams:
    """One simulated venue. `every_s` is the interval of market data; with 0 only `step` causes it."""

    def __init__(
        self,
        session: type[Session],
        symbols: int | Iterable[str],
        *,
        every_s: float = 1.0,
        faults: Iterable[Fault] = (),
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        names = session.names(symbols) if isinstance(symbols, int) else list(symbols)
        if not 1 <= len(names) <= SYMBOLS_MAX:
            raise SettingsError(f"symbols: {len(names)} is not between 1 and {SYMBOLS_MAX}")
        self.session = session
        self.markets = {name: Market(number) for number, name in enumerate(names)}
        self.clients: dict[int, Client] = {}
        self.injector = Injector()
        self.ended: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.broken = asyncio.Event()
        self.clock = clock
        self.port = 0
        self.messages = Window(session.limits.address_messages)
        self._every_s = every_s
        self._attempts = Window(session.limits.attempts)
        self._next = 1
        for fault in faults:
            self.inject(fault)

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[Streams]:
        """Serve the WebSocket on a port (0 selects a free one, see `port`) until the context ends."""
        server = await ws_create_server(self._accept, host, port, enable_auto_pong=False)
        self.port = server.sockets[0].getsockname()[1]
        task = asyncio.create_task(self._live(), name="market")
        task.add_done_callback(self._done)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.close()
            for client in list(self.clients.values()):
                client.end(1001, "going away")
            await server.wait_closed()

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken.set()
            _LOG.error("the venue is broken", exc_info=error)

    def _accept(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        if len(self.clients) >= CONNECTIONS_MAX or not self._attempts.takes(time.monotonic()):
            self.refused["attempts"] += 1
            return too_many_connections()
        self._next += 1
        client = Client(self, self._next - 1, request.path.decode())
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(), client)

    def inject(self, fault: Fault) -> Injection:
        """Activate a fault.

        Raises ValueError when its symbol or connection does not exist, and for halts, which these markets lack.
        """
        check(fault, self.markets, self.clients)
        if fault.kind in {"halt", "resume"}:
            raise ValueError("these markets have no halts")
        now = self.clock()
        injection = self.injector.add(fault, now)
        if fault.kind == "disconnect":
            for client in list(self.clients.values()):
                if fault.connection in {None, client.id}:
                    injection.hit(Hit(client.id, client.sent, "", "", now))
                    client.reset()
        return injection

    def forget(self, client: Client) -> None:
        """Remove a client that left."""
        self.clients.pop(client.id, None)
        self.injector.forget(client.id)
        self.refused.update(client.session.refused)

    async def _live(self) -> None:
        while self._every_s:
            await asyncio.sleep(self._every_s)
            self.step()

    def step(self) -> None:
        """Change every market once, and send what clients subscribed."""
        ts = self.clock()
        steps = {name: market.step(ts) for name, market in self.markets.items()}
        for client in list(self.clients.values()):
            client.send(client.session.stepped(steps, ts))

    def view(self) -> dict[str, Any]:
        """Return what was refused and ended so far, by reason."""
        refused = self.refused + Counter(
            reason for client in self.clients.values() for reason in client.session.refused
        )
        return {"symbols": len(self.markets), "refused": dict(refused), "ended": dict(self.ended)}

    def connections(self) -> list[dict[str, Any]]:
        """Return the clients, with the number of their subscriptions."""
        return [
            {"connection": one.id, "path": one.session.path, "streams": len(one.session.subscribed)}
            for one in self.clients.values()
        ]


def create_app(venue: Streams) -> FastAPI:
    """Return the venue's REST interface, with `/connections` and what every simulated venue has."""
    app = control.create_app(venue, "Simulated streams")

    @app.get("/connections")
    async def connections() -> list[dict[str, Any]]:
        """What each client subscribed."""
        return venue.connections()

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
