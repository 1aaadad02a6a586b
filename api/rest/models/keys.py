"""Answers and requests about API keys and tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.auth.keys import NAME_CHARACTERS_MAX, Scope

_Text = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX, pattern=r"^[^\x00-\x1f\x7f]+$")]
_LIFETIME_DAYS_MAX = 3_650
_OVERLAP_HOURS_MAX = 24 * 90


class NewKey(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: _Text = Field(description="What it is for.", examples=["backtests"])
    owner: _Text = Field(description="Who is responsible for it.", examples=["research@example.com"])
    scopes: list[Scope] = Field(min_length=1, max_length=10, examples=[["market:read", "history:read", "stream"]])
    tier: _Text = Field(examples=["standard"])
    expires_in_days: Annotated[float, Field(gt=0, le=_LIFETIME_DAYS_MAX)] | None = Field(
        default=None, description="Lifetime; without it the key does not expire."
    )


class Rotation(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid")

    overlap_hours: float = Field(
        default=24.0, ge=0, le=_OVERLAP_HOURS_MAX, description="How long the old key still works."
    )


class KeyData(BaseModel):
    """A key without its secret."""

    prefix: str = Field(examples=["3f9c1a7b20de"])
    name: str
    owner: str
    scopes: list[Scope]
    tier: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    replaced_by: str | None = Field(description="Prefix of the key that took its place.")
    last_used_at: str | None = Field(description="To about a minute.")


class KeysAnswer(BaseModel):
    """Every key, the newest first."""

    type: Literal["keys"]
    timestamp: str
    data: list[KeyData]


class KeyAnswer(BaseModel):
    """One key after a change."""

    type: Literal["key"]
    timestamp: str
    data: KeyData


class NewKeyAnswer(BaseModel):
    """A key that was just made; `key` is shown only now."""

    type: Literal["new_key"]
    timestamp: str
    key: str
    data: KeyData


class TokenAnswer(BaseModel):
    """A token for the WebSocket."""

    type: Literal["token"]
    timestamp: str
    token: str = Field(description="A JWT: `/ws?token=...`.")
    expires_at: str
    expires_in: int = Field(description="Seconds.")
