"""Frames that the independent `websockets` library reads as we meant them."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode
from websockets.streams import StreamReader

from api.gateway.frames import COMPRESSED_FROM_BYTES, Frame, accepts_deflate, inflate


def parse(data: bytes, *, deflate: bool = False) -> TheirFrame:
    """Return the one frame that the bytes hold."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    extensions = [PerMessageDeflate(True, True, 15, 15)] if deflate else []
    parser = TheirFrame.parse(reader.read_exact, mask=False, extensions=extensions)
    try:
        while True:
            next(parser)
    except StopIteration as end:
        frame: TheirFrame = end.value
        return frame


@settings(deadline=None)
@given(st.binary(max_size=300))
@example(b"x" * 125)
@example(b"x" * 126)
@example(b"x" * 65_535)
@example(b"x" * 65_536)
def test_a_frame_is_read_back(payload: bytes) -> None:
    """Every length form of the header, and the payload, as the other library reads them."""
    frame = parse(Frame.of(payload).plain)
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, payload)


@settings(deadline=None)
@given(st.binary(max_size=64), st.integers(1, 200))
def test_a_compressed_frame_is_read_back(part: bytes, times: int) -> None:
    """Compression without context: each message alone; small ones stay as they are."""
    payload = part * times
    frame = Frame.of(payload)
    assert bytes(parse(frame.deflated(), deflate=True).data) == payload
    if len(payload) < COMPRESSED_FROM_BYTES:
        assert frame.deflated() is frame.plain


@settings(deadline=None)
@given(st.text(max_size=500))
def test_what_a_client_compressed_is_inflated(text: str) -> None:
    """A message that the other library compressed is read."""
    theirs = PerMessageDeflate(True, True, 15, 15).encode(TheirFrame(Opcode.TEXT, text.encode()))
    assert inflate(bytes(theirs.data), 4096) == text.encode()


def test_a_compressed_message_cannot_grow_beyond_the_limit() -> None:
    """A small message that would inflate to megabytes is refused, and so is a damaged one."""
    bomb = PerMessageDeflate(True, True, 15, 15).encode(TheirFrame(Opcode.TEXT, b"0" * 10_000_000))
    with pytest.raises(ValueError, match="at most 4096"):
        inflate(bytes(bomb.data), 4096)
    with pytest.raises(ValueError, match="damaged"):
        inflate(b"\xff\xff\xff", 4096)
    final = zlib.compressobj(wbits=-15)
    block = final.compress(b"text") + final.flush(zlib.Z_FINISH)
    assert inflate(block, 4096) == inflate(block + b"\x00", 4096) == b"text"
    with pytest.raises(ValueError, match="after the final block"):
        inflate(block + b"more", 4096)


@pytest.mark.parametrize(
    ("offer", "accepted"),
    [
        ("permessage-deflate; client_max_window_bits", True),
        ("permessage-deflate", True),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", True),
        ("permessage-deflate; server_max_window_bits=10", False),
        ("x-webkit-deflate-frame", False),
        ("permessage-deflate; client_max_window_bits=15; server_no_context_takeover", True),
        ("permessage-deflate; client_max_window_bits=7", False),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", False),
        ("permessage-deflate; mistaken", False),
        ("permessage-deflate; server_no_context_takeover=1", False),
        ("", False),
    ],
)
def test_only_offers_that_we_can_keep_are_accepted(offer: str, accepted: bool) -> None:
    """A smaller window than ours is declined."""
    assert accepts_deflate(offer) is accepted
