"""Keys for the tests of access, made as an operator makes them, and the API as their owners use it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from api.auth.keys import SCOPES_DEFAULT
from api.auth.store import Store

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Owner:
    """The owner of a key: requests with it, and what is known of it."""

    def __init__(self, stage: Any, key: str) -> None:
        self.key = key
        self.prefix = key.split("_")[1]
        self._stage = stage

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Send GET."""
        return self.send("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        """Send POST."""
        return self.send("POST", path, **more)

    def delete(self, path: str) -> httpx.Response:
        """Send DELETE."""
        return self.send("DELETE", path)

    def send(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        """Send a request with the key."""
        headers = {"Authorization": f"Bearer {self.key}"} | (headers or {})
        answer: httpx.Response = self._stage.client.request(method, path, headers=headers, **more)
        return answer

    def token(self) -> str:
        """Return a new token for the WebSocket."""
        answer = self.post("/api/v1/tokens")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])


def run_keys(stage: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tickstream keys` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tickstream", "keys", *arguments],
        env=stage.env | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(name="run_keys")
def run_keys_() -> Run:
    """The function `run_keys`, which test modules cannot import from here."""
    return run_keys


@pytest.fixture
def make_owner() -> Callable[..., Owner]:
    """A function that makes a key for an API, in its database, and returns its owner."""
    return _make_owner


@pytest.fixture(scope="session")
def admin(secured: Any) -> Owner:
    """The operator's key of the shared API that needs keys."""
    return _make_owner(secured, "admin", "market:read", "history:read", "stream")


def _make_owner(stage: Any, *scopes: str, tier: str = "professional", lifetime: timedelta | None = None) -> Owner:
    async def make() -> str:
        store = Store(stage.endpoints.api_database_url, stage.schema)
        await store.open()
        try:
            _, text = await store.create(
                name="test", owner="tests", scopes=scopes or SCOPES_DEFAULT, tier=tier, lifetime=lifetime
            )
            return text
        finally:
            await store.close()

    return Owner(stage, asyncio.run(make()))
