"""The partition's transactional producer, with a connection to Kafka that fails just as a transaction ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from runtime.settings import load
from stream_apps.engines.faust_transport import group_metadata
from stream_apps.engines.transactions import Failed, Transactions
from stream_apps.pipeline import Batch, Output
from stream_apps.settings import GROUP, StreamSettings
from tests.engines.outputs import ENGINES, FAST, await_exactly, expected
from tests.engines.proxy import END_TRANSACTION, INIT_PRODUCER_ID, Fault, Proxy

PARTITION = 1
FAULTS: tuple[Fault, ...] = ("cut", "lost answer", "slow answer", "late request")
# What Kafka answers to a producer of an earlier epoch.
FENCED = {47, 90}


@pytest.fixture
def proxy(lab: Any) -> Any:
    """A proxy before the laboratory's Kafka."""
    with Proxy(lab.endpoints.kafka_brokers) as made:
        yield made


class Writer:
    """Writes numbered batches through the proxy, as a partition does, with a new producer after any doubt."""

    def __init__(self, lab: Any, proxy: Proxy) -> None:
        self.lab = lab
        self.settings = load(
            StreamSettings, kafka_brokers=proxy.brokers, topic_prefix=lab.prefix, group_prefix=lab.prefix
        )
        self.transactions = Transactions(self.settings, PARTITION)
        self.group = group_metadata(f"{lab.prefix}{GROUP}", -1, "", None)

    def batch(self, number: int) -> Batch:
        """Return a batch of two records that moves the offset to its number."""
        topic = self.lab.physical("md.trades")
        outputs = [Output(topic, b"k", f"{number}-{which}".encode(), []) for which in range(2)]
        return Batch(outputs=outputs, offsets={self.lab.physical("md.ingest.trades"): (number, "")}, inputs=1)

    def write(self, number: int) -> None:
        """Write one batch, again if it is not there after a failure."""
        batch = self.batch(number)
        while True:
            try:
                if self.transactions.is_doubtful:
                    self.renew()
                self.transactions.begin(batch)
                self.transactions.commit(batch, self.group)
            except Failed:
                self.renew()
                if self.committed() == number:
                    return
            else:
                return

    def renew(self) -> None:
        """Replace the producer."""
        self.transactions.close()
        self.transactions = Transactions(self.settings, PARTITION)

    def committed(self) -> int:
        """Return the committed offset."""
        consumer = Consumer(
            {"bootstrap.servers": self.lab.endpoints.kafka_brokers, "group.id": f"{self.lab.prefix}{GROUP}"}
        )
        at = TopicPartition(self.lab.physical("md.ingest.trades"), PARTITION)
        found: int = consumer.committed([at], 10)[0].offset
        consumer.close()
        return found

    def written(self) -> list[str]:
        """Return the committed values, in order."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.lab.endpoints.kafka_brokers,
                "group.id": "none",
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
            }
        )
        consumer.assign([TopicPartition(self.lab.physical("md.trades"), PARTITION, 0)])
        values: list[Any] = []
        while True:
            message = consumer.poll(10)
            assert message is not None
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF
                consumer.close()
                return values
            values.append((message.value() or b"").decode())


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_happens_to_a_commit_each_batch_is_there_once(lab: Any, proxy: Proxy, fault: Fault) -> None:
    """Two commits in a row are disturbed, then one works; values are whole, in order, and the offset is the last."""
    writer = Writer(lab, proxy)
    writer.write(1)
    proxy.faults += (fault, fault)
    for number in (2, 3, 4):
        writer.write(number)
    writer.transactions.close()
    assert not proxy.faults
    assert writer.written() == [f"{number}-{which}" for number in (1, 2, 3, 4) for which in range(2)]
    assert writer.committed() == 4


@pytest.mark.parametrize("fault", ["cut", "lost answer", "late request"])
def test_after_a_doubtful_commit_the_producer_is_replaced(lab: Any, proxy: Proxy, fault: Fault) -> None:
    """Between the disturbed end of a transaction and the end of the next one, its id gets a new epoch."""
    writer = Writer(lab, proxy)
    proxy.faults.append(fault)
    writer.write(1)
    writer.write(2)
    writer.transactions.close()
    at = proxy.seen.index((END_TRANSACTION, fault))
    ends = [index for index, (kind, _) in enumerate(proxy.seen) if kind == END_TRANSACTION and index > at]
    assert INIT_PRODUCER_ID in [kind for kind, _ in proxy.seen[at : ends[-1]]]


def test_a_commit_that_comes_late_does_not_touch_the_next_transaction(lab: Any, proxy: Proxy) -> None:
    """Kafka gets it while the next transaction is open, and refuses it, as the producer has a new epoch."""
    writer = Writer(lab, proxy)
    proxy.faults.append("late request")
    writer.write(1)
    writer.write(2)
    writer.transactions.close()
    assert len(proxy.late_codes) == 1
    assert set(proxy.late_codes) <= FENCED
    assert writer.written() == ["1-0", "1-1", "2-0", "2-1"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_whose_connection_fails_as_it_commits_loses_and_doubles_nothing(
    lab: Any, proxy: Proxy, until: Callable[..., Any], events: Any, engine: str
) -> None:
    """Every second commit of a backlog is disturbed in one way or another."""
    for fault in FAULTS * 3:
        proxy.faults += ("none", fault)
    lab.send_trades(range(200))
    lab.worker(engine, kafka_brokers=proxy.brokers, **FAST)
    sent = 200
    while proxy.faults:
        lab.send_trades(range(sent, sent + 50))
        sent += 50
        before = sent
        until(lambda before=before: len(lab.written("md.trades")) >= before, f"{sent} outputs")
    await_exactly(lab, until, expected(lab, events(range(sent))))
