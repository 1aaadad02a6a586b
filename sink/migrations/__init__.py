"""The database schema as alembic migrations, the functions that apply them, and the rules that keep them online-safe.

Rules for a migration, because services keep writing while it runs:

1. It never waits long for a lock: `lock_timeout` is set for every migration, and it can simply be run again.
2. A new index on an existing table is created with `CREATE INDEX CONCURRENTLY`; on a hypertable, which does not support
   that, with `WITH (timescaledb.transaction_per_chunk)`. Both go inside `op.get_context().autocommit_block()`.
3. A new column is nullable or has a constant default; no type is changed in place and no table is rewritten.
4. A new constraint is added NOT VALID and validated in a later migration.
5. Expand, migrate, contract: a column that is no longer needed is dropped one release after its last reader.
6. A released migration is never edited. Tests run every migration up, down and up again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, pool, text

from marketdata.errors import SettingsError, Unavailable
from sink import roles, timescale

LOCK_TIMEOUT_MS = 5_000
# How long a migration waits for another one: making indexes of a large table takes minutes.
WAIT_S_MAX = 60.0
_TRY_EVERY_S = 0.05
CONNECT_TIMEOUT_S = 10
VERSION_TABLE = "alembic_version"

# Two migrations of one schema must not run at once; the second waits for this lock.
_ADVISORY_LOCK = "tickstream migrations"


class Revision(NamedTuple):
    """One migration: its id, the id of the one before it (None for the first) and its summary."""

    revision: str
    before: str | None
    summary: str


def upgrade(database_url: str, schema: str, revision: str = "head") -> str | None:
    """Upgrade the schema to a revision, enable the features of the TimescaleDB edition, and grant rights to the roles.

    Return the revision that the schema is at. Running it again changes nothing.

    Raises SettingsError when the server lacks TimescaleDB or the right to use it, Unavailable when it does not respond
    or a lock is not available.
    """
    with session(database_url) as connection:
        timescale.ensure_extension(connection)
        connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
        connection.commit()
        command.upgrade(_config(connection, schema), revision)
        reached = _reached(connection, schema)
        if reached is not None:
            timescale.apply_edition(connection, schema)
            roles.grant(connection, schema)
            connection.commit()
        return reached


def downgrade(database_url: str, schema: str, revision: str) -> str | None:
    """Downgrade the schema to a revision (`base` for none); return the revision that it is at."""
    with session(database_url) as connection:
        command.downgrade(_config(connection, schema), revision)
        return _reached(connection, schema)


def current(database_url: str, schema: str) -> str | None:
    """Return the revision that the schema is at, None before the first migration."""
    with session(database_url) as connection:
        return _reached(connection, schema)


def history() -> list[Revision]:
    """Return every migration, newest first."""
    return [
        Revision(script.revision, _one(script.down_revision), script.doc)
        for script in ScriptDirectory.from_config(_scripts()).walk_revisions()
    ]


@contextmanager
def session(database_url: str) -> Iterator[Connection]:
    """Open a connection with the exclusive right to change the schema until it is closed.

    Raises SettingsError or Unavailable when the server refuses a statement.
    """

    def connect() -> psycopg.Connection:
        return psycopg.connect(
            database_url,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="tickstream-migrations",
            options=f"-c lock_timeout={LOCK_TIMEOUT_MS} -c timezone=UTC",
        )

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=pool.NullPool)
    try:
        with _explained(), engine.connect() as connection:
            _wait_for_others(connection)
            yield connection
    finally:
        engine.dispose()


def _wait_for_others(connection: Connection) -> None:
    """Take the lock of migrations, or raise Unavailable after a while.

    It is tried again and again: `CREATE INDEX CONCURRENTLY` waits for each statement that is older than itself, so it
    and a statement that waits for the lock would wait for each other.
    """
    until = time.monotonic() + WAIT_S_MAX
    while not connection.scalar(text("SELECT pg_try_advisory_lock(hashtext(:name))"), {"name": _ADVISORY_LOCK}):
        connection.commit()
        if time.monotonic() > until:
            raise Unavailable("another migration is still running; run it again when that has ended")
        time.sleep(_TRY_EVERY_S)
    connection.commit()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn a refusal by the server into an error that states what to do next."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, psycopg.Error):
            cause = cause.__cause__
        if cause is None:
            raise
        reason = str(cause).strip()
        if isinstance(cause, psycopg.errors.LockNotAvailable):
            raise Unavailable(
                f"another session holds a lock that the migration needs; run it again: {reason}"
            ) from error
        if isinstance(cause, psycopg.errors.InsufficientPrivilege):
            raise SettingsError(f"TICKSTREAM_DATABASE_URL must name the owner of the schema: {reason}") from error
        if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
            raise Unavailable(f"the database of TICKSTREAM_DATABASE_URL does not respond: {reason}") from error
        raise


def _scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _config(connection: Connection, schema: str) -> Config:
    config = _scripts()
    config.attributes["connection"] = connection
    config.attributes["schema"] = schema
    return config


def _reached(connection: Connection, schema: str) -> str | None:
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": schema}
    )
    reached = context.get_current_revision()
    connection.rollback()
    return reached


def _one(revision: str | tuple[str, ...] | list[str] | None) -> str | None:
    return revision if isinstance(revision, str) else None
