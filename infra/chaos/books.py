"""Compares every valid book of the topics, and those that the API answered, with the exchange's at its sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from infra.chaos.findings import Findings
from infra.chaos.published import Places, Published
from infra.chaos.record import ProductRecord, Side, Sides, best, same_levels
from infra.chaos.watch import Shown
from marketdata.events import Book, BookUpdate, Metrics, Quote

Equal = Callable[[Sides], bool]


class Checked:
    """Counts of compared books, and the judgement of one: right if it is the exchange's at its sequence."""

    def __init__(self, what: str, records: Mapping[str, ProductRecord], findings: Findings) -> None:
        self._what = what
        self._records = records
        self._findings = findings
        self.compared = self.wrong = self.unknown = self.invalid = 0

    def check(self, symbol: str, sequence: int | None, ts_recv: int, equal: Equal, text: str) -> None:
        """Judge one valid book."""
        record = self._records.get(symbol)
        if record is None or sequence is None:
            self.unknown += 1
            return
        versions = list(record.versions(sequence, ts_recv))
        known = [version for version in versions if version >= record.oldest_version]
        if not known:
            self.unknown += 1
            return
        self.compared += 1
        if not any(equal(record.book(version)) for version in known):
            self.wrong += 1
            self._findings.add(f"{self._what}_valid_and_wrong", f"{symbol} sequence {sequence} {text}")

    def report(self) -> None:
        """Note the counts."""
        figures = {"compared": self.compared, "wrong": self.wrong, "invalid": self.invalid, "unknown": self.unknown}
        self._findings.set("books", **{self._what: figures})


class Rebuilt:
    """The books that a reader of md.book_updates has, update by update."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._books: dict[str, Sides] = {}
        self._last: dict[str, int] = {}

    def apply(self, event: BookUpdate, place: str) -> Sides | None:
        """Return the book after an event that changed it; None where there is none, or nothing changed."""
        symbol = event.symbol
        if event.kind in {"clear", "snapshot"}:
            self._books.pop(symbol, None)
            self._last.pop(symbol, None)
        if event.kind == "snapshot":
            self._books[symbol] = ({}, {})
        book = self._books.get(symbol)
        if book is None:
            if event.valid and event.kind == "update":
                self._findings.add("book_update_without_snapshot", f"{symbol} sequence {event.sequence} {place}")
            return None
        if event.kind == "heartbeat":
            return None
        if event.sequence is not None:
            last = self._last.get(symbol, -1)
            if event.sequence <= last:
                self._findings.add("book_update_doubled", f"{symbol} {event.sequence} after {last} {place}")
            self._last[symbol] = event.sequence
        apply(book[0], event.bid_prices, event.bid_sizes)
        apply(book[1], event.ask_prices, event.ask_sizes)
        return book


def compare_updates(published: Iterable[Published], records: Mapping[str, ProductRecord], findings: Findings) -> None:
    """Rebuild each book of md.book_updates, and compare it whole after each update while it is valid."""
    checked, rebuilt = Checked("book_update", records, findings), Rebuilt(findings)
    for record in published:
        event = record.event
        if not isinstance(event, BookUpdate):
            continue
        place = f"at {record.partition}@{record.offset} (line {event.line})"
        checked.invalid += not event.valid
        book = rebuilt.apply(event, place)
        if book is not None and event.valid:
            checked.check(event.symbol, event.sequence, event.ts_recv, book.__eq__, place)
    checked.report()


def compare_tops(published: Iterable[Published], records: Mapping[str, ProductRecord], findings: Findings) -> Places:
    """Compare the levels of each valid book of md.books; return what the sink keeps: the best levels."""
    checked = Checked("book", records, findings)
    kept: Places = {}
    for record in published:
        event = record.event
        if not isinstance(event, Book):
            continue
        kept[record.partition, record.offset] = 1
        if not event.valid:
            checked.invalid += 1
            continue
        bids = list(zip(event.bid_prices, event.bid_sizes, strict=True))
        asks = list(zip(event.ask_prices, event.ask_sizes, strict=True))
        place = f"at {record.partition}@{record.offset} (line {event.line})"
        checked.check(event.symbol, event.sequence, event.ts_recv, _tops(bids, asks, event.depth), place)
    checked.report()
    return kept


def compare_quotes(published: Iterable[Published], records: Mapping[str, ProductRecord], findings: Findings) -> Places:
    """Compare each valid quote of our own books; return what the sink keeps: every quote, the venue's too."""
    checked = Checked("quote", records, findings)
    kept: Places = {}
    for record in published:
        event = record.event
        if not isinstance(event, Quote):
            continue
        kept[record.partition, record.offset] = 1
        if event.source != "book":
            continue
        if not event.valid:
            checked.invalid += 1
            continue
        bids = [(event.bid, event.bid_size or "")] if event.bid is not None else []
        asks = [(event.ask, event.ask_size or "")] if event.ask is not None else []
        place = f"at {record.partition}@{record.offset} (line {event.line})"
        checked.check(event.symbol, event.sequence, event.ts_recv, _tops(bids, asks, 1), place)
    checked.report()
    return kept


def compare_metrics(
    published: Iterable[Published], records: Mapping[str, ProductRecord], findings: Findings
) -> Places:  # fmt: skip
    """Compare the best levels of valid metrics, and that each begins where the one before it ends.

    Return what the sink keeps: every one of them.
    """
    checked = Checked("metrics", records, findings)
    kept: Places = {}
    ends: dict[str, int] = {}
    for record in published:
        event = record.event
        if not isinstance(event, Metrics):
            continue
        kept[record.partition, record.offset] = 1
        place = f"at {record.partition}@{record.offset}"
        before = ends.get(event.symbol)
        if before is not None and event.ts_from != before:
            findings.add("metrics_not_consecutive", f"{event.symbol} from {event.ts_from} after {before} {place}")
        ends[event.symbol] = event.ts_event
        if not event.valid:
            checked.invalid += 1
            continue
        bids = [(event.bid, event.bid_size or "")] if event.bid is not None else []
        asks = [(event.ask, event.ask_size or "")] if event.ask is not None else []
        checked.check(event.symbol, event.sequence, event.ts_recv, _tops(bids, asks, 1), place)
    checked.report()
    return kept


def compare_shown(shown: Iterable[Shown], records: Mapping[str, ProductRecord], findings: Findings) -> None:
    """Compare the valid books that the API answered while the platform ran."""
    checked = Checked("rest_book", records, findings)
    for symbol, ts, body in shown:
        if not body["valid"]:
            checked.invalid += 1
            continue
        data: dict[str, Any] = body["data"]
        sides = [[(price, size) for price, size in data[side]] for side in ("bids", "asks")]
        checked.check(symbol, body["sequence"], ts, _tops(sides[0], sides[1], body["depth"]), f"answered at {ts}")
    checked.report()


def apply(side: Side, prices: Iterable[str], sizes: Iterable[str]) -> None:
    """Set each price to its absolute size; 0 removes the level."""
    for price, size in zip(prices, sizes, strict=True):
        if size == "0":
            side.pop(price, None)
        else:
            side[price] = size


def _tops(bids: list[tuple[str, str]], asks: list[tuple[str, str]], depth: int) -> Equal:
    def equal(right: Sides) -> bool:
        return same_levels(bids, best(right[0], depth, highest=True)) and same_levels(
            asks, best(right[1], depth, highest=False)
        )

    return equal
