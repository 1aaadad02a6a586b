"""A venue that changes its messages is noticed, one that does not is never accused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.events import FeedStatus
from producers.venues import VENUES, make_feed
from producers.venues.kit.drift import LEARNED_MIN, RUN_MIN, Change, Drift
from runtime import recordings

T0 = 1_790_000_000_000_000_000
SECOND = 1_000_000_000
RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
TRADE = {"type": "trade", "price": "1.5", "size": "2", "seq": 7, "data": [{"id": 1, "side": "buy"}]}


def play(drift: Drift, frames: list[Any], ts: int = T0, every: int = SECOND) -> list[Change]:
    """Give each frame to the radar, so far apart; return what it reports."""
    changes = []
    for number, frame in enumerate(frames):
        changes += drift.take(json.dumps(frame).encode(), ts + number * every)
    return changes


def learned(frame: Any = TRADE) -> Drift:
    """Return a radar that knows a kind of message."""
    drift = Drift()
    assert play(drift, [frame] * (LEARNED_MIN + 1)) == []
    return drift


LATER = T0 + 1_000 * SECOND


def test_a_field_that_vanishes_is_reported_once() -> None:
    """After so many messages in a row, with its path and its type."""
    drift = learned()
    without = {name: value for name, value in TRADE.items() if name != "seq"}
    assert play(drift, [without] * (RUN_MIN - 1), LATER) == []
    assert play(drift, [without], LATER + 100 * SECOND) == [Change("field_vanished", "type=trade", "seq: number")]
    assert play(drift, [without] * 200, LATER + 200 * SECOND) == []


def test_a_field_that_appears_is_reported_once() -> None:
    """Also one within a list of objects."""
    drift = learned()
    more = TRADE | {"data": [{"id": 1, "side": "buy", "block": True}]}
    changes = play(drift, [more] * 200, LATER)
    assert changes == [Change("field_appeared", "type=trade", "data[].block: boolean")]


def test_a_number_that_becomes_a_text_is_one_field_less_and_one_more() -> None:
    """The type belongs to the field."""
    changes = play(learned(), [TRADE | {"seq": "7"}] * 200, LATER)
    assert sorted(change.detail for change in changes) == ["seq: number", "seq: text"]


def test_a_checksum_that_is_always_zero_is_a_change() -> None:
    """As OKX's since June 2026: the field is still there and says nothing."""
    changes = play(learned(), [TRADE | {"seq": 0}] * 200, LATER)
    assert sorted(change.detail for change in changes) == ["seq: number", "seq: zero"]


def test_a_few_different_messages_are_no_change() -> None:
    """As when a venue leaves a field out now and then."""
    drift = learned()
    without = {name: value for name, value in TRADE.items() if name != "seq"}
    assert play(drift, [*[without] * (RUN_MIN - 1), TRADE] * 5, LATER) == []


def test_a_field_that_came_only_sometimes_may_stay_away() -> None:
    """It was never always there."""
    drift = Drift()
    play(drift, [TRADE, TRADE | {"note": "x"}] * LEARNED_MIN)
    assert play(drift, [TRADE] * 500, LATER) == []


def test_regular_messages_that_come_at_another_pace_are_reported() -> None:
    """Heartbeats each second that come every five seconds."""
    drift = learned({"type": "heartbeat"})
    changes = play(drift, [{"type": "heartbeat"}] * 200, LATER, every=5 * SECOND)
    assert changes == [Change("pace", "type=heartbeat", "every 1.0 s before, 5.0 s now")]


@given(st.lists(st.integers(1, 60_000), min_size=300, max_size=400))
def test_irregular_messages_have_no_pace_that_could_change(gaps_ms: list[int]) -> None:
    """Trades come when they come."""
    drift, ts = Drift(), T0
    changes = []
    for gap in gaps_ms:
        ts += gap * 1_000_000
        changes += drift.take(json.dumps(TRADE).encode(), ts)
    assert [change for change in changes if change.reason != "pace"] == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(st.binary(max_size=200), JSON)
def test_any_frame_is_survived(junk: bytes, value: Any) -> None:
    """Whatever the bytes are."""
    drift = Drift()
    drift.take(junk, T0)
    drift.take(json.dumps(value).encode(), T0 + SECOND)


def test_memory_is_bounded_whatever_a_venue_sends() -> None:
    """Kinds and fields have limits."""
    drift = Drift()
    for number in range(2_000):
        drift.take(json.dumps({"type": f"t{number}", f"f{chr(97 + number % 26)}": {}}).encode(), T0 + number * SECOND)
    assert len(drift._kinds) <= 200


RECORDED = {"binance_spot_multi": "binance_spot", "binance_usdm_btcusdt": "binance_usdm", "bitfinex": "bitfinex",
            "bybit": "bybit", "coinbase_advanced": "coinbase", "coinbase_exchange_legacy": "coinbase_exchange",
            "gemini": "gemini", "kraken_futures": "kraken_futures", "kraken_v1": "kraken", "okx": "okx"}  # fmt: skip


@pytest.mark.parametrize("recording", RECORDED)
def test_no_recording_raises_an_alarm(recording: str) -> None:
    """Real venues' messages differ, and no recording has a change of them."""
    path = RECORDINGS / f"{recording}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    drifts: dict[str | None, Drift] = {}
    changes: list[Change] = []
    for line in recordings.read(path):
        if line.t != "recv":
            continue
        drift = drifts.setdefault(line.conn, Drift())
        if line.ts_recv >= drift.ts_due:
            changes += drift.take(line.frame, line.ts_recv)
    assert changes == []


def test_a_change_is_a_status_of_the_line() -> None:
    """It names the kind of message and what changed, and nothing else happens."""
    assert "okx" in VENUES
    feed = make_feed("okx", products=("BTC-USDT",))
    out = []
    row = {"instId": "BTC-USDT", "ts": "1790000000000", "last": "1", "bidPx": "1", "bidSz": "1"}
    for number in range(600):
        data = row if number < 300 else row | {"seqId": number}
        frame = json.dumps({"arg": {"channel": "tickers", "instId": "BTC-USDT"}, "data": [data]}).encode()
        out += feed.received(frame, T0 + number * SECOND)
    changed = [o for o in out if isinstance(o, FeedStatus) and o.kind == "venue_changed"]
    assert [(o.reason, o.detail) for o in changed] == [("field_appeared", "data[].seqId: number")]
