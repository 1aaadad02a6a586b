"""Bybit: its addresses and limits, and what makes its feeds and its history.

Documents: Bybit API v5, "Connect", https://bybit-exchange.github.io/docs/v5/ws/connect, and "Rate Limit",
https://bybit-exchange.github.io/docs/v5/rate-limit: an address may make 600 REST requests in 5 seconds; half is used.
"""

from __future__ import annotations

from producers.venues.bybit.feed import LIMITS, BybitFeed
from producers.venues.bybit.feed_mixed import MixedFeed
from producers.venues.bybit.history import BybitHistory
from producers.venues.bybit.names import INVERSE, LINEAR, SPOT, VENUE
from producers.venues.kit.history import Budget
from producers.venues.kit.venue import Venue

_PUBLIC = "wss://stream.bybit.com/v5/public"

VENUES = (
    Venue(
        name=VENUE,
        ws_url=f"{_PUBLIC}/{SPOT}",
        rest_url="https://api.bybit.com",
        trades_channel="publicTrade",
        make=BybitFeed,
        make_of_market=BybitFeed,
        make_recorded=MixedFeed,
        marks_trades=True,
        derivatives=(
            "mark_price",
            "index_price",
            "open_interest",
            "open_interest_value",
            "funding_rate",
            "next_funding_ts",
            "funding_interval",
            "liquidations",
        ),
        history=BybitHistory,
        products=("BTCUSDT", "ETHUSDT"),
        markets={market: f"{_PUBLIC}/{market}" for market in (SPOT, LINEAR, INVERSE)},
        sequence="product",
        sequence_scope=BybitFeed.sequence_scope,
        channels=("orderbook.200", "publicTrade", "tickers", "allLiquidation"),
        limits=LIMITS,
        budget=Budget(burst=300, per_s=60),
    ),
)
