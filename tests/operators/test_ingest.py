"""Several lines become one stream: each trade, quote and status once, whatever the interleaving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import SYMBOL, AnyEvent, DeadLetter, FeedStatus, Quote, Trades
from marketdata.state import pack_state, unpack_state
from stream_apps.operators.ingest_quotes import IngestQuotes
from stream_apps.operators.ingest_status import IngestStatus
from stream_apps.operators.ingest_trades import IngestTrades

Run = Callable[..., list[list[AnyEvent]]]


def trades_operator() -> IngestTrades:
    """Return the operator for trades."""
    return IngestTrades()


def quotes_operator() -> IngestQuotes:
    """Return the operator for quotes."""
    return IngestQuotes()


def trades_of(published: list[list[AnyEvent]]) -> list[Trades]:
    """Return the frames of trades that were published."""
    return [event for events in published for event in events if isinstance(event, Trades)]


def test_reused_ids_are_never_dropped_silently(make: Any) -> None:
    """The venue resets its ids: the first few are dead letters in invalid messages, then the ids count as new.

    Late trades and those of history are recognised by their time.
    """
    operator = trades_operator()
    state = operator.start("k")
    steps = [make.trades(make.trade(number, number)) for number in range(1, 31)]
    steps += [make.trades(make.trade(number, 100 + number), line=line) for number in range(1, 13) for line in "ab"]
    steps += [make.trades(make.trade(number, number), line="b") for number in range(1, 31)]
    steps += [make.trades(make.trade(1, 101), make.trade(2, 2), make.trade(2, 102), origin="repair", seconds=102)]
    passed: list[tuple[str, int]] = []
    letters: list[tuple[str, str | None, str | None]] = []
    for event in steps:
        state, out = operator.step(state, event)
        assert state is not None
        state = unpack_state(pack_state(state), operator.state)
        for one in out:
            if isinstance(one, Trades):
                passed += [(trade.trade_id, trade.ts_event) for trade in one.trades]
                assert one.trades or not one.valid
            elif isinstance(one, DeadLetter):
                letters.append((one.reason, one.field, one.value))
    assert letters == [("id_reused", "trade_id", str(number)) for number in (1, 1, 2, 2, 3, 3, 4)]
    assert len(set(passed)) == len(passed)
    every = [(str(n), make.ts(n)) for n in range(1, 31)] + [(str(n), make.ts(100 + n)) for n in range(1, 13)]
    assert set(passed) == set(every) - {("3", make.ts(103))}


@st.composite
def redundant_lines(draw: st.DrawFn) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return trade ids in event order, and frames (line, ids) of up to three lines that may each miss some."""
    prefix = draw(st.sampled_from(["", "t"]))
    ids = [f"{prefix}{n}" for n in range(draw(st.integers(1, 30)))]
    queues = []
    for _ in range(draw(st.integers(1, 3))):
        kept = [identity for identity in ids if draw(st.integers(0, 9)) > 0]
        frames = []
        while kept:
            size = draw(st.integers(1, 5))
            frames.append(kept[:size])
            kept = kept[size:]
        queues.append(frames)
    merged = []
    while any(queues):
        line = draw(st.sampled_from([number for number, queue in enumerate(queues) if queue]))
        merged.append((line, queues[line].pop(0)))
        if draw(st.integers(0, 9)) == 0:
            merged.append(merged[-1])
    return ids, merged


@given(case=redundant_lines(), data=st.data())
def test_each_trade_of_several_lines_passes_once_whatever_the_interleaving(
    run: Run, make: Any, case: tuple[list[str], list[tuple[int, list[str]]]], data: st.DataObject
) -> None:
    """The union of all lines' trades, in the order of first arrival; restarts change nothing."""
    ids, merged = case
    trades = {identity: make.trade(identity, number) for number, identity in enumerate(ids)}
    frames = [make.trades(*(trades[i] for i in batch), line=f"coinbase/{line}") for line, batch in merged]
    published = run(trades_operator, frames)
    passed = [trade for event in trades_of(published) for trade in event.trades]
    assert passed == [trades[i] for i in dict.fromkeys(i for _, batch in merged for i in batch)]
    at = data.draw(st.lists(st.integers(0, len(frames)), max_size=3))
    assert run(trades_operator, frames, restarts=at) == published


def test_a_frame_with_nothing_new_is_dropped_and_counted(make: Any) -> None:
    """Its duplicates are counted one by one."""
    operator = IngestTrades()
    frame = make.trades(make.trade(1, 0), make.trade(2, 0))
    state, _ = operator.step(operator.start("k"), frame)
    _, out = operator.step(state, msgspec.structs.replace(frame, line="coinbase/1"))
    assert out == []
    assert operator.counts == {"duplicates": 2}


def test_heartbeats_pass_only_when_they_move_time(run: Run, make: Any) -> None:
    """Two lines' heartbeats of one second are one."""
    frames = [make.heartbeat(at, line=f"coinbase/{line}") for at in (1, 2, 3) for line in (0, 1)]
    assert [event.ts_event for event in trades_of(run(trades_operator, frames))] == [make.ts(1), make.ts(2), make.ts(3)]


def test_a_correction_and_a_cancel_pass_once_each(run: Run, make: Any) -> None:
    """They contain the id of the amended trade, which has passed before; two corrections differ."""
    trade = make.trade(7, 0)
    amended = [
        trade,
        make.trade(7, 0, "101", action="correct"),
        make.trade(7, 0, "102", action="correct"),
        make.trade(7, 0, action="cancel"),
    ]
    frames = [make.trades(one, line=f"coinbase/{line}", seconds=1) for line in (0, 1) for one in amended]
    assert [event.trades[0] for event in trades_of(run(trades_operator, frames))] == amended


def test_an_amendment_is_distinct_from_every_trade_and_other_amendments(run: Run, make: Any) -> None:
    """A cancel passes once whatever its time; a correction of a trade passes once for each replacement."""
    frames = [
        make.trades(make.trade("cancel|7", 0)),
        make.trades(make.trade(7, 1, action="cancel")),
        make.trades(make.trade(7, 2, action="cancel"), line="coinbase/1"),
        make.trades(make.trade(8, 3, action="correct", original_id="6")),
        make.trades(make.trade(8, 4, action="correct", original_id="6"), line="coinbase/1"),
        make.trades(make.trade(8, 5, action="cancel")),
    ]
    sent = [(one.trade_id, one.action) for event in trades_of(run(trades_operator, frames)) for one in event.trades]
    assert sent == [("cancel|7", "new"), ("7", "cancel"), ("8", "correct"), ("8", "cancel")]


def test_a_line_that_goes_down_changes_nothing_while_another_is_up(run: Run, make: Any) -> None:
    """The stream is invalid only while no live line is valid."""
    up = {"line": "coinbase/1"}
    down: dict[str, Any] = {"valid": False, "reason": "disconnected"}
    published = run(
        trades_operator,
        [
            make.heartbeat(1),
            make.heartbeat(1.1, **up),
            make.heartbeat(1.2, **down),
            make.heartbeat(2, **up),
            make.heartbeat(2.5, **down, **up),
            make.heartbeat(3),
        ],
    )
    assert [[event.reason for event in events if isinstance(event, Trades)] for events in published] == [
        [""],
        [""],
        [""],
        [""],
        ["disconnected"],
        [""],
    ]


def test_a_halt_counts_as_soon_as_one_line_reports_it(run: Run, make: Any) -> None:
    """Halts concern the market; a lagging line does not end one, and a dead line does not prolong it."""
    halt: dict[str, Any] = {"valid": False, "reason": "halted"}
    published = run(
        trades_operator,
        [
            make.heartbeat(1),
            make.heartbeat(1.1, line="coinbase/1"),
            make.heartbeat(2, **halt),
            make.heartbeat(2.1, line="coinbase/1"),
            make.heartbeat(20, line="coinbase/1"),
        ],
    )
    assert [event.reason for event in trades_of(published)] == ["", "", "halted", "halted", ""]


def test_history_passes_once_and_does_not_affect_the_lines(run: Run, make: Any) -> None:
    """Repairs add exactly the missing trades."""
    frames = [
        make.trades(make.trade(5, 10)),
        make.trades(make.trade(4, 9), make.trade(5, 10), origin="repair"),
        make.trades(make.trade(4, 9), origin="repair"),
    ]
    published = run(trades_operator, frames)
    assert [[trade.trade_id for trade in event.trades] for event in trades_of(published)] == [["5"], ["4"]]
    assert [event.origin for event in trades_of(published)] == ["live", "repair"]


@given(
    delays=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    prices=st.lists(st.sampled_from(["99", "98", "97"]), min_size=1, max_size=20),
    data=st.data(),
)
@settings(max_examples=60)
def test_each_quote_of_several_lines_passes_once_and_never_back_in_time(
    run: Run, make: Any, delays: list[int], prices: list[str], data: st.DataObject
) -> None:
    """Lines that lag by up to a minute add nothing; the first to arrive is enough."""
    arrivals = sorted(
        ((number + delay, line, number) for line, delay in enumerate(delays) for number in range(len(prices)))
    )
    quotes = [make.quote(number, prices[number], line=f"coinbase/{line}", sequence=line * 1000 + number)
              for _, line, number in arrivals]  # fmt: skip
    published = run(quotes_operator, quotes)
    passed = [event for events in published for event in events if isinstance(event, Quote)]
    assert [(event.ts_event, event.bid) for event in passed] == [
        (make.ts(number), price) for number, price in enumerate(prices)
    ]
    at = data.draw(st.lists(st.integers(0, len(quotes) - 1), max_size=3))
    assert run(quotes_operator, quotes, restarts=at) == published


def test_numbered_quotes_of_one_time_pass_even_when_the_last_repeats_the_first(run: Run, make: Any) -> None:
    """Binance's spot quotes have no time of their own; two lines send the same numbers."""
    sent = [make.quote(0, bid, sequence_scope=SYMBOL, sequence=number, line=line)
            for number, bid in ((1, "99"), (2, "98"), (3, "99")) for line in ("line/0", "line/1")]  # fmt: skip
    published = run(quotes_operator, sent)
    assert [(event.sequence, event.bid) for events in published for event in events if isinstance(event, Quote)] == [
        (1, "99"), (2, "98"), (3, "99")
    ]  # fmt: skip


def test_a_status_passes_once_and_a_gap_opens_and_closes_once(make: Any) -> None:
    """Repeats from an engine or a producer are dropped; each line has its own history."""
    gap = FeedStatus(
        venue="coinbase", symbol="BTC-USD", ts_event=make.ts(0), ts_recv=make.ts(0), line="l/0", kind="gap", gap_id="g"
    )
    closed = msgspec.structs.replace(gap, kind="resynced", ts_event=make.ts(1))
    other = msgspec.structs.replace(gap, line="l/1")
    plain = msgspec.structs.replace(gap, kind="connected", gap_id=None)
    later = msgspec.structs.replace(plain, ts_event=make.ts(5))
    operator = IngestStatus()
    state = operator.start("k")
    passed: list[AnyEvent] = []
    for status in (gap, gap, closed, other, closed, plain, plain, later):
        state, out = operator.step(state, status)
        state = unpack_state(pack_state(state), operator.state)
        passed += out
    assert passed == [gap, closed, other, plain, later]
