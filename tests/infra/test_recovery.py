"""Servers that are killed come back with their data, and so does the whole stack after its supervisor is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local import stack
from infra.local import state as written
from infra.local.folders import HOME, Folders
from infra.local.settings import StackSettings, free_port
from infra.local.state import Row
from infra.local.table import Endpoints
from marketdata.events import EVENTS
from runtime.admin import TopicAdmin
from runtime.registry import Registry
from runtime.settings import CommonSettings, load
from sink import migrations

# Beside the shared test stack, which other runs may be using.
PORT_BASE = int(os.environ.get("TICKSTREAM_TEST_PORT_BASE", "28100")) + 100
SCHEMA = '{{"type":"record","name":"{}","fields":[{{"name":"price","type":"string"}}]}}'
GIVEN = [f"TICKSTREAM_{name}" for name in ("KAFKA_BROKERS", "REGISTRY_URL", "DATABASE_URL", "REDIS_URL")]

Stack = tuple[Endpoints, Folders]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that no other test uses, so that its servers may be killed."""
    folder = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        for name in GIVEN:
            patch.delenv(name, raising=False)
        with stack.infrastructure(folder, PORT_BASE) as where:
            yield where, Folders(stack=folder)


@pytest.fixture
def kill(own: Stack, eventually: Callable[..., Any]) -> Callable[[str], None]:
    """Kill a server with SIGKILL and wait until it is ready again under another id."""
    folders = own[1]

    def row(name: str) -> Row:
        known = written.load(folders)
        assert known is not None
        return next(one for one in known.rows if one.name == name)

    def kill(name: str) -> None:
        before = row(name).identity
        assert before is not None
        os.kill(before.pid, signal.SIGKILL)
        eventually(lambda: row(name).state == "ready" and row(name).identity != before, 60)

    return kill


def messages(brokers: str, topic: str, count: int) -> list[bytes | None]:
    """Return the first messages of a topic's only partition."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "unused", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() for message in consumer.consume(count, timeout=20)]
    finally:
        consumer.close()


def produce(brokers: str, topic: str, values: list[bytes]) -> None:
    """Produce and wait for the acknowledgement of each."""
    producer = Producer({"bootstrap.servers": brokers, "acks": "all"})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def test_killed_kafka_keeps_messages_and_committed_offsets(own: Stack, kill: Callable[[str], None]) -> None:
    """What was acknowledged and what was committed is there after kill -9 of the broker."""
    brokers = own[0].kafka_brokers
    admin = AdminClient({"bootstrap.servers": brokers})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(timeout=10)
    produce(brokers, "kept", [b"1", b"2", b"3"])
    group = {"bootstrap.servers": brokers, "group.id": "reader", "enable.auto.commit": False}
    consumer = Consumer(group)
    consumer.commit(offsets=[TopicPartition("kept", 0, 2)], asynchronous=False)
    consumer.close()
    kill("kafka")
    assert messages(brokers, "kept", 3) == [b"1", b"2", b"3"]
    consumer = Consumer(group)
    assert consumer.committed([TopicPartition("kept", 0)], timeout=20)[0].offset == 2
    consumer.close()


def test_killed_registry_keeps_schemas_under_their_ids(own: Stack, kill: Callable[[str], None]) -> None:
    """An id that was given out means the same schema for ever, and is never given out again."""
    with httpx.Client(base_url=own[0].registry_url, timeout=10) as registry:

        def register(name: str) -> int:
            body = {"schema": SCHEMA.format(name)}
            return int(registry.post(f"/subjects/{name}-value/versions", json=body).raise_for_status().json()["id"])

        first = register("First")
        kill("registry")
        assert '"First"' in registry.get(f"/schemas/ids/{first}").raise_for_status().json()["schema"]
        assert register("First") == first
        assert register("Second") != first


def test_killed_database_keeps_what_was_committed(own: Stack, kill: Callable[[str], None]) -> None:
    """A committed row survives kill -9; one that was not committed is gone."""
    url = own[0].database_url
    with psycopg.connect(url) as one:
        one.execute("CREATE TABLE kept (n int)")
        one.execute("INSERT INTO kept VALUES (1)")
        one.commit()
        one.execute("INSERT INTO kept VALUES (2)")
        kill("database")
        with pytest.raises(psycopg.OperationalError):
            one.execute("SELECT 1")
        one.close()
    with psycopg.connect(url) as again:
        assert again.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_registry_answers_as_soon_as_its_database_is_back(own: Stack, kill: Callable[[str], None]) -> None:
    """The connections that broke cost no request: every answer after the restart is right, the first as well."""
    with httpx.Client(base_url=own[0].registry_url, timeout=10) as registry:
        assert [registry.get("/subjects").status_code for _ in range(3)] == [200] * 3
        kill("database")
        assert [registry.get("/subjects").status_code for _ in range(5)] == [200] * 5


def test_api_names_the_database_and_not_the_registry_that_depends_on_it(
    own: Stack, kill: Callable[[str], None], wait_for: Callable[..., Any]
) -> None:
    """While the database is away the registry cannot answer either; /readyz blames the database alone."""
    where, port = own[0], free_port()
    kafka = CommonSettings(kafka_brokers=where.kafka_brokers, registry_url=where.registry_url)
    TopicAdmin(kafka).apply()
    registry = Registry(where.registry_url)
    for event in EVENTS:
        registry.register(event.schema)
    registry.close()
    migrations.upgrade(where.database_url, "tickstream")
    environment = os.environ | where.environment() | {"TICKSTREAM_API_PORT": str(port)}
    api = subprocess.Popen([sys.executable, "-m", "api"], env=environment, cwd=HOME)
    missing: set[str] = set()
    known = written.load(own[1])
    assert known is not None
    assert known.supervisor is not None
    supervisor = known.supervisor.pid

    def is_ready() -> bool:
        checks = httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).json()["checks"]
        missing.update(name for name, state in checks.items() if state != "ok")
        return all(state == "ok" for state in checks.values())

    try:
        wait_for("the API to be ready", is_ready)
        missing.clear()
        with ThreadPoolExecutor(1) as pool:
            # Its supervisor is held still, or the database would be back before anybody missed it.
            os.kill(supervisor, signal.SIGSTOP)
            killing = pool.submit(kill, "database")
            try:
                wait_for("the database to be missing", lambda: not is_ready())
            finally:
                os.kill(supervisor, signal.SIGCONT)
            killing.result()
        wait_for("the API to be ready again", is_ready)
    finally:
        api.kill()
        api.wait(10)
    assert missing == {"database"}


def test_killed_redis_keeps_its_values(own: Stack, kill: Callable[[str], None]) -> None:
    """A value that was acknowledged is there after kill -9."""
    with redis.Redis.from_url(own[0].redis_url) as client:
        client.set("last:BTC-USD", "67000.10")
    kill("redis")
    with redis.Redis.from_url(own[0].redis_url) as client:
        assert client.get("last:BTC-USD") == b"67000.10"


def test_stack_whose_supervisor_was_killed_comes_back_whole(own: Stack, eventually: Callable[..., Any]) -> None:
    """After kill -9 of the supervisor a new start stops the leftovers and finds all data, ids and passwords."""
    where, folders = own
    admin = AdminClient({"bootstrap.servers": where.kafka_brokers})
    admin.create_topics([NewTopic("whole", 1, 1)])["whole"].result(timeout=10)
    produce(where.kafka_brokers, "whole", [b"before"])
    with psycopg.connect(where.database_url) as owner:
        owner.execute("CREATE TABLE whole AS SELECT 7 AS n")
    known = written.load(folders)
    assert known is not None
    assert known.supervisor is not None
    os.kill(known.supervisor.pid, signal.SIGKILL)
    eventually(lambda: not known.supervisor.alive())
    settings = load(StackSettings, folder=folders.stack, port_base=PORT_BASE)
    again = stack.start_detached(settings, services=False, report=print)
    assert again == where
    assert not any(one.identity.alive() for one in known.rows if one.identity)
    assert messages(where.kafka_brokers, "whole", 1) == [b"before"]
    with psycopg.connect(where.database_url) as owner:
        assert owner.execute("SELECT n FROM whole").fetchone() == (7,)


def test_stack_stops_whole_and_frees_its_ports(own: Stack) -> None:
    """After `down` no process of the stack runs, and a second `down` has nothing to do."""
    folders = own[1]
    known = written.load(folders)
    assert known is not None
    identities = [one.identity for one in known.rows if one.identity]
    assert len(identities) == 4
    assert stack.down(folders)
    assert not any(written.group_alive(one) for one in identities)
    assert stack.status(folders) == []
    assert not stack.down(folders)
