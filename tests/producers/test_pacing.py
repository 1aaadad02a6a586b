"""What goes out to a venue stays within its documented limits: on a connection, of an address, and per message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.feed import Send
from producers.live.__main__ import make_feed
from producers.live.pacing import Gate, Outgoing, Pacer
from producers.live.settings import ProducerSettings
from producers.venues import VENUES, find_venue
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


# --- 300 products of each venue ---


def many(venue: Venue) -> tuple[str, ...]:
    """Return 300 names as the venue's usual products have them, with other base currencies."""
    usual = venue.products[0]
    base = next(base for base in ("XBT", "BTC", "AAPL") if base in usual)
    letters = "ACDEFGHIJK"
    made = (usual.replace(base, "".join(each) + "A"[: len(base) - 3], 1) for each in product(letters, repeat=3))
    return tuple(name for _, name in zip(range(MANY), made, strict=False))


def names_in(values: Any) -> Iterable[str]:
    """Return every text in a message."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from names_in(value)
    elif isinstance(values, list):
        for value in values:
            yield from names_in(value)


@pytest.mark.parametrize("name", sorted(name for name, venue in VENUES.items() if venue.limits != Limits()))
def test_every_connection_stays_within_the_venues_limits(name: str) -> None:
    """300 products are spread over connections, none with more products, channels or arguments than it may have."""
    venue = find_venue(name)
    products, limits = many(venue), venue.limits
    streams = ProducerSettings(venue=name, products=products).streams_of(venue)
    assert len({stream.name for stream in streams}) == len(streams)
    for endpoint in venue.endpoints or (None,):
        mine = [stream.products or () for stream in streams if stream.endpoint == endpoint]
        assert sorted(name for part in mine for name in part) == sorted(products)
    for stream in streams:
        channels = venue.channels if stream.endpoint is None else stream.endpoint.channels
        part = stream.products or ()
        assert limits.products is None or len(part) <= limits.products
        assert limits.subscriptions is None or len(part) * len(channels) <= limits.subscriptions
        feed = make_feed(venue, stream, f"{stream.name}/0", None)
        sent = [output.frame for output in feed.opened(T0) if isinstance(output, Send)]
        assert sent
        for frame in sent:
            named = [text for text in names_in(json.loads(frame)) if any(each in text for each in part)]
            assert limits.arguments is None or len(named) <= limits.arguments


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
