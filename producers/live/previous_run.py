"""What earlier producers of a venue published, read from the ends of their own topics in Kafka.

Theory of operation.

1. The whole of md.ingest.status of the venue gives the gaps that were opened and never closed.
2. The last `TAIL` records of each partition of md.ingest.trades give what was published of each symbol. Where a wanted
   symbol is not among them, older records are read, `WIDER` times as many each time, up to `TAIL_MAX`.
3. A symbol that is not found either was published before that, if ever. If the topic was read from its start, it never
   was. Otherwise trades of it may be missing since the producer ended: since the oldest of the times at which the
   partitions have their last record of a wanted symbol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from marketdata.codec import Codec
from marketdata.errors import CodecError, Unavailable
from marketdata.events import AnyEvent, FeedStatus, Trades
from marketdata.topics import INGEST_STATUS, INGEST_TRADES, Topic
from producers.venues.kit.published import History, PreviousRun, previous_run
from producers.venues.kit.venue import Venue
from runtime.kafka import consumer_config
from runtime.registry import Registry, decode
from runtime.settings import CommonSettings

TIMEOUT_S = 10.0
READ_S_MAX = 60.0
# Records of a partition's trades: minutes of a busy venue; read in well under a second.
TAIL = 20_000
WIDER = 8
TAIL_MAX = 1_280_000

_LOG = structlog.get_logger()

# A partition's part of a topic, as offsets: [first, end).
_Spans = dict[int, tuple[int, int]]


async def read_previous_run(
    settings: CommonSettings, codec: Codec, venue: Venue, wanted: Collection[str] | None, *, tail: int = TAIL
) -> PreviousRun:
    """Return what was published of a venue; `wanted` are the symbols to look for, None where nobody knows them yet.

    Raises Unavailable when Kafka does not answer.
    """
    registry = Registry(settings.registry_url, timeout_s=TIMEOUT_S)
    reader = _Reader(settings, partial(decode, codec, registry), venue)
    try:
        return await asyncio.to_thread(reader.read, wanted, tail)
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from error
    finally:
        reader.close()
        registry.close()


class _Reader:
    def __init__(self, settings: CommonSettings, read: Callable[[bytes], AnyEvent], venue: Venue) -> None:
        self._consumer = Consumer(consumer_config(settings, "producer-previous-run") | {"enable.partition.eof": True})
        self._settings = settings
        self._decode = read
        self._prefix = f"{venue.name}:".encode()
        self._deadline = time.monotonic() + READ_S_MAX

    def close(self) -> None:
        self._consumer.close()

    def read(self, wanted: Collection[str] | None, tail: int) -> PreviousRun:
        gaps: dict[str, FeedStatus] = {}
        for message in self._messages(INGEST_STATUS, self._spans(INGEST_STATUS)):
            self._note_gap(gaps, message)
        spans = self._spans(INGEST_TRADES)
        histories: dict[str, History] = {}
        size = tail
        missing: Collection[str] | None = None
        while True:
            part = {number: (max(low, high - size), high) for number, (low, high) in spans.items()}
            found: dict[str, History] = {}
            for message in self._messages(INGEST_TRADES, part):
                symbol = (message.key() or b"")[len(self._prefix) :].decode(errors="replace")
                if missing is not None and symbol not in missing:
                    continue
                event = self._event(message)
                if isinstance(event, Trades):
                    found.setdefault(symbol, History(int(message.partition() or 0))).take(event)
            histories |= found
            missing = [symbol for symbol in wanted or () if symbol not in histories or not histories[symbol].has_trades]
            is_all = all(part[number][0] == low for number, (low, _) in spans.items())
            if is_all or not missing or size >= TAIL_MAX or time.monotonic() > self._deadline:
                break
            size = min(size * WIDER, TAIL_MAX)
        return previous_run(histories, gaps.values(), wanted, is_all=is_all)

    def _spans(self, topic: Topic) -> _Spans:
        name = topic.physical(self._settings.topic_prefix)
        partitions = self._consumer.list_topics(name, timeout=TIMEOUT_S).topics[name].partitions
        return {
            number: self._consumer.get_watermark_offsets(TopicPartition(name, number), TIMEOUT_S)
            for number in partitions
        }

    def _messages(self, topic: Topic, spans: _Spans) -> Iterator[Message]:
        """Yield the venue's records of these parts of a topic."""
        name = topic.physical(self._settings.topic_prefix)
        left = {number for number, (start, end) in spans.items() if start < end}
        self._consumer.assign([TopicPartition(name, number, spans[number][0]) for number in left])
        while left:
            if time.monotonic() > self._deadline:
                _LOG.warning("not all that was published before could be read", topic=name, limit_s=READ_S_MAX)
                return
            for message in self._consumer.consume(1_000, 0.5):
                number, offset = int(message.partition() or 0), int(message.offset() or 0)
                # The end of a partition is reported as an error, which is none.
                if message.error() is not None or offset + 1 >= spans[number][1]:
                    left.discard(number)
                within = message.error() is None and offset < spans[number][1]
                if within and (message.key() or b"").startswith(self._prefix):
                    yield message

    def _note_gap(self, found: dict[str, FeedStatus], message: Message) -> None:
        event = self._event(message)
        if isinstance(event, FeedStatus) and event.gap_id is not None and event.origin == "live":
            if event.kind == "gap":
                found[event.gap_id] = event
            elif event.kind == "resynced":
                found.pop(event.gap_id, None)

    def _event(self, message: Message) -> AnyEvent | None:
        try:
            return self._decode(message.value() or b"")
        except CodecError:
            return None  # what is no record of ours is a dead letter of the stream apps
