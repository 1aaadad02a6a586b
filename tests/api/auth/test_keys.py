"""API keys before a real API and database: who is served, what a key may do, how it is replaced and revoked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import httpx
import psycopg
import pytest

from api.auth.keys import SCOPES, make
from api.rest.access import is_open, scope_of

EVERY_KEY = "/api/v1/admin/keys"


def problem(answer: httpx.Response, status: HTTPStatus) -> str:
    """Return the code of a problem, after a check that it is one."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["status"] == status
    assert body["detail"]
    return str(body["code"])


def audited(stage: Any, who: str) -> list[tuple[Any, ...]]:
    """Return the audit log's entries of somebody, as the owner of the database reads them."""
    options = f"-c search_path={stage.schema},public"
    with psycopg.connect(stage.endpoints.database_url, options=options) as connection:
        return connection.execute(
            "SELECT action, outcome, address, detail FROM api_audit WHERE who = %s ORDER BY ts", [who]
        ).fetchall()


def test_without_a_key_only_probes_and_documents_are_served(secured: Any) -> None:
    """Everything else is 401 with the way to a key, and it carries the security headers."""
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert secured.client.get(path).status_code == 200, path
    for path in ("/metrics", "/api/v1/status", "/api/v1/market/symbols", "/api/v1/gaps", EVERY_KEY, "/nothing/here"):
        answer = secured.client.get(path)
        assert problem(answer, HTTPStatus.UNAUTHORIZED) == "key_required", path
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_wrong_keys_are_refused_alike(secured: Any, admin: Any) -> None:
    """An unknown key, a right prefix with a wrong secret and another form: the answer says nothing of which it was."""
    _, unknown = make()
    wrong = admin.key[:-1] + ("0" if admin.key[-1] != "0" else "1")
    answers = [
        secured.client.get("/api/v1/status", headers={"Authorization": f"Bearer {text}"})
        for text in (unknown, wrong, "tsk_", "x" * 5000, admin.key.upper())
    ]
    assert {problem(answer, HTTPStatus.UNAUTHORIZED) for answer in answers} == {"key_unknown"}
    assert len({answer.json()["detail"] for answer in answers}) == 1
    basic = secured.client.get("/api/v1/status", headers={"Authorization": "Basic dGVzdA=="})
    assert problem(basic, HTTPStatus.UNAUTHORIZED) == "bad_authorization"
    in_address = secured.client.get("/api/v1/status", params={"api_key": admin.key})
    assert problem(in_address, HTTPStatus.UNAUTHORIZED) == "key_required"


def test_a_key_does_what_its_scopes_allow(secured: Any, make_owner: Callable[..., Any]) -> None:
    """Each scope opens its paths and no other."""
    paths = {
        "market:read": ["/api/v1/status", "/api/v1/market/symbols"],
        "history:read": ["/api/v1/gaps", "/api/v1/jobs", "/api/v1/anomalies"],
        "metrics:read": ["/metrics"],
        "admin": [EVERY_KEY],
    }
    for scope, opened in paths.items():
        owner = make_owner(secured, scope)
        for other, closed in paths.items():
            for path in closed:
                answer = owner.get(path)
                if other == scope:
                    assert answer.status_code == 200, (scope, path, answer.text)
                else:
                    assert problem(answer, HTTPStatus.FORBIDDEN) == "scope_missing", (scope, path)
        assert problem(owner.post("/api/v1/tokens"), HTTPStatus.FORBIDDEN) == "scope_missing"
        assert opened


def test_every_path_of_the_description_needs_a_known_scope(secured: Any) -> None:
    """A new path is closed unless it is a probe or a document: the open ones are these."""
    paths = secured.get("/openapi.json")["paths"]
    assert {path for path in paths if is_open(path)} == {"/healthz", "/readyz", "/health"}
    assert all(scope_of(path) in SCOPES for path in paths)
    assert all(scope_of(path) == "admin" for path in paths if "admin" in path)


def test_an_operator_makes_replaces_and_revokes_a_key(secured: Any, admin: Any) -> None:
    """The secret is in the first answer only; an old key works during the overlap; a revoked one is refused at once."""
    wish = {"name": "n", "owner": "life-cycle", "scopes": ["market:read"], "tier": "standard", "expires_in_days": 30}
    made = admin.post(EVERY_KEY, json=wish)
    assert made.status_code == 201, made.text
    first = made.json()["key"]
    prefix = made.json()["data"]["prefix"]

    def status(key: str) -> int:
        answer: httpx.Response = secured.client.get("/api/v1/status", headers={"Authorization": f"Bearer {key}"})
        return answer.status_code

    assert status(first) == 200
    rotated = admin.post(f"{EVERY_KEY}/{prefix}/rotate", json={"overlap_hours": 1})
    assert rotated.status_code == 201, rotated.text
    second = rotated.json()["key"]
    assert (status(first), status(second)) == (200, 200)
    again = admin.post(f"{EVERY_KEY}/{prefix}/rotate", json={})
    assert problem(again, HTTPStatus.NOT_FOUND) == "no_such_key"
    listed = {each["prefix"]: each for each in admin.get(EVERY_KEY, params={"owner": "life-cycle"}).json()["data"]}
    new = rotated.json()["data"]
    assert listed[prefix]["replaced_by"] == new["prefix"]
    assert listed[prefix]["expires_at"] < new["expires_at"]
    assert {name: new[name] for name in ("name", "owner", "scopes", "tier")} == {
        name: wish[name] for name in ("name", "owner", "scopes", "tier")
    }

    for key in (first, second):
        gone = admin.delete(f"{EVERY_KEY}/{key.split('_')[1]}")
        assert gone.status_code == 200
        assert gone.json()["data"]["revoked_at"]
        assert status(key) == 401

    everything = admin.get(EVERY_KEY).text
    assert "secret" not in everything
    assert not [key for key in (first, second, admin.key) if key in everything or key.rpartition("_")[2] in everything]
    assert problem(admin.delete(f"{EVERY_KEY}/000000000000"), HTTPStatus.NOT_FOUND) == "no_such_key"
    mistakes: list[dict[str, Any]] = [
        {"tier": "golden"}, {"scopes": ["everything"]}, {"scopes": []}, {"hash": "x"}, {"name": "a\x00b"},
    ]  # fmt: skip
    for change in mistakes:
        assert admin.post(EVERY_KEY, json=wish | change).status_code == 422, change


def test_changes_and_refusals_are_in_the_audit_log(
    secured: Any, admin: Any, make_owner: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    """Who, what, outcome and address are stored within moments, and no key is."""
    reader = make_owner(secured, "market:read")
    assert problem(reader.get("/api/v1/gaps"), HTTPStatus.FORBIDDEN) == "scope_missing"
    refused = wait_for("the refusal", lambda: audited(secured, f"key:{reader.prefix}"))
    assert refused == [("request.refuse", "scope_missing", "127.0.0.1", "GET /api/v1/gaps")]
    admin.token()
    admin.delete(f"{EVERY_KEY}/{reader.prefix}")

    def complete() -> set[tuple[Any, ...]]:
        found = set(audited(secured, f"key:{admin.prefix}"))
        return found if ("key.revoke", "done", "127.0.0.1", reader.prefix) in found else set()

    found = wait_for("the revocation", complete)
    assert ("token.issue", "done", "127.0.0.1", "") in found
    assert ("admin.call", "200", "127.0.0.1", f"DELETE {EVERY_KEY}/{reader.prefix}") in found
    options = f"-c search_path={secured.schema},public"
    with psycopg.connect(secured.endpoints.database_url, options=options) as connection:
        assert connection.execute("SELECT count(*) FROM api_audit WHERE detail ~ '_[0-9a-f]{64}'").fetchone() == (0,)
    assert ("tsk_" in secured.log.read_text()) is False


def test_the_last_use_of_a_key_is_known(
    secured: Any, admin: Any, make_owner: Callable[..., Any], run_keys: Any
) -> None:
    """It is written when the API stops, and about once a minute before."""
    owner = make_owner(secured, "market:read")
    listed = {each["prefix"]: each for each in admin.get(EVERY_KEY).json()["data"]}
    assert listed[owner.prefix]["last_used_at"] is None
    assert owner.get("/api/v1/status").status_code == 200
    secured.stop()
    secured.start(TICKSTREAM_API_ANONYMOUS="0")
    secured.ready()
    listed = {each["prefix"]: each for each in admin.get(EVERY_KEY).json()["data"]}
    assert listed[owner.prefix]["last_used_at"] is not None


def test_an_expired_key_is_refused(secured: Any, make_owner: Callable[..., Any], admin: Any) -> None:
    """The reason is stated, since who has the key may know it."""
    owner = make_owner(secured, "market:read", lifetime=timedelta(days=1))
    assert owner.get("/api/v1/status").status_code == 200
    rotated = admin.post(f"{EVERY_KEY}/{owner.prefix}/rotate", json={"overlap_hours": 0})
    assert rotated.status_code == 201
    ended = make_owner(secured, "market:read", lifetime=timedelta())
    answer = ended.get("/api/v1/status")
    assert problem(answer, HTTPStatus.UNAUTHORIZED) == "key_unusable"
    assert answer.json()["detail"] == "the API key has expired"


def test_known_keys_work_while_the_database_is_away_and_unknown_ones_do_not(
    stage: Any, gate: Any, make_owner: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    """An outage stops no client that was served before, and lets nobody else in."""
    known, unknown = make_owner(stage, "market:read"), make_owner(stage, "market:read")
    stage.start(TICKSTREAM_API_ANONYMOUS="0", TICKSTREAM_API_DATABASE_URL=gate.url)
    stage.ready()
    assert known.get("/api/v1/status").status_code == 200
    gate.close()
    assert known.get("/api/v1/status").status_code == 200
    answer = unknown.get("/api/v1/status")
    assert problem(answer, HTTPStatus.SERVICE_UNAVAILABLE) == "keys_unavailable"
    assert answer.headers["retry-after"] == "2"
    gate.open()
    wait_for("the key to be found", lambda: unknown.get("/api/v1/status").status_code == 200)


def test_guesses_from_one_address_are_slowed_and_do_not_disturb_its_right_keys(
    stage: Any, make_owner: Callable[..., Any]
) -> None:
    """After some wrong keys an address gets 429 for any unknown one; a key that is known goes on."""
    owner = make_owner(stage, "market:read")
    stage.start(TICKSTREAM_API_ANONYMOUS="0", TICKSTREAM_REDIS_URL="")
    stage.ready()
    assert owner.get("/api/v1/status").status_code == 200
    codes = []
    for _ in range(40):
        answer = stage.client.get("/api/v1/status", headers={"Authorization": f"Bearer {make()[1]}"})
        codes.append(answer.json()["code"])
    assert codes[:20] == ["key_unknown"] * 20
    assert codes.count("too_many_wrong_keys") >= 15
    assert answer.headers["retry-after"]
    assert owner.get("/api/v1/status").status_code == 200


@pytest.mark.parametrize("forwarded", ["203.0.113.9", "127.0.0.1"])
def test_a_proxy_does_not_make_everybody_local(shared: Any, forwarded: str) -> None:
    """Behind a proxy on the same machine, clients without a key are refused until the operator decides."""
    assert shared.client.get("/api/v1/status").status_code == 200
    answer = shared.client.get("/api/v1/status", headers={"X-Forwarded-For": forwarded})
    assert problem(answer, HTTPStatus.UNAUTHORIZED) == "key_required"
    assert "TICKSTREAM_API_ANONYMOUS=1" in answer.json()["detail"]


def test_without_a_key_nobody_administers_even_locally(shared: Any) -> None:
    """Anonymous access never includes the keys, and needs no token."""
    assert problem(shared.client.get(EVERY_KEY), HTTPStatus.UNAUTHORIZED) == "key_required"
    assert problem(shared.client.post("/api/v1/tokens"), HTTPStatus.UNAUTHORIZED) == "key_required"


def test_the_api_process_refuses_to_start_open_to_others() -> None:
    """It exits at once with what to set."""
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        env=os.environ | {"TICKSTREAM_HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "TICKSTREAM_HOST = 0.0.0.0" in done.stderr
    assert "TICKSTREAM_API_ANONYMOUS=0" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_has_help_examples_and_clear_errors(secured: Any, run_keys: Callable[..., Any]) -> None:
    """Each command explains itself, and each mistake is one clear message."""
    for command in ("create", "list", "rotate", "revoke", "rotate-signing"):
        done = run_keys(secured, command, "--help")
        assert done.returncode == 0
        assert "Example:" in done.stdout
        assert f"tickstream keys {command}" in " ".join(done.stdout.split())
    for arguments, says in (
        (["create", "n", "--owner", "o", "--scope", "all"], "none of market:read"),
        (["create", "n", "--owner", "o", "--tier", "golden"], "none of local, free"),
        (["create", "n", "--owner", "o", "--expires", "soon"], "90d, 12h or 30m"),
        (["rotate", "000000000000"], "tickstream keys list"),
        (["revoke", "000000000000"], "tickstream keys list"),
    ):
        done = run_keys(secured, *arguments)
        assert done.returncode != 0
        assert says in " ".join(done.stderr.replace("│", " ").split()), done.stderr
        assert "Traceback" not in done.stderr


def test_the_command_line_makes_lists_replaces_and_revokes(
    secured: Any, make_owner: Callable[..., Any], run_keys: Callable[..., Any]
) -> None:
    """The key is alone on the standard output; lists show its state and never its secret."""
    done = run_keys(secured, "create", "night job", "--owner", "cli", "--scope", "market:read", "--expires", "90d")
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    prefix = key.split("_")[1]
    assert "cannot be shown again" in done.stderr
    listed = run_keys(secured, "list", "--owner", "cli").stdout
    assert prefix in listed
    assert "active until" in listed
    assert key not in listed
    rotated = run_keys(secured, "rotate", prefix, "--overlap", "7d")
    assert rotated.returncode == 0, rotated.stderr
    new = rotated.stdout.strip()
    assert secured.client.get("/api/v1/status", headers={"Authorization": f"Bearer {new}"}).status_code == 200
    assert run_keys(secured, "revoke", prefix).returncode == 0
    assert "revoked" in run_keys(secured, "list", "--owner", "cli").stdout
    assert [row[:2] for row in audited(secured, f"cli:{os.environ.get('USER', 'root')}")][-2:] == [
        ("key.rotate", "done"), ("key.revoke", "done"),
    ]  # fmt: skip
