"""What goes out to a venue stays within its documented limits: on a connection, of an address, and per message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import pytest

from producers.live.pacing import Outgoing, Pacer
from producers.live.settings import ProducerSettings, Stream
from producers.venues import VENUES, find_venue
from producers.venues.kit.limits import Rate
from tests.producers.conformance.cases import TABLE
from tests.producers.conformance.connection import Connection
from tests.producers.conformance.fake_venue import Asked, Fate

EVERY = pytest.mark.parametrize("venue", sorted(VENUES))
MANY = 300
SOME = 60
MESSAGES_MAX = 10_000


def streams_of(venue: str) -> list[Stream]:
    """Return the connections over which 300 products are spread."""
    products = TABLE[venue].fake().products(MANY)
    assert len(set(products)) == MANY
    address = find_venue(venue).ws_url or "tls://venue.example:443"
    return ProducerSettings(venue=venue, products=products, ws_url=address).streams_of(find_venue(venue))


@cache
def opened(venue: str) -> list[tuple[Stream, Connection]]:
    """Return these connections when everything was requested and accepted."""
    found = []
    for stream in streams_of(venue):
        connection = Connection(venue, TABLE[venue].fake(), endpoint=stream.endpoint, products=stream.products)
        connection.open()
        found.append((stream, connection))
    return found


def troubled(venue: str, fate: Fate) -> Connection:
    """Return a connection with some of them, on which this becomes of every product's trades."""
    fake, stream = TABLE[venue].fake(), streams_of(venue)[0]
    products = (stream.products or ())[:SOME]
    connection = Connection(venue, fake, endpoint=stream.endpoint, products=products,
                            fates={(fake.trades, name): fate for name in products})  # fmt: skip
    connection.open()
    return connection


def asked(connection: Connection, message: bytes) -> list[Asked]:
    """Return what a message subscribes."""
    return [one for one in connection.fake.asked(message) if one.verb == "subscribe"]


def check_pace(rates: Sequence[Rate], times: list[float]) -> None:
    """Check that no span of time has more than a rate allows."""
    for rate in rates:
        for first, following in zip(times, times[rate.most :], strict=False):
            assert following - first >= rate.seconds * (1 - 1e-9)


@EVERY
def test_products_are_spread_over_connections_within_the_limits(venue: str) -> None:
    """300 products, each on one connection of each address, none with more than it may have."""
    limits, streams = find_venue(venue).limits, streams_of(venue)
    assert len({stream.name for stream in streams}) == len(streams)
    for endpoint in find_venue(venue).endpoints or (None,):
        mine = [name for stream in streams if stream.endpoint == endpoint for name in stream.products or ()]
        assert sorted(mine) == sorted(TABLE[venue].fake().products(MANY))
    for stream, connection in opened(venue):
        assert limits.products is None or len(stream.products or ()) <= limits.products
        subscriptions = [one for message in connection.sent for one in asked(connection, message)]
        assert {one.name for one in subscriptions} - {""} == set(stream.products or ())
        assert limits.subscriptions is None or len(subscriptions) <= limits.subscriptions


@EVERY
def test_no_message_is_too_long_or_names_too_much(venue: str) -> None:
    """Also one that subscribes everything at once."""
    arguments = find_venue(venue).limits.arguments or MANY
    for _, connection in opened(venue):
        for message in connection.sent:
            assert len(message) <= connection.fake.message_bytes
            assert len({one.name for one in connection.fake.asked(message)}) <= arguments


@EVERY
def test_messages_keep_the_pace_by_the_lines_own_clock(venue: str) -> None:
    """All that a connection sends on opening, whatever the venue answers, goes in order and no quicker than allowed."""
    rates, connection = find_venue(venue).limits.messages, troubled(venue, "refused")
    connection.run(15)
    outgoing, now, times, went = Outgoing(rates, MESSAGES_MAX), 0.0, list[float](), list[bytes]()
    assert all(map(outgoing.put, connection.sent))
    while outgoing:
        message = outgoing.take(now)
        if message is None:
            now += outgoing.wait_s(now)
            continue
        times.append(now)
        went.append(message)
    assert went == connection.sent
    check_pace(rates, times)


@EVERY
def test_attempts_to_connect_keep_the_pace(venue: str) -> None:
    """Every connection of 300 products, at once, and again after each was lost."""
    rates, now, times = find_venue(venue).limits.connects, 0.0, list[float]()
    pacer = Pacer(rates)
    for _ in range(3 * len(streams_of(venue))):
        now += pacer.wait_s(now)
        pacer.went(now)
        times.append(now)
    check_pace(rates, times)


@EVERY
def test_answers_are_due_only_once_a_message_was_sent_at_the_venues_pace(venue: str) -> None:
    """The last of many messages goes out late: no channel is stated before its answer was due."""
    rates, connection = find_venue(venue).limits.messages, troubled(venue, "unanswered")
    sent: Counter[str] = Counter()
    pause = rates[0].seconds / rates[0].most if rates else 0.0
    for place, message in enumerate(connection.sent):
        for one in asked(connection, message):
            if one.channel == connection.fake.trades:
                sent[one.name] = round(pause * place)
    connection.run(9)
    assert not [name for name in sent if connection.statuses("unsubscribed", name)]
    connection.run(3)
    assert not [name for name, second in sent.items() if second >= 3 and connection.statuses("unsubscribed", name)]
