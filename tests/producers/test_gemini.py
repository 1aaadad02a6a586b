"""The Gemini feed follows the venue's numbers, and repairs what it can see to be lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Instrument, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues import VENUES, make_feed
from producers.venues.gemini.feed import GeminiFeed
from producers.venues.kit.venue import LiveFeed

T0 = 1_790_000_000_000_000_000
SECOND = 1_000_000_000
WHOLE = ([["9", "1"]], [["11", "1"]])


def frame(first: int, last: int, bids: list[list[str]], asks: list[list[str]], *, name: str = "btcusd") -> bytes:
    """Return a frame of the depth stream."""
    sent = {"e": "depthUpdate", "E": T0 + last, "s": name, "U": first, "u": last, "b": bids, "a": asks}
    return json.dumps(sent, separators=(",", ":")).encode()


def trade(number: int, *, made_by_buyer: bool = True, **more: Any) -> bytes:
    """Return a frame of the trade stream."""
    sent = {"E": T0 + number, "s": "btcusd", "t": number, "p": "10.50", "q": "0.30", "m": made_by_buyer} | more
    return json.dumps(sent, separators=(",", ":")).encode()


def kinds(out: list[Output]) -> list[str]:
    """Return what kinds of book changes these outputs hold."""
    return [event.kind for event in out if isinstance(event, BookUpdate)]


def orders(out: list[Output]) -> list[dict[str, Any]]:
    """Return what is sent to the venue."""
    return [json.loads(output.frame) for output in out if isinstance(output, Send)]


def answer(order: dict[str, Any], **more: Any) -> bytes:
    """Return the venue's answer to a request."""
    return json.dumps({"id": order["id"], "status": 200} | more).encode()


@pytest.fixture
def feed() -> GeminiFeed:
    """A feed that has a book of update id 5, and whose subscription was acknowledged."""
    feed = GeminiFeed(line="gemini/0", products=("btcusd",))
    requests = orders(feed.opened(T0))
    assert kinds(feed.received(frame(5, 5, *WHOLE), T0)) == ["snapshot"]
    for request in requests:
        feed.received(answer(request), T0)
    return feed


def test_each_stream_is_subscribed_by_a_request_of_its_own() -> None:
    """A stream that the venue refuses costs only its product, and is on the ledger; the address asks for books."""
    feed = GeminiFeed(line="gemini/0", products=("BTCUSD", "nosuch"))
    requests = orders(feed.opened(T0))
    assert requests[0] == {"id": "1", "method": "subscribe", "params": ["btcusd@depth@100ms"]}
    assert [one["params"] for one in requests[1:]] == [["nosuch@depth@100ms"], ["btcusd@trade"], ["nosuch@trade"]]
    assert VENUES["gemini"].ws_url == "wss://ws.gemini.com?snapshot=-1"
    error = {"code": -1013, "msg": "Invalid stream name: nosuch@trade"}
    out = feed.received(answer(requests[3], status=400, error=error), T0)
    told = [(o.kind, o.reason, o.symbol, o.detail) for o in out if isinstance(o, FeedStatus)]
    assert told[0] == ("unsubscribed", "refused", "NOSUCH", "-1013 Invalid stream name: nosuch@trade")
    assert [kind for kind, *_ in told] == ["unsubscribed", "gap"]
    assert [(e.valid, e.reason) for e in out if isinstance(e, Trades)] == [(False, "gap")]


def test_first_frame_is_the_whole_book_and_later_ones_change_it(feed: GeminiFeed) -> None:
    """Raw digits; times in ns; a frame begins at the id where the one before ended."""
    (update,) = feed.received(frame(5, 9, [["9", "0.000"], ["8.50", "2.10"]], []), T0)
    assert isinstance(update, BookUpdate)
    assert (update.bid_prices, update.bid_sizes, update.sequence, update.ts_event) == (
        ["9", "8.50"], ["0.000", "2.10"], 9, T0 + 9)  # fmt: skip
    assert kinds(feed.received(frame(7, 12, [], [["11", "5"]]), T0)) == ["update"], "an overlap is no gap"
    assert feed.received(frame(9, 12, [], [["11", "5"]]), T0) == []
    assert feed.counts["duplicates"] == 1


def test_gap_unsubscribes_and_the_first_frame_after_the_answer_is_the_new_book(feed: GeminiFeed) -> None:
    """What comes before the answer is of the old subscription, whatever it looks like."""
    feed.received(frame(5, 9, [], []), T0)
    out = feed.received(frame(10, 12, [["9", "2"]], []), T0)
    assert kinds(out) == ["clear"]
    (gap,) = [o for o in out if isinstance(o, FeedStatus) and o.kind == "gap"]
    assert (gap.expected, gap.received) == (9, 10)
    (stop,) = orders(out)
    assert (stop["method"], stop["params"]) == ("unsubscribe", ["btcusd@depth@100ms"])
    assert kinds(feed.received(frame(12, 12, *WHOLE), T0)) == []
    (again,) = orders(feed.received(answer(stop), T0))
    assert (again["method"], again["params"]) == ("subscribe", ["btcusd@depth@100ms"])
    out = feed.received(frame(20, 20, *WHOLE), T0)
    assert kinds(out) == ["snapshot"]
    assert [o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"] == [gap.gap_id]


def test_stream_whose_frames_begin_one_above_the_last_id_is_followed(feed: GeminiFeed) -> None:
    """As long as no frame began where the one before ended; a frame further above is a gap all the same."""
    assert kinds(feed.received(frame(6, 9, [["9", "2"]], []), T0)) == ["update"]
    assert kinds(feed.received(frame(11, 12, [["9", "3"]], []), T0)) == ["clear"]


def test_book_that_followed_such_a_frame_is_lost_once_another_shows_where_frames_begin(feed: GeminiFeed) -> None:
    """Then a frame was missing before it, of whatever product it was."""
    feed.received(frame(6, 9, [["9", "2"]], []), T0)
    out = feed.received(frame(9, 12, [["9", "3"]], []), T0)
    assert kinds(out) == ["clear"]
    assert [order["method"] for order in orders(out)] == ["unsubscribe"]


def test_ids_that_begin_anew_are_a_loss(feed: GeminiFeed) -> None:
    """Or the book would stand still for ever and seem good."""
    feed.received(frame(5, 100, [], []), T0)
    out = [output for n in range(1, 10) for output in feed.received(frame(n, n + 1, [], []), T0)]
    assert kinds(out) == ["clear"]
    assert [order["method"] for order in orders(out)] == ["unsubscribe"]


def test_a_book_that_does_not_come_is_asked_for_again(feed: GeminiFeed) -> None:
    """And after that the connection is given up, if the product ever had a book."""
    feed.received(frame(50, 51, [], []), T0)
    assert [order["method"] for order in orders(feed.ticked(T0 + 11 * SECOND))] == ["ping", "unsubscribe"]
    feed.received(b'{"id":"ping","status":200}', T0 + 21 * SECOND)
    assert any(isinstance(output, Reconnect) for output in feed.ticked(T0 + 45 * SECOND))


@pytest.mark.parametrize(("made_by_buyer", "side"), [(True, "sell"), (False, "buy")])
def test_side_of_a_trade_is_the_takers(feed: GeminiFeed, made_by_buyer: bool, side: str) -> None:
    """Stream Reference, "Trade Stream": `m` is whether the buyer was the maker."""
    (event,) = [o for o in feed.received(trade(7, made_by_buyer=made_by_buyer), T0) if isinstance(o, Trades)]
    (one,) = event.trades
    assert (one.trade_id, one.price, one.size, one.side, one.ts_event) == ("7", "10.50", "0.30", side, T0 + 7)


def test_trades_of_a_lost_connection_are_asked_for_once_the_stream_flows(feed: GeminiFeed) -> None:
    """Not before the acknowledgement: what happens between the answer of REST and it would be missing."""
    feed.received(trade(7), T0)
    feed.closed("reset", T0)
    out = feed.opened(T0)
    assert not [o for o in out if isinstance(o, Fetch) and o.purpose == "trades"]
    depth, of_trades = orders(out)
    feed.received(frame(30, 30, *WHOLE), T0)
    assert not [o for o in feed.received(answer(depth), T0) if isinstance(o, Fetch)]
    (request,) = [o for o in feed.received(answer(of_trades), T0) if isinstance(o, Fetch)]
    rows = [{"tid": n, "timestampms": (T0 // 10**6) + n, "price": "10", "amount": "1", "type": "buy"} for n in (8, 7)]
    rows.append(rows[0] | {"tid": 9, "price": "0"})
    out = feed.fetched(request, json.dumps(rows).encode(), T0)
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["8"]
    assert [(o.reason, o.value) for o in out if isinstance(o, DeadLetter)] == [("not_positive", "0")]


def test_an_unreadable_trade_costs_no_book_and_an_unreadable_change_its_own(feed: GeminiFeed) -> None:
    """The names and fields of the frame show what it was."""
    feed.received(trade(7), T0)
    out = feed.received(trade(8, p="x"), T0)
    assert kinds(out) == []
    assert [o.purpose for o in out if isinstance(o, Fetch)] == ["trades"]
    assert kinds(feed.received(frame(5, 9, [["x", "1"]], []), T0)) == ["clear"]


def test_quiet_line_is_pinged_and_the_answer_vouches(feed: GeminiFeed) -> None:
    """A book without a change sends nothing."""
    feed.received(trade(7), T0)
    now = T0 + 11 * SECOND
    assert orders(feed.ticked(now)) == [{"id": "ping", "method": "ping"}]
    out = feed.received(b'{"id":"ping","status":200}', now)
    assert kinds(out) == ["heartbeat"]
    assert [e.ts_event for e in out if isinstance(e, Trades)] == [now - SECOND]
    assert kinds(feed.ticked(now + 26 * SECOND)) == ["clear"]


def test_details_are_learned(feed: GeminiFeed) -> None:
    """Symbol Details: `quote_increment` is the step of prices, `tick_size` that of quantities."""
    body = b'{"symbol":"BTCUSD","tick_size":1e-8,"quote_increment":0.01,"min_order_size":"0.00001","status":"open"}'
    (told,) = [o for o in feed.fetched(Fetch("", "products", "BTCUSD"), body, T0) if isinstance(o, Instrument)]
    assert (told.tick_size, told.size_increment, told.min_order_size) == ("0.01", "0.00000001", "0.00001")


@pytest.mark.parametrize("sent", [
    {"lastUpdateId": 3, "symbol": "btcusd", "bids": [], "asks": []},
    {"u": 3, "E": T0, "s": "btcusd", "b": "9", "B": "1", "a": "11", "A": "1"},
    {"e": "markPrice", "E": T0, "s": "btcusd", "p": "1", "i": "2"},
    {"e": "fundingAmount", "E": T0, "s": "btcusd", "T": T0, "i": 60, "f": "7.9", "r": "0.01", "p": "7", "R": False},
])  # fmt: skip
def test_other_streams_are_left_alone(feed: GeminiFeed, sent: dict[str, Any]) -> None:
    """Partial depth, best bid and offer, and what is not documented; they cost nothing."""
    assert feed.received(json.dumps(sent).encode(), T0) == []
    assert feed.counts["ignored"] == 1


CHANGES = st.lists(
    st.tuples(st.booleans(), st.integers(1, 5), st.integers(0, 3), st.sampled_from(["", "", "", "lose", "double"])),
    max_size=30,
)


class Exchange:
    """A venue with one product, a line to the feed, and a consumer, whose valid books must be ones of the venue."""

    def __init__(self, *, is_recording: bool) -> None:
        self.is_recording = is_recording
        self.feed: LiveFeed = make_feed("gemini", products=None if is_recording else ("BTCUSD",))
        self.number = 100
        self.book, self.shown = L2Book(), L2Book()
        self.states = {self.state(self.book)}
        self.valid = False
        self.line = [self.whole()]
        self.perform(self.feed.opened(T0))

    @staticmethod
    def state(book: L2Book) -> str:
        """Return a book as a text."""
        return str((book.bids.top(None), book.asks.top(None)))

    def whole(self) -> bytes:
        """Return the frame that begins a subscription."""
        sides = ([list(level) for level in side.top(None)] for side in (self.book.bids, self.book.asks))
        return frame(self.number, self.number, *sides)

    def change(self, is_bid: bool, price: int, size: int) -> bytes:
        """Change one level and return the frame."""
        before, self.number = self.number, self.number + price
        levels = ([[str(price), str(size)]], []) if is_bid else ([], [[str(price + 10), str(size)]])
        self.book.apply([[value for level in side for value in level[at : at + 1]] for side in levels for at in (0, 1)])
        self.states.add(self.state(self.book))
        return frame(before, self.number, *levels)

    def flush(self) -> None:
        """Bring the feed what is on the line."""
        while self.line:
            self.perform(self.feed.received(self.line.pop(0), T0))

    def perform(self, out: list[Output]) -> None:
        """Follow the outputs, and answer them."""
        for output in out:
            if isinstance(output, BookUpdate):
                self.follow(output)
            elif isinstance(output, Reconnect):
                self.line.clear()
                self.perform([*self.feed.closed("reset", T0), *self.feed.opened(T0)])
            elif isinstance(output, Send) and not self.is_recording:
                order = json.loads(output.frame)
                self.line += [answer(order), *([self.whole()] if order["method"] == "subscribe" else [])]

    def follow(self, event: BookUpdate) -> None:
        """Follow a book as a consumer does."""
        columns = (event.bid_prices, event.bid_sizes, event.ask_prices, event.ask_sizes)
        if event.kind == "snapshot":
            self.shown.replace(columns)
        elif event.kind == "update":
            assert self.valid
            self.shown.apply(columns)
        self.valid = event.kind != "clear"
        assert not self.valid or self.state(self.shown) in self.states


@settings(max_examples=80, deadline=None)
@given(changes=CHANGES, is_recording=st.booleans())
def test_no_disturbance_ever_shows_a_wrong_book(changes: list[tuple[bool, int, int, str]], is_recording: bool) -> None:
    """Frames are lost and doubled; each valid book is one that the venue had, and the last one is shown at the end."""
    exchange = Exchange(is_recording=is_recording)
    exchange.line.append(exchange.change(is_bid=True, price=8, size=1))  # shows where frames begin
    for is_bid, price, size, harm in [*changes, (True, 9, 1, ""), (True, 9, 2, "")]:
        exchange.line += [exchange.change(is_bid, price, size)] * {"": 1, "lose": 0, "double": 2}[harm]
        exchange.flush()
    if not is_recording:
        assert exchange.valid
        assert exchange.state(exchange.shown) == exchange.state(exchange.book)
