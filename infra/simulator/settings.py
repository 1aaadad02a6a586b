"""Settings of a simulated venue."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import AliasChoices, BeforeValidator, Field, create_model
from pydantic_settings import NoDecode

from infra.simulator.faults import Fault
from infra.simulator.market import SYMBOLS_MAX
from infra.simulator.venues.facts import PRODUCTS, find
from marketdata.errors import SettingsError
from runtime.settings import CommonSettings, load

RATE_MAX = 100_000


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class ExchangeSettings(CommonSettings):
    """The settings of a simulated venue.

    `products` is read from a variable that begins with the venue's name, such as `COINBASE_PRODUCTS`; see
    `load_for_venue`.
    """

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
        description="Number of products, in place of those that are listed by name.",
    )
    exchange_faults: str = Field(default="[]", description="JSON array of initial faults, as in POST /faults.")
    venue: str = Field(default="coinbase", description="Venue to simulate.")
    products: Names | None = Field(
        default=None, description="Products by the venue's names, by comma; two of the venue's when not given."
    )

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return the products, each once.

        Raises SettingsError for a venue that is not simulated.
        """
        facts = find(self.venue)
        if self.exchange_symbols is not None or self.products is None:
            return tuple(facts.names(self.exchange_symbols or PRODUCTS))
        return tuple(dict.fromkeys(self.products))

    @property
    def faults(self) -> list[Fault]:
        """Return the initial faults.

        Raises SettingsError when they are invalid.
        """
        try:
            return msgspec.json.decode(self.exchange_faults.encode(), type=list[Fault])
        except msgspec.MsgspecError as error:
            raise SettingsError(f"TICKSTREAM_EXCHANGE_FAULTS: {error}") from None


def load_for_venue(**overrides: Any) -> ExchangeSettings:
    """Return the settings from the environment, the products from the variable of the venue that they choose.

    Raises SettingsError that names each variable at fault and what it takes.
    """
    prefix = f"{load(ExchangeSettings, **overrides).venue}_".upper()
    field = ExchangeSettings.model_fields["products"]
    alias = AliasChoices(f"{prefix}PRODUCTS", f"{prefix}SYMBOLS")
    own: Any = {"products": (field.annotation, field.merge_field_infos(field, validation_alias=alias))}
    return load(create_model("VenueSettings", __base__=ExchangeSettings, **own), **overrides)
