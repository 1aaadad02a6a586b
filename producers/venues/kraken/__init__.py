"""Kraken spot: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.kit.venue import Venue
from producers.venues.kraken.feed import LIMITS, KrakenFeed
from producers.venues.kraken.history import KrakenHistory
from producers.venues.kraken.recorded import RecordedKraken

VENUES = (
    Venue(
        name="kraken",
        ws_url="wss://ws.kraken.com/v2",
        rest_url="https://api.kraken.com",
        trades_channel="trade",
        make=KrakenFeed,
        make_recorded=RecordedKraken,
        products=("BTC/USD", "ETH/USD"),
        cased=True,
        numbers_trades=True,
        checksum=True,
        channels=KrakenFeed.channels,
        limits=LIMITS,
        history=KrakenHistory,
    ),
)
