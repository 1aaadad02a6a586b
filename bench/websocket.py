"""Fan-out of the WebSocket gateway (picows on uvicorn's port) against Starlette's own WebSocket, in one run.

    python bench/websocket.py [--clients 50] [--seconds 5]

Both serve the same trades, encoded once, to the same clients: raw sockets in a process of their own that count bytes.
A message counts once for each client that read it. Kafka is left out: this measures from the event to the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import selectors
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import orjson
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.auth.access import Access
from api.auth.sockets import Sockets
from api.core.clocks import Clocks
from api.core.market import Market
from api.gateway.clients import Limits
from api.gateway.fan_out import FanOut
from api.gateway.streams import Streams
from api.gateway.websocket import protocol
from api.hosts import Hosts
from api.settings import ApiSettings
from marketdata.events import BookUpdate, Trade, Trades
from runtime.settings import load

TRADES_PER_EVENT = 10
EVENTS_PER_BATCH = 20
UNSENT_BYTES_MAX = 512 * 1024
TS = 1_786_309_548_228_568_123
STAMP = "2026-08-09T21:05:48.228568Z"
REQUEST = {"op": "subscribe", "id": 1, "channels": ["trades"], "symbols": ["BTC-USD"]}


def event(number: int) -> Trades:
    """Return what one venue frame would bring; every message has the same length."""
    trades = tuple(
        Trade(
            trade_id=f"{number * TRADES_PER_EVENT + item:012}",
            ts_event=TS,
            price="64250.01",
            size="0.12345678",
            side="buy",
        )
        for item in range(TRADES_PER_EVENT)
    )
    return Trades(venue="coinbase", symbol="BTC-USD", line="coinbase/0", ts_event=TS, ts_recv=TS, trades=trades)


def hardware() -> str:
    """Return the machine in a line."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(": ")[2] if models else platform.processor()
    return f"{os.cpu_count()} x {model}, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


async def until(look: Callable[[], bool]) -> None:
    """Wait until `look` finds what it looks for."""
    while not look():  # noqa: ASYNC110 - the servers tell nobody
        await asyncio.sleep(0.01)


async def run_server(app: Any, ws: Any, fan_out: Any, ready: Connection) -> None:
    """Serve until the clients are done, sending as fast as they read."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, loop="uvloop", http="httptools", ws=ws, log_level="error", lifespan="off")
    )
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    ready.send(server.servers[0].sockets[0].getsockname()[1])
    await fan_out(ready)
    server.should_exit = True
    server.force_exit = True
    await serving


def serve_picows(ready: Connection, clients: int) -> None:
    """Serve with the gateway as the API does."""
    market = Market()
    limits = Limits(clients_max=10_000, subscriptions_max=10, conflate_bytes=1 << 20, cut_bytes=64 << 20)
    streams = Streams(market, Clocks(time.time_ns), stale_ns=1 << 62, kept_bytes=64 << 20, ready=lambda: True)
    gateway = FanOut(streams, limits)
    streams.add(gateway)
    market.apply(
        BookUpdate(venue="coinbase", symbol="BTC-USD", line="coinbase/0", ts_event=TS, ts_recv=TS, kind="heartbeat")
    )

    async def fan_out(done: Connection) -> None:
        connected = gateway._clients  # noqa: SLF001 - a benchmark looks inside
        await until(lambda: sum(bool(client.streams) for client in connected.values()) == clients)
        done.send("all there")
        number = 0
        while not done.poll():
            if max((client.connection.backlog() for client in connected.values()), default=0) < UNSENT_BYTES_MAX:
                for _ in range(EVENTS_PER_BATCH):
                    streams.handle(event(number), number, "e0000000")
                    number += 1
                streams.flush()
            await asyncio.sleep(0)

    uvicorn_run(
        run_server(
            Starlette(), protocol(gateway, Sockets(Access(load(ApiSettings))), 60, Hosts("127.0.0.1")), fan_out, ready
        )
    )


def serve_starlette(ready: Connection, clients: int) -> None:
    """Serve with Starlette's WebSocket, the text encoded once as well."""
    sockets: list[WebSocket] = []

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        sockets.append(websocket)
        try:
            await websocket.receive_text()
        except WebSocketDisconnect:
            return

    async def fan_out(done: Connection) -> None:
        await until(lambda: len(sockets) == clients)
        done.send("all there")
        number = 0
        while not done.poll():
            for trade in event(number).trades:
                number += 1
                message = {
                    "type": "trade", "venue": "coinbase", "symbol": "BTC-USD", "timestamp": STAMP,
                    "sequence": number, "valid": True, "reason": "",
                    "data": {"trade_id": trade.trade_id, "price": trade.price, "size": trade.size, "side": trade.side,
                             "liquidation": False},
                }  # fmt: skip
                text = orjson.dumps(message).decode()
                for websocket in sockets:
                    await websocket.send_text(text)
            await asyncio.sleep(0)

    app = Starlette(routes=[WebSocketRoute("/ws", endpoint)])
    uvicorn_run(run_server(app, "websockets-sansio", fan_out, ready))


def uvicorn_run(work: Any) -> None:
    """Run on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def connect(port: int) -> socket.socket:
    """Return a raw socket that is through the handshake and subscribed."""
    one = socket.create_connection(("127.0.0.1", port))
    one.sendall(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    while b"\r\n\r\n" not in one.recv(65_536):
        pass
    payload = orjson.dumps(REQUEST)
    one.sendall(bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
    one.setblocking(False)
    return one


def measure(name: str, serve: Any, clients: int, seconds: float) -> float:
    """Return messages per second that all clients together read."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, clients), daemon=True)
    process.start()
    port = ours.recv()
    sockets = [connect(port) for _ in range(clients)]
    ours.recv()
    selector = selectors.DefaultSelector()
    for one in sockets:
        selector.register(one, selectors.EVENT_READ)
    received = messages = 0
    buffer = bytearray(1 << 20)
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for key, _ in selector.select(0.1):
            size = key.fileobj.recv_into(buffer)  # type: ignore[union-attr]
            received += size
            messages += buffer.count(b'"type":"trade"', 0, size)
    cpu_s = sum(os.times()[:2])
    ours.send("enough")
    for one in sockets:
        one.close()
    process.join(10)
    if process.is_alive():
        process.kill()
    rate = messages / elapsed
    print(f"{name:32} {rate:>12,.0f} messages/s   {received / elapsed / 1e6:8.1f} MB/s   clients' CPU {cpu_s:.1f} s")
    return rate


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    print(hardware())
    print(f"{given.clients} clients, {given.seconds:.0f} s each; one message is one trade, some 260 bytes")
    gateway = measure("gateway (picows in uvicorn)", serve_picows, given.clients, given.seconds)
    starlette = measure("Starlette (websockets-sansio)", serve_starlette, given.clients, given.seconds)
    print(f"ratio {gateway / starlette:.1f}")


if __name__ == "__main__":
    main()
