"""Errors as problem+json: what is wrong, which field and value, and what to do about it.

Source: Problem Details for HTTP APIs, https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from opentelemetry import trace
from starlette.exceptions import HTTPException

from api.rest.codes import code_of

MEDIA_TYPE = "application/problem+json"
_VALUE_CHARACTERS_MAX = 200
_LOG = structlog.get_logger()


class Problem(Exception):  # noqa: N818 - RFC 9457's own name
    """An answer that reports an error: a stable `code` for programs; `errors` names fields with their values."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        errors: list[dict[str, Any]] | None = None,
        *,
        code: str | None = None,
        **extra: Any,
    ) -> None:
        self.status = status
        self.code = code or code_of(status)
        self.detail = detail
        self.errors = errors or []
        self.extra = extra
        super().__init__(detail)


def bad_value(
    field: str,
    value: object,
    message: str,
    status: HTTPStatus = HTTPStatus.UNPROCESSABLE_ENTITY,
    code: str | None = None,
) -> Problem:
    """Return the problem of one parameter that cannot be used."""
    shown = str(value)[:_VALUE_CHARACTERS_MAX]
    return Problem(
        status,
        f"{field} = {shown!r}: {message}",
        [{"field": field, "value": shown, "message": message}],
        code=code,
    )


def answer(request: Request, problem: Problem) -> Response:
    """Return a problem as an answer."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
        "instance": request.url.path,
        "code": problem.code,
        "trace_id": trace_id(request),
    }
    if problem.errors:
        body["errors"] = problem.errors
    headers = {"Cache-Control": "no-store"}
    if problem.status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "2"
    return Response(orjson.dumps(body | problem.extra), problem.status.value, headers, MEDIA_TYPE)


def trace_id(request: Request) -> str:
    """Return the id that finds a request in the traces and logs: that of its span, else one of its own."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return trace.format_trace_id(context.trace_id)
    if not hasattr(request.state, "trace_id"):
        request.state.trace_id = secrets.token_hex(16)
    found: str = request.state.trace_id
    return found


# By pydantic's type of error, with its context.
_MESSAGES = {
    "missing": "must be given",
    "less_than_equal": "must be at most {le}",
    "greater_than_equal": "must be at least {ge}",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "literal_error": "must be {expected}",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must have at least one character, and no control characters",
}


def _message(error: dict[str, Any]) -> str:
    message = _MESSAGES.get(error["type"])
    return error["msg"] if message is None else message.format(**error.get("ctx", {}))


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""

    @app.exception_handler(Problem)
    async def of_problem(request: Request, problem: Problem) -> Response:
        return answer(request, problem)

    @app.exception_handler(RequestValidationError)
    async def of_parameters(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {
                "field": str(each["loc"][-1]),
                "value": "" if each["type"] == "missing" else str(each.get("input"))[:_VALUE_CHARACTERS_MAX],
                "message": _message(each),
            }
            for each in error.errors()
        ]
        detail = "; ".join(f"{each['field']} = {each['value']!r}: {each['message']}" for each in errors)
        return answer(request, Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors))

    @app.exception_handler(HTTPException)
    async def of_routing(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        detail = str(error.detail)
        if status is HTTPStatus.NOT_FOUND:
            detail = f"there is nothing at {request.url.path}; /docs lists what there is"
        elif status is HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{request.method} is not possible at {request.url.path}"
        response = answer(request, Problem(status, detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def of_failure(request: Request, error: Exception) -> Response:
        _LOG.error("a request failed", path=request.url.path, trace_id=trace_id(request), exc_info=error)
        return answer(
            request,
            Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log has the reason under this trace_id"),
        )
