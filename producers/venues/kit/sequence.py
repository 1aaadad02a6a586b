"""Numbers that must rise by one, of a connection or of one product."""

from __future__ import annotations

from typing import Literal

# A run of old numbers that itself counts up this far means that the venue reset its numbers.
OLD_RUN_MAX = 8

Verdict = Literal["first", "next", "old", "lost", "restarted"]


class OldRun:
    """A run of old numbers that itself counts up: long enough, it shows that the venue reset its numbers.

    A few old numbers are duplicates, or came out of order. To drop them for ever would leave a stream standing still.
    """

    __slots__ = ("last", "length")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the run: a number was new."""
        self.last = -1
        self.length = 0

    def is_reset(self, number: int, *, follows: bool, limit: int = OLD_RUN_MAX) -> bool:
        """Take an old number, which `follows` the one before it or begins a run; return whether that shows a reset."""
        self.length = self.length + 1 if self.length and follows else 1
        self.last = number
        return self.length >= limit


class Sequence:
    """One sequence. `last` is the last number that was taken, None before the first; `expected` the one due now."""

    __slots__ = ("_old", "expected", "last")

    def __init__(self) -> None:
        self._old = OldRun()
        self.forget()

    def forget(self) -> None:
        """Start over, as after a reconnect."""
        self.last: int | None = None
        self.expected: int | None = None
        self._old.clear()

    def take(self, number: int) -> Verdict:
        """Judge a number: `lost` when some were skipped, `old` (leave its frame alone) when it is not above the last.

        After `lost` and `restarted`, `expected` is the number that should have come. Each but `old` is followed.
        """
        last = self.last
        if last is None:
            self.last = number
            return "first"
        self.expected = last + 1
        if number == last + 1:
            if self._old.length:
                self._old.clear()
            self.last = number
            return "next"
        is_old = number <= last
        if is_old and not self._old.is_reset(number, follows=number == self._old.last + 1):
            return "old"
        self._old.clear()
        self.last = number
        return "restarted" if is_old else "lost"
