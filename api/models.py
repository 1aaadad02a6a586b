"""The shapes of the answers for the OpenAPI description; tests hold the real answers to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_TIME = "2026-08-09T21:05:48.228568Z"

Price = Annotated[str, Field(description="Decimal string, exact.", examples=["64250.01"])]
Time = Annotated[str, Field(description="RFC 3339, microseconds, UTC.", examples=[_TIME])]
Level = Annotated[
    list[str], Field(min_length=2, max_length=2, description="`[price, size]`.", examples=[["64250.01", "0.5"]])
]
Venue = Annotated[str, Field(description="Venue name.", examples=["coinbase"])]
Symbol = Annotated[str, Field(description="Symbol.", examples=["BTC-USD"])]
Cursor = Annotated[
    str | None,
    Field(description="Give it as `cursor` for the next, older page; null on the last page.", examples=[None]),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Answer(_Model):
    venue: Venue
    symbol: Symbol
    timestamp: Time
    valid: Annotated[bool, Field(description="Whether the value may be trusted.", examples=[True])]
    reason: Annotated[
        str,
        Field(
            description="Empty when valid; else gap, stale, crossed, checksum, halted, resyncing, disconnected or, of "
            "a candle, amended.",
            examples=[""],
        ),
    ]


class TickerData(_Model):
    """Best bid and offer, last trade and the last 24 hours; null where it is not known."""

    bid: Price | None
    bid_size: Price | None
    ask: Price | None
    ask_size: Price | None
    last: Price | None
    volume_24h: Price | None
    high_24h: Price | None
    low_24h: Price | None
    change_24h: Annotated[str | None, Field(description="Percent.", examples=["1.25"])]


class TickerAnswer(_Answer):
    """The ticker of one symbol."""

    type: Literal["ticker"]
    data: TickerData


class BookData(_Model):
    """Best levels first."""

    bids: list[Level]
    asks: list[Level]


class BookAnswer(_Answer):
    """The order book of one symbol; both sides are empty while the book is unknown."""

    type: Literal["l2_snapshot"]
    depth: Annotated[int, Field(description="Levels a side at most.", examples=[20])]
    sequence: Annotated[int | None, Field(description="The venue's sequence number that it reflects.", examples=[17])]
    data: BookData


class TradeData(_Model):
    """One execution."""

    trade_id: Annotated[str, Field(examples=["734210001"])]
    timestamp: Time
    price: Price
    size: Price
    side: Annotated[str, Field(description="Aggressor: buy, sell or unknown.", examples=["buy"])]
    liquidation: Annotated[bool, Field(examples=[False])]
    action: Annotated[str, Field(description="Only when it is not new: correct or cancel, as equities do.")] = "new"
    original_id: Annotated[str, Field(description="Only of a correction: the trade whose place it takes.")] = ""
    valid: Annotated[bool, Field(description="Whether its feed could be trusted then.", examples=[True])]
    reason: Annotated[str, Field(examples=[""])]
    conditions: Annotated[
        list[str], Field(description="The venue's own codes; absent where it sends none.", examples=[["@", "I"]])
    ] = []
    excluded_from: Annotated[
        list[str],
        Field(
            description="What it does not update: volume, high_low, open_close; absent where it updates all.",
            examples=[["high_low", "open_close"]],
        ),
    ] = []


class TradesAnswer(_Answer):
    """Trades, newest first."""

    type: Literal["trades"]
    data: list[TradeData]
    next_cursor: Cursor


class LiquidationData(_Model):
    """One forced trade as the venue reports it apart from its trades."""

    timestamp: Time
    side: Annotated[str, Field(description="Of the liquidation order: sell closes a long position.", examples=["sell"])]
    price: Price
    size: Price
    liquidation_id: Annotated[str | None, Field(examples=[None])]


class _DerivativeFields(_Model):
    mark_price: Price | None
    index_price: Price | None
    open_interest: Annotated[Price | None, Field(description="In the units of a trade's size.")]
    open_interest_value: Annotated[Price | None, Field(description="In the quote currency.")]
    funding_rate: Annotated[str | None, Field(description="A fraction: 0.0001 is 0.01 %.", examples=["0.0001"])]
    predicted_funding_rate: Annotated[str | None, Field(description="Of the next period.", examples=["0.00012"])]
    next_funding_time: Time | None
    funding_interval: Annotated[int | None, Field(description="Seconds between payments.", examples=[28800])]
    delta: Annotated[str | None, Field(examples=["0.52"])]
    gamma: Annotated[str | None, Field(examples=["0.00002"])]
    vega: Annotated[str | None, Field(examples=["110.5"])]
    theta: Annotated[str | None, Field(examples=["-45.1"])]
    rho: Annotated[str | None, Field(examples=["12.3"])]
    bid_iv: Annotated[str | None, Field(description="Implied volatility, a fraction per year.", examples=["0.55"])]
    ask_iv: Annotated[str | None, Field(description="Implied volatility, a fraction per year.", examples=["0.57"])]
    mark_iv: Annotated[str | None, Field(description="Implied volatility, a fraction per year.", examples=["0.56"])]
    underlying_price: Price | None


class DerivativeData(_DerivativeFields):
    """What one message of the venue had; the other fields are null."""

    timestamp: Time
    liquidations: list[LiquidationData]
    origin: Annotated[str, Field(description="live, repair or backfill.", examples=["live"])]
    valid: Annotated[bool, Field(examples=[True])]
    reason: Annotated[str, Field(examples=[""])]


class LatestDerivative(_DerivativeFields):
    """The newest value of each field, null where the venue never sent one."""

    updated: Annotated[
        dict[str, str],
        Field(description="When each value that is not null was valid.", examples=[{"funding_rate": _TIME}]),
    ]


class DerivativesAnswer(_Answer):
    """The latest values, and what the venue sent, newest first."""

    type: Literal["derivatives"]
    latest: LatestDerivative
    data: list[DerivativeData]
    next_cursor: Cursor


class CandleData(_Model):
    """One candle of [start, end); the prices are null where there was no trade. Bars by recipe have more fields."""

    interval: Annotated[
        str, Field(description="Length, or tick:, volume: or value: with the size of a bar.", examples=["1m"])
    ]
    start: Time
    end: Time
    open: Price | None
    high: Price | None
    low: Price | None
    close: Price | None
    volume: Price
    quote_volume: Annotated[Price | None, Field(description="null where the venue does not send it.")]
    buy_volume: Annotated[Price | None, Field(description="null where the venue does not send it.")]
    trades: Annotated[
        int | None,
        Field(
            description="0: the interval is complete and had no trade. null: the venue does not send it.", examples=[42]
        ),
    ]
    state: Annotated[str, Field(description="open, final or revised.", examples=["final"])]
    revision: Annotated[int, Field(description="One more for each later correction.", examples=[0])]
    origin: Annotated[str, Field(description="live, repair or backfill.", examples=["live"])]
    valid: Annotated[bool, Field(examples=[True])]
    reason: Annotated[str, Field(examples=[""])]
    vwap: Annotated[
        Price | None,
        Field(
            description="quote_volume divided by volume, rounded half to even to 18 significant digits; null without "
            "volume or where the venue does not send the sums."
        ),
    ]
    recipe: Annotated[str, Field(description="Name of the recipe.", examples=["five_seconds"])] = ""
    recipe_hash: Annotated[str, Field(description="Identifies what the recipe computes.")] = ""
    number: Annotated[
        int | None, Field(description="One more with each tick, volume or value bar; null for bars of time.")
    ] = None
    sell_volume: Annotated[Price | None, Field(description="Volume of trades whose aggressor sold.")] = None
    buy_trades: Annotated[int | None, Field(description="Trades whose aggressor bought.")] = None
    sell_trades: Annotated[int | None, Field(description="Trades whose aggressor sold.")] = None


class CandlesAnswer(_Answer):
    """Candles, newest first."""

    type: Literal["candles"]
    interval: Annotated[str, Field(description="Of the candles, in its shortest notation.", examples=["1m"])]
    source: Annotated[str, Field(description="Whose they are: `trades` or `venue`.", examples=["trades"])]
    data: list[CandleData]
    next_cursor: Cursor


class MetricsData(_Model):
    """Metrics of a book at one time; null where unknown, as all are while the book is not valid."""

    timestamp: Time
    valid: bool
    reason: Annotated[str, Field(description="Why the book was not valid, empty when it was.", examples=[""])]
    start: Annotated[
        Time, Field(description="Start of the interval of order_flow and the counts; it ends at timestamp.")
    ]
    bid: Price | None
    bid_size: Price | None
    ask: Price | None
    ask_size: Price | None
    mid: Annotated[Price | None, Field(description="(bid + ask) / 2, exact.")]
    microprice: Annotated[
        Price | None, Field(description="(bid * ask_size + ask * bid_size) / (bid_size + ask_size), 18 digits.")
    ]
    spread: Annotated[Price | None, Field(description="ask - bid, exact.", examples=["0.01"])]
    spread_bps: Annotated[Price | None, Field(description="10000 * spread / mid, 18 digits.", examples=["0.0015"])]
    imbalance: Annotated[
        Price | None,
        Field(description="(bid_size - ask_size) / (bid_size + ask_size), 18 digits.", examples=["-0.25"]),
    ]
    depth_bps: Annotated[list[str], Field(description="Distances from mid in basis points.", examples=[["5", "10"]])]
    bid_depths: Annotated[list[str], Field(description="Sizes of the bids within each.", examples=[["1.5", "4"]])]
    ask_depths: Annotated[list[str], Field(description="Sizes of the asks within each.", examples=[["2", "3.25"]])]
    bid_reach_bps: Annotated[
        Price | None, Field(description="Distance of the lowest bid that the venue sends.", examples=["250"])
    ]
    ask_reach_bps: Annotated[
        Price | None, Field(description="Distance of the highest ask that the venue sends.", examples=["250"])
    ]
    order_flow: Annotated[
        str | None,
        Field(
            description="Order flow imbalance (Cont, Kukanov, Stoikov) of the interval; null where the book was not "
            "valid in all of it.",
            examples=["-12.5"],
        ),
    ]
    changes: Annotated[int, Field(description="Levels set or removed in the interval.", examples=[120])]
    best_price_changes: Annotated[int, Field(description="Changes of the best prices.", examples=[4])]


class MetricsAnswer(_Answer):
    """Metrics of a book, newest first."""

    type: Literal["metrics"]
    data: list[MetricsData]
    next_cursor: Cursor


class ConsolidatedSide(_Model):
    """The best price of one side over all valid venues."""

    price: Price
    size: Annotated[str, Field(description="Sum of the sizes at that price.", examples=["1.5"])]
    venues: Annotated[list[str], Field(examples=[["coinbase", "kraken"]])]


class ConsolidatedVenue(_Model):
    """One venue's best prices, and whether they are used."""

    venue: Venue
    symbol: Symbol
    bid: Price | None
    bid_size: Price | None
    ask: Price | None
    ask_size: Price | None
    contract_multiplier: Annotated[str | None, Field(description="Of a contract, whose sizes it multiplies.")]
    valid: Annotated[bool, Field(description="A venue that is not valid is left out.", examples=[True])]
    reason: Annotated[str, Field(examples=[""])]
    timestamp: Time | None
    age_ms: Annotated[int | None, Field(description="How long ago it was received.", examples=[120])]


class ConsolidatedData(_Model):
    """The best bid and offer over all venues."""

    kind: Annotated[
        str, Field(description="Kind of the instrument; unknown where no venue lists it.", examples=["spot"])
    ]
    state: Annotated[
        str,
        Field(description="normal, locked, crossed, one_sided, or unknown without a valid venue.", examples=["normal"]),
    ]
    bid: ConsolidatedSide | None
    ask: ConsolidatedSide | None
    mid: Price | None
    spread: Annotated[Price | None, Field(description="Negative when crossed.", examples=["0.02"])]
    venues: list[ConsolidatedVenue]
    left_out: Annotated[list[str], Field(description="Venues that are not valid now.", examples=[["gemini"]])]


class ConsolidatedAnswer(_Answer):
    """The best bid and offer of one instrument over all venues; valid when at least one venue is."""

    type: Literal["consolidated"]
    data: ConsolidatedData


class ExplainedTrade(_Model):
    """A trade that counted in a candle."""

    trade_id: str
    timestamp: Time
    price: Price
    size: Price
    side: str
    conditions: Annotated[list[str], Field(description="The venue's codes.")]
    counts_in: Annotated[list[str], Field(description="Of volume, high_low and open_close, what it updates.")]
    has_price_of: Annotated[list[str], Field(description="Which of the candle's prices equal its price.")]
    origin: Annotated[str, Field(description="live, repair or backfill.")]
    valid: Annotated[bool, Field(description="Whether its feed could be trusted then.")]
    reason: str
    received: Time


class LeftOutTrade(_Model):
    """A trade that did not count in a candle."""

    trade_id: str
    timestamp: Time
    price: Price
    size: Price
    side: str
    conditions: list[str]
    why: Annotated[str, Field(description="excluded, late, cancelled, corrected, duplicate or refused.")]
    detail: str


class CountedTrades(_Model):
    """The trades that counted: all by number, the first ones in full."""

    count: int
    items: list[ExplainedTrade]


class LeftOutTrades(_Model):
    """The trades that did not count: all by number and reason, the first ones in full."""

    count: int
    by_reason: dict[str, int]
    items: list[LeftOutTrade]


class ExplainedRevision(_Model):
    """One closed state of a candle, with what changed since the one before and why."""

    revision: int
    state: str
    received: Time
    origin: str
    valid: bool
    reason: str
    changes: Annotated[list[dict[str, Any]], Field(description="`field`, `before` and `after`.")]
    because: list[str]


class ExplanationAnswer(_Model):
    """Why a candle is what it is."""

    type: Literal["candle_explanation"]
    venue: Venue
    symbol: Symbol
    interval: Annotated[str, Field(examples=["1m"])]
    start: Time
    end: Time
    verdict: Annotated[
        str,
        Field(
            description="equal: the stored trades make the stored candle. different: they do not. open: it still "
            "changes. from_history: it was taken from the venue's history. not_stored.",
            examples=["equal"],
        ),
    ]
    summary: str
    candle: Annotated[dict[str, Any] | None, Field(description="The stored candle; null if there is none.")]
    recomputed: Annotated[dict[str, Any], Field(description="What the counted trades make.")]
    differences: Annotated[list[dict[str, Any]], Field(description="`field`, `stored` and `recomputed`.")]
    counted: CountedTrades
    left_out: LeftOutTrades
    duplicates_known: Annotated[
        bool, Field(description="Whether `left_out` contains duplicates: only the command line can read them.")
    ]
    revisions: Annotated[list[ExplainedRevision], Field(description="Oldest first.")]
    gaps: Annotated[list[dict[str, Any]], Field(description="Entries of the ledger that overlap the candle.")]
    venue_bar: Annotated[dict[str, Any] | None, Field(description="The venue's own candle, where it is stored.")]
    venue_differences: Annotated[
        list[dict[str, Any]], Field(description="`field`, `ours`, `venue`, and `difference`, ours minus the venue's.")
    ]


class SymbolData(_Model):
    """An instrument; what the venue does not list is null."""

    venue: Venue
    symbol: Symbol
    venue_symbol: Annotated[str, Field(description="As the venue writes it.", examples=["BTC-USD"])]
    base_currency: Annotated[str, Field(examples=["BTC"])]
    quote_currency: Annotated[str, Field(examples=["USD"])]
    min_order_size: Annotated[str | None, Field(examples=["0.00000001"])]
    tick_size: Annotated[str | None, Field(examples=["0.01"])]
    size_increment: Annotated[str | None, Field(examples=["0.00000001"])]
    status: Annotated[str, Field(examples=["online"])]
    kind: Annotated[str, Field(description="spot, future, perpetual, equity, option or unknown.", examples=["spot"])]
    expiry: Annotated[Time | None, Field(description="Of a future or option.")]
    strike: Annotated[Price | None, Field(description="Of an option.")]
    contract_multiplier: Annotated[
        str | None,
        Field(
            description="Units of the underlying (of the quote currency where inverse) in one contract.", examples=["1"]
        ),
    ]
    settlement_currency: Annotated[str | None, Field(examples=["USDT"])]
    inverse: Annotated[bool | None, Field(description="Whether it is settled in its base currency.", examples=[False])]
    valid: Annotated[bool, Field(description="Whether its book or ticker may be trusted now.", examples=[True])]
    reason: Annotated[str, Field(examples=[""])]


class SymbolsAnswer(_Model):
    """Every symbol of every venue."""

    type: Literal["symbols"]
    timestamp: Time
    valid: bool
    reason: str
    data: list[SymbolData]


class GapData(_Model):
    """One gap, from its discovery to its repair."""

    gap_id: Annotated[str, Field(examples=["coinbase/0-1786-42"])]
    venue: Venue
    symbol: Annotated[str, Field(description="* when the whole connection was concerned.", examples=["BTC-USD"])]
    channel: str | None
    line: Annotated[str, Field(examples=["coinbase/0"])]
    reason: Annotated[str, Field(examples=["sequence"])]
    detail: str
    state: Annotated[str, Field(description="open or repaired.", examples=["repaired"])]
    start: Annotated[str | None, Field(description="Start of the affected time.", examples=[_TIME])]
    end: Annotated[str | None, Field(description="End of the affected time.", examples=[_TIME])]
    expected: Annotated[int | None, Field(description="Sequence number that should have come.", examples=[41])]
    received: Annotated[int | None, Field(description="Sequence number that came.", examples=[43])]
    found_by: str
    detected_at: Time
    repaired_at: Annotated[str | None, Field(examples=[_TIME])]
    repaired_by: Annotated[
        str | None,
        Field(
            description="resync (the feed's own, by a snapshot or late trades), restarted or succeeded (by the first "
            "whole book of the next process or line), rest_trades, rest_candles or late_data (found by a scan), "
            "passed_over (a time without data so long that it gets no candles).",
            examples=["resync"],
        ),
    ]


class GapsAnswer(_Model):
    """The ledger of gaps, latest first."""

    type: Literal["gaps"]
    timestamp: Time
    valid: bool
    reason: str
    data: list[GapData]
    next_cursor: Cursor


class JobData(_Model):
    """One job of backfill or repair: what was asked of a venue's history, and how far it is."""

    job_id: Annotated[str, Field(examples=["coinbase:BTC-USD|candles|1m|1754773200000000000"])]
    venue: Venue
    symbol: Symbol
    kind: Annotated[str, Field(description="candles, trades or repair.", examples=["candles"])]
    interval: Annotated[
        str, Field(description="Interval of the candles; of a repair the gap's channel.", examples=["1m"])
    ]
    state: Annotated[str, Field(description="running, paused, failed or done.", examples=["done"])]
    start: Time
    end: Time
    cursor: Annotated[str, Field(description="Everything before this time was told.", examples=[_TIME])]
    fetched: Annotated[int, Field(description="Candles or trades that the venue told.", examples=[525_600])]
    published: Annotated[int, Field(description="Candles, of all intervals, or trades that were new.")]
    attempts: Annotated[int, Field(description="How often it was begun or gone on with.", examples=[1])]
    last_error: Annotated[str | None, Field(description="Why it could not go on, or why a gap stays.")]
    started_at: Time
    updated_at: Time
    completed_at: Annotated[str | None, Field(examples=[_TIME])]


class JobsAnswer(_Model):
    """The jobs of backfill and repair, latest change first."""

    type: Literal["jobs"]
    timestamp: Time
    valid: bool
    reason: str
    data: list[JobData]
    next_cursor: Cursor


class AnomalyData(_Model):
    """Something about the market or its data that a person or a strategy should know."""

    anomaly_id: str
    venue: Venue
    symbol: Symbol
    timestamp: Time
    kind: Annotated[
        str,
        Field(
            description="crossed, stale, silent, gap, price_jump, price_deviation, spread_blowout, volume_spike, "
            "quote_stuffing or liquidation_cascade.",
            examples=["price_jump"],
        ),
    ]
    severity: Annotated[str, Field(description="info, warning or critical.", examples=["warning"])]
    metric: Annotated[str, Field(description="What was measured.")]
    value: Annotated[str, Field(description="The worst value so far.", examples=["0.05"])]
    limit: Annotated[str, Field(description="The limit that the value crossed.", examples=["0.01"])]
    usual: Annotated[str | None, Field(description="What is usual for the symbol.", examples=["0.0001"])]
    text: Annotated[str, Field(description="One sentence for people.")]
    phase: Annotated[str, Field(description="start, peak or end.", examples=["end"])]
    start: Time
    peak: Annotated[Time | None, Field(description="Time of the worst value so far.")]
    end: Annotated[Time | None, Field(description="null until it has ended.")]
    evidence: dict[str, Any]


class AnomaliesAnswer(_Model):
    """Anomalies by their start, newest first, each once."""

    type: Literal["anomalies"]
    timestamp: Time
    valid: bool
    reason: str
    data: list[AnomalyData]
    next_cursor: Cursor


class SymbolStatus(_Model):
    """The health of one symbol's data at one venue."""

    venue: Venue
    symbol: Symbol
    valid: bool
    reason: str
    timestamp: Annotated[str | None, Field(description="When anything was received last.", examples=[_TIME])]
    age_ms: Annotated[int | None, Field(description="How long ago that was.", examples=[120])]
    book_valid: Annotated[bool, Field(examples=[True])]
    book_reason: str
    book_levels: Annotated[int, Field(description="Levels of both sides.", examples=[40210])]
    trades_valid: bool
    trades_reason: str
    halted: bool
    messages: Annotated[int, Field(description="Taken in since the API started.", examples=[73012])]
    line: Annotated[str, Field(examples=["coinbase/0"])]
    sequence: int | None


class FeedEvent(_Model):
    """What happened to a feed last."""

    venue: Venue
    symbol: Symbol
    timestamp: Time
    kind: Annotated[str, Field(examples=["connected"])]
    reason: str
    detail: str
    line: str
    channel: str | None
    gap_id: str | None
    expected: int | None
    received: int | None


class StatusData(_Model):
    """Symbols, and the latest events of the feeds, newest first."""

    symbols: list[SymbolStatus]
    events: list[FeedEvent]


class StatusAnswer(_Model):
    """The health of all data. `valid` is false when any symbol's data may not be trusted."""

    type: Literal["status"]
    timestamp: Time
    valid: bool
    reason: str
    data: StatusData


class FieldError(_Model):
    """A parameter that cannot be used."""

    field: Annotated[str, Field(examples=["start"])]
    value: Annotated[str, Field(examples=["2026-08-09T21:05:48"])]
    message: Annotated[str, Field(examples=["must be an RFC 3339 time with a zone, such as 2026-08-09T21:05:48Z"])]


class ProblemAnswer(BaseModel):
    """An error (RFC 9457)."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: Annotated[str, Field(examples=["Unprocessable Content"])]
    status: Annotated[int, Field(examples=[422])]
    detail: Annotated[str, Field(description="What is wrong, and what to do about it.")]
    instance: Annotated[str, Field(examples=["/api/v1/market/BTC-USD/trades"])]
    errors: list[FieldError] = []
    venues: Annotated[list[str], Field(description="With 409: the venues to choose from.")] = []
    near: Annotated[list[str], Field(description="With 404: symbols with a similar name.")] = []
