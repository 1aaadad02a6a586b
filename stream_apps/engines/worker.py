"""What a worker process needs whichever engine it runs: registry, instruments, recovery, readiness, metrics."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client import Counter, Gauge

from marketdata import topics
from marketdata.codec import Codec
from marketdata.errors import TickstreamError, Unavailable
from marketdata.events import AnyEvent
from marketdata.operator import Operator
from runtime.health import Readiness
from runtime.kafka import LOG
from runtime.metrics import DROPPED, HOP_LATENCY_MS
from runtime.registry import Registry, decode
from runtime.tracing import Tracing
from stream_apps.engines.apps import App, written_topics
from stream_apps.engines.instruments import Instruments
from stream_apps.engines.recovery import Recovery
from stream_apps.engines.task import Cadence, Record, Shell, Task
from stream_apps.settings import StreamSettings

KAFKA = "kafka"
REGISTRY = "registry"

INPUTS = Counter("tickstream_operator_inputs_total", "Input records that an operator is done with.", ["operator"])
OUTPUTS = Counter("tickstream_operator_outputs_total", "Records that an operator wrote.", ["operator"])
SUPPRESSED = Counter(
    "tickstream_operator_suppressed_total",
    "Outputs not written because an earlier run had written them, after a restart or rebalance.",
    ["operator"],
)
LAG = Gauge("tickstream_consumer_lag_messages", "Input records not consumed yet.", ["group", "topic", "partition"])

_BACKOFF_SECONDS_MAX = 5.0
_WATCH_SECONDS = 2.0
_ASK_SECONDS = 2.0

_log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")


class Stopped(Exception):  # noqa: N818 - no error: told to stop while waiting
    """The process was told to stop before it had started."""


def abandon(reason: str) -> None:
    """End the process at once, so that nothing more of it reaches Kafka; its supervisor starts it again."""
    _log.critical("abandoning", reason=reason)
    os._exit(70)  # sysexits' EX_SOFTWARE; no clean-up may run, it would flush what must not be written any more


def patiently(attempt: Callable[[], _Result], what: str, stop: threading.Event) -> _Result:
    """Return what the attempt returns, trying again with growing pauses for as long as something is not there.

    Raises Stopped when told to stop meanwhile.
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
    """One process: the parts that all its apps share, as a context manager."""

    def __init__(
        self,
        settings: StreamSettings,
        apps: tuple[App, ...],
        readiness: Readiness,
        tracing: Tracing,
        stop: threading.Event,
    ) -> None:
        self.settings = settings
        self.apps = apps
        self.readiness = readiness
        self.stop = stop
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
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._watch_dependencies, name="dependencies", daemon=True)
        self._counted: dict[str, Counts[str]] = {}

    def __enter__(self) -> Self:
        """Wait until Kafka, its topics and the registry's schemas are there."""
        self._watch.start()
        self._codec: Codec = patiently(self._registry.codec, "the registry's schemas", self.stop)
        patiently(self._check_topics, "Kafka's topics", self.stop)
        self.shell = Shell(
            decode=self.decode,
            encode=self._codec.encode,
            span=self._tracing.span,
            clock=time.time_ns,
            seconds=time.monotonic,
            observe=lambda _: None,
            prefix=self.settings.topic_prefix,
        )
        self.recovery = Recovery(self.settings, self.decode)
        names = {
            name
            for app in self.apps
            for operator in app.build({})
            for name in (operator.checkpoints, *written_topics(operator))
        }
        threading.Thread(target=self.recovery.warm, args=(sorted(names),), name="warm", daemon=True).start()
        self.instruments = patiently(self._start_instruments, "known instruments", self.stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self.instruments.__exit__(kind, error, trace)
        self.recovery.close()
        self._watch.join()
        self._registry.close()

    def _start_instruments(self) -> Instruments:
        return Instruments(self.settings, self.decode).__enter__()

    def decode(self, data: bytes) -> AnyEvent:
        """Return the event that the bytes hold; a schema not known yet is fetched."""
        return decode(self._codec, self._registry, data)

    def _check_topics(self) -> None:
        try:
            there = self._admin.list_topics(timeout=_ASK_SECONDS).topics
        except KafkaException as error:
            raise Unavailable(f"Kafka at {self.settings.kafka_brokers} does not answer: {error.args[0]}") from error
        for topic in topics.TOPICS:
            name = topic.physical(self.settings.topic_prefix)
            if name not in there:
                raise Unavailable(f"there is no topic {name}: run `tickstream topics apply`")
            if len(there[name].partitions) != topic.partitions:
                raise Unavailable(f"{name} has {len(there[name].partitions)} partitions and needs {topic.partitions}")

    def task(self, app: App, operator: Operator[Any], first: Record) -> Task:
        """Return the task for the partition of which `first` is the first input, as earlier runs left it.

        Raises Unavailable when Kafka or the registry does not answer.
        """
        recovered = self.recovery.recover(operator, first)
        cadence = app.cadence or Cadence(
            inputs=self.settings.checkpoint_inputs, seconds=self.settings.checkpoint_seconds
        )
        histogram = HOP_LATENCY_MS.labels(operator.name)
        # Clocks of two machines that disagree count as no time, never as negative time.
        shell = msgspec.structs.replace(self.shell, observe=lambda ns: histogram.observe(max(0, ns) / 1e6))
        return Task(operator, first.partition, recovered=recovered, shell=shell, cadence=cadence)

    def export_counts(self, operator: Operator[Any]) -> None:
        """Add what an operator counted since the last call to the metrics."""
        counts = operator.counts.copy()
        before = self._counted.get(operator.name, Counts())
        for reason, count in (counts - before).items():
            DROPPED.labels(operator.name, reason).inc(count)
        self._counted[operator.name] = counts

    def _watch_dependencies(self) -> None:
        while True:
            self._try(KAFKA, lambda: self._admin.list_topics(timeout=_ASK_SECONDS))
            self._try(REGISTRY, lambda: self._registry.lookup("Trades"))
            if self._closing.wait(_WATCH_SECONDS):
                return

    def _try(self, dependency: str, ask: Callable[[], object]) -> None:
        try:
            ask()
        except (KafkaException, TickstreamError) as error:
            if self.readiness.is_up(dependency):
                _log.warning("dependency lost", dependency=dependency, error=str(error))
            self.readiness.down(dependency, str(error))
        else:
            if not self.readiness.is_up(dependency):
                _log.info("dependency answers", dependency=dependency)
            self.readiness.up(dependency)


class Tally(msgspec.Struct):
    """What of a task's counts is in the metrics already."""

    inputs: int = 0
    outputs: int = 0
    suppressed: int = 0

    def export(self, task: Task) -> None:
        """Add what a task did since the last call to the metrics."""
        INPUTS.labels(task.operator.name).inc(task.inputs - self.inputs)
        OUTPUTS.labels(task.operator.name).inc(task.outputs - self.outputs)
        SUPPRESSED.labels(task.operator.name).inc(task.suppressed - self.suppressed)
        self.inputs, self.outputs, self.suppressed = task.inputs, task.outputs, task.suppressed
