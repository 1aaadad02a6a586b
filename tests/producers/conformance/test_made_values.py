"""A wrong value in any made message costs at most what it contains, and what is cleared is requested again."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.events import DeadLetter
from tests.producers.conformance.cases import SECOND
from tests.producers.conformance.follower import FEW, TS, WRONG, Follower
from tests.producers.conformance.scripts import SCRIPTS, encoded, places, play_step


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_read_without_a_dead_letter(name: str) -> None:
    """Else the next test would spoil what is spoilt already."""
    script, follower = SCRIPTS[name], Follower()
    feed = script.make()
    follower.take(feed.opened(TS))
    for step in script.steps:
        out = play_step(script, feed, follower, step, encoded(script, step.value))
        assert not [output for output in out if isinstance(output, DeadLetter)]
    assert all(follower.valid.values())
    assert len(follower.valid) == (0 if "alpaca" in name else 2 if "two" in name else 1)


@pytest.mark.parametrize("name", SCRIPTS)
@FEW
@given(data=st.data(), wrong=st.sampled_from([*WRONG, ...]))
def test_wrong_value_publishes_nothing_wrong_and_is_repaired(name: str, data: st.DataObject, wrong: Any) -> None:
    """Whatever value of whatever message it is, or that is missing; then the venue goes on, and begins again."""
    script, follower = SCRIPTS[name], Follower()
    feed = script.make()
    spoilt = data.draw(st.integers(0, len(script.steps) - 1))
    value = deepcopy(script.steps[spoilt].value)
    spots = list(places(value))
    holder, at = spots[data.draw(st.integers(0, len(spots) - 1))]
    if wrong is ...:
        del holder[at]
    else:
        holder[at] = wrong
    follower.take(feed.opened(TS))
    for number, step in enumerate(script.steps):
        play_step(script, feed, follower, step, encoded(script, value if number == spoilt else step.value))
        for second in range(1, 62) if step.purpose else ():  # a bad answer may be asked for again a while later
            follower.take(feed.ticked(TS + second * SECOND) if follower.due else [])
        assert not follower.due, "a book was cleared and nothing asked for a new one"
    follower.take(feed.ticked(TS + SECOND))
    follower.take(feed.closed("reset", TS + SECOND))
    assert not any(follower.valid.values())
