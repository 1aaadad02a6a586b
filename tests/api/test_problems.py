"""Errors over REST: problems with a stable code, the field and value, and an id that finds the request."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from api.rest.codes import MEANINGS, Code, reference
from api.rest.models.shared import ProblemAnswer
from api.rest.problems import install
from marketdata.events import BookUpdate, Instrument
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


def problem(shared: Any, path: str, status: int, method: str = "GET", **headers: str) -> dict[str, Any]:
    """Return a problem, held to its shape."""
    answer = shared.client.request(method, path, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    ProblemAnswer.model_validate(body)
    assert body["status"] == status
    assert body["instance"] == path.partition("?")[0]
    assert re.fullmatch(r"[0-9a-f]{32}", body["trace_id"])
    return body


@pytest.fixture(scope="module")
def known(shared: Any) -> str:
    """A symbol that two venues trade, as spot and as a perpetual."""
    for venue, kind in (("coinbase", "spot"), ("kraken", "perpetual")):
        shared.produce(
            BookUpdate(venue=venue, symbol="PROBLEM-USD", line=f"{venue}/0", ts_event=1, ts_recv=1, kind="snapshot",
                       bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"]),
            Instrument(venue=venue, symbol="PROBLEM-USD", ts_recv=1, venue_symbol="P", base_currency="PROBLEM",
                       quote_currency="USD", kind=kind),
        )  # fmt: skip
    path = "/api/v1/market/PROBLEM-USD/consolidated"
    wait_for("both", lambda: shared.client.get(path).json().get("code") == "ambiguous_kind")
    return "PROBLEM-USD"


@pytest.mark.parametrize(
    ("asked", "code", "field"),
    [
        (("market/{symbol}/trades?venue=coinbase&limit=0", 422), "bad_parameter", ("limit", "0")),
        (("market/{symbol}/trades?venue=coinbase&start=now", 422), "bad_parameter", ("start", "now")),
        (("market/{symbol}/trades?from=now", 422), "unknown_parameter", ("from", "now")),
        (("market/{symbol}/trades?limit=1&limit=2", 422), "repeated_parameter", ("limit", "2")),
        (("market/NONE-SUCH/ticker", 404), "unknown_symbol", None),
        (("market/{symbol}/ticker?venue=okx", 404), "symbol_not_at_venue", None),
        (("market/{symbol}/ticker", 409), "ambiguous_symbol", None),
        (("market/{symbol}/consolidated?kind=option", 404), "unknown_kind", ("kind", "option")),
        (("market/{symbol}/consolidated", 409), "ambiguous_kind", None),
        (("market/{symbol}/candles/explain?venue=coinbase&start=2020-01-01T00:00:00Z", 404), "nothing_stored", None),
        (("nowhere", 404), "not_found", None),
    ],
)
def test_each_error_has_its_code_and_names_field_and_value(
    shared: Any, known: str, asked: tuple[str, int], code: str, field: tuple[str, str] | None
) -> None:
    """A program reads the code; a person reads which value of which parameter was refused."""
    path, status = asked
    body = problem(shared, "/api/v1/" + path.format(symbol=known), status)
    assert body["code"] == code
    errors = [(each["field"], each["value"]) for each in body.get("errors", [])]
    assert errors == ([] if field is None else [field])


def test_a_method_that_is_not_there_has_its_code(shared: Any) -> None:
    """405."""
    assert problem(shared, "/api/v1/status", 405, "POST")["code"] == "method_not_allowed"


async def _ask_what_fails() -> httpx.Response:
    app = FastAPI()
    install(app)

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("secret text")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        return await client.get("/fails")


def test_a_failure_of_ours_says_nothing_but_its_code_and_id() -> None:
    """The text of an exception may have secrets: it is only in the log."""
    answer = asyncio.run(_ask_what_fails())
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert re.fullmatch(r"[0-9a-f]{32}", answer.json()["trace_id"])
    assert "secret" not in answer.text


def test_errors_differ_in_their_trace_ids(shared: Any) -> None:
    """Each names one request."""
    assert len({problem(shared, "/nowhere", 404)["trace_id"] for _ in range(3)}) == 3


def test_codes_of_a_start_and_of_a_database_that_is_away(stage: Any, gate: Any) -> None:
    """While Kafka is not read, while the database is away, and while a lock holds up a query."""
    gate.close()
    stage.start(TICKSTREAM_API_DATABASE_URL=gate.url, TICKSTREAM_KAFKA_BROKERS="127.0.0.1:1",
                TICKSTREAM_QUERY_TIMEOUT_MS="300")  # fmt: skip
    assert problem(stage, "/api/v1/market/BTC-USD/ticker", 503)["code"] == "market_loading"
    assert problem(stage, "/api/v1/gaps", 503)["code"] == "history_unavailable"
    gate.open()
    wait_for("the database", lambda: stage.client.get("/api/v1/gaps").status_code == 200)
    options = f"-c search_path={stage.schema}"
    with psycopg.connect(stage.endpoints.database_url, options=options) as owner:
        owner.execute("LOCK TABLE gaps IN ACCESS EXCLUSIVE MODE")
        assert problem(stage, "/api/v1/gaps", 503)["code"] == "query_too_slow"


def test_every_code_is_documented_described_and_tested(shared: Any) -> None:
    """In the reference, in OpenAPI under its status, and in a test of the API."""
    page = (ROOT / "docs/reference/errors.md").read_text()
    assert page == reference(), "run `python -m api.rest.codes > docs/reference/errors.md`"
    assert set(MEANINGS) == set(Code)
    described = shared.client.get("/openapi.json").text
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("*.py"))
    for code in Code:
        assert f'"{code}"' in tests, code
        assert f"`{code}`" in described, code
