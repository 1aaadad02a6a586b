"""A real producer is killed again and again under the load of the simulated exchange: no trade is lost silently.

The exchange's own record, what is in md.ingest.trades and what is on md.ingest.status are compared.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from infra.local.settings import free_port
from infra.local.table import Endpoints
from marketdata.codec import Codec
from marketdata.events import FeedStatus, Trades
from runtime.settings import CommonSettings
from tests.producers.process import Process, all_messages
from tests.waiting import WAIT_S, wait_for

ROOT = Path(__file__).resolve().parents[2]
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
ORDERS_PER_S = 300


@contextmanager
def exchange() -> Iterator[tuple[dict[str, str], httpx.Client]]:
    """Run the simulated exchange; yields the producer's settings for it, and a client of its control port."""
    port, control = free_port(), free_port()
    own = {"TICKSTREAM_EXCHANGE_PORT": str(port), "TICKSTREAM_EXCHANGE_CONTROL_PORT": str(control),
           "TICKSTREAM_EXCHANGE_RATE": str(ORDERS_PER_S), "COINBASE_PRODUCTS": ",".join(SYMBOLS)}  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "infra.simulator"], cwd=ROOT, env=os.environ | own,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{control}", trust_env=False, timeout=30) as client:
            wait_for("the exchange", lambda: client.get("/healthz").is_success)
            yield {"COINBASE_WS_URL": f"ws://127.0.0.1:{port}", "COINBASE_REST_URL": str(client.base_url),
                   "COINBASE_PRODUCTS": ",".join(SYMBOLS)}, client  # fmt: skip
    finally:
        process.kill()
        process.wait()


def read(settings: CommonSettings, codec: Codec) -> tuple[dict[str, list[Trades]], dict[str, FeedStatus]]:
    """Return the trades events of each symbol in order, and the gaps that are open."""
    messages = all_messages(settings)
    trades: dict[str, list[Trades]] = {symbol: [] for symbol in SYMBOLS}
    for message in messages["Trades"]:
        event = codec.decode(message.value() or b"")
        assert isinstance(event, Trades)
        trades[event.symbol].append(event)
    gaps: dict[str, FeedStatus] = {}
    for message in messages["FeedStatus"]:
        event = codec.decode(message.value() or b"")
        if isinstance(event, FeedStatus) and event.gap_id is not None:
            if event.kind == "gap":
                gaps[event.gap_id] = event
            elif event.kind == "resynced":
                gaps.pop(event.gap_id, None)
    return trades, gaps


def is_under_load(process: Process) -> bool:
    """Return whether a producer has handed over a hundred records of trades."""
    for line in process.get("/metrics")[1].splitlines():
        if line.startswith('tickstream_produced_total{topic="') and ".md.ingest.trades" in line.partition(" ")[0]:
            return float(line.rpartition(" ")[2]) > 100
    return False


def covers(gap: FeedStatus, number: int, ts: int) -> bool:
    """Return whether a gap is about a trade."""
    if gap.expected is not None and gap.received is not None:
        return gap.expected <= number < gap.received
    return gap.ts_from is not None and gap.ts_from <= ts and (gap.ts_to is None or ts <= gap.ts_to)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_every_trade_is_published_or_in_an_open_gap(
    settings: CommonSettings, endpoints: Endpoints, codec: Codec, how: signal.Signals
) -> None:
    """And no event is valid up to which a trade is missing, that no event before said to be missing for good."""
    with exchange() as (addresses, client):
        environment = endpoints.environment() | addresses | {"TICKSTREAM_TOPIC_PREFIX": settings.topic_prefix}
        for _ in range(3):
            process = Process(environment)
            try:
                wait_for("trades under load", partial(is_under_load, process))
            finally:
                process.process.send_signal(how)
                process.process.communicate(timeout=WAIT_S)
        process = Process(environment)
        try:
            wait_for("trades after the last start", partial(is_under_load, process))
            client.put("/rate", json={"events_per_s": 0}).raise_for_status()
            record = {symbol: recorded(client, symbol) for symbol in SYMBOLS}
            wait_for("the last trades", lambda: all(
                any(trade.trade_id == str(max(record[symbol])) for event in events for trade in event.trades)
                for symbol, events in read(settings, codec)[0].items()
            ))  # fmt: skip
            wait_for("the gaps' end", lambda: not any(
                gap.channel is None for gap in read(settings, codec)[1].values()
            ))  # fmt: skip
        finally:
            process.process.kill()
            process.process.communicate()
    trades, gaps = read(settings, codec)
    for symbol, events in trades.items():
        published = {int(trade.trade_id) for event in events for trade in event.trades}
        first = min(published)
        missing = {number: ts for number, ts in record[symbol].items() if number > first and number not in published}
        mine = [gap for gap in gaps.values() if gap.symbol == symbol]
        assert all(any(covers(gap, number, ts) for gap in mine) for number, ts in missing.items()), (missing, mine)
        check_validity(events, set(missing))


def check_validity(events: list[Trades], lost: set[int]) -> None:
    """Every trade up to a valid event is in the stream by then, but for those that stay lost."""
    known: set[int] = set()
    interrupted = 0
    for event in events:
        known.update(int(trade.trade_id) for trade in event.trades)
        if event.origin == "live" and event.valid and known:
            absent = set(range(min(known), max(known) + 1)) - known - lost
            assert not absent, (event, absent)
        interrupted += not event.valid
    assert interrupted >= 3, "each start says that trades may be missing"


def recorded(client: httpx.Client, symbol: str) -> dict[int, int]:
    """Return the time of each trade that the exchange made, by number."""
    found: dict[int, int] = {}
    while True:
        since = max(found, default=-1) + 1
        answer = client.get(f"/record/{symbol}/trades", params={"since": since}).raise_for_status().json()
        if not answer["trades"]:
            return found
        found |= {int(number): ts for number, ts, *_ in answer["trades"]}
