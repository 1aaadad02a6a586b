"""Gemini's history: the last candles, and the trades of the last seven days.

Documents, below https://developer.gemini.com/trading/rest-api/market-data/: "List Candles" (list-candles), "List
Trades" (list-trades), "List Symbols" (list-symbols), "Get Current Order Book" (get-current-order-book); and
"Timestamps", https://docs.gemini.com/websocket/overview/data-types/timestamps.

1. Candles: `v2/candles/btcusd/1m`, rows `[ms, open, high, low, close, volume]`, newest first, without a range to ask
   for; how far back they reach is not documented. A row without volume becomes the marker without prices; that every
   interval has a row is inferred. Days are left out: when they begin is not documented.
2. Trades: `v1/trades/btcusd`, at most 500, newest first. `timestamp` has those since that millisecond, `since_tid`
   those after that id, from the earliest on: the next page is the one after the highest id. Only seven days are kept:
   what lies before the first trade is missing as `too_old` then. Ids are those of the stream.
3. The times in REST's book are dummies, for compatibility only ("Get Current Order Book").
"""

from __future__ import annotations

from typing import Any

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.gemini.names import describe
from producers.venues.gemini.trades import LISTED_MAX, number_of, read_listed
from producers.venues.kit.history import Asked, Budget, Page, RefusedItem, Request, RestBooks, Span
from producers.venues.kit.pages import PublicHistory, instruments, kept_candles, request
from producers.venues.kit.reading import candle, decode, read_items, sift, trade_span, whole, without_refused_end
from producers.venues.kit.values import UNREADABLE, Number, ms_ns, numbers

KEPT_NS = 7 * INTERVALS["1d"]
_FRAMES = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "1hr"}


class _Candle(msgspec.Struct, array_like=True):
    ms: Number
    open: Any
    high: Any
    low: Any
    close: Any
    volume: Any


_CANDLE = msgspec.json.Decoder(_Candle, float_hook=str)
_NAME = msgspec.json.Decoder(str)


class GeminiHistory(PublicHistory):
    """Gemini's adapter; see `producers.venues.kit.history`."""

    venue = "gemini"
    budget = Budget(burst=5, per_s=1)
    intervals = frozenset(_FRAMES)
    rows_max = LISTED_MAX
    sparse = False
    books: RestBooks | str = "REST sends a book without a number or a time"

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTCUSD` or of our symbol."""
        return describe(name.replace("-", "").upper())

    def symbols(self, cursor: str | None) -> Request:
        """Ask for every symbol."""
        del cursor
        return request("v1/symbols")

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read the names; there is nothing else of a symbol here."""

        def read(raw: bytes) -> Instrument:
            return msgspec.structs.replace(describe(decode(_NAME, raw).upper()), ts_recv=ts)

        return instruments(read_items(body, read), cursor)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the last candles."""
        del cursor
        return request(f"v2/candles/{asked.instrument.venue_symbol.lower()}/{_FRAMES[asked.interval]}")

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read all that there are."""
        del cursor
        rows = read_items(body, lambda row: _candle(asked, decode(_CANDLE, row), ts))
        return kept_candles(asked, rows[::-1], ts, 0)

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the first trades since the range's start, or after the cursor's id."""
        since = (
            {"timestamp": asked.start // MILLISECOND_NS} if cursor is None else {"since_tid": whole(cursor, "cursor")}
        )
        return request(f"v1/trades/{asked.instrument.venue_symbol.lower()}", 1, limit_trades=self._limit, **since)

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read a page; the next one begins after its highest id."""
        rows = read_items(body, _read)[::-1]
        first = next((one.ts_event for one in rows if not isinstance(one, RefusedItem)), asked.end)
        is_cut = cursor is None and asked.start < min(first, ts - KEPT_NS)
        found = sift(without_refused_end(rows), trade_span, first if is_cut else asked.start, asked.end)
        items = tuple(sorted(found.items, key=number_of))
        missing = (Span(asked.start, min(first, asked.end), "too_old"),) * is_cut + found.missing
        page = Page(items=items, reached=asked.end, missing=missing, refused=found.refused)
        if not items or items[-1].ts_event >= asked.end:
            return page
        return msgspec.structs.replace(page, reached=items[-1].ts_event, cursor=str(number_of(items[-1])))


def _read(raw: bytes) -> Trade:
    try:
        return read_listed(msgspec.Raw(raw))
    except UNREADABLE as error:
        raise BadEvent("bad_answer", "trade", f"{raw[:200]!r} ({error})") from error


def _candle(asked: Asked, row: _Candle, ts: int) -> Candle:
    opened, high, low, closed, volume = numbers([row.open, row.high, row.low, row.close, row.volume], "candle")
    return candle(asked, ms_ns(row.ms, "time"), ts, (opened, high, low, closed), volume, empty=is_zero(volume))
