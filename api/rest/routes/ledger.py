"""What the feeds did: gaps with their repair, anomalies, and the health of all data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from api.core import messages
from api.rest.answers import json_answer
from api.rest.columns import ANOMALIES, GAPS, JOBS
from api.rest.health import StatusSummary, health, trusts_of
from api.rest.models.ledger import AnomaliesAnswer, GapsAnswer, JobsAnswer, StatusAnswer, SummaryAnswer
from api.rest.parameters import canonical, microseconds, nanoseconds, read_cursor, write_cursor
from api.rest.routes.common import StrictRoute, SymbolQuery, VenueQuery, ledger, problems, service_of
from api.rest.routes.paging import LIMIT_MAX, CursorQuery, Found, LimitQuery, Page, listed, paged
from marketdata.clock import format_rfc3339
from marketdata.events import ALL_SYMBOLS
from runtime.redaction import redacted

router = APIRouter(prefix="/api/v1", tags=["ledger"], route_class=StrictRoute)

_EVENTS_MAX = 100
AnomalyKind = Literal[
    "crossed", "stale", "silent", "gap", "price_jump", "price_deviation", "spread_blowout", "volume_spike",
    "quote_stuffing", "liquidation_cascade",
]  # fmt: skip


@router.get("/gaps", response_model=GapsAnswer, responses=problems(406, 422, 503), summary="The ledger of gaps")
async def gaps(
    request: Request,
    page: Annotated[Page, paged(tuple[int, str])],
    *,
    venue: VenueQuery = None,
    symbol: SymbolQuery = None,
    state: Annotated[Literal["open", "repaired"] | None, Query(description="Only gaps in this state.")] = None,
) -> Response:
    """Answer with what was missing, from when to when, how it was found, and what repaired it; by time of discovery."""
    service = service_of(request)
    name = None if symbol is None else canonical(service.market, symbol, venue)
    filters = {"venue": venue, "symbol": name, "state": state}

    async def find(page: Page) -> Found:
        rows = await service.history.gaps(filters, page.span, page.before, page.limit + 1)
        return [((microseconds(row["detected_at"]), row["gap_id"]), _gap(row)) for row in rows], True

    return await listed(request, page, find, lambda data: ledger("gaps", service.clock(), data), columns=GAPS)


@router.get(
    "/jobs", response_model=JobsAnswer, responses=problems(406, 422, 503), summary="Jobs of backfill and repair"
)
async def jobs(
    request: Request,
    page: Annotated[Page, paged(tuple[int, str])],
    *,
    venue: VenueQuery = None,
    symbol: SymbolQuery = None,
    kind: Annotated[
        Literal["candles", "trades", "repair"] | None, Query(description="Only jobs that bring this.")
    ] = None,
    state: Annotated[
        Literal["running", "paused", "failed", "done"] | None, Query(description="Only jobs in this state.")
    ] = None,
) -> Response:
    """Answer with what was asked of the venues' histories, how far it is and what went wrong; by time of change."""
    service = service_of(request)
    name = None if symbol is None else canonical(service.market, symbol, venue)
    filters = {"venue": venue, "symbol": name, "kind": kind, "state": state}

    async def find(page: Page) -> Found:
        rows = await service.history.jobs(filters, page.span, page.before, page.limit + 1)
        return [((microseconds(row["updated_at"]), row["job_id"]), _job(row)) for row in rows], True

    return await listed(request, page, find, lambda data: ledger("jobs", service.clock(), data), columns=JOBS)


@router.get("/anomalies", response_model=AnomaliesAnswer, responses=problems(406, 422, 503), summary="Anomalies")
async def anomalies(
    request: Request,
    page: Annotated[Page, paged(tuple[int, str])],
    *,
    venue: VenueQuery = None,
    symbol: SymbolQuery = None,
    kind: Annotated[
        AnomalyKind | None,
        Query(description="Only this kind."),
    ] = None,
    severity: Annotated[Literal["info", "warning", "critical"] | None, Query(description="Only this severity.")] = None,
    state: Annotated[Literal["open", "ended"] | None, Query(description="Only anomalies in this state.")] = None,
) -> Response:
    """Answer with anomalies by start, newest first, each once: which value was above which limit, from when to when."""
    service = service_of(request)
    name = None if symbol is None else canonical(service.market, symbol, venue)
    filters = {"venue": venue, "symbol": name, "kind": kind, "severity": severity, "state": state}

    async def find(page: Page) -> Found:
        rows = await service.history.anomalies(filters, page.span, page.before, page.limit + 1)
        return [((microseconds(row["ts"]), row["anomaly_id"]), _anomaly(row)) for row in rows], True

    return await listed(request, page, find, lambda data: ledger("anomalies", service.clock(), data), columns=ANOMALIES)


@router.get("/status", response_model=StatusAnswer, responses=problems(422), summary="The health of all data")
async def status(
    request: Request,
    *,
    venue: VenueQuery = None,
    symbol: SymbolQuery = None,
    valid: Annotated[bool | None, Query(description="Only symbols whose data may be trusted, or may not.")] = None,
    reason: Annotated[
        str | None, Query(description="Only symbols that are not valid for this.", examples=["stale"], max_length=32)
    ] = None,
    limit: LimitQuery = LIMIT_MAX,
    cursor: CursorQuery = None,
) -> Response:
    """Answer with the validity and age of each symbol's data, by name, and what happened to the feeds last.

    `valid` is about all symbols that the filters name, on this page or not. `/status/summary` counts them.
    """
    service = service_of(request)
    symbol = None if symbol is None else canonical(service.market, symbol, venue)
    after = read_cursor(cursor, tuple[str, str])
    asked = [
        state
        for state in service.market.states()
        if (venue is None or state.venue == venue) and (symbol is None or state.symbol in {symbol, ALL_SYMBOLS})
    ]
    trusts = await trusts_of(service, [state for state in asked if state.symbol != ALL_SYMBOLS and state.has_data])
    wanted = sorted(
        place
        for place, (trust, _) in trusts.items()
        if (valid is None or trust.valid == valid) and (reason is None or (not trust.valid and trust.reason == reason))
    )
    bad = next((trusts[place][0] for place in wanted if not trusts[place][0].valid), None)
    rest = [place for place in wanted if after is None or place > after]
    events = sorted((kept.status for state in asked for kept in state.statuses), key=lambda each: -each.ts_recv)
    happened = [
        messages.status(each) | {"venue": each.venue, "symbol": each.symbol, "timestamp": format_rfc3339(each.ts_recv)}
        for each in events[:_EVENTS_MAX]
    ]
    data = {"symbols": [health(service, trusts[place][1]) for place in rest[:limit]], "events": happened}
    next_cursor = write_cursor(*rest[limit - 1]) if len(rest) > limit else None
    answer = ledger("status", service.clock(), data, next_cursor=next_cursor)
    if bad is not None:
        answer["valid"], answer["reason"] = False, bad.reason
    return json_answer(request, answer)


@router.get("/status/summary", response_model=SummaryAnswer, summary="The health of all data, counted by venue")
async def status_summary(request: Request) -> Response:
    """Answer with how many symbols of each venue are valid, and how many are not, by reason; a second old at most."""
    summary: StatusSummary = request.app.state.summary
    venues = await summary.venues()
    answer = ledger("status_summary", service_of(request).clock(), venues)
    bad = next((reason for each in venues for reason in each["reasons"]), None)
    if bad is not None:
        answer["valid"], answer["reason"] = False, bad
    return json_answer(request, answer)


def _gap(row: dict[str, Any]) -> messages.Json:
    data = {name: row[name] for name in _GAP_FIELDS}
    for name, ts in (("start", row["ts_from_ns"]), ("end", row["ts_to_ns"])):
        data[name] = format_rfc3339(ts) if ts is not None else None
        data[f"{name}_ns"] = nanoseconds(ts)
    data["detected_at"] = format_rfc3339(microseconds(row["detected_at"]) * 1000)
    repaired = row["repaired_at"]
    data["repaired_at"] = format_rfc3339(microseconds(repaired) * 1000) if repaired is not None else None
    return data


_GAP_FIELDS = (
    "gap_id", "venue", "symbol", "channel", "line", "reason", "detail", "state", "expected", "received", "found_by",
    "repaired_by",
)  # fmt: skip


def _job(row: dict[str, Any]) -> messages.Json:
    data = {name: row[name] for name in _JOB_FIELDS}
    if row["last_error"] is not None:
        data["last_error"] = redacted(row["last_error"])
    for name in ("start", "end", "cursor"):
        data[name] = format_rfc3339(row[f"{name}_ns"])
        data[f"{name}_ns"] = nanoseconds(row[f"{name}_ns"])
    for name in ("started_at", "updated_at", "completed_at"):
        data[name] = format_rfc3339(microseconds(row[name]) * 1000) if row[name] is not None else None
    return data


_JOB_FIELDS = (
    "job_id", "venue", "symbol", "kind", "interval", "state", "fetched", "published", "attempts", "last_error",
)  # fmt: skip


def _anomaly(row: dict[str, Any]) -> messages.Json:
    return (
        {name: row[name] for name in _ANOMALY_FIELDS}
        | {"timestamp": format_rfc3339(row["ts_start_ns"])}
        | messages.life(row["ts_start_ns"], row["ts_peak_ns"], row["ts_end_ns"])
        | {f"{name}_ns": nanoseconds(row[f"ts_{name}_ns"]) for name in ("start", "peak", "end")}
    )


_ANOMALY_FIELDS = (
    "anomaly_id", "venue", "symbol", "kind", "severity", "phase", "metric", "value", "limit", "usual", "text",
    "evidence",
)  # fmt: skip
