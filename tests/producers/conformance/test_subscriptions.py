"""Nothing vouches for a channel that its venue refused or did not answer, on any venue; its neighbours go on."""

from __future__ import annotations

import pytest

from producers.venues import VENUES, find_venue
from producers.venues.kit.venue import Endpoint
from tests.producers.conformance.cases import TABLE
from tests.producers.conformance.connection import Connection
from tests.producers.conformance.fake_venue import Fate

EVERY = pytest.mark.parametrize("venue", sorted(VENUES))
CARRIERS = pytest.mark.parametrize("carrier", ["book", "trades"])

DEADLINE_S = 20  # ten seconds, and what the pace of messages adds
RUN_S = 200  # three minutes and the candles' grace period


def connect(venue: str, carrier: str, fate: Fate = "accepted", *, early: bool = False) -> tuple[Connection, str, str]:
    """Return an open connection on which this becomes of one product's channel, and the names of both products."""
    assert venue in TABLE, f"{venue} has no row in `cases.TABLE`"
    fake = TABLE[venue].fake()
    channel = fake.book if carrier == "book" else fake.trades
    unlucky, neighbour = fake.names
    connection = Connection(venue, fake, endpoint=endpoint_of(venue, channel), early=early,
                            fates={(channel, unlucky): fate})  # fmt: skip
    connection.open()
    return connection, unlucky, neighbour


def endpoint_of(venue: str, channel: str) -> Endpoint | None:
    """Return the address of a venue that carries a channel, None where there is one only."""
    return next((one for one in find_venue(venue).endpoints if channel in one.channels), None)


def is_whole(connection: Connection, carrier: str, name: str) -> bool:
    """Return whether what a channel brought of a product is valid now."""
    if carrier == "trades":
        return bool(connection.trades(name)) and connection.trades(name)[-1].valid
    if connection.books(name):
        return connection.books(name)[-1].valid
    return bool(connection.quotes(name)) and connection.quotes(name)[-1].valid


def quiet(connection: Connection, name: str) -> dict[int, tuple[bool, str, int | None]]:
    """Return validity, reason and trades of the minutes in which nothing was traded."""
    minutes = connection.minutes(name).items()
    return {minute: (candle.valid, candle.reason, candle.trades) for minute, candle in minutes if minute > 0}


def check_neighbour(connection: Connection, carrier: str, name: str) -> None:
    """Check that a product to which nothing happened is complete."""
    assert not connection.statuses("unsubscribed", name)
    assert not connection.statuses("gap", name)
    assert is_whole(connection, carrier, name)
    if carrier == "trades":
        assert quiet(connection, name) == {1: (True, "", 0), 2: (True, "", 0)}


def check_lost(connection: Connection, carrier: str, name: str) -> None:
    """Check that a channel which is not subscribed is stated, on the ledger, invalid, and vouched for by nothing."""
    channel = connection.fake.book if carrier == "book" else connection.fake.trades
    # Where answers name no message, one that does not come may cost another channel its answer.
    stated = [one for one in connection.statuses("unsubscribed", name) if one.channel == channel]
    assert {one.reason for one in stated} <= {"refused", "unacknowledged", "no_data"}
    assert len(stated) == 1
    if not connection.symbol(name):  # one subscription brings products that only their data name
        assert not connection.books(name)
        assert not connection.trades(name)
        return
    assert [one.reason for one in connection.statuses("gap", name)] == ["unsubscribed"]
    assert not connection.statuses("resynced", name)
    if carrier == "book":
        assert not [one for one in connection.books(name) if one.valid]
        return
    assert not [one for one in connection.trades(name) if one.valid]
    assert quiet(connection, name) == {1: (False, "gap", 0), 2: (False, "gap", 0)}


@EVERY
@CARRIERS
@pytest.mark.parametrize("early", [False, True], ids=["answer-first", "data-first"])
def test_acknowledged_channels_are_valid_and_quiet_minutes_are_no_gap(venue: str, carrier: str, *, early: bool) -> None:
    """Requested, answered, then data, or data before the answer: complete, and a minute without trades says so."""
    connection, *names = connect(venue, carrier, early=early)
    connection.run(RUN_S, trade_at=None if early and not connection.fake.answers_first else 3)
    for name in names:
        check_neighbour(connection, carrier, name)
    assert not connection.ends()


@EVERY
@CARRIERS
def test_refused_channel_is_stated_and_its_neighbour_goes_on(venue: str, carrier: str) -> None:
    """The venue refuses one product's channel and goes on refusing it, while everything else is alive."""
    connection, unlucky, neighbour = connect(venue, carrier, "refused")
    connection.run(RUN_S, trade_at=3)
    check_lost(connection, carrier, unlucky)
    check_neighbour(connection, carrier, neighbour)


@EVERY
@CARRIERS
def test_channel_without_an_answer_is_stated_by_a_deadline(venue: str, carrier: str) -> None:
    """The venue never answers for one product, while everything else is alive."""
    connection, unlucky, _ = connect(venue, carrier, "unanswered")
    connection.run(DEADLINE_S, trade_at=3)
    assert connection.statuses("unsubscribed", unlucky) or connection.ends()
    if not connection.ends():
        connection.run(RUN_S - DEADLINE_S)
        check_lost(connection, carrier, unlucky)


@EVERY
@CARRIERS
def test_channel_that_is_accepted_later_recovers(venue: str, carrier: str) -> None:
    """It is requested again, however the first request ended, and is valid from its data on."""
    connection, unlucky, neighbour = connect(venue, carrier, "refused")
    connection.run(5, trade_at=3)
    connection.relent()
    connection.run(60, trade_at=50)
    assert len(connection.statuses("unsubscribed", unlucky)) == 1
    assert len(connection.statuses("subscribed", unlucky)) == 1
    assert is_whole(connection, carrier, unlucky)
    connection.run(RUN_S)
    if carrier == "trades":
        assert quiet(connection, unlucky)[3] == (True, "", 0)
    assert is_whole(connection, carrier, neighbour)
