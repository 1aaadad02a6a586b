"""The last 24 hours from one-minute candles."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from api.core.statistics import Day
from marketdata.events import Candle

MINUTE_NS = 60_000_000_000
START = 1_786_309_500_000_000_000 // MINUTE_NS * MINUTE_NS


def candle(minute: int, **prices: str | None) -> Candle:
    """Return the candle of a minute."""
    return Candle(
        venue="coinbase", symbol="BTC-USD", interval="1m", start=START + minute * MINUTE_NS,
        end=START + (minute + 1) * MINUTE_NS, ts_event=START, ts_recv=START, trades=1, **prices,  # type: ignore[arg-type]
    )  # fmt: skip


def traded(minute: int, price: str, volume: str = "1") -> Candle:
    """Return a candle with one price."""
    return candle(minute, open=price, high=price, low=price, close=price, volume=volume)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 10**6)), min_size=1, max_size=60))
def test_statistics_are_those_of_the_last_day_in_whatever_order_candles_come(values: list[tuple[int, int]]) -> None:
    """Volume, high, low and change equal a plain computation over the candles of the last 1,440 minutes."""
    day = Day()
    kept: dict[int, Decimal] = {}
    newest = 0
    for minute, cents in values:
        price = Decimal(cents) / 100
        day.add(traded(minute, str(price)))
        newest = max(newest, minute)
        kept[minute] = price
        kept = {each: kept[each] for each in kept if each > newest - 1440}
        found = day.statistics()
        assert found is not None
        assert Decimal(found.volume) == len(kept)
        assert None not in (found.high, found.low, found.change)
        assert Decimal(found.high or "") == max(kept.values())
        assert Decimal(found.low or "") == min(kept.values())
        opened, close = kept[min(kept)], kept[max(kept)]
        assert Decimal(found.change or "") == ((close - opened) * 100 / opened).quantize(Decimal("0.0001"))


def test_a_rise_below_zero_is_a_positive_change() -> None:
    """Prices of spreads may be negative: the change is in percent of the opening price without its sign."""
    day = Day()
    day.add(traded(0, "-10"))
    day.add(traded(1, "-5"))
    found = day.statistics()
    assert found is not None
    assert Decimal(found.change or "") == 50


def test_prices_that_no_trade_of_a_minute_sets_are_those_of_the_other_minutes() -> None:
    """A minute of odd lots has a volume and no prices; one of late reports has a high and a low."""
    day = Day()
    day.add(candle(0, volume="3"))
    found = day.statistics()
    assert found is not None
    assert (found.volume, found.high, found.low, found.change) == ("3", None, None, None)
    day.add(traded(1, "10", "2"))
    day.add(candle(2, high="15", low="9", volume="1"))
    day.add(traded(3, "11", "1"))
    day.add(candle(4, volume="1"))
    found = day.statistics()
    assert found is not None
    assert (found.volume, found.high, found.low, found.change) == ("8", "15", "9", "10")


def test_a_corrected_candle_replaces_the_one_before() -> None:
    """A revision of an old minute changes the day's volume by the difference."""
    day = Day()
    day.add(traded(0, "10", "1"))
    day.add(traded(1, "20", "2"))
    assert day.statistics().volume == "3"  # type: ignore[union-attr]
    day.add(traded(0, "10", "5"))
    found = day.statistics()
    assert found is not None
    assert (found.volume, found.high, found.low, found.change) == ("7", "20", "10", "100")


def test_a_minute_whose_trades_were_all_taken_back_counts_for_nothing() -> None:
    """Be it the newest one or an older one; when there is none left there are no statistics."""
    day = Day()
    for minute, price in enumerate(["10", "90", "20"]):
        day.add(traded(minute, price))
    day.add(candle(1))
    found = day.statistics()
    assert found is not None
    assert (found.volume, found.high, found.low, found.change) == ("2", "20", "10", "100")
    day.add(candle(2))
    assert day.statistics().change == "0"  # type: ignore[union-attr]
    day.add(candle(0))
    assert day.statistics() is None
    day.add(traded(3, "7"))
    assert day.statistics().volume == "1"  # type: ignore[union-attr]


def test_minutes_without_trades_count_for_nothing() -> None:
    """A candle without prices is no low of zero."""
    day = Day()
    day.add(candle(0))
    assert day.statistics() is None
    day.add(traded(1, "10"))
    day.add(candle(2))
    assert day.statistics().low == "10"  # type: ignore[union-attr]
