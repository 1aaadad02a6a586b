"""Settles the gaps that no feed will close any more: of a process that is gone, and of a line that was retired.

Theory of operation. A feed closes the gaps that it opened when the product is whole again. When its process is killed
(or told to stop) before that, or a successor took over its line, nobody would, and the ledger would show them for ever.

1. At its start the producer reads what producers said of its venue before (`md.ingest.status`): gaps that were opened
   and never closed are left over (`read_left_over`).
2. A gap that is left over is closed by the first whole book of its symbol that any line of this process brings, be it a
   new line's or that of a successor which has one already. Where no book comes for `PATIENCE_NS`, as where only trades
   or quotes are had, any valid event of the symbol does.
3. No book brings trades back. What may have been traded between the last good value before the gap and now is told as
   a gap of its own, with both ends, so that it can be repaired from the venue's history.
4. Gaps of trades that have a range or the ids that are missing are left alone: they wait for history anyhow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from marketdata.clock import SECOND_NS
from marketdata.codec import Codec
from marketdata.errors import CodecError, Unavailable
from marketdata.events import GAP, AnyEvent, BookUpdate, FeedStatus, Quote, RawFrame, Trades
from marketdata.topics import INGEST_STATUS
from producers.connection import Sink
from producers.repair import TRADE_CHANNELS, TRADES
from runtime.kafka import consumer_config
from runtime.registry import Registry, decode
from runtime.settings import CommonSettings

PATIENCE_NS = 60 * SECOND_NS
# More than one process ever opens between two starts; the oldest are given up first.
GAPS_MAX = 10_000
TIMEOUT_S = 10.0
READ_S_MAX = 60.0

RESTARTED, SUCCEEDED = "restarted", "succeeded"

_LOG = structlog.get_logger()


class Gaps:
    """The open gaps of one process, pure: told every status and what may settle a gap; returns what to tell."""

    def __init__(self) -> None:
        self._open: dict[str, FeedStatus] = {}
        self._left: dict[str, dict[str, tuple[FeedStatus, str]]] = {}  # by symbol and id, with what settles it
        self._whole: dict[str, set[str]] = {}  # by symbol the lines that have a book
        self._since: int | None = None

    def left_over(self, gaps: Iterable[FeedStatus]) -> None:
        """Take in what an earlier process left open."""
        for gap in gaps:
            self._leave(gap, RESTARTED)

    @property
    def waiting(self) -> bool:
        """Whether any gap is left over."""
        return bool(self._left)

    def status(self, event: FeedStatus) -> list[FeedStatus]:
        """Note what a line says of itself."""
        if event.kind == "gap" and event.gap_id is not None:
            self._open[event.gap_id] = event
            if len(self._open) > GAPS_MAX:
                del self._open[next(iter(self._open))]
        elif event.kind == "resynced" and event.gap_id is not None:
            self._open.pop(event.gap_id, None)
        elif event.kind == "ended" and event.reason == "retired":
            return self._retired(event)
        return []

    def book(self, event: BookUpdate) -> list[FeedStatus]:
        """Note which lines have a book, and settle what that settles."""
        if event.kind == "clear":
            self._whole.get(event.symbol, set()).discard(event.line)
            return []
        if event.kind == "snapshot":
            self._whole.setdefault(event.symbol, set()).add(event.line)
            return self._settle(event)
        return self.other(event)

    def other(self, event: BookUpdate | Quote | Trades) -> list[FeedStatus]:
        """Settle what a symbol without a book leaves open."""
        if self._since is None:
            self._since = event.ts_recv
        is_late = event.ts_recv - self._since >= PATIENCE_NS
        return self._settle(event) if is_late and event.valid and event.symbol in self._left else []

    def _retired(self, event: FeedStatus) -> list[FeedStatus]:
        told: list[FeedStatus] = []
        for lines in self._whole.values():
            lines.discard(event.line)
        for gap in [gap for gap in self._open.values() if gap.line == event.line]:
            del self._open[gap.gap_id or ""]
            self._leave(gap, SUCCEEDED)
            others = self._whole.get(gap.symbol)
            if others:
                told += self._settle(msgspec.structs.replace(event, symbol=gap.symbol, line=min(others)))
        return told

    def _leave(self, gap: FeedStatus, by: str) -> None:
        if gap.channel in TRADE_CHANNELS and (gap.ts_to is not None or gap.expected is not None):
            return  # history's
        self._left.setdefault(gap.symbol, {})[gap.gap_id or ""] = (gap, by)

    def _settle(self, event: BookUpdate | Quote | Trades | FeedStatus) -> list[FeedStatus]:
        told: list[FeedStatus] = []
        now: dict[str, Any] = {"ts_event": event.ts_event, "ts_recv": event.ts_recv, "ts_to": event.ts_event}
        trades: FeedStatus | None = None  # of several lines the one that tells the longest time
        for gap, by in self._left.pop(event.symbol, {}).values():
            detail = f"by {event.line}, which is whole"
            told.append(msgspec.structs.replace(gap, **now, sequence=None, kind="resynced", reason=by, detail=detail))
            is_longest = gap.ts_from is not None and (trades is None or gap.ts_from < (trades.ts_from or 0))
            if is_longest and (gap.channel is None or gap.channel in TRADE_CHANNELS):
                trades = msgspec.structs.replace(
                    gap, **now, sequence=None, line=event.line, reason=GAP, channel=TRADES, expected=None,
                    received=None, detail=f"trades may be missing since {gap.gap_id}", gap_id=f"{gap.gap_id}/{TRADES}",
                )  # fmt: skip
        return [*told, trades] if trades is not None else told


class Settling:
    """A sink before another one: what settles a gap is followed by the gap's end."""

    def __init__(self, sink: Sink, gaps: Gaps) -> None:
        self._sink = sink
        self._gaps = gaps

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Hand over, as the sink behind does."""
        records = list(events)
        told: list[FeedStatus] = []
        for event in records:
            if type(event) is FeedStatus:
                told += self._gaps.status(event)
            elif type(event) is BookUpdate:
                if event.kind != "update" or self._gaps.waiting:
                    told += self._gaps.book(event)
            elif self._gaps.waiting and isinstance(event, Quote | Trades):
                told += self._gaps.other(event)
        if told:
            _LOG.info("gaps are settled", line=line, gaps=[one.gap_id for one in told if one.kind == "resynced"])
        await self._sink.write(line, [*records, *told] if told else records, t_recv, raw)


async def read_left_over(settings: CommonSettings, codec: Codec, venue: str) -> list[FeedStatus]:
    """Return the gaps of a venue that its lines opened and never closed, oldest first.

    Raises Unavailable when Kafka does not answer.
    """
    registry = Registry(settings.registry_url, timeout_s=TIMEOUT_S)
    try:
        return await asyncio.to_thread(_read, settings, partial(decode, codec, registry), venue)
    finally:
        registry.close()


def _read(settings: CommonSettings, read: Callable[[bytes], AnyEvent], venue: str) -> list[FeedStatus]:
    topic = INGEST_STATUS.physical(settings.topic_prefix)
    consumer = Consumer(consumer_config(settings, "producer-gaps") | {"enable.partition.eof": True})
    found: dict[str, FeedStatus] = {}
    deadline = time.monotonic() + READ_S_MAX
    try:
        partitions = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
        ends = {number: consumer.get_watermark_offsets(TopicPartition(topic, number), TIMEOUT_S)
                for number in partitions}  # fmt: skip
        left = {number for number, (first, end) in ends.items() if first < end}
        consumer.assign([TopicPartition(topic, number, ends[number][0]) for number in left])
        while left:
            if time.monotonic() > deadline:
                _LOG.warning("not all that was said of gaps before could be read", venue=venue)
                break
            for message in consumer.consume(1_000, 0.5):
                number, offset = int(message.partition() or 0), int(message.offset() or 0)
                # The end is told as an error, which is none.
                if message.error() is not None or offset + 1 >= ends[number][1]:
                    left.discard(number)
                if message.error() is None and (message.key() or b"").startswith(f"{venue}:".encode()):
                    _note(found, read, message.value() or b"")
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return sorted(found.values(), key=lambda gap: gap.ts_recv)[-GAPS_MAX:]


def _note(found: dict[str, FeedStatus], read: Callable[[bytes], AnyEvent], value: bytes) -> None:
    try:
        event = read(value)
    except CodecError:
        return  # what is no record of ours is a dead letter of the stream apps
    if isinstance(event, FeedStatus) and event.gap_id is not None and event.origin == "live":
        if event.kind == "gap":
            found[event.gap_id] = event
        elif event.kind == "resynced":
            found.pop(event.gap_id, None)
