"""Metrics of a book, and the best bid and offer over all venues."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.core import messages
from api.core.consolidated import Product, choices, consolidate, members
from api.core.symbol_state import NumberedMetrics, SymbolState
from api.core.trust import UNKNOWN, Trust
from api.rest.answers import json_answer
from api.rest.codes import Code
from api.rest.columns import METRICS
from api.rest.export import Format
from api.rest.history import Row
from api.rest.models.metrics import ConsolidatedAnswer, MetricsAnswer
from api.rest.parameters import canonical, nanoseconds
from api.rest.parameters import find as find_symbol
from api.rest.problems import Problem, bad_value
from api.rest.routes.common import StrictRoute, SymbolPath, VenueQuery, now_at, problems, service_of, state_of
from api.rest.routes.paging import Found, Page, Place, listed, newest_first, paged
from api.service import Service
from marketdata.clock import format_rfc3339
from marketdata.events import ALL_VENUES, Metrics

router = APIRouter(prefix="/api/v1/market", tags=["market"], route_class=StrictRoute)


@router.get(
    "/{symbol:path}/metrics",
    response_model=MetricsAnswer,
    responses=problems(404, 406, 409, 422, 503),
    summary="Spread, depth, imbalance and order flow",
)
async def metrics(
    request: Request,
    symbol: SymbolPath,
    page: Annotated[Page, paged(tuple[int, int])],
    venue: VenueQuery = None,
) -> Response:
    """Answer with metrics of the book, newest first: the latest from memory, the others from the database."""
    service, state = service_of(request), state_of(request, symbol, venue)
    last = state.metrics

    async def find(page: Page) -> Found:
        rows: dict[Place, messages.Json] = {}
        if last is not None and page.holds(last.metrics.ts_event, _place(last)):
            rows[_place(last)] = _live(last.metrics)
        if len(rows) >= page.limit and page.is_latest and page.form is Format.JSON:
            return newest_first(rows), False
        try:
            stored = await service.history.metrics(state.venue, state.symbol, page.span, page.before, page.limit + 1)
        except Problem:
            # The latest metrics are known without a database; a page of history is not.
            if not page.is_latest or not rows:
                raise
            return newest_first(rows), False
        rows |= {(row["ts_event_ns"], row["kafka_offset"]): _stored(row) for row in stored}
        return newest_first(rows), True

    def wrap(data: list[messages.Json]) -> messages.Json:
        trust = Trust(last.metrics.valid, last.metrics.reason) if last is not None else UNKNOWN
        trust = service.fresh(trust, state.venue, last.metrics.ts_recv if last is not None else 0)
        ts = last.metrics.ts_event if last is not None else service.clock()
        return messages.envelope("metrics", state, ts, trust, data)

    return await listed(
        request,
        page,
        find,
        wrap,
        columns=METRICS,
        now=now_at(service, state.venue),
        constant={"venue": state.venue, "symbol": state.symbol},
    )


@router.get(
    "/{symbol:path}/consolidated",
    response_model=ConsolidatedAnswer,
    responses=problems(404, 409, 422, 503),
    summary="The best bid and offer over all venues",
)
async def consolidated(
    request: Request,
    symbol: SymbolPath,
    *,
    kind: Annotated[
        str | None,
        Query(
            description="Kind of the instrument, as in /symbols; needed where the symbol means several.",
            examples=["spot"],
            max_length=32,
        ),
    ] = None,
) -> Response:
    """Answer with the highest bid and the lowest ask of the venues that are valid now, and each venue's own."""
    service = service_of(request)
    symbol = canonical(service.market, symbol, None)
    wanted = _choose(service, symbol, kind)
    now = service.clocks.now
    found = consolidate(wanted, members(service.market, symbol, wanted), now, service.stale_ns)
    state = SymbolState(ALL_VENUES, symbol)
    return json_answer(request, messages.envelope("consolidated", state, found.ts_event, found.trust, found.data(now)))


def _choose(service: Service, symbol: str, kind: str | None) -> Product:
    """Return the only instrument that a symbol and a kind mean."""
    found = choices(service.market, symbol, kind)
    if not found:
        if not service.market.named(symbol):
            find_symbol(service.market, symbol, None, known=service.known)
        traded = choices(service.market, symbol, None)
        if kind is None or not traded:
            message = f"{symbol!r} is of a kind that is not consolidated"
            raise Problem(HTTPStatus.NOT_FOUND, message, code=Code.UNKNOWN_KIND)
        message = f"{symbol} is not traded as this, but as {', '.join(sorted({each.kind for each in traded}))}"
        raise bad_value("kind", kind, message, HTTPStatus.NOT_FOUND, Code.UNKNOWN_KIND)
    if len(found) > 1:
        kinds = sorted({each.kind for each in found})
        message = f"{symbol} is traded as {', '.join(kinds)}: say which, with ?kind="
        raise Problem(HTTPStatus.CONFLICT, message, code=Code.AMBIGUOUS_KIND)
    return found[0]


def _place(kept: NumberedMetrics) -> tuple[int, int]:
    return kept.metrics.ts_event, kept.offset


def _live(value: Metrics) -> messages.Json:
    return {
        "timestamp": format_rfc3339(value.ts_event),
        "ts_event": nanoseconds(value.ts_event),
        "ts_recv": nanoseconds(value.ts_recv),
        "start_ns": nanoseconds(value.ts_from),
        "valid": value.valid,
        "reason": value.reason,
    } | messages.metrics(value)


def _stored(row: Row) -> messages.Json:
    return {
        "timestamp": format_rfc3339(row["ts_event_ns"]),
        "ts_event": nanoseconds(row["ts_event_ns"]),
        "ts_recv": nanoseconds(row["ts_recv_ns"]),
        "start_ns": nanoseconds(row["ts_from_ns"]),
        "valid": row["valid"],
        "reason": row["reason"],
        "start": format_rfc3339(row["ts_from_ns"]),
    } | {name: row[name] for name in messages.METRICS}
