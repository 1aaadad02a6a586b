"""Books of single orders of Coinbase Exchange, message by message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata.codec import Codec
from marketdata.events import EVENTS, BookUpdate, DeadLetter, FeedStatus, Trades
from marketdata.feed import Fetch, Send
from producers.venues.coinbase_exchange.feed import CoinbaseExchangeFeed
from tests.producers.coinbase_exchange_messages import (
    NAME,
    ORDERS,
    SECOND,
    T0,
    acknowledge,
    changes,
    feed_of_orders,
    fetches,
    ids,
    kinds,
    matched,
    message,
    opened,
    rest_book,
    statuses,
)

CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})


@pytest.fixture
def full() -> CoinbaseExchangeFeed:
    """A feed that has a book of four orders, at sequence 10."""
    return feed_of_orders()


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
    """A book from before the first message that waits would leave a gap."""
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
    """The book is cleared first, then published again under the same gap; old numbers are left alone."""
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
    """The ledger names the trade that came after a gap; there is none above the largest number."""
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
