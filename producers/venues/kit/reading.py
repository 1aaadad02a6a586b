"""Reading REST answers: typed decoding whose errors name field and value, item by item; rows made into candles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from marketdata.clock import AHEAD_NS_MAX, TS_MIN
from marketdata.errors import BadEvent
from marketdata.events import Candle, Trade
from marketdata.intervals import INTERVALS
from producers.venues.kit.history import Asked, RefusedItem, Span
from producers.venues.kit.values import UNREADABLE, in_range

T = TypeVar("T")

VALUE_CHARS = 200
DETAIL_CHARS = 80
ALL_REFUSED_MAX = 10

# The sums of an interval that is known to have no trades.
NOTHING_TRADED: dict[str, Any] = {"quote_volume": "0", "buy_volume": "0", "trades": 0}
_PATH = re.compile(r"`\$(.*)`")
_STEPS = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return the decoded answer. Raises BadEvent (`malformed_json`, `bad_answer`) with the field and its value."""
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise _explained(body, error) from error


def _explained(body: bytes, error: Exception) -> BadEvent:
    """Return an error that names what is wrong: the type of one value, or the text as a whole."""
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE:
        return BadEvent("malformed_json", "body", body[:VALUE_CHARS].decode("utf-8", "replace"))
    found = _PATH.search(str(error))
    path = found.group(1) if found else ""
    for name, index in _STEPS.findall(path):
        if name and isinstance(value, dict) and name in value:
            value = value[name]
        elif index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            break
    return BadEvent("bad_answer", path.lstrip(".") or "body", f"{str(value)[:DETAIL_CHARS]} ({error})")


class Sifted(NamedTuple, Generic[T]):
    """The items of an answer that can be used, the others, and the spans of time in which one of those lay."""

    items: tuple[T, ...]
    refused: tuple[RefusedItem, ...]
    missing: tuple[Span, ...]


_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


def read_items(body: bytes, read: Callable[[bytes], T]) -> list[T | RefusedItem]:
    """Read each item of a JSON array by itself, in the array's order; `read` raises BadEvent.

    Raises BadEvent where the body is no array, or where none of more than `ALL_REFUSED_MAX` items can be read: then the
    format is another one, and no single item is wrong.
    """
    raws = decode(_ITEMS, body)
    return read_each(raws, read)


def read_each(raws: Iterable[msgspec.Raw], read: Callable[[bytes], T]) -> list[T | RefusedItem]:
    """Read each of these items by itself, as `read_items` does."""
    found: list[T | RefusedItem] = []
    for raw in raws:
        item = bytes(raw)
        try:
            found.append(read(item))
        except BadEvent as error:
            found.append(RefusedItem(item, error))
    if len(found) > ALL_REFUSED_MAX and all(isinstance(one, RefusedItem) for one in found):
        raise next(one.error for one in found if isinstance(one, RefusedItem))
    return found


def sift(
    read: Iterable[T | RefusedItem], span_of: Callable[[T], tuple[int, int]], start: int, end: int
) -> Sifted[T]:  # fmt: skip
    """Separate the items, oldest first, of a page of [start, end); `span_of` returns where an item begins and ends.

    A refused item lay between its neighbours: from where the one before ends to where the one after begins. Only what
    of that is within the page is missing.
    """
    items: list[T] = []
    refused: list[RefusedItem] = []
    missing: list[Span] = []
    since, is_open = start, False
    for item in read:
        if isinstance(item, RefusedItem):
            refused.append(item)
            is_open = True
            continue
        first, last = span_of(item)
        if is_open:
            missing.append(Span(since, first, "bad_item"))
        items.append(item)
        since, is_open = last, False
    if is_open:
        missing.append(Span(since, end, "bad_item"))
    within = (Span(max(span.start, start), min(span.end, end), span.reason) for span in missing)
    return Sifted(tuple(items), tuple(refused), tuple(span for span in within if span.start < span.end))


def trade_span(trade: Trade) -> tuple[int, int]:
    """Return what `sift` needs of a trade: another one may have been made at the same time, before or after it."""
    return trade.ts_event + 1, trade.ts_event


def candle_span(one: Candle) -> tuple[int, int]:
    """Return what `sift` needs of a candle."""
    return one.start, one.end


def without_refused_end(read: list[T | RefusedItem]) -> list[T | RefusedItem]:
    """Return a page up to its last good item, where the next page begins; a page without one stays as it is."""
    last = max((at for at, item in enumerate(read) if not isinstance(item, RefusedItem)), default=len(read) - 1)
    return read[: last + 1]


def candle(
    asked: Asked,
    start: int,
    ts: int,
    prices: tuple[str, str, str, str],
    volume: str,
    *,
    empty: bool = False,
    **counted: Any,
) -> Candle:
    """Return a final candle of checked decimals (`prices` are open, high, low, close).

    `counted` is what the venue sends of quote_volume, buy_volume and trades; the others are null. An `empty` candle had
    no trades: it has no prices, and its sums are zero.

    Raises BadEvent when it does not begin where candles of this interval do, or at a time that cannot be.
    """
    length = INTERVALS[asked.interval]
    if in_range(start, start, "start") % length:
        raise BadEvent("bad_time", "start", start)
    check_time(start, ts, "start")
    instrument = asked.instrument
    opened, high, low, closed = (None, None, None, None) if empty else prices
    return Candle(venue=instrument.venue, symbol=instrument.symbol, interval=asked.interval, start=start,
                  end=start + length, ts_event=start + length, ts_recv=ts, open=opened, high=high, low=low,
                  close=closed, volume="0" if empty else volume, state="final", origin="backfill",
                  **(NOTHING_TRADED if empty else counted))  # fmt: skip


def check_time(at: int, ts: int, field: str) -> None:
    """Raise BadEvent for a time of before any market, or ahead of our clock: rows there would be lost unseen."""
    if not TS_MIN <= at <= ts + AHEAD_NS_MAX:
        raise BadEvent("time_out_of_bounds", field, at)


def whole(text: str | None, field: str) -> int:
    """Return the whole number of a cursor of ours. Raises BadEvent."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadEvent("bad_cursor", field, str(text))
    return int(text)
