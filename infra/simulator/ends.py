"""How a server of this package ends: on a signal, or after a failure; how it resets a connection, and refuses one."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from contextlib import suppress
from http import HTTPStatus

from picows import WSUpgradeResponse, WSUpgradeResponseWithListener


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


def too_many_connections() -> WSUpgradeResponseWithListener:
    """Return the answer to an attempt to connect beyond the venue's limit."""
    refusal = WSUpgradeResponse.create_error_response(HTTPStatus.TOO_MANY_REQUESTS, b"too many connections")
    return WSUpgradeResponseWithListener(refusal, None)
