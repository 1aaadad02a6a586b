"""Starts the stream apps: `python -m stream_apps [--app NAME ...]`, all of them when none is named."""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import sys
import threading

import structlog
import uvloop

from marketdata.compiled import BOOKS, CODEC
from marketdata.errors import SettingsError
from runtime import log
from runtime.health import HealthServer, Readiness
from runtime.settings import load
from runtime.tracing import Tracing
from stream_apps.engines import direct, faust
from stream_apps.engines.apps import App
from stream_apps.engines.worker import KAFKA, REGISTRY, Stopped, Worker
from stream_apps.settings import StreamSettings
from stream_apps.table import APPS


def run(settings: StreamSettings, apps: tuple[App, ...]) -> None:
    """Run apps until SIGTERM or SIGINT, which drains them."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    readiness = Readiness(KAFKA, REGISTRY)
    with (
        HealthServer(settings.host, settings.metrics_port, readiness),
        Tracing("stream-apps", settings.otlp_endpoint) as tracing,
    ):
        try:
            with Worker(settings, apps, readiness, tracing, stop) as worker:
                # What is there now stays: not looking at it again halves the collector's pauses.
                gc.freeze()
                if settings.engine == "direct":
                    direct.run(worker)
                else:
                    uvloop.run(faust.run(worker))
        except Stopped:
            structlog.get_logger(__name__).info("told to stop before it had started")


def configure_logs(settings: StreamSettings) -> None:
    """Send logs as JSON; the libraries' own are told from `warning` on, they comment on every step."""
    log.configure("stream-apps", settings.log_level)
    structlog.get_logger().info("starting", books=BOOKS, codec=CODEC)
    if settings.log_level != "debug":
        for library in ("aiokafka", "faust", "mode", "httpx"):
            logging.getLogger(library).setLevel(logging.WARNING)


def main() -> None:
    """Read the command line and the environment, then run."""
    parser = argparse.ArgumentParser(prog="python -m stream_apps", description=__doc__)
    parser.add_argument("--app", action="append", choices=sorted(APPS), help="run only this app; may be repeated")
    names = parser.parse_args().app or sorted(APPS)
    try:
        settings = load(StreamSettings)
    except SettingsError as error:
        sys.exit(str(error))
    configure_logs(settings)
    run(settings, tuple(APPS[name] for name in dict.fromkeys(names)))


if __name__ == "__main__":
    main()
