"""How often a connection, or one product of it, has lost something of late."""

from __future__ import annotations

from marketdata.clock import SECOND_NS

LOSSES_MAX = 3
LOSSES_WINDOW_NS = 60 * SECOND_NS


class Losses:
    """The losses of a connection within a minute; each repair costs the venue's snapshot, so many are too many."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: list[int] = []

    def clear(self) -> None:
        """Forget them: the connection is new."""
        self._times.clear()

    def too_many(self, ts: int) -> bool:
        """Note a loss; return whether the connection should be given up, which resets the count."""
        self._times = [lost for lost in self._times if ts - lost < LOSSES_WINDOW_NS]
        self._times.append(ts)
        if len(self._times) < LOSSES_MAX:
            return False
        self._times.clear()
        return True
