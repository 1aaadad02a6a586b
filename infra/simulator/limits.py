"""What a simulated venue allows one connection and one address, and how it counts; pure."""

from __future__ import annotations

from collections import deque

import msgspec

Rate = tuple[int, float]
"""At most so many within this many seconds."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a venue documents of one connection and one address; None is no limit.

    `streams`: subscriptions of one connection. `messages`: a client's messages on one connection; beyond it the venue
    closes the connection. `address_messages`: the same of all connections of one address. `attempts`: connections of
    one address; beyond it the venue answers 429. `message_bytes`: the longest message.
    """

    streams: int | None = None
    messages: Rate | None = None
    address_messages: Rate | None = None
    attempts: Rate | None = None
    message_bytes: int = 65_536


class Window:
    """Counts events of the last `seconds`; pure."""

    def __init__(self, limit: Rate | None) -> None:
        self._count, self._seconds = limit or (0, 0.0)
        self._times: deque[float] = deque()

    def takes(self, now: float) -> bool:
        """Note an event, and return whether it is within the limit."""
        if not self._count:
            return True
        if self.wait_s(now) > 0:
            return False
        self._times.append(now)
        return True

    def wait_s(self, now: float) -> float:
        """Return in how many seconds another event is within the limit."""
        while self._times and self._times[0] <= now - self._seconds:
            self._times.popleft()
        is_full = self._count and len(self._times) >= self._count
        return self._times[0] + self._seconds - now if is_full else 0.0
