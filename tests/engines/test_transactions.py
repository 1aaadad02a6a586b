"""A worker's transactions, with a connection to Kafka that fails just as a transaction ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from marketdata.errors import Unavailable
from runtime.loops import LoopThread
from runtime.settings import load
from stream_apps.engines.transactions import RECORD_BATCH_BYTES, Failed, Member, Transactions
from stream_apps.pipeline import Batch, Output, Shell
from stream_apps.recovery import Recovery
from stream_apps.settings import GROUP, StreamSettings
from tests.engines import counting
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
    """Writes numbered batches, as a worker does, with new producers after any doubt."""

    def __init__(self, lab: Any, brokers: str, name: str = "writer") -> None:
        self.lab = lab
        self.name = name
        self.settings = load(StreamSettings, kafka_brokers=brokers, topic_prefix=lab.prefix, group_prefix=lab.prefix)
        self.links = LoopThread(name)
        self.transactions = self.open()
        self.member = Member(f"{lab.prefix}{GROUP}", -1, "", None)

    def open(self) -> Transactions:
        """Return new producers."""
        return self.links.run(Transactions.open(self.settings, self.name))

    def batch(self, number: int, values: Sequence[bytes] = ()) -> Batch:
        """Return a batch of two records, or of these values, that moves the offset to its number."""
        topic = self.lab.physical("md.trades")
        made = values or [f"{number}-{which}".encode() for which in range(2)]
        outputs = [Output(topic, b"k", value, []) for value in made]
        return Batch(outputs=outputs, offsets={self.lab.physical("md.ingest.trades"): (number, "")}, inputs=1)

    def put(self, batch: Batch) -> None:
        """Write a batch once; raises Failed."""
        self.links.run(self.transactions.write({PARTITION: batch}, self.member))

    def write(self, number: int) -> None:
        """Write one batch, again if it is not there after a failure."""
        while True:
            try:
                self.put(self.batch(number))
            except Failed:
                self.links.run(self.transactions.close())
                self.transactions = self.open()
                if self.committed() == number:
                    return
            else:
                return

    def close(self) -> None:
        """Close the producers."""
        self.links.run(self.transactions.close())
        self.links.close()

    def committed(self) -> int:
        """Return the committed offset."""
        return int(self.commit().offset)

    def commit(self) -> TopicPartition:
        """Return what is committed."""
        consumer = Consumer(
            {"bootstrap.servers": self.lab.endpoints.kafka_brokers, "group.id": f"{self.lab.prefix}{GROUP}"}
        )
        at = TopicPartition(self.lab.physical("md.ingest.trades"), PARTITION)
        found: TopicPartition = consumer.committed([at], 10)[0]
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
    writer = Writer(lab, proxy.brokers)
    writer.write(1)
    proxy.faults += (fault, fault)
    for number in (2, 3, 4):
        writer.write(number)
    writer.close()
    assert not proxy.faults
    assert writer.written() == [f"{number}-{which}" for number in (1, 2, 3, 4) for which in range(2)]
    assert writer.committed() == 4


@pytest.mark.parametrize("fault", ["cut", "lost answer", "late request"])
def test_after_a_doubtful_commit_the_producers_are_replaced(lab: Any, proxy: Proxy, fault: Fault) -> None:
    """Between the disturbed end of a transaction and the end of the next one, its id gets a new epoch."""
    writer = Writer(lab, proxy.brokers)
    proxy.faults.append(fault)
    writer.write(1)
    writer.write(2)
    writer.close()
    at = proxy.seen.index((END_TRANSACTION, fault))
    ends = [index for index, (kind, _) in enumerate(proxy.seen) if kind == END_TRANSACTION and index > at]
    assert INIT_PRODUCER_ID in [kind for kind, _ in proxy.seen[at : ends[-1]]]


def test_a_commit_that_comes_late_does_not_touch_the_next_transaction(lab: Any, proxy: Proxy) -> None:
    """Kafka gets it while the next transaction is open, and refuses it, as the producer has a new epoch."""
    writer = Writer(lab, proxy.brokers)
    proxy.faults.append("late request")
    writer.write(1)
    writer.write(2)
    writer.close()
    assert len(proxy.late_codes) == 1
    assert set(proxy.late_codes) <= FENCED
    assert writer.written() == ["1-0", "1-1", "2-0", "2-1"]


def test_a_batch_larger_than_a_record_batch_is_written_in_order(lab: Any, proxy: Proxy) -> None:
    """Kafka takes one record batch of a partition in a request; a record larger than that comes by itself."""
    writer = Writer(lab, proxy.brokers)
    values = [str(number).encode() * (RECORD_BATCH_BYTES // 4) for number in range(9)]
    values[5] *= 6
    writer.put(writer.batch(1, values))
    writer.put(writer.batch(2))
    writer.close()
    assert writer.written() == [*(value.decode() for value in values), "2-0", "2-1"]


def test_the_metadata_of_a_commit_is_read_back_as_it_was_written(lab: Any, proxy: Proxy) -> None:
    """Behind a text that did not end with NUL, librdkafka read whatever lay in its memory."""
    writer = Writer(lab, proxy.brokers)
    topic = lab.physical("md.ingest.trades")
    for length in range(1, 120, 7):
        text = "é" * length
        writer.put(Batch(outputs=[], offsets={topic: (length, text)}, inputs=0))
        assert writer.commit().metadata == text
    writer.close()


def test_a_broker_with_the_older_transaction_protocol_is_refused(lab: Any, proxy: Proxy) -> None:
    """The error names the feature, its level and what to do."""
    name = b"\x14transaction.version"
    proxy.rewritten.append((name + b"\0\2\0\2", name + b"\0\1\0\1"))
    with pytest.raises(Unavailable, match=r"transaction\.version is at level 1, and 2 is needed"):
        Writer(lab, proxy.brokers)


def test_a_new_owner_waits_for_a_transaction_that_another_worker_left_open(lab: Any, proxy: Proxy) -> None:
    """Its offsets count only once it has ended: here at its time limit, as it was never committed."""
    gone = Writer(lab, proxy.brokers, "gone")
    gone.write(1)
    proxy.faults.append("cut")
    with pytest.raises(Failed):
        gone.put(gone.batch(2))
    settings = load(
        StreamSettings,
        kafka_brokers=lab.endpoints.kafka_brokers,
        topic_prefix=lab.prefix,
        group_prefix=lab.prefix,
    )
    shell = Shell(
        operators=counting.make_operators, decode=lab.codec.decode, encode=lab.codec.encode, clock=time.time_ns
    )
    recovery = Recovery(settings, shell)
    located = recovery.locate(PARTITION)
    recovery.close()
    gone.close()
    # The offset that was committed lies behind the empty topic's end, which is where it resumes, with a loss of one.
    loss = located.starts["md.ingest.trades"].loss
    assert loss is not None
    assert (loss.reason, loss.count) == ("truncated", 1)
    assert gone.written() == ["1-0", "1-1"]


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
