"""Lists as CSV, Arrow or Parquet: read page by page, written piece by piece, with limits on rows, bytes and time.

A list that exceeds a limit is never shortened silently: the connection closes before the end of the body, which each
HTTP client reports. Formats: RFC 4180 (https://www.rfc-editor.org/rfc/rfc4180), and Arrow's IPC stream
(https://arrow.apache.org/docs/format/Columnar.html), whose media type is application/vnd.apache.arrow.stream.
"""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Protocol

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from api.core.messages import Json
from api.rest.codes import Code
from api.rest.columns import Columns, Kind
from api.rest.problems import Problem

ROWS_MAX = 1_000_000
BYTES_MAX = 512 * 1024 * 1024
SECONDS_MAX = 120.0
# Rows that are read and written at once: they bound the memory of a request.
PIECE_ROWS = 5_000


class Format(StrEnum):
    """A format of lists; the value is that of the parameter `format`."""

    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


MEDIA_TYPES = {
    Format.JSON: "application/json",
    Format.CSV: "text/csv",
    Format.ARROW: "application/vnd.apache.arrow.stream",
    Format.PARQUET: "application/vnd.apache.parquet",
}


class ExportTooLarge(Exception):  # noqa: N818 - it ends a connection, and is no bug
    """A list exceeded a limit after its answer had begun."""


def format_of(request: Request, named: Format | None) -> Format:
    """Return the format that a request names, else the one that its `Accept` prefers; raises Problem if there is none.

    Source: https://www.rfc-editor.org/rfc/rfc9110#name-accept
    """
    if named is not None:
        return named
    best, best_quality = None, 0.0
    for part in request.headers.get("accept", "*/*").split(","):
        media, quality = _accepted(part)
        for found, media_type in MEDIA_TYPES.items():
            if media in {media_type, f"{media_type.partition('/')[0]}/*", "*/*"}:
                if quality > best_quality:
                    best, best_quality = found, quality
                break
    if best is None:
        raise Problem(
            HTTPStatus.NOT_ACCEPTABLE,
            f"this list can be had as {', '.join(MEDIA_TYPES.values())}",
            code=Code.NOT_ACCEPTABLE,
        )
    return best


def _accepted(part: str) -> tuple[str, float]:
    media, *parameters = (each.strip() for each in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return media.lower(), float(value)
            except ValueError:
                return media.lower(), 0.0
    return media.lower(), 1.0


Read = Callable[[Any, int], Awaitable[tuple[Sequence[tuple[Any, Json]], bool]]]


async def export(
    form: Format, columns: Columns, constant: Json, read: Read, rows: int | None, *, cache: str = "no-store"
) -> Response:
    """Return a list as a stream.

    `read` takes the place after which to read and a number of rows, and returns the rows with their places, and whether
    there are more; `constant` are fields that every row has. Without `rows`, all up to the limit. `cache` states how
    long the answer may be kept.
    """
    first = await read(None, min(PIECE_ROWS, rows or ROWS_MAX))  # an error before the first byte is still a problem
    pieces = _pieces(_WRITERS[form](columns), constant, read, first, rows)
    headers = {"Cache-Control": cache, "Vary": "Accept"}
    return StreamingResponse(pieces, 200, headers, MEDIA_TYPES[form])


async def _pieces(
    writer: Writer, constant: Json, read: Read, piece: tuple[Sequence[tuple[Any, Json]], bool], rows: int | None
) -> AsyncIterator[bytes]:
    until = time.monotonic() + SECONDS_MAX
    left, sent = rows or ROWS_MAX, 0
    while True:
        items, more = piece
        body = await asyncio.to_thread(writer.add, [constant | row for _, row in items])
        left, sent = left - len(items), sent + len(body)
        if body:
            yield body
        if not more or (left <= 0 and rows is not None):
            break
        if left <= 0 or sent > BYTES_MAX or time.monotonic() > until:
            raise ExportTooLarge(f"{sent} bytes after {(rows or ROWS_MAX) - left} rows: ask for a shorter range")
        piece = await read(items[-1][0], min(PIECE_ROWS, left))
    yield writer.end()


class Writer(Protocol):
    """Writes rows in a format; each call returns the bytes that are ready."""

    def add(self, rows: list[Json]) -> bytes:
        """Write rows."""

    def end(self) -> bytes:
        """Write what follows the last row."""


class _CsvWriter:
    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._begun = False

    def add(self, rows: list[Json]) -> bytes:
        text = io.StringIO(newline="")
        lines = csv.writer(text)
        if not self._begun:
            lines.writerow(self._columns)
            self._begun = True
        for row in rows:
            lines.writerow([_csv_value(row.get(name, _ABSENT.get(name))) for name in self._columns])
        return text.getvalue().encode()

    def end(self) -> bytes:
        return b""


class _Sink(io.RawIOBase):
    """A file that only grows; what was written is taken away piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written += data
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class _ArrowWriter:
    def __init__(self, columns: Columns) -> None:
        # Imported here: a third of a second at the start of a process that may never export.
        import pyarrow as pa  # noqa: PLC0415

        self._arrow = pa
        types = {
            Kind.TEXT: pa.string(), Kind.FLAG: pa.bool_(), Kind.COUNT: pa.int64(), Kind.TIME: pa.timestamp("ns", "UTC"),
            Kind.TEXTS: pa.list_(pa.string()), Kind.JSON: pa.string(),
        }  # fmt: skip
        self._columns = columns
        self._schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
        self._sink = _Sink()
        self._writer = self._open()

    def _open(self) -> Any:
        return self._arrow.ipc.new_stream(self._sink, self._schema)

    def add(self, rows: list[Json]) -> bytes:
        arrays = [
            self._arrow.array([_arrow_value(kind, row.get(name, _ABSENT.get(name))) for row in rows], field.type)
            for (name, kind), field in zip(self._columns.items(), self._schema, strict=True)
        ]
        self._write(self._arrow.record_batch(arrays, schema=self._schema))
        return self._sink.take()

    def _write(self, batch: Any) -> None:
        self._writer.write_batch(batch)

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()


class _ParquetWriter(_ArrowWriter):
    def _open(self) -> Any:
        import pyarrow.parquet as pq  # noqa: PLC0415 - see above

        return pq.ParquetWriter(self._sink, self._schema, compression="zstd")

    def _write(self, batch: Any) -> None:
        if batch.num_rows:
            self._writer.write_batch(batch)


_WRITERS: dict[Format, Callable[[Columns], Writer]] = {
    Format.CSV: _CsvWriter, Format.ARROW: _ArrowWriter, Format.PARQUET: _ParquetWriter,
}  # fmt: skip
# What a field that JSON leaves out means.
_ABSENT: Json = {"action": "new", "conditions": [], "excluded_from": []}


def _csv_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _arrow_value(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.TIME:
        return int(value)
    return orjson.dumps(value).decode() if kind is Kind.JSON else value
