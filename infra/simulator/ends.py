"""How a server of this package ends: on a signal, or after a failure; and how it resets a connection."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from contextlib import suppress


def asked_to_stop() -> asyncio.Event:
    """Return an event that is set when the process is asked to stop."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = {asyncio.create_task(event.wait()) for event in events}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def reset(transport: asyncio.Transport) -> None:
    """Break a connection with a TCP reset."""
    with suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
