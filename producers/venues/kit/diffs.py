"""A book's numbered changes, held until a snapshot from elsewhere joins them, then followed one by one.

Theory of operation. Each change covers the update ids [first, final]; where the venue also names the final id of the
change before it (`previous`), that is the chain, else the ids themselves are.

1. Before a snapshot, changes wait. A change that does not follow the one before it empties what waits: no snapshot
   from before the gap could be of use any more.
2. A snapshot of update id N: what ends at or before N is in it and is dropped. The first change kept must reach back
   to it (`first` <= N + 1, or `previous` <= N), else the snapshot is too old and another one is needed. None kept is
   fine unless a change after N has arrived: the next change will show whether it joins.
3. Afterwards each change must follow the one before it. One that ends at or before the last is old; one that begins
   later is a loss, and waits for the next snapshot. Old ones that follow one another and nothing else mean that the
   venue reset its numbers: that is a loss as well, or the book would stand still for ever and seem good.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

from producers.venues.kit.sequence import OLD_RUN_MAX, OldRun
from producers.venues.kit.values import Columns

# At the quickest 100 changes a second, this is over half a minute; the oldest go first.
WAITING_MAX = 4_000

# A snapshot may be ahead of the stream; far fewer than this, even at forty changes a second.
KNOWN_RUN_MAX = 1_000

Verdict = Literal["next", "old", "known", "wait", "lost"]


class Diff(msgspec.Struct, gc=False):
    """One change of a book, of absolute sizes; `ts` is when the venue made it."""

    first: int
    final: int
    previous: int | None
    ts: int
    columns: Columns


class Diffs:
    """The changes of one product. `last` is the update id of the book that consumers have, None without one."""

    __slots__ = ("_heard", "_joined", "_old", "last", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Diff] = deque(maxlen=WAITING_MAX)
        self._old = OldRun()
        self.forget()

    def forget(self) -> None:
        """Start over: the connection is gone, and with it everything that it sent."""
        self.lose()
        self._heard = -1

    def lose(self) -> None:
        """The book is gone, and with it what waited; no snapshot from before it will do."""
        self.last: int | None = None
        self._joined = False
        self._old.clear()
        self.waiting.clear()

    def take(self, diff: Diff) -> Verdict:
        """Judge a change: `next` is to be applied, `wait` and `lost` need a snapshot.

        `old` and `known` (the snapshot had it) are to be left alone.
        """
        last = self.last
        if last is None:
            return self._wait(diff)
        if diff.final <= last:
            if not self._is_reset(diff, OLD_RUN_MAX if self._joined else KNOWN_RUN_MAX):
                return "old" if self._joined else "known"
        elif self._follows(diff, last, joined=self._joined):
            self.last = self._heard = diff.final
            self._joined = True
            if self._old.length:
                self._old.clear()
            return "next"
        self.lose()
        self._hold(diff)
        return "lost"

    def join(self, number: int) -> list[Diff] | None:
        """Take a snapshot's update id; return the changes to apply on top, or None when the snapshot is too old."""
        kept = [diff for diff in self.waiting if diff.final > number]
        if not self._follows(kept[0], number, joined=False) if kept else number < self._heard:
            return None
        self.waiting.clear()
        self.last = kept[-1].final if kept else number
        self._joined = bool(kept)
        return kept

    def _wait(self, diff: Diff) -> Verdict:
        if self.waiting:
            last = self.waiting[-1].final
            if diff.final <= last and not self._is_reset(diff, OLD_RUN_MAX):
                return "old"
            if diff.final <= last or not self._follows(diff, last, joined=True):
                self.waiting.clear()
        self._hold(diff)
        return "wait"

    def _is_reset(self, diff: Diff, limit: int) -> bool:
        """Note an old change; return whether so many of them followed one another that the numbers were reset."""
        last = self._old.last
        follows = diff.final > last and self._follows(diff, last, joined=True)
        return self._old.is_reset(diff.final, follows=follows, limit=limit)

    def _hold(self, diff: Diff) -> None:
        self.waiting.append(diff)
        self._heard = diff.final
        self._old.clear()

    @staticmethod
    def _follows(diff: Diff, last: int, *, joined: bool) -> bool:
        """Whether no change is missing between update id `last` and this one; not `joined`: `last` is a snapshot's."""
        if diff.previous is None:
            return diff.first <= last + 1
        return diff.previous == last if joined else diff.previous <= last
