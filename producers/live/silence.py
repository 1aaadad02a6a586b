"""Whether a connection that answers pings still brings market data: a mute one is replaced.

1. `is_mute` is asked about once a second with a count that rises with the market data of a connection.
2. A connection whose count has not risen for `mute_s` is mute, though the venue acknowledges, beats and answers pings.
3. A thin market may be silent for that long. So the patience is at least four times the longest silence that ended by
   itself, and a silence that ended only with the connection counts as one of those: a quiet line is replaced less and
   less often, at most once in `PATIENCE_S_MAX`.
"""

from __future__ import annotations

from collections.abc import Mapping

PATIENCE_S_MAX = 3_600.0
FACTOR = 4

# What of a feed's counts is market data; acknowledgements, heartbeats and answers to pings are not.
_DATA = ("snapshots", "book_updates", "trades", "quotes", "duplicates", "derivatives")


class DataSilence:
    """The silences of one line over all of its connections; `mute_s` None: silence means nothing there."""

    __slots__ = ("_count", "_longest_s", "_mute_s", "_since")

    def __init__(self, mute_s: float | None) -> None:
        self._mute_s = mute_s
        self._count = -1
        self._since = 0.0
        self._longest_s = 0.0

    def begin(self, now: float) -> None:
        """Begin with a new connection; `now` is our monotonic clock in seconds, here and below."""
        self._since = now

    def is_mute(self, counts: Mapping[str, int], now: float) -> bool:
        """Return whether the connection has brought no market data for too long, which is noted as a silence."""
        count = sum(counts[name] for name in _DATA)
        silence_s = now - self._since
        if count != self._count:
            if self._count >= 0:
                self._longest_s = max(self._longest_s, silence_s)
            self._count, self._since = count, now
            return False
        if self._mute_s is None or silence_s <= self.patience_s:
            return False
        self._longest_s = max(self._longest_s, silence_s)
        return True

    @property
    def patience_s(self) -> float:
        """After how many seconds without market data a connection is mute."""
        return min(max(self._mute_s or 0.0, FACTOR * self._longest_s), PATIENCE_S_MAX)
