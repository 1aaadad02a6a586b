"""When to try again: full-jitter exponential backoff and a circuit breaker, both pure state machines.

Theory of operation. The wait before attempt n + 1 is drawn from 0 to min(cap, base * 2^n): "full jitter", which spreads
the clients of a venue that comes back (AWS Architecture Blog, "Exponential Backoff And Jitter"). A venue may want it
otherwise, which its `Policy` says: never sooner than `least_s`, and not for ever. The breaker is

1. closed: attempts are made. The fifth failure in a row opens it, which is an alert.
2. open: nothing is tried until the backoff has passed.
3. half open: one probe is under way. Success closes the breaker, failure opens it again without a second alert.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self

import msgspec

BASE_S = 0.5
CAP_S = 60.0
FAILURES_MAX = 5

# 0.5 s doubled this often is beyond any cap; a limit so that a number of failures stays a small number.
_DOUBLINGS_MAX = 30


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How a venue is tried again: after `least_s` to `base_s` doubled with each failure, at most `cap_s`.

    After `tries_max` failures in a row it is given up; None never gives up.
    """

    base_s: float = BASE_S
    cap_s: float = CAP_S
    least_s: float = 0.0
    tries_max: int | None = None


class Backoff:
    """Counts failures in a row and says how long to wait."""

    def __init__(
        self, base_s: float = BASE_S, cap_s: float = CAP_S, *, least_s: float = 0.0, tries_max: int | None = None
    ) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._least_s = min(least_s, cap_s)
        self._tries_max = tries_max
        self.failures = 0

    @classmethod
    def by(cls, policy: Policy) -> Self:
        """Return the backoff of a venue's policy."""
        return cls(policy.base_s, policy.cap_s, least_s=policy.least_s, tries_max=policy.tries_max)

    def failed(self, chance: float) -> float:
        """Note a failure and return how many seconds to wait; `chance` is a random number in [0, 1)."""
        ceiling_s = min(self._cap_s, self._base_s * 2.0 ** min(self.failures, _DOUBLINGS_MAX))
        self.failures += 1
        return max(self._least_s, ceiling_s * chance)

    @property
    def is_exhausted(self) -> bool:
        """Whether it failed as often in a row as the policy allows."""
        return self._tries_max is not None and self.failures >= self._tries_max

    def succeeded(self) -> None:
        """Start again."""
        self.failures = 0


class State(IntEnum):
    """State of a breaker; the numbers are what the metric shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Opens after `failures_max` failures in a row. Methods return the FeedStatus kind to publish, or None."""

    def __init__(self, failures_max: int = FAILURES_MAX) -> None:
        self._failures_max = failures_max
        self.failures = 0
        self.state = State.CLOSED

    def attempted(self) -> None:
        """Note that an attempt begins."""
        if self.state is State.OPEN:
            self.state = State.HALF_OPEN

    def failed(self) -> str | None:
        """Note a failure."""
        self.failures += 1
        if self.state is State.CLOSED and self.failures < self._failures_max:
            return None
        is_news = self.state is State.CLOSED
        self.state = State.OPEN
        return "breaker_open" if is_news else None

    def succeeded(self) -> str | None:
        """Note a success."""
        is_news = self.state is not State.CLOSED
        self.failures = 0
        self.state = State.CLOSED
        return "breaker_closed" if is_news else None
