"""The Coinbase feed, frame by frame: subscriptions, books, quotes, states and names of products."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from marketdata.clock import parse_rfc3339
from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Send
from producers.venues import VENUES, make_feed
from producers.venues.coinbase.feed import CoinbaseFeed
from tests.producers.coinbase_frames import PRODUCTS, SECOND, T0, acknowledge, orders, story, subscribed

if TYPE_CHECKING:
    from tests.producers.conftest import Frames


@pytest.fixture
def feed() -> CoinbaseFeed:
    """A feed of two products whose connection is up."""
    feed = CoinbaseFeed(line="coinbase/0", products=PRODUCTS)
    feed.opened(T0)
    return feed


def test_subscribes_each_channel_in_its_own_message_with_a_fresh_token() -> None:
    """One message per channel, each signed at the time it is sent."""
    feed = CoinbaseFeed(line="coinbase/0", products=PRODUCTS, token=lambda ts: f"token at {ts}")
    sent = [json.loads(output.frame) for output in feed.opened(T0) if isinstance(output, Send)]
    assert [order["channel"] for order in sent] == ["heartbeats", "status", "level2", "market_trades", "ticker"]
    assert all(order["product_ids"] == list(PRODUCTS) and order["jwt"] == f"token at {T0}" for order in sent)


def test_asks_for_the_products_and_goes_on_without_them(feed: CoinbaseFeed, frames: Frames) -> None:
    """An answer that makes no sense is a dead letter and stops nothing."""
    (request,) = [output for output in feed.opened(T0) if isinstance(output, Fetch)]
    assert request.path == "api/v3/brokerage/market/products"
    for body in (b"", b"<html>", b"[]", b'{"products":{}}'):
        (letter,) = feed.fetched(request, body, T0)
        assert isinstance(letter, DeadLetter)
        assert letter.reason == "bad_products"
    assert story(feed.received(frames.snapshot(), T0)) == ["Instrument", "BTC-USD snapshot"]


def test_a_bad_product_does_not_cost_its_neighbours(feed: CoinbaseFeed, frames: Frames) -> None:
    """Each entry of the REST answer stands alone."""
    feed.received(frames.snapshot(), T0)
    body = b'{"products":[{"product_id":7},{"product_id":"X-Y","price_increment":"NaN"},\
{"product_id":"BTC-USD","price_increment":"0.01","base_increment":"0.1","base_min_size":"2","status":"online"}]}'
    out = feed.fetched(Fetch(path="", purpose="products"), body, T0)
    assert [letter.reason for letter in out if isinstance(letter, DeadLetter)] == ["bad_product", "not_a_decimal"]
    (instrument,) = [event for event in out if isinstance(event, Instrument)]
    assert (instrument.tick_size, instrument.size_increment, instrument.min_order_size) == ("0.01", "0.1", "2")


def test_delta_before_snapshot_is_ignored(feed: CoinbaseFeed, frames: Frames) -> None:
    """It is counted, and no book change comes of it."""
    assert story(feed.received(frames.update(), T0)) == ["Instrument"]
    assert feed.counts["deltas_before_snapshot"] == 1


def test_snapshot_is_sorted_best_first_without_empty_levels(feed: CoinbaseFeed, frames: Frames) -> None:
    """Whatever the order of the venue, and whether sides are mixed."""
    levels = [("offer", "102", "1"), ("bid", "99.5", "1"), ("offer", "101", "0.00000000"), ("bid", "100", "2"),
              ("offer", "101.5", "3"), ("bid", "100.5", "0")]  # fmt: skip
    (_, book) = feed.received(frames.book("snapshot", *levels), T0)
    assert isinstance(book, BookUpdate)
    assert (book.bid_prices, book.bid_sizes) == (["100", "99.5"], ["2", "1"])
    assert (book.ask_prices, book.ask_sizes) == (["101.5", "102"], ["3", "1"])


def test_snapshot_of_the_time_0_has_that_of_its_frame(feed: CoinbaseFeed, frames: Frames) -> None:
    """As the venue's own example has it ("Level2 Channel")."""
    frame = frames.snapshot()
    published = f'"event_time":"{frames.time()}"'.encode()
    assert published in frame
    out = feed.received(frame.replace(published, b'"event_time":"1970-01-01T00:00:00Z"'), T0)
    assert [(o.kind, o.ts_event) for o in out if isinstance(o, BookUpdate)] == [
        ("snapshot", parse_rfc3339(frames.time()))
    ]


def test_update_keeps_zeros_and_the_order_within_a_side(feed: CoinbaseFeed, frames: Frames) -> None:
    """A quantity of 0 in any spelling goes through: it removes the level."""
    feed.received(frames.snapshot(), T0)
    levels = [("offer", "101", "0.00000000"), ("bid", "100", "0"), ("bid", "98", "7"), ("offer", "103", "1")]
    (change,) = feed.received(frames.book("update", *levels), T0)
    assert isinstance(change, BookUpdate)
    assert (change.bid_prices, change.bid_sizes) == (["100", "98"], ["0", "7"])
    assert (change.ask_prices, change.ask_sizes) == (["101", "103"], ["0.00000000", "1"])


def test_two_updates_of_one_symbol_in_a_frame_are_one_event(feed: CoinbaseFeed, frames: Frames) -> None:
    """The frame is the unit: consumers see one change per sequence and symbol."""
    feed.received(frames.snapshot(), T0)
    level = {"side": "bid", "event_time": frames.time(), "price_level": "98", "new_quantity": "1"}
    event = {"type": "update", "product_id": "BTC-USD", "updates": [level]}
    (change,) = feed.received(frames.frame("l2_data", [event, event]), T0)
    assert isinstance(change, BookUpdate)
    assert change.bid_prices == ["98", "98"]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "malformed_json"),
        (b"\x00\xff", "malformed_json"),
        (b'{"channel":"l2_data","timestamp', "malformed_json"),
        (b"[" * 100_000, "bad_frame"),
        (b"[]", "bad_frame"),
        (b'{"channel":"ticker"}', "bad_frame"),
        (b'{"channel":"ticker","timestamp":"2026-08-09T21:00:00Z","sequence_num":-1,"events":[]}', "bad_frame"),
        (b'{"channel":"ticker","timestamp":"2026-08-09T21:00:00Z","sequence_num":1e400,"events":[]}', None),
        (b'{"channel":"ticker","timestamp":"2026-08-09T21:00:00","sequence_num":0,"events":[]}', "bad_time"),
        (b'{"channel":"ticker","timestamp":"9999-08-09T21:00:00Z","sequence_num":0,"events":[]}', "bad_time"),
        (b'{"channel":"mystery","timestamp":"2026-08-09T21:00:00Z","sequence_num":0,"events":[]}', "unknown_channel"),
        (b'{"type":"error","message":"rate limit exceeded"}', "venue_error"),
    ],
)
def test_frame_that_cannot_be_used_is_a_dead_letter(feed: CoinbaseFeed, frame: bytes, reason: str | None) -> None:
    """With a reason and its bytes."""
    letters = [output for output in feed.received(frame, T0) if isinstance(output, DeadLetter)]
    assert len(letters) == 1
    assert letters[0].payload == frame
    assert reason is None or letters[0].reason == reason


def test_bad_trade_does_not_cost_its_neighbours_and_leaves_a_hole(feed: CoinbaseFeed, frames: Frames) -> None:
    """The good ones go on; the id of the bad one is missing and asked for again."""
    feed.received(frames.trades(1), T0)
    frame = frames.trades(2, 3, 4).replace(b'"trade_id":"3","price":"100.5"', b'"trade_id":"3","price":"NaN"')
    assert story(feed.received(frame, T0)) == [
        "DeadLetter", "BTC-USD trades gap", "BTC-USD trades 2,4 gap", "BTC-USD gap gap",
        "send unsubscribe market_trades BTC-USD", "send subscribe market_trades BTC-USD", "BTC-USD resync trade_gap",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "trade",
    [{"side": "UNKNOWN_ORDER_SIDE"}, {"trade_id": "x"}, {"trade_id": "-1"}, {"trade_id": "9" * 30}, {"size": "NaN"},
     {"time": "2026-08-09T21:00:00"}, {"product_id": "btc usd"}, {"price": None}],
)  # fmt: skip
def test_trade_with_a_bad_value_is_a_dead_letter(frames: Frames, trade: dict[str, Any]) -> None:
    """Whichever the field."""
    feed = CoinbaseFeed(line="coinbase/0")
    good = {"product_id": "BTC-USD", "trade_id": "1", "price": "1", "size": "1", "time": frames.time(), "side": "BUY"}
    out = feed.received(frames.frame("market_trades", [{"type": "update", "trades": [good | trade]}]), T0)
    assert story(out) == ["DeadLetter"]


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_side_is_the_makers_and_is_inverted(feed: CoinbaseFeed, frames: Frames, side: str) -> None:
    """Coinbase, "WebSocket Channels", Market Trades: side is the side of the maker order."""
    trades = feed.received(frames.trades(1, side=side), T0)[-1]
    assert isinstance(trades, Trades)
    assert [trade.side for trade in trades.trades] == ["sell" if side == "BUY" else "buy"]


def test_halt_is_told_in_every_stream_and_so_is_its_end(feed: CoinbaseFeed, frames: Frames) -> None:
    """Status, trades and book all say halted; what comes meanwhile is marked too; then all say that it is over."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.status(), T0)
    out = feed.received(frames.status(trading_disabled=True), T0)
    assert story(out) == [
        "Instrument", "BTC-USD halted halted", "BTC-USD trades halted", "BTC-USD heartbeat halted",
    ]  # fmt: skip
    assert [event.valid for event in out if isinstance(event, Trades | BookUpdate)] == [False, False]
    (change,) = feed.received(frames.update(), T0)
    assert isinstance(change, BookUpdate)
    assert (change.kind, change.valid, change.reason) == ("update", False, "halted")
    assert feed.received(frames.status(trading_disabled=True), T0) == []
    out = feed.received(frames.status(), T0)
    assert story(out) == ["Instrument", "BTC-USD resumed online", "BTC-USD trades", "BTC-USD heartbeat"]
    assert [event.valid for event in out if isinstance(event, Trades | BookUpdate)] == [True, True]


@pytest.mark.parametrize(
    ("sent", "expected", "halted"),
    [({"status": "online"}, "online", False), ({"limit_only": True}, "limit_only", False),
     ({"cancel_only": True}, "cancel_only", True), ({"post_only": True}, "post_only", True),
     ({"auction_mode": True}, "auction", True), ({"status": "cancel_only"}, "cancel_only", True),
     ({"status": "trading_disabled"}, "halted", True), ({"status": "offline"}, "halted", True),
     ({"status": "delisted"}, "delisted", True)],
)  # fmt: skip
def test_product_states(
    feed: CoinbaseFeed, frames: Frames, sent: dict[str, Any], expected: str, *, halted: bool
) -> None:
    """Where no orders match, the symbol is halted."""
    out = feed.received(frames.status(**sent), T0)
    instruments = [event for event in out if isinstance(event, Instrument)]
    assert instruments[-1].status == expected
    assert ("BTC-USD halted " + expected in story(out)) == halted


def test_state_that_is_unknown_is_no_halt_and_no_silence(feed: CoinbaseFeed, frames: Frames) -> None:
    """Unknown is not false: a dead letter, and the state stays as it was."""
    feed.received(frames.status(), T0)
    out = feed.received(frames.status("on_holiday"), T0)
    assert [letter.reason for letter in out if isinstance(letter, DeadLetter)] == ["unknown_status"]
    assert len(out) == 1


def test_ticker_without_a_price_has_none(feed: CoinbaseFeed, frames: Frames) -> None:
    """Empty and 0 mean that there is no bid; the rest of the ticker stays."""
    ticker = {"product_id": "BTC-USD", "price": "100", "best_bid": "0", "best_bid_quantity": "0", "best_ask": "101",
              "best_ask_quantity": "2", "price_percent_chg_24_h": "-1.5"}  # fmt: skip
    quote = feed.received(frames.frame("ticker", [{"type": "update", "tickers": [ticker]}]), T0)[-1]
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size, quote.last) == (None, None, "101", "2", "100")
    assert (quote.change_24h, quote.volume_24h) == ("-1.5", None)


def test_refused_token_is_left_out_for_a_while() -> None:
    """The channels are public: a bad key must not cost the market data, and is reported."""
    feed = CoinbaseFeed(line="coinbase/0", products=PRODUCTS, token=lambda _: "secret")
    feed.opened(T0)
    out = feed.received(b'{"type":"error","message":"authentication failure"}', T0)
    assert story(out) == ["DeadLetter", "reconnect authentication_failed"]
    for ts, signed in ((T0 + SECOND, False), (T0 + 601 * SECOND, True)):
        sent = [json.loads(output.frame) for output in feed.opened(ts) if isinstance(output, Send)]
        assert all(("jwt" in order) == signed for order in sent)


def test_products_that_were_not_asked_for_are_left_out(feed: CoinbaseFeed, frames: Frames) -> None:
    """They are counted."""
    assert feed.received(frames.snapshot("SOL-USD"), T0) == []
    assert feed.counts["ignored"] == 1


@pytest.mark.parametrize("configured", ["SOL-USDC", "SOL-USD"])
@pytest.mark.parametrize("sent", ["SOL-USDC", "SOL-USD"])
def test_either_name_of_a_product_reaches_the_configured_symbol(frames: Frames, configured: str, sent: str) -> None:
    """Books, trades, tickers and acknowledgements may carry the name in USD or in USDC, and nothing is asked again."""
    feed = CoinbaseFeed(line="coinbase/0", products=(configured,))
    feed.opened(T0)
    assert feed.symbols() == frozenset({configured})
    acknowledge(feed, frames, sent)
    out = feed.received(frames.snapshot(sent), T0)
    out += feed.received(frames.trades(1, 2, kind="snapshot", product=sent), T0)
    out += feed.received(frames.frame("ticker", [{"type": "update", "tickers": [{"product_id": sent}]}]), T0)
    assert story(out) == ["Instrument", f"{configured} snapshot", f"{configured} trades 1,2", "Quote"]
    assert {event.symbol for event in out if isinstance(event, Instrument | Quote)} == {configured}
    published: list[Output] = []
    for second in range(1, 60):
        published += feed.received(frames.heartbeat(), T0 + second * SECOND) + feed.ticked(T0 + second * SECOND)
    assert orders(published) == []


def test_product_that_is_configured_by_both_names_is_published_once(frames: Frames) -> None:
    """It is one book: under the name that comes first."""
    feed = CoinbaseFeed(line="coinbase/0", products=("SOL-USD", "SOL-USDC"))
    sent = [json.loads(output.frame) for output in feed.opened(T0) if isinstance(output, Send)]
    assert {tuple(order["product_ids"]) for order in sent} == {("SOL-USD",)}
    assert story(feed.received(frames.snapshot("SOL-USDC"), T0)) == ["Instrument", "SOL-USD snapshot"]


def test_product_without_an_alias_is_no_other(frames: Frames) -> None:
    """REST lists USDT-USDC with an empty alias: USDT-USD is another book."""
    feed = CoinbaseFeed(line="coinbase/0", products=("USDT-USDC",))
    feed.opened(T0)
    body = b'{"products":[{"product_id":"USDT-USDC","alias":"","status":"online"}]}'
    feed.fetched(Fetch(path="", purpose="products"), body, T0)
    assert feed.received(frames.snapshot("USDT-USD"), T0) == []
    assert story(feed.received(frames.snapshot("USDT-USDC"), T0)) == ["Instrument", "USDT-USDC snapshot"]


def test_refused_product_costs_no_other(feed: CoinbaseFeed, frames: Frames) -> None:
    """An error refuses one message and names nothing: its products are requested one by one, and one is refused."""
    error = b'{"type":"error","message":"too many L2 streams requested in a single session"}'
    listed = {"market_trades": list(PRODUCTS), "ticker": list(PRODUCTS)}
    for _ in range(2):
        feed.received(subscribed(frames), T0)
    out = feed.received(error, T0)
    assert [json.loads(o.frame)["product_ids"] for o in out if isinstance(o, Send)] == [["BTC-USD"], ["ETH-USD"]]
    for _ in range(2):
        feed.received(subscribed(frames, **listed), T0)
    feed.received(subscribed(frames, level2=["BTC-USD"], **listed), T0)
    published = [(o.symbol, o.kind, o.channel) for o in feed.received(error, T0) if isinstance(o, FeedStatus)]
    assert published == [("ETH-USD", "unsubscribed", "level2"), ("ETH-USD", "gap", "level2")]
    feed.received(frames.snapshot(), T0)
    feed.received(frames.trades(1), T0)
    vouched = story(feed.received(frames.heartbeat(), T0))
    assert sorted(vouched) == ["BTC-USD heartbeat", "BTC-USD trades", "ETH-USD trades"]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z", "", "1996-01-01T00:00:00Z",
                                  "9999-12-31T23:59:59Z", "yesterday"])  # fmt: skip
@pytest.mark.parametrize("kind", ["snapshot", "update"])
def test_impossible_time_of_a_change_does_not_cost_the_book(
    feed: CoinbaseFeed, frames: Frames, kind: str, time: str
) -> None:
    """Go's zero time and others: the change is of the frame's own time."""
    feed.received(frames.snapshot(), T0)
    frames.at = 3
    frame = frames.snapshot() if kind == "snapshot" else frames.update()
    spoilt = frame.replace(f'"event_time":"{frames.time()}"'.encode(), f'"event_time":"{time}"'.encode())
    (event,) = feed.received(spoilt, T0)
    assert isinstance(event, BookUpdate)
    assert (event.kind, event.valid, event.ts_event) == (kind, True, parse_rfc3339(frames.time()))
    assert feed.counts["impossible_times"] == 1


def test_channels_that_are_not_needed_only_count(feed: CoinbaseFeed, frames: Frames) -> None:
    """Their numbers belong to the sequence."""
    assert feed.received(frames.frame("candles", [{"type": "update", "candles": []}]), T0) == []
    assert feed.received(frames.frame("subscriptions", [{"subscriptions": {"level2": ["BTC-USD"]}}]), T0) == []
    assert story(feed.received(frames.snapshot(), T0)) == ["Instrument", "BTC-USD snapshot"]
    assert feed.counts["gaps"] == 0


def test_venue_is_found_by_the_name_of_its_module() -> None:
    """Adding a venue is adding a module."""
    assert VENUES["coinbase"].name == "coinbase"
    assert isinstance(make_feed("coinbase", products=PRODUCTS), CoinbaseFeed)


def test_a_listed_trade_of_an_impossible_time_stays_missing(feed: CoinbaseFeed, frames: Frames) -> None:
    """It is refused at the door, so that its id is on the ledger and asked for again; its neighbour fills its own."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.trades(1), T0)
    feed.received(frames.trades(4), T0)
    sent = frames.trades(1, 2, 3, 4, kind="snapshot")
    head = b'"3","price":"100.5","size":"0.1","time":"'
    for event in feed.received(sent.replace(head + b"2026", head + b"2126"), T0):
        assert not isinstance(event, Trades) or "3" not in [trade.trade_id for trade in event.trades]
    out = feed.received(frames.trades(2, 3, 4, kind="snapshot"), T0)
    assert "3" in [trade.trade_id for event in out if isinstance(event, Trades) for trade in event.trades]
