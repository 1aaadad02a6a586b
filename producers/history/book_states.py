"""The recent states of one published book, and the comparison of one of them with the venue's REST book; pure.

Theory of operation.

1. A book is restored from md.books, which has its best levels, and follows md.book_updates. Each update has a mark: its
   number or its time, whichever the REST book has too (`RestBooks.by`). The last `CHANGES_MAX` updates are kept apart
   from the book before them, so that the state at any mark since then can be built.
2. The REST book at mark m equals the state after the last update with a mark of at most m, if an update has just this
   mark. If m lies between two updates, the venue joined several changes in the next one: levels that it changes may
   have any size at m, and are not compared. Where marks are times with slack, the same is true of all updates whose
   times differ from m by at most the slack. Between two whole books nothing is known.
3. Before an update with that mark (and slack) has arrived, the comparison waits. A mark from before the oldest state is
   too old. A book that is not valid is not compared; why it is not is on the ledger.
4. Only levels that both sides know are compared: those not behind the last level of the REST book, nor behind the last
   level of the book as it was restored, since md.books and some streams are limited in depth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from typing import Literal, NamedTuple

from marketdata.book import L2Book
from marketdata.events import RESYNCING, Book, BookUpdate
from producers.history.score import EXAMPLES_MAX, Score
from producers.venues.kit.history import RestBook
from producers.venues.kit.values import Columns

WHAT = "book levels"
# Minutes of a busy book.
CHANGES_MAX = 10_000

UNPUBLISHED = "no book was published lately"
TOO_OLD = "the REST book is older than the published book"
BETWEEN = "the REST book is from between two whole books"
UNNUMBERED = "the published updates have no numbers"
OUT_OF_RANGE = "no level is in both books"

_SIDES = ("bid", "ask")

# A level: the index of its side in `_SIDES`, and its price.
_Key = tuple[int, Decimal]


class _Change(NamedTuple):
    """An update. `mark` never falls from one to the next; `own_mark` is the published one, and times may go back."""

    mark: int
    own_mark: int
    columns: Columns
    is_whole: bool


class Result(NamedTuple):
    """A score. `is_exact`: the REST book has the mark of an update, so that every level is known at that moment."""

    score: Score
    is_exact: bool = True


class BookStates:
    """The states of one symbol's book. `by` is what marks an update."""

    def __init__(self, by: Literal["sequence", "time"]) -> None:
        self._by = by
        self._reason = UNPUBLISHED
        self._base = L2Book()
        self._base_mark = 0
        self._lasts: tuple[Decimal | None, Decimal | None] = (None, None)
        self._changes: deque[_Change] = deque()
        self._newest = 0

    @property
    def is_valid(self) -> bool:
        """Whether there is a book that may be compared."""
        return not self._reason

    def restore(self, book: Book) -> None:
        """Begin with a published book; updates that it contains must not follow."""
        self._begin((book.bid_prices, book.bid_sizes, book.ask_prices, book.ask_sizes))
        mark = book.sequence if self._by == "sequence" else book.ts_event
        self._reason = UNNUMBERED if mark is None else _reason(book)
        self._base_mark = self._newest = mark or 0

    def take(self, update: BookUpdate) -> None:
        """Follow an update."""
        if update.kind == "clear":
            self._reason = _reason(update)
            return
        mark = update.sequence if self._by == "sequence" else update.ts_event
        if update.kind == "heartbeat":
            # Its number, if any, is that of the message that showed that the line works.
            if self._by == "time" and self.is_valid:
                self._newest = max(self._newest, update.ts_event)
            return
        columns = (update.bid_prices, update.bid_sizes, update.ask_prices, update.ask_sizes)
        if mark is None:
            self._reason = UNNUMBERED
        elif update.kind == "snapshot" and (self._reason or mark < self._newest):
            self._begin(columns)
            self._reason = _reason(update)
            self._base_mark = self._newest = mark
        elif update.valid and self.is_valid:
            self._follow(_Change(mark, mark, columns, is_whole=update.kind == "snapshot"))
        elif not update.valid:
            self._reason = _reason(update)

    def compare(self, rest: RestBook, slack_ns: int = 0) -> Result | None:
        """Return the score of the state at the REST book's mark; None while that mark has not been reached."""
        if self._reason:
            return _not_compared(self._reason)
        low, high = rest.mark - slack_ns, rest.mark + slack_ns
        if low < self._base_mark:
            return _not_compared(TOO_OLD)
        if self._newest < high:
            return None
        book = L2Book.unpack(self._base.pack())
        lasts, reached = self._lasts, self._base_mark
        between: list[_Change] = []
        for change in self._changes:
            if change.mark <= low:
                lasts = _apply(book, lasts, change)
                reached = change.mark
            elif change.own_mark <= high or (reached != rest.mark and (not between or between[0].mark == change.mark)):
                between.append(change)
        if any(change.is_whole for change in between):
            return _not_compared(BETWEEN)
        unsettled = {
            (side, Decimal(price)) for change in between for side in (0, 1) for price in change.columns[2 * side]
        }
        score = _score(_levels(book.pack()), _levels(rest.columns), lasts, unsettled)
        return Result(score, is_exact=reached == rest.mark and not slack_ns)

    def _begin(self, columns: Columns) -> None:
        self._base.replace(columns)
        self._lasts = _lasts_of(columns)
        self._changes.clear()

    def _follow(self, change: _Change) -> None:
        if change.mark < self._newest and self._by == "sequence":
            # The numbers restarted, or the number of the restored book was not that of an update.
            while self._changes:
                self._fold()
            self._changes.append(change)
            self._fold()
        else:
            self._changes.append(change._replace(mark=max(change.mark, self._newest)))
        self._newest = self._changes[-1].mark if self._changes else self._base_mark
        if len(self._changes) > CHANGES_MAX:
            self._fold()

    def _fold(self) -> None:
        """Make the oldest change part of the oldest state."""
        change = self._changes.popleft()
        self._lasts = _apply(self._base, self._lasts, change)
        self._base_mark = change.mark


def _reason(event: Book | BookUpdate) -> str:
    """Return why a book is not valid, nothing where it is."""
    return "" if event.valid else f"the published book is not valid ({event.reason or RESYNCING})"


def _apply(book: L2Book, lasts: tuple[Decimal | None, Decimal | None], change: _Change
           ) -> tuple[Decimal | None, Decimal | None]:  # fmt: skip
    """Apply a change to a book whose sides are known down to `lasts`; return down to where they are known then."""
    if change.is_whole:
        book.replace(change.columns)
        return _lasts_of(change.columns)
    book.apply(change.columns)
    return lasts


def _lasts_of(columns: Columns) -> tuple[Decimal | None, Decimal | None]:
    """Return the last prices of a whole book, None for an empty side."""
    bids, asks = (list(map(Decimal, prices)) for prices in (columns[0], columns[2]))
    return min(bids, default=None), max(asks, default=None)


def _levels(columns: Columns | list[list[str]]) -> dict[_Key, Decimal]:
    return {
        (side, Decimal(price)): Decimal(size)
        for side in (0, 1)
        for price, size in zip(columns[2 * side], columns[2 * side + 1], strict=True)
    }


def _score(
    ours: dict[_Key, Decimal], theirs: dict[_Key, Decimal], lasts: tuple[Decimal | None, Decimal | None],
    unsettled: set[_Key],
) -> Score:  # fmt: skip
    """Compare the levels that both books know and that are settled."""
    keys = sorted(
        key
        for side, last in enumerate(lasts)
        for key in _known(side, last, ours, theirs)
        if key not in unsettled
    )  # fmt: skip
    different = [key for key in keys if ours.get(key) != theirs.get(key)]
    if not keys:
        return Score(WHAT, 0, 0, reason=OUT_OF_RANGE)
    examples = tuple(
        f"{_SIDES[side]} {price}: {_size(ours, (side, price))} here, {_size(theirs, (side, price))} there"
        for side, price in different[:EXAMPLES_MAX]
    )
    return Score(WHAT, len(keys), len(keys) - len(different), examples)


def _known(
    side: int, last: Decimal | None, ours: dict[_Key, Decimal], theirs: dict[_Key, Decimal]
) -> Iterator[_Key]:  # fmt: skip
    """Yield the levels of one side that are not behind the last known one of either book."""
    sent = [price for at, price in theirs if at == side]
    best_to_last = max if side == 0 else min
    ends = [end for end in (last, (min if side == 0 else max)(sent, default=None)) if end is not None]
    end = best_to_last(ends, default=None)
    for key in ours.keys() | theirs.keys():
        if key[0] == side and (end is None or (key[1] >= end if side == 0 else key[1] <= end)):
            yield key


def _size(levels: dict[_Key, Decimal], key: _Key) -> str:
    return f"{levels[key]:f}" if key in levels else "none"


def _not_compared(reason: str) -> Result:
    return Result(Score(WHAT, 0, 0, reason=reason))
