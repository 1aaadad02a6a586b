"""The backfill at start: what a venue did not answer is tried again, what it refuses is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from infra.local.settings import free_port
from marketdata.errors import Refused, Unavailable
from producers.history import process as history_process
from producers.history.settings import HistorySettings, load_history_process


@asynccontextmanager
async def ready(*_: object) -> AsyncIterator[Any]:
    """Stand for the open services."""
    yield type("HistoryServices", (), {"database": None, "publisher": None})


class FailingBackfill:
    """A backfill whose products fail as `failures` says, each time one of them; what was done is in `done`."""

    has_trades = False
    failures: dict[str, list[Exception]]
    done: list[str]

    def __init__(self, *_: object) -> None:
        """Take what a backfill takes."""

    async def listed(self, product: str) -> str:
        """Return the symbol."""
        return product

    async def candles(self, symbol: str, *_: object) -> None:
        """Fail, or note the symbol."""
        if self.failures.get(symbol):
            raise self.failures[symbol].pop(0)
        self.done.append(symbol)


def test_a_product_without_a_response_is_backfilled_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others at once; and when all is done, and no scan is configured, the process ends."""
    monkeypatch.setattr(history_process, "RETRY_S", 0.0)
    monkeypatch.setattr(history_process, "open_history_services", ready)
    monkeypatch.setattr(history_process, "find_history", ready)
    monkeypatch.setattr(history_process, "Backfill", FailingBackfill)
    FailingBackfill.done = []
    FailingBackfill.failures = {"A": [Unavailable("away"), Unavailable("still away")], "B": [Refused("what is that?")]}
    asyncio.run(asyncio.wait_for(history_process.keep(HistorySettings(backfill_days=1), "v", ["A", "B", "C"]), 10))
    assert FailingBackfill.done == ["C", "A"]


def test_the_process_serves_its_health_and_metrics(pipeline: Any, venue: Any, wait_for: Callable[..., Any]) -> None:
    """Ready once Kafka, registry and database respond; its requests to the venue are among its metrics."""
    port = free_port()
    pipeline.env |= {"TICKSTREAM_GAP_SCAN_MINUTES": "60", "TICKSTREAM_HISTORY_URL": venue.url,
                 "TICKSTREAM_HISTORY_METRICS_PORT": str(port)}  # fmt: skip
    pipeline.start("producers.history.process", "coinbase", "BTC-USD")

    def answer(path: str) -> httpx.Response | None:
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}{path}")
        return None

    ready = wait_for("readiness", lambda: (found := answer("/readyz")) and found.is_success and found)
    assert set(ready.json()["checks"]) == {"kafka", "registry", "database"}
    metrics = answer("/metrics")
    assert metrics is not None
    assert 'tickstream_dependency_up{dependency="database"} 1.0' in metrics.text
    assert "tickstream_history_rows_total" in metrics.text


@pytest.mark.parametrize(
    ("venue", "more", "minutes"),
    [
        ("coinbase", {}, 60),
        ("coinbase", {"GAP_SCAN_MINUTES": "5"}, 5),
        ("coinbase", {"GAP_SCAN_MINUTES": "0"}, 0),
        ("coinbase", {"SOURCE": "sim"}, 0),
        ("coinbase", {"HISTORY_DATABASE_URL": ""}, 0),
        ("fix", {}, 0),  # it has no history
        ("alpaca", {}, 0),  # needs a key
        ("alpaca", {"HISTORY_KEY": "k", "HISTORY_SECRET": "s"}, 60),
    ],
)
def test_live_prices_are_scanned_every_hour_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch, venue: str, more: dict[str, str], minutes: int
) -> None:
    """Unless configured otherwise."""
    given = {"SOURCE": "live", "HISTORY_DATABASE_URL": "postgresql://history"} | more
    for name in ("GAP_SCAN_MINUTES", "BACKFILL_DAYS", "HISTORY_KEY", "HISTORY_SECRET", "HISTORY_URL"):
        monkeypatch.delenv(f"TICKSTREAM_{name}", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(f"TICKSTREAM_{name}", value)
    assert load_history_process(venue).gap_scan_minutes == minutes
