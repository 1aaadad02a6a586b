"""Writes batches to TimescaleDB: rows and Kafka offsets in one transaction, so that each record is stored exactly once.

Theory of operation. One transaction does, in this order:

1. Move each partition's row in `kafka_offsets` from where this sink believes it to be to where the batch ends. When a
   row stands elsewhere, another sink was here (or an earlier commit of ours did arrive): `Superseded`, nothing is
   written, and the sink reads again from where the database stands.
2. COPY the rows; then the few statements of tables that are kept up to date (gaps, instruments, open candles).
3. COMMIT. When the connection is lost during it, nobody knows whether it happened; the offsets read afterwards do.

A record that PostgreSQL refuses for what it holds fails the transaction; the batch is then written again in halves
under savepoints until that record is found. It becomes a dead letter and the rest is stored.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from marketdata.errors import TickstreamError, Unavailable
from marketdata.events import Candle, DeadLetter, FeedStatus, Instrument
from sink.batch import COLUMNS, Batch, Partition, Record, refused, timestamp

CONNECT_TIMEOUT_S = 5
_MS = 1000
_APPLICATION = "tickstream-sink"  # by which the server shows our sessions

# SQLSTATE classes that blame the data: 22 data exception, 23 integrity violation, 54 program limit exceeded (such as a
# text too long for an index). https://www.postgresql.org/docs/17/errcodes-appendix.html
_DATA_CLASSES = ("22", "23", "54")
_NOT_MIGRATED = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName)


class Superseded(TickstreamError):  # noqa: N818 - named for what it is about, like the others
    """The database does not stand where this sink left it; its batch must not be stored."""


class Log(NamedTuple):
    """One Kafka partition as the brokers have it: its topic's id, its first offset and the one after its last."""

    topic_id: str
    low: int
    high: int


class Written(NamedTuple):
    """What one transaction stored: rows by table, the records that were refused, and open gaps by venue if changed."""

    rows: Counter[str]
    refused: list[DeadLetter]
    gaps_open: dict[str, int] | None


class Writer:
    """One connection to the database, made when needed and given up on any doubt. Not for two threads at once."""

    def __init__(
        self,
        dsn: str,
        schema: str,
        publish: Callable[[Sequence[DeadLetter]], None],
        now: Callable[[], int],
        write_seconds: float = 30.0,
    ) -> None:
        """Take the address and schema; `publish` delivers dead letters to Kafka or raises Unavailable."""
        self._dsn = dsn
        self._schema = schema
        self._publish = publish
        self._now = now
        self._limit_ms = int(write_seconds * _MS)
        self._connection: psycopg.Connection[Any] | None = None
        self._copies = {
            table: sql.SQL("COPY {} ({}) FROM STDIN").format(
                sql.Identifier(schema, table), sql.SQL(", ").join(map(sql.Identifier, columns))
            )
            for table, columns in COLUMNS.items()
        }

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def abandon(self) -> None:
        """Cut the connection under a call that takes too long, which then fails; the one call for another thread."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as cut:
                cut.shutdown(socket.SHUT_RDWR)

    def locate(self, logs: dict[Partition, Log]) -> dict[Partition, int]:
        """Return the next offset to read of each partition; a partition that was never read starts at its beginning.

        Where Kafka no longer has what comes next (retention passed it, the topic was made anew, the log was cut), that
        is entered in the ledger of gaps and reading goes on at what there is.
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
        """End the sessions of sinks that stopped in the middle of a transaction, and hold offsets with it.

        The server ends a session that is idle in a transaction, but not one that waits for the rest of a COPY. None
        may take longer than one transaction may; what is ended is rolled back, and read again from Kafka.
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

        Raises Superseded when another sink was faster, Unavailable when it cannot be told whether the batch is stored;
        after both, `locate` tells where to go on.
        """
        try:
            with self._transaction() as cursor:
                self._advance(cursor, batch)
                records: Sequence[Record] = batch.records
                self._apply(cursor, records)
                letters = self._deliver(records)
                gaps_open = self._count_gaps(cursor, records)
        except psycopg.Error as error:
            if not _blames_data(error):
                raise
            with self._transaction() as cursor:
                self._advance(cursor, batch)
                records = self._sift(cursor, batch.records)
                letters = self._deliver(records)
                gaps_open = self._count_gaps(cursor, records)
        rows: Counter[str] = Counter()
        for record in records:
            rows[record.table] += record.rows
        return Written(rows, letters, gaps_open)

    def gaps_open(self) -> dict[str, int]:
        """Return the number of open gaps by venue."""
        with self._transaction() as cursor:
            return _gaps_open(cursor)

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """Run one transaction; on any error but one of the data, give the connection up and say Unavailable."""
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
        """Return where to go on, having entered in the ledger what Kafka cannot give any more."""
        if topic_id is not None and topic_id != log.topic_id:
            reason, detail, goes_on = "topic_recreated", "the topic was deleted and made anew", log.low
        elif next_offset < log.low:
            reason, detail, goes_on = "retention", "Kafka deleted records before they were stored", log.low
        elif next_offset > log.high:
            reason, detail, goes_on = "log_truncated", "Kafka lost records that were stored here", log.high
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
                f"{detail}; stored up to offset {next_offset}, going on at {goes_on}",
                next_offset,
                goes_on,
            ),
        )
        cursor.execute(
            "UPDATE kafka_offsets SET next_offset = %s, topic_id = %s, updated_at = now() "
            "WHERE topic = %s AND partition = %s",
            (goes_on, log.topic_id, topic, number),
        )
        return goes_on

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
                f"{len(keys) - cursor.rowcount} of {len(keys)} partitions do not stand where this sink left them; "
                "another sink has them"
            )

    def _sift(self, cursor: psycopg.Cursor[Any], records: Sequence[Record]) -> list[Record]:
        """Store what can be stored, halving until each culprit stands alone; return what was stored in its place."""
        try:
            with cursor.connection.transaction():
                self._apply(cursor, records)
            return list(records)
        except psycopg.Error as error:
            if not _blames_data(error) or self._is_broken():
                raise
            if len(records) > 1:
                middle = len(records) // 2
                return self._sift(cursor, records[:middle]) + self._sift(cursor, records[middle:])
            letter = refused(
                records[0].source,
                "refused_by_database",
                " ".join(str(error).split())[:1000],
                ts=self._now(),
                field=error.diag.column_name,
            )
            with cursor.connection.transaction():
                self._apply(cursor, [letter])
            return [letter]

    def _deliver(self, records: Sequence[Record]) -> list[DeadLetter]:
        letters = [record.dead_letter for record in records if record.dead_letter is not None]
        if letters:
            # Before the commit: after a crash in between, Kafka has the letter twice (with the same ce_id), never not.
            self._publish(letters)
        return letters

    def _apply(self, cursor: psycopg.Cursor[Any], records: Sequence[Record]) -> None:
        texts: dict[str, list[str]] = {}
        candles: dict[str, tuple[Candle, Record]] = {}
        ledger: list[Record] = []
        instruments: dict[str, Instrument] = {}
        for record in records:
            event = record.event
            if isinstance(event, Candle):
                candles[event.key] = event, record
            elif isinstance(event, FeedStatus):
                ledger.append(record)
            elif isinstance(event, Instrument):
                instruments[event.key] = event
            if record.text and record.table != "candles_open":
                texts.setdefault(record.table, []).append(record.text)
        still_open = [record.text for _, record in candles.values() if record.table == "candles_open"]
        if still_open:  # the last state of each
            texts["candles_open"] = still_open
        _keep_candles(cursor, [candle for candle, _ in candles.values()])
        for table, lines in texts.items():
            with cursor.copy(self._copies[table]) as copy:
                copy.write("".join(lines))
        _keep_gaps(cursor, ledger)
        _keep_instruments(cursor, list(instruments.values()))

    @staticmethod
    def _count_gaps(cursor: psycopg.Cursor[Any], records: Sequence[Record]) -> dict[str, int] | None:
        if any(record.table == "feed_status" and record.event is not None for record in records):
            return _gaps_open(cursor)
        return None


def _gaps_open(cursor: psycopg.Cursor[Any]) -> dict[str, int]:
    # Venues whose gaps are all repaired are in the answer with 0, so that their gauge goes down.
    cursor.execute("SELECT venue, count(*) FILTER (WHERE state = 'open') FROM gaps GROUP BY venue")
    return dict(cursor.fetchall())


def _keep_candles(cursor: psycopg.Cursor[Any], candles: list[Candle]) -> None:
    """Forget the open state of these candles; those still open are copied anew, those closed are in the history."""
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


# A gap and what closes it may come in either order: a gap of a whole connection and the resync of one of its symbols
# are in different partitions. Either statement completes what the other left.
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


# Who tells of a gap: a feed on its line, the scan of what is stored, or a backfill that the venue could not answer.
_FINDERS = {"live": "feed", "repair": "scan", "backfill": "history"}
# A feed closes its own gaps without another word: a new snapshot came, or the trades that were missing.
_RESYNC = "resync"


def _keep_gaps(cursor: psycopg.Cursor[Any], ledger: list[Record]) -> None:
    """Enter gaps in the ledger and close those that are repaired, in the order in which they came."""
    for record in ledger:
        event = record.event
        assert isinstance(event, FeedStatus)  # noqa: S101 - `_apply` sorted them so
        gap_id = event.gap_id
        if gap_id is None:
            if event.kind == "resynced":  # it closes no gap that anybody named
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


def _keep_instruments(cursor: psycopg.Cursor[Any], instruments: list[Instrument]) -> None:
    if instruments:
        cursor.executemany(
            """
            INSERT INTO instruments (venue, symbol, venue_symbol, base_currency, quote_currency, tick_size,
                size_increment, min_order_size, status, kind, ts_recv_ns, updated_at)
            VALUES (%s, %s, %s, %s, %s, %s::numeric, %s::numeric, %s::numeric, %s, %s, %s, %s)
            ON CONFLICT (venue, symbol) DO UPDATE SET
                venue_symbol = excluded.venue_symbol, base_currency = excluded.base_currency,
                quote_currency = excluded.quote_currency, tick_size = excluded.tick_size,
                size_increment = excluded.size_increment, min_order_size = excluded.min_order_size,
                status = excluded.status, kind = excluded.kind, ts_recv_ns = excluded.ts_recv_ns,
                updated_at = excluded.updated_at
            """,
            [
                (
                    one.venue, one.symbol, one.venue_symbol, one.base_currency, one.quote_currency, one.tick_size,
                    one.size_increment, one.min_order_size, one.status, one.kind, one.ts_recv, timestamp(one.ts_recv),
                )
                for one in instruments
            ],
        )  # fmt: skip


def _timestamp(ts: int | None) -> str | None:
    return None if ts is None else timestamp(ts)


def _blames_data(error: psycopg.Error) -> bool:
    return error.sqlstate is not None and error.sqlstate[:2] in _DATA_CLASSES


def _explain(error: psycopg.Error) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _NOT_MIGRATED):
        return f"the tables are missing or old, run `tickstream db migrate`: {reason}"
    return reason
