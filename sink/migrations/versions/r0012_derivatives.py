"""Make the table of derivatives: funding, mark and index prices, open interest, greeks and liquidations.

A row has what one message of the venue had; the other columns are NULL. Liquidations are a JSON array of objects with
`ts_event` (UTC nanoseconds), `side`, `price`, `size` and `liquidation_id`; prices and sizes are decimal strings.
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_NUMBERS = (
    "mark_price", "index_price", "open_interest", "open_interest_value", "funding_rate", "predicted_funding_rate",
    "delta", "gamma", "vega", "theta", "rho", "bid_iv", "ask_iv", "mark_iv", "underlying_price",
)  # fmt: skip
_TABLE = f"""
CREATE TABLE derivatives (
    ts              timestamptz NOT NULL,
    ts_event_ns     bigint      NOT NULL,
    ts_recv_ns      bigint      NOT NULL,
    kafka_offset    bigint      NOT NULL,
    kafka_partition integer     NOT NULL,
    valid           boolean     NOT NULL,
    reason          text        NOT NULL,
    venue           text        NOT NULL,
    symbol          text        NOT NULL,
    line            text        NOT NULL,
    origin          text        NOT NULL,
    sequence        bigint,
    {", ".join(f"{name} numeric" for name in _NUMBERS)},
    next_funding_ts bigint,
    funding_interval bigint,
    liquidations    jsonb
)
"""


def upgrade() -> None:
    """Make the table; it is new, so no lock delays anyone."""
    op.execute(_TABLE)
    op.execute(
        "SELECT create_hypertable('derivatives', 'ts', chunk_time_interval => INTERVAL '1 day', "
        "create_default_indexes => false)"
    )
    op.execute("CREATE INDEX derivatives_by_time ON derivatives (venue, symbol, ts DESC, kafka_offset DESC)")


def downgrade() -> None:
    """Drop the table; the data is then only in Kafka."""
    op.execute("DROP TABLE derivatives")
