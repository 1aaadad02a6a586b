"""What the anomaly operators share: the kinds, the life of an anomaly from start to end, and the price tick.

| kind | from | while |
|---|---|---|
| `price_jump` | trades | the price moves by more than a multiple of the usual change between two messages |
| `volume_spike` | trades | a minute's volume is more than a multiple of the usual minute's |
| `silent` | trades | there is no trade for a long time although heartbeats continue and trading is not halted |
| `liquidation_cascade` | trades, derivatives | far more positions of one side are liquidated in a minute than usual |
| `stale` | quotes | a quote is marked as stale |
| `crossed` | quotes | the best bid is above the best ask |
| `spread_blowout` | quotes | the spread is more than a multiple of the usual one |
| `quote_stuffing` | metrics | the book changes far more often than usual without a new best price |
| `price_deviation` | all venues | a venue's price is away from the other venues' by far more than usual |
| `gap` | status | the feed lost data |
| `stale` | status | the feed receives no data, or cannot connect |

An anomaly has one id and one life:

1. `start`: a value is above its limit.
2. `peak`: the value has doubled since it was last published, or has become critical; at most `PEAKS_MAX` times.
3. `end`: the value has been within its limit for a while (each kind has its own), or can be observed no more: the data
   has a gap, or trading is halted. Its time is that of the first value within the limit; for a jump,
   which takes no time, that of the last jump.

Every event of an anomaly states all of it so far: start, worst value with its time and limit, end. So readers keep the
last event of each id. There is at most one open anomaly of a kind and metric of a symbol.

What is usual is a rolling median, which a single outlier cannot move; a limit has a floor, so that a single tick in a
flat market is not an anomaly. Nothing is found during a halt, shortly after it, or before the median has enough values.
Measured values are floats: they are compared, and never become a price. Time is event time.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.decimals import plain
from marketdata.events import Anomaly, AnyEvent, Derivative, FeedStatus, Metrics, Quote, Trades, VenuePrice

# Values after a halt that enter the median but are not evaluated: an auction sets a new price.
AFTER_HALT = 20
# A value this many times its limit is critical.
CRITICAL_TIMES = 3.0
# How much worse a value must be than the one last published, and how often that is published.
PEAK_TIMES = 2.0
PEAKS_MAX = 8
# How long a value must be within its limit before the anomaly has ended, unless its kind says otherwise.
HOLD_NS = 10 * SECOND_NS


# What an anomaly is found in.
Observed = Trades | Quote | Metrics | VenuePrice | Derivative | FeedStatus


class Finding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A value above its limit. `value`, `limit` and `usual` are decimal strings, `size` is the value to compare."""

    kind: str
    metric: str
    severity: str
    size: float
    value: str
    limit: str
    usual: str | None
    text: str
    evidence: dict[str, str] = {}


class Open(msgspec.Struct):
    """An anomaly that has started: the worst finding so far, and when the value came within its limit, if it did.

    `shown` is the size last published, `peaks` how often a peak was. Times are UTC nanoseconds of event time.
    """

    identity: str
    finding: Finding
    ts_start: int
    ts_peak: int
    hold_ns: int
    shown: float
    peaks: int = 0
    ts_calm: int | None = None


class Episodes(msgspec.Struct):
    """The open anomalies of one operator and symbol, by kind and metric; `now` is the newest event time."""

    open: dict[str, Open] = {}
    now: int = 0
    started: int = 0

    def settle(self, event: Observed) -> list[AnyEvent]:
        """Take an event's time, and return the ends of those anomalies whose value is within its limit for long."""
        self.now = max(self.now, event.ts_event)
        if not self.open:
            return []
        ended = [name for name, one in self.open.items()
                 if one.ts_calm is not None and self.now - one.ts_calm >= one.hold_ns]  # fmt: skip
        return [self._end(event, name) for name in ended]

    def exceeded(
        self, event: Observed, finding: Finding, counts: Counter[str], hold_ns: int = HOLD_NS, *, instant: bool = False
    ) -> list[AnyEvent]:
        """Take a value above its limit in; return the start or a peak where it is one.

        What is `instant` is over at once: it ends when there was no other for `hold_ns`.
        """
        name = f"{finding.kind}|{finding.metric}"
        known = self.open.get(name)
        if known is None:
            counts[finding.kind] += 1
            self.started += 1
            identity = f"{event.venue}:{event.symbol}:{finding.kind}:{finding.metric}:{self.now}:{self.started}"
            known = self.open[name] = Open(identity, finding, self.now, self.now, hold_ns, finding.size)
            known.ts_calm = self.now if instant else None
            return [self._event(event, known, "start")]
        known.ts_calm = self.now if instant else None
        if finding.size <= known.finding.size:
            return []
        escalated = finding.severity == "critical" != known.finding.severity
        known.finding, known.ts_peak = finding, self.now
        if known.peaks >= PEAKS_MAX or not (escalated or finding.size >= PEAK_TIMES * known.shown):
            return []
        known.peaks += 1
        known.shown = finding.size
        return [self._event(event, known, "peak")]

    def within(self, event: Observed, kind: str, metric: str) -> list[AnyEvent]:
        """Note that a value is within its limit; return the end where it counts at once."""
        name = f"{kind}|{metric}"
        known = self.open.get(name)
        if known is None:
            return []
        if known.ts_calm is None:
            known.ts_calm = self.now
        return [] if known.hold_ns else [self._end(event, name)]

    def interrupt(self, event: Observed, reason: str) -> list[AnyEvent]:
        """Return the ends of all: the values can be observed no more, or mean nothing."""
        return [self._end(event, name, reason) for name in list(self.open)]

    def _end(self, event: Observed, name: str, reason: str = "") -> Anomaly:
        known = self.open.pop(name)
        if known.ts_calm is not None:
            return self._event(event, known, "end", known.ts_calm)
        return self._event(event, known, "end", self.now, reason)

    def _event(self, event: Observed, known: Open, phase: str, ts_end: int | None = None, reason: str = "") -> Anomaly:
        finding = known.finding
        text, evidence = finding.text, {"line": event.line} | finding.evidence
        if ts_end is not None:
            text += f"; lasted {as_text((ts_end - known.ts_start) / SECOND_NS)} s"
        if reason:
            text += f", until {reason}"
            evidence["ended_by"] = reason
        return Anomaly(
            venue=event.venue,
            symbol=event.symbol,
            ts_event=self.now,
            ts_recv=event.ts_recv,
            anomaly_id=known.identity,
            kind=finding.kind,
            severity=finding.severity,
            metric=finding.metric,
            value=finding.value,
            limit=finding.limit,
            evidence=evidence,
            phase=phase,
            ts_start=known.ts_start,
            ts_peak=known.ts_peak,
            ts_end=ts_end,
            usual=finding.usual,
            text=text,
        )


def found(
    kind: str,
    metric: str,
    *,
    value: float,
    limit: float,
    usual: float | None,
    text: str,
    evidence: dict[str, str] | None = None,
) -> Finding:
    """Return the finding of a measured value."""
    return Finding(
        kind=kind,
        metric=metric,
        severity="critical" if value >= CRITICAL_TIMES * limit else "warning",
        size=float(value),
        value=as_text(value),
        limit=as_text(limit),
        usual=None if usual is None else as_text(usual),
        text=text,
        evidence=evidence or {},
    )


def as_text(value: float) -> str:
    """Return a measured value as a decimal string of at most ten places."""
    return plain(Decimal(repr(round(value, 10))))


def percent(value: float) -> str:
    """Return a fraction as percent for people, with four digits."""
    return f"{value * 100:.4g} %"


def decimal_places(price: str) -> int:
    """Return the number of decimal places of a price without trailing zeros: 3 for `100.10500`."""
    if "e" in price or "E" in price:
        price = plain(Decimal(price))
    point = price.find(".")
    return len(price.rstrip("0")) - point - 1 if point >= 0 else 0


def ticks(places: int, price: float, count: float) -> float:
    """Return `count` ticks relative to a price, where a tick is the finest of `places` decimal places."""
    return count * 10.0**-places / price
