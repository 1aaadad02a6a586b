"""The Coinbase feed step by step: gaps, repairs, halts, silence, bad frames."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from marketdata.clock import parse_rfc3339
from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues import VENUES, make_feed
from producers.venues.coinbase.feed import CoinbaseFeed
from producers.venues.kit.sequence import OLD_RUN_MAX

if TYPE_CHECKING:
    from tests.producers.conftest import Frames

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
PRODUCTS = ("BTC-USD", "ETH-USD")


@pytest.fixture
def feed() -> CoinbaseFeed:
    """A feed of two products whose connection is up."""
    feed = CoinbaseFeed(line="coinbase/0", products=PRODUCTS)
    feed.opened(T0)
    return feed


def acknowledge(feed: CoinbaseFeed, frames: Frames, *names: str) -> None:
    """Answer each of the first five messages with the list of everything that is subscribed."""
    listed = {channel: list(names or PRODUCTS) for channel in ("level2", "market_trades", "ticker")}
    for _ in range(5):
        feed.received(frames.frame("subscriptions", [{"subscriptions": listed}]), T0)


def orders(out: list[Output]) -> list[tuple[str, str]]:
    """Return what is sent to the venue as (type, channel)."""
    sent = [json.loads(output.frame) for output in out if isinstance(output, Send)]
    return [(order["type"], order["channel"]) for order in sent]


def story(out: list[Output]) -> list[str]:
    """Return the outputs in short: kind of event, symbol, kind or reason."""
    lines: list[str] = []
    for output in out:
        match output:
            case BookUpdate() | FeedStatus():
                lines.append(" ".join(filter(None, (output.symbol, output.kind, output.reason))))
            case Trades(complete_from=int()):
                lines.append(f"{output.symbol} complete")
            case Trades():
                ids = ",".join(trade.trade_id for trade in output.trades)
                lines.append(" ".join(filter(None, (output.symbol, "trades", ids, output.reason))))
            case Send():
                order = json.loads(output.frame)
                lines.append(f"send {order['type']} {order['channel']} {','.join(order['product_ids'])}")
            case Reconnect():
                lines.append(f"reconnect {output.reason}")
            case _:
                lines.append(type(output).__name__)
    return lines


RESUBSCRIBED = [
    ("unsubscribe", "level2"), ("subscribe", "level2"), ("unsubscribe", "market_trades"), ("subscribe", "market_trades")
]  # fmt: skip


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
    told = f'"event_time":"{frames.time()}"'.encode()
    assert told in frame
    out = feed.received(frame.replace(told, b'"event_time":"1970-01-01T00:00:00Z"'), T0)
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


def test_gap_clears_every_book_and_asks_for_new_snapshots(feed: CoinbaseFeed, frames: Frames) -> None:
    """The lost frame may have been any symbol's; the one that shows the loss is not applied to a stale book."""
    for frame in (frames.snapshot(), frames.snapshot("ETH-USD"), frames.update()):
        feed.received(frame, T0)
    frames.lost(2)
    out = feed.received(frames.update(), T0 + SECOND)
    assert story(out) == [
        "BTC-USD clear gap", "BTC-USD gap gap", "ETH-USD clear gap", "ETH-USD gap gap",
        "send unsubscribe level2 BTC-USD,ETH-USD", "send subscribe level2 BTC-USD,ETH-USD",
        "BTC-USD resync gap", "ETH-USD resync gap",
        "send unsubscribe market_trades BTC-USD,ETH-USD", "send subscribe market_trades BTC-USD,ETH-USD",
        "BTC-USD resync gap", "ETH-USD resync gap",
    ]  # fmt: skip
    gaps = [event for event in out if isinstance(event, FeedStatus) and event.kind == "gap"]
    assert [(gap.expected, gap.received) for gap in gaps] == [(3, 5), (3, 5)]
    assert len({gap.gap_id for gap in gaps}) == 2
    assert all(not event.valid for event in out if isinstance(event, BookUpdate))


def test_fresh_snapshot_closes_the_gap_of_its_symbol(feed: CoinbaseFeed, frames: Frames) -> None:
    """`resynced` has the id of the gap and the time that was affected."""
    feed.received(frames.snapshot(), T0)
    frames.lost()
    frames.at = 3
    out = feed.received(frames.update(), T0)
    gap = next(event for event in out if isinstance(event, FeedStatus) and event.kind == "gap")
    frames.at = 4
    out = feed.received(frames.snapshot(), T0)
    assert story(out) == ["BTC-USD snapshot", "BTC-USD resynced"]
    snapshot, resynced = out
    assert isinstance(snapshot, BookUpdate)
    assert isinstance(resynced, FeedStatus)
    assert resynced.gap_id == gap.gap_id is not None
    assert (resynced.ts_from, resynced.ts_to) == (gap.ts_from, snapshot.ts_event)
    assert resynced.ts_to is not None
    assert resynced.ts_from is not None
    assert resynced.ts_to - resynced.ts_from == 4 * SECOND


def test_frame_that_shows_the_gap_may_itself_be_the_snapshot(feed: CoinbaseFeed, frames: Frames) -> None:
    """It was made after the loss, so it is a good start."""
    feed.received(frames.snapshot(), T0)
    frames.lost()
    out = feed.received(frames.snapshot(), T0)
    assert story(out)[-2:] == ["BTC-USD snapshot", "BTC-USD resynced"]
    assert story(feed.received(frames.update(), T0)) == ["BTC-USD update"]


def test_gap_stays_open_until_trades_are_accounted_for(feed: CoinbaseFeed, frames: Frames) -> None:
    """A symbol with trades is whole again only when the book and the trades are."""
    acknowledge(feed, frames)
    feed.received(frames.snapshot(), T0)
    feed.received(frames.trades(1, 2), T0)
    frames.lost()
    feed.received(frames.update(), T0)
    assert story(feed.received(frames.snapshot(), T0)) == ["BTC-USD snapshot"]
    assert story(feed.received(frames.heartbeat(), T0)) == ["BTC-USD heartbeat"], "no vouching for trades yet"
    out = feed.received(frames.trades(1, 2, 3, 4, kind="snapshot"), T0)
    assert story(out) == ["BTC-USD trades 3,4", "BTC-USD complete", "BTC-USD resynced"]
    assert story(feed.received(frames.heartbeat(), T0)) == ["BTC-USD trades", "BTC-USD heartbeat"]


def test_heartbeat_of_a_time_that_cannot_be_vouches_for_nothing(feed: CoinbaseFeed, frames: Frames) -> None:
    """Consumers would refuse it, and with it a good book."""
    feed.received(frames.snapshot(), T0)
    (letter,) = feed.received(frames.heartbeat().replace(b'"current_time":"2026', b'"current_time":"2096'), T0)
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.field) == ("time_out_of_bounds", "current_time")


def test_next_trade_id_proves_that_no_trade_was_lost(feed: CoinbaseFeed, frames: Frames) -> None:
    """Contiguous ids need no snapshot."""
    feed.received(frames.trades(1), T0)
    feed.received(frames.snapshot(), T0)
    frames.lost()
    feed.received(frames.snapshot(), T0)
    assert story(feed.received(frames.trades(2), T0)) == [
        "BTC-USD trades 2", "BTC-USD complete", "BTC-USD resynced",
    ]  # fmt: skip


def test_trades_lost_in_a_gap_come_back_with_the_trade_snapshot(feed: CoinbaseFeed, frames: Frames) -> None:
    """They are a repair, each once, and the gap closes without one more on the ledger."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.trades(1, 2), T0)
    frames.lost()
    assert "BTC-USD trades 5 gap" in story(feed.received(frames.trades(5), T0))
    feed.received(frames.snapshot(), T0)
    out = feed.received(frames.trades(1, 2, 3, 4, 5, 6, kind="snapshot"), T0)
    assert story(out) == ["BTC-USD trades 3,4,6", "BTC-USD trades", "BTC-USD complete", "BTC-USD resynced"]
    assert isinstance(out[0], Trades)
    assert out[0].origin == "repair"


def test_trades_that_no_snapshot_reaches_stay_on_the_ledger(feed: CoinbaseFeed, frames: Frames) -> None:
    """The sequence gap closes, a gap of the trades names the missing ids, and the trade stream says so itself."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.trades(1, 2), T0)
    frames.lost()
    feed.received(frames.snapshot(), T0)
    out = feed.received(frames.trades(8, 9, kind="snapshot"), T0)
    assert story(out) == ["BTC-USD trades 8,9 gap", "Fetch"]
    request = out[-1]
    assert isinstance(request, Fetch)
    listed = json.loads(type(frames)().trades(7, 8, 9))["events"][0]["trades"]
    out = feed.fetched(request, json.dumps({"trades": listed}).encode(), T0)
    assert story(out) == ["BTC-USD trades 7 gap", "BTC-USD gap gap", "BTC-USD trades gap", "BTC-USD trades",
                          "BTC-USD resynced"]  # fmt: skip
    assert story(feed.received(frames.trades(10), T0))[0] == "BTC-USD trades 10", "valid again"
    gap, mark = out[1:3]
    assert isinstance(gap, FeedStatus)
    assert (gap.channel, gap.expected, gap.received) == ("market_trades", 3, 7)
    assert isinstance(mark, Trades)
    assert (mark.valid, mark.reason) == (False, "gap")


def test_skipped_trade_id_is_a_gap_of_the_trades_alone(feed: CoinbaseFeed, frames: Frames) -> None:
    """No frame was lost: the book stays valid, the trades are asked for again, and a snapshot closes it."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.trades(1, 2), T0)
    out = feed.received(frames.trades(4), T0)
    assert story(out) == [
        "BTC-USD trades gap", "BTC-USD trades 4 gap", "BTC-USD gap gap",
        "send unsubscribe market_trades BTC-USD", "send subscribe market_trades BTC-USD", "BTC-USD resync trade_gap",
    ]  # fmt: skip
    assert story(feed.received(frames.update(), T0)) == ["BTC-USD update"]
    out = feed.received(frames.trades(1, 2, 3, 4, kind="snapshot"), T0)
    assert story(out) == ["BTC-USD trades 3", "BTC-USD trades", "BTC-USD complete", "BTC-USD resynced"]
    assert isinstance(out[-1], FeedStatus)
    assert out[-1].channel == "market_trades"


def test_id_that_the_snapshot_spans_without_it_was_never_a_trade(feed: CoinbaseFeed, frames: Frames) -> None:
    """The gap closes: the venue has no such trade."""
    feed.received(frames.trades(1, 2), T0)
    feed.received(frames.trades(4), T0)
    out = feed.received(frames.trades(2, 4, kind="snapshot"), T0)
    assert story(out) == ["BTC-USD trades", "BTC-USD complete", "BTC-USD resynced"]


def test_old_frame_is_dropped_and_counted(feed: CoinbaseFeed, frames: Frames) -> None:
    """A frame that comes twice says nothing the second time."""
    feed.received(frames.snapshot(), T0)
    update = frames.update()
    assert story(feed.received(update, T0)) == ["BTC-USD update"]
    assert feed.received(update, T0) == []
    assert feed.counts["duplicates"] == 1


def test_numbers_that_start_anew_are_a_loss_not_duplicates_for_ever(
    feed: CoinbaseFeed, make_frames: type[Frames]
) -> None:
    """A venue that begins at 0 again on the same connection is followed after a few frames."""
    before = make_frames(0)
    feed.received(before.snapshot(), T0)
    for _ in range(1000):
        feed.received(before.update(), T0)
    again = make_frames(0)
    out = [output for _ in range(OLD_RUN_MAX) for output in feed.received(again.update(), T0)]
    assert story(out)[:2] == ["BTC-USD clear gap", "BTC-USD gap gap"]
    assert orders(out) == RESUBSCRIBED
    assert story(feed.received(again.snapshot(), T0)) == ["BTC-USD snapshot", "BTC-USD resynced"]


def test_connection_that_begins_late_asks_for_its_snapshots_at_once(make_frames: type[Frames]) -> None:
    """The frames that answered the subscriptions never came; no gap, since nothing was relied on yet."""
    feed = CoinbaseFeed(line="coinbase/0", products=PRODUCTS)
    feed.opened(T0)
    out = feed.received(make_frames(3).update(), T0)
    assert orders(out) == RESUBSCRIBED
    assert "gap" not in " ".join(story(out))
    recorded = CoinbaseFeed(line="coinbase/0")
    recorded.opened(T0)
    assert orders(recorded.received(make_frames(3).update(), T0)) == [], "the middle of a recording is a beginning too"


def test_third_loss_within_a_minute_reconnects(feed: CoinbaseFeed, frames: Frames) -> None:
    """Each repair costs a snapshot of up to 5 MB, so a bad connection is given up."""
    feed.received(frames.snapshot(), T0)
    told: list[str] = []
    for second in (1, 2, 3):
        frames.lost()
        told += story(feed.received(frames.update(), T0 + second * SECOND))
    assert told.count("reconnect gaps") == 1
    assert told[-1] == "reconnect gaps"


def test_losses_far_apart_never_reconnect(feed: CoinbaseFeed, frames: Frames) -> None:
    """The count is over one minute."""
    feed.received(frames.snapshot(), T0)
    for minute in range(1, 8):
        frames.lost()
        out = feed.received(frames.snapshot(), T0 + minute * 40 * SECOND)
        assert orders(out) == RESUBSCRIBED


def test_unreadable_book_event_is_a_gap_of_its_symbol_alone(feed: CoinbaseFeed, frames: Frames) -> None:
    """The book missed a change: clear it and subscribe it again; the other symbol goes on."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.snapshot("ETH-USD"), T0)
    out = feed.received(frames.book("update", ("ask", "101", "1")), T0)
    assert story(out) == [
        "DeadLetter", "BTC-USD clear gap", "BTC-USD gap gap",
        "send unsubscribe level2 BTC-USD", "send subscribe level2 BTC-USD", "BTC-USD resync bad_frame",
    ]  # fmt: skip
    letter = out[0]
    assert isinstance(letter, DeadLetter)
    assert (letter.stage, letter.reason, letter.field) == ("feed", "bad_frame", "updates[0].side")
    assert b'"ask"' in letter.payload
    assert story(feed.received(frames.update("ETH-USD"), T0)) == ["ETH-USD update"]
    assert story(feed.received(frames.snapshot(), T0)) == ["BTC-USD snapshot", "BTC-USD resynced"]


def test_unreadable_book_event_of_no_known_symbol_is_a_gap_of_all(feed: CoinbaseFeed, frames: Frames) -> None:
    """Whose change was missed is unknown."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.snapshot("ETH-USD"), T0)
    out = feed.received(frames.frame("l2_data", [{"type": "update", "updates": []}]), T0)
    assert [line for line in story(out) if "clear" in line] == ["BTC-USD clear gap", "ETH-USD clear gap"]


def test_unreadable_snapshot_of_a_symbol_never_seen_is_asked_for_again(feed: CoinbaseFeed, frames: Frames) -> None:
    """There is no book to clear, and none would ever come without asking."""
    out = feed.received(frames.book("snapshot", ("bid", "NaN", "1"), product="ETH-USD"), T0)
    assert orders(out) == RESUBSCRIBED[:2]


@pytest.mark.parametrize(
    ("value", "reason"),
    [("NaN", "not_a_decimal"), ("Infinity", "not_a_decimal"), ("1,5", "not_a_decimal"), ("1.2.3", "not_a_decimal"),
     (".", "not_a_decimal"), ("1_0", "not_a_decimal"), (" 1", "not_a_decimal"), ("٣", "not_a_decimal"),
     ("", "bad_frame"), ("1" * 65, "bad_frame")],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 1])
def test_number_that_is_none_never_reaches_a_book(
    feed: CoinbaseFeed, frames: Frames, value: str, reason: str, place: int
) -> None:
    """Price or quantity: a dead letter, and the book is cleared."""
    feed.received(frames.snapshot(), T0)
    level = ("bid", value, "1") if place == 0 else ("bid", "100", value)
    out = feed.received(frames.book("update", ("bid", "99", "1"), level), T0)
    assert story(out)[:2] == ["DeadLetter", "BTC-USD clear gap"]
    assert isinstance(out[0], DeadLetter)
    assert out[0].reason == reason


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


def test_malformed_frame_shows_as_a_gap_with_the_next_one(feed: CoinbaseFeed, frames: Frames) -> None:
    """Its number could not be read, so the next number skips it: the book is cleared before anything is applied."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.update()[:-3], T0)
    assert story(feed.received(frames.update(), T0))[0] == "BTC-USD clear gap"


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


def test_silence_makes_books_stale_and_reconnects_once(feed: CoinbaseFeed, frames: Frames) -> None:
    """Five heartbeats missed are a dead connection."""
    feed.received(frames.snapshot(), T0)
    assert feed.ticked(T0 + 5 * SECOND) == []
    assert story(feed.ticked(T0 + 6 * SECOND)) == [
        "* heartbeat_missed stale", "BTC-USD clear stale", "BTC-USD gap stale", "reconnect heartbeat_missed",
    ]  # fmt: skip
    assert feed.ticked(T0 + 7 * SECOND) == []
    assert story(feed.closed("heartbeat_missed", T0 + 7 * SECOND)) == ["* disconnected heartbeat_missed"]


def test_disconnection_is_a_gap_that_the_next_snapshots_close(feed: CoinbaseFeed, frames: Frames) -> None:
    """The trades in between come with the next connection's trade snapshot."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.trades(1, 2, kind="snapshot"), T0)
    out = feed.closed("reset", T0)
    assert story(out) == [
        "* disconnected reset", "BTC-USD clear disconnected", "BTC-USD trades gap", "BTC-USD gap disconnected",
    ]  # fmt: skip
    feed.opened(T0 + SECOND)
    frames.sequence = 0
    assert story(feed.received(frames.trades(1, 2, 3, kind="snapshot"), T0)) == ["BTC-USD trades 3", "BTC-USD complete"]
    assert story(feed.received(frames.snapshot(), T0)) == ["BTC-USD snapshot", "BTC-USD resynced"]


def test_events_of_our_own_making_keep_to_the_venues_clock(feed: CoinbaseFeed, frames: Frames) -> None:
    """In a replay our clock is years off; a clear must not jump there, or watermarks would."""
    feed.received(frames.snapshot(), T0)
    venue = feed.ts_venue
    assert venue is not None
    assert venue < T0
    for event in feed.closed("reset", T0 + SECOND):
        assert isinstance(event, BookUpdate | FeedStatus)
        assert (event.ts_event, event.ts_recv) == (venue, T0 + SECOND)


def test_snapshot_that_does_not_come_is_asked_for_again(feed: CoinbaseFeed, frames: Frames) -> None:
    """The answer to a subscription may be lost too: without one it counts as refused, and is requested again."""
    acknowledge(feed, frames)
    feed.received(frames.snapshot(), T0)
    feed.received(frames.snapshot("ETH-USD"), T0)
    frames.lost()
    feed.received(frames.update(), T0)
    told: list[Output] = []
    for second in range(1, 40):
        told += feed.received(frames.heartbeat(), T0 + second * SECOND)
        told += feed.ticked(T0 + second * SECOND)
    refused = [o for o in told if isinstance(o, FeedStatus) and o.kind == "unsubscribed"]
    assert {(o.symbol, o.channel, o.reason) for o in refused} == {
        (name, channel, "unacknowledged") for name in PRODUCTS for channel in ("level2", "market_trades")
    }  # fmt: skip
    assert orders(told).count(("subscribe", "level2")) >= 1
    assert not [o for o in told if isinstance(o, BookUpdate)]


def test_product_that_never_sends_a_book_costs_no_reconnect(feed: CoinbaseFeed, frames: Frames) -> None:
    """A product that does not exist is asked for again and again, ever more slowly; the others go on."""
    feed.received(frames.snapshot(), T0)
    told: list[str] = []
    for second in range(1, 300):
        feed.received(frames.heartbeat(), T0 + second * SECOND)
        told += story(feed.ticked(T0 + second * SECOND))
    assert 3 <= told.count("send subscribe level2 ETH-USD") <= 8
    assert not [line for line in told if line.startswith("reconnect")]


def test_refused_token_is_left_out_for_a_while() -> None:
    """The channels are public: a bad key must not cost the market data, and is told."""
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
    told: list[Output] = []
    for second in range(1, 60):
        told += feed.received(frames.heartbeat(), T0 + second * SECOND) + feed.ticked(T0 + second * SECOND)
    assert orders(told) == []


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


def subscribed(frames: Frames, **channels: list[str]) -> bytes:
    """Return a frame that lists what the connection is subscribed to."""
    return frames.frame("subscriptions", [{"subscriptions": channels}])


def test_heartbeat_vouches_for_no_trades_that_are_not_subscribed(feed: CoinbaseFeed, frames: Frames) -> None:
    """A refused market_trades is not listed: silence of that product's trades says nothing."""
    for name in PRODUCTS:
        feed.received(frames.snapshot(name), T0)
    vouched = [line for line in story(feed.received(frames.heartbeat(), T0)) if "trades" in line]
    assert vouched == []
    told: list[Output] = []
    for trades in ([], [], [], ["BTC-USD"], ["BTC-USD"]):
        told += feed.received(subscribed(frames, level2=list(PRODUCTS), market_trades=trades), T0)
    vouched = [line for line in story(feed.received(frames.heartbeat(), T0)) if "trades" in line]
    assert vouched == ["BTC-USD trades"]


def test_trades_that_are_no_longer_listed_are_refused(feed: CoinbaseFeed, frames: Frames) -> None:
    """Each list is everything that the connection is subscribed to then; a new connection begins with nothing."""
    acknowledge(feed, frames)
    feed.received(frames.snapshot(), T0)
    feed.received(frames.trades(1, kind="snapshot"), T0)
    assert "BTC-USD trades" in story(feed.received(frames.heartbeat(), T0))
    out = feed.received(subscribed(frames, level2=list(PRODUCTS), ticker=list(PRODUCTS)), T0)
    told = [(o.symbol, o.kind, o.channel) for o in out if isinstance(o, FeedStatus)]
    assert told == [(name, kind, "market_trades") for name in PRODUCTS for kind in ("unsubscribed", "gap")]
    assert "BTC-USD trades" not in story(feed.received(frames.heartbeat(), T0))
    again = subscribed(frames, level2=list(PRODUCTS), ticker=list(PRODUCTS), market_trades=["BTC-USD"])
    assert story(feed.received(again, T0)) == ["BTC-USD subscribed"]
    feed.received(frames.trades(1, 2, kind="snapshot"), T0)
    assert "BTC-USD trades" in story(feed.received(frames.heartbeat(), T0))
    feed.closed("reset", T0)
    feed.opened(T0)
    frames.sequence = 0
    feed.received(frames.snapshot(), T0)
    assert "BTC-USD trades" not in story(feed.received(frames.heartbeat(), T0))


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
    told = [(o.symbol, o.kind, o.channel) for o in feed.received(error, T0) if isinstance(o, FeedStatus)]
    assert told == [("ETH-USD", "unsubscribed", "level2"), ("ETH-USD", "gap", "level2")]
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
