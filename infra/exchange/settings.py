"""Settings of the simulated exchange."""

from __future__ import annotations

import msgspec
from pydantic import Field

from infra.exchange.faults import Fault
from infra.exchange.market import SYMBOLS_MAX, symbols_of
from marketdata.errors import SettingsError
from runtime.settings import CommonSettings

RATE_MAX = 100_000


class ExchangeSettings(CommonSettings):
    """What can be chosen of the simulated exchange."""

    exchange_port: int = Field(default=18765, ge=0, le=65535, description="Port of the WebSocket; 0 takes a free one.")
    exchange_control_port: int = Field(
        default=18766, ge=0, le=65535, description="Port of REST, faults, health and metrics; 0 takes a free one."
    )
    exchange_rate: float = Field(
        default=100.0, ge=0, le=RATE_MAX, description="Orders entered a second, all products together; 0 is none."
    )
    exchange_seed: int = Field(default=1, description="Seed of the order flow.")
    exchange_batch_ms: int = Field(
        default=50, ge=1, le=60_000, description="Trades and tickers go out this often; the venue itself takes 250 ms."
    )
    exchange_book_batch_ms: int = Field(
        default=50,
        ge=0,
        le=60_000,
        description="A book's changes go out at most this often, as at the venue; 0 is at once.",
    )
    exchange_symbols: int | None = Field(
        default=None,
        ge=1,
        le=SYMBOLS_MAX,
        description="Number of products, in place of those that COINBASE_PRODUCTS lists.",
    )
    exchange_faults: str = Field(default="[]", description="JSON array of faults to begin with, as POST /faults takes.")
    products: str = Field(
        default="BTC-USD,ETH-USD", validation_alias="COINBASE_PRODUCTS", description="Products, by comma."
    )

    alpaca_symbols: str = Field(
        default="AAPL,MSFT,SPY", validation_alias="ALPACA_SYMBOLS", description="Tickers of Alpaca's, by comma."
    )

    @property
    def tickers(self) -> tuple[str, ...]:
        """Return the tickers of the simulated Alpaca, each once.

        Raises SettingsError when there are none.
        """
        tickers = tuple(dict.fromkeys(part.strip().upper() for part in self.alpaca_symbols.split(",") if part.strip()))
        if not tickers:
            raise SettingsError("ALPACA_SYMBOLS: name at least one ticker, such as AAPL")
        return tickers

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return the products' symbols, each once.

        Raises SettingsError when there are none.
        """
        if self.exchange_symbols is not None:
            return symbols_of(self.exchange_symbols)
        symbols = tuple(dict.fromkeys(part.strip() for part in self.products.split(",") if part.strip()))
        if not symbols:
            raise SettingsError("COINBASE_PRODUCTS: name at least one product, such as BTC-USD")
        return symbols

    @property
    def faults(self) -> list[Fault]:
        """Return the faults to begin with.

        Raises SettingsError when they cannot be read.
        """
        try:
            return msgspec.json.decode(self.exchange_faults.encode(), type=list[Fault])
        except msgspec.MsgspecError as error:
            raise SettingsError(f"TICKSTREAM_EXCHANGE_FAULTS: {error}") from None
