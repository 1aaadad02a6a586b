"""Candles in event time: independent of the order of trades, and invalid where data is missing."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.events import (
    EXCLUSIONS,
    HIGH_LOW,
    OPEN_CLOSE,
    VOLUME,
    AnyEvent,
    Candle,
    DeadLetter,
    FeedStatus,
    Trade,
    Trades,
)
from marketdata.intervals import INTERVALS
from stream_apps.operators.candles import KEEP_NS, MARKERS_MAX, Candles, Limits

Run = Callable[..., list[list[AnyEvent]]]
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
PRICES = st.sampled_from(["100", "100.0", "1e2", "99.5", "101", "101.25", "0.00000001", "123456789012345678.123456789"])
EXCLUDED = st.lists(st.sampled_from(EXCLUSIONS), max_size=3, unique=True).map(tuple)
SIZES = st.sampled_from(["1", "0.1", "0.00000001", "3e-8", "12345678901234567890.00000000001"])


def flat(published: list[list[AnyEvent]]) -> list[AnyEvent]:
    """Return what was published, in one list."""
    return [event for events in published for event in events]


def candles(published: list[list[AnyEvent]], interval: str = "1m", state: str | None = None) -> list[Candle]:
    """Return the candles of one interval that were published, of one state when given."""
    return [
        event
        for event in flat(published)
        if isinstance(event, Candle) and event.interval == interval and state in {None, event.state}
    ]


def figures(candle: Candle) -> tuple[Any, ...]:
    """Return the figures of a candle."""
    return (
        candle.open, candle.high, candle.low, candle.close, candle.volume, candle.quote_volume, candle.buy_volume,
        candle.trades,
    )  # fmt: skip


def last_of_each(published: list[list[AnyEvent]]) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Return the last revision of each candle that has trades, counted or not."""
    last = {(event.interval, event.start): event for event in flat(published) if isinstance(event, Candle)}
    return {at: figures(one) for at, one in last.items() if one.trades or one.open is not None or one.high is not None}


def naive(trades: list[Trade]) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Return naive candles: sort the trades, take first, last, extremes and exact sums of those not excluded."""
    made = {}
    for name, length in INTERVALS.items():
        groups: dict[int, list[Trade]] = {}
        for trade in sorted(trades, key=lambda trade: (trade.ts_event, int(trade.trade_id))):
            groups.setdefault(trade.ts_event - trade.ts_event % length, []).append(trade)
        for start, group in groups.items():
            ends = [Decimal(trade.price) for trade in group if OPEN_CLOSE not in trade.excluded_from]
            prices = [Decimal(trade.price) for trade in group if HIGH_LOW not in trade.excluded_from]
            counted = [trade for trade in group if VOLUME not in trade.excluded_from]
            if not (ends or prices or counted):
                continue
            made[name, start] = (
                ends[0] if ends else None,
                max(prices, default=None),
                min(prices, default=None),
                ends[-1] if ends else None,
                exact_sum([Decimal(trade.size) for trade in counted]),
                exact_sum([Decimal(trade.size) for trade in counted if trade.side == "buy"]),
                len(counted),
            )
    return made


def exact_sum(values: list[Decimal]) -> Decimal:
    """Return a sum with more digits than any of these numbers needs."""
    with localcontext(prec=500):
        return sum(values, Decimal(0))


@st.composite
def some_trades(draw: st.DrawFn, minutes: int = 90) -> list[Trade]:
    """Return trades of an hour and a half, several of them at the same time, numbered as they happened."""
    from_start = st.integers(0, minutes * 60 * 4)
    times = sorted(draw(st.lists(from_start, min_size=1, max_size=25)))
    t0 = 1_786_276_800 * SECOND  # a noon
    return [
        Trade(
            trade_id=str(number),
            ts_event=t0 + quarter * SECOND // 4,
            price=draw(PRICES),
            size=draw(SIZES),
            side=draw(st.sampled_from(["buy", "sell", "unknown"])),
            excluded_from=draw(st.just(()) | EXCLUDED),
        )
        for number, quarter in enumerate(times)
    ]


@st.composite
def shuffled_frames(draw: st.DrawFn) -> tuple[list[Trade], list[Trades]]:
    """Return trades, and frames of them in any order, between a heartbeat at the start and one at the end."""
    trades = draw(some_trades())
    order = draw(st.permutations(trades))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=6)))
    frames = []
    for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
        frames.append(frame(order[start:end], order[start:end][-1].ts_event if order[start:end] else t_first(trades)))
    return trades, [frame([], t_first(trades)), *frames, frame([], t_first(trades) + 100 * MINUTE)]


def t_first(trades: list[Trade]) -> int:
    """Return the noon before the trades."""
    return 1_786_276_800 * SECOND if trades else 0


def frame(trades: list[Trade], ts: int) -> Trades:
    """Return a frame of trades."""
    return Trades(venue="coinbase", symbol="BTC-USD", ts_event=ts, ts_recv=ts, line="l/0", trades=tuple(trades))


def patient() -> Candles:
    """Return an operator that never treats silence as a gap."""
    return Candles(Limits(silence_ns=10**18))


@given(case=shuffled_frames())
def test_late_trades_in_any_order_give_the_candles_of_the_sorted_order(
    run: Run, case: tuple[list[Trade], list[Trades]]
) -> None:
    """The last revision of every candle is the same as with ordered trades, and no trade is lost."""
    trades, frames = case
    shuffled = run(patient, frames)
    in_order = run(patient, [frames[0], *(frame([trade], trade.ts_event) for trade in trades), frames[-1]])
    assert last_of_each(shuffled) == last_of_each(in_order)
    assert not [event for event in flat(shuffled) if isinstance(event, DeadLetter)]


@given(case=shuffled_frames())
def test_the_last_revision_of_each_candle_equals_the_naive_candle(
    run: Run, case: tuple[list[Trade], list[Trades]]
) -> None:
    """Open, high, low, close, count and the exact sums, for all six intervals."""
    trades, frames = case
    published = run(patient, frames)
    made = {
        at: (*(None if value is None else Decimal(value) for value in (o, h, low, c, volume, bought)), count)
        for at, (o, h, low, c, volume, _, bought, count) in last_of_each(published).items()
    }
    assert made == naive(trades)
    for candle in flat(published):
        if isinstance(candle, Candle) and candle.trades:
            assert "e" not in f"{candle.volume} {candle.quote_volume} {candle.high}".replace("None", "").lower()


@given(case=shuffled_frames(), data=st.data())
def test_a_restart_at_any_point_changes_nothing(
    run: Run, case: tuple[list[Trade], list[Trades]], data: st.DataObject
) -> None:
    """The outputs after a restart from a checkpoint are those of a run without one."""
    _, frames = case
    at = data.draw(st.lists(st.integers(0, len(frames) - 1), max_size=3))
    assert run(Candles, frames, restarts=at) == run(Candles, frames)


EVENTS_OF_ANY_KIND = st.lists(
    st.tuples(
        st.integers(-20, 400),
        st.sampled_from(["trade", "heartbeat", "gap", "halted", "disconnected", "repair"]),
        st.sampled_from([0, 0, 0, 10_000, 10_000_000]),
    ),
    max_size=40,
)


@given(kinds=EVENTS_OF_ANY_KIND, data=st.data())
def test_whatever_happens_each_candle_has_one_final_and_its_revisions_count_up(
    run: Run, make: Any, kinds: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    """Gaps, halts, jumps and repairs in any order: revisions count from 0, and restarts change nothing."""
    frames: list[AnyEvent] = []
    jumped = 0
    for number, (seconds, kind, jump) in enumerate(kinds):
        jumped += jump
        at = seconds + number * 20 + jumped
        if kind in {"trade", "repair"}:
            origin = "live" if kind == "trade" else "repair"
            frames.append(make.trades(make.trade(number, at), origin=origin))
        elif kind == "heartbeat":
            frames.append(make.heartbeat(at))
        else:
            frames.append(make.heartbeat(at, valid=False, reason=kind))
    published = run(Candles, frames)
    shown: dict[str, Candle] = {}
    for event, outputs in zip(frames, published, strict=True):
        shown |= {one.key: one for one in outputs if isinstance(one, Candle)}
        if isinstance(event, Trades) and event.reason in {"gap", "disconnected"}:
            cut = [one for one in shown.values() if one.state == "open" and one.end > event.ts_event]
            assert not any(one.valid for one in cut)  # each at once, though no trade may follow
    revisions: dict[str, int] = {}
    for candle in flat(published):
        if isinstance(candle, Candle):
            assert candle.end - candle.start == INTERVALS[candle.interval]
            assert candle.valid == (not candle.reason)
            if candle.state == "open":
                assert candle.key not in revisions
            else:
                assert candle.revision == revisions.get(candle.key, -1) + 1
                assert (candle.state == "final") == (candle.revision == 0)
                revisions[candle.key] = candle.revision
    at_restart = data.draw(st.lists(st.integers(0, max(0, len(frames) - 1)), max_size=3))
    assert run(Candles, frames, restarts=at_restart) == published


def test_a_candle_is_open_then_final_when_the_watermark_passes_its_end(run: Run, make: Any) -> None:
    """The grace period keeps a candle open for trades that come a little late."""
    published = run(
        Candles,
        [
            make.heartbeat(0),
            make.trades(make.trade(1, 58, "100")),
            make.heartbeat(61.9),
            make.trades(make.trade(2, 59, "102"), seconds=61.9),
            make.heartbeat(62),
        ],
    )
    made = candles(published)
    assert [(candle.state, candle.close, candle.trades) for candle in made] == [
        ("open", "100", 1),
        ("final", "102", 2),
    ]
    assert candles(published[4:5])[0].state == "final"


def test_open_candles_are_published_at_once_and_then_at_most_every_quarter_of_a_second(run: Run, make: Any) -> None:
    """The first trade is published at once; a hundred more in a second cause only a few events, and none is lost."""
    frames = [make.heartbeat(0)] + [make.trades(make.trade(i, 10 + i / 100)) for i in range(100)]
    published = run(Candles, [*frames, make.heartbeat(12)])
    shown = candles(published, state="open")
    assert candles(published[1:2])[0].trades == 1
    assert len(shown) == 5
    assert shown[-1].trades == 100
    times = [candle.ts_event for candle in shown]
    assert all(later - earlier >= SECOND // 4 for earlier, later in pairwise(times))


def test_a_trade_after_the_final_revises_high_low_and_volume_but_not_open_and_close(run: Run, make: Any) -> None:
    """Unless it is the first or the last in event order, only the extremes and sums change."""
    published = run(
        patient,
        [
            make.heartbeat(0),
            make.trades(make.trade(1, 10, "100"), make.trade(5, 50, "101")),
            make.heartbeat(70),
            make.trades(make.trade(3, 30, "150"), seconds=71),
            make.trades(make.trade(6, 55, "90"), seconds=72),
        ],
    )
    made = candles(published)
    assert [(c.state, c.revision, c.open, c.high, c.low, c.close, c.volume, c.trades) for c in made[-3:]] == [
        ("final", 0, "100", "101", "100", "101", "2", 2),
        ("revised", 1, "100", "150", "100", "101", "3", 3),
        ("revised", 2, "100", "150", "90", "90", "4", 4),
    ]


def test_trades_of_one_moment_are_ordered_by_their_number(run: Run, make: Any) -> None:
    """9 comes before 10, although text sorts it after."""
    published = run(
        patient,
        [make.heartbeat(0), make.trades(make.trade(10, 5, "110"), make.trade(9, 5, "109")), make.heartbeat(90)],
    )
    final = candles(published, state="final")[0]
    assert (final.open, final.close) == ("109", "110")


def test_a_minute_without_trades_is_a_valid_marker_when_heartbeats_continued(run: Run, make: Any) -> None:
    """The marker states that there was no trade."""
    published = run(Candles, [make.heartbeat(second) for second in range(0, 190, 5)])
    made = candles(published)
    assert [(c.start, c.state, c.trades, c.open, c.valid) for c in made] == [
        (make.ts(0), "final", 0, None, True),
        (make.ts(60), "final", 0, None, True),
        (make.ts(120), "final", 0, None, True),
    ]


def test_minutes_spanned_by_silence_are_invalid(run: Run, make: Any) -> None:
    """Without an event for more than two minutes nothing was stated: only candles that overlap it are invalid."""
    before = [make.heartbeat(second) for second in range(66)]
    after = [make.heartbeat(second) for second in range(190, 310)]
    made = candles(run(Candles, [*before, *after]))
    assert [(c.start, c.valid, c.reason) for c in made] == [
        (make.ts(0), True, ""),
        (make.ts(60), False, "gap"),
        (make.ts(120), False, "gap"),
        (make.ts(180), False, "gap"),
        (make.ts(240), True, ""),
    ]


def test_a_thin_market_with_an_event_each_minute_is_valid(run: Run, make: Any) -> None:
    """How long a venue may be silent is its feed's to judge: one event each minute states that nothing is missing."""
    published = run(
        Candles,
        [
            make.trades(make.trade(1, 0)),
            make.heartbeat(15, valid=False, reason="halted"),
            make.heartbeat(25),
            *(make.heartbeat(60 * minute + 2) for minute in range(1, 4)),
            make.trades(make.trade(2, 215)),
            *(make.heartbeat(60 * minute + 2) for minute in range(4, 7)),
        ],
    )
    made = [candle for candle in candles(published) if candle.state == "final"]
    assert [(c.start, c.trades, c.valid) for c in made] == [
        (make.ts(60 * minute), 1 if minute in {0, 3} else 0, True) for minute in range(6)
    ]


def test_a_candle_with_trades_is_invalid_when_a_gap_touches_it(run: Run, make: Any) -> None:
    """A missed trade may have been its high."""
    published = run(
        Candles,
        [
            *(make.heartbeat(second) for second in range(10)),
            make.trades(make.trade(1, 10)),
            make.heartbeat(11, valid=False, reason="disconnected"),
            *(make.heartbeat(second) for second in range(13, 64)),
        ],
    )
    final = candles(published, state="final")[0]
    assert (final.trades, final.valid, final.reason) == (1, False, "disconnected")


def test_a_gap_that_is_found_after_a_final_revises_it(run: Run, make: Any) -> None:
    """A feed that finds later that trades are missing since a time invalidates the final candles since then."""
    published = run(
        Candles,
        [
            *(make.heartbeat(second) for second in range(59)),
            make.trades(make.trade(1, 62.5)),
            make.heartbeat(58, valid=False, reason="gap"),
            make.heartbeat(63),
        ],
    )
    made = [candle for candle in candles(published) if candle.start == make.ts(0)]
    assert [(c.state, c.revision, c.valid, c.reason) for c in made] == [
        ("final", 0, True, ""),
        ("revised", 1, False, "gap"),
    ]


@pytest.mark.parametrize(("reason", "shown"), [("gap", ["gap"]), ("disconnected", ["disconnected"]), ("halted", [])])
def test_an_open_candle_that_becomes_invalid_is_published_at_once(
    run: Run, make: Any, reason: str, shown: list[str]
) -> None:
    """Nothing else may come that publishes it; a halt does not invalidate a candle with trades."""
    published = run(
        Candles,
        [
            *(make.heartbeat(second) for second in range(61)),
            make.trades(make.trade(1, 62)),
            make.trades(make.trade(2, 62.1)),
            make.heartbeat(62.1, valid=False, reason=reason),
            make.heartbeat(62.1, valid=False, reason=reason),
        ],
    )
    assert [(c.reason, c.trades) for c in candles(published[:-2], state="open")] == [("", 1)]
    assert [(c.reason, c.trades) for c in candles(published[-2:], state="open")] == [(one, 2) for one in shown]


def test_a_halted_minute_without_trades_is_marked_halted(run: Run, make: Any) -> None:
    """A halted minute without trades is marked; one with trades is an ordinary candle."""
    published = run(
        Candles,
        [
            *(make.heartbeat(second) for second in range(50)),
            make.trades(make.trade(1, 50)),
            *(make.heartbeat(second, valid=False, reason="halted") for second in range(51, 200)),
            *(make.heartbeat(second) for second in range(200, 310)),
        ],
    )
    finals = candles(published, state="final")
    assert [(c.trades, c.valid, c.reason) for c in finals] == [
        (1, True, ""),
        (0, False, "halted"),
        (0, False, "halted"),
        (0, False, "halted"),
        (0, True, ""),
    ]


def test_the_first_candles_are_invalid_because_what_came_before_is_unknown(run: Run, make: Any) -> None:
    """A stream that starts in the middle of an interval has missed its beginning."""
    published = run(Candles, [make.heartbeat(second) for second in range(30, 140)])
    assert [(c.valid, c.reason) for c in candles(published)] == [(False, "gap"), (True, "")]


def test_without_heartbeats_an_interval_without_trades_is_invalid(run: Run, make: Any) -> None:
    """A stream without heartbeats makes valid candles with trades, and invalid markers for other intervals."""
    trades = [make.trades(make.trade(i, at)) for i, at in enumerate([0, 20, 130, 200])]
    finals = candles(run(Candles, trades), state="final")
    assert [(c.trades, c.valid) for c in finals] == [(2, True), (0, False), (1, True)]


def test_a_trade_older_than_what_is_kept_becomes_a_dead_letter_and_no_candle_changes(run: Run, make: Any) -> None:
    """A trade that cannot be added correctly is not added and not lost: the dead letter contains it."""
    late = make.trade(7, 0, "1")
    good = make.trade(8, KEEP_NS // SECOND + 100)
    frames = [make.heartbeat(0), make.heartbeat(KEEP_NS // SECOND + 100), make.trades(late, good)]
    published = run(Candles, frames)
    letters = [event for event in published[2] if isinstance(event, DeadLetter)]
    assert [(letter.stage, letter.reason, letter.field) for letter in letters] == [("candles", "late", "ts_event")]
    assert b'"trade_id":"7"' in letters[0].payload
    assert b'"trade_id":"8"' not in letters[0].payload
    assert {c.trades for c in published[2] if isinstance(c, Candle)} == {1}


def test_a_jump_over_months_makes_few_markers_and_one_gap_on_the_ledger(run: Run, make: Any) -> None:
    """A replay that is followed by live data does not flood the topic."""
    months = 90 * 86_400
    published = run(Candles, [make.heartbeat(0), make.trades(make.trade(1, 1)), make.heartbeat(months)])
    finals = [event for event in published[2] if isinstance(event, Candle)]
    assert len(finals) <= len(INTERVALS) * (MARKERS_MAX + 1)
    assert [c.trades for c in candles(published, "1m", "final")][:1] == [1]
    assert all(not candle.valid for candle in finals)
    ledger = [event for event in published[2] if isinstance(event, FeedStatus)]
    assert [(status.kind, status.reason) for status in ledger] == [("gap", "gap"), ("resynced", "passed_over")]
    assert len({status.gap_id for status in ledger}) == 1


def test_repaired_trades_revise_closed_candles_with_their_origin(run: Run, make: Any) -> None:
    """A repair changes neither the watermark nor the state of the lines."""
    published = run(
        Candles,
        [
            *(make.heartbeat(second) for second in range(70)),
            make.trades(make.trade(1, 30, "55"), origin="repair"),
            make.heartbeat(71),
        ],
    )
    revised = candles(published[-2:-1])
    assert [(c.state, c.revision, c.trades, c.origin, c.open) for c in revised] == [("revised", 1, 1, "repair", "55")]
    assert [(c.state, c.trades) for c in candles(published[-1:], "5m")] == [("open", 1)]


@pytest.mark.parametrize(("interval", "start"), [("1h", 12 * 3600), ("4h", 12 * 3600), ("1d", 0)])
def test_candles_start_at_whole_utc_intervals(run: Run, make: Any, interval: str, start: int) -> None:
    """A candle is labelled by the start of its interval in UTC."""
    published = run(Candles, [make.heartbeat(0), make.trades(make.trade(1, 59.999))])
    assert [c.start % (86_400 * SECOND) for c in candles(published, interval)] == [start * SECOND]


def test_a_halt_after_a_gap_affects_only_its_own_minutes(run: Run, make: Any) -> None:
    """One reason ends where the next begins."""
    published = run(
        Candles,
        [
            *(make.heartbeat(second) for second in range(10)),
            make.heartbeat(10, valid=False, reason="disconnected"),
            *(make.heartbeat(second, valid=False, reason="halted") for second in range(12, 185)),
        ],
    )
    assert [(c.trades, c.reason) for c in candles(published)] == [(0, "disconnected"), (0, "halted"), (0, "halted")]


def test_trades_that_set_no_price_make_a_candle_with_volume_only(run: Run, make: Any) -> None:
    """As a minute of odd lots has: no open, high, low or close, but its volume and count."""
    odd_lot = make.trade(1, 1, "155", "3", excluded_from=("high_low", "open_close"))
    published = run(patient, [make.heartbeat(-61), make.trades(odd_lot), make.heartbeat(63)])
    candle = candles(published)[-1]
    assert figures(candle) == (None, None, None, None, "3", "465", "3", 1)
    assert candle.valid


def test_trades_that_update_nothing_leave_a_marker(run: Run, make: Any) -> None:
    """The interval has no trades, and is valid by its heartbeats."""
    fund = make.trade(1, 1, "155", "3", excluded_from=EXCLUSIONS)
    frames = [make.heartbeat(-61), make.heartbeat(0), make.trades(fund), make.trades(fund), make.heartbeat(63)]
    published = run(patient, frames)
    candle = candles(published, state="final")[-1]
    assert figures(candle) == (None, None, None, None, "0", "0", "0", 0)
    assert candle.valid


@pytest.mark.parametrize("late", [False, True])
def test_a_minute_whose_only_trade_does_not_count_is_complete_without_heartbeats(
    run: Run, make: Any, *, late: bool
) -> None:
    """The trade shows that the stream was there: no bar and valid, also after the minute was closed as a gap."""
    fund = make.trades(make.trade(2, 61, "155", "3", excluded_from=EXCLUSIONS))
    later = make.trades(make.trade(3, 183, "100"))
    frames = [make.trades(make.trade(1, 1, "100")), *((later, fund) if late else (fund, later))]
    published = run(patient, [*frames, make.trades(make.trade(4, 250, "100"))])
    last = {(c.start - make.ts(0)) // MINUTE: c for c in candles(published) if c.state != "open"}
    assert [(minute, c.trades, c.valid, c.reason) for minute, c in sorted(last.items())] == [
        (0, 1, False, "gap"), (1, 0, True, ""), (2, 0, False, "gap"), (3, 1, True, "")]  # fmt: skip
    assert (last[1].state, last[1].open) == ("revised" if late else "final", None)


def test_a_minute_whose_only_trade_is_cancelled_is_complete_without_heartbeats(run: Run, make: Any) -> None:
    """As one whose only trade is excluded from everything."""
    frames = [
        make.trades(make.trade(1, -59, "100"), amendable=True),
        make.trades(make.trade(2, 1, "101"), amendable=True),
        make.trades(make.trade(2, 5, action="cancel"), amendable=True),
        make.trades(make.trade(3, 125, "100"), amendable=True),
    ]
    last = [c for c in candles(run(patient, frames)) if c.start == make.ts(0)][-1]
    assert (last.trades, last.valid, last.open, last.state) == (0, True, None, "final")
