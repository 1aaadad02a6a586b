"""Pages as most histories build them: candles by windows or from the last one on, trades by the millisecond.

A cursor is here the time that a page begins with, in UTC nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from marketdata.clock import MILLISECOND_NS
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.kit.history import Access, Asked, Budget, Page, RefusedItem, Request, RestBooks, Span
from producers.venues.kit.reading import candle_span, sift, trade_span, whole, without_refused_end


class PublicHistory:
    """What most adapters have in common: no key, and candles of all times that have prices and volume only.

    `rows_max` is how many rows a page has at most; tests use less.
    """

    venue: str
    budget: Budget
    intervals: frozenset[str]
    rows_max: int
    sparse = True
    candle_fields: frozenset[str] = frozenset()
    candles_kept: int | None = None
    books: RestBooks | str

    def __init__(self, access: Access, rows_max: int | None = None) -> None:
        self.rest_url = access.rest_url
        self._limit = self.rows_max if rows_max is None else rows_max

    def headers(self) -> Mapping[str, str]:
        """Return none: market data takes no key."""
        return {}


def request(path: str, weight: float = 1, /, **query: str | int) -> Request:
    """Return a GET with these parameters."""
    return Request(path=path, query=tuple((name, str(value)) for name, value in query.items()), weight=weight)


def start_of(asked: Asked, cursor: str | None) -> int:
    """Return the time that a page begins with, which may be a little before the range. Raises BadEvent."""
    return asked.start if cursor is None else whole(cursor, "cursor")


def window(asked: Asked, cursor: str | None, candles: int) -> tuple[int, int]:
    """Return the [start, end) of the next so many candles. Raises BadEvent."""
    start = start_of(asked, cursor)
    return start, min(asked.end, start + candles * INTERVALS[asked.interval])


def instruments(read: Iterable[Instrument | RefusedItem], cursor: str | None = None) -> Page[Instrument]:
    """Return a page of what a venue trades."""
    found = sift(read, lambda _: (0, 0), 0, 0)
    return Page(items=found.items, refused=found.refused, cursor=cursor)


def window_candles(
    asked: Asked, span: tuple[int, int], read: Iterable[Candle | RefusedItem]
) -> Page[Candle]:  # fmt: skip
    """Return the candles of a window, read oldest first; the next window begins where it ends."""
    start, end = span
    found = sift(read, candle_span, start, end)
    items = tuple(one for one in found.items if start <= one.start < end)
    following = None if end >= asked.end else str(end)
    return Page(items=items, reached=end, cursor=following, missing=found.missing, refused=found.refused)


def next_candles(asked: Asked, cursor: str | None, read: list[Candle | RefusedItem]) -> Page[Candle]:
    """Return the first candles from the cursor on, read oldest first; the next page begins where the last one ends."""
    found = sift(without_refused_end(read), candle_span, start_of(asked, cursor), asked.end)
    reached = found.items[-1].end if found.items else asked.end
    following = None if reached >= asked.end else str(reached)
    return Page(items=found.items, reached=min(reached, asked.end), cursor=following, missing=found.missing,
                refused=found.refused)  # fmt: skip


def kept_candles(
    asked: Asked, read: list[Candle | RefusedItem], ts: int, kept: int
) -> Page[Candle]:  # fmt: skip
    """Return the candles of a venue that has only the last ones, read oldest first, on one page.

    It keeps at least `kept` of them, so that none is missing after that. Before its first candle a range is missing as
    `too_old`, unless it begins within those that are kept: a young product has no candles either.
    """
    first = next((one.start for one in read if not isinstance(one, RefusedItem)), asked.end)
    kept_from = ts - (kept - 1) * INTERVALS[asked.interval]
    missing: tuple[Span, ...] = ()
    if asked.start < first and asked.start < kept_from:
        missing = (Span(asked.start, min(first, asked.end), "too_old"),)
    found = sift(read, candle_span, first if missing else asked.start, asked.end)
    inside = tuple(one for one in found.items if asked.start <= one.start < asked.end)
    return Page(items=inside, reached=asked.end, missing=missing + found.missing, refused=found.refused)


def next_trades(asked: Asked, cursor: str | None, read: list[Trade | RefusedItem], limit: int) -> Page[Trade]:
    """Return the first trades from the cursor's millisecond on, read oldest first.

    The next page begins with the millisecond of the last trade, so that its trades come again. A page that has only one
    millisecond is followed by the next one; if the page was full, the rest of that millisecond cannot be had.
    """
    start = start_of(asked, cursor)
    found = sift(without_refused_end(read), trade_span, max(start, asked.start), asked.end)
    if not found.items:
        return Page(reached=asked.end, missing=found.missing, refused=found.refused)
    missing = found.missing
    items = sorted(found.items, key=lambda one: (one.ts_event, int(one.trade_id) if one.trade_id.isdecimal() else 0))
    first_ms, last_ms = start // MILLISECOND_NS, items[-1].ts_event // MILLISECOND_NS
    if last_ms <= first_ms:
        last_ms = first_ms + 1
        if len(read) >= limit:
            missing += (Span(first_ms * MILLISECOND_NS, last_ms * MILLISECOND_NS, "too_many"),)
    reached = last_ms * MILLISECOND_NS
    return Page(items=tuple(items), reached=reached, cursor=None if reached >= asked.end else str(reached),
                missing=missing, refused=found.refused)  # fmt: skip
