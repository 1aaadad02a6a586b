"""Allow null in the sums of candles that a venue may not send: quote_volume, buy_volume and trades."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("candles", "candles_open", "venue_candles")
_COLUMNS = ("quote_volume", "buy_volume", "trades")


def upgrade() -> None:
    """Drop the constraints: only the catalogue changes, and a sink of the previous version continues to write."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} " + ", ".join(f"ALTER COLUMN {column} DROP NOT NULL" for column in _COLUMNS))


def downgrade() -> None:
    """Write zero where the value is unknown, as the previous version did, and set the constraints again."""
    for table in _TABLES:
        unknown = " OR ".join(f"{column} IS NULL" for column in _COLUMNS)
        zeros = ", ".join(f"{column} = coalesce({column}, 0)" for column in _COLUMNS)
        op.execute(f"UPDATE {table} SET {zeros} WHERE {unknown}")  # noqa: S608 - our own names
        op.execute(f"ALTER TABLE {table} " + ", ".join(f"ALTER COLUMN {column} SET NOT NULL" for column in _COLUMNS))
