"""Candles and bars by recipe over REST, their revisions, and why they are what they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from api.core import messages
from api.core.market import Market
from api.core.symbol_state import INTERVALS, SymbolState
from api.core.trust import TRUSTED
from api.rest.answers import json_answer
from api.rest.candle_series import Series, multiples, stored
from api.rest.codes import Code
from api.rest.columns import CANDLES
from api.rest.evidence import candle_of, gather
from api.rest.history import Row, Source
from api.rest.models.candles import CandlesAnswer, ExplanationAnswer
from api.rest.multiples import part_of
from api.rest.parameters import nanoseconds, time_ns
from api.rest.problems import Problem, bad_value
from api.rest.routes.common import StrictRoute, SymbolPath, VenueQuery, now_at, problems, service_of, state_of
from api.rest.routes.paging import Found, LimitQuery, Page, listed, paged
from api.service import Service
from marketdata.events import Candle
from marketdata.explain import explain
from marketdata.recipes import interval_of

router = APIRouter(prefix="/api/v1/market", tags=["market"], route_class=StrictRoute)

_NAME_MAX = 64
# Trades of a candle that is explained; more are explained on the command line.
EXPLAINED_TRADES_MAX = 20_000
IntervalQuery = Annotated[
    str | None,
    Query(
        description="Length of a candle: 1m, 5m, 15m, 1h, 4h or 1d; 1m if neither it nor `recipe` is given. Also that "
        "of a recipe: another length such as 5s, or tick:, volume: or value: with the size of a bar. `/candles` also "
        "adds up any number of minutes or hours up to a day, such as 3m or 2h: valid if all parts are there and valid.",
        examples=["1m"],
        max_length=_NAME_MAX,
    ),
]
RecipeQuery = Annotated[
    str | None,
    Query(
        description="Bars of the recipe with this name, instead of `interval`.",
        examples=["five_seconds"],
        max_length=_NAME_MAX,
    ),
]
SourceQuery = Annotated[
    Source,
    Query(
        description="`trades`: made here of the venue's trades. `venue`: the venue's own, where its stream contains "
        "candles; it may leave trades out of them (US equities: odd lots), so that the two may differ.",
        examples=["trades"],
    ),
]


class SeriesQuery(msgspec.Struct, frozen=True):
    """The parameters that name a series."""

    symbol: str
    interval: str | None
    recipe: str | None
    venue: str | None

    def find(self, request: Request, source: Source = "trades", *, multiples_too: bool = False) -> Series:
        """Return the series, or refuse what it is not; last, when all parameters have been read."""
        name = choose_interval(service_of(request).market, self.interval, self.recipe, multiples_too=multiples_too)
        return Series(state_of(request, self.symbol, self.venue), name, source)


# Not a plain function, which FastAPI would call in a thread.
async def series_of(
    symbol: SymbolPath, interval: IntervalQuery = None, recipe: RecipeQuery = None, venue: VenueQuery = None
) -> SeriesQuery:
    """Return the parameters that name a series."""
    return SeriesQuery(symbol, interval, recipe, venue)


@router.get(
    "/{symbol:path}/candles",
    response_model=CandlesAnswer,
    responses=problems(404, 406, 409, 422, 503),
    summary="Candles",
)
async def candles(
    request: Request,
    page: Annotated[Page, paged(tuple[int, int], 300)],
    asked: Annotated[SeriesQuery, Depends(series_of)],
    source: SourceQuery = "trades",
) -> Response:
    """Answer with the latest revision of each candle that starts in the range, newest first, the open one included."""
    service = service_of(request)
    series = asked.find(request, source, multiples_too=True)
    read = stored if is_stored(service.market, series.interval) else multiples

    async def find(page: Page) -> Found:
        found = await read(service, series, page.span, page.before, page.limit)
        return [(place, _candle(candle)) for place, candle in found], True

    return await listed(
        request,
        page,
        find,
        _wrap(service, series),
        columns=CANDLES,
        now=now_at(service, series.state.venue),
        constant=_constant(series.state),
    )


@router.get(
    "/{symbol:path}/candles/revisions",
    response_model=CandlesAnswer,
    responses=problems(404, 406, 409, 422, 503),
    summary="How candles were corrected",
)
async def revisions(
    request: Request,
    page: Annotated[Page, paged(tuple[int, int, int], 300)],
    asked: Annotated[SeriesQuery, Depends(series_of)],
    source: SourceQuery = "trades",
) -> Response:
    """Answer with every revision of each closed candle that starts in the range, newest first."""
    service, series = service_of(request), asked.find(request, source)
    state = series.state

    async def find(page: Page) -> Found:
        rows = await service.history.revisions(
            state.venue,
            state.symbol,
            series.interval,
            page.span,
            source=source,
            before=page.before,
            limit=page.limit + 1,
        )
        return [((row["start_ns"], row["revision"], row["kafka_offset"]), _stored_candle(row)) for row in rows], True

    return await listed(
        request,
        page,
        find,
        _wrap(service, series),
        columns=CANDLES,
        now=now_at(service, state.venue),
        constant=_constant(state),
    )


@router.get(
    "/{symbol:path}/candles/explain",
    response_model=ExplanationAnswer,
    responses=problems(404, 409, 422, 503),
    summary="Why a candle is what it is",
)
async def explanation(
    request: Request,
    asked: Annotated[SeriesQuery, Depends(series_of)],
    start: Annotated[
        str, Query(description="Start of the candle, RFC 3339 with a zone.", examples=["2026-08-09T21:05:00Z"])
    ],
    limit: LimitQuery = 1_000,
) -> Response:
    """Answer with the trades that made a candle and those that did not, its revisions, and the venue's own bar.

    The stored trades are counted again; `verdict` states whether they make the stored candle. Bars of trades, volume or
    value are not explained.
    """
    at = time_ns("start", start)
    assert at is not None  # noqa: S101 - for the type checker: the parameter is required
    service, series = service_of(request), asked.find(request)
    state = series.state
    evidence = await gather(
        service.history, state.venue, state.symbol, series.interval, at, trades_max=EXPLAINED_TRADES_MAX
    )
    if evidence is None:
        message = f"nothing is stored about the candle of {state.symbol} that starts at {start}"
        raise Problem(HTTPStatus.NOT_FOUND, message, code=Code.NOTHING_STORED)
    answer = await asyncio.to_thread(explain, evidence, limit)
    return json_answer(request, answer)


def is_stored(market: Market, interval: str) -> bool:
    """Return whether there are candles of this interval, so that none need be added up."""
    return interval in INTERVALS or interval in market.recipes.values()


def choose_interval(
    market: Market,
    interval: str | None,
    recipe: str | None,
    *,
    multiples_too: bool = False,
    field: str = "interval",
) -> str:
    """Return the interval that a request names, in its shortest notation."""
    recipes = market.recipes
    if recipe is not None:
        if interval is not None:
            raise bad_value("recipe", recipe, "cannot be given together with interval")
        if recipe not in recipes:
            raise bad_value("recipe", recipe, f"is not a recipe; there are {', '.join(sorted(recipes)) or 'none'}")
        return recipes[recipe]
    if interval is None:
        return INTERVALS[0]
    name = interval_of(interval)
    if name is None or not (is_stored(market, name) or (multiples_too and part_of(name) is not None)):
        known = ", ".join([*INTERVALS, *sorted(recipes.values())])
        more = ", and any number of minutes or hours up to a day" if multiples_too else ""
        raise bad_value(field, interval, f"is not an interval of candles here; there are {known}{more}")
    return name


def _stored_candle(row: Row) -> messages.Json:
    return _candle(candle_of(row))


def _candle(candle: Candle) -> messages.Json:
    return messages.candle(candle) | {
        "start_ns": nanoseconds(candle.start),
        "end_ns": nanoseconds(candle.end),
        "ts_event": nanoseconds(candle.ts_event),
        "ts_recv": nanoseconds(candle.ts_recv),
    }


def _constant(state: SymbolState) -> messages.Json:
    return {"venue": state.venue, "symbol": state.symbol}


def _wrap(service: Service, series: Series) -> Callable[[list[messages.Json]], messages.Json]:
    def wrap(data: list[messages.Json]) -> messages.Json:
        state = series.state
        seen = state.trades_ts_recv
        trust = service.fresh(state.trades_trust, state.venue, seen) if seen else TRUSTED
        ts = state.trades_ts_event or service.clock()
        return messages.envelope("candles", state, ts, trust, data, interval=series.interval, source=series.source)

    return wrap
