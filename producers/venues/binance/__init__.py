"""Binance's markets: their addresses and limits, and what makes their feeds and histories."""

from __future__ import annotations

from producers.venues.binance import spot, usdm
from producers.venues.kit.budget import used_weight
from producers.venues.kit.history import Budget
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="binance_spot",
        ws_url="wss://stream.binance.com:9443/stream",
        rest_url="https://api.binance.com",
        make=spot.make,
        products=("BTCUSDT", "ETHUSDT"),
        lifetime_s=23 * 3600,  # of 24 hours
        budget=Budget(burst=3_000, per_s=50, left=used_weight(6_000)),
        sequence="product",
        numbers_trades=True,
        history=spot.make_history,
    ),
    Venue(
        name="binance_usdm",
        ws_url="wss://fstream.binance.com/stream",
        rest_url="https://fapi.binance.com",
        make=usdm.make,
        products=("BTCUSDT", "ETHUSDT"),
        lifetime_s=23 * 3600,  # of 24 hours
        budget=Budget(burst=1_200, per_s=20, left=used_weight(2_400)),
        sequence="product",
        numbers_trades=True,
        history=usdm.make_history,
    ),
)
