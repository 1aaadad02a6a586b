"""The connection over plain TCP and TLS against real sockets: splitting, sending, reconnects, limits, back-pressure."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from marketdata.events import ALL_SYMBOLS, AnyEvent, FeedStatus, RawFrame
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.live.connection import Connection, Options
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.venue import FrameError, Venue

LIMIT_S = 30.0
LINE_BYTES_MAX = 1000
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ByLine:
    """Cuts at newlines."""

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes) -> Iterable[bytes]:
        """Return the lines that are whole now."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise FrameError("line_too_long")
        return whole


class Echo:
    """A feed that greets, keeps what it receives, connects again when it receives `again`, and logs out at its end."""

    venue = "echo"
    silence_ns = None

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.ts_venue: int | None = None
        self.frames: list[bytes] = []
        self.calls: list[str] = []

    def symbols(self) -> frozenset[str] | None:
        """Return none: it subscribes nothing."""
        return frozenset()

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Return nothing: it publishes nothing that could be continued."""
        del previous, ts
        return []

    def opened(self, ts: int) -> list[Output]:
        """Greet."""
        self.calls.append("opened")
        return [Send(b"hello\n")]

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Keep it."""
        self.frames.append(frame)
        return [Reconnect("again")] if frame == b"again" else [self._status("received", ts)]

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Ask for nothing."""
        return []

    def ticked(self, ts: int) -> list[Output]:
        """Do not mind the time."""
        self.calls.append("ticked")
        return []

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State nothing: it has no trades."""
        del ts, ts_event, skipped
        return []

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Take leave."""
        self.calls.append(f"closed {reason}")
        return [Send(b"bye\n"), self._status("disconnected", ts)]

    def _status(self, kind: str, ts: int) -> FeedStatus:
        return FeedStatus(venue="echo", symbol=ALL_SYMBOLS, ts_event=ts, ts_recv=ts, line="echo/0", kind=kind)


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


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is in many places
            await asyncio.sleep(0.005)


@asynccontextmanager
async def line_to(url: str, feed: Echo, sink: Kept, **options: Any) -> AsyncIterator[Connection]:
    """Run one line against an address, and stop it in order."""
    quick: dict[str, Any] = {"tick_s": 0.02, "stable_s": 0.0, "backoff_base_s": 0.01, "rest_url": "http://127.0.0.1:9",
                             "splitter": ByLine}  # fmt: skip
    line = Connection(feed, "echo/0", sink, Options(ws_url=url, **(quick | options)))
    task = asyncio.create_task(line.run())
    try:
        yield line
    finally:
        sink.open.set()
        line.stop()
        async with asyncio.timeout(LIMIT_S):
            await task


@asynccontextmanager
async def venue(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve a venue that does what `handler` does with each connection; yields its address."""

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(quiet, "localhost", 0, ssl=tls, family=2)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"{'tls' if tls else 'tcp'}://localhost:{port}"
    finally:
        server.close()


def test_bytes_in_any_pieces_become_frames_and_both_directions_are_kept() -> None:
    """A frame may come in parts and several at once; the closing message still reaches the venue."""

    async def scenario() -> None:
        feed, sink = Echo(), Kept()
        got: list[bytes] = []

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.append(await reader.readline())
            for part in (b"on", b"e\ntwo\nth"):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(b"ree\n")
            got.append(await reader.readline())

        async with venue(handler) as url:
            async with line_to(url, feed, sink):
                await until(lambda: len(sink.events) == 3)
            await until(lambda: len(got) == 2)
        assert feed.frames == [b"one", b"two", b"three"]
        assert got == [b"hello\n", b"bye\n"]
        kept = [(raw.kind, raw.data) for raw in sink.raw]
        assert kept == [("connect", b""), ("send", b"hello\n"), ("recv", b"one"), ("recv", b"two"), ("recv", b"three"),
                        ("send", b"bye\n")]  # fmt: skip
        assert [raw.number for raw in sink.raw] == list(range(6))
        assert feed.calls.count("closed stopped") == 1

    uvloop.run(scenario())


def test_without_a_splitter_the_feed_gets_the_bytes_as_they_come() -> None:
    """Chunks of any size, none lost, in order."""

    async def scenario() -> None:
        feed, sink, sent = Echo(), Kept(), bytes(range(256)) * 4000

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(sent)
            await reader.read()

        async with venue(handler) as url, line_to(url, feed, sink, splitter=None):
            await until(lambda: sum(map(len, feed.frames)) == len(sent))
        assert b"".join(feed.frames) == sent

    uvloop.run(scenario())


@pytest.mark.parametrize(("end", "reason"), [("eof", "closed"), ("abort", "connection_lost"), ("asked", "again"),
                                             ("long", "line_too_long")])  # fmt: skip
def test_each_end_of_a_connection_is_told_once_and_a_new_one_is_made(end: str, reason: str) -> None:
    """The venue hangs up, breaks off, or sends what cannot be followed; or the feed wants a new connection."""

    async def scenario() -> None:
        feed, sink, count = Echo(), Kept(), 0

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            count += 1
            writer.write(b"here\n")
            await writer.drain()
            await reader.readline()
            if end == "abort":
                writer.transport.get_extra_info("socket").setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")
                writer.transport.abort()
            elif end != "eof":
                writer.write(b"again\n" if end == "asked" else b"x" * 2 * LINE_BYTES_MAX)
                await reader.read()

        async with venue(handler) as url, line_to(url, feed, sink):
            await until(lambda: feed.calls.count("opened") >= 3)
        ends = [call for call in feed.calls if call != "ticked"][:4]
        assert ends == ["opened", f"closed {reason}", "opened", f"closed {reason}"]

    uvloop.run(scenario())


def test_time_passes_on_a_silent_connection_and_nobody_there_opens_the_breaker() -> None:
    """The feed is ticked while nothing comes; where nothing listens the line keeps trying and tells of it."""

    async def scenario() -> None:
        feed, sink = Echo(), Kept()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with venue(handler) as url, line_to(url, feed, sink):
            await until(lambda: "ticked" in feed.calls)
        feed, sink = Echo(), Kept()
        async with line_to(url, feed, sink):
            await until(lambda: any(isinstance(e, FeedStatus) and e.kind == "breaker_open" for e in sink.events))
        assert feed.calls == []

    uvloop.run(scenario())


def test_slow_sink_makes_the_venue_wait_and_loses_nothing() -> None:
    """While Kafka is slow the socket is not read; afterwards every frame is there."""

    async def scenario() -> None:
        feed, sink, total, sent = Echo(), Kept(), 12_000, 0

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            for number in range(total):
                writer.write(b"%d\n" % number + b"." * 900 + b"\n")
                await writer.drain()
                sent += 1
            await reader.read()

        limit = 256 * 1024
        async with venue(handler) as url, line_to(url, feed, sink, inbox_bytes_max=limit) as line:
            sink.open.clear()
            await until(lambda: line._inbox.paused)
            assert sent < total
            assert line._inbox.bytes < limit + 1024 * 1024
            sink.open.set()
            await until(lambda: len(feed.frames) == 2 * total)
        assert feed.frames[::2] == [b"%d" % number for number in range(total)]

    uvloop.run(scenario())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_tls_is_spoken_and_a_stranger_is_not_believed(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a certificate that is trusted the line is up; with one that is not it never is."""

    async def scenario(*, trusted: bool) -> None:
        feed, sink = Echo(), Kept()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"secret " + await reader.readline())
            await reader.read()

        async with venue(handler, tls) as url, line_to(url, feed, sink):
            if trusted:
                await until(lambda: feed.frames == [b"secret hello"])
            else:
                await until(lambda: any(isinstance(e, FeedStatus) and e.kind == "breaker_open" for e in sink.events))
                assert feed.calls == []

    uvloop.run(scenario(trusted=False))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    uvloop.run(scenario(trusted=True))


def test_address_must_fit_the_transport() -> None:
    """A venue over TCP is not reached by a WebSocket's address, nor without a port."""
    over_tcp = Venue(name="echo", ws_url="tcp://localhost:1", rest_url="", make=lambda **_: Echo(), transport="tcp")
    assert over_tcp.refusal("tls://example.com:4000") is None
    assert over_tcp.refusal("wss://example.com") is not None
    assert over_tcp.refusal("tcp://example.com") is not None
    assert over_tcp.refusal("tcp://example.com:port") is not None
    over_websocket = Venue(name="echo", ws_url="wss://x", rest_url="", make=lambda **_: Echo())
    assert over_websocket.refusal("wss://example.com/v1") is None
    assert over_websocket.refusal("tcp://example.com:1") is not None
