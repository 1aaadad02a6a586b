"""The headers of the pipeline's outputs, compiled and in Python: equal for every input, and readable."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata import compiled, plain_headers
from marketdata.headers import HOPS, TRACEPARENT, Hops, Position, cloudevent, encode_times, hops_of, record_id

TOPIC, SOURCE = "md.ingest.trades.v1", "pipeline"
NANOSECONDS = st.integers(-(2**62), 2**62)
POSITIONS = st.builds(
    Position, st.text(max_size=20), st.integers(0, 2**31 - 1), st.integers(0, 2**62), st.integers(-9, 9)
)
HOPS_VALUES = st.one_of(
    st.none(),
    st.binary(max_size=60),
    st.builds(encode_times, NANOSECONDS, NANOSECONDS),
    st.builds(Hops, NANOSECONDS, NANOSECONDS, NANOSECONDS, POSITIONS).map(Hops.to_header),
    st.binary(min_size=1, max_size=5).map(lambda tail: Hops(1, 2, 3, Position("t", 0, 0)).to_header() + tail),
)
IDENTITIES = st.one_of(
    st.builds(record_id, st.text(max_size=9), st.text("aB9é/", max_size=18), st.integers(0, 10**19)),
    st.text("/09aZ-\x00é", max_size=30).map(str.encode),
)
HEADERS = st.one_of(
    st.none(),
    st.lists(
        st.one_of(
            st.tuples(st.just(HOPS), HOPS_VALUES),
            st.tuples(st.just("ce_id"), IDENTITIES),
            st.tuples(st.sampled_from([TRACEPARENT, "ce_time", "ce_id", "other"]), st.none() | st.binary(max_size=40)),
        ),
        max_size=6,
    ),
)


def built(maker: Any, calls: list[tuple[Any, ...]]) -> list[Any]:
    """Return all that a builder returns for records one after the other."""
    headers = maker(TOPIC, 3, SOURCE)
    found: list[Any] = []
    for *record, index in calls:
        headers.begin(*record)
        found += [
            headers.t_produced,
            headers.trace,
            headers.run,
            headers.number,
            headers.build("Trades", b"sim:A", index),
        ]
    return found


@pytest.mark.skipif(compiled.headers is None, reason="no compiled code here")
@given(
    st.lists(
        st.tuples(
            HEADERS,
            st.integers(0, 2**62),
            st.integers(-(2**62), 2**62),
            st.integers(0, 2**62),
            st.text(max_size=20),
            st.integers(-1, 2**31 - 1),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_compiled_headers_are_those_of_python(calls: list[tuple[Any, ...]]) -> None:
    """Whatever the input's headers, one record after the other."""
    assert built(compiled.headers.OutputHeaders, calls) == built(plain_headers.OutputHeaders, calls)


@pytest.mark.parametrize("maker", [plain_headers.OutputHeaders, getattr(compiled.headers, "OutputHeaders", None)])
def test_headers_of_an_output_name_its_input_and_its_hops(maker: Any) -> None:
    """The time of receipt and the trace are the input's; without a time of receipt, Kafka's timestamp stands for it."""
    if maker is None:
        pytest.skip("no compiled code here")
    headers = maker(TOPIC, 3, SOURCE)
    received = 1_780_000_000_123_456_789
    headers.begin([(HOPS, encode_times(received, 7)), (TRACEPARENT, b"00-trace")], 41, 5, 99, "lost|")
    made = dict(headers.build("Trades", b"sim:A", 2))
    assert made == cloudevent("Trades", SOURCE, identity=f"{TOPIC}|3|41|lost|2", subject=b"sim:A", ts=received) | {
        TRACEPARENT: b"00-trace",
        HOPS: made[HOPS],
    }
    assert hops_of(made) == Hops(received, 7, 99, Position(TOPIC, 3, 41, 2))
    headers.begin(None, 42, 1_780_000_000_123, 99, "")
    assert dict(headers.build("Trades", b"sim:A", 0))["ce_time"] == b"2026-05-28T20:26:40.123000000Z"
