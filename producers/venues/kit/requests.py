"""REST requests of one line under one budget: how many are under way at once, and what a minute may weigh.

Theory of operation.

1. `ask` puts a request into a queue, first come first served, unless the same one (purpose and symbol) is there.
2. `due` takes from the queue what may be made now: at most `under_way_max` at once, and within any 60 s at most
   `weight_per_minute` of the venue's weight. A venue counts per address and over all symbols, so the budget is the
   line's, not a symbol's.
3. `came` ends a request. One that is not answered in time frees its place, goes to the end of the queue and waits
   twice as long the next time; after `TRIES_MAX` it is dropped, so that a symbol that does not exist costs the others
   nothing for ever. Whoever still needs it asks again.
4. `again` is for an answer that was of no use, as a book that is too old: the same request waits for a second, the
   next time twice as long, up to `PAUSE_NS_MAX`; a venue that lags would be asked as quickly as it answers otherwise.
   Where a recording answers there is nobody to spare.
5. `forget` drops everything with the connection that asked. What was spent stays spent.
"""

from __future__ import annotations

from collections import deque

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.feed import Fetch

ANSWER_NS = 10 * SECOND_NS
TRIES_MAX = 5
PAUSE_NS = SECOND_NS
PAUSE_NS_MAX = 30 * SECOND_NS


class Requests:
    """The requests of one line; `waiting` are those in the queue. A limit of None is no limit, as for a recording."""

    __slots__ = ("_paused", "_spent", "_tries", "_under_way", "_under_way_max", "_weight_per_minute", "waiting")

    def __init__(self, *, under_way_max: int | None, weight_per_minute: int | None) -> None:
        self._under_way_max = under_way_max
        self._weight_per_minute = weight_per_minute
        self.waiting: dict[tuple[str, str], Fetch] = {}
        self._under_way: dict[tuple[str, str], tuple[Fetch, int]] = {}  # with the deadline
        self._tries: dict[tuple[str, str], int] = {}
        self._paused: dict[tuple[str, str], tuple[int, int]] = {}  # until when, for how long
        self._spent: deque[tuple[int, int]] = deque()  # time, weight

    def __contains__(self, what: tuple[str, str]) -> bool:
        """Return whether a request of this purpose and symbol waits or is under way."""
        return what in self.waiting or what in self._under_way

    def ask(self, request: Fetch) -> None:
        """Queue a request, unless the same one waits or is under way."""
        what = (request.purpose, request.symbol)
        if what not in self:
            self.waiting[what] = request

    def again(self, request: Fetch, ts: int) -> None:
        """Queue a request whose answer was of no use; it waits the longer, the more often that was so of late."""
        what = (request.purpose, request.symbol)
        if self._under_way_max is not None:
            until, pause = self._paused.get(what, (0, 0))
            pause = min(2 * pause, PAUSE_NS_MAX) if pause and ts - until < MINUTE_NS else PAUSE_NS
            self._paused[what] = (ts + pause, pause)
        self.ask(request)

    def came(self, request: Fetch) -> None:
        """End a request: its answer is here, and could be used."""
        what = (request.purpose, request.symbol)
        self.waiting.pop(what, None)
        self._under_way.pop(what, None)
        self._tries.pop(what, None)

    def forget(self) -> None:
        """Drop every request: the connection that asked is gone."""
        self.waiting.clear()
        self._under_way.clear()
        self._tries.clear()
        self._paused.clear()

    def due(self, ts: int) -> list[Fetch]:
        """Return the requests to make now, having begun to wait for them; the overdue are queued again first."""
        self._requeue(ts)
        while self._spent and ts - self._spent[0][0] >= MINUTE_NS:
            self._spent.popleft()
        budget = self._weight_per_minute
        spent = sum(weight for _, weight in self._spent) if budget is not None else 0
        made: list[Fetch] = []
        for what, request in list(self.waiting.items()):
            if what in self._paused and ts < self._paused[what][0]:
                continue
            if self._under_way_max is not None and len(self._under_way) >= self._under_way_max:
                break
            # One that weighs more than the whole budget is made when nothing else was, or it never would be.
            if budget is not None and spent and spent + request.weight > budget:
                break
            del self.waiting[what]
            self._under_way[what] = (request, ts + (ANSWER_NS << self._tries.get(what, 0)))
            if budget is not None:
                self._spent.append((ts, request.weight))
                spent += request.weight
            made.append(request)
        return made

    def _requeue(self, ts: int) -> None:
        for what, (request, deadline) in list(self._under_way.items()):
            if ts < deadline:
                continue
            del self._under_way[what]
            tries = self._tries[what] = self._tries.get(what, 0) + 1
            if tries < TRIES_MAX:
                self.waiting[what] = request
            else:
                del self._tries[what]
