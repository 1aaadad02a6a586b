"""Times of Coinbase Exchange that cannot be: they cost no book."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import BookUpdate, DeadLetter, Quote
from producers.venues.coinbase_exchange.feed import CoinbaseExchangeFeed
from producers.venues.kit.values import iso_ns
from tests.producers.coinbase_exchange_messages import (
    NAME,
    ORDERS,
    T0,
    changes,
    feed_of_levels,
    feed_of_orders,
    fetches,
    follow,
    ids,
    kinds,
    levels_of,
    matched,
    message,
    opened,
    rest_book,
    snapshot,
)


@pytest.fixture
def full() -> CoinbaseExchangeFeed:
    """A feed that has a book of four orders, at sequence 10."""
    return feed_of_orders()


@pytest.fixture
def levels() -> CoinbaseExchangeFeed:
    """A feed that has a book of levels."""
    return feed_of_levels()


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
