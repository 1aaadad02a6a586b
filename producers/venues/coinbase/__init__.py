"""Coinbase Advanced Trade: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.coinbase.feed import LIMITS, CoinbaseFeed
from producers.venues.coinbase.history import CoinbaseHistory
from producers.venues.coinbase.login import CoinbaseSettings, login
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="coinbase",
        ws_url="wss://advanced-trade-ws.coinbase.com",
        rest_url="https://api.coinbase.com",
        trades_channel="market_trades",
        make=CoinbaseFeed,
        products=("BTC-USD", "ETH-USD"),
        sequence="connection",
        numbers_trades=True,
        channels=CoinbaseFeed.channels,
        limits=LIMITS,
        key="optional",
        history=CoinbaseHistory,
        settings=CoinbaseSettings,
        login=login,
    ),
)
