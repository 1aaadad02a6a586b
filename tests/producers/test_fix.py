"""The FIX feed over a whole stream: whatever happens to its frames no wrong book is published as valid."""

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
from marketdata.events import EVENTS, BookUpdate, DeadLetter, FeedStatus, Instrument, Trades
from marketdata.feed import Output, Reconnect, Send
from marketdata.fix.codec import Fields, decode
from marketdata.fix.steps import Identity
from producers.venues import make_feed
from runtime.recordings import Recorded, write
from tests.producers.fix_messages import SECOND, START, login, missing_trades
from tickstream.pipe import Connections, Pipeline, run

CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})
QUICK = settings(max_examples=12, deadline=None)
SYMBOLS = ("BTC-USD", "EUR/USD")
OURS = {"BTC-USD": "BTC-USD", "EUR/USD": "EUR-USD"}


VARIANTS = pytest.mark.parametrize(
    "variant", [{"by": "number", "fragment": 3}, {"by": "id", "reset": False}, {"by": "price", "resends": False}],
    ids=["numbers", "entries", "gap-fill"])  # fmt: skip


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
        self.published: list[str] = []
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
                self.published += [trade.trade_id for trade in output.trades]
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
    """Every change at once, nothing lost, no dead letter; trades in order with the side that the venue sends."""
    talk = Talk(**variant)
    for number in range(80):
        talk.move(1 + number % 3)
        talk.flush()
        assert talk.is_right()
    assert by_symbol(talk.published) == by_symbol(talk.venue.trades)
    assert len(talk.published) > 20
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
    assert len(set(talk.published)) == len(talk.published), "a trade came twice"
    assert set(talk.published) <= set(talk.venue.trades)
    assert set(talk.published) == set(talk.venue.trades) or missing_trades(talk.feed, talk.out, talk.ts), (
        "a trade was lost in silence"
    )
    opened = {o.gap_id for o in talk.out if isinstance(o, FeedStatus) and o.kind == "gap" and o.ts_to is None}
    assert opened == {o.gap_id for o in talk.out if isinstance(o, FeedStatus) and o.kind == "resynced"}


@pytest.mark.parametrize("by", ["price", "id", "number"])
def test_what_the_venue_sends_again_is_applied_in_order(by: str) -> None:
    """Three lost messages: books are cleared at once, then whole without a new snapshot; no trade is missing."""
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
    assert by_symbol(talk.published) == by_symbol(talk.venue.trades)
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
    assert len(talk.published) < len(talk.venue.trades)
    missing = [o for o in talk.out if isinstance(o, FeedStatus) and o.kind == "gap" and o.channel == "trades"]
    assert missing
    assert [o for o in talk.out if isinstance(o, Trades) and not o.valid and o.reason == "gap"]


def test_numbers_may_go_on_over_connections() -> None:
    """Without reset the trades of the time between are sent again, and published."""
    talk = Talk(reset=False)
    talk.flush()
    for _ in range(20):
        talk.move(2)
    talk.breaks()
    talk.settle()
    assert talk.is_right()
    assert by_symbol(talk.published) == by_symbol(talk.venue.trades)
    assert len(talk.published) > 3


def test_session_messages_that_are_skipped_are_no_loss() -> None:
    """Behind a message that came again a GapFill is over heartbeats: nothing is requested again, no trade is missed."""
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
    assert len(talk.published) < len(talk.venue.trades)
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
    """No value anywhere makes the feed raise or break a rule; what could not be read is requested again."""
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
    assert trades == talk.published
