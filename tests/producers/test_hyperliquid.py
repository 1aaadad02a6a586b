"""The Hyperliquid feed: whole books, trades by id, funding and open interest, refused channels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from marketdata.errors import BadEvent
from marketdata.events import BookUpdate, DeadLetter, Derivative, FeedStatus, Quote, Trades
from marketdata.feed import Output, Send
from producers.venues.hyperliquid.feed import HyperliquidFeed

T0 = 1_790_000_000_000_000_000
MS = T0 // 1_000_000
SECOND = 1_000_000_000


def frame(channel: str, data: Any) -> bytes:
    """Return a frame."""
    return json.dumps({"channel": channel, "data": data}).encode()


def book(ms: int = MS, bid: str = "100.0") -> bytes:
    """Return a whole book."""
    levels = [[{"px": bid, "sz": "2.5", "n": 3}], [{"px": "101.0", "sz": "1", "n": 1}]]
    return frame("l2Book", {"coin": "BTC", "time": ms, "levels": levels})


def trade(number: int, **more: Any) -> dict[str, Any]:
    """Return a trade as the venue writes it."""
    values = {
        "coin": "BTC",
        "side": "A",
        "px": "100.5",
        "sz": "0.25",
        "time": MS + number,
        "hash": "0x0",
        "tid": number,
    }
    return values | more


def orders(out: list[Output]) -> list[dict[str, Any]]:
    """Return the messages to the venue."""
    return [json.loads(output.frame) for output in out if isinstance(output, Send)]


@pytest.fixture
def feed() -> HyperliquidFeed:
    """A feed of one coin whose channels are all subscribed."""
    made = HyperliquidFeed(line="hyperliquid/0", products=("BTC",))
    for order in orders(made.opened(T0)):
        made.received(frame("subscriptionResponse", order), T0)
    return made


def test_each_channel_of_each_coin_is_a_message() -> None:
    """The venue knows no lists."""
    out = HyperliquidFeed(line="hyperliquid/0", products=("BTC", "kPEPE")).opened(T0)
    assert [tuple(order["subscription"].values()) for order in orders(out)] == [
        (kind, coin) for kind in ("l2Book", "trades", "activeAssetCtx") for coin in ("BTC", "kPEPE")
    ]


def test_each_book_is_whole_and_an_older_one_is_left_out(feed: HyperliquidFeed) -> None:
    """Nothing numbers them but their time."""
    kinds = [o.kind for o in feed.received(book(), T0) if isinstance(o, BookUpdate)]
    (newer,) = (o for o in feed.received(book(MS + 500, "100.5"), T0) if isinstance(o, BookUpdate))
    assert kinds == ["snapshot"]
    assert (newer.kind, newer.bid_prices, newer.ask_sizes) == ("snapshot", ["100.5"], ["1"])
    assert feed.received(book(MS + 100), T0) == []
    assert feed.counts["duplicates"] == 1


def test_side_is_the_aggressors_and_each_trade_is_published_once(feed: HyperliquidFeed) -> None:
    """A sells, B buys; the last trades of a new subscription are repeats."""
    out = feed.received(frame("trades", [trade(7), trade(9, side="B")]), T0)
    (event,) = (o for o in out if isinstance(o, Trades))
    assert [(one.trade_id, one.side, one.price, one.size) for one in event.trades] == [
        ("7", "sell", "100.5", "0.25"),
        ("9", "buy", "100.5", "0.25"),
    ]
    assert feed.received(frame("trades", [trade(9)]), T0) == []
    assert feed.counts["repeats"] == 1


def test_trades_after_a_reconnect_are_whole_when_the_first_list_reaches_back(feed: HyperliquidFeed) -> None:
    """Else the gap stays on the ledger, and the stream of trades states it."""
    feed.received(frame("trades", [trade(1), trade(2)]), T0)
    for reaches_back, ids in ((True, (2, 3)), (False, (8, 9))):
        feed.closed("reset", T0 + SECOND)
        for order in orders(feed.opened(T0 + SECOND)):
            feed.received(frame("subscriptionResponse", order), T0 + SECOND)
        feed.received(book(MS + 1_000), T0 + SECOND)
        out = feed.received(frame("trades", [trade(number) for number in ids]), T0 + SECOND)
        kinds = [o.kind for o in out if isinstance(o, FeedStatus)]
        assert kinds == (["resynced"] if reaches_back else ["gap", "resynced"])


def test_an_asset_context_is_a_derivative_event(feed: HyperliquidFeed) -> None:
    """Funding is that of the current hour; what is not sent is null."""
    ctx = {"funding": "0.0000125", "openInterest": "29000.5", "markPx": "64000.0", "oraclePx": "64010.5", "midPx": "1"}
    out = feed.received(frame("activeAssetCtx", {"coin": "BTC", "ctx": ctx}), T0)
    (event,) = (o for o in out if isinstance(o, Derivative))
    assert (event.funding_rate, event.funding_interval) == ("0.0000125", 3_600)
    assert (event.mark_price, event.index_price, event.open_interest) == ("64000.0", "64010.5", "29000.5")
    assert event.next_funding_ts is None


def test_the_best_levels_are_a_quote_and_an_empty_side_is_null(feed: HyperliquidFeed) -> None:
    """Where a recording has the channel `bbo`."""
    best = [{"px": "100.0", "sz": "2", "n": 1}, None]
    out = feed.received(frame("bbo", {"coin": "BTC", "time": MS, "bbo": best}), T0)
    (quote,) = (o for o in out if isinstance(o, Quote))
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("100.0", "2", None, None)


def test_a_refused_subscription_is_on_the_ledger() -> None:
    """The error's text repeats what was asked for."""
    feed = HyperliquidFeed(line="hyperliquid/0", products=("BTC",))
    feed.opened(T0)
    text = 'Invalid subscription {"method":"subscribe","subscription":{"type":"trades","coin":"BTC"}}'
    out = feed.received(frame("error", text), T0)
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["venue_error"]
    assert [(o.channel, o.reason) for o in out if isinstance(o, FeedStatus) and o.kind == "unsubscribed"] == [
        ("trades", "refused")
    ]
    assert [o.channel for o in out if isinstance(o, FeedStatus) and o.kind == "gap"] == ["trades"]


def test_a_quiet_line_is_pinged_and_a_silent_one_is_given_up(feed: HyperliquidFeed) -> None:
    """The venue closes a connection on which nothing was sent for a minute."""
    assert Send(b'{"method":"ping"}') in feed.ticked(T0 + 16 * SECOND)
    assert feed.received(b'{"channel":"pong"}', T0 + 17 * SECOND) == []
    assert feed.counts["heartbeats"] == 1


def test_one_bad_trade_costs_no_other(feed: HyperliquidFeed) -> None:
    """It is a dead letter that names its field, and the gap is on the ledger."""
    feed.received(frame("trades", [trade(1)]), T0)
    out = feed.received(frame("trades", [trade(2, px="NaN"), trade(3)]), T0)
    assert [o.field for o in out if isinstance(o, DeadLetter)] == ["px"]
    assert [one.trade_id for o in out if isinstance(o, Trades) for one in o.trades] == ["3"]
    assert "gap" in [o.kind for o in out if isinstance(o, FeedStatus)]


@pytest.mark.parametrize("name", ["@107", "xyz:XYZ100", "", "A B"])
def test_names_that_do_not_show_what_they_are_are_refused(name: str) -> None:
    """The field and the value are named."""
    with pytest.raises(BadEvent, match="coin"):
        HyperliquidFeed(line="hyperliquid/0")._describe(name)


def test_names_keep_their_case_and_spot_pairs_are_spot() -> None:
    """`kPEPE` is a thousand PEPE, and no KPEPE exists."""
    feed = HyperliquidFeed(line="hyperliquid/0")
    assert [(feed._describe(n).symbol, feed._describe(n).kind) for n in ("kPEPE", "PURR/USDC")] == [
        ("kPEPE-USD-PERPETUAL", "perpetual"),
        ("PURR-USDC", "spot"),
    ]
