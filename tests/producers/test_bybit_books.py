"""Books, best levels and tickers of Bybit, message by message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Quote, Trades
from marketdata.feed import Fetch, Output, Send
from producers.venues import make_feed
from producers.venues.bybit.feed import BybitFeed
from producers.venues.bybit.names import LINEAR
from tests.producers.bybit_messages import (
    MS,
    T0,
    book,
    feed_with_book,
    kinds,
    listed,
    orders,
    trade,
)


@pytest.fixture
def feed() -> BybitFeed:
    """A feed that has a book, numbered 10."""
    return feed_with_book()


def test_lost_number_clears_the_book_and_subscribes_again(feed: BybitFeed) -> None:
    """The gap closes with the next snapshot, under the same id."""
    assert kinds(feed.received(book("delta", 11, bids=[("9", "2")]), T0)) == ["update"]
    out = feed.received(book("delta", 13, bids=[("9", "3")]), T0)
    assert kinds(out) == ["clear"]
    (gap,) = [o for o in out if isinstance(o, FeedStatus) and o.kind == "gap"]
    assert (gap.expected, gap.received) == (12, 13)
    assert orders(out) == [(verb, ["orderbook.200.BTCUSDT"]) for verb in ("unsubscribe", "subscribe")]
    assert kinds(feed.received(book("delta", 14, bids=[("9", "4")]), T0)) == []
    out = feed.received(book("snapshot", 20, bids=[("9", "5")], asks=[("11", "1")]), T0)
    assert [o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"] == [gap.gap_id]


def test_snapshot_that_its_next_change_overtook_is_found_out_by_the_one_after() -> None:
    """The book is right for its number until 12 comes without 11; nothing later is published on top of it."""
    feed = BybitFeed(line="bybit/0", products=("BTCUSDT",), market=LINEAR)
    feed.opened(T0)
    assert kinds(feed.received(book("delta", 11, bids=[("9", "2")]), T0)) == []
    out = feed.received(book("snapshot", 10, bids=[("9", "1")], asks=[("11", "1")]), T0)
    assert [(o.kind, o.sequence) for o in out if isinstance(o, BookUpdate)] == [("snapshot", 10)]
    assert kinds(feed.received(book("delta", 12, bids=[("9", "3")]), T0)) == ["clear"]


def test_snapshot_in_the_middle_replaces_the_book(feed: BybitFeed) -> None:
    """After a restart of the service `u` is 1 (documented), and counts on from there."""
    assert kinds(feed.received(book("snapshot", 1, bids=[("8", "1")], asks=[("12", "1")]), T0)) == ["snapshot"]
    assert kinds(feed.received(book("delta", 2, bids=[("8", "2")]), T0)) == ["update"]


def test_unreadable_change_is_a_loss_of_that_book(feed: BybitFeed) -> None:
    """At once, whatever its number would have shown later; an unreadable trade is asked for."""
    frame = book("delta", 11, bids=[("x", "2")])
    out = feed.received(frame, T0)
    assert [o.payload for o in out if isinstance(o, DeadLetter)] == [frame]
    assert kinds(out) == ["clear"]
    assert [json.loads(o.frame)["op"] for o in out if isinstance(o, Send)] == ["unsubscribe", "subscribe"]
    out = feed.received(trade("a-1").replace(b'"Sell"', b'"None"').replace(b": ", b":"), T0)
    assert [o.purpose for o in out if isinstance(o, Fetch)] == ["trades"]


def test_trade_of_an_impossible_time_is_asked_for(feed: BybitFeed) -> None:
    """It would be refused behind the feed, which nobody could ask again there."""
    out = feed.received(trade("a-1").replace(f'"T": {MS}'.encode(), b'"T": 5'), T0)
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["time_out_of_bounds"]
    assert not [o for o in out if isinstance(o, Trades)]
    assert [o.purpose for o in out if isinstance(o, Fetch)] == ["trades"]


def test_frame_that_names_nothing_may_have_been_trades(feed: BybitFeed) -> None:
    """Their ids would not show it: the recent ones are asked for, and close the gap behind the next book."""
    feed.received(trade("a-1"), T0)
    (request,) = [o for o in feed.received(b"no frame", T0) if isinstance(o, Fetch)]
    feed.received(book("snapshot", 50, bids=[("9", "1")]), T0)
    out = feed.fetched(request, listed("a-2", "a-1"), T0)
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["a-2"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def test_book_that_says_the_size_of_improving_orders_too_costs_no_book(feed: BybitFeed) -> None:
    """Another book of the same product, with three values a level."""
    feed.received(book("snapshot", 50, bids=[("9", "1")]), T0)
    rpi = json.loads(book("snapshot", 9)) | {"topic": "orderbook.rpi.BTCUSDT"}
    for levels in ([["9", "1", "2"]], []):
        rpi["data"]["b"] = levels
        assert feed.received(json.dumps(rpi, separators=(",", ":")).encode(), T0) == []
    assert feed.counts["ignored"] == 2


def test_snapshot_of_a_ticker_forgets_what_was_before(feed: BybitFeed) -> None:
    """A change keeps the other fields; a snapshot has all that there are."""

    def ticker(kind: str, **fields: str) -> bytes:
        frame = {"topic": "tickers.BTCUSDT", "type": kind, "ts": MS, "data": {"symbol": "BTCUSDT"} | fields}
        return json.dumps(frame, separators=(",", ":")).encode()

    published = [
        (o.bid, o.last) for frame in (
            ticker("snapshot", bid1Price="9", bid1Size="1", markPrice="10"), ticker("delta", lastPrice="10"),
            ticker("snapshot", lastPrice="11", markPrice="10"),
        ) for o in feed.received(frame, T0) if isinstance(o, Quote)
    ]  # fmt: skip
    assert published == [("9", None), ("9", "10"), (None, "11")]


def test_seen_frames_are_dropped_and_other_depths_left_alone(feed: BybitFeed) -> None:
    """A second depth has the same book; depth 1 is a quote."""
    change = book("delta", 11, bids=[("9", "2")])
    feed.received(change, T0)
    assert feed.received(change, T0) == []
    assert feed.counts["duplicates"] == 1
    assert feed.received(book("snapshot", 99, bids=[("9", "7")], topic="orderbook.50"), T0) == []
    out = feed.received(book("snapshot", 5, bids=[("9", "7")], asks=[("10", "1")], topic="orderbook.1"), T0)
    assert [(q.bid, q.bid_size, q.ask) for q in out if isinstance(q, Quote)] == [("9", "7", "10")]


Row = tuple[str, str]


def best(kind: str, number: int, bids: list[Row], asks: list[Row]) -> bytes:
    """Return a frame of orderbook.1."""
    return book(kind, number, bids=bids, asks=asks, topic="orderbook.1")


def quoted(out: list[Output]) -> list[tuple[Row | None, Row | None, bool]]:
    """Return bid, ask and validity of the quotes among these outputs."""
    return [
        (
            None if q.bid is None else (q.bid, q.bid_size or ""),
            None if q.ask is None else (q.ask, q.ask_size or ""),
            q.valid,
        )
        for q in out
        if isinstance(q, Quote)
    ]


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_size_of_zero_removes_a_best_level(*, is_reversed: bool) -> None:
    """Wherever in the delta it is: never a quote of size zero; a side that is left out stays, one that ends is none."""
    feed = BybitFeed(line="bybit/0", market=LINEAR)

    def top(kind: str, number: int, bids: list[Row], asks: list[Row]) -> tuple[Row | None, Row | None, bool]:
        step = -1 if is_reversed else 1
        (quote,) = quoted(feed.received(best(kind, number, bids[::step], asks[::step]), T0))
        return quote

    bid, ask = ("1849.90", "3.1"), ("1850.20", "0.4")
    top("snapshot", 501, [("1850.10", "2.5")], [("1850.30", "1.25")])
    assert top("delta", 502, [("1850.10", "0"), bid], [ask, ("1850.30", "0.00")]) == (bid, ask, True)
    assert top("delta", 503, [], [(ask[0], "9")]) == (bid, (ask[0], "9"), True)
    assert top("delta", 504, [], [("1850.2", "0")]) == (bid, None, True)
    assert top("delta", 505, [(bid[0], "0")], []) == (None, None, True)
    assert top("delta", 506, [("1", "1"), ("3", "3"), ("2", "2")], [("7", "7"), ("6", "6")]) == (
        ("3", "3"), ("6", "6"), True)  # fmt: skip
    assert top("snapshot", 600, [("5", "5")], []) == (("5", "5"), None, True)
    assert top("delta", 601, [], [("8", "1")]) == (("5", "5"), ("8", "1"), True)


@pytest.mark.parametrize("kind", ["snapshot", "delta"])
def test_a_restart_of_the_service_overwrites_the_best_levels(kind: str) -> None:
    """`u` = 1 is a snapshot (documented), and the next delta follows it."""
    feed = BybitFeed(line="bybit/0", market=LINEAR)
    feed.received(best("snapshot", 501, [("9", "1")], [("11", "1")]), T0)
    assert quoted(feed.received(best(kind, 1, [("8", "2")], [("12", "0")]), T0)) == [(("8", "2"), None, True)]
    assert quoted(feed.received(best("delta", 2, [], [("13", "1")]), T0)) == [(("8", "2"), ("13", "1"), True)]


def test_a_lost_delta_leaves_no_best_levels_until_the_next_snapshot() -> None:
    """One that was seen changes nothing; deltas before a snapshot are counted, also on a new connection."""
    feed = BybitFeed(line="bybit/0", market=LINEAR)
    assert not quoted(feed.received(best("delta", 9, [("9", "1")], []), T0))
    feed.received(best("snapshot", 10, [("9", "1")], [("11", "1")]), T0)
    assert not quoted(feed.received(best("delta", 10, [("9", "0")], []), T0))
    out = feed.received(best("delta", 12, [("9", "2")], []), T0)
    assert quoted(out) == [(None, None, False)]
    assert not quoted(feed.received(best("delta", 13, [("9", "2")], []), T0))
    assert len(quoted(feed.received(best("snapshot", 14, [("9", "1")], []), T0))) == 1
    feed.closed("reset", T0)
    feed.opened(T0)
    assert not quoted(feed.received(best("delta", 15, [("9", "2")], []), T0))
    assert [feed.counts[name] for name in ("deltas_before_snapshot", "duplicates", "gaps")] == [3, 1, 1]


_ROWS = st.lists(
    st.tuples(st.integers(1, 5).map(str), st.integers(0, 3).map(str)), max_size=3, unique_by=lambda r: r[0]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["delta", "delta", "delta", "snapshot", "lost", "twice"]), _ROWS, _ROWS)))
def test_best_levels_are_those_of_all_changes(steps: list[tuple[str, list[Row], list[Row]]]) -> None:
    """Whatever comes, a quote is the best of what snapshot and deltas left, and nothing after a loss."""
    feed = BybitFeed(line="bybit/0", market=LINEAR)
    sides: list[dict[int, str]] = [{}, {}]
    is_known, number = False, 100
    for kind, bids, asks in steps:
        number += {"lost": 2, "twice": 0}.get(kind, 1)
        out = feed.received(best("snapshot" if kind == "snapshot" else "delta", number, bids, asks), T0)
        if not is_known and kind != "snapshot":
            assert not quoted(out)
            continue
        if kind == "twice":
            assert not quoted(out)
            continue
        if kind == "lost":
            is_known = False
            assert quoted(out) == [(None, None, False)]
            continue
        if kind == "snapshot":
            is_known, sides = True, [{}, {}]
        for side, rows in zip(sides, (bids, asks), strict=True):
            side.update({int(price): size for price, size in rows})
        left = [{price: size for price, size in side.items() if size != "0"} for side in sides]
        expected = [(str(at), side[at]) if (at := pick(side, default=0)) else None
                    for pick, side in zip((max, min), left, strict=True)]  # fmt: skip
        assert quoted(out) == [(*expected, True)]


def test_unreadable_frame_may_have_been_of_either_market() -> None:
    """Both books are cleared, and the frame is one dead letter."""
    mixed = make_feed("bybit")
    mixed.opened(T0)
    level = '"data":{"s":"BTCUSDT","b":[["1","1"]],"a":[["2","1"]],"u":1,"seq":1}'
    mixed.received(f'{{"topic":"orderbook.200.BTCUSDT","ts":{MS},"type":"snapshot",{level}}}'.encode(), T0)
    mixed.received(f'{{"topic":"orderbook.200.BTCUSDT","type":"snapshot","ts":{MS},{level}}}'.encode(), T0)
    out = mixed.received(b"no frame", T0)
    assert {o.symbol for o in out if isinstance(o, BookUpdate)} == {"BTC-USDT", "BTC-USDT-PERP"}
    assert sum(isinstance(o, DeadLetter) for o in out) == 1
