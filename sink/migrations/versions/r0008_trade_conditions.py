"""Add a trade's conditions and what it is excluded from; NULL stands for none."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, nullable: no row is rewritten, and a sink of the previous version continues to write."""
    op.execute("ALTER TABLE trades ADD COLUMN conditions text[], ADD COLUMN excluded_from text[]")


def downgrade() -> None:
    """Drop the columns; the values are then only in Kafka."""
    op.execute("ALTER TABLE trades DROP COLUMN conditions, DROP COLUMN excluded_from")
