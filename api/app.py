"""The ASGI application: routes, errors, documentation, dashboard and the headers that go with them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core.consumer import DATABASE
from api.hosts import HostCheck, Hosts
from api.rest import problems
from api.rest.access import AccessControl
from api.rest.files import Files
from api.rest.health import StatusSummary
from api.rest.models.shared import FieldError, ProblemAnswer
from api.rest.routes import candle_service, candles, derivatives, keys, ledger, market, metrics
from api.service import Service

STATIC = Path(__file__).resolve().parent / "static"

_TAGS = [
    {"name": "market", "description": "Live market data: symbols, ticker, order book, trades, candles, metrics."},
    {"name": "ledger", "description": "Gaps and their repair, anomalies, and the health of all data."},
    {"name": "candle service", "description": "Candles in short answers, by exchange, symbol and timeframe."},
    {"name": "keys", "description": "API keys, for operators, and tokens for the WebSocket."},
    {"name": "service", "description": "Health and metrics of this process."},
]
_ABOUT = """Market data, exact to the last decimal and never silently wrong.

Prices and sizes are decimal strings, as the venue sent them. Times are RFC 3339 in UTC with microseconds. Every answer
says whether its value may be trusted (`valid`) and if not, why (`reason`): `gap`, `stale`, `crossed`, `checksum`,
`halted`, `resyncing` or `disconnected`. `ts_event` (of the venue) and `ts_recv` (ours) have all digits of a time, in
UTC nanoseconds as text. A symbol is accepted as BTC-USD, BTC/USD, BTCUSD and as the venue writes it. A parameter that a
route does not have is refused. Errors are problem+json with a stable `code`.

Lists are newest first and come in pages: `next`, also in the header `Link`, is the address of the next one. They also
come as one file, by `?format=` or `Accept`: CSV (`text/csv`), Arrow (`application/vnd.apache.arrow.stream`) or Parquet
(`application/vnd.apache.parquet`), with prices and sizes as text, exact. A file has at most 1,000,000 rows and 512 MiB,
and takes at most two minutes; beyond that, the connection closes before the end of the body. A range that ended more
than ten minutes ago has an `ETag`; after a week it is final and may be kept for an hour.

Live data comes over the WebSocket `/ws`. Send `{"op": "subscribe", "id": 1, "channels": ["ticker", "trades", "book",
"candles", "derivatives", "metrics", "consolidated", "anomalies", "status"], "symbols": ["BTC-USD"], "depth": 50,
"interval": "1m"}`,
with `"venue"` where several trade the symbol, and `"unsubscribe"` and `"ping"` alike. `consolidated` is about all
venues of a symbol (its messages have the venue `*`), with `"kind"` where the symbol means several instruments.
`depth` is 1, 5, 10, 20, 50, 100, 200, 500 or 1000; `interval` may also be that of a recipe's bars, such as `5s`, or
`"recipe"` names it. First comes the state of each stream (`l2_snapshot`, or messages with `"snapshot": true`), then
every change. `sequence` grows by one with each change of a stream: of one channel, venue and symbol, and of one depth
or interval. An `l2_update` sets absolute sizes, "0" removes; applied to the snapshot it gives exactly the best
`depth` levels. While `valid` is false the book may not be used; after `gap`, `resyncing` and `disconnected` a new
`l2_snapshot` follows. A client that reads too slowly gets only the latest state of books, tickers, candles and
metrics, marked `"conflated": true`; one that is too slow for trades, derivatives, anomalies or status
gets the error `slow_consumer` and is disconnected.

A message that brings the content of a record has its `position` (`ticker` and `consolidated` have none). A client that
lost its connection subscribes with `"since"`: the position of its last message, or an object of positions by symbol,
for one channel a request. It then gets `{"type": "resumed", "recovered": true, "messages": n}`, the n messages that it
missed, and every change from there on; or `"recovered": false`, and the state as with a first subscription. Positions
outlive a restart of the API. With a time in place of a position, such as `"2026-01-31T10:00:00Z"`, trades, candles,
metrics, anomalies and status begin there: history first, then what is live."""


def create(service: Service, hosts: Hosts) -> FastAPI:
    """Return the application around a service, for requests to these hosts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="Tickstream",
        version="1",
        description=_ABOUT,
        openapi_tags=_TAGS,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.summary = StatusSummary(service)
    problems.install(app)
    app.include_router(market.router)
    app.include_router(candles.router)
    app.include_router(derivatives.router)
    app.include_router(metrics.router)
    app.include_router(ledger.router)
    app.include_router(candle_service.router)
    app.include_router(keys.router)
    _add_service_routes(app, service)
    _add_documentation(app)
    _add_dashboard(app)
    app.add_middleware(AccessControl, access=service.access)
    if hosts.origins:
        app.add_middleware(CORSMiddleware, allow_origins=hosts.origins, allow_methods=_METHODS, allow_headers=_ALLOWED)
    app.add_middleware(HostCheck, hosts=hosts)
    app.add_middleware(SecurityHeaders)  # the outermost: it is last to see a response
    return app


_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; connect-src 'self'{sockets}; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)
# CORS: what pages of other, configured origins may send.
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ALLOWED = ("Authorization", "Content-Type", "If-None-Match", "X-API-Key")
_HOST = re.compile(rb"[A-Za-z0-9.\-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# Only over TLS, ours or a trusted proxy's: RFC 6797 7.2.
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


class SecurityHeaders:
    """Adds to every answer the headers that keep a browser from doing what our pages never ask for.

    The list is that of OWASP's "HTTP Security Response Headers Cheat Sheet"
    (https://cheatsheetseries.owasp.org/cheatsheets/HTTP_Headers_Cheat_Sheet.html).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _policy(scope))
                secure = (_HSTS,) if scope["scheme"] == "https" else ()
                message["headers"] = [*message["headers"], policy, *_HEADERS, *secure]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _policy(scope: Scope) -> bytes:
    """Return the content security policy; not every browser takes our own WebSocket for a part of 'self'."""
    host = dict(scope["headers"]).get(b"host", b"")
    sockets = f" ws://{host.decode()} wss://{host.decode()}" if _HOST.fullmatch(host) else ""
    return _POLICY.format(sockets=sockets).encode()


def _add_service_routes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["service"], summary="Whether the process is alive", responses={503: {}})
    async def healthz() -> Response:
        """Answer 200 while the event loop turns and does its regular work, else 503."""
        return _state(*service.beat.report())

    @app.get("/readyz", tags=["service"], summary="Whether live data and history are served", responses={503: {}})
    async def readyz() -> Response:
        """Answer 200 while live data flows: `ready`, or `degraded` without the registry or the database; else 503.

        `live` and `history` say which of the two is served, `checks` has the state of each dependency.
        """
        is_ready, body = service.readiness.report()
        return _state(is_ready, body | {"live": is_ready, "history": service.readiness.is_up(DATABASE)})

    @app.get(
        "/metrics",
        tags=["service"],
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Answer with every metric in Prometheus' text format."""
        text = generate_latest() + await service.book_validity.text()
        return Response(text, 200, None, CONTENT_TYPE_LATEST)


def _state(is_good: bool, body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), 200 if is_good else 503, {"Cache-Control": "no-store"}, "application/json")


def _add_documentation(app: FastAPI) -> None:
    description: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not description:
            description.update(
                get_openapi(
                    title=app.title, version=app.version, description=app.description, tags=_TAGS, routes=app.routes
                )
            )
            _, schemas = models_json_schema(
                [(ProblemAnswer, "serialization"), (FieldError, "serialization")],
                ref_template="#/components/schemas/{model}",
            )
            components = description.setdefault("components", {}).setdefault("schemas", {})
            components |= schemas["$defs"]
            # Parameters are refused with a problem; FastAPI's own shapes never occur.
            components.pop("HTTPValidationError", None)
            components.pop("ValidationError", None)
        return description

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to extend it

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_json() -> Response:
        return Response(orjson.dumps(openapi()), 200, None, "application/json")


_NOT_BUILT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Tickstream</title>
<h1>The dashboard and the reference are not built yet</h1>
<p>Run <code>make dashboard</code> (it needs npm), then load this page again.</p>
<p>The API works without it: <a href="/openapi.json">its description</a>,
<a href="/api/v1/market/symbols">symbols</a>, <a href="/api/v1/status">status</a>.</p></html>
"""


def _add_dashboard(app: FastAPI) -> None:
    files = Files(STATIC)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        if not (STATIC / "index.html").is_file():
            return Response(_NOT_BUILT, 200, {"Cache-Control": "no-store"}, "text/html; charset=utf-8")
        return await files.answer(request, "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        if not (STATIC / "docs.html").is_file():
            return Response(_NOT_BUILT, 200, {"Cache-Control": "no-store"}, "text/html; charset=utf-8")
        return await files.answer(request, "docs.html")

    @app.get("/static/{path:path}", include_in_schema=False)
    async def static(request: Request, path: str) -> Response:
        return await files.answer(request, path)
