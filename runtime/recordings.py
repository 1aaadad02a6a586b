"""Recorded frames on disk: `.jsonl.zst` files of one JSON object a line, in capture order; Databento's files as well.

A line is `{"t": "recv", "ts_recv": <UTC ns>, "conn": <text or null>, "data": "<frame or body>"}`. `t` is `recv` for a
WebSocket frame exactly as it arrived, `send` for one of ours, `http` for a REST answer whose address is in `conn`, and
`connect` where a connection was opened. Databento's DBN and CSV, compressed or not, are told by how they begin.

So are frames that a program logged, `2016-03-12 00:08:37,352 {...}` a line: each is a frame as it arrived. The log's
clock has no zone; its distance from UTC, in quarters of an hour, is taken from the first frame that tells its own time.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

import msgspec
import zstandard

from marketdata.clock import SECOND_NS, parse_rfc3339
from marketdata.errors import BadEvent, CodecError
from runtime import databento

# A line may hold a whole REST body or a frame of the largest size that a connection accepts, escaped.
LINE_BYTES_MAX = 256 * 1024 * 1024

_READ_BYTES = 1 << 20
_START_BYTES = 4096
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_LOGGED = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d),(\d{3}) (?=\{)")
_TOLD_TIME = re.compile(rb'"time":\s*"([0-9T:.\-]+Z)"')
_QUARTER_NS = 900 * SECOND_NS  # every zone's distance from UTC is some of these

# What names a product in the query of some venue's REST interface.
_SYMBOLS = frozenset({"symbol", "product_id", "instid", "pair"})
# What names one in the path, as `products/BTC-USD/book`.
_SYMBOL_PART = re.compile(r"/[A-Z0-9]+-[A-Z0-9]+/")


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """One line of a recording. `t` is recv, send, http or connect; `ts_recv` is UTC nanoseconds by the recorder."""

    t: str
    ts_recv: int
    conn: str | None
    data: str

    @property
    def frame(self) -> bytes:
        """The frame or body as bytes, as a feed takes it."""
        return self.data.encode()


class RecordedBytes(Recorded, frozen=True, gc=False):
    """A frame that is no text: `body` holds it, and `data` nothing."""

    body: bytes = b""

    @property
    def frame(self) -> bytes:
        """The frame as bytes, as a feed takes it."""
        return self.body


_DECODER = msgspec.json.Decoder(Recorded)
_ENCODER = msgspec.json.Encoder()


def read(path: Path | str) -> Iterator[Recorded]:
    """Yield the lines of a recording, in capture order, holding one line in memory at a time.

    Raises CodecError that names the line when the file is not in this format, OSError when it cannot be read.
    """
    path = Path(path)
    try:
        with _plain(path) as plain:
            start = plain.peek(_START_BYTES)
            if databento.is_dbn(start):
                yield from _bytes(path, databento.frames(plain))
            elif databento.is_csv(start):
                yield from _bytes(path, databento.rows(io.TextIOWrapper(plain, "utf-8", newline="")))
            elif _LOGGED.match(start):
                yield from _logged(path, plain)
            elif isinstance(plain.raw, io.FileIO):
                raise CodecError(f"{path} is not compressed with zstd")
            else:
                yield from _decoded(path, plain)
    except zstandard.ZstdError as error:
        raise CodecError(f"{path} is not compressed with zstd, or is cut off: {error}") from error


@contextmanager
def _plain(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file, decompressed if it needs to be."""
    with path.open("rb") as file:
        if file.peek(len(_ZSTD_MAGIC)).startswith(_ZSTD_MAGIC):
            with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as plain:
                yield io.BufferedReader(plain, _READ_BYTES)
        else:
            yield file


def _bytes(path: Path, frames: Iterable[tuple[int, bytes]]) -> Iterator[Recorded]:
    try:
        for ts, frame in frames:
            yield RecordedBytes("recv", ts, None, "", frame)
    except (CodecError, UnicodeDecodeError) as error:
        raise CodecError(f"{path}: {error}") from error


def _decoded(path: Path, plain: BinaryIO) -> Iterator[Recorded]:
    for number, line in enumerate(_lines(path, plain), start=1):
        try:
            yield _DECODER.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CodecError(f"{path}, line {number}, is no recorded frame: {error}") from error


def _logged(path: Path, plain: BinaryIO) -> Iterator[Recorded]:
    with _plain(path) as ahead:
        shift = _zone_shift(path, ahead)
    for number, line in enumerate(_lines(path, plain), start=1):
        try:
            ts, frame = _logged_at(line)
            yield Recorded("recv", ts + shift, None, frame.decode())
        except (BadEvent, UnicodeDecodeError) as error:
            raise CodecError(f"{path}, line {number}, is no logged frame: {error}") from error


def _logged_at(line: bytes) -> tuple[int, bytes]:
    """Return the time of a logged frame, as if its clock were UTC, and the frame. Raises BadEvent."""
    found = _LOGGED.match(line)
    if found is None:
        raise BadEvent("bad_time", "line", line[:40])
    return parse_rfc3339("{}T{}.{}Z".format(*(part.decode() for part in found.groups()))), line[found.end() :]


def _zone_shift(path: Path, plain: BinaryIO) -> int:
    """Return what must be added to a log's times to make them UTC; none where no frame tells its time."""
    for line in _lines(path, plain):
        told = _TOLD_TIME.search(line)
        if told is not None:
            try:
                return round((parse_rfc3339(told[1].decode()) - _logged_at(line)[0]) / _QUARTER_NS) * _QUARTER_NS
            except BadEvent:
                return 0
    return 0


def _lines(path: Path, plain: BinaryIO) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = 0
    while chunk := plain.read(_READ_BYTES):
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            parts.append(piece)
            line = b"".join(parts)
            parts.clear()
            size = 0
            if line.strip():
                yield line
        parts.append(rest)
        size += len(rest)
        if size > LINE_BYTES_MAX:
            raise CodecError(f"{path} holds a line of more than {LINE_BYTES_MAX} bytes")
    line = b"".join(parts)
    if line.strip():
        yield line


def write(path: Path | str, lines: Iterable[Recorded]) -> int:
    """Write a recording and return how many lines it holds."""
    count = 0
    with Path(path).open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as out:
        for line in lines:
            out.write(_ENCODER.encode(line) + b"\n")
            count += 1
    return count


def answers(asked: str, recorded: str) -> bool:
    """Tell whether a recorded REST answer from `recorded` answers a request for `asked`: the same path and symbol.

    Some recorders keep no address, but their connection's name; what they keep are a symbol's own snapshots.
    """
    request, answer = urlsplit(asked), urlsplit(recorded)
    wanted = {name: values for name, values in parse_qs(request.query).items() if name.lower() in _SYMBOLS}
    if "/" not in recorded:
        return bool(wanted) or _SYMBOL_PART.search(request.path) is not None
    path, given = request.path.strip("/"), parse_qs(answer.query)
    same = bool(path) and f"/{answer.path.strip('/')}".endswith(f"/{path}")
    return same and all(given.get(name, values) == values for name, values in wanted.items())
