"""What a worker says of itself while nothing can be committed."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from runtime.health import Readiness
from runtime.settings import load
from runtime.tracing import Tracing
from stream_apps.engines import worker
from stream_apps.engines.worker import KAFKA, PIPELINE, REGISTRY, Worker
from stream_apps.settings import StreamSettings
from tests.engines import counting

REFUSED = "Kafka's feature transaction.version is at level 1"


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        """Return the time, seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The worker's clock."""
    made = Clock()
    monkeypatch.setattr(worker, "time", made)
    return made


def test_a_worker_that_cannot_open_transactions_is_not_ready_after_a_while_and_says_why(clock: Clock) -> None:
    """A moment without them, as after a lost connection, is no reason; each new one is counted from its beginning."""
    readiness = Readiness(KAFKA, REGISTRY, PIPELINE)
    made = Worker(load(StreamSettings), readiness, Tracing("test", None), threading.Event(), counting.make_operators)

    def seen(why: str, after_s: float) -> Any:
        clock.now += after_s
        made.export([], "", why)
        return readiness.is_up(PIPELINE)

    assert seen(REFUSED, 0)
    assert seen(REFUSED, 15)
    assert seen("", 1)
    assert seen(REFUSED, 1)
    assert seen(REFUSED, 15)
    assert not seen(REFUSED, 6)
    assert REFUSED in str(readiness.report())
    assert seen("", 1)
