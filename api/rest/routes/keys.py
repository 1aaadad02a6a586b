"""API keys for operators, and tokens for the WebSocket."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from api.auth.access import now
from api.auth.keys import NAME_CHARACTERS_MAX, Key
from api.rest.access import address_of, client_of
from api.rest.codes import Code
from api.rest.models.keys import KeyAnswer, KeysAnswer, NewKey, NewKeyAnswer, Rotation, TokenAnswer
from api.rest.problems import Problem, bad_value
from api.rest.routes.common import StrictRoute, problems, service_of
from marketdata.clock import format_rfc3339
from marketdata.errors import TickstreamError

router = APIRouter(route_class=StrictRoute)

_KEYS = "/api/v1/admin/keys"
_PrefixPath = Annotated[
    str, Path(description="The key's prefix.", pattern=r"^[0-9a-f]{12}$", examples=["3f9c1a7b20de"])
]


@router.post(
    "/api/v1/tokens",
    tags=["keys"],
    response_model=TokenAnswer,
    responses=problems(422, 503),
    summary="A token for the WebSocket",
)
async def tokens(request: Request) -> Response:
    """Answer with a short-lived token that opens sockets with the rights of the key that sent the request."""
    access, client = service_of(request).access, client_of(request)
    if client.key is None:
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "a token is issued for an API key; without one, none is needed",
            code=Code.KEY_REQUIRED,
        )
    token, grant = access.issue(client.key)
    access.audit.note(client.who, "token.issue", "done", address_of(request))
    expires_in = int((grant.expires_at - now()).total_seconds())
    return _answer(
        request, "token", token=token, expires_at=f"{grant.expires_at:%Y-%m-%dT%H:%M:%SZ}", expires_in=expires_in
    )


@router.get(_KEYS, tags=["keys"], response_model=KeysAnswer, responses=problems(422, 503), summary="All API keys")
async def list_keys(
    request: Request,
    owner: Annotated[str | None, Query(description="Only of this owner.", max_length=NAME_CHARACTERS_MAX)] = None,
) -> Response:
    """List every key, the newest first. No answer contains a secret."""
    found = await _stored(service_of(request).access.store.all_keys(owner))
    return _answer(request, "keys", data=[key.shown() for key in found])


@router.post(
    _KEYS,
    tags=["keys"],
    response_model=NewKeyAnswer,
    status_code=201,
    responses=problems(422, 503),
    summary="Make an API key",
)
async def create_key(request: Request, new: NewKey) -> Response:
    """Make a key. The answer contains the key, which cannot be shown again."""
    access = service_of(request).access
    if new.tier not in access.tiers:
        raise bad_value("tier", new.tier, f"there are {', '.join(access.tiers)}")
    lifetime = timedelta(days=new.expires_in_days) if new.expires_in_days is not None else None
    key, text = await _stored(
        access.store.create(
            name=new.name, owner=new.owner, scopes=sorted(set(new.scopes)), tier=new.tier, lifetime=lifetime
        )
    )
    _note(request, "key.create", key)
    return _answer(request, "new_key", HTTPStatus.CREATED, key=text, data=key.shown())


@router.post(
    f"{_KEYS}/{{prefix}}/rotate",
    tags=["keys"],
    response_model=NewKeyAnswer,
    status_code=201,
    responses=problems(404, 422, 503),
    summary="Replace an API key",
)
async def rotate_key(request: Request, prefix: _PrefixPath, rotation: Rotation) -> Response:
    """Make a key with the same rights. The old one works until the overlap has passed."""
    access = service_of(request).access
    rotated = await _stored(access.store.rotate(prefix, timedelta(hours=rotation.overlap_hours)))
    if rotated is None:
        raise _no_key(prefix, "usable API key")
    key, text = rotated
    _note(request, "key.rotate", key, f"{prefix} -> {key.prefix}")
    return _answer(request, "new_key", HTTPStatus.CREATED, key=text, data=key.shown())


@router.delete(
    f"{_KEYS}/{{prefix}}",
    tags=["keys"],
    response_model=KeyAnswer,
    responses=problems(404, 422, 503),
    summary="Revoke an API key",
)
async def revoke_key(request: Request, prefix: _PrefixPath) -> Response:
    """Revoke a key at once and for good, with its tokens; its sockets are closed."""
    access = service_of(request).access
    key = await _stored(access.store.revoke(prefix))
    if key is None:
        raise _no_key(prefix, "API key")
    access.changed(key)
    _note(request, "key.revoke", key)
    return _answer(request, "key", data=key.shown())


async def _stored(work: Any) -> Any:
    try:
        return await work
    except TickstreamError as error:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), code=Code.KEYS_UNAVAILABLE) from None


def _note(request: Request, action: str, key: Key, detail: str = "") -> None:
    client = client_of(request)
    service_of(request).access.audit.note(client.who, action, "done", address_of(request), detail or key.prefix)


def _no_key(prefix: str, what: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, f"there is no {what} with the prefix {prefix}", code=Code.NO_SUCH_KEY)


def _answer(request: Request, kind: str, status: HTTPStatus = HTTPStatus.OK, **content: Any) -> Response:
    body = {"type": kind, "timestamp": format_rfc3339(service_of(request).clock())} | content
    return Response(orjson.dumps(body), status.value, {"Cache-Control": "no-store"}, "application/json")
