"""Explanations of candles over REST and on the command line, from rows in the real TimescaleDB."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.rest.models.candles import ExplanationAnswer
from infra.simulator import web
from infra.simulator.venues.history import Histories, create_app
from infra.simulator.venues.tape import TapeTrade
from marketdata.events import BookUpdate, Trade, Trades
from marketdata.topics import INGEST_TRADES
from tests.waiting import WAIT_S

ROOT = Path(__file__).parents[2]
MINUTE_NS = 60_000_000_000
BEGINS = (time.time_ns() // MINUTE_NS - 1_000) * MINUTE_NS
START = BEGINS + 2 * MINUTE_NS  # a minute of five trades
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def history() -> Iterator[tuple[str, Histories]]:
    """A venue's REST history, served on a real port."""
    venue, found = Histories(BEGINS), []
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with web.serve(create_app(venue), "127.0.0.1", 0) as port:
            found.append(f"http://127.0.0.1:{port}")
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="history")
    thread.start()
    assert started.wait(WAIT_S)
    yield found[0], venue
    loop.call_soon_threadsafe(stop.set)
    thread.join(WAIT_S)
    loop.close()


def moment(ns: int) -> datetime:
    """Return nanoseconds as the database has them."""
    return EPOCH + timedelta(microseconds=ns // 1000)


def stamp(ns: int) -> str:
    """Return nanoseconds as requests have them."""
    return moment(ns).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def store(stage: Any, symbol: str, trades: list[TapeTrade], volume: str | None = None) -> None:
    """Store trades, the minute that they make, a late trade with its dead letter, a cancelled one, and a gap."""
    late = Trade(trade_id="late", ts_event=START + 1, price="1", size="1", side="buy")
    rows = [(str(one.number), one.ts, one.price, one.size, "buy" if one.bought else "sell") for one in trades]
    rows += [("late", late.ts_event, late.price, late.size, late.side), ("gone", START + 2, "9999", "1", "buy")]
    insert = (
        "INSERT INTO trades (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, item, valid, reason, "
        "liquidation, price, size, side, action, trade_id, venue, symbol, line, origin) VALUES "
        "(%s, %s, %s, %s, 0, 0, true, '', false, %s, %s, %s, %s, %s, 'coinbase', %s, 'coinbase/0', 'live')"
    )
    stage.execute(
        insert,
        (
            (moment(ts), ts, ts, place, price, size, side, "new", identity, symbol)
            for place, (identity, ts, price, size, side) in enumerate(rows)
        ),
    )
    at = START + MINUTE_NS + 5
    stage.execute(insert, [(moment(at), at, at, 99, "9999", "1", "buy", "cancel", "gone", symbol)])
    letter = Trades(venue="coinbase", symbol=symbol, ts_event=at, ts_recv=at, line="coinbase/0", trades=(late,))
    stage.execute(
        "INSERT INTO dead_letters (ts, ts_recv_ns, kafka_offset, kafka_partition, venue, symbol, stage, reason, "
        "detail, line, payload) VALUES (%s, %s, 1, 0, 'coinbase', %s, 'candles', 'late', '', 'coinbase/0', %s)",
        [(moment(at), at, symbol, msgspec.json.encode(letter))],
    )
    stage.execute(
        "INSERT INTO gaps (gap_id, venue, symbol, line, reason, detail, state, ts_from_ns, ts_to_ns, found_by, "
        "detected_at) VALUES (%s, 'coinbase', %s, 'coinbase/0', 'gap', '', 'open', %s, %s, 'feed', now())",
        [(f"{symbol}-gap", symbol, START + 3, START + 4)],
    )
    prices, sizes = [float(one.price) for one in trades], [one.size for one in trades]
    made = sum(map(Decimal, sizes), Decimal(0))
    quote = sum((Decimal(one.price) * Decimal(one.size) for one in trades), Decimal(0))
    bought = sum((Decimal(one.size) for one in trades if one.bought), Decimal(0))
    for revision in (0, 1):
        stage.execute(
            "INSERT INTO candles (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, ts_end, start_ns, "
            "end_ns, trades, revision, valid, reason, state, interval, open, high, low, close, volume, quote_volume, "
            "buy_volume, venue, symbol, origin) VALUES (%s, %s, %s, %s, 0, %s, %s, %s, %s, %s, true, '', %s, '1m', %s, "
            "%s, %s, %s, %s, %s, %s, 'coinbase', %s, 'live')",
            [
                (
                    moment(START), at, at + revision, revision, moment(START + MINUTE_NS), START, START + MINUTE_NS,
                    len(trades), revision, "revised" if revision else "final", trades[0].price, str(max(prices)),
                    str(min(prices)), trades[-1].price, volume or str(made), str(quote), str(bought), symbol,
                )
            ],
        )  # fmt: skip


def command(stage: Any, *args: str, exits: int = 0, **env: str) -> str:
    """Run `tickstream explain candle` as a person does, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tickstream", "explain", "candle", *args],
        env=stage.env | {"COLUMNS": "200"} | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == exits, done.stderr
    return done.stderr if exits else done.stdout


def test_a_candle_is_explained_over_rest_and_on_the_command_line(
    shared: Any, symbol: str, wait_for: Any, history: tuple[str, Histories]
) -> None:
    """The same answer from both: what counted, what did not, revisions, gaps; the command also has the venue's bar."""
    url, venue = history
    trades = venue.trades(START, START + MINUTE_NS)
    store(shared, symbol, trades)
    shared.produce(
        BookUpdate(venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=START, ts_recv=time.time_ns(),
                   kind="snapshot", bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"])
    )  # fmt: skip
    wait_for("the symbol", lambda: shared.client.get(f"/api/v1/market/{symbol}/ticker").status_code == 200)
    path = f"/api/v1/market/{symbol}/candles/explain"
    answer = shared.get(path, interval="1m", start=stamp(START))
    ExplanationAnswer.model_validate(answer)
    assert (answer["verdict"], answer["differences"]) == ("equal", []), answer["summary"]
    assert [item["trade_id"] for item in answer["counted"]["items"]] == [str(one.number) for one in trades]
    assert answer["left_out"]["by_reason"] == {"late": 1, "cancelled": 1}
    assert [one["revision"] for one in answer["revisions"]] == [0, 1]
    assert [gap["gap_id"] for gap in answer["gaps"]] == [f"{symbol}-gap"]
    assert (answer["venue_bar"], answer["duplicates_known"]) == (None, False)

    printed = json.loads(command(shared, symbol, "1m", stamp(START), "--json", "--limit", "1000"))
    assert printed == answer
    printed = json.loads(
        command(shared, symbol, "1m", stamp(START), "--json", "--venue-bar", TICKSTREAM_HISTORY_URL=url)
    )
    assert (printed["venue_bar"]["close"], printed["venue_differences"]) == (trades[-1].price, [])
    table = command(shared, symbol, "1m", stamp(START), "--venue", "coinbase")
    for text in ("equal", "Left out: 2 trades", "Counted: 5 trades", "cancelled", "late", f"gap {symbol}-gap"):
        assert text in table, table


def test_a_stored_candle_that_its_trades_do_not_make_says_where(shared: Any, symbol: str, history: Any) -> None:
    """Nobody has to trust it."""
    store(shared, symbol, history[1].trades(START, START + MINUTE_NS), volume="77")
    printed = json.loads(command(shared, symbol, "1m", stamp(START), "--json"))
    assert printed["verdict"] == "different"
    assert [(each["field"], each["stored"]) for each in printed["differences"]] == [("volume", "77")]


def test_duplicates_are_read_in_kafka(shared: Any, symbol: str, history: Any) -> None:
    """What two lines sent before duplicates were removed."""
    trades = history[1].trades(START, START + MINUTE_NS)
    store(shared, symbol, trades)
    first = Trade(trade_id=str(trades[0].number), ts_event=trades[0].ts, price=trades[0].price, size=trades[0].size,
                  side="buy")  # fmt: skip
    now = time.time_ns()
    shared.execute("UPDATE trades SET ts_recv_ns = %s WHERE symbol = %s", [(now, symbol)])
    for line in ("coinbase/0", "coinbase/1"):
        event = Trades(
            venue="coinbase", symbol=symbol, ts_event=first.ts_event, ts_recv=now, line=line, trades=(first,)
        )
        shared.producer.produce(
            INGEST_TRADES.physical(shared.prefix), key=event.key.encode(), value=shared.codec.encode(event)
        )
    assert shared.producer.flush(30) == 0
    printed = json.loads(command(shared, symbol, "1m", stamp(START), "--json", "--duplicates"))
    assert printed["duplicates_known"]
    assert printed["left_out"]["by_reason"]["duplicate"] == 1
    assert "line coinbase/1 sent it after line coinbase/0" in str(printed["left_out"]["items"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("1m", "2026-08-09T21:05:30Z"), "start = '2026-08-09T21:05:30"),
        (("tick:5", "2026-08-09T21:05:00Z"), "interval = 'tick:5'"),
        (("1m", "yesterday"), "START"),
        (("1m", "2026-08-09T21:05:00Z", "--venue", "nowhere"), "nothing is stored"),
        (("1m", "2026-08-09T21:05:00Z"), "SYMBOL"),
    ],
)
def test_the_command_names_what_is_wrong(shared: Any, args: tuple[str, ...], message: str) -> None:
    """In one line, without a traceback."""
    known = ("--venue", "coinbase") if message.startswith(("start", "interval")) else ()
    error = command(shared, "NONE-USD", *args, *known, exits=1)
    assert message in error
    assert "Traceback" not in error


def test_the_api_names_what_is_wrong(shared: Any, symbol: str, wait_for: Any) -> None:
    """A start at which no candle begins, and a candle of which nothing is stored."""
    shared.produce(
        BookUpdate(venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=START, ts_recv=time.time_ns(),
                   kind="snapshot", bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"])
    )  # fmt: skip
    path = f"/api/v1/market/{symbol}/candles/explain"
    wait_for("the symbol", lambda: shared.client.get(f"/api/v1/market/{symbol}/ticker").status_code == 200)
    (error,) = shared.get(path, 422, start="2026-08-09T21:05:30Z")["errors"]
    assert error["field"] == "start"
    assert "21:05:00" in error["message"]
    (error,) = shared.get(path, 422)["errors"]
    assert error["field"] == "start"
    assert "nothing is stored" in shared.get(path, 404, start="2026-08-09T21:05:00Z")["detail"]
