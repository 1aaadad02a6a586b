"""Tokens that go into a venue's messages, and how to keep them out of what we store."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections import deque
from typing import Any, Protocol

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from marketdata.clock import SECOND_NS
from marketdata.errors import SettingsError

# Coinbase refuses a token after two minutes ("WebSocket Overview").
LIFE_S = 120
_KEPT = 64


class Tokens(Protocol):
    """What signs a feed's messages, and can take what is secret out of them again."""

    def __call__(self, ts: int) -> str:
        """Return what goes into a message at this time, UTC nanoseconds."""

    def redact(self, frame: bytes) -> bytes:
        """Return a frame of ours as it may be stored."""


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


class ExchangeKey:
    """A key of Coinbase Exchange, which signs each subscription anew; gives a JSON object of `channel` and `signed`.

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


class FixLogin:
    """Who logs on to a FIX venue and how, as the JSON object that its feed reads."""

    _SECRETS = re.compile(rb"(?<=\x01)(553|554|925)=([^\x01]*)")  # Username, Password, NewPassword

    def __init__(self, **login: Any) -> None:
        self._token = msgspec.json.encode(login).decode()

    def __call__(self, ts: int) -> str:  # noqa: ARG002 - who we are is the same at any time
        """Return all of it."""
        return self._token

    def redact(self, frame: bytes) -> bytes:
        """Return a frame with stars in place of the values: as many, because FIX counts bytes."""
        return self._SECRETS.sub(lambda match: b"%b=%b" % (match[1], b"*" * len(match[2])), frame)


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
