"""Binance USD-margined futures: trades, best bid and offer, and books from chained diffs and REST snapshots.

Theory of operation: that of `producers.venues.binance.feed`, with these steps of the futures market's own ("USDⓈ-M
Futures, Websocket Market Streams", "How to manage a local order book correctly").

1. Streams: `<symbol>@aggTrade` (executions of one taker order at one price, in one; the stream `trade` is not
   documented, but read where it is recorded), `<symbol>@bookTicker`, `<symbol>@depth@100ms`.
2. Diffs carry `pu`, the `u` of the diff before. Update ids are not contiguous: only `pu` reveals a loss. Snapshot
   `GET /fapi/v1/depth`: drop diffs with `u` < `lastUpdateId`, the first one kept has `U` <= `lastUpdateId` <= `u`;
   afterwards each `pu` is the `u` before. We take `pu` <= `lastUpdateId` for the first: since nothing lies between
   `pu` and `U`, it lets through each snapshot that the rule does, and also one from between two diffs, which on a
   quiet symbol is the usual one.
3. A snapshot of 1,000 levels weighs 20 of the 2,400 that an address may spend in a minute; half of that is used.
4. Perpetuals are named BTCUSDT, futures with a delivery date BTCUSDT_240927.
"""

from __future__ import annotations

from producers.venues.binance.feed import BinanceFeed, Market
from producers.venues.binance.history import BinanceHistory, Weights
from producers.venues.kit.history import Access
from producers.venues.kit.venue import Signer

MARKET = Market(
    venue="binance_usdm",
    kind="perpetual",
    streams=("aggTrade", "bookTicker", "depth@100ms"),
    names_previous=True,
    rest="fapi/v1",
    depth_limit=1_000,
    depth_weight=20,
    products_weight=1,
    trades_weight=5,
    agg_trades_weight=20,
    weight_per_minute=1_200,
)


def make(*, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> BinanceFeed:  # noqa: ARG001 - nothing is signed
    """Return a feed of the futures market."""
    return BinanceFeed(MARKET, line=line, products=products)


def make_history(access: Access) -> BinanceHistory:
    """Return the adapter of this market's history."""
    return BinanceHistory(MARKET, Weights(candles=5, trades=20), access)
