"""Settings of the simulated exchange."""

from __future__ import annotations

import msgspec
from pydantic import Field

from infra.simulator.faults import Fault
from infra.simulator.market import SYMBOLS_MAX, symbols_of
from marketdata.errors import SettingsError
from runtime.settings import CommonSettings

RATE_MAX = 100_000


class ExchangeSettings(CommonSettings):
    """The settings of the simulated exchange."""

    exchange_port: int = Field(default=18765, ge=0, le=65535, description="Port of the WebSocket; 0 takes a free one.")
    exchange_control_port: int = Field(
        default=18766, ge=0, le=65535, description="Port of REST, faults, health and metrics; 0 takes a free one."
    )
    exchange_rate: float = Field(
        default=100.0, ge=0, le=RATE_MAX, description="Orders per second over all products; 0 means none."
    )
    exchange_seed: int = Field(default=1, description="Seed of the order flow.")
    exchange_batch_ms: int = Field(
        default=50, ge=1, le=60_000, description="Interval of trades and tickers; the real venue uses 250 ms."
    )
    exchange_book_batch_ms: int = Field(
        default=50,
        ge=0,
        le=60_000,
        description="Least interval between two updates of a book, as at the venue; 0 sends them at once.",
    )
    exchange_symbols: int | None = Field(
        default=None,
        ge=1,
        le=SYMBOLS_MAX,
        description="Number of products, in place of those that COINBASE_PRODUCTS lists.",
    )
    exchange_faults: str = Field(default="[]", description="JSON array of initial faults, as in POST /faults.")
    products: str = Field(
        default="BTC-USD,ETH-USD", validation_alias="COINBASE_PRODUCTS", description="Products, separated by commas."
    )

    alpaca_symbols: str = Field(
        default="AAPL,MSFT,SPY", validation_alias="ALPACA_SYMBOLS", description="Alpaca's tickers, separated by commas."
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
        """Return the initial faults.

        Raises SettingsError when they are invalid.
        """
        try:
            return msgspec.json.decode(self.exchange_faults.encode(), type=list[Fault])
        except msgspec.MsgspecError as error:
            raise SettingsError(f"TICKSTREAM_EXCHANGE_FAULTS: {error}") from None
