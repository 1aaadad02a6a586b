"""What Binance says of the weight that an address has used.

Documents: "LIMITS" (https://developers.binance.com/docs/binance-spot-api-docs/rest-api/limits):
`X-MBX-USED-WEIGHT-1M`; "Rate limits" there: an interval starts each minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from producers.venues.kit.budget import MINUTE_S, count_of
from producers.venues.kit.history import Left


def used_weight(limit: float) -> Callable[[Mapping[str, str], float], Left | None]:
    """Return how an answer states the weight that is left of `limit` in this minute of the clock."""

    def left(headers: Mapping[str, str], wall_s: float) -> Left | None:
        used = count_of(headers.get("x-mbx-used-weight-1m"))
        return None if used is None else Left(limit - used, MINUTE_S - wall_s % MINUTE_S)

    return left
