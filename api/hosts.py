"""Which Host and which Origin the API answers: the guard against DNS rebinding and against foreign web pages.

A browser lets any page send requests to this machine: by a name of its own that resolves to our address (then Host is
that name), or over a WebSocket, for which there is no same-origin rule (then Origin is that page's). Sources: RFC 9110
7.4 "Rejecting Misdirected Requests" and 15.5.20 (https://www.rfc-editor.org/rfc/rfc9110), RFC 9112 3.2 "Request Target"
(https://www.rfc-editor.org/rfc/rfc9112), RFC 6455 10.2 "Origin Considerations"
(https://www.rfc-editor.org/rfc/rfc6455), and OWASP "WebSocket Security Cheat Sheet"
(https://cheatsheetseries.owasp.org/cheatsheets/WebSocket_Security_Cheat_Sheet.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

ANY_ORIGIN = "*"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_AUTHORITY = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(?::(?P<port>\d{1,5}))?")
_PORTS = {"http": "80", "https": "443"}
_SHOWN_CHARACTERS_MAX = 100


class Hosts:
    """The names that the API is reached by, and the origins whose pages may use it."""

    def __init__(self, bound: str, names: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        listening = () if bound in _EVERY_ADDRESS else (bound,)
        self._names = {_plain(name) for name in (*_LOOPBACK, *listening, *names)}
        self.origins = tuple(origin.lower().rstrip("/") for origin in origins)

    def refusal(self, hosts: Sequence[str], address: str) -> tuple[HTTPStatus, str] | None:
        """Return why a request with these Host headers is not answered, None when it is.

        `address` is the one that the client connected to; it cannot be forged by a name.
        """
        if len(hosts) != 1:
            return HTTPStatus.BAD_REQUEST, "a request must have one Host header"
        found = _AUTHORITY.fullmatch(hosts[0])
        if found is None:
            return HTTPStatus.BAD_REQUEST, "the Host header is not a host with or without a port"
        name = _plain(found["name"])
        if name in self._names or name == _plain(address):
            return None
        shown = hosts[0][:_SHOWN_CHARACTERS_MAX]
        return (
            HTTPStatus.MISDIRECTED_REQUEST,
            f"this API is not served as {shown!r}; its operator adds names by TICKSTREAM_API_HOSTS",
        )

    def trusts(self, origin: str, host: str) -> bool:
        """Return whether a page of this origin may open a WebSocket: pages of the same host may, and those allowed."""
        origin = origin.lower().rstrip("/")
        if ANY_ORIGIN in self.origins or origin in self.origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return bool(parts.netloc) and _with_port(parts.netloc, parts.scheme) == _with_port(host.lower(), parts.scheme)


class HostCheck:
    """Answers requests for a host that this API does not serve with a problem: 421, or 400 where there is no host."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http":
            names = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            # HTTP/1.0 has no Host, and no browser uses it.
            if names or scope["http_version"] != "1.0":
                refusal = self._hosts.refusal(names, (scope.get("server") or ("",))[0])
                if refusal is not None:
                    await _refuse(send, *refusal)
                    return
        await self._app(scope, receive, send)


def problem_body(status: HTTPStatus, detail: str) -> bytes:
    """Return a problem (RFC 9457) for requests that do not reach the routes."""
    return orjson.dumps({"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail})


async def _refuse(send: Send, status: HTTPStatus, detail: str) -> None:
    body = problem_body(status, detail)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _plain(name: str) -> str:
    return name.lower().strip("[]").rstrip(".")


def _with_port(authority: str, scheme: str) -> tuple[str, str]:
    found = _AUTHORITY.fullmatch(authority)
    return ("", "") if found is None else (_plain(found["name"]), found["port"] or _PORTS.get(scheme, ""))
