"""The histories of Binance's markets: candles from klines, trades with the ids of the stream.

Documents, at https://developers.binance.com/docs/: "Market Data endpoints" of binance-spot-api-docs, and "Market Data"
of derivatives/usds-margined-futures.

1. Candles: `klines`, oldest first, `startTime` and `endTime` in ms, both inclusive. A row is `[open ms, open, high,
   low, close, volume, close ms, quote volume, trades, taker buy volume, ...]`; one without trades repeats the last
   price, and becomes the marker without prices. 1,000 rows weigh less each than 1,500 do on the futures market.
2. Trades have the ids of the stream that the live feed takes, or de-duplication could not join them: spot takes
   `trade`, whose ids `historicalTrades` has; futures take `aggTrade`, whose ids `aggTrades` has. The ids of the two
   kinds differ.
3. Both are walked by `fromId` (inclusive, oldest first), since a page by time may end within a millisecond.
   The first id comes from `aggTrades` by time, which has the first single trade (`f`) of each as well. A search by time
   may cover less than an hour ("Compressed/Aggregate Trades List"), so that empty hours are walked one by one.
4. `m` and `isBuyerMaker` are true when the buyer was the maker: the seller is the aggressor.
5. `depth` has the book's `lastUpdateId`, which is the `u` of the stream's change that it ends with, or lies within one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.binance.markets import AGG_TRADE, Market
from producers.venues.binance.messages import SNAPSHOT, AggTrade, RestTrade, read_trade
from producers.venues.binance.names import RestProduct, describe, find, rest_fields
from producers.venues.binance.weight import used_weight
from producers.venues.kit.history import Access, Asked, Budget, Page, Request, RestBook, RestBooks
from producers.venues.kit.pages import PublicHistory, instruments, next_candles, request, start_of
from producers.venues.kit.reading import candle, decode, read_items, sift, trade_span, whole, without_refused_end
from producers.venues.kit.values import Number, Text, check_decimals, ms_ns

CANDLES = 1_000
TRADES = 1_000
SEARCH_MS = 3_600_000 - 1


class _First(msgspec.Struct):
    number: Number = msgspec.field(name="a")
    single: Number = msgspec.field(name="f")


class _Kline(msgspec.Struct, array_like=True):
    ms: Number
    open: Text
    high: Text
    low: Text
    close: Text
    volume: Text
    close_ms: Number
    quote_volume: Text
    trades: Number
    buy_volume: Text


class _Products(msgspec.Struct):
    symbols: msgspec.Raw


_KLINE = msgspec.json.Decoder(_Kline)
_FIRST = msgspec.json.Decoder(list[_First])
_SINGLE = msgspec.json.Decoder(RestTrade)
_AGGREGATED = msgspec.json.Decoder(AggTrade)
_PRODUCTS = msgspec.json.Decoder(_Products)
_PRODUCT = msgspec.json.Decoder(RestProduct)


class BinanceHistory(PublicHistory):
    """The adapter of one of Binance's markets; see `producers.venues.kit.history`."""

    intervals = frozenset(INTERVALS)
    rows_max = TRADES
    sparse = False
    candle_fields = frozenset({"quote_volume", "buy_volume", "trades"})

    def __init__(self, market: Market, access: Access) -> None:
        super().__init__(access)
        self.venue = market.venue
        # The live feed takes half of what an address may spend; a quarter for history leaves room for another process.
        self.budget = Budget(
            burst=market.weight_per_minute / 8,
            per_s=market.weight_per_minute / 120,
            left=used_weight(2 * market.weight_per_minute),
        )
        self._market = market
        self._key = access.key
        self._aggregated = market.trades == AGG_TRADE
        self.books = RestBooks(by="sequence", request=self._request_book, read=_read_book)

    def headers(self) -> Mapping[str, str]:
        """Return the key, where one is set: some markets want one for old trades."""
        return {"X-MBX-APIKEY": self._key} if self._key else {}

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTC-USDT`, `BTC-USDT_240927` or `BTCUSDT`."""
        return find(self._market, name)

    def symbols(self, cursor: str | None) -> Request:
        """Ask for every symbol."""
        del cursor
        return Request(path=f"{self._market.rest}/exchangeInfo", weight=self._market.products_weight)

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read exchangeInfo."""
        del cursor

        def read(row: bytes) -> Instrument:
            sent = decode(_PRODUCT, row)
            return msgspec.structs.replace(describe(self._market, sent.symbol), ts_recv=ts, **rest_fields(sent))

        return instruments(read_items(bytes(decode(_PRODUCTS, body).symbols), read))

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for candles from the cursor's start."""
        return self._request("klines", asked, self._market.candles_weight, interval=asked.interval,
                             startTime=start_of(asked, cursor) // MILLISECOND_NS,
                             endTime=asked.end // MILLISECOND_NS - 1, limit=min(CANDLES, self._limit))  # fmt: skip

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read klines."""
        return next_candles(asked, cursor, read_items(body, lambda row: _candle(asked, decode(_KLINE, row), ts)))

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Search for the first id, or ask for trades from the cursor's id."""
        kind, at, _ = _place(asked, cursor)
        if kind == "time":
            last_ms = min(at + SEARCH_MS, (asked.end - 1) // MILLISECOND_NS)
            weight = self._market.agg_trades_weight
            return self._request("aggTrades", asked, weight, startTime=at, endTime=last_ms, limit=1)
        path = "aggTrades" if self._aggregated else "historicalTrades"
        return self._request(path, asked, self._market.old_trades_weight, fromId=at, limit=self._limit)

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read the first id, or trades; the next page begins after the last good id."""
        del ts
        place = _place(asked, cursor)
        if place.kind == "time":
            return self._found(asked, place.at, body)
        decoder: msgspec.json.Decoder[Any] = _AGGREGATED if self._aggregated else _SINGLE
        rows = read_items(body, lambda row: read_trade(decode(decoder, row)))
        found = sift(without_refused_end(rows), trade_span, place.since, asked.end)
        page = Page(items=found.items, reached=asked.end, missing=found.missing, refused=found.refused)
        if not found.items:
            is_last = not found.refused or len(rows) < self._limit
            return page if is_last else msgspec.structs.replace(page, cursor=_id(place.at + len(rows), place.since))
        first, last = found.items[0], found.items[-1]
        if int(first.trade_id) < place.at:
            raise BadEvent("bad_answer", "id", first.trade_id)
        if last.ts_event >= asked.end:
            return page
        return msgspec.structs.replace(page, reached=last.ts_event, cursor=_id(int(last.trade_id) + 1, last.ts_event))

    def _found(self, asked: Asked, at_ms: int, body: bytes) -> Page[Trade]:
        found = decode(_FIRST, body)
        if found:
            first = found[0].number if self._aggregated else found[0].single
            return Page(reached=max(asked.start, ms_ns(at_ms, "cursor")), cursor=_id(first, asked.start))
        following = at_ms + SEARCH_MS + 1
        reached = ms_ns(following, "cursor")
        return Page(reached=reached, cursor=None if reached >= asked.end else f"time:{following}")

    def _request(self, path: str, asked: Asked, weight: float, **query: str | int) -> Request:
        return request(f"{self._market.rest}/{path}", weight, symbol=asked.instrument.venue_symbol, **query)

    def _request_book(self, instrument: Instrument) -> Request:
        levels, weight = self._market.depths[-1]
        return request(f"{self._market.rest}/depth", weight, symbol=instrument.venue_symbol, limit=levels)


class _Place(NamedTuple):
    """Where a page begins: a time in ms or an id, by `kind`; every trade until `since` (UTC ns) was read before."""

    kind: str
    at: int
    since: int


def _id(number: int, since: int) -> str:
    return f"id:{number}:{since}"


def _place(asked: Asked, cursor: str | None) -> _Place:
    if cursor is None:
        return _Place("time", asked.start // MILLISECOND_NS, asked.start)
    kind, _, rest = cursor.partition(":")
    at, _, since = rest.partition(":")
    return _Place(kind, whole(at, "cursor"), whole(since, "cursor") if since else asked.start)


def _read_book(body: bytes) -> RestBook:
    sent = decode(SNAPSHOT, body)
    return RestBook(sent.number, sent.columns())


def _candle(asked: Asked, row: _Kline, ts: int) -> Candle:
    prices = (row.open, row.high, row.low, row.close)
    check_decimals([*prices, row.volume, row.quote_volume, row.buy_volume], "kline")
    return candle(asked, ms_ns(row.ms, "time"), ts, prices, row.volume, empty=row.trades == 0,
                  quote_volume=row.quote_volume, buy_volume=row.buy_volume, trades=row.trades)  # fmt: skip
