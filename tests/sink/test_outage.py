"""Kafka and the database are killed under a running sink, on separate servers: it reports that and loses nothing."""

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

# Different from the ports of the shared test stack and of the stack's own tests.
PORT_BASE = int(os.environ.get("TICKSTREAM_TEST_PORT_BASE", "28100")) + 200
GIVEN = [f"TICKSTREAM_{name}" for name in ("KAFKA_BROKERS", "REGISTRY_URL", "DATABASE_URL", "REDIS_URL")]


@pytest.fixture
def own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Endpoints, Folders]]:
    """Servers that no other test uses, so that they may be killed; their supervisor restarts them."""
    for name in GIVEN:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path_factory.mktemp("stack")
    with stack.infrastructure(folder, PORT_BASE) as where:
        yield where, Folders(stack=folder)


def test_kafka_and_the_database_are_killed_and_come_back(
    own: tuple[Endpoints, Folders],
    build_services: Callable[..., Any],
    trades: Callable[..., Trades],
    wait_for: Callable[..., Any],
) -> None:
    """/readyz names each while it is unavailable; afterwards every row is stored exactly once."""
    endpoints, folders = own

    def pid(server: str) -> int:
        known = state.load(folders)
        assert known is not None
        identity = next(row.identity for row in known.rows if row.name == server)
        assert identity is not None
        return identity.pid

    def supervisor() -> int:
        known = state.load(folders)
        assert known is not None
        assert known.supervisor is not None
        return known.supervisor.pid

    services = build_services(endpoints, "", "tickstream")
    services.start()
    for number, server in enumerate(("kafka", "database")):
        services.produce(trades(one, count=3) for one in range(number * 500, number * 500 + 500))
        services.wait_rows("trades", number * 1_500 + 1)
        wait_for("readiness", lambda: services.ready().status_code == 200)
        # Its supervisor starts it again at once; held, it leaves time to look.
        os.kill(supervisor(), signal.SIGSTOP)
        try:
            os.kill(pid(server), signal.SIGKILL)
            wait_for(f"{server} missing", lambda name=server: services.ready().json()["checks"][name] != "ok")
        finally:
            os.kill(supervisor(), signal.SIGCONT)
        wait_for("readiness again", lambda: services.ready().status_code == 200)
        services.wait_rows("trades", (number + 1) * 1_500)
    # Kafka stops responding during writes and commits: on SIGTERM the sink stores what it has read and exits.
    services.produce(trades(one, count=3) for one in range(1_000, 6_000))
    services.wait_rows("trades", 3_003)
    os.kill(pid("kafka"), signal.SIGSTOP)
    assert services.stop() == 0
    os.kill(pid("kafka"), signal.SIGCONT)
    assert services.rows("SELECT count(*) - count(DISTINCT trade_id), count(*) > 3_000 FROM trades") == [(0, True)]
