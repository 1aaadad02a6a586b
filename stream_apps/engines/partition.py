"""One partition number on one worker: its pipeline, its transactions and its waiting records, for any engine.

Theory of operation. The engine's one thread calls `offer` with records, and `work` repeatedly. What takes long (to
open the producer, to rebuild the pipeline, to commit) is done by another thread, one job at a time, while other
partitions continue; `work` checks whether it is done.

    opening ──> running <──> committing          any failure ──> pausing ──> opening

After a failure nothing that was stepped counts: the pipeline and the producer are closed, the records that wait are
dropped, and the engine reads again from the committed offsets (`on_located`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Any, Literal

import structlog

from marketdata.errors import TickstreamError, Unavailable
from runtime.metrics import observe_hop
from stream_apps.engines.transactions import Failed, Transactions
from stream_apps.pipeline import Batch, Cadence, Excluded, Pipeline, Record, Shell
from stream_apps.recovery import EXCLUDED_MAX, Located, Recovery
from stream_apps.settings import StreamSettings

BATCH_RECORDS = 1_000
# Records, and bytes of them, that may wait; above either the engine stops reading the partition for a while.
WAITING_MAX = 4_000
WAITING_LOW = 1_000
WAITING_BYTES_MAX = 64 * 1024 * 1024
# Offsets alone, without an output, are committed this often.
IDLE_SECONDS = 0.5

_BACKOFF_SECONDS = 0.5
_BACKOFF_SECONDS_MAX = 5.0
# After a fenced producer: the group shall show first whether the partition is still ours.
_FENCED_SECONDS = 2.0

_log = structlog.get_logger(__name__)

Phase = Literal["opening", "running", "committing", "pausing", "closed"]


class Partition:
    """One partition number. All methods belong to the engine's thread."""

    def __init__(
        self,
        number: int,
        settings: StreamSettings,
        shell: Shell,
        executor: Executor,
        *,
        group: Callable[[], Any],
        on_located: Callable[[int, dict[str, int]], None],
        on_done: Callable[[], None],
    ) -> None:
        """Open the partition.

        `group` returns the consumer group's metadata, `on_located` gets the offsets to read from, by physical
        topic; `on_done` is called by another thread when a job has ended.
        """
        self.number = number
        self.phase: Phase = "opening"
        self.waiting: deque[Record] = deque()
        self.waiting_bytes = 0
        self.pipeline: Pipeline | None = None
        self.failures = 0
        self.committed_inputs = 0
        self.committed_outputs = 0
        self.why = "opening"
        self._settings = settings
        self._shell = shell
        self._executor = executor
        self._group = group
        self._on_located = on_located
        self._on_done = on_done
        self._cadence = Cadence(inputs=settings.checkpoint_inputs, ms=int(settings.checkpoint_seconds * 1_000))
        self._excluded: dict[tuple[str, int], str] = {}
        self._transactions: Transactions | None = None
        self._located: Located | None = None
        self._job: Future[Any] | None = None
        self._batch: Batch | None = None
        self._at = 0.0
        self._retry_at = 0.0
        self._draining = False
        self._open()

    # -- jobs

    def _submit(self, work: Callable[[], Any]) -> None:
        self._job = self._executor.submit(work)
        self._job.add_done_callback(lambda _: self._on_done())

    def _open(self) -> None:
        """Open the producer, find out where to resume, and rebuild the pipeline."""
        self.phase, self.why = "opening", "recovering"
        self._submit(self._opened)

    def _opened(self) -> tuple[Transactions, Located, Pipeline]:
        transactions = Transactions(self._settings, self.number)
        recovery = Recovery(self._settings, self._shell)
        try:
            located = recovery.locate(self.number)
            while True:
                try:
                    return transactions, located, recovery.rebuild(located, self._cadence, self._excluded)
                except Excluded as error:
                    self._exclude(error)
        except BaseException:
            transactions.close()
            raise
        finally:
            recovery.close()

    def _exclude(self, error: Excluded) -> None:
        if len(self._excluded) >= EXCLUDED_MAX:
            del self._excluded[next(iter(self._excluded))]
        self._excluded[error.topic, error.offset] = error.detail

    def _replaced(self) -> Transactions:
        transactions = self._transactions
        if transactions is not None:
            transactions.close()
        return Transactions(self._settings, self.number)

    # -- the engine's calls

    @property
    def is_busy(self) -> bool:
        """Whether a job is running."""
        return self._job is not None

    def offer(self, records: Iterable[Record]) -> None:
        """Take records, in order; they wait until the pipeline can step them."""
        if self.phase in {"running", "committing"}:
            for record in records:
                self.waiting.append(record)
                self.waiting_bytes += len(record.value or b"")

    @property
    def is_full(self) -> bool:
        """Whether the engine should stop reading the partition."""
        return len(self.waiting) >= WAITING_MAX or self.waiting_bytes >= WAITING_BYTES_MAX

    @property
    def has_room(self) -> bool:
        """Whether the engine may read the partition again."""
        return len(self.waiting) < WAITING_LOW and self.waiting_bytes < WAITING_BYTES_MAX

    def work(self) -> None:
        """Do what can be done now; never waits."""
        if self._job is not None:
            if not self._job.done():
                return
            self._finish()
        if self.phase == "pausing" and time.monotonic() >= self._retry_at and not self._draining:
            self._open()
        if self.phase == "running":
            self._run()

    def _finish(self) -> None:
        """Take the result of the job that has ended."""
        job, self._job = self._job, None
        assert job is not None  # noqa: S101 - `work` looked
        try:
            result = job.result()
        except TickstreamError as error:
            self._fail(error)
            return
        if self.phase == "opening":
            self._transactions, located, self.pipeline = result
            self.phase, self.why, self.failures = "running", "", 0
            self._on_located(self.number, located.offsets(self._settings.topic_prefix))
        elif self.phase == "committing":
            self.phase = "running"
            self.why = ""
            if isinstance(result, Transactions):
                self._transactions = result
            elif self._batch is not None:
                self._count(self._batch)
                self._batch = None

    def _count(self, batch: Batch) -> None:
        self.committed_inputs += batch.inputs
        self.committed_outputs += len(batch.outputs)
        if batch.t_produced:
            observe_hop("produced_to_published", batch.t_produced, time.time_ns())

    def _fail(self, error: TickstreamError) -> None:
        """Discard everything and try again after a while."""
        self.failures += 1
        pause = min(_BACKOFF_SECONDS_MAX, _BACKOFF_SECONDS * 2 ** min(self.failures - 1, 6))
        if isinstance(error, Failed) and error.is_fenced:
            pause = max(pause, _FENCED_SECONDS)
        if isinstance(error, Excluded):
            pause = 0.0
        _log.warning("recovering", partition=self.number, reason=str(error), pause_s=pause)
        self._close()
        self.phase, self.why = "pausing", str(error)
        self._retry_at = time.monotonic() + pause

    def _close(self) -> None:
        self._drop_waiting()
        self.pipeline = self._batch = None
        if self._transactions is not None:
            self._transactions.close()
            self._transactions = None

    def _drop_waiting(self) -> None:
        self.waiting.clear()
        self.waiting_bytes = 0

    def _run(self) -> None:
        """Step what waits and commit it."""
        pipeline, transactions = self.pipeline, self._transactions
        assert pipeline is not None  # noqa: S101 - so it is while running
        assert transactions is not None  # noqa: S101 - likewise
        now = time.monotonic()
        if now < self._at + self._settings.commit_ms / 1_000 or now < self._retry_at:
            return
        if transactions.is_doubtful:
            self.phase = "committing"
            self._submit(self._replaced)
            return
        try:
            self._step(pipeline)
        except Unavailable as error:  # the registry: step again what waits, and commit what was stepped
            self.why = str(error)
            self._retry_at = now + _BACKOFF_SECONDS
            _log.warning("waiting", partition=self.number, reason=str(error))
        except Excluded as error:
            self._exclude(error)
            self._fail(error)
            return
        if not pipeline.has_outputs and now < self._at + IDLE_SECONDS and not self._draining:
            return
        self._commit(pipeline, transactions, everything=self._draining)

    def _step(self, pipeline: Pipeline) -> None:
        waiting = self.waiting
        for _ in range(min(len(waiting), BATCH_RECORDS)):
            pipeline.step(waiting[0])
            self.waiting_bytes -= len(waiting.popleft().value or b"")
            if pipeline.is_full:
                break

    def _commit(self, pipeline: Pipeline, transactions: Transactions, *, everything: bool) -> None:
        batch = pipeline.batch(everything=everything)
        self._at = time.monotonic()
        if batch is None:
            return
        try:
            transactions.begin(batch)
            group = self._group()
        except Failed as error:
            self._fail(error)
            return
        self._batch = batch
        self.phase = "committing"
        self._submit(lambda: transactions.commit(batch, group))

    # -- the end

    def drain(self) -> None:
        """Begin to finish: what waits is left to the next owner, everything that was stepped is checkpointed."""
        self._draining = True
        self._drop_waiting()
        self._at = self._retry_at = 0.0

    @property
    def is_drained(self) -> bool:
        """Whether everything that was stepped is committed and checkpointed, or cannot be."""
        if self._job is not None:
            return False
        return self.pipeline is None or (self.phase == "running" and self.pipeline.is_clean)

    def restart(self, why: str) -> None:
        """Discard everything and recover, as after a failure."""
        if self.phase in {"running", "committing"}:
            self._abandoned()
            self._fail(Unavailable(why))

    def close(self) -> None:
        """Release the partition. What was not committed is stepped again by the next owner."""
        self._abandoned()
        self._close()
        self.phase = "closed"

    def _abandoned(self) -> None:
        """Forget a job that is still running; a producer that it opens is closed again."""
        job, self._job = self._job, None
        if job is not None:
            job.add_done_callback(_close_opened)


def _close_opened(job: Future[Any]) -> None:
    if job.cancelled() or job.exception() is not None:
        return
    result = job.result()
    opened = result[0] if isinstance(result, tuple) else result
    if isinstance(opened, Transactions):
        opened.close()
