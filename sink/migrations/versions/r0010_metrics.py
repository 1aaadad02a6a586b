"""Make the table of the books' metrics: values at `ts`, and the order flow from `ts_from_ns` to then."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# The n-th of the depths goes with the n-th distance.
_METRICS = """
CREATE TABLE metrics (
    ts                 timestamptz NOT NULL,
    ts_event_ns        bigint      NOT NULL,
    ts_recv_ns         bigint      NOT NULL,
    kafka_offset       bigint      NOT NULL,
    kafka_partition    integer     NOT NULL,
    valid              boolean     NOT NULL,
    reason             text        NOT NULL,
    venue              text        NOT NULL,
    symbol             text        NOT NULL,
    line               text        NOT NULL,
    origin             text        NOT NULL,
    sequence           bigint,
    ts_from_ns         bigint      NOT NULL,
    bid                numeric,
    bid_size           numeric,
    ask                numeric,
    ask_size           numeric,
    mid                numeric,
    microprice         numeric,
    spread             numeric,
    spread_bps         numeric,
    imbalance          numeric,
    depth_bps          numeric[]   NOT NULL,
    bid_depths         numeric[]   NOT NULL,
    ask_depths         numeric[]   NOT NULL,
    bid_reach_bps      numeric,
    ask_reach_bps      numeric,
    order_flow         numeric,
    changes            bigint      NOT NULL,
    best_price_changes bigint      NOT NULL
)
"""


def upgrade() -> None:
    """Make the table; it is new, so no lock delays anyone."""
    op.execute(_METRICS)
    op.execute(
        "SELECT create_hypertable('metrics', 'ts', chunk_time_interval => INTERVAL '1 day', "
        "create_default_indexes => false)"
    )
    op.execute("CREATE INDEX metrics_by_time ON metrics (venue, symbol, ts DESC, kafka_offset DESC)")


def downgrade() -> None:
    """Drop the table; its values are then only in Kafka."""
    op.execute("DROP TABLE metrics")
