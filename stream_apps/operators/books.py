"""L2 books: md.book_updates to best levels, quotes and full checkpoints, with validity.

1. A snapshot replaces the book. A change sets absolute sizes; before the first snapshot, and between a clear and the
   next one, it is counted and left out.
2. A book is invalid while it waits for a snapshot (for the reason of the clear), while its line says so (halted), and
   while it is crossed. Equal prices (locked) are valid. A halted book may be crossed: that is an auction.
3. A quote goes out whenever the best level of a side or the validity changes. The best levels go out with a snapshot, a
   change of validity, and otherwise with the first event of each 100 ms of event time.
4. The full book goes out after each `full_updates` updates and with the first event of each `full_ns` of event time.

What goes out depends on nothing that the full book does not hold, so the full book is the checkpoint: a restart from
any one goes on with exactly the same outputs.
"""

from __future__ import annotations

from collections import Counter

from marketdata.book import L2Book, Level
from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.errors import CodecError
from marketdata.events import CROSSED, RESYNCING, AnyEvent, Book, BookUpdate, Quote

TOP_DEPTH = 50
TOP_NS = 100 * MILLISECOND_NS
FULL_UPDATES = 1_000
FULL_NS = 60 * SECOND_NS


class BookState:
    """One symbol's book. `updates` counts since the snapshot, which is the first; 0 means that there is none.

    `marked` is why the line says not to trust the book, or, without a snapshot, why there is none.
    """

    __slots__ = ("best", "book", "line", "marked", "reason", "sequence", "ts_event", "ts_recv", "updates")

    def __init__(self) -> None:
        self.book = L2Book()
        self.updates = 0
        self.marked = RESYNCING
        self.reason = RESYNCING
        self.best: tuple[Level | None, Level | None] = (None, None)
        self.line = ""
        self.sequence: int | None = None
        self.ts_event = 0
        self.ts_recv = 0


class Books:
    """The operator. `top_depth` is levels a side; `top_ns`, `full_updates` and `full_ns` say how often."""

    name = "books"
    inputs: tuple[str, ...] = ("md.book_updates",)
    outputs: tuple[str, ...] = ("md.quotes", "md.books")
    checkpoints = "md.books"

    def __init__(
        self,
        *,
        top_depth: int = TOP_DEPTH,
        top_ns: int = TOP_NS,
        full_updates: int = FULL_UPDATES,
        full_ns: int = FULL_NS,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._top_depth = top_depth
        self._top_ns = top_ns
        self._full_updates = full_updates
        self._full_ns = full_ns

    def start(self, key: str) -> BookState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return BookState()

    def step(self, state: BookState, event: AnyEvent) -> tuple[BookState, list[AnyEvent]]:
        """Return the book after a change, and what of it is to be published."""
        assert isinstance(event, BookUpdate)  # noqa: S101 - the topic's schema
        kind = event.kind
        if kind == "update" and not state.updates:
            self.counts["delta_before_snapshot"] += 1
            return state, []
        before = state.ts_event
        state.ts_event = max(before, event.ts_event)
        state.ts_recv = event.ts_recv
        state.line = event.line
        if event.sequence is not None:
            state.sequence = event.sequence
        self._apply(state, event)
        return state, self._published(state, event, before)

    @staticmethod
    def _apply(state: BookState, event: BookUpdate) -> None:
        bids, asks = state.book.bids, state.book.asks
        if event.kind == "update":
            if event.bid_prices:
                bids.apply(event.bid_prices, event.bid_sizes)
            if event.ask_prices:
                asks.apply(event.ask_prices, event.ask_sizes)
            state.updates += 1
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

    def _published(self, state: BookState, event: BookUpdate, before: int) -> list[AnyEvent]:
        out: list[AnyEvent] = []
        reason = state.marked or (CROSSED if state.book.is_crossed() else "")
        best = state.book.best()
        changed = reason != state.reason
        if changed or best != state.best:
            if reason == CROSSED and changed:
                self.counts["crossed"] += 1
            state.reason, state.best = reason, best
            out.append(_quote(state, event))
        told = changed or event.kind == "snapshot"
        if told or (state.updates and state.ts_event // self._top_ns > before // self._top_ns):
            out.append(_book(state, event, "top", self._top_depth))
        if (state.updates and event.kind == "update" and state.updates % self._full_updates == 0) or (
            before and state.ts_event // self._full_ns > before // self._full_ns
        ):
            out.append(_book(state, event, "full", 0))
        return out

    def checkpoint(self, state: BookState, key: str, positions: dict[str, int]) -> AnyEvent:  # noqa: ARG002
        """Return the full book; its positions are in the header of the record that carries it."""
        venue, _, symbol = key.partition(":")
        source = BookUpdate(
            venue=venue,
            symbol=symbol,
            ts_event=state.ts_event,
            ts_recv=state.ts_recv,
            line=state.line,
            kind="heartbeat",
        )
        return _book(state, source, "full", 0)

    def restore(self, saved: AnyEvent) -> BookState:
        """Return the state that a full book holds.

        Raises CodecError when it is none.
        """
        if not isinstance(saved, Book) or saved.kind != "full":
            raise CodecError(f"a {saved.schema} is no checkpoint of a book")
        state = BookState()
        state.book.bids.replace(saved.bid_prices, saved.bid_sizes)
        state.book.asks.replace(saved.ask_prices, saved.ask_sizes)
        state.updates = saved.updates
        state.reason = saved.reason
        state.marked = "" if saved.updates and saved.reason == CROSSED else saved.reason
        state.best = state.book.best()
        state.line, state.sequence = saved.line, saved.sequence
        state.ts_event, state.ts_recv = saved.ts_event, saved.ts_recv
        return state


def _quote(state: BookState, event: BookUpdate) -> Quote:
    bid, ask = state.best
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


def _book(state: BookState, event: BookUpdate, kind: str, depth: int) -> Book:
    bids, asks = state.book.bids.top(depth or None), state.book.asks.top(depth or None)
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
        kind=kind,
        depth=depth,
        updates=state.updates,
        bid_prices=[price for price, _ in bids],
        bid_sizes=[size for _, size in bids],
        ask_prices=[price for price, _ in asks],
        ask_sizes=[size for _, size in asks],
    )
