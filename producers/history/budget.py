"""A venue's weight as a token bucket: pure, with the time as an argument."""

from __future__ import annotations

from producers.history.contract import Budget


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
