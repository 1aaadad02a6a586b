"""The idempotent producer of an at-least-once engine: what was written, what is safe, and when to give up.

Kafka gives a silent worker's partitions to another one, which then reads what was written so far. Nothing may be added
after that, so a worker that could not write for almost a session's time must not write at all any more: not later, when
the line is back, and not after it was suspended. It ends at once (`abandon`) and is started anew; recovery does the
rest. A time limit on single messages would not do: later messages could still get through and leave a hole before them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, Producer

from runtime.kafka import producer_config
from runtime.settings import CommonSettings
from stream_apps.engines.task import Output

# What may wait to be written; engines take no more input until there is room again.
WAITING_MAX = 20_000
WAITING_BYTES_MAX = 128 * 1024 * 1024

_POLL_SECONDS = 0.05


class _Span:
    """The records written between two calls of `safe`; `done` completes when all are in Kafka."""

    __slots__ = ("closed_at", "done", "waiting", "writer")

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.waiting = 0
        self.closed_at: float | None = None
        self.done: Future[None] = Future()
        self.done.set_running_or_notify_cancel()  # who gives up waiting does not take the answer back

    def delivered(self, error: Any, message: Any) -> None:
        """Take Kafka's answer for one record (called on the writer's thread)."""
        self.writer.answered(self, error, message)


class Writer:
    """Writes records in order. `write` and `safe` belong to one thread; Kafka's answers come in on another."""

    def __init__(
        self, settings: CommonSettings, client: str, patience_s: float, abandon: Callable[[str], None]
    ) -> None:
        # The queue's own limits are beyond ours, so that an input's outputs are never cut in two by a full queue.
        limits = {"queue.buffering.max.messages": 0, "queue.buffering.max.kbytes": 2**31 - 1}
        self._producer = Producer(producer_config(settings, client) | limits)
        self._patience_s = patience_s
        self._abandon = abandon
        self._lock = threading.Lock()
        self._span = _Span(self)
        self._open: deque[_Span] = deque()
        self._waiting = 0
        self._waiting_bytes = 0
        self._beat = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._poll, name=f"writer {client}", daemon=True)
        self._thread.start()

    def has_room(self) -> bool:
        """Tell whether more may be written now."""
        return self._waiting < WAITING_MAX and self._waiting_bytes < WAITING_BYTES_MAX

    def write(self, outputs: list[Output]) -> None:
        """Hand records to Kafka's client, in order."""
        if time.monotonic() - self._beat > self._patience_s:
            self._abandon("this process was suspended for longer than its session")
        span = self._span
        for output in outputs:
            with self._lock:
                span.waiting += 1
                self._waiting += 1
                self._waiting_bytes += len(output.value)
            try:
                self._producer.produce(
                    output.topic,
                    key=output.key,
                    value=output.value,
                    partition=output.partition,
                    headers=output.headers,
                    on_delivery=span.delivered,
                )
            except (KafkaException, BufferError) as error:
                self._abandon(f"cannot write to {output.topic}: {error}")

    def safe(self) -> Future[None]:
        """Return what completes when everything written until now is in Kafka."""
        with self._lock:
            span, self._span = self._span, _Span(self)
            span.closed_at = time.monotonic()
            if span.waiting == 0:
                span.done.set_result(None)
            else:
                self._open.append(span)
        return span.done

    def answered(self, span: _Span, error: Any, message: Any) -> None:
        """Take Kafka's answer for one record."""
        if error is not None:
            self._abandon(f"a record for {message.topic()} was not taken: {error}")
            return
        with self._lock:
            span.waiting -= 1
            self._waiting -= 1
            self._waiting_bytes -= len(message)
            finished = span.waiting == 0 and span.closed_at is not None
            if finished and span in self._open:
                self._open.remove(span)
        if finished:
            span.done.set_result(None)

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(_POLL_SECONDS)
            now = time.monotonic()
            if now - self._beat > self._patience_s:
                self._abandon("this process was suspended for longer than its session")
            self._beat = now
            oldest = next(iter(self._open), None)
            if oldest is not None and oldest.closed_at is not None and now - oldest.closed_at > self._patience_s:
                self._abandon(f"Kafka has taken nothing for {self._patience_s:.0f} s")

    def close(self) -> None:
        """Stop. What is still on the way is given up: whoever needs it safe asks `safe` first."""
        self._closing.set()
        self._thread.join()
        self._producer.purge()
        self._producer.poll(0)
