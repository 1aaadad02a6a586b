"""Binance spot's history: that of `producers.history.binance`, with single trades (`historicalTrades`).

A page of klines weighs 2, one of 1,000 old trades 25 ("Market Data endpoints"); old trades go back to the first.
"""

from __future__ import annotations

from producers.feeds.binance_spot import MARKET, VENUE
from producers.history.binance import BinanceHistory, Weights
from producers.history.contract import Access


def make(access: Access) -> BinanceHistory:
    """Return the adapter."""
    return BinanceHistory(MARKET, Weights(candles=2, trades=25), VENUE.rest_url, access)
