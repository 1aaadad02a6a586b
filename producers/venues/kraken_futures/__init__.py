"""Kraken Futures: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.kit.venue import Venue
from producers.venues.kraken_futures.feed import LIMITS, KrakenFuturesFeed
from producers.venues.kraken_futures.history import KrakenFuturesHistory

VENUES = (
    Venue(
        name="kraken_futures",
        ws_url="wss://futures.kraken.com/ws/v1",
        rest_url="https://futures.kraken.com",
        trades_channel="trade",
        make=KrakenFuturesFeed,
        history=KrakenFuturesHistory,
        products=("PI_XBTUSD", "PI_ETHUSD"),
        marks_trades=True,
        derivatives=(
            "mark_price",
            "index_price",
            "open_interest",
            "funding_rate",
            "next_funding_ts",
            "predicted_funding_rate",
            "liquidations",
        ),
        sequence="product",
        channels=KrakenFuturesFeed.channels,
        limits=LIMITS,
    ),
)
