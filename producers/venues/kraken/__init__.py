"""Kraken: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.kit.venue import Venue
from producers.venues.kraken.feed import KrakenFeed
from producers.venues.kraken.history import make as make_history

VENUES = (
    Venue(
        name="kraken",
        ws_url="wss://ws.kraken.com/v2",
        rest_url="https://api.kraken.com",
        trades_channel="trade",
        make=KrakenFeed,
        products=("BTC/USD", "ETH/USD"),
        numbers_trades=True,
        checksum=True,
        history=make_history,
    ),
)
