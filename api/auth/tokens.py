"""Short-lived tokens for the WebSocket: JWTs signed with Ed25519, made from an API key and verified without a database.

A browser cannot set a header on a WebSocket and puts the token into the address, where logs may keep it: so it lives
ten minutes, opens sockets only (`aud`), and ends with its key. What is checked follows RFC 8725, "JSON Web Token Best
Current Practices" (https://www.rfc-editor.org/rfc/rfc8725): one algorithm (3.1), `aud` (3.9) and an explicit type
(3.11). The algorithm's name is from RFC 8037 (https://www.rfc-editor.org/rfc/rfc8037).

A signing key signs for a while and is then replaced. Its private part is erased; its public part verifies until the
last of its tokens has expired.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

AUDIENCE = "tickstream-websocket"
ISSUER = "tickstream"
ALGORITHM = "EdDSA"
TYPE = "tickstream-ws+jwt"
CHARACTERS_MAX = 2_048

# Processes learn of a new signing key within this time, and use the old one until then.
PROPAGATION = timedelta(seconds=60)
# By how much the clocks of two API hosts may differ.
_LEEWAY_S = 5
_CLAIMS = ["exp", "iat", "aud", "iss", "sub", "jti"]


class TokenRefused(Exception):  # noqa: N818 - it is an answer, not a failure
    """A token that opens nothing; the text states why."""


class SigningKey(msgspec.Struct, frozen=True):
    """An Ed25519 key; `private` is None once it no longer signs. Times are UTC."""

    kid: str
    public: bytes
    signs_until: datetime
    verifies_until: datetime
    private: bytes | None = None

    def __repr__(self) -> str:
        """Return what may be logged."""
        return f"SigningKey({self.kid})"


class Grant(msgspec.Struct, frozen=True):
    """What a token allows: whose it is (a key's prefix), how much, and until when."""

    prefix: str
    tier: str
    scopes: frozenset[str]
    expires_at: datetime


def new_signing_key(now: datetime, signs: timedelta, lifetime: timedelta) -> SigningKey:
    """Return a new key that signs for a while tokens of a lifetime."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    return SigningKey(
        kid=hashlib.sha256(public).hexdigest()[:16],
        public=public,
        private=private.private_bytes_raw(),
        signs_until=now + signs,
        verifies_until=now + signs + lifetime + PROPAGATION,
    )


def issue(grant: Grant, key: SigningKey, now: datetime) -> str:
    """Return the token of a grant. The key must have its private part."""
    assert key.private is not None  # noqa: S101 - for the type checker: the caller chose one that signs
    return jwt.encode(
        {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": grant.prefix,
            "tier": grant.tier,
            "scope": " ".join(sorted(grant.scopes)),
            "iat": int(now.timestamp()),
            "exp": int(grant.expires_at.timestamp()),
            "jti": secrets.token_hex(16),
        },
        Ed25519PrivateKey.from_private_bytes(key.private),
        algorithm=ALGORITHM,
        headers={"kid": key.kid, "typ": TYPE},
    )


def verify(token: str, keys: Iterable[SigningKey], now: datetime) -> Grant:
    """Return what a token allows. Raises TokenRefused when it is not ours, expired or malformed."""
    if len(token) > CHARACTERS_MAX:
        raise TokenRefused("the token is too long")
    try:
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        if header.get("typ") != TYPE:
            raise TokenRefused(f"the token is not of the type {TYPE}; POST /api/v1/tokens issues one")
        key = next((key for key in keys if key.kid == kid and key.verifies_until > now), None)
        if key is None:
            raise TokenRefused("the token was signed with a key that is unknown or has been retired")
        claims = jwt.decode(
            token,
            Ed25519PublicKey.from_public_bytes(key.public),
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=_LEEWAY_S,
            # The time is ours to give.
            options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
        )
        issued, expires = (datetime.fromtimestamp(int(claims[name]), UTC) for name in ("iat", "exp"))
        scopes = str(claims["scope"]).split()
        grant = Grant(str(claims["sub"]), str(claims["tier"]), frozenset(scopes), expires)
    except (jwt.InvalidTokenError, KeyError, ValueError, OverflowError, TypeError, OSError) as error:
        raise TokenRefused(f"the token cannot be used: {type(error).__name__}") from None
    if expires <= now:
        raise TokenRefused("the token has expired; POST /api/v1/tokens issues a new one")
    if issued > now + timedelta(seconds=_LEEWAY_S):
        raise TokenRefused("the token was issued in the future; check the clocks of the API's hosts")
    return grant
