"""The sink's metrics, including the latency of stored messages."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from marketdata.headers import TRACEPARENT, Headers, hops_of
from runtime.metrics import observe_hop
from runtime.tracing import Tracing

ROWS = Counter("tickstream_rows_stored_total", "Rows stored, by table.", ["table"])
LAG = Gauge("tickstream_sink_lag", "Messages of a topic that are not stored yet.", ["topic"])
BATCH_ROWS = Histogram(
    "tickstream_sink_batch_rows",
    "Rows per transaction.",
    buckets=(0, 1, 10, 50, 100, 500, 1000, 2500, 5000, 10000, 50000),
)
QUEUE_ROWS = Gauge("tickstream_sink_queue_rows", "Rows read but not stored yet.")
GAPS_OPEN = Gauge("tickstream_gaps_open", "Open gaps in the ledger, by venue.", ["venue"])
STALLED = Gauge(
    "tickstream_sink_partitions_stalled", "Partitions without reading progress although they have more records."
)
REWINDS = Counter("tickstream_sink_rewinds_total", "Returns to the offsets in the database, by reason.", ["reason"])


def measure_hops(tracing: Tracing, headers: Headers, now_ns: int) -> None:
    """Record the latency of a stored message, and end its trace; `now_ns` is UTC nanoseconds."""
    hops = hops_of(headers)
    observe_hop("received_to_stored", hops.t_recv, now_ns)
    if hops.t_processed:
        observe_hop("processed_to_stored", hops.t_processed, now_ns)
    else:
        observe_hop("produced_to_stored", hops.t_produced, now_ns)
    if TRACEPARENT in headers:
        last = hops.t_processed or hops.t_produced or hops.t_recv
        tracing.span("store", headers[TRACEPARENT], last or now_ns, now_ns)


def show_open_gaps(gaps_open: dict[str, int]) -> None:
    """Set the number of open gaps by venue."""
    for venue, count in gaps_open.items():
        GAPS_OPEN.labels(venue).set(count)
