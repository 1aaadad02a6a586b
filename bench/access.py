"""What access control costs each request: microseconds of one core, around an application that does nothing.

TICKSTREAM_REDIS_URL=redis://... python -m bench.access
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import uvloop

from api.auth import keys
from api.auth.access import Access
from api.auth.keys import Key
from api.rest.access import AccessControl
from api.settings import ApiSettings
from runtime.settings import load

REQUESTS = 50_000


async def _nothing(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _measure(app: Any, headers: list[tuple[bytes, bytes]]) -> float:
    """Return microseconds per request."""
    refused = 0

    async def send(message: Any) -> None:
        nonlocal refused
        refused += message.get("status", 200) != 200

    async def receive() -> Any:
        return {"type": "http.request"}

    began = time.perf_counter()
    for _ in range(REQUESTS):
        scope = {
            "type": "http", "method": "GET", "path": "/api/v1/market/BTC-USD/ticker", "query_string": b"",
            "headers": headers, "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await app(scope, receive, send)
    took = time.perf_counter() - began
    if refused:
        raise SystemExit(f"{refused} of {REQUESTS} requests were refused; the figures would mean nothing")
    return took / REQUESTS * 1e6


async def _run() -> None:
    settings = load(ApiSettings)
    bare = await _measure(_nothing, [])
    print(f"no access control            {bare:6.2f} us")
    prefix, text = keys.make()
    key = Key(prefix, keys.digest(text), "bench", "bench", frozenset({"market:read"}), "local", datetime.now(UTC))
    ways = [("without a key", None), ("with a known key", text)]
    for redis_url in dict.fromkeys((None, settings.redis_url)):
        where = "memory" if redis_url is None else "Redis"
        access = Access(settings.model_copy(update={"redis_url": redis_url}))
        access._known[prefix] = access._know(key)  # noqa: SLF001 - as after its first request
        for name, credential in ways:
            headers = [] if credential is None else [(b"authorization", f"Bearer {credential}".encode())]
            cost = await _measure(AccessControl(_nothing, access), headers) - bare
            print(f"{name:18} {where:8} +{cost:6.2f} us")
        await access.limiter.close()


if __name__ == "__main__":
    uvloop.run(_run())
