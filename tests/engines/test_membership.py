"""How membership of the group reaches the transactions."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer
from msgspec.structs import replace

from runtime.loops import LoopThread
from runtime.settings import load
from stream_apps.engines.transactions import Failed, Member, Transactions
from stream_apps.pipeline import Batch
from stream_apps.settings import StreamSettings
from tests.engines.outputs import INPUT_TOPIC
from tests.waiting import wait_for

GROUP = "tickstream-pipeline"


class Joined:
    """A member of librdkafka's of the pipeline's group."""

    def __init__(self, lab: Any, instance: str | None) -> None:
        self.group = f"{lab.prefix}{GROUP}"
        config = {
            "bootstrap.servers": lab.endpoints.kafka_brokers,
            "group.id": self.group,
            "auto.offset.reset": "earliest",
        }
        self.consumer = Consumer(config | ({"group.instance.id": instance} if instance else {}))
        self.assigned = False
        self.consumer.subscribe([lab.physical(INPUT_TOPIC)], on_assign=self._on_assign)
        wait_for("an assignment", lambda: self.consumer.poll(0.1) or self.assigned, 60)
        self.member = Member.parse(self.consumer.consumer_group_metadata())

    def _on_assign(self, *_: Any) -> None:
        self.assigned = True


@pytest.mark.parametrize("instance", [None, "worker-1"])
def test_only_a_member_of_the_present_generation_commits(lab: Any, instance: str | None) -> None:
    """An earlier generation and an unknown member are refused, and the refusal says that another has the partition."""
    joined = Joined(lab, instance)
    member = joined.member
    assert (member.group, member.instance) == (joined.group, instance)
    assert member.generation > 0
    assert member.name
    settings = load(
        StreamSettings, kafka_brokers=lab.endpoints.kafka_brokers, topic_prefix=lab.prefix, group_prefix=lab.prefix
    )
    links = LoopThread("transactions")

    def refusal(as_member: Member) -> Failed | None:
        transactions = links.run(Transactions.open(settings, "worker"))
        batch = Batch(outputs=[], offsets={lab.physical(INPUT_TOPIC): (1, "")}, inputs=0)
        try:
            links.run(transactions.write({0: batch}, as_member))
        except Failed as error:
            return error
        finally:
            links.run(transactions.close())
        return None

    assert refusal(member) is None
    for wrong in (replace(member, generation=member.generation - 1), replace(member, name="unknown")):
        error = refusal(wrong)
        assert error is not None
        assert error.is_fenced, error
    links.close()
    joined.consumer.close()
