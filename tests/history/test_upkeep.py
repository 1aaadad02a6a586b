"""The backfill at start: what a venue did not answer is tried again, what it refuses is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from marketdata.errors import Refused, Unavailable
from producers import upkeep
from producers.history_settings import HistorySettings


@asynccontextmanager
async def ready(*_: object) -> AsyncIterator[Any]:
    """Stand for what is connected to."""
    yield type("Road", (), {"database": None, "publisher": None})


class Bringing:
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
        """Fail, or bring them."""
        if self.failures.get(symbol):
            raise self.failures[symbol].pop(0)
        self.done.append(symbol)


def test_a_product_that_got_no_answer_is_filled_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others at once; and when all is done, and no scan is wanted, the upkeep ends."""
    monkeypatch.setattr(upkeep, "RETRY_S", 0.0)
    monkeypatch.setattr(upkeep, "open_road", ready)
    monkeypatch.setattr(upkeep, "find_history", ready)
    monkeypatch.setattr(upkeep, "Backfill", Bringing)
    Bringing.done = []
    Bringing.failures = {"A": [Unavailable("away"), Unavailable("still away")], "B": [Refused("what is that?")]}
    asyncio.run(asyncio.wait_for(upkeep.keep(HistorySettings(backfill_days=1), "v", ["A", "B", "C"]), 10))
    assert Bringing.done == ["C", "A"]
