"""FIX messages in tag=value encoding: bytes to fields and back without loss, with body length and checksum.

Source: FIX Session Layer, "TagValue Encoding". A field is `tag=value` followed by the delimiter SOH. The first three
fields are BeginString (8), BodyLength (9: the bytes after its own delimiter, up to the one before CheckSum) and MsgType
(35). The last is CheckSum (10: the sum of all bytes before it, modulo 256, in three digits). Only data fields may
contain the delimiter; each follows a field with its length. Text is decoded as Latin-1, which preserves every byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.errors import BadEvent, TickstreamError

SOH = "\x01"

# Length field to data field.
DATA = {90: 91, 93: 89, 95: 96, 212: 213, 348: 349, 350: 351, 352: 353, 354: 355, 356: 357, 358: 359, 360: 361,
        362: 363, 364: 365, 445: 446, 618: 619, 621: 622, 1184: 1185, 1277: 1278, 1280: 1281, 1282: 1283, 1397: 1398,
        1401: 1402, 1403: 1404, 1468: 1469}  # fmt: skip
_IS_DATA = frozenset(DATA.values())
_LENGTHS = frozenset(map(str, DATA))

_HEAD = re.compile(r"8=(FIX[0-9A-Z.]{1,12})\x019=(\d{1,9})\x01(?=35=)", re.ASCII)
_TAIL = re.compile(r"\x0110=(\d{3})\x01", re.ASCII)
_FIELD = re.compile(r"([1-9]\d{0,6})=([^\x01]*)\x01", re.ASCII)
_NUMBER = re.compile(r"\x0134=(\d{1,18})\x01", re.ASCII)
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)-(\d\d):(\d\d):(\d\d)(?:\.(\d{1,12}))?", re.ASCII)

Fields = list[tuple[int, str]]


class Garbled(TickstreamError):  # noqa: N818 - FIX's own word
    """Bytes that are not a FIX message; the standard ignores them, and a gap in the numbers then reveals the loss.

    `number` is the sequence number if the checksum is correct, so that a resend would be just as unreadable; otherwise
    0.
    """

    def __init__(self, reason: str, number: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.number = number


class Message:
    """One message: `fields` in order from MsgType to before CheckSum; `get` returns the first value of a tag."""

    __slots__ = ("_first", "begin", "fields", "frame", "kind")

    def __init__(self, begin: str, fields: Fields, frame: bytes) -> None:
        self.begin = begin
        self.frame = frame
        self.fields = fields
        self.kind = fields[0][1]
        self._first: dict[int, str] = dict(reversed(fields))

    def __repr__(self) -> str:
        return f"<{self.begin} {'|'.join(f'{tag}={value}' for tag, value in self.fields)}>"

    def get(self, tag: int, default: str = "") -> str:
        """Return the first value of a tag, or the default."""
        return self._first.get(tag, default)

    def number(self, tag: int) -> int | None:
        """Return a value as an integer, or None if it is missing or not an integer."""
        value = self._first.get(tag, "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None

    def before(self, count: int) -> dict[int, str]:
        """Return the fields before a group, or all fields if the group is absent."""
        found: dict[int, str] = {}
        for tag, value in self.fields:
            if tag == count:
                break
            found.setdefault(tag, value)
        return found

    def entries(self, count: int, first: Collection[int], after: Collection[int]) -> list[dict[int, str]]:
        """Return the entries of a repeating group, each as a dict of the first value of each tag.

        `count` is the tag with the number of entries. Every entry begins with the same tag, one of `first`; the group
        ends at a tag of `after` or the end. Raises BadEvent when the number of entries does not match the count.
        """
        place = next((at for at, (tag, _) in enumerate(self.fields) if tag == count), None)
        if place is None:
            return []
        entries: list[dict[int, str]] = []
        begins = 0
        for tag, value in self.fields[place + 1 :]:
            if tag in after:
                break
            if not begins:
                if tag not in first:
                    raise BadEvent("bad_group", str(count), f"{tag}={value}")
                begins = tag
            if tag == begins:
                entries.append({})
            entries[-1].setdefault(tag, value)
        if self.fields[place][1] != str(len(entries)):
            raise BadEvent("bad_group", str(count), self.fields[place][1])
        return entries


def decode(frame: bytes) -> Message:
    """Return the message in a frame. Raises Garbled."""
    text = frame.decode("latin-1")
    head = _HEAD.match(text)
    if head is None:
        raise Garbled("bad_header")
    tail = _TAIL.fullmatch(text, max(len(text) - 8, 0))
    if tail is None or int(head[2]) != len(text) - 7 - head.end():
        raise Garbled("bad_length")
    if sum(frame[:-7]) & 0xFF != int(tail[1]):
        raise Garbled("bad_checksum")
    body = text[head.end() : -7]
    try:
        return Message(head[1], _fields(body), frame)
    except Garbled as error:
        number = _NUMBER.search(body)
        raise Garbled(error.reason, int(number[1]) if number else 0) from None


def _fields(body: str) -> Fields:
    """Read the fields from MsgType to before CheckSum. Raises Garbled."""
    found = _FIELD.findall(body)
    if not _LENGTHS.isdisjoint([tag for tag, _ in found]):
        return _with_data(body)
    if sum([len(tag) + len(value) for tag, value in found]) + 2 * len(found) != len(body):
        raise Garbled("bad_field")
    return [(int(tag), value) for tag, value in found]


def _with_data(body: str) -> Fields:
    """Read the fields of a body with data fields, whose values may contain the delimiter."""
    fields: Fields = []
    place = 0
    while place < len(body):
        length_tag, length = fields[-1] if fields else (0, "")
        if length_tag in DATA:
            begin = place + len(f"{DATA[length_tag]}=")
            end = begin + (int(length) if length.isascii() and length.isdigit() and len(length) < 10 else len(body))
            if body[place:begin] != f"{DATA[length_tag]}=" or body[end : end + 1] != SOH:
                raise Garbled("bad_data_field")
            fields.append((DATA[length_tag], body[begin:end]))
            place = end + 1
            continue
        field = _FIELD.match(body, place)
        if field is None:
            raise Garbled("bad_field")
        fields.append((int(field[1]), field[2]))
        place = field.end()
    return fields


def encode(begin: str, fields: Iterable[tuple[int, str]]) -> bytes:
    """Return a message as a frame; `fields` begin with MsgType, and the length fields of data fields are added.

    Raises BadEvent for a value that a message cannot contain.
    """
    parts: list[str] = []
    for tag, value in fields:
        if tag in _IS_DATA:
            length = next(number for number, data in DATA.items() if data == tag)
            parts.append(f"{length}={len(value)}{SOH}")
        elif not value or SOH in value:
            raise BadEvent("bad_value", str(tag), value)
        parts.append(f"{tag}={value}{SOH}")
    return framed(begin, _bytes("".join(parts)))


def framed(begin: str, body: bytes) -> bytes:
    """Return a frame around a body, which is the fields from MsgType to before CheckSum, each with its delimiter."""
    head = _bytes(f"8={begin}{SOH}9={len(body)}{SOH}")
    return b"%b%b10=%03d\x01" % (head, body, (sum(head) + sum(body)) & 0xFF)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise BadEvent("bad_value", "text", text[error.start : error.end]) from None


def utc(ts: int) -> str:
    """Return UTC nanoseconds as a UTCTimestamp with milliseconds."""
    seconds, rest = divmod(ts, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H:%M:%S}.{rest // MILLISECOND_NS:03d}"


def utc_ns(text: str, field: str) -> int:
    """Return UTC nanoseconds of a UTCTimestamp, with any fraction of a second. Raises BadEvent."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise BadEvent("bad_time", field, text)
    *parts, fraction = match.groups()
    year, month, day, hour, minute, second = map(int, parts)
    try:
        # A leap second becomes the first second of the next minute, as on clocks without leap seconds.
        whole = int(datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC).timestamp())
    except ValueError as error:
        raise BadEvent("bad_time", field, text) from error
    if second > 60 or whole < 0:
        raise BadEvent("bad_time", field, text)
    return (whole + second // 60) * SECOND_NS + int((fraction or "0")[:9].ljust(9, "0"))
