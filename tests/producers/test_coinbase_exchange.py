"""The Coinbase Exchange feed tells the recorded books and trades, and no loss leaves a wrong book of orders."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata.book import L2Book
from marketdata.codec import Codec
from marketdata.events import EVENTS, BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.coinbase_exchange.feed import CoinbaseExchangeFeed
from producers.venues.kit.values import iso_ns
from runtime import recordings
from runtime.recordings import Recorded

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
T0 = 1_790_000_000_000_000_000
SECOND = 1_000_000_000
NAME = "BTC-USD"
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})

Levels = dict[Decimal, Decimal]


def recording(name: str) -> list[Recorded]:
    """Return a recording."""
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    return list(recordings.read(path))


def play(lines: list[Recorded]) -> tuple[CoinbaseExchangeFeed, list[Output]]:
    """Return a feed after these lines, and all that it said."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0")
    out = feed.opened(lines[0].ts_recv)
    for line in lines:
        out += feed.received(line.frame, line.ts_recv)
    return feed, out


def follow(out: list[Output]) -> dict[str, L2Book]:
    """Return the books that a consumer has after these outputs."""
    followed: dict[str, L2Book] = {}
    for event in out:
        if isinstance(event, BookUpdate):
            book = followed.setdefault(event.symbol, L2Book())
            if event.kind in {"snapshot", "clear"}:
                book.clear()
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)
    return followed


def levels_of(book: L2Book) -> tuple[Levels, Levels]:
    """Return both sides of a book as plain numbers."""
    bids, asks = ({Decimal(p): Decimal(s) for p, s in side.top()} for side in (book.bids, book.asks))
    return bids, asks


def kinds(out: list[Output]) -> list[str]:
    """Return what kinds of book changes these outputs hold."""
    return [event.kind for event in out if isinstance(event, BookUpdate)]


def statuses(out: list[Output]) -> list[str]:
    """Return what kinds of statuses these outputs hold."""
    return [event.kind for event in out if isinstance(event, FeedStatus)]


def fetches(out: list[Output]) -> list[Fetch]:
    """Return the requests among these outputs."""
    return [output for output in out if isinstance(output, Fetch)]


def ids(out: list[Output]) -> list[str]:
    """Return the ids of the trades that were told."""
    return [trade.trade_id for event in out if isinstance(event, Trades) for trade in event.trades]


# --- The recording of levels ---


@pytest.fixture(scope="module")
def levels_played() -> tuple[list[dict[str, Any]], CoinbaseExchangeFeed, list[Output]]:
    """The recorded frames as plain values, the feed after them, and all that it said."""
    lines = recording("coinbase_exchange_legacy.jsonl.zst")
    return [json.loads(line.data) for line in lines], *play(lines)


def test_recorded_levels_are_read_whole(
    levels_played: tuple[list[dict[str, Any]], CoinbaseExchangeFeed, list[Output]],
) -> None:
    """Five snapshots and every change of them, nothing refused; no book is ever crossed."""
    _, feed, out = levels_played
    expected = {"frames": 5_713, "snapshots": 5, "book_updates": 5_551, "trades": 77, "quotes": 77}
    assert {key: feed.counts[key] for key in expected} == expected
    refused = ("gaps", "dead_letters", "duplicates", "deltas_before_snapshot", "ignored")
    assert [feed.counts[key] for key in refused] == [0] * 5
    assert not any(book.is_crossed() for book in follow(out).values())


def test_final_levels_equal_those_computed_independently(
    levels_played: tuple[list[dict[str, Any]], CoinbaseExchangeFeed, list[Output]],
) -> None:
    """Plain dicts of Decimals over the raw frames give the same books."""
    sent, _, out = levels_played
    expected: dict[str, dict[str, Levels]] = {}
    for frame in sent:
        if frame["type"] == "snapshot":
            expected[frame["product_id"]] = {
                side: {Decimal(p): Decimal(s) for p, s in frame[rows]}
                for side, rows in (("buy", "bids"), ("sell", "asks"))
            }
        elif frame["type"] == "l2update":
            for side, price, size in frame["changes"]:
                levels = expected[frame["product_id"]][side]
                levels[Decimal(price)] = Decimal(size)
                if not Decimal(size):
                    del levels[Decimal(price)]
    got = {name: dict(zip(("buy", "sell"), levels_of(book), strict=True)) for name, book in follow(out).items()}
    assert got == expected


def test_trades_have_the_takers_side_and_no_gap(
    levels_played: tuple[list[dict[str, Any]], CoinbaseExchangeFeed, list[Output]],
) -> None:
    """The aggressor's side is the opposite of the one that is sent.

    Coinbase documents `side` of a match as the maker's: "If the side is sell this indicates the maker was a sell order
    and the match is considered an up-tick" ("Exchange WebSocket Channels", Match).
    """
    sent, _, out = levels_played
    opposite = {"buy": "sell", "sell": "buy"}
    expected = [
        (frame["product_id"], str(frame["trade_id"]), frame["price"], frame["size"], opposite[frame["side"]])
        for frame in sent
        if frame["type"] in {"match", "last_match"}
    ]
    got = [
        (event.symbol, trade.trade_id, trade.price, trade.size, trade.side)
        for event in out if isinstance(event, Trades) for trade in event.trades
    ]  # fmt: skip
    assert got == expected
    for name in {row[0] for row in got}:
        numbers = [int(row[1]) for row in got if row[0] == name]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


# --- The recording of orders ---


@pytest.fixture(scope="module")
def logged() -> list[Recorded]:
    """The log of single orders; its first rows are the book."""
    return recording("coinbase_l3_2016.in.zst")


def test_recorded_orders_add_up_to_the_recorded_levels(logged: list[Recorded]) -> None:
    """The 50 + 50 levels that the recorder wrote at the end, of 7,109 orders and 2,376 messages after them."""
    feed, out = play(logged)
    truth = json.loads((RECORDINGS / "coinbase_l3_2016.out").read_text(), parse_float=Decimal, parse_int=Decimal)
    (book,) = follow(out).values()
    for side, rows in ((book.bids, truth["bids"]), (book.asks, truth["asks"])):
        assert [[Decimal(price), Decimal(size)] for price, size in side.top(50)] == rows
    assert [event.sequence for event in out if isinstance(event, BookUpdate)][-1] == truth["sequence"]
    assert {key: feed.counts[key] for key in ("frames", "snapshots", "trades")} == {
        "frames": 9_485, "snapshots": 1, "trades": 1,
    }  # fmt: skip
    refused = ("gaps", "dead_letters", "duplicates", "deltas_before_snapshot", "unknown_makers")
    assert [feed.counts[key] for key in refused] == [0] * 5


START, LIVE = 120, 90  # there is a match among them
TAIL = 10  # messages at the end that are left alone, so that every loss before them is seen
NEAR = Decimal(2)  # orders farther from the market than this are left out, so that many runs are quick


class Exchange:
    """What the venue knew after each of the first live messages: its orders, kept in the plainest way."""

    def __init__(self, logged: list[Recorded]) -> None:
        rows = [line for line in logged if '"time": ""' in line.data]
        live = [line.frame for line in logged[len(rows) : len(rows) + START + LIVE]]
        self.frames = live[START:]
        orders = {
            row["order_id"]: (row["side"], Decimal(row["price"]), Decimal(row["remaining_size"]))
            for row in map(json.loads, (line.data for line in rows))
            if abs(Decimal(row["price"]) - 413) < NEAR
        }
        self.orders: list[dict[str, tuple[str, Decimal, Decimal]]] = []
        for frame in live:
            message = json.loads(frame)
            if len(self.orders) == START:
                self.first = message["sequence"]
            self.orders.append(orders)
            orders = dict(orders)
            match message["type"]:
                case "open":
                    size = Decimal(message["remaining_size"])
                    orders[message["order_id"]] = (message["side"], Decimal(message["price"]), size)
                case "done":
                    orders.pop(message["order_id"], None)
                case "match":
                    side, price, size = orders[message["maker_order_id"]]
                    orders[message["maker_order_id"]] = (side, price, size - Decimal(message["size"]))
        self.orders = [*self.orders[START:], orders]

    def levels(self, sequence: int) -> tuple[Levels, Levels]:
        """Return the levels after this sequence."""
        sides: dict[str, Levels] = {"buy": {}, "sell": {}}
        for side, price, size in self.orders[sequence - self.first + 1].values():
            if size:
                sides[side][price] = sides[side].get(price, Decimal()) + size
        return sides["buy"], sides["sell"]

    def body(self, count: int) -> bytes:
        """Return REST's book after so many live messages."""
        sides: dict[str, list[list[str]]] = {"buy": [], "sell": []}
        for order_id, (side, price, size) in self.orders[count].items():
            if size:
                sides[side].append([str(price), str(size), order_id])
        sequence = self.first - 1 + count
        return json.dumps({"sequence": sequence, "bids": sides["buy"], "asks": sides["sell"]}).encode()


@cache
def exchange() -> Exchange:
    """The venue of the recording."""
    return Exchange(recording("coinbase_l3_2016.in.zst"))


class Player:
    """Plays messages and answers requests, and holds every told book to what the venue had at that sequence."""

    def __init__(self) -> None:
        self.feed = CoinbaseExchangeFeed(line="coinbase_exchange/0")
        self.out = self.feed.opened(T0)
        self.asked: list[tuple[int, Fetch]] = []
        self.book = L2Book()
        self.valid = False
        self.sequence = 0

    def take(self, out: list[Output], place: int) -> None:
        """Follow what the feed says."""
        self.out += out
        self.asked += [(place, request) for request in fetches(out) if request.purpose == "book"]
        for event in out:
            if isinstance(event, BookUpdate) and event.kind != "heartbeat":
                if event.kind in {"snapshot", "clear"}:
                    self.book.clear()
                self.book.bids.apply(event.bid_prices, event.bid_sizes)
                self.book.asks.apply(event.ask_prices, event.ask_sizes)
                self.valid = event.valid
                if event.valid:
                    assert event.sequence is not None
                    self.sequence = event.sequence
                    assert levels_of(self.book) == exchange().levels(event.sequence)

    def answer(self, place: int, delay: int) -> None:
        """Answer what was asked at least `delay` messages ago by the book of then, of now, or of a little later."""
        for at, request in [asked for asked in self.asked if asked[0] + delay <= place]:
            self.asked.remove((at, request))
            count = min((at, place, place + 3)[delay % 3], LIVE)
            self.take(self.feed.fetched(request, exchange().body(count), T0), place)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), delay=st.integers(0, 7))
def test_no_disturbance_leaves_a_wrong_book_and_each_is_repaired(data: st.DataObject, delay: int) -> None:
    """Messages lost, doubled, swapped or spoilt, wherever; books asked for are answered late, some too old."""
    places = st.integers(0, LIVE - TAIL)
    order = list(range(LIVE))
    spoilt: set[int] = set()
    for kind in data.draw(st.lists(st.sampled_from(("lost", "doubled", "swapped", "spoilt")), max_size=3)):
        at = data.draw(places)
        match kind:
            case "lost":
                del order[at : at + data.draw(st.integers(1, 3))]
            case "doubled":
                order.insert(min(at + data.draw(st.integers(1, 4)), LIVE - TAIL), order[at])
            case "swapped":
                order[at], order[at + 1] = order[at + 1], order[at]
            case "spoilt":
                spoilt.add(order[at])
    player, seen = Player(), 0
    for place in order:
        seen = max(seen, place + 1)
        frame = exchange().frames[place]
        broken = frame[:-2] if place in spoilt else frame
        player.take(player.feed.received(broken, T0), seen)
        player.answer(seen, delay)
        if place in spoilt:
            assert any(isinstance(o, DeadLetter) and o.payload == broken for o in player.out)
    while player.asked:
        player.answer(LIVE + 8, 1)
    assert player.valid
    assert levels_of(player.book) == exchange().levels(exchange().first + LIVE - 1)


def test_window_of_the_disturbances_has_every_kind_of_message() -> None:
    """Else they would prove less than they say."""
    found = {json.loads(frame)["type"] for frame in exchange().frames}
    assert found == {"received", "open", "match", "done"}


# --- Orders made by hand ---


def message(kind: str, sequence: int | None, **fields: Any) -> bytes:
    """Return a message of `full`; its time is its sequence in milliseconds."""
    time = f"2026-08-09T21:00:{(sequence or 0) / 1000:06.3f}000Z"
    sent: dict[str, Any] = {"type": kind, "product_id": NAME, "time": time}
    if sequence is not None:
        sent["sequence"] = sequence
    return json.dumps(sent | fields, separators=(",", ":")).encode()


def opened(sequence: int, order_id: str, side: str, price: str, size: str) -> bytes:
    """Return an order that begins to rest."""
    return message("open", sequence, order_id=order_id, side=side, price=price, remaining_size=size)


def matched(sequence: int, maker: str, size: str, trade_id: int = 1, price: str = "100") -> bytes:
    """Return a trade with a buyer who waited."""
    return message("match", sequence, maker_order_id=maker, taker_order_id="t", trade_id=trade_id, side="buy",
                   price=price, size=size)  # fmt: skip


def rest_book(sequence: Any, *orders: tuple[str, str, str, str]) -> bytes:
    """Return REST's book of level 3, of orders (side, price, size, id)."""
    sides = {side: [list(order[1:]) for order in orders if order[0] == side] for side in ("bid", "ask")}
    return json.dumps({"sequence": sequence, "bids": sides["bid"], "asks": sides["ask"]}).encode()


ORDERS = (("bid", "100", "1", "a"), ("bid", "100.0", "2", "b"), ("bid", "99", "1", "c"), ("ask", "101", "1", "d"))


def listed(**channels: list[str]) -> bytes:
    """Return the list of what the connection is subscribed to."""
    return json.dumps({"type": "subscriptions",
                       "channels": [{"name": one, "product_ids": names} for one, names in channels.items()]}
                      ).encode()  # fmt: skip


def acknowledge(feed: CoinbaseExchangeFeed, depth: str = "level2_batch") -> list[Output]:
    """Answer each message of a new connection of one product with the list of everything that is subscribed."""
    channels = {channel: [NAME] for channel in (depth, "matches", "ticker", "heartbeat")}
    return [output for _ in range(5) for output in feed.received(listed(**channels), T0)]


@pytest.fixture
def full() -> CoinbaseExchangeFeed:
    """A feed that has a book of four orders, at sequence 10."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), depth="full")
    feed.opened(T0)
    (request,) = fetches(feed.received(message("received", 8, order_id="x"), T0))
    assert (request.path, request.symbol) == ("products/BTC-USD/book?level=3", NAME)
    feed.received(message("done", 9, order_id="x", reason="canceled"), T0)
    feed.received(message("received", 10, order_id="x"), T0)
    out = feed.fetched(request, rest_book(10, *ORDERS), T0)
    assert kinds(out) == ["snapshot"]
    return feed


def changes(out: list[Output]) -> list[tuple[str, str, str]]:
    """Return the level changes that these outputs hold."""
    found = []
    for event in out:
        if isinstance(event, BookUpdate) and event.kind in {"update", "snapshot"}:
            found += [("bid", p, s) for p, s in zip(event.bid_prices, event.bid_sizes, strict=True)]
            found += [("ask", p, s) for p, s in zip(event.ask_prices, event.ask_sizes, strict=True)]
    return found


def test_messages_wait_for_the_book_and_are_played_on_top_of_it() -> None:
    """Those up to the snapshot's sequence are in it; the rest follow; the sequence may be text, as documented."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), depth="full")
    feed.opened(T0)
    out = feed.received(opened(9, "a", "buy", "100", "1"), T0)
    out += feed.received(opened(10, "e", "sell", "102", "4"), T0)
    out += feed.received(matched(11, "a", "0.25", trade_id=7), T0)
    assert kinds(out) == []
    assert ids(out) == ["7"]
    (request,) = fetches(out)
    out = feed.fetched(request, rest_book("9", *ORDERS), T0)
    assert changes(out) == [
        ("bid", "100", "2.75"), ("bid", "99", "1"), ("ask", "101", "1"), ("ask", "102", "4"),
    ]  # fmt: skip
    assert [event.sequence for event in out if isinstance(event, BookUpdate)] == [11]
    assert feed.counts["deltas_before_snapshot"] == 1


def test_what_was_on_its_way_while_the_book_was_made_changes_nothing_twice() -> None:
    """A book may be newer than the last message; its own messages are trades still."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), depth="full")
    feed.opened(T0)
    (request,) = fetches(feed.received(message("received", 8, order_id="x"), T0))
    assert kinds(feed.fetched(request, rest_book(10, *ORDERS), T0)) == ["snapshot"]
    out = feed.received(matched(9, "a", "0.5", trade_id=4), T0) + feed.received(matched(10, "a", "0.5", trade_id=5), T0)
    assert kinds(out) == []
    assert ids(out) == ["4", "5"]
    assert changes(feed.received(matched(11, "a", "0.5", trade_id=6), T0)) == [("bid", "100", "2.5")]


def test_cancel_of_an_order_that_is_not_there_proves_that_the_snapshot_was_not_whole(
    full: CoinbaseExchangeFeed,
) -> None:
    """It rested before; what was received since need not have, nor what the snapshot may have come in between of."""
    cancelled = {"reason": "canceled", "price": "98", "remaining_size": "1"}
    for number, kind, fields in (
        (11, "done", {"order_id": "between", **cancelled}),
        (12, "received", {"order_id": "new"}),
        (13, "done", {"order_id": "new", **cancelled}),
        (14, "done", {"order_id": "market", "reason": "canceled"}),
        (15, "done", {"order_id": "filled", "reason": "filled", "price": "98"}),
    ):
        assert kinds(full.received(message(kind, number, **fields), T0)) == []
    out = full.received(message("done", 16, order_id="missing", **cancelled), T0)
    assert kinds(out) == ["clear"]
    assert full.counts["unknown_orders"] == full.counts["gaps"] == 1
    (request,) = fetches(out)
    assert kinds(full.fetched(request, rest_book(17, *ORDERS), T0)) == ["snapshot"]


def test_snapshot_that_is_too_old_is_asked_for_again() -> None:
    """A book from before the first message that waits would leave a hole."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), depth="full")
    feed.opened(T0)
    (request,) = fetches(feed.received(opened(9, "a", "buy", "100", "1"), T0))
    assert kinds(out := feed.fetched(request, rest_book(7, *ORDERS), T0)) == []
    assert fetches(out) == []  # no sooner than a second later
    (request,) = fetches(feed.ticked(T0 + SECOND))
    assert kinds(feed.fetched(request, rest_book(8, *ORDERS[1:]), T0)) == ["snapshot"]
    assert changes(feed.received(message("done", 10, order_id="a"), T0)) == [("bid", "100", "2")]


def test_snapshot_that_misses_the_maker_of_what_waits_is_of_no_use() -> None:
    """A match with an order that is in neither proves the book wrong; a newer one is asked for."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), depth="full")
    feed.opened(T0)
    (request,) = fetches(feed.received(message("received", 8, order_id="x"), T0))
    feed.received(matched(9, "nobody", "0.5"), T0)
    out = feed.fetched(request, rest_book(8, *ORDERS), T0)
    assert kinds(out) == []
    assert feed.counts["unknown_makers"] == 1
    (request,) = fetches(feed.ticked(T0 + SECOND))
    assert kinds(feed.fetched(request, rest_book(8, *ORDERS), T0)) == []
    assert kinds(feed.fetched(request, rest_book(10, *ORDERS), T0)) == ["snapshot"]


def test_quiet_product_gets_its_book_once_the_subscription_stands() -> None:
    """No message need come before the book can be asked for; the first that comes must join."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), depth="full")
    orders = [json.loads(o.frame) for o in feed.opened(T0) if isinstance(o, Send)]
    assert orders[1] == {"type": "subscribe", "channels": ["full"], "product_ids": [NAME]}
    (request,) = fetches(acknowledge(feed, "full"))
    assert kinds(feed.fetched(request, rest_book(20, *ORDERS), T0)) == ["snapshot"]
    assert kinds(feed.received(opened(22, "z", "buy", "98", "1"), T0)) == ["clear"]


def test_orders_change_levels_as_documented(full: CoinbaseExchangeFeed) -> None:
    """Open, match, done and both kinds of change; what concerns no resting order changes nothing."""
    frames = [
        (opened(11, "e", "buy", "99.5", "0.50"), [("bid", "99.5", "0.5")]),
        (matched(12, "a", "0.4"), [("bid", "100", "2.6")]),
        (message("done", 13, order_id="a", reason="canceled", remaining_size="0.6"), [("bid", "100", "2")]),
        (message("change", 14, order_id="b", reason="STP", side="buy", price="100", old_size="2", new_size="1.5"),
         [("bid", "100", "1.5")]),
        (message("change", 15, order_id="b", reason="modify_order", old_size="1.5", new_size="1", old_price="100",
                 new_price="99.00"), [("bid", "100", "0"), ("bid", "99", "2")]),
        (message("change", 16, order_id="m", price=None, old_funds="2", new_funds="1"), []),
        (message("change", 17, order_id="unknown", price="100", old_size="2", new_size="1"), []),
        (message("done", 18, order_id="unknown", reason="filled"), []),
        (message("received", 19, order_id="r", order_type="market", price=None, funds="10"), []),
        (message("activate", None, order_id="s", stop_price="80"), []),
        (matched(20, "e", "0.5", trade_id=2), [("bid", "99.5", "0")]),
        (message("done", 21, order_id="e", reason="filled"), []),
        (message("done", 22, order_id="d", reason="canceled"), [("ask", "101", "0")]),
    ]  # fmt: skip
    for frame, expected in frames:
        assert changes(full.received(frame, T0)) == expected
    assert full.counts["gaps"] == full.counts["dead_letters"] == 0


def test_skipped_number_is_a_gap_until_a_new_book(full: CoinbaseExchangeFeed) -> None:
    """The book is cleared first, then told again under the same gap; old numbers are left alone."""
    out = full.received(opened(12, "e", "buy", "98", "1"), T0)
    assert kinds(out) == ["clear"]
    assert statuses(out) == ["gap", "resync"]
    (gap,) = [o for o in out if isinstance(o, FeedStatus) and o.kind == "gap"]
    assert (gap.expected, gap.received, gap.channel) == (11, 12, "full")
    (request,) = fetches(out)
    assert full.received(opened(11, "e", "buy", "98", "1"), T0) == []
    assert full.counts["duplicates"] == 1
    out = full.fetched(request, rest_book(12, *ORDERS), T0)
    assert kinds(out) == ["snapshot"]
    assert [o.gap_id for o in out if isinstance(o, FeedStatus)] == [gap.gap_id]


def test_maker_that_is_not_in_the_book_proves_it_wrong(full: CoinbaseExchangeFeed) -> None:
    """Its size is missing from a level that consumers see; the trade is true all the same."""
    out = full.received(matched(11, "nobody", "1", trade_id=5), T0)
    assert kinds(out) == ["clear"]
    assert ids(out) == ["5"]
    (request,) = fetches(out)
    assert kinds(full.fetched(request, rest_book(10, *ORDERS), T0)) == []
    assert full.counts["snapshots_too_old"] == 1


def test_level_of_more_digits_than_a_size_may_have_is_asked_for_again(full: CoinbaseExchangeFeed) -> None:
    """Two orders add up to it, in a change or in a snapshot, which is as useless as one that is too old."""
    out = full.received(opened(11, "e", "buy", "100", "9" * 30), T0)
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["out_of_range"]
    assert kinds(out) == ["clear"]
    (request,) = fetches(out)
    out = full.fetched(request, rest_book(12, *ORDERS, ("bid", "100", "9" * 30, "e")), T0)
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["out_of_range"]
    assert kinds(out) == []
    assert kinds(full.received(message("heartbeat", 12), T0)) == []
    (again,) = fetches(out) or fetches(full.ticked(T0 + 5 * SECOND))
    assert kinds(full.fetched(again, rest_book(12, *ORDERS), T0 + 6 * SECOND)) == ["snapshot"]


@pytest.mark.parametrize("number", [2**63 - 1, 2**63])
def test_number_behind_which_no_event_can_name_another_is_refused(full: CoinbaseExchangeFeed, number: int) -> None:
    """The ledger names the trade that came behind a hole; there is none above the largest number."""
    full.received(matched(11, "a", "0.25", trade_id=4), T0)
    out = full.received(message("heartbeat", 11, last_trade_id=number), T0)
    assert [type(output) for output in out if not isinstance(output, FeedStatus | BookUpdate | Fetch)] == [DeadLetter]


def test_heartbeat_shows_what_was_lost_at_the_end(full: CoinbaseExchangeFeed) -> None:
    """A number and a trade id that a heartbeat named, and that are not here a second later, are lost."""
    full.received(matched(11, "a", "0.1", trade_id=5), T0)
    out = full.received(message("heartbeat", 11, last_trade_id=5), T0)
    assert kinds(out) == ["heartbeat"]
    assert [o.trades for o in out if isinstance(o, Trades)] == [()]
    assert kinds(full.received(message("heartbeat", 13, last_trade_id=7), T0)) == []
    out = full.received(message("heartbeat", 13, last_trade_id=7), T0)
    assert kinds(out) == ["clear"]
    asked = fetches(out)
    assert [request.purpose for request in asked] == ["book", "trades"]
    listed = [{"trade_id": i, "time": "2026-08-09T21:00:00Z", "side": "sell", "price": "100", "size": "1"}
              for i in (7, 6, 5)]  # fmt: skip
    out = full.fetched(asked[1], json.dumps(listed).encode(), T0)
    assert ids(out) == ["6", "7"]
    assert {trade.side for o in out if isinstance(o, Trades) for trade in o.trades} == {"buy"}
    out = full.fetched(asked[0], rest_book(12, *ORDERS), T0)
    assert kinds(out) == []
    assert fetches(full.ticked(T0 + SECOND)) == [asked[0]]


def test_lost_connection_begins_with_a_new_book(full: CoinbaseExchangeFeed) -> None:
    """Nothing of the old connection's orders or numbers is used again."""
    out = full.closed("reset", T0)
    assert kinds(out) == ["clear"]
    assert kinds(full.opened(T0)) == []
    out = full.received(opened(500, "q", "buy", "90", "1"), T0)
    assert kinds(out) == []
    (request,) = fetches(out)
    out = full.fetched(request, rest_book(500, ("bid", "90", "1", "q")), T0)
    assert changes(out) == [("bid", "90", "1")]
    assert statuses(out) == ["resynced"]


JUNK: list[Any] = [None, True, -1, 1.5, 10**30, "", "NaN", "1e999", "9" * 70, "1e-40", [], {}, [[]], "2026-08-09T21:05"]
FRAMES = [
    opened(11, "e", "sell", "102", "1"), opened(11, "e", "sell", "102", "1").replace(b"2026", b"1926"),
    matched(11, "a", "0.5"), message("change", 11, order_id="a", new_size="2", new_price="98", reason="modify_order"),
    message("done", 11, order_id="a"), message("heartbeat", 12, last_trade_id=3), message("ticker", 11, price="1"),
    message("last_match", 9, trade_id=1, side="buy", price="1", size="1"),
]  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=st.sampled_from(FRAMES), junk=st.sampled_from(JUNK), at=st.integers(0, 9))
def test_any_value_may_be_junk(full: CoinbaseExchangeFeed, frame: bytes, junk: Any, at: int) -> None:
    """No value of a message or of a REST book makes the feed raise or say what Avro cannot carry."""
    values = json.loads(frame)
    values[sorted(values)[at % len(values)]] = junk
    out = full.received(json.dumps(values).encode(), T0)
    body = json.loads(rest_book(11, *ORDERS))
    body["bids"][0][at % 3] = junk
    body["sequence"] = junk if at > 7 else 10**6
    for request in fetches(out) or [Fetch("products/BTC-USD/book?level=3", "book", NAME)]:
        out += full.fetched(request, json.dumps(body).encode(), T0)
    for event in out:
        if isinstance(event, EVENTS):
            assert CODEC.decode(CODEC.encode(event)) == event


# --- Levels made by hand ---


def snapshot(**fields: Any) -> bytes:
    """Return a book of two levels."""
    return message("snapshot", None, bids=[["100", "1"]], asks=[["101", "1"]], **fields)


def update(*rows: tuple[str, str, str]) -> bytes:
    """Return a change of levels."""
    return message("l2update", None, changes=rows)


@pytest.fixture
def levels() -> CoinbaseExchangeFeed:
    """A feed that has a book of levels."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,))
    sent = [json.loads(output.frame) for output in feed.opened(T0) if isinstance(output, Send)]
    assert [order["channels"] for order in sent] == [
        ["status"],
        ["level2_batch"],
        ["matches"],
        ["ticker"],
        ["heartbeat"],
    ]
    acknowledge(feed)
    assert kinds(feed.received(snapshot(), T0)) == ["snapshot"]
    return feed


def test_crossed_levels_are_asked_for_again_unless_orders_do_not_match(levels: CoinbaseExchangeFeed) -> None:
    """Levels have no numbers, so this is the only sign of a lost change; in an auction books do cross."""
    out = levels.received(update(("buy", "102", "1")), T0)
    assert [(o.kind, o.reason) for o in out if isinstance(o, BookUpdate)] == [("clear", "crossed")]
    assert [json.loads(o.frame)["type"] for o in out if isinstance(o, Send)] == ["unsubscribe", "subscribe"]
    out = levels.received(snapshot(), T0)
    assert statuses(out) == ["resynced"]
    product = {"id": NAME, "status": "online", "auction_mode": True, "base_currency": "BTC", "quote_currency": "USD"}
    assert statuses(levels.received(json.dumps({"type": "status", "products": [product]}).encode(), T0)) == ["halted"]
    out = levels.received(update(("buy", "102", "1")), T0)
    assert [(o.kind, o.valid) for o in out if isinstance(o, BookUpdate)] == [("update", False)]
    product["auction_mode"] = False
    levels.received(json.dumps({"type": "status", "products": [product]}).encode(), T0)
    assert kinds(levels.received(update(), T0)) == ["clear"]


def test_unreadable_change_is_a_loss_of_that_book_alone(levels: CoinbaseExchangeFeed) -> None:
    """A ticker or a match that cannot be read costs no levels."""
    for frame in (message("ticker", 5, price=1), matched(5, "a", "x"), message("match", 6, trade_id="?")):
        assert kinds(levels.received(frame, T0)) == []
    assert levels.counts["dead_letters"] == 3
    assert kinds(levels.received(update(("buy", "x", "1")), T0)) == ["clear"]


def test_one_channel_speaks_for_a_book(levels: CoinbaseExchangeFeed) -> None:
    """Where both are subscribed, orders beside levels change nothing twice, and their matches are trades."""
    out = levels.received(opened(5, "a", "buy", "100", "3"), T0)
    out += levels.received(matched(6, "a", "1", trade_id=9), T0)
    assert kinds(out) == []
    assert fetches(out) == []
    assert ids(out) == ["9"]
    assert changes(levels.received(update(("buy", "100", "0.0")), T0)) == [("bid", "100", "0.0")]


def test_last_match_after_a_new_connection_shows_the_trades_between(levels: CoinbaseExchangeFeed) -> None:
    """What `matches` did not tell is asked of REST; with no trade between, the gap closes at once."""
    levels.received(matched(5, "a", "1", trade_id=1), T0)
    for last, skipped in ((1, False), (4, True)):
        levels.closed("reset", T0)
        levels.opened(T0)
        levels.received(snapshot(), T0)
        out = levels.received(message("last_match", 9, trade_id=last, side="buy", price="1", size="1"), T0)
        assert ("resynced" in statuses(out)) is not skipped
    (request,) = fetches(out)
    listed = [{"trade_id": i, "time": "2026-08-09T21:00:00Z", "side": "sell", "price": "1", "size": "1"}
              for i in (4, 3, 2, 1)]  # fmt: skip
    out = levels.fetched(request, json.dumps(listed).encode(), T0)
    assert ids(out) == ["2", "3"]
    assert "resynced" in statuses(out)


def test_heartbeat_vouches_for_levels_until_a_quarter_second_before(levels: CoinbaseExchangeFeed) -> None:
    """Batches are 50 ms; a halted second of silence is an answer, and five end the connection."""
    out = levels.received(message("heartbeat", 9_000, last_trade_id=3), T0)
    (beat,) = [o for o in out if isinstance(o, BookUpdate)]
    assert beat.kind == "heartbeat"
    assert beat.ts_event % (10 * SECOND) == 8_750_000_000
    out = levels.ticked(T0 + 6 * SECOND)
    assert kinds(out) == ["clear"]
    assert isinstance(out[-1], Reconnect)


def test_snapshot_that_does_not_come_is_asked_for_again() -> None:
    """Once for a product without a book, and then by a new connection where there was one."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,))
    feed.opened(T0)
    acknowledge(feed)
    told: list[Output] = []
    for second in range(1, 22):
        told += feed.received(message("heartbeat", 1), T0 + second * SECOND)
        told += feed.ticked(T0 + second * SECOND)
    assert [(o.kind, o.reason) for o in told if isinstance(o, FeedStatus)] == [
        ("unsubscribed", "no_data"), ("gap", "unsubscribed"),
    ]  # fmt: skip
    assert [json.loads(o.frame)["type"] for o in told if isinstance(o, Send)] == ["unsubscribe", "subscribe"]


def test_refused_product_costs_no_other() -> None:
    """An error refuses a message as a whole: its products are requested one by one, and one is refused."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME, "NO-SUCH"))
    feed.opened(T0)
    error = b'{"type":"error","message":"Failed to subscribe","reason":"NO-SUCH is not a valid product"}'
    feed.received(listed(), T0)
    told = [output for _ in range(4) for output in feed.received(error, T0)]
    assert [(json.loads(o.frame)["channels"], json.loads(o.frame)["product_ids"]) for o in told
            if isinstance(o, Send)] == [([channel], [name]) for channel in ("level2_batch", "matches", "ticker",
                                                                           "heartbeat")
                                        for name in (NAME, "NO-SUCH")]  # fmt: skip
    told = []
    for at in range(1, 5):
        channels = ("level2_batch", "matches", "ticker", "heartbeat")[:at]
        told += feed.received(listed(**{channel: [NAME] for channel in channels}), T0) + feed.received(error, T0)
    assert [(o.symbol, o.channel) for o in told if isinstance(o, FeedStatus) and o.kind == "unsubscribed"] == [
        ("NO-SUCH", "level2_batch"), ("NO-SUCH", "matches"), ("NO-SUCH", "ticker"), ("NO-SUCH", "heartbeat"),
    ]  # fmt: skip
    assert not [o for o in told if isinstance(o, FeedStatus) and o.symbol == NAME]


def test_product_that_a_later_list_leaves_out_is_on_the_ledger() -> None:
    """Each list has everything that is subscribed: its trades are not subscribed any more, and are invalid."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,))
    feed.opened(T0)
    acknowledge(feed)
    out = feed.received(listed(level2_batch=[NAME], ticker=[NAME], heartbeat=[NAME]), T0)
    told = [(o.kind, o.channel, o.reason) for o in out if isinstance(o, FeedStatus)]
    assert told == [("unsubscribed", "matches", "refused"), ("gap", "matches", "unsubscribed")]
    assert [event.valid for event in out if isinstance(event, Trades)] == [False]


def test_channel_of_books_may_be_listed_by_another_name() -> None:
    """`level2_batch` is listed as what it is: changes of every 50 ms."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,))
    feed.opened(T0)
    for channels in ({}, {"level2_50": [NAME]}):
        feed.received(listed(**channels), T0)
    assert feed.counts["subscriptions"] == 1


def test_product_that_is_lost_often_does_not_put_off_the_first_loss_of_another() -> None:
    """While other books are good, its own third loss within a minute waits ten seconds, and nobody else's."""
    names = ("ADA-USD", "BTC-USD", "ETH-USD")
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=names)
    feed.opened(T0)
    asked = []
    for lost in ("ADA-USD", "ADA-USD", "BTC-USD", "ADA-USD"):
        for name in names:
            feed.received(snapshot(product_id=name), T0)
        out = feed.received(message("l2update", None, product_id=lost, changes=[("buy", "102", "1")]), T0)
        assert kinds(out) == ["clear"]
        asked.append([json.loads(o.frame)["product_ids"] for o in out if isinstance(o, Send)])
    assert asked == [[["ADA-USD"]] * 2, [["ADA-USD"]] * 2, [["BTC-USD"]] * 2, []]


# --- Impossible times ---

IMPOSSIBLE = ("0001-01-01T00:00:00.000000Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-13-45T99:00:00Z",
              "2026-08-09T21:00:01", "yesterday")  # fmt: skip


@pytest.mark.parametrize("time", IMPOSSIBLE)
def test_change_of_levels_with_an_impossible_time_is_applied_when_it_was_received(time: str) -> None:
    """A snapshot, changes and a quote of such a time keep their values and the book; the venue's clock stays."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0")
    out = feed.received(snapshot(time=time), T0)
    clock = "2026-08-09T21:00:01.000000Z"
    out += feed.received(message("l2update", None, time=clock, changes=[("sell", "102", "0.5")]), T0 + 1)
    out += feed.received(message("l2update", None, time=time, changes=[("buy", "100.5", "0.7")]), T0 + 2)
    assert feed.ts_venue == iso_ns(clock, "time")
    published = [event for event in out if isinstance(event, BookUpdate)]
    assert [event.kind for event in published] == ["snapshot", "update", "update"]
    assert [event.ts_event for event in published] == [T0, iso_ns(clock, "time"), T0 + 2]
    assert all(event.valid for event in published)
    assert follow(out)[NAME].bids.best() == ("100.5", "0.7")
    (quote,) = feed.received(message("ticker", 7, time=time, best_bid="100", best_ask="101"), T0 + 3)
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.ask, quote.ts_event) == ("100", "101", T0 + 3)
    assert (feed.counts["impossible_times"], feed.counts["dead_letters"], feed.counts["gaps"]) == (3, 0, 0)


def test_change_of_levels_with_a_null_time_is_applied(levels: CoinbaseExchangeFeed) -> None:
    """Null is no time, as a field that is left out."""
    out = levels.received(message("l2update", None, time=None, changes=[("buy", "100", "7")]), T0)
    assert changes(out) == [("bid", "100", "7")]


@pytest.mark.parametrize("time", IMPOSSIBLE)
def test_heartbeat_of_an_impossible_time_vouches_for_nothing_and_costs_no_book(
    levels: CoinbaseExchangeFeed, time: str
) -> None:
    """It is a dead letter, and the next change is applied."""
    out = levels.received(message("heartbeat", 9, last_trade_id=3, time=time), T0)
    assert [type(event) for event in out] == [DeadLetter]
    assert kinds(levels.received(message("l2update", None, changes=[("buy", "100", "7")]), T0)) == ["update"]


@pytest.mark.parametrize("time", IMPOSSIBLE)
def test_order_and_match_with_an_impossible_time_change_the_book_of_orders(
    full: CoinbaseExchangeFeed, time: str
) -> None:
    """The sequence goes on and the book is kept; the trade alone is a dead letter, and REST's trades bring it."""
    out = full.received(opened(11, "n", "buy", "100", "5").replace(b"2026-08-09T21:00:00.011000Z", time.encode()), T0)
    assert [(event.kind, event.ts_event) for event in out if isinstance(event, BookUpdate)] == [("update", T0)]
    full.received(matched(12, "n", "1", trade_id=5), T0)
    out = full.received(matched(13, "n", "1", trade_id=6).replace(b"2026-08-09T21:00:00.013000Z", time.encode()), T0)
    assert kinds(out) == ["update"]
    assert ids(out) == []
    assert len([event for event in out if isinstance(event, DeadLetter)]) == 1
    out = full.received(matched(14, "n", "1", trade_id=7), T0)
    assert kinds(out) == ["update"]
    assert ids(out) == ["7"]
    (request,) = fetches(out)
    listed = [{"trade_id": i, "time": at, "side": "sell", "price": "100", "size": "1"}
              for i, at in ((7, "2026-08-09T21:00:00Z"), (6, "2026-08-09T21:00:00Z"), (4, time))]  # fmt: skip
    assert ids(full.fetched(request, json.dumps(listed).encode(), T0)) == ["6"]


def test_rest_book_of_an_impossible_time_is_taken() -> None:
    """Its sequence places it among the messages, not its time."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), depth="full")
    feed.opened(T0)
    (request,) = fetches(feed.received(opened(10, "x", "buy", "99", "5"), T0))
    body = json.loads(rest_book(10, *ORDERS)) | {"time": "0001-01-01T00:00:00Z"}
    out = feed.fetched(request, json.dumps(body).encode(), T0)
    assert [(event.kind, event.ts_event) for event in out if isinstance(event, BookUpdate)] == [("snapshot", T0)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["buy", "sell"]), st.integers(0, 4), st.integers(0, 3), st.sampled_from(IMPOSSIBLE)),
        max_size=20,
    ),
    st.data(),
)
def test_times_change_no_level(steps: list[tuple[str, int, int, str]], data: st.DataObject) -> None:
    """Whichever changes have impossible times, the book has the levels that it has with good ones."""
    good, spoilt = (CoinbaseExchangeFeed(line="coinbase_exchange/0") for _ in range(2))
    out, published = good.received(snapshot(), T0), spoilt.received(snapshot(), T0)
    for side, place, size, time in steps:
        price = str(100 - place if side == "buy" else 101 + place)
        fields: dict[str, Any] = {"changes": [(side, price, str(size))]}
        out += good.received(message("l2update", 1, **fields), T0)
        fields |= {"time": time} if data.draw(st.booleans()) else {}
        published += spoilt.received(message("l2update", 1, **fields), T0)
    assert levels_of(follow(published)[NAME]) == levels_of(follow(out)[NAME])
    assert kinds(published) == kinds(out)


# --- Products, quotes, and what is not known ---


def test_products_are_told_as_instruments_with_their_state(levels: CoinbaseExchangeFeed) -> None:
    """REST gives increments and switches; `post_only` and its like mean that no orders match."""
    product = {
        "id": NAME, "base_currency": "BTC", "quote_currency": "USD", "quote_increment": "0.01",
        "base_increment": "0.00000001", "display_name": "BTC/USD", "min_market_funds": "1", "status": "online",
        "status_message": "", "cancel_only": False, "limit_only": False, "post_only": False, "auction_mode": False,
        "trading_disabled": False,
    }  # fmt: skip
    request = Fetch("products", "products")
    others = [{"id": "ETH-USD", "status": "online"}, {"id": "bad name", "status": "x"}, {"status": 1}]
    out = levels.fetched(request, json.dumps([product, *others]).encode(), T0)
    (told,) = [output for output in out if isinstance(output, Instrument)]
    assert (told.symbol, told.base_currency, told.quote_currency) == (NAME, "BTC", "USD")
    assert (told.tick_size, told.size_increment, told.status) == ("0.01", "0.00000001", "online")
    assert len([output for output in out if isinstance(output, DeadLetter)]) == 1
    out = levels.fetched(request, json.dumps([product | {"post_only": True}]).encode(), T0)
    assert [(o.kind, o.reason) for o in out if isinstance(o, FeedStatus)] == [("halted", "post_only")]


def test_ticker_is_a_quote(levels: CoinbaseExchangeFeed) -> None:
    """Sizes came later to the channel; older recordings have none."""
    frame = message("ticker", 7, price="100.5", best_bid="100", best_ask="101", volume_24h="5", low_24h="90",
                    high_24h="110", open_24h="95", best_bid_size="2")  # fmt: skip
    (quote,) = [output for output in levels.received(frame, T0) if isinstance(output, Quote)]
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("100", "2", "101", None)
    assert (quote.last, quote.volume_24h, quote.low_24h, quote.high_24h) == ("100.5", "5", "90", "110")


def test_messages_that_are_not_known_are_kept_and_cost_nothing(levels: CoinbaseExchangeFeed) -> None:
    """Coinbase may add types at any time (documented); refusals are dead letters with the venue's words."""
    frames = {
        b'{"type":"news","product_id":"BTC-USD"}': "unknown_frame",
        b'{"type":"error","message":"Failed to subscribe","reason":"full requires a key"}': "venue_error",
    }
    for frame, reason in frames.items():
        (out,) = levels.received(frame, T0)
        assert isinstance(out, DeadLetter)
        assert (out.payload, out.reason) == (frame, reason)
