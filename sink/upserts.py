"""Writes to the tables that are updated in place: open candles, the ledger of gaps, and instruments."""

from __future__ import annotations

from typing import Any

import psycopg

from marketdata.events import Candle, FeedStatus, Instrument
from sink.batch import TableRows
from sink.rows import timestamp


def clear_open_candles(cursor: psycopg.Cursor[Any], candles: list[Candle]) -> None:
    """Delete the open rows of these candles: COPY adds those still open again, and closed ones are in `candles`."""
    if candles:
        cursor.execute(
            "DELETE FROM candles_open AS o USING unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) "
            "AS n (venue, symbol, interval, start_ns) "
            "WHERE (o.venue, o.symbol, o.interval, o.start_ns) = (n.venue, n.symbol, n.interval, n.start_ns)",
            (
                [candle.venue for candle in candles],
                [candle.symbol for candle in candles],
                [candle.interval for candle in candles],
                [candle.start for candle in candles],
            ),
        )


# A gap and the status that closes it may arrive in either order: the gap of a whole connection and the resync of one of
# its symbols are in different partitions. Each statement completes the row that the other wrote.
_OPEN_GAP = """
INSERT INTO gaps AS g (gap_id, venue, symbol, channel, line, reason, detail, state, ts_from, ts_to, ts_from_ns,
    ts_to_ns, expected, received, found_by, detected_at)
VALUES (%(gap_id)s, %(venue)s, %(symbol)s, %(channel)s, %(line)s, %(reason)s, %(detail)s, 'open', %(ts_from)s,
    %(ts_to)s, %(ts_from_ns)s, %(ts_to_ns)s, %(expected)s, %(received)s, %(found_by)s, %(at)s)
ON CONFLICT (gap_id) DO UPDATE SET
    channel = excluded.channel, reason = excluded.reason, detail = excluded.detail,
    ts_from = excluded.ts_from, ts_from_ns = excluded.ts_from_ns,
    ts_to = coalesce(g.ts_to, excluded.ts_to), ts_to_ns = coalesce(g.ts_to_ns, excluded.ts_to_ns),
    expected = excluded.expected, received = excluded.received, detected_at = excluded.detected_at
"""
_CLOSE_GAP = """
INSERT INTO gaps AS g (gap_id, venue, symbol, channel, line, reason, detail, state, ts_from, ts_to, ts_from_ns,
    ts_to_ns, expected, received, found_by, detected_at, repaired_at, repaired_by)
VALUES (%(gap_id)s, %(venue)s, %(symbol)s, %(channel)s, %(line)s, %(reason)s, %(detail)s, 'repaired', %(ts_from)s,
    %(ts_to)s, %(ts_from_ns)s, %(ts_to_ns)s, %(expected)s, %(received)s, %(found_by)s, %(at)s, %(at)s, %(repaired_by)s)
ON CONFLICT (gap_id) DO UPDATE SET
    state = 'repaired', repaired_at = excluded.repaired_at, repaired_by = excluded.repaired_by,
    ts_to = coalesce(excluded.ts_to, g.ts_to), ts_to_ns = coalesce(excluded.ts_to_ns, g.ts_to_ns)
"""


# Who reports a gap: a feed, the scan of stored data, or a backfill whose request the venue refused.
_FINDERS = {"live": "feed", "repair": "scan", "backfill": "history"}
# `repaired_by` of a gap that its feed closed without a reason: a new snapshot or the missing trades arrived.
_RESYNC = "resync"


def keep_gaps(cursor: psycopg.Cursor[Any], ledger: list[TableRows]) -> None:
    """Add gaps to the ledger and close repaired ones, in order of arrival."""
    for record in ledger:
        event = record.event
        assert isinstance(event, FeedStatus)  # noqa: S101 - the writer passes only these
        gap_id = event.gap_id
        if gap_id is None:
            if event.kind == "resynced":  # it names no gap to close
                continue
            gap_id = f"{record.source.topic}|{record.source.partition}|{record.source.offset}"
        cursor.execute(
            _OPEN_GAP if event.kind == "gap" else _CLOSE_GAP,
            {
                "gap_id": gap_id,
                "venue": event.venue,
                "symbol": event.symbol,
                "channel": event.channel,
                "line": event.line,
                "reason": event.reason,
                "detail": event.detail,
                "ts_from": _timestamp(event.ts_from),
                "ts_to": _timestamp(event.ts_to),
                "ts_from_ns": event.ts_from,
                "ts_to_ns": event.ts_to,
                "expected": event.expected,
                "received": event.received,
                "at": timestamp(event.ts_recv),
                "found_by": _FINDERS.get(event.origin, event.origin),
                "repaired_by": event.reason or _RESYNC,
            },
        )


def keep_instruments(cursor: psycopg.Cursor[Any], instruments: list[Instrument]) -> None:
    """Store the latest state of each instrument."""
    instruments = list({one.key: one for one in instruments}.values())
    if instruments:
        cursor.executemany(
            """
            INSERT INTO instruments (venue, symbol, venue_symbol, base_currency, quote_currency, tick_size,
                size_increment, min_order_size, status, kind, expiry_ns, strike, contract_multiplier,
                settlement_currency, inverse, ts_recv_ns, updated_at)
            VALUES (%s, %s, %s, %s, %s, %s::numeric, %s::numeric, %s::numeric, %s, %s, %s, %s::numeric, %s::numeric,
                %s, %s, %s, %s)
            ON CONFLICT (venue, symbol) DO UPDATE SET
                venue_symbol = excluded.venue_symbol, base_currency = excluded.base_currency,
                quote_currency = excluded.quote_currency, tick_size = excluded.tick_size,
                size_increment = excluded.size_increment, min_order_size = excluded.min_order_size,
                status = excluded.status, kind = excluded.kind, expiry_ns = excluded.expiry_ns,
                strike = excluded.strike, contract_multiplier = excluded.contract_multiplier,
                settlement_currency = excluded.settlement_currency, inverse = excluded.inverse,
                ts_recv_ns = excluded.ts_recv_ns, updated_at = excluded.updated_at
            """,
            [
                (
                    one.venue, one.symbol, one.venue_symbol, one.base_currency, one.quote_currency, one.tick_size,
                    one.size_increment, one.min_order_size, one.status, one.kind, one.expiry, one.strike,
                    one.contract_multiplier, one.settlement_currency, one.inverse, one.ts_recv, timestamp(one.ts_recv),
                )
                for one in instruments
            ],
        )  # fmt: skip


def count_open_gaps(cursor: psycopg.Cursor[Any]) -> dict[str, int]:
    """Return the number of open gaps by venue; a venue without any, but with repaired ones, has 0."""
    cursor.execute("SELECT venue, count(*) FILTER (WHERE state = 'open') FROM gaps GROUP BY venue")
    return dict(cursor.fetchall())


def _timestamp(ts: int | None) -> str | None:
    return None if ts is None else timestamp(ts)
