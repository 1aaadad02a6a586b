"""The age of the oldest checkpoint that is still needed, which a commit states for the next recovery."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, TopicPartition

from marketdata.commit import PIPELINE_GROUP, Mark
from marketdata.events import Checkpoint
from runtime.kafka import consumer_config
from runtime.settings import load
from stream_apps.operators import make_operators
from stream_apps.pipeline import Cadence, Shell
from stream_apps.recovery import Recovery
from stream_apps.settings import StreamSettings

START_MS = 1_780_000_000_000


def test_a_rebuilt_pipeline_knows_its_oldest_checkpoint(lab: Any) -> None:
    """Also where a key that was saved first was saved again last: the other key's checkpoint is needed still."""
    chain = "md.ingest.books"
    settings = load(
        StreamSettings, kafka_brokers=lab.endpoints.kafka_brokers, topic_prefix=lab.prefix, group_prefix=lab.prefix
    )
    shell = Shell(
        operators=make_operators,
        decode=lab.codec.decode,
        encode=lab.codec.encode,
        clock=lambda: START_MS * 1_000_000,
        prefix=lab.prefix,
    )
    recovery = Recovery(settings, shell)
    try:
        topic_id = recovery.locate(0).starts[chain].topic_id
        for symbol, age_ms in (("A", 300_000), ("B", 200_000), ("A", 100_000)):
            event = Checkpoint(
                venue="sim", symbol=symbol, chain=chain, partition=0, offset=-1, topic_id=topic_id,
                ts_recv=(START_MS - age_ms) * 1_000_000, states={},
            )  # fmt: skip
            lab.send("md.state", event, 0)
        lab.producer.flush(30)
        mark = Mark(topic_id=topic_id, replay_from=0, checkpoints_since_ms=START_MS - 300_000)
        group = Consumer(consumer_config(settings, PIPELINE_GROUP))
        group.commit(offsets=[TopicPartition(lab.physical(chain), 0, 0, mark.text())], asynchronous=False)
        group.close()
        batch = recovery.rebuild(recovery.locate(0), Cadence()).batch()
        assert batch is not None
        found = Mark.parse(batch.offsets[lab.physical(chain)][1])
        assert found is not None
        assert found.checkpoints_since_ms == START_MS - 200_000
    finally:
        recovery.close()
