"""Entries of FIX messages, one by one: which change a book or a trade, and which cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from marketdata.events import Book, BookUpdate, Candle, DeadLetter, Instrument, Quote, Trades
from marketdata.feed import Output, Send
from marketdata.fix.codec import decode, encode, utc, utc_ns
from runtime.recordings import Recorded, write
from tests.producers.fix_messages import SECOND, START, Desk, Reader, asked_again, books_of, level, login, named
from tickstream.pipe import Connections, Pipeline, run


def test_subscribes_the_full_book_and_trades_of_each_symbol() -> None:
    """What is sent after Logon; the password is in the Logon only, and not in what is stored."""
    desk = Desk()
    assert b"\x01553=me\x01554=secret\x01" in desk.sent[0].frame
    stored = login().redact(desk.sent[0].frame)
    assert b"\x01553=**\x01554=******\x01" in stored
    assert len(stored) == len(desk.sent[0].frame)
    asked = [decode(output.frame) for output in desk.logon if isinstance(output, Send)]
    assert [message.kind for message in asked] == ["x", "e", "V"]
    assert asked[2].fields[6:] == [(263, "1"), (264, "0"), (265, "1"), (267, "3"), (269, "0"), (269, "1"), (269, "2"),
                                   (146, "1"), (55, "BTC-USD")]  # fmt: skip


def test_decimals_times_and_sides_are_kept_as_they_came() -> None:
    """Raw digits; a trade's own time, else that of the message; the aggressor where it is given."""
    desk = Desk()
    out = desk.says("W", (55, "BTC-USD"), (268, "3"), (269, "0"), (270, "100.50"), (271, "1.0"), (269, "1"),
                    (270, "101"), (271, "2.500"), (269, "2"), (270, "100.7"), (271, "1"))  # fmt: skip
    book = next(output for output in out if isinstance(output, BookUpdate))
    assert (book.bid_prices, book.bid_sizes, book.ask_prices, book.ask_sizes) == (
        ["100.50"], ["1.0"], ["101"], ["2.500"])  # fmt: skip
    assert (book.sequence, book.ts_event) == (2, START)
    assert not [output for output in out if isinstance(output, Trades)], "it may be one that is known"
    out = desk.says(
        "X", (268, "3"), (279, "0"), (269, "2"), (278, "t1"), (55, "BTC-USD"), (270, "100.70"), (271, "0.10"),
        (272, "20260809"), (273, "21:04:59.123456789"), (2446, "2"),
        (279, "0"), (269, "2"), (270, "100.8"), (271, "3"), (279, "1"), (269, "1"), (270, "101"), (271, "0.5"),
    )  # fmt: skip
    update, trades = (output for output in out if isinstance(output, BookUpdate | Trades))
    assert isinstance(trades, Trades)
    assert isinstance(update, BookUpdate)
    assert (update.ask_prices, update.ask_sizes) == (["101"], ["0.5"])
    first, second = trades.trades
    assert (first.trade_id, first.price, first.size, first.side) == ("t1", "100.70", "0.10", "sell")
    assert first.ts_event % SECOND == 123_456_789
    assert (second.side, second.ts_event) == ("unknown", START)
    assert second.trade_id == f"{utc(START)}/3/1"


@pytest.mark.parametrize(("sent", "time", "expected"), [
    ("20260809-00:00:00.050", "23:59:59.950", "20260808-23:59:59.950"),
    ("20260808-23:59:59.990", "00:00:00.010", "20260809-00:00:00.010"),
    ("20260809-12:00:00.000", "11:59:59", "20260809-11:59:59"),
])  # fmt: skip
def test_a_time_without_a_date_is_near_the_time_of_sending(sent: str, time: str, expected: str) -> None:
    """Around midnight it is another day's."""
    desk = Desk()
    fields = [(35, "X"), (49, "THEM"), (56, "US"), (34, "2"), (52, sent), (268, "1"), (279, "0"), (269, "2"),
              (55, "BTC-USD"), (270, "9"), (271, "1"), (273, time)]  # fmt: skip
    (published,) = [o for o in desk.feed.received(encode("FIX.4.4", fields), START) if isinstance(o, Trades)]
    assert published.trades[0].ts_event == utc_ns(expected, "273")


def test_entries_may_be_replaced_and_deleted_by_their_ids() -> None:
    """MDEntryRefID names the one that is replaced; a delete may have no price; levels are sums of entries."""
    desk = Desk()
    desk.says("W", (55, "BTC-USD"), (268, "3"), (269, "0"), (278, "a"), (270, "100"), (271, "1.5"), (269, "0"),
              (278, "b"), (270, "100"), (271, "2.25"), (269, "1"), (278, "c"), (270, "101"), (271, "9"))  # fmt: skip
    (replaced,) = desk.says("X", (55, "BTC-USD"), (268, "1"), (279, "1"), (278, "d"), (280, "a"), (269, "0"),
                            (270, "99"), (271, "1"))  # fmt: skip
    assert isinstance(replaced, BookUpdate)
    assert (replaced.bid_prices, replaced.bid_sizes) == (["100", "99"], ["2.25", "1"])
    (deleted,) = desk.says("X", (55, "BTC-USD"), (268, "1"), (279, "2"), (278, "c"))
    assert isinstance(deleted, BookUpdate)
    assert (deleted.ask_prices, deleted.ask_sizes) == (["101"], ["0"])
    out = desk.says("X", (55, "BTC-USD"), (268, "1"), (279, "1"), (278, "nobody"), (271, "1"))
    assert [output.kind for output in out if isinstance(output, BookUpdate)] == ["clear"]
    assert [decode(o.frame).get(263) for o in out if isinstance(o, Send)] == ["2", "1"], "requested again"


@pytest.mark.parametrize("more", [(), ((269, "0"),), ((269, "0"), (270, "100")), ((269, "1"), (270, "7"), (271, "1"))])
def test_delete_of_an_entry_that_is_not_there_changes_nothing(more: tuple[tuple[int, str], ...]) -> None:
    """Afterwards the entry is in neither book, and the session's numbers show that no message is missing."""
    desk = Desk()
    desk.says("W", (55, "BTC-USD"), (268, "1"), (269, "0"), (278, "a"), (270, "100"), (271, "1.5"))
    gone = [(279, "2"), (278, "nobody"), *more]
    assert not desk.says("X", (55, "BTC-USD"), (268, "1"), *gone)
    out = desk.says(
        "X", (55, "BTC-USD"), (268, "2"), *gone, (279, "0"), (278, "b"), (269, "0"), (270, "100"), (271, "2")
    )
    assert [(o.kind, o.bid_prices, o.bid_sizes) for o in out if isinstance(o, BookUpdate)] == [
        ("update", ["100"], ["3.5"])
    ]
    counts = desk.feed.counts
    assert [counts[name] for name in ("unknown_deletes", "gaps", "dead_letters", "resyncs")] == [2, 0, 0, 0]


def test_delete_of_the_last_entry_twice_leaves_an_empty_book() -> None:
    """Without any entry it is not known whether entries have ids; an id says so."""
    desk = Desk()
    desk.says("W", (55, "BTC-USD"), (268, "1"), (269, "0"), (278, "a"), (270, "100"), (271, "1.5"))
    for _ in range(2):
        out = desk.says("X", (55, "BTC-USD"), (268, "1"), (279, "2"), (278, "a"))
        assert not [output for output in out if isinstance(output, DeadLetter)]
    assert (desk.feed.counts["unknown_deletes"], desk.feed.counts["gaps"]) == (1, 0)


@pytest.mark.parametrize(("entry", "bids", "asks"), [
    (("8", "1", "1.2504", "3"), [("1.2501", "1"), ("1.2500", "2")], [("1.2504", "3")]),  # the same price
    (("8", "1", "1.2503", "3"), [("1.2501", "1"), ("1.2500", "2")], [("1.2503", "3")]),  # another price
    (("7", "0", "1.25020", "3"), [("1.25020", "3"), ("1.2500", "2")], [("1.2504", "9")]),
    (("7", "0", "1.2500", "3"), [("1.2500", "5")], [("1.2504", "9")]),  # the level of another entry
    (("8", "0", "1.2502", "3"), [("1.2502", "3"), ("1.2501", "1"), ("1.2500", "2")], []),  # the other side
    (("7", "0", "1.2502", "0"), [("1.2500", "2")], [("1.2504", "9")]),  # no size
    (("5", "1", "1.2505", "3"), [("1.2501", "1"), ("1.2500", "2")], [("1.2504", "9"), ("1.2505", "3")]),  # a new id
])  # fmt: skip
def test_new_of_a_known_id_replaces_the_entry(
    entry: tuple[str, str, str, str], bids: list[tuple[str, str]], asks: list[tuple[str, str]]
) -> None:
    """Its old level is published as gone, or with what other entries leave there; the id can be deleted afterwards."""
    desk, reader = Desk(None), Reader()
    whole = [*named("7", "0", "1.2501", "1"), *named("6", "0", "1.2500", "2"), *named("8", "1", "1.2504", "9")]
    reader.top(desk.says("W", (55, "A/B"), (268, "3"), *whole), "A-B")
    out = desk.says("X", (268, "1"), *named(*entry, action="0", symbol="A/B"))
    assert reader.top(out, "A-B") == (bids, asks)
    reader.top(desk.says("X", (268, "1"), (279, "2"), (278, entry[0]), (55, "A/B")), "A-B")
    out = desk.says("X", (268, "1"), *named("6", "0", "1.1", "4", action="1", symbol="A/B"))
    left_bids = [("1.2501", "1")] if entry[0] != "7" else []
    left_asks = [("1.2504", "9")] if entry[0] != "8" else []
    assert reader.top(out, "A-B") == ([*left_bids, ("1.1", "4")], left_asks)
    out = desk.says("W", (55, "A/B"), (268, "1"), *named("8", "1", "2", "1"))
    assert reader.top(out, "A-B") == ([], [("2", "1")])
    out = desk.says("X", (268, "1"), *named(*entry, action="0", symbol="A/B"))
    assert reader.top(out, "A-B")[1] == {"8": [] if entry[1] == "0" else [(entry[2], "3")]}.get(
        entry[0], [*([(entry[2], "3")] if entry[1] == "1" else []), ("2", "1")])  # fmt: skip


def test_an_id_belongs_to_its_symbol_and_not_to_a_trade() -> None:
    """New of an id that another symbol's entry or a trade has replaces nothing."""
    desk, reader = Desk(None), Reader()
    for symbol in ("A/B", "C/D"):
        reader.top(desk.says("W", (55, symbol), (268, "1"), *named("7", "0", "1", "1")), symbol.replace("/", "-"))
    out = desk.says("X", (268, "2"), *named("7", "0", "2", "1", action="0", symbol="A/B"),
                    *named("7", "2", "1.5", "3", action="0", symbol="A/B"))  # fmt: skip
    assert reader.top(out, "A-B") == ([("2", "1")], [])
    assert reader.top([], "C-D") == ([("1", "1")], [])
    assert [trade.trade_id for o in out if isinstance(o, Trades) for trade in o.trades] == ["7"]


def test_new_of_a_known_id_between_the_parts_of_a_snapshot_replaces_the_entry() -> None:
    """The change waits for the last part, and moves what that part brings."""
    desk, reader = Desk(None), Reader()
    desk.says("W", (262, "r"), (55, "A/B"), (893, "N"), (268, "1"), *named("7", "0", "1", "1"))
    desk.says("X", (268, "1"), *named("7", "0", "2", "1", action="0", symbol="A/B"))
    out = desk.says("W", (262, "r"), (55, "A/B"), (893, "Y"), (268, "1"), *named("8", "1", "3", "1"))
    assert reader.top(out, "A-B") == ([("2", "1")], [("3", "1")])


@pytest.mark.parametrize("refresh", ["W", "X"])
@pytest.mark.parametrize(("symbol", "security"), [
    ("EURJPY10Y", "FXFWD"), ("EUR/JPY", "FXSWAP"), ("CL-HO", "MLEG"), ("CLK0", "FUT"), ("CLHO", ""), ("CLHO", "NONE"),
])  # fmt: skip
def test_prices_of_forwards_spreads_and_futures_may_be_zero_or_below(symbol: str, security: str, refresh: str) -> None:
    """Entries of size 0 are no level and no loss, whether a whole book or a change then brings their size."""
    desk, reader, ours = Desk(None), Reader(), symbol.replace("/", "-")
    head = [(55, symbol), *([(167, security)] if security else [])]
    out = desk.says("W", *head, (268, "2"), *named("1", "0", "-3657.05", "0"), *named("2", "1", "0.00", "0"))
    assert reader.top(out, ours) == ([], [])
    if refresh == "W":
        out = desk.says("W", *head, (268, "2"), *named("1", "0", "-3657.00", "9"), *named("2", "1", "0.00", "9"))
    else:
        fields = [*named("1", "0", "-3657.00", "9", action="1", symbol=symbol), (279, "1"), (278, "2"), (271, "9")]
        out = desk.says("X", (268, "2"), *fields)
    assert reader.top(out, ours) == ([("-3657.00", "9")], [("0.00", "9")])
    out = desk.says("X", (268, "3"), *named("3", "0", "-3656", "1", action="0", symbol=symbol),
                    *named("2", "1", "-1", "9", action="1"), *named("t", "2", "-5", "1", action="0"))  # fmt: skip
    assert reader.top(out, ours) == ([("-3656", "1"), ("-3657.00", "9")], [("-1", "9")])
    assert [trade.price for o in out if isinstance(o, Trades) for trade in o.trades] == ["-5"]
    assert [desk.feed.counts[name] for name in ("gaps", "resyncs", "dead_letters")] == [0, 0, 0]


@pytest.mark.parametrize(("symbol", "security"), [("EUR/USD", "FXSPOT"), ("EUR/USD", ""), ("IBM", "CS"), ("IBM", "PS")])
@pytest.mark.parametrize("price", ["0", "-1"])
def test_prices_of_spot_and_equity_are_above_zero(symbol: str, security: str, price: str) -> None:
    """Such a price is a dead letter, and no book."""
    desk = Desk(None)
    out = desk.says("W", (55, symbol), *([(167, security)] if security else []), (268, "1"), *level(price))
    assert [(o.reason, o.value) for o in out if isinstance(o, DeadLetter)] == [("not_positive", price)]
    assert not [o for o in out if isinstance(o, BookUpdate) and o.kind == "snapshot"]


def test_security_type_may_come_with_the_entry_of_a_change_or_in_a_list() -> None:
    """It concerns the symbol that it stands with, and no other of the message."""
    desk = Desk(None)
    for symbol in ("A/B", "C/D"):
        desk.says("W", (55, symbol), (268, "1"), *level("1"))
    out = desk.says("X", (268, "2"), (279, "0"), (269, "0"), (55, "A/B"), (167, "FXNDF"), (270, "-1"), (271, "1"),
                    (279, "0"), (269, "0"), (55, "C/D"), (270, "2"), (271, "1"))  # fmt: skip
    assert books_of(out) == [("A-B", "update", ["-1"]), ("C-D", "update", ["2"])]
    assert [(o.symbol, o.kind) for o in out if isinstance(o, Instrument)] == [("A-B", "unknown")]
    out = desk.says("y", (146, "1"), (55, "C/D"), (167, "FXFWD"))
    assert [(o.symbol, o.kind) for o in out if isinstance(o, Instrument)] == [("C-D", "unknown")]
    out = desk.says("X", (268, "1"), (279, "0"), (269, "0"), (55, "C/D"), (270, "-2"), (271, "1"))
    assert books_of(out) == [("C-D", "update", ["-2"])]


def test_a_book_and_candles_below_zero_go_through_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes, books and candles of a spread at and below zero are what its messages say."""
    desk = Desk(None)
    frames: list[Recorded] = []
    received = desk.feed.received

    def record(frame: bytes, ts: int) -> list[Output]:
        frames.append(Recorded("recv", ts, None, frame.decode()))
        return received(frame, ts)

    monkeypatch.setattr(desk.feed, "received", record)
    whole = [*named("1", "0", "-0.20", "5"), *named("2", "0", "-0.10", "5"), *named("3", "1", "0.00", "4")]
    desk.says("W", (55, "CL-HO"), (167, "MLEG"), (268, "3"), *whole)
    for number, price in enumerate(["-0.10", "0.00", "-0.30", "-0.05"]):
        desk.ts += SECOND
        time = (60, utc(desk.ts))
        desk.says("X", time, (268, "1"), *named(f"t{number}", "2", price, "2", action="0", symbol="CL-HO"))
    path = tmp_path / "spread.jsonl.zst"
    write(path, frames)
    events = list(run([path], Connections("fix"), Pipeline()))
    assert not [event for _, event in events if isinstance(event, DeadLetter)]
    book = [event for _, event in events if isinstance(event, Book)][-1]
    assert (book.bid_prices, book.ask_prices, book.valid) == (["-0.10", "-0.20"], ["0.00"], True)
    quote = [event for _, event in events if isinstance(event, Quote)][-1]
    assert (quote.bid, quote.ask, quote.valid) == ("-0.10", "0.00", True)
    candle = [event for _, event in events if isinstance(event, Candle) and event.interval == "1m"][-1]
    assert (candle.open, candle.high, candle.low, candle.close) == ("-0.10", "0.00", "-0.30", "-0.05")
    assert (candle.volume, candle.quote_volume) == ("8", "-0.9")


def test_a_book_is_emptied_and_cut_to_its_depth() -> None:
    """MDEntryType J in X takes every level away; what is pushed beyond MarketDepth is published as removed."""
    desk = Desk(None)
    desk.says("W", (264, "2"), (55, "B-U"), (268, "2"), *level("9"), *level("8"))
    out = desk.says("X", (55, "B-U"), (268, "1"), *level("8.5", action="0"))
    (update,) = [event for event in out if isinstance(event, BookUpdate)]
    assert (update.bid_prices, update.bid_sizes) == (["8.5", "8"], ["1", "0"])
    out = desk.says("X", (55, "B-U"), (268, "2"), (279, "2"), (269, "J"), *level("7", action="0"))
    (update,) = [event for event in out if isinstance(event, BookUpdate)]
    assert (update.bid_prices, update.bid_sizes) == (["9", "8.5", "7"], ["0", "0", "1"])


@pytest.mark.parametrize(("price", "size"), [("100", "-1"), ("1e2", "1"), ("100", "1E2"), ("", "1"), ("100", "")])
def test_sizes_and_prices_that_fix_does_not_know_are_no_book(price: str, size: str) -> None:
    """FIX writes numbers without exponents, and no size is below zero."""
    desk = Desk()
    out = desk.says("W", (55, "BTC-USD"), (268, "1"), (269, "0"), *[f for f in ((270, price), (271, size)) if f[1]])
    assert not any(isinstance(output, BookUpdate) for output in out)
    assert any(isinstance(output, DeadLetter) for output in out)


def test_a_level_that_a_snapshot_names_twice_is_no_book() -> None:
    """Which size would be right nobody knows; the same goes for an entry's id, but not for two entries at a price."""
    for entry, good in ((((278, "a"),), False), ((), False), (None, True)):
        desk, fields = Desk(), []
        for number in range(2):
            name = ((278, f"n{number}"),) if entry is None else entry
            fields += [(269, "0"), *name, (270, "100"), (271, "1")]
        out = desk.says("W", (55, "BTC-USD"), (268, "2"), *fields)
        assert any(isinstance(output, BookUpdate) for output in out) is good
        assert any(isinstance(output, DeadLetter) for output in out) is not good


def test_size_of_a_level_is_the_exact_sum_of_its_entries_or_no_book() -> None:
    """However many digits they have; a sum that no size may be is requested again."""
    for first, second, total in (("0.1234567890123456789012345", "12345", "12345.1234567890123456789012345"),
                                 ("9" * 30, "1", None)):  # fmt: skip
        desk = Desk()
        out = desk.says("W", (55, "BTC-USD"), (268, "2"), (269, "0"), (278, "a"), (270, "1"), (271, first), (269, "0"),
                        (278, "b"), (270, "1"), (271, second))  # fmt: skip
        published = [event.bid_sizes for event in out if isinstance(event, BookUpdate)]
        assert published == ([] if total is None else [[total]])
        assert asked_again(out) == ({"BTC-USD"} if total is None else set())
