"""Keeps what we do within a venue's documented rates: messages on one connection, and attempts to connect."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from producers.venues.kit.limits import Rate


class Pacer:
    """Says when the next may go, by our monotonic clock in seconds: evenly by the first rate, and within all of them.

    Even spacing costs little and leaves no span with too many; the longer spans, as of an hour, are for bursts.
    """

    __slots__ = ("_rates", "_times")

    def __init__(self, rates: Sequence[Rate]) -> None:
        self._rates = tuple(rates)
        self._times: deque[float] = deque(maxlen=max((rate.most for rate in rates), default=1))

    def wait_s(self, now: float) -> float:
        """Return how long the next must wait; 0 when it may go now."""
        times = self._times
        if not self._rates or not times:
            return 0.0
        due = times[-1] + self._rates[0].seconds / self._rates[0].most
        for rate in self._rates[1:]:
            if len(times) >= rate.most:
                due = max(due, times[-rate.most] + rate.seconds)
        return max(0.0, due - now)

    def went(self, now: float) -> None:
        """Note that one goes now."""
        self._times.append(now)


class Outgoing:
    """The messages that wait for the venue's rate, first come first sent; at most `most` of them.

    `shared` is the pacer of all connections of our address.
    """

    def __init__(self, rates: Sequence[Rate], most: int, shared: Pacer | None = None) -> None:
        self._pacers = (Pacer(rates),) if shared is None else (Pacer(rates), shared)
        self._most = most
        self._waiting: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, frame: bytes) -> bool:
        """Keep a message; return False, without keeping it, when too many wait."""
        if len(self._waiting) >= self._most:
            return False
        self._waiting.append(frame)
        return True

    def take(self, now: float) -> bytes | None:
        """Return the next message if it may be sent now."""
        if not self._waiting or self.wait_s(now) > 0:
            return None
        for pacer in self._pacers:
            pacer.went(now)
        return self._waiting.popleft()

    def wait_s(self, now: float) -> float:
        """Return in how many seconds the next message may be sent; infinite without one."""
        return max(pacer.wait_s(now) for pacer in self._pacers) if self._waiting else float("inf")


class Gate:
    """A pacer for several tasks: they go one after the other, in the order in which they came."""

    def __init__(self, rates: Sequence[Rate]) -> None:
        self._pacer = Pacer(rates)
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until one may go."""
        async with self._lock:
            now = time.monotonic()
            wait_s = self._pacer.wait_s(now)
            self._pacer.went(now + wait_s)
            await asyncio.sleep(wait_s)
