"""The parameters that several routes take, described once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams

from api.core.symbol_state import SymbolState
from api.core.trust import TRUSTED
from api.rest.codes import MEANINGS, Code
from api.rest.models.shared import ProblemAnswer
from api.rest.parameters import find
from api.rest.problems import MEDIA_TYPE, bad_value
from api.service import Service
from marketdata.clock import format_rfc3339

TEXT = r"^[^\x00-\x1f\x7f]+$"
NAME_MAX = 64

SymbolPath = Annotated[
    str,
    Path(
        description="Symbol, such as BTC-USD, BTC/USD, BTCUSD, or as the venue writes it.",
        examples=["BTC-USD"],
        max_length=NAME_MAX,
        pattern=TEXT,
    ),
]
VenueQuery = Annotated[
    str | None,
    Query(
        description="Venue; needed where several trade the symbol.",
        examples=["coinbase"],
        max_length=NAME_MAX,
        pattern=TEXT,
    ),
]
SymbolQuery = Annotated[
    str | None, Query(description="Only this symbol.", examples=["BTC-USD"], max_length=NAME_MAX, pattern=TEXT)
]


# Any route may answer with these: no key, not enough rights, too many requests.
_OF_ACCESS = (401, 403, 429)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of the errors that a route may answer with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemAnswer.__name__}"}}}
    return {status: {"description": _meaning(status), "content": content} for status in (*_OF_ACCESS, *statuses)}


def _meaning(status: int) -> str:
    codes = [f"`{code}`: {meaning}" for code, (each, meaning) in MEANINGS.items() if each == status]
    return " ".join(codes) or HTTPStatus(status).phrase


class StrictRoute(APIRoute):
    """A route that refuses a parameter that it does not have, or that is given twice: an answer would mislead."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests, with the check before all else."""
        answer = super().get_route_handler()
        known = list(_query_parameters(self.dependant))

        async def check_and_answer(request: Request) -> Response:
            _check_parameters(request.query_params, known)
            return await answer(request)

        return check_and_answer


def _check_parameters(given: QueryParams, known: list[str]) -> None:
    names = [name for name, _ in given.multi_items()]
    for name, value in given.items():
        if name not in known:
            message = f"is not a parameter here; there are {', '.join(known) or 'none'}"
            raise bad_value(name, value, message, code=Code.UNKNOWN_PARAMETER)
        if names.count(name) > 1:
            raise bad_value(name, value, "is given more than once", code=Code.REPEATED_PARAMETER)


def _query_parameters(dependant: Dependant) -> Iterator[str]:
    yield from (each.alias for each in dependant.query_params)
    for each in dependant.dependencies:
        yield from _query_parameters(each)


def ledger(kind: str, now: int, data: Any, **more: Any) -> dict[str, Any]:
    """Return an answer that is about no single symbol; `more` is what only this one has."""
    return {
        "type": kind,
        "timestamp": format_rfc3339(now),
        "valid": TRUSTED.valid,
        "reason": TRUSTED.reason,
        "data": data,
    } | more


def service_of(request: Request) -> Service:
    """Return the service that answers a request."""
    service: Service = request.app.state.service
    return service


def now_at(service: Service, venue: str) -> int:
    """Return the time by the clock of a venue's data, UTC nanoseconds: a replay is at a time of the past."""
    return service.clocks.now(venue, 1)


def state_of(request: Request, symbol: str, venue: str | None) -> SymbolState:
    """Return the state of the symbol that a request names, or refuse it."""
    service = service_of(request)
    return find(service.market, symbol, venue, known=service.known)
