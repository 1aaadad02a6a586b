"""What a venue's documents say of a trade is in its conditions, and candles obey, on every venue."""

from __future__ import annotations

from decimal import Decimal

import pytest

from marketdata.events import HIGH_LOW, OPEN_CLOSE, VOLUME, Trade
from producers.venues import VENUES, find_venue
from tests.producers.conformance.cases import TABLE
from tests.producers.conformance.connection import Connection
from tests.producers.conformance.fake_venue import PRICE, FakeVenue, Mark
from tests.producers.conformance.test_subscriptions import endpoint_of

EVERY = pytest.mark.parametrize("venue", sorted(VENUES))
OTHER_PRICES = ("20", "3", "15", "30", "2", "40", "1")  # each marked trade would set a high, a low or the close


def traded(venue: str, marks: list[Mark]) -> tuple[Connection, str, list[Trade]]:
    """Return a connection on which an ordinary trade, and one with each mark, happened within one minute."""
    fake = TABLE[venue].fake()
    connection = Connection(venue, fake, endpoint=endpoint_of(venue, fake.trades))
    name = fake.names[0]
    connection.open()
    connection.run(2)
    connection.mark(name, PRICE, Mark({}, ()))
    for price, mark in zip(OTHER_PRICES, marks, strict=False):
        connection.run(2)
        connection.mark(name, price, mark)
    connection.run(100)
    return connection, name, [trade for event in connection.trades(name) for trade in event.trades]


@EVERY
def test_facts_say_whether_a_venue_marks_trades(venue: str) -> None:
    """Where the documents mark none, the facts say so, and the trades have no conditions."""
    assert find_venue(venue).marks_trades == bool(TABLE[venue].fake.marks)
    _, _, trades = traded(venue, [])
    ordinary = TABLE[venue].fake.ordinary
    assert [(Decimal(trade.price), trade.conditions, trade.excluded_from) for trade in trades] == [
        (Decimal(PRICE), ordinary, ())
    ]


MARKING = [name for name, row in sorted(TABLE.items()) if row.fake.marks]


@pytest.mark.parametrize("venue", MARKING)
def test_trades_have_their_conditions_and_update_what_they_may(venue: str) -> None:
    """Conditions, exclusions and liquidations of each, exactly; the candle has what the exclusions leave."""
    marks = list(TABLE[venue].fake.marks)
    connection, name, trades = traded(venue, marks)
    assert [(one.conditions, one.excluded_from, one.liquidation) for one in trades[1:]] == [
        (mark.conditions, mark.excluded, mark.liquidation) for mark in marks
    ]
    assert [Decimal(trade.price) for trade in trades] == [Decimal(price) for price in (PRICE, *OTHER_PRICES)][
        : len(trades)
    ]
    check_candle(connection, name, [Mark({}, ()), *marks])


def check_candle(connection: Connection, name: str, marks: list[Mark]) -> None:
    """Check the first minute against the sums of what each trade may update."""
    priced = list(zip((PRICE, *OTHER_PRICES), marks, strict=False))
    extremes = [Decimal(price) for price, mark in priced if HIGH_LOW not in mark.excluded]
    ends = [Decimal(price) for price, mark in priced if OPEN_CLOSE not in mark.excluded]
    count = sum(VOLUME not in mark.excluded for _, mark in priced)
    candle = connection.minutes(name)[0]
    assert [Decimal(value or "NaN") for value in (candle.open, candle.high, candle.low, candle.close)] == [
        ends[0], max(extremes), min(extremes), ends[-1],
    ]  # fmt: skip
    assert (Decimal(candle.volume), candle.trades) == (count * Decimal(connection.fake.size), count)


@pytest.mark.parametrize("venue", MARKING)
def test_every_mark_is_told_apart(venue: str) -> None:
    """A table that has one condition twice, or none at all, would prove nothing."""
    fake: type[FakeVenue] = TABLE[venue].fake
    conditions = [mark.conditions for mark in fake.marks]
    assert len(set(conditions)) == len(conditions)
    assert any(conditions)
