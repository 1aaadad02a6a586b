"""The replay server gives back a recording byte for byte, at the speed asked for, to as many clients as come."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import websockets
import zstandard

from infra.simulator import web
from infra.simulator.replay.recording import survey
from infra.simulator.replay.server import END_REASON, Replay, WebSocket, speed_of
from infra.simulator.replay.wires import AGAIN_REASON, WRITE_BUFFER_BYTES_MAX
from marketdata.clock import SECOND_NS
from marketdata.errors import CodecError
from marketdata.events import AnyEvent, RawFrame
from producers.live.connection import Connection, Options
from producers.venues import make_feed
from runtime.recordings import Recorded, read, write

RECORDING = Path(__file__).parents[3] / "shared" / "recordings" / "coinbase_advanced.jsonl.zst"
SUBSCRIBE = json.dumps({"type": "subscribe", "channel": "level2", "product_ids": ["BTC-USD"]})
START = 1_786_309_548_000_000_000
MS = START // 1_000_000

Bounded = Callable[[Any], None]
Plays = Callable[..., AbstractAsyncContextManager[Replay]]


@pytest.fixture
def plays() -> Plays:
    """Serves a recording on a free port."""

    @asynccontextmanager
    async def serve(file: Path, **options: Any) -> AsyncIterator[Replay]:
        async with Replay(file, **{"speed": math.inf} | options).serve("127.0.0.1", 0) as replay:
            yield replay

    return serve


def _recv(number: int, data: str, conn: str = "one") -> Recorded:
    return Recorded("recv", START + number * SECOND_NS, conn, data)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of 50 frames, one a second, with non-ASCII text, after a subscription."""
    file = tmp_path / "made.jsonl.zst"
    frames = [_recv(number, json.dumps({"n": number, "text": "é€😀"}, ensure_ascii=False)) for number in range(50)]
    write(file, [Recorded("send", START, "wss://venue", SUBSCRIBE), *frames])
    return file


async def _receive(
    port: int, message: str | None = SUBSCRIBE, path: str = "/"
) -> tuple[list[str], int | None, str | None]:
    """Connect, subscribe and return all frames with the close code and reason."""
    url = f"ws://127.0.0.1:{port}{path}"
    async with websockets.connect(url, max_size=None, proxy=None) as socket:
        if message is not None:
            await socket.send(message)
        frames = []
        with suppress(websockets.ConnectionClosed):
            while True:
                frames.append(await socket.recv())
        assert all(isinstance(frame, str) for frame in frames)
        return frames, socket.close_code, socket.close_reason  # type: ignore[return-value]


@pytest.mark.skipif(not RECORDING.exists(), reason="the recordings are not beside the project")
def test_real_recording_comes_back_byte_for_byte(plays: Plays, bounded: Bounded) -> None:
    """Every frame of Coinbase's recording arrives, the 5 MB snapshot too, in order; then the recording's end."""
    expected = [line.data for line in read(RECORDING) if line.t == "recv"]

    async def scenario() -> None:
        async with plays(RECORDING) as replay:
            frames, code, reason = await _receive(replay.port)
            assert frames == expected
            assert (code, reason) == (1000, END_REASON)

    bounded(scenario())


def test_each_connection_hears_the_recording_from_the_beginning(
    plays: Plays, bounded: Bounded, recording: Path
) -> None:
    """Clients at once and one after another each receive all of it."""
    expected = [line.data for line in read(recording) if line.t == "recv"]

    async def scenario() -> None:
        async with plays(recording) as replay:
            received = await asyncio.gather(*(_receive(replay.port) for _ in range(3)))
            received.append(await _receive(replay.port))
            assert [frames for frames, _, _ in received] == [expected] * 4
            assert replay.finished == 4

    bounded(scenario())


def test_nothing_is_played_before_the_client_speaks(
    plays: Plays, bounded: Bounded, recording: Path, eventually: Any
) -> None:
    """A client that has not subscribed gets no frame; its first message starts the recording."""

    async def scenario() -> None:
        async with (
            plays(recording) as replay,
            websockets.connect(f"ws://127.0.0.1:{replay.port}", proxy=None, max_queue=None) as socket,
        ):
            await eventually(lambda: bool(replay.clients))
            await (await socket.ping())
            assert [client.sent for client in replay.clients.values()] == [0]
            await socket.send(SUBSCRIBE)
            assert json.loads(await socket.recv())["n"] == 0

    bounded(scenario())


def test_venue_without_subscriptions_starts_by_itself(plays: Plays, bounded: Bounded, tmp_path: Path) -> None:
    """Where the recorder sent nothing, because the address holds the subscription, silence starts it too."""
    file = tmp_path / "made.jsonl.zst"
    write(file, [_recv(number, str(number)) for number in range(5)])

    async def scenario() -> None:
        async with plays(file) as replay:
            frames, *_ = await _receive(replay.port, None, "/stream?streams=btcusdt@trade")
            assert frames == ["0", "1", "2", "3", "4"]

    bounded(scenario())


def test_slow_reader_is_waited_for_and_misses_nothing(
    plays: Plays, bounded: Bounded, tmp_path: Path, eventually: Any
) -> None:
    """While a client does not read, the server holds a bounded part; once it reads, it gets every frame."""
    file = tmp_path / "made.jsonl.zst"
    body = "x" * 100_000
    write(file, [Recorded("send", START, "wss://venue", SUBSCRIBE), *(_recv(n, f"{n} {body}") for n in range(400))])

    async def scenario() -> None:
        async with (
            plays(file) as replay,
            websockets.connect(f"ws://127.0.0.1:{replay.port}", proxy=None, max_queue=1) as socket,
        ):
            await socket.send(SUBSCRIBE)
            await eventually(lambda: any(not client.writable.is_set() for client in replay.clients.values()))
            (client,) = replay.clients.values()
            assert isinstance(client.wire, WebSocket)
            assert client.wire.transport is not None
            held = client.wire.transport.underlying_transport.get_write_buffer_size()
            assert held <= WRITE_BUFFER_BYTES_MAX + len(body) + 100
            assert client.sent < 400
            frames = [str(frame) async for frame in socket]
            assert [int(frame.split()[0]) for frame in frames] == list(range(400))

    bounded(scenario())


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_frames_keep_their_recorded_distances_divided_by_the_speed(
    plays: Plays, bounded: Bounded, recording: Path, speed: float
) -> None:
    """By an injected clock: each frame is due at its recorded distance from the first one, over the speed."""
    clock = 0.0
    due: list[float] = []

    def now() -> float:
        return clock

    async def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds
        due.append(clock)
        await asyncio.sleep(0)

    async def scenario() -> None:
        async with plays(recording, speed=speed, now=now, sleep=sleep) as replay:
            frames, *_ = await _receive(replay.port)
            assert len(frames) == 50
            assert due == pytest.approx([number / speed for number in range(1, 50)])

    bounded(scenario())


def test_a_damaged_line_is_played_as_a_frame_that_cannot_be_read(
    plays: Plays, bounded: Bounded, recording: Path, tmp_path: Path
) -> None:
    """The client must know that it may have missed something; at the file's end it missed nothing."""
    lines = zstandard.decompress(recording.read_bytes(), 1_000_000).splitlines()
    file = tmp_path / "cut.jsonl"
    file.write_bytes(b"\n".join([*lines[:4], lines[4][:30], *lines[5:9], lines[9][:50]]))

    async def scenario() -> None:
        async with plays(file) as replay:
            frames, code, _ = await _receive(replay.port)
            assert code == 1000
            assert [json.loads(frame)["n"] for frame in frames if frame.startswith("{")] == [0, 1, 2, 4, 5, 6, 7]
            assert frames[3].startswith("cut.jsonl, line 5: not a recorded frame")
            assert [damage[:17] for damage in replay.contents.damaged] == ["cut.jsonl, line 5", "cut.jsonl, line 1"]

    bounded(scenario())


def test_a_client_that_cannot_be_played_to_is_let_go(plays: Plays, bounded: Bounded, recording: Path) -> None:
    """When the file is gone meanwhile, say: it must not wait for frames that never come."""

    async def scenario() -> None:
        async with plays(recording) as replay:
            await asyncio.to_thread(recording.unlink)
            assert await _receive(replay.port) == ([], 1006, "")

    bounded(scenario())


def test_looped_recording_asks_to_connect_again(plays: Plays, bounded: Bounded, recording: Path) -> None:
    """With `--loop` the end is no end: the close code says that the service restarts."""

    async def scenario() -> None:
        async with plays(recording, loop=True) as replay:
            _, code, reason = await _receive(replay.port)
            assert (code, reason) == (1012, AGAIN_REASON)
            frames, *_ = await _receive(replay.port)
            assert len(frames) == 50

    bounded(scenario())


def test_client_is_given_the_connection_that_fits_its_subscription(
    plays: Plays, bounded: Bounded, tmp_path: Path
) -> None:
    """Of two recorded connections each client receives the one whose symbols it asked for, whoever comes first."""
    file = tmp_path / "made.jsonl.zst"
    frames = [
        _recv(number, json.dumps({"topic": f"orderbook.{symbol}", "n": number}), symbol)
        for number in range(6)
        for symbol in ("BTCUSDT", "SOLUSDT")
    ]
    write(file, [Recorded("send", START, "wss://venue", SUBSCRIBE), *frames])

    async def scenario() -> None:
        async with plays(file) as replay:
            sol, btc = await asyncio.gather(
                _receive(replay.port, '{"op":"subscribe","args":["orderbook.SOLUSDT"]}'),
                _receive(replay.port, '{"op":"subscribe","args":["orderbook.BTCUSDT"]}'),
            )
            assert {json.loads(frame)["topic"] for frame in sol[0]} == {"orderbook.SOLUSDT"}
            assert {json.loads(frame)["topic"] for frame in btc[0]} == {"orderbook.BTCUSDT"}
            assert len(sol[0]) == len(btc[0]) == 6

    bounded(scenario())


def test_a_recorders_clock_that_was_behind_is_set_forward(recording: Path) -> None:
    """Where the recording begins, and with every frame."""
    replay = Replay(recording, behind_ns=60 * SECOND_NS)
    assert replay.contents.began == START + 60 * SECOND_NS
    (connection,) = replay.contents.connections
    assert [line.ts_recv for line in replay._heard(connection)][-1] == START + 109 * SECOND_NS


def test_clients_that_ask_alike_are_given_different_connections() -> None:
    """Where nothing tells connections apart, the next one that is not being played is taken, in the file's order."""
    contents = survey([_recv(0, "same", "a"), _recv(0, "same", "b")])
    one, other = contents.connections
    assert contents.fitting("x", []) is one
    assert contents.fitting("x", [one]) is other
    assert contents.fitting("x", [one, other]) is one


def test_recorded_answers_are_served_at_their_address_in_order(plays: Plays, bounded: Bounded, tmp_path: Path) -> None:
    """Bodies of one path and query come one after another, the last again and again; another query is another body."""
    file = tmp_path / "made.jsonl.zst"
    bodies = [
        Recorded("http", START, "https://api.venue/depth?symbol=A&limit=5", "first"),
        Recorded("http", START, "https://api.venue/depth?symbol=A&limit=5", "second"),
        Recorded("http", START, "https://api.venue/depth?symbol=B&limit=5", "other"),
    ]
    write(file, [*bodies, _recv(0, "x")])

    async def scenario() -> None:
        async with (
            plays(file) as replay,
            web.serve(replay.app("venue"), "127.0.0.1", 0) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
        ):
            answers = [(await http.get("/depth?limit=5&symbol=A")).text for _ in range(3)]
            assert answers == ["first", "second", "second"]
            assert (await http.get("/depth?symbol=B&limit=5")).text == "other"
            assert (await http.get("/depth?symbol=C&limit=5")).status_code == 404
            assert (await http.get("/healthz")).json()["venue"] == "venue"
            assert (await http.get("/progress")).json()["recorded"] == [{"connection": "one", "frames": 1}]

    bounded(scenario())


class _Kept:
    """A sink that keeps the raw frames."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Keep a received frame."""
        if raw is not None and raw.kind in {"recv", "http"}:
            self.frames.append(raw.data)


def test_answers_that_our_producer_does_not_request_cost_no_time(
    plays: Plays, bounded: Bounded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The producer reports that it has caught up, so the replay goes on; what it does request is still waited for."""
    monkeypatch.setattr("infra.simulator.replay.server.ASKED_S", 10_000.0)
    file = tmp_path / "made.jsonl.zst"
    depth = {"e": "depthUpdate", "E": MS, "T": MS, "s": "BTCUSDT", "U": 9, "u": 12, "pu": 8, "b": [], "a": [["2", "1"]]}
    snapshot = {"lastUpdateId": 10, "E": MS, "T": MS, "bids": [["1", "1"]], "asks": [["3", "1"]]}
    ticker = {"e": "bookTicker", "u": 400, "s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1", "T": MS, "E": MS}
    others = [
        line
        for number in range(1, 100)
        for line in (
            Recorded("http", START + number, f"https://venue/fapi/v1/other?n={number}", "{}"),
            Recorded("recv", START + number, "one", json.dumps(ticker | {"u": 400 + number})),
        )
    ]
    lines = [
        Recorded("recv", START, "one", json.dumps(depth)),
        Recorded("http", START, "https://venue/fapi/v1/depth?symbol=BTCUSDT&limit=1000", json.dumps(snapshot)),
        *others,
    ]
    write(file, lines)

    async def scenario() -> None:
        sink = _Kept()
        async with plays(file) as replay, web.serve(replay.app("binance_usdm"), "127.0.0.1", 0) as port:
            options = Options(
                ws_url=f"ws://127.0.0.1:{replay.port}", rest_url=f"http://127.0.0.1:{port}", replay=True, began=START
            )
            line = Connection(make_feed("binance_usdm"), "binance_usdm/0", sink, options)
            running = asyncio.create_task(line.run())
            await line.ended.wait()
            line.stop()
            await running
        received = [frame for frame in sink.frames if b"depthUpdate" in frame or b"bookTicker" in frame]
        assert received == [one.data.encode() for one in lines if one.t == "recv"]
        assert json.dumps(snapshot).encode() in sink.frames[: len(lines) // 2]

    bounded(scenario())


@pytest.mark.parametrize("text", ["0", "-1", "fast", "inf", "nan"])
def test_speed_that_is_none_is_refused(text: str) -> None:
    """A speed is a number above 0 or `max`."""
    with pytest.raises(typer.BadParameter, match="max"):
        speed_of(text)
    assert speed_of("max") == math.inf
    assert speed_of("0.5") == 0.5


def test_recording_without_frames_is_refused(tmp_path: Path) -> None:
    """A file that holds nothing to play says so at once, not when a client comes."""
    file = tmp_path / "empty.jsonl.zst"
    write(file, [Recorded("send", START, None, SUBSCRIBE)])
    with pytest.raises(CodecError, match="nothing to play"):
        Replay(file)
