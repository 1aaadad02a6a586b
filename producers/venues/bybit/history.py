"""Bybit's history: candles of any time, and the most recent trades.

Documents: Bybit API v5, https://bybit-exchange.github.io/docs/v5/: "Get Kline" (/market/kline), "Get Public Recent
Trading History" (/market/recent-trade), "Get Orderbook" (/market/orderbook), "Get Instruments Info"
(/market/instrument), "Rate Limit" (/rate-limit) and "Error Codes" (/error).

1. Candles: `kline`, newest first, `start` and `end` in ms, both inclusive, at most 1,000 a page. A row is seven texts:
   start in ms, open, high, low, close, volume, turnover; one without trades repeats the last price, and becomes the
   marker without prices. Turnover is in the quote currency; of inverse contracts it is in the coin, and left out.
2. Trades: `recent-trade` has only the latest, 60 on the spot market and 1,000 on the others, newest first, without a
   time to ask for. What was traded before the oldest of them is missing as `too_old`.
3. A name is another product on each market, which our symbol shows: BTC-USDT is spot, BTC-USDT-PERP linear and
   BTC-USD-PERP inverse. A name of the venue may have its market before it, `linear:BTCUSDT`; without one it is spot,
   unless only derivatives have such names.
4. `retCode` is 0 in a good answer; 10006, 10016 and 10018 mean later, all others that the request is wrong. An address
   may make 600 requests in 5 seconds ("Rate Limit"); a tenth of that is used.
5. `orderbook` has `cts`, the matching engine's time, as the stream has. Its `u` is that of a stream of one depth, which
   the document no longer names.
"""

from __future__ import annotations

import msgspec

from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent, Refused, Unavailable
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.bybit.messages import LISTED, REST_TRADE, read_rest_trade
from producers.venues.bybit.names import INVERSE, LINEAR, SPOT, VENUE, describe, find, listed_fields, market_of
from producers.venues.kit.history import Access, Asked, Budget, Page, RefusedItem, Request, RestBook, RestBooks, Span
from producers.venues.kit.pages import PublicHistory, instruments, request, window, window_candles
from producers.venues.kit.reading import candle, decode, read_items, sift, trade_span
from producers.venues.kit.values import Number, Text, check_decimals, levels, ms_ns, ms_text_ns

CANDLES = 1_000
LEVELS = 50
TRADES = {SPOT: 60, LINEAR: 1_000, INVERSE: 1_000}
_MARKETS = (SPOT, LINEAR, INVERSE)
_INTERVALS = {"1m": "1", "5m": "5", "15m": "15", "1h": "60", "4h": "240", "1d": "D"}
_LATER = frozenset({10006, 10016, 10018})


class _Row(msgspec.Struct, array_like=True):
    ms: str
    open: Text
    high: Text
    low: Text
    close: Text
    volume: Text
    turnover: Text


class _Answer(msgspec.Struct):
    code: int = msgspec.field(name="retCode")
    message: str = msgspec.field(name="retMsg", default="")
    result: msgspec.Raw = msgspec.Raw(b"{}")


class _Listing(msgspec.Struct):
    category: str
    items: msgspec.Raw = msgspec.field(name="list")
    cursor: str | None = msgspec.field(name="nextPageCursor", default=None)


class _Book(msgspec.Struct):
    bids: msgspec.Raw = msgspec.field(name="b")
    asks: msgspec.Raw = msgspec.field(name="a")
    ms: Number = msgspec.field(name="cts")


_ANSWER = msgspec.json.Decoder(_Answer)
_BOOK = msgspec.json.Decoder(_Book)
_LISTING = msgspec.json.Decoder(_Listing)
_ROW = msgspec.json.Decoder(_Row)


class BybitHistory(PublicHistory):
    """Bybit's adapter; see `producers.venues.kit.history`."""

    venue = VENUE
    budget = Budget(burst=60, per_s=12)
    intervals = frozenset(_INTERVALS)
    rows_max = CANDLES
    sparse = False
    candle_fields = frozenset({"quote_volume"})

    def __init__(self, access: Access, rows_max: int | None = None) -> None:
        super().__init__(access, rows_max)
        self.books = RestBooks(
            by="time", request=lambda instrument: _request("orderbook", instrument, limit=LEVELS), read=_read_book,
            slack_ns=SECOND_NS,
        )  # fmt: skip

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTC-USDT`, `BTC-USDT-PERP`, `BTCUSDT` or `linear:BTCUSDT`."""
        return find(name)

    def symbols(self, cursor: str | None) -> Request:
        """Ask for a page of one market's products; options are left out."""
        market, _, page = (cursor or SPOT).partition("|")
        query = [("category", market), ("limit", "1000"), *([("cursor", page)] if page else [])]
        return Request(path="v5/market/instruments-info", query=tuple(query))

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read a page; after a market's last one the next market follows."""
        market = (cursor or SPOT).partition("|")[0]
        listing = _listing(body, market)

        def read(row: bytes) -> Instrument:
            sent = decode(LISTED, row)
            return msgspec.structs.replace(describe(sent.symbol, market), ts_recv=ts, **listed_fields(sent))

        following = f"{market}|{listing.cursor}" if listing.cursor else None
        if following is None and market != _MARKETS[-1]:
            following = _MARKETS[_MARKETS.index(market) + 1]
        return instruments(read_items(bytes(listing.items), read), following)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for as many candles from the cursor's start as a page has."""
        start, end = window(asked, cursor, self._limit)
        return _request("kline", asked.instrument, interval=_INTERVALS[asked.interval], start=start // MILLISECOND_NS,
                        end=(end - INTERVALS[asked.interval]) // MILLISECOND_NS, limit=self._limit)  # fmt: skip

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read klines."""
        market = market_of(asked.instrument)
        rows = read_items(
            bytes(_listing(body, market).items), lambda row: _candle(asked, decode(_ROW, row), ts, market)
        )
        return window_candles(asked, window(asked, cursor, self._limit), reversed(rows))

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the latest trades."""
        del cursor
        return _request("recent-trade", asked.instrument, limit=TRADES[market_of(asked.instrument)])

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read all that there are; what was traded before them is missing."""
        del cursor, ts
        listing = _listing(body, market_of(asked.instrument))
        rows: list[Trade | RefusedItem] = read_items(
            bytes(listing.items), lambda row: read_rest_trade(decode(REST_TRADE, row))
        )
        rows.reverse()
        times = [row.ts_event for row in rows if not isinstance(row, RefusedItem)]
        if times and times != sorted(times):
            raise BadEvent("bad_answer", "time", "trades are not in order")
        # Others of the oldest one's millisecond may be missing.
        begin = min(times[0] + MILLISECOND_NS, asked.end) if times else asked.end
        missing = (Span(asked.start, begin, "too_old"),) if asked.start < begin else ()
        found = sift(rows, trade_span, max(asked.start, begin), asked.end)
        return Page(items=found.items, reached=asked.end, missing=missing + found.missing, refused=found.refused)


def _request(path: str, instrument: Instrument, **query: str | int) -> Request:
    return request(f"v5/market/{path}", category=market_of(instrument), symbol=instrument.venue_symbol, **query)


def _result(body: bytes) -> bytes:
    answer = decode(_ANSWER, body)
    if answer.code:
        text = f"{VENUE}: {answer.code} {answer.message[:200]}"
        raise Unavailable(text) if answer.code in _LATER else Refused(text)
    return bytes(answer.result)


def _read_book(body: bytes) -> RestBook:
    sent = decode(_BOOK, _result(body))
    return RestBook(ms_ns(sent.ms, "cts"), (*levels(sent.bids, "b"), *levels(sent.asks, "a")))


def _listing(body: bytes, market: str) -> _Listing:
    listing = decode(_LISTING, _result(body))
    if listing.category != market:
        raise BadEvent("bad_answer", "category", listing.category)
    return listing


def _candle(asked: Asked, row: _Row, ts: int, market: str) -> Candle:
    prices = (row.open, row.high, row.low, row.close)
    check_decimals([*prices, row.volume, row.turnover], "kline")
    quote_volume = None if market == INVERSE else row.turnover
    return candle(asked, ms_text_ns(row.ms, "start"), ts, prices, row.volume, empty=is_zero(row.volume),
                  quote_volume=quote_volume)  # fmt: skip
