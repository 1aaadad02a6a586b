"""The snapshots that a line has requested and that have not come yet, each with a deadline."""

from __future__ import annotations

from marketdata.clock import SECOND_NS

ASKED_NS = 10 * SECOND_NS  # the largest recorded snapshot, of 5 MB, came 0.7 s after its subscription
ASKED_NS_MAX = 60 * SECOND_NS


class Outstanding:
    """Requested snapshots, by channel and the venue's name of the product; each try waits twice as long."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        # To (deadline, how often it was asked again).
        self._waiting: dict[tuple[str, str], tuple[int, int]] = {}

    def __contains__(self, what: tuple[str, str]) -> bool:
        return what in self._waiting

    def clear(self) -> None:
        """Wait for nothing: the connection that was asked is gone."""
        self._waiting.clear()

    def ask(self, channel: str, name: str, ts: int, *, tries: int = 0) -> None:
        """Begin to wait, from now."""
        deadline = ts + min(ASKED_NS << tries, ASKED_NS_MAX)
        self._waiting[channel, name] = (deadline, min(tries, 10))

    def came(self, channel: str, name: str) -> None:
        """Stop waiting: it has come."""
        self._waiting.pop((channel, name), None)

    def take_overdue(self, ts: int) -> list[tuple[str, str, int]]:
        """Stop waiting for what did not come in time; return it as (channel, name, tries)."""
        overdue = [(*what, tries) for what, (deadline, tries) in self._waiting.items() if ts >= deadline]
        for channel, name, _ in overdue:
            del self._waiting[channel, name]
        return overdue
