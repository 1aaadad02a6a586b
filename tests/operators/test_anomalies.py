"""Anomalies have one life each, for truly unusual values, with value and limit, and none during halts."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import Anomaly, AnyEvent, Derivative, FeedStatus, Liquidation, Metrics, VenuePrice
from marketdata.windows import Window
from stream_apps.operators.anomalies_derivatives import AnomaliesDerivatives
from stream_apps.operators.anomalies_metrics import AnomaliesMetrics
from stream_apps.operators.anomalies_prices import VENUES_MAX, AnomaliesPrices
from stream_apps.operators.anomalies_quotes import AnomaliesQuotes
from stream_apps.operators.anomalies_status import AnomaliesStatus
from stream_apps.operators.anomalies_trades import AnomaliesTrades
from stream_apps.operators.anomaly import PEAKS_MAX, decimal_places
from stream_apps.operators.anomaly_limits import LimitsBySymbol

Run = Callable[..., list[list[AnyEvent]]]
HALT: dict[str, Any] = {"valid": False, "reason": "halted"}


def on_trades() -> AnomaliesTrades:
    """Return the operator on trades."""
    return AnomaliesTrades()


def on_quotes() -> AnomaliesQuotes:
    """Return the operator on quotes."""
    return AnomaliesQuotes()


def on_status() -> AnomaliesStatus:
    """Return the operator on feed statuses."""
    return AnomaliesStatus()


def lives(published: list[list[AnyEvent]]) -> list[list[Anomaly]]:
    """Return the events of each anomaly, in order of start, with the rules that hold for every life checked."""
    by_id: dict[str, list[Anomaly]] = {}
    still_open: dict[tuple[str, str, str], str] = {}
    for events in published:
        for event in events:
            if not isinstance(event, Anomaly):
                continue
            life = by_id.setdefault(event.anomaly_id, [])
            assert (event.phase == "start") == (not life)
            assert event.ts_start is not None
            assert event.ts_peak is not None
            assert event.ts_start <= event.ts_peak <= (event.ts_end or event.ts_event) <= event.ts_event
            assert (event.ts_end is not None) == (event.phase == "end")
            assert Decimal(event.value) > Decimal(event.limit)
            assert event.severity in {"info", "warning", "critical"}
            assert event.evidence["line"]
            assert event.text
            if life:
                assert life[-1].phase != "end"
                assert (event.kind, event.metric, event.ts_start) == (life[0].kind, life[0].metric, life[0].ts_start)
                assert Decimal(event.value) >= Decimal(life[-1].value)
            else:
                assert (event.venue, event.kind, event.metric) not in still_open, "two of a kind at once"
                still_open[event.venue, event.kind, event.metric] = event.anomaly_id
            if event.phase == "end":
                del still_open[event.venue, event.kind, event.metric]
            life.append(event)
    for life in by_id.values():
        assert len([event for event in life if event.phase == "peak"]) <= PEAKS_MAX
    return list(by_id.values())


def found(published: list[list[AnyEvent]]) -> list[Anomaly]:
    """Return the start of each anomaly."""
    return [life[0] for life in lives(published)]


def ended(published: list[list[AnyEvent]]) -> list[Anomaly]:
    """Return the end of each anomaly that has ended."""
    return [life[-1] for life in lives(published) if life[-1].phase == "end"]


def calm_trades(make: Any, count: int, start: float = 0.0, step: float = 1.0) -> list[AnyEvent]:
    """Return trades around 100 that move by a cent or two."""
    draw = random.Random(7)
    return [
        make.trades(make.trade(1000 + i, start + i * step, f"{100 + draw.randint(-2, 2) / 100:.2f}"))
        for i in range(count)
    ]


def calm_quotes(make: Any, count: int, start: float = 0.0, **more: Any) -> list[AnyEvent]:
    """Return quotes a cent or two wide."""
    return [make.quote(start + i, "100.00", f"100.0{1 + i % 2}", **more) for i in range(count)]


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), size=st.integers(1, 9))
def test_the_rolling_median_equals_the_naive_one(values: list[float], size: int) -> None:
    """Sorted afresh each time, over the last values only."""
    window = Window(size)
    for number, value in enumerate(values, start=1):
        window.push(value)
        last = sorted(values[:number][-size:])
        middle = len(last) // 2
        expected = last[middle] if len(last) % 2 else (last[middle - 1] + last[middle]) / 2
        assert window.median() == expected


def test_a_price_far_from_the_last_is_a_jump(run: Run, make: Any) -> None:
    """Five percent when a cent is normal: reported once, as critical, with both prices."""
    jump = [make.trades(make.trade(1, 100, "105.00")), make.trades(make.trade(2, 101, "100.00"))]
    (anomaly,) = found(run(on_trades, [*calm_trades(make, 100), *jump]))
    assert (anomaly.kind, anomaly.severity, anomaly.metric) == ("price_jump", "critical", "log_return")
    assert (anomaly.evidence["price"], anomaly.evidence["price_before"]) == ("105.00", "100.00")
    assert anomaly.text.startswith("the price moved by 4.879 % from 100.00 to 105.00; usual are ")
    assert Decimal(anomaly.usual or "") < Decimal(anomaly.limit)
    assert anomaly.evidence["trade_id"] == "1"
    assert anomaly.ts_event == make.ts(100)


def test_the_furthest_trade_of_a_frame_counts(run: Run, make: Any) -> None:
    """A spike that is over within its frame is still a spike."""
    spike = make.trades(make.trade(1, 100, "100"), make.trade(2, 100, "110"), make.trade(3, 100, "100"))
    (anomaly,) = found(run(on_trades, [*calm_trades(make, 100), spike]))
    assert anomaly.evidence["trade_id"] == "2"


def test_nothing_is_reported_before_there_is_enough_to_compare_with(run: Run, make: Any) -> None:
    """The first values of a stream do not show what is normal."""
    frames = [*calm_trades(make, 20), make.trades(make.trade(1, 30, "200"))]
    quotes = [*calm_quotes(make, 20), make.quote(30, "90", "110")]
    assert found(run(on_trades, frames)) == []
    assert found(run(on_quotes, quotes)) == []


def test_a_tick_in_a_flat_market_is_no_jump(run: Run, make: Any) -> None:
    """With a median return of zero the floor decides, and large ticks raise it."""
    still = [make.trades(make.trade(i, i, "10")) for i in range(100)]
    assert found(run(on_trades, [*still, make.trades(make.trade(200, 100, "10.01"))])) == []
    coarse = make.trades(make.trade(200, 100, "11"))
    assert found(run(on_trades, [*still, coarse])) == []
    fine = [make.trades(make.trade(i, i, "10.01" if i == 3 else "10")) for i in range(100)]
    assert len(found(run(on_trades, [*fine, coarse]))) == 1


@pytest.mark.parametrize(
    ("price", "places"),
    [("100", 0), ("100.10", 1), ("0.00000100", 6), ("1e-3", 3), ("1.50e1", 0), ("0", 0), ("-1.25", 2), (".5", 1),
     ("0e-8", 0)],
)  # fmt: skip
def test_the_decimal_places_of_a_price_are_those_it_needs(price: str, places: int) -> None:
    """Trailing zeros, which many venues send, do not mean a finer tick."""
    assert decimal_places(price) == places


def test_a_price_after_a_halt_or_a_gap_is_no_jump(run: Run, make: Any) -> None:
    """Prices in between are unknown, so the change is not meaningful; a later jump is reported."""
    for mark in (HALT, {"valid": False, "reason": "gap"}):
        frames = [
            *calm_trades(make, 100),
            make.heartbeat(100, **mark),
            make.trades(make.trade(1, 120, "150")),
            *[make.trades(make.trade(10 + i, 121 + i, "150")) for i in range(30)],
        ]
        assert found(run(on_trades, frames)) == []
        assert len(found(run(on_trades, [*frames, make.trades(make.trade(99, 160, "170"))]))) == 1


def taken_back(make: Any, identity: object, seconds: float, **more: Any) -> AnyEvent:
    """Return the frame of a cancel, or of the correction that `more` states."""
    fields = {"price": "1", "action": "cancel", "side": "unknown"} | more
    event: AnyEvent = make.trades(make.trade(identity, seconds, **fields), amendable=True)
    return event


def test_a_cancelled_price_is_not_compared_with(run: Run, make: Any) -> None:
    """Not even after a restart. A correction is, and so is the wrong price until it is corrected."""
    calm = [msgspec.structs.replace(frame, amendable=True) for frame in calm_trades(make, 100)]
    wrong = make.trades(make.trade("w", 100, "150"), amendable=True)
    later = make.trades(make.trade("n", 200, "100.00"), amendable=True)  # after the cooldown
    assert len(found(run(on_trades, [*calm, wrong, later]))) == 2
    back = taken_back(make, "w", 101)
    for restarts in ((), (101,), (102,)):
        assert len(found(run(on_trades, [*calm, wrong, back, later], restarts))) == 1
    correction = taken_back(make, "c", 101, price="150.1", action="correct", original_id="w")
    assert len(found(run(on_trades, [*calm, wrong, correction, later]))) == 2
    gap = make.heartbeat(102, amendable=True, valid=False, reason="gap")
    assert len(found(run(on_trades, [*calm, wrong, gap, back, later]))) == 1


def test_cancelled_volume_is_no_spike(run: Run, make: Any) -> None:
    """Half of a burst is canceled before the other half comes; a correction to more counts."""
    quiet = [msgspec.structs.replace(frame, amendable=True) for frame in minutes(make, 15)]
    begin = 15 * 60 + 1
    burst = [make.trades(make.trade(f"b{i}", begin + i, "100", "9"), amendable=True) for i in range(5)]
    cancels = [taken_back(make, f"b{i}", begin + 10 + i, size="9") for i in range(5)]
    more = [make.trades(make.trade(f"m{i}", begin + 20 + i, "100", "9"), amendable=True) for i in range(5)]
    assert [one.kind for one in found(run(on_trades, [*quiet, *burst, *more]))] == ["volume_spike"]
    assert found(run(on_trades, [*quiet, *burst, *cancels, *more])) == []
    larger = taken_back(make, "c", begin + 10, size="200", price="100", action="correct", original_id="b0")
    assert [one.kind for one in found(run(on_trades, [*quiet, *burst, larger, more[0]]))] == ["volume_spike"]


def test_jumps_within_a_minute_are_one_anomaly_that_ends_a_minute_after_the_last(run: Run, make: Any) -> None:
    """The peak is the largest; the end is the last jump."""
    prices = ["110", "100", "150", "101", "101", "101.01"]
    jumps = [make.trades(make.trade(i, 100 + 10 * i, price)) for i, price in enumerate(prices)]
    later = make.trades(make.trade(99, 220, "101"))
    (life,) = lives(run(on_trades, [*calm_trades(make, 100), *jumps, later]))
    assert [event.phase for event in life] == ["start", "peak", "end"]
    end = life[-1]
    assert (end.ts_start, end.ts_peak, end.ts_end) == (make.ts(100), make.ts(120), make.ts(130))
    assert (end.value, end.evidence["price"]) == (life[1].value, "150")
    assert end.text.endswith("; lasted 30 s")


def test_an_anomaly_ends_when_it_can_be_observed_no_more(run: Run, make: Any) -> None:
    """A gap or a halt ends it at once and says so; a jump was over already."""
    wide = [*calm_quotes(make, 100), make.quote(100, "99", "101")]
    jump = [*calm_trades(make, 100), make.trades(make.trade(1, 100, "150"))]
    for reason in ("gap", "halted"):
        mark: dict[str, Any] = {"valid": False, "reason": reason}
        (end,) = ended(run(on_quotes, [*wide, make.quote(101, **mark)]))
        assert (end.ts_end, end.evidence["ended_by"]) == (make.ts(101), reason)
        assert end.text.endswith(f"lasted 1 s, until {reason}")
        (end,) = ended(run(on_trades, [*jump, make.heartbeat(101, **mark)]))
        assert (end.ts_end, end.evidence.get("ended_by")) == (make.ts(100), None)


def test_history_causes_no_anomalies(run: Run, make: Any) -> None:
    """Repaired trades are not reported."""
    assert (
        found(run(on_trades, [*calm_trades(make, 100), make.trades(make.trade(1, 99, "150"), origin="repair")])) == []
    )


def minutes(make: Any, count: int, per_minute: int = 6) -> list[AnyEvent]:
    """Return minutes of equal volume."""
    return calm_trades(make, count * per_minute, step=60 / per_minute)


def test_a_minute_with_many_times_the_usual_volume_is_a_spike(run: Run, make: Any) -> None:
    """Reported when the volume crosses the limit, not at the end of the minute; the first minute does not count."""
    burst = [make.trades(make.trade(i, 15 * 60 + 1 + i / 10, "100", "5")) for i in range(20)]
    (anomaly,) = found(run(on_trades, [*minutes(make, 15), *burst]))
    assert (anomaly.kind, anomaly.metric) == ("volume_spike", "minute_volume")
    assert (anomaly.value, anomaly.limit, anomaly.usual) == ("65", "60", "6")


def test_volume_after_a_halt_is_not_evaluated(run: Run, make: Any) -> None:
    """An auction trades a lot at once."""
    auction = [make.heartbeat(901, **HALT), make.trades(make.trade(1, 910, "100", "5000"))]
    assert found(run(on_trades, [*minutes(make, 15), *auction])) == []


def test_silence_of_trades_while_heartbeats_continue_is_one_anomaly_until_the_next_trade(run: Run, make: Any) -> None:
    """A minute without a trade where one comes every second; a symbol that trades rarely is given longer."""
    heartbeats = [make.heartbeat(20 + i) for i in range(200)]
    trade = make.trades(make.trade(1, 221))
    (life,) = lives(run(on_trades, [*calm_trades(make, 20), *heartbeats, trade]))
    anomaly, end = life[0], life[-1]
    assert (anomaly.kind, anomaly.metric, anomaly.limit) == ("silent", "seconds_without_trade", "60")
    assert anomaly.ts_event == make.ts(80)
    assert (end.value, end.ts_peak, end.ts_end) == ("200", make.ts(219), make.ts(221))
    assert [event.phase for event in life] == ["start", "peak", "peak", "end"]
    rare = calm_trades(make, 20, step=30)
    assert found(run(on_trades, [*rare, *(make.heartbeat(570 + i) for i in range(500))])) == []


def test_silence_of_a_halted_symbol_is_none_and_a_halt_ends_silence(run: Run, make: Any) -> None:
    """Nothing trades in a halt."""
    silent = [*calm_trades(make, 20), *(make.heartbeat(20 + i) for i in range(100))]
    (life,) = lives(run(on_trades, [*silent, make.heartbeat(121, **HALT), make.heartbeat(300)]))
    assert (life[-1].phase, life[-1].evidence["ended_by"]) == ("end", "halted")
    halted = [make.heartbeat(20 + i, **HALT) for i in range(200)]
    assert found(run(on_trades, [*calm_trades(make, 20), *halted, make.heartbeat(221)])) == []


def test_a_bid_above_the_ask_is_crossed_until_it_is_not(run: Run, make: Any) -> None:
    """Our own book crossed is critical; locked is fine; a crossing that lasts is one anomaly."""
    quotes = [
        make.quote(0, "100", "100.0"),
        make.quote(1, "100.01", "100", source="book", valid=False, reason="crossed"),
        make.quote(2, "100.02", "100", source="book", valid=False, reason="crossed"),
        make.quote(3, "99", "100", source="book"),
        make.quote(70, "100.01", "100", source="book", valid=False, reason="crossed"),
    ]
    first, second = lives(run(on_quotes, quotes))
    assert [(a.kind, a.severity, a.value, a.limit, a.ts_event) for a in (first[0], second[0])] == [
        ("crossed", "critical", "0.01", "0", make.ts(1)),
        ("crossed", "critical", "0.01", "0", make.ts(70)),
    ]
    assert [(a.phase, a.value, a.ts_peak, a.ts_end) for a in first[1:]] == [
        ("peak", "0.02", make.ts(2), None), ("end", "0.02", make.ts(2), make.ts(3))
    ]  # fmt: skip


def test_prices_that_are_equal_as_floats_are_compared_exactly(run: Run, make: Any) -> None:
    """A difference in the twentieth digit decides."""
    assert found(run(on_quotes, [make.quote(0, "0.1", "0.10000000000000000001")])) == []
    assert len(found(run(on_quotes, [make.quote(0, "0.10000000000000000001", "0.1")]))) == 1


def test_a_crossed_book_in_a_halt_is_an_auction(run: Run, make: Any) -> None:
    """Orders overlap until the auction ends."""
    assert found(run(on_quotes, [make.quote(0, "101", "100", source="book", **HALT)])) == []


def test_a_spread_many_times_the_usual_is_a_blow_out(run: Run, make: Any) -> None:
    """Compared with earlier quotes; nothing is evaluated in a halt."""
    wide = make.quote(100, "99", "101", source="book")
    quotes = [*calm_quotes(make, 100, source="book"), wide]
    (anomaly,) = found(run(on_quotes, quotes))
    assert (anomaly.kind, anomaly.severity, anomaly.metric) == ("spread_blowout", "critical", "book_relative_spread")
    assert anomaly.value == "0.02"
    assert found(run(on_quotes, [*quotes[:-1], make.quote(100, "99", "101", source="book", **HALT)])) == []


def test_a_spread_right_after_a_halt_is_not_evaluated(run: Run, make: Any) -> None:
    """Market makers come back one by one."""
    quotes = [*calm_quotes(make, 100), make.quote(100, "100", "100.01", **HALT), make.quote(101, "95", "105")]
    assert found(run(on_quotes, quotes)) == []


def test_a_quote_that_is_marked_stale_is_reported(run: Run, make: Any) -> None:
    """Once until it is good again for some seconds."""
    stale: dict[str, Any] = {"valid": False, "reason": "stale"}
    seconds = {0: stale, 1: stale, 2: {}, 5: stale, 6: {}, 100: stale}
    published = run(on_quotes, [make.quote(second, **more) for second, more in seconds.items()])
    assert [a.ts_event for a in found(published)] == [make.ts(0), make.ts(100)]
    assert [a.ts_end for a in ended(published)] == [make.ts(6)]


def status(make: Any, kind: str, seconds: float = 0, **more: Any) -> FeedStatus:
    """Return a feed status."""
    fields: dict[str, Any] = {"line": "coinbase/0"} | more
    ts = make.ts(seconds)
    return FeedStatus(venue="coinbase", symbol="BTC-USD", ts_event=ts, ts_recv=ts, kind=kind, **fields)


def test_a_gap_states_how_much_is_missing(run: Run, make: Any) -> None:
    """From sequence numbers; each line is reported separately, and is whole again with its last resync."""
    statuses = [
        status(make, "connected"),
        status(make, "gap", 1, expected=10, received=17, gap_id="g1"),
        status(make, "gap", 2, expected=20, received=21, gap_id="g2"),
        status(make, "gap", 3, line="coinbase/1", gap_id="g3"),
        status(make, "resynced", 4, gap_id="g1"),
        status(make, "resynced", 5, gap_id="g2"),
    ]
    first, second = lives(run(on_status, statuses))
    assert [(a.phase, a.value, a.evidence["gap_id"], a.ts_end) for a in first] == [
        ("start", "7", "g1", None), ("end", "8", "g2", make.ts(5))
    ]  # fmt: skip
    assert [(a.phase, a.value, a.evidence["gap_id"]) for a in second] == [("start", "1", "g3")]


def test_a_gap_right_after_another_is_on_the_ledger_only(run: Run, make: Any) -> None:
    """A line that flaps does not flood; a gap that nothing will close has ended at once."""
    flapping = [status(make, kind, at, gap_id=str(at // 2)) for at, kind in enumerate(["gap", "resynced"] * 40)]
    assert len(lives(run(on_status, flapping))) == 2
    (life,) = lives(run(on_status, [status(make, "gap", 1)]))
    assert [event.phase for event in life] == ["start", "end"]


def test_a_feed_that_receives_nothing_is_stale_but_not_in_a_halt(run: Run, make: Any) -> None:
    """An open breaker is critical: there are no more attempts."""
    before = [status(make, "halted"), status(make, "heartbeat_missed", 1), status(make, "resumed", 2)]
    assert found(run(on_status, before)) == []
    statuses = [*before, status(make, "heartbeat_missed", 3), status(make, "breaker_open", 100)]
    assert [(a.kind, a.severity) for a in found(run(on_status, statuses))] == [
        ("stale", "warning"), ("stale", "critical")
    ]  # fmt: skip
    assert [a.ts_end for a in ended(run(on_status, [*statuses, status(make, "connected", 130)]))] == [make.ts(130)] * 2


def test_a_symbol_that_falls_silent_alone_is_stale_until_its_line_has_it_again_but_not_in_a_halt(
    run: Run, make: Any
) -> None:
    """Halted and silent are kept apart: the silence of a halted symbol has a reason."""
    halted = [status(make, "halted"), status(make, "silent", 1), status(make, "resumed", 2)]
    assert found(run(on_status, halted)) == []
    silent = [*halted, status(make, "silent", 3), status(make, "gap", 3, gap_id="g")]
    assert sorted(a.kind for a in found(run(on_status, silent))) == ["gap", "stale"]
    ends = ended(run(on_status, [*silent, status(make, "resynced", 9, gap_id="g")]))
    assert sorted((a.kind, a.ts_end) for a in ends) == [("gap", make.ts(9)), ("stale", make.ts(9))]


def test_lines_are_forgotten_with_their_anomalies(run: Run, make: Any) -> None:
    """Nothing stays open of a line that is remembered no more."""
    statuses = [status(make, "gap", at, gap_id="g", line=f"l/{at}") for at in range(100)]
    assert len(ended(run(on_status, statuses))) == 36


def metrics(make: Any, second: float, changes: int, moves: int = 0, **more: Any) -> Metrics:
    """Return a second of a book."""
    fields: dict[str, Any] = {"valid": True, "mid": "100"} | more
    return Metrics(
        venue="coinbase", symbol="BTC-USD", line="coinbase/0", ts_event=make.ts(second), ts_recv=make.ts(second),
        ts_from=make.ts(second - 1), changes=changes, best_price_changes=moves, **fields,
    )  # fmt: skip


def test_a_flood_of_changes_that_moves_no_price_is_quote_stuffing(run: Run, make: Any) -> None:
    """A burst that moves the best price is trading; a busy symbol's usual rate raises the limit."""
    calm = [metrics(make, second, 90 + second % 20) for second in range(100)]
    flood = [metrics(make, 100 + second, 5_000) for second in range(3)]
    after = [metrics(make, 103 + second, 100) for second in range(12)]
    (life,) = lives(run(AnomaliesMetrics, [*calm, *flood, *after]))
    assert (life[0].kind, life[0].value, life[0].severity) == ("quote_stuffing", "5000", "critical")
    assert (life[-1].ts_start, life[-1].ts_end) == (make.ts(100), make.ts(103))
    trading = [metrics(make, 100, 5_000, moves=900)]
    assert lives(run(AnomaliesMetrics, [*calm, *trading])) == []
    joined = [metrics(make, 100, 5_000, moves=10)]
    assert lives(run(AnomaliesMetrics, [*calm, *joined])) == []
    busy = [metrics(make, second, 4_000) for second in range(100)]
    assert lives(run(AnomaliesMetrics, [*busy, *flood])) == []
    halt = metrics(make, 99.5, 0, valid=False, reason="halted")
    assert lives(run(AnomaliesMetrics, [*calm, halt, *flood])) == []


def liquidated(make: Any, seconds: float, count: int, side: str = "sell") -> AnyEvent:
    """Return trades of which so many are liquidations."""
    event: AnyEvent = make.trades(
        *[make.trade(f"{seconds}/{n}", seconds, side=side, liquidation=True) for n in range(count)]
    )
    return event


def test_many_liquidations_of_one_side_are_a_cascade(run: Run, make: Any) -> None:
    """A minute with many more than a usual minute with any; both sides in equal number are none."""
    usual = [liquidated(make, 60 * minute, 3) for minute in range(10)]
    cascade = [liquidated(make, 600 + second, 4) for second in range(8)]
    quiet = [make.heartbeat(second) for second in range(620, 720, 5)]
    (life,) = lives(run(on_trades, [*usual, *cascade, *quiet]))
    assert (life[0].kind, life[0].value, life[0].limit, life[0].usual) == ("liquidation_cascade", "19", "15", "3")
    assert (life[-1].value, life[-1].evidence["side"]) == ("35", "sell")
    assert life[-1].ts_end == make.ts(670)
    both = [liquidated(make, 600 + second, 1, side) for second in range(14) for side in ("buy", "sell")]
    assert lives(run(on_trades, [*usual, *both])) == []


def test_liquidations_apart_from_trades_make_the_same_cascade(run: Run, make: Any) -> None:
    """A gap forgets what was counted, because some may be missing."""

    def derivative(seconds: float, count: int, **more: Any) -> Derivative:
        ts = make.ts(seconds)
        ones = [Liquidation(ts_event=ts, side="buy", price="100", size="2") for _ in range(count)]
        return Derivative(
            venue="coinbase", symbol="BTC-USD", line="l", ts_event=ts, ts_recv=ts, liquidations=tuple(ones), **more
        )

    events = [derivative(second, 4) for second in range(3)]
    (life,) = lives(run(AnomaliesDerivatives, [*events, derivative(100, 0), derivative(120, 0)]))
    assert (life[0].metric, life[0].value, life[0].limit) == ("liquidations", "12", "10")
    assert (life[-1].phase, life[-1].evidence["value"]) == ("end", "2400")
    gap = derivative(1.5, 0, valid=False, reason="gap")
    assert lives(run(AnomaliesDerivatives, [*events[:2], gap, events[2]])) == []


def price(make: Any, venue: str, seconds: float, value: float, **more: Any) -> VenuePrice:
    """Return a venue's price."""
    fields: dict[str, Any] = {"valid": True} | more
    ts = make.ts(seconds)
    return VenuePrice(venue="*", symbol="BTC-USD", line=venue, ts_event=ts, ts_recv=ts, of_venue=venue,
                      price=f"{value:.4f}", **fields)  # fmt: skip


def together(make: Any, count: int, venues: str = "abc", start: float = 0) -> list[AnyEvent]:
    """Return prices of venues that differ by a constant and a little noise."""
    draw = random.Random(5)
    return [
        price(make, venue, start + second, 100 + at + draw.randint(-1, 1) / 100)
        for second in range(count)
        for at, venue in enumerate(venues)
    ]


def test_a_venue_away_from_the_others_by_more_than_usual_deviates(run: Run, make: Any) -> None:
    """A constant difference is usual; only the venue that moved is named."""
    moved = [price(make, venue, 100 + second, 110 if venue == "a" else 100 + at)
             for second in range(5) for at, venue in enumerate("abc")]  # fmt: skip
    (life,) = lives(run(AnomaliesPrices, [*together(make, 100), *moved, *together(make, 20, start=105)]))
    start, end = life[0], life[-1]
    assert (start.kind, start.venue, start.symbol, start.severity) == ("price_deviation", "a", "BTC-USD", "critical")
    assert (start.evidence["venues"], start.evidence["price"]) == ("b,c", "110")
    assert start.text.startswith("the price 110 is 9.")
    assert (end.ts_start, end.ts_end) == (make.ts(100), make.ts(105))


def test_of_two_venues_one_anomaly_stands_for_both(run: Run, make: Any) -> None:
    """Nobody can say which of them is away; without another venue there is nothing to compare."""
    for mover in "ab":
        moved = [price(make, venue, 100, 120 if venue == mover else 100) for venue in "ab"]
        (life,) = lives(run(AnomaliesPrices, [*together(make, 100, "ab"), *moved]))
        assert life[0].venue == "a"
    alone = [*together(make, 100, "a"), price(make, "a", 100, 200)]
    assert lives(run(AnomaliesPrices, alone)) == []


def test_a_venue_that_is_halted_invalid_or_old_is_not_compared(run: Run, make: Any) -> None:
    """Nor is its first price after a halt."""
    calm = together(make, 100)
    for reason in ("gap", "halted"):
        marked = price(make, "a", 100, 150, valid=False, reason=reason)
        assert lives(run(AnomaliesPrices, [*calm, marked, price(make, "b", 100, 101)])) == []
    halt = price(make, "a", 100, 150, valid=False, reason="halted")
    after = [price(make, "a", 101, 150), price(make, "b", 101, 101), price(make, "c", 101, 102)]
    assert lives(run(AnomaliesPrices, [*calm, halt, *after])) == []
    assert lives(run(AnomaliesPrices, [*calm, price(make, "a", 115, 150)])) == []


def test_more_venues_than_are_compared_are_counted(make: Any) -> None:
    """The state is bounded."""
    operator = AnomaliesPrices()
    state = operator.start("*:S")
    for at in range(VENUES_MAX + 5):
        state, _ = operator.step(state, price(make, f"v{at}", 1, 100))
    assert len(state.venues) == VENUES_MAX
    assert operator.counts == {"too_many_venues": 5}


@given(
    moves=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0, 0, 1, 30]), st.sampled_from([100, 101, 150])),
                   max_size=30),
    data=st.data(),
)  # fmt: skip
@settings(max_examples=50)
def test_a_restart_between_venues_prices_changes_nothing(
    run: Run, make: Any, moves: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """Every life keeps its rules, whatever the venues do."""
    events, at = together(make, 70), 70
    for venue, pause, value in moves:
        at += pause
        events.append(price(make, venue, at, value))
    whole = run(AnomaliesPrices, events)
    lives(whole)
    restarts = data.draw(st.lists(st.integers(0, len(events) - 1), max_size=4))
    assert run(AnomaliesPrices, events, restarts=restarts) == whole


def test_limits_are_those_of_the_symbol_its_venue_or_all(run: Run, make: Any) -> None:
    """The nearest that is set counts; a limit that there is not is refused by name."""
    table = LimitsBySymbol({
        "*": {"jump_min": 0.5, "volume_times": 7}, "coinbase:*": {"jump_min": 0.4}, "*:BTC-USD": {"jump_min": 0.3},
        "kraken:BTC-USD": {"jump_min": 0.2},
    })  # fmt: skip
    symbols = [("kraken", "BTC-USD"), ("coinbase", "BTC-USD"), ("coinbase", "ETH-USD"), ("okx", "ETH-USD")]
    assert [table.of(*each).jump_min for each in symbols] == [0.2, 0.3, 0.4, 0.5]
    assert {table.of(*each).volume_times for each in symbols} == {7}
    jump = make.trades(make.trade(1, 100, "120"))
    assert found(run(lambda: AnomaliesTrades(table), [*calm_trades(make, 100), jump])) == []
    refused: list[dict[str, dict[str, float]]] = [{"*": {"jump": 1}}, {"BTC-USD": {}}, {"*": {"jump_min": 0}}]
    for wrong in refused:
        with pytest.raises(ValueError, match=r"jump|BTC-USD"):
            LimitsBySymbol(wrong)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["99.5", "100", "100", "100.01", "130"]),
        st.sampled_from(["1", "1", "400"]),
        st.sampled_from([0.0, 1, 1, 30, 120]),
        st.sampled_from(["", "", "", "", "halted", "gap", "stale", "crossed"]),
    ),
    max_size=30,
)


@given(steps=STEPS, data=st.data())
@settings(max_examples=50)
def test_restarts_change_nothing_and_the_same_input_gives_the_same_ids(
    run: Run, make: Any, steps: list[tuple[str, str, float, str]], data: st.DataObject
) -> None:
    """All three operators continue from checkpoints with exactly the outputs of an uninterrupted run."""
    frames, quotes = minutes(make, 15), calm_quotes(make, 60)
    at = 900.0
    for number, (price, size, pause, reason) in enumerate(steps):
        at += pause
        mark: dict[str, Any] = {"valid": not reason, "reason": reason}
        trade = make.trade(number, at, price, size)
        frames.append(make.heartbeat(at, **mark) if reason else make.trades(trade))
        source = "book" if size == "400" else "venue"
        quotes.append(make.quote(at, "100", price, source=source, **mark))
    for operator, events in ((on_trades, frames), (on_quotes, quotes)):
        whole = run(operator, events)
        lives(whole)
        restarts = data.draw(st.lists(st.integers(0, len(events) - 1), max_size=4))
        assert run(operator, events, restarts=restarts) == whole
    statuses = [status(make, "gap", at, gap_id=str(at)) for at in range(0, 200, 25)]
    assert run(on_status, statuses, restarts=[1, 3, 5]) == run(on_status, statuses)
    assert msgspec.json.encode(statuses[0]) == msgspec.json.encode(status(make, "gap", 0, gap_id="0"))
