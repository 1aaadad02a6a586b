"""Each channel of each product is requested at exactly one address, and one symbol over several has one truth."""

from __future__ import annotations

from collections import Counter

import pytest

from marketdata.events import BookUpdate, FeedStatus, Trades
from producers.venues import VENUES, find_venue
from tests.producers.conformance.cases import SECOND, TABLE
from tests.producers.conformance.connection import Connection
from tests.producers.conformance.test_limits import asked, opened
from tests.producers.conformance.test_subscriptions import RUN_S, quiet

SEVERAL = sorted(name for name, venue in VENUES.items() if venue.endpoints)


@pytest.mark.parametrize("venue", sorted(VENUES))
def test_each_channel_of_each_product_is_requested_at_one_address_once(venue: str) -> None:
    """Over all connections of 300 products; every product has the same channels, those of the facts among them."""
    requested: Counter[tuple[str, str]] = Counter()
    addresses: dict[str, set[str]] = {}
    for stream, connection in opened(venue):
        for message in connection.sent:
            for one in asked(connection, message):
                requested[one.channel, one.name] += bool(one.name)
                addresses.setdefault(one.channel, set()).add(stream.url)
    assert set(requested.values()) <= {0, 1}
    channels: dict[str, set[str]] = {}
    for (channel, name), times in requested.items():
        if times:
            channels.setdefault(name, set()).add(channel)
    assert len({frozenset(of_one) for of_one in channels.values()}) == 1
    assert all(len(urls) == 1 for urls in addresses.values())
    endpoints = find_venue(venue).endpoints
    for endpoint in endpoints:
        here = {channel for channel, urls in addresses.items() if any(url.endswith(endpoint.path) for url in urls)}
        assert here == set(endpoint.channels)
    if endpoints:
        assert sorted(one for endpoint in endpoints for one in endpoint.channels) == sorted(find_venue(venue).channels)


@pytest.mark.parametrize("venue", SEVERAL)
def test_a_symbol_over_several_addresses_has_one_truth(venue: str) -> None:
    """Books come from one of them, trades from another; neither states anything of the other's."""
    connections = [Connection(venue, TABLE[venue].fake(), endpoint=one) for one in find_venue(venue).endpoints]
    name = connections[0].fake.names[0]
    for connection in connections:
        connection.open()
        connection.run(RUN_S, trade_at=3)
    with_books = [one for one in connections if one.books(name)]
    with_trades = [one for one in connections if one.trades(name)]
    assert len(with_books) == len(with_trades) == 1
    assert with_books != with_trades
    assert with_books[0].books(name)[-1].valid
    assert quiet(with_trades[0], name) == {1: (True, "", 0), 2: (True, "", 0)}
    assert not [one for connection in connections for one in connection.statuses("gap", name)]
    assert {one.symbol(name) for one in connections} == {connections[0].symbol(name)}


@pytest.mark.parametrize("venue", SEVERAL)
@pytest.mark.parametrize("carrier", ["book", "trades"])
def test_an_address_that_is_lost_costs_its_own_channels_alone(venue: str, carrier: str) -> None:
    """The book stays good without the trades, and the trades without the book; each has its own ledger."""
    connections = [Connection(venue, TABLE[venue].fake(), endpoint=one) for one in find_venue(venue).endpoints]
    name = connections[0].fake.names[0]
    for connection in connections:
        connection.open()
        connection.run(10, trade_at=3)
    lost = next(one for one in connections if (one.books(name) if carrier == "book" else one.trades(name)))
    out = lost.feed.closed("reset", lost.ts + SECOND)
    kinds = (BookUpdate, Trades) if carrier == "book" else (Trades, BookUpdate)
    assert [one.valid for one in out if isinstance(one, kinds[0]) and one.symbol == lost.symbol(name)][-1:] == [False]
    assert not [one for one in out if isinstance(one, kinds[1])]
    gaps = [one for one in out if isinstance(one, FeedStatus) and one.kind == "gap" and one.symbol == lost.symbol(name)]
    assert len(gaps) == 1
