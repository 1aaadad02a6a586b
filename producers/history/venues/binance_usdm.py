"""The history of Binance's USD-margined futures: that of `producers.history.binance`, with `aggTrades`.

A page of 1,000 klines weighs 5 and one of 1,500 weighs 10; a page of aggregated trades 20. Those of more than a year
ago are not told ("Compressed/Aggregate Trades List"), and insurance and ADL trades are not among them.
"""

from __future__ import annotations

from producers.feeds.binance_usdm import MARKET, VENUE
from producers.history.binance import BinanceHistory, Weights
from producers.history.contract import Access


def make(access: Access) -> BinanceHistory:
    """Return the adapter."""
    return BinanceHistory(MARKET, Weights(candles=5, trades=20), VENUE.rest_url, access)
