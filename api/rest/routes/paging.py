"""The page of a list that a request asks for, its format, and how its answer names the next one.

Source of the header `Link`: https://www.rfc-editor.org/rfc/rfc8288
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Query, Request, Response
from fastapi.params import Depends as Dependency

from api.core.messages import Json
from api.rest.access import permitted
from api.rest.answers import CHECKED, FINAL, LIVE, json_answer, kept_answer
from api.rest.codes import Code
from api.rest.columns import Columns
from api.rest.export import ROWS_MAX, Format, export, format_of
from api.rest.parameters import Range, read_cursor, time_range, write_cursor
from api.rest.problems import Problem, bad_value
from marketdata.clock import MINUTE_NS, format_rfc3339

LIMIT_MAX = 1_000
# A range is over when even a slow sink has stored it.
_OVER_NS = 10 * MINUTE_NS
# Venues amend trades on the next days, and gaps are repaired within hours: after a week, history is final.
_FINAL_NS = 7 * 24 * 60 * MINUTE_NS
_HISTORY_NEEDED = "the database does not respond, and a file needs all of the history"

StartQuery = Annotated[
    str | None,
    Query(description="From this time on (inclusive), RFC 3339 with a zone.", examples=["2026-08-09T21:00:00Z"]),
]
EndQuery = Annotated[
    str | None,
    Query(description="Up to this time (exclusive), RFC 3339 with a zone.", examples=["2026-08-09T22:00:00Z"]),
]
LimitQuery = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Items on a page at most.", examples=[100])]
RowsQuery = Annotated[
    int | None,
    Query(
        ge=1,
        le=ROWS_MAX,
        description=f"Items at most: of a page of JSON {LIMIT_MAX:,}, of the other formats, which have no pages, "
        f"{ROWS_MAX:,}. Without it, these end with the range.",
        examples=[100],
    ),
]
FormatQuery = Annotated[
    Format | None,
    Query(alias="format", description="Format of the answer; the header `Accept` names it as well.", examples=["json"]),
]
CursorQuery = Annotated[
    str | None, Query(description="`next_cursor` of the page before; the other parameters stay the same.")
]

# Where an item is in its list: its time first, then what orders items of equal time.
Place = tuple[Any, ...]


class Page(msgspec.Struct, frozen=True):
    """At most `limit` items of `span`, newest first; those after the place `before` when a cursor was given.

    `rows` is the limit that the request names.
    """

    span: Range
    before: Place | None
    limit: int
    rows: int | None = None
    form: Format = Format.JSON
    unbounded: bool = True  # the request names neither start nor end

    @property
    def is_latest(self) -> bool:
        """Whether the request asks for the newest items of all."""
        return self.before is None and self.unbounded

    def cache(self, now: int) -> str:
        """Return for how long the page may be kept at `now` (UTC nanoseconds)."""
        if self.span.end is None or self.span.end > now - _OVER_NS:
            return LIVE
        return FINAL if self.span.end <= now - _FINAL_NS else CHECKED

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


# The items of a page with their places, newest first, and whether all that is stored was read.
Found = tuple[list[tuple[Place, Json]], bool]


async def listed(
    request: Request,
    page: Page,
    find: Callable[[Page], Awaitable[Found]],
    wrap: Callable[[list[Json]], Json],
    *,
    columns: Columns,
    constant: Json | None = None,
    now: int | None = None,
) -> Response:
    """Answer with a page as JSON, as `wrap` puts it together, or with the list as a file with these columns.

    `find` returns the items of a page, and one more where there are more; `constant` are fields of each row of a file.
    What is around the items of a range that is over states its end, and whether all of them are valid, so that the same
    request has the same answer; `now` judges that, and without it the list may change at any time.
    """
    cache = LIVE if now is None else page.cache(now)
    if page.form is Format.JSON:
        items, complete = await find(page)
        data, cursor = page.cut(items, complete=complete)
        following = _address(request, cursor)
        body = wrap(data) | {"next_cursor": cursor, "next": following}
        headers = {"Vary": "Accept, Accept-Encoding"}
        if following is not None:
            headers["Link"] = f'<{following}>; rel="next"'
        if cache == LIVE:
            return json_answer(request, body, headers)
        # A backfill may still bring what there is nothing of yet.
        return kept_answer(request, body | _past(page, data), cache if data else CHECKED, headers)

    async def read(place: Place | None, rows: int) -> tuple[list[tuple[Place, Json]], bool]:
        before = page.before if place is None else place
        items, complete = await find(msgspec.structs.replace(page, before=before, limit=rows))
        if not complete:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, _HISTORY_NEEDED, code=Code.HISTORY_UNAVAILABLE)
        return items[:rows], len(items) > rows

    return await export(page.form, columns, constant or {}, read, page.rows, cache=cache if cache == LIVE else CHECKED)


def _past(page: Page, data: list[Json]) -> Json:
    """Return what is around items of a range that is over."""
    assert page.span.end is not None  # noqa: S101 - for the type checker: only such a range is over
    bad = next((item["reason"] for item in data if not item["valid"]), None)
    ts = page.span.end
    return {"timestamp": format_rfc3339(ts), "ts_event": str(ts), "valid": bad is None, "reason": bad or ""}


def _address(request: Request, cursor: str | None) -> str | None:
    """Return the address of the next page, without the host: a proxy may have another name."""
    if cursor is None:
        return None
    url = request.url.include_query_params(cursor=cursor)
    return f"{url.path}?{url.query}"


def paged(kinds: type[tuple[int | str, ...]], limit_default: int = 100) -> Dependency:
    """Return the dependency that reads a page of a list whose places have these kinds of parts.

    `limit_default` is the number of items of a page of JSON.
    """

    # Not a plain function, which FastAPI would call in a thread.
    async def read(
        request: Request,
        *,
        start: StartQuery = None,
        end: EndQuery = None,
        limit: RowsQuery = None,
        cursor: CursorQuery = None,
        form: FormatQuery = None,
    ) -> Page:
        chosen = format_of(request, form)
        if chosen is Format.JSON and limit is not None and limit > LIMIT_MAX:
            raise bad_value("limit", limit, f"must be at most {LIMIT_MAX}")
        asked = time_range(start, end)
        span = permitted(request, asked, exports=chosen is not Format.JSON)
        before = read_cursor(cursor, kinds)
        return Page(span, before, limit or limit_default, limit, chosen, unbounded=asked.open)

    reader: Callable[..., Awaitable[Page]] = read
    found: Dependency = Depends(reader)
    return found
