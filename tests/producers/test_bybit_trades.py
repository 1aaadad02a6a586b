"""Trades of Bybit that may be missing are requested, and a bad one costs no other."""

from __future__ import annotations

import json

import pytest

from marketdata.events import DeadLetter, FeedStatus, Trades
from marketdata.feed import Fetch
from producers.venues.bybit.feed import BybitFeed
from tests.producers.bybit_messages import MS, SECOND, T0, book, feed_with_book, listed, trade


@pytest.fixture
def feed() -> BybitFeed:
    """A feed that has a book, numbered 10."""
    return feed_with_book()


def test_trades_of_a_lost_connection_are_asked_for(feed: BybitFeed) -> None:
    """REST's recent trades reach back to a known one: what was missing is published, and the gap closes."""
    feed.received(trade("a-1"), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    feed.received(book("snapshot", 50, bids=[("9", "1")]), T0)
    (request,) = [o for o in feed.received(trade("a-3"), T0) if isinstance(o, Fetch)]
    assert "category=linear" in request.path
    listed = [{"execId": number, "symbol": "BTCUSDT", "price": "10", "size": "1", "side": "Sell", "time": str(MS)}
              for number in ("a-3", "a-2", "a-1")]  # fmt: skip
    body = json.dumps({"retCode": 0, "result": {"category": "linear", "list": listed}}).encode()
    out = feed.fetched(request, body, T0)
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["a-2"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def test_recent_trades_that_do_not_reach_back_before_the_loss_leave_it_on_the_ledger(feed: BybitFeed) -> None:
    """That they have what was published since proves nothing: a-2 may be missing, and the stream says so."""
    feed.received(trade("a-1"), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    feed.received(book("snapshot", 50, bids=[("9", "1")]), T0)
    (request,) = [o for o in feed.received(trade("a-3"), T0) if isinstance(o, Fetch)]
    out = feed.fetched(request, listed("a-4", "a-3"), T0)
    assert [(e.valid, [t.trade_id for t in e.trades]) for e in out if isinstance(e, Trades)] == [
        (False, ["a-4"]), (False, []), (True, [])]  # fmt: skip
    opened, closed = [o for o in out if isinstance(o, FeedStatus)]
    assert (opened.kind, opened.ts_from, closed.kind) == ("gap", MS * 1_000_000, "resynced")
    assert opened.gap_id != closed.gap_id


def test_trades_between_two_losses_do_not_close_the_gap_of_the_first(feed: BybitFeed) -> None:
    """What was published after the first loss is no proof after the second either: a-2 may still be missing."""
    feed.received(trade("a-1"), T0)
    for _ in range(2):
        feed.closed("reset", T0)
        feed.opened(T0)
        feed.received(trade("a-3"), T0)
    (request,) = [o for o in feed.received(trade("a-4"), T0 + 11 * SECOND) if isinstance(o, Fetch)]
    out = feed.fetched(request, listed("a-4", "a-3"), T0)
    assert [o.reason for o in out if isinstance(o, FeedStatus)] == ["gap"]


def test_one_gap_waits_for_everything_that_was_lost_meanwhile(feed: BybitFeed) -> None:
    """It opens with a trade and widens with the book; both have to come."""
    feed.received(trade("a-1"), T0)
    out = feed.received(trade("a-2").replace(b'"Sell"', b'"None"').replace(b": ", b":"), T0)
    (request,) = [o for o in out if isinstance(o, Fetch)]
    feed.received(book("delta", 13, bids=[("9", "3")]), T0)
    out = feed.fetched(request, listed("a-2", "a-1"), T0)
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == []
    out = feed.received(book("snapshot", 20, bids=[("9", "5")]), T0)
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def test_recent_trades_are_asked_for_once_and_again_when_no_answer_came(feed: BybitFeed) -> None:
    """However many trades come meanwhile; an answer that is of no use is the last word."""
    feed.received(trade("a-1"), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    out = [o for at in range(100) for o in feed.received(trade(f"b-{at}"), T0 + at * SECOND // 5)]
    requests = [o for o in out if isinstance(o, Fetch)]
    assert len(requests) == 2
    feed.fetched(requests[0], listed("z-1"), T0 + 20 * SECOND)
    assert not [o for o in feed.received(trade("c"), T0 + 60 * SECOND) if isinstance(o, Fetch)]


def mixed_trades(*ids: str, ms: int = MS) -> bytes:
    """Return one frame of several trades."""
    data = [{"T": ms, "s": "BTCUSDT", "S": "Buy", "v": "0.01", "p": "65000", "i": name} for name in ids]
    return json.dumps({"topic": "publicTrade.BTCUSDT", "ts": MS, "type": "snapshot", "data": data}).encode()


@pytest.mark.parametrize("name", ["bad\x00id", "bad\x1f", "\x7f"])
def test_an_id_with_a_control_character_costs_only_its_own_trade(feed: BybitFeed, name: str) -> None:
    """Case 15: one dead letter, the neighbours are published, and the loss is on the ledger."""
    out = feed.received(mixed_trades("a-1", name, "a-2"), T0)
    (letter,) = [o for o in out if isinstance(o, DeadLetter)]
    assert (letter.reason, letter.field) == ("control_character", "trade_id")
    assert letter.value is not None
    assert letter.value.isprintable()
    assert json.loads(letter.payload)["trade_id"] == name
    assert [t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] == ["a-1", "a-2"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["gap"]


def test_a_listed_trade_of_an_impossible_time_is_no_proof(feed: BybitFeed) -> None:
    """Its neighbours are published; the list is not complete, so that the gap goes to the ledger."""
    feed.received(trade("a-1"), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    (request,) = [o for o in feed.received(trade("a-4"), T0) if isinstance(o, Fetch)]
    body = json.loads(listed("a-4", "a-3", "a-2", "a-1"))
    body["result"]["list"][1]["time"] = str(MS + 10**12)
    out = feed.fetched(request, json.dumps(body).encode(), T0)
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["time_out_of_bounds"]
    assert [t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] == ["a-2"]
    assert [(o.kind, o.channel) for o in out if isinstance(o, FeedStatus)] == [("gap", "publicTrade")]
