"""The OpenAPI description, and that no request whatever is answered with a failure of ours."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from fastapi.openapi.models import OpenAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from marketdata.events import BookUpdate

PATHS = {
    "/api/v1/market/symbols", "/api/v1/market/{symbol}/ticker", "/api/v1/market/{symbol}/orderbook",
    "/api/v1/market/{symbol}/trades", "/api/v1/market/{symbol}/derivatives",
    "/api/v1/market/{symbol}/candles", "/api/v1/market/{symbol}/candles/revisions",
    "/api/v1/market/{symbol}/metrics", "/api/v1/market/{symbol}/consolidated",
    "/api/v1/market/{symbol}/candles/explain", "/api/v1/market/{symbol}/quotes", "/api/v1/market/{symbol}/books",
    "/api/v1/gaps", "/api/v1/jobs", "/api/v1/anomalies", "/api/v1/status",
    "/health", "/status", "/candles", "/candles/latest", "/gaps", "/symbols",
    "/api/v1/status/summary", "/healthz", "/readyz", "/metrics",
}  # fmt: skip
KEYS = {"/api/v1/tokens", "/api/v1/admin/keys", "/api/v1/admin/keys/{prefix}", "/api/v1/admin/keys/{prefix}/rotate"}


@pytest.fixture(scope="module")
def description(shared: Any) -> dict[str, Any]:
    """The description as served."""
    found: dict[str, Any] = shared.get("/openapi.json")
    return found


def references(value: Any) -> set[str]:
    """Return every schema that is referred to."""
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_path_is_described_with_examples(description: dict[str, Any]) -> None:
    """Each operation has a summary, a text, and each parameter a description; each error is a problem."""
    assert set(description["paths"]) == PATHS | KEYS
    operations = [(path, each) for path, methods in description["paths"].items() for each in methods.values()]
    for path, operation in operations:
        assert operation["summary"], path
        assert operation["description"], path
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (path, parameter["name"])
        for status, response in operation["responses"].items():
            if path.startswith("/api/") and status not in {"200", "201"}:
                assert list(response["content"]) == ["application/problem+json"], (path, status)


def test_every_reference_leads_to_a_schema(description: dict[str, Any]) -> None:
    """No reference dangles, and no schema is described that nothing refers to."""
    schemas = description["components"]["schemas"]
    named = {name.rpartition("/")[2] for name in references(description)}
    assert named == set(schemas)


def test_the_description_is_a_valid_openapi_document(description: dict[str, Any]) -> None:
    """FastAPI's own model of OpenAPI 3.1, which is strict about shapes, reads it."""
    assert description["openapi"].startswith("3.1")
    assert OpenAPI.model_validate(description).info.title == "Tickstream"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
TIMES = st.one_of(
    st.datetimes().map(lambda time: time.isoformat() + "Z"),
    st.sampled_from(["2026-08-09T21:05:48.123456789Z", "1970-01-01T00:00:00Z", "2262-04-11T23:47:16Z", "now"]),
)
NUMBERS = st.one_of(st.integers(), st.sampled_from([0, 1, 1000, 50_000, 2**63, -(2**63)])).map(str)
CURSORS = st.one_of(
    TEXT, st.sampled_from(["W10", "WzEsMiwzXQ", "Wy0xLC0xLC0xXQ", "WzkyMjMzNzIwMzY4NTQ3NzU4MDcsMSwxXQ", "WzEsImEiXQ"])
)
VALUES = {
    "start": TIMES, "end": TIMES, "limit": NUMBERS, "depth": NUMBERS, "cursor": CURSORS,
    "interval": st.sampled_from(["1m", "1d", "2m", "7m", ""]), "venue": st.one_of(TEXT, st.just("coinbase")),
    "symbol": st.one_of(TEXT, st.just("FUZZ-USD")), "state": st.sampled_from(["open", "repaired", "x"]),
    "kind": st.sampled_from(["gap", "x"]), "severity": st.sampled_from(["info", "x"]),
    "source": st.sampled_from(["trades", "venue", "x"]), "format": st.sampled_from(["json", "x"]),
}  # fmt: skip
PARAMETERS = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), st.one_of(VALUES[name], TEXT))),
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(  # a time in the year 15388
    path="/api/v1/anomalies", symbol="FUZZ-USD", parameters=[("cursor", "WzQyMzQzMjQzNjQxNDQzNTQwNywxLDRd")]
)
@given(
    path=st.sampled_from(sorted(path for path in PATHS if path.startswith("/api/"))),
    symbol=st.one_of(st.just("FUZZ-USD"), TEXT.filter(lambda text: text.strip("./") != "")),
    parameters=PARAMETERS,
)
def test_no_parameters_whatever_make_the_api_fail(
    shared: Any, path: str, symbol: str, parameters: list[tuple[str, str]]
) -> None:
    """Whatever is asked is answered or refused with a problem that says why; it is never our fault."""
    if shared.client.get("/api/v1/market/FUZZ-USD/ticker").status_code == 404:
        shared.produce(
            BookUpdate(venue="coinbase", symbol="FUZZ-USD", line="coinbase/0", ts_event=1, ts_recv=1, kind="snapshot",
                       bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"])
        )  # fmt: skip
    answer = shared.client.get(path.format(symbol=quote(symbol, safe="")), params=parameters)
    assert answer.status_code in {200, 404, 409, 422}, (answer.status_code, answer.text)
    if answer.status_code == 200:
        assert "valid" in answer.json()
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]
