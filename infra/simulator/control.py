"""What every simulated venue serves over HTTP besides its own interface: refusals, faults, health and metrics."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from infra.simulator.fault_routes import Faulty, add_faults


class Controlled(Faulty, Protocol):
    """A simulated venue, as HTTP sees it."""

    @property
    def broken(self) -> asyncio.Event:
        """Set after an error of our own."""

    def view(self) -> dict[str, Any]:
        """Return what was refused and ended so far, by reason."""


def create_app(venue: Controlled, title: str = "Simulated venue") -> FastAPI:
    """Return an application with `/limits`, `/faults`, `/healthz`, `/readyz` and `/metrics`."""
    app = FastAPI(title=title, docs_url="/docs", redoc_url=None)
    add_faults(app, venue)

    @app.get("/limits")
    async def limits() -> dict[str, Any]:
        """What was refused and ended so far because of a limit, by reason."""
        return venue.view()

    @app.get("/healthz")
    @app.get("/readyz")
    async def health(response: Response) -> dict[str, str]:
        """Whether the venue runs."""
        is_broken = venue.broken.is_set()
        response.status_code = 503 if is_broken else 200
        return {"status": "broken" if is_broken else "alive"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app
