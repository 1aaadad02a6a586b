"""The Coinbase Exchange feed reads the recorded books and trades, and no loss leaves a wrong book of orders."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, Trades
from marketdata.feed import Fetch, Output
from producers.venues.coinbase_exchange.feed import CoinbaseExchangeFeed
from runtime import recordings
from runtime.recordings import Recorded
from tests.producers.coinbase_exchange_messages import (
    T0,
    Levels,
    fetches,
    follow,
    levels_of,
)

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"


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
    """Plays messages and answers requests, and holds every published book to what the venue had at that sequence."""

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
