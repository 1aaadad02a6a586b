"""Gemini: its addresses and limits, and what makes its feed and its history.

Sources: "WebSocket API", https://developer.gemini.com/websocket/introduction, for the address; any other GEMINI_WS_URL
needs its parameter `snapshot=-1` too. "Rate Limits", https://developer.gemini.com/rate-limit, for REST: 120 requests a
minute, no more than one a second recommended.
"""

from __future__ import annotations

from producers.venues.gemini.feed import GeminiFeed
from producers.venues.gemini.feed_v2 import GeminiFeedV2
from producers.venues.gemini.history import GeminiHistory
from producers.venues.kit.history import Budget
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="gemini",
        ws_url="wss://ws.gemini.com?snapshot=-1",
        rest_url="https://api.gemini.com",
        trades_channel="trade",
        make=GeminiFeed,
        history=GeminiHistory,
        make_recorded=GeminiFeedV2,
        channels=GeminiFeed.channels,
        limits=GeminiFeed.limits,
        products=("BTCUSD", "ETHUSD"),
        marks_trades=True,
        sequence="product",
        budget=Budget(burst=5, per_s=1),
    ),
)
