"""Processes that hold WebSocket clients, for more of them than one process can serve.

Theory of operation. The market's process listens alone. It reads a request's head; where that is the upgrade of a
WebSocket, it hands the open socket (`SCM_RIGHTS`, unix(7)) and the head over to the worker with the fewest clients,
which answers it. So all limits of HTTP hold before a worker is concerned, workers are loaded evenly, and no byte of a
client's passes two processes. A worker gets the streams that its clients follow over its link (`api.gateway.link`).
When a worker ends, its clients connect again and resume; another one is started in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter, Gauge
from starlette.datastructures import Headers

from api.auth.admission import Admission, Doorkeeper, Refusal
from api.gateway import fan_out
from api.gateway.link import Close, End, Figures, Gone, HandOver, WorkerLink
from api.gateway.streams import Streams
from api.hosts import problem_body

WORKERS = Gauge("tickstream_ws_workers", "Processes that hold WebSocket clients beside the market's.")
HANDED_OVER = Counter("tickstream_ws_handed_over_total", "WebSocket connections handed over to workers, by outcome.",
                      ["outcome"])  # fmt: skip

# What is handed over at once may be read a little later.
_DOOR_BYTES = 4 * 1024 * 1024
_RESTART_S = 1.0
_STOP_S = 6.0

_NO_WORKER = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE.value,
    problem_body(HTTPStatus.SERVICE_UNAVAILABLE, "no worker can take a WebSocket just now; try again in a second"),
    {"Content-Type": "application/problem+json", "Retry-After": "1"},
)

_LOG = structlog.get_logger()


class _Worker:
    """One worker process, how it is reached, and the connections that it was given."""

    def __init__(self, process: subprocess.Popen[bytes], door: socket.socket, link: WorkerLink) -> None:
        self.process = process
        self.door = door
        self.link = link
        self.admissions: dict[int, Admission] = {}
        self.unsent_bytes = 0

    def end(self, number: int, code: int, reason: str) -> None:
        """Have a connection closed."""
        self.link.send(End(number, code, reason))

    def gone(self, number: int) -> None:
        """Note that a connection has ended."""
        admission = self.admissions.pop(number, None)
        if admission is not None:
            admission.closed()


class Workers:
    """The workers of one API, as an asynchronous context manager."""

    def __init__(self, streams: Streams, count: int) -> None:
        self._streams = streams
        self._count = count
        self._workers: list[_Worker] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._last_number = 0

    async def start(self) -> None:
        """Start every worker."""
        for _ in range(self._count):
            await self._start_one()

    async def stop(self) -> None:
        """Let every worker close its clients, and end."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        workers = list(self._workers)  # each leaves the list when its link ends
        for worker in workers:
            worker.link.send(Close())
        ended = [asyncio.to_thread(worker.process.wait, _STOP_S) for worker in workers]
        for result, worker in zip(await asyncio.gather(*ended, return_exceptions=True), workers, strict=True):
            if isinstance(result, subprocess.TimeoutExpired):
                worker.process.kill()
            worker.door.close()

    def hand_over(self, transport: Any, head: bytes, admission: Admission) -> bool:
        """Give a client's connection and the head of its request to a worker; False when none can take it."""
        self._last_number += 1
        number = self._last_number
        given = msgspec.msgpack.encode(
            HandOver(number, admission.subscriptions_max, admission.depth_max, admission.subprotocol, head)
        )
        for worker in sorted(self._workers, key=lambda each: len(each.admissions)):
            try:
                socket.send_fds(worker.door, [given], [transport.get_extra_info("socket").fileno()])
            except OSError:
                continue
            worker.admissions[number] = admission
            admission.opened(partial(worker.end, number))
            HANDED_OVER.labels("taken").inc()
            return True
        HANDED_OVER.labels("refused").inc()
        return False

    async def _start_one(self) -> None:
        link_here, link_there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        door_here, door_there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        door_here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _DOOR_BYTES)
        door_here.setblocking(False)
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own module; it returns at once
            [sys.executable, "-m", "api.gateway.worker", str(link_there.fileno()), str(door_there.fileno()),
             str(self._count)],
            pass_fds=(link_there.fileno(), door_there.fileno()),
        )  # fmt: skip
        link_there.close()
        door_there.close()
        link = WorkerLink(self._streams, lambda report: self._note(worker, report), lambda: self._lost(worker))
        worker = _Worker(process, door_here, link)
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=link_here)
        self._streams.add(link)
        self._workers.append(worker)
        WORKERS.set(len(self._workers))
        _LOG.info("worker started", pid=process.pid)

    def _note(self, worker: _Worker, report: Figures | Gone) -> None:
        if isinstance(report, Gone):
            worker.gone(report.number)
            return
        worker.unsent_bytes = report.unsent_bytes
        fan_out.count(report.counted)
        fan_out.CLIENTS.set(sum(len(each.admissions) for each in self._workers))
        fan_out.UNSENT.set(sum(each.unsent_bytes for each in self._workers))

    def _lost(self, worker: _Worker) -> None:
        self._streams.remove(worker.link)
        if worker in self._workers:
            self._workers.remove(worker)
        WORKERS.set(len(self._workers))
        worker.door.close()
        clients = len(worker.admissions)
        for number in list(worker.admissions):
            worker.gone(number)
        if self._stopping:
            return
        _LOG.error("worker ended; starting another", pid=worker.process.pid, clients=clients)
        task = asyncio.get_running_loop().create_task(self._replace(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, worker: _Worker) -> None:
        with contextlib.suppress(ProcessLookupError):
            worker.process.kill()  # one whose link is lost may still run
        await asyncio.to_thread(worker.process.wait)
        await asyncio.sleep(_RESTART_S)
        await self._start_one()


class HandedOver(asyncio.Protocol):
    """A connection on its way from uvicorn to a worker."""

    def __init__(self, workers: Workers, doorkeeper: Doorkeeper) -> None:
        self._workers = workers
        self._doorkeeper = doorkeeper
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand over the connection with the request; our own descriptor of it is closed, and the client's is not."""
        transport = self._transport
        transport.pause_reading()
        target, headers = _read_head(data)
        peer = transport.get_extra_info("peername")
        admission = self._doorkeeper.admit(target, headers, peer[0] if peer else None)
        if isinstance(admission, Refusal):
            transport.write(_answer(admission))
            transport.close()
            return
        if self._workers.hand_over(transport, data, admission):
            transport.abort()
        else:
            transport.write(_answer(_NO_WORKER))
            transport.close()

    def shutdown(self) -> None:
        """Do nothing: the connection is a worker's."""


def protocol(workers: Workers, doorkeeper: Doorkeeper) -> Callable[..., asyncio.Protocol]:
    """Return what `uvicorn.Config(ws=...)` takes."""

    def upgraded(*, config: Any, server_state: Any, app_state: Any) -> asyncio.Protocol:  # noqa: ARG001 - uvicorn's call
        return HandedOver(workers, doorkeeper)

    return upgraded


def _read_head(head: bytes) -> tuple[str, Headers]:
    """Return target and headers of a request as uvicorn writes it, after it has checked it."""
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = [line.partition(":") for line in lines if line]
    return first.split(" ")[1], Headers(raw=[(name.lower().encode("latin-1"), value.strip().encode("latin-1"))
                                             for name, _, value in fields])  # fmt: skip


def _answer(refusal: Refusal) -> bytes:
    status = HTTPStatus(refusal.status)
    headers = refusal.headers | {"Content-Length": str(len(refusal.body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + refusal.body
