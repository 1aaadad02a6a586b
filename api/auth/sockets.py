"""Admits WebSockets before their upgrade, and ends those whose token expires or whose key is revoked.

The token comes as `?token=`, as `Authorization: Bearer`, or as an entry `bearer.<token>` of Sec-WebSocket-Protocol,
which is the only header that a browser lets a page set. Everything here is synchronous: a token is verified without the
database. Close codes 4000 to 4999 are free for private use (RFC 6455, 7.4.2,
https://www.rfc-editor.org/rfc/rfc6455#section-7.4.2).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qs

import orjson

from api.auth.access import Access, Denied, now
from api.auth.admission import Refusal
from api.auth.tiers import Tier
from api.auth.tokens import TokenRefused

CLOSE_TOKEN_EXPIRED = 4001
CLOSE_KEY_REVOKED = 4003

_BEARER_PROTOCOL = "bearer."
_FIELDS_MAX = 20
_CLOSE = Callable[[int, str], None]


class Headers(Protocol):
    """The headers of an upgrade request; names in any case."""

    def get(self, key: str, default: str = ...) -> str:
        """Return the first value of a header."""


class Admission:
    """What one socket may use; the gateway reports when it opens and closes."""

    def __init__(
        self, sockets: Sockets, bucket: str, tier: Tier, prefix: str | None, expires_at: datetime | None
    ) -> None:
        self.subscriptions_max = tier.subscriptions
        self.depth_max = tier.depth
        self.subprotocol: str | None = None
        self.bucket = bucket
        self.prefix = prefix
        self.close: _CLOSE | None = None
        self._sockets = sockets
        self._expires_at = expires_at
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, close: _CLOSE) -> None:
        """Note that the socket is open, and how to close it."""
        self.close = close
        self._sockets.add(self)
        if self._expires_at is not None:
            seconds = max(0.0, (self._expires_at - now()).total_seconds())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, close, CLOSE_TOKEN_EXPIRED, "token_expired")

    def closed(self) -> None:
        """Note that the socket is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.close is not None:
            self.close = None
            self._sockets.remove(self)


class Sockets:
    """The open sockets of this process, by client."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._open: dict[Admission, None] = {}
        self._of_bucket: Counter[str] = Counter()
        access.on_revoked = self.revoked

    def admit(self, target: str, headers: Headers, peer: str | None) -> Admission | Refusal:
        """Return what the sender of an upgrade may use, or the answer that refuses it."""
        forwarded = headers.get("X-Forwarded-For", "")
        address = self._access.address(peer, forwarded)
        try:
            return self._admit(target, headers, address, forwarded=bool(forwarded))
        except Denied as denied:
            self._access.refused(denied, address, "GET /ws")
            return _refusal(denied)

    def add(self, admission: Admission) -> None:
        """Count a socket that opened."""
        self._open[admission] = None
        self._of_bucket[admission.bucket] += 1

    def remove(self, admission: Admission) -> None:
        """Count a socket that closed."""
        self._open.pop(admission, None)
        self._of_bucket[admission.bucket] -= 1
        if self._of_bucket[admission.bucket] <= 0:
            del self._of_bucket[admission.bucket]

    def revoked(self, prefix: str) -> None:
        """Close the sockets of a key."""
        for admission in [each for each in self._open if each.prefix == prefix]:
            if admission.close is not None:
                admission.close(CLOSE_KEY_REVOKED, "key_revoked")

    def _admit(self, target: str, headers: Headers, address: str, *, forwarded: bool) -> Admission:
        token, subprotocol = _token(target, headers)
        if token is None:
            client = self._access.without_key(address, forwarded=forwarded)
            admission = Admission(self, client.bucket, client.tier, None, None)
            tier_name, tier, who = client.tier_name, client.tier, client.who
        elif token.startswith("tsk_"):
            detail = "a socket takes a token, not the API key itself; POST /api/v1/tokens issues one"
            raise Denied(HTTPStatus.UNAUTHORIZED, "token_required", detail)
        elif not self._access.signing_keys:
            detail = "the database with the signing keys does not answer; try again in a moment"
            raise Denied(HTTPStatus.SERVICE_UNAVAILABLE, "tokens_unavailable", detail, wait_s=2.0)
        else:
            try:
                grant = self._access.verify(token)
            except TokenRefused as refused:
                raise Denied(HTTPStatus.UNAUTHORIZED, "token_refused", str(refused)) from None
            who = f"key:{grant.prefix}"
            if "stream" not in grant.scopes:
                raise Denied(
                    HTTPStatus.FORBIDDEN, "scope_missing", "a socket needs a key with the scope stream", who=who
                )
            tier_name, tier = self._access.tier_of(grant.tier)
            admission = Admission(self, who, tier, grant.prefix, grant.expires_at)
        admission.subprotocol = subprotocol
        if self._of_bucket[admission.bucket] >= tier.sockets:
            detail = f"the tier {tier_name} allows {tier.sockets} open sockets"
            raise Denied(HTTPStatus.TOO_MANY_REQUESTS, "too_many_sockets", detail, wait_s=5.0, who=who)
        return admission


def _token(target: str, headers: Headers) -> tuple[str | None, str | None]:
    """Return the token of an upgrade request, and the subprotocol to answer with when it came as one."""
    offered = [each.strip() for each in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    for entry in offered:
        if entry.startswith(_BEARER_PROTOCOL):
            # A browser closes a socket whose server chose none of its subprotocols.
            return entry.removeprefix(_BEARER_PROTOCOL), next((each for each in offered if each != entry), entry)
    scheme, _, credential = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credential.strip(), None
    try:
        given = parse_qs(target.partition("?")[2], keep_blank_values=True, max_num_fields=_FIELDS_MAX).get("token")
    except ValueError:
        raise Denied(HTTPStatus.BAD_REQUEST, "bad_request", f"at most {_FIELDS_MAX} parameters") from None
    return (given[0], None) if given else (None, None)


def _refusal(denied: Denied) -> Refusal:
    body = {
        "type": "about:blank",
        "title": denied.status.phrase,
        "status": denied.status.value,
        "detail": str(denied),
        "instance": "/ws",
        "code": denied.code,
    }
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    if denied.status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if denied.wait_s:
        headers["Retry-After"] = str(math.ceil(denied.wait_s))
    return Refusal(denied.status.value, orjson.dumps(body), headers)
