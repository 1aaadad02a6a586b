"""The sink's metrics, and the times of the hops of what it stored."""

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
QUEUE_ROWS = Gauge("tickstream_sink_queue_rows", "Rows read and not stored yet.")
GAPS_OPEN = Gauge("tickstream_gaps_open", "Gaps of the ledger that are not repaired, by venue.", ["venue"])
STALLED = Gauge("tickstream_sink_partitions_stalled", "Partitions that are not read although their log continues.")
REWINDS = Counter("tickstream_sink_rewinds_total", "Returns to the offsets in the database, by reason.", ["reason"])


def measure_hops(tracing: Tracing, headers: Headers, now_ns: int) -> None:
    """Observe how long a stored message was on its way, and end its trace; `now_ns` is UTC nanoseconds."""
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
    """Show the number of open gaps by venue."""
    for venue, count in gaps_open.items():
        GAPS_OPEN.labels(venue).set(count)
