"""Plays recorded FIX sessions to any client that logs on; `replay` controls the timing.

Theory of operation. Source: FIX Session Layer. A recording contains the messages that a client of the venue received.

1. A client may log on with any names and version. Both sides start at sequence number 1, and a SequenceReset leads to
   the first number of the recording.
2. The venue's messages are sent with their numbers and times, byte for byte except for the names and BeginString, which
   are the client's. Session messages for the recorder (Logon, Logout, ResendRequest, Reject) are replaced by Heartbeats
   with the same number. A Logon announces where the sequence was reset.
3. Sent messages are resent on request. Everything up to a gap in the recording is skipped, as by a venue that lost it,
   unless the missing messages follow later in the recording: then the client waits for them.
4. The reply to a TestRequest, and to a client that has received nothing for its HeartBtInt, is a SequenceReset to the
   next number: it changes nothing, and uses no number of the recording. Other messages of a client are not answered.
5. The last message is followed by a Logout with the text `end of recording`, or with another text with `--loop`.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import structlog

from infra.simulator.replay.wires import AGAIN_REASON, WRITE_BUFFER_BYTES_MAX, Client, Player, Wire
from marketdata.errors import CodecError
from marketdata.fix.codec import Garbled, Message, decode, framed
from marketdata.fix.outgoing import HEARTBEAT, LOGON, LOGOUT, REJECT, RESEND, RESET, TEST
from marketdata.fix.split import FixSplitter
from marketdata.fix.steps import END_REASON
from runtime import recordings

LOGON_S = 10.0
HEARTBEAT_S_MAX = 3_600
SENT_MAX = 10_000
SENT_BYTES_MAX = 64 * 1024 * 1024

# Messages meant only for the recorder.
_PRIVATE = frozenset({LOGON, LOGOUT, RESEND, REJECT})
_HEADER_BYTES = 300
_MARKED = re.compile(rb"\x0143=Y\x01")
_NUMBER = re.compile(rb"\x0134=(\d{1,9})\x01")
_NEW_NUMBER = re.compile(rb"\x0136=(\d{1,9})\x01")
_TIME = re.compile(rb"\x0152=([^\x01]*)\x01")
_NAMES = (re.compile(rb"\x0149=[^\x01]*"), re.compile(rb"\x0156=[^\x01]*"))  # SenderCompID, TargetCompID

_LOG = structlog.get_logger()


class Acceptor:
    """The venue's side of one client, pure: recorded frames and the client's frames in, frames for the client out.

    `later` are the numbers that are resent later in the recording.
    """

    def __init__(self, later: frozenset[int] = frozenset()) -> None:
        self.is_on = False
        self.is_over = False
        self.heartbeat_s = 0
        self.later = later
        self._begin = ""
        self._names: tuple[bytes, ...] = ()
        self._time = b""
        self._due = 1
        self._is_first = True
        self._sent: OrderedDict[int, bytes] = OrderedDict()
        self._sent_bytes = 0

    def received(self, frame: bytes) -> list[bytes]:
        """Answer the client."""
        try:
            message = decode(frame)
        except Garbled:
            return []
        if not self.is_on:
            return self._log_on(message)
        if message.kind == TEST:
            return [self.beat()]
        if message.kind == RESEND:
            return list(self._again(message.number(7) or 1, message.number(16) or 0))
        if message.kind != LOGOUT:
            return []
        answer = [] if self.is_over else [self._say(LOGOUT)]
        self.is_over = True
        return answer

    def play(self, frame: bytes) -> list[bytes]:
        """Return a recorded frame rewritten for this client; bytes that are not a message are sent unchanged."""
        try:
            message = decode(frame)
        except Garbled as error:
            self._due = max(self._due, error.number + 1)
            return [frame]
        kind, number = message.kind, message.number(34) or 0
        if not number:
            return [frame[:-1]]  # sent unreadable, since a valid one would end the session
        self._time = message.get(52).encode("latin-1") or self._time
        frames: list[bytes] = []
        is_reset = kind == RESET and message.get(123) != "Y"
        if self._is_first or (number < self._due and message.get(43) != "Y" and not is_reset):
            frames = self._begin_at(number if kind == LOGON else number - 1)
            if kind == LOGON:
                return frames
        frame = self._say(HEARTBEAT, number=number) if kind in _PRIVATE else self._addressed(frame)
        if is_reset:
            self._due = message.number(36) or self._due
            return [*frames, frame]
        if kind == RESET:
            self._due = max(self._due, message.number(36) or 0)
        return [*frames, self._keep(number, frame)]

    def beat(self) -> bytes:
        """Return a message that shows that we are alive."""
        return self._reset_to(self._due)

    def end(self, text: str) -> bytes:
        """Return the last message."""
        self.is_over = True
        return self._say(LOGOUT, b"58=%b\x01" % text.encode())

    def _log_on(self, message: Message) -> list[bytes]:
        if message.kind != LOGON:
            self.is_over = True
            return []
        self.is_on = True
        self.heartbeat_s = min(message.number(108) or 30, HEARTBEAT_S_MAX)
        self._begin = message.begin
        self._names = tuple(f"\x01{tag}={message.get(of)}".encode("latin-1") for tag, of in ((49, 56), (56, 49)))
        self._time = message.get(52).encode("latin-1")
        return [self._logon()]

    def _logon(self) -> bytes:
        version = b"1137=9\x01" if self._begin.startswith("FIXT") else b""
        self._due = 1
        frame = self._say(LOGON, b"98=0\x01108=%d\x01141=Y\x01%b" % (self.heartbeat_s, version))
        self._due = 2
        return frame

    def _begin_at(self, before: int) -> list[bytes]:
        """Advance the client's expected number to the one after this number."""
        frames = [] if self._is_first else [self._logon()]
        self._is_first = False
        self._sent.clear()
        self._sent_bytes = 0
        if before > 1:
            frames.append(self._reset_to(before + 1))
            self._due = before + 1
        return frames

    def _keep(self, number: int, frame: bytes) -> bytes:
        """Store a sent frame for resend requests."""
        self._due = max(self._due, number + 1)
        self._sent_bytes += len(frame) - len(self._sent.get(number, b""))
        self._sent[number] = frame
        while len(self._sent) > SENT_MAX or self._sent_bytes > SENT_BYTES_MAX:
            self._sent_bytes -= len(self._sent.popitem(last=False)[1])
        return frame

    def _again(self, first: int, last: int) -> Iterator[bytes]:
        """Yield the requested frames again; a gap, and everything before it, is skipped."""
        last = min(last or self._due - 1, self._due - 1)
        missing = next((n for n in range(last, first - 1, -1) if n not in self._sent and n not in self.later), 0)
        if missing:
            yield self._say(RESET, b"43=Y\x01123=Y\x0136=%d\x01" % (missing + 1), number=first)
        for number in range(max(first, missing + 1), last + 1):
            if number in self._sent:
                yield self._marked(self._sent[number])

    def _marked(self, frame: bytes) -> bytes:
        """Return a frame marked as a resend."""
        if _MARKED.search(frame, 0, _HEADER_BYTES):
            return frame
        body = _NUMBER.sub(b"\\g<0>43=Y\x01", _body(frame), count=1)
        return framed(self._begin, _TIME.sub(b"\\g<0>122=\\1\x01", body, count=1))

    def _addressed(self, frame: bytes) -> bytes:
        """Return a recorded frame with the client's names and version in it."""
        body = _body(frame)
        for pattern, name in zip(_NAMES, self._names, strict=True):
            found = pattern.search(body)
            if found is not None:
                body = body[: found.start()] + name + body[found.end() :]
        return framed(self._begin, body)

    def _say(self, kind: str, fields: bytes = b"", *, number: int = 0) -> bytes:
        """Return a session message with the last known time."""
        names = b"".join(self._names)
        head = b"35=%b%b\x0134=%d\x0152=%b\x01" % (kind.encode(), names, number or self._due, self._time)
        return framed(self._begin, head + fields)

    def _reset_to(self, number: int) -> bytes:
        return self._say(RESET, b"36=%d\x01" % number)


def _body(frame: bytes) -> bytes:
    """Return a frame's fields from MsgType on to before CheckSum, each with its delimiter."""
    return frame[frame.index(b"\x0135=") + 1 : -len("10=000\x01")]


class FixWire(Wire, asyncio.Protocol):
    """A client over TCP."""

    def __init__(self, server: Player, sessions: Sessions) -> None:
        self._server = server
        self._sessions = sessions
        self._acceptor = Acceptor()
        self._splitter = FixSplitter()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_silent = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the Logon, with a time limit."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        self.client = self._server.joined(self, silence_s=None)
        self._again_in(LOGON_S)

    def data_received(self, data: bytes) -> None:
        """Answer the client's messages."""
        for frame in self._splitter.split(data):
            if self.client is not None and self.client.recorded is not None:
                self._acceptor.later = self._sessions.later(self.client)
            self._write(self._acceptor.received(frame))
        if self._acceptor.is_over and self._transport is not None:
            self._transport.close()
        elif self._acceptor.is_on and self.client is not None and not self.client.began.is_set():
            self.client.began.set()
            self._again_in(self._acceptor.heartbeat_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        """Stop playing."""
        if self._timer is not None:
            self._timer.cancel()
        if self.client is not None:
            self._server.left(self.client)

    def send(self, line: recordings.Recorded) -> None:
        """Send a recorded message."""
        self._write(self._acceptor.play(line.frame))

    def end(self, *, again: bool) -> None:
        """Log out."""
        self._write([self._acceptor.end(AGAIN_REASON if again else END_REASON)])

    def leave(self) -> None:
        """Log out, and close."""
        self._write([self._acceptor.end("going away")])
        if self._transport is not None:
            self._transport.close()

    def drop(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, frames: Sequence[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing() and frames:
            self._transport.writelines(frames)
            self._is_silent = False

    def _again_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._waited)

    def _waited(self) -> None:
        """Send heartbeats after silence; disconnect a client that has not logged on in time."""
        if not self._acceptor.is_on:
            self.drop()
            return
        if self._is_silent:
            self._write([self._acceptor.beat()])
        self._is_silent = True
        self._again_in(self._acceptor.heartbeat_s)


class Sessions:
    """The sessions of recordings, for `Replay`. Raises CodecError if they contain no FIX."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._later: dict[tuple[int, str | None], set[int]] = {}
        is_fix = False
        for place, file in enumerate(files):
            for line in recordings.read(file):
                frame = line.frame if line.t == "recv" else b""
                is_fix = is_fix or frame.startswith(b"8=FIX")
                number = _NUMBER.search(frame, 0, _HEADER_BYTES)
                if number is not None and _MARKED.search(frame, 0, _HEADER_BYTES):
                    first, filled = int(number[1]), _NEW_NUMBER.search(frame, 0, _HEADER_BYTES)
                    end = min(int(filled[1]), first + SENT_MAX) if filled else 0
                    self._later.setdefault((place, line.conn), set()).update(range(first, max(end, first + 1)))
        if not is_fix:
            raise CodecError("the recording contains no FIX message: there is nothing to play")

    def later(self, client: Client) -> frozenset[int]:
        """Return the numbers that are resent in a client's recording."""
        recorded = client.recorded
        return frozenset(self._later.get((recorded.file, recorded.name), ())) if recorded is not None else frozenset()

    async def listen(self, server: Player, host: str, port: int) -> asyncio.Server:
        """Accept clients over TCP."""
        return await asyncio.get_running_loop().create_server(lambda: FixWire(server, self), host, port)
