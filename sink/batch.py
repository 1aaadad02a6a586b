"""What the sink stores in one transaction, as a plain value: records with their rows, and the offsets behind them."""

from __future__ import annotations

from typing import NamedTuple

from marketdata.events import AnyEvent, DeadLetter

Partition = tuple[str, int]  # (physical topic, partition)


class Source(NamedTuple):
    """The Kafka record that rows come from."""

    topic: str
    partition: int
    offset: int
    key: bytes
    payload: bytes


class TableRows(NamedTuple):
    """`rows` rows of a table in COPY's format of that table (`sink.rows.BINARY`), from one Kafka record or item of it.

    `items` are the places of the rows' items in the event, where not all of them have a row. `event` is set where COPY
    is not all that is to be done. `dead_letter` is set when the record, or its item number
    `item`, could not be used; then `table` is dead_letters.
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
    """How far a batch takes one partition: from the offset that the database must hold to the one it will hold."""

    expected: int
    next: int


class Batch:
    """The records of one transaction, in the order of each partition, with the offsets that they take us to."""

    def __init__(self) -> None:
        self.records: list[TableRows] = []
        self.spans: dict[Partition, Span] = {}
        self.rows = 0
        self.size_bytes = 0

    def __bool__(self) -> bool:
        """Return whether there is anything to store, if only offsets."""
        return bool(self.spans)

    def add(self, record: TableRows) -> None:
        """Add a record's rows; its offset is counted by `passed`."""
        self.records.append(record)
        self.rows += record.rows
        self.size_bytes += len(record.data) + len(record.source.payload)

    def passed(self, partition: Partition, expected: int, next_offset: int) -> None:
        """Note that everything of a partition from `expected` up to `next_offset` is in this batch or needs no row."""
        span = self.spans.get(partition)
        self.spans[partition] = Span(expected if span is None else span.expected, next_offset)

    def parts(self, rows_max: int) -> list[Batch]:
        """Return the batch cut into batches of about so many rows, to be stored one after the other.

        What came from one Kafka record stays together.
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
