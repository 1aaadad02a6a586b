"""What the tests of both clients publish of one symbol: candles and their trades, metrics, quotes and derivatives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from marketdata import topics
from marketdata.events import BookUpdate, Candle, Derivative, Instrument, Liquidation, Metrics, Quote, Trade, Trades

MINUTE_NS = 60_000_000_000
VENUES = ("coinbase", "kraken")
# Within the retention of every topic, and long over.
START = (time.time_ns() // MINUTE_NS - 10) * MINUTE_NS


def publish(platform: Any, symbol: str, venues: tuple[str, ...] = VENUES) -> None:
    """Publish the market and wait until its trades and candles are stored."""
    base, _, quote = symbol.partition("-")
    platform.publish(
        topics.INSTRUMENTS,
        *(
            Instrument(
                venue=venue, symbol=symbol, ts_recv=START, venue_symbol=symbol, base_currency=base, quote_currency=quote
            )
            for venue in venues
        ),
    )
    for venue, bid, ask in zip(VENUES, ("99.50", "100.00"), ("101.00", "102.50"), strict=True):
        if venue in venues:
            platform.publish(topics.QUOTES, _quote(venue, symbol, bid, ask))
    platform.publish(topics.BOOK_UPDATES, _book(symbol))
    platform.publish(topics.TRADES, _trades(symbol))
    platform.publish(topics.CANDLES, _candle(symbol), _bar(symbol))
    platform.publish(topics.METRICS, _metrics(symbol))
    platform.publish(topics.DERIVATIVES, *_derivatives(symbol))
    platform.wait_rows("trades", symbol, 3)
    platform.wait_rows("candles", symbol, 2)
    platform.wait_rows("derivatives", symbol, 2)


def examples(readme: Path, language: str, url: str, symbol: str) -> list[str]:
    """Return the code of a README, with the test's API and symbol in place of its own."""
    blocks = readme.read_text().split(f"```{language}\n")[1:]
    code = [block.split("```", maxsplit=1)[0] for block in blocks]
    return [each.replace("http://127.0.0.1:8080", url).replace("BTC-USD", symbol) for each in code]


def _book(symbol: str) -> BookUpdate:
    now = time.time_ns()
    return BookUpdate(
        venue=VENUES[0], symbol=symbol, ts_event=now, ts_recv=now, line="coinbase/0", kind="snapshot",
        bid_prices=["99.50"], bid_sizes=["1"], ask_prices=["101.00"], ask_sizes=["2"],
    )  # fmt: skip


def _quote(venue: str, symbol: str, bid: str, ask: str) -> Quote:
    now = time.time_ns()
    return Quote(
        venue=venue, symbol=symbol, ts_event=now, ts_recv=now, line=f"{venue}/0",
        bid=bid, bid_size="1", ask=ask, ask_size="2",
    )  # fmt: skip


def _trades(symbol: str) -> Trades:
    trades = (
        Trade(trade_id="1", ts_event=START + 1_000, price="100.00", size="0.50", side="buy"),
        Trade(trade_id="2", ts_event=START + 2_000, price="101.00", size="0.25", side="sell"),
        Trade(
            trade_id="3", ts_event=START + 3_000, price="1.00", size="9", side="sell", conditions=("INSURANCE_FUND",),
            excluded_from=("volume", "high_low", "open_close"),
        ),
    )  # fmt: skip
    return Trades(
        venue=VENUES[0], symbol=symbol, ts_event=START + 3_000, ts_recv=START + 4_000, line="coinbase/0", trades=trades
    )


def _candle(symbol: str) -> Candle:
    return Candle(
        venue=VENUES[0], symbol=symbol, interval="1m", start=START, end=START + MINUTE_NS, ts_event=START + MINUTE_NS,
        ts_recv=START + MINUTE_NS, open="100.00", high="101.00", low="100.00", close="101.00", volume="0.75",
        quote_volume="75.25", buy_volume="0.50", trades=2, state="final",
    )  # fmt: skip


def _bar(symbol: str) -> Candle:
    return Candle(
        venue=VENUES[0], symbol=symbol, interval="5s", start=START, end=START + 5_000_000_000,
        ts_event=START + 5_000_000_000, ts_recv=START + 5_000_000_000, open="100.00", high="101.00", low="100.00",
        close="101.00", volume="0.75", quote_volume="75.25", buy_volume="0.50", trades=2, state="final",
        recipe="five_seconds", recipe_hash="a1b2c3d4", vwap="100.333333333333333", sell_volume="0.25", buy_trades=1,
        sell_trades=1,
    )  # fmt: skip


def _metrics(symbol: str) -> Metrics:
    now = time.time_ns()
    return Metrics(
        venue=VENUES[0], symbol=symbol, ts_event=now, ts_recv=now, ts_from=now - 1_000_000_000, line="coinbase/0",
        valid=True, bid="99.50", bid_size="1", ask="101.00", ask_size="2", mid="100.25", spread="1.50",
        microprice="100.000000000000000", imbalance="-0.333333333333333333", depth_bps=["5"], bid_depths=["1"],
        ask_depths=["2"], order_flow="-1.5", changes=7, best_price_changes=2,
    )  # fmt: skip


def _derivatives(symbol: str) -> list[Derivative]:
    now = time.time_ns()
    closed = Liquidation(ts_event=now, side="sell", price="98.00", size="3")
    return [
        Derivative(
            venue=VENUES[0], symbol=symbol, ts_event=now, ts_recv=now, line="coinbase/0", mark_price="100.10",
            funding_rate="0.00010000",
        ),
        Derivative(
            venue=VENUES[0], symbol=symbol, ts_event=now + 1_000, ts_recv=now + 1_000, line="coinbase/0",
            mark_price="100.20", liquidations=(closed,),
        ),
    ]  # fmt: skip
