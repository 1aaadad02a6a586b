"""Whose clock judges how old a venue's data is: ours or, in a replay, that of the recording. Pure.

1. An event bears when it was received by the clock of its producer (`ts_recv`), and its headers when it really was
   (`t_recv`, see `marketdata.headers`). A live producer has one clock, so that both are equal. In a replay `ts_recv`
   is the recorder's, and far behind.
2. The latest event of a venue decides, in the order in which events were received: more than `REPLAY_NS` apart, the
   venue is replayed. Its clock is then the newest `ts_recv` of its events, and stands still when the replay is over.
3. A replay over TCP has our own clock. The end of a recording, which its line reports, stops the clock there.
4. What is newer than a replay's clock does not come from the replay: our clock judges it. So does it judge each venue
   that is not replayed: when all producers are dead, everything grows stale.
"""

from __future__ import annotations

from collections.abc import Callable

from marketdata.clock import MINUTE_NS
from marketdata.events import FeedStatus

# No recording is replayed within a minute of its making, and no live event is published a minute before it is received.
REPLAY_NS = MINUTE_NS

# What a line reports when a recording is over.
ENDED, END_REASON = "ended", "end of recording"

VENUES_MAX = 1_000


class _Venue:
    """One venue: the real time of its latest event, and the newest `ts_recv` while it is replayed (0: it is live)."""

    __slots__ = ("newest", "replayed_to", "t_latest")

    def __init__(self) -> None:
        self.t_latest = 0
        self.newest = 0
        self.replayed_to = 0


class Clocks:
    """The clocks of all venues; `clock` is ours. All times are UTC nanoseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self._venues: dict[str, _Venue] = {}

    def note(self, venue: str, ts_recv: int, t_recv: int) -> None:
        """Note an event of a venue; `t_recv` is when it was really received, 0 where that is not known."""
        if not t_recv:
            return
        known = self._venues.get(venue)
        if known is None:
            if len(self._venues) >= VENUES_MAX:
                return
            known = self._venues[venue] = _Venue()
        is_replayed = abs(t_recv - ts_recv) > REPLAY_NS
        if t_recv >= known.t_latest:
            known.t_latest = t_recv
            if not is_replayed:
                known.replayed_to = 0
                known.newest = max(known.newest, ts_recv)
                return
        elif not known.replayed_to:
            return
        if is_replayed:
            known.replayed_to = max(known.replayed_to, ts_recv)

    def note_status(self, event: FeedStatus) -> None:
        """Stop a venue's clock when the recording of a line is over; a later live event starts it again."""
        known = self._venues.get(event.venue)
        if known is not None and event.kind == ENDED and event.reason == END_REASON and not known.replayed_to:
            known.replayed_to = max(known.newest, event.ts_recv)

    def now(self, venue: str, ts_recv: int) -> int:
        """Return the time by the clock that judges a value which was received at `ts_recv`."""
        known = self._venues.get(venue)
        if known is not None and ts_recv <= known.replayed_to:
            return known.replayed_to
        return self.clock()
