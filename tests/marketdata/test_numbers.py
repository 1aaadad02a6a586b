"""Decimal strings and times: exact, with strict parsing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.clock import SECOND_NS, format_rfc3339, parse_rfc3339
from marketdata.decimals import (
    FRACTION_DIGITS_MAX,
    LENGTH_MAX,
    WHOLE_DIGITS_MAX,
    decimal,
    is_zero,
    may_have_zero,
    plain,
)
from marketdata.errors import BadEvent, CodecError
from marketdata.headers import HOPS, Hops, Position, cloudevent, encode_times, hops_of

DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20)


@given(value=DECIMALS)
def test_plain_keeps_the_value_in_plain_notation(value: Decimal) -> None:
    """No exponent, no trailing zeros after the point, no negative zero, and exactly the same value."""
    text = plain(value)
    assert Decimal(text) == value
    assert "E" not in text
    assert "." not in text or text[-1] not in "0."
    assert text != "-0"


@given(value=DECIMALS)
def test_a_decimal_string_is_read_exactly(value: Decimal) -> None:
    """The output of `plain` is read as the same value."""
    text = plain(value)
    whole, _, fraction = text.lstrip("-").partition(".")
    if len(text) <= LENGTH_MAX and len(whole) <= WHOLE_DIGITS_MAX and len(fraction) <= FRACTION_DIGITS_MAX:
        assert decimal(text, "price") == value


@pytest.mark.parametrize("text", ["1" * 31, "0." + "1" * 41, "1e30", "-1e30", "1e-41", "0e-99"])
def test_a_number_of_more_digits_than_any_market_has_is_refused(text: str) -> None:
    """Before or after the point, in any notation: exact sums have a bounded size."""
    with pytest.raises(BadEvent, match="price") as raised:
        decimal(text, "price")
    assert raised.value.reason == "out_of_range"


@pytest.mark.parametrize("text", ["1", "-1", "1.", ".5", "1e5", "1E-8", "0.00", "007"])
def test_usual_notations_are_decimals(text: str) -> None:
    """Every notation that venues use."""
    assert decimal(text, "price") == Decimal(text)


@pytest.mark.parametrize(
    "text", ["", ".", "-", "NaN", "Infinity", "-inf", " 1", "1 ", "1_000", "1,5", "+1", "0x1", "1e1000", "٣", "1" * 65]
)
def test_anything_else_is_no_decimal(text: str) -> None:
    """Python accepts some of these as numbers, but they are not prices. The error names the field."""
    with pytest.raises(BadEvent, match="price") as raised:
        decimal(text, "price")
    assert raised.value.reason == "not_a_decimal"


@given(value=DECIMALS, spelling=st.sampled_from(["f", "E", "e"]))
def test_zero_is_recognised_in_any_notation(value: Decimal, spelling: str) -> None:
    """Only zeros are zero, however small other numbers are."""
    assert is_zero(format(value, spelling)) == (value == 0)


@pytest.mark.parametrize("text", ["0", "0.0", "-0", "0e-8", "0E5", ".0", "0.", "00", "0.000e-400"])
def test_every_notation_of_zero_is_zero(text: str) -> None:
    """As venues write them."""
    assert is_zero(text)


@pytest.mark.parametrize("text", ["1e-400", "0.1e-999", "0.00000000000000000000000000000001", "10", "-1", ""])
def test_small_is_not_zero(text: str) -> None:
    """Numbers too small for a float are not zero, and neither is an empty string."""
    assert not is_zero(text)


NANOSECONDS = st.integers(-(10**18), 4 * 10**18)
ZONES = st.integers(-14 * 60, 14 * 60)


@given(ts=NANOSECONDS, minutes=ZONES, separator=st.sampled_from("Tt "))
def test_a_time_of_any_zone_is_read_to_the_nanosecond(ts: int, minutes: int, separator: str) -> None:
    """The same moment in any zone gives the same nanoseconds."""
    seconds, fraction = divmod(ts, SECOND_NS)
    zone = timezone(timedelta(minutes=minutes))
    moment = datetime.fromtimestamp(seconds, UTC).astimezone(zone)
    offset = moment.strftime("%z")
    text = f"{moment:%Y-%m-%d}{separator}{moment:%H:%M:%S}.{fraction:09d}"
    assert parse_rfc3339(f"{text}{offset[:3]}:{offset[3:]}") == ts
    assert parse_rfc3339(text + offset) == ts


@given(ts=NANOSECONDS)
def test_a_formatted_time_is_read_back_to_the_microsecond(ts: int) -> None:
    """Formatting truncates to microseconds, and changes nothing else."""
    text = format_rfc3339(ts)
    assert text.endswith("Z")
    assert parse_rfc3339(text) == ts - ts % 1000


@pytest.mark.parametrize(
    "text",
    [
        "2026-08-09T21:05:48",
        "2026-08-09",
        "21:05:48Z",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-08-09T24:00:01Z",
        "2026-08-09T21:05:60Z",
        "2026-08-09T21:05:48.1234567890Z",
        "2026-08-09T21:05:48,5Z",
        "1786309556",
        "",
        "2026-08-09T21:05:48+99:00",
    ],
)
def test_a_time_without_a_zone_or_that_does_not_exist_is_refused(text: str) -> None:
    """A time without a zone is ambiguous. The error names the field."""
    with pytest.raises(BadEvent, match="event_time") as raised:
        parse_rfc3339(text, "event_time")
    assert raised.value.reason == "bad_time"


@given(
    topic=st.from_regex(r"[a-z.]{1,30}", fullmatch=True),
    partition=st.integers(0, 1000),
    offset=st.integers(0, 2**62),
    index=st.integers(-1, 1000),
)
def test_a_position_survives_its_header(topic: str, partition: int, offset: int, index: int) -> None:
    """Positions survive encoding, and sort in the order of their inputs."""
    position = Position(topic, partition, offset, index)
    assert Hops.from_header(Hops(1, 2, 3, position).to_header()) == Hops(1, 2, 3, position)
    assert Position(topic, partition, offset, index + 1) > position
    assert Position(topic, partition, offset + 1, 0) > position


TIMES = Hops(1, 2, 3).to_header()


@pytest.mark.parametrize(
    "value", [b"", b"1", b"\x02" + TIMES[1:], TIMES[:-1], TIMES + b"x", TIMES + bytes(16), TIMES + bytes(16) + b"\xff"]
)
def test_a_hops_header_of_another_form_is_refused(value: bytes) -> None:
    """The hops of another program's header with the same name are unknown."""
    with pytest.raises(CodecError, match="hops"):
        Hops.from_header(value)
    assert hops_of({HOPS: value}) == Hops()


def test_hop_times_are_read_from_headers() -> None:
    """The time of a missing hop is 0, as is every hop of a message without the header."""
    assert hops_of({HOPS: encode_times(17, 18)}) == Hops(17, 18, 0)
    assert hops_of({}) == Hops()


def test_the_cloudevents_attributes_are_complete() -> None:
    """Required and optional attributes of CloudEvents 1.0, as the Kafka binding writes them in binary mode."""
    assert cloudevent("Trades", "producer", identity="1", subject=b"v:S", ts=1_769_904_000_000_000_001) == {
        "ce_specversion": b"1.0",
        "ce_type": b"tickstream.md.Trades.v1",
        "ce_source": b"tickstream/producer",
        "ce_dataschema": b"urn:tickstream:schema:tickstream.md.Trades:v1",
        "content-type": b"application/avro",
        "ce_id": b"1",
        "ce_time": b"2026-02-01T00:00:00.000000001Z",
        "ce_subject": b"v:S",
    }


@given(st.lists(st.sampled_from(["0", "0.00", "-0", "0e-8", "1", "0.1", "10", "1.0", "100"]), min_size=1))
def test_no_zero_is_overlooked_among_many(sizes: list[str]) -> None:
    """A false positive is possible only for exponents."""
    assert may_have_zero(sizes) == any(is_zero(size) for size in sizes)
