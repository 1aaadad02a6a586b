"""The shell of the venues' histories: requests an adapter's pages over REST and returns their contents.

Theory of operation.

1. One `Rest` per venue and process, for any number of symbols at once: its requests go through one `producers.rest`
   client, which knows budget, retries, limits and errors.
2. Pages are requested one after the other until there is no next cursor. What a page repeats of the one before is left
   out; rows outside of the range are left out; a cursor that does not change is BadEvent.
3. Candles that end less than `settle_ns` ago are not requested: the venue may not have finished them.
4. An item that cannot be read, or a trade that no candle may be built from, is left out of its page: `Chunk.refused`
   has it with its reason, and `Chunk.missing` the time between its neighbours.

Errors: those of `producers.rest`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import msgspec
import structlog
from prometheus_client import Counter

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import Candle, Instrument, Trade, Trades
from marketdata.intervals import INTERVALS
from producers import rest
from producers.venues.kit.history import (
    Asked,
    Chunk,
    History,
    Page,
    RefusedItem,
    Request,
    RestBook,
    RestBooks,
    TradeHistory,
)
from producers.venues.kit.reading import check_time, sift, trade_span
from producers.venues.kit.trades import check as check_trade

T = TypeVar("T")

# One record of Kafka holds a batch: 1,000 trades are some 60 kB.
TRADES_A_BATCH = 1_000

_LOG = structlog.get_logger()
_ROWS = Counter("tickstream_history_rows_total", "Rows of history returned.", ["venue", "kind"])
_REFUSED = Counter("tickstream_history_refused_total", "Items of history that were left out.", ["venue", "reason"])


class Options(rest.Options, frozen=True, kw_only=True):
    """How patient the shell is; tests make everything quicker."""

    pages_max: int = 1_000_000
    settle_ns: int = 10 * SECOND_NS


class Rest:
    """One venue's history. An async context manager; safe to use from several tasks of one event loop."""

    def __init__(self, history: History, options: Options | None = None) -> None:
        self.history = history
        self._options = options or Options()
        self._client = rest.Client(
            history.venue, history.rest_url, history.budget, headers=history.headers(), options=self._options
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    # --- What callers request ---

    async def get_symbols(self) -> list[Instrument]:
        """Return what the venue trades. Raises as the module says."""
        found: list[Instrument] = []
        cursor: str | None = None
        for _ in range(self._options.pages_max):
            page, _ = await self._client.ask(self.history.symbols(cursor), partial(self.history.parse_symbols, cursor))
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
        not have, or when it has no trades of the past.
        """
        history = self.history
        if not isinstance(history, TradeHistory):
            raise BadEvent("no_trades", "venue", history.venue)
        asked = Asked(instrument=history.instrument(name), start=start, end=min(end, time.time_ns()))
        returned: set[tuple[str, str]] = set()
        async for page, ts in self._pages(asked, history.trades, partial(checked_trades, history)):
            inside = [trade for trade in page.items if asked.start <= trade.ts_event < asked.end]
            fresh = [trade for trade in inside if (trade.action, trade.trade_id) not in returned]
            # Pages overlap at their edges only: the last page that had rows is enough to remember.
            returned = {(trade.action, trade.trade_id) for trade in inside} or returned
            _ROWS.labels(history.venue, "trades").inc(len(fresh))
            yield Chunk(events=_batches(asked.instrument, fresh, ts), reached=_reached(asked, page),
                        missing=page.missing, refused=page.refused)  # fmt: skip

    async def fetch_book(self, rule: RestBooks, name: str) -> RestBook:
        """Return the book of a symbol, ours or the venue's, as it is now. Raises as the module says."""
        request = rule.request(self.history.instrument(name))
        found, _ = await self._client.ask(request, lambda body, _: rule.read(body), purpose="reconcile")
        return found

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
            page, ts = await self._client.ask(write(asked, cursor), partial(read, asked, cursor))
            for item in page.refused:
                _REFUSED.labels(self.history.venue, item.error.reason).inc()
                _LOG.warning("an item of history is left out", venue=self.history.venue, reason=str(item.error))
            yield page, ts
            if page.cursor is None:
                return
            cursor = _moved(cursor, page.cursor)
        raise BadEvent("too_many_pages", "cursor", cursor)


def checked_trades(history: TradeHistory, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
    """Read a page of trades, and leave out those that no candle may be built from. Raises BadEvent as parsers do."""
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
    """Return the time before which everything was read."""
    return max(asked.start, min(page.reached, asked.end))


def _batches(instrument: Instrument, trades: list[Trade], ts: int) -> tuple[Trades, ...]:
    parts = [tuple(trades[at : at + TRADES_A_BATCH]) for at in range(0, len(trades), TRADES_A_BATCH)]
    return tuple(
        Trades(venue=instrument.venue, symbol=instrument.symbol, ts_event=part[-1].ts_event, ts_recv=ts,
               line=f"{instrument.venue}/history", origin="backfill", trades=part)
        for part in parts
    )  # fmt: skip
