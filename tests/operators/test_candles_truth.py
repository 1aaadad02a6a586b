"""Candles made from a day of recorded trades equal the recorded candles on every bar."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from pathlib import Path

import pytest
import zstandard

from marketdata.clock import MILLISECOND_NS
from marketdata.events import Candle, Trade, Trades
from marketdata.intervals import INTERVALS
from stream_apps.operators.candles import Candles

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"
pytestmark = pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are missing next to the project")

Bar = tuple[Decimal, ...]


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a compressed CSV file."""
    with (RECORDINGS / name).open("rb") as file:
        return list(csv.DictReader(io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file))))


def recorded_trades() -> list[Trades]:
    """Return the recorded trades, those of one millisecond as one frame."""
    frames: dict[int, list[Trade]] = {}
    for row in rows("xrp_eth_trades.csv.zst"):
        ts = int(row["timestamp"]) * MILLISECOND_NS
        trade = Trade(trade_id=row["id"], ts_event=ts, price=row["price"], size=row["amount"], side=row["side"])
        frames.setdefault(ts, []).append(trade)
    return [
        Trades(venue="v", symbol="XRP-ETH", ts_event=ts, ts_recv=ts, line="v/0", trades=tuple(trades))
        for ts, trades in frames.items()
    ]


@pytest.mark.parametrize("interval", ["1m", "5m"])
def test_candles_equal_the_recorded_ones_on_every_bar(interval: str) -> None:
    """Open, high, low, close and volume are equal, and there are exactly as many candles."""
    operator = Candles()
    state = operator.start("v:XRP-ETH")
    made: dict[int, Bar] = {}
    frames = recorded_trades()
    last = frames[-1].ts_event
    end = Trades(venue="v", symbol="XRP-ETH", ts_event=last + 2 * INTERVALS["1d"], ts_recv=last, line="v/0")
    for frame in [*frames, end]:
        state, outputs = operator.step(state, frame)
        for candle in outputs:
            if isinstance(candle, Candle) and candle.interval == interval and candle.state != "open" and candle.trades:
                prices = (candle.open, candle.high, candle.low, candle.close, candle.volume)
                made[candle.start] = tuple(Decimal(price or "NaN") for price in prices)
    expected = {
        int(row["date"].partition(".")[0]) * MILLISECOND_NS: tuple(
            Decimal(row[name]) for name in ("open", "high", "low", "close", "volume")
        )
        for row in rows(f"xrp_eth_candles_{interval}.csv.zst")
    }
    assert made == expected
