"""Token buckets: in memory, and in Redis by the same rules."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from api.auth.buckets import Buckets, Decision, Limit
from api.auth.limiter import _LEASE_S, FAILURES, SCRIPT, SHARED, Limiter
from infra.local.table import Endpoints

LIMITS = st.builds(Limit, burst=st.integers(1, 50), rate=st.floats(0.1, 200))
STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 20)), min_size=1, max_size=60)


@given(limit=LIMITS, steps=STEPS)
def test_no_window_has_more_than_the_burst_and_the_rate(limit: Limit, steps: list[tuple[float, int]]) -> None:
    """In every window of time, at most burst + rate * t tokens are taken, whatever is asked for and when."""
    buckets, now = Buckets(10), 1000.0
    taken: list[tuple[float, int]] = []
    for pause, wanted in steps:
        now += pause
        taken.append((now, buckets.take("a", limit, wanted, now).taken))
    for first, (begin, _) in enumerate(taken):
        total = 0
        for moment, count in taken[first:]:
            total += count
            assert total <= limit.burst + limit.rate * (moment - begin) + 1e-6


@given(limit=LIMITS, steps=STEPS)
def test_waiting_as_long_as_stated_gives_a_token(limit: Limit, steps: list[tuple[float, int]]) -> None:
    """After a refusal, a client that waits `wait_s` is served."""
    buckets, now = Buckets(10), 0.0
    for pause, wanted in steps:
        now += pause
        decision = buckets.take("a", limit, wanted, now)
        if not decision.left:
            now += decision.wait_s + 1e-6
            assert buckets.take("a", limit, 1, now).taken == 1


@given(steps=st.lists(st.floats(-100, 100), min_size=1, max_size=40))
def test_a_clock_that_steps_back_gives_no_token_twice(steps: list[float]) -> None:
    """Tokens depend on the furthest time that was seen, not on how often it was passed."""
    buckets, limit, now, taken = Buckets(1), Limit(5, 1.0), 0.0, 0
    times = [now := now + step for step in steps]
    for moment in times:
        taken += buckets.take("a", limit, 1, moment).taken
    assert taken <= 5 + max(0.0, max(times) - times[0])


def test_buckets_are_bounded_and_forget_who_was_away_longest() -> None:
    """The table of clients has a limit; a client that still comes keeps its bucket."""
    buckets, limit = Buckets(3), Limit(2, 0.001)
    for _ in range(2):
        assert buckets.take("kept", limit, 1, 0).taken == 1
    for number in range(50):
        buckets.take(f"other-{number}", limit, 1, 0)
        assert buckets.take("kept", limit, 1, 0).taken == 0
        assert len(buckets) <= 3


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may take long on a busy machine; these tests are about what it decides."""
    monkeypatch.setattr("api.auth.limiter._TIMEOUT_S", 30.0)


@asynccontextmanager
async def limiter(url: str | None) -> AsyncIterator[Limiter]:
    """Return a limiter as one API process has it."""
    one = Limiter(url)
    try:
        yield one
    finally:
        await one.close()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine."""
    asyncio.run(work())


def test_processes_share_one_bucket_in_redis(endpoints: Endpoints, patient: None) -> None:
    """Three processes together let no more pass than one bucket has, however many ask at once."""

    async def work() -> None:
        client, limit = f"key:{uuid.uuid4().hex}", Limit(40, 2.0)
        async with (
            limiter(endpoints.redis_url) as a,
            limiter(endpoints.redis_url) as b,
            limiter(endpoints.redis_url) as c,
        ):
            began = time.monotonic()
            decisions = await asyncio.gather(*(one.take(client, limit) for _ in range(60) for one in (a, b, c)))
            passed = sum(each.taken for each in decisions)
            assert 40 <= passed <= 40 + limit.rate * (time.monotonic() - began)
            refused = next(each for each in decisions if not each.taken)
            assert 0 < refused.wait_s <= 0.5

    run(work)


def test_a_fast_client_leases_and_never_gets_more_than_it_may(endpoints: Endpoints, patient: None) -> None:
    """With leases, most requests cost no round trip, and the total stays within burst + rate * (t + lease)."""

    async def work() -> None:
        client, limit = f"key:{uuid.uuid4().hex}", Limit(500, 1000.0)
        async with limiter(endpoints.redis_url) as a, limiter(endpoints.redis_url) as b:
            began, passed, trips = time.monotonic(), 0, 0
            while time.monotonic() < began + 1.0:
                for one in (a, b):
                    decision = one.use(client, limit)
                    trips += decision is None and passed < limit.burst
                    passed += (decision or await one.take(client, limit)).taken
            most = limit.burst + limit.rate * (time.monotonic() - began + _LEASE_S)
            assert most * 0.5 < passed <= most
            # 500 tokens in leases of 100, and those of the processes' first requests.
            assert trips <= 20

    run(work)


def test_a_client_over_its_limit_costs_no_round_trip_until_its_next_token(endpoints: Endpoints, patient: None) -> None:
    """A flood of one client is refused in memory, and served again when the answer said so."""

    async def work() -> None:
        client, limit = f"key:{uuid.uuid4().hex}", Limit(3, 2.0)
        async with limiter(endpoints.redis_url) as one:
            assert [(await one.take(client, limit)).taken for _ in range(4)] == [1, 1, 1, 0]
            began = time.monotonic()
            refused = one.use(client, limit)
            assert refused is not None
            assert (refused.taken, refused.left) == (0, 0)
            while (decision := one.use(client, limit)) is not None:
                assert decision.taken == 0
                await asyncio.sleep(0.005)
            assert time.monotonic() - began >= refused.wait_s
            assert (await one.take(client, limit)).taken == 1

    run(work)


def test_a_bucket_in_redis_expires_once_it_would_be_full(endpoints: Endpoints) -> None:
    """Redis keeps nothing of clients that are gone."""
    with redis.Redis.from_url(endpoints.redis_url) as server:
        name = f"tickstream:limit:{uuid.uuid4().hex}"
        taken, left, wait = server.register_script(SCRIPT)(keys=[name], args=[10, 5.0, 8])
        assert (taken, left, wait) == (8, 2, 0)
        assert 1000 < server.pttl(name) <= 2600
        taken, left, wait = server.register_script(SCRIPT)(keys=[name], args=[10, 5.0, 8])
        assert taken >= 2
        assert left == 0
        assert 0 < wait <= 200_000


def test_limits_hold_per_process_while_redis_is_away() -> None:
    """Without Redis a request is neither refused for that reason nor let pass without a limit."""

    async def work() -> None:
        before = FAILURES._value.get()
        async with limiter("redis://127.0.0.1:1/0") as one:
            limit = Limit(5, 0.01)
            passed = [(await one.take("a", limit)).taken for _ in range(20)]
            assert passed == [1] * 5 + [0] * 15
        assert FAILURES._value.get() == before + 1
        assert SHARED._value.get() == 0

    run(work)


@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:1/0"])
def test_the_limiter_without_redis_decides_as_the_bucket_does(url: str | None) -> None:
    """The refusal states when the next request may be made."""

    async def work() -> None:
        async with limiter(url) as one:
            assert await one.take("a", Limit(1, 0.5)) == Decision(1, 0, 2.0)
            refused = await one.take("a", Limit(1, 0.5))
            assert refused.taken == 0
            assert 1.5 < refused.wait_s <= 2.0

    run(work)
