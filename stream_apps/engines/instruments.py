"""The known instruments: a mapping that follows md.instruments, and reads it to its end before it says no."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from marketdata.errors import CodecError, Unavailable
from marketdata.events import AnyEvent, Instrument
from marketdata.topics import INSTRUMENTS
from runtime.kafka import consumer_config
from runtime.settings import CommonSettings

# Symbols remembered as unknown; when there are more, all are looked for again.
UNKNOWN_MAX = 10_000
# A symbol that was not there is not looked for again: when it is listed it is known after this time.
FOLLOW_SECONDS = 0.25
# So often a symbol may be read again because an event does not fit what is known of it.
AGAIN_SECONDS = 1.0

_RPC_SECONDS = 5.0
_READ_SECONDS = 20.0

_log = structlog.get_logger(__name__)


class Instruments(Mapping[str, Instrument]):
    """Instruments by key (`venue:symbol`), as a context manager. Safe for several threads.

    Looking up raises Unavailable when the symbol is not known and Kafka cannot be asked for news.
    """

    def __init__(self, settings: CommonSettings, decode: Callable[[bytes], AnyEvent]) -> None:
        self._topic = INSTRUMENTS.physical(settings.topic_prefix)
        self._decode = decode
        self._known: dict[str, Instrument] = {}
        self._unknown: set[str] = set()
        self._again: dict[str, float] = {}
        self._next: dict[int, int] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        config = consumer_config(settings, "tickstream-instruments") | {"enable.partition.eof": True}
        self._consumer = Consumer(config)
        self._thread = threading.Thread(target=self._follow, name="instruments", daemon=True)

    def __enter__(self) -> Self:
        with self._lock:
            self._assign()
            self._read_to_end()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        self._consumer.close()

    def __getitem__(self, key: str) -> Instrument:
        found = self._known.get(key)
        return self._ask(key) if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._known))

    def __len__(self) -> int:
        return len(self._known)

    def read_again(self, key: str) -> None:
        """Read what was told of a symbol just before an event that does not fit what is known of it.

        Raises Unavailable when Kafka does not answer.
        """
        now = time.monotonic()
        if now - self._again.get(key, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        with self._lock:
            self._read_to_end()
        if len(self._again) >= UNKNOWN_MAX:
            self._again.clear()
        self._again[key] = now

    def _ask(self, key: str) -> Instrument:
        """Look for a symbol for the first time: it may have been listed just before the event that names it."""
        if key in self._unknown:
            raise KeyError(key)
        with self._lock:
            self._read_to_end()
        if key in self._known:
            return self._known[key]
        if len(self._unknown) >= UNKNOWN_MAX:
            self._unknown.clear()
        self._unknown.add(key)
        raise KeyError(key)

    def _assign(self) -> None:
        try:
            metadata = self._consumer.list_topics(self._topic, _RPC_SECONDS).topics[self._topic]
        except KafkaException as error:
            raise Unavailable(f"Kafka does not answer: {error.args[0]}") from error
        if metadata.error is not None:
            raise Unavailable(f"{self._topic}: {metadata.error}: run `tickstream topics apply`")
        self._next = dict.fromkeys(metadata.partitions, 0)
        self._consumer.assign([TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in self._next])

    def _read_to_end(self) -> None:
        """Read up to the end of the topic as it is now. Raises Unavailable when Kafka does not answer in time."""
        deadline = time.monotonic() + _READ_SECONDS
        try:
            ends = {
                number: self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), _RPC_SECONDS)[1]
                for number in self._next
            }
        except KafkaException as error:
            raise Unavailable(f"cannot read {self._topic}: {error.args[0]}") from error
        while any(self._next[number] < end for number, end in ends.items()):
            message = self._consumer.poll(0.2)
            if message is not None:
                self._take(message)
            elif time.monotonic() > deadline:
                raise Unavailable(f"{self._topic} could not be read to its end in {_READ_SECONDS:.0f} s")

    def _take(self, message: Any) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                self._next[message.partition()] = max(self._next[message.partition()], message.offset())
            return
        self._next[message.partition()] = message.offset() + 1
        if message.value() is None:
            self._known.pop((message.key() or b"").decode("utf-8", "replace"), None)
            return
        try:
            event = self._decode(message.value())
        except CodecError as bad:
            _log.warning("instrument cannot be read", offset=message.offset(), error=str(bad))
            return
        if isinstance(event, Instrument):
            self._known[event.key] = event

    def _follow(self) -> None:
        while not self._closing.wait(FOLLOW_SECONDS):
            with self._lock:
                try:
                    while (message := self._consumer.poll(0)) is not None:
                        self._take(message)
                except (KafkaException, Unavailable) as error:
                    _log.warning("instruments cannot be followed now", error=str(error))
