"""Trade ids: which trades were sent before, and which never came."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

from marketdata.events import Trade
from producers.venues.kit.sequence import OLD_RUN_MAX

SKIPPED_MAX = 100
RECENT_MAX = 10_000


class TradeIds:
    """Numbers of one product's trades that rise by one: `skipped` are the ranges left out until their trades come."""

    __slots__ = ("_old", "first", "is_open_below", "last", "skipped")

    def __init__(self) -> None:
        self.last: int | None = None
        self.first = 0
        self.is_open_below = False
        self.skipped: list[tuple[int, int]] = []
        self._old: list[tuple[int, Trade]] = []

    def resume(self, last: int, later: Iterable[int]) -> None:
        """Begin after `last`; of the numbers above it only those of `later` were sent."""
        self.last, self.skipped = last, []
        for number in sorted(later):
            if number > self.last + 1:
                self.skip_to(number - 1)
            self.last = max(self.last, number)

    def unsent(self, batch: Iterable[tuple[int, Trade]]) -> list[tuple[int, Trade]]:
        """Return those (by rising number) that were not sent before; note the numbers that were skipped or filled.

        Where it `is_open_below`, numbers below the first that was taken may be of trades that were not sent.
        """
        fresh: list[tuple[int, Trade]] = []
        below: list[int] = []
        for number, trade in batch:
            last = self.last
            if last is None or number > last:
                if last is None:
                    self.first = number
                elif number > last + 1:
                    self.skip_to(number - 1)
                self.last = number
            elif self.is_open_below and number < self.first:
                below.append(number)
            elif not self._fill(number):
                continue
            fresh.append((number, trade))
        if below:
            if below[-1] < self.first - 1:
                self.skipped.insert(0, (below[-1] + 1, self.first - 1))
            self.first = below[0]
        self._bound()  # to fill a range may have made two of it
        return fresh

    def skip_to(self, number: int) -> None:
        """Note that the numbers after the last, up to this one, were trades that did not come."""
        if self.last is not None:
            self.skipped.append((self.last + 1, number))
        self.last = number
        self._bound()

    def pass_over(self, number: int) -> None:
        """Take note that the number after the last is no trade's."""
        if self.last is not None and number == self.last + 1:
            self.last = number

    def rule_out(self, first: int, final: int) -> None:
        """Forget the skipped ids in [first, final]: the venue listed all its trades there, and these were none."""
        self.skipped = [ids for ids in self.skipped if not (first <= ids[0] and ids[1] <= final)]

    def after_reset(self, batch: Iterable[tuple[int, Trade]], ts_last: int) -> list[tuple[int, Trade]]:
        """Return the trades that show that the venue reset its numbers, once there are enough; `batch` is all old.

        They are numbers that rise one after the other, of trades that were all made after `ts_last`, when the newest
        known one was: such trades cannot have come before.
        """
        for number, trade in batch:
            if trade.ts_event <= ts_last or (self._old and number <= self._old[-1][0]):
                self._old.clear()
            if trade.ts_event > ts_last:
                self._old.append((number, trade))
        return self._old if len(self._old) >= OLD_RUN_MAX else []

    def _bound(self) -> None:
        """Join the first ranges where there are too many."""
        while len(self.skipped) > SKIPPED_MAX:
            self.skipped[:2] = [(self.skipped[0][0], self.skipped[1][1])]

    def _fill(self, number: int) -> bool:
        """Take an id out of the skipped ones; return False when it is in none, as one that was sent before."""
        for place, (first, last) in enumerate(self.skipped):
            if first <= number <= last:
                self.skipped[place : place + 1] = [
                    ids for ids in ((first, number - 1), (number + 1, last)) if ids[0] <= ids[1]
                ]
                return True
        return False


class Recent:
    """The last ids that were seen, for ids without an order; remembers RECENT_MAX of them.

    `mark` draws a line; `was_before` returns which ids were seen before it.
    """

    __slots__ = ("_count", "_known", "_marked", "_order")

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}  # to its number among all
        self._order: deque[Hashable] = deque()
        self._count = 0
        self._marked = 0

    def is_new(self, trade_id: Hashable) -> bool:
        """Return whether this id was not seen before, and remember it."""
        if trade_id in self._known:
            return False
        self._count += 1
        self._known[trade_id] = self._count
        self._order.append(trade_id)
        if len(self._order) > RECENT_MAX:
            del self._known[self._order.popleft()]
        return True

    def mark(self) -> None:
        """Draw the line: ids that are new from now on come after it."""
        self._marked = self._count

    def was_before(self, trade_id: Hashable) -> bool:
        """Return whether this id was seen before the line, and is not forgotten."""
        return self._known.get(trade_id, self._count + 1) <= self._marked
