"""Reads the books of some symbols as they are published: md.books for a start, then md.book_updates.

Theory of operation.

1. The first valid record of md.books of each symbol, of the last `RESTORE_S` seconds, has the best levels of its book:
   the older it is, the older may be the REST book, whose time is that of its last change at some venues. If nothing was
   published for so long, not even that the book is unchanged, it is not restored.
2. md.book_updates is read from the same time on. Each record of both topics states the input that it was made from
   (header `hops`): updates of inputs up to that of the symbol's book are in it already, and are left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from confluent_kafka import OFFSET_END, Consumer, KafkaException, Message, TopicPartition

from marketdata import topics
from marketdata.codec import Codec
from marketdata.errors import CodecError, Unavailable
from marketdata.events import AnyEvent, Book, BookUpdate
from marketdata.headers import Position, hops_of
from producers.history.book_states import BookStates
from runtime.kafka import consumer_config, headers_of
from runtime.settings import CommonSettings

RESTORE_S = 120
READ_S_MAX = 60.0
CALL_TIMEOUT_S = 10.0
RECORDS_AT_ONCE = 1_000


class PublishedBooks:
    """Keeps `states`, by key `venue:symbol`, up to date. A context manager, for one thread at a time.

    Methods raise Unavailable when Kafka does not respond.
    """

    def __init__(self, settings: CommonSettings, codec: Codec, states: Mapping[str, BookStates]) -> None:
        self._settings = settings
        self._codec = codec
        self._states = {key.encode(): state for key, state in states.items()}
        self._restored: dict[bytes, Position] = {}
        self._consumer = Consumer(consumer_config(settings, "history-books") | {"enable.partition.eof": True})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def restore(self) -> None:
        """Read the first published books, and begin with the updates after them."""
        since_ms = int(time.time() * 1_000) - RESTORE_S * 1_000
        try:
            updates = self._since(topics.BOOK_UPDATES, since_ms)
            for message in self._to_end(self._since(topics.BOOKS, since_ms)):
                key, position = _key(message), _position(message)
                if position is not None and not self._states[key].is_valid:
                    book = self._decode(message)
                    if isinstance(book, Book):
                        self._states[key].restore(book)
                        self._restored[key] = position
            self._consumer.assign(updates)
        except KafkaException as error:
            raise _unavailable(error) from error

    def follow(self, wait_s: float) -> None:
        """Take the updates that have arrived; wait so long for the first."""
        try:
            for message in self._consumer.consume(RECORDS_AT_ONCE, wait_s):
                if self._is_wanted(message) and not self._is_restored(message):
                    update = self._decode(message)
                    if isinstance(update, BookUpdate):
                        self._states[_key(message)].take(update)
        except KafkaException as error:
            raise _unavailable(error) from error

    def _since(self, topic: topics.Topic, since_ms: int) -> list[TopicPartition]:
        """Return the position of a time in each partition of a topic."""
        name = topic.physical(self._settings.topic_prefix)
        numbers = self._consumer.list_topics(name, timeout=CALL_TIMEOUT_S).topics[name].partitions
        asked = [TopicPartition(name, number, since_ms) for number in numbers]
        found: list[TopicPartition] = self._consumer.offsets_for_times(asked, timeout=CALL_TIMEOUT_S)
        for each in found:
            if each.offset == OFFSET_END:  # where the next record will be, not where the end is later
                each.offset = self._consumer.get_watermark_offsets(each, timeout=CALL_TIMEOUT_S)[1]
        return found

    def _to_end(self, partitions: list[TopicPartition]) -> Iterator[Message]:
        """Yield the wanted records from these positions to the ends of the partitions."""
        self._consumer.assign(partitions)
        left = {each.partition for each in partitions}
        deadline = time.monotonic() + READ_S_MAX
        while left:
            if time.monotonic() > deadline:
                raise Unavailable(f"{topics.BOOKS.name} could not be read in {READ_S_MAX:.0f} s")
            for message in self._consumer.consume(RECORDS_AT_ONCE, 0.2):
                if message.error() is not None:  # reported so at the end of a partition
                    left.discard(int(message.partition() or 0))
                elif self._is_wanted(message):
                    yield message

    def _is_wanted(self, message: Message) -> bool:
        return message.error() is None and (_key(message)) in self._states

    def _is_restored(self, message: Message) -> bool:
        restored, position = self._restored.get(_key(message)), _position(message)
        if restored is None or position is None or position.topic != restored.topic:
            return False
        return position.offset <= restored.offset

    def _decode(self, message: Message) -> AnyEvent | None:
        try:
            return self._codec.decode(message.value() or b"")
        except CodecError:
            return None  # not one of our records: the stream apps have reported it


def _key(message: Any) -> bytes:
    key: bytes | None = message.key()
    return key or b""


def _position(message: Any) -> Position | None:
    return hops_of(headers_of(message)).input


def _unavailable(error: KafkaException) -> Unavailable:
    return Unavailable(f"Kafka does not respond: {error.args[0].str()}")
