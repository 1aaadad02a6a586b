"""A TCP gate before a service: while it is shut, connections are accepted and nothing is answered."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Gate:
    """One gate, as a context manager; its address is in `address`, and `is_open` may be changed."""

    def __init__(self, host: str, port: int) -> None:
        """Take the service's address."""
        self._service = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = threading.Event()
        self._open.set()
        self._closing = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._open.set()
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in [self._listener, *self._sockets]:
            each.close()

    def shut(self) -> None:
        """Pass nothing on from now on."""
        self._open.clear()

    def open(self) -> None:
        """Pass on what was held back, and all that comes."""
        self._open.set()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="gate", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                service = socket.create_connection(self._service)
            except OSError:
                return
            self._sockets.append(service)
            self._start(self._pass_on, client, service)
            self._start(self._pass_on, service, client)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
