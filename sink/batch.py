"""One transaction of the sink as a plain value: rows by table, and the Kafka offsets that they reach."""

from __future__ import annotations

from typing import NamedTuple

from marketdata.events import AnyEvent, DeadLetter

Partition = tuple[str, int]  # (physical topic, partition)


class Source(NamedTuple):
    """The Kafka record from which rows were made."""

    topic: str
    partition: int
    offset: int
    key: bytes
    payload: bytes


class TableRows(NamedTuple):
    """Rows of one table from one Kafka record: `rows` is their number, `data` their COPY data (see `sink.rows.BINARY`).

    `items` are the indexes of the rows' items in the event, set if some items have no row. `event` is set if storing it
    needs more than COPY. `dead_letter` is set if the Kafka record, or its item number `item`, could not be used; then
    `table` is dead_letters.
    """

    source: Source
    table: str
    rows: int
    data: bytes
    event: AnyEvent | None = None
    dead_letter: DeadLetter | None = None
    item: int | None = None
    items: tuple[int, ...] = ()


class Span(NamedTuple):
    """The offsets of one partition in a batch: the stored offset that it expects, and the next one to store."""

    expected: int
    next: int


class Batch:
    """The rows of one transaction, in the order of each partition, and the offsets that they reach."""

    def __init__(self) -> None:
        self.records: list[TableRows] = []
        self.spans: dict[Partition, Span] = {}
        self.rows = 0
        self.size_bytes = 0

    def __bool__(self) -> bool:
        """Return whether there is anything to store, even if only offsets."""
        return bool(self.spans)

    def add(self, record: TableRows) -> None:
        """Add rows; `passed` records their offsets."""
        self.records.append(record)
        self.rows += record.rows
        self.size_bytes += len(record.data) + len(record.source.payload)

    def passed(self, partition: Partition, expected: int, next_offset: int) -> None:
        """Record that every offset of [expected, next_offset) is in this batch or needs no row."""
        span = self.spans.get(partition)
        self.spans[partition] = Span(expected if span is None else span.expected, next_offset)

    def parts(self, rows_max: int) -> list[Batch]:
        """Return the batch split into batches of about `rows_max` rows, to be stored in this order.

        The rows of one Kafka record stay together.
        """
        found = [Batch()]
        reached = {partition: span.expected for partition, span in self.spans.items()}
        last: Source | None = None
        for record in self.records:
            if found[-1].rows >= rows_max and record.source is not last:
                found.append(Batch())
            last = record.source
            partition = last.topic, last.partition
            found[-1].add(record)
            found[-1].passed(partition, reached[partition], last.offset + 1)
            reached[partition] = last.offset + 1
        for partition, span in self.spans.items():
            found[-1].passed(partition, reached[partition], span.next)
        return found
