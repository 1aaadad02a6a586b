"""Orders sent one by one in numbered messages: held until a snapshot from elsewhere joins them, then followed.

Theory of operation. Numbers rise by one per product over all of its messages, whether they change the book or not.

1. Before a snapshot, messages wait. A skipped number empties what waits: no snapshot from before the gap could be of
   use any more.
2. A snapshot of number N: what ends at or before N is in it and is dropped. The first message kept must be N + 1, else
   the snapshot is too old and another one is needed. None kept is fine: the next message will show whether it joins.
3. Afterwards each message must follow the one before it. A lower number is old; a higher one is a loss, and waits for
   the next snapshot.
4. A message that came and could not be read is a loss as well (`miss`): a snapshot must be newer than it to be of use.
5. A snapshot may itself come as messages, one for each order, all of one number (`row`); it ends with the next other
   message (`end_rows`).
6. A message may prove that the book misses an order: a match names its maker, and a cancel an order that rested. An
   order that was announced and never rested may be cancelled too, so that those are remembered; the snapshot may have
   come between an announcement and what became of it, so that nothing is proven before the next announcement.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

import msgspec

from marketdata.orders import BID, OrderBook, Side
from producers.venues.kit.sequence import Sequence

WAITING_MAX = 50_000  # a minute of the busiest product; the oldest go first

Verdict = Literal["next", "known", "old", "wait", "lost"]


class Act(msgspec.Struct, gc=False):
    """What one numbered message does to the orders; `verb` is empty where it does nothing."""

    number: int
    ts: int
    verb: Literal["", "announce", "enter", "modify", "reduce", "remove", "cancel"] = ""
    order_id: str = ""
    side: Side = BID
    price: int | None = None
    size: int = 0

    def perform(self, book: OrderBook) -> bool:
        """Change a book; False where a match names a maker that is not in it."""
        match self.verb:
            case "enter" if self.price is not None:
                book.remove(self.order_id)  # what is last said of an order is what holds
                book.add(self.order_id, self.side, self.price, self.size)
            case "remove" | "cancel":
                book.remove(self.order_id)
            case "reduce":
                return book.reduce(self.order_id, self.size)
            case "modify":
                order = book.get(self.order_id)
                if order is not None:
                    book.modify(self.order_id, order.price if self.price is None else self.price, self.size)
        return True


class Whole(NamedTuple):
    """A whole book of orders: its sequence, and when it was."""

    number: int
    ts: int
    book: OrderBook


class NumberedOrders:
    """One product's orders by their numbered messages. `at` is the sequence that `book` stands at, None without one."""

    __slots__ = ("_announced", "_floor", "_proves", "_sequence", "at", "book", "rows", "rows_at", "waiting")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start over, as after a reconnect."""
        self._floor = 0
        self._sequence = Sequence()
        self.waiting: deque[Act] = deque(maxlen=WAITING_MAX)
        self.rows: OrderBook | None = None
        self.rows_at = 0
        self._drop()

    def _drop(self) -> None:
        self._announced: set[str] = set()
        self._proves = False
        self.at: int | None = None
        self.book = OrderBook()
        self.waiting.clear()

    def take(self, act: Act) -> Verdict:
        """Judge a message: `next` is to be applied, `wait` and `lost` need a snapshot, others are to be left alone."""
        number = act.number
        verdict = self._sequence.take(number)
        if verdict == "old":
            return "old"
        had_book = self.at is not None
        if self.at is not None and verdict != "restarted" and number <= self.at + 1:
            if number <= self.at:  # what was on its way while the snapshot was made
                return "known"
            self.at = number
            return "next"
        if had_book or verdict in {"lost", "restarted"}:
            # No snapshot from before the gap could be of use any more.
            self._drop()
            self._floor = 0 if verdict == "restarted" else self._floor
        self.waiting.append(act)
        return "lost" if had_book else "wait"

    def miss(self, floor: int | None = None) -> None:
        """Note that a message is not here, whose number is unknown or at most `floor`: the book is gone."""
        known = self._sequence.last or 0
        if self.rows is not None:
            known = max(known, self.rows_at)
            self.rows = None
        self._floor = max(self._floor, known + 1 if floor is None else floor)
        self._drop()

    def row(self, act: Act) -> None:
        """Take one order of a snapshot that comes as messages."""
        if act.number < self._floor:
            return
        if self.rows is None or self.rows_at != act.number:
            self.rows, self.rows_at = OrderBook(), act.number
        act.perform(self.rows)

    def end_rows(self, ts: int) -> Whole | None:
        """Return the snapshot that came as messages, None where there is none; what follows it is due next."""
        if self.rows is None:
            return None
        rows, self.rows = self.rows, None
        if (self._sequence.last or 0) < self.rows_at:
            self._sequence.forget()
            self._sequence.take(self.rows_at)
        return Whole(self.rows_at, ts, rows)

    def join(self, whole: Whole) -> list[Act] | None:
        """Take a snapshot; return the messages to play on top of it, or None when it is too old."""
        kept = [act for act in self.waiting if act.number > whole.number]
        if whole.number < self._floor or (kept and kept[0].number != whole.number + 1):
            return None
        announced = {act.order_id for act in self.waiting if act.verb == "announce" and act.number <= whole.number}
        self._drop()
        self._announced = announced
        self.book = whole.book
        self.at = kept[-1].number if kept else whole.number
        return kept

    def perform(self, act: Act) -> bool:
        """Change the book; False where an order is not there that must be."""
        order = act.order_id
        match act.verb:
            case "announce":
                self._proves = len(self._announced) < WAITING_MAX
                if self._proves:
                    self._announced.add(order)
                return True
            case "enter" | "remove":
                self._announced.discard(order)
            case "cancel" if order in self._announced:
                self._announced.discard(order)
            case "cancel" if self._proves and self.book.get(order) is None:
                return False
        return act.perform(self.book)
