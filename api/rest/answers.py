"""Answers as bytes: JSON by orjson, compressed when it is worth it and the client can take it."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
import zstandard
from fastapi import Request, Response

MEDIA_TYPE = "application/json"
# Below this, compressing costs more time than the bytes are worth.
COMPRESSED_FROM_BYTES = 4096
# Fast rather than small: these answers are made once each.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1


def json_answer(request: Request, value: Any) -> Response:
    """Return a value as an answer that no cache keeps: it is true for a moment only."""
    return bytes_answer(request, orjson.dumps(value))


def bytes_answer(request: Request, body: bytes) -> Response:
    """Return JSON that is ready as an answer."""
    headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    if len(body) >= COMPRESSED_FROM_BYTES:
        accepted = request.headers.get("accept-encoding", "")
        if _accepts(accepted, "zstd"):
            body = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
            headers["Content-Encoding"] = "zstd"
        elif _accepts(accepted, "gzip"):
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = "gzip"
    return Response(body, 200, headers, MEDIA_TYPE)


def _accepts(accepted: str, encoding: str) -> bool:
    for part in accepted.split(","):
        name, _, parameters = part.partition(";")
        if name.strip().lower() == encoding:
            return parameters.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
