"""What the Coinbase feed has lost is a gap until it is there again: numbers, frames, connections, subscriptions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Trades
from marketdata.feed import Fetch, Output
from producers.venues.coinbase.feed import CoinbaseFeed
from producers.venues.kit.sequence import OLD_RUN_MAX
from tests.producers.coinbase_frames import PRODUCTS, SECOND, T0, acknowledge, orders, story, subscribed

if TYPE_CHECKING:
    from tests.producers.conftest import Frames


@pytest.fixture
def feed() -> CoinbaseFeed:
    """A feed of two products whose connection is up."""
    feed = CoinbaseFeed(line="coinbase/0", products=PRODUCTS)
    feed.opened(T0)
    return feed


RESUBSCRIBED = [
    ("unsubscribe", "level2"), ("subscribe", "level2"), ("unsubscribe", "market_trades"), ("subscribe", "market_trades")
]  # fmt: skip


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
    published: list[str] = []
    for second in (1, 2, 3):
        frames.lost()
        published += story(feed.received(frames.update(), T0 + second * SECOND))
    assert published.count("reconnect gaps") == 1
    assert published[-1] == "reconnect gaps"


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


def test_malformed_frame_shows_as_a_gap_with_the_next_one(feed: CoinbaseFeed, frames: Frames) -> None:
    """Its number could not be read, so the next number skips it: the book is cleared before anything is applied."""
    feed.received(frames.snapshot(), T0)
    feed.received(frames.update()[:-3], T0)
    assert story(feed.received(frames.update(), T0))[0] == "BTC-USD clear gap"


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
    published: list[Output] = []
    for second in range(1, 40):
        published += feed.received(frames.heartbeat(), T0 + second * SECOND)
        published += feed.ticked(T0 + second * SECOND)
    refused = [o for o in published if isinstance(o, FeedStatus) and o.kind == "unsubscribed"]
    assert {(o.symbol, o.channel, o.reason) for o in refused} == {
        (name, channel, "unacknowledged") for name in PRODUCTS for channel in ("level2", "market_trades")
    }  # fmt: skip
    assert orders(published).count(("subscribe", "level2")) >= 1
    assert not [o for o in published if isinstance(o, BookUpdate)]


def test_product_that_never_sends_a_book_costs_no_reconnect(feed: CoinbaseFeed, frames: Frames) -> None:
    """A product that does not exist is asked for again and again, ever more slowly; the others go on."""
    feed.received(frames.snapshot(), T0)
    published: list[str] = []
    for second in range(1, 300):
        feed.received(frames.heartbeat(), T0 + second * SECOND)
        published += story(feed.ticked(T0 + second * SECOND))
    assert 3 <= published.count("send subscribe level2 ETH-USD") <= 8
    assert not [line for line in published if line.startswith("reconnect")]


def test_heartbeat_vouches_for_no_trades_that_are_not_subscribed(feed: CoinbaseFeed, frames: Frames) -> None:
    """A refused market_trades is not listed: silence of that product's trades says nothing."""
    for name in PRODUCTS:
        feed.received(frames.snapshot(name), T0)
    vouched = [line for line in story(feed.received(frames.heartbeat(), T0)) if "trades" in line]
    assert vouched == []
    published: list[Output] = []
    for trades in ([], [], [], ["BTC-USD"], ["BTC-USD"]):
        published += feed.received(subscribed(frames, level2=list(PRODUCTS), market_trades=trades), T0)
    vouched = [line for line in story(feed.received(frames.heartbeat(), T0)) if "trades" in line]
    assert vouched == ["BTC-USD trades"]


def test_trades_that_are_no_longer_listed_are_refused(feed: CoinbaseFeed, frames: Frames) -> None:
    """Each list is everything that the connection is subscribed to then; a new connection begins with nothing."""
    acknowledge(feed, frames)
    feed.received(frames.snapshot(), T0)
    feed.received(frames.trades(1, kind="snapshot"), T0)
    assert "BTC-USD trades" in story(feed.received(frames.heartbeat(), T0))
    out = feed.received(subscribed(frames, level2=list(PRODUCTS), ticker=list(PRODUCTS)), T0)
    published = [(o.symbol, o.kind, o.channel) for o in out if isinstance(o, FeedStatus)]
    assert published == [(name, kind, "market_trades") for name in PRODUCTS for kind in ("unsubscribed", "gap")]
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
