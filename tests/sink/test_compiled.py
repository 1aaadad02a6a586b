"""The compiled rows of trades equal those of the plain code for every record, including damaged ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marketdata.codec import Codec
from marketdata.errors import BadEvent, CodecError
from marketdata.events import EVENTS, EXCLUSIONS, Trade, Trades
from sink import compiled
from sink.batch import Source
from sink.rows import stored

CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, 1)})
PLAIN_CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, 1)}, plain=True)

longs = st.integers(-(2**63), 2**63 - 1)
words = st.one_of(st.text("abcXYZ-/:0 ", max_size=12), st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
digits = st.text("0123456789", max_size=15)
decimals = st.builds(lambda sign, whole, point, rest: sign + whole + point + rest,
                     st.sampled_from(["", "", "-"]), digits, st.sampled_from([".", ""]), digits)  # fmt: skip
numbers = st.one_of(
    decimals, st.sampled_from(["0", "-0.00", ".5", "5.", "1e-8", "NaN", "", "-", ".", "9" * 31, "1.2.3"])
)
trades = st.builds(
    Trade, trade_id=words, ts_event=longs, price=numbers, size=numbers,
    side=st.sampled_from(["buy", "sell", "unknown"]), liquidation=st.booleans(),
    action=st.sampled_from(["new", "correct", "cancel"]), original_id=words,
    conditions=st.lists(words, max_size=18).map(tuple),
    excluded_from=st.lists(st.sampled_from(EXCLUSIONS), max_size=4).map(tuple),
)  # fmt: skip
messages = st.builds(
    Trades, venue=words, symbol=words, ts_event=longs, ts_recv=longs, line=words, sequence=st.none() | longs,
    origin=st.sampled_from(["live", "repair", "backfill"]), valid=st.booleans(), reason=words,
    complete_from=st.none() | longs, trades=st.lists(trades, max_size=4).map(tuple),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _needs_compiler() -> None:
    if compiled.trade_rows is None:
        pytest.skip("the rows are not compiled here: no C compiler, or TICKSTREAM_PLAIN_ROWS is set")


def both(payload: bytes) -> tuple[Any, Any]:
    """Return a record's rows by the compiled code and by the plain code; None if a part of it is bad."""
    assert compiled.trade_rows is not None
    quick = compiled.trade_rows(payload, 3, 77)
    try:
        event = PLAIN_CODEC.decode(payload)
        records = stored(event, Source("md.trades.v1", 3, 77, b"", payload), 0)
    except (BadEvent, CodecError):
        return quick, None
    plain = (records[0].rows, records[0].data) if len(records) == 1 else None
    return quick, plain


@given(event=messages)
@example(Trades(venue="v", symbol="s", ts_event=-1, ts_recv=-(2**63), line="l", trades=(
    Trade(trade_id="1", ts_event=-1, price="0001.50", size="100000000000000.000000000000001", side="buy"),
    Trade(trade_id="", ts_event=-999, price="-0.00", size="12345.67890", side="sell", liquidation=True),
)))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_rows_are_equal_to_the_last_bit(event: Trades) -> None:
    """The compiled code returns the same rows as the plain code."""
    quick, plain = both(CODEC.encode(event))
    assert quick is None or quick == plain


@given(
    ids=st.lists(st.text("0123456789abcdef-", min_size=1, max_size=40), min_size=1, max_size=8),
    price=st.decimals(-(10**9), 10**9, places=8),
    sequence=st.none() | longs,
    conditions=st.lists(st.sampled_from(["@", " ", "INSURANCE_FUND"]), max_size=16).map(tuple),
    excluded_from=st.lists(st.sampled_from(EXCLUSIONS), max_size=3).map(tuple),
)
@settings(max_examples=100, deadline=None)
def test_usual_records_take_the_fast_path(
    ids: list[str], price: Any, sequence: int | None, conditions: tuple[str, ...], excluded_from: tuple[str, ...]
) -> None:
    """With or without sequence numbers and conditions, with prices of any market."""
    event = Trades(
        venue="coinbase", symbol="BTC-USD", ts_event=1, ts_recv=2, line="coinbase/0", sequence=sequence,
        trades=tuple(
            Trade(trade_id=one, ts_event=1, price=f"{price:f}", size="0.5", side="buy", conditions=conditions,
                  excluded_from=excluded_from)
            for one in ids
        ),
    )  # fmt: skip
    quick, plain = both(CODEC.encode(event))
    assert quick is not None
    assert quick == plain


@given(event=messages, damage=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
       cut=st.integers(0, 300), tail=st.binary(max_size=3))  # fmt: skip
@settings(max_examples=500, deadline=None)
def test_damaged_records_make_no_rows_that_the_plain_code_would_not_make(
    event: Trades, damage: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    """Changed, truncated and lengthened bytes: no crash, no read past the end, no different row."""
    payload = bytearray(CODEC.encode(event))
    for at, value in damage:
        if 5 + at < len(payload):
            payload[5 + at] = value
    data = bytes(payload[: max(5, len(payload) - cut)] if cut % 2 else payload) + tail
    quick, plain = both(data)
    assert quick is None or quick == plain


@given(data=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_cause_no_crash(data: bytes) -> None:
    """Neither reader crashes."""
    quick, plain = both(b"\x00\x00\x00\x00\x02" + data)
    assert quick is None or plain is None or quick == plain
