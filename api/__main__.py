"""Starts the query API: `python -m api`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from api.app import create
from api.gateway.websocket import protocol
from api.service import Service
from api.settings import ApiSettings
from marketdata.compiled import BOOKS, CODEC
from marketdata.errors import SettingsError
from runtime import log
from runtime.settings import load
from runtime.tracing import Tracing

# Kafka's thread decodes while the loop waits to send: hand the interpreter over ten times as often as by default.
_SWITCH_INTERVAL_S = 0.0005
_GOODBYE_S = 8
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """A server that stops without failure on a signal: uvicorn's own raises the signal again at the end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in order on SIGTERM and SIGINT while the context lasts."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def server(service: Service, settings: ApiSettings, tracing: Tracing) -> uvicorn.Server:
    """Return the HTTP and WebSocket server around a service."""
    app = create(service)
    if tracing.provider is not None:
        FastAPIInstrumentor.instrument_app(
            app, tracer_provider=tracing.provider, excluded_urls="healthz,readyz,metrics"
        )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.api_port,
        loop="uvloop",
        http="httptools",
        ws=protocol(service.gateway, settings.ws_ping_s),  # type: ignore[arg-type] # called as a class would be
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GOODBYE_S,
    )
    return _Server(config)


def main() -> int:
    """Serve until stopped; SIGTERM closes every client's connection first."""
    try:
        settings = load(ApiSettings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    log.configure("api", settings.log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    structlog.get_logger().info("starting", host=settings.host, port=settings.api_port, books=BOOKS, codec=CODEC)
    with Tracing("api", settings.otlp_endpoint) as tracing:
        try:
            service = Service(settings, tracing)
        except SettingsError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        server(service, settings, tracing).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
