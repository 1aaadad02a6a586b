"""Lists that are read newest first in windows: equal to one plain query, and few chunks opened for the first page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from pydantic import SecretStr

from api.core.consumer import DATABASE
from api.rest.history import History, Row
from api.rest.parameters import Range
from api.rest.windows import GROWTH, Window, windows
from api.settings import ApiSettings
from infra.local.table import Endpoints
from runtime.health import Readiness
from sink import migrations

DAY_NS = 86_400_000_000_000
START = 1_786_233_600_000_000_000  # 2026-08-09T00:00:00Z
DAYS = 12
VENUES, SYMBOLS, KINDS = ("coinbase", "kraken"), ("BTC-USD", "ETH-USD"), ("gap", "stale", "crossed")


@given(st.lists(st.integers(0, 2**50), unique=True, max_size=400), st.integers(-1, 50))
def test_windows_cover_all_times_once_and_grow(starts: list[int], first: int) -> None:
    """Each begins where the one before it ends; the sizes are those stated, so that there are few of them."""
    found = list(windows(starts, first))
    assert (found[0].end, found[-1].start) == (None, None)
    assert [each.end for each in found[1:]] == [each.start for each in found[:-1]]
    sizes = [
        sum((one.start is None or ts >= one.start) and (one.end is None or ts < one.end) for ts in starts)
        for one in found
    ]
    assert sum(sizes) == len(starts)
    assert sizes[:-1] == [max(1, first) * GROWTH**number for number in range(len(sizes) - 1)]


def test_a_table_without_chunks_is_one_window() -> None:
    """There is always something to ask."""
    assert list(windows([], 3)) == [Window(None, None)]


class Database:
    """A schema with rows on some of twelve days, read by the API's history and by plain SQL."""

    def __init__(self, endpoints: Endpoints, schema: str) -> None:
        self.owner = psycopg.connect(
            endpoints.database_url, autocommit=True, row_factory=dict_row,
            options=f"-c search_path={schema},public -c timezone=UTC",
        )  # fmt: skip
        self.loop = asyncio.new_event_loop()
        readiness = Readiness(DATABASE)
        database = ApiSettings(
            api_database_url=SecretStr(endpoints.api_database_url), database_schema=schema, database_pool_max=1
        )
        self.history = History(database, readiness)
        self.run(self._open())

    async def _open(self) -> None:
        await self.history.open()
        await self.history.check()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of a coroutine."""
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        """Close both connections."""
        self.run(self.history.close())
        self.loop.close()
        self.owner.close()


def moment(ts: int) -> datetime:
    """Return nanoseconds as the database has them."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts // 1000)


def times() -> list[int]:
    """Return times on some days only, with equal ones among them, and one far in the past."""
    days = [0, 1, 1, 1, 4, 5, 9, 9, 11]
    return [START - 300 * DAY_NS] + [START + day * DAY_NS + n % 3 * 1_000_000_001 for n, day in enumerate(days * 4)]


@pytest.fixture(scope="module")
def database(endpoints: Endpoints) -> Iterator[Database]:
    """Trades, candles with revisions, and anomalies with several events, on days with others between them."""
    schema = "t_windows"
    with psycopg.connect(endpoints.database_url, autocommit=True) as owner:
        owner.execute("DROP SCHEMA IF EXISTS t_windows CASCADE")
    migrations.upgrade(endpoints.database_url, schema)
    one = Database(endpoints, schema)
    cursor = one.owner.cursor()
    for number, ts in enumerate(times()):
        market = (VENUES[number % 5 == 0], SYMBOLS[number % 3 == 0])
        cursor.execute(
            "INSERT INTO trades (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, item, valid, reason, "
            "liquidation, price, size, side, action, trade_id, venue, symbol, line, origin) VALUES "
            "(%s, %s, 0, %s, 0, %s, true, '', false, 1, 1, 'buy', 'new', %s, %s, %s, 'l', 'live')",
            (moment(ts), ts, number // 2, number % 2, str(number), *market),
        )
        for revision in range(1 + number % 2):
            start = ts // 60_000_000_000 * 60_000_000_000 + number * 60_000_000_000
            cursor.execute(
                "INSERT INTO candles (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, ts_end, start_ns, "
                "end_ns, trades, revision, valid, reason, state, interval, open, high, low, close, volume, "
                "quote_volume, buy_volume, venue, symbol, origin) VALUES (%s, 0, 0, %s, 0, %s, %s, %s, 1, %s, true, '',"
                " 'final', '1m', 1, 1, 1, 1, 1, 1, 1, %s, %s, 'live')",
                (moment(start), number, moment(start), start, start + 60_000_000_000, revision, *market),
            )
        for event in range(1 + number % 3):
            cursor.execute(
                "INSERT INTO anomalies (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, venue, symbol, "
                "anomaly_id, kind, severity, metric, value, limit_value, evidence, ts_start_ns, ts_end_ns) VALUES "
                "(%s, %s, 0, %s, 0, %s, %s, %s, %s, %s, 'm', %s, 1, '{}', %s, %s)",
                (
                    moment(ts), ts, number * 3 + event, *market, f"a{number}", KINDS[number % 4 == 0],
                    ("info", "warning", "critical")[event], event, ts, ts + 5 if event == 2 else None,
                ),
            )  # fmt: skip
    yield one
    one.owner.execute("DROP SCHEMA t_windows CASCADE")
    one.close()


EDGES = st.one_of(st.none(), st.sampled_from([START + n * DAY_NS // 2 for n in range(-1, 2 * DAYS + 2)]))


@st.composite
def spans(draw: st.DrawFn) -> Range:
    """A range of time, open or not."""
    start, end = draw(EDGES), draw(EDGES)
    if start is not None and end is not None and end <= start:
        start, end = end, start + 1
    return Range(start, end)


def within(span: Range, column: str) -> str:
    """Return the plain condition of a range."""
    parts = [f"{column} {sign} {ts}" for sign, ts in ((">=", span.start), ("<", span.end)) if ts is not None]
    return " AND ".join(["true", *parts])


def names(rows: Sequence[Row], *fields: str) -> list[tuple[Any, ...]]:
    """Return some fields of rows."""
    return [tuple(row[field] for field in fields) for row in rows]


CASES = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@CASES
@given(span=spans(), limit=st.integers(1, 50), venue=st.sampled_from(VENUES), symbol=st.sampled_from(SYMBOLS))
def test_trades_and_candles_equal_the_plain_query(
    database: Database, span: Range, limit: int, venue: str, symbol: str
) -> None:
    """All pages, whatever the range and the size of a page, on days with data and without."""
    market = f"venue = '{venue}' AND symbol = '{symbol}'"
    plain = database.owner.execute(
        f"SELECT trade_id FROM trades WHERE {market} AND {within(span, 'ts_event_ns')} "
        "ORDER BY ts DESC, kafka_offset DESC, item DESC"
    ).fetchall()
    found: list[Row] = []
    before: tuple[int, ...] | None = None
    while page := database.run(database.history.trades(venue, symbol, span, before, limit)):
        found += page
        before = (page[-1]["ts_event_ns"] // 1000, page[-1]["kafka_offset"], page[-1]["item"])
    assert names(found, "trade_id") == names(plain, "trade_id")
    plain = database.owner.execute(
        f"SELECT start_ns, max(revision) AS revision FROM candles WHERE {market} AND {within(span, 'start_ns')} "
        "GROUP BY start_ns ORDER BY start_ns DESC"
    ).fetchall()
    found, before = [], None
    while page := database.run(
        database.history.candles(venue, symbol, "1m", span, source="trades", before=before, limit=limit)
    ):
        found += page
        before = (page[-1]["start_ns"], -1)
    assert names(found, "start_ns", "revision") == names(plain, "start_ns", "revision")


@CASES
@given(
    span=spans(),
    limit=st.integers(1, 50),
    filters=st.fixed_dictionaries(
        {
            "venue": st.sampled_from([None, *VENUES]), "symbol": st.sampled_from([None, *SYMBOLS]),
            "kind": st.sampled_from([None, *KINDS]), "state": st.sampled_from([None, "open", "ended"]),
            "severity": st.sampled_from([None, "info", "warning", "critical"]),
        }
    ),
)  # fmt: skip
def test_anomalies_equal_the_plain_query(
    database: Database, span: Range, limit: int, filters: dict[str, str | None]
) -> None:
    """By any filters: each anomaly once, judged as it is after its last event."""
    wanted = [f"{name} = '{value}'" for name, value in filters.items() if value is not None and name != "state"]
    if filters["state"] is not None:
        wanted.append(f"(ts_end_ns IS NULL) = {filters['state'] == 'open'}")
    plain = database.owner.execute(
        "SELECT anomaly_id, value::text FROM anomalies_latest "
        f"WHERE {' AND '.join([within(span, 'ts_start_ns'), *wanted])} ORDER BY ts DESC, anomaly_id DESC"
    ).fetchall()
    found: list[Row] = []
    before = None
    while page := database.run(database.history.anomalies(filters, span, before, limit)):
        found += page
        before = (page[-1]["ts_start_ns"] // 1000, page[-1]["anomaly_id"])
    assert names(found, "anomaly_id", "value") == names(plain, "anomaly_id", "value")


def in_transaction(database: Database, patch: pytest.MonkeyPatch, ask: str, *work: Callable[[], Any]) -> list[Row]:
    """Run work of the history in one transaction; return what the server answers to `ask` only afterwards."""

    async def run() -> list[Row]:
        async with database.history._connection() as connection:

            @asynccontextmanager
            async def same() -> AsyncIterator[AsyncConnection[Row]]:
                yield connection

            patch.setattr(database.history, "_connection", same)
            async with connection.transaction():
                await connection.execute("SET LOCAL enable_seqscan = off")  # the tables of this test are small
                before = await (await connection.execute(ask)).fetchall()
                for each in work:
                    await each()
                after = await (await connection.execute(ask)).fetchall()
                return [row for row in after if row not in before]

    found: list[Row] = database.run(run())
    return found


def test_the_first_page_opens_few_chunks(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that the newest day fills plans no other day: the server locks what it plans."""
    opened = in_transaction(
        database,
        monkeypatch,
        "SELECT DISTINCT relation::regclass::text AS name FROM pg_locks WHERE pid = pg_backend_pid() "
        "AND relation::regclass::text ~ 'hyper_.*_chunk$'",
        lambda: database.history.trades("coinbase", "ETH-USD", Range(None, None), None, 1),
        lambda: database.history.candles(
            "coinbase", "ETH-USD", "1m", Range(None, None), source="trades", before=None, limit=1
        ),
    )
    assert len(opened) == 2


@pytest.mark.parametrize(
    "only",
    [
        {"kind": "silent"}, {"severity": "x"}, {"symbol": "X"}, {"venue": "x"},
        {"venue": "coinbase", "symbol": "BTC-USD", "kind": "silent"}, {"symbol": "BTC-USD", "kind": "silent"},
    ],
)  # fmt: skip
def test_a_filter_that_finds_nothing_reads_few_rows(
    database: Database, monkeypatch: pytest.MonkeyPatch, only: dict[str, str]
) -> None:
    """An index answers each filter of anomalies, however many others there are."""
    bulk = START + DAYS * DAY_NS
    database.owner.execute(
        "INSERT INTO anomalies (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, venue, symbol, anomaly_id, "
        "kind, severity, metric, value, limit_value, evidence) SELECT %s, %s, 0, n, 0, 'kraken', 'ETH-USD', n, 'gap', "
        "'info', 'm', 1, 1, '{}' FROM generate_series(1, 500) AS n",
        (moment(bulk), bulk),
    )
    database.owner.execute("ANALYZE anomalies")
    filters = dict.fromkeys(("venue", "symbol", "kind", "severity", "state")) | only
    read = in_transaction(
        database,
        monkeypatch,
        "SELECT relname, seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables "
        "WHERE schemaname = '_timescaledb_internal'",
        lambda: database.history.anomalies(filters, Range(None, None), None, 100),
    )
    # PostgreSQL may prefer to look at the few rows of the other days.
    assert sum(row["seq_tup_read"] + row["idx_tup_fetch"] for row in read) < 100
