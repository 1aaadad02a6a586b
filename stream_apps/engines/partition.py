"""One partition number on one worker: its pipeline and its waiting records, for any engine.

Theory of operation. The engine's one thread calls `offer` with records, and `work` repeatedly. To rebuild the pipeline
takes long and is done by another thread, while other partitions continue; `work` checks whether it is done. The
worker's `Committer` takes a batch now and then, and says when it is committed (`written`) or not (`fail`).

    opening ──> running          any failure ──> pausing ──> opening

After a failure nothing that was stepped counts: the pipeline is discarded, the records that wait are dropped, and the
engine reads again from the committed offsets (`on_located`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Literal

import structlog

from marketdata.errors import TickstreamError, Unavailable
from runtime.metrics import observe_hop
from stream_apps.engines.transactions import Failed
from stream_apps.pipeline import Batch, Cadence, Excluded, Pipeline, Record, Shell
from stream_apps.recovery import EXCLUDED_MAX, Located, Recovery
from stream_apps.settings import StreamSettings

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

Phase = Literal["opening", "running", "pausing", "closed"]


class Partition:
    """One partition number. All methods belong to the engine's thread."""

    def __init__(
        self,
        number: int,
        settings: StreamSettings,
        shell: Shell,
        executor: Executor,
        *,
        may_recover: Callable[[int], bool],
        on_located: Callable[[int, dict[str, int]], None],
        on_done: Callable[[], None],
    ) -> None:
        """Open the partition.

        `executor` rebuilds the pipeline, once `may_recover` allows it for this number. `on_located` gets the offsets
        to read from, by physical topic; `on_done` is called by another thread when a job has ended.
        """
        self.number = number
        self.phase: Phase = "opening"
        self.waiting: deque[Record] = deque()
        self.waiting_bytes = 0
        self.pipeline: Pipeline | None = None
        # Failures since the last batch was committed, and recoveries in all.
        self.failures = 0
        self.recoveries = 0
        self.committed_inputs = 0
        self.committed_outputs = 0
        # When its last batch was taken, seconds of the monotonic clock.
        self.batch_at = 0.0
        self._settings = settings
        self._shell = shell
        self._executor = executor
        self._may_recover = may_recover
        self._on_located = on_located
        self._on_done = on_done
        self._cadence = Cadence(inputs=settings.checkpoint_inputs, ms=int(settings.checkpoint_seconds * 1_000))
        self._excluded: dict[tuple[str, int], str] = {}
        self._job: Future[tuple[Located, Pipeline]] | None = None
        self._batch: Batch | None = None
        self._retry_at = 0.0
        self._draining = False
        # What failed, until a batch is committed; and what a record waits for.
        self._failed = ""
        self._stalled = ""

    @property
    def why(self) -> str:
        """Why nothing is committed, empty while all is well."""
        return self._stalled or self._failed or ("" if self.phase == "running" else "recovering")

    # -- recovery

    def _open(self) -> None:
        """Find out where to resume, and rebuild the pipeline, once nothing of it can change any more."""
        if self._may_recover(self.number):
            self._job = self._executor.submit(self._opened)
            self._job.add_done_callback(lambda _: self._on_done())

    def _opened(self) -> tuple[Located, Pipeline]:
        recovery = Recovery(self._settings, self._shell)
        try:
            located = recovery.locate(self.number)
            while True:
                try:
                    return located, recovery.rebuild(located, self._cadence, self._excluded)
                except Excluded as error:
                    self._exclude(error)
        finally:
            recovery.close()

    def _exclude(self, error: Excluded) -> None:
        if len(self._excluded) >= EXCLUDED_MAX:
            del self._excluded[next(iter(self._excluded))]
        self._excluded[error.topic, error.offset] = error.detail

    # -- the engine's calls

    @property
    def is_busy(self) -> bool:
        """Whether it is being recovered."""
        return self._job is not None

    def offer(self, records: Iterable[Record]) -> None:
        """Take records, in order; they wait until the pipeline can step them."""
        if self.phase == "running" and not self._draining:
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
            self._finish(self._job)
        now = time.monotonic()
        if self.phase == "pausing" and now >= self._retry_at and not self._draining:
            self.phase = "opening"
        if self.phase == "opening" and self._job is None:
            self._open()
        if self.phase == "running" and self.waiting and now >= self._retry_at:
            self._step(now)

    def _finish(self, job: Future[tuple[Located, Pipeline]]) -> None:
        """Take the result of the recovery that has ended."""
        self._job = None
        try:
            located, self.pipeline = job.result()
        except TickstreamError as error:
            self.fail(error)
            return
        self.phase = "running"
        self._on_located(self.number, located.offsets(self._settings.topic_prefix))

    def _step(self, now: float) -> None:
        """Step what waits, as much as one batch may hold."""
        pipeline, waiting = self.pipeline, self.waiting
        assert pipeline is not None  # noqa: S101 - so it is while running
        self._stalled = ""
        try:
            while waiting and not pipeline.is_full:
                pipeline.step(waiting[0])
                self.waiting_bytes -= len(waiting.popleft().value or b"")
        except Unavailable as error:  # the registry: step again what waits, and commit what was stepped
            self._stalled = str(error)
            # A registry that hangs must not take most of the thread's time from the other partitions.
            self._retry_at = time.monotonic() + max(_BACKOFF_SECONDS, 4 * (time.monotonic() - now))
            _log.warning("waiting", partition=self.number, reason=str(error))
        except Excluded as error:
            self._exclude(error)
            self.fail(error)

    def fail(self, error: TickstreamError) -> None:
        """Discard everything, and recover after a while."""
        if self.phase == "closed":
            return
        self._job = None
        self.failures += 1
        self.recoveries += 1
        pause = min(_BACKOFF_SECONDS_MAX, _BACKOFF_SECONDS * 2 ** min(self.failures - 1, 6))
        if isinstance(error, Failed) and error.is_fenced:
            pause = max(pause, _FENCED_SECONDS)
        if isinstance(error, Excluded):
            pause = 0.0
        _log.warning("recovering", partition=self.number, reason=str(error), pause_s=pause)
        self._discard()
        self.phase, self._failed, self._stalled = "pausing", str(error) or type(error).__name__, ""
        self._retry_at = time.monotonic() + pause

    def _discard(self) -> None:
        self._drop_waiting()
        self.pipeline = self._batch = None

    def _drop_waiting(self) -> None:
        self.waiting.clear()
        self.waiting_bytes = 0

    # -- the committer's calls

    def batch(self) -> Batch | None:
        """Return what to commit now, None when there is nothing.

        What the committer takes counts as written: it calls `written`, or `fail`, when it knows.
        """
        now = time.monotonic()
        if self.pipeline is None or (
            not self.pipeline.has_outputs and now < self.batch_at + IDLE_SECONDS and not self._draining
        ):
            return None
        self.batch_at = now
        self._batch = self.pipeline.batch(everything=self._draining)
        return self._batch

    def written(self, batch: Batch) -> None:
        """Count a batch that was committed."""
        if batch is self._batch:
            self._batch = None
            self.failures, self._failed = 0, ""
        self.committed_inputs += batch.inputs
        self.committed_outputs += len(batch.outputs)
        if batch.t_produced:
            observe_hop("produced_to_published", batch.t_produced, time.time_ns())

    # -- the end

    def drain(self) -> None:
        """Begin to finish: what waits is left to the next owner, everything that was stepped is checkpointed."""
        self._draining = True
        self._drop_waiting()

    @property
    def is_drained(self) -> bool:
        """Whether everything that was stepped is committed and checkpointed, or cannot be."""
        pipeline = self.pipeline
        return pipeline is None or (self._batch is None and pipeline.is_clean and not pipeline.has_outputs)

    @property
    def has_work(self) -> bool:
        """Whether there is something to step or to commit."""
        return bool(self.waiting and not self._stalled) or (self.pipeline is not None and self.pipeline.has_outputs)

    def restart(self, why: str) -> None:
        """Discard everything and recover, as after a failure."""
        if self.phase == "running":
            self.fail(Unavailable(why))

    def close(self) -> None:
        """Release the partition. What was not committed is stepped again by the next owner."""
        self._job = None
        self._discard()
        self.phase = "closed"
