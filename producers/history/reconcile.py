"""Compares what we have with the venue's own data over REST: one score per symbol and hour.

Theory of operation.

1. Of each full hour, once it is `SETTLED_NS` old, the venue's minute candles are compared with ours, field by field, as
   decimals. A minute of ours that is not valid is not counted: it is on the ledger already. Nor are fields that the
   venue does not send, and a minute that the venue leaves out and that had no trades here.
2. Of each hour, the trades of one span of `TRADES_NS` are compared by id, where the venue's history has trades: those
   that only the venue has, and those that only we have.
3. Once an hour the published book is compared with the REST book at the same number or time (`reconcile_books`).
4. The result is a status `reconciled` of the symbol, with `equal` or `different` as its reason and the figures in its
   detail, and the metric `tickstream_reconciliation_ratio`: the share that is equal, by what was compared. What could
   not be compared has its reason in the detail.

Requests count towards the venue's REST budget like all others, four or five a symbol and hour.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from decimal import Decimal

from prometheus_client import Counter, Gauge

from marketdata.clock import MINUTE_NS, format_rfc3339
from marketdata.events import HALTED, Candle, FeedStatus, Trade
from producers.history.backfill import publish
from producers.history.candles import Stored
from producers.history.jobs import Database
from producers.history.queries import Tables
from producers.history.reconcile_books import BookReconciliation
from producers.history.rest import Rest
from producers.history.score import EXAMPLES_MAX, Score
from producers.live.publisher import Publisher
from producers.venues.kit.history import TradeHistory

HOUR_NS = 60 * MINUTE_NS
# Late trades and the sink need a moment, and venues revise their newest candles.
SETTLED_NS = 5 * MINUTE_NS
TRADES_NS = 10 * MINUTE_NS

FIELDS = ("open", "high", "low", "close", "volume")

_RATIO = Gauge(
    "tickstream_reconciliation_ratio", "Share of the last hour, or of the book, that equals the venue's own data.",
    ["venue", "symbol", "what"],
)  # fmt: skip
_DIFFERENT = Counter(
    "tickstream_reconciliation_differences_total", "Candles, trades and book levels that differ from the venue's own.",
    ["venue", "what"],
)  # fmt: skip


def compare_candles(ours: Iterable[Stored], theirs: Iterable[Candle]) -> Score:
    """Compare the valid final minutes of one symbol with the venue's own; pure."""
    venue = {candle.start: candle for candle in theirs}
    compared = equal = 0
    examples: list[str] = []
    for stored in sorted(ours, key=lambda one: one.start_ns):
        if not stored.valid or stored.reason == HALTED or stored.state == "open":
            continue
        candle = venue.get(stored.start_ns)
        if candle is None and stored.open is None:
            continue  # nothing traded, and the venue sends no candle then
        compared += 1
        differences = list(_differences(stored, candle))
        equal += not differences
        if differences and len(examples) < EXAMPLES_MAX:
            examples.append(f"{format_rfc3339(stored.start_ns)[:16]}: {', '.join(differences)}")
    return Score("candles", compared, equal, tuple(examples))


def _differences(stored: Stored, candle: Candle | None) -> Iterator[str]:
    if candle is None:
        yield "the venue has none"
        return
    for field in FIELDS:
        own, sent = getattr(stored, field), getattr(candle, field)
        if sent is not None and (own is None or Decimal(own) != Decimal(sent)):
            yield f"{field} {own} here, {sent} there"


def compare_trades(ours: set[str], theirs: Iterable[Trade]) -> Score:
    """Compare the ids of the new trades of a span; pure."""
    sent = {trade.trade_id for trade in theirs if trade.action == "new"}
    both = ours & sent
    examples = [f"{identity} only there" for identity in sorted(sent - ours)[:EXAMPLES_MAX]]
    examples += [f"{identity} only here" for identity in sorted(ours - sent)[:EXAMPLES_MAX]]
    return Score("trades", len(ours | sent), len(both), tuple(examples))


class Reconciliation:
    """Compares full hours of one venue, and its books if `books` is given.

    `done` are the symbols and hours that were compared in this process.
    """

    def __init__(
        self, rest: Rest, database: Database, publisher: Publisher, done: set[tuple[str, int]],
        books: BookReconciliation | None = None,
    ) -> None:  # fmt: skip
        self.venue = rest.history.venue
        self._books = books
        self._rest = rest
        self._tables = Tables(database)
        self._publisher = publisher
        self._done = done

    async def last_hour(self, symbols: Iterable[str], now: int | None = None) -> dict[str, list[Score]]:
        """Compare the newest full hour of each symbol that was not compared yet, and its book of now.

        Returns the scores by symbol, and nothing of a symbol of which nothing was there to compare.

        Raises as `Rest` does, and Unavailable when the database or Kafka does not respond.
        """
        now = time.time_ns() if now is None else now
        start = (now - SETTLED_NS) // HOUR_NS * HOUR_NS - HOUR_NS
        due = [symbol for symbol in symbols if (symbol, start) not in self._done]
        books = await self._books.compare(due) if self._books is not None else {}
        found: dict[str, list[Score]] = {}
        for symbol in due:
            scores = [await self._candles(symbol, start)]
            if isinstance(self._rest.history, TradeHistory):
                scores.append(await self._trades(symbol, start))
            if symbol in books:
                scores.append(books[symbol])
            self._done.add((symbol, start))
            if any(score.compared for score in scores):
                await self._publish(symbol, start, scores)
            if any(score.compared or score.reason for score in scores):
                found[symbol] = scores
        self._done -= {one for one in self._done if one[1] < start}
        return found

    async def _candles(self, symbol: str, start: int) -> Score:
        ours = await self._tables.candles(self.venue, symbol, start, start + HOUR_NS, "1m")
        if not ours or "1m" not in self._rest.history.intervals:
            return Score("candles", 0, 0)
        theirs = [
            candle
            async for chunk in self._rest.fetch_candles(symbol, "1m", start, start + HOUR_NS)
            for candle in chunk.events
        ]
        return compare_candles(ours.values(), theirs)

    async def _trades(self, symbol: str, start: int) -> Score:
        end = start + TRADES_NS
        if await self._tables.good_minutes(self.venue, symbol, start, end) < TRADES_NS // MINUTE_NS:
            return Score("trades", 0, 0)  # what is missing is on the ledger
        ours = await self._tables.ids_of(self.venue, symbol, start, end)
        theirs: list[Trade] = []
        async for chunk in self._rest.fetch_trades(symbol, start, end):
            theirs += [trade for event in chunk.events for trade in event.trades]
            if chunk.missing:
                return Score("trades", 0, 0)  # the venue no longer has them
        return compare_trades(ours, theirs)

    async def _publish(self, symbol: str, start: int, scores: list[Score]) -> None:
        now = time.time_ns()
        same = all(score.equal == score.compared for score in scores)
        for score in scores:
            _DIFFERENT.labels(self.venue, score.what).inc(score.compared - score.equal)
            if score.ratio is not None:
                _RATIO.labels(self.venue, symbol, score.what).set(score.ratio)
        detail = "; ".join(str(score) for score in scores if score.compared or score.reason)[:1_000]
        status = FeedStatus(
            venue=self.venue, symbol=symbol, ts_event=now, ts_recv=now, line=f"{self.venue}/reconcile",
            kind="reconciled", reason="equal" if same else "different", detail=detail, ts_from=start,
            ts_to=start + HOUR_NS,
        )  # fmt: skip
        await publish(self._publisher, status.line, [status])
