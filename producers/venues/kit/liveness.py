"""Whether a line's connection is alive: from its start to its end, or until nothing was received for too long.

1. The start of a connection is reported, and so is its end; with it every book is lost.
2. Nothing received for longer than the venue ever leaves a line alone means that it is dead, however open it looks:
   books are lost then, not when the network notices, and a new connection is asked for.
3. Where silence alone proves nothing, the feed sends the venue a request before (`ping_due`).
"""

from __future__ import annotations

from collections.abc import Callable

from marketdata.clock import MILLISECOND_NS
from marketdata.events import ALL_SYMBOLS, DISCONNECTED, STALE
from marketdata.feed import Reconnect
from producers.venues.kit.calls import Call

# Loses every book of the line, for this reason.
LoseAll = Callable[[Call, str], None]


class Liveness:
    """One line's connection. The feed sets `ts_heard` with each frame; `end` says in words what ended it last."""

    __slots__ = ("_lose_all", "_silence_ns", "_ts_asked", "end", "is_open", "ts_heard")

    def __init__(self, silence_ns: int | None, lose_all: LoseAll) -> None:
        self._silence_ns = silence_ns
        self._lose_all = lose_all
        self._ts_asked = 0
        self.is_open = False
        self.ts_heard = 0
        self.end = ""

    def opened(self, call: Call) -> None:
        """Start, and report it."""
        self.is_open = True
        self.ts_heard = self._ts_asked = call.ts
        call.status(ALL_SYMBOLS, "connected")

    def ticked(self, call: Call) -> bool:
        """Return whether the connection is alive; one that was silent for too long is given up."""
        silent_ns = call.ts - self.ts_heard
        if not self.is_open or self._silence_ns is None or silent_ns <= self._silence_ns:
            return self.is_open
        self.is_open = False
        self.end = f"no frame for {silent_ns // MILLISECOND_NS} ms"
        call.status(ALL_SYMBOLS, "heartbeat_missed", reason=STALE, detail=self.end)
        self._lose_all(call, STALE)
        call.out.append(Reconnect("heartbeat_missed"))
        return False

    def ping_due(self, ts: int, after_ns: int) -> bool:
        """Return whether nothing was received for so long that a request is due, and none was sent meanwhile."""
        if ts - self.ts_heard <= after_ns or ts - self._ts_asked <= after_ns:
            return False
        self._ts_asked = ts
        return True

    def closed(self, call: Call, reason: str) -> None:
        """Note and report that the connection is gone."""
        self.is_open = False
        self.end = reason
        call.status(ALL_SYMBOLS, "disconnected", reason=reason)
        self._lose_all(call, DISCONNECTED)
