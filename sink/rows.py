"""Encodes events as rows for PostgreSQL's COPY, validated so that PostgreSQL practically never refuses one.

This module is pure. `stored` turns an event into rows; a bad trade of several becomes a dead letter, and the others are
stored. `refused` returns the dead letter of an unusable Kafka record. Trades, which are most rows, use COPY's binary
format (`sink.binary`), all others its text format.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import orjson

from marketdata.clock import SECOND_NS
from marketdata.decimals import LENGTH_MAX, decimal
from marketdata.errors import BadEvent
from marketdata.events import (
    Anomaly,
    AnyEvent,
    Book,
    Candle,
    DeadLetter,
    Derivative,
    FeedStatus,
    Instrument,
    Metrics,
    Quote,
    Trades,
)
from marketdata.topics import VENUE_CANDLES
from sink import binary
from sink.batch import Source, TableRows

STAGE = "sink"
DEAD_LETTERS = "dead_letters"
# Tables whose rows are in COPY's binary format.
BINARY = frozenset({"trades"})

DERIVATIVE_NUMBERS = (
    "mark_price", "index_price", "open_interest", "open_interest_value", "funding_rate", "predicted_funding_rate",
    "delta", "gamma", "vega", "theta", "rho", "bid_iv", "ask_iv", "mark_iv", "underlying_price",
)  # fmt: skip

# The columns that COPY fills, in the order in which the functions below write them.
COLUMNS: dict[str, tuple[str, ...]] = {
    "trades": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "item", "valid", "reason", "liquidation",
        "price", "size", "side", "action", "trade_id", "original_id", "venue", "symbol", "line", "origin", "sequence",
        "conditions", "excluded_from",
    ),
    "quotes": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "valid", "reason", "venue", "symbol",
        "line", "origin", "sequence", "source", "bid", "bid_size", "ask", "ask_size", "last", "volume_24h", "high_24h",
        "low_24h", "change_24h",
    ),
    "derivatives": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "valid", "reason", "venue", "symbol",
        "line", "origin", "sequence", *DERIVATIVE_NUMBERS, "next_funding_ts", "funding_interval", "liquidations",
    ),
    "books": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "valid", "reason", "venue", "symbol",
        "line", "origin", "sequence", "depth", "updates", "bid_prices", "bid_sizes", "ask_prices", "ask_sizes",
    ),
    "metrics": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "valid", "reason", "venue", "symbol",
        "line", "origin", "sequence", "ts_from_ns", "changes", "best_price_changes", "depth_bps", "bid_depths",
        "ask_depths", "bid", "bid_size", "ask", "ask_size", "mid", "microprice", "spread", "spread_bps", "imbalance",
        "bid_reach_bps", "ask_reach_bps", "order_flow",
    ),
    "candles": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "ts_end", "start_ns", "end_ns", "trades",
        "revision", "valid", "reason", "state", "interval", "open", "high", "low", "close", "volume", "quote_volume",
        "buy_volume", "venue", "symbol", "origin", "recipe", "recipe_hash", "number", "sell_volume", "buy_trades",
        "sell_trades",
    ),
    "anomalies": (
        "ts", "ts_event_ns", "ts_recv_ns", "kafka_offset", "kafka_partition", "venue", "symbol", "anomaly_id", "kind",
        "severity", "metric", "value", "limit_value", "evidence", "phase", "ts_start_ns", "ts_peak_ns", "ts_end_ns",
        "usual", "text",
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

# The columns of metrics that are decimals or NULL, at the end of a row.
_METRICS = COLUMNS["metrics"][18:]

NULL = "\\N"
_VENUE_CANDLES = VENUE_CANDLES.physical()
# The ledger's primary key: an entry of an index holds 2,704 bytes.
_GAP_ID_BYTES_MAX = 2_000
_DETAIL_CHARS = 1_000


def stored(event: AnyEvent, source: Source, now: int) -> list[TableRows]:
    """Return the rows of an event; `now`, UTC nanoseconds, is the time of dead letters of single items.

    Raises BadEvent if nothing of the event can be stored: a bad value outside of its items, or no table for it.
    """
    if isinstance(event, Trades):
        return _trades(event, source, now)
    try:
        build = _BUILDERS[type(event)]
    except KeyError:
        raise BadEvent("wrong_schema", "schema", event.schema) from None
    try:
        return [build(event, source)]
    except _BadText:
        raise _explain(event) from None


def refused(
    source: Source,
    reason: str,
    detail: str,
    *,
    ts: int,
    field: str | None = None,
    value: str | None = None,
    item: int | None = None,
    payload: bytes | None = None,
) -> TableRows:
    """Return the dead letter of a Kafka record, or of its item number `item`; `ts` is now, UTC nanoseconds."""
    venue, _, symbol = source.key.decode("utf-8", "replace").partition("|")[0].partition(":")
    letter = DeadLetter(
        venue=venue or "unknown",
        symbol=symbol or "*",
        ts_recv=ts,
        stage=STAGE,
        reason=reason,
        detail=detail[:_DETAIL_CHARS],
        field=field,
        value=value,
        topic=source.topic,
        partition=source.partition,
        offset=source.offset,
        payload=source.payload if payload is None else payload,
    )
    return TableRows(source, DEAD_LETTERS, 1, _letter_row(letter, source), dead_letter=letter, item=item)


def refused_item(event: AnyEvent, source: Source, item: int, error: BadEvent, ts: int) -> TableRows:
    """Return the dead letter of one trade of an event; its payload is the event with only that trade, as JSON."""
    payload = None
    if isinstance(event, Trades):
        with contextlib.suppress(UnicodeEncodeError):  # decoded records have no lone surrogates
            payload = msgspec.json.encode(msgspec.structs.replace(event, trades=(event.trades[item],)))
    return refused(
        source, error.reason, str(error), ts=ts, field=error.field, value=error.value, item=item, payload=payload
    )


def _trades(event: Trades, source: Source, now: int) -> list[TableRows]:
    # Shared fields are checked first, so that an error below concerns a single trade.
    for field in ("venue", "symbol", "line", "origin", "reason"):
        binary.short_text(getattr(event, field), field)
    rows, letters, items = [], [], []
    for item, trade in enumerate(event.trades):
        try:
            rows.append(binary.trade_row(event, item, trade, source.partition, source.offset))
            items.append(item)
        except BadEvent as error:
            letters.append(refused_item(event, source, item, error, now))
    return [TableRows(source, "trades", len(rows), b"".join(rows), items=tuple(items) if letters else ()), *letters]


def _quote(event: Quote, source: Source) -> TableRows:
    text = (
        f"{_stamp(event, source)}\t{_flag(event.valid)}\t{_short(event.reason)}\t{_origin(event)}\t"
        f"{_short(event.source)}\t{_optional(event.bid, 'bid')}\t{_optional(event.bid_size, 'bid_size')}\t"
        f"{_optional(event.ask, 'ask')}\t{_optional(event.ask_size, 'ask_size')}\t{_optional(event.last, 'last')}\t"
        f"{_optional(event.volume_24h, 'volume_24h')}\t{_optional(event.high_24h, 'high_24h')}\t"
        f"{_optional(event.low_24h, 'low_24h')}\t{_optional(event.change_24h, 'change_24h')}\n"
    )
    return TableRows(source, "quotes", 1, text.encode())


def _derivative(event: Derivative, source: Source) -> TableRows:
    numbers = "\t".join([_optional(getattr(event, field), field) for field in DERIVATIVE_NUMBERS])
    text = (
        f"{_stamp(event, source)}\t{_flag(event.valid)}\t{_short(event.reason)}\t{_origin(event)}\t{numbers}\t"
        f"{_integer(event.next_funding_ts)}\t{_integer(event.funding_interval)}\t{_liquidations(event)}\n"
    )
    return TableRows(source, "derivatives", 1, text.encode())


def _liquidations(event: Derivative) -> str:
    if not event.liquidations:
        return NULL
    for one in event.liquidations:
        decimal(one.price, "price")
        decimal(one.size, "size")
        if one.liquidation_id is not None:
            binary.checked(one.liquidation_id, "liquidation_id", binary.SHORT_BYTES_MAX)
    return _text(msgspec.json.encode(event.liquidations).decode())


def _book(event: Book, source: Source) -> TableRows:
    text = (
        f"{_stamp(event, source)}\t{_flag(event.valid)}\t{_short(event.reason)}\t{_origin(event)}\t"
        f"{event.depth}\t{event.updates}\t"
        f"{_numbers(event.bid_prices, 'bid_prices')}\t{_numbers(event.bid_sizes, 'bid_sizes')}\t"
        f"{_numbers(event.ask_prices, 'ask_prices')}\t{_numbers(event.ask_sizes, 'ask_sizes')}\n"
    )
    return TableRows(source, "books", 1, text.encode())


def _metrics(event: Metrics, source: Source) -> TableRows:
    values = "\t".join(_optional(getattr(event, name), name) for name in _METRICS)
    text = (
        f"{_stamp(event, source)}\t{_flag(event.valid)}\t{_short(event.reason)}\t{_origin(event)}\t"
        f"{event.ts_from}\t{event.changes}\t{event.best_price_changes}\t{_numbers(event.depth_bps, 'depth_bps')}\t"
        f"{_numbers(event.bid_depths, 'bid_depths')}\t{_numbers(event.ask_depths, 'ask_depths')}\t{values}\n"
    )
    return TableRows(source, "metrics", 1, text.encode())


def _candle(event: Candle, source: Source) -> TableRows:
    text = (
        f"{timestamp(event.start)}\t{event.ts_event}\t{event.ts_recv}\t{source.offset}\t{source.partition}\t"
        f"{timestamp(event.end)}\t{event.start}\t{event.end}\t{_integer(event.trades)}\t{event.revision}\t"
        f"{_flag(event.valid)}\t{_short(event.reason)}\t{_short(event.state)}\t{_short(event.interval)}\t"
        f"{_optional(event.open, 'open')}\t{_optional(event.high, 'high')}\t{_optional(event.low, 'low')}\t"
        f"{_optional(event.close, 'close')}\t{_number(event.volume, 'volume')}\t"
        f"{_optional(event.quote_volume, 'quote_volume')}\t{_optional(event.buy_volume, 'buy_volume')}\t"
        f"{_short(event.venue)}\t{_short(event.symbol)}\t{_short(event.origin)}\t{_short(event.recipe)}\t"
        f"{_short(event.recipe_hash)}\t{_integer(event.number)}\t{_optional(event.sell_volume, 'sell_volume')}\t"
        f"{_integer(event.buy_trades)}\t{_integer(event.sell_trades)}\n"
    )
    if source.topic.endswith(_VENUE_CANDLES):
        # It neither opens nor closes one of our own candles, so it has no event.
        return TableRows(source, "venue_candles", 1, text.encode())
    if event.number is not None:
        # Open tick, volume and value bars change too often to be stored: clients get them from the topic.
        is_open = event.state == "open"
        return TableRows(source, "candles", 0, b"") if is_open else TableRows(source, "candles", 1, text.encode())
    table = "candles_open" if event.state == "open" else "candles"
    return TableRows(source, table, 1, text.encode(), event)


def _anomaly(event: Anomaly, source: Source) -> TableRows:
    if any("\x00" in text for pair in event.evidence.items() for text in pair):
        raise BadEvent("control_character", "evidence", repr(event.evidence))
    evidence = orjson.dumps(event.evidence, option=orjson.OPT_SORT_KEYS).decode()
    # All rows of an anomaly have the time of its start, see the view `anomalies_latest`.
    start = timestamp(event.ts_event if event.ts_start is None else event.ts_start)
    text = (
        f"{start}\t{event.ts_event}\t{event.ts_recv}\t{source.offset}\t{source.partition}\t"
        f"{_short(event.venue)}\t{_short(event.symbol)}\t{_text(event.anomaly_id)}\t"
        f"{_short(event.kind)}\t{_short(event.severity)}\t{_short(event.metric)}\t{_number(event.value, 'value')}\t"
        f"{_number(event.limit, 'limit')}\t{_text(evidence)}\t{_short(event.phase)}\t{_integer(event.ts_start)}\t"
        f"{_integer(event.ts_peak)}\t{_integer(event.ts_end)}\t{_optional(event.usual, 'usual')}\t{_text(event.text)}\n"
    )
    return TableRows(source, "anomalies", 1, text.encode())


def _feed_status(event: FeedStatus, source: Source) -> TableRows:
    text = (
        f"{_stamp(event, source)}\t{_origin(event)}\t{_short(event.kind)}\t{_short(event.reason)}\t"
        f"{_text(event.detail)}\t{_maybe(event.channel)}\t{_maybe(event.gap_id)}\t{_integer(event.expected)}\t{_integer(event.received)}\t"
        f"{_integer(event.ts_from)}\t{_integer(event.ts_to)}\n"
    )
    if event.gap_id is not None:
        binary.checked(event.gap_id, "gap_id", _GAP_ID_BYTES_MAX)
    return TableRows(source, "feed_status", 1, text.encode(), event if event.kind in {"gap", "resynced"} else None)


def _instrument(event: Instrument, source: Source) -> TableRows:
    for field in ("tick_size", "size_increment", "min_order_size", "strike", "contract_multiplier"):
        _optional(getattr(event, field), field)
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, str):
            binary.checked(value, name, binary.SHORT_BYTES_MAX)
    return TableRows(source, "instruments", 1, b"", event)


def _dead_letter(event: DeadLetter, source: Source) -> TableRows:
    if event.stage == STAGE:  # ours: its row was stored when the record was refused
        return TableRows(source, DEAD_LETTERS, 0, b"")
    return TableRows(source, DEAD_LETTERS, 1, _letter_row(event, source))


def _letter_row(letter: DeadLetter, source: Source) -> bytes:
    # A dead letter may contain any text, even one that PostgreSQL cannot store.
    row = (
        f"{timestamp(letter.ts_recv)}\t{letter.ts_recv}\t{source.offset}\t{source.partition}\t"
        f"{_integer(letter.partition)}\t{_integer(letter.offset)}\t{_shown(letter.topic)}\t{_shown(letter.venue)}\t"
        f"{_shown(letter.symbol)}\t{_shown(letter.stage)}\t{_shown(letter.reason)}\t{_shown(letter.detail)}\t"
        f"{_shown(letter.field)}\t{_shown(letter.value)}\t{_shown(letter.line)}\t\\\\x{letter.payload.hex()}\n"
    )
    return row.encode()


_BUILDERS: dict[type, Callable[[Any, Source], TableRows]] = {
    Quote: _quote,
    Derivative: _derivative,
    Book: _book,
    Metrics: _metrics,
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
    """Return UTC nanoseconds as a PostgreSQL timestamptz, truncated to microseconds."""
    seconds, rest = divmod(ts, SECOND_NS)
    return f"{_second(seconds)}.{rest // 1000:06d}+00"


def _stamp(event: Quote | Derivative | Book | Metrics | FeedStatus, source: Source) -> str:
    return f"{timestamp(event.ts_event)}\t{event.ts_event}\t{event.ts_recv}\t{source.offset}\t{source.partition}"


def _origin(event: Quote | Derivative | Book | Metrics | FeedStatus) -> str:
    return (
        f"{_short(event.venue)}\t{_short(event.symbol)}\t{_short(event.line)}\t{_short(event.origin)}\t"
        f"{_integer(event.sequence)}"
    )


# These have a special meaning in COPY's text format; PostgreSQL's text cannot contain a NUL.
_SPECIAL = re.compile(r"[\\\t\n\r\x00]")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


class _BadText(Exception):  # noqa: N818 - a signal; `_explain` finds the field
    pass


def _explain(event: AnyEvent) -> BadEvent:
    """Return the error of an event's invalid text."""
    for field in event.__struct_fields__:
        value = getattr(event, field)
        try:
            if isinstance(value, str):
                binary.checked(value, field, binary.TEXT_BYTES_MAX if field in _LONG else binary.SHORT_BYTES_MAX)
        except BadEvent as error:
            return error
    return BadEvent("control_character", "*", "")


# Texts that are in no index.
_LONG = frozenset({"detail", "channel", "gap_id", "anomaly_id", "evidence", "id", "text"})


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _BadText from None
    return _SPECIAL.sub(_escape, value)


def _escape(match: re.Match[str]) -> str:
    try:
        return _ESCAPES[match[0]]
    except KeyError:
        raise _BadText from None


# Texts with few distinct values: venues, symbols, sides, reasons. Some are in indexes.
@lru_cache(maxsize=16_384)
def _short(value: str) -> str:
    if len(value.encode("utf-8", "replace")) > binary.SHORT_BYTES_MAX:
        raise _BadText
    return _text(value)


def _maybe(value: str | None) -> str:
    return NULL if value is None else _text(value)


def _shown(value: str | None) -> str:
    if value is None:
        return NULL
    return _text(value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode())


def _flag(value: bool) -> str:
    return "t" if value else "f"


def _integer(value: int | None) -> str:
    return NULL if value is None else str(value)


def _number(value: str, field: str) -> str:
    # PostgreSQL's numeric also accepts NaN, infinities, hexadecimal and underscores, which we refuse.
    if not (value.isascii() and value.replace(".", "", 1).isdigit() and len(value) <= LENGTH_MAX):
        decimal(value, field)
    return value


def _optional(value: str | None, field: str) -> str:
    return NULL if value is None else _number(value, field)


def _numbers(values: list[str], field: str) -> str:
    text = ",".join(values)
    # The usual case: only digits, points and the commas added above. PostgreSQL itself refuses a second point.
    digits = text.replace(",", "").replace(".", "")
    if not (digits.isascii() and digits.isdigit() and text.count(",") == len(values) - 1 and all(values)):
        for value in values:
            decimal(value, field)
    return f"{{{text}}}"
