"""Numbers that must rise by one, of a connection or of one product."""

from __future__ import annotations

from typing import Literal

# A run of old numbers that itself counts up this far means that the venue reset its numbers.
OLD_RUN_MAX = 8

Verdict = Literal["first", "next", "old", "lost", "restarted"]


class Sequence:
    """One sequence. `last` is the last number that was taken, None before the first; `expected` the one due now."""

    __slots__ = ("_old", "_old_run", "expected", "last")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start over, as after a reconnect."""
        self.last: int | None = None
        self.expected: int | None = None
        self._old = 0
        self._old_run = 0

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
            self._old_run = 0
            self.last = number
            return "next"
        if number < last + 1:
            self._old_run = self._old_run + 1 if number == self._old + 1 else 1
            self._old = number
            if self._old_run < OLD_RUN_MAX:
                return "old"
        restarted = number < last + 1
        self._old_run = 0
        self.last = number
        return "restarted" if restarted else "lost"
