"""What alembic runs for each command: the connection and the schema come from `sink.migrations`, never from a file."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from sink import timescale
from sink.migrations import VERSION_TABLE

connection = context.config.attributes["connection"]
schema = context.config.attributes["schema"]

# The tables are named without a schema in the migrations; TimescaleDB's functions live where it was installed.
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
