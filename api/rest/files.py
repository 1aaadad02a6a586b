"""Files of the dashboard, compressed once and as small as each browser can read them, and cached by their tags."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import brotli
import zstandard
from fastapi import Request, Response

from api.rest.answers import COMPRESSED_FROM_BYTES, accepts, has_tag
from api.rest.problems import Problem

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
# Others are compressed already.
_COMPRESSED = {".html", ".js", ".css", ".json", ".map", ".svg", ".txt"}
# Best first. A file is compressed once, so all do their best.
_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "br": lambda body: brotli.compress(body, quality=11),
    "zstd": lambda body: zstandard.ZstdCompressor(level=19).compress(body),
    "gzip": lambda body: gzip.compress(body, 9, mtime=0),
}
# The build puts a hash of their bytes into the names of these: another file has another name.
_HASHED = "assets"
_YEAR = "public, max-age=31536000, immutable"
_KEPT_MAX = 500


class Files:
    """The files of one folder; keeps at most 500 compressed forms in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[tuple[str, str, str], bytes] = {}

    async def answer(self, request: Request, path: str) -> Response:
        """Return a file as an answer; raises Problem when it is not there."""
        try:
            file = (self._folder / path).resolve()
            found = file.is_relative_to(self._folder) and file.is_file()
        except (ValueError, OSError):
            found = False
        if not found or file.suffix not in _TYPES:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no file {request.url.path}")
        stat = file.stat()
        tag = f'W/"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
        is_hashed = file.parent == self._folder / _HASHED
        headers = {"Cache-Control": _YEAR if is_hashed else "no-cache", "ETag": tag, "Vary": "Accept-Encoding"}
        if has_tag(request, tag):
            return Response(None, 304, headers)
        encoding = ""
        if file.suffix in _COMPRESSED and stat.st_size >= COMPRESSED_FROM_BYTES:
            accepted = request.headers.get("accept-encoding", "")
            encoding = next((name for name in _ENCODINGS if accepts(accepted, name)), "")
        if encoding:
            headers["Content-Encoding"] = encoding
        return Response(await self._body(file, tag, encoding), 200, headers, _TYPES[file.suffix])

    async def _body(self, file: Path, tag: str, encoding: str) -> bytes:
        if not encoding:
            return await asyncio.to_thread(file.read_bytes)
        key = (str(file), tag, encoding)
        body = self._kept.get(key)
        if body is None:
            # The best compression of a large file takes half a second.
            body = self._kept[key] = await asyncio.to_thread(_compressed, file, encoding)
            if len(self._kept) > _KEPT_MAX:
                del self._kept[next(iter(self._kept))]
        return body


def _compressed(file: Path, encoding: str) -> bytes:
    return _ENCODINGS[encoding](file.read_bytes())
