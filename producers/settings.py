"""Settings of the producer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from runtime.settings import CommonSettings


class ProducerSettings(CommonSettings):
    """What the producer needs beside what every service does."""

    metrics_port: int = Field(
        default=19101, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz of the producer."
    )
    venue: str = Field(default="coinbase", description="Venue to take market data from.")
    source: Literal["sim", "live", "replay"] = Field(
        default="live", description="What speaks the venue's protocol; a replay ends, and then nothing reconnects."
    )
    lines: int = Field(default=1, ge=1, le=8, description="Redundant connections of the same feed.")
    drain_seconds: float = Field(default=10.0, gt=0, le=300, description="Time to finish in when told to stop.")
    coinbase_ws_url: str | None = Field(
        default=None,
        validation_alias="COINBASE_WS_URL",
        pattern=r"^wss?://",
        description="WebSocket address; the venue's own when not given.",
    )
    coinbase_rest_url: str | None = Field(
        default=None,
        validation_alias="COINBASE_REST_URL",
        pattern=r"^https?://",
        description="REST address; the venue's own when not given.",
    )
    coinbase_products: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("BTC-USD", "ETH-USD"),
        validation_alias="COINBASE_PRODUCTS",
        min_length=1,
        max_length=200,
        description="Products, by comma.",
    )
    coinbase_api_key: str = Field(
        default="", validation_alias="COINBASE_API_KEY", description="Name of a CDP key; market data needs none."
    )
    coinbase_api_secret: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="COINBASE_API_SECRET",
        description="The key's EC private key (P-256) as PEM.",
    )
    apca_api_key_id: str = Field(
        default="", validation_alias="APCA_API_KEY_ID", description="Alpaca's key id; its stream says nothing without."
    )
    apca_api_secret_key: SecretStr = Field(
        default=SecretStr(""), validation_alias="APCA_API_SECRET_KEY", description="The secret of Alpaca's key."
    )
    alpaca_feed: Literal["iex", "sip", "delayed_sip", "test"] = Field(
        default="iex",
        validation_alias="ALPACA_FEED",
        description="Alpaca's source: iex is free, sip is every exchange, test is always open.",
    )
    alpaca_encoding: Literal["json", "msgpack"] = Field(
        default="json",
        validation_alias="ALPACA_ENCODING",
        description="How Alpaca's messages are written; json keeps every digit, msgpack takes less of the line.",
    )
    alpaca_symbols: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("AAPL", "MSFT"),
        validation_alias="ALPACA_SYMBOLS",
        min_length=1,
        max_length=2_000,
        description="Tickers, by comma.",
    )

    def products_of(self, venue: str) -> tuple[str, ...]:
        """Return the names of the products that a venue's lines take."""
        return self.alpaca_symbols if venue == "alpaca" else self.coinbase_products

    @field_validator("coinbase_products", "alpaca_symbols", mode="before")
    @classmethod
    def _by_comma(cls, value: object) -> object:
        """Take `BTC-USD,ETH-USD`, in any case, each once."""
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(name.strip().upper() for name in value.split(",") if name.strip()))
