"""Coinbase Advanced Trade's history: public candles and market trades.

Theory of operation, with the source of each step. DOCS is Coinbase's "Get Public Product Candles", "Get Public Market
Trades", "List Public Products" and "Rate Limits".

1. Candles: `market/products/BTC-USD/candles`, at most 350 buckets, newest first, `start` and `end` in UTC seconds.
   The range is walked upwards in windows of 300 buckets: whether `end` is inclusive is not documented, and either way
   the window fits. There is no candle for a bucket without trades.
2. Trades: `market/products/BTC-USD/ticker`, the newest `limit` of those between `start` and `end` (seconds), newest
   first, so that a window with more than that hides its oldest. The range is walked upwards in windows; one whose
   answer is full is asked for again with half its length, down to one second. A second with more trades than that
   cannot be told whole: its hidden part is `missing`.
3. How large `limit` may be is not documented, and a server that takes less than it was asked for hides trades without
   a full answer. Trade ids of a product follow each other without a gap (held on the recording): where the first id of
   a window does not follow the last of the one before, the window is halved as well. At one second the hole is left to
   whoever watches the ids: it may be the venue's own. While no id is known yet, what lies before the oldest trade of a
   window is asked for by itself, until it is empty: the walk begins with that trade then.
4. After a window with few trades the next one is twice as long.
5. `side` is the maker's, as in the stream; ids are the stream's. 10 requests a second are free (DOCS); half is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.coinbase.messages import read_trade
from producers.venues.coinbase.products import PRODUCTS_PATH as MARKET
from producers.venues.coinbase.products import RestProduct, describe, rest_fields
from producers.venues.kit.history import Access, Asked, Budget, Page, Request, Span
from producers.venues.kit.reading import candle, check_time, decode, whole
from producers.venues.kit.values import Text, check_decimals, seconds_ns

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
    candles: list[_Candle]


class _Trades(msgspec.Struct):
    trades: list[msgspec.Raw]


class _Pagination(msgspec.Struct):
    next_cursor: str = ""
    has_next: bool = False


class _Products(msgspec.Struct):
    products: list[RestProduct]
    pagination: _Pagination = msgspec.field(default_factory=_Pagination)


class _Window(msgspec.Struct, frozen=True):
    """Which trades a page is about: [start, start + length) in seconds; the id before them, 0 when unknown."""

    start_s: int
    length_s: Annotated[int, msgspec.Meta(ge=1)]
    last_id: int


_CANDLES = msgspec.json.Decoder(_Candles)
_TRADES = msgspec.json.Decoder(_Trades)
_PRODUCTS = msgspec.json.Decoder(_Products)


class CoinbaseHistory:
    """Coinbase's adapter; see `producers.venues.kit.history`."""

    venue = "coinbase"
    budget = Budget(burst=10, per_s=5)
    intervals = frozenset(_GRANULARITIES)
    has_trades = True
    sparse = True
    candle_fields: frozenset[str] = frozenset()
    candles_kept: int | None = None

    def __init__(self, access: Access, limit: int = LIMIT, buckets: int = BUCKETS) -> None:
        self.rest_url = access.rest_url
        self._limit = limit
        self._buckets = buckets

    def headers(self) -> Mapping[str, str]:
        """Return none: the public endpoints take no key. Answers may be cached for a second, which does no harm."""
        return {}

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
        following = found.pagination.next_cursor if found.pagination.has_next else ""
        return Page(
            items=tuple(
                msgspec.structs.replace(describe(sent.product_id), ts_recv=ts, **rest_fields(sent))
                for sent in found.products
            ),
            cursor=following or None,
        )

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for one window of buckets."""
        if asked.interval not in _GRANULARITIES:
            raise BadEvent("bad_interval", "interval", asked.interval)
        start, end = self._buckets_of(asked, cursor)
        query = {"start": start // SECOND_NS, "end": end // SECOND_NS,
                 "granularity": _GRANULARITIES[asked.interval]}  # fmt: skip
        path = f"{MARKET}/{asked.instrument.venue_symbol}/candles"
        return Request(path=path, query=tuple((name, str(value)) for name, value in query.items()))

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read a window; the next one begins where it ends."""
        start, end = self._buckets_of(asked, cursor)
        read = (_candle(asked, sent, ts) for sent in decode(_CANDLES, body).candles)
        inside = sorted((one for one in read if start <= one.start < end), key=lambda one: one.start)
        return Page(items=tuple(inside), reached=end, cursor=None if end >= asked.end else str(end // SECOND_NS))

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the trades of one window."""
        window = _window(asked, cursor)
        query = {"limit": self._limit, "start": window.start_s, "end": window.start_s + window.length_s}
        path = f"{MARKET}/{asked.instrument.venue_symbol}/ticker"
        return Request(path=path, query=tuple((name, str(value)) for name, value in query.items()))

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read a window, or see that it must be smaller."""
        window = _window(asked, cursor)
        sent = decode(_TRADES, body).trades
        start, end = window.start_s * SECOND_NS, (window.start_s + window.length_s) * SECOND_NS
        read = [_trade(raw, ts) for raw in sent]
        rows = sorted((int(trade.trade_id), trade) for trade in read if start <= trade.ts_event < end)
        full = len(sent) >= self._limit
        hole = bool(rows) and window.last_id > 0 and rows[0][0] > window.last_id + 1
        before_s = rows[0][1].ts_event // SECOND_NS - window.start_s if rows else 0
        if not full and not window.last_id and before_s:
            return Page(reached=max(start, asked.start), cursor=_write(_Window(window.start_s, before_s, 0)))
        if (full or hole) and window.length_s > 1:
            half = _Window(window.start_s, window.length_s // 2, window.last_id)
            return Page(reached=max(start, asked.start), cursor=_write(half))
        items = tuple(trade for _, trade in rows)
        missing = (Span(start, items[0].ts_event if items else end, "too_many"),) if full else ()
        if end >= asked.end:
            return Page(items=items, reached=asked.end, missing=missing)
        longer = min(2 * window.length_s, WINDOW_S_MAX) if 4 * len(sent) < self._limit else window.length_s
        following = _Window(window.start_s + window.length_s, longer, rows[-1][0] if rows else window.last_id)
        return Page(items=items, reached=end, cursor=_write(following), missing=missing)

    def _buckets_of(self, asked: Asked, cursor: str | None) -> tuple[int, int]:
        start = asked.start if cursor is None else whole(cursor, "cursor") * SECOND_NS
        return start, min(asked.end, start + self._buckets * INTERVALS[asked.interval])


def _window(asked: Asked, cursor: str | None) -> _Window:
    """Return what a cursor stands for; nothing is asked for beyond the second in which the range ends."""
    parts = cursor.split(":") if cursor else [str(asked.start // SECOND_NS), str(WINDOW_S), "0"]
    if len(parts) != _CURSOR_PARTS:
        raise BadEvent("bad_cursor", "cursor", str(cursor))
    start_s, length_s, last_id = (whole(part, "cursor") for part in parts)
    return _Window(start_s, max(1, min(length_s, -(-asked.end // SECOND_NS) - start_s)), last_id)


def _write(window: _Window) -> str:
    return f"{window.start_s}:{window.length_s}:{window.last_id}"


def _trade(raw: msgspec.Raw, ts: int) -> Trade:
    try:
        trade = read_trade(raw)[1]
    except msgspec.MsgspecError as error:
        raise BadEvent("bad_answer", "trade", f"{bytes(raw)[:200]!r} ({error})") from error
    check_time(trade.ts_event, ts, "time")
    return trade


def _candle(asked: Asked, sent: _Candle, ts: int) -> Candle:
    prices = (sent.open, sent.high, sent.low, sent.close)
    check_decimals([*prices, sent.volume], "candle")
    return candle(asked, seconds_ns(sent.start, "start"), ts, prices, sent.volume)


def make(access: Access) -> CoinbaseHistory:
    """Return the adapter."""
    return CoinbaseHistory(access)
