"""The sink's process: settings, logs, health, then the loop until `stop` is set."""

from __future__ import annotations

import sys
import threading
import time
from functools import partial

import structlog

from marketdata.errors import SettingsError, Unavailable
from runtime import garbage, log
from runtime.health import HealthServer, Readiness
from runtime.registry import Registry, decode
from runtime.settings import load
from runtime.tracing import Tracing
from sink.brokers import DeadLetterPublisher
from sink.service import Sink, connect_registry
from sink.settings import SinkSettings
from sink.writer import Writer


def run(stop: threading.Event) -> int:
    """Run the sink until `stop` is set; return the exit status."""
    try:
        settings = load(SinkSettings)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - logging is not configured yet
        return 2
    log.configure("sink", settings.log_level)
    readiness = Readiness("kafka", "database", "registry", "reading")
    with (
        HealthServer(settings.host, settings.metrics_port, readiness),
        Tracing("sink", settings.otlp_endpoint) as tracing,
    ):
        registry = Registry(settings.registry_url)
        codec = connect_registry(registry, readiness, stop)
        if codec is not None:
            letters = DeadLetterPublisher(settings, codec)
            writer = Writer(
                settings.dsn,
                settings.database_schema,
                publish=letters.publish,
                decode=partial(decode, codec, registry),
                now=time.time_ns,
                write_seconds=settings.sink_write_seconds,
            )
            sink = Sink(settings, readiness=readiness, registry=registry, codec=codec, writer=writer, tracing=tracing)
            garbage.freeze()
            try:
                sink.run(stop)
            except Unavailable as error:
                structlog.get_logger().error("stopped", reason=str(error))
                return 1
        registry.close()
    return 0
