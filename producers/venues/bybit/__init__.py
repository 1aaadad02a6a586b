"""Bybit: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.bybit.feed import make
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="bybit",
        ws_url="wss://stream.bybit.com/v5/public/spot",
        rest_url="https://api.bybit.com",
        make=make,
        products=("BTCUSDT", "ETHUSDT"),
        markets={
            "spot": "wss://stream.bybit.com/v5/public/spot",
            "linear": "wss://stream.bybit.com/v5/public/linear",
            "inverse": "wss://stream.bybit.com/v5/public/inverse",
        },
        markets_apart=True,
        sequence="product",
    ),
)
