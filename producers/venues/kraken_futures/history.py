"""Kraken Futures' history: candles of any time, and the trades of the last days.

Documents, below https://docs.kraken.com/api-reference/: "Market candles" (candles/market-candles), "Get trade history"
(market-data/get-trade-history), "Get orderbook" (market-data/get-orderbook); and "Get instruments".

1. Candles: `api/charts/v1/trade/PI_XBTUSD/1m`, `from` and `to` in UTC seconds, oldest first; an answer may hold less
   than the range. A candle without trades becomes the marker without prices.
2. Trades: `history` has the 100 most recent ones before `lastTime`, newest first, and reaches back seven days or to
   the last restart of the trading engine, whichever is later. `uid` is the id of the stream, `side` the taker's. The
   range is read upwards in windows: one whose 100 trades do not reach back to its start is requested again with half
   its length, down to a millisecond; after a window with few trades the next one is twice as long. If there are not 100
   and they do not reach back either, what lies before them is missing as `too_old`.
3. The limits of public requests are not documented; one a second is made.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from marketdata.clock import MILLISECOND_NS, MINUTE_NS, SECOND_NS, format_rfc3339
from marketdata.decimals import is_zero
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.kit.history import Asked, Budget, Page, Request, RestBooks, Span
from producers.venues.kit.pages import PublicHistory, instruments, next_candles, request, start_of
from producers.venues.kit.reading import candle, decode, read_each, sift, trade_span, whole
from producers.venues.kit.values import Number, Text, iso_ns, ms_ns, numbers
from producers.venues.kraken_futures.feed import make_trade
from producers.venues.kraken_futures.names import (
    CONTRACT,
    CONTRACTS,
    INSTRUMENTS_PATH,
    VENUE,
    describe,
    find,
    is_contract,
    rest_fields,
)

LIMIT = 100
WINDOW_NS = 5 * MINUTE_NS


class _Candle(msgspec.Struct):
    time: Number
    open: Any
    high: Any
    low: Any
    close: Any
    volume: Any


class _Candles(msgspec.Struct):
    candles: list[msgspec.Raw]


class _Trade(msgspec.Struct):
    uid: Text
    time: str
    price: Any
    size: Any
    side: Literal["buy", "sell"]
    type: str = "fill"


class _History(msgspec.Struct):
    history: list[msgspec.Raw]


_CANDLES = msgspec.json.Decoder(_Candles)
_CANDLE = msgspec.json.Decoder(_Candle, float_hook=str)
_HISTORY = msgspec.json.Decoder(_History)
_TRADE = msgspec.json.Decoder(_Trade, float_hook=str)


class KrakenFuturesHistory(PublicHistory):
    """Kraken Futures' adapter; see `producers.venues.kit.history`."""

    venue = VENUE
    budget = Budget(burst=5, per_s=1)
    intervals = frozenset(INTERVALS)
    rows_max = LIMIT
    books: RestBooks | str = "REST sends a book without a number, and only the time of the answer"

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `PI_XBTUSD` or of our symbol."""
        return find(name)

    def symbols(self, cursor: str | None) -> Request:
        """Ask for every contract."""
        del cursor
        return request(INSTRUMENTS_PATH)

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read contracts; indices are left out."""

        def read(raw: bytes) -> Instrument | None:
            sent = decode(CONTRACT, raw)
            name = sent.symbol.upper()
            return (
                msgspec.structs.replace(describe(name), ts_recv=ts, **rest_fields(sent)) if is_contract(name) else None
            )

        read_contracts = read_each(decode(CONTRACTS, body).instruments, read)
        return instruments((one for one in read_contracts if one is not None), cursor)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for candles from the cursor's start."""
        path = f"api/charts/v1/trade/{asked.instrument.venue_symbol}/{asked.interval}"
        query = {"from": start_of(asked, cursor) // SECOND_NS, "to": asked.end // SECOND_NS - 1}
        return request(path, 1, **query)

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read candles."""
        sent = decode(_CANDLES, body).candles
        return next_candles(asked, cursor, read_each(sent, lambda raw: _candle(asked, decode(_CANDLE, raw), ts)))

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the last trades of one window."""
        _, end = _window(asked, cursor)
        return request("derivatives/api/v3/history", symbol=asked.instrument.venue_symbol, lastTime=format_rfc3339(end))

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read a window, or see that it must be smaller."""
        del ts
        start, end = _window(asked, cursor)
        read = read_each(decode(_HISTORY, body).history, lambda raw: _read(decode(_TRADE, raw)))
        read.reverse()
        oldest = next((one.ts_event for one in read if isinstance(one, Trade)), end)
        is_full = len(read) >= self._limit
        length = end - start
        if oldest >= start and is_full and length > MILLISECOND_NS:
            return Page(reached=start, cursor=f"{start}:{max(length // 2, MILLISECOND_NS)}")
        found = sift(read, trade_span, max(start, min(oldest, end)), end)
        missing = found.missing
        if is_full and oldest >= start:
            missing = (Span(start, end, "too_many"),)
        elif oldest > start:
            missing = (Span(start, min(oldest, end), "too_old"), *missing)
        inside = tuple(trade for trade in found.items if start <= trade.ts_event < end)
        longer = 2 * length if 4 * len(inside) < self._limit else length
        return Page(items=inside, reached=end, cursor=None if end >= asked.end else f"{end}:{longer}", missing=missing,
                    refused=found.refused)  # fmt: skip


def _window(asked: Asked, cursor: str | None) -> tuple[int, int]:
    start, _, length = (cursor or f"{asked.start}:{WINDOW_NS}").partition(":")
    begin = whole(start, "cursor")
    return begin, min(asked.end, begin + whole(length, "cursor"))


def _read(sent: _Trade) -> Trade:
    return make_trade(sent.uid, iso_ns(sent.time, "time"), (sent.price, sent.size), sent.side, sent.type)


def _candle(asked: Asked, row: _Candle, ts: int) -> Candle:
    opened, high, low, closed, volume = numbers([row.open, row.high, row.low, row.close, row.volume], "candle")
    return candle(asked, ms_ns(row.time, "time"), ts, (opened, high, low, closed), volume, empty=is_zero(volume))
