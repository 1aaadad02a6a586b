"""Runs the pipeline on Faust: Faust joins the group, fetches and supervises; the pipeline processes the batches.

Why Faust used to idle (66,000 quotes took 97 s for 15 s of CPU time):

1. Its driver lets Kafka wait for 1.5 s for a first record, which no setting changes. One fetch request is open at a
   time. When an answer is not read to its end within 0.1 s, aiokafka sends the next request without that partition; it
   asks about the quiet partitions only, and the busy one is fetched again when its 1.5 s are over. At 256 KB a fetch,
   66,000 quotes of 250 bytes are 64 fetches, and 64 times 1.5 s are 96 s. A reader that needs 3.0 s for 20,000 records
   gets them in 8.8 s with a wait of 1.5 s, and in 3.2 s with one of 0.05 s.
2. Answers were not read in 0.1 s, as each message costs a step of an asynchronous generator, two tasks (`wait_first`),
   a lock, an event and a queue, and as the full buffer of one stream blocks the loop that reads for all.

So `Transport` (Faust's public place for a driver) has a consumer with a short wait; all that arrives is read at once,
and the records of a partition stay with the client while enough of them wait for the pipeline. `Fetcher` gives whole
batches to the engine. What remains of Faust: the application and its services, the group's membership, rebalances and
their signals, and the conductor that subscribes. There are no agents and no tables, and Faust's producer is not
started.

When a service of Faust crashes, the process ends; its supervisor starts it again, and recovery does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faust
import structlog
from faust.app.base import BootStrategy
from faust.types import TP

from stream_apps.engines.assignment import REJOIN_SECONDS, Assignment
from stream_apps.engines.faust_transport import Batch, Consumer, Transport
from stream_apps.engines.worker import Worker, abandon
from stream_apps.pipeline import Record
from stream_apps.settings import GROUP

_WAIT_SECONDS = 0.1
# While a partition has records but must not commit yet, or waits to recover, there is more to do soon.
_WAIT_BUSY_SECONDS = 0.001
_MEASURE_SECONDS = 1.0
_CLOSE_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class _Boot(BootStrategy):
    enable_kafka_producer = False
    enable_sensors = False
    enable_web = False


class _App(faust.App):
    BootStrategy = _Boot

    async def on_first_start(self) -> None:
        """Make no folders: there are no tables."""


class Engine:
    """One worker on Faust. Everything runs on its event loop but the jobs of its partitions."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._wake = asyncio.Event()
        self._executor = ThreadPoolExecutor(32, thread_name_prefix="partition")
        self._assignment = Assignment(
            worker,
            self._executor,
            loop.create_task,
            on_moved=self._moved,
            on_done=lambda: self._call_soon(loop),
        )
        self.app = self._make_app(loop)

    def _make_app(self, loop: asyncio.AbstractEventLoop) -> faust.App:
        settings = self._worker.settings
        session = settings.session_seconds
        app = _App(
            f"{settings.group_prefix}{GROUP}",
            broker="aiokafka://" + ";".join(settings.kafka_brokers.split(",")),
            broker_client_id=f"tickstream-pipeline{'-' + settings.worker if settings.worker else ''}",
            broker_session_timeout=session,
            broker_request_timeout=max(20.0, session),
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            autodiscover=False,
            store="memory://",
            loop=loop,
        )
        app.transport = Transport(app, settings, on_batch=self._take, on_missing=self._restart)
        app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        for name in self._worker.topics:
            app.topics.add(app.topic(name, key_serializer="raw", value_serializer="raw", acks=False))
        return app

    def _call_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nothing waits for this
            loop.call_soon_threadsafe(self._wake.set)

    @property
    def _consumer(self) -> Consumer:
        consumer: Any = self.app.consumer
        assert isinstance(consumer, Consumer)  # noqa: S101 - the transport makes it
        return consumer

    # -- records

    def _take(self, batch: Batch) -> None:
        """Give the partitions what was fetched."""
        accepts = self._assignment.accepts
        for tp, fetched in batch.items():
            topic, number = tp.topic, tp.partition
            records = [
                Record(topic, record.offset, record.key, record.value, record.headers, record.timestamp)
                for record in fetched
                if accepts(topic, number, record.offset)
            ]
            if records:
                self._assignment.offer(number, records)
        self._throttle()
        self._wake.set()

    def _throttle(self) -> None:
        self._assignment.throttle()
        self._consumer.left_out = self._assignment.full

    def _restart(self, error: Exception) -> None:
        """Recover the partition of which Kafka does not have the next offset."""
        asked = error.args[0] if error.args else None
        for tp in asked if isinstance(asked, dict) else [asked]:
            if tp is not None and self._assignment.positions(tp.partition):
                self._assignment.restart(tp.partition, f"{tp.topic}/{tp.partition}: {type(error).__name__}")

    def _moved(self, number: int) -> None:
        """Read a partition from its next offsets on, or no more while it recovers."""
        offsets = self._assignment.positions(number)
        if offsets:
            self._consumer.read({(topic, number): offset for topic, offset in offsets.items()})
        else:
            self._consumer.hold(self._worker.topics, number)

    # -- the loop

    async def work(self) -> None:
        """Step and commit what arrives, until cancelled."""
        assignment = self._assignment
        measured = 0.0
        while True:
            self._wake.clear()
            for partition in list(assignment.partitions.values()):
                partition.work()
                assignment.commit()
                await asyncio.sleep(0)
            self._throttle()
            if time.monotonic() - measured >= _MEASURE_SECONDS:
                measured = time.monotonic()
                assignment.measure(lambda topic, number: self._consumer.highwater(TP(topic, number)))
            is_due = assignment.is_due
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_BUSY_SECONDS if is_due else _WAIT_SECONDS):
                    await self._wake.wait()

    # -- the group

    async def _on_assigned(self, _app: Any, /, *args: Any, signal: Any, **_kwargs: Any) -> None:  # noqa: ARG002
        if self._worker.stop.is_set():
            return  # another worker gets them in a moment
        assigned: set[TP] = args[0]
        is_whole = self._assignment.open([(tp.topic, tp.partition) for tp in assigned], self._consumer.member())
        if not is_whole:
            asyncio.get_running_loop().call_later(REJOIN_SECONDS, self._consumer.rejoin)

    async def _on_revoked(self, _app: Any, /, *_args: Any, signal: Any, **_kwargs: Any) -> None:  # noqa: ARG002
        await self.drain(self._worker.settings.session_seconds / 2)

    async def drain(self, limit_s: float) -> None:
        """Commit and checkpoint what was stepped, within a time limit, and release every partition."""
        deadline = time.monotonic() + limit_s
        self._assignment.drain()
        self._wake.set()
        while not self._assignment.is_drained:
            if time.monotonic() > deadline:
                _log.warning("partitions released before everything was checkpointed")
                break
            self._assignment.work()
            await asyncio.sleep(0.001)
        self._assignment.close()

    async def stop(self, limit_s: float) -> None:
        """Finish what was begun and leave the group."""
        began = time.monotonic()
        await self.drain(limit_s * 0.6)
        try:
            async with asyncio.timeout(max(1.0, limit_s - (time.monotonic() - began))):
                await self.app.stop()
        except TimeoutError:
            _log.warning("left the group without a response")
        self._executor.shutdown(wait=False, cancel_futures=True)
        closing = self._assignment.end()
        if isinstance(closing, asyncio.Task):
            # Not longer: what Kafka has not taken by now is not committed.
            await asyncio.wait([closing], timeout=_CLOSE_SECONDS)


async def run(worker: Worker) -> None:
    """Run the engine until the process is asked to stop. When it fails the process ends."""
    try:
        engine = Engine(worker, asyncio.get_running_loop())
        await engine.app.start()
        work = asyncio.ensure_future(engine.work())
        crash = asyncio.ensure_future(engine.app.wait_until_stopped())
        stop = asyncio.ensure_future(asyncio.to_thread(worker.stop.wait))
        await asyncio.wait([work, crash, stop], return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            if work.done():
                work.result()
            abandon(f"Faust has ended: {engine.app.crash_reason!r}")
        await engine.stop(worker.settings.drain_seconds)
        work.cancel()
        crash.cancel()
    except Exception as error:  # noqa: BLE001 - whatever it is, the process must not keep running without its engine
        _log.exception("engine failed")
        abandon(str(error))
    _log.info("drained")
