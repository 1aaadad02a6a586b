"""What the comparison reads of the topics: up to an end that it holds, so that it fits the exchange's record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import Producer

from infra.chaos.compare import TABLES, TOPICS
from infra.chaos.published import Topics
from marketdata.events import EVENTS, Trade, Trades
from marketdata.topics import TRADES
from runtime.admin import TopicAdmin
from runtime.kafka import producer_config
from runtime.registry import Registry
from runtime.settings import CommonSettings


def message(number: int) -> Trades:
    """Return a message of one trade."""
    trade = Trade(trade_id=str(number), ts_event=number, price="1", size="2", side="buy")
    return Trades(venue="coinbase", symbol="BTC-USD", ts_event=number, ts_recv=number, line="a", trades=(trade,))


@pytest.fixture
def settings(endpoints: Any, topic_prefix: str) -> CommonSettings:
    """Settings of this test's own topics, which are there, as are all schemas."""
    settings = CommonSettings(
        kafka_brokers=endpoints.kafka_brokers, registry_url=endpoints.registry_url, topic_prefix=topic_prefix
    )
    TopicAdmin(settings).apply()
    with closing(Registry(settings.registry_url)) as registry:
        for event in EVENTS:
            registry.register(event.schema)
    return settings


@pytest.fixture
def topics(settings: CommonSettings) -> Iterator[Topics]:
    """What is under test."""
    with closing(Topics(settings)) as reading:
        yield reading


def publish(settings: CommonSettings, *events: Trades) -> None:
    """Write events to md.trades, all to one partition."""
    producer = Producer(producer_config(settings, "test"))
    with closing(Registry(settings.registry_url)) as registry:
        codec = registry.codec()
    for event in events:
        producer.produce(TRADES.physical(settings.topic_prefix), codec.encode(event), event.key, partition=0)
    assert producer.flush(10) == 0


def test_a_held_topic_is_read_up_to_where_it_ended_then(settings: CommonSettings, topics: Topics) -> None:
    """What a venue sends after the exchange's record was fetched is not compared with it."""
    publish(settings, message(1), message(2))
    assert [one.event for one in topics.read(TRADES)] == [message(1), message(2)]
    topics.hold([TRADES])
    publish(settings, message(3))
    assert [one.event for one in topics.read(TRADES)] == [message(1), message(2)]


def test_every_topic_that_is_compared_is_held() -> None:
    """With those behind the tables."""
    assert set(TABLES.values()) < set(TOPICS)
