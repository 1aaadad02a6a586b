"""Reads zstd and gzip files of any number of frames like uncompressed ones, up to the first damage."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

# Few compressed bytes may expand to very many, so this little is decompressed at once, and this much read ahead.
_PACKED_BYTES = 8 * 1024
_READ_BYTES = 1 << 20

_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib then expects a gzip header
_KINDS: dict[bytes, Callable[[], Any]] = {
    b"\x28\xb5\x2f\xfd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    b"\x1f\x8b\x08": lambda: zlib.decompressobj(_GZIP_WINDOW),
}
_MAGIC_BYTES = 4


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file, and decompress it if necessary; `damage` returns afterwards whether it was readable to its end."""
    with path.open("rb") as file:
        start = file.peek(_MAGIC_BYTES)
        make = next((make for magic, make in _KINDS.items() if start.startswith(magic)), None)
        yield file if make is None else io.BufferedReader(_Unpacked(file, make), _READ_BYTES)


def damage(plain: io.BufferedReader) -> str:
    """Return why the rest of a file is unreadable; empty if it is readable, or was not read that far."""
    return plain.raw.damage if isinstance(plain.raw, _Unpacked) else ""


class _Unpacked(io.RawIOBase):
    """The content of a compressed file up to any damage. The libraries' own readers do not report truncated files."""

    def __init__(self, packed: BinaryIO, make: Callable[[], Any]) -> None:
        self.damage = ""
        self._packed = packed
        self._make = make
        self._frame: Any = None
        self._rest = b""
        self._out = memoryview(b"")

    def readable(self) -> bool:
        """Return True, as the file interface requires."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with as much data as is available."""
        filled = 0
        while filled < len(buffer) and (self._out or self._unpack()):
            size = min(len(buffer) - filled, len(self._out))
            buffer[filled : filled + size] = self._out[:size]
            self._out = self._out[size:]
            filled += size
        return filled

    def _unpack(self) -> bool:
        """Decompress more data; False at the end of the file and at damage."""
        packed = b"" if self.damage else self._rest or self._packed.read(_PACKED_BYTES)
        self._rest = b""
        if not packed:
            if self._frame is not None and not self.damage:
                self.damage = "the compressed stream is truncated"
            return False
        try:
            self._frame = self._frame or self._make()
            self._out = memoryview(self._frame.decompress(packed))
        except (zstandard.ZstdError, zlib.error) as error:
            self.damage = f"the compressed stream is damaged: {error}"
            return False
        if self._frame.eof:
            self._rest = self._frame.unused_data
            self._frame = None
        return True
