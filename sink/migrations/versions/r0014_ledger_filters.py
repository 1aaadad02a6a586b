"""Index anomalies, gaps and jobs by what they are filtered by, so that a filter that finds nothing reads nothing."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_ANOMALIES = {
    "anomalies_by_market_and_kind": "(venue, symbol, kind, ts DESC, anomaly_id DESC)",
    "anomalies_by_symbol_and_kind": "(symbol, kind, ts DESC, anomaly_id DESC)",
    "anomalies_by_kind": "(kind, severity, ts DESC, anomaly_id DESC)",
    "anomalies_by_severity": "(severity, ts DESC, anomaly_id DESC)",
    "anomalies_open": "(ts DESC, anomaly_id DESC)",
}
# The condition of the query for open ones.
_PARTIAL = {"anomalies_open": " WHERE ts_start_ns IS NOT NULL AND ts_end_ns IS NULL"}
_PLAIN = {
    "gaps_by_market": "gaps (venue, symbol, detected_at DESC, gap_id DESC)",
    "gaps_by_symbol": "gaps (symbol, detected_at DESC, gap_id DESC)",
    "ingestion_jobs_by_market": "ingestion_jobs (venue, symbol, kind, updated_at DESC, job_id DESC)",
    "ingestion_jobs_by_symbol": "ingestion_jobs (symbol, updated_at DESC, job_id DESC)",
    "ingestion_jobs_by_state": "ingestion_jobs (state, kind, updated_at DESC, job_id DESC)",
}


def upgrade() -> None:
    """Make the indexes while rows are written."""
    with op.get_context().autocommit_block():
        for name, columns in _ANOMALIES.items():
            op.execute(
                f"CREATE INDEX IF NOT EXISTS {name} ON anomalies {columns} "
                f"WITH (timescaledb.transaction_per_chunk){_PARTIAL.get(name, '')}"
            )
        for name, where in _PLAIN.items():
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {where}")


def downgrade() -> None:
    """Drop the indexes."""
    for name in (*_ANOMALIES, *_PLAIN):
        op.execute(f"DROP INDEX IF EXISTS {name}")
