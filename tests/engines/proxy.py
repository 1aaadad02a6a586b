"""A TCP proxy before Kafka that looks at requests: it can cut, delay and lose what ends a transaction.

Kafka's clients connect to the address that Kafka's answers name, so the proxy puts its own port in its place, which has
the same length. A request is a size, the number of its kind, a version and the number that its answer bears
(https://kafka.apache.org/protocol).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from typing import Literal, Self

INIT_PRODUCER_ID = 22
END_TRANSACTION = 26
OFFSETS = 28

# What happens to the next request that ends a transaction:
# `cut`: the connection breaks before Kafka gets it. `lost answer`: it breaks when Kafka has done it.
# `slow answer`: the answer comes late. `late request`: the connection breaks, and Kafka gets the request only when
# offsets are added to the next transaction.
Fault = Literal["none", "cut", "lost answer", "slow answer", "late request"]

SLOW_SECONDS = 0.5


class Proxy:
    """One proxy, as a context manager; its address is in `brokers`."""

    def __init__(self, brokers: str) -> None:
        """Take Kafka's address, `host:port`."""
        host, _, port = brokers.partition(":")
        self._kafka = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        own = self._listener.getsockname()[1]
        self.brokers = f"{host}:{own}"
        self._theirs, self._ours = (host.encode() + each.to_bytes(4, "big") for each in (int(port), own))
        # One for each request that ends a transaction from now on; none when there are no more.
        self.faults: deque[Fault] = deque()
        # Bytes of Kafka's answers, and what is put in their place; of the same length.
        self.rewritten: list[tuple[bytes, bytes]] = []
        # The requests that begin an epoch or end a transaction, in order, and what was done to them.
        self.seen: list[tuple[int, Fault]] = []
        # Kafka's error codes for requests that came late.
        self.late_codes: list[int] = []
        self._late: list[tuple[bytes, socket.socket]] = []
        self._late_done = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in [self._listener, *self._sockets]:
            _shut(each)
        for thread in self._threads:
            thread.join(10)
        for each in [self._listener, *self._sockets]:
            each.close()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="proxy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                kafka = socket.create_connection(self._kafka)
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kafka.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(kafka)
            held: dict[bytes, Fault] = {}
            self._start(self._requests, client, kafka, held)
            self._start(self._answers, client, kafka, held)

    def _requests(self, client: socket.socket, kafka: socket.socket, held: dict[bytes, Fault]) -> None:
        with contextlib.suppress(OSError):
            while frame := _frame(client):
                fault = self._look(frame)
                if fault == "cut":
                    break
                if fault == "late request":
                    with self._lock:
                        self._late.append((frame, kafka))
                    _shut(client)
                    return
                held[frame[8:12]] = fault
                kafka.sendall(frame)
        if "lost answer" not in held.values():
            _shut(client)
            _shut(kafka)

    def _answers(self, client: socket.socket, kafka: socket.socket, held: dict[bytes, Fault]) -> None:
        with contextlib.suppress(OSError):
            while frame := _frame(kafka):
                if any(late is kafka for _, late in self._late):
                    # Size, number, tags, throttle time, error code.
                    self.late_codes.append(int.from_bytes(frame[13:15], "big", signed=True))
                    self._late.clear()
                    self._late_done.set()
                    break
                fault = held.pop(frame[4:8], "none")
                if fault == "lost answer":
                    break
                if fault == "slow answer":
                    time.sleep(SLOW_SECONDS)  # the fault itself, not a wait for something
                for old, new in (self._theirs, self._ours), *self.rewritten:
                    frame = frame.replace(old, new)
                client.sendall(frame)
        _shut(client)
        _shut(kafka)

    def _look(self, frame: bytes) -> Fault:
        """Note a request, and return what shall happen to it."""
        kind = int.from_bytes(frame[4:6], "big")
        with self._lock:
            if kind == OFFSETS and self._late:
                late, kafka = self._late[-1]
                self._late_done.clear()
                kafka.sendall(late)
                self._late_done.wait(10)
            if kind not in {INIT_PRODUCER_ID, END_TRANSACTION}:
                return "none"
            fault: Fault = self.faults.popleft() if kind == END_TRANSACTION and self.faults else "none"
            self.seen.append((kind, fault))
            return fault


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


def _frame(source: socket.socket) -> bytes:
    """Return the next frame, empty at the end."""
    size = _exactly(source, 4)
    return size + _exactly(source, int.from_bytes(size, "big")) if size else b""


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            return b""
        data += more
    return data
