"""Index the corrections and cancels of trades, so that those of any days are found without a look at the trades.

They are few: a row of a new trade costs one comparison, and no entry.
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index, chunk by chunk, so that writers wait for one chunk at a time."""
    with op.get_context().autocommit_block():
        op.execute(
            "CREATE INDEX IF NOT EXISTS trades_amended ON trades (venue, symbol, ts) "
            "WITH (timescaledb.transaction_per_chunk) WHERE action <> 'new'"
        )


def downgrade() -> None:
    """Drop the index."""
    op.execute("DROP INDEX IF EXISTS trades_amended")
