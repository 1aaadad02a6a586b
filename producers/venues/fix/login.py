"""FIX: who we are, and how we log on.

Source: "FIX Session Layer", https://www.fixtrading.org/standards/fix-session-layer-online/.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from pydantic import Field, SecretStr

from marketdata.errors import SettingsError
from producers.venues.kit.login import Names, Start, VenueSettings


class FixSettings(VenueSettings):
    """The names of both sides, the session's options and the login."""

    fix_sender_comp_id: Names = Field(
        default=("TICKSTREAM",),
        validation_alias="FIX_SENDER_COMP_ID",
        min_length=1,
        max_length=64,
        description="SenderCompID, our name; one for each redundant line, by comma.",
    )
    fix_target_comp_id: str = Field(
        default="", validation_alias="FIX_TARGET_COMP_ID", description="TargetCompID, the venue's name."
    )
    fix_begin_string: Literal["FIX.4.4", "FIXT.1.1"] = Field(
        default="FIX.4.4",
        validation_alias="FIX_BEGIN_STRING",
        description="BeginString; FIXT.1.1 carries FIX 5.0SP2.",
    )
    fix_heartbeat_seconds: int = Field(
        default=30, validation_alias="FIX_HEARTBEAT_SECONDS", ge=1, le=3600, description="HeartBtInt that we ask for."
    )
    fix_reset_numbers: bool = Field(
        default=True,
        validation_alias="FIX_RESET_NUMBERS",
        description="Whether each connection begins at MsgSeqNum 1 (ResetSeqNumFlag) or goes on where the last ended.",
    )
    fix_snapshots: bool = Field(
        default=True,
        validation_alias="FIX_SNAPSHOTS",
        description="Whether the venue sends MarketDataSnapshotFullRefresh (W); without it the first X is the book.",
    )
    fix_security_id_source: str = Field(
        default="",
        validation_alias="FIX_SECURITY_ID_SOURCE",
        max_length=10,
        description="SecurityIDSource (22) where the symbols are SecurityIDs (48), for example 4 for ISIN.",
    )
    fix_username: str = Field(default="", validation_alias="FIX_USERNAME", description="Username of the Logon, if any.")
    fix_password: SecretStr = Field(
        default=SecretStr(""), validation_alias="FIX_PASSWORD", description="Password of the Logon, if any."
    )


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


def login(settings: FixSettings, start: Start) -> FixLogin:
    """Return how the lines log on. Raises SettingsError when a name is missing; a replay needs none."""
    is_replay = start.is_replay
    if not settings.fix_target_comp_id and not is_replay:
        raise SettingsError("FIX_TARGET_COMP_ID: name the venue as it names itself")
    if start.lines > len(settings.fix_sender_comp_id) and not is_replay:
        raise SettingsError("FIX_SENDER_COMP_ID: name ourselves once for each line, by comma: a name logs on once")
    return FixLogin(
        senders=settings.fix_sender_comp_id,
        target=settings.fix_target_comp_id or "REPLAY",
        begin=settings.fix_begin_string,
        heartbeat_s=settings.fix_heartbeat_seconds,
        reset=settings.fix_reset_numbers or is_replay,
        recorded=is_replay,
        snapshots=settings.fix_snapshots,
        security_id_source=settings.fix_security_id_source,
        username=settings.fix_username,
        password=settings.fix_password.get_secret_value(),
    )
