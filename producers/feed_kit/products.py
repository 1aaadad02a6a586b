"""What a feed knows of one product, and the gaps that are open for it."""

from __future__ import annotations

from typing import Any

from marketdata.events import HALTED, Instrument
from producers.feed_kit.trade_ids import Recent, TradeIds

# Product states in which orders match; in every other known state what is sent is halted.
MATCHING = frozenset({"online", "limit_only", "unknown"})

_VALID: dict[str, Any] = {"valid": True, "reason": ""}
_HALTED: dict[str, Any] = {"valid": False, "reason": HALTED}


class Gap:
    """An entry of the ledger that is open: `pending` are the channels that are not yet accounted for."""

    __slots__ = ("gap_id", "pending", "ts_from")

    def __init__(self, gap_id: str, ts_from: int | None, pending: set[str]) -> None:
        self.gap_id = gap_id
        self.ts_from = ts_from
        self.pending = pending


class Product:
    """One product of one line. `name` is the venue's own, `symbol` ours; `book_valid`: consumers hold a good book.

    Of trades that were told, `trade_ids` has the numbers, `told` the ids where they are no numbers that rise by one;
    `ts_whole` is when the last one before a loss was made.
    """

    __slots__ = (
        "book_seen", "book_valid", "gap", "instrument", "name", "symbol", "told", "trade_gap", "trade_ids", "ts_book",
        "ts_trade", "ts_whole",
    )  # fmt: skip

    def __init__(self, instrument: Instrument) -> None:
        self.name = instrument.venue_symbol
        self.symbol = instrument.symbol
        self.instrument = instrument
        self.book_valid = False
        self.book_seen = False
        self.ts_book: int | None = None
        self.ts_trade: int | None = None
        self.ts_whole: int | None = None
        self.trade_ids = TradeIds()
        self.told = Recent()
        self.gap: Gap | None = None
        self.trade_gap: Gap | None = None

    @property
    def validity(self) -> dict[str, Any]:
        """The fields `valid` and `reason` of what this product sends now."""
        return _VALID if self.instrument.status in MATCHING else _HALTED

    @property
    def ts_last(self) -> int | None:
        """When the last good value of this product was made, venue's clock."""
        return max((ts for ts in (self.ts_book, self.ts_trade) if ts is not None), default=None)
