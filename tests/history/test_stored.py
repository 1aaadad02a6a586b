"""What the database says of candles whose trades were amended, on the real TimescaleDB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from infra.local.table import Endpoints
from infra.simulator.venues.tape import MINUTE_NS, SECOND_NS
from producers.history import repair as repair_module
from producers.history.jobs import Database, Job, Jobs
from producers.history.queries import MinuteGap, Tables, moment
from producers.history.repair import Keeper
from producers.venues.kit.history import Span
from sink import migrations

if TYPE_CHECKING:
    from producers.history.backfill import Backfill
    from producers.live.publisher import Publisher

START = 1_786_309_500 * SECOND_NS
ALPACA = ("alpaca", "AAPL")


class Rows:
    """The tables of one test. Candles are made, and trades come, so many seconds after the start."""

    def __init__(self, endpoints: Endpoints, schema: str) -> None:
        migrations.upgrade(endpoints.database_url, schema)
        self._endpoints, self._schema = endpoints, schema
        self._owner = psycopg.connect(
            endpoints.database_url, autocommit=True, options=f"-c search_path={schema},public -c timezone=UTC"
        )
        self._offset = 0

    def insert(self, table: str, **fields: Any) -> None:
        """Insert a row; what is not given is zero or nothing."""
        self._offset += 1
        common = {"kafka_offset": self._offset, "kafka_partition": 0, "venue": ALPACA[0], "symbol": ALPACA[1],
                  "origin": "live", "reason": "", "valid": True}  # fmt: skip
        self.insert_bare(table, **common | fields)

    def insert_bare(self, table: str, **row: Any) -> None:
        """Insert a row of just these columns."""
        names, places = ", ".join(row), ", ".join(["%s"] * len(row))
        self._owner.execute(f"INSERT INTO {table} ({names}) VALUES ({places})".encode(), list(row.values()))

    def candle(self, minute: int, made_s: int, revision: int = 0, reason: str = "", length: int = 1) -> None:
        """Store a revision of a candle."""
        start, end = START + minute * MINUTE_NS, START + (minute + length) * MINUTE_NS
        self.insert(
            "candles", ts=moment(start), ts_end=moment(end), start_ns=start, end_ns=end, ts_event_ns=end,
            ts_recv_ns=START + made_s * SECOND_NS, trades=1, revision=revision, valid=not reason, reason=reason,
            state="revised" if revision else "final", interval=f"{length}m", volume=1, quote_volume=1, buy_volume=1,
        )  # fmt: skip

    def trade(self, name: str, at_s: int, came_s: int, action: str = "new", original: str = "") -> None:
        """Store a trade, or what amends one."""
        ts = START + at_s * SECOND_NS
        self.insert(
            "trades", ts=moment(ts), ts_event_ns=ts, ts_recv_ns=START + came_s * SECOND_NS, item=0, liquidation=False,
            price=1, size=1, side="buy", action=action, trade_id=name, original_id=original, line="alpaca/0",
        )  # fmt: skip

    def database(self) -> Database:
        """Return the database as seen by the history role."""
        return Database(self._endpoints.history_database_url, self._schema)

    def gaps(self) -> list[tuple[int, int]]:
        """Return the gaps of the first ten minutes as minutes, as seen by the history role."""

        async def ask() -> list[MinuteGap]:
            async with self.database() as database:
                return await Tables(database).minute_gaps(*ALPACA, START, START + 10 * MINUTE_NS)

        return [((gap.start - START) // MINUTE_NS, (gap.end - START) // MINUTE_NS) for gap in asyncio.run(ask())]

    def close(self) -> None:
        """Disconnect."""
        self._owner.close()


@pytest.fixture
def rows(endpoints: Endpoints, database_schema: str) -> Iterator[Rows]:
    """Five minutes with a trade each, whose candles were made two seconds after their ends."""
    made = Rows(endpoints, database_schema)
    for minute in range(5):
        made.candle(minute, 60 * minute + 62)
        made.trade(f"{minute}", 60 * minute + 5, 60 * minute + 5)
    yield made
    made.close()


def test_a_minute_that_is_older_than_an_amendment_of_its_trade_is_a_hole(rows: Rows) -> None:
    """Until a newer revision is there; of a chain of amendments the first trade's minute, of others' trades none."""
    assert rows.gaps() == []
    rows.trade("1", 400, 400, "cancel")
    assert rows.gaps() == [(1, 2)]
    rows.candle(1, 400, revision=1)  # as the stream app does, at the cancel itself
    assert rows.gaps() == []
    rows.trade("c", 410, 410, "correct", "3")
    rows.trade("d", 420, 420, "correct", "c")
    rows.candle(3, 410, revision=1)
    assert rows.gaps() == [(3, 4)]
    rows.candle(3, 430, revision=2)
    rows.trade("nobody's", 440, 440, "cancel")
    assert rows.gaps() == []


def test_every_later_trade_changes_a_minute_that_was_left_to_history(rows: Rows) -> None:
    """The stream app publishes nothing more of it, and everything of other minutes."""
    rows.candle(2, 400, revision=1, reason="amended")
    assert rows.gaps() == [(2, 3)]
    rows.candle(2, 500, revision=2)
    rows.trade("late", 130, 450)
    rows.trade("also late", 70, 700)
    assert rows.gaps() == []
    rows.trade("too late", 131, 501)
    assert rows.gaps() == [(2, 3)]


class Kept:
    """A publisher that keeps what it is given."""

    failures = 0

    def __init__(self) -> None:
        self.events: list[Any] = []

    async def write(self, line: str, events: Iterable[Any], t_recv: int) -> None:
        """Keep them."""
        del line, t_recv
        self.events += events

    async def close(self, timeout_s: float) -> int:
        """Return that nothing is left."""
        del timeout_s
        return 0


def test_an_entry_that_was_filled_meanwhile_is_closed_before_the_venue_is_asked_again(rows: Rows) -> None:
    """Both were tried in vain a moment ago: the one whose candle is there now is over, the other waits for its turn."""
    for name, minute in (("filled", 2), ("not filled", 7)):
        start, end = START + minute * MINUTE_NS, START + (minute + 1) * MINUTE_NS
        rows.insert_bare(
            "gaps", gap_id=name, venue=ALPACA[0], symbol=ALPACA[1], channel="candles", line="alpaca/scan", reason="gap",
            detail="", state="open", ts_from_ns=start, ts_to_ns=end, found_by="scan", detected_at=moment(end),
        )  # fmt: skip
        rows.insert_bare(
            "ingestion_jobs", job_id=f"repair|{name}", venue=ALPACA[0], symbol=ALPACA[1], kind="repair",
            interval="candles", state="failed", start_ns=start, end_ns=end, cursor_ns=start,
        )  # fmt: skip
    publisher = Kept()

    async def repair() -> list[tuple[str, str]]:
        async with rows.database() as database:
            keeper = Keeper(database, cast("Publisher", publisher), lambda _: None)
            return [(one.gap.gap_id, one.by) for one in await keeper.repair(patient=True)]

    assert asyncio.run(repair()) == [("filled", "late_data")]
    assert [(one.kind, one.gap_id, one.reason) for one in publisher.events] == [("resynced", "filled", "late_data")]


class Sender:
    """A venue's history that sends so many trades of any time, whatever becomes of them."""

    has_trades = True

    def __init__(self, database: Database, count: int) -> None:
        self.jobs = Jobs(database)
        self.venue = ALPACA[0]
        self._count = count

    @asynccontextmanager
    async def working(self, job: Job) -> AsyncIterator[None]:
        """Work on a job."""
        yield
        await self.jobs.finish(job)

    async def take_trades(self, job: Job) -> list[Span]:
        """Tell the trades of a job."""
        await self.jobs.advance(job, job.end_ns, self._count)
        return []


@pytest.mark.parametrize(("sent", "by"), [(2, "rest_trades"), (3, "")])
def test_trades_without_numbers_are_repaired_only_when_all_that_was_told_is_stored(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, sent: int, by: str
) -> None:
    """Two of that time are: a third that was sent did not pass, as with an id that was used before."""

    async def looked(look: Callable[[], Awaitable[bool]]) -> bool:
        return await look()

    monkeypatch.setattr(repair_module, "wait_for", looked)
    rows.insert_bare(
        "gaps", gap_id="again", venue=ALPACA[0], symbol=ALPACA[1], channel="trades", line="alpaca/0", reason="gap",
        detail="", state="open", ts_from_ns=START, ts_to_ns=START + 2 * MINUTE_NS - 1, found_by="feed",
        detected_at=moment(START),
    )  # fmt: skip

    async def repair() -> list[str]:
        async with rows.database() as database:
            sender = cast("Backfill", Sender(database, sent))
            keeper = Keeper(database, cast("Publisher", Kept()), lambda _: sender)
            return [one.by for one in await keeper.repair()] + [one.by for one in await keeper.repair()]

    assert asyncio.run(repair()) == [by, by]
