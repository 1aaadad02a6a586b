"""API keys as values: how one is made, written, recognised and compared, and what its owner may do.

A key is `tsk_<prefix>_<secret>`. The prefix (48 bits) finds the record and may be shown; the secret has 256 bits from
the operating system. Only the SHA-256 of the whole key is stored: a slow hash protects guessable passwords, and nobody
guesses 256 random bits (NIST SP 800-63B, 5.1.2.2 "Look-Up Secret Verifiers",
https://pages.nist.gov/800-63-3/sp800-63b.html). The fixed form lets secret scanners find a key that was published.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

Scope = Literal["market:read", "history:read", "export", "stream", "metrics:read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SCOPES_DEFAULT: tuple[Scope, ...] = ("market:read", "history:read", "export", "stream")
NAME_CHARACTERS_MAX = 100

_PREFIX_BYTES = 6
_SECRET_BYTES = 32
_FORM = re.compile(r"tsk_([0-9a-f]{12})_[0-9a-f]{64}", re.ASCII)


class Key(msgspec.Struct, frozen=True):
    """What is known of a key, without its secret. Times are UTC; None where there is none."""

    prefix: str
    hash: bytes
    name: str
    owner: str
    scopes: frozenset[str]
    tier: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    replaced_by: str | None = None
    last_used_at: datetime | None = None

    def matches(self, text: str) -> bool:
        """Return whether this is the record of a key; takes the same time whatever the difference."""
        return hmac.compare_digest(self.hash, digest(text))

    def unusable(self, now: datetime) -> str | None:
        """Return why the key may not be used at this time, None if it may."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return "the API key was revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "the API key has expired"
        return None

    def shown(self) -> dict[str, Any]:
        """Return what people and programs may see of it."""
        return {
            "prefix": self.prefix,
            "name": self.name,
            "owner": self.owner,
            "scopes": [scope for scope in SCOPES if scope in self.scopes],
            "tier": self.tier,
            "created_at": _written(self.created_at),
            "expires_at": _written(self.expires_at),
            "revoked_at": _written(self.revoked_at),
            "replaced_by": self.replaced_by,
            "last_used_at": _written(self.last_used_at),
        }


def make() -> tuple[str, str]:
    """Return a new key's prefix and the key."""
    prefix = secrets.token_hex(_PREFIX_BYTES)
    return prefix, f"tsk_{prefix}_{secrets.token_hex(_SECRET_BYTES)}"


def prefix_of(text: str) -> str | None:
    """Return the prefix of a text that has the form of a key, None for any other."""
    match = _FORM.fullmatch(text)
    return match[1] if match is not None else None


def digest(text: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(text.encode()).digest()


def _written(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"
