"""Alembic's entry point for each command; `sink.migrations` passes the connection and the schema."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from sink import timescale
from sink.migrations import VERSION_TABLE

connection = context.config.attributes["connection"]
schema = context.config.attributes["schema"]

# Migrations name tables without a schema; TimescaleDB's functions are in the schema of its installation.
connection.execute(text(f'SET search_path TO "{schema}", {timescale.extension_schema(connection)}'))
connection.commit()

context.configure(
    connection=connection,
    version_table=VERSION_TABLE,
    version_table_schema=schema,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
