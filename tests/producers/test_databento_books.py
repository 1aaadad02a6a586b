"""Databento's books: records made by hand, order by order; a loss, or what cannot be right, leaves no book."""

from __future__ import annotations

import random
from typing import Any

import databento_dbn as codec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata import dbn
from marketdata.events import (
    DeadLetter,
    FeedStatus,
    Trades,
)
from tests.producers.databento_records import (
    ESM4,
    MIDNIGHT,
    NANO,
    PART,
    TS,
    books,
    connect,
    definition,
    feed_of,
    fold,
    live,
    metadata,
    order,
    part,
    play,
)


def test_a_book_is_told_only_after_the_last_record_of_an_event() -> None:
    """Nothing between; then each level once, with what its orders add up to."""
    feed = feed_of()
    assert [event.kind for event in books(play(feed, order("R")))] == ["snapshot"]
    assert not play(feed, order("A", 1, 100, 3, side="B", flags=0), order("A", 2, 100, 4, side="B", flags=0))
    (published,) = books(play(feed, order("A", 3, 101, 5, side="A")))
    assert (published.kind, published.bid_prices, published.bid_sizes) == ("update", ["100"], ["7"])
    assert (published.ask_prices, published.ask_sizes) == (["101"], ["5"])


def test_trades_fills_and_nothing_never_change_a_book() -> None:
    """A cancel follows the fill; taking both away would take it twice."""
    feed = feed_of()
    play(feed, order("R"), order("A", 1, 100, 3, side="B"))
    events = play(
        feed,
        order("T", 0, 100, 1, side="A", flags=0),
        order("F", 1, 100, 1, side="B", flags=0),
        order("N", 1, 100, 1, side="B"),
        order("C", 1, 100, 1, side="B"),
    )
    assert [(event.bid_prices, event.bid_sizes) for event in books(events)] == [(["100"], ["2"])]
    assert sum(isinstance(event, Trades) for event in events) == 1


def test_a_snapshot_is_told_when_it_is_whole_at_the_time_of_its_newest_order() -> None:
    """A clear, adds, the last one flagged; their times are those of the orders."""
    feed, part = feed_of(), dbn.SNAPSHOT | dbn.BAD_TS_RECV
    assert not books(play(feed, order("R", flags=part), order("A", 1, 100, 3, side="B", flags=part, ts=TS - 5)))
    (published,) = books(play(feed, order("A", 2, 101, 3, side="A", flags=part | dbn.LAST, ts=TS - 9)))
    assert (published.kind, published.valid, published.ts_event) == ("snapshot", True, TS)


def test_records_that_begin_within_a_book_leave_it_unknown_and_say_so_once() -> None:
    """A clear and a gap; trades go on; the venue's own clear ends it."""
    feed = feed_of()
    events = play(feed, order("A", 1, 100, 3, side="B"), order("C", 9, 100, 3, side="B"), order("T", 0, 100, 1))
    assert [(event.kind, event.valid, event.reason) for event in books(events)] == [("clear", False, "gap")]
    assert [event.kind for event in events if isinstance(event, FeedStatus)] == ["gap"]
    assert sum(isinstance(event, Trades) for event in events) == 1
    events = play(feed, order("R"))
    assert [event.kind for event in books(events)] == ["snapshot"]
    assert [event.kind for event in events if isinstance(event, FeedStatus)] == ["resynced"]


LOSSES = {
    "a cancel of an unknown order": [order("C", 9, 100, 1, side="B")],
    "a change of an unknown order": [order("M", 9, 100, 1, side="B")],
    "an order twice": [order("A", 1, 100, 1, side="B")],
    "more taken away than there was": [order("C", 1, 100, 4, side="B")],
    "the other side": [order("C", 1, 100, 1, side="A")],
    "a part of a snapshot": [order("A", 2, 100, 1, side="B", flags=dbn.SNAPSHOT)],
    "a snapshot that breaks off": [order("R", flags=dbn.SNAPSHOT), order("A", 5, 100, 1, side="B")],
    "a gap in the channel": [order("N", flags=dbn.LAST | dbn.MAYBE_BAD_BOOK)],
    "a level": [order("A", 5, 100, 1, side="B", flags=dbn.LAST | dbn.MBP)],
    "an unknown action": [order("Z", 5, 100, 1, side="B")],
    "an unknown side": [order("A", 5, 100, 1, side="Z")],
    "an order without a price": [order("A", 5, None, 1, side="B")],
    "a kind that does not exist": [b"\x0e\xee" + order("A", 5, 100, 1)[2:]],
    "a length that its kind does not have": [b"\x0c" + order("A", 5, 100, 1)[1:48]],
    "an instrument that nobody mapped": [order("A", 5, 100, 1, side="B", instrument=8)],
    "half a record": [order("A", 5, 100, 1, side="B")[:20]],
}


@pytest.mark.parametrize("records", LOSSES.values(), ids=LOSSES)
def test_what_shows_a_loss_clears_the_book_until_the_next_snapshot(records: list[bytes]) -> None:
    """In the books' own stream, with a gap that the venue's next clear closes; changes between are left out."""
    feed = feed_of()
    play(feed, order("R"), order("A", 1, 100, 3, side="B"))
    events = play(feed, *records, order("A", 77, 100, 1, side="B"))
    assert [(event.kind, event.valid) for event in books(events)] == [("clear", False)]
    assert [event.kind for event in events if isinstance(event, FeedStatus)] == ["gap"]
    events = play(feed, order("R"), order("A", 1, 100, 3, side="B"))
    assert fold(events)[1]
    assert [event.kind for event in events if isinstance(event, FeedStatus)] == ["resynced"]


def test_a_best_level_replaces_its_side() -> None:
    """Where the venue sends no orders: an add is the whole side, no price an empty one; published with both."""
    feed, flags = feed_of(), dbn.LAST | dbn.TOB
    assert not books(play(feed, order("A", 0, 100, 3, side="B", flags=flags)))
    events = play(
        feed,
        order("A", 0, 101, 4, side="A", flags=flags),
        order("A", 0, 99, 5, side="B", flags=flags),
        order("A", 0, None, 0, side="A", flags=flags),
    )
    assert [event.kind for event in books(events)] == ["snapshot", "update", "update"]
    book, valid = fold(events)
    assert (book.bids.top(), book.asks.top(), valid) == ([("99", "5")], [], True)


TWO = {"ESM4": [(0, 9, "7")], "NQM4": [(0, 9, "8")]}


@pytest.mark.parametrize("has_clear", [False, True])
def test_a_file_begins_with_a_snapshot_without_its_clear_or_its_end(*, has_clear: bool) -> None:
    """The first record without the flag ends it and is applied on top: a good book, and no gap."""
    feed = feed_of()
    if has_clear:
        assert not books(play(feed, order("R", flags=PART, ts=MIDNIGHT)))
    assert not books(play(feed, part(1, 1510, 200, "B"), part(2, 1509, 100, "B"), part(3, 1530, 300, "A")))
    events = play(feed, order("A", 4, 1525, 50, side="A", flags=130), order("C", 1, 1510, 200, side="B", flags=130))
    first, *others = books(events)
    assert (first.kind, first.bid_prices, first.ask_prices) == ("snapshot", ["1510", "1509"], ["1530"])
    assert first.ts_event == (MIDNIGHT if has_clear else MIDNIGHT - 9)
    assert [event.kind for event in others] == ["update", "update"]
    book, valid = fold(events)
    assert (book.bids.best(), book.asks.best(), valid) == (("1509", "100"), ("1525", "50"), True)
    assert (feed.counts["gaps"], feed.counts["deltas_before_snapshot"]) == (0, 0)


def test_a_first_snapshot_without_a_clear_may_end_with_its_last_flag() -> None:
    """Then it is published at once, as any snapshot."""
    feed = feed_of()
    events = play(feed, part(1, 100, 3, "B"), part(2, 101, 3, "A", flags=PART | dbn.LAST))
    assert [event.kind for event in books(events)] == ["snapshot"]
    assert [event.kind for event in books(play(feed, order("C", 1, 100, 1, side="B")))] == ["update"]
    assert feed.counts["gaps"] == 0


def test_a_later_record_ends_the_first_snapshots_of_quiet_instruments_too() -> None:
    """A file is sorted by the time of receipt; a record of that same time says nothing of others."""
    feed = feed_of(metadata(TWO))
    snapshots = [part(1, 100, 3, "B"), part(1, 200, 4, "B", instrument=8)]
    assert not books(play(feed, *snapshots))
    events = books(play(feed, order("A", 2, 101, 1, side="A", ts=MIDNIGHT)))
    assert [(event.symbol, event.kind) for event in events] == [("ESM4", "snapshot"), ("ESM4", "update")]
    events = books(play(feed, order("A", 3, 102, 1, side="A")))
    assert [(event.symbol, event.kind) for event in events] == [("NQM4", "snapshot"), ("ESM4", "update")]
    assert feed.counts["gaps"] == 0


@pytest.mark.parametrize("has_clear", [False, True])
@pytest.mark.parametrize("is_other_file", [False, True])
def test_the_next_days_snapshot_replaces_the_book(*, has_clear: bool, is_other_file: bool) -> None:
    """Also in the same file: it is of the next midnight."""
    feed, next_day = feed_of(), {"ts": MIDNIGHT + dbn.DAY_NS - 9, "ts_recv": MIDNIGHT + dbn.DAY_NS}
    play(feed, part(1, 100, 3, "B"), order("A", 2, 101, 1, side="A"))
    if is_other_file:
        feed.received(metadata(ESM4), TS)
    clear = [order("R", flags=PART, ts=MIDNIGHT + dbn.DAY_NS)] if has_clear else []
    later = order("A", 9, 103, 1, side="A", ts=MIDNIGHT + dbn.DAY_NS + 5)
    events = play(feed, *clear, part(1, 99, 5, "B", **next_day), part(3, 98, 6, "B", **next_day), later,
                  ts=MIDNIGHT + dbn.DAY_NS + 9)  # fmt: skip
    assert [event.kind for event in books(events)] == ["snapshot", "update"]
    book, valid = fold(events)
    assert (book.bids.top(), book.asks.top(), valid) == ([("99", "5"), ("98", "6")], [("103", "1")], True)
    assert feed.counts["gaps"] == 0


def test_a_first_snapshot_that_comes_in_two_parts_is_a_loss() -> None:
    """After its end, or after a record without the flag, more of it proves that it was not whole."""
    for end in (part(2, 101, 3, "A", flags=PART | dbn.LAST), order("A", 2, 101, 1, side="A")):
        feed = feed_of()
        events = play(feed, part(1, 100, 3, "B"), end, part(3, 99, 3, "B"), order("A", 4, 98, 1, side="B"))
        assert not fold(events)[1]
        assert feed.counts["gaps"] == 1


def test_live_orders_of_a_snapshot_without_its_clear_begin_no_book() -> None:
    """The gateway sends the clear: without it, a part of the snapshot is lost."""
    feed = live()
    connect(feed)
    assert not fold(play(feed, part(1, 100, 3, "B"), order("A", 2, 101, 1, side="A")))[1]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1_000), events=st.integers(2, 40), rest=st.integers(0, 20), has_clear=st.booleans(),
    has_end=st.booleans(),
)  # fmt: skip
def test_a_book_from_a_first_snapshot_is_the_one_of_its_orders(
    seed: int, events: int, rest: int, *, has_clear: bool, has_end: bool
) -> None:
    """Whatever orders rest at midnight and whatever comes then: the levels add up, and nothing is a gap."""
    dice = random.Random(seed)
    first = []
    for number in range(1_000, 1_000 + rest):
        side = dice.choice("BA")
        flags = PART | (dbn.LAST if has_end and number == 999 + rest else 0)
        price = dice.randint(90, 99) if side == "B" else dice.randint(101, 110)
        first.append(part(number, price, dice.randint(1, 9), side, flags=flags))
    clear = [order("R", flags=PART, ts=MIDNIGHT)] if has_clear or not rest else []
    then = random_market(seed, events)[1:]
    feed = feed_of()
    book, valid = fold(play(feed, *clear, *first, *then))
    bids, asks = truth(first + then)
    assert (valid, feed.counts["gaps"]) == (True, 0)
    assert {price: int(size) for price, size in book.bids.top()} == bids
    assert {price: int(size) for price, size in book.asks.top()} == asks


def random_market(seed: int, events: int) -> list[bytes]:
    """Return orders that come, change and go as a venue sends them."""
    dice = random.Random(seed)
    resting: dict[int, list[Any]] = {}
    records = [order("R")]
    for number in range(1, events):
        ts = TS + number * 1_000
        kind = dice.choice("AAAMCC") if resting else "A"
        if kind == "A":
            side = dice.choice("BA")
            resting[number] = [
                side,
                dice.randint(90, 99) if side == "B" else dice.randint(101, 110),
                dice.randint(1, 9),
            ]
            side, price, size = resting[number]
            records.append(order("A", number, price, size, side=side, ts=ts, sequence=number))
            continue
        which = dice.choice(list(resting))
        side, price, size = resting[which]
        if kind == "M":
            resting[which][2] = size = dice.randint(1, 9)
        else:
            size = dice.choice([size, dice.randint(1, size)])
            resting[which][2] -= size
            if not resting[which][2]:
                del resting[which]
        records.append(order(kind, which, price, size, side=side, ts=ts, sequence=number))
    return records


def truth(records: list[bytes]) -> tuple[dict[str, int], dict[str, int]]:
    """Return both sides' levels, added up from the orders in the plainest way."""
    resting: dict[int, list[Any]] = {}
    for record in records:
        *_, number, price, size, _, _, action, side, _, _, _ = dbn.ORDER.unpack(record)
        if chr(action) == "A":
            resting[number] = [chr(side), price // NANO, size]
        elif chr(action) == "M":
            resting[number][1:] = [price // NANO, size]
        elif chr(action) == "C":
            resting[number][2] -= size
    sides: dict[str, dict[str, int]] = {"B": {}, "A": {}}
    for side, price, size in resting.values():
        if size:
            sides[side][str(price)] = sides[side].get(str(price), 0) + size
    return sides["B"], sides["A"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1_000), st.integers(2, 60))
def test_orders_add_up_to_their_levels(seed: int, events: int) -> None:
    """Whatever comes: the book that consumers hold is the sum of the orders."""
    records = random_market(seed, events)
    book, valid = fold(play(feed_of(), *records))
    bids, asks = truth(records)
    assert valid
    assert {price: int(size) for price, size in book.bids.top()} == bids
    assert {price: int(size) for price, size in book.asks.top()} == asks


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100), st.integers(0, 39), st.sampled_from(["drop", "twice", "swap", "cut", "spoil"]), st.data())
def test_a_spoilt_stream_never_raises_and_a_good_book_is_one_that_nothing_speaks_against(
    seed: int, place: int, fault: str, data: st.DataObject
) -> None:
    """Records dropped, doubled, swapped, cut and overwritten: the same events each time, and each doubled add shown."""
    records = random_market(seed, 40)
    hit = records[place]
    if fault == "drop":
        del records[place]
    elif fault == "twice":
        records.insert(place, hit)
    elif fault == "swap" and place:
        records[place - 1 : place + 1] = reversed(records[place - 1 : place + 1])
    elif fault == "cut":
        records[place] = hit[: data.draw(st.integers(1, len(hit) - 1))]
    elif fault == "spoil":
        at = data.draw(st.integers(0, len(hit) - 1))
        records[place] = hit[:at] + bytes([data.draw(st.integers(0, 255))]) + hit[at + 1 :]
    events = play(feed_of(), *records)
    assert events == play(feed_of(), *records)
    if (fault == "twice" and hit[38:39] == b"A") or fault == "cut":
        assert not fold(events)[1]
    if fault == "cut":
        assert any(isinstance(event, DeadLetter) for event in events)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 519), st.integers(0, 255)), min_size=1, max_size=4))
def test_spoilt_metadata_definitions_and_messages_never_raise(which: int, spoilt: list[tuple[int, int]]) -> None:
    """Whatever the bytes are: an event or a dead letter, from files and from the gateway."""
    raw = dbn.RAW_SYMBOL
    frame = bytearray(
        [
            metadata(ESM4),
            definition(codec.InstrumentDefMsg),
            bytes(codec.SymbolMappingMsg(1, 7, TS, raw, "A", raw, "A", 0, 5)),
            bytes(codec.SystemMsg(TS, "x", codec.SystemCode(0))),
            bytes(codec.ErrorMsg(TS, "x", code=codec.ErrorCode(4))),
        ][which]
    )
    for at, value in spoilt:
        frame[at % len(frame)] = value
    for feed in (feed_of(), live()):
        play(feed, bytes(frame), order("R"))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_how_the_records_are_put_together_does_not_show_in_the_events(seed: int, lengths: list[int]) -> None:
    """One record a frame, or as many as TCP brings at once: the same events."""
    records = random_market(seed, 40)
    frames, rest = [], records
    while rest:
        for length in lengths:
            frames.append(b"".join(rest[:length]))
            rest = rest[length:]
    assert play(feed_of(), *filter(None, frames)) == play(feed_of(), *records)
