"""Cuts a stream of bytes into FIX messages; what is none comes out in one piece, up to where the next one may begin."""

from __future__ import annotations

import re

# A snapshot of 10,000 levels has less than 1 MB; a limit so that no peer can make us hold more.
FRAME_BYTES_MAX = 8 * 1024 * 1024

_START = b"8=FIX"
_HEAD = re.compile(rb"8=FIX[0-9A-Z.]{1,12}\x019=(\d{1,9})\x01")
_HEAD_BYTES_MAX = 40
_TAIL = re.compile(rb"\x0110=\d{3}\x01")


class FixSplitter:
    """Splits by BodyLength. Where CheckSum is not where that says, the frame ends at the next that can be one."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._tried = 0  # up to here a frame whose length is wrong was searched in vain

    def split(self, data: bytes) -> list[bytes]:
        """Take what arrived and return what is whole now; never raises."""
        self._kept += data
        frames = []
        while (end := self._end()) is not None:
            frames.append(bytes(self._kept[:end]))
            del self._kept[:end]
            self._tried = 0
        return frames

    def _end(self) -> int | None:
        """Return where the first piece ends; None while that is not known."""
        kept = self._kept
        if not kept.startswith(_START):
            if _START.startswith(kept):
                return None
            start = kept.find(_START)
            return start if start > 0 else self._without_start()
        head = _HEAD.match(kept)
        if head is None:
            return self._next(1) if len(kept) > _HEAD_BYTES_MAX else None
        end = head.end() + int(head[1]) + len(b"10=000\x01")
        if end <= min(len(kept), FRAME_BYTES_MAX):
            if _TAIL.fullmatch(kept, end - 8, end) is not None:
                return end
        elif end <= FRAME_BYTES_MAX:
            return None
        return self._next(head.end() - 1)

    def _without_start(self) -> int:
        """Return how much of bytes without any start is surely none: all but the beginning of one at their end."""
        kept = self._kept
        return len(kept) - next(n for n in range(len(_START) - 1, -1, -1) if kept.endswith(_START[:n]))

    def _next(self, place: int) -> int | None:
        """Return where a message that is broken ends: after a CheckSum or before a start, whichever is first."""
        kept = self._kept
        place = max(place, self._tried)
        tail, start = _TAIL.search(kept, place), kept.find(_START, max(place, 1))
        ends = [end for end in (tail.end() if tail else -1, start) if end > 0]
        if ends:
            return min(ends)
        self._tried = max(place, len(kept) - 8)
        return len(kept) if len(kept) > FRAME_BYTES_MAX else None
