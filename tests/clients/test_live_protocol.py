"""The Python client's live protocol and book, fed with texts: no socket, no clock."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tickstream_client import Book, Message, Refused, Resumed, SequenceGap
from tickstream_client.live import Live
from tickstream_client.messages import Subscription


def text(sequence: int, **changes: Any) -> str:
    """Return a trade message as the server writes it."""
    message = {
        "type": "trade",
        "venue": "coinbase",
        "symbol": "BTC-USD",
        "timestamp": "2026-08-09T21:05:48.228568Z",
        "sequence": sequence,
        "valid": True,
        "reason": "",
        "data": {"trade_id": str(sequence)},
    }
    return json.dumps(message | changes)


def live() -> Live:
    """Return the protocol of a connection whose subscription was acknowledged."""
    protocol = Live(Subscription(("trades",), ("BTC-USD",)))
    (request,) = protocol.opened()
    acknowledge(protocol, request)
    return protocol


def acknowledge(protocol: Live, request: str) -> None:
    """Let the server acknowledge a request."""
    asked = json.loads(request)
    answer = {"type": "subscribed", "id": asked["id"], "channels": asked["channels"], "symbols": asked["symbols"]}
    assert protocol.received(json.dumps(answer)).events == []


def test_a_subscription_names_its_recipe_and_kind_only_where_it_has_them() -> None:
    """A server that does not know them is not confused by nulls."""
    whole = Live(Subscription(("candles",), ("BTC-USD",), "coinbase", 50, "1m", "five_seconds", "spot"))
    assert [json.loads(request) for request in whole.opened()] == [{
        "op": "subscribe", "id": 1, "channels": ["candles"], "symbols": ["BTC-USD"], "depth": 50, "interval": "1m",
        "venue": "coinbase", "recipe": "five_seconds", "kind": "spot",
    }]  # fmt: skip
    bare = Live(Subscription(("trades",), ("BTC-USD",)))
    assert set(json.loads(bare.opened()[0])) == {"op", "id", "channels", "symbols", "depth", "interval"}


def sequences(protocol: Live, *texts: str) -> list[int]:
    """Return the numbers of the messages that came through; a gap is minus the number that was expected."""
    events = [event for each in texts for event in protocol.received(each).events]
    found = [event for event in events if isinstance(event, Message | SequenceGap)]
    return [-event.expected if isinstance(event, SequenceGap) else event.sequence for event in found]


def test_what_comes_before_the_acknowledgement_is_ignored() -> None:
    """It belongs to a subscription that does not exist any more."""
    protocol = Live(Subscription(("trades",), ("BTC-USD",)))
    (request,) = protocol.opened()
    assert sequences(protocol, text(1)) == []
    acknowledge(protocol, request)
    assert sequences(protocol, text(7), text(8)) == [7, 8]


def test_a_gap_is_reported_once_and_subscribes_again() -> None:
    """From the gap to the new acknowledgement nothing passes; other streams are not concerned."""
    protocol = live()
    assert sequences(protocol, text(1, snapshot=True), text(2)) == [1, 2]
    received = protocol.received(text(4))
    assert received.events == [SequenceGap("trades", "coinbase", "BTC-USD", 3, 4)]
    assert len(received.sends) == 1
    assert sequences(protocol, text(5), text(1, symbol="ETH-USD")) == [1]
    acknowledge(protocol, received.sends[0])
    assert sequences(protocol, text(6, snapshot=True), text(7)) == [6, 7]


def test_a_duplicate_is_a_gap_too() -> None:
    """A sequence that does not grow by one is never taken for good."""
    assert sequences(live(), text(1), text(1)) == [1, -2]


def test_a_conflated_message_restarts_the_count() -> None:
    """The server left changes out on purpose and said so."""
    assert sequences(live(), text(1), text(9, conflated=True), text(10)) == [1, 9, 10]


def test_after_a_lost_connection_each_stream_resumes_after_its_last_position() -> None:
    """A request for each channel that has positions; what has none is subscribed as at first."""
    protocol = Live(Subscription(("trades", "ticker", "book"), ("BTC-USD", "ETH-USD")))
    (request,) = protocol.opened()
    acknowledge(protocol, request)
    protocol.received(text(1, position="e:1"))
    protocol.received(text(2, position="e:2.1"))
    protocol.received(text(5, type="ticker"))
    asked = [json.loads(request) for request in protocol.opened()]
    assert [(one["channels"], one.get("since")) for one in asked] == [
        (["ticker", "book"], None), (["trades"], {"BTC-USD": "e:2.1"}),
    ]  # fmt: skip
    assert sequences(protocol, text(3)) == []
    for one in asked:
        acknowledge(protocol, json.dumps(one))
    about = {"channel": "trades", "venue": "coinbase", "symbol": "BTC-USD"}
    resumed = {"type": "resumed", **about, "recovered": True, "messages": 2}
    assert protocol.received(json.dumps(resumed)).events == [Resumed(**about, recovered=True, messages=2)]
    # Another process of the server counts on its own.
    assert sequences(protocol, text(-1, position="e:3"), text(0, position="e:4"), text(1)) == [-1, 0, 1]


def test_a_stream_that_cannot_be_recovered_starts_again_without_its_position() -> None:
    """Its snapshot follows; a position that the server does not know is not named again."""
    protocol = live()
    protocol.received(text(1, position="e:1"))
    (request,) = protocol.opened()
    acknowledge(protocol, request)
    about = {"channel": "trades", "venue": "coinbase", "symbol": "BTC-USD"}
    (event,) = protocol.received(json.dumps({"type": "resumed", **about, "recovered": False, "messages": 0})).events
    assert event == Resumed(**about, recovered=False, messages=0)
    assert "since" not in json.loads(protocol.opened()[0])


def test_a_request_that_came_too_early_is_asked_again_as_it_was() -> None:
    """Each by itself, with its position and under a new id."""
    protocol = live()
    protocol.received(text(1, position="e:1"))
    (request,) = protocol.opened()
    before = json.loads(request)
    early = protocol.received(json.dumps({"type": "error", "id": before["id"], "code": "not_ready", "message": ""}))
    assert early.retry_id == before["id"]
    again = protocol.retry(before["id"])
    assert json.loads(again) == before | {"id": before["id"] + 1}
    acknowledge(protocol, again)
    assert sequences(protocol, text(2)) == [2]


def test_a_book_is_suspended_while_its_connection_is_lost() -> None:
    """With its levels; it is valid again when all that it missed follows, and else with its next snapshot."""
    book = Book("BTC-USD")
    levels: dict[str, Any] = {"bids": [("1", "1")], "asks": []}
    book.apply(Message("l2_snapshot", "v", "BTC-USD", "", 1, True, "", levels))
    book.suspend("disconnected")
    book.suspend("disconnected")
    assert (book.valid, book.reason) == (False, "disconnected")
    book.resume()
    assert (book.valid, book.reason, book.bids()) == (True, "", [("1", "1")])
    book.suspend("disconnected")
    book.invalidate("missed")
    book.resume()
    assert (book.valid, book.reason) == (False, "missed")


def test_fields_of_a_later_version_are_ignored() -> None:
    """A field that is added does not break old clients."""
    (message,) = live().received(text(1, novelty=1)).events
    assert isinstance(message, Message)
    assert message.time.isoformat() == "2026-08-09T21:05:48.228568+00:00"


def test_a_refusal_is_raised_and_not_ready_is_asked_again() -> None:
    """Only a server that is still starting is worth asking twice."""
    protocol = live()
    assert protocol.received(json.dumps({"type": "error", "id": 3, "code": "not_ready", "message": ""})).retry_id == 3
    with pytest.raises(Refused, match="unknown_symbol"):
        protocol.received(json.dumps({"type": "error", "id": 3, "code": "unknown_symbol", "message": "no"}))


PRICES = st.integers(1, 12).flatmap(lambda price: st.sampled_from([f"{price}", f"{price}.0", f"{price}.00"]))
LEVELS = st.lists(st.tuples(PRICES, st.sampled_from(["0", "0.00", "1", "2.50"])), max_size=8)


# No judgement on speed: the machine that runs this may be busy.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=20))
def test_a_book_holds_what_a_plain_map_of_prices_would(changes: list[tuple[list[Any], list[Any]]]) -> None:
    """Whatever the order and notation of changes, both sides are exact and sorted best first."""
    book = Book("BTC-USD")
    sides: tuple[dict[Decimal, Any], dict[Decimal, Any]] = ({}, {})
    for number, both in enumerate(changes):
        kind = "l2_update" if number else "l2_snapshot"
        data = {"bids": both[0], "asks": both[1]}
        book.apply(Message(kind, "v", "BTC-USD", "2026-08-09T21:05:48Z", number, True, "", data))
        for side, levels in zip(sides, both, strict=True):
            for price, size in levels:
                side.pop(Decimal(price), None)
                if Decimal(size):
                    side[Decimal(price)] = (price, size)
    assert book.bids() == [sides[0][price] for price in sorted(sides[0], reverse=True)]
    assert book.asks() == [sides[1][price] for price in sorted(sides[1])]
