"""Splits a list that is read newest first into windows of time that grow, so that its first page opens few chunks.

PostgreSQL plans every chunk that a query may read, and a query without a bound may read all of them. The windows cover
all times, whatever the chunks are: these only decide where one window ends, so the result is that of one query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

# Each window has this many times as many chunks as the one before it: a list that ends early costs few more queries.
GROWTH = 4


class Window(msgspec.Struct, frozen=True):
    """From `start` (inclusive) to `end` (exclusive), in the unit of the chunks; None leaves that side open."""

    start: int | None
    end: int | None


def windows(starts: Sequence[int], first: int) -> Iterator[Window]:
    """Return windows, newest first, that together cover all times, each once.

    `starts` are those of the chunks that the list may read, in any order; `first` is how many of them the first window
    has.
    """
    newest = sorted(starts, reverse=True)
    end: int | None = None
    size, read = max(1, first), 0
    while len(newest) - read > size:
        start = newest[read + size - 1]
        yield Window(start, end)
        end = start
        read += size
        size *= GROWTH
    yield Window(None, end)
