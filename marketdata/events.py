"""Every event that Tickstream publishes, one class per Avro schema in `schemas/`.

Prices and sizes are the venue's own decimal strings. `ts_event` is the venue's clock and `ts_recv` ours, both integer
UTC nanoseconds. `valid` states whether the value may be trusted, and `reason` why not. None means that the value is
unknown. An enum of a schema is a plain string here. The `.avsc` files document every field.
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
UNSUBSCRIBED = "unsubscribed"

# Kinds of instruments whose prices are always positive. Futures have settled below zero (CME crude oil, April 2020).
POSITIVE_KINDS = frozenset({"spot", "equity"})

# Longer than any venue's trade id; bounds the memory that a hostile id can use.
TRADE_ID_LENGTH_MAX = 128

# What a sequence number counts: what one connection sent (also where it is unknown), or the changes of the symbol, with
# the same numbers on every connection.
CONNECTION = "connection"
SYMBOL = "symbol"

# What a trade may be excluded from, in the order in which it is written.
VOLUME = "volume"
HIGH_LOW = "high_low"
OPEN_CLOSE = "open_close"
EXCLUSIONS = (VOLUME, HIGH_LOW, OPEN_CLOSE)

# More conditions than any venue puts on one trade, and longer than any of them; they bound what hostile input can use.
CONDITIONS_MAX = 16
CONDITION_LENGTH_MAX = 64

# The symbol of an event that concerns the whole connection, and the venue of one that concerns all venues.
ALL_SYMBOLS = "*"
ALL_VENUES = "*"


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every event has: a venue and a symbol, which together are its key."""

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
    """One execution. `side` is the aggressor's. A correction replaces `original_id`; a cancel removes `trade_id`.

    `conditions` are the venue's own codes for how the trade came about. `excluded_from` is what the trade does not
    update: `volume` (also the number of trades), `high_low`, `open_close` (also the last price). Such a trade is an
    event like any other; candles and statistics leave it out where it is excluded.
    """

    trade_id: str
    ts_event: int
    price: str
    size: str
    side: str
    liquidation: bool = False
    action: str = "new"
    original_id: str = ""
    conditions: tuple[str, ...] = ()
    excluded_from: tuple[str, ...] = ()

    @property
    def updates_nothing(self) -> bool:
        """Whether the trade is excluded from everything."""
        return len(self.excluded_from) == len(EXCLUSIONS)


class Trades(Event, frozen=True, kw_only=True, gc=False):
    """The trades of one symbol in one venue frame, oldest first; an empty tuple means no trades up to `ts_event`.

    Repairs set `complete_from`: the stream now contains every trade of [complete_from, ts_event). `amendable` states
    that the venue may correct or cancel these trades later; other venues may do so too, but are not known to.
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
    amendable: bool = False
    trades: tuple[Trade, ...] = ()


class BookUpdate(Event, frozen=True, kw_only=True, gc=False):
    """A change of one symbol's L2 book; `kind` is snapshot, update, clear or heartbeat."""

    schema: ClassVar[str] = "BookUpdate"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    sequence_scope: str = CONNECTION
    origin: str = "live"
    valid: bool = True
    reason: str = ""
    kind: str
    bid_prices: list[str] = []
    bid_sizes: list[str] = []
    ask_prices: list[str] = []
    ask_sizes: list[str] = []


class Quote(Event, frozen=True, kw_only=True, gc=False):
    """Best bid and ask (`source` is venue or book), with the venue's 24-hour statistics where it sends them."""

    schema: ClassVar[str] = "Quote"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    sequence_scope: str = CONNECTION
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


class Liquidation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One forced trade as the venue reports it apart from its trades. `side` is that of the liquidation order."""

    ts_event: int
    side: str
    price: str
    size: str
    liquidation_id: str | None = None


class Derivative(Event, frozen=True, kw_only=True, gc=False):
    """What a venue sends about a derivative besides trades and books. A field that it did not send is None.

    Each event has only what one message of the venue had: the newest value of a field is in the newest event that has
    it. Rates and volatilities are fractions (0.0001 is 0.01 %), `funding_interval` is in seconds, `open_interest` in
    the units of a trade's size, and `open_interest_value` in the quote currency.
    """

    schema: ClassVar[str] = "Derivative"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    origin: str = "live"
    valid: bool = True
    reason: str = ""
    mark_price: str | None = None
    index_price: str | None = None
    open_interest: str | None = None
    open_interest_value: str | None = None
    funding_rate: str | None = None
    next_funding_ts: int | None = None
    predicted_funding_rate: str | None = None
    funding_interval: int | None = None
    delta: str | None = None
    gamma: str | None = None
    vega: str | None = None
    theta: str | None = None
    rho: str | None = None
    bid_iv: str | None = None
    ask_iv: str | None = None
    mark_iv: str | None = None
    underlying_price: str | None = None
    liquidations: tuple[Liquidation, ...] = ()


class FeedStatus(Event, frozen=True, kw_only=True, gc=False):
    """Something that happened to a feed; a gap and the resynced that closes it have the same `gap_id`."""

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
    """An instrument as the venue lists it."""

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
    expiry: int | None = None
    strike: str | None = None
    contract_multiplier: str | None = None
    settlement_currency: str | None = None
    inverse: bool | None = None


class Book(Event, frozen=True, kw_only=True, gc=False):
    """The best levels of one symbol's L2 book at one moment, best first, at most `depth` a side."""

    schema: ClassVar[str] = "Book"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    origin: str = "live"
    valid: bool
    reason: str = ""
    depth: int
    updates: int = 0
    bid_prices: list[str]
    bid_sizes: list[str]
    ask_prices: list[str]
    ask_sizes: list[str]


class Metrics(Event, frozen=True, kw_only=True, gc=False):
    """Metrics of one symbol's book at `ts_event`, and its order flow in [ts_from, ts_event).

    A value is None where it is unknown: all are while the book is not valid. `depth_bps` are distances from the middle
    price in basis points, and `bid_depths` and `ask_depths` the sums of sizes within each of them.
    """

    schema: ClassVar[str] = "Metrics"

    ts_event: int
    ts_recv: int
    line: str
    sequence: int | None = None
    origin: str = "live"
    valid: bool
    reason: str = ""
    ts_from: int
    bid: str | None = None
    bid_size: str | None = None
    ask: str | None = None
    ask_size: str | None = None
    mid: str | None = None
    microprice: str | None = None
    spread: str | None = None
    spread_bps: str | None = None
    imbalance: str | None = None
    depth_bps: list[str] = []
    bid_depths: list[str] = []
    ask_depths: list[str] = []
    bid_reach_bps: str | None = None
    ask_reach_bps: str | None = None
    order_flow: str | None = None
    changes: int = 0
    best_price_changes: int = 0


class VenuePrice(Event, frozen=True, kw_only=True, gc=False):
    """The middle price of the book of `of_venue`; `venue` is `*`, so that all venues of a symbol have one key."""

    schema: ClassVar[str] = "VenuePrice"

    ts_event: int
    ts_recv: int
    line: str
    of_venue: str
    price: str | None = None
    valid: bool
    reason: str = ""


class Candle(Event, frozen=True, kw_only=True, gc=False):
    """Open, high, low, close and volume of [start, end); `state` is open, final or revised.

    Bars by recipe also have the recipe's name and hash, sums by side and `vwap`, a quotient rounded to 18 digits. Those
    of trades, volume or value have a `number`, which distinguishes bars with the same start.
    """

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
    quote_volume: str | None = None
    buy_volume: str | None = None
    trades: int | None = None
    state: str = "open"
    revision: int = 0
    origin: str = "live"
    valid: bool = True
    reason: str = ""
    recipe: str = ""
    recipe_hash: str = ""
    number: int | None = None
    vwap: str | None = None
    sell_volume: str | None = None
    buy_trades: int | None = None
    sell_trades: int | None = None

    @property
    def key(self) -> str:
        """Kafka key, `venue:symbol|interval|start`, so that compaction keeps the last revision of each candle.

        A bar with a number has a fourth part, the number.
        """
        key = f"{self.venue}:{self.symbol}|{self.interval}|{self.start}"
        return key if self.number is None else f"{key}|{self.number}"


class CandleHistory(Event, frozen=True, kw_only=True, gc=False):
    """Consecutive closed candles of one interval, from `start` on, from a venue's history; columns have equal lengths.

    An empty open, high, low and close mark an interval without trades. All candles have the same `revision`.
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
    quote_volumes: list[str | None]
    buy_volumes: list[str | None]
    trades: list[int | None]


class Anomaly(Event, frozen=True, kw_only=True, gc=False):
    """An unusual market or data condition: one event when it starts, at peaks, and when it ends (`phase`).

    Each event states all of the anomaly so far. All events of one anomaly have the same `anomaly_id`; `ts_end` is None
    until it has ended.
    """

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
    phase: str = "start"
    ts_start: int | None = None
    ts_peak: int | None = None
    ts_end: int | None = None
    usual: str | None = None
    text: str = ""


class DeadLetter(Event, frozen=True, kw_only=True, gc=False):
    """A frame or record that could not be used, with the reason and its bytes."""

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


class Checkpoint(Event, frozen=True, kw_only=True, gc=False):
    """The states of a chain's operators for one symbol, after the input record at `offset`.

    `chain` is the logical name of the input topic, `states` maps operator name to its state (MessagePack).
    """

    schema: ClassVar[str] = "Checkpoint"

    chain: str
    partition: int
    offset: int
    topic_id: str
    ts_recv: int
    states: dict[str, bytes]

    @property
    def key(self) -> str:
        """Kafka key, `chain|venue:symbol`."""
        return f"{self.chain}|{self.venue}:{self.symbol}"


AnyEvent = (
    RawFrame
    | Trades
    | BookUpdate
    | Quote
    | Derivative
    | FeedStatus
    | Instrument
    | Book
    | Metrics
    | VenuePrice
    | Candle
    | CandleHistory
    | Anomaly
    | DeadLetter
    | Checkpoint
)

EVENTS: tuple[type[AnyEvent], ...] = (
    RawFrame,
    Trades,
    BookUpdate,
    Quote,
    Derivative,
    FeedStatus,
    Instrument,
    Book,
    Metrics,
    VenuePrice,
    Candle,
    CandleHistory,
    Anomaly,
    DeadLetter,
    Checkpoint,
)
