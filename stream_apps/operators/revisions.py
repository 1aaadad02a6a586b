"""The revisions of one interval's candles that have passed: sorted ranges of candle numbers, bounded.

A `place` is a candle's number since 1970. Consecutive candles with the same revision form one range, so a backfill of
years is a single range. There are at most `RANGES_MAX` ranges; beyond that the lowest is evicted. For candles up to
`floor`, only a revision above `floor_revision`, the highest evicted one, is certain to be new.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Literal

import msgspec

RANGES_MAX = 512

Passed = Literal["new", "duplicate", "too_old"]


class Revisions(msgspec.Struct):
    """The last revision of each candle of one interval; `ends` are inclusive."""

    starts: list[int] = []
    ends: list[int] = []
    revisions: list[int] = []
    floor: int = -1
    floor_revision: int = -1

    def add(self, place: int, revision: int) -> Passed:
        """Remember a candle's revision and return whether it is new: higher than the last one that passed."""
        at = bisect_right(self.starts, place) - 1
        if at >= 0 and place <= self.ends[at]:
            if revision <= self.revisions[at]:
                return "duplicate"
            self._split(at, place)
        elif place <= self.floor and revision <= self.floor_revision:
            return "too_old"
        self._insert(place, revision)
        while len(self.starts) > RANGES_MAX:
            self.floor = max(self.floor, self.ends.pop(0))
            self.floor_revision = max(self.floor_revision, self.revisions.pop(0))
            del self.starts[0]
        return "new"

    def _split(self, at: int, place: int) -> None:
        """Remove one place from the range that contains it."""
        start, end, revision = self.starts[at], self.ends[at], self.revisions[at]
        pieces = [(a, b) for a, b in ((start, place - 1), (place + 1, end)) if a <= b]
        self.starts[at : at + 1] = [a for a, _ in pieces]
        self.ends[at : at + 1] = [b for _, b in pieces]
        self.revisions[at : at + 1] = [revision for _ in pieces]

    def _insert(self, place: int, revision: int) -> None:
        """Insert a place that no range contains, and join it with neighbours of the same revision."""
        starts, ends, revisions = self.starts, self.ends, self.revisions
        at = bisect_right(starts, place)
        left = at > 0 and ends[at - 1] == place - 1 and revisions[at - 1] == revision
        right = at < len(starts) and starts[at] == place + 1 and revisions[at] == revision
        if left and right:
            ends[at - 1] = ends[at]
            del starts[at], ends[at], revisions[at]
        elif left:
            ends[at - 1] = place
        elif right:
            starts[at] = place
        else:
            starts.insert(at, place)
            ends.insert(at, place)
            revisions.insert(at, revision)
