"""Databento: the key, and what to ask the gateway for.

Source: "API reference - Live", https://databento.com/docs/api-reference-live.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from marketdata.errors import SettingsError
from producers.venues.databento.gateway import DATASETS, REPLAYED, Login, Session
from producers.venues.kit.login import Names, Start, VenueSettings


class DatabentoSettings(VenueSettings):
    """The key, the schemas, and what the symbols are."""

    databento_api_key: SecretStr = Field(
        default=SecretStr(""), validation_alias="DATABENTO_API_KEY", description="Databento's key; a replay needs none."
    )
    databento_schemas: Names = Field(
        default=("mbo", "status", "definition"),
        validation_alias="DATABENTO_SCHEMAS",
        min_length=1,
        max_length=16,
        description="What to take of Databento, by comma; one of those that bring trades.",
    )
    databento_stype_in: Literal["raw_symbol", "instrument_id", "parent", "continuous"] = Field(
        default="raw_symbol", validation_alias="DATABENTO_STYPE_IN", description="What Databento's symbols are."
    )


def login(settings: DatabentoSettings, start: Start) -> Login:
    """Return what to ask the gateway for, and the key. Raises SettingsError where it cannot be asked so."""
    if start.is_replay:
        return Login("", Session(dataset="", schemas=REPLAYED))
    session = Session(
        dataset=start.market or DATASETS[0],
        schemas=settings.databento_schemas,
        stype_in=settings.databento_stype_in,
    )
    refusal = session.refusal()
    if refusal is not None:
        raise SettingsError(f"DATABENTO_SCHEMAS: {refusal}")
    key = settings.databento_api_key.get_secret_value()
    if not key:
        raise SettingsError("DATABENTO_API_KEY: Databento's gateway lets nobody in without a key")
    return Login(key, session)
