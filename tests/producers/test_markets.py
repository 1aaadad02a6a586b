"""One producer reads several markets of a venue, each over its own lines, against a real WebSocket server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from marketdata.events import AnyEvent, BookUpdate, RawFrame
from producers.live.__main__ import LineStates, Recorded, connections, names_of
from producers.live.settings import load_for_venue
from runtime.health import Readiness

if TYPE_CHECKING:
    from producers.live.publisher import Publisher

LIMIT_S = 30.0
# Each market's frames are its own, of the same topic and name.
_BOOK = '"data":{"s":"BTCUSDT","b":[["100","1"]],"a":[["101","2"]],"u":5,"seq":9}}'
FRAMES = {
    "/spot": (
        '{"success":true,"ret_msg":"subscribe","op":"subscribe"}',
        '{"topic":"orderbook.200.BTCUSDT","ts":1790000000000,"type":"snapshot",' + _BOOK,
    ),
    "/linear": (
        '{"success":true,"ret_msg":"","op":"subscribe"}',
        '{"topic":"orderbook.200.BTCUSDT","type":"snapshot","ts":1790000000000,' + _BOOK,
    ),
}


class Kept:
    """A sink that keeps the books by line and symbol."""

    def __init__(self) -> None:
        self.books: dict[tuple[str, str], BookUpdate] = {}

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Keep what one frame brought."""
        del t_recv, raw
        self.books |= {(line, event.symbol): event for event in events if isinstance(event, BookUpdate)}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is in many places
            await asyncio.sleep(0.005)


def test_markets_of_one_producer_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name on two markets is two symbols, over a line each; the venue is reached once both are."""
    monkeypatch.setenv("TICKSTREAM_VENUE", "bybit")
    monkeypatch.setenv("BYBIT_PRODUCTS", "BTCUSDT,linear:BTCUSDT,linear:ETHUSDT")
    monkeypatch.setenv("BYBIT_REST_URL", "http://127.0.0.1:9")
    for name in ("BYBIT_MARKET", "BYBIT_WS_URL", "BYBIT_URL", "TICKSTREAM_SOURCE", "TICKSTREAM_LINES"):
        monkeypatch.delenv(name, raising=False)

    async def scenario() -> None:
        asked: dict[str, list[str]] = {}
        linear_may = asyncio.Event()
        readiness, sink = Readiness("venue"), Kept()

        async def market(connection: ServerConnection) -> None:
            assert connection.request is not None
            path = connection.request.path
            asked[path] = json.loads(await connection.recv())["args"]
            if path == "/linear":
                await linear_may.wait()
            for frame in FRAMES[path]:
                await connection.send(frame)
            await connection.wait_closed()

        async with serve(market, "127.0.0.1", 0) as server:
            settings, venue = load_for_venue()
            address = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            here = {name: f"{address}/{name}" for name in venue.markets}
            venue = msgspec.structs.replace(venue, ws_url=here["spot"], markets=here)
            lines = connections(settings, venue, Recorded(lines=1), cast("Publisher", sink), LineStates(readiness))
            tasks = [asyncio.create_task(line.run()) for line in lines]
            try:
                await until(lambda: len(asked) == 2 and ("bybit/spot/0", "BTC-USDT") in sink.books)
                assert not readiness.is_up("venue")
                linear_may.set()
                await until(lambda: len(sink.books) == 2)
                assert readiness.is_up("venue")
            finally:
                linear_may.set()
                for line in lines:
                    line.stop()
                async with asyncio.timeout(LIMIT_S):
                    await asyncio.gather(*tasks)
        assert set(sink.books) == {("bybit/spot/0", "BTC-USDT"), ("bybit/linear/0", "BTC-USDT-PERP")}
        assert [topic for topic in asked["/spot"] if topic.startswith("orderbook")] == ["orderbook.200.BTCUSDT"]
        assert "orderbook.200.ETHUSDT" in asked["/linear"]

    uvloop.run(scenario())


def test_venue_is_reached_while_each_market_has_a_line() -> None:
    """Redundant lines of one market stand in for each other, those of another market do not."""
    readiness = Readiness("venue")
    lines = LineStates(readiness)
    for line, state, reached in (
        ("bybit/spot/0", "ok", True), ("bybit/linear/0", "refused", False), ("bybit/linear/1", "ok", True),
        ("bybit/spot/0", "reset", False), ("bybit/spot/0", "ok", True), ("bybit/linear/1", "", False),
    ):  # fmt: skip
        lines.report(line, state)
        assert readiness.is_up("venue") == reached, (line, state)


def test_history_gets_each_product_once_with_its_market(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that several addresses carry is one product; one that is another on each market names its market."""
    monkeypatch.setenv("TICKSTREAM_VENUE", "binance_usdm")
    monkeypatch.setenv("BINANCE_USDM_PRODUCTS", "BTCUSDT,ETHUSDT")
    settings, venue = load_for_venue()
    assert names_of(venue, settings.streams_of(venue)) == ["BTCUSDT", "ETHUSDT"]
    monkeypatch.setenv("TICKSTREAM_VENUE", "bybit")
    monkeypatch.setenv("BYBIT_PRODUCTS", "BTCUSDT,linear:BTCUSDT")
    settings, venue = load_for_venue()
    assert names_of(venue, settings.streams_of(venue)) == ["spot:BTCUSDT", "linear:BTCUSDT"]
