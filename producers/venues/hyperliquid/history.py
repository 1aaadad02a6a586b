"""Hyperliquid's history: the last 5,000 candles, and the book.

Documents, below https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api: "Info endpoint" (info-endpoint),
"Perpetuals" (info-endpoint/perpetuals) and "Rate limits and user limits" (rate-limits-and-user-limits).

1. Every request is a POST of JSON to `info`, with its `type`. `candleSnapshot` has `startTime` and `endTime` in ms,
   both inclusive; only the most recent 5,000 candles are available. A row has `t` (start in ms), `o h l c v` as texts
   and `n` trades; one without trades becomes the marker without prices.
2. Trades of the past are not documented.
3. `meta` lists the perpetuals; pairs of the spot market are not listed here.
4. `l2Book` has the best 20 levels of each side and their time, as the stream's books have: equal times are one book.
5. An address may spend a weight of 1,200 a minute; half is used. `l2Book` weighs 2, the others 20, and candles 1 more
   for each 60 that are returned.
"""

from __future__ import annotations

from typing import Any

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.events import Candle, Instrument
from marketdata.intervals import INTERVALS
from producers.venues.hyperliquid.feed import BOOK, columns_of
from producers.venues.hyperliquid.names import VENUE, describe, find
from producers.venues.kit.history import Access, Asked, Budget, Page, Request, RestBook, RestBooks
from producers.venues.kit.pages import PublicHistory, instruments, kept_candles
from producers.venues.kit.reading import candle, decode, read_each, read_items
from producers.venues.kit.values import Number, Text, check_decimals, ms_ns

KEPT = 5_000
_WEIGHT, _BOOK_WEIGHT, _CANDLES_PER_WEIGHT = 20, 2, 60


class _Candle(msgspec.Struct):
    ms: Number = msgspec.field(name="t")
    open: Text = msgspec.field(name="o")
    high: Text = msgspec.field(name="h")
    low: Text = msgspec.field(name="l")
    close: Text = msgspec.field(name="c")
    volume: Text = msgspec.field(name="v")
    trades: Number = msgspec.field(name="n")


class _Coin(msgspec.Struct):
    name: str
    is_delisted: bool = msgspec.field(name="isDelisted", default=False)


class _Meta(msgspec.Struct):
    universe: list[msgspec.Raw]


_CANDLE = msgspec.json.Decoder(_Candle)
_COIN = msgspec.json.Decoder(_Coin)
_META = msgspec.json.Decoder(_Meta)


class HyperliquidHistory(PublicHistory):
    """Hyperliquid's adapter; see `producers.venues.kit.history`."""

    venue = VENUE
    budget = Budget(burst=200, per_s=10)
    intervals = frozenset(INTERVALS)
    rows_max = KEPT
    candle_fields = frozenset({"trades"})
    candles_kept: int | None = KEPT

    def __init__(self, access: Access, rows_max: int | None = None) -> None:
        super().__init__(access, rows_max)
        self.books = RestBooks(by="time", request=_request_book, read=_read_book)

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTC`, `PURR/USDC` or of our symbol."""
        return find(name)

    def symbols(self, cursor: str | None) -> Request:
        """Ask for every perpetual."""
        del cursor
        return _request(_WEIGHT, type="meta")

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read the perpetuals."""

        def read(raw: bytes) -> Instrument:
            coin = decode(_COIN, raw)
            status = "delisted" if coin.is_delisted else "online"
            return msgspec.structs.replace(describe(coin.name), ts_recv=ts, status=status)

        return instruments(read_each(decode(_META, body).universe, read), cursor)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the candles of the range."""
        del cursor
        count = min(KEPT, (asked.end - asked.start) // INTERVALS[asked.interval])
        wanted = {"coin": asked.instrument.venue_symbol, "interval": asked.interval,
                  "startTime": asked.start // MILLISECOND_NS, "endTime": asked.end // MILLISECOND_NS - 1}  # fmt: skip
        return _request(_WEIGHT + count / _CANDLES_PER_WEIGHT, type="candleSnapshot", req=wanted)

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read all that there are."""
        del cursor
        return kept_candles(asked, read_items(body, lambda row: _candle(asked, decode(_CANDLE, row), ts)), ts, KEPT)


def _request(weight: float, **body: Any) -> Request:
    return Request(path="info", body=msgspec.json.encode(body), weight=weight)


def _request_book(instrument: Instrument) -> Request:
    return _request(_BOOK_WEIGHT, type="l2Book", coin=instrument.venue_symbol)


def _read_book(body: bytes) -> RestBook:
    sent = decode(BOOK, body)
    return RestBook(ms_ns(sent.time, "time"), columns_of(sent))


def _candle(asked: Asked, row: _Candle, ts: int) -> Candle:
    prices = (row.open, row.high, row.low, row.close)
    check_decimals([*prices, row.volume], "candle")
    return candle(asked, ms_ns(row.ms, "t"), ts, prices, row.volume, empty=row.trades == 0, trades=row.trades)
