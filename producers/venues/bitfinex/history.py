"""Bitfinex's history: candles and trades of REST API v2.

Theory of operation, with the source of each step. DOCS is Bitfinex's "Candles", "Trades" and "Configs" of REST v2;
RULES is the project's own list of venue rules.

1. Candles: `candles/trade:1m:tBTCUSD/hist`, `sort=1` for oldest first, at most 10,000 (RULES), `start` and `end` in ms,
   both inclusive. A row is `[ms, open, close, high, low, volume]`. There is no four-hour candle (DOCS), and none for a
   minute without a trade (RULES).
2. Trades: `trades/tBTCUSD/hist`, at most 10,000, rows `[id, ms, amount, price]`, above 0 when the taker bought: ids and
   sides are those of the stream.
3. Pages go by the millisecond: the next begins with the last one's, whose trades come again. A page that holds but
   one millisecond is followed by the next; when it was full, the rest of that millisecond cannot be had. Whatever the
   server's own limit is: only an empty page, or the end of the range, ends a walk.
4. Candles may be asked for 30 times a minute and trades 15 times (DOCS): a trades page weighs 2.
5. Failures have status 500 with `["error", code, text]`, or `{"error": "ERR_RATE_LIMIT"}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.errors import BadEvent, Refused, Unavailable
from marketdata.events import Candle, Instrument, Trade
from marketdata.intervals import INTERVALS
from producers.venues.bitfinex.names import describe, full_name
from producers.venues.bitfinex.rows import read_trade
from producers.venues.kit.history import Access, Asked, Budget, Page, Request, Span
from producers.venues.kit.reading import (
    candle,
    candle_span,
    decode,
    read_items,
    sift,
    trade_span,
    whole,
    without_refused_end,
)
from producers.venues.kit.values import ms_ns, number, numbers

LIMIT = 10_000
CANDLE_FIELDS = 6
TRADES_WEIGHT = 2.0

# In the order of the documents; 4h is not among them.
_INTERVALS = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "1h", "1d": "1D"}
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any, float_hook=str)


class BitfinexHistory:
    """Bitfinex's adapter; see `producers.venues.kit.history`."""

    venue = "bitfinex"
    budget = Budget(burst=5, per_s=30 / 60)
    intervals = frozenset(_INTERVALS)
    has_trades = True
    sparse = True
    candle_fields: frozenset[str] = frozenset()
    candles_kept: int | None = None

    def __init__(self, access: Access, limit: int = LIMIT) -> None:
        self.rest_url = access.rest_url
        self._limit = limit

    def headers(self) -> Mapping[str, str]:
        """Return none: market data takes no key."""
        return {}

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
        """Read `[["BTCUSD", "DUSK:USD", ...]]`; the venue tells nothing else of a pair here."""
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
        last = asked.end - INTERVALS[asked.interval]
        return Request(path=f"v2/candles/{key}/hist", query=self._range(_from(asked, cursor), last // MILLISECOND_NS))

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read candles; the next page begins where the last one ends."""
        _check(body)
        rows = without_refused_end(read_items(body, lambda row: _candle(asked, decode(_ANY, row), ts)))
        found = sift(rows, candle_span, _start(asked, cursor), asked.end)
        end = found.items[-1].end if found.items else asked.end
        following = None if end >= asked.end else str(end // MILLISECOND_NS)
        return Page(items=found.items, reached=min(end, asked.end), cursor=following, missing=found.missing,
                    refused=found.refused)  # fmt: skip

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for trades from the cursor's millisecond."""
        last_ms = (asked.end - 1) // MILLISECOND_NS
        return Request(path=f"v2/trades/{asked.instrument.venue_symbol}/hist",
                       query=self._range(_from(asked, cursor), last_ms), weight=TRADES_WEIGHT)  # fmt: skip

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read trades; the next page begins with the last millisecond of this one."""
        del ts
        _check(body)
        rows = read_items(body, lambda row: read_trade(decode(_ANY, row)))
        found = sift(without_refused_end(rows), trade_span, _start(asked, cursor), asked.end)
        missing = found.missing
        read = sorted(found.items, key=lambda one: (one.ts_event, int(one.trade_id)))
        if not read:
            return Page(reached=asked.end, missing=missing, refused=found.refused)
        first_ms, last_ms = _from(asked, cursor), read[-1].ts_event // MILLISECOND_NS
        if last_ms <= first_ms:
            last_ms = first_ms + 1
            if len(rows) >= self._limit:
                missing += (Span(ms_ns(first_ms, "cursor"), ms_ns(last_ms, "cursor"), "too_many"),)
        reached = ms_ns(last_ms, "time")
        following = None if reached >= asked.end else str(last_ms)
        return Page(items=tuple(read), reached=reached, cursor=following, missing=missing, refused=found.refused)

    def _range(self, start_ms: int, end_ms: int) -> tuple[tuple[str, str], ...]:
        return (("sort", "1"), ("limit", str(self._limit)), ("start", str(start_ms)), ("end", str(end_ms)))


def _from(asked: Asked, cursor: str | None) -> int:
    """Return the millisecond that a page begins with; one that began before the range may hold trades of it."""
    return asked.start // MILLISECOND_NS if cursor is None else whole(cursor, "cursor")


def _start(asked: Asked, cursor: str | None) -> int:
    """Return the time that a page begins with."""
    return max(asked.start, ms_ns(_from(asked, cursor), "cursor"))


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


def make(access: Access) -> BitfinexHistory:
    """Return the adapter."""
    return BitfinexHistory(access)
