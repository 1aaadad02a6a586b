"""What the sink stores in one transaction, as a plain value: rows as COPY text per record, and the offsets behind them.

Pure: `stored` turns one event into a `Record`, `refused` what cannot be stored, and a `Batch` collects records until
the writer takes them. A record is stored whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from marketdata.clock import SECOND_NS
from marketdata.decimals import LENGTH_MAX, decimal
from marketdata.errors import BadEvent
from marketdata.events import Anomaly, AnyEvent, Book, Candle, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.topics import VENUE_CANDLES

Partition = tuple[str, int]  # (physical topic, partition)

STAGE = "sink"

# The columns that COPY fills, in the order in which the functions below write them.
COLUMNS: dict[str, tuple[str, ...]] = {
    "trades": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "item", "valid", "reason", "liquidation",
        "price", "size", "side", "action", "trade_id", "original_id", "venue", "symbol", "line", "origin", "sequence",
    ),
    "quotes": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "valid", "reason", "venue", "symbol",
        "line", "origin", "sequence", "source", "bid", "bid_size", "ask", "ask_size", "last", "volume_24h", "high_24h",
        "low_24h", "change_24h",
    ),
    "books": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "valid", "reason", "venue", "symbol",
        "line", "origin", "sequence", "depth", "updates", "bid_prices", "bid_sizes", "ask_prices", "ask_sizes",
    ),
    "candles": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "ts_end", "start_ns", "end_ns", "trades",
        "revision", "valid", "reason", "state", "interval", "open", "high", "low", "close", "volume", "quote_volume",
        "buy_volume", "venue", "symbol", "origin",
    ),
    "anomalies": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "venue", "symbol", "anomaly_id", "kind",
        "severity", "metric", "value", "limit_value", "evidence",
    ),
    "feed_status": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "venue", "symbol", "line", "origin",
        "sequence", "kind", "reason", "detail", "channel", "gap_id", "expected", "received", "ts_from_ns", "ts_to_ns",
    ),
    "dead_letters": (
        "ts", "ts_recv_ns", "kafka_offset", "kafka_partition", "partition", "offset", "topic", "venue", "symbol",
        "stage", "reason", "detail", "field", "value", "line", "payload",
    ),
}  # fmt: skip
COLUMNS["candles_open"] = COLUMNS["venue_candles"] = COLUMNS["candles"]

NULL = "\\N"
_VENUE_CANDLES = VENUE_CANDLES.physical()


class Source(NamedTuple):
    """The Kafka record that rows come from."""

    topic: str
    partition: int
    offset: int
    key: bytes
    payload: bytes


class Record(NamedTuple):
    """What one Kafka record stores: `rows` lines of COPY text for `table`, and `event` where COPY is not all of it.

    `dead_letter` is set when the record could not be used; its row then stands in `dead_letters`.
    """

    source: Source
    table: str
    rows: int
    text: str
    event: AnyEvent | None = None
    dead_letter: DeadLetter | None = None


class Span(NamedTuple):
    """How far a batch takes one partition: from the offset that the database must hold to the one it will hold."""

    expected: int
    next: int


class Batch:
    """The records of one transaction, in the order of each partition, with the offsets that they take us to."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.spans: dict[Partition, Span] = {}
        self.rows = 0
        self.size_bytes = 0

    def __bool__(self) -> bool:
        """Tell whether there is anything to store, were it only offsets."""
        return bool(self.spans)

    def add(self, record: Record) -> None:
        """Take a record's rows; its offset is counted by `passed`."""
        self.records.append(record)
        self.rows += record.rows
        self.size_bytes += len(record.text) + len(record.source.payload)

    def passed(self, partition: Partition, expected: int, next_offset: int) -> None:
        """Note that everything of a partition from `expected` up to `next_offset` is in this batch or needs no row."""
        span = self.spans.get(partition)
        self.spans[partition] = Span(expected if span is None else span.expected, next_offset)


def stored(event: AnyEvent, source: Source) -> Record:
    """Return the rows of an event.

    Raises BadEvent for a number that is none, and for an event that has no table.
    """
    try:
        build = _BUILDERS[type(event)]
    except KeyError:
        raise BadEvent("wrong_schema", "schema", event.schema) from None
    return build(event, source)


def refused(
    source: Source, reason: str, detail: str, *, ts: int, field: str | None = None, value: str | None = None
) -> Record:
    """Return the dead letter of a record that could not be used; `ts` is now, UTC nanoseconds."""
    venue, _, symbol = source.key.decode("utf-8", "replace").partition("|")[0].partition(":")
    letter = DeadLetter(
        venue=venue or "unknown",
        symbol=symbol or "*",
        ts_recv=ts,
        stage=STAGE,
        reason=reason,
        detail=detail,
        field=field,
        value=value,
        topic=source.topic,
        partition=source.partition,
        offset=source.offset,
        payload=source.payload,
    )
    return Record(source, "dead_letters", 1, _letter_row(letter, source), dead_letter=letter)


def _trades(event: Trades, source: Source) -> Record:
    position = f"{event.ts_recv}\t{source.offset}\t{source.partition}"
    validity = f"{_flag(event.valid)}\t{_word(event.reason)}"
    tail = (
        f"{_word(event.venue)}\t{_word(event.symbol)}\t{_word(event.line)}\t{_word(event.origin)}\t"
        f"{_integer(event.sequence)}\n"
    )
    lines = [
        f"{timestamp(trade.ts_event)}\t{trade.ts_event}\t{position}\t{item}\t{validity}\t{_flag(trade.liquidation)}\t"
        f"{_number(trade.price, 'price')}\t{_number(trade.size, 'size')}\t{_word(trade.side)}\t{_word(trade.action)}\t"
        f"{_text(trade.trade_id)}\t{_text(trade.original_id)}\t{tail}"
        for item, trade in enumerate(event.trades)
    ]
    return Record(source, "trades", len(lines), "".join(lines))


def _quote(event: Quote, source: Source) -> Record:
    text = (
        f"{_stamp(event, source)}\t{_flag(event.valid)}\t{_word(event.reason)}\t{_origin(event)}\t"
        f"{_word(event.source)}\t{_optional(event.bid, 'bid')}\t{_optional(event.bid_size, 'bid_size')}\t"
        f"{_optional(event.ask, 'ask')}\t{_optional(event.ask_size, 'ask_size')}\t{_optional(event.last, 'last')}\t"
        f"{_optional(event.volume_24h, 'volume_24h')}\t{_optional(event.high_24h, 'high_24h')}\t"
        f"{_optional(event.low_24h, 'low_24h')}\t{_optional(event.change_24h, 'change_24h')}\n"
    )
    return Record(source, "quotes", 1, text)


def _book(event: Book, source: Source) -> Record:
    if event.kind != "top":  # a checkpoint of the books operator; its levels are in the top books and updates
        return Record(source, "books", 0, "")
    text = (
        f"{_stamp(event, source)}\t{_flag(event.valid)}\t{_word(event.reason)}\t{_origin(event)}\t"
        f"{event.depth}\t{event.updates}\t"
        f"{_numbers(event.bid_prices, 'bid_prices')}\t{_numbers(event.bid_sizes, 'bid_sizes')}\t"
        f"{_numbers(event.ask_prices, 'ask_prices')}\t{_numbers(event.ask_sizes, 'ask_sizes')}\n"
    )
    return Record(source, "books", 1, text)


def _candle(event: Candle, source: Source) -> Record:
    text = (
        f"{timestamp(event.start)}\t{event.ts_event}\t{event.ts_recv}\t{source.offset}\t{source.partition}\t"
        f"{timestamp(event.end)}\t{event.start}\t{event.end}\t{_integer(event.trades)}\t{event.revision}\t"
        f"{_flag(event.valid)}\t{_word(event.reason)}\t{_word(event.state)}\t{_word(event.interval)}\t"
        f"{_optional(event.open, 'open')}\t{_optional(event.high, 'high')}\t{_optional(event.low, 'low')}\t"
        f"{_optional(event.close, 'close')}\t{_number(event.volume, 'volume')}\t"
        f"{_optional(event.quote_volume, 'quote_volume')}\t{_optional(event.buy_volume, 'buy_volume')}\t"
        f"{_word(event.venue)}\t{_word(event.symbol)}\t{_word(event.origin)}\n"
    )
    if source.topic.endswith(_VENUE_CANDLES):
        return Record(source, "venue_candles", 1, text)  # not ours, so it neither opens nor closes one of ours
    table = "candles_open" if event.state == "open" else "candles"
    return Record(source, table, 1, text, event)


def _anomaly(event: Anomaly, source: Source) -> Record:
    evidence = orjson.dumps(event.evidence, option=orjson.OPT_SORT_KEYS).decode()
    text = (
        f"{_stamp(event, source)}\t{_word(event.venue)}\t{_word(event.symbol)}\t{_text(event.anomaly_id)}\t"
        f"{_word(event.kind)}\t{_word(event.severity)}\t{_word(event.metric)}\t{_number(event.value, 'value')}\t"
        f"{_number(event.limit, 'limit')}\t{_text(evidence)}\n"
    )
    return Record(source, "anomalies", 1, text)


def _feed_status(event: FeedStatus, source: Source) -> Record:
    text = (
        f"{_stamp(event, source)}\t{_origin(event)}\t{_word(event.kind)}\t{_word(event.reason)}\t"
        f"{_text(event.detail)}\t{_maybe(event.channel)}\t{_maybe(event.gap_id)}\t{_integer(event.expected)}\t{_integer(event.received)}\t"
        f"{_integer(event.ts_from)}\t{_integer(event.ts_to)}\n"
    )
    return Record(source, "feed_status", 1, text, event if event.kind in {"gap", "resynced"} else None)


def _instrument(event: Instrument, source: Source) -> Record:
    for field in ("tick_size", "size_increment", "min_order_size"):
        _optional(getattr(event, field), field)
    return Record(source, "instruments", 1, "", event)


def _dead_letter(event: DeadLetter, source: Source) -> Record:
    if event.stage == STAGE:  # ours: its row was stored in the transaction that refused the record
        return Record(source, "dead_letters", 0, "")
    return Record(source, "dead_letters", 1, _letter_row(event, source))


def _letter_row(letter: DeadLetter, source: Source) -> str:
    # What a dead letter tells may hold anything, even the NUL that PostgreSQL's text cannot.
    return (
        f"{timestamp(letter.ts_recv)}\t{letter.ts_recv}\t{source.offset}\t{source.partition}\t"
        f"{_integer(letter.partition)}\t{_integer(letter.offset)}\t{_maybe(letter.topic)}\t{_told(letter.venue)}\t"
        f"{_told(letter.symbol)}\t{_told(letter.stage)}\t{_told(letter.reason)}\t{_told(letter.detail)}\t"
        f"{_told(letter.field)}\t{_told(letter.value)}\t{_told(letter.line)}\t\\\\x{letter.payload.hex()}\n"
    )


_BUILDERS: dict[type, Callable[[Any, Source], Record]] = {
    Trades: _trades,
    Quote: _quote,
    Book: _book,
    Candle: _candle,
    Anomaly: _anomaly,
    FeedStatus: _feed_status,
    Instrument: _instrument,
    DeadLetter: _dead_letter,
}


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def timestamp(ts: int) -> str:
    """Return UTC nanoseconds as PostgreSQL reads a timestamptz; what is finer than microseconds is cut off."""
    seconds, rest = divmod(ts, SECOND_NS)
    return f"{_second(seconds)}.{rest // 1000:06d}+00"


def _stamp(event: Quote | Book | Anomaly | FeedStatus, source: Source) -> str:
    return f"{timestamp(event.ts_event)}\t{event.ts_event}\t{event.ts_recv}\t{source.offset}\t{source.partition}"


def _origin(event: Quote | Book | FeedStatus) -> str:
    return (
        f"{_word(event.venue)}\t{_word(event.symbol)}\t{_word(event.line)}\t{_word(event.origin)}\t"
        f"{_integer(event.sequence)}"
    )


# COPY's text format gives these a meaning of their own.
_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def _text(value: str) -> str:
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], value)


# Words that come again and again: venues, symbols, sides, reasons.
_word = lru_cache(maxsize=16_384)(_text)


def _maybe(value: str | None) -> str:
    return NULL if value is None else _text(value)


def _told(value: str | None) -> str:
    return NULL if value is None else _text(value.replace("\x00", "\ufffd"))


def _flag(value: bool) -> str:
    return "t" if value else "f"


def _integer(value: int | None) -> str:
    return NULL if value is None else str(value)


def _number(value: str, field: str) -> str:
    # PostgreSQL's numeric also takes NaN, infinities, hexadecimal and underscores; a price may be none of them.
    if not (value.isascii() and value.replace(".", "", 1).isdigit() and len(value) <= LENGTH_MAX):
        decimal(value, field)
    return value


def _optional(value: str | None, field: str) -> str:
    return NULL if value is None else _number(value, field)


def _numbers(values: list[str], field: str) -> str:
    text = ",".join(values)
    # Plain digits, points and the commas just put there, as nearly always; a second point PostgreSQL itself refuses.
    digits = text.replace(",", "").replace(".", "")
    if not (digits.isascii() and digits.isdigit() and text.count(",") == len(values) - 1 and all(values)):
        for value in values:
            decimal(value, field)
    return f"{{{text}}}"
