"""Starts the query API: `python -m api`."""

from __future__ import annotations

import sys

import structlog
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from api.app import create
from api.gateway.websocket import protocol
from api.gateway.workers import protocol as handed_over
from api.hosts import Hosts
from api.server import HttpLimits, Server, make_server
from api.service import Service
from api.settings import ApiSettings, items
from marketdata.compiled import BOOKS, CODEC
from marketdata.errors import SettingsError
from runtime import log
from runtime.settings import load
from runtime.tracing import Tracing

# Kafka's thread decodes while the loop waits to send: hand the interpreter over ten times as often as by default.
_SWITCH_INTERVAL_S = 0.0005


def server(service: Service, settings: ApiSettings, tracing: Tracing) -> Server:
    """Return the HTTP and WebSocket server around a service."""
    hosts = Hosts(settings.host, items(settings.api_hosts), items(settings.api_origins))
    app = create(service, hosts)
    if tracing.provider is not None:
        FastAPIInstrumentor.instrument_app(
            app, tracer_provider=tracing.provider, excluded_urls="healthz,readyz,metrics"
        )
    limits = HttpLimits(
        head_s=settings.api_head_s,
        body_s=settings.api_body_s,
        idle_s=settings.api_idle_s,
        send_s=settings.api_send_s,
        connections_max=settings.api_connections_max,
    )
    return make_server(
        app,
        protocol(service.gateway, service.sockets, settings.ws_ping_s, hosts)
        if service.workers is None
        else handed_over(service.workers, service.sockets),
        host=settings.host,
        port=settings.api_port,
        limits=limits,
        trusted_proxies=items(settings.api_trusted_proxies),
        certificate=settings.api_tls_certificate,
        key=settings.api_tls_key,
    )


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
