"""Every venue's history over a real HTTP server: each candle and trade of a range once, oldest first, exact."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.simulator.venues.history import AGGREGATED_FROM, SIP_NS
from infra.simulator.venues.tape import MINUTE_NS, TapeCandle, TapeTrade
from marketdata.decimals import plain
from marketdata.events import Candle
from marketdata.intervals import INTERVALS
from producers.venues import HISTORIES
from producers.venues.alpaca.messages import trade_id_of
from producers.venues.coinbase.history import CoinbaseHistory
from producers.venues.kit.history import History, TradeHistory

if TYPE_CHECKING:
    from tests.producers.history.conftest import Served

Row = tuple[str | int | None, ...]

# Those whose trades of any time are read: Bybit has only the latest.
TRADES = sorted(HISTORIES - {"bybit", "hyperliquid", "okx"})
RECENT = 900  # minutes since the past began: Kraken keeps 720 of the 1,000


def row_of(candle: Candle) -> Row:
    """Return what every venue has of a candle."""
    return candle.start, candle.open, candle.high, candle.low, candle.close, candle.volume


def expected(venue: str, one: TapeCandle) -> Row:
    """Return the same of the past; without trades it is a marker."""
    if not one.trades:
        return one.start, None, None, None, None, "0"
    prices = (one.open, one.high, one.low, one.close)
    return one.start, *(price_of(venue, price) for price in prices), size_of(venue, one.volume)


def price_of(venue: str, price: str) -> str:
    """Return a price as the venue writes it: Databento's are whole numbers of 1e-9."""
    return plain(Decimal(price)) if venue == "databento" else price


def size_of(venue: str, size: str) -> str:
    """Return a size as the venue writes it: Databento's are whole numbers, here of 0.0001."""
    return str(int(size.replace(".", ""))) if venue == "databento" else size


def identity(venue: str, one: TapeTrade) -> str:
    """Return the id that the venue's live feed gives to a trade."""
    if venue == "databento":
        return f"{one.ts}-{one.number}-0"
    if venue == "alpaca":
        return trade_id_of(one.ts + SIP_NS, "V", one.number)
    if venue == "kraken_futures":
        return f"uid-{one.number}"
    return str(one.number + (AGGREGATED_FROM if venue == "binance_usdm" else 0))


def paged(served: Served, venue: str, rows: int) -> History:
    """Return the adapter of a venue whose pages have this many rows."""
    history = served.history(venue)
    served.venue.rows_max = rows
    if venue == "coinbase":
        made = CoinbaseHistory(served.access(), buckets=rows)
        made.budget = history.budget
        return made
    if venue in {"kraken_futures", "coinbase_exchange"}:  # whose next page depends on whether this one is full
        history._limit = served.venue.rows_max = rows + 1  # type: ignore[attr-defined]
    return history


ranges = st.tuples(st.integers(0, 15 * 60), st.integers(0, 15 * 60)).map(lambda ends: (min(ends), max(ends)))
property_test = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("venue", sorted(HISTORIES))
@property_test
@given(seconds=ranges, rows=st.integers(2, 9))
def test_any_range_over_any_page_size_has_each_candle_once(
    served: Served, venue: str, seconds: tuple[int, int], rows: int
) -> None:
    """Candles are those that begin and end inside of the range, oldest first, whatever a page holds."""
    start, end = (served.minute(RECENT + second / 60) for second in seconds)
    history = paged(served, venue, rows)
    if history.candles_kept is not None:
        served.venue.rows_max = 10_000  # all that is kept comes in one answer
    found, missing = served.candles(history, start, end)
    first, last = -(-start // MINUTE_NS) * MINUTE_NS, end // MINUTE_NS * MINUTE_NS
    assert not missing
    assert [row_of(one) for one in found] == [
        expected(venue, one) for one in served.venue.candles(MINUTE_NS, first, last, sparse=history.sparse)
    ]
    assert {(one.state, one.origin, one.interval) for one in found} <= {("final", "backfill", "1m")}


@pytest.mark.parametrize("venue", TRADES)
@property_test
@given(seconds=ranges, rows=st.integers(2, 9))
def test_any_range_over_any_page_size_has_each_trade_once(
    served: Served, venue: str, seconds: tuple[int, int], rows: int
) -> None:
    """Trades of one millisecond are returned once each as well, though pages go by time."""
    start, end = (served.minute(RECENT + second / 60) for second in seconds)
    found, missing = served.trades(paged(served, venue, rows), start, end)
    past = served.venue.trades(start, end)
    assert not missing
    assert [(one.trade_id, one.price, one.size) for one in found] == [
        (identity(venue, one), price_of(venue, one.price), size_of(venue, one.size)) for one in past
    ]
    sides = [one.side for one in found]
    assert sides == [("buy" if one.bought else "sell") for one in past] or set(sides) == {"unknown"}
    assert {one.ts_event - past_one.ts for one, past_one in zip(found, past, strict=True)} <= {0, SIP_NS}


@pytest.mark.parametrize("venue", sorted(HISTORIES))
def test_every_interval_begins_where_ours_do(served: Served, venue: str) -> None:
    """Longer candles of a venue are the same sums, and begin at a multiple of their length."""
    history = served.history(venue)
    for interval in sorted(history.intervals - {"1m", "1d"}):
        length = INTERVALS[interval]
        start = -(-served.begins // length) * length + length
        found, _ = served.candles(history, start, start + 2 * length, interval)
        past = served.venue.candles(length, start, start + 2 * length, sparse=history.sparse)
        assert [row_of(one) for one in found] == [expected(venue, one) for one in past], interval


@pytest.mark.parametrize("venue", sorted(HISTORIES))
def test_a_range_without_a_whole_interval_asks_nothing(served: Served, venue: str) -> None:
    """Nothing can lie in it, so that no request is made."""
    history = served.history(venue)
    start = served.minute(100.2)
    assert served.candles(history, start, start + MINUTE_NS // 2) == ([], [])
    if isinstance(history, TradeHistory):
        assert served.trades(history, start, start) == ([], [])
    assert not served.venue.asked


@pytest.mark.parametrize("venue", TRADES)
def test_a_range_before_the_past_began_is_empty(served: Served, venue: str) -> None:
    """A venue that has nothing there answers so; it is no error."""
    found, _ = served.trades(served.history(venue), served.minute(-70), served.minute(-60))
    assert found == []


@pytest.mark.parametrize("venue", sorted(HISTORIES))
def test_what_the_venue_trades_is_found_by_both_of_its_names(served: Served, venue: str) -> None:
    """Symbols of the list, our name and the venue's name lead to one instrument."""
    history = served.history(venue)
    symbols = served.symbols(history)
    assert symbols
    for symbol in symbols:
        for name in (symbol.symbol, symbol.venue_symbol):
            found = history.instrument(name)
            assert (found.symbol, found.venue_symbol) == (symbol.symbol, symbol.venue_symbol)
