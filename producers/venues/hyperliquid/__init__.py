"""Hyperliquid: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.hyperliquid.feed import HyperliquidFeed
from producers.venues.hyperliquid.history import HyperliquidHistory
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="hyperliquid",
        ws_url="wss://api.hyperliquid.xyz/ws",
        rest_url="https://api.hyperliquid.xyz",
        derivatives=("mark_price", "index_price", "open_interest", "funding_rate", "funding_interval"),
        make=HyperliquidFeed,
        history=HyperliquidHistory,
        channels=HyperliquidFeed.channels,
        limits=HyperliquidFeed.limits,
        products=("BTC", "ETH"),
        cased=True,
    ),
)
