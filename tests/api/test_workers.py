"""WebSocket clients held by processes of their own: what clients see is the same as with one process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from api.settings import ApiSettings
from marketdata.errors import SettingsError
from runtime.settings import load
from tests.api.test_resume import Mirror
from tests.api.test_websocket import ClientBook, book, candle, known, trade

SYMBOL = "BTC-USD"
WORKERS = 2


@pytest.fixture
def api(stage: Any, wait_for: Any) -> Any:
    """An API with two workers, which knows a symbol."""
    stage.start(TICKSTREAM_API_WORKERS=str(WORKERS), TICKSTREAM_WS_SUBSCRIPTIONS_MAX="20")
    stage.ready()
    stage.produce(book(SYMBOL, "snapshot", {"100": "1"}, {"101": "2"}), candle(SYMBOL, 0, "5"), trade(SYMBOL, 1))
    known(stage, SYMBOL, wait_for)
    wait_for("the trade", lambda: stage.get(f"/api/v1/market/{SYMBOL}/trades")["data"])
    return stage


def workers(api: Any) -> list[psutil.Process]:
    """Return the API's worker processes."""
    return [one for one in psutil.Process(api.process.pid).children() if "api.gateway.worker" in one.cmdline()]


def clients_of(worker: psutil.Process, api: Any) -> int:
    """Return how many clients' connections a worker holds."""
    return sum(each.laddr.port == api.port for each in worker.net_connections("tcp"))


@asynccontextmanager
async def many(open_socket: Any, api: Any, count: int) -> AsyncIterator[list[Any]]:
    """Open so many clients."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_socket(api)) for _ in range(count)]


def test_every_client_of_every_worker_gets_the_same(api: Any, open_socket: Any, wait_for: Any) -> None:
    """The present of each stream, then each change; the clients are spread evenly, and counted in the metrics."""

    async def follow() -> None:
        async with many(open_socket, api, 10) as clients:
            for client in clients:
                answer = await client.subscribe("book", "trades", "candles", depth=5)
                assert answer["type"] == "subscribed"
                first = {message["type"]: message for message in [await client.receive() for _ in range(3)]}
                assert set(first) == {"l2_snapshot", "trade", "candle"}
                assert all(message["snapshot"] for message in first.values())
            api.produce(
                *[book(SYMBOL, "update", {"100": str(size)}, {}) for size in range(2, 40)],
                *[trade(SYMBOL, number) for number in range(2, 40)],
            )
            for client in clients:
                mirror = ClientBook()
                ids: list[str] = []
                mirror.sides = {"bids": {"100": "1"}, "asks": {"101": "2"}}
                while len(ids) < 38 or mirror.sides["bids"] != {"100": "39"}:
                    message = await client.receive()
                    if message["type"] == "trade":
                        ids.append(message["data"]["trade_id"])
                    else:
                        mirror.sequence = message["sequence"] - 1 if mirror.sequence is None else mirror.sequence
                        mirror.take(message)
                assert ids == [str(number) for number in range(2, 40)]
            assert [clients_of(one, api) for one in workers(api)] == [5, 5]
            wait_for("the clients to be counted", lambda: api.metric("tickstream_ws_clients") == 10)
            sent = 'tickstream_ws_messages_total{channel="trades"}'
            wait_for("the messages to be counted", lambda: api.metric(sent) == 10 * 38)

    asyncio.run(follow())


def test_requests_are_answered_and_limits_hold(api: Any, open_socket: Any, wait_for: Any) -> None:
    """Unknown symbols, too many streams, pings, an end of a subscription and a second one."""

    async def follow() -> None:
        async with open_socket(api) as client:
            answer = await client.subscribe("book", symbols=("BTC-USDD",))
            assert (answer["type"], answer["code"], answer["id"]) == ("error", "unknown_symbol", 1)
            assert "BTC-USD" in answer["message"]
            await client.send(op="ping", id="p")
            assert await client.receive() == {"type": "pong", "id": "p"}
            channels = ["ticker", "trades", "candles", "anomalies", "status", "metrics", "derivatives"]
            for depth in (1, 5):
                await client.send(op="subscribe", id=depth, channels=["book"], symbols=[SYMBOL], depth=depth)
            await client.send(op="subscribe", id=6, channels=channels, symbols=[SYMBOL])
            for number, interval in enumerate(("5m", "15m", "1h", "4h", "1d", "1m"), 10):
                await client.send(op="subscribe", id=number, channels=["candles"], symbols=[SYMBOL], interval=interval)
            for depth in (10, 20, 50, 100, 200):
                await client.send(op="subscribe", id=depth, channels=["book"], symbols=[SYMBOL], depth=depth)
            found = await client.until(lambda message: message.get("id") == 200)
            assert {message["id"] for message in found if message["type"] == "subscribed"} >= {1, 5, 6, 10, 14, 15, 50}
            assert (found[-1]["type"], found[-1]["code"]) == ("error", "too_many_subscriptions")

    async def again() -> None:
        async with open_socket(api) as client:
            await client.subscribe("trades")
            await client.receive()
            await client.send(op="unsubscribe", id=3, channels=["trades"], symbols=[SYMBOL])
            assert (await client.receive())["type"] == "unsubscribed"
            api.produce(trade(SYMBOL, 50))
            path = f"/api/v1/market/{SYMBOL}/trades"
            wait_for("the trade", lambda: api.get(path)["data"][0]["trade_id"] == "50")
            await client.subscribe("trades")
            found = await client.until(lambda message: message["data"]["trade_id"] == "50")
            assert all(message["snapshot"] for message in found)

    asyncio.run(follow())
    asyncio.run(again())


def test_a_worker_that_is_killed_costs_its_clients_nothing_but_a_reconnect(
    api: Any, open_socket: Any, wait_for: Any
) -> None:
    """They resume where they were, with the other worker; a new one takes its place."""

    async def follow() -> None:
        mirror = Mirror(SYMBOL)
        async with open_socket(api) as client:
            await mirror.subscribe(client)
            while not mirror.trades or not mirror.snapshots:
                await mirror.take(client)
            (busy,) = [one for one in workers(api) if clients_of(one, api)]
            os.kill(busy.pid, signal.SIGKILL)
            with pytest.raises(ConnectionClosed):
                await client.receive()
        api.produce(*[trade(SYMBOL, number) for number in range(2, 20)], book(SYMBOL, "update", {"100": "9"}, {}))
        async with open_socket(api) as client:
            await mirror.subscribe(client)
            while len(mirror.trades) < 19 or mirror.book.sides["bids"] != {"100": "9"}:
                await mirror.take(client)
        assert mirror.trades == [str(number) for number in range(1, 20)]
        assert mirror.snapshots == 1
        wait_for("another worker", lambda: api.metric("tickstream_ws_workers") == WORKERS)

    asyncio.run(follow())


def test_a_slow_client_of_a_worker_is_cut_and_a_stop_closes_all(stage: Any, open_socket: Any, wait_for: Any) -> None:
    """By the limits of bytes, as in one process; SIGTERM closes the others with a reason, and no worker is left."""

    async def slow() -> None:
        async with open_socket(stage) as client, open_socket(stage) as reader:
            await client.subscribe("trades")
            client.connection.transport.pause_reading()
            await reader.subscribe("book", depth=5)
            cut = 'tickstream_ws_cut_total{reason="slow_consumer"}'
            number = 0
            while not stage.metric(cut):
                stage.produce(*[trade(SYMBOL, each, "1" * 300) for each in range(number, number + 200)])
                number += 200
            stage.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                await reader.until(lambda _: False)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001

    stage.start(TICKSTREAM_API_WORKERS="2", TICKSTREAM_WS_CONFLATE_BYTES="16384", TICKSTREAM_WS_CUT_BYTES="65536")
    stage.ready()
    stage.produce(book(SYMBOL, "snapshot", {"100": "1"}, {"101": "2"}), trade(SYMBOL, 1))
    known(stage, SYMBOL, wait_for)
    running = workers(stage)
    asyncio.run(slow())
    assert stage.process.wait(20) == 0
    wait_for("the workers to be gone", lambda: not any(one.is_running() for one in running))
    assert "shutdown failed" not in stage.log.read_text()


def test_workers_end_with_the_market(api: Any, wait_for: Any) -> None:
    """Also when it is killed: nobody is left that serves old data."""
    running = workers(api)
    assert len(running) == WORKERS
    api.kill()
    wait_for("the workers to be gone", lambda: not any(one.is_running() for one in running))


def test_tls_in_process_and_workers_exclude_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error says what to do."""
    (tmp_path / "certificate.pem").touch()
    monkeypatch.setenv("TICKSTREAM_API_WORKERS", "2")
    monkeypatch.setenv("TICKSTREAM_API_TLS_CERTIFICATE", str(tmp_path / "certificate.pem"))
    with pytest.raises(SettingsError, match="TICKSTREAM_API_WORKERS=1, or end TLS in a proxy"):
        load(ApiSettings)
