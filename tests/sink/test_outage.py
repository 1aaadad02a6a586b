"""Kafka and the database killed under a running sink, on servers of its own: it waits, says so, and loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.local import stack, state
from infra.local.folders import Folders
from infra.local.table import Endpoints
from marketdata.events import Trades

# Beside the shared test stack and the one that the stack's own tests start.
PORT_BASE = int(os.environ.get("TICKSTREAM_TEST_PORT_BASE", "28100")) + 200
GIVEN = [f"TICKSTREAM_{name}" for name in ("KAFKA_BROKERS", "REGISTRY_URL", "DATABASE_URL", "REDIS_URL")]


@pytest.fixture
def own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Endpoints, Folders]]:
    """Servers that no other test uses, so that they may be killed; their supervisor starts them again."""
    for name in GIVEN:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path_factory.mktemp("stack")
    with stack.infrastructure(folder, PORT_BASE) as where:
        yield where, Folders(stack=folder)


def test_kafka_and_the_database_are_killed_and_come_back(
    own: tuple[Endpoints, Folders],
    build_road: Callable[..., Any],
    trades: Callable[..., Trades],
    wait_for: Callable[..., Any],
) -> None:
    """Each is missed by name in /readyz while it is away; afterwards every row is there exactly once."""
    endpoints, folders = own

    def pid(server: str) -> int:
        known = state.load(folders)
        assert known is not None
        identity = next(row.identity for row in known.rows if row.name == server)
        assert identity is not None
        return identity.pid

    road = build_road(endpoints, "", "tickstream")
    road.start()
    for number, server in enumerate(("kafka", "database")):
        road.produce(trades(one, count=3) for one in range(number * 500, number * 500 + 500))
        road.wait_rows("trades", number * 1_500 + 1)
        wait_for("readiness", lambda: road.ready().status_code == 200)
        os.kill(pid(server), signal.SIGKILL)
        wait_for(f"{server} missed", lambda name=server: road.ready().json()["checks"][name] != "ok")
        wait_for("readiness again", lambda: road.ready().status_code == 200)
        road.wait_rows("trades", (number + 1) * 1_500)
    # While it writes and commits, Kafka stops answering: told to leave, it stores what it has and does not wait on.
    road.produce(trades(one, count=3) for one in range(1_000, 6_000))
    road.wait_rows("trades", 3_003)
    os.kill(pid("kafka"), signal.SIGSTOP)
    assert road.stop() == 0
    os.kill(pid("kafka"), signal.SIGCONT)
    assert road.rows("SELECT count(*) - count(DISTINCT trade_id), count(*) > 3_000 FROM trades") == [(0, True)]
