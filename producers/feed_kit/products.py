"""What a feed knows of one product, and the gaps that are open for it.

A venue that changes a tick size tells nobody. A trade off the tick that we know shows it: unless the venue listed that
tick within the last minute, nothing is known of the tick any more, until the venue is asked again (see `listing`).
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.decimals import EXACT
from marketdata.events import HALTED, Instrument
from producers.feed_kit.trade_ids import Recent, TradeIds

# Product states in which orders match; in every other known state what is sent is halted.
MATCHING = frozenset({"online", "limit_only", "unknown"})

# For so long what the venue lists is its word on what its prices are.
LISTED_NS = 60 * SECOND_NS

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
    `ts_whole` is when the last one before a loss was made. `ts_listed` is when the venue last listed the product, by
    our clock; None where it cannot be asked. `off_tick`: it should be asked, as a trade was off the tick.
    """

    __slots__ = (
        "_tick", "book_seen", "book_valid", "gap", "instrument", "name", "off_tick", "symbol", "told", "trade_gap",
        "trade_ids", "ts_book", "ts_listed", "ts_trade", "ts_whole",
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
        self.ts_listed: int | None = None
        self.off_tick = False
        self._tick: tuple[str, Decimal] = ("", Decimal(0))

    def doubts_tick(self, prices: Iterable[str], ts: int) -> bool:
        """Tell whether prices of trades show that the tick is another one, which is forgotten then."""
        text = self.instrument.tick_size
        if text is None or self.ts_listed is None:
            return False
        if self._tick[0] != text:
            self._tick = (text, Decimal(text))
        tick = self._tick[1]
        if tick <= 0 or not any(EXACT.remainder(Decimal(price), tick) for price in prices):
            return False
        self.off_tick = True
        if ts - self.ts_listed < LISTED_NS:
            return False
        self.instrument = msgspec.structs.replace(self.instrument, ts_recv=ts, tick_size=None)
        return True

    @property
    def validity(self) -> dict[str, Any]:
        """The fields `valid` and `reason` of what this product sends now."""
        return _VALID if self.instrument.status in MATCHING else _HALTED

    @property
    def ts_last(self) -> int | None:
        """When the last good value of this product was made, venue's clock."""
        return max((ts for ts in (self.ts_book, self.ts_trade) if ts is not None), default=None)
