"""Recorded frames on disk: `.jsonl.zst` files of one JSON object a line, in capture order; Databento's files as well.

Any file may be plain, or compressed with zstd or gzip. A line is `{"t": "recv", "ts_recv": <UTC ns>, "conn": <text or
null>, "data": "<frame or body>"}`. `t` is `recv` for a WebSocket frame exactly as it arrived, `send` for one of ours,
`http` for a REST answer whose address is in `conn`, and `connect` where a connection was opened. A frame that is no
text is in `body` as base64, or in `data` with `"encoding": "base64"`. Other recorders' `ts_recv` may be a fraction or
text, whose size tells its unit, and their `data` the JSON value itself. Databento's DBN and CSV are told by how they
begin.

So are frames that a program logged, `2016-03-12 00:08:37,352 {...}` a line: each is a frame as it arrived. The log's
clock has no zone; its distance from UTC, in quarters of an hour, is taken from the first frame that tells its own time.

And frames behind a number that is their time, as hftbacktest (`1723161255030314 {...}`) and cryptofeed write them
(`1723161255.03: {...}`); of cryptofeed also `<address> -> <time>: <REST answer>`, `<- <time>: <our frame>` and
`<-> <time>` for a new connection, each behind its address.

What cannot be read is told as a line of the kind `damaged`, in its place, and the rest is read.
"""

from __future__ import annotations

import io
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
import zstandard

from marketdata.clock import MILLISECOND_NS, SECOND_NS, parse_rfc3339
from marketdata.errors import BadEvent, CodecError
from runtime import databento, unpacked

# A line may hold a whole REST body or a frame of the largest size that a connection accepts, escaped.
LINE_BYTES_MAX = 256 * 1024 * 1024

# A file of which so many lines are damaged before a good one is no recording.
DAMAGED_FIRST_MAX = 100

# The kind of a line that tells what is damaged in its place, in `data`; nothing was recorded as such.
DAMAGED = "damaged"
KINDS = frozenset({"recv", "send", "http", "connect"})

_READ_BYTES = 1 << 20
_START_BYTES = 4096
_BOM = b"\xef\xbb\xbf"

_LOGGED = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d),(\d{3}) (?=\{)")
_TOLD_TIME = re.compile(rb'"time":\s*"([0-9T:.\-]+Z)"')
_STAMPED = re.compile(
    rb"(?:(?P<address>(?:http|ws)s?://\S+) (?P<way>->|<-|<->) )?(?P<time>\d{9,19}(?:\.\d+)?)(?::? (?P<frame>.*))?",
    re.DOTALL,
)
_KIND_OF = {b"->": "http", b"<-": "send", b"<->": "connect"}
_STAMPED_START = re.compile(rb"(?:http|ws)s?://\S+ <?->? \d{9}|\d{9,19}(?:\.\d+)?:? [\[{]")
_HEADER = b" header: {"  # of a REST answer, behind it
_QUARTER_NS = 900 * SECOND_NS  # every zone's distance from UTC is some of these

# What names a product in the query of some venue's REST interface.
_SYMBOLS = frozenset({"symbol", "product_id", "instid", "pair"})
# What names one in the path, as `products/BTC-USD/book`.
_SYMBOL_PART = re.compile(r"/[A-Z0-9]+-[A-Z0-9]+/")


class Recorded(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One line of a recording. `t` is recv, send, http or connect; `ts_recv` is UTC nanoseconds by the recorder."""

    t: str
    ts_recv: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
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


class Damage(NamedTuple):
    """What cannot be read of a file, and at which line or row; 0 where that is not known."""

    number: int
    what: str

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"line {self.number}: {self.what}" if self.number else self.what


class _Loose(msgspec.Struct):
    """A line as other recorders may have written it."""

    t: str
    ts_recv: msgspec.Raw
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

    Times are set forward by what the recorder's clock was behind.
    Raises CodecError that names the first line when the file is no recording, OSError when it cannot be read.
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
        raise CodecError(f"{path} is no recording: {first}")


def _parsed(path: Path) -> Iterator[Recorded | Damage]:
    with unpacked.opened(path) as plain:
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
        if damage := unpacked.damage(plain):
            yield Damage(0, damage)


def _bytes(frames: Iterable[tuple[int, bytes] | str], plain: io.BufferedReader) -> Iterator[Recorded | Damage]:
    """Yield Databento's records; what is text tells a damage."""
    try:
        for frame in frames:
            yield Damage(0, frame) if isinstance(frame, str) else RecordedBytes("recv", frame[0], None, "", frame[1])
    except CodecError as error:
        if not unpacked.damage(plain):
            yield Damage(0, str(error))


def _decoded(plain: io.BufferedReader) -> Iterator[Recorded | Damage]:
    for line in _lines(plain):
        try:
            yield _DECODER.decode(line.text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # Few lines, or those of another recorder: it may have told the same in another way.
            if isinstance(loose := _loose(line), Recorded) or line.ended or not unpacked.damage(plain):
                yield loose


def _loose(line: _Line) -> Recorded | Damage:
    try:
        sent = _LOOSE.decode(line.text)
        ts = _nanoseconds(bytes(sent.ts_recv).decode().strip('"'))
        conn = None if sent.conn is None else str(sent.conn)
        if sent.body:
            return RecordedBytes(sent.t, ts, conn, "", sent.body)
        value = bytes(sent.data)
        data = msgspec.json.decode(value, type=str) if value.startswith(b'"') else value.decode()
        if sent.encoding == "base64":
            return RecordedBytes(sent.t, ts, conn, "", b64decode(data, validate=True))
        return Recorded(sent.t, ts, conn, data)
    except (msgspec.MsgspecError, ValueError, BadEvent) as error:
        ends = "" if line.ended else "it ends within it; "
        return Damage(line.number, f"no recorded frame: {ends}{error}")


def _nanoseconds(text: str, *, by_size: bool = False) -> int:
    """Return a time: whole nanoseconds, RFC 3339, or a number in the unit that its size tells.

    A whole number is nanoseconds, unless `by_size`. Raises BadEvent for anything else.
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


# A unit's numbers of our days are below this.
_UNITS = ((SECOND_NS, 10**11), (MILLISECOND_NS, 10**14), (1_000, 10**17))


def _logged(path: Path, plain: io.BufferedReader) -> Iterator[Recorded | Damage]:
    with unpacked.opened(path) as ahead:
        shift = _zone_shift(ahead)
    for line in _lines(plain):
        try:
            ts, frame = _logged_at(line.text)
            yield Recorded("recv", ts + shift, None, frame.decode())
        except (BadEvent, UnicodeDecodeError) as error:
            if line.ended or not unpacked.damage(plain):
                yield Damage(line.number, f"no logged frame: {error}")


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
            if line.ended or not unpacked.damage(plain):
                yield Damage(line.number, f"no stamped frame: {error}")


def _stamped_line(line: bytes) -> Recorded:
    found = _STAMPED.fullmatch(line)
    if found is None:
        raise BadEvent("bad_time", "line", line[:40])
    kind, frame = _KIND_OF.get(found["way"], "recv"), found["frame"] or b""
    ts = _nanoseconds(found["time"].decode(), by_size=True)
    if kind == "http":
        return Recorded(kind, ts, found["address"].decode(), frame.partition(_HEADER)[0].decode())
    return Recorded(kind, ts, None, frame.decode())  # such a file is of one connection


def _zone_shift(plain: io.BufferedReader) -> int:
    """Return what must be added to a log's times to make them UTC; none where no frame tells its time."""
    for line in _lines(plain):
        told = _TOLD_TIME.search(line.text)
        if told is not None:
            try:
                return round((parse_rfc3339(told[1].decode()) - _logged_at(line.text)[0]) / _QUARTER_NS) * _QUARTER_NS
            except BadEvent:
                continue
    return 0


def _lines(plain: io.BufferedReader) -> Iterator[_Line]:
    """Yield the lines with something in them; of one that is too long, only its beginning."""
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
    """Yield the lines without the one in which a compressed file is cut off."""
    return (line for line in _lines(plain) if line.ended or not unpacked.damage(plain))


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
