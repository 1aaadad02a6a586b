"""What the database holds of one symbol: candles, trade ids, holes. One function a question, parameterised SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.events import HALTED
from producers.bars import Stored
from producers.history.contract import MINUTE_NS
from producers.jobs import Database

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Hole(NamedTuple):
    """Candles of [start, end) that are missing, or may not be trusted."""

    start: int
    end: int


class SkippedIds(NamedTuple):
    """Trade ids [first, end) that are not stored, between trades of these times."""

    first: int
    end: int
    ts_from: int
    ts_to: int


class OpenGap(msgspec.Struct, frozen=True, kw_only=True):
    """An open entry of the ledger; `attempts` to repair it were made in vain, the last at `tried_at_s` (UTC)."""

    gap_id: str
    venue: str
    symbol: str
    channel: str | None
    line: str
    reason: str
    ts_from_ns: int | None
    ts_to_ns: int | None
    expected: int | None
    received: int | None
    attempts: int = 0
    tried_at_s: float = 0.0


def moment(ts: int) -> datetime:
    """Return a time as the database's partitions are cut."""
    return _EPOCH + timedelta(microseconds=ts // 1_000)


class Tables:
    """The tables of market data, read only."""

    def __init__(self, database: Database) -> None:
        self._rows = database.rows

    async def symbols(self, since: int) -> list[tuple[str, str]]:
        """Return the (venue, symbol) that have candles since a time."""
        found = await self._rows(
            "SELECT DISTINCT venue, symbol FROM candles WHERE ts >= %s AND interval = '1m' ORDER BY 1, 2", moment(since)
        )
        return [(row["venue"], row["symbol"]) for row in found]

    async def knows(self, venue: str, symbol: str) -> bool:
        """Tell whether the instrument is listed."""
        return bool(await self._rows("SELECT 1 FROM instruments WHERE venue = %s AND symbol = %s", venue, symbol))

    async def live_span(self, venue: str, symbol: str, since: int) -> tuple[int, int] | None:
        """Return the first minute since a time of which there is a live candle, and the newest time that one tells."""
        rows = await self._rows(
            "SELECT min(start_ns) AS first, max(ts_event_ns) AS newest FROM candles_latest "
            "WHERE venue = %s AND symbol = %s AND interval = '1m' AND origin = 'live' AND ts >= %s",
            *(venue, symbol, moment(since)),
        )
        first, newest = rows[0]["first"], rows[0]["newest"]
        return None if first is None else (first, newest)

    async def candles(
        self, venue: str, symbol: str, start: int, end: int, interval: str | None = None
    ) -> dict[tuple[str, int], Stored]:
        """Return the newest revision of each candle that starts in [start, end)."""
        rows = await self._rows(
            "SELECT interval, start_ns, state, revision, valid, reason, open::text, high::text, low::text, "
            "close::text, volume::text, quote_volume::text, buy_volume::text, trades FROM candles_latest "
            "WHERE venue = %s AND symbol = %s AND ts >= %s AND ts < %s AND (%s::text IS NULL OR interval = %s)",
            *(venue, symbol, moment(start), moment(end), interval, interval),
        )
        return {(row["interval"], row["start_ns"]): msgspec.convert(row, Stored) for row in rows}

    async def known_ids(self, venue: str, symbol: str, ids: list[str], start: int, end: int) -> set[str]:
        """Return which of these trades of [start, end] are stored."""
        rows = await self._rows(
            "SELECT trade_id FROM trades WHERE venue = %s AND symbol = %s AND trade_id = ANY(%s) "
            "AND ts >= %s AND ts <= %s",
            *(venue, symbol, ids, moment(start - SECOND_NS), moment(end + SECOND_NS)),
        )
        return {row["trade_id"] for row in rows}

    async def holes(self, venue: str, symbol: str, start: int, end: int) -> list[Hole]:
        """Return where minutes between the first and the last of [start, end) are missing or not valid.

        A minute without trades that is marked so is none, nor is one of a halt.
        """
        rows = await self._rows(
            "SELECT start_ns, valid OR reason = %s AS good FROM candles_latest "
            "WHERE venue = %s AND symbol = %s AND interval = '1m' AND ts >= %s AND ts < %s AND state <> 'open' "
            "ORDER BY ts",
            *(HALTED, venue, symbol, moment(start), moment(end)),
        )
        found: list[Hole] = []
        expected: int | None = None
        for row in rows:
            label = int(row["start_ns"])
            if expected is not None and label > expected:
                _widen(found, expected, label)
            if not row["good"]:
                _widen(found, label, label + MINUTE_NS)
            expected = label + MINUTE_NS
        return found

    async def good_minutes(self, venue: str, symbol: str, start: int, end: int) -> int:
        """Return how many closed minutes of [start, end) may be trusted, those of a halt among them."""
        rows = await self._rows(
            "SELECT count(*) AS found FROM candles_latest WHERE venue = %s AND symbol = %s AND interval = '1m' "
            "AND ts >= %s AND ts < %s AND state <> 'open' AND (valid OR reason = %s)",
            *(venue, symbol, moment(start), moment(end), HALTED),
        )
        return int(rows[0]["found"])

    async def skipped_ids(self, venue: str, symbol: str, start: int, end: int) -> list[SkippedIds]:
        """Return the numbers that are missing between the trades of [start, end), for ids that rise by one."""
        rows = await self._rows(
            "SELECT id, following, ts_event_ns, following_ns FROM ("
            "  SELECT id, ts_event_ns, lead(id) OVER (ORDER BY id) AS following,"
            "    lead(ts_event_ns) OVER (ORDER BY id) AS following_ns FROM ("
            "    SELECT DISTINCT trade_id::bigint AS id, ts_event_ns FROM trades WHERE venue = %s AND symbol = %s"
            "      AND ts >= %s AND ts < %s AND trade_id ~ '^[0-9]{1,18}$' AND action = 'new') AS numbered"
            ") AS pairs WHERE following > id + 1 ORDER BY id LIMIT 1000",
            *(venue, symbol, moment(start), moment(end)),
        )
        return [SkippedIds(row["id"] + 1, row["following"], row["ts_event_ns"], row["following_ns"]) for row in rows]

    async def count_ids(self, venue: str, symbol: str, first: int, end: int, span: tuple[int, int]) -> int:
        """Return how many of the ids [first, end) are stored; `span` is when they were traded."""
        rows = await self._rows(
            "SELECT count(DISTINCT trade_id) AS found FROM trades WHERE venue = %s AND symbol = %s "
            "AND ts >= %s AND ts <= %s "
            "AND CASE WHEN trade_id ~ '^[0-9]{1,18}$' THEN trade_id::bigint >= %s AND trade_id::bigint < %s END",
            *(venue, symbol, moment(span[0] - SECOND_NS), moment(span[1] + SECOND_NS), first, end),
        )
        return int(rows[0]["found"])

    async def times_around(self, venue: str, symbol: str, first: int, end: int) -> tuple[int, int] | None:
        """Return the times of the last trade before the id `first` and of the first from `end` on."""
        rows = await self._rows(
            "SELECT max(ts_event_ns) FILTER (WHERE trade_id = %s) AS before, "
            "min(ts_event_ns) FILTER (WHERE trade_id = %s) AS after FROM trades "
            "WHERE venue = %s AND symbol = %s AND trade_id IN (%s, %s)",
            *(str(first - 1), str(end), venue, symbol, str(first - 1), str(end)),
        )
        before, after = rows[0]["before"], rows[0]["after"]
        return None if before is None or after is None else (before, after)

    async def open_gaps(self, venue: str | None, symbol: str | None) -> list[OpenGap]:
        """Return the open entries of the ledger, oldest first."""
        rows = await self._rows(
            "SELECT gap_id, g.venue, g.symbol, channel, line, reason, ts_from_ns, ts_to_ns, expected, received, "
            "coalesce(attempts, 0) AS attempts, coalesce(extract(epoch FROM updated_at), 0)::float8 AS tried_at_s "
            "FROM gaps AS g LEFT JOIN ingestion_jobs ON job_id = 'repair|' || gap_id WHERE g.state = 'open' "
            "AND (%s::text IS NULL OR g.venue = %s) AND (%s::text IS NULL OR g.symbol = %s) "
            "ORDER BY detected_at, gap_id LIMIT 1000",
            *(venue, venue, symbol, symbol),
        )
        return [msgspec.convert(row, OpenGap) for row in rows]


def _widen(found: list[Hole], start: int, end: int) -> None:
    if found and found[-1].end == start:
        found[-1] = Hole(found[-1].start, end)
    else:
        found.append(Hole(start, end))


def as_values(row: Stored) -> dict[str, Any]:
    """Return the prices and sums of a stored candle."""
    names = ("open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trades")
    return {name: getattr(row, name) for name in names}
