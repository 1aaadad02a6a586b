"""What the anomaly operators share: the kinds, the cooldown between two reports, and the price tick.

| kind | from | when |
|---|---|---|
| `price_jump` | trades | the price changed from the last message's by more than a multiple of the median change |
| `volume_spike` | trades | a minute's volume is more than a multiple of the median minute's |
| `stale` | trades | no trade for a long time although heartbeats continue |
| `stale` | quotes | a quote is marked as stale |
| `crossed` | quotes | the best bid is above the best ask |
| `spread_blowout` | quotes | the spread is more than a multiple of the median spread |
| `gap` | status | the feed lost data |
| `stale` | status | the feed receives no data, or cannot connect |

Limits are multiples of a rolling median, which a single outlier cannot move. Each limit has a floor, so that a single
tick in a flat market is not an anomaly. Nothing is reported during a halt, shortly after it, or before the window has
enough values. Each kind is reported at most once per `COOLDOWN_NS`; suppressed reports are counted. Measured values are
floats: they are compared, and never become a price.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.decimals import plain
from marketdata.events import Anomaly, FeedStatus, Quote, Trades

COOLDOWN_NS = 60 * SECOND_NS
# Values after a halt that enter the window but are not evaluated: an auction sets a new price.
AFTER_HALT = 20
# A value this many times its limit is critical.
CRITICAL_TIMES = 3.0


class Reports(msgspec.Struct):
    """The time of the last report of each kind."""

    last: dict[str, int] = {}

    def is_due(self, kind: str, ts: int, counts: Counter[str]) -> bool:
        """Return whether a kind may be reported at `ts`; if so, record the report."""
        last = self.last.get(kind)
        if last is not None and ts - last < COOLDOWN_NS:
            counts["held_back"] += 1
            return False
        self.last[kind] = ts
        counts[kind] += 1
        return True


def make_anomaly(
    event: Trades | Quote | FeedStatus,
    kind: str,
    severity: str,
    metric: str,
    *,
    value: str,
    limit: str,
    **evidence: str,
) -> Anomaly:
    """Return the anomaly of an event: `value` of `metric` crossed `limit`, both decimal strings."""
    return Anomaly(
        venue=event.venue,
        symbol=event.symbol,
        ts_event=event.ts_event,
        ts_recv=event.ts_recv,
        anomaly_id=f"{event.venue}:{event.symbol}:{kind}:{metric}:{event.ts_event}",
        kind=kind,
        severity=severity,
        metric=metric,
        value=value,
        limit=limit,
        evidence={"line": event.line} | evidence,
    )


def severity(value: float, limit: float) -> str:
    """Return the severity of a value above its limit."""
    return "critical" if value >= CRITICAL_TIMES * limit else "warning"


def as_text(value: float) -> str:
    """Return a measured value as a decimal string of at most ten places."""
    return plain(Decimal(repr(round(value, 10))))


def decimal_places(price: str) -> int:
    """Return the number of decimal places of a price without trailing zeros: 3 for `100.10500`."""
    if "e" in price or "E" in price:
        price = plain(Decimal(price))
    point = price.find(".")
    return len(price.rstrip("0")) - point - 1 if point >= 0 else 0


def ticks(places: int, price: float, count: int) -> float:
    """Return `count` ticks relative to a price, where a tick is the finest of `places` decimal places."""
    return count * 10.0**-places / price
