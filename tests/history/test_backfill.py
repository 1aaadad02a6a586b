"""History from a venue's REST, through the real road, to rows: resumed after a crash and never doubled."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from infra.exchange.tape import MINUTE_NS, TapeCandle
from marketdata.clock import format_rfc3339

DAY_NS = 1440 * MINUTE_NS
INTERVALS = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}


def expected_candles(venue: Any, interval: str, start: int, end: int) -> list[tuple[Any, ...]]:
    """Return what the rows of the candles in [start, end) must be, those without trades without prices."""

    def row(one: TapeCandle) -> tuple[Any, ...]:
        prices = (one.open, one.high, one.low, one.close) if one.trades else (None,) * 4
        return (one.start, *(None if text is None else Decimal(text) for text in prices), Decimal(one.volume))

    return [row(one) for one in venue.histories.tape.candles(INTERVALS[interval] * MINUTE_NS, start, end)]


def stored_candles(road: Any, interval: str) -> list[tuple[Any, ...]]:
    """Return the rows of an interval, every revision."""
    query = "SELECT start_ns, open, high, low, close, volume FROM candles WHERE interval = %s ORDER BY ts, revision"
    return list(road.rows(query, interval))


def test_a_backfill_killed_in_the_middle_goes_on_and_every_row_is_there_once(
    road: Any, venue: Any, wait_for: Callable[..., Any]
) -> None:
    """Candles of all intervals and all trades equal the venue's past, though the job was killed while it ran."""
    start = venue.histories.tape.begins + DAY_NS
    end = start + DAY_NS
    span = ("--start", format_rfc3339(start), "--end", format_rfc3339(end), "--rest-url", venue.url)
    venue.delay_s, venue.histories.rows_max = 0.02, 300
    job = road.start("tickstream", "backfill", "binance_spot", "BTC-USDT", "--trades", *span)
    cursor = "SELECT 1 FROM ingestion_jobs WHERE kind = 'trades' AND cursor_ns > start_ns AND state = 'running'"
    wait_for("a job in the middle of its trades", lambda: road.rows(cursor))
    job.kill()
    job.wait(10)
    venue.delay_s, venue.histories.rows_max = 0.0, 10_000
    assert road.rows(cursor), "it was over before it was killed"
    road.command("backfill", "binance_spot", "BTC-USDT", "--trades", *span)
    trades = list(venue.histories.tape.between(start, end))
    wait_for("all trades", lambda: road.rows("SELECT count(*) FROM trades")[0][0] >= len(trades))
    assert road.rows(
        "SELECT trade_id, ts_event_ns, price::text, size::text, side, origin FROM trades ORDER BY trade_id::bigint"
    ) == [(str(t.number), t.ts, t.price, t.size, "buy" if t.bought else "sell", "backfill") for t in trades]
    for interval in INTERVALS:
        wanted = expected_candles(venue, interval, start, end)
        wait_for(
            f"{interval} candles", lambda wanted=wanted, name=interval: len(stored_candles(road, name)) >= len(wanted)
        )
        assert stored_candles(road, interval) == wanted
    jobs = (
        "SELECT kind, state, attempts, cursor_ns, fetched >= %s, last_error, completed_at IS NULL FROM ingestion_jobs"
    )
    assert sorted(road.rows(jobs, len(trades))) == [
        ("candles", "done", 2, end, False, None, False),
        ("trades", "done", 2, end, True, None, False),
    ]
    assert road.rows("SELECT * FROM dead_letters") == []
    # Nothing is left to ask for.
    asked = len(venue.histories.asked)
    road.command("backfill", "binance_spot", "BTC-USDT", "--trades", *span)
    assert len(venue.histories.asked) == asked
