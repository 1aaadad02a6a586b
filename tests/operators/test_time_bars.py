"""Bars of time by recipe: what candles do, for any lengths, with sums by side and longer bars equal to shorter ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.events import AnyEvent, Candle, DeadLetter, FeedStatus, Trade, Trades
from marketdata.recipes import Recipe, read_recipes
from stream_apps.operators.time_bars import KEPT_MAX, TimeBars, lay_out

Run = Callable[..., list[list[AnyEvent]]]
Latest = dict[tuple[str, int], Candle]


def recipes(*lengths: str) -> tuple[Recipe, ...]:
    """Return a recipe of each length."""
    return read_recipes({"recipes": {f"every_{length}": {"time": length} for length in lengths}})


def bars(published: Iterable[list[AnyEvent]], *, closed: bool = True) -> list[Candle]:
    """Return the bars in the order of publication."""
    found = [one for outputs in published for one in outputs if isinstance(one, Candle)]
    return [one for one in found if one.state != "open"] if closed else found


def latest(published: Iterable[list[AnyEvent]]) -> Latest:
    """Return the last closed state of each bar by interval and start."""
    return {(one.interval, one.start): one for one in bars(published)}


def test_a_bar_of_five_seconds_closes_after_the_grace_period(run: Run, make: Any) -> None:
    """It has the sums by side, the average, and the recipe's name and hash."""
    (recipe,) = recipes("5s")
    events = [
        make.heartbeat(-1),
        make.trades(make.trade(1, 0, "100", "1")),
        make.trades(make.trade(2, 4.999, "103", "2", side="sell")),
        make.trades(make.trade(3, 5, "99")),
        make.heartbeat(7),
    ]
    published = run(lambda: TimeBars([recipe]), events)
    bar = latest(published)["5s", make.ts(0)]
    assert (bar.open, bar.high, bar.low, bar.close) == ("100", "103", "100", "103")
    assert (bar.volume, bar.quote_volume, bar.vwap, bar.trades) == ("3", "306", "102", 2)
    assert (bar.buy_volume, bar.sell_volume, bar.buy_trades, bar.sell_trades) == ("1", "2", 1, 1)
    assert (bar.recipe, bar.recipe_hash, bar.number) == ("every_5s", recipe.hash, None)
    assert (bar.state, bar.valid, bar.end) == ("final", True, make.ts(5))
    assert [one.state for one in bars(published, closed=False) if one.start == make.ts(5)] == ["open"]


def test_a_late_trade_revises_its_bar(run: Run, make: Any) -> None:
    """As in candles."""
    events = [make.trades(make.trade(n, n)) for n in (0, 1, 10)] + [make.trades(make.trade("x", 2, "90", "5"))]
    published = run(lambda: TimeBars(recipes("5s")), events)
    revised = latest(published)["5s", make.ts(0)]
    assert (revised.state, revised.revision, revised.low, revised.volume) == ("revised", 1, "90", "7")


def test_seconds_without_trades_are_bars_without_prices(run: Run, make: Any) -> None:
    """Heartbeats a minute apart close all seconds in between, without an entry on the ledger."""
    events = [
        make.heartbeat(0),
        make.trades(make.trade(1, 1)),
        make.heartbeat(4),
        make.heartbeat(8),
        make.heartbeat(12),
    ]
    published = run(lambda: TimeBars(recipes("1s")), events)
    assert not [one for outputs in published for one in outputs if isinstance(one, FeedStatus)]
    found = latest(published)
    assert [(found["1s", make.ts(n)].trades, found["1s", make.ts(n)].valid) for n in (1, 2, 9)] == [
        (1, True), (0, True), (0, True),
    ]  # fmt: skip


def test_a_gap_invalidates_the_bars_that_it_overlaps_until_a_repair(run: Run, make: Any) -> None:
    """The repair is complete, so that the bars are revised and valid."""
    events = [make.trades(make.trade(n, n), seconds=n) for n in range(4)]
    events += [make.heartbeat(4), make.heartbeat(6, valid=False, reason="gap"), make.trades(make.trade(9, 9))]
    events += [make.heartbeat(14)]
    found = latest(run(lambda: TimeBars(recipes("5s")), events))
    assert [found["5s", make.ts(start)].reason for start in (0, 5)] == ["gap", "gap"]
    events += [
        make.trades(make.trade(7, 7), seconds=10, origin="repair", complete_from=make.ts(0)),
        make.heartbeat(15),
    ]
    found = latest(run(lambda: TimeBars(recipes("5s")), events))
    assert [(found["5s", make.ts(start)].reason, found["5s", make.ts(start)].trades) for start in (0, 5)] == [
        ("", 4), ("", 2),
    ]  # fmt: skip


def test_a_cancel_corrects_every_length(run: Run, make: Any) -> None:
    """Of a trade that set the high: both bars are recomputed from what is remembered, and stay valid."""
    events = [
        make.heartbeat(-1, amendable=True),
        make.trades(*(make.trade(n, n, price) for n, price in enumerate(["100", "900", "101"])), amendable=True),
        *(make.heartbeat(n, amendable=True) for n in range(3, 21)),
        make.trades(make.trade(1, 21, action="cancel"), amendable=True),
    ]
    found = latest(run(lambda: TimeBars(recipes("1s", "5s")), events))
    assert (found["5s", make.ts(0)].high, found["5s", make.ts(0)].trades, found["5s", make.ts(0)].valid) == (
        "101", 2, True,
    )  # fmt: skip
    assert (found["1s", make.ts(1)].high, found["1s", make.ts(1)].trades) == (None, 0)


def test_a_trade_older_than_what_is_kept_is_a_dead_letter_of_this_stage(run: Run, make: Any) -> None:
    """Bars of one second are kept for twelve minutes."""
    events = [make.trades(make.trade(n, n * 60)) for n in range(20)] + [make.trades(make.trade("x", 60))]
    published = run(lambda: TimeBars(recipes("1s")), events)
    (refused,) = [one for one in published[-1] if isinstance(one, DeadLetter)]
    assert (refused.stage, refused.reason, refused.field) == ("time_bars", "late", "ts_event")


def test_bars_begin_again_when_the_recipes_change(run: Run, make: Any) -> None:
    """What contains the change is invalid, what follows is not."""
    before, after = recipes("5s"), recipes("5s", "10s")
    current = [before]
    events = [make.heartbeat(n) if n != 7 else make.trades(make.trade(1, 7)) for n in range(40)]

    def factory() -> TimeBars:
        return TimeBars(current[0])

    first = factory()
    state = first.start("coinbase:BTC-USD")
    for event in events[:8]:
        state, _ = first.step(state, event)
    current[0] = after
    second, found = factory(), []
    for event in events[8:]:
        state, outputs = second.step(state, event)
        found.append(outputs)
    shown = latest(found)
    assert shown["5s", make.ts(5)].reason == "gap"
    assert shown["10s", make.ts(0)].reason == "gap"
    assert shown["5s", make.ts(10)].valid
    assert shown["10s", make.ts(10)].valid


def test_what_is_kept_is_bounded() -> None:
    """Two hours, or less with short bars; the shortest length divides all."""
    layout, limits = lay_out(recipes("1s"))
    assert limits.keep_ns == KEPT_MAX * SECOND_NS
    assert layout.names == ("1s",)
    layout, limits = lay_out(recipes("6s", "10s"))
    assert (layout.names, layout.lengths) == ((None, "6s", "10s"), (2 * SECOND_NS, 6 * SECOND_NS, 10 * SECOND_NS))
    assert sum(limits.keep_ns // length for length in layout.lengths) <= KEPT_MAX
    assert lay_out(recipes("7m"))[1].keep_ns == 120 * MINUTE_NS


PRICES = st.sampled_from(["100", "100.5", "99.99", "0.00000001", "101"])
SIZES = st.sampled_from(["1", "0.5", "3", "0.00000001", "12345678.9"])
T0 = 1_786_000_000 * SECOND_NS


@st.composite
def streams(draw: st.DrawFn) -> list[Trades]:
    """Return messages with trades up to twenty seconds late, heartbeats and interruptions."""
    events, identity, now = [], 0, T0
    for _ in range(draw(st.integers(1, 14))):
        now += draw(st.integers(0, 12)) * SECOND_NS // 2
        trades = []
        for _ in range(draw(st.integers(0, 4))):
            identity += 1
            ts = now - draw(st.integers(0, 20)) * SECOND_NS // 4 * draw(st.integers(0, 4))
            trades.append(
                Trade(trade_id=str(identity), ts_event=ts, price=draw(PRICES), size=draw(SIZES),
                      side=draw(st.sampled_from(["buy", "sell", "unknown"])))
            )  # fmt: skip
        reason = draw(st.sampled_from(["", "", "", "", "gap", "halted"]))
        events.append(
            Trades(venue="v", symbol="S", ts_event=now, ts_recv=now, line="l", valid=not reason, reason=reason,
                   trades=tuple(trades))
        )  # fmt: skip
    end = now + 120 * SECOND_NS
    events.append(Trades(venue="v", symbol="S", ts_event=end, ts_recv=end, line="l"))
    return events


@given(events=streams(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_bars_are_the_sums_of_their_trades_in_any_order_after_any_restart(
    run: Run, events: list[Trades], data: st.DataObject
) -> None:
    """For bars of one, five and seven seconds: each equals its trades, and a longer one its shorter ones."""
    chosen = recipes("1s", "5s", "7s")
    published = run(lambda: TimeBars(chosen), events)
    restarts = data.draw(st.sets(st.integers(0, len(events) - 1), max_size=3))
    assert run(lambda: TimeBars(chosen), events, restarts) == published
    found = latest(published)
    trades = [trade for event in events for trade in event.trades]
    first = min([trade.ts_event for trade in events[0].trades] + [events[0].ts_event])
    for length in (1, 5, 7):
        mine = [one for (interval, _), one in found.items() if interval == f"{length}s"]
        assert sum(one.trades or 0 for one in mine) == len(trades)
        for bar in mine:
            inside = [trade for trade in trades if bar.start <= trade.ts_event < bar.end]
            _is_of(bar, inside)
            assert bar.valid or bar.reason in {"gap", "halted"}
            if bar.start < first:
                assert not bar.valid
    for (interval, start), bar in found.items():
        if interval == "5s":
            parts = [one for n in range(5) if (one := found.get(("1s", start + n * SECOND_NS))) is not None]
            assert bar.trades == sum(one.trades or 0 for one in parts)
            assert Decimal(bar.volume) == sum((Decimal(one.volume) for one in parts), Decimal(0))
            priced = [one for one in parts if one.open is not None]
            assert (bar.open, bar.close) == ((priced[0].open, priced[-1].close) if priced else (None, None))
    alone = latest(run(lambda: TimeBars(recipes("5s")), events))
    assert {at: _facts(one) for at, one in found.items() if at[0] == "5s"} == {
        at: _facts(one) for at, one in alone.items()
    }


def _facts(bar: Candle) -> tuple[Any, ...]:
    return (
        bar.open, bar.high, bar.low, bar.close, bar.volume, bar.quote_volume, bar.buy_volume, bar.trades, bar.valid,
        bar.reason, bar.vwap, bar.sell_volume, bar.buy_trades, bar.sell_trades, bar.recipe_hash, bar.revision,
    )  # fmt: skip


def _is_of(bar: Candle, trades: list[Trade]) -> None:
    """Check a bar against its trades, summed by hand."""
    assert bar.trades == len(trades)
    if not trades:
        assert (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.vwap) == (None, None, None, None, "0", None)
        return
    ordered = sorted(trades, key=lambda one: (one.ts_event, int(one.trade_id)))
    values = [Decimal(one.price) for one in trades]
    assert (bar.open, bar.close) == (ordered[0].price, ordered[-1].price)
    assert (Decimal(bar.high or 0), Decimal(bar.low or 0)) == (max(values), min(values))
    assert Decimal(bar.volume) == sum(Decimal(one.size) for one in trades)
    assert Decimal(bar.quote_volume or 0) == sum(Decimal(one.size) * Decimal(one.price) for one in trades)
    assert bar.buy_trades == sum(one.side == "buy" for one in trades)
    assert bar.sell_trades == sum(one.side == "sell" for one in trades)
    sold = sum((Decimal(one.size) for one in trades if one.side == "sell"), Decimal(0))
    assert Decimal(bar.sell_volume or 0) == sold
