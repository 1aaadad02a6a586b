"""Splits a byte stream into FIX messages; other bytes are returned as one piece, up to the next possible message."""

from __future__ import annotations

import re

# A snapshot of 10,000 levels has less than 1 MB; the limit bounds the memory that a peer can make us use.
FRAME_BYTES_MAX = 8 * 1024 * 1024

_START = b"8=FIX"
_HEAD = re.compile(rb"8=FIX[0-9A-Z.]{1,12}\x019=(\d{1,9})\x01")
_HEAD_BYTES_MAX = 40
_TAIL = re.compile(rb"\x0110=\d{3}\x01")


class FixSplitter:
    """Splits by BodyLength. If no CheckSum field is at that position, the frame ends at the next possible one."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._tried = 0  # position up to which a frame with a wrong length was already searched

    def split(self, data: bytes) -> list[bytes]:
        """Add received bytes and return the complete frames; never raises."""
        self._kept += data
        frames, start = [], 0
        while (end := self._end(start)) is not None:
            frames.append(bytes(self._kept[start:end]))
            start, self._tried = end, 0
        del self._kept[:start]
        self._tried = max(0, self._tried - start)
        return frames

    def _end(self, start: int) -> int | None:
        """Return the end of the piece that begins at `start`; None while it is unknown."""
        kept = self._kept
        if not kept.startswith(_START, start):
            if _START.startswith(kept[start : start + len(_START)]):
                return None
            found = kept.find(_START, start)
            return found if found > 0 else self._without_start()
        head = _HEAD.match(kept, start)
        if head is None:
            return self._next(start, start + 1) if len(kept) - start > _HEAD_BYTES_MAX else None
        end = head.end() + int(head[1]) + len(b"10=000\x01")
        if end - start <= FRAME_BYTES_MAX:
            if end > len(kept):
                return None
            if _TAIL.fullmatch(kept, end - 8, end) is not None:
                return end
        return self._next(start, head.end() - 1)

    def _without_start(self) -> int:
        """Return how many bytes to discard when no message starts: all but a partial start at the end."""
        kept = self._kept
        return len(kept) - next(n for n in range(len(_START) - 1, -1, -1) if kept.endswith(_START[:n]))

    def _next(self, start: int, place: int) -> int | None:
        """Return the end of a malformed message: after a CheckSum or before a start, whichever is first."""
        kept = self._kept
        place = max(place, self._tried)
        tail, following = _TAIL.search(kept, place), kept.find(_START, max(place, start + 1))
        ends = [end for end in (tail.end() if tail else -1, following) if end > 0]
        if ends:
            return min(ends)
        self._tried = max(place, len(kept) - 8)
        return len(kept) if len(kept) - start > FRAME_BYTES_MAX else None
