"""Requests to the simulated REST interfaces, and their responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec


class Answer(NamedTuple):
    """A venue's response: status, headers and body."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


class Asked(NamedTuple):
    """A request; `query` also contains the fields of a form, and as `body` a JSON text."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


def json(value: Any, status: int = 200) -> Answer:
    """Return a JSON answer."""
    return Answer(status, msgspec.json.encode(value), {"content-type": "application/json"})


def raw(text: str) -> msgspec.Raw:
    """Return a JSON number with just these digits."""
    return msgspec.Raw(text.encode())
