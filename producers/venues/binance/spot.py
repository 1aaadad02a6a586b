"""Binance spot: trades, best bid and offer, and books from diffs and REST snapshots.

Theory of operation: that of `producers.venues.binance.feed`, with these steps of the spot market's own ("WebSocket
Streams for Binance", "How to manage a local order book correctly", "Market Data endpoints").

1. Streams: `<symbol>@trade`, whose ids have no gaps, `<symbol>@bookTicker`, `<symbol>@depth@100ms`.
2. Diffs carry `U` and `u`, the first and last update id. Snapshot `GET /api/v3/depth`: drop diffs with `u` <=
   `lastUpdateId`, the first one kept has `U` <= `lastUpdateId` + 1 <= `u`; afterwards `U` > local + 1 is a loss and
   `u` <= local is old.
3. A snapshot of 5,000 levels weighs 250 of the 6,000 that an address may spend in a minute. Half of that is used, so
   that a restart, or another line of the same address, still finds some.
"""

from __future__ import annotations

from producers.venues.binance.feed import BinanceFeed, Market
from producers.venues.binance.history import BinanceHistory, Weights
from producers.venues.kit.history import Access
from producers.venues.kit.venue import Signer

MARKET = Market(
    venue="binance_spot",
    kind="spot",
    streams=("trade", "bookTicker", "depth@100ms"),
    names_previous=False,
    rest="api/v3",
    depth_limit=5_000,
    depth_weight=250,
    products_weight=20,
    trades_weight=25,
    agg_trades_weight=4,
    weight_per_minute=3_000,
)


def make(*, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> BinanceFeed:  # noqa: ARG001 - nothing is signed
    """Return a feed of the spot market."""
    return BinanceFeed(MARKET, line=line, products=products)


def make_history(access: Access) -> BinanceHistory:
    """Return the adapter of this market's history."""
    return BinanceHistory(MARKET, Weights(candles=2, trades=25), access)
