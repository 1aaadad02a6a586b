"""The page of a list that a request asks for, and how its answer names the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Query
from fastapi.params import Depends as Dependency

from api.core.messages import Json
from api.rest.parameters import Range, read_cursor, time_range, write_cursor

LIMIT_MAX = 1_000

StartQuery = Annotated[
    str | None,
    Query(description="From this time on (inclusive), RFC 3339 with a zone.", examples=["2026-08-09T21:00:00Z"]),
]
EndQuery = Annotated[
    str | None,
    Query(description="Up to this time (exclusive), RFC 3339 with a zone.", examples=["2026-08-09T22:00:00Z"]),
]
LimitQuery = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Items on a page at most.", examples=[100])]
CursorQuery = Annotated[
    str | None, Query(description="`next_cursor` of the page before; the other parameters stay the same.")
]

# Where an item is in its list: its time first, then what orders items of equal time.
Place = tuple[Any, ...]


class Page(msgspec.Struct, frozen=True):
    """At most `limit` items of `span`, newest first; those after the place `before` when a cursor was given."""

    span: Range
    before: Place | None
    limit: int

    @property
    def is_latest(self) -> bool:
        """Whether the request asks for the newest items of all."""
        return self.before is None and self.span.open

    def holds(self, ts: int, place: Place) -> bool:
        """Return whether an item of this time (UTC nanoseconds) and place may be on the page."""
        return self.span.holds(ts) and (self.before is None or place < self.before)

    def cut(self, items: Sequence[tuple[Place, Json]], *, complete: bool = True) -> tuple[list[Json], str | None]:
        """Return the data and the `next_cursor` of items with their places, newest first.

        There is a next page when there are more items than `limit`, or when these are not `complete`.
        """
        page = items[: self.limit]
        more = len(items) > self.limit or not complete
        return [data for _, data in page], write_cursor(*page[-1][0]) if more and page else None


def newest_first(items: dict[Place, Json]) -> list[tuple[Place, Json]]:
    """Return items with their places, the newest first."""
    return [(place, items[place]) for place in sorted(items, reverse=True)]


def paged(kinds: type[tuple[int | str, ...]], limit_default: int = 100) -> Dependency:
    """Return the dependency that reads a page of a list whose places have these kinds of parts."""

    # Not a plain function, which FastAPI would call in a thread.
    async def read(
        start: StartQuery = None, end: EndQuery = None, limit: LimitQuery = limit_default, cursor: CursorQuery = None
    ) -> Page:
        return Page(time_range(start, end), read_cursor(cursor, kinds), limit)

    reader: Callable[..., Awaitable[Page]] = read
    found: Dependency = Depends(reader)
    return found
