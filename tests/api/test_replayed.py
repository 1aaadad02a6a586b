"""A replay of an old recording is valid where it was valid, and a live platform without producers grows stale."""

from __future__ import annotations

import time
from typing import Any

from marketdata.events import BookUpdate, Trade, Trades

SECOND = 1_000_000_000
RECORDED = 1_600_000_000 * SECOND


def snapshot(venue: str, symbol: str, ts_recv: int) -> BookUpdate:
    """Return a book."""
    return BookUpdate(
        venue=venue, symbol=symbol, line=f"{venue}/0", ts_event=ts_recv, ts_recv=ts_recv, kind="snapshot",
        bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"],
    )  # fmt: skip


def trades(venue: str, symbol: str, ts_recv: int) -> Trades:
    """Return a trade."""
    one = Trade(trade_id="1", ts_event=ts_recv, price="1", size="1", side="buy")
    return Trades(venue=venue, symbol=symbol, line=f"{venue}/0", ts_event=ts_recv, ts_recv=ts_recv, trades=(one,))


def health(stage: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the status of each symbol."""
    return {(each["venue"], each["symbol"]): each for each in stage.get("/api/v1/status")["data"]["symbols"]}


def test_staleness_in_a_replay_follows_the_recorders_clock(stage: Any, wait_for: Any) -> None:
    """The book that the recording left behind is stale, the one at its end is not; a live one grows old meanwhile."""
    stage.start(TICKSTREAM_STALE_S="2")
    stage.ready()
    now = time.time_ns()
    stage.produce(
        snapshot("kraken", "QUIET-USD", RECORDED),
        snapshot("kraken", "BUSY-USD", RECORDED + 30 * SECOND),
        trades("kraken", "BUSY-USD", RECORDED + 30 * SECOND),
        t_recv=now,
    )
    stage.produce(snapshot("coinbase", "LIVE-USD", now), t_recv=now)
    keys = {("kraken", "QUIET-USD"), ("kraken", "BUSY-USD"), ("coinbase", "LIVE-USD")}
    wait_for("the books", lambda: keys <= health(stage).keys())
    wait_for("the live book to be stale", lambda: health(stage)["coinbase", "LIVE-USD"]["book_reason"] == "stale")
    found = health(stage)
    busy, quiet = found["kraken", "BUSY-USD"], found["kraken", "QUIET-USD"]
    assert (busy["valid"], busy["trades_valid"], busy["age_ms"]) == (True, True, 0)
    assert (quiet["book_valid"], quiet["book_reason"], quiet["age_ms"]) == (False, "stale", 30_000)
    assert stage.get("/api/v1/market/BUSY-USD/orderbook")["valid"]
    stage.produce(snapshot("kraken", "BUSY-USD", time.time_ns()), t_recv=time.time_ns())
    wait_for("what is live again to be stale", lambda: not health(stage)["kraken", "BUSY-USD"]["book_valid"])
