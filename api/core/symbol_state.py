"""What memory holds of one symbol of one venue, pure: its book, trades, candles, metrics, anomalies and statuses."""

from __future__ import annotations

from collections import deque

import msgspec

from api.core.derivatives import DerivativeState
from api.core.statistics import Day
from api.core.trust import UNKNOWN, Trust
from marketdata.book import L2Book
from marketdata.events import HALTED, Anomaly, Candle, FeedStatus, Instrument, Metrics, Quote, Trade

TRADES_MAX = 1_000
STATUSES_MAX = 50

INTERVALS = ("1m", "5m", "15m", "1h", "4h", "1d")


class NumberedTrade(msgspec.Struct, frozen=True, gc=False):
    """A trade with its count since the start; the record (offset, item) that brought it orders trades of equal time."""

    number: int
    offset: int
    item: int
    trade: Trade
    trust: Trust
    ts_recv: int


# A candle's place in its interval: its start, and its number (-1 for bars of time).
Place = tuple[int, int]


class NumberedCandle(msgspec.Struct, frozen=True, gc=False):
    """A candle with the count of changes of its interval when it last changed, and the offset of its record."""

    number: int
    offset: int
    candle: Candle


class NumberedMetrics(msgspec.Struct, frozen=True, gc=False):
    """Metrics with their count since the start, and the offset of their record, which orders those of equal time."""

    number: int
    offset: int
    metrics: Metrics


class NumberedAnomaly(msgspec.Struct, frozen=True, gc=False):
    """An anomaly as it is now, with the count of changes of anomalies when it last changed, and its record's offset."""

    number: int
    offset: int
    anomaly: Anomaly


class NumberedStatus(msgspec.Struct, frozen=True, gc=False):
    """A feed's status with its count since the start, and the offset of its record."""

    number: int
    offset: int
    status: FeedStatus


class Ticker(msgspec.Struct, frozen=True):
    """Best bid and offer with the statistics of the day; `trust` without regard to age."""

    ts_event: int
    ts_recv: int
    trust: Trust
    from_book: bool
    data: dict[str, str | None]


class BookState:
    """One symbol's L2 book and whether it may be trusted."""

    __slots__ = ("book", "known", "levels_changed", "line", "offset", "sequence", "trust", "ts_event", "ts_recv")

    def __init__(self) -> None:
        self.book = L2Book()
        self.known = False
        self.trust = UNKNOWN
        self.ts_event = 0
        self.ts_recv = 0
        self.line = ""
        self.sequence: int | None = None
        self.offset = -1  # of the last record; -1 before the first, and while only a checkpoint is known
        self.levels_changed = 0  # count of changes, so that prepared answers know when they are old


class SymbolState:
    """All that is known of one symbol of one venue."""

    def __init__(self, venue: str, symbol: str) -> None:
        self.venue = venue
        self.symbol = symbol
        self.book = BookState()
        self.depths: dict[int, int] = {}  # depth -> how many watch it
        self.book_quote: Quote | None = None
        self.venue_quote: Quote | None = None
        self.ticker: Ticker | None = None
        self.ticker_number = 0
        self.trades: deque[NumberedTrade] = deque(maxlen=TRADES_MAX)
        self.trade_number = 0
        self.trades_floor = -1  # every trade later than this is in `trades`; -1 until there is one
        self.trades_trust = UNKNOWN
        self.trades_ts_event = 0
        self.trades_ts_recv = 0
        self.last: Trade | None = None  # the newest that stands and is not excluded from open_close
        self.amendments: dict[str, Trade] = {}  # by the id of the trade that they correct or cancel
        self.candles: dict[str, dict[Place, NumberedCandle]] = {interval: {} for interval in INTERVALS}
        self.candle_numbers = dict.fromkeys(INTERVALS, 0)
        self.day = Day()
        self.metrics: NumberedMetrics | None = None
        self.anomalies: dict[str, NumberedAnomaly] = {}  # each as it is now, by id, in order of change
        self.anomaly_number = 0
        self.statuses: deque[NumberedStatus] = deque(maxlen=STATUSES_MAX)
        self.status_number = 0
        self.derivative: DerivativeState | None = None  # made with its first event
        self.instrument: Instrument | None = None
        self.messages = 0  # taken in since the start
        self.epochs: dict[str, str] = {}  # by schema: the partition that the last record came from (see `positions`)

    @property
    def ticker_ts_recv(self) -> int:
        """When the ticker was last known to hold: heartbeats of a book confirm its best prices."""
        if self.ticker is None:
            return 0
        return max(self.ticker.ts_recv, self.book.ts_recv) if self.ticker.from_book else self.ticker.ts_recv

    @property
    def ts_recv(self) -> int:
        """When anything of this symbol was received last, UTC nanoseconds; 0 for never."""
        derivative = 0 if self.derivative is None else self.derivative.ts_recv
        return max(self.book.ts_recv, self.trades_ts_recv, self.ticker_ts_recv, derivative)

    @property
    def has_data(self) -> bool:
        """Return whether any market data came for this symbol, not only its description."""
        return self.ts_recv > 0 or any(self.candles.values())


def place_of(candle: Candle) -> Place:
    """Return where a candle is among those of its interval."""
    return candle.start, -1 if candle.number is None else candle.number


def halted(state: SymbolState) -> bool:
    """Return whether the venue halted trading in this symbol."""
    return HALTED in {state.book.trust.reason, state.trades_trust.reason}
