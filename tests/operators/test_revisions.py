"""Revisions of historical candles: each passes once, and memory is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.state import pack_state, unpack_state
from stream_apps.operators import revisions
from stream_apps.operators.revisions import Revisions

PLACES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=80)


@given(candles=PLACES)
def test_a_revision_passes_when_it_is_higher_than_the_last(candles: list[tuple[int, int]]) -> None:
    """In any order of places, across checkpoints; ranges are sorted, disjoint and minimal."""
    passed, naive = Revisions(), dict[int, int]()
    for place, revision in candles:
        assert (passed.add(place, revision) == "new") == (revision > naive.get(place, -1))
        naive[place] = max(revision, naive.get(place, -1))
        passed = unpack_state(pack_state(passed), Revisions)
    columns = zip(passed.starts, passed.ends, passed.revisions, strict=True)
    assert {place: revision for start, end, revision in columns for place in range(start, end + 1)} == naive
    changes = [place for place in naive if naive.get(place - 1) != naive[place]]
    assert list(passed.starts) == sorted(changes)


@given(candles=PLACES, limit=st.integers(1, 4))
def test_however_little_is_remembered_no_revision_passes_twice(candles: list[tuple[int, int]], limit: int) -> None:
    """A revision that may have passed is refused; one that certainly has is a duplicate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(revisions, "RANGES_MAX", limit)
        passed, naive = Revisions(), set[tuple[int, int]]()
        for candle in candles:
            if passed.add(*candle) == "new":
                assert candle not in naive
                naive.add(candle)
    assert len(passed.starts) <= limit


def test_years_of_history_take_a_few_bytes_and_a_patchwork_has_a_limit() -> None:
    """A backfill and its repeats are one range; of ten thousand repaired minutes only the last are kept."""
    passed = Revisions()
    for revision in range(3):
        for place in range(20_000):
            assert passed.add(place, revision) == "new"
    assert len(pack_state(passed)) < 120
    for place in range(0, 20_000, 2):
        passed.add(place, 3)
    assert len(pack_state(passed)) < 10_000
    assert passed.add(100, 3) == "too_old"
    assert passed.add(100, 4) == "new"
    assert len(passed.starts) <= revisions.RANGES_MAX
