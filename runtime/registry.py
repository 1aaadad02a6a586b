"""The schema registry: register, check and fetch schemas through the Confluent-compatible REST interface."""

from __future__ import annotations

import json
from typing import Any

import httpx

from marketdata import schemas
from marketdata.codec import Codec
from marketdata.errors import CodecError, Unavailable, UnknownSchema
from marketdata.events import EVENTS, AnyEvent

COMPATIBILITY = "FULL_TRANSITIVE"
_NOT_FOUND = 404
_CONFLICT = 409


class Registry:
    """A client of one registry; every call has a time limit and raises Unavailable when it does not answer."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/",
            timeout=timeout_s,
            headers={"Accept": "application/vnd.schemaregistry.v1+json", "Content-Type": "application/json"},
        )
        self._url = url

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"the schema registry at {self._url} does not answer: {error}") from error
        if answer.is_server_error:
            raise Unavailable(f"the schema registry at {self._url} answers {answer.status_code}: {answer.text[:200]}")
        return answer

    def _told(self, answer: httpx.Response, name: str) -> Any:
        """Return a value of an answer; what stands between us and the registry may answer in its place."""
        try:
            return answer.json()[name]
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"what answers at {self._url} is no schema registry: {answer.text[:200]!r}") from error

    def register(self, name: str) -> int:
        """Register a record's schema under its subject (nothing happens when it is there) and return its id.

        Raises CodecError when it is not compatible with every earlier version, FULL_TRANSITIVE.
        """
        subject = schemas.subject(name)
        answer = self._ask("PUT", f"config/{subject}", {"compatibility": COMPATIBILITY})
        # A conflict here: somebody else is setting the same rule at this moment.
        if answer.is_error and answer.status_code not in {_NOT_FOUND, _CONFLICT}:
            raise CodecError(f"the registry refuses {COMPATIBILITY} for {subject}: {answer.text[:200]}")
        answer = self._ask("POST", f"subjects/{subject}/versions", {"schema": json.dumps(schemas.load(name))})
        if answer.status_code == _CONFLICT:
            raise CodecError(f"{schemas.file_name(name)} is not {COMPATIBILITY} compatible: {answer.text[:500]}")
        if answer.is_error:
            raise CodecError(f"the registry refuses {schemas.file_name(name)}: {answer.text[:500]}")
        return int(self._told(answer, "id"))

    def lookup(self, name: str) -> int:
        """Return the id of a record's schema as it is in `schemas/`.

        Raises UnknownSchema when it was never registered.
        """
        subject = schemas.subject(name)
        answer = self._ask("POST", f"subjects/{subject}", {"schema": json.dumps(schemas.load(name))})
        if answer.is_error:
            raise UnknownSchema(f"{subject} is not registered: run `tickstream schemas register`")
        return int(self._told(answer, "id"))

    def fetch(self, schema_id: int) -> dict[str, Any]:
        """Return the schema that an id stands for.

        Raises UnknownSchema when the registry knows none.
        """
        answer = self._ask("GET", f"schemas/ids/{schema_id}")
        if answer.is_error:
            raise UnknownSchema(f"the registry knows no schema id {schema_id}", schema_id)
        schema: dict[str, Any] = json.loads(self._told(answer, "schema"))
        return schema

    def codec(self) -> Codec:
        """Return a codec that knows the id of every schema of ours."""
        return Codec({event.schema: self.lookup(event.schema) for event in EVENTS})


def decode(codec: Codec, registry: Registry, data: bytes) -> AnyEvent:
    """Return the event that the bytes hold, fetching a schema that the codec does not know yet, once.

    Raises CodecError for what is no record of ours, Unavailable when the registry is needed and does not answer.
    """
    try:
        return codec.decode(data)
    except UnknownSchema as error:
        schema_id = error.args[1]
        codec.learn(schema_id, registry.fetch(schema_id))
        return codec.decode(data)
