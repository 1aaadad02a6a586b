"""OpenTelemetry traces that follow one event from socket to client, by the Kafka header `traceparent`.

Each stage calls `span` once when it finishes an event, with the time at which it started. Without a configured
collector nothing is recorded, but every event still gets a trace id, so that logs and headers can be matched.
"""

from __future__ import annotations

import random
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
# Ids must be unique, not secret; the operating system's randomness costs several microseconds for each.
_RANDOM = random.Random()  # noqa: S311


def _new_traceparent() -> bytes:
    """Return a trace context of version 00 that was not sampled (https://www.w3.org/TR/trace-context/)."""
    return f"00-{_RANDOM.getrandbits(128) or 1:032x}-{_RANDOM.getrandbits(64) or 1:016x}-00".encode()


class Tracing:
    """The tracer of one service; a context manager that exports the remaining spans when it closes."""

    def __init__(self, service: str, otlp_endpoint: str | None, exporter: SpanExporter | None = None) -> None:
        if exporter is None and otlp_endpoint:
            # Imported here, because it is a fifth of the imports at start-up, and few installations export traces.
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

            exporter = OTLPSpanExporter(endpoint=otlp_endpoint.rstrip("/") + "/v1/traces")
        self._provider: TracerProvider | None = None
        self._tracer: trace.Tracer | None = None
        if exporter is not None:
            self._provider = TracerProvider(resource=Resource.create({"service.name": f"tickstream-{service}"}))
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
            self._tracer = self._provider.get_tracer("tickstream")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        if self._provider is not None:
            self._provider.shutdown()

    @property
    def provider(self) -> TracerProvider | None:
        """The provider for instrumentation of other libraries; None without a configured collector."""
        return self._provider

    def span(
        self,
        name: str,
        parent: bytes | None,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, str | int] | None = None,
    ) -> bytes:
        """Record one stage of an event and return the `traceparent` of its outputs.

        `parent` is the input's `traceparent`, None in the first stage; times are UTC nanoseconds.
        """
        if self._tracer is None:
            return parent if parent is not None else _new_traceparent()
        context = _PROPAGATOR.extract({"traceparent": parent.decode("ascii", "replace")}) if parent else None
        span = self._tracer.start_span(name, context=context, start_time=start_ns, attributes=attributes)
        span.end(end_time=max(start_ns, end_ns))
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
        return carrier["traceparent"].encode()
