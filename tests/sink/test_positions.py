"""The sink's positions as a pure value: what was read, what must be checked, lags and stalls."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sink.batch import Span
from sink.positions import Jump, Positions

ONE, OTHER = ("md.trades.v1", 0), ("md.trades.v1", 1)


def started(**offsets: int) -> Positions:
    """Return positions that start at the offsets of two partitions."""
    positions = Positions()
    positions.start({ONE: offsets.get("one", 10), OTHER: offsets.get("other", 20)}, 0.0)
    return positions


def test_consecutive_records_are_handed_over_without_a_jump() -> None:
    """The span starts at the stored offset and ends after the last record; a partition without records has none."""
    positions = started()
    assert all(positions.take(ONE, offset, 1.0) for offset in (10, 11, 12))
    assert positions.hand_over() == ({ONE: Span(10, 13)}, [])
    assert positions.take(ONE, 13, 2.0)
    assert positions.hand_over() == ({ONE: Span(13, 14)}, [])
    assert positions.hand_over() == ({}, [])


def test_records_read_before_a_new_start_are_ignored() -> None:
    """An offset below the position and a partition that is not read change nothing."""
    positions = started()
    assert not positions.take(ONE, 9, 1.0)
    assert not positions.take(("md.trades.v1", 2), 0, 1.0)
    positions.clear()
    assert not positions
    assert not positions.take(ONE, 10, 1.0)
    assert positions.hand_over() == ({}, [])


def test_a_transaction_marker_is_accepted_only_during_an_uninterrupted_read() -> None:
    """One offset without a record is checked after a start and a pause, not in between; two are always checked."""
    positions = started()
    positions.take(ONE, 11, 1.0)
    positions.take(ONE, 13, 1.0)
    positions.take(ONE, 16, 1.0)
    positions.resume(2.0)
    positions.take(ONE, 18, 2.0)
    positions.take(ONE, 20, 2.0)
    assert positions.hand_over() == ({ONE: Span(10, 21)}, [Jump(ONE, 10, 11), Jump(ONE, 14, 16), Jump(ONE, 17, 18)])


def test_the_end_of_a_log_is_reached_without_a_database_transaction() -> None:
    """Offsets before the end without a record are checked with the next batch, and are no lag."""
    positions = started()
    positions.reach(ONE, 12, 1.0)
    positions.reach(ONE, 14, 1.0)
    positions.see_ends({ONE: 14, OTHER: 25})
    assert dict(positions.lags()) == {ONE: 0, OTHER: 5}
    assert positions.hand_over() == ({}, [Jump(ONE, 10, 14)])


def test_lag_counts_from_the_stored_offset_while_anything_waits() -> None:
    """Records read or handed over are not stored yet."""
    positions = started()
    positions.see_ends({ONE: 15})
    positions.take(ONE, 10, 1.0)
    assert dict(positions.lags())[ONE] == 5
    spans, _ = positions.hand_over()
    assert dict(positions.lags())[ONE] == 5
    positions.store(spans)
    assert dict(positions.lags())[ONE] == 4


def test_a_partition_without_progress_and_with_more_records_stalls() -> None:
    """It is reported again after each limit, and stays stalled after a new start until it moves or has caught up."""
    positions = started()
    positions.see_ends({ONE: 12})
    assert positions.find_stalls(10.0, 15.0) == []
    found = positions.find_stalls(16.0, 15.0)
    assert [(stall.partition, stall.offset, stall.end) for stall in found] == [(ONE, 10, 12)]
    assert "no progress in md.trades.v1[0]: at offset 10 for 16 s" in str(found[0])
    positions.start({ONE: 10, OTHER: 20}, 16.0)
    positions.see_ends({ONE: 12})
    assert positions.find_stalls(17.0, 15.0) == []
    assert positions.stalled == found
    positions.take(ONE, 10, 18.0)
    assert positions.find_stalls(18.0, 15.0) == []
    assert positions.stalled == []


def test_a_partition_at_its_end_never_stalls() -> None:
    """However long no record arrives; the limit starts with the first waiting record."""
    positions = started()
    assert positions.find_stalls(1_000.0, 15.0) == []
    positions.see_ends({ONE: 11})
    assert positions.find_stalls(1_010.0, 15.0) == []
    assert len(positions.find_stalls(1_016.0, 15.0)) == 1


@given(st.lists(st.tuples(st.sampled_from(["take", "reach", "hand", "resume"]), st.integers(0, 4))))
def test_every_offset_is_covered_once(steps: list[tuple[str, int]]) -> None:
    """Spans are contiguous, and only single offsets without a record are in no jump."""
    positions, taken, jumps, spans = started(), set[int](), list[Jump](), list[Span]()
    ahead = 10
    for step, distance in steps:
        if step == "take":
            assert positions.take(ONE, ahead + distance, 0.0)
            taken.add(ahead + distance)
            ahead += distance + 1
        elif step == "reach":
            positions.reach(ONE, ahead + distance, 0.0)
            ahead += distance
        elif step == "resume":
            positions.resume(0.0)
        else:
            found, checked = positions.hand_over()
            spans += found.values()
            jumps += checked
    found, checked = positions.hand_over()
    spans += found.values()
    jumps += checked
    for before, after in pairwise(spans):
        assert before.next == after.expected
    covered = {offset for jump in jumps for offset in range(jump.start, jump.end)}
    assert not covered & taken
    passed = [offset for offset in range(10, ahead) if offset not in taken and offset not in covered]
    assert all(after - before > 1 for before, after in pairwise(passed))
