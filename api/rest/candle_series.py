"""Reads the candles of a series, newest first, from the database and memory; multiples of an interval too."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any

import msgspec

from api.core.symbol_state import INTERVALS, SymbolState, place_of
from api.rest.codes import Code
from api.rest.evidence import candle_of
from api.rest.history import Source
from api.rest.multiples import add_up, part_of
from api.rest.parameters import Range
from api.rest.problems import Problem
from api.service import Service
from marketdata.clock import MILLISECOND_NS
from marketdata.events import Candle
from marketdata.recipes import read_length

Place = tuple[Any, ...]
Candles = list[tuple[Place, Candle]]
# Parts that are read at once.
_PARTS_MAX = 20_000


class Series(msgspec.Struct, frozen=True):
    """The candles of one symbol and interval, made here of its trades or the venue's own."""

    state: SymbolState
    interval: str
    source: Source = "trades"


async def stored(service: Service, series: Series, span: Range, before: Place | None, limit: int) -> Candles:
    """Return candles of a stored interval with their places; more than `limit` where there are more."""
    state = series.state
    rows = await service.history.candles(
        state.venue, state.symbol, series.interval, span, source=series.source, before=before, limit=limit + 1
    )
    found = {place_of(candle): candle for candle in map(candle_of, rows)}
    if series.source == "trades":
        # What memory holds is at least as new as the database.
        found |= {
            place: each.candle
            for place, each in state.candles.get(series.interval, {}).items()
            if span.holds(place[0]) and (before is None or place < before)
        }
    return sorted(found.items(), reverse=True)


async def multiples(service: Service, series: Series, span: Range, before: Place | None, limit: int) -> Candles:
    """Return candles of a multiple of a stored interval with their places; more than `limit` where there are more.

    Raises Problem when reading their parts takes longer than the limit of a query.
    """
    # Which intervals a venue sends differs; each sends minutes.
    part = INTERVALS[0] if series.source == "venue" else part_of(series.interval)
    length, part_length = read_length(series.interval), read_length(part or "")
    assert part is not None and length is not None and part_length is not None  # noqa: S101, PT018 - for the checker
    parts = Series(series.state, part, series.source)
    reach = _whole(span, before, length)
    newest: int | None = None
    if before is None:
        last = await stored(service, parts, Range(None, None), None, 1)
        newest = last[0][1].start // length * length if last else None
    until = time.monotonic_ns() + service.settings.query_timeout_ms * MILLISECOND_NS
    size = min(_PARTS_MAX, (limit + 1) * (length // part_length))
    done: Candles = []
    group: list[Candle] = []

    async def finish() -> None:
        start = group[0].start // length * length
        made = add_up(series.interval, start, group, part_length, newest=start == newest)
        done.append((place_of(made), made))
        group.clear()
        await asyncio.sleep(0)  # a day of minutes takes milliseconds: others have their turn

    place: Place | None = None
    while True:
        piece = await stored(service, parts, reach, place, size)
        for at, candle in piece[:size]:
            if group and candle.start // length != group[0].start // length:
                await finish()
                if len(done) > limit:
                    return done
            group.append(candle)
            place = at
        if len(piece) <= size:
            break
        if time.monotonic_ns() > until:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "ask for fewer or shorter candles", code=Code.QUERY_TOO_SLOW)
    if group:
        await finish()
    return done


def _whole(span: Range, before: Place | None, length: int) -> Range:
    """Return the time of all parts of the candles that start in the range, before the place."""
    start = None if span.start is None else -(-span.start // length) * length
    ends = [] if span.end is None else [span.end]
    if before is not None:
        ends.append(before[0])
    return Range(start, -(-min(ends) // length) * length if ends else None)
