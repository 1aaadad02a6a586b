"""Whether a value may be trusted, and why not."""

from __future__ import annotations

import msgspec

from marketdata.events import RESYNCING, STALE


class Trust(msgspec.Struct, frozen=True):
    """Whether a value may be trusted; `reason` is empty when it may."""

    valid: bool
    reason: str = ""


TRUSTED = Trust(True)
UNKNOWN = Trust(False, RESYNCING)


def fresh(trust: Trust, ts_recv: int, now: int, stale_ns: int) -> Trust:
    """Return the trust of a value received at `ts_recv`, for who reads it at `now`."""
    return Trust(False, STALE) if trust.valid and now - ts_recv > stale_ns else trust
