"""Recorded frames on disk: `.jsonl.zst` files of one JSON object per line, in capture order, and several other formats.

Any file may be uncompressed, or compressed with zstd or gzip. The formats are detected from the first bytes.

Ours: a line is `{"t": "recv", "ts_recv": <UTC ns>, "conn": <text or null>, "data": "<frame or body>"}`. `t` is `recv`
for a WebSocket frame exactly as received, `send` for a frame of ours, `http` for a REST response with its URL in
`conn`, and `connect` for an opened connection. A binary frame is in `body` as base64, or in `data` with `"encoding":
"base64"`. Lines of other recorders may have `ts_recv` as a fraction or text, with a unit inferred from its magnitude,
and `data` as a JSON value. So are the records of the topic md.raw, as `tickstream replay --topic md.raw` prints them.

Databento's DBN and CSV files (see `runtime.databento`).

Program logs with lines such as `2016-03-12 00:08:37,352 {...}`: each is a received frame. The log's clock has no time
zone. Its offset from UTC, in quarters of an hour, is inferred from the first frame that contains a time.

Lines that begin with a timestamp, as written by hftbacktest (`1723161255030314 {...}`) and cryptofeed
(`1723161255.03: {...}`). Cryptofeed also writes `<url> -> <time>: <REST response>`, `<url> <- <time>: <our frame>`, and
`<url> <-> <time>` for a new connection.

Each unreadable line is returned as a line of the kind `damaged`, in its place, and reading continues.
"""

from __future__ import annotations

import io
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator
from decimal import Decimal, DecimalException
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
import zstandard

from marketdata.clock import MILLISECOND_NS, SECOND_NS, parse_rfc3339
from marketdata.errors import BadEvent, CodecError
from runtime import databento, decompression

# A line may contain a whole REST body, or an escaped frame of the largest size that a connection accepts.
LINE_BYTES_MAX = 256 * 1024 * 1024

# A file that begins with this many damaged lines is not a recording.
DAMAGED_FIRST_MAX = 100

# The kind of a line that replaces a damaged one and describes the damage in `data`; it is never recorded.
DAMAGED = "damaged"
KINDS = frozenset({"recv", "send", "http", "connect"})

_READ_BYTES = 1 << 20
_START_BYTES = 4096
_BOM = b"\xef\xbb\xbf"

_LOGGED = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d),(\d{3}) (?=\{)")
_FRAME_TIME = re.compile(rb'"time":\s*"([0-9T:.\-]+Z)"')
_STAMPED = re.compile(
    rb"(?:(?P<address>(?:http|ws)s?://\S+) (?P<way>->|<-|<->) )?(?P<time>\d{9,19}(?:\.\d+)?)(?::? (?P<frame>.*))?",
    re.DOTALL,
)
_KIND_OF = {b"->": "http", b"<-": "send", b"<->": "connect"}
_STAMPED_START = re.compile(rb"(?:http|ws)s?://\S+ <?->? \d{9}|\d{9,19}(?:\.\d+)?:? [\[{]")
_HEADER = b" header: {"  # of a REST response, after its body
_QUARTER_NS = 900 * SECOND_NS  # every time zone's offset from UTC is a multiple of this

# Query parameters that name a product in the venues' REST APIs.
_SYMBOLS = frozenset({"symbol", "product_id", "instid", "pair"})
# A product in a URL's path, such as `products/BTC-USD/book`.
_SYMBOL_PART = re.compile(r"/[A-Z0-9]+-[A-Z0-9]+/")


class Recorded(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One line of a recording. `t` is recv, send, http or connect; `ts_recv` is UTC nanoseconds by the recorder."""

    t: str
    ts_recv: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    conn: str | None
    data: str

    @property
    def frame(self) -> bytes:
        """The frame or body as bytes, in the form that feeds expect."""
        return self.data.encode()


class RecordedBytes(Recorded, frozen=True, gc=False):
    """A binary frame: it is in `body`, and `data` is empty."""

    body: bytes = b""

    @property
    def frame(self) -> bytes:
        """The frame as bytes, in the form that feeds expect."""
        return self.body


class Damage(NamedTuple):
    """An unreadable part of a file, and its line or row number; 0 if unknown."""

    number: int
    what: str

    def __str__(self) -> str:
        """Return a readable description."""
        return f"line {self.number}: {self.what}" if self.number else self.what


class _Loose(msgspec.Struct):
    """A line in the looser format of other recorders, or a record of md.raw, which has `kind`, `line` and `url`."""

    ts_recv: msgspec.Raw
    t: str = ""
    kind: str = ""
    line: str | None = None
    url: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    conn: Any = None
    body: bytes = b""
    encoding: str = ""


class _Line(NamedTuple):
    number: int
    text: bytes
    ended: bool = True


_DECODER = msgspec.json.Decoder(Recorded)
_LOOSE = msgspec.json.Decoder(_Loose)
_ENCODER = msgspec.json.Encoder()


def read(path: Path | str, behind_ns: int = 0) -> Iterator[Recorded]:
    """Yield the lines of a recording, in capture order, holding one line in memory at a time.

    `behind_ns` is added to all times, to correct a recorder's clock that was behind.
    Raises CodecError that names the first damaged line if the file is not a recording, OSError if it is unreadable.
    """
    path = Path(path)
    first: Damage | None = None
    found, damaged, ts = False, 0, 0
    for line in _parsed(path):
        if not isinstance(line, Damage):
            found, ts = True, line.ts_recv + behind_ns
            yield msgspec.structs.replace(line, ts_recv=ts) if behind_ns else line
            continue
        first = first or line
        damaged += 1
        if not found and damaged >= DAMAGED_FIRST_MAX:
            break
        yield Recorded(DAMAGED, ts, None, f"{path.name}, {line}")
    if first is not None and not found:
        raise CodecError(f"{path} is not a recording: {first}")


def _parsed(path: Path) -> Iterator[Recorded | Damage]:
    with decompression.opened(path) as plain:
        if plain.peek(_START_BYTES).startswith(_BOM):
            plain.read(len(_BOM))
        start = plain.peek(_START_BYTES)
        if databento.is_dbn(start):
            yield from _bytes(databento.frames(plain), plain)
        elif databento.is_csv(start):
            yield from _bytes(databento.rows(line.text.decode(errors="replace") for line in _whole_lines(plain)), plain)
        elif _LOGGED.match(start):
            yield from _logged(path, plain)
        elif _STAMPED_START.match(start):
            yield from _stamped(plain)
        else:
            yield from _decoded(plain)
        if damage := decompression.damage(plain):
            yield Damage(0, damage)


def _bytes(frames: Iterable[tuple[int, bytes] | str], plain: io.BufferedReader) -> Iterator[Recorded | Damage]:
    """Yield Databento's records; a string among them describes damage."""
    try:
        for frame in frames:
            yield Damage(0, frame) if isinstance(frame, str) else RecordedBytes("recv", frame[0], None, "", frame[1])
    except CodecError as error:
        if not decompression.damage(plain):
            yield Damage(0, str(error))


def _decoded(plain: io.BufferedReader) -> Iterator[Recorded | Damage]:
    for line in _lines(plain):
        try:
            yield _DECODER.decode(line.text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # Few lines are damaged; those of another recorder may be in its looser format.
            if isinstance(loose := _loose(line), Recorded) or line.ended or not decompression.damage(plain):
                yield loose


def _loose(line: _Line) -> Recorded | Damage:
    try:
        sent = _LOOSE.decode(line.text)
        ts = _nanoseconds(bytes(sent.ts_recv).decode().strip('"'))
        kind, conn = _kind_and_conn(sent)
        if sent.body:
            return RecordedBytes(kind, ts, conn, "", sent.body)
        value = bytes(sent.data)
        data = msgspec.json.decode(value, type=str) if value.startswith(b'"') else value.decode()
        if sent.encoding == "base64":
            return RecordedBytes(kind, ts, conn, "", b64decode(data, validate=True))
        return Recorded(kind, ts, conn, data)
    except (msgspec.MsgspecError, ValueError, BadEvent) as error:
        ends = "" if line.ended else "the file ends within it; "
        return Damage(line.number, f"not a recorded frame: {ends}{error}")


def _kind_and_conn(sent: _Loose) -> tuple[str, str | None]:
    """Return what a line is, and its connection or the URL of its answer. Raises BadEvent."""
    if sent.t:
        return sent.t, None if sent.conn is None else str(sent.conn)
    if sent.kind not in KINDS:
        raise BadEvent("unknown_kind", "kind", sent.kind[:200])
    return sent.kind, sent.url if sent.kind == "http" else sent.line


def _nanoseconds(text: str, *, by_size: bool = False) -> int:
    """Return a time: integer nanoseconds, RFC 3339, or a number in a unit inferred from its magnitude.

    An integer is nanoseconds, unless `by_size`. Raises BadEvent for anything else.
    """
    if "T" in text:
        return parse_rfc3339(text, "ts_recv")
    try:
        value = Decimal(text)
        unit = next((unit for unit, limit in _UNITS if value < limit), 1)
        ns = int(value * (1 if text.isdigit() and not by_size else unit))
    except (DecimalException, ValueError, OverflowError):
        ns = -1
    if not 0 <= ns < 2**63:
        raise BadEvent("bad_time", "ts_recv", text)
    return ns


# Present-day times in each unit are below this number.
_UNITS = ((SECOND_NS, 10**11), (MILLISECOND_NS, 10**14), (1_000, 10**17))


def _logged(path: Path, plain: io.BufferedReader) -> Iterator[Recorded | Damage]:
    with decompression.opened(path) as ahead:
        shift = _zone_shift(ahead)
    for line in _lines(plain):
        try:
            ts, frame = _logged_at(line.text)
            yield Recorded("recv", ts + shift, None, frame.decode())
        except (BadEvent, UnicodeDecodeError) as error:
            if line.ended or not decompression.damage(plain):
                yield Damage(line.number, f"not a logged frame: {error}")


def _logged_at(line: bytes) -> tuple[int, bytes]:
    """Return the time of a logged frame, as if its clock were UTC, and the frame. Raises BadEvent."""
    found = _LOGGED.match(line)
    if found is None:
        raise BadEvent("bad_time", "line", line[:40])
    return parse_rfc3339("{}T{}.{}Z".format(*(part.decode() for part in found.groups()))), line[found.end() :]


def _stamped(plain: io.BufferedReader) -> Iterator[Recorded | Damage]:
    for line in _lines(plain):
        try:
            yield _stamped_line(line.text)
        except (BadEvent, UnicodeDecodeError) as error:
            if line.ended or not decompression.damage(plain):
                yield Damage(line.number, f"not a timestamped frame: {error}")


def _stamped_line(line: bytes) -> Recorded:
    found = _STAMPED.fullmatch(line)
    if found is None:
        raise BadEvent("bad_time", "line", line[:40])
    kind, frame = _KIND_OF.get(found["way"], "recv"), found["frame"] or b""
    ts = _nanoseconds(found["time"].decode(), by_size=True)
    if kind == "http":
        return Recorded(kind, ts, found["address"].decode(), frame.partition(_HEADER)[0].decode())
    return Recorded(kind, ts, None, frame.decode())  # such a file contains one connection


def _zone_shift(plain: io.BufferedReader) -> int:
    """Return what to add to a log's times to get UTC; 0 if no frame contains a time."""
    for line in _lines(plain):
        found = _FRAME_TIME.search(line.text)
        if found is not None:
            try:
                return round((parse_rfc3339(found[1].decode()) - _logged_at(line.text)[0]) / _QUARTER_NS) * _QUARTER_NS
            except BadEvent:
                continue
    return 0


def _lines(plain: io.BufferedReader) -> Iterator[_Line]:
    """Yield the lines that are not empty; only the beginning of one that is too long."""
    parts: list[bytes] = []
    size = number = 0
    while chunk := plain.read(_READ_BYTES):
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            number += 1
            if size <= LINE_BYTES_MAX:
                parts.append(piece)
            line = b"".join(parts).rstrip(b"\r")
            parts.clear()
            size = 0
            if not line.isspace() and line:
                yield _Line(number, line)
        if size <= LINE_BYTES_MAX:
            parts.append(rest)
        size += len(rest)
    line = b"".join(parts)
    if line.strip():
        yield _Line(number + 1, line, ended=False)


def _whole_lines(plain: io.BufferedReader) -> Iterator[_Line]:
    """Yield the lines, without a partial last line of a truncated compressed file."""
    return (line for line in _lines(plain) if line.ended or not decompression.damage(plain))


def write(path: Path | str, lines: Iterable[Recorded]) -> int:
    """Write a recording and return its number of lines."""
    count = 0
    with Path(path).open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as out:
        for line in lines:
            out.write(_ENCODER.encode(line) + b"\n")
            count += 1
    return count


@lru_cache(maxsize=10_000)  # the few requests of a recording are compared with its answers again and again
def answers(asked: str, recorded: str) -> bool:
    """Return whether a REST response recorded from `recorded` answers a request for `asked`: same path and symbol.

    Some recorders store the connection's name instead of the URL; their responses are snapshots of one symbol.
    """
    request, answer = urlsplit(asked), urlsplit(recorded)
    wanted = {name: values for name, values in parse_qs(request.query).items() if name.lower() in _SYMBOLS}
    if "/" not in recorded:
        return bool(wanted) or _SYMBOL_PART.search(request.path) is not None
    path, given = request.path.strip("/"), parse_qs(answer.query)
    same = bool(path) and f"/{answer.path.strip('/')}".endswith(f"/{path}")
    return same and all(given.get(name, values) == values for name, values in wanted.items())
