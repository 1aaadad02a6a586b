"""One venue's REST interface for all lines of this process: one budget of weight, one wait when the venue says later.

Theory of operation.

1. Each request first takes its weight from the venue's bucket, which all lines share, since a venue counts by address.
   Where its answers say how much is used, and that is more than was counted here, the bucket follows.
   What a line asks for, and when, is the feed's own affair (`kit.requests`: one request per symbol, few at once).
2. 429, 418 (Binance's word for banned), 408, 5xx, a broken connection and a time-out are tried again, at most
   `TRIES_MAX` times, after a full-jitter backoff. `Retry-After` (seconds or an HTTP date, RFC 9110) makes every line
   wait, and a wait is no try.
3. Any other answer than a good one is final for this request: whoever still needs it asks again.
"""

from __future__ import annotations

import asyncio
import random
import time
from types import TracebackType
from typing import Self

import httpx
import structlog
from prometheus_client import Counter

from marketdata.feed import Fetch
from producers.history.rest import retry_after_s
from producers.venues.kit.backoff import BASE_S, Backoff
from producers.venues.kit.budget import Bucket
from producers.venues.kit.history import Budget

TIMEOUT_S = 20.0
TRIES_MAX = 4
UNDER_WAY_MAX = 4

_LIMITED = frozenset({418, 429})
_AGAIN = _LIMITED | {408, 425}

_LOG = structlog.get_logger()
_FAILURES = Counter("tickstream_fetch_failures_total", "REST requests that failed.", ["venue", "purpose"])
_WAITED = Counter("tickstream_fetch_waited_seconds_total", "Time that REST requests waited.", ["venue", "cause"])


class Rest:
    """An async context manager that may be entered by several lines; the last one to leave closes it."""

    def __init__(self, venue: str, url: str, budget: Budget | None = None, *, backoff_base_s: float = BASE_S) -> None:
        self.url = url
        self._venue = venue
        self._bucket = None if budget is None else Bucket(budget)
        self._backoff_base_s = backoff_base_s
        self._not_before_s = 0.0
        self._places = asyncio.Semaphore(UNDER_WAY_MAX)
        self._client: httpx.AsyncClient | None = None
        self._users = 0

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._client is None:
            self._client = httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S, follow_redirects=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if not self._users and self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def get(self, request: Fetch) -> bytes | None:
        """Return the answer's body, None when the venue gives none after as many tries as are allowed."""
        pauses = Backoff(self._backoff_base_s)
        tries = 0
        while tries < TRIES_MAX:
            await self._turn(request)
            wait_s = 0.0
            try:
                async with self._places:
                    assert self._client is not None  # noqa: S101 - whoever asks has entered
                    answer = await self._client.get("/" + request.path.lstrip("/"))
            except httpx.HTTPError as error:
                reason, status = str(error) or repr(error), 0
            else:
                if self._bucket is not None:
                    self._bucket.answered(answer.headers, time.monotonic(), time.time())
                if answer.is_success:
                    return answer.content
                status, reason = answer.status_code, f"status {answer.status_code}"
                wait_s = retry_after_s(answer.headers.get("Retry-After", ""), time.time())
            _FAILURES.labels(self._venue, request.purpose).inc()
            _LOG.warning("no answer", venue=self._venue, path=request.path, reason=reason, wait_s=wait_s)
            if status and status not in _AGAIN and status < httpx.codes.INTERNAL_SERVER_ERROR:
                return None
            tries += not wait_s
            pause_s = wait_s or pauses.failed(random.random())  # noqa: S311 - jitter is no secret
            if wait_s or status in _LIMITED:
                self._not_before_s = max(self._not_before_s, time.monotonic() + pause_s)
            else:
                await asyncio.sleep(pause_s)
        return None

    async def _turn(self, request: Fetch) -> None:
        """Wait until this weight may be spent, and as long as the venue said."""
        wait_s = 0.0 if self._bucket is None else self._bucket.take(request.weight, time.monotonic())
        if wait_s > 0:
            _WAITED.labels(self._venue, "budget").inc(wait_s)
            await asyncio.sleep(wait_s)
        while (wait_s := self._not_before_s - time.monotonic()) > 0:
            _WAITED.labels(self._venue, "retry_after").inc(wait_s)
            await asyncio.sleep(wait_s)
