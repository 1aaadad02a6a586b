"""The state of the operator `books`: one symbol's order book, as the pipeline's checkpoints contain it."""

from __future__ import annotations

import msgspec

from marketdata.book import L2Book, Level
from marketdata.events import RESYNCING

# The operator's name, and the topic whose chain it belongs to: where a checkpoint has this state.
OPERATOR = "books"
CHAIN = "md.ingest.books"


class BooksState(msgspec.Struct):
    """One symbol's book. `updates` counts since the snapshot, which is the first; 0 means that there is none.

    `marked` is why the line says not to trust the book, or, without a snapshot, why there is none. `reason`, `bid` and
    `ask` are those of the last quote; `ts_event` is the newest event time. `line`, `sequence` and `ts_recv` are those
    of the last event, times in UTC nanoseconds.
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
