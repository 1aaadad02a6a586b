"""What a venue sends about a derivative is published field by field, and nothing that it did not send is made up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import DeadLetter, Derivative, Instrument, Liquidation
from producers.venues.kit import derivatives
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.products import Product

NOW = 1_800_000_000 * SECOND_NS


def product(status: str = "online") -> Product:
    """Return a perpetual."""
    return Product(
        Instrument(venue="v", symbol="BTC-USDT", ts_recv=1, venue_symbol="BTCUSDT", base_currency="BTC",
                   quote_currency="USDT", kind="perpetual", status=status)
    )  # fmt: skip


def made(status: str = "online", **fields: Any) -> tuple[Call, list[Derivative], list[DeadLetter]]:
    """Return the call after one message, its events and its dead letters."""
    call = Call(Line("v", "v/0"), NOW, None, b"the frame")
    derivatives.send(call, product(status), NOW, **fields)
    return (
        call,
        [one for one in call.out if isinstance(one, Derivative)],
        [one for one in call.out if isinstance(one, DeadLetter)],
    )


def test_only_what_was_sent_is_in_the_event() -> None:
    """An empty text is what the venue left out, and a zero is a value."""
    call, (event,), letters = made(mark_price="65000.10", index_price="", open_interest=None, funding_rate="0.00000000")
    assert (event.mark_price, event.funding_rate) == ("65000.10", "0.00000000")
    assert (event.index_price, event.open_interest, event.next_funding_ts) == (None, None, None)
    assert event.liquidations == ()
    assert not letters
    assert call.line.counts["derivatives"] == 1


def test_a_message_without_any_field_is_no_event() -> None:
    """Neither an event nor a dead letter."""
    assert made(mark_price="", index_price=None, liquidations=[None])[1:] == ([], [])


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("mark_price", "NaN", "not_a_decimal"),
        ("open_interest", "-1", "negative"),
        ("mark_iv", "-0.5", "negative"),
        ("next_funding_ts", 5, "time_out_of_bounds"),
        ("next_funding_ts", 2**62, "time_out_of_bounds"),
        ("funding_interval", 0, "out_of_range"),
    ],
)
def test_a_bad_field_costs_only_itself(field: str, value: Any, reason: str) -> None:
    """It becomes a dead letter that names field and value; its neighbours are published."""
    _, (event,), (letter,) = made(**{"index_price": "1.5", field: value})
    assert event.index_price == "1.5"
    assert getattr(event, field) is None
    assert (letter.reason, letter.field, letter.value, letter.payload) == (reason, field, str(value), b"the frame")


def test_prices_rates_and_greeks_below_zero_pass() -> None:
    """Futures have settled below zero, and rates and greeks have signs."""
    fields = {"mark_price": "-37.63", "funding_rate": "-0.0001", "theta": "-12.5", "rho": "-3"}
    _, (event,), letters = made(**fields)
    assert {name: getattr(event, name) for name in fields} == fields
    assert not letters


def test_a_next_funding_time_of_zero_is_unknown() -> None:
    """Binance sends 0 for contracts that pay no funding."""
    assert made(mark_price="1", next_funding_ts=0)[1][0].next_funding_ts is None


def test_a_halted_product_sends_invalid_values() -> None:
    """As its quotes are; a feed may also state another validity."""
    assert (made("halted", mark_price="1")[1][0].reason, made("halted", mark_price="1")[1][0].valid) == (
        "halted",
        False,
    )
    event = made(mark_price="1", valid=False, reason="stale")[1][0]
    assert (event.valid, event.reason) == (False, "stale")


def test_a_time_far_ahead_is_refused() -> None:
    """The feed makes a dead letter of it."""
    call = Call(Line("v", "v/0"), NOW, None)
    with pytest.raises(BadEvent, match="time_out_of_bounds"):
        derivatives.send(call, product(), NOW * 2, mark_price="1")


GOOD: dict[str, Any] = {"ts_event": NOW, "side": "sell", "price": "64000.1", "size": "0.5"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ts_event": 5}, "ts_event"),
        ({"side": "long"}, "side"),
        ({"price": "0"}, "price"),
        ({"size": "-1"}, "size"),
        ({"size": "1e999"}, "size"),
        ({"liquidation_id": "a\x00b"}, "liquidation_id"),
        ({"liquidation_id": ""}, "liquidation_id"),
        ({"liquidation_id": "7" * 129}, "liquidation_id"),
    ],
)
def test_a_bad_liquidation_costs_only_itself(changes: dict[str, Any], field: str) -> None:
    """It becomes a dead letter with that liquidation alone; the others of the message are published."""
    call = Call(Line("v", "v/0"), NOW, None, b"the frame")
    ones = [derivatives.liquidation(call, **GOOD), derivatives.liquidation(call, **(GOOD | changes))]
    derivatives.send(call, product(), NOW, liquidations=ones)
    letter, event = call.out
    assert isinstance(letter, DeadLetter)
    assert isinstance(event, Derivative)
    assert event.liquidations == (Liquidation(**GOOD),)
    assert letter.field == field
    assert b"ts_event" in letter.payload
    assert call.payload == b"the frame"
    assert (call.line.counts["liquidations"], call.line.counts["dead_letters"]) == (1, 1)


@given(st.decimals(-(10**6), 10**6, places=6))
def test_a_percentage_becomes_a_fraction_exactly(percent: Any) -> None:
    """Without rounding, and without an exponent."""
    text = derivatives.from_percent(f"{percent:f}", "mark_iv")
    assert "E" not in text
    assert percent == 100 * type(percent)(text)
