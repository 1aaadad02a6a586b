"""Times as integer UTC nanoseconds, and their conversion from and to RFC 3339. Nothing here reads a clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from marketdata.errors import BadEvent

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
MINUTE_NS = 60 * SECOND_NS

# 2009-01-01: no market has older data; older times are unset or in a wrong unit.
TS_MIN = 1_230_768_000 * SECOND_NS

# A venue's clock may be ahead of ours by up to this much; a later time would close candles that are still open.
AHEAD_NS_MAX = 10 * SECOND_NS

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)


@lru_cache(maxsize=1024)
def _second_ns(date: str, time: str, zone: str) -> int:
    zone = "+00:00" if zone in {"Z", "z"} else zone
    return int(datetime.fromisoformat(f"{date}T{time}{zone}").timestamp()) * SECOND_NS


def parse_rfc3339(text: str, field: str = "timestamp") -> int:
    """Return UTC nanoseconds of an RFC 3339 time of any zone; `field` names it in the error.

    Raises BadEvent (`bad_time`) for any other text, and for a time without a zone, which is ambiguous.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise BadEvent("bad_time", field, text)
    date, time, fraction, zone = match.groups()
    try:
        return _second_ns(date, time, zone) + int((fraction or "0").ljust(9, "0"))
    except ValueError:
        raise BadEvent("bad_time", field, text) from None


def format_rfc3339(ts: int) -> str:
    """Return UTC nanoseconds as RFC 3339 with microseconds and Z; finer digits are truncated."""
    seconds, rest = divmod(ts, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"
