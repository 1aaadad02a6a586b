"""Publishes the feeds' events to Kafka: idempotent, in order, bounded; every loss is counted and repaired.

Theory of operation.

1. An event goes to the topic of its kind, keyed, with trace and hop times in its headers; its frame goes to md.raw. An
   event that does not fit its schema becomes a dead letter.
2. librdkafka holds the records that are not yet acknowledged. `write` waits while they are more than
   `BUFFER_BYTES_MAX`, so that the connection stops reading its socket; it waits as long as Kafka is away.
3. A delivery that fails for good is a gap in a stream. It is counted and logged, and the connections restart, so that
   books are cleared and filled again. Trades that were not delivered end the process instead (`write` raises
   Unavailable), and so does a Kafka client that cannot continue: the next process reads from the topic what is missing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from prometheus_client import Counter, Gauge

from marketdata import headers
from marketdata.codec import Codec
from marketdata.errors import CodecError, Unavailable
from marketdata.events import AnyEvent, DeadLetter, RawFrame
from marketdata.topics import INGEST
from runtime.health import Readiness
from runtime.kafka import producer_config
from runtime.metrics import DROPPED, HOP_LATENCY_MS
from runtime.settings import CommonSettings
from runtime.tracing import Tracing

# A few of the largest book snapshots; seconds of a busy venue.
BUFFER_BYTES_MAX = 64 * 1024 * 1024
BUFFER_BYTES_LOW = 48 * 1024 * 1024
POLL_S = 0.02

Attributes = tuple[tuple[str, bytes], ...]
WATCH_S = 5.0

_LOG = structlog.get_logger()
_PRODUCED = Counter("tickstream_produced_total", "Records handed to Kafka, by topic.", ["topic"])
_HOP = HOP_LATENCY_MS.labels("recv_to_produced")
_QUEUE = Gauge("tickstream_producer_queue_bytes", "Bytes handed to Kafka and not yet acknowledged.")


class Publisher:
    """Publishes for every line of this process."""

    def __init__(
        self, settings: CommonSettings, codec: Codec, tracing: Tracing, readiness: Readiness, *, name: str = "producer"
    ) -> None:
        self._codec = codec
        self._tracing = tracing
        self._readiness = readiness
        self._name = name
        self._topics = {schema: topic.physical(settings.topic_prefix) for schema, topic in INGEST.items()}
        self._produced = {topic: _PRODUCED.labels(topic) for topic in self._topics.values()}
        # No book and no candle is made from these: after a loss there the connections need not restart.
        self._besides = {self._topics["RawFrame"], self._topics["DeadLetter"]}
        self._fatal: KafkaError | None = None
        self._constants = {schema: tuple(headers.constants(schema, name).items()) for schema in INGEST}
        self._handed_over: Counts[str] = Counts()
        self._run = secrets.token_hex(4)
        self._numbers = 0
        self.buffered_bytes = 0
        self.failures = 0
        self.on_failure: Callable[[], None] = lambda: None
        self._producer: Producer = Producer(producer_config(settings, f"tickstream-{name}") | {"error_cb": self._erred})
        _QUEUE.set_function(lambda: self.buffered_bytes)

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Publish one frame and its events; `t_recv` is when the frame was received, UTC nanoseconds.

        Raises Unavailable when the Kafka client cannot continue.
        """
        records: list[AnyEvent] = [*events] if raw is None else [raw, *events]
        now = time.time_ns()
        trace = self._tracing.span("receive", None, t_recv, now, {"line": line, "events": len(records)})
        common = (
            (headers.TRACEPARENT, trace),
            (headers.HOPS, headers.encode_times(t_recv, now)),
            ("ce_time", headers.event_time(t_recv)),
        )
        for record in records:
            value, record = self._encode(record)  # noqa: PLW2901 - a dead letter takes the place of what does not fit
            if not self._produce(record, value, common, line):
                await self._produce_when_possible(record, value, common, line)
        _HOP.observe(max(0, now - t_recv) / 1e6)
        self._producer.poll(0)
        if self.buffered_bytes > BUFFER_BYTES_MAX:
            await self._drained(BUFFER_BYTES_LOW)

    def _encode(self, record: AnyEvent) -> tuple[bytes, AnyEvent]:
        """Return a record's bytes and the record, or those of a dead letter in place of one that does not fit."""
        try:
            value = self._codec.encode(record)
        except CodecError as error:
            record = _unfit(record, error)
            value = self._codec.encode(record)
        if type(record) is DeadLetter:
            DROPPED.labels(record.stage, record.reason).inc()
            _LOG.warning("dead letter", reason=record.reason, detail=record.detail, line=record.line)
        return value, record

    def _produce(self, record: AnyEvent, value: bytes, common: Attributes, line: str) -> bool:
        """Hand a record to the Kafka client; return False when its queue is full. Raises Unavailable."""
        if self._fatal is not None:
            self._check()
        schema = record.schema
        topic, key = self._topics[schema], record.key.encode()
        head: list[tuple[str, str | bytes | None]] = [
            *common,
            *self._constants[schema],
            # Numbered here and not before, where another line could overtake this one: the pipeline takes a number
            # that does not rise for a repetition.
            ("ce_id", headers.record_id(line, self._run, self._numbers)),
            ("ce_subject", key),
        ]
        size = len(value) + len(key)
        try:
            self._producer.produce(topic, value, key, headers=head, on_delivery=partial(self._delivered, size))
        except BufferError:
            return False
        except KafkaException as error:
            self._failed(topic, error.args[0])
            return True
        self._numbers += 1
        self.buffered_bytes += size
        self._handed_over[topic] += 1
        return True

    async def _produce_when_possible(self, record: AnyEvent, value: bytes, common: Attributes, line: str) -> None:
        await self._polled()
        while not self._produce(record, value, common, line):
            await self._polled()

    async def _drained(self, bytes_max: int) -> None:
        _LOG.warning("kafka is slow, reading stops", buffered_bytes=self.buffered_bytes)
        while self.buffered_bytes > bytes_max:
            await self._polled()
        _LOG.info("reading continues", buffered_bytes=self.buffered_bytes)

    async def _polled(self) -> None:
        """Handle acknowledgements, or let other tasks run when there are none."""
        self._check()
        if self._producer.poll(0) == 0:
            await asyncio.sleep(0.001)

    def _check(self) -> None:
        if self._fatal is not None:
            raise Unavailable(f"the Kafka client cannot continue, restart this process: {self._fatal.str()}")

    # --- librdkafka's callbacks, called from within poll ---

    def _delivered(self, size: int, error: KafkaError | None, message: Message) -> None:
        self.buffered_bytes -= size
        if error is not None:
            self._failed(message.topic() or "?", error)

    def _failed(self, topic: str, error: KafkaError) -> None:
        self.failures += 1
        DROPPED.labels("produce", error.name()).inc()
        _LOG.error("a record could not be delivered", topic=topic, error=error.str(), code=error.name())
        if error.fatal() or topic == self._topics["Trades"]:
            self._fatal = error
        elif topic not in self._besides:
            self.on_failure()

    def _erred(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
            _LOG.error("the kafka client cannot continue", error=error.str(), code=error.name())
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - librdkafka's local codes are named so
            self._readiness.down("kafka", error.str())

    # --- For the process around it ---

    async def serve(self) -> None:
        """Handle acknowledgements while nothing is written, and watch Kafka, until cancelled.

        Raises Unavailable when the Kafka client cannot continue.
        """
        watched = 0.0
        while True:
            self._check()
            self._producer.poll(0)
            self._export()
            if time.monotonic() - watched >= WATCH_S:
                watched = time.monotonic()
                await self._watch()
            await asyncio.sleep(POLL_S)

    def _export(self) -> None:
        """Export what was counted since the last time."""
        for topic, count in self._handed_over.items():
            self._produced[topic].inc(count)
        self._handed_over.clear()

    async def _watch(self) -> None:
        try:
            await asyncio.to_thread(self._producer.list_topics, self._topics["Trades"], WATCH_S)
        except KafkaException as error:
            self._readiness.down("kafka", error.args[0].str())
        else:
            self._readiness.up("kafka")

    async def missing_topics(self) -> list[str]:
        """Return which of the topics that are written do not exist.

        Raises Unavailable when Kafka does not respond.
        """
        try:
            known: Any = await asyncio.to_thread(self._producer.list_topics, None, WATCH_S)
        except KafkaException as error:
            raise Unavailable(f"Kafka does not respond: {error.args[0].str()}") from error
        return sorted(set(self._topics.values()) - set(known.topics))

    async def close(self, timeout_s: float) -> int:
        """Wait for every acknowledgement, at most so long, and return how many records have none."""
        return int(await asyncio.to_thread(self._producer.flush, timeout_s))


def _unfit(record: AnyEvent, error: CodecError) -> DeadLetter:
    """Return the dead letter of an event that does not fit its schema; its payload is the event as JSON."""
    payload = record.payload if isinstance(record, DeadLetter) else msgspec.json.encode(record)
    return DeadLetter(
        venue=record.venue,
        symbol=getattr(record, "symbol", "*"),
        ts_recv=min(max(0, record.ts_recv), 2**63 - 1),
        stage="feed",
        reason="does_not_fit_schema",
        detail=str(error)[:1000],
        line=getattr(record, "line", ""),
        payload=payload,
    )
