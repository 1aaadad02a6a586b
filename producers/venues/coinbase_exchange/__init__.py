"""Coinbase Exchange: its addresses and limits, and what makes its feed and its history."""

from __future__ import annotations

from producers.venues.coinbase_exchange.feed import LIMITS, CoinbaseExchangeFeed
from producers.venues.coinbase_exchange.history import CoinbaseExchangeHistory
from producers.venues.coinbase_exchange.login import ExchangeSettings, login
from producers.venues.kit.history import Budget
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="coinbase_exchange",
        ws_url="wss://ws-feed.exchange.coinbase.com",
        rest_url="https://api.exchange.coinbase.com",
        trades_channel="matches",
        make=CoinbaseExchangeFeed,
        history=CoinbaseExchangeHistory,
        products=("BTC-USD", "ETH-USD"),
        sequence="product",
        sequence_scope=CoinbaseExchangeFeed.sequence_scope,
        numbers_trades=True,
        channels=("level2_batch", "matches", "ticker", "heartbeat"),
        limits=LIMITS,
        key="optional",  # for level2 and full
        depth="L3",
        budget=Budget(burst=15, per_s=10),  # public REST, per address ("REST Rate Limits Overview")
        settings=ExchangeSettings,
        login=login,
    ),
)
