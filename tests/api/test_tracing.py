"""Traces that end where a client reads: the hops of one event and the requests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from marketdata.events import BookUpdate

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector:
    """An OpenTelemetry collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                spans.extend(
                    span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans
                )
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that listens."""
    one = Collector()
    yield one
    one.close()


def test_the_delivery_of_an_event_belongs_to_the_trace_of_its_socket(
    stage: Any, collector: Collector, open_socket: Any, wait_for: Any
) -> None:
    """A record's `traceparent` is the parent of the span `deliver`; a request has a span of its own."""

    def change(kind: str, size: str) -> BookUpdate:
        return BookUpdate(
            venue="coinbase", symbol="BTC-USD", line="coinbase/0", ts_event=1, ts_recv=time.time_ns(), kind=kind,
            bid_prices=["1"], bid_sizes=[size],
        )  # fmt: skip

    stage.start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="200")
    stage.ready()
    stage.produce(change("snapshot", "1"))
    wait_for("the book", lambda: stage.client.get("/api/v1/market/BTC-USD/orderbook").status_code == 200)

    async def follow() -> None:
        async with open_socket(stage) as client:
            await client.subscribe("book")
            await client.receive()
            stage.produce(change("update", "2"), headers={"traceparent": f"00-{TRACE}-{PARENT}-01".encode()})
            await client.receive()

    asyncio.run(follow())
    wait_for("the span", lambda: any(span.name == "deliver" for span in collector.spans))
    (span,) = [span for span in collector.spans if span.name == "deliver"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    wait_for("the request's", lambda: any("orderbook" in span.name for span in collector.spans))
    assert not any("readyz" in span.name for span in collector.spans)
