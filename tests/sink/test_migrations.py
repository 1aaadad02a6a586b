"""The database schema: migrations up and down, rights of each role, retention, and server requirements."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from infra.local.table import Endpoints
from marketdata.errors import SettingsError, Unavailable
from sink import migrations, retention, timescale

HISTORY = (
    "trades", "quotes", "books", "derivatives", "metrics", "candles", "venue_candles", "anomalies", "feed_status",
    "dead_letters",
)  # fmt: skip


ACCESS = {"api_keys", "api_signing_keys", "api_audit"}


@pytest.fixture
def schema(endpoints: Endpoints, database_schema: str) -> str:
    """A schema with every table."""
    migrations.upgrade(endpoints.database_url, database_schema)
    return database_schema


def connect(url: str, schema: str) -> psycopg.Connection[tuple[object, ...]]:
    """Return a connection with the schema as its search path."""
    return psycopg.connect(url, autocommit=True, options=f"-c search_path={schema},public")


def relations(url: str, schema: str) -> set[str]:
    """Return the names of a schema's tables and views."""
    with connect(url, schema) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'v')", [schema]
        )
        return {str(row[0]) for row in found}


def test_every_migration_runs_up_down_and_up_again(endpoints: Endpoints, database_schema: str) -> None:
    """Each step can be reverted, and both upgrades result in the same tables."""
    url, revisions = endpoints.database_url, migrations.history()
    assert migrations.current(url, database_schema) is None
    assert migrations.upgrade(url, database_schema) == revisions[0].revision
    made = relations(url, database_schema)
    for revision in revisions:
        assert migrations.downgrade(url, database_schema, revision.before or "base") == revision.before
    assert relations(url, database_schema) == {migrations.VERSION_TABLE}
    assert migrations.upgrade(url, database_schema) == revisions[0].revision
    assert relations(url, database_schema) == made


def test_migrating_again_changes_nothing(endpoints: Endpoints, schema: str) -> None:
    """A second run finds nothing to do and keeps the rows."""
    with connect(endpoints.database_url, schema) as owner:
        owner.execute("INSERT INTO kafka_offsets (topic, partition, next_offset) VALUES ('t', 0, 7)")
    assert migrations.upgrade(endpoints.database_url, schema) == migrations.current(endpoints.database_url, schema)
    with connect(endpoints.database_url, schema) as owner:
        assert owner.execute("SELECT next_offset FROM kafka_offsets").fetchall() == [(7,)]


def test_history_tables_are_partitioned_by_day(endpoints: Endpoints, schema: str) -> None:
    """Every history table is a hypertable with chunks of one day of event time."""
    with connect(endpoints.database_url, schema) as owner:
        found = owner.execute(
            "SELECT hypertable_name, column_name, extract(epoch FROM time_interval) "
            "FROM timescaledb_information.dimensions WHERE hypertable_schema = %s",
            [schema],
        ).fetchall()
    assert {(table, "ts", 86_400) for table in (*HISTORY, "api_audit")} == {
        (row[0], row[1], int(str(row[2]).split(".")[0])) for row in found
    }


def test_a_migration_does_not_queue_behind_a_long_reader(
    endpoints: Endpoints, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails after the lock timeout with advice to run it again, so that it never blocks later sessions."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 200)
    with psycopg.connect(endpoints.database_url, options=f"-c search_path={schema}") as reader:
        reader.execute("SELECT count(*) FROM quotes")
        with pytest.raises(Unavailable, match="run it again"):
            migrations.downgrade(endpoints.database_url, schema, "base")
    # The newer steps removed nothing that is read; the one that had to wait was not reverted.
    assert migrations.current(endpoints.database_url, schema) == migrations.history()[-1].revision
    assert "quotes" in relations(endpoints.database_url, schema)


def test_the_error_of_an_unavailable_server_names_its_variable(database_schema: str) -> None:
    """The error names the setting to check."""
    with pytest.raises(Unavailable, match="TICKSTREAM_DATABASE_URL"):
        migrations.current("postgresql://nobody@127.0.0.1:1/none", database_schema)


def test_a_role_without_the_right_to_migrate_gets_a_clear_error(endpoints: Endpoints, database_schema: str) -> None:
    """Migrations with a service's role fail and name the setting to change."""
    with pytest.raises(SettingsError, match="TICKSTREAM_DATABASE_URL must name the owner"):
        migrations.upgrade(endpoints.api_database_url, database_schema)


def test_the_sink_adds_history_but_cannot_read_change_or_delete_it(endpoints: Endpoints, schema: str) -> None:
    """Its role has no SELECT, UPDATE, DELETE, TRUNCATE or DDL on the history."""
    row = (
        "INSERT INTO dead_letters VALUES (now(), 1, 1, 0, NULL, NULL, NULL, 'v', 's', 'x', 'r', '', NULL, NULL, '', '')"
    )
    with connect(endpoints.sink_database_url, schema) as sink:
        assert sink.execute(row).rowcount == 1
        for table in HISTORY:
            for statement in (
                "SELECT * FROM {}",
                "UPDATE {} SET ts_recv_ns = 0",
                "DELETE FROM {}",
                "TRUNCATE {}",
                "DROP TABLE {}",
                "ALTER TABLE {} ADD COLUMN more int",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    sink.execute(sql.SQL(statement).format(sql.Identifier(table)))
        for statement in ("DELETE FROM gaps", "DELETE FROM kafka_offsets", "CREATE TABLE mine (n int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sink.execute(statement)


def test_the_history_role_reads_tables_and_writes_only_its_jobs(endpoints: Endpoints, schema: str) -> None:
    """It reads tables for comparison and writes only the progress of jobs; data goes through Kafka."""
    with connect(endpoints.history_database_url, schema) as history:
        history.execute(
            "INSERT INTO ingestion_jobs (job_id, venue, symbol, kind, interval, state, start_ns, end_ns, cursor_ns) "
            "VALUES ('j', 'v', 's', 'trades', '', 'running', 0, 1, 0)"
        )
        history.execute("UPDATE ingestion_jobs SET state = 'done'")
        for table in ("trades", "candles", "candles_latest", "gaps", "instruments"):
            history.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
        for statement in (
            "DELETE FROM ingestion_jobs",
            "INSERT INTO trades SELECT * FROM trades LIMIT 0",
            "UPDATE gaps SET state = 'repaired'",
            "SELECT * FROM dead_letters",
            "DROP TABLE candles",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                history.execute(sql.SQL(statement))


@pytest.mark.parametrize("role", ["api_database_url", "readonly_database_url"])
def test_readers_read_everything_and_write_nothing(endpoints: Endpoints, schema: str, role: str) -> None:
    """The roles of the API and of analysts have only SELECT, also on views and on later tables."""
    with connect(endpoints.database_url, schema) as owner:
        owner.execute("CREATE TABLE later (n int)")
    with connect(getattr(endpoints, role), schema) as reader:
        tables = relations(endpoints.database_url, schema) - ACCESS
        assert {"candles_latest", "gaps", "later", *HISTORY} <= tables
        for table in tables:
            name = sql.Identifier(table)
            reader.execute(sql.SQL("SELECT * FROM {}").format(name))
            if not table.endswith("_latest"):  # views are never writable
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    reader.execute(sql.SQL("DELETE FROM {}").format(name))
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    reader.execute(sql.SQL("INSERT INTO {} SELECT * FROM {} LIMIT 0").format(name, name))


def test_keys_and_audit_are_for_the_api_alone_and_it_cannot_change_what_was_audited(
    endpoints: Endpoints, schema: str
) -> None:
    """It makes and revokes keys and appends to the audit log; it edits and removes neither. Others see nothing."""
    with connect(endpoints.api_database_url, schema) as api:
        api.execute(
            "INSERT INTO api_keys (prefix, hash, name, owner, scopes, tier) "
            "VALUES ('p', sha256('k'), 'n', 'o', '{admin}', 't')"
        )
        api.execute("UPDATE api_keys SET revoked_at = now(), changed_at = now()")
        api.execute("INSERT INTO api_audit VALUES (now(), 'who', 'what', 'outcome', 'address', '')")
        for statement in (
            "UPDATE api_keys SET scopes = '{admin}'",
            "UPDATE api_keys SET hash = sha256('mine')",
            "DELETE FROM api_keys",
            "SELECT * FROM api_audit",
            "UPDATE api_audit SET who = 'other'",
            "DELETE FROM api_audit",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                api.execute(sql.SQL(statement))
    for role in ("readonly_database_url", "sink_database_url", "history_database_url"):
        with connect(getattr(endpoints, role), schema) as other:
            for table in sorted(ACCESS):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    other.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))


def test_granting_again_revokes_excessive_rights(endpoints: Endpoints, schema: str) -> None:
    """Manually added rights are revoked, even without a new table."""
    with connect(endpoints.database_url, schema) as owner:
        owner.execute("GRANT DELETE ON gaps TO tickstream_sink")
    migrations.upgrade(endpoints.database_url, schema)
    with connect(endpoints.sink_database_url, schema) as sink, pytest.raises(psycopg.errors.InsufficientPrivilege):
        sink.execute("DELETE FROM gaps")


@pytest.fixture
def old_rows(endpoints: Endpoints, schema: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Feed statuses of today and of 3, 10 and 400 days ago."""
    with connect(endpoints.database_url, schema) as owner:
        for days in (0, 3, 10, 400):
            owner.execute(
                "INSERT INTO feed_status (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, venue, symbol, "
                "line, origin, kind, reason, detail) "
                "VALUES (now() - make_interval(days => %s), 0, 0, %s, 0, 'v', 's', '', 'live', 'connected', '', '')",
                [days, days],
            )
        yield owner


def test_retention_drops_whole_days_older_than_asked(
    endpoints: Endpoints, schema: str, old_rows: psycopg.Connection[tuple[object, ...]]
) -> None:
    """A dry run returns what would be dropped; the real one drops exactly that."""
    remaining = "SELECT kafka_offset FROM feed_status ORDER BY 1"
    planned = retention.drop_older(endpoints.database_url, schema, 5, dry_run=True)
    assert [one.table for one in planned] == ["feed_status", "feed_status"]
    assert old_rows.execute(remaining).fetchall() == [(0,), (3,), (10,), (400,)]
    assert retention.drop_older(endpoints.database_url, schema, 5) == planned
    assert old_rows.execute(remaining).fetchall() == [(0,), (3,)]
    assert retention.drop_older(endpoints.database_url, schema, 5) == []


def test_retention_refuses_invalid_arguments(endpoints: Endpoints, schema: str) -> None:
    """Zero days would drop everything; the ledger of gaps is not partitioned by day."""
    with pytest.raises(SettingsError, match="at least 1"):
        retention.drop_older(endpoints.database_url, schema, 0)
    with pytest.raises(SettingsError, match="gaps"):
        retention.drop_older(endpoints.database_url, schema, 5, ("gaps",))


def test_the_installed_edition_is_recognised(endpoints: Endpoints, schema: str) -> None:
    """Compression is enabled exactly if the server's licence includes it."""
    with connect(endpoints.database_url, schema) as owner:
        licence = owner.execute("SHOW timescaledb.license").fetchone()
        compressed = owner.execute(
            "SELECT bool_and(compression_enabled) FROM timescaledb_information.hypertables "
            "WHERE hypertable_schema = %s",
            [schema],
        ).fetchone()
    assert licence is not None
    assert compressed == (licence[0] == timescale.Edition.COMMUNITY,)


def test_two_migrations_at_once_wait_for_each_other(endpoints: Endpoints, database_schema: str) -> None:
    """Indexes that are made concurrently wait for older statements, so the second migration must hold none open."""
    url = endpoints.database_url
    with ThreadPoolExecutor(3) as threads:
        reached = list(threads.map(lambda n: migrations.upgrade(url, database_schema), range(3)))
    assert reached == [migrations.history()[0].revision] * 3
