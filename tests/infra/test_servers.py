"""The embedded servers answer as real ones do."""

from __future__ import annotations

import httpx
import psycopg
import pytest
import redis
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local.table import Endpoints


def test_kafka_carries_a_frame_of_six_megabytes(endpoints: Endpoints, topic_prefix: str) -> None:
    """A Coinbase snapshot is one frame of 5 MB: what is produced in one message is consumed unchanged."""
    topic = f"{topic_prefix}frames"
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_brokers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(timeout=10)
    frame = bytes(range(256)) * 24_576
    producer = Producer({"bootstrap.servers": endpoints.kafka_brokers, "message.max.bytes": 32 * 2**20})
    producer.produce(topic, frame)
    assert producer.flush(10) == 0
    reading = {"group.id": topic, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": endpoints.kafka_brokers} | reading)
    try:
        consumer.subscribe([topic])
        message = consumer.poll(15)
        assert message is not None
        assert message.error() is None
        assert message.value() == frame
    finally:
        consumer.close()


def test_kafka_creates_no_topic_by_accident(endpoints: Endpoints, topic_prefix: str) -> None:
    """A producer that asks for a topic that nobody declared receives an error, and there is none afterwards."""
    topic = f"{topic_prefix}undeclared"
    # Asking is what makes a topic where a broker may make it: a producer allows it in each such request.
    error = Producer({"bootstrap.servers": endpoints.kafka_brokers}).list_topics(topic, timeout=30).topics[topic].error
    assert error is not None
    assert error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    assert topic not in AdminClient({"bootstrap.servers": endpoints.kafka_brokers}).list_topics(timeout=30).topics


def test_registry_registers_a_schema_and_gives_it_by_id(endpoints: Endpoints, topic_prefix: str) -> None:
    """The Confluent API keeps a schema under one id, however often it is registered."""
    schema = f'{{"type":"record","name":"R{topic_prefix.strip(".")}","fields":[{{"name":"price","type":"string"}}]}}'
    with httpx.Client(base_url=endpoints.registry_url, timeout=10) as registry:
        versions = f"/subjects/{topic_prefix}r-value/versions"
        first = registry.post(versions, json={"schema": schema}).raise_for_status().json()["id"]
        again = registry.post(versions, json={"schema": schema}).raise_for_status().json()["id"]
        read = registry.get(f"/schemas/ids/{first}").raise_for_status().json()["schema"]
    assert first == again
    assert '"price"' in read


def test_database_makes_a_hypertable_as_its_owner(endpoints: Endpoints, database_schema: str) -> None:
    """TimescaleDB is loaded, and the owner's role may create hypertables of `numeric` prices."""
    with psycopg.connect(endpoints.database_url, autocommit=True) as owner:
        owner.execute(f'CREATE SCHEMA "{database_schema}"')
        owner.execute(f'CREATE TABLE "{database_schema}".trades (ts timestamptz NOT NULL, price numeric NOT NULL)')
        owner.execute(f"SELECT create_hypertable('{database_schema}.trades', 'ts')")
        owner.execute(f"INSERT INTO \"{database_schema}\".trades VALUES (now(), '0.10')")
        assert owner.execute(f'SELECT price::text FROM "{database_schema}".trades').fetchone() == ("0.10",)


@pytest.mark.parametrize("role", ["sink", "api", "readonly"])
def test_service_roles_log_in_and_own_nothing(endpoints: Endpoints, role: str) -> None:
    """Each service has its own role, which may connect but not create schemas."""
    with psycopg.connect(getattr(endpoints, f"{role}_database_url"), autocommit=True) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (f"tickstream_{role}",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE SCHEMA not_allowed")


def test_database_refuses_a_wrong_password(endpoints: Endpoints) -> None:
    """Nobody gets in over loopback without the password."""
    address, _, place = endpoints.database_url.rpartition("@")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"{address}wrong@{place}")


def test_redis_answers_only_with_its_password(endpoints: Endpoints) -> None:
    """Redis pings with the password and refuses without it."""
    with redis.Redis.from_url(endpoints.redis_url) as client:
        assert client.ping()
    with (
        redis.Redis.from_url("redis://" + endpoints.redis_url.rpartition("@")[2]) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
