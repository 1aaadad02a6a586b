"""Bybit's history: candles of any time, and the most recent trades.

Documents: Bybit API v5, https://bybit-exchange.github.io/docs/v5/: "Get Kline" (/market/kline), "Get Public Recent
Trading History" (/market/recent-trade), "Get Instruments Info" (/market/instrument), "Rate Limit" (/rate-limit) and
"Error Codes" (/error).

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
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent, Refused, Unavailable
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.bybit.messages import LISTED, REST_TRADE, read_rest_trade
from producers.venues.bybit.names import INVERSE, LINEAR, SPOT, VENUE, describe, find, listed_fields, market_of
from producers.venues.kit.history import Access, Asked, Budget, Page, RefusedItem, Request, Span
from producers.venues.kit.reading import candle, candle_span, decode, read_items, sift, trade_span, whole
from producers.venues.kit.values import Text, check_decimals, ms_ns, ms_text_ns

CANDLES = 1_000
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


_ANSWER = msgspec.json.Decoder(_Answer)
_LISTING = msgspec.json.Decoder(_Listing)
_ROW = msgspec.json.Decoder(_Row)


class BybitHistory:
    """Bybit's adapter; see `producers.venues.kit.history`."""

    venue = VENUE
    budget = Budget(burst=60, per_s=12)
    intervals = frozenset(_INTERVALS)
    has_trades = True
    sparse = False
    candle_fields = frozenset({"quote_volume"})
    candles_kept: int | None = None

    def __init__(self, access: Access, limit: int = CANDLES) -> None:
        self.rest_url = access.rest_url
        self._limit = limit

    def headers(self) -> Mapping[str, str]:
        """Return none: market data takes no key."""
        return {}

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

        found = sift(read_items(bytes(listing.items), read), lambda _: (0, 0), 0, 0)
        following = f"{market}|{listing.cursor}" if listing.cursor else None
        if following is None and market != _MARKETS[-1]:
            following = _MARKETS[_MARKETS.index(market) + 1]
        return Page(items=found.items, refused=found.refused, cursor=following)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for as many candles from the cursor's start as a page has."""
        start = asked.start if cursor is None else ms_ns(whole(cursor, "cursor"), "cursor")
        length = INTERVALS[asked.interval]
        last = min(asked.end, start + self._limit * length) - length
        query = {"interval": _INTERVALS[asked.interval], "start": start // MILLISECOND_NS,
                 "end": last // MILLISECOND_NS, "limit": self._limit}  # fmt: skip
        return _request("kline", asked, query)

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read klines; the next page begins where this one's time ends."""
        start = asked.start if cursor is None else ms_ns(whole(cursor, "cursor"), "cursor")
        end = min(asked.end, start + self._limit * INTERVALS[asked.interval])
        market = market_of(asked.instrument)
        rows = read_items(
            bytes(_listing(body, market).items), lambda row: _candle(asked, decode(_ROW, row), ts, market)
        )
        found = sift(reversed(rows), candle_span, start, end)
        following = None if end >= asked.end else str(end // MILLISECOND_NS)
        return Page(items=found.items, reached=end, cursor=following, missing=found.missing, refused=found.refused)

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the latest trades."""
        del cursor
        return _request("recent-trade", asked, {"limit": TRADES[market_of(asked.instrument)]})

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


def _request(path: str, asked: Asked, query: Mapping[str, Any]) -> Request:
    instrument = asked.instrument
    named = {"category": market_of(instrument), "symbol": instrument.venue_symbol, **query}
    return Request(path=f"v5/market/{path}", query=tuple((name, str(value)) for name, value in named.items()))


def _listing(body: bytes, market: str) -> _Listing:
    answer = decode(_ANSWER, body)
    if answer.code:
        text = f"{VENUE}: {answer.code} {answer.message[:200]}"
        raise Unavailable(text) if answer.code in _LATER else Refused(text)
    listing = decode(_LISTING, bytes(answer.result))
    if listing.category != market:
        raise BadEvent("bad_answer", "category", listing.category)
    return listing


def _candle(asked: Asked, row: _Row, ts: int, market: str) -> Candle:
    prices = (row.open, row.high, row.low, row.close)
    check_decimals([*prices, row.volume, row.turnover], "kline")
    quote_volume = None if market == INVERSE else row.turnover
    return candle(asked, ms_text_ns(row.ms, "start"), ts, prices, row.volume, empty=is_zero(row.volume),
                  quote_volume=quote_volume)  # fmt: skip
