"""Coinbase Advanced Trade's history: public candles and market trades.

Documents, below https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/public/: "Get Public Product
Candles" (get-public-product-candles), "Get Public Market Trades" (get-public-market-trades), "Get Public Product Book"
(get-public-product-book), "List Public Products" (list-public-products); and "Rate Limits".

1. Candles: `market/products/BTC-USD/candles`, at most 350 buckets, newest first, `start` and `end` in UTC seconds.
   The range is read upwards in windows of 300 buckets: whether `end` is inclusive is not documented, and either way
   the window fits. There is no candle for a bucket without trades.
2. Trades: `market/products/BTC-USD/ticker`, the newest `limit` of those between `start` and `end` (seconds), newest
   first, so that a window with more than that hides its oldest. The range is read upwards in windows; one whose
   answer is full is requested again with half its length, down to one second. A second with more trades than that
   cannot be had whole: its hidden part is `missing`.
3. How large `limit` may be is not documented, and a server that reduces it hides trades without a full answer. Trade
   ids of a product are consecutive (held on the recording): where the first id of a window does not follow the last of
   the one before, the window is halved as well. At one second the gap is left to the scan for missing ids: it may be
   the venue's own. While no id is known yet, what lies before the oldest trade of a window is requested by itself,
   until it is empty: the pages begin with that trade then.
4. After a window with few trades the next one is twice as long.
5. `side` is the maker's, as in the stream; ids are the stream's. 10 requests a second are free; half is used.
6. `market/product_book` has the book's time and no number. The stream's updates have times of the same clock. Answers
   may be cached for a second, and what the time means exactly is not documented: hence the slack.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import Candle, Instrument, Trade
from producers.venues.coinbase.messages import read_trade
from producers.venues.coinbase.products import PRODUCTS_PATH as MARKET
from producers.venues.coinbase.products import RestProduct, describe, rest_fields
from producers.venues.kit.history import Access, Asked, Budget, Page, Request, RestBook, RestBooks, Span
from producers.venues.kit.pages import PublicHistory, instruments, request, window, window_candles
from producers.venues.kit.reading import candle, check_time, decode, read_each, sift, trade_span, whole
from producers.venues.kit.values import Text, check_decimals, iso_ns, pair_columns, seconds_ns

BOOK_PATH = f"{MARKET.rpartition('/')[0]}/product_book"
BOOK_SLACK_NS = 2 * SECOND_NS
LEVELS = 50
BUCKETS = 300
LIMIT = 1_000
WINDOW_S = 300
WINDOW_S_MAX = 86_400
PRODUCTS = 250

_GRANULARITIES = {
    "1m": "ONE_MINUTE",
    "5m": "FIVE_MINUTE",
    "15m": "FIFTEEN_MINUTE",
    "1h": "ONE_HOUR",
    "4h": "FOUR_HOUR",
    "1d": "ONE_DAY",
}
_CURSOR_PARTS = 3


class _Candle(msgspec.Struct):
    start: Text
    low: Text
    high: Text
    open: Text
    close: Text
    volume: Text


class _Candles(msgspec.Struct):
    candles: list[msgspec.Raw]


class _Trades(msgspec.Struct):
    trades: list[msgspec.Raw]


class _Pagination(msgspec.Struct):
    next_cursor: str = ""
    has_next: bool = False


class _Products(msgspec.Struct):
    products: list[msgspec.Raw]
    pagination: _Pagination = msgspec.field(default_factory=_Pagination)


class _Level(msgspec.Struct):
    price: Text
    size: Text


class _Book(msgspec.Struct):
    bids: list[_Level]
    asks: list[_Level]
    time: str


class _PriceBook(msgspec.Struct):
    pricebook: _Book


class _Window(msgspec.Struct, frozen=True):
    """Which trades a page has: [start, start + length) in seconds; the id before them, 0 when unknown."""

    start_s: int
    length_s: Annotated[int, msgspec.Meta(ge=1)]
    last_id: int


_CANDLES = msgspec.json.Decoder(_Candles)
_CANDLE = msgspec.json.Decoder(_Candle)
_BOOK = msgspec.json.Decoder(_PriceBook)
_TRADES = msgspec.json.Decoder(_Trades)
_PRODUCTS = msgspec.json.Decoder(_Products)
_PRODUCT = msgspec.json.Decoder(RestProduct)


class CoinbaseHistory(PublicHistory):
    """Coinbase's adapter; see `producers.venues.kit.history`."""

    venue = "coinbase"
    budget = Budget(burst=10, per_s=5)
    intervals = frozenset(_GRANULARITIES)
    rows_max = LIMIT

    def __init__(self, access: Access, rows_max: int | None = None, buckets: int = BUCKETS) -> None:
        super().__init__(access, rows_max)
        self._buckets = buckets
        self.books = RestBooks(by="time", request=_request_book, read=_read_book, slack_ns=BOOK_SLACK_NS)

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTC-USD`, which is the venue's own name too."""
        return describe(name)

    def symbols(self, cursor: str | None) -> Request:
        """Ask for some products."""
        page = (("cursor", cursor),) if cursor else ()
        return Request(path=MARKET, query=(("limit", str(PRODUCTS)), *page))

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read products."""
        del cursor
        found = decode(_PRODUCTS, body)

        def read(raw: bytes) -> Instrument:
            sent = decode(_PRODUCT, raw)
            return msgspec.structs.replace(describe(sent.product_id), ts_recv=ts, **rest_fields(sent))

        following = found.pagination.next_cursor if found.pagination.has_next else ""
        return instruments(read_each(found.products, read), following or None)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for one window of buckets."""
        if asked.interval not in _GRANULARITIES:
            raise BadEvent("bad_interval", "interval", asked.interval)
        start, end = window(asked, cursor, self._buckets)
        return request(f"{MARKET}/{asked.instrument.venue_symbol}/candles", start=start // SECOND_NS,
                       end=end // SECOND_NS, granularity=_GRANULARITIES[asked.interval])  # fmt: skip

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read a window."""
        rows = read_each(decode(_CANDLES, body).candles, lambda raw: _candle(asked, decode(_CANDLE, raw), ts))
        return window_candles(asked, window(asked, cursor, self._buckets), reversed(rows))

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the trades of one window."""
        wanted = _window(asked, cursor)
        return request(f"{MARKET}/{asked.instrument.venue_symbol}/ticker", limit=self._limit, start=wanted.start_s,
                       end=wanted.start_s + wanted.length_s)  # fmt: skip

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read a window, or see that it must be smaller."""
        wanted = _window(asked, cursor)
        sent = decode(_TRADES, body).trades
        start, end = wanted.start_s * SECOND_NS, (wanted.start_s + wanted.length_s) * SECOND_NS
        found = sift(reversed(read_each(sent, lambda raw: _trade(raw, ts))), trade_span, max(start, asked.start),
                     min(end, asked.end))  # fmt: skip
        rows = sorted((int(trade.trade_id), trade) for trade in found.items if start <= trade.ts_event < end)
        is_full = len(sent) >= self._limit
        skips = bool(rows) and wanted.last_id > 0 and rows[0][0] > wanted.last_id + 1
        before_s = rows[0][1].ts_event // SECOND_NS - wanted.start_s if rows else 0
        if not is_full and not wanted.last_id and before_s:
            return Page(reached=max(start, asked.start), cursor=_write(_Window(wanted.start_s, before_s, 0)))
        if (is_full or skips) and wanted.length_s > 1:
            half = _Window(wanted.start_s, wanted.length_s // 2, wanted.last_id)
            return Page(reached=max(start, asked.start), cursor=_write(half))
        items = tuple(trade for _, trade in rows)
        missing = found.missing
        if is_full:
            missing += (Span(start, items[0].ts_event if items else end, "too_many"),)
        page = Page(items=items, reached=min(end, asked.end), missing=missing, refused=found.refused)
        if end >= asked.end:
            return page
        longer = min(2 * wanted.length_s, WINDOW_S_MAX) if 4 * len(sent) < self._limit else wanted.length_s
        following = _Window(wanted.start_s + wanted.length_s, longer, rows[-1][0] if rows else wanted.last_id)
        return msgspec.structs.replace(page, cursor=_write(following))


def _window(asked: Asked, cursor: str | None) -> _Window:
    """Return a cursor's window; nothing is requested beyond the second in which the range ends."""
    parts = cursor.split(":") if cursor else [str(asked.start // SECOND_NS), str(WINDOW_S), "0"]
    if len(parts) != _CURSOR_PARTS:
        raise BadEvent("bad_cursor", "cursor", str(cursor))
    start_s, length_s, last_id = (whole(part, "cursor") for part in parts)
    return _Window(start_s, max(1, min(length_s, -(-asked.end // SECOND_NS) - start_s)), last_id)


def _write(window: _Window) -> str:
    return f"{window.start_s}:{window.length_s}:{window.last_id}"


def _request_book(instrument: Instrument) -> Request:
    return request(BOOK_PATH, product_id=instrument.venue_symbol, limit=LEVELS)


def _read_book(body: bytes) -> RestBook:
    sent = decode(_BOOK, body).pricebook
    bids, asks = ([(level.price, level.size) for level in side] for side in (sent.bids, sent.asks))
    return RestBook(iso_ns(sent.time, "time"), pair_columns(bids, asks))


def _trade(raw: bytes, ts: int) -> Trade:
    try:
        trade = read_trade(msgspec.Raw(raw))[1]
    except msgspec.MsgspecError as error:
        raise BadEvent("bad_answer", "trade", f"{raw[:200]!r} ({error})") from error
    check_time(trade.ts_event, ts, "time")
    return trade


def _candle(asked: Asked, sent: _Candle, ts: int) -> Candle:
    prices = (sent.open, sent.high, sent.low, sent.close)
    check_decimals([*prices, sent.volume], "candle")
    return candle(asked, seconds_ns(sent.start, "start"), ts, prices, sent.volume)
