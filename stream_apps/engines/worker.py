"""What a worker process needs whichever engine it runs: registry, topics, readiness, metrics."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar

import structlog
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from prometheus_client import Counter, Gauge

from marketdata import topics
from marketdata.codec import Codec
from marketdata.errors import TickstreamError, Unavailable
from marketdata.events import AnyEvent
from runtime.health import Readiness
from runtime.kafka import LOG
from runtime.metrics import DROPPED
from runtime.registry import Registry, decode
from runtime.tracing import Tracing
from stream_apps.chain import INPUTS
from stream_apps.engines.partition import Partition
from stream_apps.pipeline import SOURCE, MakeOperators, Pipeline, Shell
from stream_apps.settings import GROUP, StreamSettings

KAFKA = "kafka"
REGISTRY = "registry"
PIPELINE = "pipeline"

_INPUTS = Counter("tickstream_pipeline_inputs_total", "Input records that were committed, by partition.", ["partition"])
_OUTPUTS = Counter("tickstream_pipeline_outputs_total", "Records that were written, by partition.", ["partition"])
_RECOVERIES = Counter("tickstream_pipeline_recoveries_total", "Partitions rebuilt after a failure.", ["partition"])
_LAG = Gauge("tickstream_consumer_lag_messages", "Input records not consumed yet.", ["group", "topic", "partition"])

_BACKOFF_SECONDS_MAX = 5.0
_WATCH_SECONDS = 2.0
_ASK_SECONDS = 2.0
# A partition that recovers for longer than this makes the worker not ready.
_RECOVERY_SECONDS = 20.0
# Stands for the transactions among the partition numbers.
_COMMITTER = -1

_log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")


class Stopped(Exception):  # noqa: N818 - no error: asked to stop while waiting
    """The process was asked to stop before it had started."""


def abandon(reason: str) -> None:
    """End the process at once, so that nothing more of it reaches Kafka; its supervisor starts it again."""
    _log.critical("abandoning", reason=reason)
    os._exit(70)  # sysexits' EX_SOFTWARE; no clean-up may run, it would flush what must not be written any more


def patiently(attempt: Callable[[], _Result], what: str, stop: threading.Event) -> _Result:
    """Return what the attempt returns, trying again with growing pauses for as long as something is not there.

    Raises Stopped when the process is asked to stop meanwhile.
    """
    pause = 0.25
    while not stop.is_set():
        try:
            return attempt()
        except TickstreamError as error:
            _log.warning("waiting", what=what, error=str(error), pause_s=pause)
            stop.wait(pause)
            pause = min(pause * 2, _BACKOFF_SECONDS_MAX)
    raise Stopped


class Worker:
    """One process, as a context manager: waits on entry until Kafka, its topics and the schemas are there."""

    def __init__(
        self,
        settings: StreamSettings,
        readiness: Readiness,
        tracing: Tracing,
        stop: threading.Event,
        operators: MakeOperators,
    ) -> None:
        self._operators = operators
        self.settings = settings
        self.readiness = readiness
        self.stop = stop
        self.topics = {topics.topic(name).physical(settings.topic_prefix): name for name in INPUTS}
        self.topic_ids: dict[str, str] = {}
        self._tracing = tracing
        self._registry = Registry(settings.registry_url, timeout_s=_ASK_SECONDS)
        self._admin = AdminClient(
            {
                "bootstrap.servers": settings.kafka_brokers,
                "client.id": "tickstream-stream-apps",
                "reconnect.backoff.max.ms": 2_000,
            },
            logger=LOG,
        )
        self._partitions = 0
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._watch_dependencies, name="dependencies", daemon=True)
        self._counted: dict[int, tuple[Pipeline, dict[str, Counts[str]]]] = {}
        self._progress: dict[int, tuple[int, int, int]] = {}
        self._recovering: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._watch.start()
        self._codec: Codec = patiently(self._registry.codec, "the registry's schemas", self.stop)
        patiently(self._check_topics, "Kafka's topics", self.stop)
        self.shell = Shell(
            operators=self._operators,
            decode=self.decode,
            encode=self._codec.encode,
            clock=time.time_ns,
            span=self._tracing.span if self._tracing.provider is not None else None,
            trace=lambda: self._tracing.span(SOURCE, None, 0, 0),
            prefix=self.settings.topic_prefix,
            partitions=self._partitions,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._watch.join()
        self._registry.close()

    def decode(self, data: bytes) -> AnyEvent:
        """Return the event that the bytes hold; a schema not known yet is fetched."""
        return decode(self._codec, self._registry, data)

    def _check_topics(self) -> None:
        try:
            there = self._admin.list_topics(timeout=_ASK_SECONDS).topics
        except KafkaException as error:
            raise Unavailable(f"Kafka at {self.settings.kafka_brokers} does not answer: {error.args[0]}") from error
        counts = set()
        for topic in topics.TOPICS:
            name = topic.physical(self.settings.topic_prefix)
            if name not in there:
                raise Unavailable(f"there is no topic {name}: run `tickstream topics apply`")
            if topic.keyed:
                counts.add(len(there[name].partitions))
        if len(counts) > 1:
            raise Unavailable(
                f"topics differ in their number of partitions ({sorted(counts)}): those that are keyed by symbol must "
                "have the same; see `tickstream topics plan`"
            )
        self._partitions = max(counts)

    # -- metrics and readiness

    def export(self, partitions: Iterable[Partition], unusable: str, not_committing: str) -> None:
        """Bring the metrics and the readiness up to date with the partitions of this worker.

        `unusable` says why what the group assigned cannot be used, `not_committing` why there are no transactions; both
        are empty otherwise.
        """
        now = time.monotonic()
        late = [unusable] if unusable else []
        if self._is_late(_COMMITTER, not_committing, now):
            late.append(not_committing)
        for partition in partitions:
            number = str(partition.number)
            inputs, outputs, recoveries = self._progress.get(partition.number, (0, 0, 0))
            _INPUTS.labels(number).inc(max(0, partition.committed_inputs - inputs))
            _OUTPUTS.labels(number).inc(max(0, partition.committed_outputs - outputs))
            _RECOVERIES.labels(number).inc(max(0, partition.recoveries - recoveries))
            self._progress[partition.number] = (
                partition.committed_inputs,
                partition.committed_outputs,
                partition.recoveries,
            )
            if self._is_late(partition.number, partition.why, now):
                late.append(f"partition {number}: {partition.why}")
            if partition.pipeline is not None:
                self._export_counts(partition)
        if late:
            self.readiness.down(PIPELINE, "; ".join(late))
        else:
            self.readiness.up(PIPELINE)

    def _is_late(self, number: int, why: str, now: float) -> bool:
        """Return whether something has been unable to commit for too long."""
        if not why:
            self._recovering.pop(number, None)
            return False
        return now - self._recovering.setdefault(number, now) > _RECOVERY_SECONDS

    def forget(self, partition: Partition) -> None:
        """Take a partition that is no longer this worker's out of the metrics."""
        self._progress.pop(partition.number, None)
        self._counted.pop(partition.number, None)
        self._recovering.pop(partition.number, None)
        for topic in self.topics:
            try:
                _LAG.remove(self.settings.group_prefix + GROUP, topic, str(partition.number))
            except KeyError:
                continue

    def show_lag(self, topic: str, partition: int, lag: int) -> None:
        """Show how many records of an input partition wait."""
        _LAG.labels(self.settings.group_prefix + GROUP, topic, str(partition)).set(lag)

    def _export_counts(self, partition: Partition) -> None:
        """Add what operators and the pipeline counted since the last call to the metrics."""
        assert partition.pipeline is not None  # noqa: S101 - `export` looked
        pipeline = partition.pipeline
        known = self._counted.get(partition.number)
        if known is None or known[0] is not pipeline:
            known = self._counted[partition.number] = (pipeline, {})
        for name, counts in pipeline.counted():
            for reason, count in (counts - known[1].get(name, Counts())).items():
                DROPPED.labels(name, reason).inc(count)
            known[1][name] = counts.copy()

    def _watch_dependencies(self) -> None:
        while True:
            self._try(KAFKA, self._look_at_topics)
            self._try(REGISTRY, lambda: self._registry.lookup("Trades"))
            if self._closing.wait(_WATCH_SECONDS):
                return

    def _look_at_topics(self) -> None:
        described = self._admin.describe_topics(TopicCollection(list(self.topics)), request_timeout=_ASK_SECONDS)
        for name, future in described.items():
            self.topic_ids[name] = str(future.result(_ASK_SECONDS).topic_id)

    def _try(self, dependency: str, ask: Callable[[], object]) -> None:
        try:
            ask()
        except (KafkaException, TickstreamError, TimeoutError) as error:
            if self.readiness.is_up(dependency):
                _log.warning("dependency lost", dependency=dependency, error=str(error))
            self.readiness.down(dependency, str(error))
        else:
            if not self.readiness.is_up(dependency):
                _log.info("dependency answers", dependency=dependency)
            self.readiness.up(dependency)
