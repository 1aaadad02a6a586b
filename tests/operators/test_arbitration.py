"""Books of several lines: the merged book is always correct, and a lost line costs one snapshot at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.book import L2Book
from marketdata.events import CONNECTION, SYMBOL, AnyEvent, BookUpdate, DeadLetter, FeedStatus
from stream_apps.operators.arbitration import LINES_MAX
from stream_apps.operators.ingest_books import IngestBooks

Run = Callable[..., list[list[AnyEvent]]]
Levels = tuple[list[tuple[str, str]], list[tuple[str, str]]]


class Market:
    """The true book after each change; change k has number k and happens at k tenths of a second."""

    def __init__(self, make: Any, changes: list[tuple[str, str, str]], scope: str = CONNECTION) -> None:
        self._make = make
        self._scope = scope
        self._changes = changes
        self.states: list[Levels] = []
        book = L2Book()
        for side, price, size in changes:
            (book.bids if side == "bid" else book.asks).apply([price], [size])
            self.states.append((book.bids.top(), book.asks.top()))

    def update(self, number: int, line: int, **more: Any) -> BookUpdate:
        """Return an update from a line."""
        side, price, size = self._changes[number]
        levels = {"bids" if side == "bid" else "asks": [(price, size)]}
        return self._event("update", number, line, **levels, **more)

    def snapshot(self, number: int, line: int) -> BookUpdate:
        """Return a snapshot from a line."""
        bids, asks = self.states[number]
        return self._event("snapshot", number, line, bids=bids, asks=asks)

    def clear(self, number: int, line: int) -> BookUpdate:
        """Return the loss of a line's book."""
        return self._event("clear", number, line, valid=False, reason="gap")

    def _event(self, kind: str, number: int, line: int, **more: Any) -> BookUpdate:
        event: BookUpdate = self._make.book(kind, number / 10, line=f"l/{line}", sequence=number,
                                           sequence_scope=self._scope, **more)  # fmt: skip
        return event


CHANGE = st.tuples(st.sampled_from(["bid", "ask"]), st.integers(1, 6).map(str), st.sampled_from(["0", "1", "2", "3.5"]))


@st.composite
def lines(draw: st.DrawFn, make: Any, scope: str) -> tuple[Market, list[BookUpdate], list[int]]:
    """Return a market, the interleaved events of up to three lines, and how far the complete lines got.

    Each line starts with a snapshot at any point, may lose its book and get a new one, and may stop permanently.
    """
    market = Market(make, draw(st.lists(CHANGE, min_size=1, max_size=40)), scope)
    size = len(market.states)
    queues = []
    for line in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, size - 1))
        events = [market.snapshot(at, line)]
        until = draw(st.sampled_from([size, size, draw(st.integers(at, size))]))
        while at + 1 < until:
            at += 1
            happens = draw(st.integers(0, 14))
            if happens == 0:
                events.append(market.clear(at, line))
                at = min(until - 1, at + draw(st.integers(0, 5)))
                events.append(market.snapshot(at, line))
            elif happens == 1:
                events.append(market.snapshot(at, line))
            else:
                events.append(market.update(at, line))
        if draw(st.integers(0, 3)) == 0:
            events.append(market.clear(at, line))
        queues.append(events)
    merged: list[BookUpdate] = []
    waiting = [list(queue) for queue in queues]
    while any(waiting):
        line = draw(st.sampled_from([number for number, queue in enumerate(waiting) if queue]))
        merged.append(waiting[line].pop(0))
    return market, merged, [queue[-1].sequence or 0 for queue in queues]


class Downstream:
    """Applies what passes, like any consumer."""

    def __init__(self) -> None:
        self.book = L2Book()
        self.valid = False

    def take(self, event: BookUpdate) -> None:
        """Apply one event."""
        if event.kind == "snapshot":
            self.book.bids.replace(event.bid_prices, event.bid_sizes)
            self.book.asks.replace(event.ask_prices, event.ask_sizes)
            self.valid = True
        elif event.kind == "clear":
            self.valid = False
        elif event.kind == "update":
            assert self.valid, "no update passes without a book"
            self.book.bids.apply(event.bid_prices, event.bid_sizes)
            self.book.asks.apply(event.ask_prices, event.ask_sizes)

    @property
    def levels(self) -> Levels:
        """Both sides, best first."""
        return self.book.bids.top(), self.book.asks.top()


@given(data=st.data(), scope=st.sampled_from([CONNECTION, SYMBOL]))
@settings(max_examples=150)
def test_the_merged_book_equals_the_market_at_every_step(run: Run, make: Any, data: st.DataObject, scope: str) -> None:
    """Lines may lose, repeat or lag: after each event the book equals the true one at that event's number."""
    market, events, _ = data.draw(lines(make, scope))
    published = run(IngestBooks, events)
    downstream = Downstream()
    for outputs in published:
        for event in outputs:
            assert isinstance(event, BookUpdate)
            downstream.take(event)
            if downstream.valid:
                assert event.sequence is not None
                assert downstream.levels == market.states[event.sequence]
    at = data.draw(st.lists(st.integers(0, len(events) - 1), max_size=3))
    assert run(IngestBooks, events, restarts=at) == published


@given(data=st.data())
@settings(max_examples=60)
def test_numbers_of_a_symbol_only_count_up_while_the_book_is_whole(run: Run, make: Any, data: st.DataObject) -> None:
    """First arrival wins: between two snapshots no update passes twice or late."""
    _, events, _ = data.draw(lines(make, SYMBOL))
    last = -1
    for outputs in run(IngestBooks, events):
        for event in outputs:
            assert isinstance(event, BookUpdate)
            if event.kind == "update":
                assert event.sequence is not None
                assert event.sequence > last
            last = event.sequence if event.kind != "clear" and event.sequence is not None else last


def book_of(published: list[list[AnyEvent]]) -> list[tuple[str, str]]:
    """Return what passed as (kind, line)."""
    return [(event.kind, event.line) for events in published for event in events if isinstance(event, BookUpdate)]


def test_a_standby_takes_over_when_the_primary_loses_its_book(run: Run, make: Any) -> None:
    """Consumers see one snapshot and never an invalid book."""
    market = Market(make, [("bid", str(price), "1") for price in range(1, 7)])
    events = [
        market.snapshot(0, 0),
        market.snapshot(0, 1),
        market.update(1, 0),
        market.update(1, 1),
        market.update(2, 1),
        market.clear(2, 0),
        market.update(3, 1),
        market.snapshot(3, 0),
        market.update(4, 0),
        market.update(4, 1),
    ]
    published = run(IngestBooks, events)
    assert book_of(published) == [
        ("snapshot", "l/0"),
        ("update", "l/0"),
        ("snapshot", "l/1"),
        ("update", "l/1"),
        ("update", "l/1"),
    ]


def test_a_standby_takes_over_when_the_primary_is_silent(run: Run, make: Any) -> None:
    """Three seconds behind on event time is silent; a lagging line that wakes up changes nothing."""
    market = Market(make, [("bid", str(price), "1") for price in range(1, 60)])
    standby = [market.snapshot(0, 1), *(market.update(number, 1) for number in range(1, 50))]
    late = [market.update(number, 0) for number in range(2, 40)]
    published = run(IngestBooks, [market.snapshot(0, 0), *standby[:2], market.update(1, 0), *standby[2:], *late])
    went_on = book_of(published)
    assert went_on[:3] == [("snapshot", "l/0"), ("update", "l/0"), ("snapshot", "l/1")]
    assert set(went_on[3:]) == {("update", "l/1")}
    assert sum(kind == "snapshot" for kind, _ in went_on) == 2


def test_without_a_standby_the_clear_passes(run: Run, make: Any) -> None:
    """Then the first line with a complete book becomes the primary."""
    market = Market(make, [("bid", str(price), "1") for price in range(1, 7)])
    events = [
        market.snapshot(0, 0),
        market.clear(1, 0),
        market.update(1, 1),
        market.snapshot(2, 1),
        market.snapshot(2, 0),
        market.update(3, 0),
        market.update(3, 1),
    ]
    assert book_of(run(IngestBooks, events)) == [
        ("snapshot", "l/0"),
        ("clear", "l/0"),
        ("snapshot", "l/1"),
        ("update", "l/1"),
    ]


def test_an_unusable_update_clears_the_book_of_its_line(make: Any) -> None:
    """It becomes a dead letter, and every later book would be wrong. A line without a book is not affected."""
    for scope in (CONNECTION, SYMBOL):
        operator, market = IngestBooks(), Market(make, [("bid", str(price), "1") for price in range(1, 20)], scope)
        bad = make.book("update", 1, line="l/0", sequence=6, sequence_scope=scope, bids=[("1", "-1")])
        state, out = operator.step(operator.start("key"), bad)
        assert [type(event) for event in out] == [DeadLetter]
        state, _ = operator.step(state, market.snapshot(5, 0))
        state, out = operator.step(state, bad)
        assert [(type(event), getattr(event, "kind", "")) for event in out] == [
            (DeadLetter, ""), (BookUpdate, "clear"), (FeedStatus, "gap")]  # fmt: skip
        assert operator.step(state, market.update(7, 0))[1] == []


def test_a_line_that_loses_its_book_changes_nothing_while_another_has_it(run: Run, make: Any) -> None:
    """Numbers of a symbol: the clear is dropped, and the other line's next update passes."""
    market = Market(make, [("bid", str(price), "1") for price in range(1, 20)], SYMBOL)
    events = [market.snapshot(5, 0), market.snapshot(5, 1), market.clear(6, 0), market.update(6, 1)]
    published = run(IngestBooks, events)
    assert [(e.kind, e.line) for events in published for e in events if isinstance(e, BookUpdate)] == [
        ("snapshot", "l/0"), ("update", "l/1")]  # fmt: skip


def test_a_quiet_symbol_keeps_its_book_when_a_line_loses_it(run: Run, make: Any) -> None:
    """After a long silence, a line with the last passed number keeps the book valid, a lagging one does not."""
    market = Market(make, [("bid", str(price), "1") for price in range(1, 100)], SYMBOL)
    begin = [market.snapshot(4, 0), market.snapshot(4, 1), market.update(5, 0)]
    for last, kinds in (
        (market.update(5, 1), ["snapshot", "update", "update"]),
        (None, ["snapshot", "update", "clear"]),
    ):
        events = [*begin, *([last] if last else ()), market.clear(90, 0), *([market.update(91, 1)] if last else ())]
        published = run(IngestBooks, events)
        assert [e.kind for events in published for e in events if isinstance(e, BookUpdate)] == kinds


def test_any_number_of_lines_uses_bounded_memory(make: Any) -> None:
    """The line that is silent longest is evicted, never the primary."""
    for scope in (CONNECTION, SYMBOL):
        operator, market = IngestBooks(), Market(make, [("bid", str(price), "1") for price in range(1, 20)], scope)
        state = operator.start("key")
        for line in range(3 * LINES_MAX):
            state, _ = operator.step(state, market.snapshot(5, line))
        assert len(state.lines.lines) <= LINES_MAX
        assert len(state.lines.shadows) <= LINES_MAX
        assert state.lines.primary in state.lines.lines


def test_a_single_line_passes_as_it_is(run: Run, make: Any) -> None:
    """With one line nothing is delayed and there is no shadow book."""
    market = Market(make, [("bid", str(price), "1") for price in range(1, 7)])
    events = [
        market.snapshot(0, 0),
        market.update(1, 0),
        make.book("heartbeat", 1, line="l/0"),
        market.clear(2, 0),
        market.snapshot(3, 0),
    ]
    operator = IngestBooks()
    state = operator.start("k")
    for event in events:
        state, out = operator.step(state, event)
        assert out == [event]
    assert state.lines.shadows == {}


def test_a_halted_standby_takes_over_as_halted(run: Run, make: Any) -> None:
    """Its snapshot has the reason of the line's last event."""
    halt: dict[str, Any] = {"valid": False, "reason": "halted"}
    market = Market(make, [("bid", "1", "1"), ("bid", "2", "1")])
    events = [
        market.snapshot(0, 0),
        market.snapshot(0, 1),
        make.book("heartbeat", 0.05, line="l/1", **halt),
        market.clear(1, 0),
    ]
    (snapshot,) = run(IngestBooks, events)[-1]
    assert isinstance(snapshot, BookUpdate)
    assert (snapshot.kind, snapshot.line, snapshot.valid, snapshot.reason) == ("snapshot", "l/1", False, "halted")


def test_a_sequence_reset_on_one_line_applies_to_the_others(run: Run, make: Any) -> None:
    """It clears its book first; its new snapshot is below its own last number, unlike that of a late line."""
    market = Market(make, [("bid", str(price), "1") for price in range(1, 20)], SYMBOL)
    events = [
        market.snapshot(10, 0),
        market.snapshot(10, 1),
        market.update(11, 0),
        market.clear(11, 0),
        market.snapshot(2, 0),
        market.update(3, 0),
        market.clear(11, 1),
        market.snapshot(3, 1),
        market.update(4, 1),
        market.update(4, 0),
    ]
    published = run(IngestBooks, events)
    assert [(e.kind, e.sequence, e.line) for events in published for e in events if isinstance(e, BookUpdate)] == [
        ("snapshot", 10, "l/0"), ("update", 11, "l/0"), ("snapshot", 2, "l/0"), ("update", 3, "l/0"),
        ("update", 4, "l/1"),
    ]  # fmt: skip


def test_a_venue_that_resets_its_sequence_is_followed_and_old_numbers_are_not(run: Run, make: Any) -> None:
    """After a snapshot with a lower number on a line with a book, other lines wait for theirs."""
    market = Market(make, [("bid", str(price), "1") for price in range(1, 20)], SYMBOL)
    events = [
        market.snapshot(10, 0),
        market.snapshot(10, 1),
        market.update(11, 0),
        market.snapshot(0, 0),
        market.update(12, 1),
        market.snapshot(0, 1),
        market.update(1, 1),
        market.update(1, 0),
    ]
    published = run(IngestBooks, events)
    assert [
        (event.kind, event.sequence, event.line)
        for events in published
        for event in events
        if isinstance(event, BookUpdate)
    ] == [("snapshot", 10, "l/0"), ("update", 11, "l/0"), ("snapshot", 0, "l/0"), ("update", 1, "l/1")]
