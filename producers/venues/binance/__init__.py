"""Binance's markets: their addresses and limits, and what makes their feeds and histories.

Sources of the numbers: `markets` and `feed`.
"""

from __future__ import annotations

from functools import partial

from producers.venues.binance.feed import BinanceFeed
from producers.venues.binance.history import BinanceHistory
from producers.venues.binance.markets import SPOT, USDM
from producers.venues.binance.recorded import RecordedFeed
from producers.venues.binance.weight import used_weight
from producers.venues.kit.history import Budget
from producers.venues.kit.venue import Endpoint, Venue

_LIFETIME_S = 23 * 3600  # of 24 hours

VENUES = (
    Venue(
        name=SPOT.venue,
        ws_url="wss://stream.binance.com:9443/stream",
        rest_url="https://api.binance.com",
        trades_channel="trade",
        make=partial(BinanceFeed, SPOT),
        make_recorded=partial(RecordedFeed, SPOT),
        history=partial(BinanceHistory, SPOT),
        products=("BTCUSDT", "ETHUSDT"),
        channels=SPOT.channels,
        limits=SPOT.limits,
        lifetime_s=_LIFETIME_S,
        budget=Budget(burst=3_000, per_s=50, left=used_weight(6_000)),
        sequence="product",
        sequence_scope=BinanceFeed.sequence_scope,
        numbers_trades=True,
    ),
    Venue(
        name=USDM.venue,
        ws_url="wss://fstream.binance.com",
        rest_url="https://fapi.binance.com",
        trades_channel="trade",
        make=partial(BinanceFeed, USDM),
        make_recorded=partial(RecordedFeed, USDM),
        endpoints=(
            Endpoint(name="public", path="/public/stream", channels=USDM.public,
                     make=partial(BinanceFeed, USDM, channels=USDM.public)),
            Endpoint(name="market", path="/market/stream", channels=USDM.computed,
                     make=partial(BinanceFeed, USDM, channels=USDM.computed)),
        ),
        marks_trades=True,
        derivatives=("mark_price", "index_price", "open_interest", "funding_rate", "next_funding_ts", "liquidations"),
        history=partial(BinanceHistory, USDM),
        products=("BTCUSDT", "ETHUSDT"),
        channels=USDM.channels,
        limits=USDM.limits,
        lifetime_s=_LIFETIME_S,
        budget=Budget(burst=1_200, per_s=20, left=used_weight(2_400)),
        sequence="product",
        sequence_scope=BinanceFeed.sequence_scope,
        numbers_trades=True,
    ),
)  # fmt: skip
