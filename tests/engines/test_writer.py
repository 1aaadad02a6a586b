"""The writer of an at-least-once engine keeps its promises to those who stop waiting, too."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local.table import Endpoints
from runtime.settings import load
from stream_apps.engines.task import Output
from stream_apps.engines.writer import Writer
from stream_apps.settings import StreamSettings


def test_who_gives_up_waiting_for_kafka_does_not_stop_the_writer(endpoints: Endpoints, topic_prefix: str) -> None:
    """A round that is cut short cancels its wait; the answers that come later must not end the writer's thread."""
    topic = f"{topic_prefix}written"
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_brokers})
    admin.create_topics([NewTopic(topic, num_partitions=1)])[topic].result(timeout=30)
    settings = load(StreamSettings, kafka_brokers=endpoints.kafka_brokers, topic_prefix=topic_prefix)
    writer = Writer(settings, "test", patience_s=30, abandon=pytest.fail)
    output = Output(topic=topic, partition=0, key=b"k", value=b"v", headers=[])
    writer.write([output])
    given_up = writer.safe()
    assert not given_up.cancel()
    writer.write([output])
    writer.safe().result(timeout=30)
    assert given_up.result(timeout=0) is None
    writer.close()
