"""The random market is deterministic, plausible and remembers its books exactly."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.simulator.market import DAY_S, VERSIONS_KEPT, HistoryGone, Increment, Market, Step, product, symbols_of
from infra.simulator.matching import ASK, BID
from marketdata.clock import SECOND_NS
from marketdata.errors import SettingsError

START = 1_786_309_548_000_000_000
STEP_NS = 10_000_000


def _steps(market: Market, count: int) -> list[Step]:
    return [market.step(START + number * STEP_NS) for number in range(count)]


@given(st.integers(0, 2**32))
@settings(max_examples=2, deadline=None)
def test_same_seed_makes_the_same_market(seed: int) -> None:
    """Two markets of one seed do exactly the same, one of another seed does not."""
    one, two, other = (Market(product("BTC-USD"), s, START) for s in (seed, seed, seed + 1))
    first = _steps(one, 300)
    assert first == _steps(two, 300)
    assert first != _steps(other, 300)


@given(st.integers(0, 2**32), st.sampled_from(("BTC-USD", "ETH-USD", "XRP-USD", "DOGE-USD")))
@settings(max_examples=4, deadline=None)
def test_book_is_never_crossed_nor_empty(seed: int, symbol: str) -> None:
    """Both sides always have orders and the best bid stays below the best ask."""
    market = Market(product(symbol), seed, START)
    for number in range(2_000):
        market.step(START + number * STEP_NS)
        bid, ask = market.book.best(BID), market.book.best(ASK)
        assert bid is not None
        assert ask is not None
        assert bid < ask


def test_trade_ids_have_no_hole() -> None:
    """Trades count up by one from the first id on, those of the warm-up included."""
    market = Market(product("BTC-USD"), 3, START, first_trade_id=1_000)
    _steps(market, 2_000)
    ids = [trade.trade_id for trade in market.trades]
    assert ids == list(range(1_000, 1_000 + len(ids)))
    assert len(ids) > 300


def test_prices_and_sizes_are_strings_on_the_increments() -> None:
    """Every price is a whole number of ticks and every size of lots, written without trailing zeros."""
    market = Market(product("XRP-USD"), 5, START)
    for trade in market.trades:
        for increment, steps in ((market.price, trade.ticks), (market.size, trade.lots)):
            text = increment.string(steps)
            assert Decimal(text) == steps * increment.value
            assert Decimal(text) > 0
            assert "." not in text or not text.endswith(("0", "."))


@given(st.integers(0, 10**12), st.sampled_from(("0.01", "0.5", "0.00000001", "1", "25", "0.025")))
def test_increment_strings_are_exact(steps: int, increment: str) -> None:
    """Steps become decimal strings without loss, whatever the increment."""
    assert Decimal(Increment(increment).string(steps)) == steps * Decimal(increment)


def test_book_can_be_had_as_it_was_after_any_step() -> None:
    """`book_at` gives the levels that the book really had, for every step of the way."""
    market = Market(product("ETH-USD"), 7, START)
    seen = {market.version: (market.book.levels(BID), market.book.levels(ASK))}
    for number in range(500):
        step = market.step(START + number * STEP_NS)
        seen[step.version] = (market.book.levels(BID), market.book.levels(ASK))
    assert len(seen) == 501
    for version, book in seen.items():
        assert market.book_at(version) == book


def test_book_too_long_ago_is_refused() -> None:
    """A version before the bounded history, or yet to come, is an error and never a wrong book."""
    market = Market(product("ETH-USD"), 7, START)
    _steps(market, 10)
    with pytest.raises(HistoryGone):
        market.book_at(market.version + 1)
    with pytest.raises(HistoryGone):
        market.book_at(market.version - 2 * VERSIONS_KEPT - 1)


def test_halted_market_stands_still() -> None:
    """While halted nothing trades and no level changes; afterwards it goes on."""
    market = Market(product("BTC-USD"), 1, START)
    before = market.version, market.book.levels(BID), market.book.levels(ASK), market.next_trade_id
    market.halted = True
    assert not any(step.changes or step.trades for step in _steps(market, 200))
    assert (market.version, market.book.levels(BID), market.book.levels(ASK), market.next_trade_id) == before
    market.halted = False
    assert any(step.trades for step in _steps(market, 200))


def test_day_statistics_are_those_of_the_last_24_hours() -> None:
    """High, low, volume and last follow from the minute bars within the day, and from the trades made since."""
    market = Market(product("BTC-USD"), 11, START)
    for number in range(3_000):
        market.step(START + number * SECOND_NS // 10)
    now = market.ts // SECOND_NS
    bars = [bar for bar in market.bars if bar.start >= now - now % 60 - DAY_S]
    day = market.day()
    assert (day.open, day.last) == (bars[0].open, market.trades[-1].ticks)
    assert (day.high, day.low) == (max(bar.high for bar in bars), min(bar.low for bar in bars))
    assert day.lots == sum(bar.lots for bar in bars)


def test_candles_hold_exactly_their_trades() -> None:
    """A minute's candle has the first, highest, lowest and last price and the volume of that minute's trades."""
    market = Market(product("BTC-USD"), 13, START)
    for number in range(2_000):
        market.step(START + number * SECOND_NS // 10)
    minute = START // SECOND_NS // 60 * 60 + 60
    trades = [trade for trade in market.trades if minute <= trade.ts // SECOND_NS < minute + 60]
    prices = [trade.ticks for trade in trades]
    (candle,) = market.candles(60, minute, minute)
    assert tuple(candle) == (
        minute,
        prices[0],
        max(prices),
        min(prices),
        prices[-1],
        sum(trade.lots for trade in trades),
    )


def test_what_is_no_product_is_refused() -> None:
    """A symbol that no venue would write names the setting at fault."""
    with pytest.raises(SettingsError, match="COINBASE_PRODUCTS"):
        product("btcusd")


def test_a_number_of_products_begins_with_the_known_ones() -> None:
    """Each symbol is a product of its own, and a larger number only adds some."""
    symbols = symbols_of(100)
    assert symbols[:2] == ("BTC-USD", "ETH-USD")
    assert len(set(symbols)) == 100
    assert symbols_of(3) == symbols[:3]
    assert len({product(symbol).price for symbol in symbols}) > 10


@pytest.mark.parametrize("symbol", symbols_of(12)[4:])
def test_made_up_products_have_books_of_the_usual_size(symbol: str) -> None:
    """Whatever its price, a market keeps a spread, depth on both sides, and trades at many prices."""
    market = Market(product(symbol), 1, START)
    _steps(market, 2_000)
    bid, ask = market.book.best(BID), market.book.best(ASK)
    assert bid is not None
    assert ask is not None
    assert 0 < ask - bid < bid / 100
    assert min(market.book.depth(BID), market.book.depth(ASK)) > 50
    assert len({trade.ticks for trade in market.trades}) > 5


def test_the_record_is_bounded_and_says_from_where_it_is_kept() -> None:
    """What is kept is right, what is not is left out, and ids and versions go on as if all were kept."""
    short = Market(product("ETH-USD"), 7, START, trades_kept=100, versions_kept=200)
    whole = Market(product("ETH-USD"), 7, START)
    assert _steps(short, 3_000) == _steps(whole, 3_000)
    assert 100 <= len(short.trades) <= 200
    assert 200 <= short.version - short.versions_kept_from <= 400
    assert list(short.trades) == list(whole.trades)[-len(short.trades) :]
    assert short.next_trade_id == whole.next_trade_id
    for version in range(short.versions_kept_from, short.version + 1, 50):
        assert short.book_at(version) == whole.book_at(version)
    with pytest.raises(HistoryGone):
        short.book_at(short.versions_kept_from - 1)
