"""The tiers: how much the owner of a key may use, read from one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from marketdata.errors import SettingsError

FILE = Path(__file__).with_name("tiers.toml")
LOCAL = "local"
FREE = "free"

_Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tier's limits; `tiers.toml` explains each."""

    requests_per_second: _Positive
    burst: _Positive
    sockets: _Positive
    subscriptions: _Positive
    depth: _Positive
    history_days: Annotated[int, msgspec.Meta(ge=0, le=100_000)]
    export: bool


def load_tiers(path: Path = FILE) -> dict[str, Tier]:
    """Return the tiers of a file by name. Raises SettingsError that names the file and the value at fault."""
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=dict[str, dict[str, int | bool]])
        tiers = {name: _tier(name, values) for name, values in found.items()}
    except OSError as error:
        raise SettingsError(f"TICKSTREAM_API_TIERS = {path}: cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise SettingsError(f"TICKSTREAM_API_TIERS = {path}: {error}; see api/auth/tiers.toml") from None
    missing = {LOCAL, FREE} - tiers.keys()
    if missing:
        raise SettingsError(
            f"TICKSTREAM_API_TIERS = {path}: has no tier {', '.join(sorted(missing))}, which clients without a key get"
        )
    return tiers


def _tier(name: str, values: dict[str, int | bool]) -> Tier:
    try:
        return msgspec.convert(values, Tier)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(str(error).replace("$", f"[{name}]")) from None
