"""The servers that tests run against: real ones, started once and shared by all runs of this clone."""

from __future__ import annotations

import faulthandler
import os
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from hypothesis import settings
from psycopg import sql

from infra.local.folders import HOME
from infra.local.shared import shared_infrastructure
from infra.local.table import Endpoints
from tests.waiting import wait_for

# The machine is shared: how long one example takes says nothing about the code. Continuous integration tries the same
# examples each time, so that its verdict is about the change; other runs look for new ones.
settings.register_profile("tickstream", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tickstream")

# Away from the platform's own ports, so that tests run beside it, and below the range of ephemeral ports.
PORT_BASE = int(os.environ.get("TICKSTREAM_TEST_PORT_BASE", "28100"))


# A test fails after the `timeout` in pyproject.toml. One that even then does not end (its thread waits in C, or its
# fixtures hang as they stop) ends its worker after this long, with the stack of every thread; the run goes on.
STUCK_S = 300
_STDERR = pytest.StashKey[int]()

# Whole platforms first, then what starts single services; the rest takes moments.
_SLOW_FOLDERS = (("chaos", "e2e", "engines"), ("api", "history", "infra", "simulator", "sink"))


def pytest_configure(config: pytest.Config) -> None:
    """Keep the standard error that a person sees: during a test, descriptor 2 is pytest's own file."""
    config.stash[_STDERR] = os.dup(2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders that take longest, so that no worker is left alone with one of them at the end."""
    ranks = {name: rank for rank, names in enumerate(_SLOW_FOLDERS) for name in names}
    items.sort(key=lambda item: ranks.get(item.path.parent.name, len(ranks)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Limit a test with all that belongs to it."""
    _limit(item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Limit the test itself, after fixtures that may have started the servers."""
    _limit(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Limit its fixtures as they stop: pytest lifts the limit when a test fails."""
    _limit(item)


def _limit(item: pytest.Item) -> None:
    faulthandler.dump_traceback_later(STUCK_S, exit=True, file=item.config.stash[_STDERR])


@pytest.fixture(scope="session")
def endpoints(request: pytest.FixtureRequest) -> Iterator[Endpoints]:
    """Kafka, registry, TimescaleDB and Redis, with the addresses of each role."""
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")

    def report(line: str) -> None:
        if terminal is not None:
            terminal.write_line(f"test stack: {line}")

    keep = os.environ.get("TICKSTREAM_TEST_STACK_KEEP") == "1"
    with shared_infrastructure(HOME / "test", PORT_BASE, keep=keep, report=report) as where:
        yield where


@pytest.fixture
def topic_prefix(endpoints: Endpoints) -> Iterator[str]:
    """A prefix for the topics of this test only; its topics are removed afterwards."""
    prefix = f"t{uuid.uuid4().hex[:8]}."
    yield prefix
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_brokers})
    mine = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(prefix)]
    if mine:
        for removal in admin.delete_topics(mine).values():
            removal.result(timeout=10)


@pytest.fixture
def database_schema(endpoints: Endpoints) -> Iterator[str]:
    """A name for this test's own database schema; the schema is removed afterwards."""
    name = f"t_{uuid.uuid4().hex[:8]}"
    yield name
    # With a limit: what a failed test left running may hold a table for ever.
    with psycopg.connect(endpoints.database_url, autocommit=True, options="-c lock_timeout=30s") as owner:
        owner.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture(name="wait_for")
def wait_for_() -> Callable[..., Any]:
    """The function `wait_for`."""
    return wait_for
