"""Explanations of candles: what counted and what did not, and that stored trades make the stored candle."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.events import Candle, DeadLetter, Trade, Trades
from marketdata.explain import Evidence, LedgerGap, RefusedTrade, SeenTrade, explain
from marketdata.recipes import read_recipes
from stream_apps.chain import Chain
from stream_apps.operators import make_operators

START = 1_786_309_500 * SECOND_NS  # a whole minute
RECIPES = read_recipes({"recipes": {"fives": {"time": "5s"}}})


def trade(identity: str, second: float, price: str = "100", size: str = "1", **more: Any) -> Trade:
    """Return a trade, seconds after the candle's start."""
    fields: dict[str, Any] = {"side": "buy"} | more
    return Trade(trade_id=identity, ts_event=START + round(second * SECOND_NS), price=price, size=size, **fields)


def seen(one: Trade, received: float | None = None, **more: Any) -> SeenTrade:
    """Return a stored trade, received at its time if not stated."""
    ts = one.ts_event if received is None else START + round(received * SECOND_NS)
    fields: dict[str, Any] = {"origin": "live", "valid": True, "reason": ""} | more
    return SeenTrade(trade=one, ts_recv=ts, **fields)


def candle(revision: int = 0, received: float = 62, **more: Any) -> Candle:
    """Return the candle of two trades of 100 and 101."""
    fields: dict[str, Any] = {
        "open": "100", "high": "101", "low": "100", "close": "101", "volume": "2", "quote_volume": "201",
        "buy_volume": "2", "trades": 2, "state": "revised" if revision else "final",
    } | more  # fmt: skip
    return Candle(
        venue="v", symbol="S", interval="1m", start=START, end=START + MINUTE_NS, ts_event=START,
        ts_recv=START + round(received * SECOND_NS), revision=revision, **fields,
    )  # fmt: skip


def evidence(*trades: SeenTrade, **more: Any) -> Evidence:
    """Return what is stored about the candle."""
    fields: dict[str, Any] = {"candle": candle(), "revisions": [candle()]} | more
    return Evidence(
        venue="v", symbol="S", interval="1m", start=START, end=START + MINUTE_NS, trades=trades, **fields
    )  # fmt: skip


TWO = (seen(trade("1", 1)), seen(trade("2", 2, "101")))


def reasons(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the trades that did not count, with why."""
    return [(item["trade_id"], item["why"]) for item in found["left_out"]["items"]]


def test_trades_that_make_the_candle_are_equal_to_it() -> None:
    """Each has the prices that it set, and numbers are compared as numbers."""
    found = explain(evidence(*TWO, candle=candle(volume="2.00")))
    assert (found["verdict"], found["differences"], found["counted"]["count"]) == ("equal", [], 2)
    assert [item["has_price_of"] for item in found["counted"]["items"]] == [["open", "low"], ["high", "close"]]
    assert "make exactly the stored candle" in found["summary"]


def test_a_trade_that_the_candle_lacks_is_a_difference() -> None:
    """The answer states the fields; a trade outside of the candle is not among them."""
    found = explain(evidence(*TWO, seen(trade("3", 3, "99")), seen(trade("4", 60, "1"))))
    assert found["verdict"] == "different"
    assert [each["field"] for each in found["differences"]] == [
        "low", "close", "volume", "quote_volume", "buy_volume", "trades",
    ]  # fmt: skip
    assert found["differences"][0] == {"field": "low", "stored": "100", "recomputed": "99"}


def test_what_did_not_count_has_its_reason() -> None:
    """Cancelled, corrected, excluded, late, refused and duplicate."""
    everything = ("volume", "high_low", "open_close")
    late = trade("late", 30, "7")
    found = explain(
        evidence(
            seen(trade("1", 1)),
            seen(trade("wrong", 2, "999")),
            seen(trade("gone", 3, "5")),
            seen(trade("odd", 4, "50", excluded_from=everything, conditions=("I", "X"))),
            seen(late, 9_000),
            seen(trade("right", 70, "101", action="correct", original_id="wrong", side="unknown"), 70),
            seen(trade("gone", 71, action="cancel"), 71),
            refused=[
                RefusedTrade(trade=late, ts_recv=START, stage="candles", reason="late"),
                RefusedTrade(trade=trade("bad", 5, "-1"), ts_recv=START, stage="validation", reason="not_positive"),
            ],
            received=[("l/0", trade("1", 1)), ("l/1", trade("1", 1)), ("l/0", trade("1", 1)), ("l/0", trade("2", 99))],
        )
    )
    assert found["verdict"] == "equal"
    assert reasons(found) == [
        ("wrong", "corrected"), ("gone", "cancelled"), ("odd", "excluded"), ("late", "late"), ("bad", "refused"),
        ("1", "duplicate"), ("1", "duplicate"),
    ]  # fmt: skip
    assert found["left_out"]["by_reason"]["duplicate"] == 2
    assert "conditions: I, X" in found["left_out"]["items"][2]["detail"]
    assert [item["trade_id"] for item in found["counted"]["items"]] == ["1", "right"]


def test_revisions_are_explained_by_what_arrived_between_them() -> None:
    """Late trades, amendments and a change of validity."""
    found = explain(
        evidence(
            seen(trade("1", 1)), seen(trade("2", 2, "101"), 65), seen(trade("3", 3, "5"), 66),
            seen(trade("3", 80, action="cancel"), 80),
            revisions=[
                candle(trades=1), candle(1, 66, trades=3), candle(2, 80), candle(3, 90, valid=False, reason="gap"),
                candle(4, 95), candle(5, 99, origin="repair"),
            ],
        )
    )  # fmt: skip
    assert [one["because"] for one in found["revisions"]] == [
        ["its time had passed"], ["late trades: 2, 3"], ["trade 3 was cancelled"], ["it became invalid: gap"],
        ["it became valid: gap was repaired"], ["computed by history (repair)"],
    ]  # fmt: skip
    assert {"field": "trades", "before": 1, "after": 3} in found["revisions"][1]["changes"]


def test_the_venues_own_bar_is_compared_field_by_field() -> None:
    """As exact differences, without the fields that the venue does not send."""
    bar = candle(volume="1.9", high="101.5", quote_volume=None, buy_volume=None, trades=None)
    found = explain(evidence(*TWO, venue_bar=bar))
    assert found["venue_differences"] == [
        {"field": "high", "ours": "101", "venue": "101.5", "difference": "-0.5"},
        {"field": "volume", "ours": "2", "venue": "1.9", "difference": "0.1"},
    ]


def test_a_candle_of_history_and_one_that_is_missing_have_their_own_verdicts() -> None:
    """Neither claims that the trades are wrong."""
    assert explain(evidence(candle=candle(origin="backfill")))["verdict"] == "from_history"
    assert explain(evidence(*TWO, candle=None, revisions=[]))["verdict"] == "not_stored"
    assert explain(evidence(*TWO[:1], candle=candle(state="open")))["verdict"] == "open"
    gap = LedgerGap(gap_id="g", channel=None, reason="gap", detail="", state="open", ts_from=START, ts_to=None,
                    repaired_by=None)  # fmt: skip
    found = explain(evidence(*TWO, candle=candle(valid=False, reason="gap"), gaps=[gap]))
    assert "not valid: gap" in found["summary"]
    assert found["gaps"][0]["start"].startswith("2026-08-09")


def test_lists_are_cut_and_their_counts_are_not() -> None:
    """A busy candle has more trades than anyone reads."""
    many = [seen(trade(str(n), n / 100)) for n in range(500)]
    found = explain(evidence(*many), limit=3)
    assert (found["counted"]["count"], len(found["counted"]["items"])) == (500, 3)


@st.composite
def streams(draw: st.DrawFn) -> list[Trades]:
    """Return messages of a venue that amends: new, late, corrected and cancelled trades."""
    known: list[str] = []
    events, identity, now = [], 0, START
    for _ in range(draw(st.integers(1, 12))):
        now += draw(st.integers(1, 8)) * SECOND_NS
        trades = []
        for _ in range(draw(st.integers(0, 4))):
            identity += 1
            kind = draw(st.sampled_from(["new"] * 6 + ["cancel", "correct"]))
            price, size = draw(st.sampled_from(["100", "101.5", "99"])), draw(st.sampled_from(["1", "0.5", "3"]))
            side = draw(st.sampled_from(["buy", "sell", "unknown"]))
            if kind == "new" or not known:
                ts = now - draw(st.sampled_from([0, 0, 0, 1, 4, 9])) * SECOND_NS
                known.append(str(identity))
                trades.append(Trade(trade_id=str(identity), ts_event=ts, price=price, size=size, side=side))
            else:
                original = draw(st.sampled_from(known))
                corrected = kind == "correct"
                if corrected:
                    known.append(str(identity))
                trades.append(
                    Trade(trade_id=str(identity) if corrected else original, ts_event=now, price=price, size=size,
                          side=side, action=kind, original_id=original if corrected else "")
                )  # fmt: skip
        events.append(
            Trades(
                venue="alpaca",
                symbol="S",
                ts_event=now,
                ts_recv=now,
                line="alpaca/0",
                amendable=True,
                trades=tuple(trades),
            )
        )
    end = now + 90 * SECOND_NS
    return [*events, Trades(venue="alpaca", symbol="S", ts_event=end, ts_recv=end, line="alpaca/0", amendable=True)]


@given(events=streams())
@settings(max_examples=150, deadline=None)
def test_the_trades_that_are_stored_make_every_candle_that_is_stored(events: list[Trades]) -> None:
    """Of one minute and of a recipe of five seconds, whatever was late, corrected or cancelled."""
    chain = Chain("md.ingest.trades", make_operators(RECIPES))
    out = [one for event in events for one in chain.step(event, "alpaca:S")]
    stored = [
        SeenTrade(trade=each, ts_recv=event.ts_recv, origin=event.origin, valid=event.valid, reason=event.reason)
        for event in out if isinstance(event, Trades) for each in event.trades
    ]  # fmt: skip
    refused = [one for one in out if isinstance(one, DeadLetter)]
    revisions: dict[tuple[str, int], list[Candle]] = {}
    for one in out:
        if isinstance(one, Candle) and one.state != "open" and one.interval in {"1m", "5s"}:
            revisions.setdefault((one.interval, one.start), []).append(one)
    for (interval, start), states in revisions.items():
        length = states[-1].end - start
        found = explain(
            Evidence(
                venue="alpaca", symbol="S", interval=interval, start=start, end=start + length, candle=states[-1],
                revisions=states, trades=stored,
                refused=[
                    RefusedTrade(trade=each, ts_recv=one.ts_recv, stage=one.stage, reason=one.reason)
                    for one in refused if one.stage in {"candles", "time_bars"}
                    for each in msgspec.json.decode(one.payload, type=Trades).trades
                ],
            )
        )  # fmt: skip
        if states[-1].reason != "amended":
            assert found["verdict"] == "equal", found
        assert len(found["revisions"]) == len(states)
