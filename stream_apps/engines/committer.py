"""Commits what the partitions of one worker have stepped: one transaction at a time for all of them, for any engine.

Theory of operation. While a transaction is written, the partitions step on. When it has ended, the next one takes what
they have made meanwhile: with little load few records and soon, with much load more at once. One transaction costs
Kafka about the same whether it holds one record of one partition or a thousand of each.

    opening ──> open <──> writing          any failure ──> opening, after a pause

After a failure the partitions of that transaction discard everything and recover. A partition must not recover while a
transaction that holds it is being written (`holds`): what it reads could change.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

import structlog

from marketdata.errors import TickstreamError
from stream_apps.engines.partition import Partition
from stream_apps.engines.transactions import Failed, Member, Transactions
from stream_apps.pipeline import BATCH_BYTES, Batch
from stream_apps.settings import StreamSettings

_BACKOFF_SECONDS = 0.5
_BACKOFF_SECONDS_MAX = 5.0

_log = structlog.get_logger(__name__)


class Job(Protocol):
    """What is under way: a task of the engine's own loop, or a future result of another thread."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def result(self) -> Any:
        """Return its result or raise its error, once it has ended."""

    def add_done_callback(self, call: Callable[[Any], object], /) -> None:
        """Call this when it has ended."""


# Starts a coroutine on the loop of the transactions.
Start = Callable[[Coroutine[Any, Any, Any]], Job]


class Committer:
    """The transactions of one worker. All methods belong to the engine's thread and never wait."""

    def __init__(self, settings: StreamSettings, start: Start, on_done: Callable[[], None]) -> None:
        """Commit nothing yet; `on_done` is called, maybe by another thread, when something has ended."""
        # Why nothing can be committed, empty while it can.
        self.why = "opening"
        self._settings = settings
        self._start = start
        self._on_done = on_done
        self._worker = settings.worker or uuid.uuid4().hex
        self._transactions: Transactions | None = None
        self._job: Job | None = None
        self._writing: dict[int, tuple[Partition, Batch]] = {}
        # Kept until they have ended, as a loop keeps only weak references.
        self._closing: set[Job] = set()
        self._failures = 0
        self._at = 0.0
        self._retry_at = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether something is being opened or written."""
        return self._job is not None

    def holds(self, number: int) -> bool:
        """Return whether a partition must not recover yet: a transaction holds it, or one may be open."""
        return self._transactions is None or number in self._writing

    def work(self, partitions: Iterable[Partition], member: Member | None) -> None:
        """Take what has ended, and begin what can be begun, as this member of the group."""
        if self._job is not None:
            if not self._job.done():
                return
            self._finish(self._job)
        now = time.monotonic()
        if self._transactions is None:
            if now >= self._retry_at:
                self._follow(self._start(Transactions.open(self._settings, self._worker)))
        elif member is not None and now >= self._at + self._settings.commit_ms / 1_000:
            self._write(self._transactions, partitions, member)

    def _follow(self, job: Job) -> None:
        self._job = job
        job.add_done_callback(lambda _: self._on_done())

    def _write(self, transactions: Transactions, partitions: Iterable[Partition], member: Member) -> None:
        size = 0
        # Those that had no room in the last transaction come first. One that has failed comes alone until it succeeds:
        # what cannot be written must not take others with it.
        for partition in sorted(partitions, key=lambda each: each.batch_at):
            if size >= BATCH_BYTES:
                break
            if partition.failures and self._writing:
                continue
            batch = partition.batch()
            if batch is not None:
                self._writing[partition.number] = (partition, batch)
                size += batch.size
                if partition.failures:
                    break
        if self._writing:
            self._at = time.monotonic()
            batches = {number: batch for number, (_, batch) in self._writing.items()}
            self._follow(self._start(transactions.write(batches, member)))

    def _finish(self, job: Job) -> None:
        written, self._writing, self._job = self._writing, {}, None
        try:
            result = job.result()
        except TickstreamError as error:
            self._fail(error)
            for partition, _ in written.values():
                partition.fail(error)
            return
        self._failures, self.why = 0, ""
        if isinstance(result, Transactions):
            self._transactions = result
        for partition, batch in written.values():
            partition.written(batch)

    def _fail(self, error: TickstreamError) -> None:
        """Close the producers and open new ones after a while: they end whatever is open."""
        pause = 0.0 if isinstance(error, Failed) else _BACKOFF_SECONDS * 2 ** min(self._failures, 6)
        self._failures += 1
        self.why = str(error)
        self._retry_at = time.monotonic() + min(pause, _BACKOFF_SECONDS_MAX)
        _log.warning("opening transactions again", reason=str(error), pause_s=pause)
        self.close()

    def close(self) -> Job | None:
        """Close the producers, if there are any."""
        if self._transactions is None:
            return None
        job = self._start(self._transactions.close())
        self._transactions = None
        self._closing.add(job)
        job.add_done_callback(self._closing.discard)
        return job
