"""Drops days of data that have passed their retention, in either edition of TimescaleDB.

Run it from a timer (`tickstream db retention --days N`), since only the community edition has retention policies. Whole
days are dropped as files, so it is fast and leaves nothing to vacuum.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, text

from marketdata.errors import SettingsError
from sink.migrations import session
from sink.timescale import HYPERTABLES, extension_schema


class Dropped(NamedTuple):
    """One day of one table that was (or would be) dropped."""

    table: str
    day: str


def drop_older(
    database_url: str, schema: str, days: int, tables: tuple[str, ...] = tuple(HYPERTABLES), *, dry_run: bool = False
) -> list[Dropped]:
    """Drop every day that ended more than `days` days ago; return what was dropped, or would be.

    The ledger of gaps, the instruments and the Kafka offsets are never dropped: they are small.

    Raises SettingsError for less than one day or a table that is not partitioned by day, Unavailable when the database
    does not respond.
    """
    if days < 1:
        raise SettingsError(f"days must be at least 1, not {days}")
    unknown = sorted(set(tables) - set(HYPERTABLES))
    if unknown:
        raise SettingsError(f"not partitioned by day: {', '.join(unknown)}; choose from {', '.join(HYPERTABLES)}")
    with session(database_url) as connection:
        dropped = [one for table in tables for one in _older(connection, schema, table, days)]
        if not dry_run:
            functions = extension_schema(connection)
            for table in sorted({one.table for one in dropped}):
                connection.execute(
                    text(f"SELECT {functions}.drop_chunks('\"{schema}\".{table}', make_interval(days => :days))"),
                    {"days": days},
                )
                # One transaction per table keeps locks short.
                connection.commit()
        return dropped


def _older(connection: Connection, schema: str, table: str, days: int) -> list[Dropped]:
    found = connection.execute(
        text(
            "SELECT to_char(range_start AT TIME ZONE 'UTC', 'YYYY-MM-DD') FROM timescaledb_information.chunks "
            "WHERE hypertable_schema = :schema AND hypertable_name = :table "
            "AND range_end <= now() - make_interval(days => :days) ORDER BY range_start"
        ),
        {"schema": schema, "table": table, "days": days},
    )
    return [Dropped(table, day) for day in found.scalars()]
