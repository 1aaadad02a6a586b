"""Inserts rows one by one inside the server after a refused COPY, and returns the bad rows.

One COPY writes the rows to a temporary table without constraints; a PL/pgSQL block then inserts each of them under its
own savepoint. So the number of round trips, each of which costs milliseconds on a busy machine, does not depend on the
number of bad rows. Such an insert takes about 50 microseconds, or 5 to 20 milliseconds while TimescaleDB has no chunk
for the day, because each refusal rolls back the chunk just created. The role needs the right to create temporary
tables.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from sink.binary import HEADER, TRAILER
from sink.rows import BINARY, COLUMNS


class Problem(NamedTuple):
    """A refused row: its index `place`, the reason, and the column if the server names one."""

    place: int
    reason: str
    column: str | None


_MAKE = """
CREATE TEMPORARY TABLE refused_rows (
    row_place integer GENERATED ALWAYS AS IDENTITY, row_problem text, row_column text, {columns}
) ON COMMIT DROP
"""
_EACH = """
DECLARE
    one record;
    problem text;
    field text;
BEGIN
    FOR one IN SELECT * FROM refused_rows ORDER BY row_place LOOP
        BEGIN
            INSERT INTO {table} ({columns}) VALUES ({values});
        EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
            GET STACKED DIAGNOSTICS problem = MESSAGE_TEXT, field = COLUMN_NAME;
            UPDATE refused_rows SET row_problem = problem, row_column = nullif(field, '')
            WHERE row_place = one.row_place;
        END;
    END LOOP;
END
"""


def store_one_by_one(cursor: psycopg.Cursor[Any], schema: str, table: str, data: bytes) -> list[Problem]:
    """Insert the rows of COPY data into a table, except for those that the server refuses; return these."""
    where, columns = sql.Identifier(schema, table), list(map(sql.Identifier, COLUMNS[table]))
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0",
        [where.as_string(cursor)],
    )
    types = dict(cursor.fetchall())
    cursor.execute(
        sql.SQL(_MAKE).format(
            columns=sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(types[column])) for column in COLUMNS[table]
            )
        )
    )
    copy_in = sql.SQL("COPY refused_rows ({}) FROM STDIN {}").format(
        sql.SQL(", ").join(columns), sql.SQL("(FORMAT BINARY)" if table in BINARY else "")
    )
    with cursor.copy(copy_in) as copy:
        copy.write(HEADER + data + TRAILER if table in BINARY else data)
    block = sql.SQL(_EACH).format(
        table=where,
        columns=sql.SQL(", ").join(columns),
        values=sql.SQL(", ").join(sql.SQL("one.{}").format(column) for column in columns),
    )
    cursor.execute(sql.SQL("DO {}").format(sql.Literal(block.as_string(cursor))))
    cursor.execute(
        "SELECT row_place - 1, row_problem, row_column FROM refused_rows WHERE row_problem IS NOT NULL "
        "ORDER BY row_place"
    )
    problems = [Problem(*row) for row in cursor.fetchall()]
    cursor.execute("DROP TABLE refused_rows")
    return problems
