"""Runs the pipeline on confluent-kafka: one thread reads and steps, transactions are committed beside it.

Every input topic has the same number of partitions, and all workers read all of them, so the range assignor gives a
worker the same partition numbers of each topic. The consumer is assigned a partition only when its pipeline has reached
the committed offsets, and exactly there; whatever else arrives is not taken.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from runtime.kafka import close, consumer_config, is_fatal
from runtime.loops import LoopThread
from stream_apps.engines.assignment import REJOIN_SECONDS, Assignment
from stream_apps.engines.transactions import Member
from stream_apps.engines.worker import Worker, abandon
from stream_apps.pipeline import Record
from stream_apps.settings import GROUP

READ_AT_ONCE = 1_000

_POLL_SECONDS = 0.1
# While a partition waits for a job's end there is more to do soon.
_POLL_BUSY_SECONDS = 0.001
_MEASURE_SECONDS = 1.0
# While a partition is full nothing is read, as its pipeline soon makes room. One that does not is paused after this
# time, so that the others continue; not at once, for the client discards what it has fetched of a paused partition.
_PAUSE_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class Engine:
    """The loop of one worker. Everything belongs to its thread but the jobs of its partitions."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._wake = threading.Event()
        self._executor = ThreadPoolExecutor(32, thread_name_prefix="partition")
        self._links = LoopThread("transactions")
        self._assignment = Assignment(
            worker, self._executor, self._links.submit, on_moved=self._moved, on_done=self._wake.set
        )
        self._paused: set[int] = set()
        self._changed = False
        self._measured = 0.0
        self._rejoin_at: float | None = None
        settings = worker.settings
        config = consumer_config(settings, GROUP) | {
            "client.id": f"tickstream-pipeline{'-' + settings.worker if settings.worker else ''}",
            "session.timeout.ms": int(settings.session_seconds * 1_000),
            "partition.assignment.strategy": "range",
            "queued.min.messages": 20_000,
            # An offset that Kafka does not have is handled by `Recovery.locate`, not by a silent jump.
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 100,
            # How long a partition is not fetched after enough of it was; the default of a second is a pause.
            "fetch.queue.backoff.ms": 10,
        }
        if settings.worker:
            config["group.instance.id"] = settings.worker
        self._consumer = Consumer(config)

    def run(self) -> None:
        """Work until the process is asked to stop, then finish what was begun."""
        self._join()
        while not self._worker.stop.is_set():
            self._offer(self._consume())
            self._assignment.work()
            if self._changed:
                self._position()
            if self._rejoin_at is not None and time.monotonic() >= self._rejoin_at:
                self._rejoin_at = None
                self._consumer.unsubscribe()
                self._join()
            if time.monotonic() - self._measured >= _MEASURE_SECONDS:
                self._measured = time.monotonic()
                self._assignment.measure(self._end)
        self._drain(self._worker.settings.drain_seconds)
        if not close(self._consumer, 5.0):
            _log.warning("left the group without a response")
        self._executor.shutdown(wait=False, cancel_futures=True)
        closing = self._assignment.end()
        if closing is not None:
            closing.result()
        self._links.close()

    # -- records

    def _consume(self) -> list[Any]:
        """Return what is there; wait for the first only, and not long while a job is about to end."""
        if self._assignment.full.keys() - self._paused:
            self._wake.wait(_POLL_BUSY_SECONDS)
            self._wake.clear()
            return []
        messages: list[Any] = self._consumer.consume(READ_AT_ONCE, 0.0)
        if messages:
            return messages
        first = self._consumer.poll(_POLL_BUSY_SECONDS if self._assignment.is_busy else _POLL_SECONDS)
        return [] if first is None else [first]

    def _offer(self, messages: list[Any]) -> None:
        found: dict[int, list[Record]] = {}
        accepts = self._assignment.accepts
        for message in messages:
            if message.error() is not None:
                self._take_error(message)
                continue
            topic, number, offset = message.topic(), message.partition(), message.offset()
            if accepts(topic, number, offset):
                found.setdefault(number, []).append(
                    Record(topic, offset, message.key(), message.value(), message.headers(), message.timestamp()[1])
                )
        for number, records in found.items():
            self._assignment.offer(number, records)
        self._throttle()

    def _throttle(self) -> None:
        self._assignment.throttle()
        full = self._assignment.full
        now = time.monotonic()
        for number, since in full.items():
            if number not in self._paused and now - since > _PAUSE_SECONDS:
                self._paused.add(number)
                self._consumer.pause(self._positions_of(number))
        for number in self._paused - full.keys():
            self._paused.discard(number)
            self._consumer.resume(self._positions_of(number))

    def _take_error(self, message: Any) -> None:
        error = message.error()
        if error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001
            self._assignment.restart(message.partition(), f"{message.topic()}/{message.partition()}: {error.str()}")
            return
        if is_fatal(error):
            abandon(f"consumer: {error.str()}")
        _log.warning("consumer", code=error.name(), reason=error.str(), topic=message.topic())

    # -- where to read

    def _positions_of(self, number: int) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in self._assignment.positions(number)]

    def _moved(self, _number: int) -> None:
        self._changed = True

    def _position(self) -> None:
        """Assign what is ready, each partition at the next offset that it is to take."""
        try:
            self._consumer.assign([TopicPartition(*at, offset) for at, offset in self._assignment.next.items()])
        except KafkaException as error:
            # A rebalance has begun, and comes with the next poll; else this is tried again.
            _log.warning("not assigned yet", reason=error.args[0].str())
            return
        self._changed = False
        for number in self._paused & self._assignment.partitions.keys():
            self._consumer.pause(self._positions_of(number))

    def _end(self, topic: str, number: int) -> int:
        known: tuple[int, int] = self._consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)
        return known[1]

    # -- the group

    def _join(self) -> None:
        self._consumer.subscribe(
            list(self._worker.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        consumer.assign([])
        is_whole = self._assignment.open(
            [(partition.topic, partition.partition) for partition in partitions],
            Member.parse(self._consumer.consumer_group_metadata()),
        )
        self._rejoin_at = None if is_whole else time.monotonic() + REJOIN_SECONDS

    def _on_revoke(self, consumer: Any, _partitions: list[TopicPartition]) -> None:
        self._drain(self._worker.settings.session_seconds / 2)
        consumer.unassign()

    def _on_lost(self, consumer: Any, _partitions: list[TopicPartition]) -> None:
        _log.warning("partitions lost", partitions=sorted(self._assignment.partitions))
        self._close()
        consumer.unassign()

    def _drain(self, limit_s: float) -> None:
        """Commit and checkpoint what was stepped, within a time limit, and release every partition."""
        deadline = time.monotonic() + limit_s
        self._assignment.drain()
        while time.monotonic() < deadline:
            self._assignment.work()
            if self._assignment.is_drained:
                break
            time.sleep(0.001)
        else:
            _log.warning("partitions released before everything was checkpointed")
        self._close()

    def _close(self) -> None:
        self._assignment.close()
        self._changed = False


def run(worker: Worker) -> None:
    """Run the engine until the process is asked to stop. When it fails the process ends."""

    def work() -> None:
        reason = "the engine failed"
        try:
            Engine(worker).run()
            reason = ""
        except BaseException as error:
            _log.exception("engine failed")
            reason = str(error)
            raise
        finally:
            # Whatever was raised (the Kafka client can raise a BaseException): no process without an engine.
            if reason:
                abandon(reason)

    thread = threading.Thread(target=work, name="engine", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        if worker.stop.is_set():
            thread.join(worker.settings.drain_seconds + 10)
            if thread.is_alive():
                abandon(f"did not drain in {worker.settings.drain_seconds:.0f} s")
    _log.info("drained")
