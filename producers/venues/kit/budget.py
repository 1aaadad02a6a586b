"""A venue's weight as a token bucket, which follows what the venue says of it: pure, with the time as an argument."""

from __future__ import annotations

from collections.abc import Mapping

from producers.venues.kit.history import Budget

MINUTE_S = 60.0
# What a header may say: more digits are no number of requests and no time.
_DIGITS_MAX = 12


class Bucket:
    """What may still be spent. Whoever takes too much waits for it, in the order of asking."""

    __slots__ = ("_budget", "_now_s", "_tokens")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._tokens = budget.burst
        self._now_s = 0.0

    def take(self, weight: float, now_s: float) -> float:
        """Spend this weight and return how many seconds to wait before it may be used.

        The weight is reserved at once, so that requests which come meanwhile wait behind this one; one that weighs
        more than the whole bucket is made too, and those behind it wait the longer.
        """
        earned = max(0.0, now_s - self._now_s) * self._budget.per_s
        self._tokens = min(self._budget.burst, self._tokens + earned) - weight
        self._now_s = max(self._now_s, now_s)
        return max(0.0, -self._tokens / self._budget.per_s)

    def answered(self, headers: Mapping[str, str], now_s: float, wall_s: float) -> None:
        """Follow what an answer says: when others have spent too, less is left until the venue counts again.

        `wall_s` is UTC. Requests that are under way may not be counted yet: the next answer will have them.
        """
        left = self._budget.left(headers, wall_s) if self._budget.left is not None else None
        if left is not None:
            self.take(0, now_s)
            # What is earned until then must be left as well.
            self._tokens = min(self._tokens, left.weight - self._budget.per_s * max(0.0, left.seconds))


def count_of(text: str | None) -> int | None:
    """Return the number that a header says; None where there is none, or no such number."""
    return int(text) if text and len(text) <= _DIGITS_MAX and text.isascii() and text.isdigit() else None
