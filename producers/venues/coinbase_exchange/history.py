"""Coinbase Exchange's history: candles and trades of any time, and the book.

Documents, below https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/: "Get product candles"
(get-product-candles), "Get product trades" (get-product-trades), "Get product book" (get-product-book); "Pagination",
https://docs.cdp.coinbase.com/exchange/rest-api/pagination; and "REST Rate Limits Overview".

1. Candles: rows `[seconds, low, high, open, close, volume]`, newest first, at most 300, `start` and `end` in UTC
   seconds; some of them may precede `start`. There is none for an interval without trades, and no four-hour candle.
2. Trades: newest first, at most 1,000; `after` has those with lower ids. Ids rise by one per product (held on a
   recording), and times cannot be requested: the first id of the range is found by halving [0, newest id], with single
   trades; then pages go upwards by ids. `side` is the maker's, as in the stream.
3. The book of level 2 has the `sequence` that the messages of the channel `full` have; books of `level2_batch` have no
   number, and are not compared.
4. An address may make 10 requests a second; half is used.
"""

from __future__ import annotations

from typing import Any

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.coinbase_exchange.messages import REST_TRADE, read_trade
from producers.venues.coinbase_exchange.products import PRODUCT, PRODUCTS_PATH, VENUE, describe, learned
from producers.venues.kit.history import Access, Asked, Budget, Page, RefusedItem, Request, RestBook, RestBooks
from producers.venues.kit.pages import PublicHistory, instruments, request, window, window_candles
from producers.venues.kit.reading import candle, decode, read_items, sift, trade_span, whole, without_refused_end
from producers.venues.kit.values import Number, integer, ms_ns, numbers, pair_columns

LIMIT = 1_000
BUCKETS = 300
_GRANULARITIES = {"1m", "5m", "15m", "1h", "1d"}


class _Candle(msgspec.Struct, array_like=True):
    seconds: Number
    low: Any
    high: Any
    open: Any
    close: Any
    volume: Any


class _Book(msgspec.Struct):
    sequence: Any
    bids: list[tuple[str, str, Any]]
    asks: list[tuple[str, str, Any]]


_CANDLE = msgspec.json.Decoder(_Candle, float_hook=str)
_BOOK = msgspec.json.Decoder(_Book)


class CoinbaseExchangeHistory(PublicHistory):
    """Coinbase Exchange's adapter; see `producers.venues.kit.history`.

    The cursor of trades is `find:LOW:HIGH` during the search for the first id of the range, which is above LOW and at
    most HIGH, and then the next id.
    """

    venue = VENUE
    budget = Budget(burst=10, per_s=5)
    intervals = frozenset(_GRANULARITIES)
    rows_max = LIMIT

    def __init__(self, access: Access, rows_max: int | None = None, buckets: int = BUCKETS) -> None:
        super().__init__(access, rows_max)
        self._buckets = buckets
        self.books = RestBooks(by="sequence", request=_request_book, read=_read_book)

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTC-USD`, which is the venue's own name too."""
        return describe(name)

    def symbols(self, cursor: str | None) -> Request:
        """Ask for every product."""
        del cursor
        return request(PRODUCTS_PATH)

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read products."""

        def read(raw: bytes) -> Instrument:
            sent = decode(PRODUCT, raw)
            found = describe(sent.id)
            return msgspec.structs.replace(found, **learned(sent, found), ts_recv=ts)

        return instruments(read_items(body, read), cursor)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for one window of candles; `end` may be inclusive."""
        start, end = window(asked, cursor, self._buckets)
        length = INTERVALS[asked.interval]
        return request(f"{PRODUCTS_PATH}/{asked.instrument.venue_symbol}/candles", granularity=length // SECOND_NS,
                       start=start // SECOND_NS, end=(end - length) // SECOND_NS)  # fmt: skip

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read a window."""
        rows = read_items(body, lambda row: _candle(asked, decode(_CANDLE, row), ts))
        return window_candles(asked, window(asked, cursor, self._buckets), reversed(rows))

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the newest trade, for one that halves the range of ids, or for trades from the cursor's id on."""
        path = f"{PRODUCTS_PATH}/{asked.instrument.venue_symbol}/trades"
        if cursor is None:
            return request(path, limit=1)
        low, high = _ends(cursor)
        if low is None:
            return request(path, limit=self._limit, after=high + self._limit)
        return request(path, limit=1, after=(low + high) // 2 + 1)

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read trades; the next page begins after the last good id."""
        del ts
        rows = read_items(body, lambda row: read_trade(decode(REST_TRADE, row)))[::-1]
        newest = next((one for one in reversed(rows) if not isinstance(one, RefusedItem)), None)
        low, high = (0, 0) if cursor is None else _ends(cursor)
        if cursor is None:
            is_over = newest is None or newest.ts_event < asked.start
            return Page(reached=asked.end if is_over else asked.start,
                        cursor=None if newest is None or is_over else f"find:0:{newest.trade_id}")  # fmt: skip
        if low is not None:
            middle = (low + high) // 2
            is_before = newest is None or newest.ts_event < asked.start
            return Page(reached=asked.start, cursor=_find(middle, high) if is_before else _find(low, middle))
        wanted = [one for one in rows if isinstance(one, RefusedItem) or int(one.trade_id) >= high]
        found = sift(without_refused_end(wanted), trade_span, asked.start, asked.end)
        page = Page(items=found.items, reached=asked.end, missing=found.missing, refused=found.refused)
        if not found.items or found.items[-1].ts_event >= asked.end:
            return page
        last = found.items[-1]
        return msgspec.structs.replace(page, reached=last.ts_event, cursor=str(int(last.trade_id) + 1))


def _ends(cursor: str) -> tuple[int | None, int]:
    """Return the ids that a search is between, or None and the id that a page begins with."""
    _, _, ends = cursor.rpartition("find:")
    low, _, high = ends.rpartition(":")
    return (whole(low, "cursor") if low else None), whole(high, "cursor")


def _find(low: int, high: int) -> str:
    return f"find:{low}:{high}" if high - low > 1 else str(high)


def _request_book(instrument: Instrument) -> Request:
    return request(f"{PRODUCTS_PATH}/{instrument.venue_symbol}/book", level=2)


def _read_book(body: bytes) -> RestBook:
    sent = decode(_BOOK, body)
    bids, asks = ([(price, size) for price, size, _ in side] for side in (sent.bids, sent.asks))
    return RestBook(integer(str(sent.sequence), "sequence", "bad_sequence"), pair_columns(bids, asks))


def _candle(asked: Asked, row: _Candle, ts: int) -> Candle:
    opened, high, low, closed, volume = numbers([row.open, row.high, row.low, row.close, row.volume], "candle")
    return candle(asked, ms_ns(row.seconds * 1_000, "time"), ts, (opened, high, low, closed), volume)
