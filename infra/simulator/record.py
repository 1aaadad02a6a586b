"""A market's trades by id and book changes by version, in flat arrays; pure.

Millions of trades and changes cost 24 bytes each, and the garbage collector has nothing to walk through.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

from infra.simulator.matching import Change


class Trade(NamedTuple):
    """One execution, `ts` in UTC nanoseconds, `maker_side` BID or ASK."""

    trade_id: int
    ts: int
    ticks: int
    lots: int
    maker_side: int


class TradeRecord(Sequence[Trade]):
    """The last trades of a market, oldest first; ids rise by one. Holds at least `kept` and at most twice as many."""

    def __init__(self, first_id: int, kept: int) -> None:
        self.first_id = first_id
        self._kept = kept
        self._ts = array("q")
        self._ticks = array("q")
        self._lots = array("q")  # negative where the maker sold

    def __len__(self) -> int:
        """Return how many trades are held."""
        return len(self._ts)

    @overload
    def __getitem__(self, place: int) -> Trade: ...
    @overload
    def __getitem__(self, place: slice) -> list[Trade]: ...
    def __getitem__(self, place: int | slice) -> Trade | list[Trade]:
        """Return the trade at a place, or those of a slice; IndexError where there is none."""
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        lots = self._lots[place]
        number = self.first_id + (place if place >= 0 else len(self) + place)
        return Trade(number, self._ts[place], self._ticks[place], abs(lots), 1 if lots > 0 else -1)

    def append(self, ts: int, ticks: int, lots: int, maker_side: int) -> Trade:
        """Add the next trade and return it with its id."""
        if len(self._ts) >= 2 * self._kept:
            for column in (self._ts, self._ticks, self._lots):
                del column[: self._kept]
            self.first_id += self._kept
        self._ts.append(ts)
        self._ticks.append(ticks)
        self._lots.append(lots * maker_side)
        return Trade(self.first_id + len(self._ts) - 1, ts, ticks, lots, maker_side)

    def newest_first(self, start_ns: int, end_ns: int | None) -> Iterator[Trade]:
        """Yield the trades with `start_ns <= ts < end_ns`, newest first."""
        first = bisect_left(self._ts, start_ns)
        last = len(self._ts) if end_ns is None else bisect_left(self._ts, end_ns)
        for place in range(last - 1, first - 1, -1):
            yield self[place]

    def since(self, trade_id: int, count: int) -> list[Trade]:
        """Return at most `count` trades from an id on, oldest first; none of those that are no longer held."""
        start = max(0, trade_id - self.first_id)
        return self[start : start + count]


class ChangeRecord:
    """The last changes of a book by version; versions rise by one. Holds at least `kept` and at most twice as many."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._steps = 0
        self._starts = array("q", [0])  # where each version's changes begin; the last entry is where the next ones do
        self._ticks = array("q")  # negative where it is an ask
        self._before = array("q")

    def __len__(self) -> int:
        """Return how many versions are held."""
        return len(self._starts) - 1

    def append(self, changes: Sequence[Change]) -> None:
        """Add the changes of the next version."""
        if len(self) >= 2 * self._kept:
            first = self._starts[self._kept]
            del self._starts[: self._kept]
            self._starts = array("q", [start - first for start in self._starts])
            del self._ticks[:first]
            del self._before[:first]
        for side, ticks, before, _ in changes:
            self._ticks.append(side * ticks)
            self._before.append(before)
        self._starts.append(len(self._ticks))

    def undone(self, versions: int) -> Iterator[tuple[int, int, int]]:
        """Yield (side, ticks, lots before) of each change of the last versions, newest first."""
        first = self._starts[len(self) - versions]
        for place in range(len(self._ticks) - 1, first - 1, -1):
            ticks = self._ticks[place]
            yield (1, ticks, self._before[place]) if ticks > 0 else (-1, -ticks, self._before[place])

    def newest_first(self) -> Iterator[list[tuple[int, int, int]]]:
        """Yield the changes of each version, (side, ticks, lots before), the newest version first."""
        for version in range(len(self) - 1, -1, -1):
            places = range(self._starts[version], self._starts[version + 1])
            changes = ((self._ticks[place], self._before[place]) for place in places)
            yield [(1, ticks, before) if ticks > 0 else (-1, -ticks, before) for ticks, before in changes]
