"""`tickstream replay`: public topics again, in event order and at their own pace, for a backtest."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator

from marketdata.events import AnyEvent
from marketdata.topics import Topic
from runtime.settings import CommonSettings
from tickstream.reader import Pace, Reader, as_json

# Records of one topic may be this much out of event order between partitions and are still sorted; bounds memory.
WINDOW = 100_000


def in_event_order(events: Iterator[AnyEvent], window: int = WINDOW) -> Iterator[AnyEvent]:
    """Yield events by ts_event; `window` is how many may wait to be sorted at once."""
    waiting: list[tuple[int, int, AnyEvent]] = []
    for number, event in enumerate(events):
        heapq.heappush(waiting, (getattr(event, "ts_event", event.ts_recv), number, event))
        if len(waiting) > window:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def replay(
    settings: CommonSettings,
    topics: list[Topic],
    *,
    start: int,
    end: int | None,
    speed: float,
    keys: frozenset[str],
) -> int:
    """Print the records of topics between two Kafka times (UTC ns) as JSON lines; return how many.

    `speed` is a factor of the events' own pace, 0 for as fast as possible; `keys` keeps only these `venue:symbol`.
    """
    readers = [Reader(settings, topic) for topic in topics]
    pace = Pace(speed)
    printed = 0
    try:
        streams = [in_event_order(_events(reader, start, end, keys)) for reader in readers]
        for event in heapq.merge(*streams, key=lambda event: getattr(event, "ts_event", event.ts_recv)):
            pace.wait(getattr(event, "ts_event", event.ts_recv))
            sys.stdout.buffer.write(as_json(event) + b"\n")
            printed += 1
        sys.stdout.buffer.flush()
    finally:
        for reader in readers:
            reader.close()
    return printed


def _events(reader: Reader, start: int, end: int | None, keys: frozenset[str]) -> Iterator[AnyEvent]:
    first = reader.offsets_at(start)
    last = {p: stop for p, (_, stop) in reader.ends().items()} if end is None else reader.offsets_at(end)
    for message in reader.read(first, last):
        if not keys or (message.key() or b"").decode().split("|")[0] in keys:
            yield reader.decode(message)
