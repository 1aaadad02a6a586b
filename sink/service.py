"""The sink's loop: reads Kafka, collects batches and hands them to the writer, which works on a thread of its own.

Theory of operation. There is one way to start and to recover: *rewind*.

1. Everything read but not stored is discarded, and reading stops.
2. The next offset of each partition is read from the database (`kafka_offsets`).
3. Reading starts there, with one call that contains every offset. Nothing else ever changes the position: no logical
   offset (such as the log's end, which may be resolved late), no seek, no reset.

It happens on every assignment of partitions and after any failure: the database or the registry is unavailable, another
sink has taken over, a commit has an unknown outcome, a record was skipped (`sink.positions`), a partition makes no
progress. Offsets are also committed to Kafka for tools that show the lag; they are never read.

The next batch is collected while the writer stores one, so a slow database leads to larger batches. When the waiting
batch reaches 80 % of its limit, reading stops until the batch is handed over.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import orjson
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from marketdata import topics
from marketdata.codec import Codec
from marketdata.errors import BadEvent, CodecError, TickstreamError, Unavailable
from marketdata.events import Trades
from marketdata.headers import Headers
from runtime.health import Readiness
from runtime.kafka import close, consumer_config, headers_of, is_fatal
from runtime.metrics import DROPPED, WRITE_LATENCY_MS
from runtime.registry import Registry, decode
from runtime.tracing import Tracing
from sink import metrics
from sink.batch import Batch, Partition, Source, TableRows
from sink.brokers import Brokers, BrokersUnavailable
from sink.compiled import trade_rows
from sink.positions import Positions
from sink.rereading import Rereader, Skipped
from sink.rows import STAGE, refused, stored
from sink.settings import SinkSettings
from sink.writer import Superseded, Writer, Written

log = structlog.get_logger()

TOPICS = (
    topics.TRADES, topics.QUOTES, topics.DERIVATIVES, topics.BOOKS, topics.METRICS, topics.CANDLES,
    topics.VENUE_CANDLES, topics.ANOMALIES, topics.STATUS, topics.DEAD_LETTERS, topics.INSTRUMENTS,
)  # fmt: skip
GROUP = "tickstream-sink"

_QUEUE_PAUSE_AT = 0.8
_PAUSE_AFTER_S = 3.0  # well below the time after which Kafka removes a member that does not poll
_BATCH_BYTES = 8 * 1024 * 1024
_READ_AT_ONCE = 1_000
PREFIX_BYTES = 5  # of the Confluent wire format
# Short, because a service may be back at any moment, and an attempt costs a server next to nothing.
_BACKOFF_MIN_S, _BACKOFF_MAX_S = 0.2, 2.0
# Up to this many records of a batch have their latency measured, beyond it every 16th, as each costs 1 us.
_MEASURE_ALL, _MEASURE_EACH = 64, 16
_LOOK_EVERY_S = 1.0
# While there is nothing to store, the database is queried, so that /readyz reports whether it responds.
_ASK_EVERY_S = 3.0


class _Job(NamedTuple):
    """The current work of the writer thread: `done` is called with its result, `rows` is the size of its batch."""

    future: Future[Any]
    done: Callable[[Any], None]
    started: float
    rows: int = 0


class Sink:
    """One sink process. `run` works until `stop` is set, then stores the records read so far and leaves the group."""

    def __init__(
        self,
        settings: SinkSettings,
        *,
        readiness: Readiness,
        registry: Registry,
        codec: Codec,
        writer: Writer,
        tracing: Tracing,
    ) -> None:
        self._settings = settings
        self._readiness = readiness
        self._registry = registry
        self._codec = codec
        self._writer = writer
        self._tracing = tracing
        self._brokers = Brokers(settings)
        self._rereader = Rereader(settings)
        self._schemas = {topic.physical(settings.topic_prefix): topic.schema for topic in TOPICS}
        self._trades = topics.TRADES.physical(settings.topic_prefix)
        # The wire-format prefix (schema id) of records written with our own schema of trades.
        empty = Trades(venue="", symbol="", ts_event=0, ts_recv=0, line="")
        self._trades_prefix = codec.encode(empty)[:PREFIX_BYTES]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._job: _Job | None = None
        self._batch = Batch()
        self._is_collecting = False  # something was read and not handed over yet, even if only tombstones
        self._batch_since = 0.0
        self._headers: list[Headers] = []
        self._assigned: set[Partition] = set()
        self._positions = Positions()
        self._paused = False
        self._full_since: float | None = None
        self._registry_down = False
        self._topics_missing = ""
        self._fatal: KafkaError | None = None
        self._failures = 0
        self._retry_at: float | None = None
        self._looked_at = 0.0
        self._asked_at = 0.0
        self._consumer = Consumer(
            consumer_config(settings, GROUP)
            | {
                "client.id": "tickstream-sink",
                "session.timeout.ms": int(settings.sink_session_seconds * 1000),
                # A missing offset becomes an entry in the ledger (Writer.locate), not a silent jump.
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "topic.metadata.refresh.interval.ms": 10_000,
                "statistics.interval.ms": 2_000,
                "stats_cb": self._on_statistics,
                "error_cb": self._on_error,
            }
            | ({"group.instance.id": f"sink-{settings.sink_worker}"} if settings.sink_worker else {})
        )

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set.

        Raises BrokersUnavailable when Kafka ends the membership permanently, for example if another sink has the same
        name.
        """
        self._consumer.subscribe(
            sorted(self._schemas), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )
        try:
            while not stop.is_set() and self._fatal is None:
                self._turn()
            self._drain()
            if self._fatal is not None:
                raise BrokersUnavailable(f"Kafka has ended the membership of this sink: {self._fatal.str()}")
        finally:
            if not close(self._consumer):
                log.warning("not_left_group", reason="Kafka does not respond")
            self._worker.shutdown(wait=True, cancel_futures=True)
            self._writer.close()
            self._rereader.close()

    # One turn of the loop.

    def _turn(self) -> None:
        self._finish()
        now = time.monotonic()
        if self._job is None:
            if self._retry_at is not None and now >= self._retry_at:
                self._locate()
            elif self._is_due(now):
                self._hand_over()
            elif self._positions and now - self._asked_at >= _ASK_EVERY_S:
                self._do(self._writer.gaps_open, metrics.show_open_gaps)
        elif now - max(self._job.started, self._writer.since) > self._settings.sink_write_seconds:
            self._writer.abandon()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        if not self._has_room(now):
            return
        # The first message of a batch starts its window at once; the rest may be read together.
        count = min(_READ_AT_ONCE, self._settings.sink_batch_rows) if self._is_collecting else 1
        messages = self._consumer.consume(count, self._patience(now))
        now = time.monotonic()
        for message in messages:
            self._take(message, now)

    def _patience(self, now: float) -> float:
        if self._job is not None:
            return 0.005  # it may finish at any moment
        window = self._settings.sink_window_ms / 1000
        if self._is_collecting:
            window -= now - self._batch_since
        return max(0.0, min(window, 0.1))

    def _is_due(self, now: float) -> bool:
        batch = self._batch
        return self._is_collecting and (
            batch.rows >= self._settings.sink_batch_rows
            or batch.size_bytes >= _BATCH_BYTES
            or now - self._batch_since >= self._settings.sink_window_ms / 1000
        )

    def _has_room(self, now: float) -> bool:
        """Return whether to poll the consumer; if the queue stays full, pause the partitions and poll for events only.

        Pausing is delayed, because it makes the client discard its prefetched records and fetch them again.
        """
        full = (
            self._batch.rows >= _QUEUE_PAUSE_AT * self._settings.sink_queue_rows
            or self._batch.size_bytes >= _QUEUE_PAUSE_AT * self._settings.sink_queue_bytes
        )
        if not full:
            self._full_since = None
            self._pause(False)
            return True
        if self._full_since is None:
            self._full_since = now
        if self._job is not None and now - self._full_since < _PAUSE_AFTER_S:
            wait([self._job.future], timeout=0.05)
            return False
        self._pause(True)
        return True

    def _pause(self, pause: bool) -> None:
        if pause != self._paused and self._positions:
            partitions = [TopicPartition(*partition) for partition in self._assigned]
            (self._consumer.pause if pause else self._consumer.resume)(partitions)
            self._paused = pause
            if not pause:
                self._positions.resume(time.monotonic())

    # What arrives from Kafka.

    def _take(self, message: Message, now: float) -> None:
        error = message.error()
        partition, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        if error is not None:
            self._take_error(error, partition, offset, now)
            return
        if not self._positions.take(partition, offset, now):
            return  # read before a rewind; it is read again
        try:
            self._collect(message, partition, offset)
        except Unavailable as unavailable:
            self._registry_down = True
            self._readiness.down("registry", str(unavailable))
            self._rewind("registry", str(unavailable))
            return
        if not self._is_collecting:
            self._is_collecting = True
            self._batch_since = now

    def _collect(self, message: Message, partition: Partition, offset: int) -> None:
        """Add the rows of a message to the batch.

        Raises Unavailable when its schema is unknown and the registry does not respond.
        """
        value, key = message.value(), message.key() or b""
        if value is None:
            return  # a tombstone for compaction
        source = Source(*partition, offset, key, value)
        try:
            records = self._read(source)
        except BadEvent as bad:
            records = [refused(source, bad.reason, str(bad), ts=time.time_ns(), field=bad.field, value=bad.value)]
        except CodecError as bad:
            records = [refused(source, "undecodable", str(bad.args[0]), ts=time.time_ns())]
        if self._registry_down:
            self._registry_down = False
            self._readiness.up("registry")
        for record in records:
            self._batch.add(record)
        if len(self._headers) < _MEASURE_ALL or offset % _MEASURE_EACH == 0:
            self._headers.append(headers_of(message))

    def _read(self, source: Source) -> list[TableRows]:
        if source.topic == self._trades and trade_rows is not None and source.payload.startswith(self._trades_prefix):
            found = trade_rows(source.payload, source.partition, source.offset)
            if found is not None:
                return [TableRows(source, "trades", *found)]
        event = decode(self._codec, self._registry, source.payload)
        if event.schema != self._schemas[source.topic]:
            raise BadEvent("wrong_schema", "schema", event.schema)
        return stored(event, source, time.time_ns())

    def _take_error(self, error: KafkaError, partition: Partition, offset: int, now: float) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name
            self._positions.reach(partition, offset, now)
        elif code in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001
            self._rewind("offset_out_of_range", f"{partition} has no offset {offset}: {error.str()}")
        else:
            log.warning("kafka_error", code=error.name(), reason=error.str(), partition=partition)
            if is_fatal(error):
                self._fatal = error
            if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                self._topics_missing = f"run `tickstream topics apply`: {error.str()}"
                self._readiness.down("kafka", self._topics_missing)

    def _on_error(self, error: KafkaError) -> None:
        log.warning("kafka_error", code=error.name(), reason=error.str())
        if is_fatal(error):
            self._fatal = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self._readiness.down("kafka", error.str())

    def _on_statistics(self, text: str) -> None:
        brokers = orjson.loads(text)["brokers"].values()
        if not any(broker["state"] == "UP" for broker in brokers):
            self._readiness.down("kafka", "no broker responds")
        elif not self._topics_missing:
            self._readiness.up("kafka")

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned = {(partition.topic, partition.partition) for partition in partitions}
        self._topics_missing = ""
        self._readiness.up("kafka")
        log.info("assigned", partitions=len(partitions))
        self._rewind("assigned", "", failed=False)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned = set()
        # Let the current write finish; the next owner of the partitions reads the rest.
        if self._job is not None:
            wait([self._job.future], timeout=self._settings.sink_session_seconds)
            self._finish()
        log.info("revoked", partitions=len(partitions))
        self._forget()
        self._retry_at = None
        consumer.unassign()

    # Recovery.

    def _forget(self) -> None:
        self._batch = Batch()
        self._is_collecting = False
        self._headers = []
        self._positions.clear()
        self._paused = False
        self._full_since = None

    def _rewind(self, reason: str, detail: str, *, failed: bool = True) -> None:
        """Discard what is not stored and resume from the offsets in the database; after a failure, with a delay."""
        metrics.REWINDS.labels(reason).inc()
        self._forget()
        self._consumer.assign([])  # read nothing until the start offsets are known
        delay = 0.0
        if failed:
            self._failures += 1
            delay = _delay_s(self._failures)
            log.warning("rewind", reason=reason, detail=detail, retry_in_s=round(delay, 2))
        self._retry_at = time.monotonic() + delay

    def _locate(self) -> None:
        self._retry_at = None
        partitions = sorted(self._assigned)

        def work() -> dict[Partition, int]:
            return self._writer.locate(self._brokers.logs(partitions))

        self._do(work, self._located)

    def _located(self, offsets: dict[Partition, int]) -> None:
        if self._retry_at is not None or set(offsets) != self._assigned:
            return  # the assignment changed during the query, which will be repeated
        self._asked_at = 0.0  # query soon, for gaps that are already open in the ledger
        partitions = [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
        self._consumer.assign(partitions)
        self._consumer.resume(partitions)  # in librdkafka a paused partition stays paused
        self._positions.start(offsets, time.monotonic())
        if not self._positions.stalled:
            self._readiness.up("reading")
        log.info("reading", partitions=len(offsets))

    # The writer's work.

    def _hand_over(self) -> None:
        batch, self._batch, self._is_collecting = self._batch, Batch(), False
        batch.spans, jumps = self._positions.hand_over()
        headers, self._headers = self._headers, []
        started = time.monotonic()

        def done(written: Written) -> None:
            WRITE_LATENCY_MS.observe((time.monotonic() - started) * 1000)
            self._written(batch, headers, written)

        def work() -> Written:
            self._rereader.check(jumps)
            return self._writer.write(batch)

        self._do(work, done, batch.rows)

    def _do(self, work: Callable[[], Any], done: Callable[[Any], None], rows: int = 0) -> None:
        self._job = _Job(self._worker.submit(work), done, time.monotonic(), rows)

    def _finish(self) -> None:
        """Handle the result of the writer's work if it is finished."""
        job = self._job
        if job is None or not job.future.done():
            return
        self._job = None
        try:
            result = job.future.result()
        except (Superseded, Skipped) as error:
            self._rewind(type(error).__name__.lower(), str(error))
            return
        except TickstreamError as error:
            which = "kafka" if isinstance(error, BrokersUnavailable) else "database"
            self._readiness.down(which, str(error))
            self._rewind(which, str(error))
            return
        self._readiness.up("database")
        self._asked_at = time.monotonic()
        job.done(result)

    def _written(self, batch: Batch, headers: list[Headers], written: Written) -> None:
        now_ns = time.time_ns()
        self._failures = 0
        metrics.BATCH_ROWS.observe(batch.rows)
        for table, rows in written.rows.items():
            metrics.ROWS.labels(table).inc(rows)
        for letter in written.refused:
            DROPPED.labels(STAGE, letter.reason).inc()
            log.error("refused", reason=letter.reason, detail=letter.detail, topic=letter.topic, offset=letter.offset)
        if written.gaps_open is not None:
            metrics.show_open_gaps(written.gaps_open)
        for one in headers:
            metrics.measure_hops(self._tracing, one, now_ns)
        self._positions.store(batch.spans)
        try:
            self._consumer.commit(
                offsets=[TopicPartition(*partition, span.next) for partition, span in batch.spans.items()],
                asynchronous=True,
            )
        except KafkaException as error:  # affects only tools that show the lag
            log.warning("lag_not_committed", reason=str(error))

    def _look(self) -> None:
        """Update the metrics of the queue and the lag."""
        metrics.QUEUE_ROWS.set(self._batch.rows + (self._job.rows if self._job else 0))
        ends = self._brokers.ends()
        if ends is not None:
            self._positions.see_ends(ends)
            self._brokers.ask_ends(self._assigned)
        lags: Counts[str] = Counts(dict.fromkeys(self._schemas, 0))
        for partition, lag in self._positions.lags():
            lags[partition[0]] += lag
        for topic, lag in lags.items():
            metrics.LAG.labels(topic).set(lag)
        if not self._paused:
            self._look_for_stalls()

    def _look_for_stalls(self) -> None:
        stalls = self._positions.find_stalls(time.monotonic(), self._settings.sink_stall_seconds)
        stalled = self._positions.stalled
        metrics.STALLED.set(len(stalled))
        if stalled:
            self._readiness.down("reading", "; ".join(map(str, stalled[:3])))
        elif self._positions:
            self._readiness.up("reading")
        if stalls:
            self._rewind("stalled", str(stalls[0]))

    def _drain(self) -> None:
        """Store what was read, within the time limit; the rest is read again after the next start."""
        deadline = time.monotonic() + self._settings.sink_drain_seconds
        self._pause(True)
        while (self._job or self._is_collecting) and time.monotonic() < deadline:
            if self._job is None:
                self._hand_over()
            elif not wait([self._job.future], timeout=0.1).done and time.monotonic() >= deadline:
                self._writer.abandon()
            self._finish()
        log.info("drained", left=self._batch.rows)


def connect_registry(registry: Registry, readiness: Readiness, stop: threading.Event) -> Codec | None:
    """Return a codec once the registry returns the schemas; None if `stop` is set first."""
    failures = 0
    while not stop.is_set():
        try:
            codec = registry.codec()
        except TickstreamError as error:
            failures += 1
            readiness.down("registry", str(error))
            log.warning("waiting", dependency="registry", reason=str(error))
            stop.wait(_delay_s(failures))
        else:
            readiness.up("registry")
            return codec
    return None


def _delay_s(failures: int) -> float:
    """Return the delay after a number of consecutive failures."""
    return random.uniform(0, min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2 ** min(failures, 10)))  # noqa: S311 - jitter
