"""WebSocket frames of a server, made once for any number of clients (RFC 6455, and RFC 7692 for compression).

A server's frames carry no mask, so that the same bytes fit every client. Compression is negotiated without context
takeover, so that a compressed message stands alone and is shared too.
"""

from __future__ import annotations

import struct
import zlib
from typing import Self

TEXT = 0x1
_FIN = 0x80
_COMPRESSED = 0x40
_LENGTH_16 = 126
_LENGTH_64 = 127
_SMALL_MAX = 125
_HEAD_SIZES = {_LENGTH_16: 4, _LENGTH_64: 10}  # by the second byte; 2 for all others

# Below this, compressing costs more time than the bytes are worth.
COMPRESSED_FROM_BYTES = 1024
_WINDOW_BITS = -15
_FLUSH_TAIL = b"\x00\x00\xff\xff"
_WINDOW_SIZES = {str(bits) for bits in range(8, 16)}

EXTENSION = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def header(length: int, first: int) -> bytes:
    """Return the header of an unmasked frame."""
    if length <= _SMALL_MAX:
        return bytes((first, length))
    if length < 1 << 16:
        return struct.pack("!BBH", first, _LENGTH_16, length)
    return struct.pack("!BBQ", first, _LENGTH_64, length)


class Frame:
    """One text message, framed; compressed only if a client wants it so, once."""

    __slots__ = ("_deflated", "plain")

    def __init__(self, plain: bytes) -> None:
        """Take the bytes of an uncompressed frame."""
        self.plain = plain
        self._deflated: bytes | None = None

    @classmethod
    def of(cls, payload: bytes) -> Self:
        """Return the frame of a text."""
        return cls(header(len(payload), _FIN | TEXT) + payload)

    def deflated(self) -> bytes:
        """Return the frame for clients that understand compression; small messages stay as they are."""
        if self._deflated is None:
            payload = self.plain[_HEAD_SIZES.get(self.plain[1], 2) :]
            self._deflated = self.plain if len(payload) < COMPRESSED_FROM_BYTES else _deflate(payload)
        return self._deflated


def _deflate(payload: bytes) -> bytes:
    compressor = zlib.compressobj(level=1, wbits=_WINDOW_BITS)
    body = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_FLUSH_TAIL)
    return header(len(body), _FIN | _COMPRESSED | TEXT) + body


class TooLong(ValueError):  # noqa: N818 - what the message is
    """A message that would be longer than allowed once it is inflated."""


def inflate(payload: bytes, limit: int) -> bytes:
    """Return a compressed message's text; never more than `limit` + 1 bytes are inflated.

    Raises TooLong when it is longer than `limit`, ValueError when it is damaged.
    """
    decompressor = zlib.decompressobj(wbits=_WINDOW_BITS)
    try:
        text = decompressor.decompress(payload + _FLUSH_TAIL, limit + 1)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from None
    if len(text) > limit:
        raise TooLong(f"at most {limit} bytes")
    if decompressor.eof and decompressor.unused_data not in {_FLUSH_TAIL, b"\x00" + _FLUSH_TAIL}:
        # RFC 7692 7.2.3.4: after a final block comes at most one empty byte, and the tail that the sender left out.
        raise ValueError("damaged: data after the final block")
    return text


def accepts_deflate(offered: str) -> bool:
    """Return whether a client's Sec-WebSocket-Extensions offers compression in a form that we use (RFC 7692 7.1)."""
    return any(_is_usable(offer) for offer in offered.split(","))


def _is_usable(offer: str) -> bool:
    name, *parameters = (part.strip() for part in offer.split(";"))
    names = []
    for parameter in parameters:
        key, has_value, value = (part.strip() for part in parameter.partition("="))
        names.append(key)
        # A smaller window than ours would have to be honoured, so such an offer is declined; ours suits any client.
        if key == "client_max_window_bits":
            if has_value and value.strip('"') not in _WINDOW_SIZES:
                return False
        elif has_value or key not in {"server_no_context_takeover", "client_no_context_takeover"}:
            return False
    return name == "permessage-deflate" and len(set(names)) == len(names)
