"""Runs the operators on confluent-kafka: batches in, outputs, checkpoints and offsets out in one transaction.

One thread per app: consume what is there (never waiting for more), step, write, and commit all of it as one
transaction, which other readers see whole or not at all. The committed offset is the tasks' own, as on Faust: it stays
behind the oldest input that no checkpoint reflects, so recovery is the same, and a partition may move between workers
of both engines.

Fencing. The offsets go in with the consumer group's generation, so a worker that lost its partitions cannot commit
(KIP-447). The transactional id only has to make a successor abort at once what its predecessor left open; so it is
named after the first partition assigned: no two living workers have the same, and a restarted one has its old one.

Whatever goes wrong in a transaction ends the process (its supervisor starts it again): an aborted transaction leaves
tasks that are ahead of Kafka, and recovery is how they get back.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from marketdata.errors import Unavailable
from marketdata.topics import topic
from runtime.kafka import consumer_config, headers_of, producer_config
from stream_apps.engines.apps import App, by_input
from stream_apps.engines.task import Output, Record, Task
from stream_apps.engines.worker import LAG, Tally, Worker, abandon

BATCH_RECORDS = 1_000
# Output bytes after which a transaction is committed, however many records are left of the batch.
TRANSACTION_BYTES = 32 * 1024 * 1024
# A worker that dies leaves its transaction open for this long when no successor takes its id.
TRANSACTION_SECONDS = 10
ROUND_SECONDS = 0.5
MEASURE_SECONDS = 1.0

_POLL_SECONDS = 0.1
_RETRY_SECONDS = 0.5
_ABORT_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class AppEngine:
    """One app, on one thread."""

    def __init__(self, app: App, worker: Worker) -> None:
        self.app = app
        self._worker = worker
        self._group = app.group(worker.settings.group_prefix)
        self._operators = {
            topic(name).physical(worker.settings.topic_prefix): found
            for name, found in by_input(app, worker.instruments).items()
        }
        self._tasks: dict[tuple[str, int], list[Task]] = {}
        self._tallies: dict[int, Tally] = {}
        self._committed: dict[tuple[str, int], int] = {}
        self._assignment = 0
        self._producer: Producer | None = None
        self._consumer = Consumer(self._consumer_config())
        self._thread = threading.Thread(target=self._run, name=f"direct {app.name}", daemon=True)

    def _consumer_config(self) -> dict[str, Any]:
        settings = self._worker.settings
        config = consumer_config(settings, f"tickstream-{self.app.name}") | {
            "client.id": f"tickstream-{self.app.name}",
            "session.timeout.ms": int(settings.session_seconds * 1000),
            # What Faust's consumer uses too, so that workers of both engines can share a group.
            "partition.assignment.strategy": "roundrobin",
            "queued.min.messages": 10_000,
        }
        if settings.worker:
            config["group.instance.id"] = f"{self.app.name}-{settings.worker}"
        return config

    def start(self) -> None:
        """Join the group and go."""
        self._consumer.subscribe(list(self._operators), on_assign=self._on_assign, on_revoke=self._on_revoke)
        self._thread.start()

    def join(self, limit_s: float) -> bool:
        """Wait until the engine has drained; False when it did not in time."""
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
            self._finish()
            self._consumer.close()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the process must not go on half alive
            _log.exception("engine failed", app=self.app.name)
            abandon(f"{self.app.name}: {error}")

    def _work(self) -> None:
        round_at = measure_at = time.monotonic()
        while not self._worker.stop.is_set():
            messages = self._consume()
            due = time.monotonic() - round_at >= ROUND_SECONDS
            self._batch([message for message in messages if self._is_record(message)], checkpoint=due)
            if due:
                round_at = time.monotonic()
            if time.monotonic() - measure_at >= MEASURE_SECONDS:
                measure_at = time.monotonic()
                self._measure()

    def _consume(self) -> list[Any]:
        """Return what is there, waiting only for the first."""
        first = self._consumer.poll(_POLL_SECONDS)
        if first is None:
            return []
        assignment = self._assignment
        rest: list[Any] = self._consumer.consume(BATCH_RECORDS - 1, 0)
        # A rebalance in the second call makes the first message one that will come again, here or elsewhere; the client
        # drops such messages from its own batch.
        return [first, *rest] if self._assignment == assignment else rest

    def _is_record(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.fatal() or not (error.retriable() or error.code() == KafkaError._ALL_BROKERS_DOWN):  # noqa: SLF001
            raise KafkaException(error)
        _log.warning("consumer", app=self.app.name, error=str(error))
        return False

    def _batch(self, messages: list[Any], *, checkpoint: bool) -> None:
        """Step and commit what was consumed, in as many transactions as its outputs need."""
        outputs: list[Output] = []
        size = 0
        for message in messages:
            before = len(outputs)
            if not self._step(message, outputs):
                break
            size += sum(len(output.value) for output in outputs[before:])
            if size > TRANSACTION_BYTES:
                self._transact(outputs)
                outputs, size = [], 0
        if outputs or checkpoint:
            self._transact(outputs, checkpoint=checkpoint)

    def _step(self, message: Any, outputs: list[Output]) -> bool:
        """Step one input and add what has to be written; False when told to stop while something was away."""
        record = Record(
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            key=message.key(),
            value=message.value(),
            headers=headers_of(message),
            timestamp_ms=message.timestamp()[1],
        )
        at = (record.topic, record.partition)
        while True:
            try:
                tasks = self._tasks.get(at)
                if tasks is None:
                    tasks = [
                        self._worker.task(self.app, operator, record) for operator in self._operators[record.topic]
                    ]
                    self._tasks[at] = tasks
                for task in tasks:
                    outputs += task.step(record)
            except Unavailable as error:
                _log.warning("waiting", app=self.app.name, error=str(error))
                if self._worker.stop.wait(_RETRY_SECONDS):
                    return False
            else:
                return True

    def _checkpoint(self, outputs: list[Output], *, everything: bool) -> dict[tuple[str, int], int]:
        """Add the checkpoints that are due, and return the offsets that may be committed with them."""
        offsets: dict[tuple[str, int], int] = {}
        for at, tasks in self._tasks.items():
            for task in tasks:
                due = task.checkpoint(everything=everything)
                if due is not None:
                    outputs += due.checkpoints
                    offsets[at] = min(offsets.get(at, due.offset), due.offset)
        return offsets

    def _transact(self, outputs: list[Output], *, checkpoint: bool = False, everything: bool = False) -> None:
        offsets = self._checkpoint(outputs, everything=everything) if checkpoint else {}
        moved = {at: offset for at, offset in offsets.items() if self._committed.get(at) != offset}
        producer = self._producer
        if producer is None or not (outputs or moved):
            return
        producer.begin_transaction()
        for output in outputs:
            producer.produce(
                output.topic,
                key=output.key,
                value=output.value,
                partition=output.partition,
                headers=output.headers,
            )
        if moved:
            positions = [TopicPartition(name, partition, offset) for (name, partition), offset in moved.items()]
            producer.send_offsets_to_transaction(positions, self._consumer.consumer_group_metadata())
        producer.commit_transaction()
        self._committed |= moved
        if checkpoint:
            for tasks in self._tasks.values():
                for task in tasks:
                    task.saved()

    def _on_assign(self, _consumer: Any, partitions: list[Any]) -> None:
        self._forget()
        if not partitions:
            return
        first = min((partition.topic, partition.partition) for partition in partitions)
        config = producer_config(self._worker.settings, f"tickstream-{self.app.name}")
        # A transaction's own time limit takes the place of the single message's.
        config.pop("message.timeout.ms")
        config |= {
            "transactional.id": f"{self._group}-{first[0]}-{first[1]}",
            "transaction.timeout.ms": TRANSACTION_SECONDS * 1000,
            "queue.buffering.max.messages": 0,
            "queue.buffering.max.kbytes": 2**31 - 1,
            "linger.ms": 0,
        }
        self._producer = Producer(config)
        self._producer.init_transactions(30)

    def _on_revoke(self, _consumer: Any, _partitions: list[Any]) -> None:
        self._finish()

    def _finish(self) -> None:
        """Checkpoint everything, commit, and forget the tasks."""
        try:
            self._transact([], everything=True, checkpoint=True)
        except KafkaException as error:
            _log.warning("partitions given away without a last checkpoint", app=self.app.name, error=str(error))
            self._abort()
        self._forget()

    def _abort(self) -> None:
        """Close what is open, so that readers need not wait for its time limit."""
        try:
            if self._producer is not None:
                self._producer.abort_transaction(_ABORT_SECONDS)
        except KafkaException as error:
            _log.warning("not aborted", app=self.app.name, error=str(error))

    def _forget(self) -> None:
        for name, partition in self._tasks:
            try:
                LAG.remove(self._group, name, str(partition))
            except KeyError:
                continue
        self._assignment += 1
        self._tasks.clear()
        self._tallies.clear()
        self._committed.clear()
        self._producer = None

    def _measure(self) -> None:
        for operators in self._operators.values():
            for operator in operators:
                self._worker.export_counts(operator)
        for (name, partition), tasks in self._tasks.items():
            for task in tasks:
                self._tallies.setdefault(id(task), Tally()).export(task)
            _low, high = self._consumer.get_watermark_offsets(TopicPartition(name, partition), cached=True)
            LAG.labels(self._group, name, str(partition)).set(max(0, high - min(task.position for task in tasks)))


def run(worker: Worker) -> None:
    """Run all apps of a worker until it is told to stop. When one of them fails the process ends."""
    engines = [AppEngine(app, worker) for app in worker.apps]
    for engine in engines:
        engine.start()
    worker.stop.wait()
    deadline = time.monotonic() + worker.settings.drain_seconds
    for engine in engines:
        if not engine.join(max(0.1, deadline - time.monotonic())):
            abandon(f"{engine.app.name} did not drain in {worker.settings.drain_seconds:.0f} s")
    _log.info("drained")
