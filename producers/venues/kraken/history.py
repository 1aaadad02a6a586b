"""Kraken spot's history: the last 720 candles, and every trade.

Documents, below https://docs.kraken.com/: "Get OHLC Data", "Get Recent Trades", "Get Order Book" and "Get Tradable
Asset Pairs" (api/docs/rest-api/), "Historical data" (exchange/guides/general/historical-data), "API rate limits".

1. Candles: `OHLC`, rows `[seconds, open, high, low, close, vwap, volume, trades]`, oldest first, with the one that is
   not over as the last. There are only the last 720 of an interval, whatever `since` says: what lies before them is
   `missing` as `too_old`, and can be built from trades. A row without trades becomes the marker without prices.
2. Trades: `Trades`, 1,000 a page, oldest first from `since` (nanoseconds), back to the first of a pair. A row is
   `[price, volume, seconds, b|s, m|l, misc, id]`; `b` is a buying taker, and the id is that of the stream's v2 (the
   stream's v1 has no ids: its trades do not join these). `last` is the last trade's time for the next page, which
   begins one nanosecond earlier, so that trades of that very nanosecond are not lost.
3. The id's column came in 2022; a row without it is refused, since a trade without id could come twice.
4. Pairs: our BTC-USD is XBTUSD here, whose answer may be called XXBTZUSD: the one key that is not `last` is taken.
5. Failures have status 200 and texts in `error`: those of rate limits and of a busy or closed venue mean later, all
   others that the request is wrong. One request a second is free.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.errors import BadEvent, Refused, Unavailable
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.kit.history import Asked, Budget, Page, Request, RestBooks, Span
from producers.venues.kit.pages import PublicHistory, instruments, kept_candles, request, start_of
from producers.venues.kit.reading import candle, decode, read_each, read_items, sift, trade_span, whole
from producers.venues.kit.values import Number, Text, check_decimals, in_range, number, seconds_ns
from producers.venues.kraken.names import PAIRS_PATH, REST_PAIR, describe, legacy, rest_fields, status_of

KEPT = 720
LIMIT = 1_000
_LATER = ("Rate limit", "Too many requests", "EService:", "Throttled", "EGeneral:Internal error")


class _Row(msgspec.Struct, array_like=True):
    seconds: Number
    open: Text
    high: Text
    low: Text
    close: Text
    vwap: Text
    volume: Text
    trades: Number


class _Trade(msgspec.Struct, array_like=True):
    price: Text
    volume: Text
    seconds: Any  # a JSON number, kept as text: it has more digits than a float
    side: Literal["b", "s"]
    kind: str
    misc: str
    number: Annotated[int, msgspec.Meta(ge=0)]


class _Answer(msgspec.Struct):
    error: list[str] = []
    result: dict[str, msgspec.Raw] = {}


_ANSWER = msgspec.json.Decoder(_Answer)
_ROW = msgspec.json.Decoder(_Row)
_TRADE = msgspec.json.Decoder(_Trade, float_hook=str)
_TEXT = msgspec.json.Decoder(str)


class KrakenHistory(PublicHistory):
    """Kraken's adapter; see `producers.venues.kit.history`."""

    venue = "kraken"
    budget = Budget(burst=3, per_s=1)
    intervals = frozenset(INTERVALS)
    rows_max = LIMIT
    sparse = False
    candle_fields = frozenset({"trades"})
    candles_kept: int | None = KEPT
    books: RestBooks | str = "REST sends a book without a number or a time; the stream has checksums"

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTC-USD`, `BTC/USD` or `XBT/USD`, by the name of the stream's v2."""
        return _modern(name.replace("-", "/"))

    def symbols(self, cursor: str | None) -> Request:
        """Ask for every pair."""
        del cursor
        return Request(path=PAIRS_PATH)

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read pairs; those without a name of the stream are dark pools."""
        del cursor

        def read(raw: bytes) -> Instrument | None:
            pair = decode(REST_PAIR, raw)
            if not pair.wsname:
                return None
            status = status_of(pair.status) if pair.status else "unknown"
            return msgspec.structs.replace(_modern(pair.wsname), ts_recv=ts, status=status, **rest_fields(pair))

        return instruments(one for one in read_each(_result(body).values(), read) if one is not None)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for the candles from the range's start on; `since` may be exclusive."""
        del cursor
        return request("0/public/OHLC", pair=_pair(asked.instrument), since=asked.start // SECOND_NS - 1,
                       interval=INTERVALS[asked.interval] // MINUTE_NS)  # fmt: skip

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read all that there is: there is one page."""
        del cursor
        rows = read_items(_series(_result(body)), lambda row: _candle(asked, decode(_ROW, row), ts))
        return kept_candles(asked, rows, ts, KEPT)

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for a page of trades; `since` may be exclusive."""
        since = max(0, start_of(asked, cursor) - 1)
        return request("0/public/Trades", pair=_pair(asked.instrument), since=since, count=self._limit)

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read a page; the next one begins with the last trade of this one."""
        del ts
        result = _result(body)
        last = whole(decode(_TEXT, bytes(result.get("last", b'""'))), "last")
        rows = read_items(_series(result), lambda row: _read(decode(_TRADE, row)))
        since = start_of(asked, cursor)
        newest = rows[-1] if rows else None
        if isinstance(newest, Trade) and abs(last - newest.ts_event) > SECOND_NS:  # it is when the last trade was made
            raise BadEvent("bad_answer", "last", last)
        is_end = not rows or last >= asked.end or (isinstance(newest, Trade) and newest.ts_event >= asked.end)
        found = sift(rows, trade_span, max(since, asked.start), asked.end if is_end else last + 1)
        page = Page(items=tuple(sorted(found.items, key=lambda one: int(one.trade_id))), reached=asked.end,
                    missing=found.missing, refused=found.refused)  # fmt: skip
        if is_end:
            return page
        if last > since:
            return msgspec.structs.replace(page, reached=last, cursor=str(last))
        # One nanosecond filled the page: continue after it, whether that was all of it or not.
        hidden = (Span(since, since + 1, "too_many"),) if len(rows) >= self._limit else ()
        return msgspec.structs.replace(page, reached=since + 1, cursor=str(since + 1), missing=page.missing + hidden)


def _modern(name: str) -> Instrument:
    found = describe(name)
    return msgspec.structs.replace(found, venue_symbol=f"{found.base_currency}/{found.quote_currency}")


def _pair(instrument: Instrument) -> str:
    return legacy(instrument.base_currency) + legacy(instrument.quote_currency)


def _result(body: bytes) -> dict[str, msgspec.Raw]:
    answer = decode(_ANSWER, body)
    if answer.error:
        errors = "; ".join(answer.error)[:200]
        if any(text in errors for text in _LATER):
            raise Unavailable(f"kraken: {errors}")
        raise Refused(f"kraken: {errors}")
    return answer.result


def _series(result: dict[str, msgspec.Raw]) -> bytes:
    """Return the rows of the one requested pair."""
    names = [name for name in result if name != "last"]
    if len(names) != 1:
        raise BadEvent("bad_answer", "result", ", ".join(names)[:200])
    return bytes(result[names[0]])


def _candle(asked: Asked, row: _Row, ts: int) -> Candle:
    prices = (row.open, row.high, row.low, row.close)
    check_decimals([*prices, row.volume], "candle")
    start = in_range(row.seconds * SECOND_NS, row.seconds, "time")
    return candle(asked, start, ts, prices, row.volume, empty=row.trades == 0, trades=row.trades)


def _read(sent: _Trade) -> Trade:
    check_decimals([sent.price, sent.volume], "trade")
    return Trade(trade_id=str(sent.number), ts_event=seconds_ns(number(sent.seconds, "time"), "time"),
                 price=sent.price, size=sent.volume, side="buy" if sent.side == "b" else "sell")  # fmt: skip
