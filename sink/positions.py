"""The sink's offsets in each partition: stored in the database, handed to the writer, and read.

Reading starts at the offset in the database, and only there. Kafka then returns records in order, so a partition's
offsets rise by one, except where a log has no record to return: at the marker that ends a transaction, at the records
of an aborted transaction, and at records that compaction removed. Such a gap is a `Jump`. During an uninterrupted read,
a gap of one offset is a transaction marker, as after nearly every batch of the stream workers. Any other jump may also
mean that the consumer's position changed unexpectedly; it is checked before anything is stored (`sink.rereading`). The
same holds for a gap of one offset at the first step after reading starts or resumes, when such changes may happen.

This module is pure: the time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sink.batch import Partition, Span

# Size of a gap in an uninterrupted read: a transaction's end marker has an offset and is never returned.
_MARK = 1


class Jump(NamedTuple):
    """Offsets of one partition from `start` to `end` (not included) for which Kafka returned no record."""

    partition: Partition
    start: int
    end: int


class Stall(NamedTuple):
    """A partition without progress for `seconds` at `offset`, although its log ends at `end`."""

    partition: Partition
    offset: int
    end: int
    seconds: float

    def __str__(self) -> str:
        topic, number = self.partition
        return (
            f"no progress in {topic}[{number}]: at offset {self.offset} for {self.seconds:.0f} s, "
            f"although its log ends at {self.end}"
        )


class _Position:
    __slots__ = ("after_mark", "end", "handed", "is_fresh", "moved_at", "next", "stored")

    def __init__(self, offset: int, now: float) -> None:
        self.stored = self.handed = self.next = offset
        self.is_fresh = True
        self.after_mark = False
        self.end = offset
        self.moved_at = now


class Positions:
    """The positions of the partitions that are being read; empty until their start is known from the database."""

    def __init__(self) -> None:
        self._all: dict[Partition, _Position] = {}
        self._read: set[Partition] = set()
        self._jumps: dict[Partition, list[Jump]] = {}
        self._stalls: dict[Partition, Stall] = {}

    def __bool__(self) -> bool:
        """Return whether anything is being read."""
        return bool(self._all)

    def start(self, offsets: Mapping[Partition, int], now: float) -> None:
        """Start at these offsets; `now` is a monotonic time in seconds, here and below."""
        self.clear()
        self._all = {partition: _Position(offset, now) for partition, offset in offsets.items()}
        self._stalls = {partition: stall for partition, stall in self._stalls.items() if partition in offsets}

    def clear(self) -> None:
        """Discard all positions; the database contains those from which to resume."""
        self._all.clear()
        self._read.clear()
        self._jumps.clear()

    def resume(self, now: float) -> None:
        """Record that reading was paused: the next record is checked like the first one."""
        for position in self._all.values():
            position.is_fresh = True
            position.moved_at = now

    def take(self, partition: Partition, offset: int, now: float) -> bool:
        """Record that a record was read; False if it is from before the last start, and will be read again."""
        position = self._all.get(partition)
        if position is None or offset < position.next:
            return False
        if offset != position.next or position.is_fresh:
            self._step(partition, position, offset)
        position.after_mark = False
        position.next = offset + 1
        position.moved_at = now
        self._read.add(partition)
        return True

    def reach(self, partition: Partition, end: int, now: float) -> None:
        """Record that everything below `end`, the log's current end, was read."""
        position = self._all.get(partition)
        if position is not None and end >= position.next:
            self._step(partition, position, end)
            position.next = end
            position.moved_at = now

    def hand_over(self) -> tuple[dict[Partition, Span], list[Jump]]:
        """Return the span read of each partition, and the jumps to check before it is stored."""
        spans = {}
        for partition in self._read:
            position = self._all[partition]
            spans[partition] = Span(position.handed, position.next)
            position.handed = position.next
        jumps = [jump for some in self._jumps.values() for jump in some]
        self._jumps.clear()
        self._read.clear()
        return spans, jumps

    def store(self, spans: Mapping[Partition, Span]) -> None:
        """Record that the spans handed over are stored."""
        for partition, span in spans.items():
            position = self._all.get(partition)
            if position is not None:
                position.stored = span.next

    def see_ends(self, ends: Mapping[Partition, int]) -> None:
        """Record the logs' end offsets: those after the last record of a finished transaction."""
        for partition, end in ends.items():
            position = self._all.get(partition)
            if position is not None:
                position.end = end

    def lags(self) -> Iterable[tuple[Partition, int]]:
        """Return the number of offsets of each partition that are not stored yet."""
        for partition, position in self._all.items():
            # Offsets without records need no transaction.
            waits = position.stored != position.handed or partition in self._read
            yield partition, max(0, position.end - (position.stored if waits else position.next))

    @property
    def stalled(self) -> list[Stall]:
        """The stalls of partitions without progress since; they remain after a restart of reading."""
        return list(self._stalls.values())

    def find_stalls(self, now: float, limit_s: float) -> list[Stall]:
        """Return the partitions without progress for `limit_s`, although they have more records."""
        found = []
        for partition, position in self._all.items():
            stall = self._stalls.get(partition)
            if position.end <= position.next:
                position.moved_at = now
            elif now - position.moved_at > limit_s:
                stall = Stall(partition, position.next, position.end, now - position.moved_at)
                self._stalls[partition] = stall
                found.append(stall)
            if stall is not None and (position.next > stall.offset or position.next >= stall.end):
                del self._stalls[partition]
        return found

    def _step(self, partition: Partition, position: _Position, offset: int) -> None:
        gap = offset - position.next
        if gap == _MARK and not position.is_fresh and not position.after_mark:
            position.after_mark = True
        elif gap:
            jumps = self._jumps.setdefault(partition, [])
            if jumps and jumps[-1].end == position.next:
                jumps[-1] = Jump(partition, jumps[-1].start, offset)
            else:
                jumps.append(Jump(partition, position.next, offset))
        position.is_fresh = False
