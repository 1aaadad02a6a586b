"""The FIX feed: whatever happens to its frames no wrong book is told as good, and what is lost is repaired."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.simulator.venues.fix.server import FixVenue
from marketdata.book import L2Book
from marketdata.codec import Codec
from marketdata.events import EVENTS, Book, BookUpdate, Candle, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Output, Reconnect, Refused, Send
from marketdata.fix.codec import Fields, decode, encode, utc, utc_ns
from marketdata.fix.steps import Identity
from producers.venues import make_feed
from producers.venues.fix.login import FixLogin
from producers.venues.kit.venue import LiveFeed
from runtime.recordings import Recorded, write
from tickstream.pipe import Connections, Pipeline, run

SECOND = 1_000_000_000
START = 1_786_309_500 * SECOND
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})
QUICK = settings(max_examples=12, deadline=None)
SYMBOLS = ("BTC-USD", "EUR/USD")
OURS = {"BTC-USD": "BTC-USD", "EUR/USD": "EUR-USD"}
VARIANTS = pytest.mark.parametrize(
    "variant", [{"by": "number", "fragment": 3}, {"by": "id", "reset": False}, {"by": "price", "resends": False}],
    ids=["numbers", "entries", "gap-fill"])  # fmt: skip


def login(*, reset: bool = True, begin: str = "FIX.4.4") -> FixLogin:
    """Return how the feed logs on."""
    return FixLogin(senders=("US",), target="THEM", begin=begin, heartbeat_s=10, reset=reset, username="me",
                    password="secret")  # fmt: skip


class Talk:
    """The feed and the simulated venue over a line in memory; holds the rules that no output may break."""

    def __init__(self, *, reset: bool = True, **variant: Any) -> None:
        self.ts = START
        self.feed = make_feed("fix", products=SYMBOLS, token=login(reset=reset))
        theirs = Identity(sender="THEM", target="US", heartbeat_s=10, reset=reset)
        self.venue = FixVenue(theirs, SYMBOLS, **variant)
        self.line: deque[bytes] = deque()
        self.out: list[Output] = []
        self.books = {symbol: L2Book() for symbol in OURS.values()}
        self.valid = dict.fromkeys(OURS.values(), False)
        self.told: list[str] = []
        self.announced: set[str] = set()
        self.reconnect = False
        self.connect()

    def connect(self) -> None:
        """Make a connection."""
        self.line.clear()
        self.reconnect = False
        self.line += self.venue.opened(self.ts)
        self.take(self.feed.opened(self.ts))

    def breaks(self) -> None:
        """Lose the connection and make a new one."""
        self.venue.session.closed()
        self.line.clear()
        self.take(self.feed.closed("reset", self.ts))
        assert not any(self.valid.values())
        self.connect()

    def deliver(self, frame: bytes) -> list[Output]:
        """Bring one frame to the feed."""
        self.ts += SECOND // 100
        return self.take(self.feed.received(frame, self.ts))

    def flush(self) -> None:
        """Bring everything that is under way, and make a new connection where the feed wants one."""
        while self.line or self.reconnect:
            if self.reconnect:
                self.breaks()
            self.deliver(self.line.popleft())

    def move(self, moves: int = 1) -> None:
        """Let the venue's markets move."""
        self.ts += SECOND // 100
        self.line += self.venue.move(self.ts, moves)

    def settle(self) -> None:
        """Let the time pass until heartbeats have shown whatever is missing."""
        for _ in range(16):
            self.flush()
            self.ts += 2 * SECOND
            self.line += self.venue.ticked(self.ts)
            self.take(self.feed.ticked(self.ts))
        self.flush()

    def take(self, out: list[Output]) -> list[Output]:
        """Follow the outputs as a consumer does, and perform them."""
        self.out += out
        for output in out:
            if isinstance(output, EVENTS):
                assert CODEC.decode(CODEC.encode(output)) == output
            if isinstance(output, Instrument):
                self.announced.add(output.symbol)
            elif isinstance(output, Trades):
                assert output.symbol in self.announced
                self.told += [trade.trade_id for trade in output.trades]
            elif isinstance(output, BookUpdate):
                self._follow(output)
            elif isinstance(output, Reconnect):
                self.reconnect = True
            elif isinstance(output, Send):
                self.line += self.venue.received(output.frame, self.ts)
        return out

    def _follow(self, event: BookUpdate) -> None:
        assert event.symbol in self.announced
        book = self.books[event.symbol]
        if event.kind == "snapshot":
            book.bids.replace(event.bid_prices, event.bid_sizes)
            book.asks.replace(event.ask_prices, event.ask_sizes)
        elif event.kind == "clear":
            book.clear()
        else:
            assert self.valid[event.symbol], "a change or a heartbeat of a book that nobody may trust"
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)
        self.valid[event.symbol] = event.kind != "clear"
        if event.kind != "clear":
            self.check(event.symbol, event.sequence or 0)

    def check(self, symbol: str, number: int) -> None:
        """The consumers' book is the venue's after its message of this number."""
        states = self.venue.states
        name = next(name for name, ours in OURS.items() if ours == symbol)
        at = max((known for known in states if known <= number), default=0)
        bids, asks = states[at][name]
        book = self.books[symbol]
        assert book.bids.top(None) == [(f"{price}", f"{bids[price]}") for price in sorted(bids, reverse=True)]
        assert book.asks.top(None) == [(f"{price}", f"{asks[price]}") for price in sorted(asks)]

    def is_right(self) -> bool:
        """Tell whether every book is good and the venue's own by now; raises where one is good and wrong."""
        for symbol in OURS.values():
            if self.valid[symbol]:
                self.check(symbol, self.venue.session.next_out)
        return all(self.valid.values())

    def kinds(self) -> list[str]:
        """Return the kinds of FeedStatus so far."""
        return [output.kind for output in self.out if isinstance(output, FeedStatus)]


def by_symbol(trades: list[str]) -> dict[str, list[str]]:
    """Return the ids of each symbol's trades, in order."""
    return {symbol: [trade for trade in trades if trade.startswith(symbol)] for symbol in SYMBOLS}


@VARIANTS
def test_books_and_trades_are_the_venues_own(variant: dict[str, Any]) -> None:
    """Every change at once, nothing lost, no dead letter; trades in order with the side that the venue tells."""
    talk = Talk(**variant)
    for number in range(80):
        talk.move(1 + number % 3)
        talk.flush()
        assert talk.is_right()
    assert by_symbol(talk.told) == by_symbol(talk.venue.trades)
    assert len(talk.told) > 20
    counts = talk.feed.counts
    assert [counts[name] for name in ("gaps", "dead_letters", "duplicates", "resyncs")] == [0] * 4
    assert {t.side for o in talk.out if isinstance(o, Trades) for t in o.trades} == {"buy", "sell"}
    tick = {o.symbol: (o.tick_size, o.min_order_size) for o in talk.out if isinstance(o, Instrument)}
    assert tick == dict.fromkeys(OURS.values(), ("0.50", "0.01"))
    contracts = {(o.contract_multiplier, o.settlement_currency, o.expiry)
                 for o in talk.out if isinstance(o, Instrument) and o.tick_size}  # fmt: skip
    assert contracts == {("50", "USD", 1_923_955_200_000_000_000)}, "the maturity date 2030-12-20, at midnight"


@VARIANTS
@QUICK
@given(data=st.data())
def test_no_disturbance_ever_tells_a_wrong_book(variant: dict[str, Any], data: st.DataObject) -> None:
    """Frames are lost, doubled, swapped and spoilt; afterwards each book is good again, by itself."""
    talk = Talk(**variant)
    talk.flush()
    for _ in range(12):
        talk.move(2)
        harm = data.draw(st.sampled_from(["none", "none", "lose", "double", "swap", "spoil", "break"]))
        if harm == "break":
            talk.breaks()
        elif talk.line:
            frame = talk.line.popleft()
            if harm == "double":
                talk.deliver(frame)
            elif harm == "swap":
                talk.move()
                talk.line.insert(1, frame)
            elif harm == "spoil":
                cut = data.draw(st.integers(1, len(frame)))
                spoilt = frame[:-cut] + data.draw(st.binary(max_size=8))
                out = talk.deliver(spoilt)
                assert spoilt in [output.payload for output in out if isinstance(output, DeadLetter)]
                assert not any(talk.valid.values()), "what could not be read may have been a change"
            if harm in {"none", "double"}:
                talk.line.appendleft(frame)
        talk.flush()
    talk.settle()
    assert talk.is_right()
    assert len(set(talk.told)) == len(talk.told), "a trade came twice"
    assert set(talk.told) <= set(talk.venue.trades)
    assert set(talk.told) == set(talk.venue.trades) or missing_trades(talk.feed, talk.out, talk.ts), (
        "a trade was lost in silence"
    )
    opened = {o.gap_id for o in talk.out if isinstance(o, FeedStatus) and o.kind == "gap" and o.ts_to is None}
    assert opened == {o.gap_id for o in talk.out if isinstance(o, FeedStatus) and o.kind == "resynced"}


@pytest.mark.parametrize("by", ["price", "id", "number"])
def test_what_the_venue_sends_again_is_applied_in_order(by: str) -> None:
    """Three lost messages: books are cleared at once, then told whole without a new snapshot; no trade is missing."""
    talk = Talk(by=by)
    talk.flush()
    asked = talk.feed.counts["resyncs"]
    for _ in range(30):
        talk.move(2)
    lost = [talk.line.popleft() for _ in range(3)]
    assert lost
    out = talk.deliver(talk.line.popleft())
    assert [type(output) for output in out[:2]] == [BookUpdate, FeedStatus]
    assert not any(talk.valid.values())
    talk.flush()
    assert talk.is_right()
    assert by_symbol(talk.told) == by_symbol(talk.venue.trades)
    assert talk.feed.counts["resyncs"] == asked
    assert talk.kinds().count("gap") == talk.kinds().count("resynced") == 2
    assert {o.origin for o in talk.out if isinstance(o, Trades)} == {"live", "repair"}


def test_what_the_venue_does_not_send_again_is_asked_for_anew() -> None:
    """GapFill over data: new snapshots, and the trades that may be missing are on the ledger and in the stream."""
    talk = Talk(resends=False)
    talk.flush()
    for _ in range(20):
        talk.move(2)
    for _ in range(8):
        talk.line.popleft()
    talk.flush()
    assert talk.is_right()
    assert talk.feed.counts["resyncs"] == 1
    assert len(talk.told) < len(talk.venue.trades)
    missing = [o for o in talk.out if isinstance(o, FeedStatus) and o.kind == "gap" and o.channel == "trades"]
    assert missing
    assert [o for o in talk.out if isinstance(o, Trades) and not o.valid and o.reason == "gap"]


def test_numbers_may_go_on_over_connections() -> None:
    """Without reset the trades of the time between are sent again, and told."""
    talk = Talk(reset=False)
    talk.flush()
    for _ in range(20):
        talk.move(2)
    talk.breaks()
    talk.settle()
    assert talk.is_right()
    assert by_symbol(talk.told) == by_symbol(talk.venue.trades)
    assert len(talk.told) > 3


def missing_trades(feed: LiveFeed, out: list[Output], ts: int) -> list[Output]:
    """Return where trades stay missing: on the ledger, and in the stream, where no later event states them complete."""
    out = [*out, *feed.time_passed(ts, ts)]
    missing: list[Output] = [o for o in out if isinstance(o, FeedStatus) and o.kind == "gap" and o.channel == "trades"]
    for place, event in enumerate(out):
        if isinstance(event, Trades) and event.reason == "gap" and not event.trades:
            later = [o for o in out[place:] if isinstance(o, Trades) and o.symbol == event.symbol]
            if not any(o.complete_from is not None and o.complete_from <= event.ts_event for o in later):
                missing.append(event)
    return missing


def test_session_messages_that_are_skipped_are_no_loss() -> None:
    """Behind a message that came again a GapFill is over heartbeats: nothing is asked anew, no trade is missed."""
    talk = Talk()
    talk.flush()
    talk.move(4)
    talk.flush()
    asked = talk.feed.counts["resyncs"]
    talk.ts += 10 * SECOND
    talk.line += talk.venue.ticked(talk.ts)
    assert decode(talk.line.popleft()).kind == "0", "a heartbeat, which is lost"
    talk.move(3)
    talk.flush()
    assert talk.is_right()
    assert talk.kinds().count("gap") == talk.kinds().count("resynced") == 2
    assert talk.feed.counts["resyncs"] == asked
    assert missing_trades(talk.feed, talk.out, talk.ts) == []
    assert talk.feed.counts["duplicates"] == 0


def test_a_venue_that_keeps_only_the_last_messages_may_have_lost_trades(monkeypatch: pytest.MonkeyPatch) -> None:
    """GapFill first, then messages: nothing shows that the first were the session's own."""
    monkeypatch.setattr("marketdata.fix.outgoing.STORED_MAX", 3)
    talk = Talk()
    talk.flush()
    for _ in range(8):
        talk.move(3)
    for _ in range(7):
        talk.line.popleft()
    talk.flush()
    assert talk.is_right()
    assert len(talk.told) < len(talk.venue.trades)
    assert missing_trades(talk.feed, talk.out, talk.ts)


def test_silence_clears_the_books_and_reconnects_once() -> None:
    """No frame for an hour means a dead connection."""
    talk = Talk()
    talk.flush()
    out = talk.take(talk.feed.ticked(talk.ts + 3600 * SECOND))
    assert Reconnect("heartbeat_missed") in out
    assert not any(talk.valid.values())
    assert not any(isinstance(output, Reconnect) for output in talk.feed.ticked(talk.ts + 3601 * SECOND))


def test_same_bytes_give_the_same_events() -> None:
    """The feed reads no clock and no chance."""
    runs = []
    for _ in range(2):
        talk = Talk(by="id")
        for _ in range(20):
            talk.move()
            talk.flush()
        runs.append(talk.out)
    assert runs[0] == runs[1]


@QUICK
@given(frame=st.binary(max_size=100))
def test_any_bytes_are_survived(frame: bytes) -> None:
    """Bytes that no venue sends say nothing but dead letters, before and after Logon, and with no identity."""
    talk = Talk()
    feeds = [make_feed("fix"), make_feed("fix", products=SYMBOLS, token=login()), talk.feed]
    talk.flush()
    for feed in feeds:
        if feed is not talk.feed:
            feed.opened(START)
        out = feed.received(frame, talk.ts)
        assert any(isinstance(output, DeadLetter) for output in out)
        assert not any(isinstance(output, Trades) for output in out)


JUNK = ["", "0", "-1", "1.5", "NaN", "Infinity", "1e999", "x" * 70, "9" * 40, "20260809-21:05:48", "Y", "|"]


@QUICK
@given(place=st.integers(0, 500), junk=st.sampled_from(JUNK), by=st.sampled_from(["price", "id", "number"]))
def test_any_value_of_any_message_may_be_junk(place: int, junk: str, by: str) -> None:
    """No value anywhere makes the feed raise or break a rule; what could not be read is asked for anew."""
    talk = Talk(by=by)
    for _ in range(10):
        talk.move(2)
    frames = list(talk.line)
    talk.line.clear()
    for frame in frames:
        message = decode(frame)
        if 0 <= place < len(message.fields):
            message.fields[place] = (message.fields[place][0], junk)
        talk.feed.received(with_checksum(message.begin, message.fields), talk.ts)
        place -= len(message.fields)
    talk.feed.ticked(talk.ts + SECOND)


def with_checksum(begin: str, fields: Fields) -> bytes:
    """Return a message whose values may be empty."""
    body = "".join(f"{tag}={value}\x01" for tag, value in fields).encode("latin-1")
    head = f"8={begin}\x019={len(body)}\x01".encode()
    return b"%b%b10=%03d\x01" % (head, body, (sum(head) + sum(body)) & 0xFF)


# --- Message by message ---


class Desk:
    """Writes the venue's messages by hand, to a feed that has logged on or follows a recording."""

    def __init__(self, products: tuple[str, ...] | None = ("BTC-USD",), *, reset: bool = True) -> None:
        self.feed = make_feed("fix", products=products, token=login(reset=reset) if products else None)
        self.number = 0
        self.ts = START
        self.sent = [output for output in self.feed.opened(START) if isinstance(output, Send)]
        self.logon = self.says("A", (98, "0"), (108, "10"), *([(141, "Y")] if reset else []))

    def says(self, kind: str, *fields: tuple[int, str], number: int = 0, first_sent: int = 0) -> list[Output]:
        """Bring the next message, or one again."""
        self.number += not number
        head: Fields = [(35, kind), (49, "THEM"), (56, "US"), (34, str(number or self.number)), (52, utc(START))]
        again: Fields = [(43, "Y"), (122, utc(first_sent))] if number else []
        return self.feed.received(encode("FIX.4.4", [*head, *again, *fields]), self.ts)


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
    """Raw digits; a trade's own time, else that of the message; the aggressor where it is told."""
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
    (told,) = [o for o in desk.feed.received(encode("FIX.4.4", fields), START) if isinstance(o, Trades)]
    assert told.trades[0].ts_event == utc_ns(expected, "273")


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


def named(name: str, side: str, price: str, size: str, *, action: str = "", symbol: str = "") -> Fields:
    """Return an entry with an id, of W, or of X where it has an action."""
    return [*([(279, action)] if action else []), (269, side), (278, name), *([(55, symbol)] if symbol else []),
            (270, price), (271, size)]  # fmt: skip


class Reader:
    """A consumer that follows the books that the feed publishes."""

    def __init__(self) -> None:
        self.books: dict[str, L2Book] = {}

    def top(self, out: list[Output], symbol: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Apply the outputs and return both sides of a symbol's book; no book may be cleared."""
        assert not [output for output in out if isinstance(output, DeadLetter)]
        for event in out:
            if isinstance(event, BookUpdate):
                assert event.valid
                book = self.books.setdefault(event.symbol, L2Book())
                (book.bids.replace if event.kind == "snapshot" else book.bids.apply)(event.bid_prices, event.bid_sizes)
                (book.asks.replace if event.kind == "snapshot" else book.asks.apply)(event.ask_prices, event.ask_sizes)
        return self.books[symbol].bids.top(None), self.books[symbol].asks.top(None)


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


def level(price: str, *, side: str = "0", size: str = "1", action: str = "") -> Fields:
    """Return an entry of W, or of X where it has an action."""
    return [*([(279, action)] if action else []), (269, side), (270, price), (271, size)]


def books_of(out: list[Output]) -> list[tuple[str, str, list[str]]]:
    """Return symbol, kind and bids of the books that are told."""
    return [(event.symbol, event.kind, event.bid_prices) for event in out if isinstance(event, BookUpdate)]


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


def test_a_book_is_emptied_and_cut_to_its_depth() -> None:
    """MDEntryType J in X takes every level away; what is pushed beyond MarketDepth is told as gone."""
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


def test_a_group_that_lies_clears_the_book_of_its_symbol_only() -> None:
    """What cannot be read may have been a change."""
    desk = Desk(("BTC-USD", "ETH-USD"))
    for symbol in ("BTC-USD", "ETH-USD"):
        desk.says("W", (55, symbol), (268, "1"), (269, "0"), (270, "1"), (271, "1"))
    out = desk.says("X", (268, "2"), (279, "0"), (269, "0"), (55, "ETH-USD"), (270, "2"), (271, "1"))
    assert [(o.symbol, o.kind) for o in out if isinstance(o, BookUpdate)] == [("ETH-USD", "clear")]
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["bad_group"]


def asked_again(out: list[Output]) -> set[str]:
    """Return the symbols whose books are asked for."""
    sent = [decode(output.frame) for output in out if isinstance(output, Send)]
    return {message.get(55) for message in sent if (message.kind, message.get(263)) == ("V", "1")}


@pytest.mark.parametrize("price", ["-1", "0"])
def test_book_that_cannot_be_told_behind_a_loss_is_asked_for(price: str) -> None:
    """While something is missing no book is told, so what was sent again is found wrong when all is there."""
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
    """Its message cannot be trusted, and the symbol is asked for anew."""
    desk = Desk()
    desk.says("W", (55, "BTC-USD"), (268, "1"), *level("100"))
    out = desk.says("X", (268, "1"), (279, "0"), (269, "2"), (278, entry), (55, "BTC-USD"), (270, price), (271, size))
    assert [o.field for o in out if isinstance(o, DeadLetter)] == [field]
    assert not any(isinstance(output, Trades) for output in out)
    assert books_of(out) == [("BTC-USD", "clear", [])]
    assert asked_again(out) == {"BTC-USD"}


def test_size_of_a_level_is_the_exact_sum_of_its_entries_or_no_book() -> None:
    """However many digits they have; a sum that no size may be is asked for anew."""
    for first, second, total in (("0.1234567890123456789012345", "12345", "12345.1234567890123456789012345"),
                                 ("9" * 30, "1", None)):  # fmt: skip
        desk = Desk()
        out = desk.says("W", (55, "BTC-USD"), (268, "2"), (269, "0"), (278, "a"), (270, "1"), (271, first), (269, "0"),
                        (278, "b"), (270, "1"), (271, second))  # fmt: skip
        told = [event.bid_sizes for event in out if isinstance(event, BookUpdate)]
        assert told == ([] if total is None else [[total]])
        assert asked_again(out) == ({"BTC-USD"} if total is None else set())


def test_security_status_halts_and_resumes() -> None:
    """In the stream of status, and in what is told of the symbol meanwhile."""
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


def test_recorded_messages_go_through_the_pipe(tmp_path: Path) -> None:
    """One message a line, from whatever number; the book at the end is the venue's."""
    talk, frames = Talk(by="id"), []
    for _ in range(20):
        talk.move()
        while talk.line:
            frames.append(talk.line.popleft())
            talk.deliver(frames[-1])
    path = tmp_path / "fix.jsonl.zst"
    write(path, [Recorded("recv", START + n, None, frame.decode()) for n, frame in enumerate(frames[3:])])
    assert b'"8=FIX.4.4\\u0001' in msgspec.json.encode(frames[0].decode())
    book, trades = L2Book(), []
    for topic, event in run([path], Connections("fix"), Pipeline()):
        if topic == "md.trades" and isinstance(event, Trades):
            trades += [trade.trade_id for trade in event.trades]
        if topic == "md.book_updates" and isinstance(event, BookUpdate) and event.symbol == "BTC-USD":
            (book.bids.replace if event.kind == "snapshot" else book.bids.apply)(event.bid_prices, event.bid_sizes)
    assert book.bids.top(None) == talk.books["BTC-USD"].bids.top(None)
    assert trades == talk.told
