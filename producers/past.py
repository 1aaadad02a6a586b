"""What the producers of a venue said before this process began, read from their own topics in Kafka."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from marketdata.codec import Codec
from marketdata.errors import CodecError, Unavailable
from marketdata.events import AnyEvent, FeedStatus, Trades
from marketdata.topics import INGEST_STATUS, INGEST_TRADES, Topic
from producers.venue import Venue
from runtime.kafka import consumer_config
from runtime.registry import Registry, decode
from runtime.settings import CommonSettings

TIMEOUT_S = 10.0
READ_S_MAX = 60.0
# Of the trades of each partition: minutes of a busy venue. What a symbol told before that is not looked for.
TAIL = 20_000
# Of each symbol the last records, of as many lines.
LINES_MAX = 4

_LOG = structlog.get_logger()


class Past(NamedTuple):
    """Gaps that were opened and never closed, oldest first, and the last live trades of each symbol and line.

    The latter only of venues whose trade ids would not show what is missing.
    """

    gaps: Sequence[FeedStatus] = ()
    last: Sequence[Trades] = ()


async def read_past(settings: CommonSettings, codec: Codec, venue: Venue) -> Past:
    """Return what the lines of a venue said.

    Raises Unavailable when Kafka does not answer.
    """
    registry = Registry(settings.registry_url, timeout_s=TIMEOUT_S)
    try:
        return await asyncio.to_thread(_read, settings, partial(decode, codec, registry), venue)
    finally:
        registry.close()


def _read(settings: CommonSettings, read: Callable[[bytes], AnyEvent], venue: Venue) -> Past:
    consumer = Consumer(consumer_config(settings, "producer-past") | {"enable.partition.eof": True})
    gaps: dict[str, FeedStatus] = {}
    tails: dict[bytes, deque[bytes]] = {}
    try:
        for message in _messages(consumer, settings, INGEST_STATUS, venue.name):
            _note(gaps, read, message.value() or b"")
        if not venue.numbers_trades:
            for message in _messages(consumer, settings, INGEST_TRADES, venue.name, TAIL):
                value = message.value() or b""
                if f"{venue.name}/history".encode() not in value:
                    tails.setdefault(message.key() or b"", deque(maxlen=LINES_MAX)).append(value)
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from error
    finally:
        consumer.close()
    last: dict[tuple[str, str], Trades] = {}
    for values in tails.values():
        for value in values:
            event = _event(read, value)
            if isinstance(event, Trades) and event.origin == "live":
                last[event.symbol, event.line] = event
    return Past(sorted(gaps.values(), key=lambda gap: gap.ts_recv), list(last.values()))


def _messages(
    consumer: Consumer, settings: CommonSettings, topic: Topic, venue: str, tail: int | None = None
) -> Iterator[Message]:
    """Yield the venue's records of a topic up to its end as it is now, or only the last ones of each partition."""
    name = topic.physical(settings.topic_prefix)
    deadline = time.monotonic() + READ_S_MAX
    partitions = consumer.list_topics(name, timeout=TIMEOUT_S).topics[name].partitions
    ends = {number: consumer.get_watermark_offsets(TopicPartition(name, number), TIMEOUT_S) for number in partitions}
    starts = {number: low if tail is None else max(low, high - tail) for number, (low, high) in ends.items()}
    left = {number for number, start in starts.items() if start < ends[number][1]}
    consumer.assign([TopicPartition(name, number, starts[number]) for number in left])
    while left:
        if time.monotonic() > deadline:
            _LOG.warning("not all that was said before could be read", topic=name, venue=venue)
            return
        for message in consumer.consume(1_000, 0.5):
            number, offset = int(message.partition() or 0), int(message.offset() or 0)
            # The end is told as an error, which is none.
            if message.error() is not None or offset + 1 >= ends[number][1]:
                left.discard(number)
            if message.error() is None and (message.key() or b"").startswith(f"{venue}:".encode()):
                yield message


def _note(found: dict[str, FeedStatus], read: Callable[[bytes], AnyEvent], value: bytes) -> None:
    event = _event(read, value)
    if isinstance(event, FeedStatus) and event.gap_id is not None and event.origin == "live":
        if event.kind == "gap":
            found[event.gap_id] = event
        elif event.kind == "resynced":
            found.pop(event.gap_id, None)


def _event(read: Callable[[bytes], AnyEvent], value: bytes) -> AnyEvent | None:
    try:
        return read(value)
    except CodecError:
        return None  # what is no record of ours is a dead letter of the stream apps
