"""Prometheus metrics that several services share; each service defines its own next to its code."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Histogram

LATENCY_BUCKETS_MS = (0.25, 0.5, 1, 2, 4, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100, 150, 250, 500, 1000, 2500, 5000, 10000)

HOP_LATENCY_MS = Histogram(
    "tickstream_hop_latency_ms",
    "Time of an event between two stages of the pipeline, milliseconds.",
    ["hop"],
    buckets=LATENCY_BUCKETS_MS,
)
WS_LATENCY_MS = Histogram(
    "market_data_ws_latency_ms",
    "Time from the venue's timestamp to our receipt of the frame, milliseconds; 0 if the venue's clock is ahead.",
    ["venue"],
    buckets=LATENCY_BUCKETS_MS,
)
WRITE_LATENCY_MS = Histogram(
    "market_data_write_latency_ms",
    "Duration of one database transaction of the sink, milliseconds.",
    buckets=LATENCY_BUCKETS_MS,
)
DROPPED = Counter(
    "market_data_dropped_msgs_total",
    "Messages that were not passed on, by stage and reason, including duplicates and dead letters.",
    ["stage", "reason"],
)


def observe_hop(hop: str, start_ns: int, end_ns: int) -> None:
    """Record the time between two hops, in UTC nanoseconds, if both are known (not 0); negative times count as 0."""
    if start_ns and end_ns:
        _histogram(hop).observe(max(0, end_ns - start_ns) / 1e6)


@cache
def _histogram(hop: str) -> Histogram:
    return HOP_LATENCY_MS.labels(hop)
