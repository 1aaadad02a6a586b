"""Deribit's history: candles, trades and the book, of one instrument.

Documents, below https://docs.deribit.com/api-reference/market-data/: public-get_tradingview_chart_data,
public-get_last_trades_by_instrument_and_time, public-get_order_book and public-get_instruments; and "Rate limits",
https://docs.deribit.com/articles/rate-limits.

1. Candles are columns: `ticks` (starts in ms) and `open high low close volume cost`; `start_timestamp` and
   `end_timestamp` are inclusive. `volume` is in the base currency and `cost` in the quote currency; trades of inverse
   contracts are in US dollars, so that `cost` is their volume here. An interval without trades repeats the last price,
   and becomes the marker without prices. There is no four-hour candle, and days are left out: when they begin is not
   documented.
2. Trades have the ids of the stream, at most 1,000 a page, `sorting=asc` for oldest first. Pages go by the millisecond
   (`kit.pages`).
3. `get_order_book` has the `change_id` of the stream's last change that is in it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent
from marketdata.events import Candle, Instrument, Trade
from producers.venues.deribit.feed import LISTED, TRADE, listed_fields, read_trade
from producers.venues.deribit.names import VENUE, describe, find
from producers.venues.kit.history import Access, Asked, Budget, Page, RefusedItem, Request, RestBook, RestBooks
from producers.venues.kit.pages import (
    PublicHistory,
    instruments,
    next_trades,
    request,
    start_of,
    window,
    window_candles,
)
from producers.venues.kit.reading import candle, decode, read_each, read_items
from producers.venues.kit.values import Number, ms_text_ns, numbers

LIMIT = 1_000
LEVELS = 50
_RESOLUTIONS = {"1m": "1", "5m": "5", "15m": "15", "1h": "60"}
_COLUMNS = ("open", "high", "low", "close", "volume", "cost")


class _Chart(msgspec.Struct):
    ticks: list[Any]
    open: list[Any]
    high: list[Any]
    low: list[Any]
    close: list[Any]
    volume: list[Any]
    cost: list[Any]


class _Trades(msgspec.Struct):
    trades: list[msgspec.Raw]


class _Book(msgspec.Struct):
    number: Number = msgspec.field(name="change_id")
    bids: list[tuple[Any, Any]]
    asks: list[tuple[Any, Any]]


class _Answer(msgspec.Struct):
    result: msgspec.Raw


_ANSWER = msgspec.json.Decoder(_Answer)
_CHART = msgspec.json.Decoder(_Chart, float_hook=str)
_TRADES = msgspec.json.Decoder(_Trades)
_BOOK = msgspec.json.Decoder(_Book, float_hook=str)


class DeribitHistory(PublicHistory):
    """Deribit's adapter; see `producers.venues.kit.history`."""

    venue = VENUE
    budget = Budget(burst=10, per_s=5)
    intervals = frozenset(_RESOLUTIONS)
    rows_max = LIMIT
    sparse = False

    def __init__(self, access: Access, rows_max: int | None = None) -> None:
        super().__init__(access, rows_max)
        self.books = RestBooks(by="sequence", request=_request_book, read=_read_book)

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTC-PERPETUAL` or of our symbol."""
        return find(name)

    def symbols(self, cursor: str | None) -> Request:
        """Ask for every instrument that is not expired."""
        del cursor
        return request("public/get_instruments", currency="any", expired="false")

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read instruments; combinations of several are left out as refused."""

        def read(raw: bytes) -> Instrument:
            sent = decode(LISTED, raw)
            return msgspec.structs.replace(describe(sent.name), ts_recv=ts, **listed_fields(sent))

        return instruments(read_items(_result(body), read), cursor)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for one window of candles."""
        start, end = window(asked, cursor, self._limit)
        return request("public/get_tradingview_chart_data", instrument_name=asked.instrument.venue_symbol,
                       resolution=_RESOLUTIONS[asked.interval], start_timestamp=start // MILLISECOND_NS,
                       end_timestamp=end // MILLISECOND_NS - 1)  # fmt: skip

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read a window."""
        sent = decode(_CHART, _result(body))
        columns = [getattr(sent, name) for name in _COLUMNS]
        if any(len(column) != len(sent.ticks) for column in columns):
            raise BadEvent("bad_answer", "ticks", f"{[len(sent.ticks), *map(len, columns)]} values")
        rows = [_candle(asked, tick, row, ts) for tick, row in zip(sent.ticks, zip(*columns, strict=True), strict=True)]
        return window_candles(asked, window(asked, cursor, self._limit), rows)

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for trades from the cursor's millisecond."""
        return request("public/get_last_trades_by_instrument_and_time", instrument_name=asked.instrument.venue_symbol,
                       start_timestamp=start_of(asked, cursor) // MILLISECOND_NS,
                       end_timestamp=(asked.end - 1) // MILLISECOND_NS, count=self._limit, sorting="asc")  # fmt: skip

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read trades."""
        del ts
        sent = decode(_TRADES, _result(body)).trades
        return next_trades(asked, cursor, read_each(sent, lambda raw: read_trade(decode(TRADE, raw))), self._limit)


def _result(body: bytes) -> bytes:
    return bytes(decode(_ANSWER, body).result)


def _request_book(instrument: Instrument) -> Request:
    return request("public/get_order_book", instrument_name=instrument.venue_symbol, depth=LEVELS)


def _read_book(body: bytes) -> RestBook:
    sent = decode(_BOOK, _result(body))
    sides = [numbers([level[at] for level in side], "book") for side in (sent.bids, sent.asks) for at in (0, 1)]
    return RestBook(sent.number, (sides[0], sides[1], sides[2], sides[3]))


def _candle(asked: Asked, tick: Any, row: tuple[Any, ...], ts: int) -> Candle | RefusedItem:
    try:
        opened, high, low, closed, volume, cost = numbers(list(row), "candle")
        instrument = asked.instrument
        is_inverse = instrument.kind in {"perpetual", "future"} and "_" not in instrument.venue_symbol
        size = cost if is_inverse else volume
        return candle(asked, ms_text_ns(str(tick), "ticks"), ts, (opened, high, low, closed), size, empty=is_zero(size))
    except BadEvent as error:
        return RefusedItem(msgspec.json.encode((tick, *row)), error)
