"""The last frames of a stream, by position, for clients that lost their connection. Pure.

All frames after `floor` are kept. The streams share a budget of bytes: where it is used up, a stream that adds a frame
drops its own oldest ones.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from api.gateway.frames import Frame

FRAMES_MAX = 4_096
# What a kept frame costs beside its bytes.
_OVERHEAD_BYTES = 200

Place = tuple[int, int]
"""The offset of a record, and the number of one of its items."""


class Budget:
    """Bytes that all streams together may keep."""

    __slots__ = ("bytes_max", "used")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used = 0


class Kept(NamedTuple):
    """A frame with its place, its number in the stream, and the time of what it brings (UTC nanoseconds)."""

    place: Place
    number: int
    ts_event: int
    frame: Frame


class KeptFrames:
    """One stream's frames, oldest first; `epoch` names the partition that their places are in."""

    __slots__ = ("_budget", "_frames", "epoch", "floor")

    def __init__(self, budget: Budget, epoch: str, floor: Place) -> None:
        self._budget = budget
        self._frames: deque[Kept] = deque()
        self.epoch = epoch
        self.floor = floor

    def add(self, kept: Kept) -> None:
        """Keep a frame, and drop the oldest ones beyond the limits."""
        self._frames.append(kept)
        self._budget.used += _bytes_of(kept)
        while self._frames and (len(self._frames) > FRAMES_MAX or self._budget.used > self._budget.bytes_max):
            self._drop()

    def since(self, place: Place) -> list[Kept] | None:
        """Return the frames after a place, None when some of them are no longer here."""
        if place < self.floor:
            return None
        found: list[Kept] = []
        for kept in reversed(self._frames):
            if kept.place <= place:
                break
            found.append(kept)
        found.reverse()
        return found

    def clear(self) -> None:
        """Drop every frame."""
        while self._frames:
            self._drop()

    def _drop(self) -> None:
        kept = self._frames.popleft()
        self._budget.used -= _bytes_of(kept)
        self.floor = kept.place


def _bytes_of(kept: Kept) -> int:
    return len(kept.frame.plain) + _OVERHEAD_BYTES
