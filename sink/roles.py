"""The rights of each database role: the sink adds rows, the API and readers read, and others have no rights.

The server's administrator creates the roles and their passwords; a role that does not exist is skipped.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

SINK = "tickstream_sink"
API = "tickstream_api"
READONLY = "tickstream_readonly"
HISTORY = "tickstream_history"

# The sink only appends to the history tables; the tables that it updates are small.
_APPEND = (
    "trades", "quotes", "derivatives", "books", "metrics", "candles", "venue_candles", "anomalies", "feed_status",
    "dead_letters",
)  # fmt: skip
_UPSERT = ("kafka_offsets", "gaps", "instruments")
_REPLACE = ("candles_open",)
# Backfill and repair read tables and write their jobs; their data is stored through Kafka and the sink.
_JOBS = ("ingestion_jobs",)
_READ_BY_JOBS = ("trades", "candles", "candles_open", "candles_latest", "gaps", "instruments", "alembic_version")
_ACCESS = ("api_keys", "api_signing_keys", "api_audit")


def grant(connection: Connection, schema: str) -> None:
    """Grant each existing role its rights on the schema, and revoke all others."""
    roles = connection.scalars(
        text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names) AND rolcanlogin"),
        {"names": [SINK, API, READONLY, HISTORY]},
    ).all()
    database = connection.scalar(text("SELECT quote_ident(current_database())"))
    for role in roles:
        connection.execute(text(f'REVOKE ALL ON ALL TABLES IN SCHEMA "{schema}" FROM {role}'))
        connection.execute(text(f'REVOKE ALL ON SCHEMA "{schema}" FROM {role}'))
        connection.execute(text(f'GRANT USAGE ON SCHEMA "{schema}" TO {role}'))
        for statement in _RIGHTS.get(role, _READER):
            connection.execute(text(statement.format(schema=f'"{schema}"', role=role, database=database)))


def _on(rights: str, tables: tuple[str, ...]) -> str:
    return f"GRANT {rights} ON {', '.join('{schema}.' + table for table in tables)} TO {{role}}"


_SINK = (
    _on("INSERT", _APPEND),
    _on("SELECT, INSERT, UPDATE", _UPSERT),
    _on("SELECT, INSERT, UPDATE, DELETE", _REPLACE),
    _on("SELECT", ("alembic_version",)),
    # After a refused COPY, rows are inserted one by one from a temporary table.
    "GRANT TEMPORARY ON DATABASE {database} TO {role}",
)
_READER = (
    "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}",
    # Tables of later migrations are readable at once.
    "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {role}",
    # Analysts need neither the hashes of keys nor the addresses of clients.
    f"REVOKE ALL ON {', '.join('{schema}.' + table for table in _ACCESS)} FROM {{role}}",
)
# The API makes, rotates and revokes keys, but never edits or removes one, and it cannot read or change its audit log.
_API = (
    *_READER,
    _on("SELECT, INSERT", ("api_keys",)),
    _on("UPDATE (expires_at, revoked_at, replaced_by, last_used_at, changed_at)", ("api_keys",)),
    _on("SELECT, INSERT, UPDATE, DELETE", ("api_signing_keys",)),
    _on("INSERT", ("api_audit",)),
)
_RIGHTS = {
    SINK: _SINK,
    API: _API,
    HISTORY: (_on("SELECT", _READ_BY_JOBS), _on("SELECT, INSERT, UPDATE", _JOBS)),
}
