"""Give anomalies a life: phase, start, peak and end, what is usual, and a sentence; a view has one row of each anomaly.

`ts` of every row is the anomaly's start, so that all of them are on one day and the view needs no search.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_COLUMNS = {
    "phase": "text NOT NULL DEFAULT 'start'",
    "ts_start_ns": "bigint",
    "ts_peak_ns": "bigint",
    "ts_end_ns": "bigint",
    "usual": "numeric",
    "text": "text NOT NULL DEFAULT ''",
}
# Each event of an anomaly states all of it so far: the last one counts.
_LATEST = """
CREATE VIEW anomalies_latest AS
SELECT DISTINCT ON (ts, anomaly_id) *
FROM anomalies
ORDER BY ts DESC, anomaly_id DESC, kafka_offset DESC
"""


def upgrade() -> None:
    """Add the columns with constant defaults: no row is rewritten, and a sink of the previous version continues."""
    op.execute("ALTER TABLE anomalies " + ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in _COLUMNS.items()))
    op.execute("CREATE INDEX anomalies_by_id ON anomalies (ts DESC, anomaly_id DESC, kafka_offset DESC)")
    op.execute("DROP INDEX anomalies_by_time")
    op.execute(_LATEST)


def downgrade() -> None:
    """Drop the view and the columns; peaks and ends remain as rows of their own."""
    op.execute("DROP VIEW anomalies_latest")
    op.execute("CREATE INDEX anomalies_by_time ON anomalies (ts DESC)")
    op.execute("DROP INDEX anomalies_by_id")
    op.execute("ALTER TABLE anomalies " + ", ".join(f"DROP COLUMN {name}" for name in _COLUMNS))
