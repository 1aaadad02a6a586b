"""OKX: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.kit.venue import Venue
from producers.venues.okx.feed import OkxFeed
from producers.venues.okx.feed_2022 import OkxFeed2022
from producers.venues.okx.history import OkxHistory

VENUES = (
    Venue(
        name="okx",
        ws_url="wss://ws.okx.com:8443/ws/v5/public",
        rest_url="https://www.okx.com",
        make=OkxFeed,
        history=OkxHistory,
        make_recorded=OkxFeed2022,
        channels=OkxFeed.channels,
        limits=OkxFeed.limits,
        products=("BTC-USDT", "ETH-USDT"),
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
        sequence="product",
        sequence_scope=OkxFeed.sequence_scope,
        numbers_trades=True,
        checksum=True,
    ),
)
