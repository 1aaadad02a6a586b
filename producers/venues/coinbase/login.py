"""Coinbase Advanced Trade: an optional key, which signs a token for each message.

Source: "Advanced Trade WebSocket Overview", https://docs.cdp.coinbase.com/advanced-trade/docs/ws-overview.
"""

from __future__ import annotations

import secrets
from collections import deque

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field, SecretStr

from marketdata.clock import SECOND_NS
from marketdata.errors import SettingsError
from producers.venues.kit.login import Start, VenueSettings

# The venue refuses a token after two minutes.
LIFE_S = 120
_KEPT = 64


class CoinbaseSettings(VenueSettings):
    """The key."""

    coinbase_api_key: str = Field(
        default="", validation_alias="COINBASE_API_KEY", description="Name of a CDP key; market data needs none."
    )
    coinbase_api_secret: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="COINBASE_API_SECRET",
        description="The key's EC private key (P-256) as PEM.",
    )


class CoinbaseTokens:
    """Makes a new ES256 token for each message: call it with the time, UTC nanoseconds."""

    def __init__(self, key: str, secret: str) -> None:
        try:
            # In environment files the lines of a PEM are often joined by a written \n.
            private = load_pem_private_key(secret.replace("\\n", "\n").encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SettingsError(f"COINBASE_API_SECRET is no PEM of a private key: {error}") from None
        if not isinstance(private, EllipticCurvePrivateKey) or not isinstance(private.curve, SECP256R1):
            raise SettingsError("COINBASE_API_SECRET is no EC private key on P-256, which ES256 needs")
        self._key = key
        self._private = private
        self._issued: deque[bytes] = deque(maxlen=_KEPT)

    def __call__(self, ts: int) -> str:
        """Return a token that is good from now on for two minutes."""
        now_s = ts // SECOND_NS
        claims = {"sub": self._key, "iss": "cdp", "nbf": now_s, "exp": now_s + LIFE_S}
        headers = {"kid": self._key, "nonce": secrets.token_hex(16)}
        token = jwt.encode(claims, self._private, algorithm="ES256", headers=headers)
        self._issued.append(token.encode())
        return token

    def redact(self, frame: bytes) -> bytes:
        """Return a frame of ours as it may be stored: without the tokens in it."""
        for token in self._issued:
            frame = frame.replace(token, b"<token>")
        return frame


def login(settings: CoinbaseSettings, start: Start) -> CoinbaseTokens | None:
    """Return what signs messages; None without a key, which market data does not need. Raises SettingsError."""
    del start
    if not settings.coinbase_api_key:
        return None
    return CoinbaseTokens(settings.coinbase_api_key, settings.coinbase_api_secret.get_secret_value())
