"""L2 books: turns book updates into best levels and quotes, with validity.

1. A snapshot replaces the book. An update sets absolute sizes; before the first snapshot, and between a clear and the
   next snapshot, it is counted and dropped.
2. A book is invalid while it waits for a snapshot (with the reason of the clear), while its line is invalid (halted),
   and while it is crossed. Equal prices (locked) are valid. A halted book may be crossed: that is an auction.
3. A quote is published whenever a best level or the validity changes. The best levels are published with a snapshot,
   with a change of validity, and otherwise with the first event of each 100 ms of event time.
4. Metrics are published at a cadence of event time and with a change of validity (see `metrics`).

The state holds the full book. The pipeline checkpoints it; it is not published.
"""

from __future__ import annotations

from collections import Counter

from marketdata.book import L2Book
from marketdata.book_state import OPERATOR, BooksState
from marketdata.clock import MILLISECOND_NS
from marketdata.events import CROSSED, RESYNCING, AnyEvent, Book, BookUpdate, Quote
from stream_apps.operators import metrics
from stream_apps.operators.metrics import MetricsSettings

TOP_DEPTH = 50
TOP_NS = 100 * MILLISECOND_NS


class Books:
    """The operator. `top_depth` is levels per side, `top_ns` the publishing interval of best levels in event time.

    `settings` are those of the metrics.
    """

    name = OPERATOR
    input = "md.book_updates"
    outputs: tuple[str, ...] = ("md.quotes", "md.books", "md.metrics")
    state = BooksState

    def __init__(
        self, *, top_depth: int = TOP_DEPTH, top_ns: int = TOP_NS, settings: MetricsSettings | None = None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._metrics = settings or MetricsSettings()
        self._top_depth = top_depth
        self._top_ns = top_ns

    def start(self, key: str) -> BooksState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return BooksState(book=L2Book())

    def step(self, state: BooksState, event: AnyEvent) -> tuple[BooksState, list[AnyEvent]]:
        """Return the book after an update, and the events to publish."""
        assert isinstance(event, BookUpdate)  # noqa: S101 - the topic's schema
        kind = event.kind
        if kind == "update" and not state.updates:
            self.counts["delta_before_snapshot"] += 1
            return state, []
        before = state.ts_event
        state.ts_event = max(before, event.ts_event)
        out: list[AnyEvent] = []
        if state.ts_event >= state.metrics.due:
            found = metrics.passed(state, event, self._metrics)
            if found is not None:
                out.append(found)
        state.ts_recv, state.line = event.ts_recv, event.line
        if event.sequence is not None:
            state.sequence = event.sequence
        self._apply(state, event)
        self._publish(state, event, before, out)
        return state, out

    @staticmethod
    def _apply(state: BooksState, event: BookUpdate) -> None:
        bids, asks = state.book.bids, state.book.asks
        if event.kind == "update":
            if event.bid_prices:
                bids.apply(event.bid_prices, event.bid_sizes)
            if event.ask_prices:
                asks.apply(event.ask_prices, event.ask_sizes)
            state.updates += 1
            state.metrics.changes += len(event.bid_prices) + len(event.ask_prices)
        elif event.kind == "snapshot":
            bids.replace(event.bid_prices, event.bid_sizes)
            asks.replace(event.ask_prices, event.ask_sizes)
            state.updates = 1
        elif event.kind == "clear":
            state.book.clear()
            state.updates = 0
        if state.updates:
            state.marked = "" if event.valid else event.reason or RESYNCING
        elif event.kind == "clear":
            state.marked = event.reason or RESYNCING

    def _publish(self, state: BooksState, event: BookUpdate, before: int, out: list[AnyEvent]) -> None:
        reason = state.marked or (CROSSED if state.book.is_crossed() else "")
        bid, ask = state.book.best()
        changed = reason != state.reason
        if changed or bid != state.bid or ask != state.ask:
            if reason == CROSSED and changed:
                self.counts["crossed"] += 1
            if not (changed or reason):
                metrics.add_flow(state.metrics, (state.bid, state.ask), bid, ask)
            state.reason, state.bid, state.ask = reason, bid, ask
            out.append(_quote(state, event))
        due = changed or event.kind == "snapshot"
        if due or (state.updates and state.ts_event // self._top_ns > before // self._top_ns):
            out.append(_top(state, event, self._top_depth))
        if changed:
            out.append(metrics.changed(state, event, self._metrics))


def _quote(state: BooksState, event: BookUpdate) -> Quote:
    bid, ask = state.bid, state.ask
    return Quote(
        venue=event.venue,
        symbol=event.symbol,
        ts_event=state.ts_event,
        ts_recv=event.ts_recv,
        line=event.line,
        sequence=state.sequence,
        origin=event.origin,
        valid=not state.reason,
        reason=state.reason,
        source="book",
        bid=bid and bid[0],
        bid_size=bid and bid[1],
        ask=ask and ask[0],
        ask_size=ask and ask[1],
    )


def _top(state: BooksState, event: BookUpdate, depth: int) -> Book:
    bids, asks = state.book.bids.top(depth), state.book.asks.top(depth)
    return Book(
        venue=event.venue,
        symbol=event.symbol,
        ts_event=state.ts_event,
        ts_recv=event.ts_recv,
        line=event.line,
        sequence=state.sequence,
        origin=event.origin,
        valid=not state.reason,
        reason=state.reason,
        depth=depth,
        updates=state.updates,
        bid_prices=[price for price, _ in bids],
        bid_sizes=[size for _, size in bids],
        ask_prices=[price for price, _ in asks],
        ask_sizes=[size for _, size in asks],
    )
