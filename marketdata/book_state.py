"""The state of the operator `books`: one symbol's order book, as stored in the pipeline's checkpoints."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from marketdata.book import L2Book, Level
from marketdata.events import RESYNCING

# The operator's name and the input topic of its chain, which locate this state in a checkpoint.
OPERATOR = "books"
CHAIN = "md.ingest.books"


class MetricsState(msgspec.Struct):
    """What the book's metrics need to know of the past (see `stream_apps.operators.metrics`).

    `since` is the time of the last metrics, 0 before the first, and `due` when the next are due. `flow` is the order
    flow since then, None when it is not known for the whole interval. Times are UTC nanoseconds.
    """

    since: int = 0
    due: int = 0
    flow: Decimal | None = None
    changes: int = 0
    best_price_changes: int = 0


class BooksState(msgspec.Struct):
    """One symbol's book. `updates` counts updates from the snapshot (1) on; 0 means that there is no snapshot.

    `marked` is why the line marks the book as invalid or, without a snapshot, why there is none. `reason`, `bid` and
    `ask` are those of the last quote; `ts_event` is the newest event time. `line`, `sequence` and `ts_recv` are those
    of the last event. `metrics` is the past of its metrics. Times are UTC nanoseconds.
    """

    book: L2Book
    updates: int = 0
    marked: str = RESYNCING
    reason: str = RESYNCING
    bid: Level | None = None
    ask: Level | None = None
    sequence: int | None = None
    ts_event: int = 0
    ts_recv: int = 0
    line: str = ""
    metrics: MetricsState = msgspec.field(default_factory=MetricsState)
