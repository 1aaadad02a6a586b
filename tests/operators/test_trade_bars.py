"""Bars of trades, volume and value: their limits, sums, validity, amendments, and equality after any restart."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import AnyEvent, Candle, DeadLetter, Trade, Trades
from marketdata.recipes import Recipe, read_recipes
from marketdata.sided_bar import vwap
from stream_apps.operators.trade_bars import CLOSED_MAX, TradeBars

Run = Callable[..., list[list[AnyEvent]]]


def recipes(**fields: Any) -> tuple[Recipe, ...]:
    """Return recipes, each of one size: `recipes(trades=3, volume="10")`."""
    return read_recipes({"recipes": {f"by_{kind}": {kind: size} for kind, size in fields.items()}})


def closed(published: list[list[AnyEvent]]) -> list[Candle]:
    """Return the closed bars and revisions in the order of publication."""
    return [one for outputs in published for one in outputs if isinstance(one, Candle) and one.state != "open"]


def shown(bar: Candle) -> tuple[Any, ...]:
    """Return what most tests compare."""
    return (bar.number, bar.trades, bar.open, bar.high, bar.low, bar.close, bar.volume)


def test_a_tick_bar_ends_with_its_last_trade(run: Run, make: Any) -> None:
    """It has the trades, sums and averages of exactly its trades, and the recipe's name and hash."""
    (recipe,) = recipes(trades=2)
    events = [
        make.trades(make.trade(1, 0, "100", "1"), make.trade(2, 1, "103", "2", side="sell"), make.trade(3, 2, "99")),
        make.trades(make.trade(4, 3, "98", "0.5", side="unknown")),
    ]
    first, second = closed(run(lambda: TradeBars([recipe]), events))
    assert shown(first) == (0, 2, "100", "103", "100", "103", "3")
    assert (first.start, first.end) == (make.ts(0), make.ts(1) + 1)
    assert (first.quote_volume, first.vwap) == ("306", "102")
    assert (first.buy_volume, first.sell_volume, first.buy_trades, first.sell_trades) == ("1", "2", 1, 1)
    assert (first.recipe, first.recipe_hash, first.interval) == ("by_trades", recipe.hash, "tick:2")
    assert (first.state, first.revision, first.valid, first.reason) == ("final", 0, True, "")
    assert shown(second) == (1, 2, "99", "99", "98", "98", "1.5")
    assert (second.buy_trades, second.sell_trades) == (1, 0)
    assert len({first.key, second.key}) == 2


def test_bars_that_start_at_the_same_time_have_different_keys(run: Run, make: Any) -> None:
    """The number distinguishes them, so that compaction keeps both."""
    events = [make.trades(*(make.trade(n, 0) for n in range(4)))]
    bars = closed(run(lambda: TradeBars(recipes(trades=2)), events))
    assert [bar.start for bar in bars] == [make.ts(0)] * 2
    assert len({bar.key for bar in bars}) == 2


@pytest.mark.parametrize(("kind", "size"), [("volume", "10"), ("value", "1000")])
def test_the_trade_that_reaches_the_size_counts_whole_and_nothing_is_carried_over(
    run: Run, make: Any, kind: str, size: str
) -> None:
    """The next bar begins at zero."""
    sizes = ["4", "9", "9.99999999", "0.00000001", "25"]
    events = [make.trades(*(make.trade(n, n, "100", size) for n, size in enumerate(sizes)))]
    assert [bar.volume for bar in closed(run(lambda: TradeBars(recipes(**{kind: size})), events))] == ["13", "10", "25"]


def test_a_price_below_zero_adds_its_amount_to_a_value_bar(run: Run, make: Any) -> None:
    """Futures have settled below zero; a bar of value still ends."""
    events = [make.trades(make.trade(1, 0, "-40", "10"), make.trade(2, 1, "20", "30"))]
    (bar,) = closed(run(lambda: TradeBars(recipes(value="1000")), events))
    assert (bar.quote_volume, bar.volume, bar.vwap) == ("200", "40", "5")


def test_a_bar_over_a_gap_is_invalid_and_the_first_one_after_it_is_valid(run: Run, make: Any) -> None:
    """Whether the gap lies within a bar or between two; a halt loses no trades."""
    events = [
        make.trades(make.trade(1, 0)),
        make.heartbeat(1, valid=False, reason="disconnected"),
        make.trades(make.trade(2, 2)),  # ends bar 0
        make.trades(make.trade(3, 3), make.trade(4, 4)),  # bar 1
        make.heartbeat(5, valid=False, reason="gap"),
        make.heartbeat(6),
        make.trades(make.trade(5, 7), make.trade(6, 8)),  # bar 2
        make.trades(make.trade(7, 9), make.trade(8, 10), make.trade(9, 11), valid=False, reason="gap"),  # bar 3
        make.trades(make.trade(10, 12)),  # bar 4: the stream was invalid when it began
        make.heartbeat(13, valid=False, reason="halted"),
        make.trades(make.trade(11, 14), make.trade(12, 15)),  # bar 5
    ]
    bars = closed(run(lambda: TradeBars(recipes(trades=2)), events))
    assert [bar.reason for bar in bars] == ["disconnected", "", "gap", "gap", "gap", ""]
    assert all(bar.valid == (not bar.reason) for bar in bars)


def test_repairs_and_backfills_do_not_count(run: Run, make: Any) -> None:
    """They would move the limits of all later bars; the operator counts them as history."""
    operator = TradeBars(recipes(trades=2))
    events = [
        make.trades(make.trade(1, 0)),
        make.trades(make.trade(2, 1), origin="repair", complete_from=make.ts(0)),
        make.trades(make.trade(3, 2)),
    ]
    (bar,) = closed(run(lambda: operator, events))
    assert (bar.trades, bar.end) == (2, make.ts(2) + 1)
    assert operator.counts["history"] == 1


def test_a_late_trade_counts_in_the_bar_that_is_open(run: Run, make: Any) -> None:
    """Its bar's open and close follow event order, its limits do not."""
    events = [make.trades(make.trade(1, 10, "100"), make.trade(2, 11, "101"))]
    events += [make.trades(make.trade(3, 20, "105")), make.trades(make.trade(4, 5, "90"))]
    first, second = closed(run(lambda: TradeBars(recipes(trades=2)), events))
    assert shown(first) == (0, 2, "100", "101", "100", "101", "2")
    assert shown(second) == (1, 2, "90", "105", "90", "105", "2")
    assert (second.start, second.end) == (make.ts(20), make.ts(20) + 1)


def test_an_open_bar_is_published_at_most_once_a_second(run: Run, make: Any) -> None:
    """Of event time, and only when it has changed."""
    seconds = [0, 0.2, 0.9, 1.0, 1.5, 2.1, 9, 9.5]
    events = [make.trades(make.trade(n, at)) for n, at in enumerate(seconds)] + [make.heartbeat(20)] * 2
    published = run(lambda: TradeBars(recipes(trades=100)), events)
    assert [bool(outputs) for outputs in published] == [
        True, False, False, True, False, True, True, False, True, False,
    ]  # fmt: skip
    assert all(isinstance(one, Candle) and one.state == "open" for outputs in published for one in outputs)


def test_an_open_bar_that_becomes_invalid_is_published_at_once(run: Run, make: Any) -> None:
    """Nothing else may come that publishes it; once it is invalid, it is published as any other."""
    events = [
        make.trades(make.trade(1, 1)),
        make.heartbeat(1.1, valid=False, reason="gap"),
        make.heartbeat(1.2, valid=False, reason="gap"),
    ]
    published = run(lambda: TradeBars(recipes(trades=100)), events)
    assert [[one.reason for one in outputs if isinstance(one, Candle)] for outputs in published] == [[""], ["gap"], []]


def test_a_recipe_may_cover_only_some_symbols(run: Run, make: Any) -> None:
    """For others, nothing is computed."""
    document = {"recipes": {"one": {"trades": 1, "symbols": ["kraken:BTC-USD"]}, "two": {"trades": 2}}}
    events = [make.trades(make.trade(1, 0), make.trade(2, 1))]
    assert [bar.recipe for bar in closed(run(lambda: TradeBars(read_recipes(document)), events))] == ["two"]


def test_a_cancel_corrects_the_sums_of_a_closed_bar_and_does_not_move_its_limits(run: Run, make: Any) -> None:
    """Its trade set no price, so that the revision is exact and valid."""
    events = [
        make.trades(*(make.trade(n, n, price, venue) for n, price, venue in [(1, "100", "1"), (2, "105", "1")]),
                    make.trade(3, 3, "103", "7", side="sell"), make.trade(4, 4, "101", "1"), amendable=True),
        make.trades(make.trade(3, 5, action="cancel"), amendable=True),
        make.trades(*(make.trade(n, n, "50") for n in range(5, 9)), amendable=True),
    ]  # fmt: skip
    first, revised, second = closed(run(lambda: TradeBars(recipes(trades=4)), events))
    assert shown(first) == (0, 4, "100", "105", "100", "101", "10")
    assert shown(revised) == (0, 3, "100", "105", "100", "101", "3")
    assert (revised.state, revised.revision, revised.valid, revised.sell_trades) == ("revised", 1, True, 0)
    assert shown(second) == (1, 4, "50", "50", "50", "50", "4")


def test_a_correction_of_a_price_recomputes_the_bar_from_its_trades(run: Run, make: Any) -> None:
    """As long as every trade of the bar is remembered."""
    events = [
        make.trades(make.trade(1, 0, "100"), make.trade(2, 1, "900"), make.trade(3, 2, "101"), amendable=True),
        make.trades(make.trade(20, 3, "90", "2", action="correct", original_id="2"), amendable=True),
    ]
    first, revised = closed(run(lambda: TradeBars(recipes(trades=3)), events))
    assert first.high == "900"
    assert shown(revised) == (0, 3, "100", "101", "90", "101", "4")
    assert revised.valid


def test_an_amendment_of_a_trade_that_was_not_remembered_is_a_dead_letter_and_a_doubt(run: Run, make: Any) -> None:
    """The open bar may contain it: it is invalid with reason `amended`."""
    events = [
        make.trades(make.trade(1, 0), make.trade(2, 1)),
        make.trades(make.trade(1, 2, action="cancel")),
        make.trades(make.trade(3, 3)),
        make.trades(*(make.trade(n, n) for n in range(4, 7))),
    ]
    published = run(lambda: TradeBars(recipes(trades=3)), events)
    assert [(bar.reason, bar.trades) for bar in closed(published)] == [("amended", 3), ("", 3)]
    (refused,) = [one for outputs in published for one in outputs if isinstance(one, DeadLetter)]
    assert (refused.reason, refused.field, refused.value, refused.stage) == (
        "unknown_original", "trade_id", "1", "trade_bars",
    )  # fmt: skip


def test_an_amendment_of_a_bar_that_is_not_kept_is_a_dead_letter(run: Run, make: Any) -> None:
    """The bar was published and cannot be revised any more."""
    count = CLOSED_MAX + 1
    events = [make.trades(make.trade(n, n), amendable=True) for n in range(count)]
    events.append(make.trades(make.trade(0, count, action="cancel"), amendable=True))
    published = run(lambda: TradeBars(recipes(trades=1)), events)
    assert [one.reason for one in published[-1] if isinstance(one, DeadLetter)] == ["unknown_original"]


def test_a_cancelled_bar_without_trades_has_no_prices(run: Run, make: Any) -> None:
    """Its limits stay."""
    events = [
        make.trades(make.trade(1, 0), amendable=True),
        make.trades(make.trade(1, 1, action="cancel"), amendable=True),
    ]
    _, revised = closed(run(lambda: TradeBars(recipes(trades=1)), events))
    assert shown(revised) == (0, 0, None, None, None, None, "0")
    assert revised.vwap is None


def test_an_average_is_rounded_once_half_to_even() -> None:
    """To eighteen significant digits, from exact sums."""
    assert vwap("100", "3") == "33.3333333333333333"
    assert vwap("200000000000000000000000001", "2") == "100000000000000000000000000"
    assert vwap("0.3", "0.1") == "3"
    assert vwap("1", "0") is None
    assert vwap(None, "1") is None


PRICES = st.sampled_from(["100", "100.5", "99.99", "0.00000001", "101"])
SIZES = st.sampled_from(["1", "0.5", "3", "0.00000001", "12345678.9"])
SIDES = st.sampled_from(["buy", "sell", "unknown"])


@st.composite
def streams(draw: st.DrawFn) -> list[Trades]:
    """Return messages of new trades with times in any order, among them invalid ones and heartbeats."""
    events, identity = [], 0
    for _ in range(draw(st.integers(1, 12))):
        trades = []
        for _ in range(draw(st.integers(0, 5))):
            identity += 1
            trades.append(
                Trade(trade_id=str(identity), ts_event=10**18 + draw(st.integers(0, 30)) * 10**8, price=draw(PRICES),
                      size=draw(SIZES), side=draw(SIDES))
            )  # fmt: skip
        reason = draw(st.sampled_from(["", "", "", "gap", "halted"]))
        events.append(
            Trades(venue="v", symbol="S", ts_event=10**18 + draw(st.integers(0, 30)) * 10**8, ts_recv=10**18, line="l",
                   valid=not reason, reason=reason, trades=tuple(trades))
        )  # fmt: skip
    return events


@given(events=streams(), trades=st.integers(1, 6), volume=st.sampled_from(["0.5", "2", "7"]), data=st.data())
@settings(max_examples=150, deadline=None)
def test_bars_partition_the_trades_in_any_stream_after_any_restart(
    run: Run, events: list[Trades], trades: int, volume: str, data: st.DataObject
) -> None:
    """Every bar is what its trades make, all trades are in exactly one, and a restart changes nothing."""
    chosen = recipes(trades=trades, volume=volume, value="150")
    published = run(lambda: TradeBars(chosen), events)
    restarts = data.draw(st.sets(st.integers(0, len(events) - 1), max_size=3))
    assert run(lambda: TradeBars(chosen), events, restarts) == published
    everything = [trade for event in events for trade in event.trades]
    for recipe in chosen:
        left = list(everything)
        for bar in [one for one in closed(published) if one.recipe == recipe.name]:
            mine, filled = [], Decimal(0)
            while filled < recipe.size:
                trade = left.pop(0)
                mine.append(trade)
                size, price = Decimal(trade.size), Decimal(trade.price)
                filled += {"trades": Decimal(1), "volume": size, "value": size * price}[recipe.kind]
            _is_of(bar, mine)
        rest = {"trades": Decimal(len(left)), "volume": sum((Decimal(one.size) for one in left), Decimal(0))}
        assert rest.get(recipe.kind, Decimal(0)) < recipe.size


def _is_of(bar: Candle, trades: list[Trade]) -> None:
    """Check a bar against its trades, summed by hand."""
    ordered = sorted(trades, key=lambda one: (one.ts_event, int(one.trade_id)))
    values = [Decimal(one.price) for one in trades]
    assert (bar.open, bar.close) == (ordered[0].price, ordered[-1].price)
    assert (Decimal(bar.high or 0), Decimal(bar.low or 0)) == (max(values), min(values))
    assert (bar.start, bar.end) == (trades[0].ts_event, max(one.ts_event for one in trades) + 1)
    assert bar.trades == len(trades)
    assert Decimal(bar.volume) == sum(Decimal(one.size) for one in trades)
    assert Decimal(bar.quote_volume or 0) == sum(Decimal(one.size) * Decimal(one.price) for one in trades)
    for side, count, volume in (
        ("buy", bar.buy_trades, bar.buy_volume), ("sell", bar.sell_trades, bar.sell_volume),
    ):  # fmt: skip
        of_side = [one for one in trades if one.side == side]
        assert count == len(of_side)
        assert Decimal(volume or 0) == sum((Decimal(one.size) for one in of_side), Decimal(0))
