"""The shell of the venues' histories: performs an adapter's requests over HTTP and hands out what they brought.

Theory of operation.

1. Each request first takes its weight from the venue's token bucket, which all requests of one `Rest` share: use one
   `Rest` per venue and process, for any number of symbols at once. The bucket follows what answers say is left.
2. 429, 418 (Binance's word for banned), 408, 5xx, a broken connection and a time-out are tried again, at most
   `tries_max` times, after a full-jitter backoff and never before what `Retry-After` says (seconds or an HTTP date,
   RFC 9110). That wait holds for every request of this `Rest`, since venues count by address. One of more than
   `retry_after_s_max` is not waited for: `Unavailable`.
3. Any other 4xx is final: `Refused`. So is a redirect, which no venue documents.
4. An answer of more than `bytes_max` is dropped while it is read, and refused like one that cannot be read: BadEvent.
5. Pages are asked one after the other until there is no next cursor. What a page repeats of the one before is left
   out; rows outside of the range are left out; a cursor that does not change is BadEvent.
6. Candles that end less than `settle_ns` ago are not asked for: the venue may not have finished them.
7. An item that cannot be read, or a trade that no candle may be made of, is left out of its page: `Chunk.refused` has
   it with its reason, and `Chunk.missing` the time between its neighbours.

Errors: Unavailable (try again later), Refused (the request is wrong, or the key), BadEvent (the answer is).
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec
import structlog
from prometheus_client import Counter

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent, Refused, Unavailable
from marketdata.events import Candle, Instrument, Trade, Trades
from marketdata.intervals import INTERVALS
from producers.venues.kit.backoff import Backoff
from producers.venues.kit.budget import Bucket
from producers.venues.kit.history import Asked, Chunk, History, Page, RefusedItem, Request
from producers.venues.kit.reading import check_time, sift, trade_span
from producers.venues.kit.trades import check as check_trade

T = TypeVar("T")

# One record of Kafka holds a batch: 1,000 trades are some 60 kB.
TRADES_A_BATCH = 1_000
DETAIL_CHARS = 200
_AGAIN = frozenset({408, 418, 425, 429})

_LOG = structlog.get_logger()
_REQUESTS = Counter("tickstream_history_requests_total", "Requests of history, by outcome.", ["venue", "outcome"])
_WAITED = Counter("tickstream_history_waited_seconds_total", "Time waited, by what for.", ["venue", "cause"])
_ROWS = Counter("tickstream_history_rows_total", "Rows of history returned.", ["venue", "kind"])
_REFUSED = Counter("tickstream_history_refused_total", "Items of history that were left out.", ["venue", "reason"])


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the shell is; tests make everything quicker."""

    tries_max: int = 6
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 60.0
    timeout_s: float = 30.0
    retry_after_s_max: float = 300.0
    bytes_max: int = 64 * 1024 * 1024
    pages_max: int = 1_000_000
    settle_ns: int = 10 * SECOND_NS


class _Answer(msgspec.Struct, frozen=True):
    body: bytes
    ts: int


class _Later(Exception):  # noqa: N818 - as in marketdata.errors
    """This try failed, another may not; `wait_s` is the least to wait before it."""

    def __init__(self, outcome: str, detail: str, wait_s: float = 0.0) -> None:
        self.outcome = outcome
        self.wait_s = wait_s
        super().__init__(detail)


class Rest:
    """One venue's history. An async context manager; safe to use from several tasks of one event loop."""

    def __init__(self, history: History, options: Options | None = None) -> None:
        self.history = history
        self._options = options or Options()
        self._bucket = Bucket(history.budget)
        self._not_before_s = 0.0
        self._client = httpx.AsyncClient(
            base_url=history.rest_url,
            headers=dict(history.headers()),
            timeout=self._options.timeout_s,
            verify=_tls(),
            limits=httpx.Limits(max_connections=4),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    # --- What callers ask for ---

    async def get_symbols(self) -> list[Instrument]:
        """Return what the venue trades. Raises as the module says."""
        found: list[Instrument] = []
        cursor: str | None = None
        for _ in range(self._options.pages_max):
            page, _ = await self._ask(self.history.symbols(cursor), partial(self.history.parse_symbols, cursor))
            found += page.items
            if page.cursor is None:
                break
            cursor = _moved(cursor, page.cursor)
        return found

    async def fetch_candles(self, name: str, interval: str, start: int, end: int) -> AsyncIterator[Chunk[Candle]]:
        """Yield the final candles in [start, end), oldest first, each once; a range inside one interval has none.

        `name` is our symbol or the venue's. Raises as the module says, and BadEvent for a symbol or an interval that
        the venue does not have.
        """
        length = INTERVALS.get(interval)
        if length is None or interval not in self.history.intervals:
            raise BadEvent("bad_interval", "interval", interval)
        settled = time.time_ns() - self._options.settle_ns
        asked = Asked(instrument=self.history.instrument(name), interval=interval,
                      start=-(-start // length) * length, end=min(end, settled) // length * length)  # fmt: skip
        last = asked.start - 1
        async for page, _ in self._pages(asked, self.history.candles, self.history.parse_candles):
            events = []
            for candle in page.items:
                if last < candle.start < asked.end:
                    events.append(candle)
                    last = candle.start
            _ROWS.labels(self.history.venue, "candles").inc(len(events))
            yield Chunk(events=tuple(events), reached=_reached(asked, page), missing=page.missing, refused=page.refused)

    async def fetch_trades(self, name: str, start: int, end: int) -> AsyncIterator[Chunk[Trades]]:
        """Yield the trades in [start, end), oldest first, each once, at most `TRADES_A_BATCH` an event.

        `name` is our symbol or the venue's. Raises as the module says, and BadEvent for a symbol that the venue does
        not have, or when it tells no trades (`has_trades`).
        """
        if not self.history.has_trades:
            raise BadEvent("no_trades", "venue", self.history.venue)
        asked = Asked(instrument=self.history.instrument(name), start=start, end=min(end, time.time_ns()))
        told: set[tuple[str, str]] = set()
        async for page, ts in self._pages(asked, self.history.trades, partial(checked_trades, self.history)):
            inside = [trade for trade in page.items if asked.start <= trade.ts_event < asked.end]
            fresh = [trade for trade in inside if (trade.action, trade.trade_id) not in told]
            # Pages overlap at their edges only: what the last page that had rows told is enough to remember.
            told = {(trade.action, trade.trade_id) for trade in inside} or told
            _ROWS.labels(self.history.venue, "trades").inc(len(fresh))
            yield Chunk(events=_batches(asked.instrument, fresh, ts), reached=_reached(asked, page),
                        missing=page.missing, refused=page.refused)  # fmt: skip

    # --- Pages ---

    async def _pages(
        self,
        asked: Asked,
        write: Callable[[Asked, str | None], Request],
        read: Callable[[Asked, str | None, bytes, int], Page[T]],
    ) -> AsyncIterator[tuple[Page[T], int]]:
        cursor: str | None = None
        if asked.start >= asked.end:
            return
        for _ in range(self._options.pages_max):
            page, ts = await self._ask(write(asked, cursor), partial(read, asked, cursor))
            for item in page.refused:
                _REFUSED.labels(self.history.venue, item.error.reason).inc()
                _LOG.warning("an item of history is left out", venue=self.history.venue, reason=str(item.error))
            yield page, ts
            if page.cursor is None:
                return
            cursor = _moved(cursor, page.cursor)
        raise BadEvent("too_many_pages", "cursor", cursor)

    async def _ask(self, request: Request, read: Callable[[bytes, int], Page[T]]) -> tuple[Page[T], int]:
        """Return what an answer holds and when it came, after as many tries as it takes and are allowed."""
        venue = self.history.venue
        pauses = Backoff(self._options.backoff_base_s, self._options.backoff_cap_s)
        for tries in range(1, self._options.tries_max + 1):
            try:
                answer = await self._get(request)
                page = _read(read, answer)
            except _Later as later:
                _REQUESTS.labels(venue, later.outcome).inc()
                _LOG.warning("history is asked again", venue=venue, path=request.path, tries=tries, reason=str(later))
                if tries == self._options.tries_max or later.wait_s > self._options.retry_after_s_max:
                    raise Unavailable(f"{venue} does not answer {request.path}: {later}") from later
                self._pause(max(later.wait_s, pauses.failed(random.random())))  # noqa: S311 - jitter is no secret
            except (Refused, BadEvent) as error:
                _REQUESTS.labels(venue, "refused" if isinstance(error, Refused) else "bad_answer").inc()
                raise
            else:
                _REQUESTS.labels(venue, "ok").inc()
                return page, answer.ts
        raise AssertionError("the last try returns or raises")

    def _pause(self, wait_s: float) -> None:
        self._not_before_s = max(self._not_before_s, time.monotonic() + wait_s)

    async def _turn(self, weight: float) -> None:
        """Wait until this weight may be spent and no pause holds."""
        wait_s = self._bucket.take(weight, time.monotonic())
        if wait_s > 0:
            _WAITED.labels(self.history.venue, "budget").inc(wait_s)
            await asyncio.sleep(wait_s)
        while (wait_s := self._not_before_s - time.monotonic()) > 0:
            _WAITED.labels(self.history.venue, "retry").inc(wait_s)
            await asyncio.sleep(wait_s)

    async def _get(self, request: Request) -> _Answer:
        """Make one try. Raises _Later, Refused or BadEvent."""
        await self._turn(request.weight)
        try:
            async with self._client.stream(
                "POST" if request.form else "GET",
                request.path,
                params=list(request.query),
                data=dict(request.form) or None,
            ) as response:
                self._bucket.answered(response.headers, time.monotonic(), time.time())
                body = await self._body(request, response)
        except httpx.HTTPError as error:
            raise _Later("no_answer", f"{type(error).__name__} {error}".strip()) from error
        status = response.status_code
        if response.is_success:
            return _Answer(body, time.time_ns())
        detail = f"status {status} {body[:DETAIL_CHARS].decode('utf-8', 'replace')}".strip()
        if status in _AGAIN or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            outcome = "limited" if status in {418, 429} else "failed"
            raise _Later(outcome, detail, retry_after_s(response.headers.get("Retry-After", ""), time.time()))
        raise Refused(f"{self.history.venue} refuses {request.path}: {detail}")

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


def _read(read: Callable[[bytes, int], Page[T]], answer: _Answer) -> Page[T]:
    """Read an answer; some venues say "later" in the body of a good answer."""
    try:
        return read(answer.body, answer.ts)
    except Unavailable as error:
        raise _Later("limited", str(error)) from error


def checked_trades(history: History, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
    """Read a page of trades, and leave out those that no candle may be made of. Raises BadEvent as parsers do."""
    page = history.parse_trades(asked, cursor, body, ts)
    checked = [_checked(asked.instrument, trade, ts) for trade in page.items]
    if not any(isinstance(one, RefusedItem) for one in checked):
        return page
    found = sift(checked, trade_span, asked.start, asked.end)
    return msgspec.structs.replace(
        page, items=found.items, refused=page.refused + found.refused, missing=page.missing + found.missing
    )


def _checked(instrument: Instrument, trade: Trade, ts: int) -> Trade | RefusedItem:
    try:
        check_time(trade.ts_event, ts, "ts_event")
        check_trade(instrument, trade)
    except BadEvent as error:
        return RefusedItem(msgspec.json.encode(trade), error)
    return trade


def _moved(cursor: str | None, following: str) -> str:
    if following == cursor:
        raise BadEvent("stuck", "cursor", following)
    return following


def _reached(asked: Asked, page: Page[T]) -> int:
    """Return the time before which all is told."""
    return max(asked.start, min(page.reached, asked.end))


def _batches(instrument: Instrument, trades: list[Trade], ts: int) -> tuple[Trades, ...]:
    parts = [tuple(trades[at : at + TRADES_A_BATCH]) for at in range(0, len(trades), TRADES_A_BATCH)]
    return tuple(
        Trades(venue=instrument.venue, symbol=instrument.symbol, ts_event=part[-1].ts_event, ts_recv=ts,
               line=f"{instrument.venue}/history", origin="backfill", trades=part)
        for part in parts
    )  # fmt: skip


def retry_after_s(text: str, now_s: float) -> float:
    """Return the seconds that a `Retry-After` asks for; 0 when it is absent or says nothing that can be read."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, OverflowError):
        return 0.0
