"""Store bars by recipe with the candles: the recipe, the bar's number, and sums by side.

Tick, volume and value bars may start at the same time, so the views keep the latest revision of each (start, number).
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TABLES = ("candles", "candles_open", "venue_candles")
_COLUMNS = {
    "recipe": "text NOT NULL DEFAULT ''",
    "recipe_hash": "text NOT NULL DEFAULT ''",
    "number": "bigint",
    "sell_volume": "numeric",
    "buy_trades": "bigint",
    "sell_trades": "bigint",
}
_BY_START = "venue, symbol, interval, ts"
_NEWEST_FIRST = f"{_BY_START} DESC"
_CANDLES = """
CREATE {replace} VIEW candles_latest AS
SELECT * FROM (
    SELECT DISTINCT ON ({key}) * FROM candles ORDER BY {order}, revision DESC, kafka_offset DESC
) AS closed
UNION ALL
SELECT * FROM candles_open
"""
_VENUE_CANDLES = """
CREATE {replace} VIEW venue_candles_latest AS
SELECT DISTINCT ON ({key}) * FROM venue_candles ORDER BY {order}, revision DESC, kafka_offset DESC
"""
_VIEWS = {"candles_latest": _CANDLES, "venue_candles_latest": _VENUE_CANDLES}


def upgrade() -> None:
    """Add columns with constant defaults and replace the views; a sink of the previous version continues to write."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} " + ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in _COLUMNS.items()))
    op.execute(_CANDLES.format(replace="OR REPLACE", key=f"{_BY_START}, number", order=f"{_NEWEST_FIRST}, number DESC"))
    op.execute(_VENUE_CANDLES.format(replace="OR REPLACE", key=_BY_START, order=_NEWEST_FIRST))


def downgrade() -> None:
    """Delete the bars of recipes, which the previous version cannot read, and drop the columns."""
    for view in _VIEWS:
        op.execute(f"DROP VIEW {view}")
    for table in _TABLES:
        op.execute(f"DELETE FROM {table} WHERE recipe <> ''")  # noqa: S608 - our own names
        op.execute(f"ALTER TABLE {table} " + ", ".join(f"DROP COLUMN {name}" for name in _COLUMNS))
    for statement in _VIEWS.values():
        op.execute(statement.format(replace="", key=_BY_START, order=_NEWEST_FIRST))
