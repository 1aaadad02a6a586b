"""Which line's book changes go on, where several lines bring the same book.

Venues number book changes in two ways, so there are two ways to make one stream of several lines.

`connection` (the default): sequence numbers belong to a connection, and the same change cannot be told on two lines.
1. One line is the primary; what it says goes on. The others keep a shadow book each, once there is a second line.
2. When the primary's book becomes invalid, or the primary is silent while another line goes on, the line with a valid
   shadow that was heard last becomes the primary, and its shadow goes on as a snapshot. Otherwise the clear goes on.
3. While the primary is invalid, the first line to have a valid book becomes the primary.

`symbol`: sequence numbers belong to the symbol, so the first arrival of each wins.
1. A change whose number has passed is a duplicate, whichever line brought it.
2. A snapshot that a line begins with is a duplicate too when another line is valid and ahead of it.
3. A snapshot that steps back in numbers, in the middle of a line or behind what the line itself had before, is the
   venue starting anew: every other line waits for its own snapshot.
4. A clear goes on when no other line is valid: heard lately, or as far as what went on, however long ago.

A line starts invalid and becomes valid by a snapshot; changes before that are counted and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from marketdata.book import L2Book
from marketdata.clock import SECOND_NS
from marketdata.events import GAP, AnyEvent, BookUpdate, Instrument
from stream_apps.operators import checkpoint
from stream_apps.operators.dedup import LINES_MAX, SILENCE_NS_MAX
from stream_apps.operators.validate import Validator, letter

Scope = Literal["connection", "symbol"]

# Where a sequence number is the symbol's own (docs: venue rules); every other venue's is a connection's, or unknown.
SEQUENCE_SCOPES: Mapping[str, Scope] = {
    "binance_spot": "symbol",
    "binance_usdm": "symbol",
    "bybit": "symbol",
    "coinbase_exchange": "symbol",
    "okx": "symbol",
}


# A line that is silent for so long is forgotten, and with it the cost of shadow books.
FORGET_NS = 600 * SECOND_NS


class Columns(msgspec.Struct, array_like=True):
    """A shadow book in a checkpoint."""

    bid_prices: list[str]
    bid_sizes: list[str]
    ask_prices: list[str]
    ask_sizes: list[str]


class Line(msgspec.Struct):
    """What one line said: whether it has brought a book that is still whole, and why that may not be trusted."""

    ts: int
    has_book: bool = False
    reason: str = ""
    sequence: int | None = None


class Saved(msgspec.Struct):
    """What a checkpoint holds. `primary` is the line whose book went on last; `ts` and `sequence` what went on last."""

    lines: dict[str, Line] = {}
    shadows: dict[str, Columns] = {}
    primary: str = ""
    sequence: int | None = None
    ts: int = 0
    ts_recv: int = 0


class BooksState:
    """The lines of one symbol, and shadow books once there are several."""

    __slots__ = ("books", "saved")

    def __init__(self, saved: Saved) -> None:
        self.saved = saved
        self.books: dict[str, L2Book] = {}
        for name, columns in saved.shadows.items():
            book = self.books[name] = L2Book()
            book.bids.replace(columns.bid_prices, columns.bid_sizes)
            book.asks.replace(columns.ask_prices, columns.ask_sizes)
        saved.shadows = {}


def _columns(book: L2Book) -> Columns:
    bids, asks = book.bids.top(), book.asks.top()
    return Columns(
        [price for price, _ in bids],
        [size for _, size in bids],
        [price for price, _ in asks],
        [size for _, size in asks],
    )


class IngestBooks:
    """Book changes, validated, of one line at a time or each number once."""

    name = "ingest_books"
    inputs: tuple[str, ...] = ("md.ingest.books",)
    outputs: tuple[str, ...] = ("md.book_updates", "md.dead_letters")
    checkpoints = checkpoint.TOPIC

    def __init__(
        self, instruments: Mapping[str, Instrument], sequence_scopes: Mapping[str, Scope] = SEQUENCE_SCOPES
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._validator = Validator(instruments, self.counts)
        self._scopes = sequence_scopes

    def start(self, key: str) -> BooksState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return BooksState(Saved())

    def step(self, state: BooksState, event: AnyEvent) -> tuple[BooksState, list[AnyEvent]]:
        """Return the change when it goes on, a snapshot when another line takes over, and dead letters."""
        assert isinstance(event, BookUpdate)  # noqa: S101 - the topic's schema
        saved = state.saved
        saved.ts_recv = event.ts_recv
        out: list[AnyEvent] = []
        error = self._validator.book(event)
        if error is not None:
            self.counts[error.reason] += 1
            out.append(letter(event, error))
            spoilt = saved.lines.get(event.line)
            if spoilt is None or not spoilt.has_book:
                return state, out
            # Without this change every later book of the line would be wrong.
            event = BookUpdate(
                venue=event.venue,
                symbol=event.symbol,
                ts_event=spoilt.ts,
                ts_recv=event.ts_recv,
                line=event.line,
                valid=False,
                reason=GAP,
                kind="clear",
            )
        line = saved.lines.get(event.line) or self._first_seen(state, event)
        line.ts = max(line.ts, event.ts_event)
        before = line.sequence
        in_the_middle = line.has_book
        if self._is_usable(line, event):
            by_symbol = self._scopes.get(event.venue) == "symbol"
            steps_back = event.sequence is not None and before is not None and event.sequence < before
            passed = (
                self._by_symbol(state, line, event, begins=not (in_the_middle or steps_back))
                if by_symbol
                else self._primary(state, line, event)
            )
            if passed is not None:
                saved.ts = max(saved.ts, passed.ts_event)
                out.append(passed)
        return state, out

    def _first_seen(self, state: BooksState, event: BookUpdate) -> Line:
        lines = state.saved.lines
        line = lines[event.line] = Line(ts=event.ts_event)
        state.saved.primary = state.saved.primary or event.line
        if len(lines) > LINES_MAX:
            name = min((name for name in lines if name not in {event.line, state.saved.primary}), key=_heard(lines))
            self._forget(state, name)
        return line

    @staticmethod
    def _forget(state: BooksState, name: str) -> None:
        del state.saved.lines[name]
        state.books.pop(name, None)
        if len(state.saved.lines) == 1:
            state.books.clear()

    def _is_usable(self, line: Line, event: BookUpdate) -> bool:
        if event.kind == "update" and not line.has_book:
            self.counts["delta_before_snapshot"] += 1
            return False
        line.has_book = event.kind == "snapshot" or (line.has_book and event.kind != "clear")
        line.reason = "" if event.valid else event.reason or GAP
        if event.sequence is not None and line.has_book:
            line.sequence = event.sequence
        return True

    # -- sequence numbers belong to the connection

    def _primary(self, state: BooksState, line: Line, event: BookUpdate) -> BookUpdate | None:
        saved = state.saved
        self._shadow(state, event)
        leading = saved.lines[saved.primary]
        if event.line == saved.primary:
            if event.kind != "clear":
                return event
            since = event.ts_event - SILENCE_NS_MAX
            ready = [name for name in state.books if saved.lines[name].has_book and saved.lines[name].ts >= since]
            return self._take_over(state, max(ready, key=_heard(saved.lines)), event) if ready else event
        if leading.has_book and event.ts_event - leading.ts <= SILENCE_NS_MAX:
            self.counts["standby"] += 1
            return None
        if line.has_book and event.line in state.books:
            return self._take_over(state, event.line, event)
        self.counts["standby"] += 1
        return None

    @staticmethod
    def _shadow(state: BooksState, event: BookUpdate) -> None:
        if len(state.saved.lines) == 1:
            return
        if event.kind == "snapshot":
            for name, other in list(state.saved.lines.items()):
                if name not in {event.line, state.saved.primary} and event.ts_event - other.ts > FORGET_NS:
                    IngestBooks._forget(state, name)
            book = state.books[event.line] = L2Book()
            book.bids.replace(event.bid_prices, event.bid_sizes)
            book.asks.replace(event.ask_prices, event.ask_sizes)
        elif event.kind == "clear":
            state.books.pop(event.line, None)
        elif event.kind == "update" and event.line in state.books:
            book = state.books[event.line]
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)

    def _take_over(self, state: BooksState, name: str, event: BookUpdate) -> BookUpdate:
        self.counts["line_switches"] += 1
        state.saved.primary = name
        line = state.saved.lines[name]
        columns = _columns(state.books[name])
        return BookUpdate(
            venue=event.venue,
            symbol=event.symbol,
            ts_event=line.ts,
            ts_recv=event.ts_recv,
            line=name,
            sequence=line.sequence,
            valid=not line.reason,
            reason=line.reason,
            kind="snapshot",
            bid_prices=columns.bid_prices,
            bid_sizes=columns.bid_sizes,
            ask_prices=columns.ask_prices,
            ask_sizes=columns.ask_sizes,
        )

    # -- sequence numbers belong to the symbol

    def _by_symbol(self, state: BooksState, line: Line, event: BookUpdate, *, begins: bool) -> BookUpdate | None:
        """Return the event when it goes on; `begins`: a snapshot with which a line only joins what others have."""
        saved = state.saved
        kind, number, last = event.kind, event.sequence, saved.sequence
        if kind == "update":
            # What has no number cannot be told apart on two lines.
            passed = event.line == saved.primary if number is None else last is None or number > last
        elif kind == "heartbeat":
            passed = event.ts_event > saved.ts or event.line == saved.primary
        else:
            since = line.ts - SILENCE_NS_MAX
            others = [other for other in saved.lines.values() if other is not line and other.has_book]
            alive = any(other.ts >= since for other in others)
            behind = number is not None and last is not None and number <= last
            # Of a quiet symbol no line says anything for long: one that got as far as what went on has the same book.
            level = last is not None and any(other.sequence is not None and other.sequence >= last for other in others)
            passed = not (alive or level) if kind == "clear" else not (alive and behind and begins)
            if kind == "snapshot" and passed:
                saved.primary = event.line
                if behind:
                    for other in saved.lines.values():
                        if other is not line:
                            other.has_book, other.sequence = False, None
        if not passed:
            self.counts["duplicates" if kind in {"update", "snapshot"} else "standby"] += 1
            return None
        if kind == "snapshot" or (kind == "update" and number is not None):
            saved.sequence = number
        return event

    def checkpoint(self, state: BooksState, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as JSON, shadow books included."""
        shadows = {name: _columns(book) for name, book in state.books.items()}
        saved = msgspec.structs.replace(state.saved, shadows=shadows)
        return checkpoint.save(self.name, key, saved.ts_recv, positions, msgspec.json.encode(saved))

    def restore(self, saved: AnyEvent) -> BooksState:
        """Return the state that a checkpoint holds."""
        return BooksState(checkpoint.load(saved, Saved))


def _heard(lines: Mapping[str, Line]) -> Callable[[str], tuple[int, str]]:
    """Return how lines are ordered by when they were heard last, never by chance."""
    return lambda name: (lines[name].ts, name)
