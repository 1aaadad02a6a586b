"""Deribit: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.deribit.feed import DeribitFeed
from producers.venues.deribit.history import DeribitHistory
from producers.venues.kit.history import Budget
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="deribit",
        ws_url="wss://www.deribit.com/ws/api/v2",
        rest_url="https://www.deribit.com/api/v2",
        make=DeribitFeed,
        history=DeribitHistory,
        channels=DeribitFeed.channels,
        limits=DeribitFeed.limits,
        products=("BTC-PERPETUAL", "ETH-PERPETUAL"),
        budget=Budget(burst=10, per_s=5),
        cased=True,
        marks_trades=True,
        derivatives=(
            "mark_price",
            "index_price",
            "open_interest",
            "funding_rate",
            "funding_interval",
            "delta",
            "gamma",
            "vega",
            "theta",
            "rho",
            "bid_iv",
            "ask_iv",
            "mark_iv",
            "underlying_price",
        ),
        sequence="product",
    ),
)
