"""Gemini: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.gemini.feed import GeminiFeed
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="gemini",
        ws_url="wss://api.gemini.com/v2/marketdata",
        rest_url="https://api.gemini.com",
        trades_channel="trade",
        make=GeminiFeed,
        products=("BTCUSD", "ETHUSD"),
    ),
)
