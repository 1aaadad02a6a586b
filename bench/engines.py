"""Faust against the direct loop: messages a second and latency from Kafka to Kafka, on one operator (ingest_trades).

Needs a running Kafka and registry (TICKSTREAM_KAFKA_BROKERS, TICKSTREAM_REGISTRY_URL); uses topics of its own and
removes them. Takes about a minute: `python bench/engines.py [faust|direct ...]`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from statistics import quantiles
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from marketdata.codec import Codec
from marketdata.events import EVENTS, Trade, Trades
from marketdata.headers import HOPS, encode_times, hops_of
from marketdata.topics import INGEST_TRADES, PARTITIONS, TOPICS, TRADES
from runtime.admin import TopicAdmin
from runtime.registry import Registry
from runtime.settings import CommonSettings, load

BACKLOG = 30_000
RATE = 500
PACED_SECONDS = 10
LIMIT_SECONDS = 120


class Bench:
    """One engine's run, with topics of its own."""

    def __init__(self, engine: str) -> None:
        self.settings = load(CommonSettings, topic_prefix=f"bench{uuid.uuid4().hex[:6]}.")
        self.engine = engine
        registry = Registry(self.settings.registry_url)
        self.codec = Codec({event.schema: registry.register(event.schema) for event in EVENTS})
        registry.close()
        TopicAdmin(self.settings).apply()
        self.producer = Producer(
            {"bootstrap.servers": self.settings.kafka_brokers, "linger.ms": 0, "enable.idempotence": True}
        )
        self.sent = 0

    def send(self) -> None:
        """Produce one trade."""
        now = time.time_ns()
        trade = Trade(trade_id=str(self.sent + 1), ts_event=now, price="100.1", size="0.5", side="buy")
        symbol = f"S{self.sent % 8}-USD"
        event = Trades(venue="bench", symbol=symbol, ts_event=now, ts_recv=now, line="bench/0", trades=(trade,))
        self.producer.produce(
            INGEST_TRADES.physical(self.settings.topic_prefix),
            key=event.key.encode(),
            value=self.codec.encode(event),
            partition=self.sent % PARTITIONS,
            headers=[(HOPS, encode_times(now, now))],
        )
        self.sent += 1

    def outputs(self, topic: str, count: int) -> list[tuple[int, dict[str, bytes]]]:
        """Return when each output arrived here, with its headers, until there are so many."""
        config = {"bootstrap.servers": self.settings.kafka_brokers, "group.id": "bench", "fetch.wait.max.ms": 1}
        consumer = Consumer(config | {"isolation.level": "read_committed", "enable.auto.commit": False})
        consumer.assign([TopicPartition(topic, number, self._end(consumer, topic, number)) for number in range(4)])
        found: list[tuple[int, dict[str, Any]]] = []
        deadline = time.monotonic() + LIMIT_SECONDS
        while len(found) < count and time.monotonic() < deadline:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                found.append((time.time_ns(), dict(message.headers() or ())))
        consumer.close()
        return found

    @staticmethod
    def _end(consumer: Consumer, topic: str, number: int) -> int:
        try:
            return int(consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1])
        except KafkaException:
            return 0

    def run(self) -> None:
        """Measure and print."""
        topic = TRADES.physical(self.settings.topic_prefix)
        for _ in range(BACKLOG):
            self.send()
            self.producer.poll(0)
        self.producer.flush(30)
        environment = os.environ | {
            "TICKSTREAM_TOPIC_PREFIX": self.settings.topic_prefix,
            "TICKSTREAM_GROUP_PREFIX": self.settings.topic_prefix,
            "TICKSTREAM_ENGINE": self.engine,
            "TICKSTREAM_METRICS_PORT": "0",
        }
        command = [sys.executable, "-m", "stream_apps", "--app", "ingest"]
        worker = subprocess.Popen(command, env=environment)
        try:
            arrivals = self.outputs(topic, BACKLOG)
            times = sorted(hops_of(headers).t_processed for _, headers in arrivals)
            rate = len(times) / ((times[-1] - times[0]) / 1e9)
            print(f"{self.engine}: backlog of {len(times)}: {rate:,.0f} messages/s")
            pacer = threading.Timer(1.0, self._pace)
            pacer.start()
            arrivals = self.outputs(topic, RATE * PACED_SECONDS)
            pacer.join()
            delays = [(at - hops_of(headers).t_produced) / 1e6 for at, headers in arrivals]
            cuts = quantiles(delays, n=100)
            print(
                f"{self.engine}: {RATE}/s: p50 {cuts[49]:.2f} p95 {cuts[94]:.2f} p99 {cuts[98]:.2f} ms, {len(delays)}"
            )
        finally:
            worker.terminate()
            worker.wait(20)
            admin = AdminClient({"bootstrap.servers": self.settings.kafka_brokers})
            for gone in admin.delete_topics([topic.physical(self.settings.topic_prefix) for topic in TOPICS]).values():
                gone.result(30)

    def _pace(self) -> None:
        start = time.monotonic()
        for number in range(RATE * PACED_SECONDS):
            time.sleep(max(0.0, start + number / RATE - time.monotonic()))
            self.send()
            self.producer.poll(0)
        self.producer.flush(10)


if __name__ == "__main__":
    for name in sys.argv[1:] or ["faust", "direct"]:
        Bench(name).run()
