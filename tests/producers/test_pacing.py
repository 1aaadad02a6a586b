"""What goes out to a venue stays within its documented limits: on a connection, of an address, and per message."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.live.pacing import Gate, Outgoing, Pacer
from producers.live.settings import ProducerSettings
from producers.venues import find_venue
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.venue import Endpoint, Venue

T0 = 1_790_000_000_000_000_000
MANY = 300
RATES = st.lists(st.builds(Rate, st.integers(1, 20), st.floats(0.1, 100)), min_size=1, max_size=3)


@given(RATES, st.lists(st.floats(0, 5), max_size=60))
def test_no_span_ever_has_more_than_a_rate_allows(rates: list[Rate], pauses: list[float]) -> None:
    """Whenever something wants to go, and however many rates hold at once."""
    pacer, now, times = Pacer(rates), 0.0, []
    for pause in pauses:
        now += pause
        now += pacer.wait_s(now)
        pacer.went(now)
        times.append(now)
    for rate in rates:
        for first, following in zip(times, times[rate.most :], strict=False):
            assert following - first >= rate.seconds * (1 - 1e-9)


def test_messages_go_in_order_and_no_quicker_than_the_rate() -> None:
    """Three a second: one at once, the next after a third of a second; too many are not kept."""
    outgoing = Outgoing((Rate(3, 1.0),), most=2)
    assert outgoing.put(b"1")
    assert outgoing.put(b"2")
    assert not outgoing.put(b"3")
    assert outgoing.take(10.0) == b"1"
    assert outgoing.take(10.3) is None
    assert outgoing.wait_s(10.3) == pytest.approx(1 / 3 - 0.3)
    assert outgoing.take(10.34) == b"2"
    assert outgoing.wait_s(10.34) == float("inf")


def test_lines_of_a_venue_share_what_their_address_may_send() -> None:
    """Where the venue counts the messages of an address, what one line sends makes the others wait."""
    shared = Pacer((Rate(2, 1.0),))
    lines = [Outgoing((), 2, shared), Outgoing((Rate(1, 5.0),), 2, shared)]
    for line in lines:
        assert line.put(b"1")
        assert line.put(b"2")
    assert lines[0].take(10.0) == b"1"
    assert lines[1].take(10.4) is None
    assert lines[1].wait_s(10.4) == pytest.approx(0.1)
    assert lines[1].take(10.5) == b"1"
    assert lines[0].take(11.0) == b"2"
    assert lines[1].wait_s(11.0) == pytest.approx(4.5), "its own rate, too"


def test_lines_of_a_venue_share_its_connection_attempts() -> None:
    """However many ask at once, they go one after the other at the address's rate."""

    async def scenario() -> list[float]:
        gate, loop = Gate((Rate(1, 0.05),)), asyncio.get_running_loop()

        async def attempt() -> float:
            await gate.turn()
            return loop.time()

        return sorted(await asyncio.gather(*(attempt() for _ in range(4))))

    times = asyncio.run(scenario())
    assert all(b - a >= 0.045 for a, b in pairwise(times))


def test_endpoints_carry_their_own_channels_over_lines_of_their_own() -> None:
    """Each has its path and its feed; parts are counted for its channels."""
    okx = find_venue("okx")
    ends = tuple(Endpoint(name=name, path=f"/{name}", channels=(name,), make=okx.make) for name in ("public", "market"))
    venue = Venue(name="okx", ws_url="wss://x.example/", rest_url=okx.rest_url, make=okx.make, endpoints=ends,
                  limits=Limits(subscriptions=2))  # fmt: skip
    streams = ProducerSettings(venue="okx", products=("A-B", "C-D", "E-F")).streams_of(venue)
    assert [(stream.name, stream.url, stream.products) for stream in streams] == [
        ("okx/public/part0", "wss://x.example/public", ("A-B", "C-D")),
        ("okx/public/part1", "wss://x.example/public", ("E-F",)),
        ("okx/market/part0", "wss://x.example/market", ("A-B", "C-D")),
        ("okx/market/part1", "wss://x.example/market", ("E-F",)),
    ]
