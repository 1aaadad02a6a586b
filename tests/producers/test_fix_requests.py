"""What is requested of a FIX venue, and what it answers: snapshots, refusals, halts, and the end of a connection."""

from __future__ import annotations

import pytest

from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Trades
from marketdata.feed import Refused, Send
from marketdata.fix.codec import decode, encode, utc
from producers.venues import make_feed
from tests.producers.fix_messages import SECOND, START, Desk, asked_again, books_of, level, login, missing_trades


def test_a_snapshot_in_parts_is_told_whole_with_what_changed_meanwhile() -> None:
    """LastFragment says when; until then an earlier book stays and follows the changes, and a third is not mixed in."""
    desk = Desk(None)
    assert not books_of(desk.says("W", (262, "r"), (55, "B-U"), (268, "1"), *level("9"), (893, "N")))
    assert not books_of(desk.says("X", (55, "B-U"), (268, "2"), *level("9", action="2"), *level("7", action="0")))
    out = desk.says("W", (262, "r"), (55, "B-U"), (893, "Y"), (268, "1"), *level("8"))
    assert books_of(out) == [("B-U", "snapshot", ["8", "7"])]
    assert not books_of(desk.says("W", (262, "r"), (55, "B-U"), (893, "N"), (268, "1"), *level("3")))
    out = desk.says("X", (55, "B-U"), (268, "1"), *level("6", action="0"))
    assert books_of(out) == [("B-U", "update", ["6"])]
    out = desk.says("W", (262, "r"), (55, "B-U"), (893, "Y"), (268, "0"))
    assert books_of(out) == [("B-U", "snapshot", ["6", "3"])]
    assert books_of(desk.says("W", (262, "r"), (55, "B-U"), (268, "1"), *level("2"))) == [("B-U", "snapshot", ["2"])]
    assert desk.feed.counts["dead_letters"] == 0


def test_reports_are_counted_over_the_symbols_of_a_request() -> None:
    """TotNumReports: no book is whole before the last; a list of trades alone counts, and empties no book."""
    desk = Desk(None)
    for part in (((55, "B-U"), (268, "1"), *level("9")), ((55, "E-U"), (268, "1"), *level("4"))):
        assert not books_of(desk.says("W", (262, "r"), (911, "4"), *part))
    assert not books_of(desk.says("W", (262, "r"), (911, "4"), (55, "B-U"), (268, "1"), *level("8")))
    trade = ((55, "B-U"), (268, "1"), (269, "2"), (278, "t1"), (270, "9"), (271, "1"))
    out = desk.says("W", (262, "r"), (911, "4"), *trade)
    assert books_of(out) == [("B-U", "snapshot", ["9", "8"]), ("E-U", "snapshot", ["4"])]
    assert not books_of(desk.says("W", (262, "r"), (911, "1"), *trade))
    assert books_of(desk.says("X", (55, "B-U"), (268, "1"), *level("7", action="0")))
    out = desk.says("W", (262, "r"), (911, "many"), (55, "B-U"), (268, "1"), *level("9"))
    assert [(o.field, o.value) for o in out if isinstance(o, DeadLetter)] == [("911", "many")]


def test_a_group_that_lies_clears_the_book_of_its_symbol_only() -> None:
    """What cannot be read may have been a change."""
    desk = Desk(("BTC-USD", "ETH-USD"))
    for symbol in ("BTC-USD", "ETH-USD"):
        desk.says("W", (55, symbol), (268, "1"), (269, "0"), (270, "1"), (271, "1"))
    out = desk.says("X", (268, "2"), (279, "0"), (269, "0"), (55, "ETH-USD"), (270, "2"), (271, "1"))
    assert [(o.symbol, o.kind) for o in out if isinstance(o, BookUpdate)] == [("ETH-USD", "clear")]
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["bad_group"]


@pytest.mark.parametrize("price", ["-1", "0"])
def test_book_that_cannot_be_told_behind_a_loss_is_asked_for(price: str) -> None:
    """While something is missing no book is published, so what was sent again is found wrong when all is there."""
    desk = Desk()
    desk.says("W", (55, "BTC-USD"), (268, "1"), *level("100"))
    desk.number += 1
    assert books_of(desk.says("0")) == [("BTC-USD", "clear", [])]
    out = desk.says("X", (268, "1"), (279, "0"), (55, "BTC-USD"), *level(price), number=3, first_sent=START)
    assert not books_of(out)
    assert [(o.reason, o.value) for o in out if isinstance(o, DeadLetter)] == [("not_positive", price)]
    assert asked_again(out) == {"BTC-USD"}


def test_each_book_of_an_answer_that_cannot_be_read_is_asked_for() -> None:
    """The last message completes both symbols, and names but one."""
    desk = Desk(("BTC-USD", "ETH-USD"))
    desk.says("W", (262, "r"), (911, "2"), (55, "BTC-USD"), (268, "1"), *level("-1"))
    out = desk.says("W", (262, "r"), (911, "2"), (55, "ETH-USD"), (268, "1"), *level("1"))
    assert not books_of(out)
    assert asked_again(out) == {"BTC-USD", "ETH-USD"}


@pytest.mark.parametrize(("price", "size", "entry", "field"), [
    ("0", "1", "t", "price"), ("-1", "1", "t", "price"), ("1", "0", "t", "size"), ("1", "-1", "t", "size"),
    ("1", "1", "x" * 129, "trade_id"),
])  # fmt: skip
def test_trade_that_consumers_would_refuse_is_none(price: str, size: str, entry: str, field: str) -> None:
    """Its message cannot be trusted, and the symbol is requested again."""
    desk = Desk()
    desk.says("W", (55, "BTC-USD"), (268, "1"), *level("100"))
    out = desk.says("X", (268, "1"), (279, "0"), (269, "2"), (278, entry), (55, "BTC-USD"), (270, price), (271, size))
    assert [o.field for o in out if isinstance(o, DeadLetter)] == [field]
    assert not any(isinstance(output, Trades) for output in out)
    assert books_of(out) == [("BTC-USD", "clear", [])]
    assert asked_again(out) == {"BTC-USD"}


def test_security_status_halts_and_resumes() -> None:
    """In the stream of status, and in what is published of the symbol meanwhile."""
    desk = Desk()
    desk.says("W", (55, "BTC-USD"), (268, "0"))
    out = desk.says("f", (55, "BTC-USD"), (326, "2"))
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["halted"]
    out = desk.says("X", (268, "1"), (279, "0"), (269, "0"), (55, "BTC-USD"), (270, "1"), (271, "1"))
    assert [(o.valid, o.reason) for o in out if isinstance(o, BookUpdate)] == [(False, "halted")]
    out = desk.says("f", (55, "BTC-USD"), (326, "17"))
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resumed"]


def asked_again_at(desk: Desk) -> list[int]:
    """Return the seconds at which a book is requested within the next 80; the venue sends heartbeats."""
    seconds = []
    for second in range(1, 80):
        desk.ts = START + second * SECOND
        desk.says("0")
        if asked_again(desk.feed.ticked(desk.ts)):
            seconds.append(second)
    return seconds


def test_rejects_are_dead_letters_but_for_what_we_can_do_without() -> None:
    """A symbol that the venue does not have is requested again after ten seconds, then ever more rarely."""
    desk = Desk()
    request = next(decode(o.frame) for o in desk.logon if isinstance(o, Send) and decode(o.frame).kind == "V")
    assert not desk.says("j", (45, "2"), (372, "x"), (380, "3"), (58, "no lists here"))
    out = desk.says("Y", (262, request.get(262)), (281, "0"), (58, "no such symbol"))
    assert [(o.reason, o.value) for o in out if isinstance(o, DeadLetter)] == [("venue_error", "no such symbol")]
    assert asked_again_at(desk) == [10, 30, 70]


def test_a_business_reject_of_a_request_ends_it_too() -> None:
    """It names what it rejects in a field of its own."""
    desk = Desk()
    request = next(decode(o.frame) for o in desk.logon if isinstance(o, Send) and decode(o.frame).kind == "V")
    desk.says("j", (45, "3"), (372, "V"), (379, request.get(262)), (380, "2"), (58, "unknown security"))
    assert asked_again_at(desk) == [10, 30, 70]


def test_a_snapshot_that_does_not_come_is_asked_for_again() -> None:
    """It is on the ledger meanwhile; the new request takes the place of the first."""
    desk = Desk()
    desk.says("0")
    out = desk.feed.ticked(START + 11 * SECOND)
    assert next((o.kind, o.reason) for o in out if isinstance(o, FeedStatus)) == ("unsubscribed", "no_data")
    desk.ts = START + 21 * SECOND
    desk.says("0")
    out = desk.feed.ticked(desk.ts)
    assert [decode(o.frame).get(263) for o in out if isinstance(o, Send) and b"35=V" in o.frame] == ["2", "1"]


@pytest.mark.parametrize(
    ("first_sent", "number"), [(START + 5 * SECOND, 4), (START - SECOND, 4), (START + 15 * SECOND, 5)]
)
def test_trades_of_a_lost_connection_are_missing_unless_the_venue_went_on(first_sent: int, number: int) -> None:
    """Numbers that go on prove it only by a message that was first sent while we were away, from 0 s to 10 s."""
    desk = Desk(reset=False)
    trade = [(268, "1"), (279, "0"), (269, "2"), (55, "BTC-USD"), (270, "9"), (271, "1")]
    desk.says("W", (55, "BTC-USD"), (268, "1"), *level("9"))
    desk.says("X", *trade, (278, "t1"))
    desk.feed.closed("reset", START)
    desk.ts = START + 10 * SECOND
    desk.feed.opened(desk.ts)
    desk.number += number == 4  # lost with the old one
    out = desk.says("A", (98, "0"), (108, "10"))
    desk.number += number == 5  # lost on the new connection
    out += desk.says("0")
    out += desk.says("X", *trade, (278, "t2"), number=number, first_sent=first_sent)
    assert [o.trades[0].trade_id for o in out if isinstance(o, Trades) and o.trades] == ["t2"]
    out += desk.says("W", (55, "BTC-USD"), (268, "1"), *level("9"))
    assert [o.kind for o in out if isinstance(o, BookUpdate)] == ["snapshot"]
    assert bool(missing_trades(desk.feed, out, desk.ts)) is (first_sent != START + 5 * SECOND)
    assert len([o for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"]) == 1


def test_a_refused_logon_is_final_and_leaving_says_so() -> None:
    """Another try would be refused too; a line that stops logs out."""
    feed = make_feed("fix", products=("BTC-USD",), token=login())
    feed.opened(START)
    refused = [(35, "5"), (49, "THEM"), (56, "US"), (34, "1"), (52, utc(START)), (58, "wrong password")]
    out = feed.received(encode("FIX.4.4", refused), START)
    (end,) = [output for output in out if isinstance(output, Refused)]
    assert end.reason == "logon_refused"
    assert "wrong password" in end.advice
    desk = Desk()
    out = desk.feed.closed("stopped", START)
    assert [decode(output.frame).kind for output in out if isinstance(output, Send)] == ["5"]
