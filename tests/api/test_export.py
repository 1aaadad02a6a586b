"""History as CSV, Arrow and Parquet: equal to the pages of JSON, exact to the last digit, and limited."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import Callable
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from api.rest import export as exporting
from api.rest.columns import TRADES, Columns, Kind
from api.rest.export import MEDIA_TYPES, ExportTooLarge, Format, export
from marketdata.events import Trade, Trades

TS = 1_786_309_548_228_568_123
PRICES = ("100.10", "0.1234567890123456789012345", "1000000000000000000000.1", "1e-8", "7")
ROWS = 6_100  # more than one piece


def read_csv(body: bytes) -> list[dict[str, Any]]:
    """Return the rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(body.decode())))


def read_arrow(body: bytes) -> list[dict[str, Any]]:
    """Return the rows of an Arrow stream, times as whole nanoseconds."""
    return rows_of(pa.ipc.open_stream(body).read_all())


def read_parquet(body: bytes) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file, times as whole nanoseconds."""
    return rows_of(pq.read_table(io.BytesIO(body)))


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows; Python's own times would cut nanoseconds off."""
    for number, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            assert (field.type.unit, field.type.tz) == ("ns", "UTC")
            table = table.set_column(number, field.name, table.column(number).cast(pa.int64()))
    found: list[dict[str, Any]] = table.to_pylist()
    return found


READERS: dict[str, Callable[[bytes], list[dict[str, Any]]]] = {
    "csv": read_csv, "arrow": read_arrow, "parquet": read_parquet,
}  # fmt: skip


@pytest.fixture(scope="module")
def symbol(shared: Any) -> str:
    """A symbol with trades in the table, of different times and exact prices, and one only in memory."""
    name = "EXPORTED-USD"
    shared.execute(
        "INSERT INTO trades (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, item, valid, reason, "
        "liquidation, price, size, side, action, trade_id, venue, symbol, line, origin, conditions) SELECT "
        "to_timestamp(%s / 1000000000) + n * interval '1 microsecond', %s + n * 1000, %s + n, n, 0, 0, n %% 3 > 0, "
        "CASE WHEN n %% 3 = 0 THEN 'gap' ELSE '' END, n %% 7 = 0, (%s::numeric[])[1 + n %% 5], 0.10, 'buy', 'new', "
        "n::text, 'coinbase', %s, 'coinbase/0', 'live', CASE WHEN n %% 2 = 0 THEN ARRAY['@', 'I, \"x\"'] END "
        "FROM generate_series(1, %s) AS n",
        [(TS, TS, TS, list(PRICES), name, ROWS)],
    )
    shared.produce(
        Trades(venue="coinbase", symbol=name, line="coinbase/0", ts_event=TS, ts_recv=time.time_ns(),
               trades=(Trade(trade_id="live", ts_event=TS + 10**10 + 1, price="5.50", size="1", side="sell"),))
    )  # fmt: skip
    return name


def pages(shared: Any, symbol: str) -> list[dict[str, Any]]:
    """Return all items of all pages of JSON, by the links of the answers alone."""
    path: str | None = f"/api/v1/market/{symbol}/trades?limit=1000"
    found: list[dict[str, Any]] = []
    while path is not None:
        answer = shared.client.get(path)
        body = answer.json()
        found += body["data"]
        path = body["next"]
        assert answer.headers.get("link") == (None if path is None else f'<{path}>; rel="next"')
    return found


def text(value: Any) -> str:
    """Return a value of JSON as CSV has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


@pytest.mark.parametrize("form", ["csv", "arrow", "parquet"])
def test_a_file_has_exactly_what_the_pages_have(shared: Any, symbol: str, wait_for: Any, form: str) -> None:
    """Every trade once, newest first, each decimal as it was sent, each time to the nanosecond."""
    path = f"/api/v1/market/{symbol}/trades"
    wait_for("the live trade", lambda: shared.get(path)["data"][0]["trade_id"] == "live")
    wanted = pages(shared, symbol)
    assert len(wanted) == ROWS + 1
    answer = shared.client.get(path, params={"format": form})
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == MEDIA_TYPES[Format(form)]
    assert answer.headers["cache-control"] == "no-store"
    found = READERS[form](answer.content)
    assert len(found) == len(wanted)
    for row, item in zip(found, wanted, strict=True):
        assert list(row) == list(TRADES)
        for name in ("trade_id", "price", "size", "side", "reason"):
            assert row[name] == item[name]
        for name in ("ts_event", "ts_recv"):
            assert str(row[name]) == item[name]
        assert (row["venue"], row["symbol"], row["action"]) == ("coinbase", symbol, "new")
        if form == "csv":
            assert (row["valid"], row["liquidation"]) == (text(item["valid"]), text(item["liquidation"]))
        else:
            assert (row["valid"], row["conditions"]) == (item["valid"], item.get("conditions", []))
    assert {row["price"] for row in found} >= {*PRICES[:3], "7"}


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("text/*;q=0.5, application/json;q=0.1", "text/csv"),
        ("application/vnd.apache.parquet, text/csv;q=0.9", "application/vnd.apache.parquet"),
        ("image/png, application/vnd.apache.arrow.stream;q=0.1", "application/vnd.apache.arrow.stream"),
    ],
)
def test_the_client_chooses_the_format(shared: Any, symbol: str, accept: str, media: str) -> None:
    """By the qualities of `Accept`."""
    path = f"/api/v1/market/{symbol}/trades"
    answer = shared.client.get(path, params={"limit": 3}, headers={"Accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == media


def test_a_format_that_there_is_not_is_refused(shared: Any, symbol: str) -> None:
    """406 names those that there are; the parameter is refused as every other."""
    path = f"/api/v1/market/{symbol}/trades"
    answer = shared.client.get(path, headers={"Accept": "image/png, text/csv;q=0"})
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
    assert "text/csv" in answer.json()["detail"]
    (error,) = shared.get(path, 422, format="xml")["errors"]
    assert (error["field"], error["value"]) == ("format", "xml")


def test_a_file_may_have_more_rows_than_a_page_and_no_more_than_asked_for(shared: Any, symbol: str) -> None:
    """Of JSON 1,000, of a file as many as the limit says."""
    path = f"/api/v1/market/{symbol}/trades"
    assert len(read_csv(shared.client.get(path, params={"format": "csv", "limit": 5_500}).content)) == 5_500
    assert shared.get(path, 422, limit=1_001)["code"] == "bad_parameter"
    shared.get(path, 422, limit=1_000_001, format="csv")


COLUMNS: Columns = {"n": Kind.COUNT}


@pytest.mark.parametrize(("limit", "value"), [("ROWS_MAX", 12_000), ("BYTES_MAX", 20_000), ("SECONDS_MAX", -1.0)])
def test_a_file_over_a_limit_is_cut_off_and_never_just_short(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    """An endless list ends in an error in the middle of the body, not in a file that looks whole."""
    monkeypatch.setattr(exporting, limit, value)

    async def read(place: int | None, rows: int) -> tuple[list[tuple[int, dict[str, Any]]], bool]:
        first = 0 if place is None else place + 1
        return [(n, {"n": n}) for n in range(first, first + rows)], True

    parts: list[bytes] = []

    async def take() -> None:
        answer = await export(Format.CSV, COLUMNS, {}, read, None)
        async for part in answer.body_iterator:  # type: ignore[attr-defined]
            parts.append(part)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ExportTooLarge):
        asyncio.run(take())
    assert 0 < sum(map(len, parts)) < 200_000


def test_the_database_going_away_cuts_a_file_off(stage: Any, gate: Any, wait_for: Any) -> None:
    """The client gets an error of its connection, never a file that lacks rows."""
    stage.start(TICKSTREAM_API_DATABASE_URL=gate.url)
    stage.ready()
    path = "/api/v1/gaps?format=csv"
    assert read_csv(stage.client.get(path).content) == []
    stage.execute(
        "INSERT INTO gaps (gap_id, venue, symbol, line, reason, detail, state, found_by, detected_at) SELECT "
        "n::text, 'coinbase', 'X', 'l', 'sequence', repeat('x', 500), 'open', 'feed', now() - n * interval '1 s' "
        "FROM generate_series(1, %s) AS n",
        [(60_000,)],
    )
    with stage.client.stream("GET", path) as answer:
        parts = answer.iter_raw()
        next(parts)
        gate.close()
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in parts:
                pass
    assert stage.get("/api/v1/gaps", 503)["code"] == "history_unavailable"
