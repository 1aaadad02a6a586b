"""What a venue sends about a derivative is in md.derivatives exactly, field by field, and what it left out is null."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from marketdata.events import DeadLetter, Derivative
from marketdata.feed import Output
from producers.venues import VENUES, find_venue
from tests.producers.conformance.cases import CODEC, TABLE
from tests.producers.conformance.connection import Connection
from tests.producers.conformance.test_subscriptions import endpoint_of

FIELDS = (
    "mark_price", "index_price", "open_interest", "open_interest_value", "funding_rate", "next_funding_ts",
    "predicted_funding_rate", "funding_interval", "delta", "gamma", "vega", "theta", "rho", "bid_iv", "ask_iv",
    "mark_iv", "underlying_price",
)  # fmt: skip
HAVING = [name for name, row in sorted(TABLE.items()) if row.fake.derivative]
MESSAGES = [(name, number) for name in HAVING for number in range(len(TABLE[name].fake.messages))]
EACH_MESSAGE = pytest.mark.parametrize(("venue", "number"), MESSAGES, ids=str)


def connect(venue: str, channel: str) -> Connection:
    """Return an open connection that is subscribed to a derivative."""
    fake = TABLE[venue].fake()
    connection = Connection(venue, fake, endpoint=endpoint_of(venue, channel), products=(fake.derivative,),
                            market=fake.market)  # fmt: skip
    connection.open()
    assert not [one for one in connection.out if isinstance(one, DeadLetter)]
    return connection


def out_of(venue: str, number: int, change: list[Any] | None = None, value: Any = None) -> list[Output]:
    """Return what one message becomes, on a connection of its own; the value at the path `change` is another."""
    connection = connect(venue, TABLE[venue].fake.messages[number])
    message = connection.fake.derived(connection.ts)[number]
    sent = deepcopy(message.message)
    if change is not None:
        holder = sent
        for step in change[:-1]:
            holder = holder[step]
        holder[change[-1]] = value
    frame = json.dumps(sent, separators=(",", ":")).encode()
    if message.request is not None:
        return connection.feed.fetched(message.request, frame, connection.ts)
    return connection.feed.received(frame, connection.ts)


def values_of(event: Derivative) -> dict[str, Any]:
    """Return the fields that an event has."""
    found = {name: getattr(event, name) for name in FIELDS if getattr(event, name) is not None}
    return found | ({"liquidations": event.liquidations} if event.liquidations else {})


def events(out: list[Output]) -> list[dict[str, Any]]:
    """Return the fields of each event about a derivative."""
    return [values_of(one) for one in out if isinstance(one, Derivative)]


def expected(venue: str, number: int) -> dict[str, Any]:
    """Return the fields that the event of one message must have."""
    connection = connect(venue, TABLE[venue].fake.messages[number])
    return connection.fake.derived(connection.ts)[number].values


def leaves(value: Any, path: list[Any] | None = None) -> Iterator[list[Any]]:
    """Yield the path of each text and number of a message."""
    for at in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        here = [*(path or []), at]
        if isinstance(value[at], dict | list):
            yield from leaves(value[at], here)
        elif value[at] is not None:
            yield here


@pytest.mark.parametrize("venue", sorted(VENUES))
def test_facts_name_every_field_that_a_venue_sends(venue: str) -> None:
    """Made from the documents' own messages; a venue without derivatives names none."""
    names = {name for number in range(len(TABLE[venue].fake.messages)) for name in expected(venue, number)}
    assert names == set(find_venue(venue).derivatives)


@EACH_MESSAGE
def test_message_is_one_event_with_its_fields_and_no_others(venue: str, number: int) -> None:
    """Digit for digit, with rates as fractions; it is the same behind Avro."""
    out = out_of(venue, number)
    assert events(out) == [expected(venue, number)]
    assert not [one for one in out if isinstance(one, DeadLetter)]
    for event in out:
        if isinstance(event, Derivative):
            assert CODEC.decode(CODEC.encode(event)) == event
            assert (event.valid, event.venue) == (True, venue)


@EACH_MESSAGE
def test_bad_value_is_a_dead_letter_and_its_neighbours_pass(venue: str, number: int) -> None:
    """Each value in turn is none: no event has a wrong one, and for each field there is one that costs it alone."""
    right = expected(venue, number)
    connection = connect(venue, TABLE[venue].fake.messages[number])
    message = connection.fake.derived(connection.ts)[number].message
    alone: set[str] = set()
    left: list[tuple[Any, ...]] = []
    for path in leaves(message):
        out = out_of(venue, number, path, "NaN")
        found = {name: value for event in events(out) for name, value in event.items()}
        if "liquidations" not in right:
            assert found.items() <= right.items()
        left.append(found.get("liquidations", ()))
        missing = right.keys() - found.keys()
        # Where the documents fix the interval, it is that of the rate.
        is_alone = len(missing - {"funding_interval"}) == 1 or missing == {"funding_interval"}
        if is_alone and any(isinstance(one, DeadLetter) for one in out):
            alone |= missing
    assert alone == right.keys() or "liquidations" in right
    forced = right.get("liquidations", ())
    assert all(tuple(other for other in forced if other != one) in left for one in forced)
