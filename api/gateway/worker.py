"""A socket worker: `python -m api.gateway.worker LINK DOOR COUNT`, which only `api.gateway.workers` starts.

LINK and DOOR are inherited descriptors: of the link to the market, and of the socket that clients' connections come by.
COUNT is the number of workers, among which the limit of clients is divided.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
import uvloop

from api.gateway import fan_out
from api.gateway.clients import Limits
from api.gateway.fan_out import FanOut
from api.gateway.link import Close, End, Figures, Gone, HandOver, MarketLink
from api.gateway.websocket import Upgraded
from api.hosts import Hosts
from api.settings import ApiSettings, items
from runtime import log
from runtime.settings import load

_GIVEN_BYTES_MAX = 128 * 1024
_AT_ONCE = 64
_FIGURES_S = 1.0
_CLOSE_S = 5.0

_read_given = msgspec.msgpack.Decoder(HandOver).decode
_LOG = structlog.get_logger()


class _Admitted:
    """What a client may use that the market's process has let in; for its own connection it is the doorkeeper, too."""

    def __init__(self, worker: Worker, given: HandOver) -> None:
        self.subscriptions_max = given.subscriptions_max
        self.depth_max = given.depth_max
        self.subprotocol = given.subprotocol
        self._worker = worker
        self._number = given.number

    def admit(self, target: str, headers: Any, peer: str | None) -> _Admitted:
        """Return itself: the client was let in."""
        del target, headers, peer
        return self

    def opened(self, close: Callable[[int, str], None]) -> None:
        """Note how to close the connection."""
        self._worker.closes[self._number] = close

    def closed(self) -> None:
        """Report that the connection has ended."""
        if self._worker.closes.pop(self._number, None) is not None:
            self.left()

    def left(self) -> None:
        """Report that there is no such connection any more."""
        self._worker.link.send(Gone(self._number))


class Worker:
    """The clients of one process. `connections` are those of uvicorn's server, of which there is none here."""

    def __init__(self, settings: ApiSettings, door: socket.socket, count: int) -> None:
        self.connections: set[Any] = set()
        self.closes: dict[int, Callable[[int, str], None]] = {}
        self.closing = asyncio.Event()
        self.link = MarketLink(self.closing.set, self._end)
        limits = Limits(
            clients_max=-(-settings.ws_clients_max // count),
            subscriptions_max=settings.ws_subscriptions_max,
            conflate_bytes=settings.ws_conflate_bytes,
            cut_bytes=settings.ws_cut_bytes,
        )
        self._fan_out = self.link.fan_out = FanOut(self.link, limits)
        self._hosts = Hosts(settings.host, items(settings.api_hosts), items(settings.api_origins))
        self._ping_s = settings.ws_ping_s
        self._door = door
        self._arriving: set[asyncio.Task[None]] = set()

    async def run(self, link: socket.socket) -> None:
        """Serve until the market's process says so, or ends."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self.link, sock=link)
        loop.add_reader(self._door.fileno(), self._arrive)
        while not self.closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), _FIGURES_S)
            self._fan_out.measure()
            self.link.send(Figures(self._fan_out.clients, self._fan_out.unsent_bytes, fan_out.counted()))
        loop.remove_reader(self._door.fileno())
        self._fan_out.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                while self.connections:  # noqa: ASYNC110 - they end one by one
                    await asyncio.sleep(0.02)

    def _arrive(self) -> None:
        """Take the connections that wait at the door."""
        for _ in range(_AT_ONCE):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._door, _GIVEN_BYTES_MAX, 1)
            except (BlockingIOError, InterruptedError):
                return
            if not data:
                self.closing.set()  # the market's process has ended
                return
            for descriptor in descriptors:
                client = socket.socket(fileno=descriptor)
                task = asyncio.get_running_loop().create_task(self._serve(client, _read_given(data)))
                self._arriving.add(task)
                task.add_done_callback(self._arriving.discard)

    async def _serve(self, client: socket.socket, given: HandOver) -> None:
        client.setblocking(False)
        admitted = _Admitted(self, given)
        protocol = Upgraded(self._fan_out, admitted, self._ping_s, self._hosts, server_state=self)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, client)
        except OSError as error:
            _LOG.info("a client left on its way", error=str(error))
            client.close()
        else:
            protocol.data_received(given.head)
        if given.number not in self.closes:
            admitted.left()  # its request was refused

    def _end(self, message: End | Close) -> None:
        if isinstance(message, Close):
            self.closing.set()
        elif (close := self.closes.get(message.number)) is not None:
            close(message.code, message.reason)


async def _run(link: int, door: int, count: int, settings: ApiSettings) -> None:
    entrance = socket.socket(fileno=door)
    entrance.setblocking(False)
    await Worker(settings, entrance, count).run(socket.socket(fileno=link))


def main() -> None:
    """Serve; the API's process says when to stop, also on Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    link, door, count = map(int, sys.argv[1:])
    settings = load(ApiSettings)
    log.configure("api-worker", settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(link, door, count, settings))


if __name__ == "__main__":
    main()
