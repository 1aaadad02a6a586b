"""What is stored is compared with the venue's own history: equal hours say so, and each difference is named."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from infra.simulator.venues.tape import MINUTE_NS
from marketdata.clock import format_rfc3339
from marketdata.events import Candle, Instrument, Trade
from producers.history.candles import Stored
from producers.history.reconcile import TRADES_NS, compare_candles, compare_trades
from tests.history.test_pipeline import COINBASE, HOUR_NS, live

START = 1_790_000_000_000_000_000 // HOUR_NS * HOUR_NS


def stored(start: int = START, **more: Any) -> Stored:
    """Return a stored minute."""
    values: dict[str, Any] = {
              "interval": "1m", "start_ns": start, "state": "final", "revision": 0, "valid": True, "reason": "",
              "open": "1.0", "high": "2.0", "low": "0.5", "close": "1.5", "volume": "10", "quote_volume": None,
              "buy_volume": None, "trades": 3}  # fmt: skip
    return Stored(**(values | more))


def sent(start: int = START, **more: Any) -> Candle:
    """Return a minute of the venue."""
    values: dict[str, Any] = {"venue": "v", "symbol": "A-B", "interval": "1m", "start": start, "end": start + MINUTE_NS,
              "ts_event": start, "ts_recv": start, "open": "1", "high": "2", "low": "0.50", "close": "1.5",
              "volume": "10.0", "quote_volume": None, "buy_volume": None, "trades": None, "state": "final",
              "revision": 0, "late_trades": 0, "valid": True, "reason": "", "gap_free": True}  # fmt: skip
    return Candle(**{name: value for name, value in (values | more).items() if name in Candle.__struct_fields__})


def test_prices_are_compared_as_numbers_and_each_difference_is_named() -> None:
    """1.0 is 1; a high that differs is shown with both values."""
    assert str(compare_candles([stored()], [sent()])) == "candles 1 of 1 equal"
    score = compare_candles([stored(), stored(START + MINUTE_NS, high="2.5")], [sent(), sent(START + MINUTE_NS)])
    assert (score.compared, score.equal) == (2, 1)
    assert "high 2.5 here, 2 there" in str(score)


def test_what_the_ledger_has_and_what_the_venue_leaves_out_is_not_counted() -> None:
    """A minute that is not valid, one without trades that the venue sends no candle for, and one that is open."""
    ours = [stored(valid=False, reason="gap"), stored(START + MINUTE_NS, open=None, volume="0"),
            stored(START + 2 * MINUTE_NS, state="open")]  # fmt: skip
    assert compare_candles(ours, []).ratio is None


def test_a_minute_with_trades_that_the_venue_does_not_have_differs() -> None:
    """Trades of ours that the venue denies are no lesser error."""
    assert "the venue has none" in str(compare_candles([stored()], []))


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_trades_are_compared_by_their_ids(ours: set[int], theirs: set[int]) -> None:
    """Equal is what both have, compared is what either has."""
    trades = [Trade(trade_id=str(one), ts_event=START, price="1", size="1", side="buy") for one in theirs]
    score = compare_trades({str(one) for one in ours}, trades)
    assert (score.compared, score.equal) == (len(ours | theirs), len(ours & theirs))
    assert bool(score.examples) == (ours != theirs)


def test_an_hour_equals_the_venue_until_a_trade_is_missing_there(
    pipeline: Any, venue: Any, wait_for: Callable[..., Any]
) -> None:
    """Through Kafka, stream apps and database; the status says what differs, and the command exits with 1."""
    end = time.time_ns() // MINUTE_NS * MINUTE_NS - 6 * MINUTE_NS
    start = end - 130 * MINUTE_NS
    hour = (end // HOUR_NS) * HOUR_NS - HOUR_NS
    tape = list(venue.histories.tape.between(start, end))
    instrument = Instrument(
        **COINBASE, ts_recv=start, venue_symbol="BTC-USD", base_currency="BTC", quote_currency="USD", status="online"
    )
    pipeline.produce(instrument, *live(tape, start, end))
    closed = "SELECT count(*) FROM candles WHERE venue = 'coinbase' AND interval = '1m' AND start_ns >= %s"
    wait_for("the last candle", lambda: pipeline.rows(closed, end - MINUTE_NS)[0][0])
    at = format_rfc3339(hour + HOUR_NS + 10 * MINUTE_NS)
    arguments = ("reconcile", "coinbase", "BTC-USD", "--at", at, "--rest-url", venue.url)
    printed = pipeline.command(*arguments)
    traded = len({one.ts // MINUTE_NS for one in tape if hour <= one.ts < hour + HOUR_NS})
    compared = sum(hour <= one.ts < hour + TRADES_NS for one in tape)
    assert traded > 10
    assert compared > 1
    assert f"candles {traded} of {traded} equal" in printed, printed
    assert f"trades {compared} of {compared} equal" in printed, printed
    wait_for("the status", lambda: pipeline.rows("SELECT reason FROM feed_status WHERE kind = 'reconciled'"))
    venue.without = frozenset({next(one.number for one in tape if one.ts >= hour)})
    different = pipeline.command(*arguments, exits=1)
    assert "only here" in different, different
