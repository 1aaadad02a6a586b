"""Candles of any multiple of a stored interval, such as 3m or 2h, added up exactly from the stored ones; pure.

They begin at multiples of their length since 1970-01-01T00:00:00Z, as the stored ones do. One is valid only if each of
its parts is there and valid. Its revision is the sum of theirs, so that it grows with each correction.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext

from api.core.symbol_state import INTERVALS
from marketdata.decimals import plain
from marketdata.events import GAP, Candle
from marketdata.recipes import read_length

# Sums are exact: more digits than the largest and the smallest size of a venue are apart.
_DIGITS = 400
_ORIGINS = ("live", "backfill", "repair")


def part_of(interval: str) -> str | None:
    """Return the longest stored interval of which this one is a multiple; None if there is none."""
    length = read_length(interval)
    if length is None:
        return None
    lengths = {name: read_length(name) or 0 for name in INTERVALS}
    return max((name for name, each in lengths.items() if length % each == 0), key=lengths.__getitem__, default=None)


def add_up(interval: str, start: int, parts: Iterable[Candle], part_length: int, *, newest: bool) -> Candle:
    """Return the candle of `interval` from `start` on, from its parts in any order.

    `newest`: nothing later is stored, so that it may still change; parts that are yet to come are then not missing.
    """
    known = sorted(parts, key=lambda part: part.start)
    length = read_length(interval)
    assert length is not None  # noqa: S101 - for the type checker: the caller took it from `part_of`
    end = start + length
    is_open = newest and (known[-1].end < end or known[-1].state == "open")
    expected = (known[-1].end if is_open else end) - start
    bad = next((part for part in known if not part.valid), None)
    is_whole = len(known) * part_length == expected
    with localcontext(prec=_DIGITS):
        return Candle(
            venue=known[0].venue,
            symbol=known[0].symbol,
            interval=interval,
            start=start,
            end=end,
            ts_event=max(part.ts_event for part in known),
            ts_recv=max(part.ts_recv for part in known),
            open=next((part.open for part in known if part.open is not None), None),
            high=max((part.high for part in known if part.high is not None), key=Decimal, default=None),
            low=min((part.low for part in known if part.low is not None), key=Decimal, default=None),
            close=next((part.close for part in reversed(known) if part.close is not None), None),
            volume=_sum(part.volume for part in known) or "0",
            quote_volume=_sum(part.quote_volume for part in known),
            buy_volume=_sum(part.buy_volume for part in known),
            trades=_count(part.trades for part in known),
            state="open" if is_open else "revised" if any(part.revision for part in known) else "final",
            revision=sum(part.revision for part in known),
            origin=max((part.origin for part in known), key=_ORIGINS.index),
            valid=bad is None and is_whole,
            reason=bad.reason if bad is not None else "" if is_whole else GAP,
        )


def _sum(values: Iterable[str | None]) -> str | None:
    """Return the exact sum, None when any is not known."""
    total = Decimal(0)
    for value in values:
        if value is None:
            return None
        total += Decimal(value)
    return plain(total)


def _count(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
