"""History and gaps on the real pipeline: backfill resumed after a crash, an outage repaired, nothing there twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from infra.simulator.venues.tape import MINUTE_NS, SECOND_NS, TapeCandle, TapeTrade
from marketdata.clock import format_rfc3339
from marketdata.events import Instrument, Trade, Trades

HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
INTERVALS = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}


def expected_candles(venue: Any, interval: str, start: int, end: int) -> list[tuple[Any, ...]]:
    """Return what the rows of the candles in [start, end) must be, those without trades without prices."""

    def row(one: TapeCandle) -> tuple[Any, ...]:
        prices = (one.open, one.high, one.low, one.close) if one.trades else (None,) * 4
        return (one.start, *(None if text is None else Decimal(text) for text in prices), Decimal(one.volume))

    return [row(one) for one in venue.histories.tape.candles(INTERVALS[interval] * MINUTE_NS, start, end)]


def stored_candles(pipeline: Any, interval: str) -> list[tuple[Any, ...]]:
    """Return the rows of an interval, every revision."""
    query = (
        f"SELECT start_ns, open, high, low, close, volume FROM candles WHERE {BINANCE} AND interval = %s "
        "ORDER BY ts, revision"
    )
    return list(pipeline.rows(query, interval))


def test_a_backfill_killed_in_the_middle_resumes_and_every_row_is_there_once(
    pipeline: Any, venue: Any, wait_for: Callable[..., Any]
) -> None:
    """Candles of all intervals and all trades equal the venue's past, though the job was killed while it ran."""
    start = venue.histories.tape.begins + DAY_NS
    end = start + DAY_NS
    span = ("--start", format_rfc3339(start), "--end", format_rfc3339(end), "--rest-url", venue.url)
    venue.delay_s, venue.histories.rows_max = 0.02, 300
    job = pipeline.start("tickstream", "backfill", "binance_spot", "BTC-USDT", "--trades", *span)
    cursor = "SELECT 1 FROM ingestion_jobs WHERE kind = 'trades' AND cursor_ns > start_ns AND state = 'running'"
    wait_for("a job in the middle of its trades", lambda: pipeline.rows(cursor))
    job.kill()
    job.wait(10)
    venue.delay_s, venue.histories.rows_max = 0.0, 10_000
    venue.histories.asked.clear()
    assert pipeline.rows(cursor), "it was over before it was killed"
    pipeline.command("backfill", "binance_spot", "BTC-USDT", "--trades", *span)
    trades = list(venue.histories.tape.between(start, end))
    wait_for("all trades", lambda: pipeline.rows(f"SELECT count(*) FROM trades WHERE {BINANCE}")[0][0] >= len(trades))
    assert pipeline.rows(
        "SELECT trade_id, ts_event_ns, price::text, size::text, side, origin FROM trades "
        f"WHERE {BINANCE} ORDER BY trade_id::bigint"
    ) == [(str(t.number), t.ts, t.price, t.size, "buy" if t.bought else "sell", "backfill") for t in trades]
    for interval in INTERVALS:
        wanted = expected_candles(venue, interval, start, end)
        wait_for(
            f"{interval} candles",
            lambda wanted=wanted, name=interval: len(stored_candles(pipeline, name)) >= len(wanted),
        )
        assert stored_candles(pipeline, interval) == wanted
    jobs = (
        "SELECT kind, state, attempts, cursor_ns, fetched >= %s, last_error, completed_at IS NULL FROM ingestion_jobs"
    )
    assert sorted(pipeline.rows(f"{jobs} WHERE {BINANCE}", len(trades))) == [
        ("candles", "done", 2, end, False, None, False),
        ("trades", "done", 2, end, True, None, False),
    ]
    assert pipeline.rows("SELECT * FROM dead_letters") == []
    assert not any("klines" in request.path for request in venue.histories.asked), "the candles were all fetched before"


BINANCE, OURS = "venue = 'binance_spot'", "venue = 'coinbase'"
HEARTBEAT_NS = 4 * SECOND_NS
COINBASE: dict[str, Any] = {"venue": "coinbase", "symbol": "BTC-USD"}


def live(trades: list[TapeTrade], start: int, end: int, without: frozenset[int] = frozenset()) -> list[Trades]:
    """Return what a feed publishes of [start, end): trades one by one between heartbeats, some of them lost."""
    published: list[tuple[int, tuple[Trade, ...]]] = [
        (ts, ()) for ts in range(start, end + HEARTBEAT_NS + 1, HEARTBEAT_NS)
    ]
    for one in trades:
        if start <= one.ts < end and one.number not in without:
            side = "buy" if one.bought else "sell"
            trade = Trade(trade_id=str(one.number), ts_event=one.ts, price=one.price, size=one.size, side=side)
            published.append((one.ts, (trade,)))
    return [
        Trades(**COINBASE, ts_event=ts, ts_recv=ts, line="coinbase/0", trades=batch)
        for ts, batch in sorted(published, key=lambda each: each[0])
    ]


def test_an_outage_is_found_repaired_and_closed_and_what_the_venue_lacks_stays_open(
    pipeline: Any, venue: Any, wait_for: Callable[..., Any]
) -> None:
    """Lost hours and a lost minute come back as repairs, candles are revised; trades nobody has stay on the ledger."""
    now = time.time_ns() // MINUTE_NS * MINUTE_NS
    first, second, end = now - 5 * HOUR_NS, now - 16 * MINUTE_NS, now - 3 * MINUTE_NS
    tape = list(venue.histories.tape.between(first, end))
    quiet = next(one.number for one in tape if one.ts >= second + 5 * MINUTE_NS)  # lost on the way to us only
    hidden = next(one.number for one in tape if one.ts >= second + 9 * MINUTE_NS)  # and this the venue has lost too
    venue.without = frozenset({hidden})
    instrument = Instrument(
        **COINBASE, ts_recv=first, venue_symbol="BTC-USD", base_currency="BTC", quote_currency="USD", status="online"
    )
    pipeline.produce(instrument, *live(tape, first, first + 10 * MINUTE_NS))
    pipeline.produce(*live(tape, second, end, frozenset({quiet, hidden})))
    closed = "SELECT count(*) FROM candles WHERE venue = 'coinbase' AND interval = '1m' AND start_ns >= %s"
    wait_for("the last live candle", lambda: pipeline.rows(closed, end - MINUTE_NS)[0][0])
    printed = pipeline.command("gaps", "scan", "--venue", "coinbase", "--rest-url", venue.url, exits=1)
    assert "3 repaired, 1 open" in printed, printed

    scanned = "SELECT channel, state, repaired_by, expected, received FROM gaps WHERE found_by = 'scan' ORDER BY 1, 4"
    wait_for("the ledger", lambda: len(pipeline.rows(scanned)) == 4)
    lost = next(one.number for one in tape if one.ts >= first + 10 * MINUTE_NS)
    found = next(one.number for one in tape if one.ts >= second)
    assert pipeline.rows(scanned) == [
        ("candles", "repaired", "rest_trades", None, None),
        ("trades", "repaired", "rest_trades", lost, found),
        ("trades", "repaired", "rest_trades", quiet, quiet + 1),
        ("trades", "open", None, hidden, hidden + 1),
    ]
    wanted = [one for one in tape if one.number != hidden]
    query = "SELECT trade_id::bigint, price, size FROM trades WHERE venue = 'coinbase' ORDER BY 1"
    assert pipeline.rows(query) == [(one.number, Decimal(one.price), Decimal(one.size)) for one in wanted]

    minutes = f"SELECT start_ns, valid, volume, trades FROM candles_latest WHERE {OURS} AND interval = '1m' ORDER BY ts"
    assert pipeline.rows(minutes) == [summed(wanted, start, MINUTE_NS) for start in range(first, end, MINUTE_NS)]
    longer = (
        f"SELECT start_ns, valid, volume, trades FROM candles_latest WHERE {OURS} AND interval = '15m' "
        "AND ts >= to_timestamp(%s) AND ts < to_timestamp(%s) ORDER BY ts"
    )
    quarter = 15 * MINUTE_NS
    whole = range(-(-first // quarter) * quarter, (now - 130 * MINUTE_NS) // quarter * quarter, quarter)
    times = [f"{start // SECOND_NS}" for start in (whole.start, whole.stop)]
    wait_for("longer candles", lambda: all(row[1] for row in pipeline.rows(longer, *times)))
    assert pipeline.rows(longer, *times) == [summed(wanted, start, quarter) for start in whole]

    listed = " ".join(pipeline.command("gaps", "list").split())
    assert "coinbase BTC-USD trades" in listed.replace("│ ", "").replace("┃ ", "")
    assert "does not have all of it" in listed
    again = pipeline.command("gaps", "scan", "--venue", "coinbase", "--rest-url", venue.url, exits=1)
    assert "0 new gaps" in again
    assert "0 repaired, 1 open, 0 longer" in again

    # A cancel of what the stream app does not remember makes it give up its candles; the venue's trades mend them.
    canceled = next(one for one in tape if one.ts >= second + 6 * MINUTE_NS)
    venue.without |= {canceled.number}
    back = Trade(trade_id=str(canceled.number), ts_event=end, price=canceled.price, size=canceled.size, side="unknown",
                 action="cancel")  # fmt: skip
    pipeline.produce(Trades(**COINBASE, ts_event=end, ts_recv=end, line="coinbase/0", trades=(back,)))
    spoilt = f"SELECT count(*) FROM candles_latest WHERE {OURS} AND reason = 'amended' AND state <> 'open' "
    wait_for("candles that are given up", lambda: pipeline.rows(f"{spoilt} AND interval = '15m'")[0][0] > 5)
    mended = pipeline.command("gaps", "scan", "--venue", "coinbase", "--rest-url", venue.url, exits=1)
    # There are minutes without trades between them, which stay as they are.
    assert "1 new gaps" in mended, mended
    assert "1 repaired, 1 open" in mended, mended
    stand = [one for one in wanted if one is not canceled]
    assert pipeline.rows(minutes) == [summed(stand, start, MINUTE_NS) for start in range(first, end, MINUTE_NS)]
    wait_for("the longer ones", lambda: pipeline.rows(f"{spoilt} AND interval IN ('5m', '15m')")[0][0] <= 2)


def summed(trades: list[TapeTrade], start: int, length: int) -> tuple[Any, ...]:
    """Return start, validity, volume and number of trades of a candle."""
    inside = [one for one in trades if start <= one.ts < start + length]
    return start, True, sum((Decimal(one.size) for one in inside), Decimal(0)), len(inside)
