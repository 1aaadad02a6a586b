"""Every event that travels through Tickstream, one class per Avro schema in `schemas/`.

Prices and sizes are the venue's own decimal strings. `ts_event` is the venue's clock and `ts_recv` ours, both integer
UTC nanoseconds. `valid` says whether the value may be trusted and `reason` why not. What each field means is written
once, in the `.avsc` files.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

# Reasons why a value may not be trusted.
GAP = "gap"
STALE = "stale"
CROSSED = "crossed"
CHECKSUM = "checksum"
HALTED = "halted"
RESYNCING = "resyncing"
DISCONNECTED = "disconnected"
AMENDED = "amended"

# What is owned outright has a positive price; contracts have settled below zero (CME's oil in April 2020).
POSITIVE_KINDS = frozenset({"spot", "equity"})

# Venues whose feeds tell corrections and cancels of trades. Another one's trades are remembered for such from its first
# amendment on.
AMENDING = frozenset({"alpaca", "fix"})

# Longer than any venue's trade id; a limit so that a hostile one cannot cost us memory.
TRADE_ID_LENGTH_MAX = 128

# Every symbol of a connection at once, where an event concerns the connection itself.
ALL_SYMBOLS = "*"


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every event has: a venue and a symbol, which together key it."""

    schema: ClassVar[str]

    venue: str
    symbol: str

    @property
    def key(self) -> str:
        """Kafka key, `venue:symbol`."""
        return f"{self.venue}:{self.symbol}"


class RawFrame(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One frame as received from (or sent to) a venue, byte for byte; keyed by its connection."""

    schema: ClassVar[str] = "RawFrame"

    venue: str
    line: str
    number: int
    ts_recv: int
    kind: str
    data: bytes
    url: str | None = None

    @property
    def key(self) -> str:
        """Kafka key, the connection."""
        return self.line


class Trade(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One execution; `side` is the aggressor's. A correction takes the place of `original_id`, a cancel its own id."""

    trade_id: str
    ts_event: int
    price: str
    size: str
    side: str
    liquidation: bool = False
    action: str = "new"
    original_id: str = ""


class Trades(Event, frozen=True, kw_only=True, gc=False):
    """The trades that one venue frame brought for one symbol, oldest first; an empty tuple is a heartbeat.

    `complete_from` is told by repairs: every trade of [complete_from, ts_event) is in the stream by now.
    """

    schema: ClassVar[str] = "Trades"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    origin: str = "live"
    valid: bool = True
    reason: str = ""
    complete_from: int | None = None
    trades: tuple[Trade, ...] = ()


class BookUpdate(Event, frozen=True, kw_only=True, gc=False):
    """A change of one symbol's L2 book; `kind` is snapshot, update, clear or heartbeat."""

    schema: ClassVar[str] = "BookUpdate"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    origin: str = "live"
    valid: bool = True
    reason: str = ""
    kind: str
    bid_prices: list[str] = []
    bid_sizes: list[str] = []
    ask_prices: list[str] = []
    ask_sizes: list[str] = []


class Quote(Event, frozen=True, kw_only=True, gc=False):
    """Best bid and offer (`source` venue or book), with the venue's 24-hour statistics where it sends them."""

    schema: ClassVar[str] = "Quote"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    origin: str = "live"
    valid: bool = True
    reason: str = ""
    source: str = "venue"
    bid: str | None = None
    bid_size: str | None = None
    ask: str | None = None
    ask_size: str | None = None
    last: str | None = None
    volume_24h: str | None = None
    high_24h: str | None = None
    low_24h: str | None = None
    change_24h: str | None = None


class FeedStatus(Event, frozen=True, kw_only=True, gc=False):
    """What happened to a feed; a gap and the resynced that closes it share a `gap_id`."""

    schema: ClassVar[str] = "FeedStatus"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    origin: str = "live"
    kind: str
    reason: str = ""
    detail: str = ""
    channel: str | None = None
    gap_id: str | None = None
    expected: int | None = None
    received: int | None = None
    ts_from: int | None = None
    ts_to: int | None = None


class Instrument(Event, frozen=True, kw_only=True, gc=False):
    """What a venue trades under a symbol."""

    schema: ClassVar[str] = "Instrument"

    ts_recv: int
    venue_symbol: str
    base_currency: str
    quote_currency: str
    tick_size: str | None = None
    size_increment: str | None = None
    min_order_size: str | None = None
    status: str = "unknown"
    kind: str = "spot"


class Book(Event, frozen=True, kw_only=True, gc=False):
    """One symbol's L2 book at one moment, best levels first; `kind` is top or full."""

    schema: ClassVar[str] = "Book"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    origin: str = "live"
    valid: bool
    reason: str = ""
    kind: str
    depth: int
    updates: int = 0
    bid_prices: list[str]
    bid_sizes: list[str]
    ask_prices: list[str]
    ask_sizes: list[str]

    @property
    def key(self) -> str:
        """Kafka key: `venue:symbol`, and `venue:symbol|full` for a checkpoint, so that compaction keeps both."""
        return f"{self.venue}:{self.symbol}|full" if self.kind == "full" else f"{self.venue}:{self.symbol}"


class Candle(Event, frozen=True, kw_only=True, gc=False):
    """Open, high, low, close and volume of [start, end); `state` is open, final or revised."""

    schema: ClassVar[str] = "Candle"

    interval: str
    start: int
    end: int
    ts_event: int
    ts_recv: int
    open: str | None = None
    high: str | None = None
    low: str | None = None
    close: str | None = None
    volume: str = "0"
    quote_volume: str = "0"
    buy_volume: str = "0"
    trades: int = 0
    state: str = "open"
    revision: int = 0
    origin: str = "live"
    valid: bool = True
    reason: str = ""

    @property
    def key(self) -> str:
        """Kafka key, `venue:symbol|interval|start`, so that compaction keeps the last revision of each candle."""
        return f"{self.venue}:{self.symbol}|{self.interval}|{self.start}"


class CandleHistory(Event, frozen=True, kw_only=True, gc=False):
    """Closed candles of one interval that follow each other from `start` on, as history tells them; columns are even.

    No open (nor high, low, close) is an interval without trades. All have the same `revision`.
    """

    schema: ClassVar[str] = "CandleHistory"

    ts_event: int
    ts_recv: int
    line: str
    origin: str = "backfill"
    interval: str
    start: int
    revision: int = 0
    opens: list[str]
    highs: list[str]
    lows: list[str]
    closes: list[str]
    volumes: list[str]
    quote_volumes: list[str]
    buy_volumes: list[str]
    trades: list[int]


class Anomaly(Event, frozen=True, kw_only=True, gc=False):
    """Something about the market or its data that a person or a strategy should know."""

    schema: ClassVar[str] = "Anomaly"

    ts_event: int
    ts_recv: int
    anomaly_id: str
    kind: str
    severity: str
    metric: str
    value: str
    limit: str
    evidence: dict[str, str]


class DeadLetter(Event, frozen=True, kw_only=True, gc=False):
    """Something that could not be used, with the reason and its bytes."""

    schema: ClassVar[str] = "DeadLetter"

    ts_recv: int
    stage: str
    reason: str
    detail: str = ""
    field: str | None = None
    value: str | None = None
    line: str = ""
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    payload: bytes


class OperatorState(Event, frozen=True, kw_only=True, gc=False):
    """Checkpoint of one operator's state for one key, as JSON, with the input positions that it reflects."""

    schema: ClassVar[str] = "OperatorState"

    operator: str
    ts_recv: int
    positions: dict[str, int]
    state: str

    @property
    def key(self) -> str:
        """Kafka key, `operator|venue:symbol`."""
        return f"{self.operator}|{self.venue}:{self.symbol}"


AnyEvent = (
    RawFrame
    | Trades
    | BookUpdate
    | Quote
    | FeedStatus
    | Instrument
    | Book
    | Candle
    | CandleHistory
    | Anomaly
    | DeadLetter
    | OperatorState
)

EVENTS: tuple[type[AnyEvent], ...] = (
    RawFrame,
    Trades,
    BookUpdate,
    Quote,
    FeedStatus,
    Instrument,
    Book,
    Candle,
    CandleHistory,
    Anomaly,
    DeadLetter,
    OperatorState,
)
