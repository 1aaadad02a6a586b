"""Holes in what is stored: found by the scan, repaired from the venue's REST, closed with how; the rest stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from infra.exchange.tape import MINUTE_NS, SECOND_NS, TapeTrade
from marketdata.events import Instrument, Trade, Trades

HOUR_NS = 60 * MINUTE_NS
HEARTBEAT_NS = 4 * SECOND_NS
COINBASE = {"venue": "coinbase", "symbol": "BTC-USD"}


def live(trades: list[TapeTrade], start: int, end: int, without: frozenset[int] = frozenset()) -> list[Trades]:
    """Return what a feed tells of [start, end): trades one by one between heartbeats, some of them lost."""
    told: list[tuple[int, tuple[Trade, ...]]] = [(ts, ()) for ts in range(start, end + HEARTBEAT_NS + 1, HEARTBEAT_NS)]
    for one in trades:
        if start <= one.ts < end and one.number not in without:
            side = "buy" if one.bought else "sell"
            trade = Trade(trade_id=str(one.number), ts_event=one.ts, price=one.price, size=one.size, side=side)
            told.append((one.ts, (trade,)))
    return [
        Trades(**COINBASE, ts_event=ts, ts_recv=ts, line="coinbase/0", trades=batch)
        for ts, batch in sorted(told, key=lambda each: each[0])
    ]


def test_an_outage_is_found_repaired_and_closed_and_what_the_venue_lacks_stays_open(
    road: Any, venue: Any, wait_for: Callable[..., Any]
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
    road.produce(instrument, *live(tape, first, first + 10 * MINUTE_NS))
    road.produce(*live(tape, second, end, frozenset({quiet, hidden})))
    closed = "SELECT count(*) FROM candles WHERE interval = '1m' AND start_ns >= %s"
    wait_for("the last live candle", lambda: road.rows(closed, end - MINUTE_NS)[0][0])
    printed = road.command("gaps", "scan", "--venue", "coinbase", "--rest-url", venue.url, exits=1)
    assert "3 repaired, 1 open" in printed, printed

    scanned = "SELECT channel, state, repaired_by, expected, received FROM gaps WHERE found_by = 'scan' ORDER BY 1, 4"
    wait_for("the ledger", lambda: len(road.rows(scanned)) == 4)
    lost = next(one.number for one in tape if one.ts >= first + 10 * MINUTE_NS)
    found = next(one.number for one in tape if one.ts >= second)
    assert road.rows(scanned) == [
        ("candles", "repaired", "rest_trades", None, None),
        ("trades", "repaired", "rest_trades", lost, found),
        ("trades", "repaired", "rest_trades", quiet, quiet + 1),
        ("trades", "open", None, hidden, hidden + 1),
    ]
    wanted = [one for one in tape if one.number != hidden]
    query = "SELECT trade_id::bigint, price, size FROM trades ORDER BY 1"
    assert road.rows(query) == [(one.number, Decimal(one.price), Decimal(one.size)) for one in wanted]

    minutes = "SELECT start_ns, valid, volume, trades FROM candles_latest WHERE interval = '1m' ORDER BY ts"
    assert road.rows(minutes) == [summed(wanted, start, MINUTE_NS) for start in range(first, end, MINUTE_NS)]
    longer = (
        "SELECT start_ns, valid, volume, trades FROM candles_latest WHERE interval = '15m' AND ts >= %s AND ts < %s"
    )
    quarter = 15 * MINUTE_NS
    whole = range(-(-first // quarter) * quarter, (now - 130 * MINUTE_NS) // quarter * quarter, quarter)
    times = [f"{start // SECOND_NS}" for start in (whole.start, whole.stop)]
    rolled = f"{longer.replace('%s', 'to_timestamp(%s)')} ORDER BY ts"
    wait_for("longer candles", lambda: all(row[1] for row in road.rows(rolled, *times)))
    assert road.rows(rolled, *times) == [summed(wanted, start, quarter) for start in whole]

    listed = " ".join(road.command("gaps", "list").split())
    assert "coinbase BTC-USD trades" in listed.replace("│ ", "").replace("┃ ", "")
    assert "does not tell all of it" in listed
    again = road.command("gaps", "scan", "--venue", "coinbase", "--rest-url", venue.url, exits=1)
    assert "0 new gaps" in again
    assert "0 repaired, 1 open, 0 longer" in again


def summed(trades: list[TapeTrade], start: int, length: int) -> tuple[Any, ...]:
    """Return start, validity, volume and number of trades of a candle."""
    inside = [one for one in trades if start <= one.ts < start + length]
    return start, True, sum((Decimal(one.size) for one in inside), Decimal(0)), len(inside)
