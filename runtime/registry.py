"""The schema registry: register, check and fetch schemas through the Confluent-compatible REST interface."""

from __future__ import annotations

import json
from typing import Any

import httpx

from marketdata import schemas
from marketdata.codec import Codec
from marketdata.errors import CodecError, Unavailable, UnknownSchema
from marketdata.events import EVENTS, AnyEvent
from runtime.redaction import redacted

COMPATIBILITY = "FULL_TRANSITIVE"
_NOT_FOUND = 404
_CONFLICT = 409


class RegistryFailing(Unavailable):
    """The registry accepts a request but cannot process it: usually its database is unavailable."""


class Registry:
    """A client of one registry; every call has a time limit and raises Unavailable when it does not respond."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/",
            timeout=timeout_s,
            headers={"Accept": "application/vnd.schemaregistry.v1+json", "Content-Type": "application/json"},
        )
        self._url = redacted(url)  # as errors show it

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            response = self._client.request(method, path, json=body)
        except httpx.ReadTimeout as error:
            raise RegistryFailing(f"the schema registry at {self._url} does not respond in time") from error
        except httpx.HTTPError as error:
            raise Unavailable(f"the schema registry at {self._url} does not respond: {error}") from error
        if response.is_server_error:
            problem = f"{response.status_code}: {response.text[:200]}"
            raise RegistryFailing(f"the schema registry at {self._url} responds with {problem}")
        return response

    def _field(self, response: httpx.Response, name: str) -> Any:
        """Return a field of a response, which a proxy between us and the registry may have sent in its place."""
        try:
            return response.json()[name]
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"the server at {self._url} is not a schema registry: {response.text[:200]!r}") from error

    def register(self, name: str) -> int:
        """Register a record's schema under each of its subjects (those that have it stay as they are); return its id.

        Raises CodecError when it is not compatible with every earlier version, FULL_TRANSITIVE.
        """
        ids = [self._register(name, subject) for subject in schemas.subjects(name)]
        if len(set(ids)) != 1:
            raise CodecError(f"the registry has several ids for {schemas.file_name(name)}: {ids}")
        return ids[0]

    def _register(self, name: str, subject: str) -> int:
        response = self._request("PUT", f"config/{subject}", {"compatibility": COMPATIBILITY})
        # A conflict: another process is setting the same rule at this moment.
        if response.is_error and response.status_code not in {_NOT_FOUND, _CONFLICT}:
            raise CodecError(f"the registry refuses {COMPATIBILITY} for {subject}: {response.text[:200]}")
        response = self._request("POST", f"subjects/{subject}/versions", {"schema": json.dumps(schemas.load(name))})
        if response.status_code == _CONFLICT:
            raise CodecError(
                f"{schemas.file_name(name)} is not {COMPATIBILITY} compatible with subject {subject}: "
                f"{response.text[:500]} (a local registry with schemas from before version 1: `make clean` empties it)"
            )
        if response.is_error:
            raise CodecError(f"the registry refuses {schemas.file_name(name)} for {subject}: {response.text[:500]}")
        return int(self._field(response, "id"))

    def lookup(self, name: str, subject: str | None = None) -> int:
        """Return the id of a record's schema as it is in `schemas/`, under the record's own subject or another.

        Raises UnknownSchema when it is not registered.
        """
        subject = subject or schemas.subject(name)
        response = self._request("POST", f"subjects/{subject}", {"schema": json.dumps(schemas.load(name))})
        if response.is_error:
            raise UnknownSchema(f"{subject} is not registered: run `tickstream schemas register`")
        return int(self._field(response, "id"))

    def compatibility(self, subject: str) -> str:
        """Return the compatibility rule of a subject.

        Raises UnknownSchema when it has none.
        """
        response = self._request("GET", f"config/{subject}")
        if response.is_error:
            raise UnknownSchema(f"{subject} has no compatibility rule: run `tickstream schemas register`")
        return str(self._field(response, "compatibilityLevel"))

    def fetch(self, schema_id: int) -> dict[str, Any]:
        """Return the schema of an id.

        Raises UnknownSchema when the registry has none.
        """
        response = self._request("GET", f"schemas/ids/{schema_id}")
        if response.is_error:
            raise UnknownSchema(f"the registry has no schema id {schema_id}", schema_id)
        schema: dict[str, Any] = json.loads(self._field(response, "schema"))
        return schema

    def codec(self) -> Codec:
        """Return a codec with the ids of all our schemas."""
        return Codec({event.schema: self.lookup(event.schema) for event in EVENTS})


def decode(codec: Codec, registry: Registry, data: bytes) -> AnyEvent:
    """Return the event in the bytes; a schema that the codec does not know yet is fetched once.

    Raises CodecError for bytes that are not one of our records, Unavailable when the registry is needed and does not
    respond.
    """
    try:
        return codec.decode(data)
    except UnknownSchema as error:
        schema_id = error.args[1]
        codec.learn(schema_id, registry.fetch(schema_id))
        return codec.decode(data)
