"""The schedule of faults: the same for one seed, inside its time, and never two faults of one process at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infra.chaos.schedule import FREEZE_SECONDS_MAX, FREEZE_SECONDS_MIN, OTHER_KINDS, WEIGHTS, schedule

SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS, seconds=st.floats(5, 600), workers=st.integers(1, 4))
def test_schedule_depends_on_the_seed_alone_and_ends_in_time(seed: int, seconds: float, workers: int) -> None:
    """Faults come in order; each is over when the run is, whatever its length."""
    faults = schedule(seed, seconds, workers)
    assert faults == schedule(seed, seconds, workers)
    assert faults == sorted(faults, key=lambda fault: fault.at_s)
    assert all(fault.at_s > 0 and fault.end_s <= seconds for fault in faults)


@given(seed=SEEDS, workers=st.integers(1, 4))
def test_a_process_has_one_fault_at_a_time(seed: int, workers: int) -> None:
    """A frozen process is not killed: that would end the freeze early, and its end would hit another process."""
    free_at: dict[str, float] = {}
    for fault in schedule(seed, 300, workers):
        assert free_at.get(fault.target, 0.0) <= fault.at_s
        free_at[fault.target] = fault.end_s
        if fault.kind == "freeze":
            assert min(FREEZE_SECONDS_MIN, 300 - fault.at_s - 1) <= fault.seconds <= FREEZE_SECONDS_MAX


def test_every_process_is_killed_frozen_and_stopped_in_a_long_run() -> None:
    """An hour has each kind of fault of each process, every worker too, and workers that join and leave."""
    found = {(fault.kind, fault.target) for fault in schedule(1, 3600, 2)}
    processes = [*WEIGHTS, "stream-apps-2"]
    assert {(kind, process) for process in processes for kind in ("kill", "freeze", "term")} <= found
    assert {kind for kind, _ in found} == {"kill", "freeze", "term", "leave", *OTHER_KINDS}
