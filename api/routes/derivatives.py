"""Derivatives over REST: funding, mark and index prices, open interest, greeks and liquidations."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response

from api import messages
from api.answers import json_answer
from api.derivatives import FIELDS, STALE_NS, DerivativeState, event_json
from api.history import Row
from api.models import DerivativesAnswer
from api.parameters import find, microseconds, read_cursor, time_range, write_cursor
from api.problems import Problem
from api.routes.common import CursorQuery, EndQuery, LimitQuery, StartQuery, SymbolPath, VenueQuery, problems
from api.service import Service
from api.trust import UNKNOWN, Trust, fresh
from marketdata.events import Derivative, Liquidation

router = APIRouter(prefix="/api/v1/market", tags=["market"])


@router.get(
    "/{symbol}/derivatives",
    response_model=DerivativesAnswer,
    responses=problems(404, 409, 422, 503),
    summary="Funding, mark and index prices, open interest, greeks and liquidations",
)
async def derivatives(
    request: Request,
    symbol: SymbolPath,
    *,
    venue: VenueQuery = None,
    start: StartQuery = None,
    end: EndQuery = None,
    limit: LimitQuery = 100,
    cursor: CursorQuery = None,
) -> Response:
    """Answer with the latest value of each field, and with what the venue sent, newest first.

    An item has only the fields that one message of the venue had; the others are null.
    """
    span = time_range(start, end)
    before = read_cursor(cursor, tuple[int, int])
    service: Service = request.app.state.service
    state = find(service.market, symbol, venue, known=service.known)
    known = state.derivative
    rows: dict[tuple[int, int], messages.Json] = {}
    for one in known.recent if known is not None else ():
        place = (one.event.ts_event // 1_000, one.offset)
        if span.holds(one.event.ts_event) and (before is None or place < before):
            rows[place] = event_json(one.event)
    complete = True
    try:
        stored = await service.history.derivatives(state.venue, state.symbol, span, before, limit + 1)
    except Problem:
        # Live answers still work without a database; a page of history does not.
        if cursor is not None or not span.open or not rows:
            raise
        complete = False
    else:
        rows |= {(microseconds(row["ts"]), row["kafka_offset"]): event_json(_event(row)) for row in stored}
    places = sorted(rows, reverse=True)
    page = places[:limit]
    more = len(places) > limit or not complete
    answer = messages.envelope(
        "derivatives",
        state,
        known.ts_event if known is not None and known.ts_event else service.clock(),
        _trust(service, state.venue, known),
        [rows[place] for place in page],
    )
    answer["latest"] = (known or DerivativeState()).latest()
    answer["next_cursor"] = write_cursor(*page[-1]) if more and page else None
    return json_answer(request, answer)


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
