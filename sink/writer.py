"""Writes batches to TimescaleDB: rows and Kafka offsets in one transaction, so each record is stored exactly once.

Theory of operation. One transaction does, in this order:

1. Move each partition's offset in `kafka_offsets` from the expected one to the end of the batch. If a stored offset is
   another one, another sink has written (or an earlier commit of ours succeeded): `Superseded` is raised, nothing is
   written, and the sink reads again from the stored offsets.
2. COPY the rows, then update the tables that are kept up to date (gaps, instruments, open candles).
3. COMMIT. If the connection is lost meanwhile, the outcome is unknown; the offsets read afterwards show it.

Rows are validated first (`sink.rows`), so PostgreSQL refuses none unless somebody added a constraint. If it does, the
transaction fails. The batch is then written again row by row (`sink.single_rows`), in parts with a transaction each
that moves the offsets to the end of the part. Bad rows become dead letters and all others are stored. Each part takes a
bounded time and makes progress, however many rows are refused.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from marketdata.errors import BadEvent, TickstreamError, Unavailable
from marketdata.events import AnyEvent, Candle, DeadLetter, FeedStatus, Instrument
from sink.batch import Batch, Partition, TableRows
from sink.binary import HEADER, TRAILER
from sink.rows import BINARY, COLUMNS, refused, refused_item
from sink.single_rows import store_one_by_one
from sink.upserts import clear_open_candles, count_open_gaps, keep_gaps, keep_instruments

CONNECT_TIMEOUT_S = 5
_MS = 1000
_APPLICATION = "tickstream-sink"  # the name of our sessions on the server

# SQLSTATE classes that blame the data: 22 data exception, 23 integrity violation, 54 program limit exceeded (such as a
# text too long for an index). https://www.postgresql.org/docs/17/errcodes-appendix.html
_DATA_CLASSES = ("22", "23", "54")
# Storing this many one by one takes a few seconds in the worst case, far below the limit of a transaction.
_SINGLE_ROWS_MAX = 200
_CHUNK_BYTES = 256 * 1024
_NOT_MIGRATED = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
)


class Superseded(TickstreamError):  # noqa: N818 - named for what it is about, like the others
    """The stored offsets are not those that this sink expects; its batch must not be stored."""


class Log(NamedTuple):
    """One partition as reported by Kafka: its topic's id, its first offset, and the offset after its last."""

    topic_id: str
    low: int
    high: int


class Written(NamedTuple):
    """The result of a write: rows by table, refused records, and open gaps by venue if they changed."""

    rows: Counter[str]
    refused: list[DeadLetter]
    gaps_open: dict[str, int] | None


class Writer:
    """One database connection, opened when needed and closed after any error of the connection. Not thread-safe."""

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        publish: Callable[[Sequence[TableRows]], None],
        decode: Callable[[bytes], AnyEvent],
        now: Callable[[], int],
        write_seconds: float = 30.0,
    ) -> None:
        """Take the URL and schema of the database, and functions for everything else.

        `publish` delivers dead letters to Kafka or raises Unavailable, `decode` returns the event of a Kafka record,
        `now` is UTC in nanoseconds.
        """
        self._dsn = dsn
        self._schema = schema
        self._publish = publish
        self._decode = decode
        self._now = now
        self._limit_ms = int(write_seconds * _MS)
        self._connection: psycopg.Connection[Any] | None = None
        self.since = 0.0  # when the last transaction began, a monotonic time
        self._copies = {
            table: sql.SQL("COPY {} ({}) FROM STDIN {}").format(
                sql.Identifier(schema, table),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL("(FORMAT BINARY)" if table in BINARY else ""),
            )
            for table, columns in COLUMNS.items()
        }

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def abandon(self) -> None:
        """Break the connection of a call that takes too long, so that it fails; callable from another thread."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as cut:
                cut.shutdown(socket.SHUT_RDWR)

    def locate(self, logs: dict[Partition, Log]) -> dict[Partition, int]:
        """Return the next offset to read of each partition; a new partition starts at its beginning.

        If Kafka no longer has the next record (it was deleted by retention, or the topic was re-created or truncated),
        the ledger of gaps gets an entry and reading continues with the available records.
        """
        self._end_frozen()
        with self._transaction() as cursor:
            keys = sorted(logs)
            columns: list[list[Any]] = [
                [topic for topic, _ in keys],
                [partition for _, partition in keys],
                [logs[key].low for key in keys],
                [logs[key].topic_id for key in keys],
            ]
            cursor.execute(
                "INSERT INTO kafka_offsets (topic, partition, next_offset, topic_id) "
                "SELECT * FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::text[]) ON CONFLICT DO NOTHING",
                columns,
            )
            cursor.execute(
                "SELECT topic, partition, next_offset, topic_id FROM kafka_offsets "
                "WHERE (topic, partition) IN (SELECT * FROM unnest(%s::text[], %s::int[])) "
                "ORDER BY topic, partition FOR UPDATE",
                columns[:2],
            )
            found = {}
            for topic, partition, next_offset, topic_id in cursor.fetchall():
                log = logs[topic, partition]
                found[topic, partition] = self._settle(cursor, (topic, partition), next_offset, topic_id, log)
            return found

    def _end_frozen(self) -> None:
        """Terminate the sessions of sinks that stopped during a transaction and still lock offsets.

        The server terminates a session that is idle in a transaction, but not one that waits for the rest of a COPY. A
        session is terminated after the time limit of a transaction; it is rolled back, and its records are read again.
        """
        with self._transaction() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE usename = current_user AND application_name = %s AND pid <> pg_backend_pid() "
                "AND xact_start < now() - %s * interval '1 ms' "
                "AND pid IN (SELECT pid FROM pg_locks WHERE relation = 'kafka_offsets'::regclass)",
                (_APPLICATION, self._limit_ms),
            )

    def write(self, batch: Batch) -> Written:
        """Store a batch and its offsets.

        Raises Superseded when another sink has taken over, Unavailable when it is unknown whether the batch is stored.
        After both, `locate` returns where to resume.
        """
        try:
            return self._store(batch, singly=False)
        except psycopg.Error as error:
            if not _blames_data(error):
                raise
        written = Written(Counter(), [], None)
        for part in batch.parts(_SINGLE_ROWS_MAX):
            more = self._store(part, singly=True)
            written = Written(written.rows + more.rows, written.refused + more.refused, more.gaps_open)
        return written

    def _store(self, batch: Batch, *, singly: bool) -> Written:
        with self._transaction() as cursor:
            self._advance(cursor, batch)
            records: Sequence[TableRows] = batch.records
            if singly:
                records = self._store_singly(cursor, records)
            else:
                self._apply(cursor, records)
            letters = [record for record in records if record.dead_letter is not None]
            if letters:
                # Before the commit: a crash in between can duplicate a letter (with the same ce_id), but never lose it.
                self._publish(letters)
            has_gaps = any(record.table == "feed_status" and record.event is not None for record in records)
            gaps_open = count_open_gaps(cursor) if has_gaps else None
        rows: Counter[str] = Counter()
        for record in records:
            rows[record.table] += record.rows
        return Written(rows, [letter for record in letters if (letter := record.dead_letter)], gaps_open)

    def gaps_open(self) -> dict[str, int]:
        """Return the number of open gaps by venue."""
        with self._transaction() as cursor:
            return count_open_gaps(cursor)

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """Run one transaction; on any error not caused by the data, close the connection and raise Unavailable."""
        self.since = time.monotonic()
        try:
            connection = self._connected()
            with connection.transaction(), connection.cursor() as cursor:
                yield cursor
        except psycopg.Error as error:
            if _blames_data(error) and not self._is_broken():
                raise
            self.close()
            raise Unavailable(_explain(error)) from error
        except TickstreamError:
            raise
        except BaseException:
            self.close()
            raise

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._dsn,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name=_APPLICATION,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=min(self._limit_ms, 15_000),
                options=f"-c search_path={self._schema} -c timezone=UTC -c client_encoding=UTF8 "
                f"-c statement_timeout={self._limit_ms} -c idle_in_transaction_session_timeout={self._limit_ms}",
            )
        return self._connection

    def _is_broken(self) -> bool:
        return self._connection is None or self._connection.broken or self._connection.closed

    def _settle(
        self, cursor: psycopg.Cursor[Any], partition: Partition, next_offset: int, topic_id: str | None, log: Log
    ) -> int:
        """Return the offset at which to resume, after adding a ledger entry for records that Kafka no longer has."""
        if topic_id is not None and topic_id != log.topic_id:
            reason, detail, resume_at = "topic_recreated", "the topic was deleted and created again", log.low
        elif next_offset < log.low:
            reason, detail, resume_at = "retention", "Kafka deleted records before they were stored", log.low
        elif next_offset > log.high:
            reason, detail, resume_at = "log_truncated", "Kafka lost records that were stored here", log.high
        else:
            if topic_id is None:
                cursor.execute(
                    "UPDATE kafka_offsets SET topic_id = %s WHERE topic = %s AND partition = %s",
                    (log.topic_id, *partition),
                )
            return next_offset
        topic, number = partition
        cursor.execute(
            "INSERT INTO gaps (gap_id, venue, symbol, channel, line, reason, detail, state, expected, received, "
            "found_by, detected_at) VALUES (%s, '*', '*', %s, '', %s, %s, 'open', %s, %s, 'sink', now()) "
            "ON CONFLICT DO NOTHING",
            (
                f"sink|{topic}|{number}|{next_offset}|{log.topic_id}",
                f"{topic}[{number}]",
                reason,
                f"{detail}; stored up to offset {next_offset}, resumed at {resume_at}",
                next_offset,
                resume_at,
            ),
        )
        cursor.execute(
            "UPDATE kafka_offsets SET next_offset = %s, topic_id = %s, updated_at = now() "
            "WHERE topic = %s AND partition = %s",
            (resume_at, log.topic_id, topic, number),
        )
        return resume_at

    @staticmethod
    def _advance(cursor: psycopg.Cursor[Any], batch: Batch) -> None:
        keys = sorted(batch.spans)
        cursor.execute(
            "UPDATE kafka_offsets AS o SET next_offset = n.next_offset, updated_at = now() "
            "FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[]) "
            "AS n (topic, partition, expected, next_offset) "
            "WHERE o.topic = n.topic AND o.partition = n.partition AND o.next_offset = n.expected",
            (
                [topic for topic, _ in keys],
                [partition for _, partition in keys],
                [batch.spans[key].expected for key in keys],
                [batch.spans[key].next for key in keys],
            ),
        )
        if cursor.rowcount != len(keys):
            raise Superseded(
                f"{len(keys) - cursor.rowcount} of {len(keys)} partitions do not have the expected stored offset; "
                "another sink has taken over"
            )

    def _apply(self, cursor: psycopg.Cursor[Any], records: Sequence[TableRows]) -> None:
        """Store all records or none."""
        clear_open_candles(cursor, [record.event for record in records if isinstance(record.event, Candle)])
        for table, some in _by_table(records).items():
            with cursor.copy(self._copies[table]) as copy:
                for data in _chunks(some, table):
                    copy.write(data)
        keep_gaps(cursor, [record for record in records if isinstance(record.event, FeedStatus)])
        keep_instruments(cursor, [record.event for record in records if isinstance(record.event, Instrument)])

    def _store_singly(self, cursor: psycopg.Cursor[Any], records: Sequence[TableRows]) -> list[TableRows]:
        """Store records row by row; return them, with dead letters for the rows that cannot be stored."""
        letters: list[TableRows] = []
        refused_rows: Counter[int] = Counter()
        clear_open_candles(cursor, [record.event for record in records if isinstance(record.event, Candle)])
        for table, some in _by_table(records).items():
            rows = [(record, item) for record in some for item in _items(record)]
            data = b"".join([record.data for record in some])
            for problem in store_one_by_one(cursor, self._schema, table, data):
                record, item = rows[problem.place]
                letters.append(self._refuse(record, item, problem.reason, problem.column))
                refused_rows[id(record)] += 1
        for record in records:
            try:
                with cursor.connection.transaction():
                    if isinstance(record.event, FeedStatus):
                        keep_gaps(cursor, [record])
                    elif isinstance(record.event, Instrument):
                        keep_instruments(cursor, [record.event])
            except psycopg.Error as error:
                if not _blames_data(error) or self._is_broken():
                    raise
                letters.append(self._refuse(record, None, str(error), error.diag.column_name))
        self._apply(cursor, letters)
        return [record._replace(rows=record.rows - refused_rows[id(record)]) for record in records] + letters

    def _refuse(self, record: TableRows, item: int | None, problem: str, column: str | None) -> TableRows:
        """Return the dead letter of a record, or one row of it, that PostgreSQL refused."""
        error = BadEvent("refused_by_database", column or "*", " ".join(problem.split()))
        if item is None:
            return refused(record.source, error.reason, error.value, ts=self._now(), field=column)
        event = self._decode(record.source.payload)
        return refused_item(event, record.source, item, error, self._now())


def _chunks(records: Sequence[TableRows], table: str) -> Iterator[bytes]:
    """Return the COPY data of records in chunks, so that a batch is not copied in memory as a whole."""
    chunk, size = [HEADER] if table in BINARY else [], 0
    for record in records:
        chunk.append(record.data)
        size += len(record.data)
        if size >= _CHUNK_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
    yield b"".join([*chunk, TRAILER] if table in BINARY else chunk)


def _items(record: TableRows) -> Sequence[int | None]:
    """Return the item index of each row of a record; None for a record with a single row."""
    if record.items:
        return record.items
    return range(record.rows) if record.rows > 1 else (None,) * record.rows


def _by_table(records: Sequence[TableRows]) -> dict[str, list[TableRows]]:
    """Return the records with rows, by table; only the last state of each candle that is still open."""
    tables: dict[str, list[TableRows]] = {}
    candles: dict[str, TableRows] = {}
    for record in records:
        if isinstance(record.event, Candle):
            candles[record.event.key] = record
        if record.data and record.table != "candles_open":
            tables.setdefault(record.table, []).append(record)
    still_open = [record for record in candles.values() if record.table == "candles_open"]
    if still_open:
        tables["candles_open"] = still_open
    return tables


def _blames_data(error: psycopg.Error) -> bool:
    return error.sqlstate is not None and error.sqlstate[:2] in _DATA_CLASSES


def _explain(error: psycopg.Error) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _NOT_MIGRATED):
        return f"tables or rights are missing or outdated, run `tickstream db migrate`: {reason}"
    return reason
