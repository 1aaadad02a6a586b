"""Prometheus metrics that several services share; each service adds its own beside its code."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Histogram

LATENCY_BUCKETS_MS = (0.25, 0.5, 1, 2, 4, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100, 150, 250, 500, 1000, 2500, 5000, 10000)

HOP_LATENCY_MS = Histogram(
    "tickstream_hop_latency_ms",
    "Time that an event took from one hop of the pipeline to the next, milliseconds.",
    ["hop"],
    buckets=LATENCY_BUCKETS_MS,
)
WS_LATENCY_MS = Histogram(
    "market_data_ws_latency_ms",
    "Venue's clock to our receipt of the frame, milliseconds; a venue clock ahead of ours counts as 0.",
    ["venue"],
    buckets=LATENCY_BUCKETS_MS,
)
WRITE_LATENCY_MS = Histogram(
    "market_data_write_latency_ms",
    "Time of one database transaction of the sink, milliseconds.",
    buckets=LATENCY_BUCKETS_MS,
)
DROPPED = Counter(
    "market_data_dropped_msgs_total",
    "Messages that did not go on, by stage and reason; duplicates and dead letters are among them.",
    ["stage", "reason"],
)


def observe_hop(hop: str, start_ns: int, end_ns: int) -> None:
    """Record the time between two hops, UTC nanoseconds, where both are known (not 0); a negative time counts as 0."""
    if start_ns and end_ns:
        _histogram(hop).observe(max(0, end_ns - start_ns) / 1e6)


@cache
def _histogram(hop: str) -> Histogram:
    return HOP_LATENCY_MS.labels(hop)
