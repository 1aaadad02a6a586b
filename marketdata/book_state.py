"""The state of the operator `books`: one symbol's order book, as stored in the pipeline's checkpoints."""

from __future__ import annotations

import msgspec

from marketdata.book import L2Book, Level
from marketdata.events import RESYNCING

# The operator's name and the input topic of its chain, which locate this state in a checkpoint.
OPERATOR = "books"
CHAIN = "md.ingest.books"


class BooksState(msgspec.Struct):
    """One symbol's book. `updates` counts updates from the snapshot (1) on; 0 means that there is no snapshot.

    `marked` is why the line marks the book as invalid or, without a snapshot, why there is none. `reason`, `bid` and
    `ask` are those of the last quote; `ts_event` is the newest event time. `line`, `sequence` and `ts_recv` are those
    of the last event. Times are UTC nanoseconds.
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
