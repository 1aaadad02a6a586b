"""Alpaca's history of US equities: bars and trades of the data API v2.

Documents, below https://docs.alpaca.markets/: "Historical API" (docs/historical-api), "Bars" (reference/stockbars),
"Trades" (reference/stocktrades) and "Assets" (reference/get-v2-assets-1).

1. Bars: `v2/stocks/AAPL/bars`, trades: `v2/stocks/AAPL/trades`; `sort=asc`, at most 10,000 a page, `start` and `end`
   inclusive. The next page has the `next_page_token` of this one, which is opaque and exact; the last page has none. A
   page without rows has `null` in place of the list.
2. Bars are those of the stream, unadjusted. An interval without a trade that counts has none. Days begin at
   midnight in New York, so that they are not ours; hours and below are. `vw` times `v` is rounded: no quote volume.
3. Trades have an exchange's own ids, which restart each day: the feed's id is made of day, exchange and number. The
   venue does not send the aggressor. Trades that were canceled, or replaced by a corrected one, say so in `u` and are
   left out ("Trades": `canceled`, `incorrect`).
4. A free plan may not request the last 15 minutes of `sip`: the venue refuses that with a message.
5. Keys go into two headers. What is listed comes from the trading API, which has an address of its own. 200 requests a
   minute are free.
6. Numbers are JSON numbers; they stay the venue's digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from marketdata.clock import SECOND_NS, format_rfc3339
from marketdata.errors import BadEvent, SettingsError
from marketdata.events import Candle, Instrument, Trade
from producers.venues.alpaca.conditions import exclusions
from producers.venues.alpaca.messages import describe, trade_id_of
from producers.venues.kit.budget import MINUTE_S, count_of
from producers.venues.kit.history import Access, Asked, Budget, Left, Page, Request, RestBooks
from producers.venues.kit.reading import candle, candle_span, decode, read_items, sift
from producers.venues.kit.values import Number, check_trade, iso_ns, number, numbers

FEED = "iex"
LIMIT = 10_000
TRADING_URL = "https://paper-api.alpaca.markets"

_TIMEFRAMES = {"1m": "1Min", "5m": "5Min", "15m": "15Min", "1h": "1Hour"}
_TAKEN_BACK = frozenset({"canceled", "incorrect"})
_STATES = {"active": "online", "inactive": "delisted"}


class _Bar(msgspec.Struct):
    t: str
    o: Any
    h: Any
    l: Any  # noqa: E741 - the venue's name
    c: Any
    v: Any
    n: Number | None = None


class _Bars(msgspec.Struct):
    bars: msgspec.Raw
    next_page_token: str | None = None


class _Trade(msgspec.Struct):
    t: str
    x: str
    p: Any
    s: Any
    i: int
    u: str = ""
    c: tuple[str, ...] | None = None
    z: str = ""


class _Trades(msgspec.Struct):
    trades: msgspec.Raw
    next_page_token: str | None = None


class _Asset(msgspec.Struct):
    symbol: str
    status: str
    tradable: bool = True


_BARS = msgspec.json.Decoder(_Bars)
_BAR = msgspec.json.Decoder(_Bar, float_hook=str)
_TRADES = msgspec.json.Decoder(_Trades)
_TRADE = msgspec.json.Decoder(_Trade, float_hook=str)
_ASSETS = msgspec.json.Decoder(list[_Asset])


def remaining(headers: Mapping[str, str], wall_s: float) -> Left | None:
    """Return how many requests are left, and until when (Alpaca documents, "Rate Limits": `X-RateLimit-*`)."""
    count, reset_s = count_of(headers.get("x-ratelimit-remaining")), count_of(headers.get("x-ratelimit-reset"))
    # A window is a minute: a clock that is wrong, ours or theirs, makes nobody wait for longer.
    return None if count is None or reset_s is None else Left(count, min(reset_s - wall_s, MINUTE_S))


class AlpacaHistory:
    """Alpaca's adapter; see `producers.venues.kit.history`. Raises SettingsError without a key."""

    venue = "alpaca"
    budget = Budget(burst=20, per_s=3, left=remaining)
    intervals = frozenset(_TIMEFRAMES)
    sparse = True
    candle_fields = frozenset({"trades"})
    candles_kept: int | None = None
    books: RestBooks | str = "it has quotes and no books of stocks"

    def __init__(self, access: Access, limit: int = LIMIT) -> None:
        if not (access.key and access.secret):
            raise SettingsError(
                "Alpaca's history needs a key and its secret (TICKSTREAM_HISTORY_KEY, TICKSTREAM_HISTORY_SECRET)"
            )
        self.rest_url = access.rest_url
        self._assets_url = access.rest_url or TRADING_URL
        self._key, self._secret = access.key, access.secret
        self._feed = access.feed or FEED
        self._limit = limit

    def headers(self) -> Mapping[str, str]:
        """Return the key and its secret."""
        return {"APCA-API-KEY-ID": self._key, "APCA-API-SECRET-KEY": self._secret}

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `AAPL`: the names of both sides are one."""
        return describe(name)

    def symbols(self, cursor: str | None) -> Request:
        """Ask for every stock."""
        del cursor
        return Request(path=f"{self._assets_url}/v2/assets", query=(("asset_class", "us_equity"), ("status", "active")))

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read assets; names that no stream has (such as those of delisted rights) are left out."""
        del cursor
        found = []
        for sent in decode(_ASSETS, body):
            try:
                known = describe(sent.symbol)
            except BadEvent:
                continue
            status = _STATES.get(sent.status, "unknown") if sent.tradable else "halted"
            found.append(msgspec.structs.replace(known, ts_recv=ts, status=status))
        return Page(items=tuple(found))

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for a page of bars."""
        if asked.interval not in _TIMEFRAMES:
            raise BadEvent("bad_interval", "interval", asked.interval)
        more = (("timeframe", _TIMEFRAMES[asked.interval]), ("adjustment", "raw"))
        return self._page("bars", asked, cursor, more)

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read bars."""
        del cursor
        sent = decode(_BARS, body)
        read = read_items(_list(sent.bars), lambda bar: _candle(asked, decode(_BAR, bar), ts))
        found = sift(read, candle_span, asked.start, asked.end)
        reached = found.items[-1].end if found.items else asked.start
        token = sent.next_page_token or None
        return Page(items=found.items, reached=reached if token else asked.end, cursor=token, missing=found.missing,
                    refused=found.refused)  # fmt: skip

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for a page of trades."""
        return self._page("trades", asked, cursor, ())

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read trades."""
        del cursor, ts
        sent = decode(_TRADES, body)
        read = read_items(_list(sent.trades), lambda trade: _read(decode(_TRADE, trade)))
        found = sift(read, lambda one: (one[0] + 1, one[0]), asked.start, asked.end)
        items = tuple(trade for _, trade in found.items if trade is not None)
        token = sent.next_page_token or None
        reached = max((at for at, _ in found.items), default=asked.start) if token else asked.end
        return Page(items=items, reached=reached, cursor=token, missing=found.missing, refused=found.refused)

    def _page(self, kind: str, asked: Asked, cursor: str | None, more: tuple[tuple[str, str], ...]) -> Request:
        token = (("page_token", cursor),) if cursor else ()
        query = (
            ("start", _text(asked.start)),
            ("end", _text(asked.end - 1)),  # inclusive
            ("limit", str(self._limit)),
            ("sort", "asc"),
            ("feed", self._feed),
        )
        return Request(path=f"v2/stocks/{asked.instrument.venue_symbol}/{kind}", query=(*query, *more, *token))


def _text(ts: int) -> str:
    """Return a time with all of its nine digits."""
    return f"{format_rfc3339(ts)[:19]}.{ts % SECOND_NS:09d}Z"


def _candle(asked: Asked, bar: _Bar, ts: int) -> Candle:
    opened, high, low, closed, volume = numbers([bar.o, bar.h, bar.l, bar.c, bar.v], "bar")
    return candle(asked, iso_ns(bar.t, "t"), ts, (opened, high, low, closed), volume, trades=bar.n)


def _list(raw: msgspec.Raw) -> bytes:
    """Return a list as it was sent; a page without rows has `null` in its place."""
    return b"[]" if bytes(raw) == b"null" else bytes(raw)


def _read(sent: _Trade) -> tuple[int, Trade | None]:
    """Return when a trade was made, and the trade unless it was taken back."""
    ts = iso_ns(sent.t, "t")
    if sent.u in _TAKEN_BACK:
        return ts, None
    trade = Trade(trade_id=trade_id_of(ts, sent.x, sent.i), ts_event=ts, price=number(sent.p, "p"),
                  size=number(sent.s, "s"), side="unknown", conditions=sent.c or (),
                  excluded_from=exclusions(sent.c or (), sent.z, ts))  # fmt: skip
    check_trade(trade.price, trade.size, ("p", "s"))
    return ts, trade
