"""Make the table of ingestion jobs: what was requested of a venue's history, how far it is, and what went wrong.

A job covers [start_ns, end_ns); everything before `cursor_ns` is in Kafka. The process that works on a job holds the
advisory lock of its id, so that a job whose process was killed is free at once.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JOBS = """
CREATE TABLE ingestion_jobs (
    job_id          text        PRIMARY KEY,
    venue           text        NOT NULL,
    symbol          text        NOT NULL,
    kind            text        NOT NULL CHECK (kind IN ('candles', 'trades', 'repair')),
    interval        text        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('running', 'paused', 'failed', 'done')),
    start_ns        bigint      NOT NULL,
    end_ns          bigint      NOT NULL,
    cursor_ns       bigint      NOT NULL,
    first_ns        bigint,
    fetched         bigint      NOT NULL DEFAULT 0,
    published       bigint      NOT NULL DEFAULT 0,
    attempts        integer     NOT NULL DEFAULT 1,
    last_error      text,
    started_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    completed_at    timestamptz
) WITH (fillfactor = 50)
"""


def upgrade() -> None:
    """Make the table; it is new, so no lock delays anyone."""
    op.execute(_JOBS)
    op.execute("CREATE INDEX ingestion_jobs_by_update ON ingestion_jobs (updated_at DESC, job_id)")


def downgrade() -> None:
    """Drop the table; a backfill then begins again, and the stream apps recognise what was stored."""
    op.execute("DROP TABLE ingestion_jobs")
