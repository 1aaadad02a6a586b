"""Makes the roles and databases of the embedded TimescaleDB; safe to run at each start.

Reads ADMIN_URL and PASSWORD_<role> from the environment that the supervisor gives it. The rights of the roles on
tables are granted by the migrations.
"""

from __future__ import annotations

import os

import psycopg
from psycopg import sql

ROLES = (
    "registry",
    "tickstream",
    "tickstream_sink",
    "tickstream_api",
    "tickstream_history",
    "tickstream_readonly",
)
DATABASES = {"registry": "registry", "tickstream": "tickstream"}


def main() -> None:
    """Create what is missing and set the passwords."""
    with psycopg.connect(os.environ["ADMIN_URL"], autocommit=True) as admin:
        known = {row[0] for row in admin.execute("SELECT rolname FROM pg_roles")}
        for role in ROLES:
            verb = sql.SQL("ALTER" if role in known else "CREATE")
            admin.execute(
                sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                    verb, sql.Identifier(role), sql.Literal(os.environ[f"PASSWORD_{role}"])
                )
            )
        databases = {row[0] for row in admin.execute("SELECT datname FROM pg_database")}
        for name, owner in DATABASES.items():
            if name not in databases:
                admin.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner))
                )
            admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        readers = sql.SQL(", ").join(sql.Identifier(role) for role in ROLES if role.startswith("tickstream_"))
        admin.execute(sql.SQL("GRANT CONNECT ON DATABASE tickstream TO {}").format(readers))
    with psycopg.connect(os.environ["ADMIN_URL"], autocommit=True, dbname="tickstream") as admin:
        admin.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")


if __name__ == "__main__":
    main()
