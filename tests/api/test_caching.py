"""What caches may keep: live answers never, history with a tag, and files of the dashboard by their name."""

from __future__ import annotations

import asyncio
import gzip
import time
from pathlib import Path
from typing import Any

import brotli
import httpx
import pytest
import zstandard
from fastapi import FastAPI, Request, Response

from api.rest.files import Files
from api.rest.problems import install
from marketdata.clock import MINUTE_NS, format_rfc3339
from marketdata.events import BookUpdate, Trade, Trades

DAY_NS = 24 * 60 * MINUTE_NS


NOW = time.time_ns() // MINUTE_NS * MINUTE_NS


@pytest.fixture(scope="module")
def symbol(shared: Any) -> str:
    """A symbol with a trade a month ago, a day ago and now."""
    name = "CACHED-USD"
    shared.execute(
        "INSERT INTO trades (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, item, valid, reason, "
        "liquidation, price, size, side, action, trade_id, venue, symbol, line, origin) SELECT to_timestamp(ts), "
        "ts * 1000000000, 0, %s, 0, 0, true, '', false, 1, 1, 'buy', 'new', %s, 'coinbase', %s, 'l', 'live' "
        "FROM (SELECT %s::bigint AS ts) AS one",
        [(number, str(days), name, (NOW - days * DAY_NS) // 10**9) for number, days in enumerate((30, 1))],
    )
    shared.produce(
        BookUpdate(venue="coinbase", symbol=name, line="coinbase/0", ts_event=NOW, ts_recv=time.time_ns(),
                   kind="snapshot", bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"]),
        Trades(venue="coinbase", symbol=name, line="coinbase/0", ts_event=NOW, ts_recv=time.time_ns(),
               trades=(Trade(trade_id="0", ts_event=NOW, price="1", size="1", side="buy"),)),
    )  # fmt: skip
    return name


def ask(shared: Any, symbol: str, end: int | None, **headers: str) -> httpx.Response:
    """Return the answer with the trades up to a time."""
    parameters = {} if end is None else {"end": format_rfc3339(end)}
    answer: httpx.Response = shared.client.get(
        f"/api/v1/market/{symbol}/trades", params={"limit": 1} | parameters, headers=headers
    )
    return answer


def test_live_answers_are_kept_by_no_cache(shared: Any, symbol: str, wait_for: Any) -> None:
    """Neither the latest values, nor a range that may still get data, nor the ledger, nor an error."""
    wait_for("the trade", lambda: ask(shared, symbol, None).json().get("data", [{}])[0].get("trade_id") == "0")
    market = f"/api/v1/market/{symbol}"
    recent = format_rfc3339(time.time_ns() - MINUTE_NS)
    for path in (
        f"{market}/trades", f"{market}/ticker", f"{market}/orderbook", f"{market}/trades?end={recent}",
        "/api/v1/gaps?end=2020-01-01T00:00:00Z", "/api/v1/status", "/nowhere",
    ):  # fmt: skip
        answer = shared.client.get(path)
        assert answer.headers["cache-control"] == "no-store", path
        assert "etag" not in answer.headers, path


@pytest.mark.parametrize(("days", "cache"), [(0.5, "private, no-cache"), (20, "private, max-age=3600, immutable")])
def test_history_has_a_tag_and_old_history_is_final(
    shared: Any, symbol: str, wait_for: Any, days: float, cache: str
) -> None:
    """The same request has the same answer, whatever the live data does meanwhile; a client that has it gets 304."""
    end = NOW - int(days * DAY_NS)
    wait_for("the symbol", lambda: ask(shared, symbol, end).status_code == 200)
    first = ask(shared, symbol, end)
    assert first.headers["cache-control"] == cache
    tag = first.headers["etag"]
    body = first.json()
    assert (body["timestamp"], body["valid"]) == (format_rfc3339(end), True)
    shared.produce(BookUpdate(venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=NOW, ts_recv=time.time_ns(),
                              kind="clear", valid=False, reason="gap"))  # fmt: skip
    wait_for("the change", lambda: not shared.get(f"/api/v1/market/{symbol}/orderbook")["valid"])
    assert ask(shared, symbol, end).content == first.content
    for given in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        again = ask(shared, symbol, end, **{"If-None-Match": given})
        assert (again.status_code, again.content) == (304, b"")
        assert (again.headers["etag"], again.headers["cache-control"]) == (tag, cache)
    assert ask(shared, symbol, end, **{"If-None-Match": '"other"'}).status_code == 200


def test_a_corrected_trade_changes_the_tag(shared: Any, symbol: str, wait_for: Any) -> None:
    """A cache never serves what was corrected as if it were not."""
    end = NOW - 20 * DAY_NS
    wait_for("the symbol", lambda: ask(shared, symbol, end).status_code == 200)
    before = ask(shared, symbol, end)
    shared.execute("UPDATE trades SET price = price + 1 WHERE symbol = %s AND trade_id = %s", [(symbol, "30")])
    after = ask(shared, symbol, end, **{"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert after.headers["etag"] != before.headers["etag"]


def test_what_is_empty_is_not_final(shared: Any, symbol: str, wait_for: Any) -> None:
    """A backfill may bring it."""
    wait_for("the symbol", lambda: ask(shared, symbol, NOW - DAY_NS).status_code == 200)
    answer = ask(shared, symbol, NOW - 40 * DAY_NS)
    assert (answer.json()["data"], answer.headers["cache-control"]) == ([], "private, no-cache")


@pytest.fixture
def files(tmp_path: Path) -> httpx.AsyncClient:
    """A client of an app that serves a page, a script with a hash in its name, and an image."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<html>" + "x" * 5_000)
    (tmp_path / "assets" / "index-Dx33nruU.js").write_text("let x = 1;\n" * 5_000)
    (tmp_path / "assets" / "icon.png").write_bytes(b"\x89PNG" * 5_000)
    app, served = FastAPI(), Files(tmp_path)
    install(app)

    @app.get("/{path:path}")
    async def file(request: Request, path: str) -> Response:
        return await served.answer(request, path)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api")


DECODERS = {
    "br": brotli.decompress, "gzip": gzip.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body, 10**6), None: bytes,
}  # fmt: skip


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip, deflate, br, zstd", "br"), ("gzip, zstd", "zstd"), ("gzip", "gzip"), ("br;q=0, gzip", "gzip"),
     ("identity", None)],
)  # fmt: skip
def test_files_are_sent_in_the_best_form_the_browser_reads(
    files: httpx.AsyncClient, accepted: str, encoding: str | None
) -> None:
    """Twice the same bytes, made once."""

    async def get() -> tuple[httpx.Response, bytes]:
        request = files.build_request("GET", "/assets/index-Dx33nruU.js", headers={"Accept-Encoding": accepted})
        answer = await files.send(request, stream=True)
        return answer, b"".join([part async for part in answer.aiter_raw()])

    for _ in range(2):
        answer, body = asyncio.run(get())
        assert answer.headers.get("content-encoding") == encoding
        assert DECODERS[encoding](body) == b"let x = 1;\n" * 5_000
        assert "Accept-Encoding" in answer.headers["vary"]


def test_files_with_a_hash_in_their_name_are_kept_for_a_year(files: httpx.AsyncClient) -> None:
    """The page that names them is asked for each time, and has a tag."""

    def get(path: str, **headers: str) -> httpx.Response:
        return asyncio.run(files.get(path, headers=headers))

    script = get("/assets/index-Dx33nruU.js")
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    page = get("/index.html")
    assert page.headers["cache-control"] == "no-cache"
    again = get("/index.html", **{"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    image = get("/assets/icon.png")
    assert "content-encoding" not in image.headers
    assert (get("/assets/none.js")).json()["code"] == "not_found"
