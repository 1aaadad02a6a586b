"""Add the id of the trade that a correction replaces; what an amendment does (`action`) is there already."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: with a constant default no row is rewritten, and a sink of the previous version continues."""
    op.execute("ALTER TABLE trades ADD COLUMN original_id text NOT NULL DEFAULT ''")


def downgrade() -> None:
    """Drop the column; which trades were corrected is then only in Kafka."""
    op.execute("ALTER TABLE trades DROP COLUMN original_id")
