"""Books equal a naive model at every step, and are invalid when they should be."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import AnyEvent, Book, BookUpdate, Metrics, Quote
from stream_apps.operators.books import Books

Run = Callable[..., list[list[AnyEvent]]]
Level = tuple[str, str]

PRICES = st.integers(1, 12).map(str) | st.sampled_from(["5.0", "5.00000000000000000001", "7e0", "6.5"])
SIZES = st.sampled_from(["0", "0.000", "1", "2.5", "0.00000001"])
LEVELS = st.lists(st.tuples(PRICES, SIZES), max_size=5)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["update"] * 6 + ["snapshot", "clear", "heartbeat", "halted", "halted snapshot"]),
        LEVELS,
        LEVELS,
        st.sampled_from([0, 10, 40, 60, 100, 250, 61_000, -50]),
    ),
    max_size=30,
)


def unique(levels: list[Level]) -> list[Level]:
    """Return the levels of a snapshot: each price once."""
    return list({Decimal(price): (price, size) for price, size in levels}.values())


class Naive:
    """A naive book."""

    def __init__(self) -> None:
        self.sides: list[dict[Decimal, Level]] = [{}, {}]
        self.waiting = "resyncing"
        self.marked = ""

    def take(self, event: BookUpdate) -> None:
        """Apply an event."""
        if event.kind == "clear":
            self.sides, self.waiting = [{}, {}], event.reason
            return
        if event.kind == "update" and self.waiting:
            return
        if event.kind == "snapshot":
            self.sides, self.waiting = [{}, {}], ""
        if event.kind in {"snapshot", "update"}:
            columns = ((event.bid_prices, event.bid_sizes), (event.ask_prices, event.ask_sizes))
            for side, (prices, sizes) in zip(self.sides, columns, strict=True):
                for price, size in zip(prices, sizes, strict=True):
                    if Decimal(size):
                        side[Decimal(price)] = (price, size)
                    else:
                        side.pop(Decimal(price), None)
        self.marked = "" if event.valid else event.reason

    @property
    def bids(self) -> list[Level]:
        """Bids, best first."""
        return [self.sides[0][price] for price in sorted(self.sides[0], reverse=True)]

    @property
    def asks(self) -> list[Level]:
        """Asks, best first."""
        return [self.sides[1][price] for price in sorted(self.sides[1])]

    @property
    def reason(self) -> str:
        """Why the book is invalid, empty if it is valid."""
        crossed = bool(self.sides[0] and self.sides[1]) and max(self.sides[0]) > min(self.sides[1])
        return self.waiting or self.marked or ("crossed" if crossed else "")


def events(make: Any, steps: list[tuple[str, list[Level], list[Level], int]]) -> list[BookUpdate]:
    """Return book updates from steps with pauses in milliseconds."""
    made, at = [], 0.0
    for kind, bids, asks, pause_ms in steps:
        at += pause_ms / 1000
        if kind == "clear":
            made.append(make.clear(at, reason="disconnected"))
        elif kind in {"heartbeat", "halted"}:
            marks = {"valid": False, "reason": "halted"} if kind == "halted" else {}
            made.append(make.book("heartbeat", at, **marks))
        elif kind == "halted snapshot":
            made.append(make.book("snapshot", at, unique(bids), unique(asks), valid=False, reason="halted"))
        elif kind == "snapshot":
            made.append(make.book("snapshot", at, unique(bids), unique(asks)))
        else:
            made.append(make.book("update", at, bids, asks))
    return made


def eager() -> Books:
    """Return an operator that publishes two levels per side."""
    return Books(top_depth=2)


def levels(book: Book) -> tuple[list[Level], list[Level]]:
    """Return both sides of a book as (price, size)."""
    return (
        list(zip(book.bid_prices, book.bid_sizes, strict=True)),
        list(zip(book.ask_prices, book.ask_sizes, strict=True)),
    )


def books(published: list[list[AnyEvent]]) -> list[Book]:
    """Return the published books."""
    return [event for events in published for event in events if isinstance(event, Book)]


@given(steps=STEPS)
def test_what_is_published_equals_the_naive_book_at_every_step(run: Run, make: Any, steps: list[Any]) -> None:
    """Every quote and book equals the naive model at that event, including validity."""
    naive = Naive()
    quoted: tuple[Any, ...] = (None, None, "resyncing")
    for event, published in zip(made := events(make, steps), run(eager, made), strict=True):
        naive.take(event)
        quotes = [output for output in published if isinstance(output, Quote)]
        best = (naive.bids[0] if naive.bids else None, naive.asks[0] if naive.asks else None, naive.reason)
        assert len(quotes) == int(best != quoted), "a quote whenever the best or the validity changes, and only then"
        for quote in quotes:
            bid = (quote.bid, quote.bid_size) if quote.bid is not None else None
            ask = (quote.ask, quote.ask_size) if quote.ask is not None else None
            assert (bid, ask, quote.reason, quote.valid) == (*best, not naive.reason)
        for book in published:
            if isinstance(book, Book):
                assert levels(book) == (naive.bids[:2], naive.asks[:2])
                assert (book.reason, book.valid) == (naive.reason, not naive.reason)
        if best[2] != quoted[2] or (event.kind == "snapshot"):
            assert any(isinstance(output, Book) for output in published)
        quoted = best


@given(steps=STEPS, data=st.data())
@settings(max_examples=60)
def test_a_restart_at_any_point_changes_nothing(run: Run, make: Any, steps: list[Any], data: st.DataObject) -> None:
    """The state contains everything that later outputs depend on."""
    made = events(make, steps)
    at = data.draw(st.lists(st.integers(0, max(0, len(made) - 1)), max_size=4))
    assert run(eager, made, restarts=at) == run(eager, made)


def test_best_levels_are_published_at_most_every_tenth_of_a_second(run: Run, make: Any) -> None:
    """Deep changes wait for the next tenth; a change of the best level is quoted at once."""
    snapshot = make.book("snapshot", 0, [("10", "1")], [("11", "1")])
    updates = [make.book("update", 0.001 * i, [("9", str(i))]) for i in range(1, 1000)]
    published = run(Books, [snapshot, *updates])
    assert len(books(published)) == 10
    changed = run(Books, [snapshot, make.book("update", 0.001, [("10", "5")])])[1]
    assert [(type(event), getattr(event, "bid_size", None)) for event in changed] == [(Quote, "5")]


def test_delta_before_snapshot_is_ignored_and_counted(make: Any) -> None:
    """An update cannot be applied without a book."""
    operator = Books()
    state = operator.start("coinbase:BTC-USD")
    state, published = operator.step(state, make.book("update", 0, [("10", "1")]))
    assert published == []
    assert operator.counts == {"delta_before_snapshot": 1}
    state, published = operator.step(state, make.book("snapshot", 1, [("9", "1")], [("11", "1")]))
    assert [event.bid_prices for event in published if isinstance(event, Book)] == [["9"]]


def test_a_clear_is_published_at_once_with_its_reason(run: Run, make: Any) -> None:
    """Quote, book and metrics become invalid, with the reason."""
    published = run(
        Books, [make.book("snapshot", 0, [("10", "1")], [("11", "1")]), make.clear(0.001, reason="checksum")]
    )
    quote, book, metrics = published[1]
    assert isinstance(quote, Quote)
    assert isinstance(book, Book)
    assert isinstance(metrics, Metrics)
    assert (metrics.valid, metrics.reason, metrics.mid) == (False, "checksum", None)
    assert (quote.valid, quote.reason, quote.bid, quote.ask) == (False, "checksum", None, None)
    assert (book.valid, book.reason, book.bid_prices, book.ask_prices) == (False, "checksum", [], [])


def test_locked_is_valid_and_crossed_is_not_until_it_is_uncrossed(run: Run, make: Any) -> None:
    """Equal prices are normal; a bid above the ask is wrong or stale."""
    published = run(
        Books,
        [
            make.book("snapshot", 0, [("10", "1")], [("11", "1")]),
            make.book("update", 1, [("11", "1")]),
            make.book("update", 2, [("11.5", "1")]),
            make.book("update", 3, [("11.5", "0")]),
        ],
    )
    quotes = [event for events in published for event in events if isinstance(event, Quote)]
    assert [quote.reason for quote in quotes] == ["", "", "crossed", ""]


def test_a_halted_book_may_be_crossed_and_says_halted(run: Run, make: Any) -> None:
    """An auction collects orders that overlap; when it ends the book has to be uncrossed."""
    halt = {"valid": False, "reason": "halted"}
    published = run(
        Books,
        [
            make.book("snapshot", 0, [("10", "1")], [("11", "1")]),
            make.book("heartbeat", 1, **halt),
            make.book("update", 2, [("12", "1")], **halt),
            make.book("heartbeat", 3),
        ],
    )
    quotes = [event for events in published for event in events if isinstance(event, Quote)]
    assert [quote.reason for quote in quotes] == ["", "halted", "halted", "crossed"]
