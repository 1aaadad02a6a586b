"""The connection against a real WebSocket server: reconnects, breaker, pings, big frames, back-pressure, replays."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from marketdata.events import AnyEvent, BookUpdate, FeedStatus, RawFrame
from producers.live import websocket
from producers.live.connection import Connection, Options
from producers.live.inbox import Inbox
from producers.venues import make_feed
from producers.venues.coinbase.feed import CoinbaseFeed
from producers.venues.kit.backoff import Policy
from producers.venues.kit.limits import Limits, Rate

if TYPE_CHECKING:
    from tests.producers.conftest import Frames

LIMIT_S = 30.0
Handler = Callable[[ServerConnection], Awaitable[None]]


class Kept:
    """A sink that keeps everything, and waits in `write` while it is shut."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.raw: list[RawFrame] = []
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Keep what one frame brought."""
        await self.open.wait()
        self.events += events
        if raw is not None:
            self.raw.append(raw)

    def statuses(self) -> list[str]:
        """Return the kinds of FeedStatus so far."""
        return [event.kind for event in self.events if isinstance(event, FeedStatus)]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is in many places
            await asyncio.sleep(0.005)


def port_of(server: Server) -> int:
    """Return the port that a server listens on."""
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


@asynccontextmanager
async def line_to(url: str, sink: Kept, **options: Any) -> AsyncIterator[Connection]:
    """Run one line against an address, and stop it in order."""
    feed = make_feed("coinbase", products=("BTC-USD",))
    quick: dict[str, Any] = {"tick_s": 0.02, "stable_s": 0.0, "backoff_base_s": 0.01, "rest_url": "http://127.0.0.1:9"}
    line = Connection(feed, "coinbase/0", sink, Options(ws_url=url, **(quick | options)))
    task = asyncio.create_task(line.run())
    try:
        yield line
    finally:
        sink.open.set()
        line.stop()
        async with asyncio.timeout(LIMIT_S):
            await task


@asynccontextmanager
async def venue(handler: Handler, **settings: Any) -> AsyncIterator[str]:
    """Serve a venue that does what `handler` does with each connection; yields its address."""

    async def quiet(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await handler(connection)

    async with serve(quiet, "127.0.0.1", 0, max_size=None, **settings) as server:
        yield f"ws://127.0.0.1:{port_of(server)}"


def test_messages_leave_no_quicker_than_the_venue_allows() -> None:
    """Five subscriptions at ten a second leave a tenth of a second apart, while frames are received between them."""

    async def scenario() -> None:
        sink, came = Kept(), []

        async def handler(connection: ServerConnection) -> None:
            for _ in range(5):
                came.append(await connection.recv())
                await connection.send("{}")

        async with venue(handler) as url, line_to(url, sink, limits=Limits(messages=(Rate(10, 1.0),))):
            await until(lambda: len(came) == 5)
        # By the line's own clock: how late the venue's side runs says nothing about us.
        left = [raw.ts_recv for raw in sink.raw if raw.kind == "send"]
        assert len(left) == 5
        assert left[4] - left[0] >= 390_000_000

    asyncio.run(scenario())


def test_line_that_brings_no_market_data_is_replaced(make_frames: type[Frames]) -> None:
    """It is open and beats, after its book came: a status says so, the book is cleared, a gap is on the ledger."""

    async def scenario() -> None:
        sink, connections = Kept(), []

        async def handler(connection: ServerConnection) -> None:
            connections.append(connection)
            frames = make_frames()
            await connection.send(frames.snapshot())
            while True:
                await connection.send(frames.heartbeat())
                await asyncio.sleep(0.02)

        async with venue(handler) as url, line_to(url, sink, mute_s=0.3):
            await until(lambda: len(connections) > 1)
        mute = [event for event in sink.events if isinstance(event, FeedStatus) and event.reason == "mute"]
        assert [event.kind for event in mute][:1] == ["disconnected"]
        assert "gap" in sink.statuses()
        assert not next(event for event in sink.events if isinstance(event, BookUpdate) and event.kind == "clear").valid

    asyncio.run(scenario())


def test_subscribes_at_once_and_passes_frames_in_order(make_frames: type[Frames]) -> None:
    """Five subscriptions go out unasked; what comes back is written, with the raw frames beside it."""

    async def scenario() -> None:
        sink, frames, asked = Kept(), make_frames(), []

        async def handler(connection: ServerConnection) -> None:
            asked.extend([json.loads(await connection.recv())["channel"] for _ in range(5)])
            await connection.send(frames.snapshot().decode())
            await connection.send(frames.update())  # binary frames are taken too
            await connection.wait_closed()

        async with venue(handler) as url, line_to(url, sink):
            await until(lambda: len([e for e in sink.events if isinstance(e, BookUpdate)]) == 2)
        assert asked == ["heartbeats", "status", "level2", "market_trades", "ticker"]
        assert [e.kind for e in sink.events if isinstance(e, BookUpdate)] == ["snapshot", "update", "clear"]
        assert [raw.kind for raw in sink.raw] == ["connect", *["send"] * 5, "recv", "recv"]
        assert [raw.number for raw in sink.raw] == list(range(8))
        assert sink.statuses() == ["connected", "disconnected", "gap"], "stopping is a disconnection like any other"

    uvloop.run(scenario())


def test_five_megabyte_frame_arrives_whole(make_frames: type[Frames]) -> None:
    """Bitcoin's book has 46,000 levels; one WebSocket frame brings them all, in one piece or in fragments."""

    async def scenario(*, fragmented: bool) -> None:
        sink, frames = Kept(), make_frames()
        levels = [("bid", f"{price / 100:.2f}", "0.12345678") for price in range(4_600_000, 4_554_000, -1)]
        frame = frames.book("snapshot", *levels)
        assert len(frame) > 5_000_000

        async def handler(connection: ServerConnection) -> None:
            text = frame.decode()
            await connection.send([text[i : i + 500_000] for i in range(0, len(text), 500_000)] if fragmented else text)
            await connection.wait_closed()

        async with venue(handler) as url, line_to(url, sink):
            await until(lambda: any(isinstance(event, BookUpdate) for event in sink.events))
        book = next(event for event in sink.events if isinstance(event, BookUpdate))
        assert len(book.bid_prices) == len(levels)
        assert next(raw for raw in sink.raw if raw.kind == "recv").data == frame

    for fragmented in (False, True):
        uvloop.run(scenario(fragmented=fragmented))


def test_lost_connection_clears_the_book_and_the_next_one_closes_the_gap(make_frames: type[Frames]) -> None:
    """The venue hangs up twice; each time the line comes back by itself and the book is right again."""

    async def scenario() -> None:
        sink, count = Kept(), 0

        async def handler(connection: ServerConnection) -> None:
            nonlocal count
            count += 1
            await connection.send(make_frames().snapshot().decode())
            if count < 3:
                connection.transport.abort()
            await connection.wait_closed()

        async with venue(handler) as url, line_to(url, sink):
            await until(lambda: sink.statuses().count("resynced") == 2)
            kinds = [event.kind for event in sink.events if isinstance(event, BookUpdate)]
            assert kinds == ["snapshot", "clear", "snapshot", "clear", "snapshot"]

    uvloop.run(scenario())


def test_breaker_opens_after_five_failures_and_closes_with_the_first_frame(make_frames: type[Frames]) -> None:
    """Nobody listens; then somebody does. One alert, one recovery."""

    async def scenario() -> None:
        sink = Kept()

        async def handler(connection: ServerConnection) -> None:
            await connection.send(make_frames().snapshot().decode())
            await connection.wait_closed()

        async with serve(handler, "127.0.0.1", 0) as server:
            port = port_of(server)
        async with line_to(f"ws://127.0.0.1:{port}", sink):
            await until(lambda: sink.statuses() == ["breaker_open"])
            async with serve(handler, "127.0.0.1", port):
                await until(lambda: "breaker_closed" in sink.statuses())
                assert sink.statuses()[:3] == ["breaker_open", "connected", "breaker_closed"]

    uvloop.run(scenario())


def test_server_that_accepts_and_says_nothing_is_a_failure_too() -> None:
    """A connection without a frame counts for the breaker."""

    async def scenario() -> None:
        sink = Kept()

        async def handler(connection: ServerConnection) -> None:
            connection.transport.abort()

        async with venue(handler) as url, line_to(url, sink):
            await until(lambda: "breaker_open" in sink.statuses())

    uvloop.run(scenario())


def test_line_is_given_up_after_as_many_failures_as_the_venue_allows() -> None:
    """Nobody listens: three tries, an alert, and then the line stays down and says so until it is stopped."""

    async def scenario() -> None:
        sink, states = Kept(), []
        told: dict[str, Any] = {"on_state": lambda _line, state: states.append(state)}
        async with line_to("ws://127.0.0.1:9", sink, backoff=Policy(tries_max=3), **told):
            await until(lambda: "given_up" in sink.statuses())
        assert len(states) == 3
        assert states[-1].startswith("given_up, connect_failed: it failed 3 times in a row")
        assert sink.statuses() == ["given_up"]

    uvloop.run(scenario())


def test_answer_to_a_ping_is_evidence_of_a_quiet_connection() -> None:
    """Its time is noted: all that the venue sent before it is here."""

    async def scenario() -> None:
        async def handler(connection: ServerConnection) -> None:
            await connection.wait_closed()

        inbox, began = Inbox(1 << 20, "alpaca/0"), time.time_ns()
        async with venue(handler) as url:
            wire = await websocket.connect(url, inbox, ping_s=0.05)
            await until(lambda: inbox.ts_pong > began)
            wire.disconnect()

    uvloop.run(scenario())


def test_socket_that_answers_no_ping_is_dead(make_frames: type[Frames]) -> None:
    """Where silence is no sign of death, a ping is asked for an answer; without one a new connection is made."""

    async def scenario() -> None:
        sink, count = Kept(), 0

        async def handler(connection: ServerConnection) -> None:
            nonlocal count
            count += 1
            await connection.send(make_frames().snapshot().decode())
            if count == 1:
                connection.transport.pause_reading()
            await connection.wait_closed()

        async with venue(handler, ping_interval=None) as url, line_to(url, sink, ping_s=0.1):
            await until(lambda: "resynced" in sink.statuses())
        assert count == 2

    uvloop.run(scenario())


def test_end_of_a_recording_ends_the_line_and_leaves_the_books(make_frames: type[Frames]) -> None:
    """A replay that is over: no clear, no reconnect, and the line waits until it is stopped."""

    async def scenario() -> None:
        sink, count = Kept(), 0

        async def handler(connection: ServerConnection) -> None:
            nonlocal count
            count += 1
            await connection.send(make_frames().snapshot().decode())
            await connection.close(1000, "end of recording")

        async with venue(handler) as url, line_to(url, sink, replay=True) as line:
            async with asyncio.timeout(LIMIT_S):
                await line.ended.wait()
            await until(lambda: sink.statuses() == ["connected", "ended"])
        assert count == 1
        assert sink.statuses() == ["connected", "ended"]
        assert [event.kind for event in sink.events if isinstance(event, BookUpdate)] == ["snapshot"]

    uvloop.run(scenario())


def test_venue_that_says_end_of_recording_is_not_believed(make_frames: type[Frames]) -> None:
    """Only a replay ends; a live venue's connection is made again."""

    async def scenario() -> None:
        sink = Kept()

        async def handler(connection: ServerConnection) -> None:
            await connection.send(make_frames().snapshot().decode())
            await connection.close(1000, "end of recording")

        async with venue(handler) as url, line_to(url, sink):
            await until(lambda: sink.statuses().count("connected") >= 3)

    uvloop.run(scenario())


def test_pings_are_answered(make_frames: type[Frames]) -> None:
    """A server that pings sees pongs and keeps the connection."""

    async def scenario() -> None:
        sink, answered = Kept(), asyncio.Event()

        async def handler(connection: ServerConnection) -> None:
            async with asyncio.timeout(LIMIT_S):
                await (await connection.ping(b"are you there"))
            answered.set()
            await connection.wait_closed()

        async with venue(handler) as url, line_to(url, sink):
            async with asyncio.timeout(LIMIT_S):
                await answered.wait()

    uvloop.run(scenario())


def test_silence_reconnects(make_frames: type[Frames], monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is open and mute is a dead one: the book is stale, a new connection is made."""
    monkeypatch.setattr(CoinbaseFeed, "silence_ns", 100_000_000)

    async def scenario() -> None:
        sink = Kept()

        async def handler(connection: ServerConnection) -> None:
            await connection.send(make_frames().snapshot().decode())
            await connection.wait_closed()

        async with venue(handler) as url, line_to(url, sink):
            await until(lambda: sink.statuses().count("connected") == 2)
        assert "heartbeat_missed" in sink.statuses()
        assert next(e.reason for e in sink.events if isinstance(e, BookUpdate) and e.kind == "clear") == "stale"

    uvloop.run(scenario())


def test_slow_sink_stops_the_reading_and_loses_nothing(
    make_frames: type[Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Kafka is slow the venue is made to wait: memory stays bounded, silence is no death, nothing is lost."""
    monkeypatch.setattr(CoinbaseFeed, "silence_ns", 100_000_000)

    async def scenario() -> None:
        sink, frames, total, sent = Kept(), make_frames(), 1_500, 0
        padding = [("offer", str(price), "1") for price in range(1000, 1250)]
        peers: list[ServerConnection] = []

        async def handler(connection: ServerConnection) -> None:
            nonlocal sent
            peers.append(connection)
            await connection.send(frames.snapshot().decode())
            for _ in range(total):
                await connection.send(frames.book("update", *padding).decode())
                sent += 1
            await connection.wait_closed()

        limit = 1024 * 1024
        async with venue(handler) as url, line_to(url, sink, inbox_bytes_max=limit) as line:
            await until(lambda: sent > 10)
            sink.open.clear()
            await until(lambda: line._inbox.paused)
            await until(lambda: peers[0].transport.get_write_buffer_size() > 0)  # the sockets' own buffers are full
            assert sent < total
            assert line._inbox.bytes < limit + 1024 * 1024
            sink.open.set()
            await until(lambda: len(sink.events) >= total)
            assert line._inbox.items == deque()
        numbers = [e.sequence for e in sink.events if isinstance(e, BookUpdate) and e.kind == "update"]
        assert numbers == list(range(1, total + 1))
        assert "heartbeat_missed" not in sink.statuses()

    uvloop.run(scenario())


def test_restart_from_outside_makes_a_new_connection(make_frames: type[Frames]) -> None:
    """After a delivery that failed, books are cleared and filled again."""

    async def scenario() -> None:
        sink = Kept()

        async def handler(connection: ServerConnection) -> None:
            await connection.send(make_frames().snapshot().decode())
            await connection.wait_closed()

        async with venue(handler) as url, line_to(url, sink) as line:
            await until(lambda: any(isinstance(event, BookUpdate) for event in sink.events))
            line.restart("delivery_failed")
            await until(lambda: "resynced" in sink.statuses())
        clear = next(e for e in sink.events if isinstance(e, FeedStatus) and e.kind == "disconnected")
        assert clear.reason == "delivery_failed"

    uvloop.run(scenario())
