"""Make the table of candles as a venue itself publishes them, separate from those made here from its trades.

A venue may leave trades out of its candles that ours hold (US equities: odd lots, late reports), so neither corrects
the other.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Two lines deliver the same candle, and a venue sends it again after a correction: the last of the newest revision.
_LATEST = """
CREATE VIEW venue_candles_latest AS
SELECT DISTINCT ON (venue, symbol, interval, ts) *
FROM venue_candles
ORDER BY venue, symbol, interval, ts DESC, revision DESC, kafka_offset DESC
"""


def upgrade() -> None:
    """Make table and view; they are new, so no lock delays anyone."""
    op.execute("CREATE TABLE venue_candles (LIKE candles)")
    op.execute(
        "SELECT create_hypertable('venue_candles', 'ts', chunk_time_interval => INTERVAL '1 day', "
        "create_default_indexes => false)"
    )
    op.execute(
        "CREATE INDEX venue_candles_by_start ON venue_candles (venue, symbol, interval, ts DESC, revision DESC, "
        "kafka_offset DESC)"
    )
    op.execute(_LATEST)


def downgrade() -> None:
    """Drop both; the venue's candles are then only in Kafka."""
    op.execute("DROP VIEW venue_candles_latest")
    op.execute("DROP TABLE venue_candles")
