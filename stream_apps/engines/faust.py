"""Runs the operators on Faust: at-least-once delivery, made exactly once by the tasks.

What Faust does here: group membership, rebalancing, fetching, flow control, and the agents (one per input topic). What
it does not do, and why:

- Commits. Faust commits the longest run of acknowledged messages. Acknowledging only what is checkpointed would mean to
  hold every message until then, so the topics are declared with `acks=False` and the engine commits the tasks' own
  offsets through Faust's consumer.
- Outputs. Faust's producer is idempotent only in its exactly-once mode, which stalls, and fails single batches on a
  time-out, which would leave a hole in the order that recovery relies on. `writer` (librdkafka) keeps the order, waits
  an outage out, and works off the event loop.
- State. Windowed tables expire by the wall clock and are lost on a rebalance; the tasks' checkpoints are neither.

A round, twice a second and before partitions are given away:

1. take the checkpoints that are due, and the offset that may be committed with them;
2. wait until all outputs before are safe;
3. commit the offset of the round before: this proves that the partitions are still ours, so that a worker that lost
   them cannot put an old checkpoint over a newer one;
4. write the checkpoints and wait until they are safe;
5. commit.

When a Faust service crashes the process ends with an error, its supervisor starts it again, and recovery does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import faust
import structlog
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.consumer import ThreadDelegateConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP
from mode import Service
from mode.utils.futures import maybe_async

from marketdata.errors import Unavailable
from marketdata.topics import topic
from stream_apps.engines.apps import App, by_input
from stream_apps.engines.task import Output, Record, Task
from stream_apps.engines.worker import LAG, Tally, Worker, abandon
from stream_apps.engines.writer import Writer

ROUND_SECONDS = 0.5
# Kept free of a session's time for what is already on the wire when the writer gives up.
PATIENCE_MARGIN_SECONDS = 3.0
# Messages that may wait for an agent; with what the consumer has fetched this bounds the memory of a backlog.
BUFFER_MESSAGES = 256
# Messages that an agent takes before others, the one that fetches among them, get their turn.
TURN_MESSAGES = 32
# What is fetched of one partition at once; what was fetched is worked off before other partitions' messages.
FETCH_BYTES = 256 * 1024

_COMMIT_SECONDS = 5.0
_REVOKE_SECONDS = 5.0
_ROOM_SECONDS = 0.002
_RETRY_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class _ConsumerThread(AIOKafkaConsumerThread):
    """Faust's Kafka client, on the loop of the agents instead of a thread of its own.

    The thread is there for agents that block. Ours do not, and with a thread each fetch would cross twice between two
    loops that fight for the interpreter. So everything that `mode` lets a thread do differently is a service's usual
    way again.
    """

    wait_for_shutdown = False
    maybe_start = Service.maybe_start
    start = Service.start
    stop = Service.stop
    crash = Service.crash  # type: ignore[assignment]  # its parameter has another name
    _stopped_set = Service._stopped_set  # noqa: SLF001 - as above
    _stop_children = Service._stop_children  # noqa: SLF001 - as above
    _stop_futures = Service._stop_futures  # noqa: SLF001 - as above
    _stop_exit_stacks = Service._stop_exit_stacks  # noqa: SLF001 - as above

    def __init__(self, consumer: ThreadDelegateConsumer, *, loop: asyncio.AbstractEventLoop, beacon: Any) -> None:
        super().__init__(consumer, loop=loop, thread_loop=loop, beacon=beacon)

    async def on_stop(self) -> None:
        """Leave the group and close the sockets."""
        await self.on_thread_stop()

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Call at once what a thread would be asked to."""
        return await maybe_async(fun(*args, **kwargs))

    def _create_worker_consumer(self, transport: Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust reads committed records only in its exactly-once mode; the direct engine's inputs need it always.
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - Faust takes no setting for it
        return consumer


class _Consumer(Consumer):
    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def wait_first(self, *coros: Any, **limits: Any) -> Any:
        """Hand a message to its agent; without two tasks for each where there is room and so nothing to wait for."""
        if len(coros) == 2 and self.flow_active and not any(channel.queue.full() for channel in self.app.topics):
            delivery, suspension = coros
            suspension.close()
            return await delivery
        return await super().wait_first(*coros, **limits)


class _Transport(Transport):
    Consumer = _Consumer


class _FaustApp(faust.App):
    def _create_directories(self) -> None:
        """Make none: there are no tables."""

    def on_init_dependencies(self) -> Any:
        """Leave the monitor out: what it counts for every message is in our own metrics."""
        found = list(super().on_init_dependencies())
        self.sensors.remove(self.monitor)
        return [service for service in found if service is not self.monitor]

    def on_rebalance_start(self) -> None:
        """Say that there is a sensors' state, or Faust warns at each rebalance that there is none."""
        super().on_rebalance_start()
        self._rebalancing_sensor_state = {"sensors": 0}

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self, loop=self.loop)


class _Revoked(Exception):  # noqa: N818 - no error: the partitions went to another worker
    """The partitions were taken away while something waited."""


class AppEngine:
    """One app on Faust. Everything runs on one event loop but the writer's answers."""

    def __init__(self, app: App, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self._worker = worker
        self._group = app.group(worker.settings.group_prefix)
        self._operators = {
            topic(name).physical(worker.settings.topic_prefix): found
            for name, found in by_input(app, worker.instruments).items()
        }
        self._tasks: dict[tuple[str, int], list[Task]] = {}
        self._tallies: dict[int, Tally] = {}
        self._committed: dict[TP, int] = {}
        self._assignment = 0
        self._draining = False
        self._rounds = asyncio.Lock()
        self.failed: asyncio.Future[None] = loop.create_future()
        patience_s = worker.settings.session_seconds - PATIENCE_MARGIN_SECONDS
        self._writer = Writer(worker.settings, f"tickstream-{app.name}", patience_s, abandon)
        self.faust = self._make_faust(loop)

    def _make_faust(self, loop: asyncio.AbstractEventLoop) -> faust.App:
        settings = self._worker.settings
        app = _FaustApp(
            self._group,
            broker="aiokafka://" + ";".join(settings.kafka_brokers.split(",")),
            broker_client_id=f"tickstream-{self.app.name}",
            broker_session_timeout=settings.session_seconds,
            broker_heartbeat_interval=1.0,
            broker_request_timeout=max(20.0, settings.session_seconds),
            broker_rebalance_timeout=max(20.0, settings.session_seconds),
            broker_max_poll_records=BUFFER_MESSAGES,
            # Faust looks for messages without a commit; the commits are ours, and a quiet topic is no fault.
            broker_commit_livelock_soft_timeout=86_400.0,
            stream_processing_timeout=86_400.0,
            # A larger message comes alone; and a backlog in one topic does not keep the others waiting for long.
            consumer_max_fetch_size=FETCH_BYTES,
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=f"{self.app.name}-{settings.worker}" if settings.worker else None,
            stream_buffer_maxsize=BUFFER_MESSAGES,
            stream_wait_empty=False,
            # Without standby tables Faust assigns round robin, as the direct engine does: both can share a group.
            table_standby_replicas=0,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            autodiscover=False,
            store="memory://",
            loop=loop,
        )
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        for name in self._operators:
            source = app.topic(
                name,
                key_type=bytes,
                value_type=bytes,
                key_serializer="raw",
                value_serializer="raw",
                allow_empty=True,
                acks=False,
            )
            app.agent(source, name=f"{self.app.name}-{name}")(self._agent)
        return app

    async def _agent(self, stream: Any) -> None:
        try:
            await self._pump(stream.noack())
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not self.failed.done():
                self.failed.set_exception(error)
            raise

    async def _pump(self, stream: Any) -> None:
        """Take every input, and with it what else waits: Faust gives an agent one message a turn of the loop."""
        waiting = stream.channel.queue
        async for event in stream.events():
            await self._take(event.message)
            for _ in range(TURN_MESSAGES):
                if waiting.empty():
                    break
                await self._take(waiting.get_nowait().message)

    async def _take(self, message: Any) -> None:
        """Step one input. Between the last look at the assignment and the last write nothing is awaited."""
        assignment = self._assignment
        if self._draining or message.generation_id != self.faust.consumer_generation_id:
            return
        record = Record(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            key=message.key,
            value=message.value,
            headers=dict(message.headers or ()),
            timestamp_ms=int(message.timestamp * 1000),
        )
        try:
            tasks = self._tasks.get((record.topic, record.partition))
            if tasks is None:
                tasks = await self._recover(record, assignment)
            while not self._writer.has_room():
                await asyncio.sleep(_ROOM_SECONDS)
                self._check(assignment)
            for task in tasks:
                await self._step(task, record, assignment)
        except _Revoked:
            return

    def _check(self, assignment: int) -> None:
        if self._assignment != assignment:
            raise _Revoked

    async def _recover(self, first: Record, assignment: int) -> list[Task]:
        def tasks() -> list[Task]:
            return [self._worker.task(self.app, operator, first) for operator in self._operators[first.topic]]

        while True:
            try:
                found = await asyncio.to_thread(tasks)
            except Unavailable as error:
                await self._wait(error, assignment)
            else:
                self._check(assignment)
                self._tasks[first.topic, first.partition] = found
                return found

    async def _step(self, task: Task, record: Record, assignment: int) -> None:
        while True:
            try:
                outputs = task.step(record)
            except Unavailable as error:
                await self._wait(error, assignment)
            else:
                if outputs:
                    self._writer.write(outputs)
                return

    async def _wait(self, error: Unavailable, assignment: int) -> None:
        _log.warning("waiting", app=self.app.name, error=str(error))
        await asyncio.sleep(_RETRY_SECONDS)
        self._check(assignment)

    async def _on_revoked(self, *_args: Any, **_kwargs: Any) -> None:
        """Hand over: checkpoint everything, commit, and forget the tasks."""
        self._assignment += 1
        if not self._draining:
            await self._finish(_REVOKE_SECONDS)

    async def _finish(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._round(everything=True)
        except TimeoutError:
            # What is not committed is done again by the next owner, which suppresses what was written.
            _log.warning("partitions given away without a last checkpoint", app=self.app.name)
        for name, partition in self._tasks:
            with contextlib.suppress(KeyError):
                LAG.remove(self._group, name, str(partition))
        self._tasks.clear()
        self._tallies.clear()
        self._committed = {}

    async def _round(self, *, everything: bool = False) -> None:
        async with self._rounds:
            assignment = self._assignment
            checkpoints: list[Output] = []
            offsets: dict[TP, int] = {}
            tasks = [task for found in self._tasks.values() for task in found]
            for task in tasks:
                due = task.checkpoint(everything=everything)
                if due is not None:
                    checkpoints += due.checkpoints
                    tp = TP(task.topic, task.partition)
                    offsets[tp] = min(offsets.get(tp, due.offset), due.offset)
            await asyncio.wrap_future(self._writer.safe())
            if checkpoints:
                if not await self._commit(self._committed, assignment):
                    return
                self._writer.write(checkpoints)
                await asyncio.wrap_future(self._writer.safe())
                for task in tasks:
                    task.saved()
            if offsets != self._committed and await self._commit(offsets, assignment):
                self._committed = offsets

    async def _commit(self, offsets: dict[TP, int], assignment: int) -> bool:
        """Commit; False when the partitions are no longer ours. An outage of Kafka is waited out."""
        if not offsets:
            return True
        consumer_: Any = self.faust.consumer
        thread = consumer_._thread  # noqa: SLF001 - Faust's own commits go this way too
        wanted = {TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(at, "") for tp, at in offsets.items()}
        while self._assignment == assignment:
            try:
                async with asyncio.timeout(_COMMIT_SECONDS):
                    await thread._ensure_consumer().commit(wanted)  # noqa: SLF001 - as above
            except (CommitFailedError, IllegalStateError) as error:
                _log.warning("not committed: the partitions went elsewhere", app=self.app.name, error=str(error))
                return False
            except (KafkaError, TimeoutError) as error:
                _log.warning("not committed: trying again", app=self.app.name, error=repr(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return True
        return False

    async def keep_rounds(self) -> None:
        """Do a round twice a second, for ever."""
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            await self._round()
            self._measure()

    def _measure(self) -> None:
        for operators in self._operators.values():
            for operator in operators:
                self._worker.export_counts(operator)
        for (name, partition), tasks in self._tasks.items():
            end = self.faust.consumer.highwater(TP(name, partition))
            done = min(task.position for task in tasks)
            for task in tasks:
                self._tallies.setdefault(id(task), Tally()).export(task)
            if end is not None:
                LAG.labels(self._group, name, str(partition)).set(max(0, end - done))

    async def drain(self, limit_s: float) -> None:
        """Take no more input, checkpoint everything, commit, leave the group."""
        self._draining = True
        self._assignment += 1
        began = time.monotonic()
        await self._finish(limit_s * 0.6)
        try:
            async with asyncio.timeout(max(0.5, limit_s - (time.monotonic() - began))):
                await self.faust.stop()
        except TimeoutError:
            _log.warning("left the group without a word", app=self.app.name)
        self._writer.close()


async def run(worker: Worker) -> None:
    """Run all apps of a worker until it is told to stop. When one of them fails the process ends."""
    loop = asyncio.get_running_loop()
    engines = [AppEngine(app, worker, loop) for app in worker.apps]
    rounds: list[asyncio.Future[None]] = []
    ends: list[asyncio.Future[None]] = []
    await asyncio.gather(*(engine.faust.start() for engine in engines))
    for engine in engines:
        rounds.append(asyncio.ensure_future(engine.keep_rounds()))
        ends += [asyncio.ensure_future(engine.faust.wait_until_stopped()), engine.failed]
    stopping = asyncio.ensure_future(_told_to_stop(worker))
    await asyncio.wait([*rounds, *ends, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        for future in [*rounds, *ends]:
            if future.done() and future.exception() is not None:
                _log.error("engine failed", exc_info=future.exception())
        crashed = {engine.app.name: repr(engine.faust.crash_reason) for engine in engines if engine.faust.crashed}
        abandon(f"an app failed; crashed: {crashed}")
    for future in rounds:
        future.cancel()
    await asyncio.gather(*(engine.drain(worker.settings.drain_seconds) for engine in engines))
    for future in ends:
        future.cancel()
    _log.info("drained")


async def _told_to_stop(worker: Worker) -> None:
    while not worker.stop.is_set():  # noqa: ASYNC110 - set by a signal, which belongs to no event loop
        await asyncio.sleep(0.05)
