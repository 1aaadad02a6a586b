"""Bitfinex: its addresses and limits, and what makes its feed and its history.

Source of both: "Public Channels", https://docs.bitfinex.com/docs/ws-public: 25 channels on one connection, 20 new
connections a minute.
"""

from __future__ import annotations

from producers.venues.bitfinex.feed import BitfinexFeed
from producers.venues.bitfinex.history import BitfinexHistory
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="bitfinex",
        ws_url="wss://api-pub.bitfinex.com/ws/2",
        rest_url="https://api-pub.bitfinex.com",
        make=BitfinexFeed,
        channels=BitfinexFeed.channels,
        limits=BitfinexFeed.limits,
        products=("tBTCUSD", "tETHUSD"),
        cased=True,
        sequence="connection",
        checksum=True,
        derivatives=(
            "mark_price",
            "index_price",
            "open_interest",
            "funding_rate",
            "next_funding_ts",
            "predicted_funding_rate",
            "funding_interval",
            "liquidations",
        ),
        history=BitfinexHistory,
    ),
)
