"""Databento's feed: records made by hand, by Databento's own codec, and every rule that the feed's theory names."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import sys
from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import databento_dbn as codec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata import dbn
from marketdata.book import L2Book
from marketdata.errors import SettingsError
from marketdata.events import (
    AnyEvent,
    BookUpdate,
    Candle,
    CandleHistory,
    DeadLetter,
    FeedStatus,
    Instrument,
    Quote,
    Trades,
)
from marketdata.feed import Reconnect, Refused, Send
from producers.live.settings import find_tokens, load_for_venue
from producers.venues.databento.feed import SILENCE_NS, DatabentoFeed
from producers.venues.databento.gateway import Login, Position, Session, Splitter, start_of
from producers.venues.kit.venue import FrameError

TS = 1_700_000_000_000_000_000
DAY = dt.date(2023, 11, 14)
NONE = dbn.UNDEF_PRICE
NANO = 10**9
KEY = "db-0123456789abcdefghijklmnopqrs"


def metadata(
    mappings: dict[str, list[tuple[int, int, str]]] | None = None,
    *,
    schema: str | None = None,
    dataset: str = "GLBX.MDP3",
    version: int = 3,
) -> bytes:
    """Return metadata; a mapping is (from, to, number), in days after the first."""
    made = [
        SimpleNamespace(
            raw_symbol=name,
            intervals=[
                SimpleNamespace(start_date=DAY + dt.timedelta(start), end_date=DAY + dt.timedelta(end), symbol=number)
                for start, end, number in intervals
            ],
        )
        for name, intervals in (mappings or {}).items()
    ]
    return bytes(
        codec.Metadata(
            dataset=dataset, start=TS, stype_in=dbn.RAW_SYMBOL, stype_out=dbn.INSTRUMENT_ID, mappings=made,
            schema=None if schema is None else codec.Schema.from_str(schema), version=version,
        )
    )  # fmt: skip


ESM4 = {"ESM4": [(0, 9, "7")]}


def order(
    action: str, number: int = 0, price: int | None = None, size: int = 0, *, side: str = "N",
    flags: int = dbn.LAST, ts: int = TS, instrument: int = 7, publisher: int = 1, sequence: int = 5,
    ts_recv: int | None = None,
) -> bytes:  # fmt: skip
    """Return one record of orders; prices are whole."""
    nano = NONE if price is None else price * NANO
    return dbn.ORDER.pack(14, dbn.MBO, publisher, instrument, ts, number, nano, size, flags, 0, ord(action),
                          ord(side), ts if ts_recv is None else ts_recv, 0, sequence)  # fmt: skip


def trade(
    kind: int = dbn.TRADE, *, price: int = NANO, size: int = 1, action: str = "T", side: str = "B", flags: int = 0,
    ts: int = TS, sequence: int = 5, publisher: int = 1, levels: bytes = b"",
) -> bytes:  # fmt: skip
    """Return one record of the kinds that begin with a trade."""
    length = (dbn.TRADE_BODY.size + len(levels)) // 4
    return dbn.TRADE_BODY.pack(length, kind, publisher, 7, ts, price, size, ord(action), ord(side), flags, 0, ts, 0,
                               sequence) + levels  # fmt: skip


def level(bid: int = NANO, ask: int = 2 * NANO, bid_size: int = 3, ask_size: int = 4) -> bytes:
    """Return one level of both sides."""
    return dbn.LEVEL_COUNTED.pack(bid, ask, bid_size, ask_size, 1, 1)


def feed_of(begin: bytes = b"") -> DatabentoFeed:
    """Return a feed that has read metadata."""
    feed = DatabentoFeed(line="databento/0")
    feed.opened(TS)
    feed.received(begin or metadata(ESM4), TS)
    return feed


def play(feed: DatabentoFeed, *records: bytes, ts: int = TS) -> list[AnyEvent]:
    """Return the events of records, each a frame."""
    return [out for record in records for out in feed.received(record, ts) if isinstance(out, AnyEvent)]


def books(events: Iterable[AnyEvent]) -> list[BookUpdate]:
    """Return the changes of books."""
    return [event for event in events if isinstance(event, BookUpdate)]


def fold(events: Iterable[AnyEvent]) -> tuple[L2Book, bool]:
    """Return the book that these events make, and whether it is good."""
    book, valid = L2Book(), False
    for event in books(events):
        if event.kind == "snapshot":
            book.bids.replace(event.bid_prices, event.bid_sizes)
            book.asks.replace(event.ask_prices, event.ask_sizes)
        elif event.kind == "update":
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)
        else:
            book.clear()
        valid = event.valid
    return book, valid


# --- Orders ---


def test_a_book_is_told_only_after_the_last_record_of_an_event() -> None:
    """Nothing between; then each level once, with what its orders add up to."""
    feed = feed_of()
    assert [event.kind for event in books(play(feed, order("R")))] == ["snapshot"]
    assert not play(feed, order("A", 1, 100, 3, side="B", flags=0), order("A", 2, 100, 4, side="B", flags=0))
    (told,) = books(play(feed, order("A", 3, 101, 5, side="A")))
    assert (told.kind, told.bid_prices, told.bid_sizes) == ("update", ["100"], ["7"])
    assert (told.ask_prices, told.ask_sizes) == (["101"], ["5"])


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
    (told,) = books(play(feed, order("A", 2, 101, 3, side="A", flags=part | dbn.LAST, ts=TS - 9)))
    assert (told.kind, told.valid, told.ts_event) == ("snapshot", True, TS)


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
    """In the books' own stream, with a gap that the next clear of the venue's closes; changes between are not told."""
    feed = feed_of()
    play(feed, order("R"), order("A", 1, 100, 3, side="B"))
    events = play(feed, *records, order("A", 77, 100, 1, side="B"))
    assert [(event.kind, event.valid) for event in books(events)] == [("clear", False)]
    assert [event.kind for event in events if isinstance(event, FeedStatus)] == ["gap"]
    events = play(feed, order("R"), order("A", 1, 100, 3, side="B"))
    assert fold(events)[1]
    assert [event.kind for event in events if isinstance(event, FeedStatus)] == ["resynced"]


def test_a_best_level_replaces_its_side() -> None:
    """Where the venue tells no orders: an add is the whole side, no price an empty one; told once both are known."""
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
MIDNIGHT = TS // dbn.DAY_NS * dbn.DAY_NS
PART = dbn.SNAPSHOT | dbn.BAD_TS_RECV


def part(number: int, price: int, size: int, side: str, **more: Any) -> bytes:
    """Return an order of the snapshot of midnight, older than it."""
    return order("A", number, price, size, side=side, **{"flags": PART, "ts": MIDNIGHT - 9, "ts_recv": MIDNIGHT} | more)


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


# --- Trades, quotes, levels ---


@pytest.mark.parametrize(("side", "aggressor"), [("B", "buy"), ("A", "sell"), ("N", "unknown")])
def test_the_side_of_a_trade_is_the_aggressors(side: str, aggressor: str) -> None:
    """Databento, "Trades": Ask for a sell aggressor, Bid for a buy aggressor, None where no side is specified."""
    for record in (trade(side=side), order("T", 0, 1, 1, side=side)):
        (told,) = [event for event in play(feed_of(), record) if isinstance(event, Trades)]
        assert told.trades[0].side == aggressor


def test_trades_of_one_moment_have_ids_of_their_own_in_every_schema() -> None:
    """Time, sequence and place: the same whether they come with orders, with quotes or alone."""
    ids = []
    for kind in ("orders", "quotes", "alone"):
        feed = feed_of()
        records = {
            "orders": [order("T", 0, 1, 1, side="B", flags=0)] * 2,
            "quotes": [trade(dbn.MBP_1, levels=level())] * 2,
            "alone": [trade()] * 2,
        }[kind]
        told = [event for event in play(feed, *records) if isinstance(event, Trades)]
        ids.append([one.trade_id for event in told for one in event.trades])
    assert ids == [[f"{TS}-5-0", f"{TS}-5-1"]] * 3


def test_a_quote_is_told_after_the_event_and_before_a_sampled_trade() -> None:
    """mbp-1 waits for the last record of the event, tbbo has the quote before each trade; no price is no quote."""
    feed = feed_of(metadata(ESM4, schema="mbp-1"))
    assert not [event for event in play(feed, trade(dbn.MBP_1, levels=level())) if isinstance(event, Quote)]
    (quote,) = play(feed, trade(dbn.MBP_1, action="C", flags=dbn.LAST, levels=level(bid=-5 * 10**8, ask=NONE)))
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("-0.5", "3", None, None)
    told = play(feed_of(metadata(ESM4, schema="tbbo")), trade(dbn.MBP_1, levels=level()))
    assert [type(event) for event in told] == [Instrument, Quote, Trades]


def test_a_quote_that_may_be_bad_says_so() -> None:
    """F_MAYBE_BAD_BOOK: the quote is told, and not to be trusted."""
    flags = dbn.LAST | dbn.MAYBE_BAD_BOOK
    (quote,) = [
        e for e in play(feed_of(), trade(dbn.MBP_1, action="A", flags=flags, levels=level())) if isinstance(e, Quote)
    ]
    assert (quote.valid, quote.reason) == (False, "gap")


@pytest.mark.parametrize(
    "record",
    [
        trade(price=-NANO), trade(price=0), order("T", 0, -1, 1), order("T", 0, 0, 1),
        trade(dbn.MBP_1, action="A", flags=dbn.LAST, levels=level(bid=0)),
        trade(dbn.MBP_1, action="A", flags=dbn.LAST, levels=level(ask=-NANO)),
        trade(dbn.BBO_1S, price=-NANO, flags=dbn.LAST, levels=level()),
    ],
)  # fmt: skip
def test_only_contracts_have_prices_that_are_not_above_zero(record: bytes) -> None:
    """A share's is a wrong record, which is refused, and asked for again where that can be done."""
    shares = metadata({"AAPL": [(0, 9, "7")]}, dataset="XNAS.ITCH")
    out = play(feed_of(shares), record)
    assert [event.reason for event in out if isinstance(event, DeadLetter)] == ["not_positive"]
    assert not any(isinstance(event, Trades | Quote) for event in out)
    gateway = live()
    gateway.received(shares, TS)
    assert isinstance(gateway.received(record, TS)[-1], Reconnect)
    assert any(isinstance(event, Trades | Quote) for event in play(feed_of(), record))


@pytest.mark.parametrize("kind", [dbn.STATUS, dbn.OHLCV_1M, dbn.SYSTEM, dbn.DEFINITION])
def test_record_of_a_wrong_length_may_have_been_any_kind(kind: int) -> None:
    """Its kind may be what is wrong, so that it was an order: the book is lost."""
    record = order("A", 1, 100, 3, side="B") + b"\0" * 12
    feed = feed_of()
    play(feed, order("R"))
    out = play(feed, bytes([len(record) // 4, kind]) + record[2:])
    assert [event.reason for event in out if isinstance(event, DeadLetter)] == ["bad_length"]
    assert [event.kind for event in books(out)] == ["clear"]


def test_ten_levels_are_told_as_what_changed() -> None:
    """The first record is the book, later ones what differs; a gap in the channel clears it until the next."""
    empty = level(NONE, NONE, 0, 0)

    def ten(*levels: bytes, flags: int = dbn.LAST) -> bytes:
        return trade(dbn.MBP_10, action="A", flags=flags, levels=b"".join(levels) + empty * (10 - len(levels)))

    events = play(
        feed_of(),
        ten(level(5 * NANO, 6 * NANO), level(4 * NANO, 7 * NANO)),
        ten(level(5 * NANO, 6 * NANO, bid_size=9), level(3 * NANO, 7 * NANO)),
    )
    update = books(events)[-1]
    assert (update.bid_prices, update.bid_sizes, update.ask_prices) == (["5", "3", "4"], ["9", "3", "0"], [])
    feed = feed_of()
    play(feed, ten(level()))
    events = play(feed, ten(level(), flags=dbn.LAST | dbn.MAYBE_BAD_BOOK), ten(level()))
    assert [event.kind for event in books(events)] == ["clear", "snapshot"]


@given(st.integers(-(2**63), 2**63 - 2))
@settings(max_examples=50, deadline=None)
def test_a_price_is_exact_and_has_no_zeros_that_say_nothing(price: int) -> None:
    """Whole numbers of 1e-9, to the last digit."""
    text = dbn.Prices().text(price)
    whole, _, part = text.lstrip("-").partition(".")
    assert (-1 if price < 0 else 1) * int(whole + part.ljust(9, "0")) == price
    assert not part.endswith("0")
    assert "." not in text or part


# --- Instruments ---


def test_unknown_is_not_no_where_a_status_says_whether_it_trades() -> None:
    """Yes and no count; unknown leaves it to the action, and where that does not say either nothing changes."""
    feed = feed_of()

    def status(action: str, trading: str) -> list[str]:
        number = next(int(one) for one in codec.StatusAction.variants() if one.name == action)
        record = dbn.STATUS_BODY.pack(10, dbn.STATUS, 1, 7, TS, TS, number, 50, 0, ord(trading), ord("~"), ord("~"))
        return [event.kind for event in play(feed, record) if isinstance(event, FeedStatus)]

    assert status("SSR_CHANGE", "~") == []
    assert status("HALT", "~") == ["halted"]
    assert status("SSR_CHANGE", "~") == []
    assert status("NONE", "Y") == ["resumed"]
    assert status("TRADING", "N") == ["halted"]
    assert status("TRADING", "~") == ["resumed"]
    assert status("PRE_OPEN", "N") == ["halted"]
    assert status("TRADING", "?") == []  # a dead letter
    assert feed.counts["dead_letters"] == 1


def laid_out(layout: list[tuple[str, str]], **values: int | bytes) -> bytes:
    """Return a record of a layout as Databento's codec describes it, with zeros where nothing is given."""
    parts = []
    for name, kind in layout:
        value, size = values.get(name, 0), int(kind[1:])
        parts.append(value.ljust(size, b"\0") if isinstance(value, bytes) else value.to_bytes(size, "little"))
    record = b"".join(part[: int(kind[1:])] for part, (_, kind) in zip(parts, layout, strict=True))
    return bytes([len(record) // 4]) + record[1:]


def definition(made: Any) -> bytes:
    """Return a future's definition, of the version of this class."""
    return laid_out(
        made._dtypes, rtype=dbn.DEFINITION, publisher_id=1, instrument_id=9, ts_event=TS, ts_recv=TS,
        min_price_increment=NANO // 4, raw_symbol=b"ESU4", asset=b"ES", currency=b"USD", instrument_class=b"F",
        expiration=TS + dbn.DAY_NS, unit_of_measure_qty=50 * NANO, strike_price=dbn.UNDEF_PRICE, settl_currency=b"USD",
        security_update_action=b"A", match_algorithm=b"F", user_defined_instrument=b"N", tick_rule=255,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("version", "made"), [(1, codec.InstrumentDefMsgV1), (2, codec.InstrumentDefMsgV2), (3, codec.InstrumentDefMsg)]
)
def test_a_definition_of_any_version_makes_an_instrument(version: int, made: Any) -> None:
    """The tick of a future, its currency, and the symbol where no mapping has it."""
    record = definition(made)
    assert len(record) == made.size_hint
    instrument = play(feed_of(metadata(version=version)), record)[-1]
    assert isinstance(instrument, Instrument)
    assert (instrument.symbol, instrument.kind, instrument.tick_size) == ("ESU4", "future", "0.25")
    assert (instrument.base_currency, instrument.quote_currency) == ("ES", "USD")
    assert (instrument.expiry, instrument.strike, instrument.contract_multiplier, instrument.settlement_currency) == (
        TS + dbn.DAY_NS, None, "50", "USD",
    )  # fmt: skip


def test_a_symbol_is_the_mappings_of_its_date() -> None:
    """A continuous contract means another instrument the next day: its book begins anew, under the same name."""
    feed = feed_of(metadata({"ES.c.0": [(0, 1, "7"), (1, 2, "8")]}))
    later = TS + dbn.DAY_NS
    first = play(feed, order("R"), order("A", 1, 100, 3, side="B"))
    new_day = order("R", instrument=8, ts=later), order("A", 1, 50, 3, side="B", instrument=8, ts=later)
    second = play(feed, *new_day, ts=later)
    assert {event.symbol for event in books(first + second)} == {"ES.c.0"}
    assert [event.kind for event in books(second)] == ["clear", "snapshot", "update"]
    assert fold(first + second)[0].bids.top() == [("50", "3")]


def test_venues_of_one_dataset_are_told_apart() -> None:
    """The venue stands behind the symbol; where the dataset is the venue's own it does not."""
    feed = feed_of(metadata({"AAPL": [(0, 9, "7")]}, dataset="DBEQ.BASIC"))
    told = play(feed, *(trade(publisher=number) for number in (2, 40, 41, 65_000)))
    assert [event.symbol for event in told if isinstance(event, Trades)] == [
        "AAPL", "AAPL@XCIS", "AAPL@IEXG", "AAPL@65000",
    ]  # fmt: skip
    assert {event.kind for event in told if isinstance(event, Instrument)} == {"equity"}


def test_two_instruments_of_one_name_at_once_do_not_share_a_book() -> None:
    """Asked for by a name that means many, the second has its number behind the name."""
    feed = feed_of(metadata({"ES.FUT": [(0, 9, "7"), (0, 9, "8")]}))
    told = play(feed, order("R"), order("R", instrument=8), order("A", 1, 5, 1, side="B"))
    assert [event.symbol for event in books(told)] == ["ES.FUT", "ES.FUT#8", "ES.FUT"]


def test_a_mapping_of_the_gateway_names_what_follows() -> None:
    """Live streams have no mappings in their metadata, but records."""
    feed = feed_of(metadata())
    raw = dbn.RAW_SYMBOL
    mapping = codec.SymbolMappingMsg(1, 7, TS, raw, "ESM4", raw, "ESM4", 0, 2**64 - 1)
    assert [event.symbol for event in play(feed, bytes(mapping), trade()) if isinstance(event, Trades)] == ["ESM4"]


def test_a_mapping_costs_the_same_however_many_instruments_there_are() -> None:
    """Each connection maps all of them again; of each venue the number then means the new symbol."""
    steps: list[int] = []
    for count in (10, 300):
        feed = feed_of(metadata())
        raw = dbn.RAW_SYMBOL
        for number in range(1, count + 1):
            play(feed, bytes(codec.SymbolMappingMsg(1, number, TS, raw, f"A{number}", raw, f"A{number}", 0, 2**64 - 1)))
            play(feed, *(order("R", instrument=number, publisher=publisher) for publisher in (2, 3)))
        mapping = bytes(codec.SymbolMappingMsg(1, 7, TS, raw, "B7", raw, "B7", TS, 2**64 - 1))
        lines = Counter[str]()

        def count_lines(_: object, event: str, __: object, lines: Counter[str] = lines) -> Any:
            lines[event] += 1
            return count_lines

        before = sys.gettrace()
        sys.settrace(count_lines)
        try:
            feed.received(mapping, TS)
        finally:
            sys.settrace(before)
        steps.append(lines["line"])
        told = play(feed, *(order("R", instrument=7, publisher=publisher) for publisher in (2, 3)))
        assert {event.symbol.partition("@")[0] for event in told if isinstance(event, Instrument)} == {"B7"}
        assert len(books(told)) == 2
    assert steps[0] == steps[1]


def bar(kind: int, *, start: int = TS // (60 * NANO) * 60 * NANO, low: int = NANO // 2) -> bytes:
    """Return a record of a bar."""
    return dbn.BAR.pack(14, kind, 1, 7, start, NANO, 3 * NANO, low, 2 * NANO, 12)


def test_bars_of_a_file_are_candles_of_history() -> None:
    """One candle each; seconds have no interval of ours, and are counted."""
    feed = feed_of()
    candle = play(feed, bar(dbn.OHLCV_1M), bar(dbn.OHLCV_1S))[-1]
    assert isinstance(candle, CandleHistory)
    assert (candle.opens, candle.highs, candle.lows, candle.closes) == (["1"], ["3"], ["0.5"], ["2"])
    assert (candle.interval, candle.volumes, feed.counts["ignored"]) == ("1m", ["12"], 1)


# --- Live ---


def live(schemas: tuple[str, ...] = ("mbo",)) -> DatabentoFeed:
    """Return a feed that was let in by the gateway."""
    feed = DatabentoFeed(line="databento/0", products=("ESM4",), token=Login(KEY, Session(schemas=schemas)))
    connect(feed)
    return feed


def acknowledged(schema: str, number: int = 1) -> bytes:
    """Return the gateway's acknowledgement of a subscription."""
    text = f"Subscription request {number} for {schema} data succeeded"
    return bytes(codec.SystemMsg(TS, text, codec.SystemCode(1)))


def connect(feed: DatabentoFeed, *, refused: str = "") -> list[str]:
    """Let a feed in, acknowledge its schemas but for one, and return what it sent."""
    feed.opened(TS)
    sent = [*feed.received(b"lsg_version=0.7\n", TS), *feed.received(b"cram=abc\n", TS)]
    sent += feed.received(b"success=1|session_id=5\n", TS)
    feed.received(metadata(ESM4), TS)
    lines = [out.frame.decode() for out in sent if isinstance(out, Send)]
    for number, schema in enumerate(feed.channels, start=1):
        if schema != refused:
            feed.received(acknowledged(schema, number), TS)
    return lines


@pytest.mark.parametrize(("kind", "interval", "length"), [
    (dbn.OHLCV_1M, "1m", 60), (dbn.OHLCV_1H, "1h", 3_600), (dbn.OHLCV_1D, "1d", 86_400),
])  # fmt: skip
def test_bars_of_the_gateway_are_candles_of_the_venue(kind: int, interval: str, length: int) -> None:
    """Final, labelled by their start; a bar that is none is a dead letter, and costs nothing else."""
    feed = live(("ohlcv-1m", "ohlcv-1h", "ohlcv-1d"))
    start = TS // (length * NANO) * length * NANO
    out = feed.received(bar(kind, start=start) + bar(kind, start=start + NANO, low=4 * NANO), TS + NANO)
    (candle,) = [event for event in out if isinstance(event, Candle)]
    assert (candle.open, candle.high, candle.low, candle.close, candle.volume) == ("1", "3", "0.5", "2", "12")
    assert (candle.interval, candle.start, candle.end, candle.state, candle.valid) == (
        interval, start, start + length * NANO, "final", True)  # fmt: skip
    assert [event.reason for event in out if isinstance(event, DeadLetter)] == ["not_a_candle"]
    assert not [event for event in out if isinstance(event, FeedStatus | Reconnect)]


def system(code: int, ts: int = TS) -> bytes:
    """Return a message of the gateway's."""
    return bytes(codec.SystemMsg(ts, "", codec.SystemCode(code)))


def test_a_challenge_is_answered_without_sending_the_key() -> None:
    """SHA-256 of `challenge|key`, a dash, the key's last five characters; then subscriptions, then the start."""
    feed = DatabentoFeed(line="databento/0", products=("ESM4",), token=Login(KEY, Session()))
    answer, *subscriptions, start = connect(feed)
    assert answer.startswith(f"auth={hashlib.sha256(f'abc|{KEY}'.encode()).hexdigest()}-{KEY[-5:]}|dataset=GLBX.MDP3|")
    assert KEY not in answer
    assert [one.split("|")[0] for one in subscriptions] == ["schema=mbo", "schema=status", "schema=definition"]
    assert "|snapshot=1|" in subscriptions[0]
    assert "|snapshot=0|" in subscriptions[1]
    assert start == "start_session=0\n"
    assert Login(KEY, Session()).redact(answer.encode()).startswith(b"auth=<answer>|")


def test_who_is_refused_does_not_try_again() -> None:
    """A wrong key and a bad subscription are final; too many connections pass."""
    feed = live()
    assert isinstance(feed.received(system(0), TS), list)
    feed = DatabentoFeed(line="databento/0", token=Login(KEY, Session()))
    feed.opened(TS)
    (refused,) = feed.received(b"success=0|error=Authentication failed.\n", TS)
    assert isinstance(refused, Refused)
    assert refused.reason == "auth_failed"
    feed.opened(TS)
    told = feed.received(b"success=0|error=User has reached their open connection limit\n", TS)
    assert [type(out) for out in told] == [FeedStatus, Reconnect]
    error = bytes(codec.ErrorMsg(TS, "bad symbols", code=codec.ErrorCode(5)))
    assert [type(out) for out in live().received(error, TS)] == [DeadLetter, Refused]
    many = bytes(codec.ErrorMsg(TS, "too many", code=codec.ErrorCode(3)))
    assert isinstance(live().received(many, TS)[-1], Reconnect)


def test_a_symbol_that_does_not_exist_and_a_warning_cost_nothing() -> None:
    """Both are kept, and the records go on."""
    feed = live()
    unresolved = bytes(codec.ErrorMsg(TS, "no NOSUCH", code=codec.ErrorCode(4)))
    assert [type(out) for out in feed.received(unresolved, TS)] == [DeadLetter]
    assert feed.received(system(2), TS) == []
    assert feed.counts["slow_reader"] == 1
    assert fold(play(feed, order("R")))[1]


def test_records_that_the_gateway_skipped_are_asked_for_again() -> None:
    """We were too slow: everything is lost until the records since have come."""
    feed = live()
    play(feed, order("R"), order("A", 1, 100, 1, side="B"))
    told = feed.received(bytes(codec.ErrorMsg(TS, "skipped", code=codec.ErrorCode(7))) + order("C", 1, 100, 1), TS)
    assert isinstance(told[-1], Reconnect)
    assert not fold([out for out in told if isinstance(out, AnyEvent)])[1]
    feed.closed("loss", TS)
    assert f"|start={TS}|" in connect(feed)[1]


def test_record_of_a_far_future_hides_nothing_of_the_next_connection() -> None:
    """It is refused like any record that cannot be right, and says nothing of how far the records were read."""
    feed = live(("trades",))
    told = play(feed, trade(ts=TS), trade(ts=2 * TS))
    assert [event.reason for event in told if isinstance(event, DeadLetter)] == ["time_out_of_bounds"]
    statuses = [event for event in [*told, *feed.closed("loss", TS)] if isinstance(event, FeedStatus)]
    assert [event.kind for event in statuses] == ["gap", "disconnected"]
    assert all(event.ts_event <= TS for event in statuses)
    assert "|start=" not in connect(feed)[1]
    told = play(feed, trade(ts=TS + 1))
    assert [event.ts_event for event in told if isinstance(event, Trades) and event.trades] == [TS + 1]


def test_settings_that_the_gateway_cannot_be_asked_with_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No key, or schemas that bring the same trades; a replay needs neither."""
    monkeypatch.setenv("TICKSTREAM_VENUE", "databento")
    monkeypatch.setenv("DATABENTO_PRODUCTS", "ES.c.0")
    monkeypatch.setenv("DATABENTO_DATASET", "XNAS.ITCH")
    settings, venue = load_for_venue()
    with pytest.raises(SettingsError, match="DATABENTO_API_KEY"):
        find_tokens(settings, venue)
    monkeypatch.setenv("DATABENTO_API_KEY", KEY)
    settings, venue = load_for_venue()
    login = find_tokens(settings, venue)
    assert isinstance(login, Login)
    assert (login.session.dataset, settings.products_of(venue)) == ("XNAS.ITCH", ("ES.c.0",))
    assert settings.address_of(venue) == "tcp://xnas-itch.lsg.databento.com:13000"
    assert KEY not in repr(settings)
    monkeypatch.setenv("DATABENTO_SCHEMAS", "mbo,trades")
    settings, venue = load_for_venue()
    with pytest.raises(SettingsError, match="DATABENTO_SCHEMAS"):
        find_tokens(settings, venue)
    monkeypatch.setenv("TICKSTREAM_SOURCE", "replay")
    settings, venue = load_for_venue()
    assert isinstance(find_tokens(settings, venue), Login)


def test_after_a_disconnect_the_records_since_are_asked_for_and_those_before_left_out() -> None:
    """From the last time on, without as many records as had it; the book is whole again at the first that is new."""
    feed = live()
    first = [order("R"), order("A", 1, 100, 1, side="B", ts=TS + 5), order("A", 2, 100, 2, side="B", ts=TS + 5)]
    play(feed, *first)
    assert [
        event.kind for event in books(event for event in feed.closed("reset", TS) if isinstance(event, AnyEvent))
    ] == ["clear"]
    sent = connect(feed)
    assert f"|start={TS + 5}|" in sent[1]
    assert not books(play(feed, *first[1:]))
    events = play(feed, order("A", 3, 100, 4, side="B", ts=TS + 5), system(3))
    assert [(event.kind, event.bid_sizes) for event in books(events)] == [("snapshot", ["7"])]
    assert [event.kind for event in events if isinstance(event, FeedStatus)] == ["resynced"]
    assert feed.counts["duplicates"] == 2


def test_a_quiet_book_is_good_again_when_the_gateway_has_told_everything() -> None:
    """Nothing new came: the end of the replay, or a heartbeat, vouches for it."""
    for word in (system(3), system(0)):
        feed = live()
        play(feed, order("R"), order("A", 1, 100, 1, side="B"))
        feed.closed("reset", TS)
        connect(feed)
        events = play(feed, order("R"), order("A", 1, 100, 1, side="B"), word)
        assert [event.kind for event in books(events)][:1] == ["snapshot"]
        assert fold([event for event in events if not (isinstance(event, BookUpdate) and event.kind == "heartbeat")])[1]


def test_records_that_do_not_come_again_mean_a_snapshot() -> None:
    """What was read before is missing from what is told again: nothing can be joined, so it begins anew."""
    feed = live()
    play(feed, order("R"), order("A", 1, 100, 1, side="B"), order("T", 0, 100, 1))
    feed.closed("reset", TS)
    connect(feed)
    told = feed.received(order("A", 2, 100, 1, side="B", ts=TS + 9), TS)
    assert isinstance(told[-1], Reconnect)
    told = feed.closed("loss", TS)
    assert "|snapshot=1|" in connect(feed)[1]


def test_a_gateway_that_no_longer_keeps_the_records_is_asked_for_a_snapshot() -> None:
    """Too long away: the trades between stay a gap."""
    feed = live()
    play(feed, order("R"), order("T", 0, 100, 1))
    feed.closed("reset", TS)
    connect(feed)
    told = feed.received(bytes(codec.ErrorMsg(TS, "aged out", code=codec.ErrorCode(8))), TS)
    assert isinstance(told[-1], Reconnect)
    feed.closed("too_long_away", TS)
    assert "start=" not in connect(feed)[1].replace("start_session", "")


def test_silence_is_a_dead_connection() -> None:
    """After two heartbeats and a half: books are stale, the connection is given up, once."""
    feed = live()
    play(feed, order("R"))
    assert not feed.ticked(TS + SILENCE_NS)
    told = feed.ticked(TS + SILENCE_NS + 1)
    assert [event.reason for event in books(out for out in told if isinstance(out, AnyEvent))] == ["stale"]
    assert isinstance(told[-1], Reconnect)
    assert not feed.ticked(TS + 2 * SILENCE_NS)


def test_a_schema_that_is_not_acknowledged_is_on_the_ledger_until_it_is() -> None:
    """Ten seconds for the acknowledgement; then its books and trades are invalid, and nothing vouches for them."""
    feed = DatabentoFeed(line="databento/0", products=("ESM4",), token=Login(KEY, Session(schemas=("mbo", "status"))))
    connect(feed)
    play(feed, order("R"), order("T", 0, 100, 1))
    feed.closed("reset", TS)
    connect(feed, refused="mbo")
    play(feed, order("R"), order("T", 0, 100, 1))  # those that were read before
    events = [out for out in feed.ticked(TS + 10 * NANO) if isinstance(out, AnyEvent)]
    statuses = [(event.kind, event.channel, event.reason) for event in events if isinstance(event, FeedStatus)]
    assert statuses == [("unsubscribed", "mbo", "unacknowledged")]
    events += play(feed, system(0, TS + 10 * NANO), ts=TS + 10 * NANO)
    events += [out for out in feed.time_passed(TS + 70 * NANO, TS + 62 * NANO) if isinstance(out, AnyEvent)]
    assert not any(event.valid for event in events if isinstance(event, Trades))
    events = play(feed, acknowledged("mbo"), system(0, TS + 72 * NANO), ts=TS + 72 * NANO)
    assert next(event.kind for event in events if isinstance(event, FeedStatus)) == "subscribed"
    assert any(event.valid for event in events if isinstance(event, Trades))


def test_a_login_that_does_not_get_on_is_tried_again() -> None:
    """The gateway greets, and then neither lets us in nor refuses."""
    feed = DatabentoFeed(line="databento/0", token=Login(KEY, Session()))
    feed.opened(TS)
    feed.received(b"cram=abc\n", TS + SILENCE_NS - 1)
    assert feed.ticked(TS + SILENCE_NS) == [Reconnect("no_login")]


def test_a_position_drops_exactly_what_was_seen() -> None:
    """As many records of the last time as were seen, and what is older."""
    position = Position()
    assert [position.take(ts) for ts in (1, 2, 2)] == ["new"] * 3
    position.resume(2)
    assert [position.take(ts) for ts in (1, 2, 2, 2, 3)] == ["old", "old", "old", "new", "new"]
    position.resume(3)
    assert position.take(4) == "lost"
    quiet = Position()
    quiet.take(5)
    assert start_of([position, quiet]) == 3
    assert start_of([]) is None


@given(st.lists(st.integers(1, 90), max_size=12))
@settings(max_examples=20, deadline=None)
def test_frames_are_the_same_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    """Lines, the metadata, then whole records, whatever TCP makes of them."""
    head = metadata(ESM4)
    stream = b"cram=abc\nsuccess=1|session_id=2\n" + head + order("R") + trade() + order("A", 1, 5, 6)
    splitter, frames, rest = Splitter(), [], stream
    for cut in [*cuts, len(stream)]:
        frames += list(splitter.split(rest[:cut]))
        rest = rest[cut:]
    assert frames[:3] == [b"cram=abc\n", b"success=1|session_id=2\n", head]
    assert b"".join(frames) == stream
    with pytest.raises(FrameError):
        list(splitter.split(b"\0\0"))


@pytest.mark.parametrize(
    ("schemas", "refused"),
    [(("mbo", "status"), False), (("mbo", "trades"), True), (("mbo", "nosuch"), True), ((), True)],
)
def test_what_brings_the_same_trades_twice_is_refused(schemas: tuple[str, ...], *, refused: bool) -> None:
    """One schema with trades at most, and none that does not exist."""
    assert (Session(schemas=schemas).refusal() is not None) == refused
