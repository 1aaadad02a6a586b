"""Every topic: its name, schema, partitions, retention and who writes it. Applied by `tickstream topics apply`."""

from __future__ import annotations

import msgspec

from marketdata.errors import SettingsError

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

# The default. Topics keyed by `venue:symbol` all have the same number: an output goes to its input's partition number.
PARTITIONS = 4

# The largest frame recorded is a book snapshot of 5 MB, and frames are never split: this leaves room for growth.
MESSAGE_BYTES_MAX = 32 * 1024 * 1024


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic. `name` is logical; `physical` is what Kafka knows it by.

    Every topic has a retention. A compacted one also loses all but the last record of each key before that.
    `keyed` topics have `venue:symbol` (or a longer key that begins with it) as their key.
    """

    name: str
    schema: str
    about: str
    retention_ms: int = 7 * DAY_MS
    compacted: bool = False
    public: bool = True
    keyed: bool = True
    segment_ms: int = HOUR_MS

    def physical(self, prefix: str = "") -> str:
        """Return Kafka's name of the topic: a prefix (for tests), the name and the version."""
        return f"{prefix}{self.name}.v1"

    def config(self) -> dict[str, str]:
        """Return the topic's Kafka settings."""
        config = {
            "max.message.bytes": str(MESSAGE_BYTES_MAX),
            "compression.type": "producer",
            "cleanup.policy": "compact,delete" if self.compacted else "delete",
            "retention.ms": str(self.retention_ms),
        }
        if self.compacted:
            config |= {"min.cleanable.dirty.ratio": "0.3", "segment.ms": str(self.segment_ms)}
        return config


RAW = Topic(
    name="md.raw",
    schema="RawFrame",
    about="Frames as received, by connection.",
    retention_ms=DAY_MS,
    public=False,
    keyed=False,
)
INGEST_TRADES = Topic(
    name="md.ingest.trades", schema="Trades", about="Trades as the feeds read them.", retention_ms=DAY_MS, public=False
)
INGEST_BOOKS = Topic(
    name="md.ingest.books",
    schema="BookUpdate",
    about="Book changes as the feeds read them.",
    retention_ms=DAY_MS,
    public=False,
)
INGEST_QUOTES = Topic(
    name="md.ingest.quotes",
    schema="Quote",
    about="Quotes and tickers as the feeds read them.",
    retention_ms=DAY_MS,
    public=False,
)
INGEST_DERIVATIVES = Topic(
    name="md.ingest.derivatives",
    schema="Derivative",
    about="Funding, mark and index prices, open interest, greeks and liquidations as the feeds read them.",
    retention_ms=DAY_MS,
    public=False,
)
INGEST_STATUS = Topic(
    name="md.ingest.status",
    schema="FeedStatus",
    about="Feed status as the feeds send it; a producer that starts reads in it which gaps are open.",
    retention_ms=30 * DAY_MS,
    public=False,
)
INGEST_CANDLES = Topic(
    name="md.ingest.candles",
    schema="CandleHistory",
    about="Candles from the venues' history, and repairs.",
    retention_ms=DAY_MS,
    public=False,
)
TRADES = Topic(name="md.trades", schema="Trades", about="Trades, validated, each once.")
BOOK_UPDATES = Topic(name="md.book_updates", schema="BookUpdate", about="L2 book changes, validated, each once.")
QUOTES = Topic(name="md.quotes", schema="Quote", about="Best bid and offer, from the venue and from our books.")
DERIVATIVES = Topic(
    name="md.derivatives",
    schema="Derivative",
    about="Funding, mark and index prices, open interest, greeks and liquidations, validated, each once.",
)
STATUS = Topic(name="md.status", schema="FeedStatus", about="Gaps, resyncs, halts, connections.")
BOOKS = Topic(
    name="md.books",
    schema="Book",
    about="Best levels of each book, with validity.",
    retention_ms=DAY_MS,
    compacted=True,
)
METRICS = Topic(
    name="md.metrics", schema="Metrics", about="Spread, depth, imbalance and order flow of each book, with validity."
)
VENUE_PRICES = Topic(
    name="md.venue_prices",
    schema="VenuePrice",
    about="Middle prices by symbol, whatever the venue, for the comparison between venues.",
    retention_ms=DAY_MS,
    public=False,
)
CANDLES = Topic(
    name="md.candles",
    schema="Candle",
    about="Candles of every interval, with revisions.",
    retention_ms=30 * DAY_MS,
    compacted=True,
)
VENUE_CANDLES = Topic(
    name="md.venue_candles",
    schema="Candle",
    about="Candles as a venue itself publishes them.",
    retention_ms=30 * DAY_MS,
    compacted=True,
)
ANOMALIES = Topic(
    name="md.anomalies", schema="Anomaly", about="Anomalies with their evidence.", retention_ms=30 * DAY_MS
)
INSTRUMENTS = Topic(
    name="md.instruments",
    schema="Instrument",
    about="What each venue trades; a producer sends it again at each start.",
    retention_ms=365 * DAY_MS,
    compacted=True,
)
DEAD_LETTERS = Topic(
    name="md.dead_letters", schema="DeadLetter", about="What could not be used, and why.", retention_ms=30 * DAY_MS
)
STATE = Topic(
    name="md.state",
    schema="Checkpoint",
    about="Checkpoints of the pipeline.",
    compacted=True,
    public=False,
    segment_ms=10 * MINUTE_MS,  # what compaction has not reached yet is read at a restart
)

TOPICS: tuple[Topic, ...] = (
    RAW, INGEST_TRADES, INGEST_BOOKS, INGEST_QUOTES, INGEST_DERIVATIVES, INGEST_STATUS, INGEST_CANDLES,
    TRADES, BOOK_UPDATES, QUOTES, DERIVATIVES, STATUS, BOOKS, METRICS, VENUE_PRICES, CANDLES, VENUE_CANDLES, ANOMALIES,
    INSTRUMENTS, DEAD_LETTERS, STATE,
)  # fmt: skip

BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}

# Where a feed's events go.
INGEST: dict[str, Topic] = {
    "RawFrame": RAW,
    "Trades": INGEST_TRADES,
    "BookUpdate": INGEST_BOOKS,
    "Quote": INGEST_QUOTES,
    "Derivative": INGEST_DERIVATIVES,
    "FeedStatus": INGEST_STATUS,
    "Candle": VENUE_CANDLES,
    "CandleHistory": INGEST_CANDLES,
    "Instrument": INSTRUMENTS,
    "DeadLetter": DEAD_LETTERS,
}

# Where an operator's events go.
PUBLIC: dict[str, Topic] = {
    "Trades": TRADES,
    "BookUpdate": BOOK_UPDATES,
    "Quote": QUOTES,
    "Derivative": DERIVATIVES,
    "FeedStatus": STATUS,
    "Book": BOOKS,
    "Metrics": METRICS,
    "VenuePrice": VENUE_PRICES,
    "Candle": CANDLES,
    "Anomaly": ANOMALIES,
    "DeadLetter": DEAD_LETTERS,
    "Checkpoint": STATE,
}


def topic(name: str) -> Topic:
    """Return the topic with this logical name.

    Raises SettingsError when there is none.
    """
    try:
        return BY_NAME[name.removesuffix(".v1")]
    except KeyError:
        raise SettingsError(f"there is no topic {name!r}; the topics are: {', '.join(sorted(BY_NAME))}") from None
