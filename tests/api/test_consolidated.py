"""The best bid and offer over venues: only valid venues count, and each venue is named with its validity."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.core.consolidated import Consolidated, Product, Views, choices, consolidate, members
from api.core.market import Market
from marketdata.events import Instrument, Quote

NOW = 1_786_309_548_000_000_000
SECOND = 1_000_000_000
SPOT = Product("BTC", "USD", "spot")


def listed(venue: str, kind: str = "spot", symbol: str = "BTC-USD", **more: Any) -> Instrument:
    """Return an instrument."""
    return Instrument(
        venue=venue, symbol=symbol, ts_recv=NOW, venue_symbol="x", base_currency="BTC", quote_currency="USD",
        kind=kind, **more,
    )  # fmt: skip


def quote(venue: str, bid: str | None, ask: str | None, symbol: str = "BTC-USD", age: int = 0, **more: Any) -> Quote:
    """Return a venue's best prices, received some seconds ago."""
    fields: dict[str, Any] = {"bid_size": bid and "1", "ask_size": ask and "2"} | more
    ts = NOW - age * SECOND
    return Quote(venue=venue, symbol=symbol, ts_event=ts, ts_recv=ts, line=venue, bid=bid, ask=ask, **fields)


def market(*events: Instrument | Quote) -> Market:
    """Return a market of events."""
    made = Market()
    for event in events:
        made.apply(event)
    return made


def now(venue: str, ts_recv: int) -> int:
    """Return the present, which is the same for every venue."""
    assert venue
    assert ts_recv <= NOW
    return NOW


def over(made: Market, product: Product = SPOT, symbol: str = "BTC-USD") -> Consolidated:
    """Return the view of a market."""
    return consolidate(product, members(made, symbol, product), now, 10 * SECOND)


def test_the_best_of_each_side_and_the_sizes_at_it_are_those_of_all_valid_venues() -> None:
    """Equal prices in other notation are one price; who is stale or invalid is left out and named."""
    venues = [listed(name) for name in ("a", "b", "c", "d", "e")]
    quotes = [
        quote("a", "99.0", "101"),
        quote("b", "99", "102", bid_size="0.5"),
        quote("c", "100", "100.5", valid=False, reason="gap"),
        quote("d", "99.5", "100", age=11),
    ]
    found = over(market(*venues, *quotes))
    data = found.data(now)
    assert (found.trust.valid, found.state) == (True, "normal")
    assert data["bid"] == {"price": "99.0", "size": "1.5", "venues": ("a", "b")}
    assert data["ask"] == {"price": "101", "size": "2", "venues": ("a",)}
    assert (data["mid"], data["spread"]) == ("100", "2")
    assert data["left_out"] == ["c", "d"]
    assert [(one["venue"], one["valid"], one["reason"], one["age_ms"]) for one in data["venues"]] == [
        ("a", True, "", 0), ("b", True, "", 0), ("c", False, "gap", 0), ("d", False, "stale", 11_000)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("second", "state"), [(("98", "99.5"), "normal"), (("98", "99"), "locked"), (("98", "98.5"), "crossed"),
                          (("100", None), "normal"), ((None, None), "normal")]
)  # fmt: skip
def test_locked_and_crossed_markets_are_stated(second: tuple[str | None, str | None], state: str) -> None:
    """Between venues both occur without any venue being wrong."""
    found = over(market(listed("a"), listed("b"), quote("a", "99", "101"), quote("b", *second)))
    assert (found.state, found.trust.valid) == (state, True)


def test_without_a_valid_venue_nothing_is_known_and_the_reason_is_one_of_theirs() -> None:
    """A side that no venue has is unknown, not zero."""
    found = over(market(listed("a"), quote("a", "99", "101", valid=False, reason="halted")))
    assert (found.trust.valid, found.trust.reason, found.state, found.bid, found.ask) == (
        False, "halted", "unknown", None, None)  # fmt: skip
    found = over(market(listed("a"), quote("a", "99", None)))
    assert (found.state, found.ask, found.data(now)["mid"]) == ("one_sided", None, None)


def test_instruments_are_matched_by_currencies_kind_and_expiry_not_by_name() -> None:
    """A perpetual of any name goes with perpetuals only; a venue that lists nothing goes by its symbol."""
    made = market(
        listed("a"), listed("b", "perpetual", "BTC-USD-PERP"), listed("c", "perpetual", "BTC-USD-SWAP"),
        listed("d", "option", "BTC-USD-1-C"), listed("e", "future", "BTC-USD-Z", expiry=7),
        quote("a", "1", "2"), quote("b", "3", "4", "BTC-USD-PERP"), quote("c", "5", "6", "BTC-USD-SWAP"),
        quote("x", "7", "8"), quote("x", "7", "8", "ETH-USD"), quote("e", "1", "2", "BTC-USD-Z"),
    )  # fmt: skip
    perpetual = Product("BTC", "USD", "perpetual")
    assert choices(made, "BTC-USD", None) == [SPOT]
    assert choices(made, "BTC-USD", "perpetual") == [perpetual]
    assert choices(made, "BTC-USD-PERP", None) == [perpetual]
    assert choices(made, "BTC-USD-1-C", None) == []
    assert choices(made, "BTC-USD", "option") == []
    assert choices(made, "ETH-USD", None) == [Product("ETH", "USD", "unknown")]
    assert choices(made, "BTC-USD-Z", None) == [Product("BTC", "USD", "future", 7)]
    assert [state.venue for state in members(made, "BTC-USD", SPOT)] == ["a"]
    assert [state.venue for state in members(made, "BTC-USD-PERP", perpetual)] == ["b", "c"]


def test_a_symbol_of_several_kinds_must_be_told_apart() -> None:
    """Two venues use one name for a spot market and a perpetual."""
    made = market(listed("a"), listed("b", "perpetual"), quote("a", "1", "2"), quote("b", "1", "2"))
    assert len(choices(made, "BTC-USD", None)) == 2
    assert choices(made, "BTC-USD", "spot") == [SPOT]


def test_an_instrument_that_is_listed_anew_changes_its_market() -> None:
    """The venue corrected its list."""
    made = market(listed("a"), listed("a", "perpetual"), quote("a", "1", "2"))
    assert members(made, "BTC-USD", SPOT) == []


PRICES = st.none() | st.integers(1, 5).map(str)


@given(quotes=st.lists(st.tuples(st.sampled_from("abc"), PRICES, PRICES, st.booleans()), max_size=20))
def test_a_view_that_is_followed_always_equals_one_computed_anew(
    quotes: list[tuple[str, str | None, str | None, bool]],
) -> None:
    """It is reported as changed exactly when it differs."""
    made = market(*(listed(name) for name in "abc"))
    views = Views(made, now, 10 * SECOND)
    views.add("BTC-USD", SPOT)
    for venue, bid, ask, valid in quotes:
        before = over(made)
        made.apply(quote(venue, bid, ask, valid=valid, reason="" if valid else "gap"))
        state = made.find(venue, "BTC-USD")
        assert state is not None
        changed = [*views.changed(state), *views.renew()]
        assert views.get("BTC-USD", SPOT).is_as(over(made))
        assert bool(changed) == (not over(made).is_as(before))
    views.remove("BTC-USD", SPOT)
    assert views.renew() == []
