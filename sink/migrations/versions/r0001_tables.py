"""Make the tables of market data, the ledger of gaps and the Kafka offsets.

Prices and sizes are unconstrained `numeric`: exactly what the venue sent. `ts` is the event's time cut to microseconds,
for partitions and queries; `*_ns` columns hold the exact UTC nanoseconds. `kafka_partition` and `kafka_offset`
name the record of the topic a row came from, and order rows of equal time.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STAMP = """
    ts              timestamptz NOT NULL,
    ts_event_ns     bigint      NOT NULL,
    ts_recv_ns      bigint      NOT NULL,
    kafka_offset    bigint      NOT NULL,
    kafka_partition integer     NOT NULL,
"""
_SOURCE = """
    venue           text        NOT NULL,
    symbol          text        NOT NULL,
    line            text        NOT NULL,
    origin          text        NOT NULL,
    sequence        bigint,
"""
_VALIDITY = """
    valid           boolean     NOT NULL,
    reason          text        NOT NULL,
"""

_TRADES = f"""
CREATE TABLE trades ({_STAMP}
    item            integer     NOT NULL,
    {_VALIDITY}
    liquidation     boolean     NOT NULL,
    price           numeric     NOT NULL,
    size            numeric     NOT NULL,
    side            text        NOT NULL,
    action          text        NOT NULL,
    trade_id        text        NOT NULL,
    {_SOURCE.rstrip().rstrip(",")}
)
"""
_QUOTES = f"""
CREATE TABLE quotes ({_STAMP}{_VALIDITY}{_SOURCE}
    source          text        NOT NULL,
    bid             numeric,
    bid_size        numeric,
    ask             numeric,
    ask_size        numeric,
    last            numeric,
    volume_24h      numeric,
    high_24h        numeric,
    low_24h         numeric,
    change_24h      numeric
)
"""
# Best levels first; the n-th price goes with the n-th size.
_BOOKS = f"""
CREATE TABLE books ({_STAMP}{_VALIDITY}{_SOURCE}
    depth           integer     NOT NULL,
    updates         bigint      NOT NULL,
    bid_prices      numeric[]   NOT NULL,
    bid_sizes       numeric[]   NOT NULL,
    ask_prices      numeric[]   NOT NULL,
    ask_sizes       numeric[]   NOT NULL
)
"""
# `ts` is the candle's start.
_CANDLE_COLUMNS = f"""{_STAMP}
    ts_end          timestamptz NOT NULL,
    start_ns        bigint      NOT NULL,
    end_ns          bigint      NOT NULL,
    trades          bigint      NOT NULL,
    revision        integer     NOT NULL,
    {_VALIDITY}
    state           text        NOT NULL,
    interval        text        NOT NULL,
    open            numeric,
    high            numeric,
    low             numeric,
    close           numeric,
    volume          numeric     NOT NULL,
    quote_volume    numeric     NOT NULL,
    buy_volume      numeric     NOT NULL,
    venue           text        NOT NULL,
    symbol          text        NOT NULL,
    origin          text        NOT NULL
"""
_ANOMALIES = f"""
CREATE TABLE anomalies ({_STAMP}
    venue           text        NOT NULL,
    symbol          text        NOT NULL,
    anomaly_id      text        NOT NULL,
    kind            text        NOT NULL,
    severity        text        NOT NULL,
    metric          text        NOT NULL,
    value           numeric     NOT NULL,
    limit_value     numeric     NOT NULL,
    evidence        jsonb       NOT NULL
)
"""
_FEED_STATUS = f"""
CREATE TABLE feed_status ({_STAMP}{_SOURCE}
    kind            text        NOT NULL,
    reason          text        NOT NULL,
    detail          text        NOT NULL,
    channel         text,
    gap_id          text,
    expected        bigint,
    received        bigint,
    ts_from_ns      bigint,
    ts_to_ns        bigint
)
"""
# `kafka_*` is where the dead letter itself stands, `topic`, `"partition"` and `"offset"` where the refused record does.
_DEAD_LETTERS = """
CREATE TABLE dead_letters (
    ts              timestamptz NOT NULL,
    ts_recv_ns      bigint      NOT NULL,
    kafka_offset    bigint      NOT NULL,
    kafka_partition integer     NOT NULL,
    "partition"     integer,
    "offset"        bigint,
    topic           text,
    venue           text        NOT NULL,
    symbol          text        NOT NULL,
    stage           text        NOT NULL,
    reason          text        NOT NULL,
    detail          text        NOT NULL,
    field           text,
    value           text,
    line            text        NOT NULL,
    payload         bytea       NOT NULL
)
"""
# The ledger: a row is found by its id and closed later, so it is a plain table. `state` is open or repaired.
_GAPS = """
CREATE TABLE gaps (
    gap_id          text        PRIMARY KEY,
    venue           text        NOT NULL,
    symbol          text        NOT NULL,
    channel         text,
    line            text        NOT NULL,
    reason          text        NOT NULL,
    detail          text        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('open', 'repaired')),
    ts_from         timestamptz,
    ts_to           timestamptz,
    ts_from_ns      bigint,
    ts_to_ns        bigint,
    expected        bigint,
    received        bigint,
    found_by        text        NOT NULL,
    detected_at     timestamptz NOT NULL,
    repaired_at     timestamptz,
    repaired_by     text
)
"""
_INSTRUMENTS = """
CREATE TABLE instruments (
    venue           text        NOT NULL,
    symbol          text        NOT NULL,
    venue_symbol    text        NOT NULL,
    base_currency   text        NOT NULL,
    quote_currency  text        NOT NULL,
    tick_size       numeric,
    size_increment  numeric,
    min_order_size  numeric,
    status          text        NOT NULL,
    kind            text        NOT NULL,
    ts_recv_ns      bigint      NOT NULL,
    updated_at      timestamptz NOT NULL,
    PRIMARY KEY (venue, symbol)
)
"""
# One row per partition: the next record to store. It moves in the same transaction as the rows before it.
_KAFKA_OFFSETS = """
CREATE TABLE kafka_offsets (
    topic           text        NOT NULL,
    "partition"     integer     NOT NULL,
    next_offset     bigint      NOT NULL CHECK (next_offset >= 0),
    topic_id        text,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, "partition")
) WITH (fillfactor = 50)
"""
# Candles that are still open change with every trade: one row each, replaced in place, gone when the candle is final.
_CANDLES_OPEN = (
    f"CREATE TABLE candles_open ({_CANDLE_COLUMNS}, PRIMARY KEY (venue, symbol, interval, ts)) WITH (fillfactor = 50)"
)
_CANDLES_LATEST = """
CREATE VIEW candles_latest AS
SELECT * FROM (
    SELECT DISTINCT ON (venue, symbol, interval, ts) *
    FROM candles
    ORDER BY venue, symbol, interval, ts DESC, revision DESC, kafka_offset DESC
) AS closed
UNION ALL
SELECT * FROM candles_open
"""

_HYPERTABLES = ("trades", "quotes", "books", "candles", "anomalies", "feed_status", "dead_letters")
_INDEXES = (
    "CREATE INDEX trades_by_time ON trades (venue, symbol, ts DESC)",
    "CREATE INDEX trades_by_id ON trades (venue, symbol, trade_id)",
    "CREATE INDEX quotes_by_time ON quotes (venue, symbol, ts DESC)",
    "CREATE INDEX books_by_time ON books (venue, symbol, ts DESC)",
    "CREATE INDEX candles_by_start ON candles (venue, symbol, interval, ts DESC, revision DESC, kafka_offset DESC)",
    "CREATE INDEX anomalies_by_time ON anomalies (ts DESC)",
    "CREATE INDEX anomalies_by_symbol ON anomalies (venue, symbol, ts DESC)",
    "CREATE INDEX feed_status_by_time ON feed_status (venue, symbol, ts DESC)",
    "CREATE INDEX dead_letters_by_time ON dead_letters (ts DESC)",
    "CREATE INDEX gaps_by_detection ON gaps (detected_at DESC, gap_id)",
    "CREATE INDEX gaps_open ON gaps (venue, symbol, detected_at DESC) WHERE state = 'open'",
)
_TABLES = (*_HYPERTABLES, "candles_open", "gaps", "instruments", "kafka_offsets")


def upgrade() -> None:
    """Make every table; the schema is new, so no lock delays anyone."""
    for statement in (
        _TRADES, _QUOTES, _BOOKS, f"CREATE TABLE candles ({_CANDLE_COLUMNS})", _ANOMALIES, _FEED_STATUS, _DEAD_LETTERS,
        _CANDLES_OPEN, _GAPS, _INSTRUMENTS, _KAFKA_OFFSETS, _CANDLES_LATEST,
    ):  # fmt: skip
        op.execute(statement)
    for table in _HYPERTABLES:
        op.execute(
            f"SELECT create_hypertable('{table}', 'ts', chunk_time_interval => INTERVAL '1 day', "
            "create_default_indexes => false)"
        )
    for statement in _INDEXES:
        op.execute(statement)


def downgrade() -> None:
    """Drop every table with what it holds."""
    op.execute("DROP VIEW candles_latest")
    for table in _TABLES:
        op.execute(f"DROP TABLE {table}")
