"""A line without market data is mute, and a quiet one is replaced less and less often."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from producers.live.silence import FACTOR, PATIENCE_S_MAX, DataSilence


def test_market_data_ends_a_silence_and_heartbeats_do_not() -> None:
    """A minute without a trade, a quote or a change of a book is too long, whatever else comes."""
    silence, counts = DataSilence(60.0), Counter(snapshots=1)
    silence.begin(0.0)
    assert not silence.is_mute(counts, 1.0)
    counts["heartbeats"] += 100
    assert not silence.is_mute(counts, 60.0)
    assert silence.is_mute(counts, 62.0)


def test_connection_that_never_brings_anything_is_mute() -> None:
    """Its silence begins with the connection."""
    silence = DataSilence(60.0)
    silence.begin(100.0)
    assert not silence.is_mute(Counter(), 101.0)
    assert silence.is_mute(Counter(), 162.0)


def test_thin_market_is_given_time() -> None:
    """A silence of 50 s that ended by itself: 200 s are allowed from then on."""
    silence, counts = DataSilence(60.0), Counter(trades=1)
    silence.begin(0.0)
    silence.is_mute(counts, 1.0)
    counts["trades"] += 1
    assert not silence.is_mute(counts, 51.0)
    assert not silence.is_mute(counts, 250.0)
    assert silence.is_mute(counts, 252.0)
    assert silence.patience_s == FACTOR * 201.0


def test_where_markets_close_silence_means_nothing() -> None:
    """No limit, no silence."""
    silence = DataSilence(None)
    silence.begin(0.0)
    assert not silence.is_mute(Counter(), 10_000.0)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=400))
def test_quiet_line_is_not_replaced_again_and_again(data: list[int]) -> None:
    """Each replacement without data in between takes at least four times as long as the one before, up to an hour."""
    silence, counts, now, mutes = DataSilence(60.0), Counter[str](), 0.0, list[float]()
    silence.begin(now)
    for came in data:
        now += 30.0
        counts["trades"] += came
        if silence.is_mute(counts, now):
            mutes.append(now)
            silence.begin(now)
    pauses = [b - a for a, b in pairwise(mutes)]
    for before, after in pairwise(pauses):
        assert after >= min(before, PATIENCE_S_MAX)
