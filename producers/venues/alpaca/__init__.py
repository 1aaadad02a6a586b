"""Alpaca: its addresses and limits, and what makes its feed and its history.

An account has one connection, and on a free plan 30 symbols of trades and quotes on it ("Real-time Stock Pricing Data",
https://alpaca.markets/docs/api-references/market-data-api/stock-pricing-data/realtime/): more products cannot be spread
over connections, and the venue refuses them with code 405.
"""

from __future__ import annotations

from producers.venues.alpaca.feed import AlpacaFeed
from producers.venues.alpaca.history import AlpacaHistory
from producers.venues.alpaca.login import AlpacaSettings, handshake, login
from producers.venues.kit.backoff import Policy
from producers.venues.kit.venue import Venue

STREAMS = "wss://stream.data.alpaca.markets/v2"

VENUES = (
    Venue(
        name="alpaca",
        ws_url=f"{STREAMS}/iex",
        rest_url="https://data.alpaca.markets",
        make=AlpacaFeed,
        amends_trades=AlpacaFeed.amends_trades,
        products=("AAPL", "MSFT"),
        markets={feed: f"{STREAMS}/{feed}" for feed in ("iex", "sip", "delayed_sip", "test")},
        depth="L1",
        key="required",
        ping_s=20.0,
        backoff=Policy(base_s=5.0, cap_s=300.0, least_s=5.0, tries_max=10),
        marks_trades=True,
        history=AlpacaHistory,
        channels=AlpacaFeed.channels,
        mute_s=None,
        settings=AlpacaSettings,
        login=login,
        handshake=handshake,
    ),
)
