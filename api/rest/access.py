"""Asks access control about every HTTP request, before any route: who sends it, may they, and how often.

Keys come as `Authorization: Bearer` (RFC 6750, https://www.rfc-editor.org/rfc/rfc6750), never in the address, which
logs keep. Answers carry `RateLimit-Policy` and `RateLimit` ("RateLimit header fields for HTTP",
https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/): `q` requests in `w` seconds, of which `r`
remain and all do after `t` seconds. A refusal is a problem with a stable `code`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import parse_qsl

import msgspec
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth.access import Access, Client, Denied
from api.auth.buckets import Decision, Limit
from api.rest import problems
from api.rest.codes import Code
from api.rest.parameters import Range
from api.rest.problems import Problem
from marketdata.clock import SECOND_NS, format_rfc3339

HISTORY = "history:read"

# A load balancer asks these all the time.
_PROBES = frozenset({"/healthz", "/readyz", "/health"})
_OPEN = re.compile(r"/|/docs|/[a-z]+\.(json|yaml)|/favicon\.ico|/(static|docs|\.well-known)/.*")
_ADMIN = re.compile(r"/api/v1/admin(/.*)?")
# The first that matches gives the scope; any other path is history.
_SCOPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (_ADMIN, "admin"),
    (re.compile(r"/api/v1/tokens"), "stream"),
    (re.compile(r"/metrics"), "metrics:read"),
    (re.compile(r"/status|/symbols|/api/v1/status(/.*)?|/api/v1/market/symbols"), "market:read"),
    (re.compile(r"/api/v1/market/[^/]+/(ticker|orderbook|consolidated)"), "market:read"),
)
_DAY_NS = 86_400 * SECOND_NS


class Rule(msgspec.Struct, frozen=True):
    """What a path needs: a scope unless it is `open`; `admin` calls are audited, `book` answers have a depth."""

    scope: str
    open: bool
    admin: bool
    book: bool


@lru_cache(maxsize=4096)
def rule_of(path: str) -> Rule:
    """Return what a path needs."""
    return Rule(scope_of(path), is_open(path), _ADMIN.fullmatch(path) is not None, path.endswith("/orderbook"))


def scope_of(path: str) -> str:
    """Return the scope that a path needs."""
    return next((scope for pattern, scope in _SCOPES if pattern.fullmatch(path)), HISTORY)


def is_open(path: str) -> bool:
    """Return whether a path is served without a key."""
    return path in _PROBES or _OPEN.fullmatch(path) is not None


def client_of(request: Request) -> Client:
    """Return who sends a request that access control let pass."""
    client: Client = request.state.client
    return client


def address_of(request: Request) -> str:
    """Return where a request came from."""
    address: str = request.state.address
    return address


def permitted(request: Request, span: Range, *, exports: bool, clock: Callable[[], int] = time.time_ns) -> Range:
    """Return the part of a range that the client's tier may read.

    Raises Problem when the request asks for an older part, or for an export that the client may not have.
    """
    client = client_of(request)
    if exports:
        request.state.exports = True
        _check_export(client)
    if not client.tier.history_days:
        return span
    oldest = clock() - client.tier.history_days * _DAY_NS
    if any(each is not None and each < oldest for each in (span.start, span.end)):
        raise Problem(
            HTTPStatus.FORBIDDEN,
            f"the tier {client.tier_name} reads the last {client.tier.history_days} days, "
            f"from {format_rfc3339(oldest)}",
            code=Code.HISTORY_RANGE,
        )
    return span if span.start is not None else Range(oldest, span.end)


def _check_export(client: Client) -> None:
    if "export" not in client.scopes:
        raise Problem(HTTPStatus.FORBIDDEN, "this needs the scope export", code=Code.SCOPE_MISSING)
    if not client.tier.export:
        raise Problem(
            HTTPStatus.FORBIDDEN,
            f"the tier {client.tier_name} does not include exports; JSON it does",
            code=Code.EXPORT_NOT_INCLUDED,
        )


class AccessControl:
    """The middleware around all routes."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that may be served, and refuse any other."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        rule = rule_of(scope["path"])
        headers: dict[bytes, bytes] = dict(scope["headers"])
        forwarded = headers.get(b"x-forwarded-for", b"").decode("latin-1")
        peer = scope.get("client")
        address = self._access.address(peer[0] if peer else None, forwarded)
        try:
            client = await self._identify(rule, headers, address, forwarded=bool(forwarded))
            decision = await self._access.admit(client)
            if not rule.open:
                client.require(rule.scope)
            if rule.book:
                _check_depth(scope["query_string"], client)
        except Denied as denied:
            self._access.refused(denied, address, f"{scope['method']} {scope['path']}")
            await _refuse(denied, scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["client"], state["address"] = client, address
        added = _rate_limit_headers(client.limit, decision)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
                status: int = message["status"]
                if rule.admin or status == HTTPStatus.FORBIDDEN or "exports" in state:
                    self._note(scope, client, address, status)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _note(self, scope: Scope, client: Client, address: str, status: int) -> None:
        """Write what is of interest later to the audit log: refusals, exports and administration."""
        refused = status == HTTPStatus.FORBIDDEN
        action = "request.refuse" if refused else "export" if "exports" in scope["state"] else "admin.call"
        query = scope["query_string"].decode("latin-1")
        detail = f"{scope['method']} {scope['path']}{'?' if query else ''}{query}"
        self._access.audit.note(client.who, action, str(status), address, detail)

    async def _identify(self, rule: Rule, headers: dict[bytes, bytes], address: str, *, forwarded: bool) -> Client:
        scheme, _, credential = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if not scheme and rule.open:
            return self._access.visitor(address, forwarded=forwarded)
        if scheme and scheme.lower() != "bearer":
            detail = "Authorization must be `Bearer tsk_...`, with an API key"
            raise Denied(HTTPStatus.UNAUTHORIZED, "bad_authorization", detail)
        return await self._access.client(credential.strip() if scheme else None, address, forwarded=forwarded)


def _check_depth(query: bytes, client: Client) -> None:
    depth = dict(parse_qsl(query.decode("latin-1"))).get("depth", "")
    if depth.isdecimal() and int(depth) > client.tier.depth:
        detail = f"the tier {client.tier_name} reads at most {client.tier.depth} levels a side"
        raise Denied(HTTPStatus.FORBIDDEN, "depth_limit", detail, who=client.who)


async def _refuse(denied: Denied, scope: Scope, receive: Receive, send: Send) -> None:
    response = problems.answer(Request(scope), Problem(denied.status, str(denied), code=denied.code))
    if denied.status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="tickstream"'
    if denied.wait_s:
        response.headers["Retry-After"] = str(math.ceil(denied.wait_s))
    await response(scope, receive, send)


def _rate_limit_headers(limit: Limit, decision: Decision) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    full_s = math.ceil((limit.burst - decision.left) / limit.rate)
    return (b"ratelimit-policy", _policy(limit)), (b"ratelimit", b'"requests";r=%d;t=%d' % (decision.left, full_s))


@lru_cache
def _policy(limit: Limit) -> bytes:
    return b'"requests";q=%d;w=%d' % (limit.burst, math.ceil(limit.window_s))
