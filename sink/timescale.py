"""Features of the installed TimescaleDB edition: both have hypertables, only the community edition compression."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Connection, text

from marketdata.errors import SettingsError

# Every table that is partitioned by day on its column `ts`, with the columns that compression keeps together.
HYPERTABLES: dict[str, str] = {
    "trades": "venue, symbol",
    "quotes": "venue, symbol",
    "derivatives": "venue, symbol",
    "books": "venue, symbol",
    "metrics": "venue, symbol",
    "candles": "venue, symbol, interval",
    "venue_candles": "venue, symbol, interval",
    "anomalies": "venue, symbol",
    "feed_status": "venue, symbol",
    "dead_letters": "venue, symbol",
    "api_audit": "who",
}
COMPRESS_AFTER_DAYS = 7

_INSTALL = (
    "Tickstream needs TimescaleDB, which this PostgreSQL server lacks. Install it (Debian's package is "
    "postgresql-{major}-timescaledb, Timescale's own timescaledb-2-postgresql-{major}), set "
    "shared_preload_libraries = 'timescaledb' in postgresql.conf, restart the server and run `tickstream db migrate` "
    "again; or set TICKSTREAM_DATABASE_URL to a server that has it."
)


class Edition(StrEnum):
    """An edition of TimescaleDB."""

    APACHE = "apache"
    COMMUNITY = "timescale"


def ensure_extension(connection: Connection) -> None:
    """Install the extension in this database if it is missing.

    Raises SettingsError with instructions if the server does not have it.
    """
    if connection.scalar(text("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")):
        return
    if not connection.scalar(text("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'")):
        major = int(connection.scalar(text("SELECT current_setting('server_version_num')::int / 10000")) or 0)
        raise SettingsError(_INSTALL.format(major=major))
    connection.execute(text("CREATE EXTENSION IF NOT EXISTS timescaledb"))
    connection.commit()


def extension_schema(connection: Connection) -> str:
    """Return the quoted schema of TimescaleDB's functions."""
    return str(
        connection.scalar(
            text("SELECT quote_ident(extnamespace::regnamespace::text) FROM pg_extension WHERE extname = 'timescaledb'")
        )
    )


def edition(connection: Connection) -> Edition:
    """Return the edition of the server; Apache, the smaller one, if the server does not state it."""
    license_ = connection.scalar(text("SELECT current_setting('timescaledb.license', true)"))
    return Edition.COMMUNITY if license_ == Edition.COMMUNITY else Edition.APACHE


def apply_edition(connection: Connection, schema: str) -> Edition:
    """Enable compression if the edition has it (days older than a week, by venue and symbol); return the edition.

    This is not a migration, because a server may change its edition at any time. Running it again changes nothing.
    """
    found = edition(connection)
    if found is Edition.COMMUNITY:
        functions = extension_schema(connection)
        for table, segment_by in HYPERTABLES.items():
            connection.execute(
                text(
                    f'ALTER TABLE "{schema}".{table} SET (timescaledb.compress, '
                    f"timescaledb.compress_segmentby = '{segment_by}', timescaledb.compress_orderby = 'ts DESC')"
                )
            )
            connection.execute(
                text(
                    f"SELECT {functions}.add_compression_policy('\"{schema}\".{table}', "
                    f"INTERVAL '{COMPRESS_AFTER_DAYS} days', if_not_exists => true)"
                )
            )
    return found
