"""Records that the sink's consumer skips are detected and read, on the real Kafka, without false alarms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from marketdata.events import Trades
from marketdata.topics import TRADES
from runtime.kafka import producer_config
from sink import service
from sink.positions import Jump
from sink.rereading import Rereader, Skipped

SYMBOL = "BTC-USD"


def append(services: Any, events: list[Trades], *, commit: bool = True) -> list[int]:
    """Write events in one transaction, then commit or abort it; return their offsets, all in partition 0."""
    producer = Producer(producer_config(services.kafka, "test") | {"transactional.id": f"{services.prefix}test"})
    offsets: list[int] = []
    producer.init_transactions(30)
    producer.begin_transaction()
    for event in events:
        producer.produce(
            TRADES.physical(services.prefix), services.codec.encode(event), event.key.encode(), partition=0,
            on_delivery=lambda _, message: offsets.append(message.offset() or 0),
        )  # fmt: skip
    producer.flush(30)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)
    return offsets


@pytest.fixture
def rereader(services: Any) -> Iterator[Rereader]:
    """A second consumer of the test's topics."""
    one = Rereader(services.kafka)
    yield one
    one.close()


def test_markers_and_aborted_records_are_no_records(
    services: Any, rereader: Rereader, trades: Callable[..., Trades]
) -> None:
    """An aborted transaction between two committed ones: the gap of markers and aborted records is empty."""
    (first,) = append(services, [trades(0)])
    append(services, [trades(1), trades(2)], commit=False)
    (last,) = append(services, [trades(3)])
    partition = (TRADES.physical(services.prefix), 0)
    assert (first, last) == (0, 5)
    rereader.check([Jump(partition, first + 1, last)])
    # At the end of the log, and several at once.
    rereader.check([Jump(partition, first + 1, last), Jump(partition, last + 1, last + 2)])
    for jump in (Jump(partition, 0, last), Jump(partition, first + 1, last + 1), Jump(partition, last, last + 2)):
        with pytest.raises(Skipped, match="was skipped"):
            rereader.check([Jump(partition, first + 1, last), jump] if jump.start > first else [jump])


def test_a_deleted_range_cannot_be_proved_empty(
    services: Any, rereader: Rereader, trades: Callable[..., Trades]
) -> None:
    """If retention has deleted the range meanwhile, the sink must query the database and Kafka again."""
    append(services, [trades(number) for number in range(5)])
    partition = (TRADES.physical(services.prefix), 0)
    services.delete_before(TopicPartition(*partition, 4))
    with pytest.raises(Skipped, match="no longer has offset 2"):
        rereader.check([Jump(partition, 2, 4)])


def test_a_consumer_whose_position_jumps_forward_loses_no_record(
    services: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """For example by a late response to an earlier request: skipped records are detected before storing a batch."""
    append(services, [trades(0)])
    partition = TopicPartition(TRADES.physical(services.prefix), 0)
    with services.inside() as sink:
        services.wait_rows("trades", 1)
        sink._consumer.pause([partition])
        last = append(services, [trades(number) for number in range(1, 11)])[-1]
        sink._consumer.seek(TopicPartition(partition.topic, 0, last))
        sink._consumer.resume([partition])
        services.wait_rows("trades", 11)
        append(services, [trades(11)])
        services.wait_rows("trades", 12)
    assert [row[0] for row in services.rows("SELECT sequence FROM trades ORDER BY sequence")] == list(range(12))


def test_reading_starts_only_at_stored_offsets(
    services: Any, trades: Callable[..., Trades], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each assignment of partitions contains a stored offset of each; none relies on Kafka's offsets."""
    assigned: list[TopicPartition] = []

    class Noting(Consumer):
        def assign(self, partitions: list[TopicPartition]) -> None:
            """Record the partitions, then read them."""
            assigned.extend(partitions)
            super().assign(partitions)

    monkeypatch.setattr(service, "Consumer", Noting)
    append(services, [trades(0)])
    for rows in (1, 2):
        with services.inside():
            services.wait_rows("trades", rows)
        append(services, [trades(rows)])
    with services.inside():
        services.wait_rows("trades", 3)
    assert {(one.topic, one.partition) for one in assigned if one.offset == OFFSET_END} == set()
    starts = [one.offset for one in assigned if one.topic == TRADES.physical(services.prefix) and one.partition == 0]
    assert starts == [0, 1, 3]


def test_a_partition_without_progress_is_reported_and_read_again(
    services: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """Its lag grows: /readyz names it until it makes progress, and it is read again from its stored offset."""
    partition = TopicPartition(TRADES.physical(services.prefix), 0)
    with services.inside(sink_stall_seconds=1.0) as sink:
        append(services, [trades(0)])
        services.wait_rows("trades", 1)
        wait_for("readiness", lambda: sink._readiness.report()[0])
        reports: list[str] = []
        seen = threading.Event()
        down = sink._readiness.down

        def note(dependency: str, why: str) -> None:
            down(dependency, why)
            if dependency == "reading":
                reports.append(why)
                seen.set()

        sink._readiness.down = note
        sink._consumer.pause([partition])  # as if Kafka's response to a fetch never arrived
        append(services, [trades(1)])
        assert seen.wait(60)
        services.wait_rows("trades", 2)
        wait_for("readiness again", lambda: sink._readiness.report()[0])
    assert reports[0].startswith(f"no progress in {partition.topic}[0]: at offset ")
