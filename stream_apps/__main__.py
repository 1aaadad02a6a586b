"""Starts a stream worker: `python -m stream_apps`. Workers share the partitions of the input topics."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading

import structlog
import uvloop

from marketdata.compiled import BOOKS, CODEC
from marketdata.errors import SettingsError
from runtime import garbage, log
from runtime.health import HealthServer, Readiness
from runtime.settings import describe, load
from runtime.tracing import Tracing
from stream_apps.engines import direct, faust
from stream_apps.engines.worker import KAFKA, PIPELINE, REGISTRY, Stopped, Worker
from stream_apps.pipeline import MakeOperators
from stream_apps.settings import StreamSettings


def run(settings: StreamSettings, operators: MakeOperators | None = None) -> None:
    """Run the pipeline until SIGTERM or SIGINT, which drains it; `operators` are those of the settings if not given."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    readiness = Readiness(KAFKA, REGISTRY, PIPELINE)
    with (
        HealthServer(settings.host, settings.metrics_port, readiness),
        Tracing("stream-apps", settings.otlp_endpoint) as tracing,
    ):
        try:
            with Worker(settings, readiness, tracing, stop, operators or settings.operators) as worker:
                garbage.freeze()
                if settings.engine == "direct":
                    direct.run(worker)
                else:
                    uvloop.run(faust.run(worker))
        except Stopped:
            structlog.get_logger(__name__).info("stopped before startup was complete")


def configure_logs(settings: StreamSettings) -> None:
    """Send logs as JSON. Libraries log from `warning` up only, because they log every step."""
    log.configure("stream-apps", settings.log_level)
    structlog.get_logger().info("starting", engine=settings.engine, books=BOOKS, codec=CODEC)
    if settings.log_level != "debug":
        for library in ("aiokafka", "faust", "mode", "httpx"):
            logging.getLogger(library).setLevel(logging.WARNING)


def main() -> None:
    """Read the command line and the environment, then run."""
    parser = argparse.ArgumentParser(
        prog="python -m stream_apps",
        description=__doc__,
        epilog=describe(StreamSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        settings = load(StreamSettings)
    except SettingsError as error:
        sys.exit(str(error))
    configure_logs(settings)
    run(settings)


if __name__ == "__main__":
    main()
