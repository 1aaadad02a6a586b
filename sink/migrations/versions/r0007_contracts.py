"""Add what an instrument's contract is: expiry, strike, multiplier, settlement currency, and whether it is inverse."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COLUMNS = {
    "expiry_ns": "bigint",
    "strike": "numeric",
    "contract_multiplier": "numeric",
    "settlement_currency": "text",
    "inverse": "boolean",
}


def upgrade() -> None:
    """Add the columns, nullable: no row is rewritten, and a sink of the previous version continues to write."""
    op.execute("ALTER TABLE instruments " + ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in _COLUMNS.items()))


def downgrade() -> None:
    """Drop the columns; the values are then only in Kafka."""
    op.execute("ALTER TABLE instruments " + ", ".join(f"DROP COLUMN {name}" for name in _COLUMNS))
