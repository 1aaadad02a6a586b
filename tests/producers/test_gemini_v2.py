"""Gemini recordings of market data v2 are read whole, and what is seen to be wrong is never shown as valid."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Instrument, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.gemini.feed_v2 import GeminiFeedV2
from producers.venues.gemini.names import describe
from runtime import recordings
from runtime.recordings import Recorded

RECORDING = Path(__file__).resolve().parents[3] / "shared" / "recordings" / "gemini.jsonl.zst"
T0 = 1_790_000_000_000_000_000
MS = 1_790_000_000_000
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def lines() -> list[Recorded]:
    """The recording."""
    if not RECORDING.exists():
        pytest.skip(f"the recordings are absent: no {RECORDING}")
    return list(recordings.read(RECORDING))


@pytest.fixture(scope="module")
def sent(lines: list[Recorded]) -> list[dict[str, Any]]:
    """The recorded frames as plain values."""
    return [json.loads(line.data) for line in lines if line.t == "recv"]


@pytest.fixture(scope="module")
def played(lines: list[Recorded]) -> tuple[GeminiFeedV2, list[Output]]:
    """The feed after the whole recording, REST answers given where it asks, and all that it said."""
    answers = {(line.conn or "").rpartition("/")[2]: line.frame for line in lines if line.t == "http"}
    feed = GeminiFeedV2(line="gemini/0")
    out = feed.opened(lines[0].ts_recv)
    for line in lines:
        if line.t == "recv":
            said = feed.received(line.frame, line.ts_recv)
            for request in [o for o in said if isinstance(o, Fetch)]:
                said += feed.fetched(request, answers[request.path.rpartition("/")[2]], line.ts_recv)
            out += said
    return feed, out


def test_recording_is_read_whole(played: tuple[GeminiFeedV2, list[Output]]) -> None:
    """Ten books, 549 changes, 810 trades beside the books and two live ones, nothing refused."""
    feed, _ = played
    expected = {"frames": 563, "snapshots": 10, "book_updates": 549, "trades": 812, "heartbeats": 2}
    assert {key: feed.counts[key] for key in expected} == expected
    refused = ("gaps", "dead_letters", "duplicates", "repeats", "deltas_before_snapshot", "ignored")
    assert [feed.counts[key] for key in refused] == [0] * 6


def test_final_books_equal_those_computed_independently(
    played: tuple[GeminiFeedV2, list[Output]], sent: list[dict[str, Any]]
) -> None:
    """Plain dicts of Decimals over the raw frames give the same levels."""
    expected: dict[str, dict[str, dict[Decimal, Decimal]]] = {}
    for frame in sent:
        if frame["type"] == "l2_updates":
            if "trades" in frame:
                expected[frame["symbol"]] = {"buy": {}, "sell": {}}
            for side, price, size in frame["changes"]:
                levels = expected[frame["symbol"]][side]
                levels[Decimal(price)] = Decimal(size)
                if not Decimal(size):
                    del levels[Decimal(price)]
    names = {i.symbol: i.venue_symbol for i in played[1] if isinstance(i, Instrument)}
    got = {name: L2Book() for name in names.values()}
    for event in played[1]:
        if isinstance(event, BookUpdate):
            book = got[names[event.symbol]]
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)
    assert {
        name: {side: {Decimal(p): Decimal(s) for p, s in half.top()} for side, half in
               (("buy", book.bids), ("sell", book.asks))} for name, book in got.items()
    } == expected  # fmt: skip


def test_trades_come_once_with_the_takers_side(
    played: tuple[GeminiFeedV2, list[Output]], sent: list[dict[str, Any]]
) -> None:
    """Gemini documents `side` as that of the taker in the trade ("Level 2 Data"), so it stays as it is."""
    listed = [t for f in sent for t in f.get("trades", [])] + [f for f in sent if f["type"] == "trade"]
    expected = {
        str(t["tid"]): (t["symbol"], t["price"], t["quantity"], t["side"], t["timestamp"] * 1_000_000) for t in listed
    }
    names = {i.symbol: i.venue_symbol for i in played[1] if isinstance(i, Instrument)}
    got = [
        (t.trade_id, (names[e.symbol], t.price, t.size, t.side, t.ts_event))
        for e in played[1] if isinstance(e, Trades) for t in e.trades
    ]  # fmt: skip
    assert dict(got) == expected
    assert len(got) == len(expected) == 812


def test_every_product_is_split_as_the_venue_splits_it(lines: list[Recorded]) -> None:
    """All recorded details give the same currencies as the names do."""
    details = [json.loads(line.data) for line in lines if line.t == "http"]
    products = [one for one in details if isinstance(one, dict)]
    assert len(products) == 347
    for one in products:
        told = describe(one["symbol"])
        assert (told.base_currency, told.quote_currency) == (one["base_currency"], one["quote_currency"])
        assert (told.kind == "perpetual") == (one["product_type"] == "swap")


def test_price_steps_are_the_quote_increments(played: tuple[GeminiFeedV2, list[Output]]) -> None:
    """In Gemini's details `tick_size` is the step of quantities (documented); JSON numbers are told in fixed point."""
    steps = {i.symbol: (i.tick_size, i.size_increment, i.status) for i in played[1] if isinstance(i, Instrument)}
    assert steps["ETH-USDC-PERP"] == ("0.05", "0.001", "online")
    assert steps["BTC-USD"] == ("0.01", "0.00000001", "online")


# --- Made by hand ---


def book(*changes: tuple[str, str, str], trades: list[int] | None = None) -> bytes:
    """Return a book frame; with trades it is a whole book."""
    frame: dict[str, Any] = {"type": "l2_updates", "symbol": "BTCUSD", "changes": changes}
    if trades is not None:
        frame["trades"] = [{"type": "trade", "symbol": "BTCUSD", "event_id": tid, "timestamp": MS + tid, "price": "10",
                            "quantity": "1", "side": "buy", "tid": tid} for tid in trades]  # fmt: skip
    return json.dumps(frame, separators=(",", ":")).encode()


WHOLE = (("buy", "9", "1"), ("sell", "11", "1"))


def kinds(out: list[Output]) -> list[str]:
    """Return what kinds of book changes these outputs hold."""
    return [event.kind for event in out if isinstance(event, BookUpdate)]


@pytest.fixture
def feed() -> GeminiFeedV2:
    """A feed that has a book and two trades."""
    feed = GeminiFeedV2(line="gemini/0", products=("btcusd",))
    feed.opened(T0)
    assert kinds(feed.received(book(*WHOLE, trades=[1, 2]), T0)) == ["snapshot"]
    return feed


def test_crossed_book_is_cleared_and_asked_for_again(feed: GeminiFeedV2) -> None:
    """The only sign of a lost change; the gap closes with the next whole book, under the same id."""
    out = feed.received(book(("buy", "12", "1")), T0)
    assert [(o.kind, o.reason) for o in out if isinstance(o, BookUpdate)] == [("clear", "crossed")]
    assert [json.loads(o.frame)["method"] for o in out if isinstance(o, Send)] == ["unsubscribe"]
    (gap,) = [o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "gap"]
    assert kinds(feed.received(book(("buy", "9", "2")), T0)) == []
    assert feed.counts["deltas_before_snapshot"] == 1
    out = feed.received(book(*WHOLE, trades=[1, 2]), T0)
    assert [o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"] == [gap]
    assert not [o for o in out if isinstance(o, Trades)]


def test_book_of_a_halted_symbol_may_be_crossed(feed: GeminiFeedV2) -> None:
    """It is told as halted, and nothing is asked for again and again."""
    feed.fetched(Fetch("", "products", "BTCUSD"), b'{"symbol":"BTCUSD","status":"closed"}', T0)
    out = feed.received(book(("buy", "12", "1")), T0)
    assert [(o.kind, o.valid, o.reason) for o in out if isinstance(o, BookUpdate)] == [("update", False, "halted")]


def test_unreadable_change_is_a_loss_of_that_book(feed: GeminiFeedV2) -> None:
    """A frame that names its symbol costs that book, and is a dead letter."""
    frame = book(("buy", "x", "1"))
    out = feed.received(frame, T0)
    assert [o.payload for o in out if isinstance(o, DeadLetter)] == [frame]
    assert kinds(out) == ["clear"]


def test_trades_of_a_lost_connection_come_with_the_next_book_or_by_rest(feed: GeminiFeedV2) -> None:
    """The last trades beside the book reach back to a known one, or REST is asked for those since."""
    feed.closed("reset", T0)
    feed.opened(T0)
    out = feed.received(book(*WHOLE, trades=[2, 3]), T0)
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["3"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]
    feed.closed("reset", T0)
    feed.opened(T0)
    out = feed.received(book(*WHOLE, trades=[5, 6]), T0)
    (request,) = [o for o in out if isinstance(o, Fetch)]
    listed = [{"tid": tid, "timestampms": MS + tid, "price": "10", "amount": "1", "type": "sell"} for tid in (4, 3)]
    out = feed.fetched(request, json.dumps(listed).encode(), T0)
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["4"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def test_answer_that_does_not_reach_back_before_the_loss_leaves_it_on_the_ledger(feed: GeminiFeedV2) -> None:
    """That it has the trades beside the new book proves nothing; 3 may be missing. `type` is the taker's side too."""
    feed.closed("reset", T0)
    feed.opened(T0)
    out = feed.received(book(*WHOLE, trades=[5, 6]), T0)
    (request,) = [o for o in out if isinstance(o, Fetch)]
    assert f"timestamp={MS // 1_000 - 1}" in request.path
    listed = [{"tid": tid, "timestampms": MS + tid, "price": "10", "amount": "1", "type": "sell"} for tid in (5, 4)]
    out = feed.fetched(request, json.dumps(listed).encode(), T0)
    assert [(e.valid, [(t.trade_id, t.side) for t in e.trades]) for e in out if isinstance(e, Trades)] == [
        (False, [("4", "sell")]), (False, []), (True, []), (True, [])]  # fmt: skip
    opened, closed = [o for o in out if isinstance(o, FeedStatus)]
    assert (opened.kind, opened.ts_from, closed.kind) == ("gap", (MS + 2) * 1_000_000, "resynced")
    assert opened.gap_id != closed.gap_id


def test_trades_without_an_id_of_their_own_are_told_apart_by_their_event(feed: GeminiFeedV2) -> None:
    """Before `tid` there was only `event_id`, which is one for all orders that an event fills."""
    trade = {"type": "trade", "symbol": "BTCUSD", "timestamp": MS, "quantity": "2", "side": "buy"}
    fills = [trade | {"event_id": 7, "price": "1"}, trade | {"event_id": 7, "price": "1.1"}, trade | {"price": "1"}]
    out = [event for fill in [*fills, fills[0]] for event in feed.received(json.dumps(fill).encode(), T0)]
    told = [one.trade_id for event in out if isinstance(event, Trades) for one in event.trades]
    assert told == ["7:1:2", "7:1.1:2"]
    assert [event.field for event in out if isinstance(event, DeadLetter)] == ["tid"]
    whole = json.loads(book(*WHOLE, trades=[]))
    whole["trades"] = [fill | {"event_id": event, "price": "3"} for event, fill in ((10, fills[0]), (9, fills[1]))]
    out = feed.received(json.dumps(whole).encode(), T0)
    assert [one.trade_id for event in out if isinstance(event, Trades) for one in event.trades] == ["9:3:2", "10:3:2"]


@pytest.mark.parametrize(("side", "excluded"), [("block", ("high_low", "open_close")), ("auction", ())])
def test_trade_apart_from_the_order_book_has_no_side_and_costs_no_book(
    feed: GeminiFeedV2, side: str, excluded: tuple[str, ...]
) -> None:
    """Trade History: `auction` and `block` are no sides; a block's price is no high or low, and no open or close."""
    sent = {"type": "trade", "symbol": "BTCUSD", "event_id": 503, "timestamp": MS, "price": "65006.00",
            "quantity": "25", "side": side, "tid": 504}  # fmt: skip
    (event,) = feed.received(json.dumps(sent).encode(), T0)
    assert isinstance(event, Trades)
    (one,) = event.trades
    assert (one.side, one.conditions, one.excluded_from, event.valid) == ("unknown", (side,), excluded, True)
    out = feed.received(json.dumps(sent | {"side": "other", "tid": 505}).encode(), T0)
    assert [(o.reason, o.value) for o in out if isinstance(o, DeadLetter)] == [("unknown_side", "other")]
    assert kinds(out) == []


def test_unreadable_trade_is_asked_for(feed: GeminiFeedV2) -> None:
    """It costs no book; REST's last trades fill the gap."""
    trade = {"type": "trade", "symbol": "BTCUSD", "timestamp": MS + 3, "price": "10", "quantity": "1", "side": "buy"}
    out = feed.received(json.dumps(trade | {"tid": "x"}, separators=(",", ":")).encode(), T0)
    assert kinds(out) == []
    (request,) = [o for o in out if isinstance(o, Fetch)]
    rows = [{"tid": tid, "timestampms": MS + tid, "price": "10", "amount": "1", "type": "buy"} for tid in (3, 2)]
    out = feed.fetched(request, json.dumps(rows).encode(), T0)
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["3"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def test_heartbeat_vouches_for_no_trades_while_some_may_be_missing(feed: GeminiFeedV2) -> None:
    """Or minutes would be complete that are not."""
    feed.closed("reset", T0)
    feed.opened(T0)
    out = feed.received(json.dumps({"type": "heartbeat", "timestamp": MS + 5_000}).encode(), T0)
    assert not [o for o in out if isinstance(o, Trades)]


def test_heartbeat_of_an_impossible_time_vouches_for_nothing_and_costs_no_book(feed: GeminiFeedV2) -> None:
    """It is a dead letter; whatever its time should have been, it changed nothing."""
    out = feed.received(b'{"type":"heartbeat","timestamp":5}', T0)
    assert [(o.reason, o.field) for o in out if isinstance(o, DeadLetter)] == [("time_out_of_bounds", "timestamp")]
    assert len(out) == 1


def test_heartbeat_without_a_time_vouches_for_nothing(feed: GeminiFeedV2) -> None:
    """It says that the connection is there, and is no dead letter."""
    assert feed.received(b'{"type":"heartbeat","socket_sequence":7}', T0) == []
    assert feed.counts["heartbeats"] == 1


def test_heartbeats_vouch_and_silence_is_left(feed: GeminiFeedV2) -> None:
    """What happened up to a second before a heartbeat is here; 25 s without a frame end the connection."""
    out = feed.received(json.dumps({"type": "heartbeat", "timestamp": MS + 5_000}).encode(), T0)
    assert [o.ts_event for o in out if isinstance(o, Trades)] == [(MS + 4_000) * 1_000_000]
    assert kinds(out) == ["heartbeat"]
    out = feed.ticked(T0 + 26 * SECOND)
    assert kinds(out) == ["clear"]
    assert isinstance(out[-1], Reconnect)
