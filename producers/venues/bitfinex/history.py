"""Bitfinex's history: candles and trades of REST API v2.

Documents, at https://docs.bitfinex.com/reference/: "Candles" (rest-public-candles), "Trades" (rest-public-trades) and
"Configs" (rest-public-conf).

1. Candles: `candles/trade:1m:tBTCUSD/hist`, `sort=1` for oldest first, at most 10,000, `start` and `end` in ms, both
   inclusive. A row is `[ms, open, close, high, low, volume]`. There is no four-hour candle, and none for a minute
   without a trade.
2. Trades: `trades/tBTCUSD/hist`, at most 10,000, rows `[id, ms, amount, price]`, above 0 when the taker bought: ids and
   sides are those of the stream.
3. Pages of trades go by the millisecond (`kit.pages`). Whatever the server's own limit is: only an empty page, or the
   end of the range, is the last.
4. Candles may be requested 30 times a minute and trades 15 times: a page of trades weighs 2.
5. Failures have status 500 with `["error", code, text]`, or `{"error": "ERR_RATE_LIMIT"}`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.errors import BadEvent, Refused, Unavailable
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.bitfinex.names import describe, full_name
from producers.venues.bitfinex.rows import read_trade
from producers.venues.kit.history import Asked, Budget, Page, Request, RestBooks
from producers.venues.kit.pages import PublicHistory, next_candles, next_trades, request, start_of
from producers.venues.kit.reading import candle, decode, read_items
from producers.venues.kit.values import ms_ns, number, numbers

LIMIT = 10_000
CANDLE_FIELDS = 6
TRADES_WEIGHT = 2.0

# In the order of the documents; 4h is not among them.
_INTERVALS = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "1h", "1d": "1D"}
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any, float_hook=str)


class BitfinexHistory(PublicHistory):
    """Bitfinex's adapter; see `producers.venues.kit.history`."""

    venue = "bitfinex"
    budget = Budget(burst=5, per_s=30 / 60)
    intervals = frozenset(_INTERVALS)
    rows_max = LIMIT
    books: RestBooks | str = "REST sends a book without a number or a time"

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTC-USD`, `DUSK-USD`, `tBTCUSD`, or `BTCUSD`."""
        base, dash, quote = name.partition("-")
        if not dash:
            return describe(full_name(name))
        return describe(f"t{base}{quote}" if len(base) == len(quote) == 3 else f"t{base}:{quote}")

    def symbols(self, cursor: str | None) -> Request:
        """Ask for every pair of the exchange."""
        del cursor
        return Request(path="v2/conf/pub:list:pair:exchange")

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read `[["BTCUSD", "DUSK:USD", ...]]`: the names only."""
        del cursor
        lists = _rows(body)
        pairs = lists[0] if lists else []
        if not isinstance(pairs, list) or not all(isinstance(pair, str) for pair in pairs):
            raise BadEvent("bad_answer", "pairs", str(pairs)[:200])
        found = (describe(f"t{pair}") for pair in pairs)
        return Page(items=tuple(msgspec.structs.replace(one, ts_recv=ts, status="online") for one in found))

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for candles from the cursor's start."""
        if asked.interval not in _INTERVALS:
            raise BadEvent("bad_interval", "interval", asked.interval)
        key = f"trade:{_INTERVALS[asked.interval]}:{asked.instrument.venue_symbol}"
        return self._range(f"v2/candles/{key}/hist", asked, cursor, asked.end - INTERVALS[asked.interval])

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read candles."""
        _check(body)
        return next_candles(asked, cursor, read_items(body, lambda row: _candle(asked, decode(_ANY, row), ts)))

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for trades from the cursor's millisecond."""
        path = f"v2/trades/{asked.instrument.venue_symbol}/hist"
        return self._range(path, asked, cursor, asked.end - 1, TRADES_WEIGHT)

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read trades."""
        del ts
        _check(body)
        return next_trades(asked, cursor, read_items(body, lambda row: read_trade(decode(_ANY, row))), self._limit)

    def _range(self, path: str, asked: Asked, cursor: str | None, last: int, weight: float = 1) -> Request:
        return request(path, weight, sort=1, limit=self._limit, start=start_of(asked, cursor) // MILLISECOND_NS,
                       end=last // MILLISECOND_NS)  # fmt: skip


def _check(body: bytes) -> None:
    """Raise for an answer that is a failure."""
    if body.lstrip()[:1] != b"[" or body.lstrip()[1:].lstrip()[:7] == b'"error"':
        _rows(body)


def _rows(body: bytes) -> list[Any]:
    found = decode(_ANY, body)
    if isinstance(found, dict) and "RATE_LIMIT" in str(found.get("error")):
        raise Unavailable(str(found)[:200])
    if not isinstance(found, list):
        raise BadEvent("bad_answer", "body", str(found)[:200])
    if found[:1] == ["error"]:
        raise Refused(f"bitfinex: {str(found)[:200]}")
    return found


def _candle(asked: Asked, row: Any, ts: int) -> Candle:
    if not isinstance(row, list) or len(row) != CANDLE_FIELDS or type(row[0]) is not int:
        raise BadEvent("bad_answer", "candle", str(row)[:200])
    opened, closed, high, low = numbers(row[1:5], "price")
    return candle(asked, ms_ns(row[0], "time"), ts, (opened, high, low, closed), number(row[5], "volume"))
