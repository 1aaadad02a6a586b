"""Stores rows one by one inside the server, where a COPY of all of them was refused, and finds the rows that are bad.

The rows go by one COPY to a temporary table without constraints; a block of PL/pgSQL then inserts each under a
savepoint of its own. So the number of round trips, each of which costs milliseconds on a busy machine, does not depend
on how many rows are bad. An insert of this kind takes some 50 microseconds; 5 to 20 milliseconds while TimescaleDB has
no chunk for its day, because each refusal takes a chunk back that was just made. The role needs the right to make
temporary tables.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from sink.binary import HEADER, TRAILER
from sink.rows import BINARY, COLUMNS


class Problem(NamedTuple):
    """The row number `place` (from 0) that the server refused, why, and the column if it names one."""

    place: int
    reason: str
    column: str | None


_MAKE = """
CREATE TEMPORARY TABLE sifted (
    sifted_place integer GENERATED ALWAYS AS IDENTITY, sifted_problem text, sifted_column text, {columns}
) ON COMMIT DROP
"""
_EACH = """
DECLARE
    one record;
    problem text;
    field text;
BEGIN
    FOR one IN SELECT * FROM sifted ORDER BY sifted_place LOOP
        BEGIN
            INSERT INTO {table} ({columns}) VALUES ({values});
        EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
            GET STACKED DIAGNOSTICS problem = MESSAGE_TEXT, field = COLUMN_NAME;
            UPDATE sifted SET sifted_problem = problem, sifted_column = nullif(field, '')
            WHERE sifted_place = one.sifted_place;
        END;
    END LOOP;
END
"""


def store_one_by_one(cursor: psycopg.Cursor[Any], schema: str, table: str, data: bytes) -> list[Problem]:
    """Insert the rows of COPY data into a table, all but those that the server refuses; return these."""
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
    copy_in = sql.SQL("COPY sifted ({}) FROM STDIN {}").format(
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
        "SELECT sifted_place - 1, sifted_problem, sifted_column FROM sifted WHERE sifted_problem IS NOT NULL "
        "ORDER BY sifted_place"
    )
    problems = [Problem(*row) for row in cursor.fetchall()]
    cursor.execute("DROP TABLE sifted")
    return problems
