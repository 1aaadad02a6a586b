"""What /readyz says of a dependency that rests on another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import health
from runtime.health import NOTICED_SECONDS, STUCK_SECONDS, Beat, Dependent, Readiness

DATABASE, REGISTRY = "database", "registry"


class Clock:
    """A clock that the test sets."""

    now = 1_000.0

    def monotonic(self) -> float:
        """Return the seconds."""
        return self.now


def make(patch: pytest.MonkeyPatch) -> tuple[Clock, Readiness, Dependent]:
    """Return a clock, and a registry that rests on a database; both answer."""
    clock = Clock()
    patch.setattr(health, "time", clock)
    readiness = Readiness(DATABASE, REGISTRY)
    registry = Dependent(readiness, REGISTRY, needs=DATABASE)
    readiness.up(DATABASE)
    registry.up()
    return clock, readiness, registry


def test_failure_that_lasts_while_the_other_answers_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called down with its own reason, and up again with its first answer."""
    clock, readiness, registry = make(monkeypatch)
    registry.failed(clock.now, "500: broken")
    assert readiness.is_up(REGISTRY)
    clock.now += NOTICED_SECONDS
    registry.failed(clock.now - 0.1, "500: broken")
    assert readiness.report()[1]["checks"] == {DATABASE: "ok", REGISTRY: "500: broken"}
    registry.up()
    assert readiness.is_up(REGISTRY)


def test_a_service_without_an_optional_dependency_is_degraded_and_ready() -> None:
    """Without another one it is not ready; reasons show no passwords."""
    readiness = Readiness("kafka", DATABASE, optional=[DATABASE])
    assert readiness.report()[0] is False
    readiness.up("kafka")
    readiness.down(DATABASE, "no answer from postgresql://owner:hunter2@127.0.0.1/x")
    is_ready, body = readiness.report()
    assert (is_ready, body["status"]) == (True, "degraded")
    assert body["checks"] == {"kafka": "ok", DATABASE: "no answer from postgresql://***@127.0.0.1/x"}
    readiness.up(DATABASE)
    assert readiness.report() == (True, {"status": "ready", "checks": {"kafka": "ok", DATABASE: "ok"}})
    readiness.down("kafka", "gone")
    assert (readiness.report()[0], readiness.report()[1]["status"]) == (False, "not ready")


def test_a_loop_without_a_beat_is_stuck_until_it_beats_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes."""
    clock = Clock()
    monkeypatch.setattr(health, "time", clock)
    beat = Beat()
    clock.now += STUCK_SECONDS - 0.5
    assert beat.report() == (True, {"status": "alive", "beat_age_ms": 9_500})
    clock.now += 0.5
    assert beat.report() == (False, {"status": "stuck", "beat_age_ms": 10_000})
    beat.beat()
    assert beat.report() == (True, {"status": "alive", "beat_age_ms": 0})


@given(
    outages=st.lists(st.tuples(st.floats(0.5, 20), st.floats(5, 20)), min_size=1, max_size=4),
    notices=st.lists(st.floats(0, NOTICED_SECONDS - 0.1), min_size=8, max_size=8),
    every=st.floats(0.2, 3),
    late=st.floats(0, 5),
)
def test_no_outage_of_the_other_is_ever_its_own(
    outages: list[tuple[float, float]], notices: list[float], every: float, late: float
) -> None:
    """Whatever the outages, how late each is noticed, and how long its requests take to fail."""
    with pytest.MonkeyPatch.context() as patch:
        clock, readiness, registry = make(patch)
        events: list[tuple[float, str]] = []
        at = clock.now
        for (away, back), down_late, up_late in zip(outages, notices[::2], notices[1::2], strict=False):
            # What comes back before anybody noticed, or is seen to be back before it is, is another matter.
            gone, at = at + back, at + back + max(away, down_late + 0.1)
            events += [(gone + down_late, "down"), (at + up_late, "up")]
            moment = gone
            while moment < at:
                events.append((moment + late, f"failed {moment}"))
                moment += every
            events.append((max(at + late, moment + late) + 0.01, "answers"))
        for when, what in sorted(events):
            clock.now = when
            if what == "down":
                readiness.down(DATABASE, "refused")
            elif what == "up":
                readiness.up(DATABASE)
            elif what == "answers":
                registry.up()
            else:
                registry.failed(float(what.split()[1]), "500")
            assert readiness.is_up(REGISTRY)
