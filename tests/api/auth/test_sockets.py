"""Tokens and WebSockets before a real API: who may open one, how much it may use, and when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from marketdata.events import BookUpdate

LIMIT_S = 30


def book(symbol: str) -> BookUpdate:
    """Return a book of one level."""
    return BookUpdate(venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=1, ts_recv=1, kind="snapshot",
                      bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"])  # fmt: skip


def address(stage: Any, query: str = "") -> str:
    """Return the address of the WebSocket."""
    return f"ws://127.0.0.1:{stage.port}/ws{query}"


async def refusal(stage: Any, query: str = "", **options: Any) -> dict[str, Any]:
    """Return the problem with which an upgrade is refused, with its headers."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(address(stage, query), proxy=None, **options):
            pass
    response = refused.value.response
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(response.body)
    assert body["status"] == response.status_code
    return body | {"headers": dict(response.headers.raw_items())}


async def ask(connection: ClientConnection, **message: Any) -> dict[str, Any]:
    """Send a message and return the next one."""
    await connection.send(json.dumps(message))
    async with asyncio.timeout(LIMIT_S):
        answer: dict[str, Any] = json.loads(await connection.recv())
        return answer


async def closing(connection: ClientConnection) -> tuple[int, str]:
    """Return the code and the reason with which the server closes."""
    async with asyncio.timeout(LIMIT_S):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.recv()
    assert connection.close_code is not None
    return connection.close_code, connection.close_reason or ""


def test_a_token_opens_a_socket_in_each_of_three_ways(secured: Any, admin: Any, symbol: str) -> None:
    """In the address, in a header and as a subprotocol; the last is what a browser can set."""
    secured.produce(book(symbol))
    token = admin.token()

    async def work() -> None:
        ways: list[tuple[str, dict[str, Any]]] = [
            (f"?token={token}", {}),
            ("", {"additional_headers": {"Authorization": f"Bearer {token}"}}),
            ("", {"subprotocols": [f"bearer.{token}"]}),
            ("", {"subprotocols": ["json", f"bearer.{token}"]}),
        ]
        for query, options in ways:
            async with connect(address(secured, query), proxy=None, **options) as connection:
                assert (await ask(connection, op="ping", id=7))["type"] == "pong"
                assert connection.subprotocol in {None, "json", f"bearer.{token}"}

    asyncio.run(work())


def test_an_upgrade_without_a_right_token_is_refused_before_it_happens(
    secured: Any, admin: Any, make_owner: Callable[..., Any]
) -> None:
    """No token, a changed one, the key itself and a key without the scope: each problem states what to do."""
    token = admin.token()

    async def work() -> None:
        none = await refusal(secured)
        assert (none["status"], none["code"]) == (401, "key_required")
        assert none["headers"]["WWW-Authenticate"] == "Bearer"
        changed = await refusal(secured, f"?token={token[:-6]}AAAAAA")
        assert (changed["status"], changed["code"]) == (401, "token_refused")
        itself = await refusal(secured, additional_headers={"Authorization": f"Bearer {admin.key}"})
        assert (itself["status"], itself["code"]) == (401, "token_required")
        assert "/api/v1/tokens" in itself["detail"]

    asyncio.run(work())
    answer = make_owner(secured, "market:read").post("/api/v1/tokens")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


def test_revoking_a_key_in_another_process_closes_its_sockets_and_ends_its_tokens(
    secured: Any, make_owner: Callable[..., Any], run_keys: Callable[..., Any], admin: Any
) -> None:
    """Only those of that key, with a code that tells a client not to come back with the same key."""
    owner = make_owner(secured, "stream")
    token, other = owner.token(), admin.token()

    async def work() -> None:
        async with (
            connect(address(secured, f"?token={token}"), proxy=None) as connection,
            connect(address(secured, f"?token={other}"), proxy=None) as kept,
        ):
            revoked = await asyncio.to_thread(run_keys, secured, "revoke", owner.prefix)
            assert revoked.returncode == 0
            assert await closing(connection) == (4003, "key_revoked")
            assert (await ask(kept, op="ping", id=1))["type"] == "pong"
        refused = await refusal(secured, f"?token={token}")
        assert (refused["status"], refused["detail"]) == (401, "the API key of the token was revoked")

    asyncio.run(work())


TIERS = """
[local]
requests_per_second = 100000
burst = 100000
sockets = 100000
subscriptions = 1000
depth = 50000
history_days = 0
export = true

[free]
requests_per_second = 10
burst = 20
sockets = 2
subscriptions = 2
depth = 20
history_days = 30
export = false
"""


@pytest.fixture(params=["1", "2"], ids=["alone", "workers"])
def workers(request: pytest.FixtureRequest) -> str:
    """How many processes hold the sockets: what a client may use does not depend on it."""
    return str(request.param)


@pytest.fixture
def limited(stage: Any, tmp_path: Path, workers: str) -> Any:
    """An API with a small free tier."""
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(TIERS)
    stage.env |= {"TICKSTREAM_API_TIERS": str(tiers)}
    stage.start(TICKSTREAM_API_ANONYMOUS="0", TICKSTREAM_API_WORKERS=workers)
    stage.ready()
    return stage


def test_a_revoked_key_closes_the_sockets_of_workers_too(
    stage: Any, make_owner: Callable[..., Any], run_keys: Callable[..., Any]
) -> None:
    """The market's process knows of the revocation, the worker has the socket; another key's socket stays open."""
    owner, other = make_owner(stage, "stream"), make_owner(stage, "stream")
    stage.start(TICKSTREAM_API_ANONYMOUS="0", TICKSTREAM_API_WORKERS="2")
    stage.ready()

    async def work() -> None:
        none = await refusal(stage)
        assert (none["status"], none["code"]) == (401, "key_required")
        token, kept_token = await asyncio.to_thread(owner.token), await asyncio.to_thread(other.token)
        async with (
            connect(address(stage, f"?token={token}"), proxy=None, subprotocols=[Subprotocol("json")]) as connection,
            connect(
                address(stage), proxy=None, subprotocols=[Subprotocol("json"), Subprotocol(f"bearer.{kept_token}")]
            ) as kept,
        ):
            assert kept.subprotocol == "json"
            assert (await ask(connection, op="ping", id=1))["type"] == "pong"
            assert (await asyncio.to_thread(run_keys, stage, "revoke", owner.prefix)).returncode == 0
            assert await closing(connection) == (4003, "key_revoked")
            assert (await ask(kept, op="ping", id=1))["type"] == "pong"

    asyncio.run(work())


def test_a_socket_closes_when_its_token_expires(stage: Any, make_owner: Callable[..., Any], workers: str) -> None:
    """The token then opens nothing more."""
    owner = make_owner(stage, "stream")
    stage.start(TICKSTREAM_API_ANONYMOUS="0", TICKSTREAM_API_TOKEN_S="4", TICKSTREAM_API_WORKERS=workers)
    stage.ready()

    async def work() -> None:
        answer = await asyncio.to_thread(owner.post, "/api/v1/tokens")
        token = answer.json()["token"]
        assert 1 <= answer.json()["expires_in"] <= 4
        async with connect(address(stage, f"?token={token}"), proxy=None) as connection:
            assert (await ask(connection, op="ping", id=1))["type"] == "pong"
            assert await closing(connection) == (4001, "token_expired")
        refused = await refusal(stage, f"?token={token}")
        assert (refused["status"], refused["code"]) == (401, "token_refused")
        assert "expired" in refused["detail"]

    asyncio.run(work())


def test_rotating_the_signing_key_leaves_earlier_tokens_valid(
    secured: Any, admin: Any, run_keys: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    """New tokens have a new `kid` within a minute; the private part of the old key is erased."""
    before = admin.token()
    old = jwt.get_unverified_header(before)["kid"]
    assert run_keys(secured, "rotate-signing").returncode == 0
    new = wait_for(
        "a new signing key",
        lambda: (kid := jwt.get_unverified_header(admin.token())["kid"]) != old and kid,
    )

    async def work() -> None:
        for token in (before, admin.token()):
            async with connect(address(secured, f"?token={token}"), proxy=None) as connection:
                assert (await ask(connection, op="ping", id=7))["type"] == "pong"

    asyncio.run(work())
    options = f"-c search_path={secured.schema},public"
    with psycopg.connect(secured.endpoints.database_url, options=options) as connection:
        rows = connection.execute("SELECT kid, private_key IS NULL FROM api_signing_keys").fetchall()
    assert {(old, True), (new, False)} <= set(rows)


def test_the_limits_of_a_tier_hold_on_rest_and_sockets(
    limited: Any, make_owner: Callable[..., Any], symbol: str, wait_for: Callable[..., Any]
) -> None:
    """Depth, exports, range of history, subscriptions and sockets; each refusal names the tier's limit."""
    owner = make_owner(limited, tier="free")
    limited.produce(book(symbol))
    path = f"/api/v1/market/{symbol}"
    reader = make_owner(limited, "market:read", tier="local")
    wait_for("the book", lambda: reader.get(f"{path}/orderbook").status_code == 200)
    assert owner.get(f"{path}/orderbook", params={"depth": 20}).status_code == 200

    def code(answer: Any) -> tuple[int, str]:
        return answer.status_code, answer.json()["code"]

    assert code(owner.get(f"{path}/orderbook", params={"depth": 21})) == (403, "depth_limit")
    assert code(owner.get(f"{path}/trades", headers={"Accept": "text/csv"})) == (403, "export_not_included")
    old = {"start": "2024-01-01T00:00:00Z"}
    assert code(owner.get(f"{path}/trades", params=old)) == (403, "history_range")
    assert code(owner.get(f"{path}/candles", params={"end": "2024-01-01T00:00:00Z"})) == (403, "history_range")
    assert owner.get(f"{path}/trades").status_code == 200
    token = owner.token()

    async def work() -> None:
        one, two = (connect(address(limited, f"?token={token}"), proxy=None) for _ in range(2))
        async with one as first, two:
            full = await refusal(limited, f"?token={token}")
            assert (full["status"], full["code"]) == (429, "too_many_sockets")
            assert full["headers"]["Retry-After"] == "5"
            deep = await ask(first, op="subscribe", id=1, channels=["book"], symbols=[symbol], depth=50)
            assert (deep["type"], deep["code"]) == ("error", "tier_limit")
            many = await ask(
                first, op="subscribe", id=2, channels=["book", "trades", "ticker"], symbols=[symbol], depth=20
            )
            assert (many["type"], many["code"]) == ("error", "too_many_subscriptions")
            assert "at most 2" in many["message"]
            assert (await ask(first, op="subscribe", id=3, channels=["book"], symbols=[symbol], depth=20))[
                "type"
            ] == "subscribed"

        async def again() -> bool:
            with contextlib.suppress(InvalidStatus):
                async with connect(address(limited, f"?token={token}"), proxy=None):
                    return True
            return False

        async with asyncio.timeout(LIMIT_S):
            while not await again():
                pass

    asyncio.run(work())


def test_requests_over_the_limit_get_429_and_are_served_when_stated(
    limited: Any, make_owner: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    """Headers count down, the refusal says when to come back, and another key is not concerned."""
    owner, other = (make_owner(limited, "market:read", tier="free") for _ in range(2))
    first = owner.get("/api/v1/status")
    assert first.headers["ratelimit-policy"] == '"requests";q=20;w=2'
    assert first.headers["ratelimit"] == '"requests";r=19;t=1'
    answers = [owner.get("/api/v1/status") for _ in range(80)]
    refused = [answer for answer in answers if answer.status_code == 429]
    served = [answer for answer in answers if answer.status_code == 200]
    assert refused
    assert served
    assert refused[0].json()["code"] == "rate_limited"
    assert refused[0].headers["retry-after"] == "1"
    assert "20 at once" in refused[0].json()["detail"]
    assert other.get("/api/v1/status").status_code == 200
    wait_for("to be served again", lambda: owner.get("/api/v1/status").status_code == 200)
    assert limited.log.read_text().count("Traceback") == 0
