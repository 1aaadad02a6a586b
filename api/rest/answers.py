"""Answers as bytes: JSON by orjson, compressed and cached as the client can and may.

Live answers are stored by no cache. History has a tag, so that asking again for what did not change costs no body; when
it is old enough to be final, it is not asked for again for an hour. Sources: HTTP caching,
https://www.rfc-editor.org/rfc/rfc9111; conditional requests, https://www.rfc-editor.org/rfc/rfc9110;
`immutable`, https://www.rfc-editor.org/rfc/rfc8246.
"""

from __future__ import annotations

import gzip
from hashlib import blake2b
from typing import Any

import orjson
import zstandard
from fastapi import Request, Response

MEDIA_TYPE = "application/json"
LIVE = "no-store"
# It is kept, and asked for with its tag.
CHECKED = "private, no-cache"
# A backfill or a repair may still change it: whoever keeps it learns that within an hour.
FINAL = "private, max-age=3600, immutable"
# Below this, compressing costs more time than the bytes are worth.
COMPRESSED_FROM_BYTES = 4096
# Fast rather than small: these answers are made once each. Brotli, which is slow, is for files.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1
_TAG_BYTES = 16


def json_answer(request: Request, value: Any, headers: dict[str, str] | None = None) -> Response:
    """Return a value as an answer that no cache keeps: it is true for a moment only."""
    return bytes_answer(request, orjson.dumps(value), headers)


def kept_answer(request: Request, value: Any, cache: str, headers: dict[str, str]) -> Response:
    """Return a value of the past as an answer with a tag, or 304 to a client that has it already."""
    body = orjson.dumps(value)
    # Weak: the compressed forms differ in their bytes.
    tag = f'W/"{blake2b(body, digest_size=_TAG_BYTES).hexdigest()}"'
    kept = {"Cache-Control": cache, "ETag": tag} | headers
    if has_tag(request, tag):
        return Response(None, 304, {"Vary": "Accept-Encoding"} | kept)
    return bytes_answer(request, body, kept)


def has_tag(request: Request, tag: str) -> bool:
    """Return whether the client has the answer with this tag, by the weak comparison that `If-None-Match` requires."""
    given = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return "*" in given or tag.removeprefix("W/") in given


def bytes_answer(request: Request, body: bytes, headers: dict[str, str] | None = None) -> Response:
    """Return JSON that is ready as an answer; that of a moment, unless the headers say otherwise."""
    sent = {"Cache-Control": LIVE, "Vary": "Accept-Encoding"} | (headers or {})
    if len(body) >= COMPRESSED_FROM_BYTES:
        accepted = request.headers.get("accept-encoding", "")
        if accepts(accepted, "zstd"):
            body = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
            sent["Content-Encoding"] = "zstd"
        elif accepts(accepted, "gzip"):
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            sent["Content-Encoding"] = "gzip"
    return Response(body, 200, sent, MEDIA_TYPE)


def accepts(accepted: str, encoding: str) -> bool:
    """Return whether a client that sent this `Accept-Encoding` takes an encoding."""
    for part in accepted.split(","):
        name, _, parameters = part.partition(";")
        if name.strip().lower() == encoding:
            return parameters.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
