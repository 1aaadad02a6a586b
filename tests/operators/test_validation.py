"""Invalid data becomes a dead letter that names the field; valid data passes; nothing else is lost."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata import plain_prices
from marketdata.codec import Codec
from marketdata.events import EVENTS, AnyEvent, BookUpdate, DeadLetter, FeedStatus, Quote, Trades
from marketdata.operator import Operator
from stream_apps.operators.ingest_books import IngestBooks
from stream_apps.operators.ingest_quotes import IngestQuotes
from stream_apps.operators.ingest_status import IngestStatus
from stream_apps.operators.ingest_trades import IngestTrades

CODEC = Codec({cls.schema: number for number, cls in enumerate(EVENTS, start=1)})


def test_a_long_column_with_one_unusual_price_is_read_in_no_time() -> None:
    """A thousand prices before the wrong one: checked once each, not in every combination."""
    prices = [f"0.35{number % 100:02}0000" for number in range(1_000)]
    assert not plain_prices.are_usual_prices([*prices, "1e5"])
    assert plain_prices.are_usual_prices(prices)


BAD_TRADES: list[tuple[dict[str, Any], str, str]] = [
    ({"price": "abc"}, "not_a_decimal", "price"),
    ({"price": "NaN"}, "not_a_decimal", "price"),
    ({"price": "1,2"}, "not_a_decimal", "price"),
    ({"price": ""}, "not_a_decimal", "price"),
    ({"price": "--1"}, "not_a_decimal", "price"),
    ({"price": "1" * 65}, "not_a_decimal", "price"),
    ({"price": "1e40"}, "out_of_range", "price"),
    ({"price": 100}, "bad_type", "price"),
    ({"price": None}, "bad_type", "price"),
    ({"price": ["1"]}, "bad_type", "price"),
    ({"size": "0"}, "not_positive", "size"),
    ({"size": "-1"}, "not_positive", "size"),
    ({"size": "Infinity"}, "not_a_decimal", "size"),
    ({"size": 1.5}, "bad_type", "size"),
    ({"size": "1e-41"}, "out_of_range", "size"),
    ({"side": "BUY"}, "unknown_side", "side"),
    ({"side": ""}, "unknown_side", "side"),
    ({"action": "bust"}, "unknown_action", "action"),
    ({"trade_id": ""}, "bad_trade_id", "trade_id"),
    ({"trade_id": "x" * 200}, "bad_trade_id", "trade_id"),
    ({"trade_id": "a\x00b"}, "bad_trade_id", "trade_id"),
    ({"trade_id": "a\x85b"}, "bad_trade_id", "trade_id"),
    ({"trade_id": "a\ud800b"}, "bad_trade_id", "trade_id"),
    ({"action": "correct", "original_id": "\n"}, "bad_trade_id", "original_id"),
    ({"original_id": "x" * 200}, "bad_trade_id", "original_id"),
    ({"ts_event": 0}, "time_out_of_bounds", "ts_event"),
    ({"ts_event": "noon"}, "bad_type", "ts_event"),
    ({"ts_event": 1_786_276_800_000}, "time_out_of_bounds", "ts_event"),
]


@pytest.mark.parametrize(("wrong", "reason", "field"), BAD_TRADES)
def test_a_bad_trade_is_refused_and_the_others_of_its_frame_pass(
    make: Any, wrong: dict[str, Any], reason: str, field: str
) -> None:
    """The dead letter names the field and contains only that trade, so that a redrive repeats nothing."""
    bad = msgspec.structs.replace(make.trade(2, 1), **wrong)
    operator = IngestTrades()
    event = make.trades(make.trade(1, 1), bad, make.trade(3, 1), seconds=1)
    _, out = operator.step(operator.start("coinbase:BTC-USD"), event)
    passed, letter = out
    assert isinstance(passed, Trades)
    assert [trade.trade_id for trade in passed.trades] == ["1", "3"]
    assert isinstance(letter, DeadLetter)
    assert (letter.stage, letter.reason, letter.field) == ("validate", reason, field)
    assert len(msgspec.json.decode(letter.payload)["trades"]) == 1
    assert operator.counts[reason] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"ts_event": 1},
        {"ts_event": 1_786_276_800_000_000_000 + 12 * 10**9},
        {"origin": "guess"},
        {"ts_recv": 2**63 - 1},
        {"symbol": "BTC\x00USD"},
        {"venue": "\udfff"},
        {"line": "a\nb"},
        {"line": "x" * 600},
        {"reason": "\x1b[2J"},
        {"sequence": 2**63},
        {"complete_from": -(2**63) - 1},
    ],
)
def test_a_frame_that_is_wrong_as_a_whole_is_refused_as_a_whole(make: Any, wrong: dict[str, Any]) -> None:
    """Its dead letter has no payload: the engine adds the record's bytes."""
    event = msgspec.structs.replace(make.trades(make.trade(1, 0)), **wrong)
    operator = IngestTrades()
    _, out = operator.step(operator.start("k"), event)
    assert [(type(letter), letter.payload) for letter in out if isinstance(letter, DeadLetter)] == [(DeadLetter, b"")]
    assert len(out) == 1


def test_a_time_may_be_far_in_the_past_but_only_slightly_in_the_future(make: Any) -> None:
    """Replays and backfills are old; clocks differ by less than ten seconds."""
    operator = IngestTrades()
    old = make.trades(make.trade(1, -10 * 365 * 86_400), origin="backfill")
    ahead = msgspec.structs.replace(make.trades(make.trade(2, 9)), ts_recv=make.ts(0))
    for event in (old, ahead):
        _, out = operator.step(operator.start("k"), event)
        assert [type(passed) for passed in out] == [Trades]


BAD_BOOKS: list[tuple[dict[str, Any], str]] = [
    ({"bid_prices": ["1", "2"]}, "uneven_columns"),
    ({"bid_prices": ["0x1"]}, "not_a_decimal"),
    ({"reason": "\x00"}, "bad_text"),
    ({"sequence": 2**64}, "out_of_range"),
    ({"bid_prices": ["1,2"]}, "not_a_decimal"),
    ({"bid_sizes": ["-1"]}, "negative"),
    ({"bid_sizes": ["1,2"]}, "not_a_decimal"),
    ({"ask_sizes": [""]}, "not_a_decimal"),
    ({"ask_sizes": [1]}, "bad_type"),
    ({"ask_prices": [None]}, "bad_type"),
    ({"kind": "delta"}, "unknown_kind"),
    ({"ts_event": 0}, "time_out_of_bounds"),
    ({"origin": ""}, "unknown_origin"),
]


@pytest.mark.parametrize(("wrong", "reason"), BAD_BOOKS)
def test_one_bad_level_invalidates_the_update_and_the_book_until_the_next_snapshot(
    make: Any, wrong: dict[str, Any], reason: str
) -> None:
    """The book is cleared in the same step, with a gap on the ledger, until a snapshot closes it."""
    operator = IngestBooks()
    state = operator.start("coinbase:BTC-USD")
    good = make.book("snapshot", 0, [("99", "1")], [("101", "1")])
    bad = msgspec.structs.replace(make.book("update", 1, [("98", "1")], [("102", "1")]), **wrong)
    state, out = operator.step(state, good)
    assert out == [good]
    state, out = operator.step(state, bad)
    letter, clear, gap = out
    assert isinstance(letter, DeadLetter)
    assert isinstance(clear, BookUpdate)
    assert isinstance(gap, FeedStatus)
    assert (gap.kind, gap.channel, gap.ts_from) == ("gap", "books", make.ts(0))
    assert (letter.reason, letter.payload) == (reason, b"")
    assert (clear.kind, clear.valid, clear.reason) == ("clear", False, "gap")
    state, out = operator.step(state, make.book("update", 2, [("97", "1")]))
    assert out == []
    state, (_, end) = operator.step(state, make.book("snapshot", 3, [("97", "1")]))
    assert isinstance(end, FeedStatus)
    assert (end.kind, end.gap_id, end.ts_from, end.ts_to) == ("resynced", gap.gap_id, make.ts(0), make.ts(3))


@pytest.mark.parametrize("price", ["-37.63", "0", "0.00", "-0", "1e-40", "-1e29", f"{'9' * 30}.{'9' * 33}"])
def test_every_decimal_within_the_limits_is_a_price(make: Any, price: str) -> None:
    """Oil futures settled at -37.63 in April 2020; feeds check which signs an instrument may have."""
    book = make.book("snapshot", 0, [(price, "1")], [("5", "0.0")])
    cases: list[tuple[Operator[Any], AnyEvent]] = [
        (IngestTrades(), make.trades(make.trade(1, 0, price))),
        (IngestBooks(), book),
        (IngestQuotes(), make.quote(0, price, last=price, high_24h=price)),
    ]
    for operator, event in cases:
        _, out = operator.step(operator.start("coinbase:BTC-USD"), event)
        assert out == [event]


BAD_QUOTES: list[tuple[dict[str, Any], str]] = [
    ({"bid": "0,0"}, "not_a_decimal"),
    ({"source": "\x7f"}, "unknown_source"),
    ({"reason": "\x7f"}, "bad_text"),
    ({"ask": f"0.{'1' * 41}"}, "out_of_range"),
    ({"last": "x"}, "not_a_decimal"),
    ({"bid_size": "-1"}, "negative"),
    ({"volume_24h": "-0.1"}, "negative"),
    ({"change_24h": "--1"}, "not_a_decimal"),
    ({"change_24h": 1}, "bad_type"),
    ({"high_24h": "1,2"}, "not_a_decimal"),
    ({"symbol": "D\ud83dE"}, "bad_text"),
]


@pytest.mark.parametrize(("wrong", "reason"), BAD_QUOTES)
def test_a_bad_quote_is_refused(make: Any, wrong: dict[str, Any], reason: str) -> None:
    """A quote is one value: any invalid part makes it unusable."""
    operator = IngestQuotes()
    _, out = operator.step(operator.start("k"), msgspec.structs.replace(make.quote(0), **wrong))
    assert [letter.reason for letter in out if isinstance(letter, DeadLetter)] == [reason]
    assert len(out) == 1


def test_a_quote_with_statistics_and_a_falling_price_passes(make: Any) -> None:
    """Statistics need not fall on a tick, and a change may be negative."""
    quote = make.quote(0, volume_24h="1e3", high_24h="101.12345", low_24h="98.999", change_24h="-1.25", last="100.10")
    operator = IngestQuotes()
    _, out = operator.step(operator.start("k"), quote)
    assert out == [quote]
    assert isinstance(out[0], Quote)


BAD_STATUSES: list[tuple[dict[str, Any], str]] = [
    ({"kind": ""}, "unknown_kind"),
    ({"detail": "a\x00b"}, "bad_text"),
    ({"detail": "\udc80"}, "bad_text"),
    ({"detail": "x" * 20_000}, "too_long"),
    ({"reason": "a\tb"}, "bad_text"),
    ({"channel": "\x9f"}, "bad_text"),
    ({"gap_id": "x" * 513}, "too_long"),
    ({"expected": 2**63}, "out_of_range"),
    ({"ts_from": "noon"}, "bad_type"),
]


@pytest.mark.parametrize(("wrong", "reason"), BAD_STATUSES)
def test_a_bad_status_is_refused_as_a_whole(make: Any, wrong: dict[str, Any], reason: str) -> None:
    """A status is one statement; its dead letter can be stored, whatever was in it."""
    operator = IngestStatus()
    _, out = operator.step(operator.start("k"), msgspec.structs.replace(status(make), **wrong))
    (letter,) = out
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.payload) == (reason, b"")
    assert CODEC.decode(CODEC.encode(letter)) == letter
    assert "\x00" not in str(letter)


def status(make: Any) -> FeedStatus:
    """Return a status of a whole connection."""
    return FeedStatus(venue="coinbase", symbol="*", ts_event=make.ts(0), ts_recv=make.ts(0), line="l", kind="connected")


def test_a_detail_may_have_several_lines(make: Any) -> None:
    """It is a venue's text for people."""
    event = msgspec.structs.replace(status(make), detail="Logon refused:\n\tunknown sender\r\n")
    operator = IngestStatus()
    assert operator.step(operator.start("k"), event)[1] == [event]


def test_a_dead_letter_about_invalid_unicode_can_be_stored(make: Any) -> None:
    """Lone surrogates and control characters are escaped in its texts and in its payload."""
    bad = make.trade("a\ud800\x00", 0)
    operator = IngestTrades()
    _, (passed, letter) = operator.step(operator.start("k"), make.trades(make.trade(1, 0), bad))
    assert isinstance(passed, Trades)
    assert isinstance(letter, DeadLetter)
    assert CODEC.decode(CODEC.encode(letter)) == letter
    assert (letter.value, json.loads(letter.payload)["trades"][0]["trade_id"]) == ("a\\ud800\\x00", "a\\ud800\x00")


ANYTHING = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)


@given(data=st.data())
def test_no_value_of_any_type_makes_an_operator_raise(make: Any, data: st.DataObject) -> None:
    """Invalid output of a feed is refused; it does not crash and stop the partition."""
    trade = msgspec.structs.replace(
        make.trade(1, 0), **{data.draw(st.sampled_from(["price", "size"])): data.draw(ANYTHING)}
    )
    column = data.draw(st.sampled_from(["bid_prices", "ask_sizes"]))
    book = msgspec.structs.replace(
        make.book("update", 0, [("1", "1")], [("2", "1")]), **{column: [data.draw(ANYTHING)]}
    )
    field = data.draw(st.sampled_from(["bid", "ask_size", "last", "volume_24h", "change_24h", "high_24h"]))
    quote = msgspec.structs.replace(make.quote(0), **{field: data.draw(ANYTHING)})
    cases: list[tuple[Operator[Any], AnyEvent]] = [
        (IngestTrades(), make.trades(trade, seconds=0)),
        (IngestBooks(), book),
        (IngestQuotes(), quote),
    ]
    for operator, event in cases:
        operator.step(operator.start("coinbase:BTC-USD"), event)
