"""Reading REST answers: typed decoding whose errors name field and value, and rows made into candles."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from marketdata.clock import AHEAD_NS_MAX, TS_MIN
from marketdata.errors import BadEvent
from marketdata.events import Candle
from marketdata.intervals import INTERVALS
from producers.venues.kit.history import Asked
from producers.venues.kit.values import UNREADABLE, in_range

T = TypeVar("T")

VALUE_CHARS = 200
DETAIL_CHARS = 80

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
