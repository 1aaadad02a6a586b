"""Derivatives and liquidations of Bybit."""

from __future__ import annotations

import json

import pytest

from marketdata.events import DeadLetter, Quote
from marketdata.feed import Fetch
from producers.venues.bybit.feed import BybitFeed
from producers.venues.bybit.names import INVERSE, LINEAR, SPOT
from tests.producers.bybit_messages import (
    MS,
    T0,
    book,
    derived,
    feed_with_book,
    kinds,
    orders,
    ticker,
)


@pytest.fixture
def feed() -> BybitFeed:
    """A feed that has a book, numbered 10."""
    return feed_with_book()


def test_a_bad_value_of_a_ticker_costs_none_of_its_neighbours(feed: BybitFeed) -> None:
    """It is a dead letter that names field and value; empty values are unknown, and a delta has only its own."""
    out = feed.received(ticker("snapshot", markPrice="x", indexPrice="", openInterest="-1", fundingRate="-0.0001"), T0)
    (event,) = derived(out)
    assert (event.mark_price, event.index_price, event.open_interest) == (None, None, None)
    assert event.funding_rate == "-0.0001"
    assert [(o.field, o.value) for o in out if isinstance(o, DeadLetter)] == [
        ("mark_price", "x"), ("open_interest", "-1")]  # fmt: skip
    (event,) = derived(feed.received(ticker("delta", nextFundingTime=str(MS + 1)), T0))
    assert (event.next_funding_ts, event.funding_rate) == ((MS + 1) * 1_000_000, None)
    assert not derived(feed.received(ticker("delta", bid1Price="9", bid1Size="1"), T0))


def test_an_unreadable_ticker_asks_for_a_new_snapshot_once(feed: BybitFeed) -> None:
    """What it changed is unknown: until the snapshot a quote has only what came since."""
    feed.received(ticker("snapshot", bid1Price="9", bid1Size="1", lastPrice="10"), T0)
    asked = [one for _ in range(2) for one in orders(feed.received(ticker("delta", lastPrice=5), T0))]
    assert asked == [(verb, ["tickers.BTCUSDT"]) for verb in ("unsubscribe", "subscribe")]
    (quote,) = [o for o in feed.received(ticker("delta", lastPrice="11"), T0) if isinstance(o, Quote)]
    assert (quote.bid, quote.last) == (None, "11")


def test_a_lost_book_keeps_the_ticker(feed: BybitFeed) -> None:
    """Only the book is asked for again, so that the ticker's deltas must go on from what is known."""
    feed.received(ticker("snapshot", bid1Price="9", bid1Size="1", markPrice="10"), T0)
    assert kinds(feed.received(book("delta", 13, bids=[("9", "3")]), T0)) == ["clear"]
    (quote,) = [o for o in feed.received(ticker("delta", lastPrice="11"), T0) if isinstance(o, Quote)]
    assert (quote.bid, quote.last) == ("9", "11")


def test_liquidations_are_the_orders_that_close_positions(feed: BybitFeed) -> None:
    """`Buy` is a liquidated long position ("All Liquidation"), which a sell order closes; a bad one costs no other."""
    rows = [
        {"T": MS + 1, "s": "BTCUSDT", "S": "Sell", "v": "20000", "p": "0.04499"},
        {"T": MS + 2, "s": "BTCUSDT", "S": "Buy", "v": "0", "p": "0.04499"},
        {"T": MS + 3, "s": "BTCUSDT", "S": "Hold", "v": "1", "p": "0.04499"},
        {"T": MS + 4, "s": "BTCUSDT", "S": "Buy", "v": "1.50", "p": "0.0450"},
    ]
    frame = {"topic": "allLiquidation.BTCUSDT", "type": "snapshot", "ts": MS + 5, "data": rows}
    out = feed.received(json.dumps(frame, separators=(",", ":")).encode(), T0)
    (event,) = derived(out)
    assert [(one.ts_event, one.side, one.price, one.size) for one in event.liquidations] == [
        ((MS + 1) * 1_000_000, "buy", "0.04499", "20000"),
        ((MS + 4) * 1_000_000, "sell", "0.0450", "1.50"),
    ]
    assert sum(isinstance(o, DeadLetter) for o in out) == 2
    assert event.ts_event == (MS + 5) * 1_000_000


@pytest.mark.parametrize(("market", "has"), [(SPOT, False), (LINEAR, True), (INVERSE, True)])
def test_liquidations_are_subscribed_where_there_are_positions(market: str, *, has: bool) -> None:
    """At most ten topics a message (documented for the spot market), and the lists of the market's own products."""
    names = ("BTCUSD", "ETHUSD", "XRPUSD", "SOLUSD")
    out = BybitFeed(line="bybit/0", products=names, market=market).opened(T0)
    assert all(len(args) <= 10 for _, args in orders(out))
    topics = {topic.rpartition(".")[0] for _, args in orders(out) for topic in args}
    assert topics == {"orderbook.200", "publicTrade", "tickers"} | ({"allLiquidation"} if has else set())
    assert [f"category={market}&" in o.path for o in out if isinstance(o, Fetch)] == [True]
