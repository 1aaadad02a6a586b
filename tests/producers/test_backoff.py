"""The backoff and the breaker, as pure state machines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from producers.venues.kit.backoff import FAILURES_MAX, Backoff, Breaker, Policy, State

CHANCES = st.lists(st.floats(0, 1, exclude_max=True), max_size=200)


@given(chances=CHANCES)
def test_waits_stay_under_a_ceiling_that_doubles_to_the_cap(chances: list[float]) -> None:
    """Full jitter: from nothing to base * 2^n, never above 60 s, however many failures."""
    backoff = Backoff()
    for number, chance in enumerate(chances):
        ceiling_s = min(60.0, 0.5 * 2.0**number)
        wait_s = backoff.failed(chance)
        assert 0 <= wait_s <= ceiling_s
        assert wait_s == ceiling_s * chance


@given(chances=CHANCES)
def test_a_venue_may_want_longer_waits_and_an_end_of_the_tries(chances: list[float]) -> None:
    """Alpaca's: 5 s at least, 300 s at most, and given up with the tenth failure in a row."""
    backoff = Backoff.by(Policy(base_s=5.0, cap_s=300.0, least_s=5.0, tries_max=10))
    for number, chance in enumerate(chances):
        assert backoff.is_exhausted == (number >= 10)
        assert 5.0 <= backoff.failed(chance) <= min(300.0, 5.0 * 2.0**number)
    backoff.succeeded()
    assert not backoff.is_exhausted


def test_success_begins_anew() -> None:
    """After a success the first wait is short again."""
    backoff = Backoff()
    for _ in range(20):
        backoff.failed(0.5)
    assert backoff.failed(0.5) == 30.0
    backoff.succeeded()
    assert backoff.failed(0.5) == 0.25


@given(results=st.lists(st.booleans(), max_size=100))
def test_breaker_opens_at_the_fifth_failure_in_a_row_and_closes_at_a_success(results: list[bool]) -> None:
    """It tells each change once: never two alerts without a recovery between them."""
    breaker = Breaker()
    in_a_row = 0
    told: list[str] = []
    for success in results:
        breaker.attempted()
        assert {breaker.state} <= {State.CLOSED, State.HALF_OPEN}, "an attempt is never made while open"
        said = breaker.succeeded() if success else breaker.failed()
        in_a_row = 0 if success else in_a_row + 1
        assert breaker.state is (State.OPEN if in_a_row >= FAILURES_MAX else State.CLOSED)
        if said is not None:
            told.append(said)
        assert (told[-1:] == ["breaker_open"]) == (breaker.state is State.OPEN)
    assert all(said == ("breaker_open", "breaker_closed")[place % 2] for place, said in enumerate(told))


def test_half_open_probe_that_fails_opens_again_without_a_second_alert() -> None:
    """One alert for one outage."""
    breaker = Breaker()
    told = [breaker.failed() for _ in range(FAILURES_MAX)]
    states: list[State] = []
    for end in (breaker.failed, breaker.succeeded):
        breaker.attempted()
        states.append(breaker.state)
        told.append(end())
        states.append(breaker.state)
    assert told == [None, None, None, None, "breaker_open", None, "breaker_closed"]
    assert states == [State.HALF_OPEN, State.OPEN, State.HALF_OPEN, State.CLOSED]
