"""Cascades of liquidations: far more positions of one side are closed by force in a minute than usual.

Liquidations are counted by side in steps of ten seconds; six steps and the one that has begun are the last minute. A
usual minute is the median of the minutes before that had any liquidation. Liquidations are trades or events of their
own, by venue; each is in only one of the two streams, so none is counted twice.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.events import AnyEvent, Derivative, Trades
from marketdata.windows import Window
from stream_apps.operators.anomaly import Episodes, as_text, found
from stream_apps.operators.anomaly_limits import Limits

STEP_NS = 10 * SECOND_NS
STEPS = 6
MINUTES = 60
# Before there were so many minutes with liquidations, only the least count decides.
MINUTES_MIN = 5
KIND = "liquidation_cascade"


class Step(msgspec.Struct, array_like=True):
    """The liquidations of one step: how many of each side, and the sum of price times size."""

    counts: dict[str, int]
    value: float = 0.0


class Cascades(msgspec.Struct):
    """The liquidations of the last minute by the start of their step, and the counts of earlier minutes with any.

    `counts` are those of the calendar minute that begins at `minute`.
    """

    minutes: Window
    steps: dict[int, Step] = {}
    minute: int = 0
    counts: dict[str, int] = {}

    @classmethod
    def start(cls) -> Cascades:
        """Return those of a symbol that was never seen."""
        return cls(minutes=Window(MINUTES))

    @property
    def is_active(self) -> bool:
        """Whether there was any liquidation lately."""
        return bool(self.steps)

    def add(self, now: int, side: str, price: str, size: str) -> None:
        """Count a liquidation; `side` is that of the order that closes the position."""
        self._close_minute(now)
        self.counts[side] = self.counts.get(side, 0) + 1
        step = self.steps.setdefault(now - now % STEP_NS, Step({}))
        step.counts[side] = step.counts.get(side, 0) + 1
        step.value += abs(float(price) * float(size))

    def forget(self) -> None:
        """Forget the last minute: some of its liquidations may be missing."""
        self.steps.clear()
        self.counts.clear()

    def judge(
        self, event: Trades | Derivative, metric: str, episodes: Episodes, limits: Limits, counts: Counter[str]
    ) -> list[AnyEvent]:
        """Return what begins, worsens or ends at the time of an event; call it while `is_active`."""
        now = episodes.now
        self._close_minute(now)
        for start in [start for start in self.steps if start < now - now % STEP_NS - STEPS * STEP_NS]:
            del self.steps[start]
        sums: Counter[str] = Counter()
        for step in self.steps.values():
            sums.update(step.counts)
        side, count = max(sorted(sums.items()), key=lambda item: item[1], default=("", 0))
        usual = self.minutes.median() if len(self.minutes) >= MINUTES_MIN else 0.0
        limit = max(limits.cascade_min, limits.cascade_times * usual)
        if count <= limit:
            return episodes.within(event, KIND, metric)
        text = (
            f"{count} liquidations by {side} orders in a minute; usual are {as_text(usual)}, the limit is "
            f"{as_text(limit)}"
        )
        evidence = {
            "side": side,
            "value": as_text(sum(step.value for step in self.steps.values())),
            "minutes": str(len(self.minutes)),
        }
        cascade = found(KIND, metric, value=count, limit=limit, usual=usual, text=text, evidence=evidence)
        return episodes.exceeded(event, cascade, counts)

    def _close_minute(self, now: int) -> None:
        minute = now - now % MINUTE_NS
        if minute > self.minute:
            if self.counts:
                self.minutes.push(float(max(self.counts.values())))
                self.counts.clear()
            self.minute = minute
