"""Books of levels, products, quotes and subscriptions of Coinbase Exchange, message by message."""

from __future__ import annotations

import json

import pytest

from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.coinbase_exchange.feed import CoinbaseExchangeFeed
from tests.producers.coinbase_exchange_messages import (
    NAME,
    SECOND,
    T0,
    acknowledge,
    changes,
    feed_of_levels,
    fetches,
    ids,
    kinds,
    listed,
    matched,
    message,
    opened,
    snapshot,
    statuses,
)


def update(*rows: tuple[str, str, str]) -> bytes:
    """Return a change of levels."""
    return message("l2update", None, changes=rows)


@pytest.fixture
def levels() -> CoinbaseExchangeFeed:
    """A feed that has a book of levels."""
    return feed_of_levels()


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
    """What `matches` did not send is requested by REST; with no trade between, the gap closes at once."""
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
    published: list[Output] = []
    for second in range(1, 22):
        published += feed.received(message("heartbeat", 1), T0 + second * SECOND)
        published += feed.ticked(T0 + second * SECOND)
    assert [(o.kind, o.reason) for o in published if isinstance(o, FeedStatus)] == [
        ("unsubscribed", "no_data"), ("gap", "unsubscribed"),
    ]  # fmt: skip
    assert [json.loads(o.frame)["type"] for o in published if isinstance(o, Send)] == ["unsubscribe", "subscribe"]


def test_refused_product_costs_no_other() -> None:
    """An error refuses a message as a whole: its products are requested one by one, and one is refused."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME, "NO-SUCH"))
    feed.opened(T0)
    error = b'{"type":"error","message":"Failed to subscribe","reason":"NO-SUCH is not a valid product"}'
    feed.received(listed(), T0)
    published = [output for _ in range(4) for output in feed.received(error, T0)]
    assert [(json.loads(o.frame)["channels"], json.loads(o.frame)["product_ids"]) for o in published
            if isinstance(o, Send)] == [([channel], [name]) for channel in ("level2_batch", "matches", "ticker",
                                                                           "heartbeat")
                                        for name in (NAME, "NO-SUCH")]  # fmt: skip
    published = []
    for at in range(1, 5):
        channels = ("level2_batch", "matches", "ticker", "heartbeat")[:at]
        published += feed.received(listed(**{channel: [NAME] for channel in channels}), T0) + feed.received(error, T0)
    assert [(o.symbol, o.channel) for o in published if isinstance(o, FeedStatus) and o.kind == "unsubscribed"] == [
        ("NO-SUCH", "level2_batch"), ("NO-SUCH", "matches"), ("NO-SUCH", "ticker"), ("NO-SUCH", "heartbeat"),
    ]  # fmt: skip
    assert not [o for o in published if isinstance(o, FeedStatus) and o.symbol == NAME]


def test_product_that_a_later_list_leaves_out_is_on_the_ledger() -> None:
    """Each list has everything that is subscribed: its trades are not subscribed any more, and are invalid."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,))
    feed.opened(T0)
    acknowledge(feed)
    out = feed.received(listed(level2_batch=[NAME], ticker=[NAME], heartbeat=[NAME]), T0)
    published = [(o.kind, o.channel, o.reason) for o in out if isinstance(o, FeedStatus)]
    assert published == [("unsubscribed", "matches", "refused"), ("gap", "matches", "unsubscribed")]
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
    (published,) = [output for output in out if isinstance(output, Instrument)]
    assert (published.symbol, published.base_currency, published.quote_currency) == (NAME, "BTC", "USD")
    assert (published.tick_size, published.size_increment, published.status) == ("0.01", "0.00000001", "online")
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
