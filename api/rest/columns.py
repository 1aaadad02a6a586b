"""The columns of lists in CSV, Arrow and Parquet, with the names that the fields have in JSON.

Prices and sizes are text: a decimal type has one scale for the whole column, so it would lose the digits that the venue
sent ("100.10"), and 38 digits do not hold every size. Readers cast them exactly: `pyarrow.compute.cast(column,
decimal128(38, 18))`. Times are UTC nanoseconds, of the type `timestamp[ns]` in Arrow and Parquet.
"""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What a column contains."""

    TEXT = "text"
    FLAG = "flag"
    COUNT = "count"
    TIME = "time"
    TEXTS = "texts"
    JSON = "json"


Columns = dict[str, Kind]


def _columns(text: str, **others: Kind) -> Columns:
    """Return columns of text by their names, in order; `others` are not text."""
    return {name: others.get(name, Kind.TEXT) for name in text.split()}


_STAMPS = {"ts_event": Kind.TIME, "ts_recv": Kind.TIME, "valid": Kind.FLAG}

TRADES = _columns(
    "venue symbol ts_event ts_recv trade_id price size side liquidation action original_id conditions excluded_from "
    "valid reason",
    liquidation=Kind.FLAG,
    conditions=Kind.TEXTS,
    excluded_from=Kind.TEXTS,
    **_STAMPS,
)
CANDLES = _columns(
    "venue symbol interval start_ns end_ns open high low close volume quote_volume buy_volume trades vwap state "
    "revision origin valid reason ts_event ts_recv recipe recipe_hash number sell_volume buy_trades sell_trades",
    start_ns=Kind.TIME,
    end_ns=Kind.TIME,
    trades=Kind.COUNT,
    revision=Kind.COUNT,
    number=Kind.COUNT,
    buy_trades=Kind.COUNT,
    sell_trades=Kind.COUNT,
    **_STAMPS,
)
METRICS = _columns(
    "venue symbol ts_event ts_recv start_ns bid bid_size ask ask_size mid microprice spread spread_bps imbalance "
    "depth_bps bid_depths ask_depths bid_reach_bps ask_reach_bps order_flow changes best_price_changes valid reason",
    start_ns=Kind.TIME,
    depth_bps=Kind.TEXTS,
    bid_depths=Kind.TEXTS,
    ask_depths=Kind.TEXTS,
    changes=Kind.COUNT,
    best_price_changes=Kind.COUNT,
    **_STAMPS,
)
DERIVATIVES = _columns(
    "venue symbol ts_event ts_recv mark_price index_price open_interest open_interest_value funding_rate "
    "predicted_funding_rate next_funding_time funding_interval delta gamma vega theta rho bid_iv ask_iv mark_iv "
    "underlying_price liquidations origin valid reason",
    funding_interval=Kind.COUNT,
    liquidations=Kind.JSON,
    **_STAMPS,
)
QUOTES = _columns(
    "venue symbol ts_event ts_recv source bid bid_size ask ask_size last volume_24h high_24h low_24h change_24h origin "
    "valid reason",
    **_STAMPS,
)
BOOKS = _columns(
    "venue symbol ts_event ts_recv depth sequence bids asks origin valid reason",
    depth=Kind.COUNT,
    sequence=Kind.COUNT,
    bids=Kind.JSON,
    asks=Kind.JSON,
    **_STAMPS,
)
GAPS = _columns(
    "gap_id venue symbol channel line reason detail state start_ns end_ns expected received found_by detected_at "
    "repaired_at repaired_by",
    start_ns=Kind.TIME,
    end_ns=Kind.TIME,
    expected=Kind.COUNT,
    received=Kind.COUNT,
)
JOBS = _columns(
    "job_id venue symbol kind interval state start_ns end_ns cursor_ns fetched published attempts last_error "
    "started_at updated_at completed_at",
    start_ns=Kind.TIME,
    end_ns=Kind.TIME,
    cursor_ns=Kind.TIME,
    fetched=Kind.COUNT,
    published=Kind.COUNT,
    attempts=Kind.COUNT,
)
ANOMALIES = _columns(
    "anomaly_id venue symbol kind severity metric value limit usual phase start_ns peak_ns end_ns text evidence",
    start_ns=Kind.TIME,
    peak_ns=Kind.TIME,
    end_ns=Kind.TIME,
    evidence=Kind.JSON,
)
