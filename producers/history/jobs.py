"""Ingestion jobs: one row in the database per range of a venue's history, so that a job resumes where it stopped.

Theory of operation.

1. A job covers [start, end) of one symbol; everything before its cursor has been acknowledged by Kafka. The cursor only
   moves after that, so a process that is killed repeats a little and never leaves anything out.
2. `open` continues the job whose cursor reaches the range that is wanted, whether it was finished or not, and moves its
   end; where there is none, it begins one. A range that was published before is not fetched again.
3. Who works on a job holds a session lock on it (PostgreSQL's advisory lock), which ends with the process.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from marketdata.errors import Refused, Unavailable
from runtime.redaction import redacted

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 60_000
ERROR_CHARS_MAX = 1_000
LOCKED_WITHIN_S = 5.0
LOOK_S = 0.1

# A constant, no input: what the queries below are put together from.
_FIELDS = (
    "job_id, venue, symbol, kind, interval, state, start_ns, end_ns, cursor_ns, first_ns, fetched, published, "
    "last_error"
)


class What(NamedTuple):
    """What a job fetches: candles (of an interval), trades, or the repair (of a channel)."""

    venue: str
    symbol: str
    kind: str
    interval: str = ""


class Job(msgspec.Struct, kw_only=True):
    """A row. Times are UTC nanoseconds; `first_ns` is the start of the first candle that the venue had.

    `resumed`: an earlier run was cut short.
    """

    job_id: str
    venue: str
    symbol: str
    kind: str
    interval: str
    state: str
    start_ns: int
    end_ns: int
    cursor_ns: int
    first_ns: int | None = None
    fetched: int = 0
    published: int = 0
    last_error: str | None = None
    resumed: bool = False


class Database:
    """One connection, as an async context manager: every statement commits by itself."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._dsn = dsn
        self._schema = schema
        self._connection: AsyncConnection[dict[str, Any]] | None = None

    async def __aenter__(self) -> Self:
        try:
            self._connection = await AsyncConnection.connect(
                self._dsn,
                autocommit=True,
                row_factory=dict_row,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="tickstream-history",
                options=f"-c search_path={self._schema},public -c timezone=UTC "
                f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
            )
        except psycopg.Error as error:
            raise Unavailable(f"the database does not answer: {_reason(error)}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Return the rows of a statement, none for one that gives none. Raises Unavailable."""
        if self._connection is None:
            raise Unavailable("the database is not connected")
        try:
            cursor = await self._connection.execute(query.encode(), values)
            return await cursor.fetchall() if cursor.description else []
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise Unavailable(
                f"the tables are missing or old, run `tickstream db migrate`: {_reason(error)}"
            ) from error
        except psycopg.Error as error:
            raise Unavailable(f"the database refuses: {_reason(error)}") from error


class Jobs:
    """The jobs in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, what: What, start: int, end: int) -> Job:
        """Return the job that takes care of [start, end), locked for this process.

        Raises Refused when another process works on it.
        """
        found = await self._database.rows(
            f"SELECT {_FIELDS} FROM ingestion_jobs WHERE venue = %s AND symbol = %s AND kind = %s AND interval = %s "
            "AND start_ns <= %s AND cursor_ns >= %s ORDER BY cursor_ns DESC LIMIT 1",
            *(*what, start, start),
        )
        job_id = found[0]["job_id"] if found else f"{what.venue}:{what.symbol}|{what.kind}|{what.interval}|{start}"
        job = await self._take(job_id, what, start, end)
        job.resumed = bool(found) and found[0]["state"] != "done"
        return job

    async def open_repair(self, gap_id: str, what: What, start: int, end: int) -> Job:
        """Return the job of repairing one gap, from its start, locked for this process. Raises Refused likewise."""
        job = await self._take(f"repair|{gap_id}", what, start, end)
        return msgspec.structs.replace(job, start_ns=start, end_ns=end, cursor_ns=start)

    async def _take(self, job_id: str, what: What, start: int, end: int) -> Job:
        await self._lock(job_id)
        taken = await self._database.rows(
            "INSERT INTO ingestion_jobs AS j (job_id, venue, symbol, kind, interval, state, start_ns, end_ns, "
            "cursor_ns) VALUES (%s, %s, %s, %s, %s, 'running', %s, %s, %s) "
            "ON CONFLICT (job_id) DO UPDATE SET state = 'running', end_ns = greatest(j.end_ns, excluded.end_ns), "
            f"attempts = j.attempts + 1, updated_at = now(), completed_at = NULL RETURNING {_FIELDS}",
            *(job_id, *what, start, end, start),
        )
        return msgspec.convert(taken[0], Job)

    async def _lock(self, job_id: str) -> None:
        """Lock a job; the lock of a process that was just killed ends when the server notices, a moment later."""
        deadline = time.monotonic() + LOCKED_WITHIN_S
        while True:
            rows = await self._database.rows("SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS ours", job_id)
            if rows[0]["ours"]:
                return
            if time.monotonic() > deadline:
                raise Refused(f"another process works on the job {job_id}")
            await asyncio.sleep(LOOK_S)

    async def advance(self, job: Job, cursor: int, fetched: int = 0, published: int = 0) -> None:
        """Note that everything before `cursor` is in Kafka. Call it after Kafka has acknowledged that."""
        job.cursor_ns = max(job.cursor_ns, cursor)
        job.fetched += fetched
        job.published += published
        await self._save(job, "running", None)

    async def finish(self, job: Job) -> None:
        """Note that the job is done."""
        await self._save(job, "done", None)

    async def pause(self, job: Job) -> None:
        """Note that the job was asked to stop."""
        await self._save(job, "paused", job.last_error)

    async def fail(self, job: Job, error: str) -> None:
        """Note why the job cannot continue for now."""
        await self._save(job, "failed", redacted(error)[:ERROR_CHARS_MAX])

    async def _save(self, job: Job, state: str, error: str | None) -> None:
        job.state, job.last_error = state, error
        await self._database.rows(
            "UPDATE ingestion_jobs SET state = %s, cursor_ns = %s, first_ns = %s, fetched = %s, published = %s, "
            "last_error = %s, updated_at = now(), completed_at = CASE WHEN %s = 'done' THEN now() END "
            "WHERE job_id = %s",
            *(state, job.cursor_ns, job.first_ns, job.fetched, job.published, error, state, job.job_id),
        )
        if state != "running":
            await self._database.rows("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", job.job_id)


def _reason(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
