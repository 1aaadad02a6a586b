"""Alpaca: the key that logs in, and how messages are written.

Source: "Real-time Stock Data", https://docs.alpaca.markets/docs/real-time-stock-pricing-data.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from pydantic import Field, SecretStr

from marketdata.errors import SettingsError
from producers.venues.kit.login import Handshake, Start, VenueSettings


class AlpacaSettings(VenueSettings):
    """The key and the encoding."""

    apca_api_key_id: str = Field(
        default="", validation_alias="APCA_API_KEY_ID", description="Alpaca's key id; its stream says nothing without."
    )
    apca_api_secret_key: SecretStr = Field(
        default=SecretStr(""), validation_alias="APCA_API_SECRET_KEY", description="The secret of Alpaca's key."
    )
    alpaca_encoding: Literal["json", "msgpack"] = Field(
        default="json",
        validation_alias="ALPACA_ENCODING",
        description="How Alpaca's messages are written; json keeps every digit, msgpack takes less of the line.",
    )


class KeyPair:
    """A key and its secret, which go into the message that logs in, as the JSON object {"key", "secret"}."""

    def __init__(self, key: str, secret: str) -> None:
        self._token = msgspec.json.encode({"key": key, "secret": secret}).decode()
        # As JSON writes it, too: a frame may hold either.
        texts = {text for part in (key, secret) for text in (part.encode(), msgspec.json.encode(part)[1:-1])}
        self._secrets = sorted(texts, key=len, reverse=True)

    def __call__(self, ts: int) -> str:  # noqa: ARG002 - a key pair is the same at any time
        """Return both."""
        return self._token

    def redact(self, frame: bytes) -> bytes:
        """Return a frame with stars in place of both: as many, because msgpack counts bytes."""
        for secret in self._secrets:
            frame = frame.replace(secret, b"*" * len(secret))
        return frame


def login(settings: AlpacaSettings, start: Start) -> KeyPair | None:
    """Return the key; None in a replay. Raises SettingsError without one."""
    if start.is_replay:
        return None
    secret = settings.apca_api_secret_key.get_secret_value()
    if not settings.apca_api_key_id or not secret:
        raise SettingsError("APCA_API_KEY_ID and APCA_API_SECRET_KEY: Alpaca sends nothing without a key")
    return KeyPair(settings.apca_api_key_id, secret)


def handshake(settings: AlpacaSettings) -> Handshake:
    """Return how the stream is opened for the chosen encoding."""
    if settings.alpaca_encoding == "json":
        return Handshake()
    return Handshake(headers=(("Content-Type", "application/msgpack"),), binary=True)
