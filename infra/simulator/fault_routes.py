"""The HTTP endpoints that activate, list and remove the faults of a simulated venue."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Protocol

import msgspec
from fastapi import FastAPI, HTTPException, Query, Request

from infra.simulator.faults import Fault, Injection, Injector

FAULTS_SHOWN = 100


class Faulty(Protocol):
    """A simulated venue that supports faults."""

    @property
    def injector(self) -> Injector:
        """The active faults."""

    def inject(self, fault: Fault) -> Injection:
        """Activate a fault.

        Raises ValueError when its target does not exist.
        """


def add_faults(app: FastAPI, exchange: Faulty) -> None:
    """Add endpoints to activate, list and remove faults."""

    @app.get("/faults")
    async def faults() -> dict[str, Any]:
        """Active faults and the last completed ones."""
        past = list(exchange.injector.past)[-FAULTS_SHOWN:]
        return {"active": [_view(one) for one in exchange.injector.active], "past": [_view(one) for one in past]}

    @app.post("/faults", openapi_extra={"requestBody": {"content": {"application/json": {"schema": _fault_schema()}}}})
    async def inject(
        request: Request,
        wait_s: Annotated[float, Query(ge=0, le=60, description="Maximum wait for the fault to complete.")] = 5.0,
    ) -> dict[str, Any]:
        """Activate a fault and return the affected connections and sequence numbers."""
        try:
            injection = exchange.inject(msgspec.json.decode(await request.body(), type=Fault))
        except (msgspec.MsgspecError, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        # A mute lasts for a while, and an unlimited fault forever, so their response does not wait.
        if injection.fault.kind != "mute" and injection.fault.count:
            done = asyncio.Event()
            injection.on_done = done.set
            if not injection.done:
                with suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), wait_s)
        return _view(injection)

    @app.delete("/faults")
    async def clear() -> dict[str, int]:
        """Remove every active fault."""
        return {"ended": exchange.injector.clear()}


def _fault_schema() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components([Fault])
    schema: dict[str, Any] = schemas["Fault"]
    return schema


def _view(injection: Injection) -> dict[str, Any]:
    return {
        "id": injection.id,
        "fault": msgspec.to_builtins(injection.fault),
        "ts": injection.ts,
        "done": injection.done,
        "total": injection.total,
        "hits": msgspec.to_builtins(list(injection.hits)),
    }
