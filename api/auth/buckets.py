"""Token buckets without I/O: how many requests a client may make now, and when it may make the next.

A bucket holds at most `burst` tokens and gains `rate` tokens a second; a request takes one. So in any time t no more
than burst + rate * t requests pass. A client that is unknown has a full bucket; the least recently used are forgotten.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec


class Limit(msgspec.Struct, frozen=True):
    """A bucket's size and its gain in tokens per second."""

    burst: int
    rate: float

    @property
    def window_s(self) -> float:
        """Return how long an empty bucket takes to become full, seconds."""
        return self.burst / self.rate


class Decision(msgspec.Struct, frozen=True):
    """How many tokens were taken (0: refused), how many are left, and seconds until there is another one."""

    taken: int
    left: int
    wait_s: float


class Buckets:
    """The buckets of at most `clients_max` clients. Time is an argument: monotonic seconds."""

    def __init__(self, clients_max: int) -> None:
        self._clients_max = clients_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at this time

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str, limit: Limit, wanted: int, now: float) -> Decision:
        """Take up to `wanted` tokens, at least one, or none."""
        tokens, since = self._buckets.pop(client, (float(limit.burst), now))
        # A clock that steps back, or a smaller limit than before, gives nothing.
        tokens = min(float(limit.burst), tokens + max(0.0, now - since) * limit.rate)
        taken = min(wanted, int(tokens))
        tokens -= taken
        self._buckets[client] = (tokens, max(now, since))
        if len(self._buckets) > self._clients_max:
            self._buckets.popitem(last=False)
        return Decision(taken, int(tokens), 0.0 if tokens >= 1 else (1 - tokens) / limit.rate)
