"""A bare transactional copy from one topic to another with librdkafka: what `bench.stream` measures beside.

`python bench/stream_copy.py BROKERS SOURCE TARGET`, until it is terminated.
"""

from __future__ import annotations

import signal
import sys
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition

BATCH = 1_000


def main(brokers: str, source: str, target: str) -> None:
    """Copy until terminated."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": f"copy-{source}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 10,
        }
    )
    consumer.subscribe([source])
    producer = Producer(
        {
            "bootstrap.servers": brokers,
            "transactional.id": f"copy-{uuid.uuid4().hex}",
            "compression.type": "lz4",
            "linger.ms": 0,
            # As the pipeline has it: with the default of 100 ms a copy mostly waits.
            "retry.backoff.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.init_transactions(30)
    while not stopped:
        # Not `consume` with a time-out alone, which waits for that long where less than a batch is there.
        first = consumer.poll(0.05)
        if first is None:
            continue
        messages = [message for message in [first, *consumer.consume(BATCH, 0.0)] if message.error() is None]
        producer.begin_transaction()
        offsets: dict[int, int] = {}
        for message in messages:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            producer.produce(target, message.value(), message.key(), partition, headers=message.headers())
            offsets[partition] = offset + 1
        positions = [TopicPartition(source, partition, offset) for partition, offset in offsets.items()]
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
        producer.commit_transaction()
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
