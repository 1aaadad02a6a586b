"""What a feed knows of one product, and the gaps that are open for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marketdata.clock import SECOND_NS
from marketdata.events import HALTED, Instrument
from producers.venues.kit.ticks import Tick
from producers.venues.kit.trade_ids import Recent, TradeIds

# Product states in which orders match; in every other known state what is sent is halted.
MATCHING = frozenset({"online", "limit_only", "unknown"})

# How much later than others a trade may come; candles wait as long (their grace period).
LATE_NS = 2 * SECOND_NS

_VALID: dict[str, Any] = {"valid": True, "reason": ""}
_HALTED: dict[str, Any] = {"valid": False, "reason": HALTED}


class Gap:
    """An open entry of the ledger: `pending` are the channels that are not yet complete again.

    `first` and `last` are the trade ids that are missing, where it is about ids.
    """

    __slots__ = ("first", "gap_id", "last", "pending", "ts_from")

    def __init__(self, gap_id: str, ts_from: int | None, pending: set[str]) -> None:
        self.gap_id = gap_id
        self.first, self.last = 0, -1
        self.ts_from = ts_from
        self.pending = pending


class Product:
    """One product of one line. `name` is the venue's own, `symbol` ours; `book_valid`: consumers hold a good book.

    Of the trades that were published, `trade_ids` has the numbers, `sent_ids` the ids of venues that do not number
    them. Times are the venue's, in UTC nanoseconds: `ts_trade` of the newest trade, `ts_book` of the newest book
    event, `ts_trades_vouched` and `ts_book_vouched` of the newest heartbeat of each, `ts_trades_numbered` of the newest
    one that named the last trade. What the frame that came at `ts_passed` (our time) was taken to prove replaced
    `ts_vouched_before`. `off_tick`: a trade was off the
    tick since the venue was last asked for its products.

    A loss of trades (see `kit.trades`): `trades_lost` from the loss until it is repaired or put on the ledger;
    `ts_lost` is our time of it, `ts_whole` the venue's time until which trades were complete before, `ts_trade_before`
    that of the last trade before it, `ts_back` that of the first trade after it, from which on nothing is missing.
    `unproven`: no trade id from before the loss is known. `complete_from` is to be published with the next valid event.
    `missing_since` is the `ts_whole` of trades that are on the ledger and may still come.

    `validity` has the fields `valid` and `reason` of what the product sends now, but for a loss of trades.
    `is_played`: the product comes from a recording, so that nobody answers what is asked.
    """

    __slots__ = (
        "_tick", "book_seen", "book_valid", "complete_from", "gap", "instrument", "is_played", "missing_since", "name",
        "off_tick", "sent_ids", "symbol", "trade_gaps", "trade_ids", "trades_lost", "ts_back", "ts_book",
        "ts_book_vouched", "ts_lost", "ts_passed", "ts_trade", "ts_trade_before", "ts_trades_numbered",
        "ts_trades_vouched", "ts_vouched_before", "ts_whole", "unproven", "validity",
    )  # fmt: skip

    def __init__(self, instrument: Instrument) -> None:
        self.name = instrument.venue_symbol
        self.symbol = instrument.symbol
        self.learn(instrument)
        self.book_valid = False
        self.book_seen = False
        self.ts_book: int | None = None
        self.ts_book_vouched: int | None = None
        self.ts_trade: int | None = None
        self.ts_trades_vouched: int | None = None
        self.ts_trades_numbered: int | None = None
        self.ts_passed = 0
        self.ts_vouched_before: int | None = None
        self.trades_lost = False
        self.ts_lost = 0
        self.ts_whole: int | None = None
        self.ts_back: int | None = None
        self.complete_from: int | None = None
        self.missing_since: int | None = None
        self.ts_trade_before: int | None = None
        self.unproven = False
        self.is_played = False
        self.trade_ids = TradeIds()
        self.sent_ids = Recent()
        self.gap: Gap | None = None
        self.trade_gaps: list[Gap] = []
        self.off_tick = False
        self._tick: Tick | None = None

    def count_off_tick(self, prices: Sequence[str]) -> int:
        """Return how many of these prices are off the tick that the venue lists, if it lists one."""
        text = self.instrument.tick_size
        if text is None:
            return 0
        if self._tick is None or self._tick.text != text:
            self._tick = Tick(text)
        return self._tick.count_off(prices)

    def learn(self, instrument: Instrument) -> None:
        """Take what is known of the product now."""
        self.instrument = instrument
        self.validity = _VALID if instrument.status in MATCHING else _HALTED

    @property
    def ts_trades_whole(self) -> int | None:
        """Until when trades are known to be complete: the last heartbeat, or a little before the last trade.

        Where no heartbeat ever came it is the last trade itself: consumers date a loss from a little before it.
        """
        if self.trades_lost:
            return self.ts_whole
        if self.ts_trades_vouched is None or self.ts_trade is None:
            return self.ts_trade if self.ts_trades_vouched is None else self.ts_trades_vouched
        return max(self.ts_trades_vouched, self.ts_trade - LATE_NS)

    @property
    def ts_book_whole(self) -> int | None:
        """Until when the book is known to be right: the later of its last change and its last heartbeat."""
        return max((ts for ts in (self.ts_book, self.ts_book_vouched) if ts is not None), default=None)
