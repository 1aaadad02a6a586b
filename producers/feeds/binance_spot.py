"""Binance spot: trades, best bid and offer, and books from diffs and REST snapshots.

Theory of operation: that of `producers.families.binance`, with these steps of the spot market's own ("WebSocket
Streams for Binance", "How to manage a local order book correctly", "Market Data endpoints").

1. Streams: `<symbol>@trade`, whose ids have no gaps, `<symbol>@bookTicker`, `<symbol>@depth@100ms`.
2. Diffs carry `U` and `u`, the first and last update id. Snapshot `GET /api/v3/depth`: drop diffs with `u` <=
   `lastUpdateId`, the first one kept has `U` <= `lastUpdateId` + 1 <= `u`; afterwards `U` > local + 1 is a loss and
   `u` <= local is old.
3. A snapshot of 5,000 levels weighs 250 of the 6,000 that an address may spend in a minute. Half of that is used, so
   that a restart, or another line of the same address, still finds some.
"""

from __future__ import annotations

from producers.families.binance import BinanceFeed, Market
from producers.history.budget import used_weight
from producers.history.contract import Budget
from producers.venue import Signer, Venue

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


VENUE = Venue(
    name="binance_spot",
    ws_url="wss://stream.binance.com:9443/stream",
    rest_url="https://api.binance.com",
    make=make,
    products=("BTCUSDT", "ETHUSDT"),
    lifetime_s=23 * 3600,  # of 24 hours
    budget=Budget(burst=3_000, per_s=50, left=used_weight(6_000)),
    sequence="product",
    numbers_trades=True,
)
