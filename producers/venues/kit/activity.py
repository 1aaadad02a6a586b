"""Whether one product's channel fell silent by itself: judged by its usual rate and by what else the connection sends.

1. `observe` is called about once a second with a mark of each series, one product's events of one channel. The mark
   changes with each event. Halted products and channels that are not subscribed are left out, and start over later.
2. A series has the share of seconds with an event, averaged over about the last hour, and its longest pause, which
   fades over some hours.
3. It fell silent when all of this holds: it was watched for `WARM_UP_NS`; no event came for `SILENT_NS_MIN`, nor for
   `PAUSES` times its longest pause; by its usual rate alone such a silence has a chance of at most one in 10^12; and
   the other series of the channel send at half of their usual rate or more, so that it is not the market that rests.
   Where the channel has no other series, those of the other channels count.
4. A silence that was reported counts as a pause: the next report needs a far longer one.

The chance is that of independent seconds. Real markets pause in bursts, which is why 3 asks for more than the chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from marketdata.clock import SECOND_NS

WARM_UP_NS = 600 * SECOND_NS
SILENT_NS_MIN = 30 * SECOND_NS
PAUSES = 4
# The negative natural logarithm of one in 10^12.
IMPROBABLE = 28.0

_HOUR_S = 3_600.0
_FADE_S = 3 * _HOUR_S
_RECENT_S = 10.0
# Without a call for so long nothing was observed: our process was stopped, or a replay is faster than time.
_MISSED_NS = 5 * SECOND_NS

Key = tuple[str, str]  # channel, product


class Silent(msgspec.Struct, frozen=True):
    """A series that fell silent: for how long, its usual events a second, and how many of the others are active."""

    channel: str
    name: str
    silent_ns: int
    rate: float
    active: int
    others: int

    def text(self) -> str:
        """Return the evidence, for a person."""
        return (
            f"no event for {self.silent_ns / SECOND_NS:.0f} s, where {self.rate:.2g} of all seconds have one; "
            f"{self.active} of {self.others} others of this connection are active"
        )


class _Series:
    """One series. `rate` and `recent` are shares of seconds with an event; times in nanoseconds."""

    __slots__ = ("longest_ns", "mark", "rate", "recent", "silent_ns", "watched_ns")

    def __init__(self, mark: int | None) -> None:
        self.mark = mark
        self.rate = 0.0
        self.recent = 0.0
        self.silent_ns = 0
        self.longest_ns = 0.0
        self.watched_ns = 0

    def advance(self, mark: int | None, passed_ns: int) -> None:
        """Note whether an event came in the time that passed."""
        seconds = passed_ns / SECOND_NS
        self.watched_ns += passed_ns
        is_active = mark != self.mark
        self.mark = mark
        share = max(seconds / _HOUR_S, passed_ns / self.watched_ns)
        self.rate += (is_active - self.rate) * min(1.0, share)
        self.recent += (is_active - self.recent) * min(1.0, seconds / _RECENT_S)
        self.longest_ns *= max(0.0, 1 - seconds / _FADE_S)
        if is_active:
            self.longest_ns = max(self.longest_ns, self.silent_ns)
            self.silent_ns = 0
        else:
            self.silent_ns += passed_ns

    def is_improbable(self) -> bool:
        """Return whether a silence like this is none of the usual pauses."""
        if self.watched_ns - self.silent_ns < WARM_UP_NS or self.silent_ns < SILENT_NS_MIN or not self.rate:
            return False
        # The rate has fallen during the silence itself, which only makes this later.
        chance = -math.log1p(-min(self.rate, 0.999)) * self.silent_ns / SECOND_NS
        return chance >= IMPROBABLE and self.silent_ns >= PAUSES * self.longest_ns


class Activity:
    """The series of one line; as many as are observed."""

    __slots__ = ("_series", "_ts")

    def __init__(self) -> None:
        self._series: dict[Key, _Series] = {}
        self._ts = 0

    def observe(self, ts: int, marks: Mapping[Key, int | None]) -> list[Silent]:
        """Return the series that fell silent, each once; `ts` is our clock in UTC ns, `marks` as in step 1."""
        passed_ns = ts - self._ts
        if 0 <= passed_ns < SECOND_NS // 2:
            return []
        self._ts = ts
        is_missed = not 0 <= passed_ns <= _MISSED_NS
        series, self._series = self._series, {}
        for key, mark in marks.items():
            known = self._series[key] = series.get(key) or _Series(mark)
            if is_missed:
                known.mark, known.silent_ns = mark, 0
            else:
                known.advance(mark, passed_ns)
        return [] if is_missed else [found for key in marks if (found := self._judged(key)) is not None]

    def _judged(self, key: Key) -> Silent | None:
        series = self._series[key]
        if not series.is_improbable():
            return None
        others = [other for one, other in self._series.items() if one != key and one[0] == key[0]]
        if not others:
            others = [other for one, other in self._series.items() if one != key]
        usual = sum(other.rate for other in others)
        if not usual or sum(other.recent for other in others) < usual / 2:
            return None
        silent_ns, series.longest_ns = series.silent_ns, float(series.silent_ns)
        active = sum(other.silent_ns < _RECENT_S * SECOND_NS for other in others)
        return Silent(*key, silent_ns=silent_ns, rate=series.rate, active=active, others=len(others))
