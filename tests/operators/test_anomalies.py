"""Anomalies are reported once, for truly unusual values, with value and limit, and not during halts."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import Anomaly, AnyEvent, FeedStatus
from marketdata.windows import Window
from stream_apps.operators.anomalies_quotes import AnomaliesQuotes
from stream_apps.operators.anomalies_status import AnomaliesStatus
from stream_apps.operators.anomalies_trades import AnomaliesTrades
from stream_apps.operators.anomaly import decimal_places

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


def found(published: list[list[AnyEvent]]) -> list[Anomaly]:
    """Return the anomalies, each checked to have crossed its limit."""
    anomalies = [event for events in published for event in events if isinstance(event, Anomaly)]
    for anomaly in anomalies:
        assert Decimal(anomaly.value) > Decimal(anomaly.limit)
        assert anomaly.severity in {"info", "warning", "critical"}
        assert anomaly.evidence["line"]
    assert len({anomaly.anomaly_id for anomaly in anomalies}) == len(anomalies)
    return anomalies


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
    assert anomaly.evidence["price"] == "105.00"
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
    event: AnyEvent = make.trades(make.trade(identity, seconds, **fields), venue="alpaca")
    return event


def test_a_cancelled_price_is_not_compared_with(run: Run, make: Any) -> None:
    """Not even after a restart. A correction is, and so is the wrong price until it is corrected."""
    calm = [msgspec.structs.replace(frame, venue="alpaca") for frame in calm_trades(make, 100)]
    wrong = make.trades(make.trade("w", 100, "150"), venue="alpaca")
    later = make.trades(make.trade("n", 200, "100.00"), venue="alpaca")  # after the cooldown
    assert len(found(run(on_trades, [*calm, wrong, later]))) == 2
    back = taken_back(make, "w", 101)
    for restarts in ((), (101,), (102,)):
        assert len(found(run(on_trades, [*calm, wrong, back, later], restarts))) == 1
    correction = taken_back(make, "c", 101, price="150.1", action="correct", original_id="w")
    assert len(found(run(on_trades, [*calm, wrong, correction, later]))) == 2
    gap = make.heartbeat(102, venue="alpaca", valid=False, reason="gap")
    assert len(found(run(on_trades, [*calm, wrong, gap, back, later]))) == 1


def test_cancelled_volume_is_no_spike(run: Run, make: Any) -> None:
    """Half of a burst is canceled before the other half comes; a correction to more counts."""
    quiet = [msgspec.structs.replace(frame, venue="alpaca") for frame in minutes(make, 15)]
    begin = 15 * 60 + 1
    burst = [make.trades(make.trade(f"b{i}", begin + i, "100", "9"), venue="alpaca") for i in range(5)]
    cancels = [taken_back(make, f"b{i}", begin + 10 + i, size="9") for i in range(5)]
    more = [make.trades(make.trade(f"m{i}", begin + 20 + i, "100", "9"), venue="alpaca") for i in range(5)]
    assert [one.kind for one in found(run(on_trades, [*quiet, *burst, *more]))] == ["volume_spike"]
    assert found(run(on_trades, [*quiet, *burst, *cancels, *more])) == []
    larger = taken_back(make, "c", begin + 10, size="200", price="100", action="correct", original_id="b0")
    assert [one.kind for one in found(run(on_trades, [*quiet, *burst, larger, more[0]]))] == ["volume_spike"]


def test_one_kind_is_reported_once_within_a_minute(run: Run, make: Any) -> None:
    """Suppressed reports are counted."""
    jumps = [make.trades(make.trade(i, 100 + i, "150" if i % 2 else "100")) for i in range(6)]
    operator = AnomaliesTrades()
    state = operator.start("k")
    reported = 0
    for frame in [*calm_trades(make, 100), *jumps]:
        state, out = operator.step(state, frame)
        reported += len(out)
    assert reported == 1
    assert operator.counts["price_jump"] == 1
    assert operator.counts["held_back"] == 4


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
    assert (anomaly.value, anomaly.limit) == ("65", "60")
    assert anomaly.evidence["median_volume"] == "6"


def test_volume_after_a_halt_is_not_evaluated(run: Run, make: Any) -> None:
    """An auction trades a lot at once."""
    auction = [make.heartbeat(901, **HALT), make.trades(make.trade(1, 910, "100", "5000"))]
    assert found(run(on_trades, [*minutes(make, 15), *auction])) == []


def test_silence_of_trades_while_heartbeats_continue_is_stale_once(run: Run, make: Any) -> None:
    """A minute without a trade where one comes every second; a symbol that trades rarely is given longer."""
    heartbeats = [make.heartbeat(20 + i) for i in range(200)]
    (anomaly,) = found(run(on_trades, [*calm_trades(make, 20), *heartbeats]))
    assert (anomaly.kind, anomaly.metric, anomaly.limit) == ("stale", "seconds_without_trade", "60")
    assert anomaly.ts_event == make.ts(80)
    rare = calm_trades(make, 20, step=30)
    assert found(run(on_trades, [*rare, *(make.heartbeat(570 + i) for i in range(500))])) == []


def test_silence_of_a_halted_symbol_is_not_stale(run: Run, make: Any) -> None:
    """Nothing trades in a halt."""
    halted = [make.heartbeat(20 + i, **HALT) for i in range(200)]
    assert found(run(on_trades, [*calm_trades(make, 20), *halted, make.heartbeat(221)])) == []


def test_a_bid_above_the_ask_is_crossed_until_it_is_not(run: Run, make: Any) -> None:
    """Our own book crossed is critical; locked is fine; a crossing that lasts is reported once."""
    quotes = [
        make.quote(0, "100", "100.0"),
        make.quote(1, "100.01", "100", source="book", valid=False, reason="crossed"),
        make.quote(2, "100.02", "100", source="book", valid=False, reason="crossed"),
        make.quote(3, "99", "100", source="book"),
        make.quote(70, "100.01", "100", source="book", valid=False, reason="crossed"),
    ]
    anomalies = found(run(on_quotes, quotes))
    assert [(a.kind, a.severity, a.value, a.limit, a.ts_event) for a in anomalies] == [
        ("crossed", "critical", "0.01", "0", make.ts(1)),
        ("crossed", "critical", "0.01", "0", make.ts(70)),
    ]


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
    """Once until it is good again."""
    stale: dict[str, Any] = {"valid": False, "reason": "stale"}
    quotes = [make.quote(0, **stale), make.quote(1, **stale), make.quote(2), make.quote(100, **stale)]
    assert [a.ts_event for a in found(run(on_quotes, quotes))] == [make.ts(0), make.ts(100)]


def status(make: Any, kind: str, seconds: float = 0, **more: Any) -> FeedStatus:
    """Return a feed status."""
    fields: dict[str, Any] = {"line": "coinbase/0"} | more
    ts = make.ts(seconds)
    return FeedStatus(venue="coinbase", symbol="BTC-USD", ts_event=ts, ts_recv=ts, kind=kind, **fields)


def test_a_gap_states_how_much_is_missing(run: Run, make: Any) -> None:
    """From sequence numbers; each line is reported separately."""
    statuses = [
        status(make, "connected"),
        status(make, "gap", 1, expected=10, received=17, gap_id="g1"),
        status(make, "gap", 2, expected=20, received=21, gap_id="g2"),
        status(make, "gap", 3, line="coinbase/1", gap_id="g3"),
        status(make, "resynced", 4, gap_id="g1"),
    ]
    anomalies = found(run(on_status, statuses))
    assert [(a.kind, a.severity, a.value, a.evidence["gap_id"]) for a in anomalies] == [
        ("gap", "warning", "7", "g1"),
        ("gap", "warning", "1", "g3"),
    ]


def test_a_feed_that_receives_nothing_is_stale_but_not_in_a_halt(run: Run, make: Any) -> None:
    """An open breaker is critical: there are no more attempts."""
    before = [status(make, "halted"), status(make, "heartbeat_missed", 1), status(make, "resumed", 2)]
    assert found(run(on_status, before)) == []
    statuses = [*before, status(make, "heartbeat_missed", 3), status(make, "breaker_open", 100)]
    anomalies = found(run(on_status, statuses))
    assert [(a.kind, a.severity) for a in anomalies] == [("stale", "warning"), ("stale", "critical")]


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
        restarts = data.draw(st.lists(st.integers(0, len(events) - 1), max_size=4))
        assert run(operator, events, restarts=restarts) == whole
    statuses = [status(make, "gap", at, gap_id=str(at)) for at in range(0, 200, 25)]
    assert run(on_status, statuses, restarts=[1, 3, 5]) == run(on_status, statuses)
    assert msgspec.json.encode(statuses[0]) == msgspec.json.encode(status(make, "gap", 0, gap_id="0"))
