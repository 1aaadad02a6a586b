"""The candle service: candles, gaps and symbols by `exchange`, `symbol` and `timeframe`, in short answers."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from api.core import messages
from api.rest.access import permitted
from api.rest.answers import json_answer
from api.rest.candle_series import Series, multiples, stored
from api.rest.health import StatusSummary
from api.rest.history import Row
from api.rest.models.candle_service import (
    HealthAnswer,
    LatestCandleAnswer,
    ServiceCandlesAnswer,
    ServiceGapsAnswer,
    ServiceStatusAnswer,
    ServiceSymbolsAnswer,
)
from api.rest.parameters import Range, canonical, microseconds, time_range
from api.rest.problems import Problem, bad_value
from api.rest.routes.candles import choose_interval, is_stored
from api.rest.routes.common import NAME_MAX, TEXT, StrictRoute, SymbolQuery, problems, service_of, state_of
from api.rest.routes.market import instruments
from api.rest.routes.paging import EndQuery, LimitQuery, StartQuery
from api.service import Service
from marketdata.clock import format_rfc3339
from marketdata.events import Candle
from marketdata.recipes import read_length

router = APIRouter(tags=["candle service"], route_class=StrictRoute)

_JOBS_SHOWN = 100
ExchangeQuery = Annotated[
    str | None,
    Query(
        description="Exchange; needed where several trade the symbol.",
        examples=["bitfinex"],
        max_length=NAME_MAX,
        pattern=TEXT,
    ),
]
RequiredSymbol = Annotated[
    str,
    Query(
        description="Symbol, such as BTC-USD, BTC/USD, BTCUSD, or as the exchange writes it.",
        examples=["BTC-USD"],
        max_length=NAME_MAX,
        pattern=TEXT,
    ),
]
TimeframeQuery = Annotated[
    str,
    Query(
        description="Length of a candle: any number of minutes or hours up to a day.", examples=["1m"], max_length=16
    ),
]


@router.get("/health", response_model=HealthAnswer, responses={503: {"model": HealthAnswer}}, summary="Health")
async def health(request: Request) -> Response:
    """Answer with the state of the service: 503 when it has no live candles."""
    service = service_of(request)
    is_ready, report = service.readiness.report()
    is_whole = all(state == "ok" for state in report["checks"].values())
    body = {
        "status": "unhealthy" if not is_ready else "healthy" if is_whole else "degraded",
        "timestamp": format_rfc3339(service.clock()),
        "checks": report["checks"],
    }
    headers = {"Cache-Control": "no-store"}
    return Response(orjson.dumps(body), 200 if is_ready else 503, headers, "application/json")


@router.get("/status", response_model=ServiceStatusAnswer, responses=problems(422), summary="Exchanges and backfills")
async def status(request: Request) -> Response:
    """Answer with what comes from each exchange, and the latest backfills of candles."""
    service = service_of(request)
    summary: StatusSummary = request.app.state.summary
    exchanges = [
        {
            "exchange": each["venue"],
            "symbols": each["symbols"],
            "valid": each["valid"],
            "reasons": each["reasons"],
            "last_update": each["timestamp"],
        }
        for each in await summary.venues()
    ]
    filters = {"venue": None, "symbol": None, "kind": "candles", "state": None}
    try:
        jobs = [_job(row) for row in await service.history.jobs(filters, Range(None, None), None, _JOBS_SHOWN)]
    except Problem:
        jobs = None  # the state of live data is known without a database
    body = {"timestamp": format_rfc3339(service.clock()), "exchanges": exchanges, "jobs": jobs}
    return json_answer(request, body)


@router.get(
    "/candles",
    response_model=ServiceCandlesAnswer,
    responses=problems(404, 409, 422, 503),
    summary="Candles of a range",
)
async def candles(
    request: Request,
    *,
    symbol: RequiredSymbol,
    exchange: ExchangeQuery = None,
    timeframe: TimeframeQuery = "1m",
    start: StartQuery = None,
    end: EndQuery = None,
    limit: LimitQuery = 1_000,
) -> Response:
    """Answer with candles, oldest first: with `start` those from there on, else the newest before `end`."""
    service = service_of(request)
    asked = time_range(start, end)
    span = permitted(request, asked, exports=False)
    series = _series(request, symbol, exchange, timeframe)
    length = read_length(series.interval) or 0
    reach, next_start = span, None
    if asked.start is not None:
        last = -(-asked.start // length) * length + limit * length
        if span.end is None or last < span.end:
            reach = Range(span.start, last)
            newest = await _newest(service, series)
            if newest is not None and newest.start >= last:
                next_start = format_rfc3339(last)
    found = await _read(service, series, reach, limit)
    return json_answer(
        request,
        _about(series) | {"candles": [_candle(each) for each in reversed(found)], "next_start": next_start},
    )


@router.get(
    "/candles/latest",
    response_model=LatestCandleAnswer,
    responses=problems(404, 409, 422, 503),
    summary="The newest candle",
)
async def latest(
    request: Request, *, symbol: RequiredSymbol, exchange: ExchangeQuery = None, timeframe: TimeframeQuery = "1m"
) -> Response:
    """Answer with the newest candle, which may still be open."""
    series = _series(request, symbol, exchange, timeframe)
    newest = await _newest(service_of(request), series)
    return json_answer(request, _about(series) | {"candle": None if newest is None else _candle(newest)})


@router.get("/gaps", response_model=ServiceGapsAnswer, responses=problems(409, 422, 503), summary="Missing data")
async def gaps(
    request: Request,
    *,
    exchange: ExchangeQuery = None,
    symbol: SymbolQuery = None,
    timeframe: TimeframeQuery = "1m",
    start: StartQuery = None,
    end: EndQuery = None,
    limit: LimitQuery = 1_000,
) -> Response:
    """Answer with what is or was missing, by the time of its discovery; a gap concerns every timeframe."""
    service = service_of(request)
    _interval(service, timeframe)
    name = None if symbol is None else canonical(service.market, symbol, exchange)
    filters = {"venue": exchange, "symbol": name, "state": None}
    rows = await service.history.gaps(filters, permitted(request, time_range(start, end), exports=False), None, limit)
    return json_answer(request, {"gaps": [_gap(row) for row in rows]})


@router.get("/symbols", response_model=ServiceSymbolsAnswer, responses=problems(422), summary="Symbols")
async def symbols(request: Request, exchange: ExchangeQuery = None) -> Response:
    """Answer with every symbol of every exchange, or of one."""
    found = [
        {
            "exchange": each["venue"],
            "symbol": each["symbol"],
            "exchange_symbol": each["venue_symbol"],
            "base_currency": each["base_currency"],
            "quote_currency": each["quote_currency"],
            "status": each["status"],
        }
        for each in instruments(service_of(request), exchange)
    ]
    return json_answer(request, {"symbols": found})


def _interval(service: Service, timeframe: str) -> str:
    if read_length(timeframe.lower()) is None:
        raise bad_value("timeframe", timeframe, "must be a number of minutes or hours up to a day, such as 5m or 1h")
    return choose_interval(service.market, timeframe.lower(), None, multiples_too=True, field="timeframe")


def _series(request: Request, symbol: str, exchange: str | None, timeframe: str) -> Series:
    interval = _interval(service_of(request), timeframe)
    return Series(state_of(request, symbol, exchange), interval)


async def _read(service: Service, series: Series, span: Range, limit: int) -> list[Candle]:
    read = stored if is_stored(service.market, series.interval) else multiples
    return [candle for _, candle in (await read(service, series, span, None, limit))[:limit]]


async def _newest(service: Service, series: Series) -> Candle | None:
    found = await _read(service, series, Range(None, None), 1)
    return found[0] if found else None


def _about(series: Series) -> messages.Json:
    return {"exchange": series.state.venue, "symbol": series.state.symbol, "timeframe": series.interval}


def _candle(value: Candle) -> messages.Json:
    return {
        "timestamp": format_rfc3339(value.start),
        "open": value.open,
        "high": value.high,
        "low": value.low,
        "close": value.close,
        "volume": value.volume,
        "trades": value.trades,
        "closed": value.state != "open",
        "valid": value.valid,
        "reason": value.reason,
    }


def _gap(row: Row) -> messages.Json:
    repaired = row["repaired_at"]
    return {
        "exchange": row["venue"],
        "symbol": row["symbol"],
        "start": None if row["ts_from_ns"] is None else format_rfc3339(row["ts_from_ns"]),
        "end": None if row["ts_to_ns"] is None else format_rfc3339(row["ts_to_ns"]),
        "reason": row["reason"],
        "detected_at": format_rfc3339(microseconds(row["detected_at"]) * 1000),
        "repaired": row["state"] == "repaired",
        "repaired_at": None if repaired is None else format_rfc3339(microseconds(repaired) * 1000),
    }


def _job(row: Row) -> messages.Json:
    completed = row["completed_at"]
    return {
        "exchange": row["venue"],
        "symbol": row["symbol"],
        "timeframe": row["interval"],
        "status": row["state"],
        "start": format_rfc3339(row["start_ns"]),
        "end": format_rfc3339(row["end_ns"]),
        "started_at": format_rfc3339(microseconds(row["started_at"]) * 1000),
        "completed_at": None if completed is None else format_rfc3339(microseconds(completed) * 1000),
        "candles_fetched": row["fetched"],
        "last_error": row["last_error"],
    }
