"""The partition numbers that the consumer group gave to one worker: what runs on each, and which offset comes next.

A record is taken only at the offset that is expected next, and none before its pipeline is ready. An earlier offset
is a repetition and is dropped. A later one is a jump: the partition recovers, which compares its offsets with the
current log (`Recovery.locate`). When the same jump comes again after that, the offsets between hold no records: they
are transaction markers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

import structlog

from marketdata.topics import VENUE_PRICES
from stream_apps.engines.committer import Committer, Job, Start
from stream_apps.engines.partition import Partition
from stream_apps.engines.transactions import Member
from stream_apps.engines.worker import Worker
from stream_apps.pipeline import Record

# The group is asked for another assignment this long after one that cannot be used.
REJOIN_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Assignment:
    """The partitions of one worker. Belongs to the engine's thread."""

    def __init__(
        self,
        worker: Worker,
        executor: Executor,
        start: Start,
        *,
        on_moved: Callable[[int], None],
        on_done: Callable[[], None],
    ) -> None:
        """Assign nothing yet.

        `on_moved` is called with a partition number when its next offsets were set, or forgotten while it recovers.
        `on_done` is called by another thread when a job has ended.
        """
        self.partitions: dict[int, Partition] = {}
        # The next offset to take of each (topic, partition number); none before its pipeline is ready.
        self.next: dict[tuple[str, int], int] = {}
        self._worker = worker
        self._executor = executor
        self._committer = Committer(worker.settings, start, on_done)
        self._member: Member | None = None
        self._on_moved = on_moved
        self._on_done = on_done
        # Partition numbers to read no more for a while because enough records wait, and since when.
        self.full: dict[int, float] = {}
        self._jumps: dict[tuple[str, int], tuple[int, int]] = {}
        self._transactional = VENUE_PRICES.physical(worker.settings.topic_prefix)
        self._topic_ids: dict[str, str] = {}
        self._unusable = ""

    def open(self, assigned: Iterable[tuple[str, int]], member: Member) -> bool:
        """Open what was assigned, pairs of a topic and a partition number.

        `member` names the group's generation that assigned it: what is committed later under any other generation is
        refused by Kafka. Returns False and opens nothing where the numbers of the input topics differ, as
        while a topic is re-created. The caller joins the group again after `REJOIN_SECONDS`: Kafka gives a member that
        comes back under its name the assignment that it had, even when its process is a new one.
        """
        pairs = sorted(assigned)
        numbers = sorted({number for _, number in pairs})
        missing = [f"{topic}/{n}" for topic in self._worker.topics for n in numbers if (topic, n) not in pairs]
        self._unusable = f"the group did not assign {', '.join(missing)}" if missing else ""
        if member.generation < 0:
            # Kafka would take any offsets from such a member.
            self._unusable = "the group has ended the membership meanwhile"
        if self._unusable:
            _log.warning("joining the group again", reason=self._unusable)
            return False
        _log.info("assigned", partitions=numbers)
        self._member = member
        for number in numbers:
            self.partitions[number] = Partition(
                number,
                self._worker.settings,
                self._worker.shell,
                self._executor,
                may_recover=lambda each: not self._committer.holds(each),
                on_located=self._located,
                on_done=self._on_done,
            )
        return True

    # -- records

    def accepts(self, topic: str, number: int, offset: int) -> bool:
        """Return whether a record is the next one to take; if so, the one behind it comes next."""
        at = (topic, number)
        expected = self.next.get(at)
        if offset != expected and (expected is None or offset < expected or not self._is_known_jump(at, offset)):
            return False
        self.next[at] = offset + 1
        return True

    def offer(self, number: int, records: Iterable[Record]) -> None:
        """Give a partition the records that it has to take."""
        self.partitions[number].offer(records)

    def restart(self, number: int, reason: str) -> None:
        """Recover a partition and read it again from its committed offsets."""
        partition = self.partitions.get(number)
        if partition is not None:
            self._forget(number)
            partition.restart(reason)

    def work(self) -> None:
        """Do what can be done now; never waits."""
        for partition in self.partitions.values():
            partition.work()
        self.commit()

    def commit(self) -> None:
        """Commit what was stepped, if nothing is being committed; never waits."""
        self._committer.work(self.partitions.values(), self._member)

    @property
    def is_busy(self) -> bool:
        """Whether something goes on that ends soon."""
        return self._committer.is_busy or any(each.is_busy or each.has_work for each in self.partitions.values())

    @property
    def is_due(self) -> bool:
        """Whether something waits for its time only."""
        return not (self._committer.is_busy or self._committer.why) and any(
            each.has_work for each in self.partitions.values()
        )

    def throttle(self) -> None:
        """Bring `full` up to date."""
        for number, partition in self.partitions.items():
            if partition.is_full:
                self.full.setdefault(number, time.monotonic())
            elif partition.has_room:
                self.full.pop(number, None)

    def positions(self, number: int) -> dict[str, int]:
        """Return the next offset of each topic of a partition, none while it recovers."""
        return {topic: offset for (topic, each), offset in self.next.items() if each == number}

    def _is_known_jump(self, at: tuple[str, int], offset: int) -> bool:
        expected = self.next[at]
        # The markers of transactions take offsets in a topic that the pipeline itself writes. A price that is lost
        # there is replaced by the next one.
        if at[0] == self._transactional or self._jumps.get(at) == (expected, offset):
            return True
        self._jumps[at] = (expected, offset)
        topic, number = at
        self.restart(number, f"{topic}/{number}: offset {offset} came where {expected} was expected")
        return False

    def _located(self, number: int, offsets: dict[str, int]) -> None:
        for topic, offset in offsets.items():
            self.next[topic, number] = offset
        self._on_moved(number)

    def _forget(self, number: int) -> None:
        self.next = {at: offset for at, offset in self.next.items() if at[1] != number}
        self.full.pop(number, None)
        self._on_moved(number)

    # -- the end of an assignment

    def drain(self) -> None:
        """Begin to finish: call `work` until `is_drained`."""
        for partition in self.partitions.values():
            partition.drain()

    @property
    def is_drained(self) -> bool:
        """Whether all that was stepped is committed and checkpointed, or cannot be."""
        return bool(self._committer.why) or all(partition.is_drained for partition in self.partitions.values())

    def close(self) -> None:
        """Release every partition. What was not committed is stepped again by the next owner."""
        for partition in self.partitions.values():
            partition.close()
            self._worker.forget(partition)
        self.partitions.clear()
        self.next.clear()
        self.full.clear()
        self._member = None

    def end(self) -> Job | None:
        """Begin to close the connections of the transactions, if there are any."""
        return self._committer.close()

    # -- metrics and readiness

    def measure(self, end: Callable[[str, int], int]) -> None:
        """Bring metrics and readiness up to date, and recover where an input topic was re-created under its name.

        `end` returns the end of a topic's partition; what is less than the offset to take next is not known yet.
        """
        self._worker.export(self.partitions.values(), self._unusable, self._committer.why)
        for (topic, number), offset in self.next.items():
            waiting = len(self.partitions[number].waiting)
            self._worker.show_lag(topic, number, max(0, end(topic, number) - offset) + waiting)
        ids = dict(self._worker.topic_ids)
        for topic, identity in ids.items():
            if self._topic_ids.get(topic, identity) != identity:
                for number in self.partitions:
                    self.restart(number, f"{topic} was deleted and re-created")
        self._topic_ids = ids
