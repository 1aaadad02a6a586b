"""The Python client's decoder of the header `hops`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tickstream_client import Hops, decode_hops

from marketdata import headers

LONG = st.integers(0, 2**63 - 1)


@given(
    times=st.tuples(LONG, LONG, LONG),
    topic=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
    partition=st.integers(0, 2**31 - 1),
    offset=LONG,
    index=st.integers(0, 2**31 - 1),
)
def test_the_client_reads_the_hops_that_we_write(
    times: tuple[int, int, int], topic: str, partition: int, offset: int, index: int
) -> None:
    """Times of 0 are unknown; the input record is there when the message has one."""
    t_recv, t_produced, t_processed = (time or None for time in times)
    read = decode_hops(headers.Hops(*times).to_header())
    assert read == Hops(t_recv, t_produced, t_processed)
    position = headers.Position(topic, partition, offset, index)
    read = decode_hops(headers.Hops(*times, position).to_header())
    assert read == Hops(t_recv, t_produced, t_processed, topic, partition, offset, index)


@given(st.binary(max_size=80))
def test_other_bytes_are_refused_or_read_but_never_a_crash(value: bytes) -> None:
    """A header of another program or a later version is a ValueError."""
    try:
        decode_hops(value)
    except ValueError:
        return
    assert value[0] == 1


def test_a_later_version_is_refused() -> None:
    """Its layout is not known."""
    with pytest.raises(ValueError, match="version 1"):
        decode_hops(b"\x02" + bytes(24))
