"""Coinbase Exchange: which channel books come from, and the key that signs the subscriptions of those that need one.

Source: "Exchange WebSocket Authentication" and "Exchange REST API Authentication",
https://docs.cdp.coinbase.com/exchange/websocket-feed/authentication.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import Literal

import msgspec
from pydantic import Field, SecretStr

from marketdata.clock import SECOND_NS
from marketdata.errors import SettingsError
from producers.venues.kit.login import Start, VenueSettings


class ExchangeSettings(VenueSettings):
    """The channel of books, and the key."""

    coinbase_exchange_depth: Literal["level2_batch", "level2", "full"] = Field(
        default="level2_batch",
        validation_alias="COINBASE_EXCHANGE_DEPTH",
        description="Channel of Coinbase Exchange that books come from; only level2_batch needs no key, full has each "
        "order.",
    )
    coinbase_exchange_api_key: SecretStr = Field(
        default=SecretStr(""), validation_alias="COINBASE_EXCHANGE_API_KEY", description="Key of Coinbase Exchange."
    )
    coinbase_exchange_api_secret: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="COINBASE_EXCHANGE_API_SECRET",
        description="The secret of Coinbase Exchange's key, as base64.",
    )
    coinbase_exchange_api_passphrase: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="COINBASE_EXCHANGE_API_PASSPHRASE",
        description="The passphrase of Coinbase Exchange's key.",
    )


class ExchangeKey:
    """A key of Coinbase Exchange, which signs each subscription; gives a JSON object of `channel` and `signed`.

    The signature is the base64 of the HMAC-SHA256, by the secret's own bytes, of the time in seconds, the method and
    the path of a request that is never made (Coinbase, "Exchange WebSocket Authentication", and "Exchange REST API
    Authentication" for how to sign).
    """

    PATH = "/users/self/verify"
    _SECRETS = re.compile(rb'("(?:signature|key|passphrase)":\s*)"(?:[^"\\]|\\.)*"')

    def __init__(self, key: str, secret: str, passphrase: str, channel: str) -> None:
        try:
            self._secret = base64.b64decode(secret, validate=True)
        except (binascii.Error, ValueError):
            # What stands in the error may be of the secret.
            raise SettingsError("COINBASE_EXCHANGE_API_SECRET is no base64 text, as Coinbase gives it") from None
        self._key = key
        self._passphrase = passphrase
        self._channel = channel

    def __call__(self, ts: int) -> str:
        """Return the channel of books, and what goes into a subscription at this time."""
        now_s = str(ts // SECOND_NS)
        signature = hmac.digest(self._secret, f"{now_s}GET{self.PATH}".encode(), hashlib.sha256)
        signed = {
            "signature": base64.b64encode(signature).decode(),
            "key": self._key,
            "passphrase": self._passphrase,
            "timestamp": now_s,
        }
        return msgspec.json.encode({"channel": self._channel, "signed": signed}).decode()

    def redact(self, frame: bytes) -> bytes:
        """Return a frame with stars in place of what signs it."""
        return self._SECRETS.sub(rb'\1"***"', frame)


def login(settings: ExchangeSettings, start: Start) -> ExchangeKey | None:
    """Return what signs the subscriptions; None without a key, which public channels do not need, and in a replay.

    Raises SettingsError when a part of the key is missing, or all of it where the channel is not public.
    """
    if start.is_replay:
        return None
    prefix = "COINBASE_EXCHANGE_API_"
    depth = settings.coinbase_exchange_depth
    parts = {
        f"{prefix}KEY": settings.coinbase_exchange_api_key.get_secret_value(),
        f"{prefix}SECRET": settings.coinbase_exchange_api_secret.get_secret_value(),
        f"{prefix}PASSPHRASE": settings.coinbase_exchange_api_passphrase.get_secret_value(),
    }
    missing = [name for name, value in parts.items() if not value]
    if len(missing) == len(parts) and depth == "level2_batch":
        return None
    if missing:
        raise SettingsError(
            f"{', '.join(missing)}: Coinbase Exchange sends nothing on {depth} without a key"
            if depth != "level2_batch"
            else f"{', '.join(missing)}: a key of Coinbase Exchange has three parts; give all or none"
        )
    key, secret, passphrase = parts.values()
    return ExchangeKey(key, secret, passphrase, depth)
