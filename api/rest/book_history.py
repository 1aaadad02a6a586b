"""Reads quotes and books from TimescaleDB, newest first; their order is (time in microseconds, Kafka offset)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

from api.core.messages import Json
from api.rest.history import WINDOW, History, Row, conditions, reach_of
from api.rest.parameters import Range, microseconds, moment, nanoseconds
from marketdata.clock import format_rfc3339

Place = tuple[Any, ...]
_MICROSECOND_NS = 1_000
_QUOTE_FIELDS = (
    "source", "bid", "bid_size", "ask", "ask_size", "last", "volume_24h", "high_24h", "low_24h", "change_24h",
)  # fmt: skip
_COLUMNS: dict[LiteralString, LiteralString] = {
    "quotes": "source, bid::text, bid_size::text, ask::text, ask_size::text, last::text, volume_24h::text, "
    "high_24h::text, low_24h::text, change_24h::text",
    "books": "depth, sequence, bid_prices::text[], bid_sizes::text[], ask_prices::text[], ask_sizes::text[]",
}


async def quotes(
    history: History, market: tuple[str, str], span: Range, before: Sequence[Any] | None, limit: int
) -> list[tuple[Place, Json]]:
    """Return the quotes of a (venue, symbol) with their places, after the place `before`."""
    rows = await _rows(history, "quotes", market, span=span, before=before, limit=limit)
    return [(_place(row), _stamp(row) | {name: row[name] for name in _QUOTE_FIELDS}) for row in rows]


async def books(
    history: History, market: tuple[str, str], span: Range, before: Sequence[Any] | None, limit: int
) -> list[tuple[Place, Json]]:
    """Return the books of a (venue, symbol) with their places, after the place `before`; best levels first."""
    rows = await _rows(history, "books", market, span=span, before=before, limit=limit)
    return [
        (
            _place(row),
            _stamp(row)
            | {
                "depth": row["depth"],
                "sequence": row["sequence"],
                "bids": list(zip(row["bid_prices"], row["bid_sizes"], strict=True)),
                "asks": list(zip(row["ask_prices"], row["ask_sizes"], strict=True)),
            },
        )
        for row in rows
    ]


async def _rows(
    history: History,
    table: LiteralString,
    market: tuple[str, str],
    *,
    span: Range,
    before: Sequence[Any] | None,
    limit: int,
) -> list[Row]:
    where, values = conditions(span, "ts", "ts_event_ns")
    if before is not None:
        where += " AND (ts, kafka_offset) < (%(before_ts)s, %(before_offset)s)"
        values |= {"before_ts": moment(before[0] * _MICROSECOND_NS), "before_offset": before[1]}
    return await history.newest(
        table,
        "SELECT ts, ts_event_ns, ts_recv_ns, origin, valid, reason, kafka_offset, "
        + _COLUMNS[table]
        + f" FROM {table} WHERE venue = %(venue)s AND symbol = %(symbol)s"
        + WINDOW
        + where
        + " ORDER BY ts DESC, kafka_offset DESC",
        values | {"venue": market[0], "symbol": market[1]},
        reach=reach_of(span, before, _MICROSECOND_NS),
        limit=limit,
    )


def _place(row: Row) -> Place:
    return microseconds(row["ts"]), row["kafka_offset"]


def _stamp(row: Row) -> Json:
    return {
        "timestamp": format_rfc3339(row["ts_event_ns"]),
        "ts_event": nanoseconds(row["ts_event_ns"]),
        "ts_recv": nanoseconds(row["ts_recv_ns"]),
        "origin": row["origin"],
        "valid": row["valid"],
        "reason": row["reason"],
    }
