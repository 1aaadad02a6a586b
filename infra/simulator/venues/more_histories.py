"""More REST histories for `history`: Gemini, Kraken Futures, Coinbase Exchange, Deribit, Hyperliquid and OKX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from infra.simulator.venues.answers import Answer, Asked, json, raw
from infra.simulator.venues.tape import MILLISECOND_NS, MINUTE_NS, SECOND_NS, TapeCandle, TapeTrade
from marketdata.clock import format_rfc3339, parse_rfc3339

if TYPE_CHECKING:
    from infra.simulator.venues.history import Histories

DAY_NS = 1440 * MINUTE_NS
HYPERLIQUID_KEPT = 5_000
GEMINI_KEPT = 1_440
EXCHANGE_CANDLES_MAX = 300
KRAKEN_TRADES_MAX = 100
_MINUTES = {"1H": 60, "4H": 240, "1Dutc": 1440, "1m": 1, "5m": 5, "15m": 15, "1h": 60, "1hr": 60, "4h": 240, "1d": 1440}


def _newest(venue: Histories, limit: int, end: int, start: int = 0) -> list[TapeTrade]:
    """Return the last trades before a time, newest first."""
    return venue.trades(max(start, venue.tape.begins), end)[::-1][:limit]


def _ohlc(one: TapeCandle, *names: str) -> list[msgspec.Raw]:
    return [raw(getattr(one, name)) for name in names]


# --- Gemini ---


def _gemini_candles(venue: Histories, path: str, asked: Asked) -> Answer:
    del asked
    _, frame = path.split("/")
    length = _MINUTES[frame] * MINUTE_NS
    made = venue.candles(length, venue.now() - GEMINI_KEPT * length, venue.now(), sparse=False)
    rows = [[one.start // MILLISECOND_NS, *_ohlc(one, "open", "high", "low", "close", "volume")] for one in made]
    return json(rows[::-1])


def _gemini_trades(venue: Histories, path: str, asked: Asked) -> Answer:
    del path
    limit = venue.rows(asked.query.get("limit_trades"), 500)
    if "since_tid" in asked.query:
        first = int(asked.query["since_tid"]) + 1
        found = [one for one in map(venue.tape.trade, range(first, first + limit)) if one.ts < venue.now()]
    else:
        found = venue.trades(int(asked.query["timestamp"]) * MILLISECOND_NS, venue.now(), limit)
    return json([
        {"timestamp": one.ts // SECOND_NS, "timestampms": one.ts // MILLISECOND_NS, "tid": one.number,
         "price": one.price, "amount": one.size, "exchange": "gemini", "type": "buy" if one.bought else "sell"}
        for one in reversed(found)
    ])  # fmt: skip


# --- Kraken Futures ---


def _kraken_candles(venue: Histories, path: str, asked: Asked) -> Answer:
    length = _MINUTES[path.split("/")[1]] * MINUTE_NS
    start, end = int(asked.query["from"]) * SECOND_NS, int(asked.query["to"]) * SECOND_NS + 1
    made = venue.candles(length, start, end, venue.rows(None, 2_000), sparse=True)
    rows = [{"time": one.start // MILLISECOND_NS, "open": one.open, "high": one.high, "low": one.low,
             "close": one.close, "volume": one.volume} for one in made]  # fmt: skip
    return json({"candles": rows, "more_candles": False})


def _kraken_api(venue: Histories, path: str, asked: Asked) -> Answer:
    if path == "instruments":
        return json({"result": "success", "instruments": [
            {"symbol": "PI_XBTUSD", "type": "futures_inverse", "tradeable": True, "tickSize": raw("0.5"),
             "contractSize": 1},
            {"symbol": "PF_ETHUSD", "type": "flexible_futures", "tradeable": True, "tickSize": raw("0.1"),
             "contractSize": 1, "contractValueTradePrecision": 3},
            {"symbol": "in_xbtusd", "type": "spot index", "tradeable": False},
        ]})  # fmt: skip
    end = parse_rfc3339(asked.query["lastTime"]) if "lastTime" in asked.query else venue.now()
    return json({"result": "success", "history": [
        {"time": format_rfc3339(one.ts), "trade_id": one.number, "price": raw(one.price), "size": raw(one.size),
         "side": "buy" if one.bought else "sell", "type": "fill", "uid": f"uid-{one.number}"}
        for one in _newest(venue, venue.rows(None, KRAKEN_TRADES_MAX), end, end - DAY_NS)
    ]})  # fmt: skip


# --- Coinbase Exchange ---


def _exchange(venue: Histories, path: str, asked: Asked) -> Answer:
    query = asked.query
    if not path:
        return json([{"id": "BTC-USD", "base_currency": "BTC", "quote_currency": "USD", "quote_increment": "0.01",
                      "base_increment": "0.0001", "status": "online"}])  # fmt: skip
    _, kind = path.strip("/").split("/")
    if kind == "candles":
        length = int(query["granularity"]) * SECOND_NS
        start, end = int(query["start"]) * SECOND_NS, int(query["end"]) * SECOND_NS
        if (end - start) // length >= EXCHANGE_CANDLES_MAX:
            return json({"message": "granularity too small for the requested time range."}, 400)
        made = venue.candles(length, start, end + 1, sparse=True)
        rows = [[one.start // SECOND_NS, *_ohlc(one, "low", "high", "open", "close", "volume")] for one in made]
        return json(rows[::-1])
    newest = venue.tape.first_at(venue.now()) - 1
    last = min(newest, int(query["after"]) - 1) if "after" in query else newest
    first = max(1, last - venue.rows(query.get("limit"), 1_000) + 1)
    return json([
        {"trade_id": one.number, "side": "sell" if one.bought else "buy", "size": one.size, "price": one.price,
         "time": format_rfc3339(one.ts)}
        for one in map(venue.tape.trade, range(last, first - 1, -1))
    ])  # fmt: skip


# --- Deribit ---


def _deribit(venue: Histories, path: str, asked: Asked) -> Answer:
    query = asked.query
    if path == "get_instruments":
        return json({"result": [
            {"instrument_name": name, "tick_size": raw("0.5"), "min_trade_amount": 10, "is_active": True}
            for name in ("BTC-PERPETUAL", "SOL_USDC-PERPETUAL", "BTC-29MAR24-50000-C", "BTC_USDC")
        ]})  # fmt: skip
    start, end = (int(query[name]) * MILLISECOND_NS for name in ("start_timestamp", "end_timestamp"))
    if path == "get_tradingview_chart_data":
        made = venue.candles(int(query["resolution"]) * MINUTE_NS, start, end + 1, sparse=False)
        columns = {name: _column(made, name) for name in ("open", "high", "low", "close")}
        return json({"result": {"status": "ok", "ticks": [one.start // MILLISECOND_NS for one in made], **columns,
                                "volume": _column(made, "quote_volume"), "cost": _column(made, "volume")}})  # fmt: skip
    found = venue.trades(start, end + 1, venue.rows(query.get("count"), 1_000))
    return json({"result": {"has_more": False, "trades": [
        {"instrument_name": query["instrument_name"], "trade_seq": one.number, "trade_id": str(one.number),
         "timestamp": one.ts // MILLISECOND_NS, "price": raw(one.price), "amount": raw(one.size),
         "direction": "buy" if one.bought else "sell"}
        for one in found
    ]}})  # fmt: skip


def _column(candles: list[TapeCandle], name: str) -> list[msgspec.Raw]:
    return [raw(getattr(one, name)) for one in candles]


# --- Hyperliquid ---


def _hyperliquid(venue: Histories, path: str, asked: Asked) -> Answer:
    del path
    wanted: dict[str, Any] = msgspec.json.decode(asked.query["body"])
    if wanted["type"] == "meta":
        return json({"universe": [{"name": "BTC", "szDecimals": 5}, {"name": "kPEPE", "szDecimals": 0}]})
    asked_for = wanted["req"]
    length = _MINUTES[asked_for["interval"]] * MINUTE_NS
    start = max(asked_for["startTime"] * MILLISECOND_NS, venue.now() - HYPERLIQUID_KEPT * length)
    made = venue.candles(length, start, asked_for["endTime"] * MILLISECOND_NS + 1, sparse=True)
    return json([
        {"t": one.start // MILLISECOND_NS, "T": (one.start + length) // MILLISECOND_NS - 1, "s": asked_for["coin"],
         "i": asked_for["interval"], "o": one.open, "h": one.high, "l": one.low, "c": one.close, "v": one.volume,
         "n": one.trades}
        for one in made
    ])  # fmt: skip


# --- OKX ---


def _okx(venue: Histories, path: str, asked: Asked) -> Answer:
    query = asked.query
    if path == "public/instruments":
        names = {"SPOT": ["BTC-USDT", "ETH-USDT"], "SWAP": ["BTC-USD-SWAP"], "FUTURES": ["BTC-USD-270326"]}
        return json({"code": "0", "msg": "", "data": [
            {"instId": name, "tickSz": "0.1", "lotSz": "0.0001", "minSz": "0.0001", "state": "live"}
            for name in names[query["instType"]]
        ]})  # fmt: skip
    length = _MINUTES[query["bar"]] * MINUTE_NS
    start, end = int(query["before"]) * MILLISECOND_NS + 1, int(query["after"]) * MILLISECOND_NS
    made = venue.candles(length, start, end, sparse=False)[-int(query["limit"]) :]
    return json({"code": "0", "msg": "", "data": [
        [str(one.start // MILLISECOND_NS), one.open, one.high, one.low, one.close, one.volume, one.volume,
         one.quote_volume, "1"] for one in reversed(made)
    ]})  # fmt: skip


MORE: dict[str, Callable[[Histories, str, Asked], Answer]] = {
    "/v1/symbols": lambda *_: json(["btcusd", "ethusd", "btcgusdperp"]),
    "/v1/trades/": _gemini_trades,
    "/v2/candles/": _gemini_candles,
    "/api/charts/v1/trade/": _kraken_candles,
    "/derivatives/api/v3/": _kraken_api,
    "/products": _exchange,
    "/public/": _deribit,
    "/info": _hyperliquid,
    "/api/v5/": _okx,
}
"""By the beginning of the path."""
