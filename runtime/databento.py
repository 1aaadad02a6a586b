"""Databento's files as recordings: DBN, and CSV of the order and price level schemas; one record per frame.

The metadata are returned in one frame with the first record. CSV has no metadata and contains the symbol in every row;
its rows become the same records, preceded by metadata and symbol mappings where necessary.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

import databento_dbn

from marketdata import dbn
from marketdata.clock import parse_rfc3339
from marketdata.errors import BadEvent, CodecError
from marketdata.orders import Scale

_READ_BYTES = 1 << 20
# Every CSV of Databento's has these columns in this order.
_CSV_MARK = b"rtype,publisher_id,instrument_id,"

_BODY = ("price", "size", "action", "side", "flags", "depth", "ts_recv", "ts_in_delta", "sequence")
_LEVEL = ("bid_px", "ask_px", "bid_sz", "ask_sz", "bid_ct", "ask_ct")
_LEVELS = {dbn.TRADE: 0, dbn.MBP_1: 1, dbn.MBP_10: 10}
_ORDER = (
    "order_id", "price", "size", "flags", "channel_id", "action", "side", "ts_recv", "ts_in_delta", "sequence",
)  # fmt: skip
_PRICE = Scale(9)

T = TypeVar("T")


def is_dbn(start: bytes) -> bool:
    """Return whether a file that begins with `start` is DBN."""
    return start.startswith(dbn.MAGIC)


def is_csv(start: bytes) -> bool:
    """Return whether a file that begins with `start` is CSV of Databento's."""
    return _CSV_MARK in start.partition(b"\n")[0]


def frames(plain: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (time of receipt, frame) of a DBN stream.

    Raises CodecError when the stream becomes unreadable, or ends within a record.
    """
    metadata, data = _metadata(plain)
    ts = 0
    while True:
        end = _checked(dbn.whole_records, data)
        at = 0
        while at < end:
            size = data[at] * dbn.WORD
            ts = dbn.received_at(data, at) or ts
            yield ts, metadata + data[at : at + size]
            metadata = b""
            at += size
        chunk = plain.read(_READ_BYTES)
        if not chunk:
            break
        data = data[end:] + chunk
    if len(data) > end:
        _checked(dbn.whole_records, data[end:])
        raise CodecError("the file ends within a record")


def _metadata(plain: BinaryIO) -> tuple[bytes, bytes]:
    """Return the metadata, and the bytes read after them."""
    data = b""
    size: int | None = None
    while size is None or len(data) < size:
        chunk = plain.read(_READ_BYTES)
        if not chunk:
            raise CodecError("the file ends within its metadata")
        data += chunk
        size = _checked(dbn.metadata_size, data)
    return data[:size], data[size:]


def _checked(read: Callable[[bytes], T], data: bytes) -> T:
    try:
        return read(data)
    except ValueError as error:
        raise CodecError(f"not DBN: {error}") from None


def rows(lines: Iterable[str]) -> Iterator[tuple[int, bytes] | str]:
    """Yield (time of receipt, frame) of each CSV row; for an unreadable row, the reason as a string."""
    named: set[tuple[str, str]] = set()
    texts = iter(lines)
    columns = next(texts, "").split(",")
    for number, text in enumerate(texts, start=2):
        try:
            row = dict(zip(columns, text.split(","), strict=True))
            record = _record(row)
            before = b"" if named else _made_metadata(int(row["publisher_id"]))
            name = (row["instrument_id"], row.get("symbol") or "")
            if name not in named:
                before += _mapping(*name)
                named.add(name)
        except CodecError as error:
            yield f"row {number}: {error}"
            continue
        except (BadEvent, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
            yield f"row {number} is not a record of Databento's: {error!r}"
            continue
        yield dbn.received_at(record) or 0, before + record


def _made_metadata(publisher: int) -> bytes:
    known = dbn.publisher(publisher)
    metadata = databento_dbn.Metadata(
        dataset=".".join(known[:2]) if known else "",
        start=0,
        stype_in=dbn.RAW_SYMBOL,
        stype_out=dbn.INSTRUMENT_ID,
        schema=None,
        version=databento_dbn.DBN_VERSION,
    )
    return bytes(metadata)


def _mapping(instrument: str, symbol: str) -> bytes:
    if not symbol:
        return b""
    raw, always = dbn.RAW_SYMBOL, dbn.INT64_MAX
    return bytes(databento_dbn.SymbolMappingMsg(0, int(instrument), 0, raw, symbol, raw, symbol, 0, always))


def _record(row: dict[str, str]) -> bytes:
    kind = int(row["rtype"])
    head = [int(row["publisher_id"]), int(row["instrument_id"]), _time(row["ts_event"])]
    if kind == dbn.MBO:
        values = [_value(row, name) for name in _ORDER]
        return dbn.ORDER.pack(dbn.ORDER.size // dbn.WORD, kind, *head, *values)
    depth = _LEVELS.get(kind)
    if depth is None:
        raise CodecError(f"rtype {kind} is supported in DBN only; CSV may contain mbo, trades, tbbo, mbp-1 and mbp-10")
    size = dbn.SIZES[kind]
    body = dbn.TRADE_BODY.pack(size // dbn.WORD, kind, *head, *[_value(row, name) for name in _BODY])
    levels = [
        dbn.LEVEL_COUNTED.pack(*[_value(row, f"{name}_{place:02}", name) for name in _LEVEL]) for place in range(depth)
    ]
    return body + b"".join(levels)


def _value(row: dict[str, str], column: str, kind: str = "") -> int:
    text = row[column]
    match kind or column:
        case "price" | "bid_px" | "ask_px":
            # Without a point it is an integer in units of 1e-9, as in DBN.
            return dbn.UNDEF_PRICE if not text else _PRICE.number(text, column) if "." in text else int(text)
        case "action" | "side":
            return ord(text)
        case "ts_recv":
            return _time(text)
    return int(text)


def _time(text: str) -> int:
    return int(text) if text.isdigit() else parse_rfc3339(text, "time")
