"""`python -m infra.simulator.replay.server FILE...`: plays recordings over real sockets to any client.

Theory of operation. The files are read once at the start to find their contents (see `recording`), then streamed again
for each client, so that their size does not matter. Each recorded connection of each file is played to one client.

1. A client connects and sends its first message; then its recording starts with the first received frame. A client
   that sends nothing (the subscription may be in the address) is served after `SILENCE_S`. Where several connections
   were recorded, the server waits up to `TOGETHER_S` for a client of each.
2. Frames are sent byte for byte, in order, at the recorded intervals divided by the speed. Nothing is dropped: the
   server waits for a slow client. Later messages of a client are not answered. Clients of different connections stay
   within `ABREAST_NS` of each other, in recorded time.
3. Recorded REST responses are served over HTTP at their recorded path and query. When one is recorded between frames,
   later frames wait until it was requested, because a snapshot must match the updates around it. They wait no longer
   than `ASKED_S`, and no longer than the clients need to process all earlier frames: an unsolicited pong `caught up?`
   asks for that, and our producer replies with a pong `caught up` when it has done so and has no pending request.
4. Before a frame, its recorded time is sent as an unsolicited pong of ASCII digits, UTC nanoseconds, which other
   clients ignore (RFC 6455, 5.5.3). A client that uses it as its clock publishes what it would have published live.
5. A damaged line is sent unchanged before the next frame, so that the client detects unreadable data.
6. After the last frame the connection is closed with code 1000 and the reason `end of recording`; with `--loop` the
   code is 1012, so that the client reconnects and receives the recording again.

Recorded FIX sessions are played over TCP (see `fix_replay`), Databento's files by its own gateway (see `databento`).
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter as Counts
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import structlog
import typer
import uvloop
from fastapi import FastAPI, HTTPException, Request, Response
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest

from infra.simulator import web
from infra.simulator.ends import asked_to_stop
from infra.simulator.outbox import Outbox
from infra.simulator.replay import TCP_VENUES
from infra.simulator.replay import fix as fix_replay
from infra.simulator.replay.databento import Gateway
from infra.simulator.replay.recording import Contents, RecordedConnection, survey
from infra.simulator.replay.wires import AGAIN_REASON, WRITE_BUFFER_BYTES_MAX, Client, Wire
from infra.simulator.settings import ExchangeSettings
from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.errors import CodecError, SettingsError
from runtime import garbage, log, recordings
from runtime.settings import load

END_REASON = "end of recording"
REQUEST_BYTES_MAX = 1024 * 1024
# Time limits for a client's first message, for clients of the other connections, and for requests of recorded
# responses.
CAUGHT_UP_QUESTION, CAUGHT_UP = b"caught up?", b"caught up"
SILENCE_S = 0.5
TOGETHER_S = 1.0
ASKED_S = 2.0
ABREAST_NS = 20 * MILLISECOND_NS
CLOSE_WITHIN_S = 60.0
# Yield to other clients and HTTP after this many frames without a pause.
FRAMES_AT_ONCE_MAX = 64

Sleep = Callable[[float], Awaitable[None]]

_LOG = structlog.get_logger()
_FRAMES = Counter("tickstream_replay_frames_total", "Recorded frames that were played.")
_ANSWERS = Counter("tickstream_replay_http_total", "Requests for recorded REST answers.", ["found"])


class WebSocket(Wire, WSListener):
    """A client over WebSocket."""

    def __init__(self, server: Replay, path: str) -> None:
        super().__init__()
        self._server = server
        self._path = path
        self._ts_sent: int | None = None
        self._outbox: Outbox | None = None
        self.transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Start waiting for the first message."""
        self.transport, self._outbox = transport, Outbox(transport)
        transport.underlying_transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        self.client = self._server.joined(self, self._path)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handle a frame of the client: its first message, its close and its replies."""
        client = self.client
        if frame.msg_type == WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type in {WSMsgType.TEXT, WSMsgType.BINARY} and client is not None and not client.began.is_set():
            client.asked += " " + frame.get_payload_as_bytes().decode(errors="replace")
            client.began.set()
        elif frame.msg_type == WSMsgType.PONG and client is not None and frame.get_payload_as_bytes() == CAUGHT_UP:
            self._server.caught_up(client)

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - picows' signature
        """Stop playing."""
        if self.client is not None:
            self._server.left(self.client)

    def send(self, line: recordings.Recorded) -> None:
        """Send a recorded frame, preceded by its recorded time."""
        if self._outbox is None:
            return
        if line.ts_recv != self._ts_sent:
            self._ts_sent = line.ts_recv
            self._outbox.send(WSMsgType.PONG, b"%d" % line.ts_recv)
        self._outbox.send(WSMsgType.TEXT, line.frame)

    def ask_whether_caught_up(self) -> bool:
        """Send the question after the frames already sent."""
        if self._outbox is not None:
            self._outbox.send(WSMsgType.PONG, CAUGHT_UP_QUESTION)
        return True

    def end(self, *, again: bool) -> None:
        """Close after the last frame in the socket's buffer."""
        code, reason = (WSCloseCode.SERVICE_RESTART, AGAIN_REASON) if again else (WSCloseCode.OK, END_REASON)
        if self._outbox is not None:
            self._outbox.close(code, reason.encode())

    def leave(self) -> None:
        """Close because the server stops."""
        if self.transport is not None and self._outbox is not None:
            self._outbox.close(WSCloseCode.GOING_AWAY, b"going away")
            self.transport.disconnect()

    def drop(self) -> None:
        """Close without waiting for a response."""
        if self.transport is not None:
            self.transport.disconnect(graceful=False)


async def listen(server: Replay, host: str, port: int) -> asyncio.Server:
    """Accept clients over WebSocket."""

    def accept(request: WSUpgradeRequest) -> WebSocket:
        return WebSocket(server, request.path.decode(errors="replace"))

    return await ws_create_server(accept, host, port, max_frame_size=REQUEST_BYTES_MAX)


Listen = Callable[["Replay", str, int], Awaitable[asyncio.Server]]


class Replay:
    """The replay server of one or several files. `speed` divides the recorded intervals; infinity means no pauses.

    `now` (seconds) and `sleep` are the clock that the recording runs by, `listen` takes clients by a venue's protocol,
    `behind_ns` is by how much the recorder's clock was behind the venue's.
    """

    def __init__(
        self,
        *files: Path,
        speed: float = 1.0,
        loop: bool = False,
        behind_ns: int = 0,
        now: Callable[[], float] | None = None,
        sleep: Sleep = asyncio.sleep,
        listen: Listen = listen,
    ) -> None:
        self.files = files
        self.speed = speed
        self.loop = loop
        self.port = 0
        self._read = partial(recordings.read, behind_ns=behind_ns)
        self.contents: Contents = survey(*map(self._read, files))
        self.clients: dict[int, Client] = {}
        self.finished = 0
        self._now = now
        self._sleep = sleep
        self._listen = listen
        self._next = 1
        self._moved = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[Replay]:
        """Serve on a port (0 takes a free one, see `port`) until the context ends."""
        server = await self._listen(self, host, port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for client in list(self.clients.values()):
                client.wire.leave()
            await server.wait_closed()

    def joined(self, wire: Wire, asked: str = "", *, silence_s: float | None = SILENCE_S) -> Client:
        """Start playing to a new client, after its first message or after `silence_s` seconds."""
        client = Client(self._next, wire, asked, silence_s)
        self._next += 1
        self.clients[client.id] = client
        task = asyncio.create_task(self._play(client), name=f"play-{client.id}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, client))
        return client

    def left(self, client: Client) -> None:
        """Remove a disconnected client."""
        client.gone.set()
        client.writable.set()
        self.clients.pop(client.id, None)
        self._pulse()

    def caught_up(self, client: Client) -> None:
        """Record that a client has processed all frames sent, and has made its requests."""
        client.caught_up = True
        self._pulse()

    def _pulse(self) -> None:
        """Wake all tasks that wait for other clients or for a request."""
        self._moved.set()
        self._moved.clear()

    def _done(self, client: Client, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("playing failed", task=task.get_name(), exc_info=error)
            client.wire.drop()  # otherwise it and the clients next to it would wait forever

    async def _play(self, client: Client) -> None:
        await self._until_begun(client)
        if client.gone.is_set():
            return
        recorded = self._choose(client)
        await self._until_together()
        _LOG.info("playing", client=client.id, connection=recorded.name, frames=recorded.frames)
        now = self._now or asyncio.get_running_loop().time
        start, first = now(), None
        asked: Counts[str | None] = Counts()
        for line in self._heard(recorded):
            if line.t == "http":
                asked[line.conn] += 1
                if first is not None:
                    await self._until_asked(client, line.conn, asked[line.conn])
                continue
            first = line.ts_recv if first is None else first
            wait_s = start + (line.ts_recv - first) / SECOND_NS / self.speed - now()
            if wait_s > 0:
                await self._sleep(wait_s)
            elif client.sent % FRAMES_AT_ONCE_MAX == 0:
                await asyncio.sleep(0)
            if len(self.contents.connections) > 1:
                await self._until_abreast(client, line.ts_recv)
            if not client.writable.is_set():
                await client.writable.wait()
            if client.gone.is_set():
                _LOG.info("client left", client=client.id, sent=client.sent)
                return
            client.send(line)
            _FRAMES.inc()
        await self._finish(client)

    def _heard(self, recorded: RecordedConnection) -> Iterator[recordings.Recorded]:
        """Yield a connection's received frames, with damaged lines and REST responses in their place."""
        damaged: recordings.Recorded | None = None
        for line in self._read(self.files[recorded.file]):
            if line.t == recordings.DAMAGED:
                damaged = line
            elif line.t == "http":
                yield line
            elif line.t == "recv" and line.conn == recorded.name:
                if damaged is not None:
                    yield msgspec.structs.replace(damaged, ts_recv=line.ts_recv)
                    damaged = None
                yield line

    def _choose(self, client: Client) -> RecordedConnection:
        """Assign a connection to a client; the first client restarts the recorded responses."""
        busy = [one.recorded for one in self.clients.values() if one.recorded is not None and not one.finished]
        if not busy:
            self.contents.answers.rewind()
        client.recorded = self.contents.fitting(client.asked, busy)
        client.at = 0
        return client.recorded

    async def _until_begun(self, client: Client) -> None:
        waiting = [asyncio.create_task(client.began.wait()), asyncio.create_task(client.gone.wait())]
        try:
            await asyncio.wait(waiting, timeout=client.silence_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _until_together(self) -> None:
        """Wait briefly for a client of every connection."""
        self._pulse()
        with suppress(TimeoutError):
            async with asyncio.timeout(TOGETHER_S):
                while any(
                    all(client.recorded is not one for client in self.clients.values())
                    for one in self.contents.connections
                ):
                    await self._moved.wait()

    async def _until_abreast(self, client: Client, ts: int) -> None:
        """Wait while a client of another connection has not yet received the frames before this time."""
        client.at = ts
        self._pulse()
        while not client.gone.is_set() and any(
            one.at is not None and one.at < ts - ABREAST_NS and one.recorded is not client.recorded
            for one in self.clients.values()
        ):
            await self._moved.wait()

    async def _until_asked(self, client: Client, address: str | None, times: int) -> None:
        """Wait until a response was requested as often as recorded so far, or no client will request it."""
        answers = self.contents.answers
        if answers.given(address) >= times:
            return
        for one in self.clients.values():
            one.caught_up = False
            one.wire.ask_whether_caught_up()
        with suppress(TimeoutError):
            async with asyncio.timeout(ASKED_S):
                while answers.given(address) < times and not client.gone.is_set():
                    if all(one.caught_up for one in self.clients.values()):
                        break
                    await self._moved.wait()
        if answers.given(address) < times:
            _LOG.info("no client requested a recorded answer", address=address)

    async def _finish(self, client: Client) -> None:
        """Close the connection at the end of its recording, and wait until the client has read everything."""
        client.finished = True
        client.at = None
        self._pulse()
        self.finished += 1
        _LOG.info("played to the end", client=client.id, sent=client.sent)
        if client.gone.is_set():
            return
        client.wire.end(again=self.loop)
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await client.gone.wait()
        except TimeoutError:
            client.wire.drop()

    def app(self, venue: str) -> FastAPI:
        """Return the HTTP application: recorded REST responses, progress of clients, health and metrics."""
        app = FastAPI(title="Tickstream replay", docs_url=None, redoc_url=None)

        @app.get("/healthz")
        @app.get("/readyz")
        async def health() -> dict[str, Any]:
            """The recording being played."""
            return {"status": "alive", "venue": venue, "files": [file.name for file in self.files]}

        @app.get("/progress")
        async def progress() -> dict[str, Any]:
            """The recorded connections, the first frame's time, the clients' progress, and how many finished."""
            held = [{"connection": one.name, "frames": one.frames} for one in self.contents.connections]
            return {
                "recorded": held,
                "began": self.contents.began,
                "clients": [client.view() for client in self.clients.values()],
                "finished": self.finished,
            }

        @app.get("/metrics")
        async def metrics() -> Response:
            """Prometheus metrics."""
            return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

        @app.get("/{path:path}")
        async def recorded(path: str, request: Request) -> Response:
            """A recorded response."""
            address = f"/{path}?{request.url.query}"
            body = self.contents.answers.answer(address)
            self._pulse()
            _ANSWERS.labels(str(body is not None).lower()).inc()
            if body is None:
                raise HTTPException(404, f"not in the recording; there are {self.contents.answers.paths()[:20]}")
            return Response(body.encode(), media_type="application/json")

        return app


def speed_of(text: str) -> float:
    """Return a speed from `1`, `10`, `0.5` or `max`.

    Raises typer.BadParameter for anything else.
    """
    if text == "max":
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < math.inf:
        raise typer.BadParameter(f"{text!r} is neither a number above 0 nor `max`")
    return speed


def can_play(venue: str, transport: str) -> bool:
    """Return whether a venue's recordings can be played: over WebSocket, or by a server of its own protocol."""
    return transport == "websocket" or venue in TCP_VENUES


def player(files: list[Path], *, venue: str, speed: float, loop: bool, behind_ns: int = 0) -> Replay | Gateway:
    """Return the server of a venue's protocol; over TCP no recorded time is sent, and `behind_ns` has no effect.

    Raises CodecError or OSError when a file cannot be played, typer.BadParameter for several where one is taken.
    """
    if venue == "fix":
        return Replay(*files, speed=speed, loop=loop, listen=fix_replay.Sessions(files).listen)
    if venue != "databento":
        return Replay(*files, speed=speed, loop=loop, behind_ns=behind_ns)
    if len(files) > 1:
        raise typer.BadParameter("Databento's gateway plays one file")
    return Gateway(files[0], speed=speed, loop=loop)


async def run(replay: Replay | Gateway, settings: ExchangeSettings, venue: str) -> None:
    """Serve until a signal asks to stop."""
    stopping = asked_to_stop()
    garbage.freeze()
    async with (
        replay.serve(settings.host, settings.exchange_port),
        web.serve(replay.app(venue), settings.host, settings.exchange_control_port) as control_port,
    ):
        _LOG.info(
            "the recording is ready",
            address=f"{settings.host}:{replay.port}",
            control=f"http://{settings.host}:{control_port}",
            files=[file.name for file in replay.files],
            connections=len(replay.contents.connections),
            frames=sum(one.frames for one in replay.contents.connections),
            answers=len(replay.contents.answers),
        )
        for damage in replay.contents.damaged:
            _LOG.warning("the recording is damaged", detail=damage)
        await stopping.wait()


def main(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Recording (`.jsonl`, Databento's `.dbn` or `.csv`, also packed); several are lines of one feed."
        ),
    ],
    *,
    venue: Annotated[str, typer.Option(help="Venue that was recorded.")] = "coinbase",
    speed: Annotated[str, typer.Option(help="1 is the recorded pace, 10 ten times that, `max` no pauses.")] = "1",
    host: Annotated[str | None, typer.Option(help="Address to serve on [TICKSTREAM_HOST].")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the stream [TICKSTREAM_EXCHANGE_PORT, 18765].")] = None,
    control_port: Annotated[
        int | None, typer.Option(help="Port of the recorded REST answers [TICKSTREAM_EXCHANGE_CONTROL_PORT, 18766].")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="At the end ask the client to reconnect.")] = False,
    behind: Annotated[float, typer.Option(help="Seconds that the recorder's clock was behind the venue's.")] = 0.0,
) -> None:
    """Play a recording in its venue's protocol to any client, until SIGTERM or SIGINT.

    Example: `python -m infra.simulator.replay.server recording.jsonl.zst --venue kraken --speed max`
    """
    given = {"host": host, "exchange_port": port, "exchange_control_port": control_port}
    pace = speed_of(speed)
    try:
        settings = load(ExchangeSettings, **{name: value for name, value in given.items() if value is not None})
        log.configure("replay", settings.log_level)
        uvloop.run(
            run(player(files, venue=venue, speed=pace, loop=loop, behind_ns=int(behind * SECOND_NS)), settings, venue)
        )
    except FileNotFoundError as error:
        _leave(f"there is no file {error.filename}")
    except (SettingsError, CodecError, OSError) as error:
        _leave(str(error))


def _leave(message: str) -> None:
    print(f"replay: {message}", file=sys.stderr)  # noqa: T201 - the one line that a person looks for
    raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
