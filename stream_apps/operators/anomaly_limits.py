"""Limits of the anomaly operators, by symbol: from which value on something is unusual.

Most limits are multiples of what is usual for the symbol itself, so that the defaults fit any market. A limit can be
set for `venue:symbol`, for `*:symbol`, for `venue:*` and for `*` (everything); the first of these that has it counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of one symbol; all are positive. Shares of a price are fractions (0.01 is 1 %)."""

    # A price jump: standard deviations of the usual change, and at least this change and so many ticks.
    jump_sigmas: float = 10.0
    jump_min: float = 0.002
    jump_ticks: float = 20.0
    # A volume spike: times the usual minute's volume.
    volume_times: float = 10.0
    # Silence: times the usual pause between trades, and at least so many seconds.
    silent_times: float = 20.0
    silent_seconds: float = 60.0
    # A wide spread: times the usual spread, and at least this share of the price and so many ticks.
    spread_times: float = 8.0
    spread_min: float = 0.0005
    spread_ticks: float = 10.0
    # Quote stuffing: times the usual changes of the book in a second, and at least so many.
    stuffing_times: float = 10.0
    stuffing_min: float = 500.0
    # A liquidation cascade: liquidations of one side in a minute, times those of a usual minute with any.
    cascade_times: float = 5.0
    cascade_min: float = 10.0
    # A price away from the other venues': times the usual distance from the usual difference, and at least this share.
    deviation_times: float = 10.0
    deviation_min: float = 0.002

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that is not positive."""
        for name in self.__struct_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


class LimitsBySymbol:
    """The limits of every symbol, from what was set by key (see the module)."""

    def __init__(self, given: Mapping[str, Mapping[str, float]] | None = None) -> None:
        """Raise ValueError for a key or a limit that there is not."""
        self._given = given or {}
        for key, limits in self._given.items():
            venue, colon, symbol = key.partition(":")
            if key != "*" and not (colon and venue and symbol):
                raise ValueError(f"{key!r}: limits are set for venue:symbol, *:symbol, venue:* or *")
            try:
                msgspec.convert(limits, Limits)
            except (msgspec.ValidationError, ValueError) as error:
                raise ValueError(f"{key}: {error}") from None
        self._usual = self._merge("*")
        self._found: dict[tuple[str, str], Limits] = {}

    def of(self, venue: str, symbol: str) -> Limits:
        """Return the limits of a symbol."""
        if not self._given:
            return self._usual
        found = self._found.get((venue, symbol))
        if found is None:
            found = self._merge("*", f"{venue}:*", f"*:{symbol}", f"{venue}:{symbol}")
            if len(self._found) < _SYMBOLS_MAX:
                self._found[venue, symbol] = found
        return found

    def _merge(self, *keys: str) -> Limits:
        merged: dict[str, float] = {}
        for key in keys:
            merged |= self._given.get(key, {})
        return msgspec.convert(merged, Limits)


# Symbols whose merged limits are kept; those of others are merged each time.
_SYMBOLS_MAX = 20_000
