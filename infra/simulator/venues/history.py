"""`python -m infra.simulator.venues.history`: the venues' REST histories in their documented formats, all simulated.

Every symbol has the same history (`infra.simulator.venues.tape`). Paths do not collide, so that one server simulates
all venues at once: Bitfinex, Coinbase, Binance spot and USD-M, Bybit, Kraken, Alpaca and Databento here, the others in
`more_histories`. Each returns at most its documented number of rows, or `rows_max` if that is less. `fail` queues
responses that replace the next ones, such as a 429.
"""

from __future__ import annotations

import datetime as dt
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import databento_dbn
import structlog
import uvloop
from fastapi import FastAPI, Request, Response
from pydantic import Field

from infra.simulator import web
from infra.simulator.ends import asked_to_stop
from infra.simulator.venues.answers import Answer, Asked, json, raw
from infra.simulator.venues.more_histories import MORE
from infra.simulator.venues.tape import MILLISECOND_NS, MINUTE_NS, SECOND_NS, Tape, TapeCandle, TapeTrade
from marketdata.clock import format_rfc3339, parse_rfc3339
from marketdata.errors import SettingsError
from runtime import log
from runtime.settings import CommonSettings, load

DAY_NS = 1440 * MINUTE_NS
REQUESTS_KEPT = 10_000
ROWS_MAX = 1_000_000
AGGREGATED_FROM = 500  # aggregated ids are other numbers than those of single trades
COINBASE_BUCKETS_MAX = 350
SIP_NS = 789  # Alpaca's times have nanoseconds
RECEIVED_AFTER_NS = 150_000
PRICE_SCALE = 10**7  # Databento counts in 1e-9; our prices have two decimals

dbn: Any = databento_dbn  # its stubs have no constructors for records

_KRAKEN_NAMES = {"XBTUSD": "XXBTZUSD", "ETHUSD": "XETHZUSD"}


class _Days(NamedTuple):
    """An interval of a symbol mapping, as Databento's codec expects it."""

    start_date: dt.date
    end_date: dt.date
    symbol: str


class _Mapping(NamedTuple):
    """A symbol mapping, as Databento's codec expects it."""

    raw_symbol: str
    intervals: list[_Days]


class Histories:
    """The server's state: its history, its clock, and queued failures."""

    def __init__(self, begins: int, now: Callable[[], int] = time.time_ns, rows_max: int = ROWS_MAX) -> None:
        self.tape = Tape(begins)
        self.now = now
        self.rows_max = rows_max
        self.asked: deque[Asked] = deque(maxlen=REQUESTS_KEPT)
        self._failures: deque[Answer] = deque()

    def fail(self, *answers: Answer) -> None:
        """Return these responses to the next requests."""
        self._failures.extend(answers)

    def forget(self) -> None:
        """Reset: no requests, no failures, no row limit."""
        self.asked.clear()
        self._failures.clear()
        self.rows_max = ROWS_MAX

    def answer(self, asked: Asked) -> Answer:
        """Return the response of the venue with this path."""
        self.asked.append(asked)
        if self._failures:
            return self._failures.popleft()
        for prefix, venue in sorted(_VENUES.items(), reverse=True):  # the longest first
            if asked.path.startswith(prefix):
                return venue(self, asked.path.removeprefix(prefix), asked)
        return json({"message": "not found"}, 404)

    def trades(self, start: int, end: int, most: int | None = None) -> list[TapeTrade]:
        """Return the first `most` trades in [start, end) that have happened by now."""
        return list(itertools.islice(self.tape.between(start, min(end, self.now())), most))

    def candles(self, length: int, start: int, end: int, most: int | None = None, *, sparse: bool) -> list[TapeCandle]:
        """Return the first `most` candles that begin in [start, end) and have begun by now."""
        made = self.tape.candles(length, start, min(end, self.now()))
        return list(itertools.islice((one for one in made if one.trades or not sparse), most))

    def rows(self, text: str | None, most: int) -> int:
        """Return how many rows an answer has at most."""
        return min(int(text) if text else most, most, self.rows_max)


# --- Bitfinex ---

_BITFINEX = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "1D": 1440}


def _bitfinex(venue: Histories, path: str, asked: Asked) -> Answer:
    query = asked.query
    if path.startswith("conf/"):
        return json([["BTCUSD", "ETHUSD", "DUSK:USD"]])
    kind, name, section = path.split("/")
    start = int(query.get("start", 0)) * MILLISECOND_NS
    end = int(query["end"]) * MILLISECOND_NS + 1 if "end" in query else venue.now()
    limit = venue.rows(query.get("limit"), 10_000)
    if section != "hist" or kind not in {"candles", "trades"}:
        return json(["error", 10020, "section: invalid"], 500)
    oldest_first = query.get("sort") == "1"
    most = limit if oldest_first else None
    rows: list[Any]
    if kind == "candles":
        interval = name.split(":")[1]
        if interval not in _BITFINEX:
            return json(["error", 10020, "timeframe: invalid"], 500)
        made = venue.candles(_BITFINEX[interval] * MINUTE_NS, start, end, most, sparse=True)
        rows = [
            [one.start // MILLISECOND_NS, *map(raw, (one.open, one.close, one.high, one.low, one.volume))]
            for one in made
        ]
    else:
        rows = [
            [one.number, one.ts // MILLISECOND_NS, raw(one.size if one.bought else f"-{one.size}"), raw(one.price)]
            for one in venue.trades(start, end, most)
        ]
    if not oldest_first:
        rows.reverse()
    return json(rows[:limit])


# --- Coinbase ---

_COINBASE = {"ONE_MINUTE": 1, "FIVE_MINUTE": 5, "FIFTEEN_MINUTE": 15, "ONE_HOUR": 60, "FOUR_HOUR": 240, "ONE_DAY": 1440}


def _coinbase(venue: Histories, path: str, asked: Asked) -> Answer:
    query = asked.query
    if not path:
        names = ["BTC-USD", "ETH-USD", "ETH-BTC"]
        at = int(query.get("cursor", 0))
        limit = venue.rows(query.get("limit"), 250)
        page = [
            {"product_id": name, "base_currency_id": name[:3], "quote_currency_id": name[4:],
             "base_increment": "0.0001", "quote_increment": "0.01", "price_increment": "0.01",
             "base_min_size": "0.0001", "product_type": "SPOT", "status": "online", "trading_disabled": False}
            for name in names[at : at + limit]
        ]  # fmt: skip
        more = at + limit < len(names)
        pagination = {"next_cursor": str(at + limit) if more else "", "has_next": more}
        return json({"products": page, "num_products": len(page), "pagination": pagination})
    name, kind = path.strip("/").split("/")
    if "-" not in name:
        return json({"error": "NOT_FOUND", "message": "valid product_id is required"}, 404)
    start, end = int(query.get("start", 0)) * SECOND_NS, int(query.get("end", venue.now() // SECOND_NS)) * SECOND_NS
    if kind == "candles":
        length = _COINBASE[query["granularity"]] * MINUTE_NS
        if (end - start) // length > COINBASE_BUCKETS_MAX:
            return json({"error": "INVALID_ARGUMENT", "message": "number of candles requested is too large"}, 400)
        made = venue.candles(length, start, end + 1, sparse=True)
        return json({"candles": [
            {"start": str(one.start // SECOND_NS), "low": one.low, "high": one.high, "open": one.open,
             "close": one.close, "volume": one.volume}
            for one in reversed(made)
        ]})  # fmt: skip
    newest = venue.trades(start, end)[::-1][: venue.rows(query.get("limit"), 1_000)]
    return json({"trades": [
        {"trade_id": str(one.number), "product_id": name, "price": one.price, "size": one.size,
         "time": format_rfc3339(one.ts), "side": "SELL" if one.bought else "BUY", "exchange": "coinbase"}
        for one in newest
    ], "best_bid": "100.00", "best_ask": "100.01"})  # fmt: skip


# --- Binance ---

_BINANCE = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}


def _binance(venue: Histories, path: str, asked: Asked) -> Answer:
    query = asked.query
    if path == "exchangeInfo":
        rules = [{"filterType": "LOT_SIZE", "minQty": "0.00010000", "maxQty": "9000.0", "stepSize": "0.00010000"}]
        return json({"symbols": [
            {"symbol": base + "USDT", "status": "TRADING", "baseAsset": base, "quoteAsset": "USDT", "filters": rules}
            for base in ("BTC", "ETH")
        ]})  # fmt: skip
    if not query.get("symbol", "").endswith("USDT"):
        return json({"code": -1121, "msg": "Invalid symbol."}, 400)
    start = int(query.get("startTime", 0)) * MILLISECOND_NS
    end = int(query["endTime"]) * MILLISECOND_NS + 1 if "endTime" in query else venue.now()
    if path == "klines":
        length = _BINANCE[query["interval"]] * MINUTE_NS
        limit = venue.rows(query.get("limit"), 1_500)
        return json([
            [one.start // MILLISECOND_NS, one.open, one.high, one.low, one.close, one.volume,
             (one.start + length) // MILLISECOND_NS - 1, one.quote_volume, one.trades, one.buy_volume, "0", "0"]
            for one in venue.candles(length, start, end, limit, sparse=False)
        ])  # fmt: skip
    if "startTime" in query and end - start >= 60 * MINUTE_NS + MILLISECOND_NS:
        return json({"code": -1127, "msg": "More than 1 hours between startTime and endTime."}, 400)
    limit = venue.rows(query.get("limit"), 1_000)
    aggregated = path == "aggTrades"
    if "fromId" in query:
        first = max(1, int(query["fromId"]) - (AGGREGATED_FROM if aggregated else 0))
        found = [one for one in map(venue.tape.trade, range(first, first + limit)) if one.ts < venue.now()]
    else:
        found = venue.trades(start, end, limit)
    return json([_aggregate(one) if aggregated else _single(one) for one in found])


def _single(one: TapeTrade) -> dict[str, Any]:
    return {"id": one.number, "price": one.price, "qty": one.size, "quoteQty": "0", "time": one.ts // MILLISECOND_NS,
            "isBuyerMaker": not one.bought, "isBestMatch": True}  # fmt: skip


def _aggregate(one: TapeTrade) -> dict[str, Any]:
    return {"a": one.number + AGGREGATED_FROM, "p": one.price, "q": one.size, "f": one.number, "l": one.number,
            "T": one.ts // MILLISECOND_NS, "m": not one.bought, "M": True}  # fmt: skip


# --- Bybit ---

_BYBIT = {"1": 1, "5": 5, "15": 15, "60": 60, "240": 240, "D": 1440}
_BYBIT_NAMES = {"spot": ("BTCUSDT", "ETHUSDT"), "linear": ("BTCUSDT", "BTCPERP"), "inverse": ("BTCUSD", "BTCUSDH26")}
_BYBIT_RECENT = {"spot": 60, "linear": 1_000, "inverse": 1_000}


def _bybit(venue: Histories, path: str, asked: Asked) -> Answer:
    """Answer newest first, as documented; each market lists those of its products that the others have not."""
    query = asked.query
    category = query.get("category", "linear")
    if category not in _BYBIT_NAMES:
        return json({"retCode": 10001, "retMsg": "params error: category", "result": {}})
    rows: list[Any]
    if path == "instruments-info":
        names = [name for name in _BYBIT_NAMES[category] if category == "spot" or name != "BTCUSDT"]
        at = int(query.get("cursor") or 0)
        page = names[at : at + venue.rows(query.get("limit"), 1_000)]
        rows = [{"symbol": name, "status": "Trading", "baseCoin": name[:3], "priceFilter": {"tickSize": "0.01"},
                 "lotSizeFilter": {"basePrecision": "0.0001", "minOrderQty": "0.0001"}} for name in page]  # fmt: skip
        more = at + len(page) < len(names)
        result = {"category": category, "list": rows, "nextPageCursor": str(at + len(page)) if more else ""}
        return json({"retCode": 0, "retMsg": "OK", "result": result})
    if query.get("symbol") not in _BYBIT_NAMES[category]:
        return json({"retCode": 10001, "retMsg": "Not supported symbols", "result": {}})
    if path == "kline":
        length = _BYBIT[query["interval"]] * MINUTE_NS
        start, end = int(query["start"]) * MILLISECOND_NS, int(query["end"]) * MILLISECOND_NS + 1
        made = venue.candles(length, start, end, sparse=False)[-int(query.get("limit", 200)) :]
        rows = [[str(one.start // MILLISECOND_NS), one.open, one.high, one.low, one.close, one.volume,
                 one.quote_volume] for one in reversed(made)]  # fmt: skip
    else:
        limit = venue.rows(query.get("limit"), _BYBIT_RECENT[category])
        rows = [{"execId": f"id-{one.number}", "symbol": query["symbol"], "price": one.price, "size": one.size,
                 "side": "Buy" if one.bought else "Sell", "time": str(one.ts // MILLISECOND_NS),
                 "isBlockTrade": False, "isRPITrade": False, "seq": str(one.number)}
                for one in reversed(venue.trades(venue.now() - DAY_NS, venue.now())[-limit:])]  # fmt: skip
    return json({"retCode": 0, "retMsg": "OK", "result": {"category": category, "list": rows}})


# --- Kraken ---


def _kraken(venue: Histories, path: str, asked: Asked) -> Answer:
    query = asked.query
    if path == "AssetPairs":
        return json({"error": [], "result": {
            key: {"altname": name, "wsname": f"{name[:3]}/USD", "pair_decimals": 1, "lot_decimals": 8,
                  "ordermin": "0.0001", "tick_size": "0.1", "status": "online"}
            for name, key in _KRAKEN_NAMES.items()
        }})  # fmt: skip
    key = _KRAKEN_NAMES.get(query.get("pair", ""))
    if key is None:
        return json({"error": ["EQuery:Unknown asset pair"]})
    if path == "OHLC":
        length = int(query.get("interval", 1)) * MINUTE_NS
        since = max(int(query.get("since", 0)) * SECOND_NS + 1, venue.now() - 720 * length)
        made = venue.candles(length, since, venue.now(), sparse=False)
        rows: list[Any] = [
            [one.start // SECOND_NS, one.open, one.high, one.low, one.close, "0.0", one.volume, one.trades]
            for one in made
        ]
        return json({"error": [], "result": {key: rows, "last": rows[-2][0] if len(rows) > 1 else 0}})
    since = int(query.get("since", 0))
    limit = venue.rows(query.get("count"), 1_000)
    trades = venue.trades(since + 1, venue.now(), limit)
    rows = [
        [one.price, one.size, raw(f"{one.ts // SECOND_NS}.{one.ts % SECOND_NS // 100:07d}"),
         "b" if one.bought else "s", "m", "", one.number]
        for one in trades
    ]  # fmt: skip
    return json({"error": [], "result": {key: rows, "last": str(trades[-1].ts if trades else since)}})


# --- Alpaca ---

_ALPACA = {"1Min": 1, "5Min": 5, "15Min": 15, "1Hour": 60}


def _alpaca(venue: Histories, path: str, asked: Asked) -> Answer:
    query = asked.query
    if not asked.headers.get("apca-api-key-id"):
        return json({"message": "forbidden."}, 403)
    if path == "assets":
        return json([
            {"id": name.lower(), "class": "us_equity", "exchange": "NASDAQ", "symbol": name, "name": name,
             "status": "active", "tradable": True, "min_order_size": "1"}
            for name in ("AAPL", "MSFT")
        ])  # fmt: skip
    _, name, kind = path.split("/")
    start, end = parse_rfc3339(query["start"]), parse_rfc3339(query["end"]) + 1
    limit = venue.rows(query.get("limit"), 10_000)
    start = int(query.get("page_token") or start)
    rows: list[Any]
    if kind == "bars":
        bars = venue.candles(_ALPACA[query["timeframe"]] * MINUTE_NS, start, end, limit + 1, sparse=True)
        times = [one.start for one in bars]
        rows = [
            {"t": _seconds_z(one.start), "o": raw(one.open), "h": raw(one.high), "l": raw(one.low),
             "c": raw(one.close), "v": raw(one.volume), "n": one.trades, "vw": raw(one.open)}
            for one in bars
        ]  # fmt: skip
    else:
        trades = venue.trades(start - SIP_NS, end - SIP_NS, None)
        # A token of the real venue is opaque and exact; here trades of one millisecond stay on one page.
        while len(trades) > limit and trades[limit].ts == trades[limit - 1].ts:
            limit += 1
        times = [one.ts + SIP_NS for one in trades]
        rows = [
            {"t": f"{format_rfc3339(one.ts)[:-1]}{SIP_NS}Z", "x": "V", "p": raw(one.price), "s": raw(one.size),
             "c": ["@"], "i": one.number, "z": "C"}
            for one in trades
        ]  # fmt: skip
    token = str(times[limit]) if limit < len(rows) else None
    return json({kind: rows[:limit] or None, "symbol": name, "next_page_token": token})


def _seconds_z(ts: int) -> str:
    return f"{format_rfc3339(ts)[:19]}Z"


# --- Databento ---

_OHLCV = {"ohlcv-1m": (1, dbn.RType.OHLCV_1M), "ohlcv-1h": (60, dbn.RType.OHLCV_1H),
          "ohlcv-1d": (1440, dbn.RType.OHLCV_1D)}  # fmt: skip


def _databento(venue: Histories, path: str, asked: Asked) -> Answer:
    query = asked.query
    if not asked.headers.get("authorization", "").startswith("Basic "):
        return json({"detail": {"case": "auth_authentication_failed", "message": "Authentication failed."}}, 401)
    if path == "metadata.get_dataset_range":
        return json({"start": _nanoseconds_z(venue.tape.begins), "end": _nanoseconds_z(venue.now())})
    if path == "symbology.resolve":
        day = query["start_date"]
        return json({"result": {"ESU4": [{"d0": day, "d1": day, "s": "118"}]}, "partial": [], "not_found": []})
    if path != "timeseries.get_range" or query.get("encoding") != "dbn":
        return json({"detail": "Not Found"}, 404)
    start, end = int(query["start"]), int(query["end"])
    if end > venue.now():
        return json({"detail": {"case": "data_end_after_available_end", "message": "after the available end"}}, 422)
    limit = venue.rows(query.get("limit"), ROWS_MAX)
    schema, names = query["schema"], query["symbols"].split(",")
    days = [_Days(_date(start), _date(end) + dt.timedelta(days=1), "118")]
    head = dbn.Metadata(
        query["dataset"], start, dbn.SType.from_str(query.get("stype_in", "raw_symbol")), dbn.SType.INSTRUMENT_ID,
        dbn.Schema.from_str(schema), symbols=names, end=end, mappings=[_Mapping(names[0], days)], limit=limit,
    )  # fmt: skip
    records: list[Any]
    if schema == "trades":
        # By the time of receipt, as documented.
        made = venue.trades(start - RECEIVED_AFTER_NS, end - RECEIVED_AFTER_NS, limit)
        records = [_dbn_trade(one) for one in made]
    else:
        minutes, rtype = _OHLCV[schema]
        bars = venue.candles(minutes * MINUTE_NS, start, end, limit, sparse=True)
        records = [
            dbn.OHLCVMsg(rtype, 1, 118, one.start, *map(_scaled, (one.open, one.high, one.low, one.close)),
                         int(one.volume.replace(".", "")))
            for one in bars
        ]  # fmt: skip
    body = bytes(head) + b"".join(map(bytes, records))
    return Answer(200, body, {"content-type": "application/octet-stream"})


def _dbn_trade(one: TapeTrade) -> Any:
    return dbn.TradeMsg(1, 118, one.ts, _scaled(one.price), int(one.size.replace(".", "")), dbn.Action.TRADE,
                        dbn.Side.BID if one.bought else dbn.Side.ASK, 0, one.ts + RECEIVED_AFTER_NS, 0, 0,
                        one.number)  # fmt: skip


def _date(ts: int) -> dt.date:
    return dt.datetime.fromtimestamp(ts // SECOND_NS, dt.UTC).date()


def _nanoseconds_z(ts: int) -> str:
    return f"{format_rfc3339(ts)[:-1]}{ts % 1000:03d}Z"


def _scaled(price: str) -> int:
    return int(price.replace(".", "")) * PRICE_SCALE


_VENUES: dict[str, Callable[[Histories, str, Asked], Answer]] = {
    **MORE,
    "/v2/candles/trade:": lambda venue, path, asked: _bitfinex(venue, f"candles/trade:{path}", asked),
    "/v2/trades/": lambda venue, path, asked: _bitfinex(venue, f"trades/{path}", asked),
    "/v2/conf/": lambda venue, path, asked: _bitfinex(venue, f"conf/{path}", asked),
    "/api/v3/brokerage/market/products": _coinbase,
    "/api/v3/": _binance,
    "/fapi/v1/": _binance,
    "/v5/market/": _bybit,
    "/0/public/": _kraken,
    "/v2/": _alpaca,
    "/v0/": _databento,
}


def create_app(venue: Histories) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="Simulated histories", docs_url=None, redoc_url=None, openapi_url=None)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def any_path(path: str, request: Request) -> Response:
        body = await request.body()
        is_json = request.headers.get("content-type") == "application/json"
        form = {"body": body.decode()} if is_json else dict(parse_qsl(body.decode()))
        asked = Asked(f"/{path}", dict(request.query_params) | form, dict(request.headers))
        answer = venue.answer(asked)
        return Response(answer.body, answer.status, dict(answer.headers))

    return app


class HistorySettings(CommonSettings):
    """The settings of the simulated histories."""

    history_port: int = Field(default=18767, ge=0, le=65535, description="Port of REST; 0 takes a free one.")
    history_days: int = Field(default=365, ge=1, le=3650, description="Length of the simulated history.")


async def run(settings: HistorySettings) -> None:
    """Serve until a signal asks to stop."""
    stopping = asked_to_stop()
    venue = Histories(time.time_ns() // DAY_NS * DAY_NS - settings.history_days * DAY_NS)
    async with web.serve(create_app(venue), settings.host, settings.history_port) as port:
        structlog.get_logger().info("histories are open", url=f"http://{settings.host}:{port}")
        await stopping.wait()


def main() -> int:
    """Run, and return the process's exit code."""
    try:
        settings = load(HistorySettings)
        log.configure("history", settings.log_level)
        uvloop.run(run(settings))
    except SettingsError as error:
        print(f"history: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person looks for
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
