"""Derivatives over REST: funding, mark and index prices, open interest, greeks and liquidations."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Request, Response

from api.core import messages
from api.core.derivatives import FIELDS, STALE_NS, DerivativeState, event_json
from api.core.trust import UNKNOWN, Trust, fresh
from api.rest.columns import DERIVATIVES
from api.rest.history import Row
from api.rest.models.derivatives import DerivativesAnswer
from api.rest.parameters import microseconds, nanoseconds
from api.rest.problems import Problem
from api.rest.routes.common import StrictRoute, SymbolPath, VenueQuery, problems, service_of, state_of
from api.rest.routes.paging import Found, Page, Place, listed, newest_first, paged
from api.service import Service
from marketdata.events import Derivative, Liquidation

router = APIRouter(prefix="/api/v1/market", tags=["market"], route_class=StrictRoute)


@router.get(
    "/{symbol:path}/derivatives",
    response_model=DerivativesAnswer,
    responses=problems(404, 406, 409, 422, 503),
    summary="Funding, mark and index prices, open interest, greeks and liquidations",
)
async def derivatives(
    request: Request,
    symbol: SymbolPath,
    page: Annotated[Page, paged(tuple[int, int])],
    venue: VenueQuery = None,
) -> Response:
    """Answer with the latest value of each field, and with what the venue sent, newest first.

    An item has only the fields that one message of the venue had; the others are null.
    """
    service, state = service_of(request), state_of(request, symbol, venue)
    known = state.derivative

    async def find(page: Page) -> Found:
        rows: dict[Place, messages.Json] = {}
        for one in known.recent if known is not None else ():
            place = (one.event.ts_event // 1_000, one.offset)
            if page.holds(one.event.ts_event, place):
                rows[place] = _item(one.event)
        try:
            stored = await service.history.derivatives(
                state.venue, state.symbol, page.span, page.before, page.limit + 1
            )
        except Problem:
            # Live answers still work without a database; a page of history does not.
            if not page.is_latest or not rows:
                raise
            return newest_first(rows), False
        rows |= {(microseconds(row["ts"]), row["kafka_offset"]): _item(_event(row)) for row in stored}
        return newest_first(rows), True

    def wrap(data: list[messages.Json]) -> messages.Json:
        return messages.envelope(
            "derivatives",
            state,
            known.ts_event if known is not None and known.ts_event else service.clock(),
            _trust(service, state.venue, known),
            data,
            latest=(known or DerivativeState()).latest(),
        )

    return await listed(
        request,
        page,
        find,
        wrap,
        columns=DERIVATIVES,
        constant={"venue": state.venue, "symbol": state.symbol},
    )


def _item(event: Derivative) -> messages.Json:
    return event_json(event) | {"ts_event": nanoseconds(event.ts_event), "ts_recv": nanoseconds(event.ts_recv)}


def _trust(service: Service, venue: str, known: DerivativeState | None) -> Trust:
    if known is None or not known.ts_recv:
        return UNKNOWN
    now = service.clocks.now(venue, known.ts_recv)
    return fresh(Trust(known.valid, known.reason), known.ts_recv, now, max(service.stale_ns, STALE_NS))


def _event(row: Row) -> Derivative:
    return Derivative(
        venue=row["venue"],
        symbol=row["symbol"],
        ts_event=row["ts_event_ns"],
        ts_recv=row["ts_recv_ns"],
        line=row["line"],
        sequence=row["sequence"],
        origin=row["origin"],
        valid=row["valid"],
        reason=row["reason"],
        liquidations=tuple(msgspec.convert(row["liquidations"] or [], list[Liquidation])),
        **{field: row[field] for field in FIELDS},
    )
