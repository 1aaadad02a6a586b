"""A half-open connection, whose other end no longer answers, is noticed by the client within a stated time."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from contextlib import aclosing

from tickstream_client import Disconnected, MarketDataClient

PING_S = 0.3


def test_a_server_that_does_not_answer_pings_is_left_within_twice_their_time() -> None:
    """It accepts the WebSocket and is silent from then on; the client reports it and connects again."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line.split(": ")[1] for line in head.splitlines() if line.lower().startswith("sec-websocket-key"))
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        while await reader.read(65_536):
            pass
        writer.close()

    async def follow() -> float:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, MarketDataClient(url, ping_s=PING_S, timeout_s=0.5) as client, asyncio.timeout(20):
            began = time.monotonic()
            async with aclosing(client.stream(["trades"], ["BTC-USD"])) as events:
                async for event in events:
                    assert isinstance(event, Disconnected)
                    assert "ping" in event.reason
                    break
            return time.monotonic() - began

    assert asyncio.run(follow()) >= PING_S
