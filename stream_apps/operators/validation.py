"""Checks that an event is valid: types, decimals, times, lengths, kinds, columns and clean texts.

Every check depends on the event alone. There is no list of instruments and no tick size, so the same record always gets
the same result. Feeds know their instruments: they refuse prices of the wrong sign and count prices off the tick.

Prices and sizes are checked as text. A whole column is first matched against a pattern of the usual notation. Only if
it does not match, each value is checked exactly, to find out whether it is unusual or invalid.

Invalid data becomes a dead letter: a single trade, while the other trades of its message pass; any other event as a
whole. A dead letter can always be stored: control characters and lone surrogates in its texts are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from marketdata.clock import AHEAD_NS_MAX, TS_MIN
from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from marketdata.events import (
    CONDITION_LENGTH_MAX,
    CONDITIONS_MAX,
    CONNECTION,
    EXCLUSIONS,
    SYMBOL,
    TRADE_ID_LENGTH_MAX,
    BookUpdate,
    CandleHistory,
    DeadLetter,
    Derivative,
    FeedStatus,
    Liquidation,
    Quote,
    Trade,
    Trades,
)
from marketdata.plain_prices import USUAL
from marketdata.prices import are_usual_prices, are_usual_sizes, are_usual_trades

Checked = TypeVar("Checked", BookUpdate, Quote, FeedStatus)

SIDES = frozenset({"buy", "sell", "unknown"})
ACTIONS = frozenset({"new", "correct", "cancel"})
ORIGINS = frozenset({"live", "repair", "backfill"})
SOURCES = frozenset({"venue", "book"})
SCOPES = frozenset({CONNECTION, SYMBOL})
_EXCLUSIONS = frozenset(EXCLUSIONS)
KINDS = frozenset({"snapshot", "update", "clear", "heartbeat"})

# Longer than any name of a connection, symbol, channel or reason, and than any gap id.
NAME_LENGTH_MAX = 512
# Longer than any text that a venue sends for people.
DETAIL_LENGTH_MAX = 16_384

# Avro's long.
_LONG_MIN, _LONG_END = -(2**63), 2**63

_PRICE = re.compile(rf"-?{USUAL}", re.ASCII)
_POSITIVE = re.compile(rf"(?=[0.]*[1-9]){USUAL}", re.ASCII)

# Control characters break terminals, logs and PostgreSQL (NUL); lone surrogates are not valid Unicode.
_UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
# Texts for people may have several lines.
_UNCLEAN_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def number(value: object, field: str) -> Decimal:
    """Return the exact value of a decimal string within the limits.

    Raises BadEvent `bad_type`, `not_a_decimal` or `out_of_range`.
    """
    if not isinstance(value, str):
        raise BadEvent("bad_type", field, value)
    return decimal(value, field)


def is_clean(text: str) -> bool:
    """Return whether a text is free of control characters and lone surrogates."""
    return (text.isascii() and text.isprintable()) or _UNCLEAN.search(text) is None


def escaped(text: str) -> str:
    """Return a text with backslash escapes in place of control characters and lone surrogates."""
    return text if is_clean(text) else _UNCLEAN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


# --- Dead letters ---


def letter(
    event: Trades | BookUpdate | Quote | Derivative | FeedStatus | CandleHistory,
    error: BadEvent,
    *,
    stage: str = "validate",
    payload: bytes = b"",
) -> DeadLetter:
    """Return the dead letter of an event that cannot be used; an empty payload means the whole input record."""
    return DeadLetter(
        venue=_shown(event.venue),
        symbol=_shown(event.symbol),
        ts_recv=time_or(event.ts_recv, 0),
        stage=stage,
        reason=error.reason,
        detail=escaped(str(error)),
        field=error.field,
        value=escaped(error.value),
        line=_shown(event.line),
        payload=payload,
    )


def time_or(ts: object, other: int) -> int:
    """Return a time if it is a 64-bit integer, otherwise `other`."""
    return ts if type(ts) is int and _LONG_MIN <= ts < _LONG_END else other


def part(event: Trades, trades: Sequence[Trade]) -> bytes:
    """Return the JSON of an event with only some of its trades: the payload of their dead letter."""
    return as_json(msgspec.structs.replace(event, trades=tuple(trades)))


def as_json(event: Trades | Derivative | CandleHistory) -> bytes:
    """Return an event as JSON, with escapes in place of lone surrogates, which UTF-8 cannot hold."""
    try:
        return msgspec.json.encode(event)
    except (UnicodeError, OverflowError, TypeError):
        text = json.dumps(msgspec.to_builtins(event, builtin_types=(bytes,)), default=repr, ensure_ascii=False)
        return _SURROGATES.sub(lambda found: f"\\\\u{ord(found[0]):x}", text).encode()


def _shown(text: object) -> str:
    return escaped(str(text))[:NAME_LENGTH_MAX]


# --- Parts of events ---


def _prices(prices: Sequence[str], field: str) -> None:
    if not are_usual_prices(prices):
        for price in prices:
            number(price, field)


def _sizes(sizes: Sequence[str], field: str) -> None:
    if not are_usual_sizes(sizes):
        for size in sizes:
            if number(size, field) < 0:
                raise BadEvent("negative", field, size)


def _time(ts_event: int, ts_recv: int, field: str = "ts_event") -> None:
    if type(ts_event) is not int or type(ts_recv) is not int:
        raise BadEvent("bad_type", field, ts_event)
    if ts_recv >= _LONG_END - AHEAD_NS_MAX:
        raise BadEvent("time_out_of_bounds", "ts_recv", ts_recv)
    if ts_event < TS_MIN or ts_event > ts_recv + AHEAD_NS_MAX:
        raise BadEvent("time_out_of_bounds", field, ts_event)


def _long(value: object, field: str) -> None:
    """Check an integer that may be missing."""
    if value is None:
        return
    if type(value) is not int:
        raise BadEvent("bad_type", field, value)
    if not _LONG_MIN <= value < _LONG_END:
        raise BadEvent("out_of_range", field, value)


def _one_of(value: object, allowed: frozenset[str], field: str) -> None:
    if type(value) is not str or value not in allowed:
        raise BadEvent(f"unknown_{field}", field, value)


def _text(value: object, field: str, length_max: int = NAME_LENGTH_MAX) -> None:
    if type(value) is not str:
        raise BadEvent("bad_type", field, value)
    if not is_clean(value):
        raise BadEvent("bad_text", field, value)
    if len(value) > length_max:
        raise BadEvent("too_long", field, value)


def check_frame(event: Trades | BookUpdate | Quote | Derivative | FeedStatus | CandleHistory) -> None:
    """Check the fields that all these events have: names, origin, times.

    Raises BadEvent.
    """
    try:
        known = _is_frame(event.venue, event.symbol, event.line, event.origin)
    except TypeError:  # a value is not hashable, so not a string
        known = False
    if not known:
        _text(event.venue, "venue")
        _text(event.symbol, "symbol")
        _text(event.line, "line")
        _one_of(event.origin, ORIGINS, "origin")
    _time(event.ts_event, event.ts_recv)


# A process sees few distinct combinations, each of them many times.
@lru_cache(maxsize=4_096)
def _is_frame(venue: object, symbol: object, line: object, origin: object) -> bool:
    names = (venue, symbol, line)
    return origin in ORIGINS and all(
        type(one) is str and len(one) <= NAME_LENGTH_MAX and is_clean(one) for one in names
    )


# --- Events ---


def check_trades(event: Trades) -> tuple[Trades | None, list[DeadLetter]]:
    """Return the event without invalid trades (None if nothing is usable) and a dead letter for each of them."""
    try:
        check_frame(event)
        if event.reason != "":
            _text(event.reason, "reason")
        if event.sequence is not None:
            _long(event.sequence, "sequence")
        if event.complete_from is not None:
            _long(event.complete_from, "complete_from")
    except BadEvent as error:
        return None, [letter(event, error)]
    if are_usual_trades(event.trades, event.ts_event, event.ts_recv):
        return event, []
    letters: list[DeadLetter] = []
    good: list[Trade] = []
    for trade in event.trades:
        try:
            _trade(trade, event.ts_recv)
            good.append(trade)
        except BadEvent as error:
            letters.append(letter(event, error, payload=part(event, (trade,))))
    if not letters:
        return event, letters
    return (msgspec.structs.replace(event, trades=tuple(good)) if good else None), letters


def _trade(trade: Trade, ts_recv: int) -> None:
    _time(trade.ts_event, ts_recv)
    _one_of(trade.side, SIDES, "side")
    _one_of(trade.action, ACTIONS, "action")
    _trade_id(trade.trade_id, "trade_id", length_min=1)
    if trade.original_id != "":
        _trade_id(trade.original_id, "original_id", length_min=0)
    price, size = trade.price, trade.size
    if not (type(price) is str and _PRICE.fullmatch(price)):
        number(price, "price")
    if not (type(size) is str and _POSITIVE.fullmatch(size)) and number(size, "size") <= 0:
        raise BadEvent("not_positive", "size", size)
    if trade.conditions or trade.excluded_from:
        _marks(trade)


def _marks(trade: Trade) -> None:
    """Check the conditions of a trade and what it is excluded from."""
    if len(trade.conditions) > CONDITIONS_MAX:
        raise BadEvent("too_many", "conditions", trade.conditions)
    for condition in trade.conditions:
        _text(condition, "conditions", CONDITION_LENGTH_MAX)
        if not condition:
            raise BadEvent("empty", "conditions", condition)
    for excluded in trade.excluded_from:
        _one_of(excluded, _EXCLUSIONS, "excluded_from")
    if len(set(trade.excluded_from)) != len(trade.excluded_from):
        raise BadEvent("repeated", "excluded_from", trade.excluded_from)


def _trade_id(value: object, field: str, length_min: int) -> None:
    if type(value) is not str or not length_min <= len(value) <= TRADE_ID_LENGTH_MAX or not is_clean(value):
        raise BadEvent("bad_trade_id", field, value)


def check_book(event: BookUpdate) -> BadEvent | None:
    """Return what is wrong with a book update, if anything; one bad level makes all of it unusable."""
    return _error(_book, event)


def _book(event: BookUpdate) -> None:
    check_frame(event)
    _text(event.reason, "reason")
    _one_of(event.kind, KINDS, "kind")
    _one_of(event.sequence_scope, SCOPES, "sequence_scope")
    _long(event.sequence, "sequence")
    for field, prices, sizes in (
        ("bid", event.bid_prices, event.bid_sizes),
        ("ask", event.ask_prices, event.ask_sizes),
    ):
        if len(prices) != len(sizes):
            raise BadEvent("uneven_columns", f"{field}_sizes", f"{len(prices)} prices, {len(sizes)} sizes")
        if prices:
            _prices(prices, f"{field}_prices")
            _sizes(sizes, f"{field}_sizes")


def check_quote(event: Quote) -> BadEvent | None:
    """Return what is wrong with a quote, if anything."""
    return _error(_quote, event)


def _quote(event: Quote) -> None:
    check_frame(event)
    _text(event.reason, "reason")
    _one_of(event.source, SOURCES, "source")
    _one_of(event.sequence_scope, SCOPES, "sequence_scope")
    _long(event.sequence, "sequence")
    prices: list[Any] = [
        value
        for value in (event.bid, event.ask, event.last, event.high_24h, event.low_24h, event.change_24h)
        if value is not None
    ]
    sizes: list[Any] = [value for value in (event.bid_size, event.ask_size, event.volume_24h) if value is not None]
    if are_usual_prices(prices) and are_usual_sizes(sizes):
        return
    for field in ("bid", "ask", "last", "high_24h", "low_24h", "change_24h"):
        value = getattr(event, field)
        if value is not None:
            number(value, field)
    for field in ("bid_size", "ask_size", "volume_24h"):
        value = getattr(event, field)
        if value is not None and number(value, field) < 0:
            raise BadEvent("negative", field, value)


# The fields of a derivative that are decimals, and which of them are never below zero.
DERIVATIVE_NUMBERS = (
    "mark_price", "index_price", "open_interest", "open_interest_value", "funding_rate", "predicted_funding_rate",
    "delta", "gamma", "vega", "theta", "rho", "bid_iv", "ask_iv", "mark_iv", "underlying_price",
)  # fmt: skip
DERIVATIVE_FIELDS = (*DERIVATIVE_NUMBERS, "next_funding_ts", "funding_interval")
_NOT_NEGATIVE = frozenset({"open_interest", "open_interest_value", "bid_iv", "ask_iv", "mark_iv"})


def check_derivative(event: Derivative) -> tuple[Derivative | None, list[DeadLetter]]:
    """Return the event without invalid fields and liquidations, and a dead letter for each; None if nothing is left."""
    try:
        check_frame(event)
        _text(event.reason, "reason")
        _long(event.sequence, "sequence")
    except BadEvent as error:
        return None, [letter(event, error)]
    letters: list[DeadLetter] = []
    bad: dict[str, None] = {}
    for field in DERIVATIVE_FIELDS:
        value = getattr(event, field)
        if value is None:
            continue
        try:
            _derivative_field(field, value)
        except BadEvent as error:
            letters.append(letter(event, error))
            bad[field] = None
    liquidations = []
    for one in event.liquidations:
        try:
            _liquidation(one, event.ts_recv)
            liquidations.append(one)
        except BadEvent as error:
            alone = msgspec.structs.replace(event, liquidations=(one,))
            letters.append(letter(event, error, payload=as_json(alone)))
    if not letters:
        return event, letters
    good = msgspec.structs.replace(event, **bad, liquidations=tuple(liquidations))
    return (None if is_empty(good) else good), letters


def _derivative_field(field: str, value: object) -> None:
    if field not in DERIVATIVE_NUMBERS:
        _long(value, field)
    elif number(value, field) < 0 and field in _NOT_NEGATIVE:
        raise BadEvent("negative", field, value)


def is_empty(event: Derivative) -> bool:
    """Return whether a derivative states nothing but its validity."""
    return not event.liquidations and all(getattr(event, field) is None for field in DERIVATIVE_FIELDS)


def _liquidation(one: Liquidation, ts_recv: int) -> None:
    _time(one.ts_event, ts_recv)
    _one_of(one.side, SIDES, "side")
    if one.liquidation_id is not None:
        _trade_id(one.liquidation_id, "liquidation_id", length_min=1)
    for field, value in (("price", one.price), ("size", one.size)):
        if number(value, field) <= 0:
            raise BadEvent("not_positive", field, value)


def check_status(event: FeedStatus) -> BadEvent | None:
    """Return what is wrong with a feed status, if anything; it may be about all symbols of a connection."""
    return _error(_status, event)


def _status(event: FeedStatus) -> None:
    check_frame(event)
    _text(event.kind, "kind")
    if not event.kind:
        raise BadEvent("unknown_kind", "kind", event.kind)
    _text(event.reason, "reason")
    if type(event.detail) is not str:
        raise BadEvent("bad_type", "detail", event.detail)
    if _UNCLEAN_LINES.search(event.detail):
        raise BadEvent("bad_text", "detail", event.detail)
    if len(event.detail) > DETAIL_LENGTH_MAX:
        raise BadEvent("too_long", "detail", event.detail)
    for field in ("channel", "gap_id"):
        value = getattr(event, field)
        if value is not None:
            _text(value, field)
    for field in ("sequence", "expected", "received", "ts_from", "ts_to"):
        _long(getattr(event, field), field)


def _error(check: Callable[[Checked], None], event: Checked) -> BadEvent | None:
    try:
        check(event)
    except BadEvent as error:
        return error
    return None
