"""One venue's REST interface for all tasks of a process: one budget of weight, one wait when the venue says later.

Theory of operation.

1. Each request first takes its weight from the venue's token bucket, which all tasks share, since a venue counts by
   address. The bucket follows what answers say is left.
2. 429, 418 (Binance's status for banned), 408, 425, 5xx, a broken connection and a time-out are tried again, at most
   `tries_max` times, after a full-jitter backoff and never before what `Retry-After` says (seconds or an HTTP date,
   RFC 9110). Where the venue limits us that wait holds for every request. One of more than `retry_after_s_max` is not
   waited for: Unavailable.
3. Any other 4xx is final: Refused. So is a redirect, which no venue documents.
4. An answer of more than `bytes_max` is dropped while it is read: BadEvent.
5. `read` may raise Unavailable, where a venue says "later" in the body of a good answer: that is tried again as well.

Errors: Unavailable (try again later), Refused (the request is wrong, or the key), BadEvent (the answer is).
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec
import structlog
from prometheus_client import Counter

from marketdata.errors import BadEvent, Refused, TickstreamError, Unavailable
from marketdata.feed import Fetch
from producers.venues.kit.backoff import Backoff
from producers.venues.kit.budget import Bucket
from producers.venues.kit.history import Budget, Request

T = TypeVar("T")

CONNECTIONS_MAX = 4
DETAIL_CHARS = 200
_LIMITED = frozenset({418, 429})
_AGAIN = _LIMITED | {408, 425}

_LOG = structlog.get_logger()
_REQUESTS = Counter("tickstream_rest_requests_total", "REST requests, by outcome.", ["venue", "purpose", "outcome"])
_WAITED = Counter("tickstream_rest_waited_seconds_total", "Time that REST requests waited.", ["venue", "cause"])


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a client is; tests make everything quicker."""

    tries_max: int = 6
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 60.0
    timeout_s: float = 30.0
    retry_after_s_max: float = 300.0
    bytes_max: int = 64 * 1024 * 1024


class _Later(Exception):  # noqa: N818 - as in marketdata.errors
    """This try failed, another may not; `wait_s` is the least to wait before it, for everybody if `is_limited`."""

    def __init__(self, detail: str, wait_s: float = 0.0, *, outcome: str = "failed", is_limited: bool = False) -> None:
        self.outcome = outcome
        self.wait_s = wait_s
        self.is_limited = is_limited
        super().__init__(detail)


class Client:
    """An async context manager that several tasks of one event loop may enter; the last one to leave closes it.

    `url` is the address that requests' paths are below; `budget` None is no limit.
    """

    def __init__(
        self, venue: str, url: str, budget: Budget | None = None, *, headers: Mapping[str, str] | None = None,
        options: Options | None = None,
    ) -> None:  # fmt: skip
        self.url = url
        self._venue = venue
        self._headers = dict(headers or {})
        self._options = options or Options()
        self._bucket = None if budget is None else Bucket(budget)
        self._not_before_s = 0.0
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)
        self._client: httpx.AsyncClient | None = None
        self._users = 0

    async def __aenter__(self) -> Self:
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def ask(
        self, request: Request, read: Callable[[bytes, int], T], *, purpose: str = "history"
    ) -> tuple[T, int]:
        """Return what `read` makes of the answer's body and our time of it (UTC ns), and that time.

        It takes as many tries as it needs and are allowed. Raises as the module says, and what `read` raises.
        """
        pauses = Backoff(self._options.backoff_base_s, self._options.backoff_cap_s)
        for tries in range(1, self._options.tries_max + 1):
            try:
                body, ts = await self._get(request)
                value = _read(read, body, ts)
            except _Later as later:
                self._count(purpose, later.outcome)
                _LOG.warning("a request is made again", venue=self._venue, path=request.path, tries=tries,
                             reason=str(later), wait_s=round(later.wait_s, 1))  # fmt: skip
                if tries == self._options.tries_max or later.wait_s > self._options.retry_after_s_max:
                    raise Unavailable(f"{self._venue} does not answer {request.path}: {later}") from later
                wait_s = max(later.wait_s, pauses.failed(random.random()))  # noqa: S311 - jitter is no secret
                await self._pause(wait_s, is_for_all=later.is_limited or bool(later.wait_s))
            except TickstreamError as error:
                self._count(purpose, "refused" if isinstance(error, Refused) else "bad_answer")
                raise
            else:
                self._count(purpose, "ok")
                return value, ts
        raise AssertionError("the last try returns or raises")

    async def get(self, request: Fetch) -> bytes | None:
        """Return the body of a feed's request, None when there is none to be had: whoever still needs it asks again."""
        asked = Request(path=request.path.lstrip("/"), weight=request.weight)
        try:
            body, _ = await self.ask(asked, lambda body, _: body, purpose=request.purpose)
        except (Unavailable, Refused, BadEvent) as error:
            _LOG.warning("no answer", venue=self._venue, path=request.path, reason=str(error))
            return None
        return body

    def _count(self, purpose: str, outcome: str) -> None:
        _REQUESTS.labels(self._venue, purpose, outcome).inc()

    async def _pause(self, wait_s: float, *, is_for_all: bool) -> None:
        if is_for_all:
            self._not_before_s = max(self._not_before_s, time.monotonic() + wait_s)
        else:
            await asyncio.sleep(wait_s)

    async def _turn(self, weight: float) -> None:
        """Wait until this weight may be spent and no pause holds."""
        wait_s = 0.0 if self._bucket is None else self._bucket.take(weight, time.monotonic())
        if wait_s > 0:
            _WAITED.labels(self._venue, "budget").inc(wait_s)
            await asyncio.sleep(wait_s)
        while (wait_s := self._not_before_s - time.monotonic()) > 0:
            _WAITED.labels(self._venue, "retry_after").inc(wait_s)
            await asyncio.sleep(wait_s)

    async def _get(self, request: Request) -> tuple[bytes, int]:
        """Make one try. Raises _Later, Refused or BadEvent."""
        await self._turn(request.weight)
        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self.url, headers=self._headers, timeout=self._options.timeout_s, verify=_tls()
            )
        try:
            async with (
                self._places,
                self._client.stream(
                    "POST" if request.form or request.body else "GET",
                    request.path,
                    params=list(request.query) or None,
                    data=dict(request.form) or None,
                    content=request.body or None,
                    headers={"Content-Type": "application/json"} if request.body else None,
                ) as response,
            ):
                if self._bucket is not None:
                    self._bucket.answered(response.headers, time.monotonic(), time.time())
                body = await self._body(request, response)
        except httpx.HTTPError as error:
            raise _Later(f"{type(error).__name__} {error}".strip(), outcome="no_answer") from error
        status = response.status_code
        if response.is_success:
            return body, time.time_ns()
        detail = f"status {status} {body[:DETAIL_CHARS].decode('utf-8', 'replace')}".strip()
        if status in _AGAIN or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            wait_s = retry_after_s(response.headers.get("Retry-After", ""), time.time())
            is_limited = status in _LIMITED
            raise _Later(detail, wait_s, outcome="limited" if is_limited else "failed", is_limited=is_limited)
        raise Refused(f"{self._venue} refuses {request.path}: {detail}")

    async def _body(self, request: Request, response: httpx.Response) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > self._options.bytes_max:
                raise BadEvent("too_big", request.path, f"more than {self._options.bytes_max} bytes")
            parts.append(part)
        return b"".join(parts)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Return the one context of this process: reading the authorities' certificates takes its time."""
    return ssl.create_default_context()


def _read(read: Callable[[bytes, int], T], body: bytes, ts: int) -> T:
    """Read an answer; some venues say "later" in the body of a good answer."""
    try:
        return read(body, ts)
    except Unavailable as error:
        raise _Later(str(error), outcome="limited", is_limited=True) from error


def retry_after_s(text: str, now_s: float) -> float:
    """Return the seconds that a `Retry-After` asks for; 0 when it is absent or says nothing that can be read."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, OverflowError):
        return 0.0
