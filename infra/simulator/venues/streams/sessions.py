"""The venues whose streams are simulated, each with its side of one connection."""

from __future__ import annotations

from infra.simulator.venues.streams.binance import SpotSession, UsdmSession
from infra.simulator.venues.streams.bitfinex import BitfinexSession
from infra.simulator.venues.streams.bybit import BybitSession
from infra.simulator.venues.streams.coinbase_exchange import CoinbaseExchangeSession
from infra.simulator.venues.streams.deribit import DeribitSession
from infra.simulator.venues.streams.gemini import GeminiSession
from infra.simulator.venues.streams.hyperliquid import HyperliquidSession
from infra.simulator.venues.streams.kraken import KrakenSession
from infra.simulator.venues.streams.kraken_futures import KrakenFuturesSession
from infra.simulator.venues.streams.okx import OkxSession
from infra.simulator.venues.streams.session import Session

SESSIONS: dict[str, type[Session]] = {
    "binance_spot": SpotSession,
    "binance_usdm": UsdmSession,
    "bitfinex": BitfinexSession,
    "bybit": BybitSession,
    "coinbase_exchange": CoinbaseExchangeSession,
    "deribit": DeribitSession,
    "gemini": GeminiSession,
    "hyperliquid": HyperliquidSession,
    "kraken": KrakenSession,
    "kraken_futures": KrakenFuturesSession,
    "okx": OkxSession,
}
