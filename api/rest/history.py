"""Reads history from TimescaleDB: one function a question, parameterised SQL, rows as plain values.

The order of trades is (time in microseconds, Kafka offset, place in the record): no two have the same, and the same
trade has the same place in memory and in the database, so that pages fit together.

Lists are read newest first in windows of time that grow (see `api.rest.windows`), and each filter is a condition of its
own, so that an index finds what it names, or that there is nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from api.core.consumer import DATABASE
from api.rest.codes import Code
from api.rest.parameters import Range, microseconds, moment
from api.rest.problems import Problem
from api.rest.windows import windows
from api.settings import ApiSettings
from marketdata.clock import MILLISECOND_NS, MINUTE_NS
from marketdata.errors import TickstreamError, Unavailable
from marketdata.recipes import read_length
from runtime.health import Readiness

Row = dict[str, Any]
# Whose candles: made here of the venue's trades, or the venue's own.
Source = Literal["trades", "venue"]
_CANDLES: dict[Source, LiteralString] = {"trades": "candles", "venue": "venue_candles"}

_CONNECT_TIMEOUT_S = 3
_POOL_TIMEOUT_S = 2.0
_WAITING_MAX = 200
# The days in which TimescaleDB keeps rows of a table, that may hold any of a range.
_CHUNKS = """
SELECT slice.range_start AS start FROM _timescaledb_catalog.dimension_slice AS slice
JOIN _timescaledb_catalog.dimension ON dimension.id = slice.dimension_id
JOIN _timescaledb_catalog.hypertable ON hypertable.id = dimension.hypertable_id
WHERE hypertable.schema_name = current_schema AND hypertable.table_name = %(table)s
AND slice.range_end > %(from_us)s AND slice.range_start <= %(to_us)s
"""
_TOO_LONG = "the query took too long; ask for a shorter time range"
_DAY_NS = 24 * 60 * MINUTE_NS
_MICROSECOND_NS = 1_000
# Everything that is stored is between these, also in nanoseconds.
_FIRST = 0
_LAST = (1 << 63) // _MICROSECOND_NS
# What every list adds to its conditions: the window that is read.
WINDOW = " AND ts >= %(low)s AND ts < %(high)s"
_DOWN = "the database does not answer, so there is no history just now; live values are still served"


class History:
    """A pool of read-only connections with limits on everything."""

    def __init__(self, settings: ApiSettings, readiness: Readiness) -> None:
        self._readiness = readiness
        self._time_limit_ns = settings.query_timeout_ms * MILLISECOND_NS
        options = (
            f"-c search_path={settings.database_schema},public -c TimeZone=UTC"
            f" -c statement_timeout={settings.query_timeout_ms} -c default_transaction_read_only=on"
            # A plan that is kept for all values opens every chunk.
            " -c plan_cache_mode=force_custom_plan -c jit=off"
        )
        given = conninfo_to_dict(settings.dsn)
        ours: dict[str, Any] = {
            "options": f"{given.get('options') or ''} {options}".strip(),
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": "tickstream-api",
        }
        self._pool = AsyncConnectionPool(
            make_conninfo("", **(given | ours)),
            kwargs={"autocommit": True, "row_factory": dict_row},
            min_size=1,
            max_size=settings.database_pool_max,
            max_waiting=_WAITING_MAX,
            timeout=_POOL_TIMEOUT_S,
            reconnect_timeout=_CONNECT_TIMEOUT_S,
            # A connection that a restart of the database broke is replaced before it costs a request.
            check=AsyncConnectionPool.check_connection,
            open=False,
        )

    async def open(self) -> None:
        """Begin to connect; does not wait for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close(timeout=1.0)

    async def check(self) -> None:
        """Ask the database whether it answers and has its tables, and note it."""
        try:
            async with self._pool.connection(_POOL_TIMEOUT_S) as connection:
                cursor = await connection.execute("SELECT to_regclass('candles_latest') IS NOT NULL AS found")
                row = await cursor.fetchone()
        except (psycopg.Error, TickstreamError) as error:
            self._readiness.down(DATABASE, f"{type(error).__name__}: {error}")
        else:
            if row is not None and row["found"]:  # type: ignore[call-overload] # rows are dicts by the pool's settings
                self._readiness.up(DATABASE)
            else:
                self._readiness.down(DATABASE, "the tables are missing: run `tickstream db migrate`")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Row]]:
        if not self._readiness.is_up(DATABASE):
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, _DOWN, code=Code.HISTORY_UNAVAILABLE)
        try:
            async with self._pool.connection() as connection:
                yield connection  # type: ignore[misc] # rows are dicts by the pool's settings
        except psycopg.errors.QueryCanceled:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, _TOO_LONG, code=Code.QUERY_TOO_SLOW) from None
        except (PoolTimeout, TooManyRequests, psycopg.OperationalError, psycopg.InterfaceError, Unavailable):
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, _DOWN, code=Code.HISTORY_UNAVAILABLE) from None

    async def rows(self, query: LiteralString, values: dict[str, Any]) -> list[Row]:
        """Return the rows of a query. Raises Problem when the database does not answer or the query takes too long."""
        async with self._connection() as connection:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall()

    async def newest(
        self,
        table: LiteralString,
        query: LiteralString,
        values: dict[str, Any],
        *,
        reach: tuple[int | None, int | None],
        limit: int,
        first: int = 1,
    ) -> list[Row]:
        """Return at most `limit` rows of a query that reads a table newest first, window by window.

        The query has the conditions of `WINDOW` and no limit; `reach` are the first and the last nanosecond that it
        may find, where these are known; `first` is how many chunks the first window has.
        """
        until = time.monotonic_ns() + self._time_limit_ns
        start, end = reach
        bounds = {
            "table": table,
            "from_us": _FIRST if start is None else start // _MICROSECOND_NS,
            "to_us": _LAST if end is None else min(end // _MICROSECOND_NS, _LAST),
        }
        found: list[Row] = []
        async with self._connection() as connection:
            chunks = await (await connection.execute(_CHUNKS, bounds)).fetchall()
            for window in windows([row["start"] for row in chunks], first):
                if time.monotonic_ns() > until:
                    raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, _TOO_LONG, code=Code.QUERY_TOO_SLOW)
                limits = {
                    "low": moment((_FIRST if window.start is None else window.start) * _MICROSECOND_NS),
                    "high": moment((_LAST if window.end is None else window.end) * _MICROSECOND_NS),
                    "limit": limit - len(found),
                }
                cursor = await connection.execute(query + " LIMIT %(limit)s", values | limits)
                found += await cursor.fetchall()
                if len(found) >= limit:
                    break
        return found

    async def trades(self, venue: str, symbol: str, span: Range, before: Sequence[Any] | None, limit: int) -> list[Row]:
        """Return trades, newest first, after the place `before` (microseconds, offset, item) in that order."""
        where, values = conditions(span, "ts", "ts_event_ns")
        if before is not None:
            where += " AND (ts, kafka_offset, item) < (%(before_ts)s, %(before_offset)s, %(before_item)s)"
            values |= {"before_ts": moment(before[0] * 1000), "before_offset": before[1], "before_item": before[2]}
        return await self.newest(
            "trades",
            "SELECT trade_id, ts, ts_event_ns, ts_recv_ns, price::text, size::text, side, liquidation, action, "
            "original_id, conditions, excluded_from, valid, reason, kafka_offset, item FROM trades "
            "WHERE venue = %(venue)s AND symbol = %(symbol)s"
            + WINDOW
            + where
            + " ORDER BY ts DESC, kafka_offset DESC, item DESC",
            values | {"venue": venue, "symbol": symbol},
            reach=reach_of(span, before, _MICROSECOND_NS),
            limit=limit,
        )

    async def candles(
        self,
        venue: str,
        symbol: str,
        interval: str,
        span: Range,
        *,
        source: Source,
        before: Sequence[Any] | None,
        limit: int,
    ) -> list[Row]:
        """Return the latest revision of each candle that starts in the range, newest first.

        `before` is a place (start, number; -1 for bars of time): only candles before it are returned.
        """
        where, values = conditions(span, "ts", "start_ns")
        # Only tick, volume and value bars may start at the same time.
        order: LiteralString = "ts DESC, start_ns DESC, number DESC" if ":" in interval else "ts DESC"
        if before is not None:
            where += (
                " AND ts <= %(before_ts)s AND (start_ns, coalesce(number, -1)) < (%(before_start)s, %(before_number)s)"
            )
            values |= {"before_ts": moment(before[0]), "before_start": before[0], "before_number": before[1]}
        return await self.newest(
            _CANDLES[source],
            f"SELECT {CANDLE_COLUMNS} FROM {_CANDLES[source]}_latest "
            "WHERE venue = %(venue)s AND symbol = %(symbol)s AND interval = %(interval)s"
            + WINDOW
            + where
            + f" ORDER BY {order}",
            values | {"venue": venue, "symbol": symbol, "interval": interval},
            reach=reach_of(span, before, 1),
            limit=limit,
            first=_days_of(interval, limit),
        )

    async def revisions(
        self,
        venue: str,
        symbol: str,
        interval: str,
        span: Range,
        *,
        source: Source,
        before: Sequence[Any] | None,
        limit: int,
    ) -> list[Row]:
        """Return every closed revision of each candle that starts in the range, newest first."""
        where, values = conditions(span, "ts", "start_ns")
        if before is not None:
            where += " AND (ts, revision, kafka_offset) < (%(before_ts)s, %(before_revision)s, %(before_offset)s)"
            values |= {"before_ts": moment(before[0]), "before_revision": before[1], "before_offset": before[2]}
        return await self.newest(
            _CANDLES[source],
            f"SELECT {CANDLE_COLUMNS}, kafka_offset FROM {_CANDLES[source]} "
            "WHERE venue = %(venue)s AND symbol = %(symbol)s AND interval = %(interval)s"
            + WINDOW
            + where
            + " ORDER BY ts DESC, revision DESC, kafka_offset DESC",
            values | {"venue": venue, "symbol": symbol, "interval": interval},
            reach=reach_of(span, before, 1),
            limit=limit,
            first=_days_of(interval, limit),
        )

    async def metrics(
        self, venue: str, symbol: str, span: Range, before: Sequence[Any] | None, limit: int
    ) -> list[Row]:
        """Return metrics, newest first, after the place `before` (nanoseconds, offset) in that order."""
        where, values = conditions(span, "ts", "ts_event_ns")
        if before is not None:
            where += " AND ts <= %(before_ts)s AND (ts_event_ns, kafka_offset) < (%(before_ns)s, %(before_offset)s)"
            values |= {"before_ts": moment(before[0]), "before_ns": before[0], "before_offset": before[1]}
        return await self.newest(
            "metrics",
            "SELECT ts_event_ns, ts_recv_ns, kafka_offset, line, valid, reason, ts_from_ns, bid::text, bid_size::text, "
            "ask::text, ask_size::text, mid::text, microprice::text, spread::text, spread_bps::text, imbalance::text, "
            "depth_bps::text[], bid_depths::text[], ask_depths::text[], bid_reach_bps::text, ask_reach_bps::text, "
            "order_flow::text, changes, best_price_changes "
            "FROM metrics WHERE venue = %(venue)s AND symbol = %(symbol)s"
            + WINDOW
            + where
            + " ORDER BY ts DESC, ts_event_ns DESC, kafka_offset DESC",
            values | {"venue": venue, "symbol": symbol},
            reach=reach_of(span, before, 1),
            limit=limit,
        )

    async def derivatives(
        self, venue: str, symbol: str, span: Range, before: Sequence[Any] | None, limit: int
    ) -> list[Row]:
        """Return what a venue sent about a derivative, newest first, after `before` (microseconds, offset)."""
        where, values = conditions(span, "ts", "ts_event_ns")
        if before is not None:
            where += " AND (ts, kafka_offset) < (%(before_ts)s, %(before_offset)s)"
            values |= {"before_ts": moment(before[0] * 1000), "before_offset": before[1]}
        return await self.newest(
            "derivatives",
            f"SELECT {_DERIVATIVE} FROM derivatives WHERE venue = %(venue)s AND symbol = %(symbol)s"
            + WINDOW
            + where
            + " ORDER BY ts DESC, kafka_offset DESC",
            values | {"venue": venue, "symbol": symbol},
            reach=reach_of(span, before, _MICROSECOND_NS),
            limit=limit,
        )

    async def gaps(
        self, filters: dict[str, str | None], span: Range, before: Sequence[Any] | None, limit: int
    ) -> list[Row]:
        """Return the ledger of gaps, latest detected first; `filters` may name venue, symbol and state."""
        where, values = conditions(span, "detected_at")
        where += _equal(filters)
        if before is not None:
            where += " AND (detected_at, gap_id) < (%(before_ts)s, %(before_id)s)"
            values |= {"before_ts": moment(before[0] * 1000), "before_id": before[1]}
        return await self.rows(
            "SELECT gap_id, venue, symbol, channel, line, reason, detail, state, ts_from_ns, ts_to_ns, expected, "
            "received, found_by, detected_at, repaired_at, repaired_by FROM gaps WHERE true"
            + where
            + " ORDER BY detected_at DESC, gap_id DESC LIMIT %(limit)s",
            values | filters | {"limit": limit},
        )

    async def jobs(
        self, filters: dict[str, str | None], span: Range, before: Sequence[Any] | None, limit: int
    ) -> list[Row]:
        """Return the jobs of backfill and repair, latest change first; `filters` name venue, symbol, kind, state."""
        where, values = conditions(span, "updated_at")
        where += _equal(filters)
        if before is not None:
            where += " AND (updated_at, job_id) < (%(before_ts)s, %(before_id)s)"
            values |= {"before_ts": moment(before[0] * 1000), "before_id": before[1]}
        return await self.rows(
            "SELECT job_id, venue, symbol, kind, interval, state, start_ns, end_ns, cursor_ns, fetched, published, "
            "attempts, last_error, started_at, updated_at, completed_at FROM ingestion_jobs WHERE true"
            + where
            + " ORDER BY updated_at DESC, job_id DESC LIMIT %(limit)s",
            values | filters | {"limit": limit},
        )

    async def anomalies(
        self, filters: dict[str, str | None], span: Range, before: Sequence[Any] | None, limit: int
    ) -> list[Row]:
        """Return anomalies by their start, newest first, each as it is now.

        `filters` may name venue, symbol, kind, severity and state (open or ended).
        """
        where, values = conditions(span, "ts", "coalesce(ts_start_ns, ts_event_ns)")
        where += _equal({name: value for name, value in filters.items() if name != "state"})
        if filters["state"] is not None:
            where += " AND " + ("" if filters["state"] == "open" else "NOT ") + _OPEN
        if before is not None:
            where += _BEFORE_ANOMALY
            values |= {"before_ts": moment(before[0] * 1000), "before_id": before[1]}
        # Each event of an anomaly states all of it so far, and the last one counts. One that is critical now has a
        # critical event, which an index finds; then its last event is read and judged.
        query: LiteralString = (
            "SELECT ts, anomaly_id FROM anomalies WHERE true"
            + WINDOW
            + where
            + " GROUP BY ts, anomaly_id ORDER BY ts DESC, anomaly_id DESC"
        )
        found: list[Row] = []
        reach = reach_of(span, before, _MICROSECOND_NS)
        while len(found) < limit:
            named = await self.newest("anomalies", query, values | filters, reach=reach, limit=limit)
            if named:
                latest = await self.rows(
                    _LATEST_ANOMALIES,
                    {
                        "low": named[-1]["ts"], "high": named[0]["ts"], "times": [row["ts"] for row in named],
                        "ids": [row["anomaly_id"] for row in named], "severity": filters["severity"],
                        "open": None if filters["state"] is None else filters["state"] == "open",
                    },
                )  # fmt: skip
                found += latest
            if len(named) < limit:
                break
            values |= {"before_ts": named[-1]["ts"], "before_id": named[-1]["anomaly_id"]}
            if before is None:
                before = (microseconds(named[-1]["ts"]), named[-1]["anomaly_id"])
                query = query.replace(" GROUP BY", _BEFORE_ANOMALY + " GROUP BY")
            reach = (span.start, microseconds(named[-1]["ts"]) * _MICROSECOND_NS)
        return found[:limit]


_BEFORE_ANOMALY = " AND (ts, anomaly_id) < (%(before_ts)s, %(before_id)s)"
_LATEST_ANOMALIES = """
SELECT anomaly_id, venue, symbol, ts, coalesce(ts_start_ns, ts_event_ns) AS ts_start_ns, ts_peak_ns, ts_end_ns, kind,
    severity, metric, value::text, limit_value::text AS limit, usual::text, phase, text, evidence
FROM (
    SELECT DISTINCT ON (ts, anomaly_id) * FROM anomalies
    WHERE ts >= %(low)s AND ts <= %(high)s
    AND (ts, anomaly_id) IN (SELECT * FROM unnest(%(times)s::timestamptz[], %(ids)s::text[]))
    ORDER BY ts DESC, anomaly_id DESC, kafka_offset DESC
) AS latest
WHERE (%(severity)s::text IS NULL OR severity = %(severity)s)
AND (%(open)s::boolean IS NULL OR (ts_start_ns IS NOT NULL AND ts_end_ns IS NULL) = %(open)s)
ORDER BY ts DESC, anomaly_id DESC
"""
# As in the index of open anomalies.
_OPEN = "(ts_start_ns IS NOT NULL AND ts_end_ns IS NULL)"
CANDLE_COLUMNS: LiteralString = (
    "interval, start_ns, end_ns, open::text, high::text, low::text, close::text, volume::text, quote_volume::text, "
    "buy_volume::text, trades, state, revision, origin, valid, reason, ts_event_ns, ts_recv_ns, venue, symbol, "
    "recipe, recipe_hash, number, sell_volume::text, buy_trades, sell_trades"
)
# The fields of an event that have the name of their column.
CANDLE_FIELDS = (
    "venue", "symbol", "interval", "open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trades",
    "state", "revision", "origin", "valid", "reason", "recipe", "recipe_hash", "number", "sell_volume", "buy_trades",
    "sell_trades",
)  # fmt: skip


_DERIVATIVE = (
    "venue, symbol, line, sequence, origin, ts, ts_event_ns, ts_recv_ns, valid, reason, kafka_offset, "
    "mark_price::text, index_price::text, open_interest::text, open_interest_value::text, funding_rate::text, "
    "predicted_funding_rate::text, delta::text, gamma::text, vega::text, theta::text, rho::text, bid_iv::text, "
    "ask_iv::text, mark_iv::text, underlying_price::text, next_funding_ts, funding_interval, liquidations"
)


def conditions(
    span: Range, column: LiteralString, exact: LiteralString | None = None
) -> tuple[LiteralString, dict[str, Any]]:
    """Return the conditions of a time range: on the indexed column, and to the nanosecond where there is a column."""
    where: LiteralString = ""
    values: dict[str, Any] = {}
    if span.start is not None:
        where += " AND " + column + " >= %(start)s"
        values["start"] = moment(span.start)
        if exact is not None:
            where += " AND " + exact + " >= %(start_ns)s"
            values["start_ns"] = span.start
    if span.end is not None:
        # The column is cut to microseconds: what begins in the last one is ordered by the exact column.
        where += " AND " + column + " <= %(end)s" if exact is not None else " AND " + column + " < %(end)s"
        values["end"] = moment(span.end)
        if exact is not None:
            where += " AND " + exact + " < %(end_ns)s"
            values["end_ns"] = span.end
    return where, values


def _equal(filters: dict[str, str | None]) -> LiteralString:
    """Return a condition for each filter that has a value; their names are ours."""
    by_name: dict[str, LiteralString] = {
        "venue": " AND venue = %(venue)s", "symbol": " AND symbol = %(symbol)s", "kind": " AND kind = %(kind)s",
        "severity": " AND severity = %(severity)s", "state": " AND state = %(state)s",
    }  # fmt: skip
    where: LiteralString = ""
    for name, value in filters.items():
        if value is not None:
            where += by_name[name]
    return where


def reach_of(span: Range, before: Sequence[Any] | None, unit_ns: int) -> tuple[int | None, int | None]:
    """Return the first and the last nanosecond that a page may have; `before` begins with a time in `unit_ns`."""
    ends = [] if span.end is None else [span.end]
    if before is not None:
        ends.append(before[0] * unit_ns)
    return span.start, min(ends, default=None)


def _days_of(interval: str, limit: int) -> int:
    """Return in how many days a series has so many candles; one for bars that have no length of time."""
    length = read_length(interval)
    return 1 if length is None else 1 + length * limit // _DAY_NS
