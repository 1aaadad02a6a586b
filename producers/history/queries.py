"""What the database holds of one symbol: candles, trade ids, gaps. One function a question, parameterised SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from marketdata.clock import MILLISECOND_NS, MINUTE_NS, SECOND_NS
from marketdata.events import AMENDED, HALTED
from producers.history.candles import Stored
from producers.history.jobs import Database
from producers.venues import VENUES

# A feed's gap names when its neighbours were traded or received, by the venue's clock or by ours.
AROUND_NS = 3_600 * SECOND_NS
_LONG_AGO, _FAR_AHEAD = datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

AMENDMENTS_MAX = 10_000
CORRECTIONS_MAX = 10  # of one trade, one after the other


class MinuteGap(NamedTuple):
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
    """An open entry of the ledger; `attempts` to repair it failed, the last at `tried_at_s` (UTC)."""

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
        """Return whether the instrument is listed."""
        return bool(await self._rows("SELECT 1 FROM instruments WHERE venue = %s AND symbol = %s", venue, symbol))

    async def live_span(self, venue: str, symbol: str, since: int) -> tuple[int, int] | None:
        """Return the first minute since a time of which there is a live candle, and the newest time of one."""
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
            "close::text, volume::text, quote_volume::text, buy_volume::text, trades, ts_recv_ns FROM candles_latest "
            "WHERE venue = %s AND symbol = %s AND ts >= %s AND ts < %s AND recipe = '' "
            "AND (%s::text IS NULL OR interval = %s)",
            *(venue, symbol, moment(start), moment(end), interval, interval),
        )
        return {(row["interval"], row["start_ns"]): msgspec.convert(row, Stored) for row in rows}

    async def left_to_history(self, venue: str, symbol: str, start: int, end: int) -> set[tuple[str, int]]:
        """Return the interval and start of the candles that the stream app has left to history."""
        rows = await self._rows(
            "SELECT DISTINCT interval, start_ns FROM candles WHERE venue = %s AND symbol = %s AND reason = %s "
            "AND ts >= %s AND ts < %s AND recipe = ''",
            *(venue, symbol, AMENDED, moment(start), moment(end)),
        )
        return {(row["interval"], row["start_ns"]) for row in rows}

    async def changes(self, venue: str, symbol: str, start: int, end: int) -> dict[int, int]:
        """Return the last arrival of anything that changes a minute of [start, end); older candles of it are wrong.

        Changes are amendments, and any trade of a minute that the stream app has left to history.
        """
        if venue not in VENUES or not VENUES[venue].amends_trades:
            return {}
        found: dict[int, int] = {}
        for ts, came in await self._amended(venue, symbol, start, end):
            minute = ts - ts % MINUTE_NS
            found[minute] = max(found.get(minute, 0), came)
        left = await self.left_to_history(venue, symbol, start, end)
        minutes = {start_ns for interval, start_ns in left if interval == "1m"}
        if minutes:
            rows = await self._rows(
                "SELECT ts_event_ns / %s * %s AS minute, max(ts_recv_ns) AS came FROM trades "
                "WHERE venue = %s AND symbol = %s AND ts >= %s AND ts < %s AND action = 'new' GROUP BY 1",
                *(MINUTE_NS, MINUTE_NS, venue, symbol, moment(min(minutes)), moment(max(minutes) + MINUTE_NS)),
            )
            for row in rows:
                if row["minute"] in minutes:
                    found[row["minute"]] = max(found.get(row["minute"], 0), row["came"])
        return found

    async def _amended(self, venue: str, symbol: str, start: int, end: int) -> list[tuple[int, int]]:
        """Return the times of the trades of [start, end) that were amended, and when their amendments came."""
        rows = await self._rows(
            "SELECT trade_id, action, original_id, ts_recv_ns FROM trades WHERE venue = %s AND symbol = %s "
            "AND ts >= %s AND action <> 'new' ORDER BY ts LIMIT %s",
            *(venue, symbol, moment(start), AMENDMENTS_MAX),
        )
        # A correction may be amended itself: the time is that of the first of them.
        before = {row["trade_id"]: row["original_id"] for row in rows if row["action"] == "correct"}
        came: dict[str, int] = {}
        for row in rows:
            original = row["original_id"] or row["trade_id"]
            for _ in range(CORRECTIONS_MAX):
                original = before.get(original) or original
            came[original] = max(came.get(original, 0), row["ts_recv_ns"])
        if not came:
            return []
        found = await self._rows(
            "SELECT trade_id, min(ts_event_ns) AS ts FROM trades WHERE venue = %s AND symbol = %s AND action = 'new' "
            "AND trade_id = ANY(%s) AND ts >= %s AND ts < %s GROUP BY 1",
            *(venue, symbol, list(came), moment(start), moment(end)),
        )
        return [(row["ts"], came[row["trade_id"]]) for row in found]

    async def known_ids(self, venue: str, symbol: str, ids: list[str], start: int, end: int) -> set[tuple[str, str]]:
        """Return which of these trades and amendments of [start, end] are stored, as action and id."""
        rows = await self._rows(
            "SELECT DISTINCT action, trade_id FROM trades WHERE venue = %s AND symbol = %s AND trade_id = ANY(%s) "
            "AND ts >= %s AND ts <= %s",
            *(venue, symbol, ids, moment(start - SECOND_NS), moment(end + SECOND_NS)),
        )
        return {(row["action"], row["trade_id"]) for row in rows}

    async def ids_of(self, venue: str, symbol: str, start: int, end: int) -> set[str]:
        """Return the ids of the trades of [start, end) that are stored."""
        rows = await self._rows(
            "SELECT DISTINCT trade_id FROM trades WHERE venue = %s AND symbol = %s AND ts >= %s AND ts < %s "
            "AND ts_event_ns >= %s AND ts_event_ns < %s AND action = 'new'",
            *(venue, symbol, moment(start), moment(end), start, end),
        )
        return {row["trade_id"] for row in rows}

    async def _minutes(self, venue: str, symbol: str, start: int, end: int) -> list[tuple[int, bool]]:
        """Return the closed minutes of [start, end), and whether each may be trusted; one of a halt may."""
        rows = await self._rows(
            "SELECT start_ns, ts_recv_ns, valid OR reason = %s AS good FROM candles_latest "
            "WHERE venue = %s AND symbol = %s AND interval = '1m' AND ts >= %s AND ts < %s AND state <> 'open' "
            "ORDER BY ts",
            *(HALTED, venue, symbol, moment(start), moment(end)),
        )
        changes = await self.changes(venue, symbol, start, end)
        return [(row["start_ns"], row["good"] and changes.get(row["start_ns"], 0) <= row["ts_recv_ns"]) for row in rows]

    async def minute_gaps(self, venue: str, symbol: str, start: int, end: int) -> list[MinuteGap]:
        """Return where minutes between the first and the last of [start, end) are missing, not valid or not right.

        A minute without trades that is marked so is none, nor is one of a halt.
        """
        found: list[MinuteGap] = []
        expected: int | None = None
        for label, good in await self._minutes(venue, symbol, start, end):
            if expected is not None and label > expected:
                _widen(found, expected, label)
            if not good:
                _widen(found, label, label + MINUTE_NS)
            expected = label + MINUTE_NS
        return found

    async def good_minutes(self, venue: str, symbol: str, start: int, end: int) -> int:
        """Return how many closed minutes of [start, end) may be trusted, those of a halt among them."""
        return sum(good for _, good in await self._minutes(venue, symbol, start, end))

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

    async def count_trades(self, venue: str, symbol: str, start: int, end: int) -> int:
        """Return how many trades and amendments of [start, end) are stored, where times may be cut to milliseconds."""
        rows = await self._rows(
            "SELECT count(DISTINCT (action, trade_id, ts_event_ns)) AS found FROM trades WHERE venue = %s "
            "AND symbol = %s AND ts >= %s AND ts < %s",
            *(venue, symbol, moment(start - MILLISECOND_NS), moment(end + MILLISECOND_NS)),
        )
        return int(rows[0]["found"])

    async def times_around(
        self, venue: str, symbol: str, first: int, end: int, span: tuple[int | None, int | None] = (None, None)
    ) -> tuple[int, int] | None:
        """Return the times of the last trade before the id `first` and of the first from `end` on.

        `span` is about when they were traded, where that is known: trades are stored by time, not by id.
        """
        start, stop = span
        rows = await self._rows(
            "SELECT max(ts_event_ns) FILTER (WHERE trade_id = %s) AS before, "
            "min(ts_event_ns) FILTER (WHERE trade_id = %s) AS after FROM trades "
            "WHERE venue = %s AND symbol = %s AND trade_id IN (%s, %s) AND ts >= %s AND ts <= %s",
            *(str(first - 1), str(end), venue, symbol, str(first - 1), str(end)),
            _LONG_AGO if start is None else moment(start - AROUND_NS),
            _FAR_AHEAD if stop is None else moment(stop + AROUND_NS),
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


def _widen(found: list[MinuteGap], start: int, end: int) -> None:
    if found and found[-1].end == start:
        found[-1] = MinuteGap(found[-1].start, end)
    else:
        found.append(MinuteGap(start, end))


def as_values(row: Stored) -> dict[str, Any]:
    """Return the prices and sums of a stored candle."""
    names = ("open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trades")
    return {name: getattr(row, name) for name in names}
