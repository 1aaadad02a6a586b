"""Reads topics for the command line: the last records, or a range of time in event order."""

from __future__ import annotations

import heapq
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import msgspec
import orjson
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from marketdata.codec import as_record
from marketdata.errors import TickstreamError, Unavailable
from marketdata.events import AnyEvent, RawFrame
from marketdata.headers import HOPS, hops_of
from marketdata.topics import Topic
from runtime.kafka import consumer_config, headers_of
from runtime.registry import Registry, decode
from runtime.settings import CommonSettings

_TIMEOUT_S = 10.0


class Reader:
    """A consumer of one topic without a group: it reads what it is asked for and commits nothing."""

    def __init__(self, settings: CommonSettings, topic: Topic) -> None:
        self._consumer = Consumer(consumer_config(settings, "cli"))
        self._registry = Registry(settings.registry_url)
        self._codec = self._registry.codec()
        self._brokers = settings.kafka_brokers
        self.topic = topic.physical(settings.topic_prefix)

    def close(self) -> None:
        """Leave Kafka and the registry."""
        self._consumer.close()
        self._registry.close()

    def ends(self) -> dict[int, tuple[int, int]]:
        """Return partition -> (first offset, next offset).

        Raises Unavailable when Kafka does not answer or has no such topic.
        """
        try:
            metadata = self._consumer.list_topics(self.topic, timeout=_TIMEOUT_S).topics[self.topic]
            if metadata.error is not None:
                raise Unavailable(f"Kafka at {self._brokers} has no topic {self.topic}: run `tickstream topics apply`")
            return {
                partition: self._consumer.get_watermark_offsets(
                    TopicPartition(self.topic, partition), timeout=_TIMEOUT_S
                )
                for partition in metadata.partitions
            }
        except KafkaException as error:
            raise Unavailable(f"Kafka at {self._brokers} does not answer: {error.args[0]}") from error

    def offsets_at(self, ts: int) -> dict[int, int]:
        """Return partition -> first offset whose Kafka time is at or after `ts` (UTC ns), or the end."""
        ends = self.ends()
        asked = [TopicPartition(self.topic, partition, ts // 1_000_000) for partition in ends]
        found = self._consumer.offsets_for_times(asked, timeout=_TIMEOUT_S)
        return {one.partition: one.offset if one.offset >= 0 else ends[one.partition][1] for one in found}

    def read(self, start: dict[int, int], stop: dict[int, int] | None) -> Iterator[Message]:
        """Yield messages from `start` on; until `stop` (exclusive) on every partition, or for ever when it is None."""
        left = None if stop is None else {p for p in stop if start[p] < stop[p]}
        self._consumer.assign(
            [TopicPartition(self.topic, p, offset) for p, offset in start.items() if left is None or p in left]
        )
        while left is None or left:
            message = self._consumer.poll(0.5)
            if message is None:
                if left is not None and stop is not None:
                    # Transaction markers and compacted records leave gaps: the position shows it, not the records.
                    left -= {
                        one.partition
                        for one in self._consumer.position([TopicPartition(self.topic, p) for p in left])
                        if one.offset >= stop[one.partition]
                    }
                continue
            if message.error() is not None:
                raise Unavailable(f"reading {self.topic}: {message.error()}")
            if left is not None and stop is not None:
                partition, offset = int(message.partition() or 0), int(message.offset() or 0)
                if offset >= stop[partition]:
                    left.discard(partition)
                    continue
                if offset + 1 >= stop[partition]:
                    left.discard(partition)
            yield message

    def decode(self, message: Message) -> AnyEvent:
        """Return the event of a message; raises as `runtime.registry.decode` does."""
        return decode(self._codec, self._registry, message.value() or b"")


def as_json(event: AnyEvent, message: Message | None = None) -> bytes:
    """Return an event as one JSON line; with its Kafka headers, partition and offset when a message is given.

    A frame that is not UTF-8 is in base64, as `encoding` then states: `runtime.recordings` reads it exactly.
    """
    record: dict[str, Any] = {"event": event.schema, **as_record(event)}
    if isinstance(event, RawFrame) and not _is_text(event.data):
        record |= {"data": b64encode(event.data).decode(), "encoding": "base64"}
    if message is not None:
        headers = headers_of(message)
        hops = {"hops": msgspec.to_builtins(hops_of(headers))} if HOPS in headers else {}
        record["kafka"] = {
            "topic": message.topic(),
            "partition": message.partition(),
            "offset": message.offset(),
            "headers": {name: value.decode("utf-8", "replace") for name, value in headers.items() if name != HOPS}
            | hops,
        }
    return orjson.dumps(record, default=lambda value: value.decode("utf-8", "replace"))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def print_tail(settings: CommonSettings, topic: Topic, *, count: int, follow: bool, key: str, headers: bool) -> None:
    """Print the last `count` records of a topic (of one key when given) as JSON lines, then follow when asked."""
    reader = Reader(settings, topic)
    try:
        ends = reader.ends()
        # With a key most records are passed over, so look further back; bounded all the same.
        back = count if not key else count * 1000
        start = {p: max(first, last - back) for p, (first, last) in ends.items()}
        stop = {p: last for p, (_, last) in ends.items()}
        kept: list[tuple[int, int, int, Message]] = []
        for message in reader.read(start, stop):
            if not key or (message.key() or b"").decode() == key:
                item = (message.timestamp()[1], int(message.partition() or 0), int(message.offset() or 0), message)
                heapq.heappush(kept, item) if len(kept) < count else heapq.heappushpop(kept, item)
        for *_, message in sorted(kept, key=lambda item: item[:3]):
            _print(reader, message, headers=headers)
        if follow:
            for message in reader.read(stop, None):
                if not key or (message.key() or b"").decode() == key:
                    _print(reader, message, headers=headers)
    finally:
        reader.close()


def _print(reader: Reader, message: Message, *, headers: bool) -> None:
    try:
        line = as_json(reader.decode(message), message if headers else None)
    except TickstreamError as error:
        place = {"topic": message.topic(), "partition": message.partition(), "offset": message.offset()}
        line = orjson.dumps({"error": str(error), **place})
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


class Pace:
    """Waits so that events come out at `speed` times their own pace; a speed of 0 means at once."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: tuple[int, int] | None = None

    def wait(self, ts: int) -> None:
        """Wait until an event of time `ts` (UTC ns) is due."""
        if self._speed == 0:
            return
        now = time.monotonic_ns()
        if self._first is None:
            self._first = (ts, now)
        due = self._first[1] + int((ts - self._first[0]) / self._speed)
        if due > now:
            time.sleep((due - now) / 1e9)
