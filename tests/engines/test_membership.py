"""How Faust's membership of the group reaches librdkafka's transactions."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from stream_apps.engines.faust_transport import group_metadata
from tests.engines.outputs import INPUT_TOPIC
from tests.waiting import wait_for

MARK = b"CGMDv2:"


class Member:
    """A member of a group of librdkafka's, with its metadata."""

    def __init__(self, lab: Any, instance: str | None) -> None:
        self.group = f"{lab.prefix}group"
        config = {
            "bootstrap.servers": lab.endpoints.kafka_brokers,
            "group.id": self.group,
            "auto.offset.reset": "earliest",
        }
        self.consumer = Consumer(config | ({"group.instance.id": instance} if instance else {}))
        self.assigned = False
        self.consumer.subscribe([lab.physical(INPUT_TOPIC)], on_assign=self._on_assign)
        wait_for("an assignment", lambda: self.consumer.poll(0.1) or self.assigned, 60)
        self.metadata: bytes = self.consumer.consumer_group_metadata()

    def _on_assign(self, *_: Any) -> None:
        self.assigned = True

    @property
    def generation(self) -> int:
        """The generation that it joined."""
        return int.from_bytes(self.metadata[len(MARK) : len(MARK) + 4], "little", signed=True)

    @property
    def name(self) -> str:
        """The member's id that Kafka gave it."""
        return self.metadata[len(MARK) + 4 :].split(b"\0")[1].decode()


@pytest.mark.parametrize("instance", [None, "worker-1"])
def test_group_metadata_has_the_form_of_librdkafka(lab: Any, instance: str | None) -> None:
    """With and without a static member's name, byte by byte as a member of librdkafka's has it."""
    member = Member(lab, instance)
    assert member.generation > 0
    assert member.name
    assert group_metadata(member.group, member.generation, member.name, instance) == member.metadata
    member.consumer.close()


@pytest.mark.parametrize("instance", [None, "worker-1"])
def test_kafka_takes_offsets_of_the_present_generation_only(lab: Any, instance: str | None) -> None:
    """An earlier generation and an unknown member are refused."""
    member = Member(lab, instance)
    offsets = [TopicPartition(lab.physical(INPUT_TOPIC), 0, 1)]
    name, generation = member.name, member.generation

    def code(metadata: bytes) -> int | None:
        producer = Producer(
            {"bootstrap.servers": lab.endpoints.kafka_brokers, "transactional.id": f"{lab.prefix}member"}
        )
        producer.init_transactions(30)
        producer.begin_transaction()
        try:
            producer.send_offsets_to_transaction(offsets, metadata, 30)
        except KafkaException as error:
            producer.abort_transaction(30)
            found: int = error.args[0].code()
            return found
        producer.commit_transaction(30)
        return None

    assert code(group_metadata(member.group, generation, name, instance)) is None
    assert code(group_metadata(member.group, generation - 1, name, instance)) == KafkaError.ILLEGAL_GENERATION
    refused = KafkaError.FENCED_INSTANCE_ID if instance else KafkaError.UNKNOWN_MEMBER_ID
    assert code(group_metadata(member.group, generation, "unknown", instance)) == refused
    member.consumer.close()
