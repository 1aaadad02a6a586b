"""Finds out who uses a port, before a process of ours fails on it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress

import psutil

from infra.local.errors import StackError
from infra.local.process import Process


def require_free(table: Iterable[Process]) -> None:
    """Raise StackError that names each port that is in use, by which process, and the setting that moves ours."""
    taken = [
        f"port {port} ({process.name}) is in use by {_owner(port)}. End that, or set {setting} to another port."
        for process in table
        for setting, port in process.ports.items()
        if not _free(port)
    ]
    if taken:
        raise StackError("\n".join(taken))


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of an ended server that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _owner(port: int) -> str:
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                with suppress(psutil.Error):
                    command = " ".join(psutil.Process(connection.pid).cmdline())
                    return f"process {connection.pid} ({command[:120]})"
    return "a process of another user"
