"""Encodes values and trades in the binary format of PostgreSQL's COPY, in plain Python.

`sink/_binary.pyx` does the same for most trades, compiled, from the bytes of their Avro record. Format:
https://www.postgresql.org/docs/17/sql-copy.html (binary format); of a numeric and of an array:
`numeric_send` and `array_send` in https://github.com/postgres/postgres/tree/REL_17_STABLE/src/backend/utils/adt
(numeric.c, arrayfuncs.c).
"""

from __future__ import annotations

import struct
from functools import lru_cache

from marketdata.decimals import LENGTH_MAX, decimal
from marketdata.errors import BadEvent
from marketdata.events import Trade, Trades

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
# Limit of a venue, a symbol and other short texts: three of them fit in an index entry (2,704 bytes).
SHORT_BYTES_MAX = 512
TEXT_BYTES_MAX = 1024 * 1024

_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01
_COLUMNS = 22
# The number of columns, then ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, item, valid.
_START = struct.Struct(">hiqiqiqiqiiiii?")
_FLAG = {False: b"\x00\x00\x00\x01\x00", True: b"\x00\x00\x00\x01\x01"}
_BASE_DIGITS = 4  # a numeric's digits are in base 10,000
_NEGATIVE = 0x4000
_TEXT_OID = 25  # of PostgreSQL's type text


def trade_row(event: Trades, item: int, trade: Trade, partition: int, offset: int) -> bytes:
    """Return one row of `trades`.

    Raises BadEvent, which names the field, for a value that PostgreSQL or we do not accept.
    """
    ts = trade.ts_event
    return b"".join(
        (
            _START.pack(
                _COLUMNS, 8, ts // 1_000 - _EPOCH_US, 8, ts, 8, event.ts_recv, 8, offset, 4, partition, 4, item, 1,
                event.valid,
            ),
            short_text(event.reason, "reason"),
            _FLAG[trade.liquidation],
            numeric(trade.price, "price"),
            numeric(trade.size, "size"),
            short_text(trade.side, "side"),
            short_text(trade.action, "action"),
            text(trade.trade_id, "trade_id"),
            text(trade.original_id, "original_id"),
            short_text(event.venue, "venue"),
            short_text(event.symbol, "symbol"),
            short_text(event.line, "line"),
            short_text(event.origin, "origin"),
            NULL if event.sequence is None else struct.pack(">iq", 8, event.sequence),
            texts(trade.conditions, "conditions") if trade.conditions else NULL,
            texts(trade.excluded_from, "excluded_from") if trade.excluded_from else NULL,
        )
    )  # fmt: skip


def text(value: str, field: str, bytes_max: int = TEXT_BYTES_MAX) -> bytes:
    """Return a text with its length prefix.

    Raises BadEvent for a NUL or a lone surrogate, which PostgreSQL's text cannot contain, and for a text too long.
    """
    checked(value, field, bytes_max)
    data = value.encode()
    return struct.pack(">i", len(data)) + data


@lru_cache(maxsize=4_096)
def texts(values: tuple[str, ...], field: str) -> bytes:
    """Return an array of short texts, of one dimension, with its length prefix (cached).

    Raises BadEvent as `text` does.
    """
    items = b"".join(text(value, field, SHORT_BYTES_MAX) for value in values)
    return struct.pack(">iiiIii", 20 + len(items), 1, 0, _TEXT_OID, len(values), 1) + items


@lru_cache(maxsize=16_384)
def short_text(value: str, field: str) -> bytes:
    """Return a short text with few distinct values, such as a venue, a symbol or a side (cached)."""
    return text(value, field, SHORT_BYTES_MAX)


def checked(value: str, field: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Return a text that PostgreSQL can store.

    Raises BadEvent (`control_character`, `not_unicode`, `too_long`) for any other.
    """
    if "\x00" in value:
        raise BadEvent("control_character", field, value)
    try:
        length = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise BadEvent("not_unicode", field, ascii(value)) from None
    if length > bytes_max:
        raise BadEvent("too_long", field, value)
    return value


@lru_cache(maxsize=65_536)
def numeric(value: str, field: str) -> bytes:
    """Return a decimal with its length prefix and the scale of its string.

    Raises BadEvent for anything else; PostgreSQL's numeric would accept NaN, infinities and hexadecimal too.
    """
    if not (value.isascii() and value.replace(".", "", 1).isdigit() and len(value) <= LENGTH_MAX):
        decimal(value, field)
    unsigned = value.lstrip("-")
    digits, _, power = unsigned.lower().partition("e")
    whole, _, fraction = digits.partition(".")
    scale = len(fraction) - int(power or 0)
    digits = whole + fraction + "0" * -scale
    scale = max(0, scale)
    # Groups of four digits on both sides of the point.
    digits = digits.rjust(scale, "0")
    digits = "0" * (-(len(digits) - scale) % _BASE_DIGITS) + digits + "0" * (-scale % _BASE_DIGITS)
    groups = [int(digits[at : at + _BASE_DIGITS]) for at in range(0, len(digits), _BASE_DIGITS)]
    weight = len(groups) - -(-scale // _BASE_DIGITS) - 1
    while groups and not groups[0]:
        del groups[0]
        weight -= 1
    while groups and not groups[-1]:
        del groups[-1]
    sign = _NEGATIVE if groups and value[0] == "-" else 0
    return struct.pack(
        f">ihhHH{len(groups)}h", 8 + 2 * len(groups), len(groups), weight if groups else 0, sign, scale, *groups
    )
