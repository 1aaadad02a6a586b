"""Recorded frames through a feed and the operators without Kafka: `frames | feed | operators`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from pathlib import Path
from typing import Any

from marketdata.book import L2Book
from marketdata.clock import SECOND_NS, format_rfc3339
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, Derivative, FeedStatus, Quote, Trades
from marketdata.feed import Feed, Fetch, Output
from marketdata.operator import Operator
from marketdata.topics import INGEST, PUBLIC
from producers.venues import find_venue, make_feed
from producers.venues.kit.idle import Idle, proof_of
from producers.venues.kit.venue import LiveFeed
from runtime import recordings
from runtime.recordings import DAMAGED, KINDS, Recorded, read
from runtime.settings import load
from stream_apps.chain import Chain, make_chains
from stream_apps.settings import OperatorSettings
from tickstream.recorder_clock import behind_ns

BEST_LEVELS = 10

# What is kept of a recording's REST side: answers that nobody asked for yet, and requests without an answer yet.
UNASKED_BYTES_MAX = 256 * 1024 * 1024
ASKED_MAX = 10_000
# So many notes name their line; all are counted.
NOTES_MAX = 20

# Which topic each `--stage` shows; `events` is what the feed says, before any operator.
STAGES = {
    "events": None,
    "trades": "md.trades",
    "quotes": "md.quotes",
    "derivatives": "md.derivatives",
    "books": "md.books",
    "metrics": "md.metrics",
    "candles": "md.candles",
    "anomalies": "md.anomalies",
}


def answers(request: Fetch, url: str) -> bool:
    """Tell whether a recorded REST answer from `url` answers this request."""
    return recordings.answers(request.path, url)


class Connections:
    """One feed per recorded connection; gives each what its connection received, and REST answers to who asked.

    `ends` names the line of a file with the last frame of each connection (see `survey`): one that had ended before
    another began, which then continues the same books, was succeeded by it. `notes` states for a person what of the
    recording could not be used, `damaged` counts its damaged lines.
    """

    def __init__(self, venue: str, ends: Mapping[str, int] | None = None) -> None:
        self.venue = find_venue(venue).name
        self._ends = ends or {}
        self._places: Counter[str] = Counter()
        self._ended: dict[str, list[str]] = {}
        self._books: dict[Feed, set[str]] = {}
        self._feeds: dict[str, LiveFeed] = {}
        self._idle: dict[str, Idle] = {}
        self._asked: list[tuple[Feed, Fetch]] = []
        self._unasked: list[Recorded] = []
        self._unasked_bytes = 0
        self._spoilt: dict[str, Recorded] = {}
        self._ts = 0
        self.frames = 0
        self.damaged = 0
        self.notes: list[str] = []

    @property
    def feeds(self) -> Iterable[Feed]:
        """The feeds, in order of first frame."""
        return self._feeds.values()

    def remarks(self) -> list[str]:
        """Return the notes, and what else about the whole recording a person should know."""
        remarks = list(self.notes)
        if self.damaged > 1:
            remarks.append(f"{self.damaged} damaged lines were left out")
        if not self.frames:
            remarks.append("the recording holds no frame that was received")
        return remarks

    def play(self, record: Recorded, line: str) -> Iterator[AnyEvent]:
        """Yield what one line of a recording means; `line` names the file's place among redundant lines."""
        self._ts = max(self._ts, record.ts_recv)
        self._places[line] += 1
        if record.t == DAMAGED:
            self.damaged += 1
            self._spoilt[line] = record
            self.note(record.data)
        elif record.t == "http":
            yield from self._answered(record)
        elif record.t in {"recv", "connect"}:
            if line in self._spoilt:
                yield from self._tell_damage(self._spoilt.pop(line), line)
            yield from self._heard(record, line)
        elif record.t not in KINDS:
            self.note(f"a line of the unknown kind {record.t[:100]!r}")

    def _heard(self, record: Recorded, line: str) -> Iterator[AnyEvent]:
        key = _key(line, record)
        name = f"{self.venue}/{key}"
        feed = self._feeds.get(name)
        if feed is None:
            place = self._places[line]
            self._ended[name] = [one for one in self._feeds if self._ends.get(one, place) < place]
            feed = self._feeds[name] = make_feed(self.venue, line=name)
            self._idle[name] = Idle(feed, proof_of(find_venue(self.venue)), recorded=True)
            self._idle[name].opened(record.ts_recv)
            yield from self._perform(feed, feed.opened(record.ts_recv))
        elif record.t == "connect":
            yield from self._perform(feed, feed.closed("reconnect", record.ts_recv))
            yield from self._perform(feed, feed.opened(record.ts_recv))
            self._idle[name].opened(record.ts_recv)
        if record.t == "recv":
            self.frames += 1
            yield from self._perform(feed, self._time_passed(name, record.ts_recv))
            outputs = feed.received(record.frame, record.ts_recv)
            if self._ended[name]:
                yield from self._succeed(name, outputs)
            yield from self._perform(feed, outputs)

    def _time_passed(self, name: str, ts: int) -> list[Output]:
        """Return what a frame shows of the time before it, and note a silence in which frames may be missing."""
        idle = self._idle[name]
        outputs = idle.came(ts)
        if idle.skipped_ns:
            self.note(f"{name}: no frame for {idle.skipped_ns / SECOND_NS:.0f} s before {format_rfc3339(ts)}, longer "
                      "than the venue is ever silent: candles of that time are not valid")  # fmt: skip
            idle.skipped_ns = 0
        return outputs

    def _succeed(self, name: str, outputs: list[Output]) -> Iterator[AnyEvent]:
        """Close the connections that a new one succeeds, as it shows by a book that one of them had, or by its changes.

        Without a snapshot it cannot go on with a book, but what the ended one had is a book no more.
        """
        lost = getattr(self._feeds[name], "counts", {}).get("deltas_before_snapshot", 0)
        brought = {event.symbol for event in outputs if isinstance(event, BookUpdate) and event.kind == "snapshot"}
        for ended in list(self._ended[name]):
            feed = self._feeds[ended]
            if lost or brought & self._books.get(feed, set()):
                self._ended[name].remove(ended)
                yield from self._perform(feed, feed.closed("succeeded", self._ts))

    def _tell_damage(self, record: Recorded, line: str) -> Iterator[AnyEvent]:
        """A damaged line with frames behind it may have been a frame of any connection of its file."""
        for name, feed in self._feeds.items():
            if name.startswith(f"{self.venue}/{line}"):
                yield from self._perform(feed, feed.received(record.frame, self._ts))

    def note(self, text: str) -> None:
        """Keep what a person should know, once."""
        if text not in self.notes and len(self.notes) < NOTES_MAX:
            self.notes.append(text)

    def _perform(self, feed: Feed, outputs: list[Output]) -> Iterator[AnyEvent]:
        for output in outputs:
            if isinstance(output, Fetch):
                if (feed, output) not in self._asked:
                    self._asked.append((feed, output))
                    del self._asked[:-ASKED_MAX]
                for place, record in enumerate(self._unasked):
                    if answers(output, record.conn or ""):
                        del self._unasked[place]
                        self._unasked_bytes -= len(record.data)
                        yield from self._answered(record)
                        break
            elif isinstance(output, AnyEvent):
                if isinstance(output, BookUpdate) and output.kind == "snapshot":
                    self._books.setdefault(feed, set()).add(output.symbol)
                yield output

    def _answered(self, record: Recorded) -> Iterator[AnyEvent]:
        """Give an answer to who asked; it never comes before what was played already, wherever it was recorded."""
        for asked in self._asked:
            feed, request = asked
            if answers(request, record.conn or ""):
                self._asked.remove(asked)
                yield from self._perform(feed, feed.fetched(request, record.frame, self._ts))
                return
        self._unasked.append(record)
        self._unasked_bytes += len(record.data)
        while self._unasked_bytes > UNASKED_BYTES_MAX:
            self._unasked_bytes -= len(self._unasked.pop(0).data)
            self.note("more REST answers than are kept: the oldest that nobody asked for are left out")


class Pipeline:
    """The chains of all input topics without Kafka."""

    def __init__(self, recipes: Path | None = None) -> None:
        """Take the file of recipes of bars to make besides the candles; None for the one of the settings."""
        given = {} if recipes is None else {"recipes": recipes}
        self._chains: dict[str, Chain] = make_chains(load(OperatorSettings, **given).operators())

    @property
    def operators(self) -> Iterable[Operator[Any]]:
        """The operators, each once."""
        found = {id(operator): operator for chain in self._chains.values() for operator in chain.operators}
        return found.values()

    def push(self, event: AnyEvent) -> Iterator[tuple[str, AnyEvent]]:
        """Yield (topic, event) for all that follows from an event of a feed, in order."""
        topic = INGEST[event.schema].name
        if event.schema == "RawFrame":
            return
        yield topic, event
        chain = self._chains.get(topic)
        if chain is not None:
            for output in chain.step(event, event.key):
                name = PUBLIC[output.schema].name
                yield name, output
                if name in self._chains:
                    for further in self._chains[name].step(output, output.key):
                        yield PUBLIC[further.schema].name, further


class Summary:
    """What a recording held and how it ended, as `--summary` prints it."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._books: dict[str, L2Book] = {}
        self._crossed: set[str] = set()
        self._reasons: dict[str, str] = {}  # why a book is not to be trusted
        self._letters: Counter[str] = Counter()
        self._details: dict[str, str] = {}

    def take(self, topic: str, event: AnyEvent) -> None:
        """Count one event of one topic."""
        counts = self._counts
        if isinstance(event, DeadLetter):
            counts["dead_letters"] += 1
            self._letters[event.reason] += 1
            self._details.setdefault(event.reason, event.detail)
        elif topic == "md.trades" and isinstance(event, Trades):
            counts["trades"] += len(event.trades)
        elif topic == "md.book_updates" and isinstance(event, BookUpdate):
            self._take_book(event)
        elif topic == "md.quotes" and isinstance(event, Quote) and event.source == "venue":
            counts["quotes"] += 1
        elif topic == "md.derivatives" and isinstance(event, Derivative):
            counts["derivatives"] += 1
            counts["liquidations"] += len(event.liquidations)
        elif topic == "md.status" and isinstance(event, FeedStatus) and event.kind == "gap":
            # Candles note jumps of event time of their own, as a listing of old trades makes; no data was lost there.
            counts["gaps"] += event.channel != "candles"

    def _take_book(self, event: BookUpdate) -> None:
        book = self._books.setdefault(event.symbol, L2Book())
        if event.kind == "snapshot":
            self._counts["snapshots"] += 1
            self._reasons.pop(event.symbol, None)
            book.bids.replace(event.bid_prices, event.bid_sizes)
            book.asks.replace(event.ask_prices, event.ask_sizes)
        elif event.kind == "update":
            self._counts["book_updates"] += 1
            if event.symbol not in self._reasons:
                book.bids.apply(event.bid_prices, event.bid_sizes)
                book.asks.apply(event.ask_prices, event.ask_sizes)
        elif event.kind == "clear":
            book.clear()
            self._reasons[event.symbol] = event.reason
        if book.is_crossed():
            self._counts["crossed"] += event.symbol not in self._crossed
            self._crossed.add(event.symbol)
        else:
            self._crossed.discard(event.symbol)

    def remarks(self) -> Iterator[str]:
        """Yield what could not be used, by reason, each with its first detail."""
        for reason, count in self._letters.most_common(NOTES_MAX):
            yield f"{count} dead letters of {reason}, the first: {self._details[reason]}"
        if not any(self._counts[name] for name in ("trades", "quotes", "book_updates", "snapshots", "derivatives")):
            yield "the frames tell of no trade, quote or book"

    def as_dict(self, connections: Connections, pipeline: Pipeline) -> dict[str, Any]:
        """Return the summary as plain values."""
        counted: Counter[str] = Counter()
        for source in (*connections.feeds, *pipeline.operators):
            counted.update(getattr(source, "counts", {}))
        names = ("trades", "quotes", "derivatives", "liquidations", "book_updates", "snapshots", "gaps")
        return {
            "frames": connections.frames,
            **{name: self._counts[name] for name in names},
            "duplicates": counted["duplicates"],
            "checksums_right": counted["checksums_right"],
            "checksums_wrong": counted["checksums_wrong"],
            "crossed": self._counts["crossed"],
            "dead_letters": self._counts["dead_letters"],
            "ignored": counted["ignored"],
            "deltas_before_snapshot": counted["deltas_before_snapshot"],
            "damaged_lines": connections.damaged,
            "books": {symbol: self._best(symbol) for symbol in sorted(self._books)},
        }

    def _best(self, symbol: str) -> dict[str, Any]:
        """Return the best levels; a book that was lost and did not come again has none, but the reason."""
        book = self._books[symbol]
        sides = {
            "bids": [list(level) for level in book.bids.top(BEST_LEVELS)],
            "asks": [list(level) for level in book.asks.top(BEST_LEVELS)],
        }
        return sides | ({"reason": self._reasons[symbol]} if symbol in self._reasons else {})


def _key(line: str, record: Recorded) -> str:
    """Return what identifies a connection; `line` names its file's place among redundant lines."""
    return f"{line}{record.conn or 0}"


def survey(files: list[Path], venue: str) -> dict[str, int]:
    """Return the line of a file with the last frame of each connection of recordings, by reading them once.

    Raises SettingsError, before it reads, when there is no such venue.
    """
    name = find_venue(venue).name
    return {
        f"{name}/{_key(line, record)}": place
        for line, path in _lines(files)
        for place, record in enumerate(read(path), start=1)
        if record.t == "recv"
    }


def _lines(files: list[Path]) -> list[tuple[str, Path]]:
    return [(f"{number}/" if len(files) > 1 else "", path) for number, path in enumerate(files)]


def _line(path: Path, name: str, connections: Connections) -> Iterator[tuple[Recorded, str]]:
    behind = behind_ns(path, connections.venue)
    if behind:
        connections.note(f"{path}: the recorder's clock was {behind / SECOND_NS:.1f} s behind the venue's, and is set "
                         "forward by that")  # fmt: skip
    for record in read(path, behind):
        yield record, name


def run(files: list[Path], connections: Connections, pipeline: Pipeline) -> Iterator[tuple[str, AnyEvent]]:
    """Yield (topic, event) of recordings through feed and operators; several files are redundant lines, by time."""
    lines = [_line(path, line, connections) for line, path in _lines(files)]
    for record, line in merge(*lines, key=lambda item: item[0].ts_recv):
        for event in connections.play(record, line):
            yield from pipeline.push(event)
