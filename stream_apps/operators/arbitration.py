"""Merges the lines of one feed into one stream: whether it is valid, and which line's book updates pass.

Validity: a problem that one line reports (a gap, a disconnect) invalidates the stream only when no other line is valid.
See `LineReports`.

Book updates: venues number them in two ways, and each event states which (`sequence_scope`), so there are two ways to
merge lines.

`connection` (the default): sequence numbers belong to a connection, so the updates of two lines cannot be matched.

1. One line is the primary and its updates pass. Once there is a second line, each line has a shadow book.
2. When the primary's book becomes invalid, or the primary is silent while another line is not, the most recent line
   with a valid shadow book becomes the primary, and its shadow book passes as a snapshot. If there is none, the clear
   passes.
3. While the primary is invalid, the first line to have a valid book becomes the primary.

`symbol`: sequence numbers belong to the symbol, so the first arrival of each passes.

1. An update whose number has passed is a duplicate, whichever line sent it.
2. A line's first snapshot is also a duplicate when another line is valid and ahead of it.
3. A snapshot with a lower number, on a line that has a book or lower than the line's own last number, means that the
   venue reset its sequence: every other line waits for its own snapshot.
4. A clear passes when no other line is valid. Another line is valid when it sent something recently, or when its
   sequence number has reached the last one that passed, however long ago.

A line starts invalid and becomes valid with a snapshot. Updates before that are counted and dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from marketdata.book import L2Book
from marketdata.clock import SECOND_NS
from marketdata.events import GAP, HALTED, SYMBOL, BookUpdate

# A line this far behind the newest is ignored. Heartbeats arrive every second.
SILENCE_NS_MAX = 3 * SECOND_NS
# Lines of one symbol; redundant setups have two or three. Beyond this the line that is silent longest is evicted.
LINES_MAX = 16
# A line that is silent for this long is evicted with its shadow book.
FORGET_NS = 600 * SECOND_NS


class LineReports(msgspec.Struct):
    """The last report of each line of one symbol: its time, and why the line is invalid (empty when valid)."""

    ts: dict[str, int] = {}
    reasons: dict[str, str] = {}

    def update(self, line: str, ts: int, *, valid: bool, reason: str) -> str:
        """Record a line's report and return why the stream is invalid, empty when it is valid.

        The stream is halted when any live line reports a halt: a halt concerns the market, and lines report it at
        slightly different times. Otherwise the stream is valid when any live line is.
        """
        mine = "" if valid else reason or GAP
        times = self.ts
        if len(times) == 1 and line in times:  # a single line, as in nearly every stream
            times[line] = max(times[line], ts)
            self.reasons[line] = mine
            return mine
        times[line] = max(times.get(line, ts), ts)
        self.reasons[line] = mine
        if len(times) > LINES_MAX:
            oldest = min(times, key=lambda name: (times[name], name))
            del times[oldest], self.reasons[oldest]
        since = max(times.values()) - SILENCE_NS_MAX
        live = {self.reasons[name] for name, last in times.items() if last >= since}
        if HALTED in live:
            return HALTED
        return "" if "" in live else mine or min(live)


class BookLine(msgspec.Struct):
    """One line's book: whether it is complete, why it is invalid, and its last sequence number."""

    ts: int
    has_book: bool = False
    reason: str = ""
    sequence: int | None = None


class BookLines(msgspec.Struct):
    """The lines of one symbol, and shadow books once there are several.

    `primary` is the line whose book passed last; `ts` and `sequence` are those of what passed last.
    """

    lines: dict[str, BookLine] = {}
    shadows: dict[str, L2Book] = {}
    primary: str = ""
    sequence: int | None = None
    ts: int = 0

    def passed(self, event: BookUpdate, counts: Counter[str]) -> BookUpdate | None:
        """Return what an event passes on: the event itself, another line's snapshot, or nothing."""
        line = self.lines.get(event.line) or self._first_seen(event)
        line.ts = max(line.ts, event.ts_event)
        before = line.sequence
        in_the_middle = line.has_book
        if not _is_usable(line, event, counts):
            return None
        if event.sequence_scope == SYMBOL:
            resets = None not in (before, event.sequence) and (event.sequence or 0) < (before or 0)
            passed = self._by_symbol(line, event, counts, begins=not (in_the_middle or resets))
        else:
            passed = self._by_primary(line, event, counts)
        if passed is not None:
            self.ts = max(self.ts, passed.ts_event)
        return passed

    def lose(self) -> None:
        """Record a loss on every line: no line has a complete book until its next snapshot."""
        for line in self.lines.values():
            line.has_book = False
        self.shadows.clear()

    def _first_seen(self, event: BookUpdate) -> BookLine:
        lines = self.lines
        line = lines[event.line] = BookLine(ts=event.ts_event)
        self.primary = self.primary or event.line
        if len(lines) > LINES_MAX:
            name = min((name for name in lines if name not in {event.line, self.primary}), key=_recency(lines))
            self._forget(name)
        return line

    def _forget(self, name: str) -> None:
        del self.lines[name]
        self.shadows.pop(name, None)
        if len(self.lines) == 1:
            self.shadows.clear()

    # --- Sequence numbers that belong to the connection ---

    def _by_primary(self, line: BookLine, event: BookUpdate, counts: Counter[str]) -> BookUpdate | None:
        self._shadow(event)
        leading = self.lines[self.primary]
        if event.line == self.primary:
            if event.kind != "clear":
                return event
            since = event.ts_event - SILENCE_NS_MAX
            ready = [name for name in self.shadows if self.lines[name].has_book and self.lines[name].ts >= since]
            return self._take_over(max(ready, key=_recency(self.lines)), event, counts) if ready else event
        if leading.has_book and event.ts_event - leading.ts <= SILENCE_NS_MAX:
            counts["standby"] += 1
            return None
        if line.has_book and event.line in self.shadows:
            return self._take_over(event.line, event, counts)
        counts["standby"] += 1
        return None

    def _shadow(self, event: BookUpdate) -> None:
        if len(self.lines) == 1:
            return
        if event.kind == "snapshot":
            for name, other in list(self.lines.items()):
                if name not in {event.line, self.primary} and event.ts_event - other.ts > FORGET_NS:
                    self._forget(name)
            book = self.shadows[event.line] = L2Book()
            book.bids.replace(event.bid_prices, event.bid_sizes)
            book.asks.replace(event.ask_prices, event.ask_sizes)
        elif event.kind == "clear":
            self.shadows.pop(event.line, None)
        elif event.kind == "update" and event.line in self.shadows:
            book = self.shadows[event.line]
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)

    def _take_over(self, name: str, event: BookUpdate, counts: Counter[str]) -> BookUpdate:
        counts["line_switches"] += 1
        self.primary = name
        line = self.lines[name]
        bid_prices, bid_sizes, ask_prices, ask_sizes = self.shadows[name].pack()
        return BookUpdate(
            venue=event.venue,
            symbol=event.symbol,
            ts_event=line.ts,
            ts_recv=event.ts_recv,
            line=name,
            sequence=line.sequence,
            valid=not line.reason,
            reason=line.reason,
            kind="snapshot",
            bid_prices=bid_prices,
            bid_sizes=bid_sizes,
            ask_prices=ask_prices,
            ask_sizes=ask_sizes,
        )

    # --- Sequence numbers that belong to the symbol ---

    def _by_symbol(self, line: BookLine, event: BookUpdate, counts: Counter[str], *, begins: bool) -> BookUpdate | None:
        """Return the event when it passes; `begins`: a snapshot is the first of a line, not a sequence reset."""
        kind, number, last = event.kind, event.sequence, self.sequence
        if kind == "update":
            # Updates without a number cannot be matched across lines.
            passed = event.line == self.primary if number is None else last is None or number > last
        elif kind == "heartbeat":
            passed = event.ts_event > self.ts or event.line == self.primary
        else:
            since = line.ts - SILENCE_NS_MAX
            others = [other for other in self.lines.values() if other is not line and other.has_book]
            alive = any(other.ts >= since for other in others)
            behind = number is not None and last is not None and number <= last
            # On a quiet symbol all lines may be silent; one that has reached the last passed number has the same book.
            level = last is not None and any(other.sequence is not None and other.sequence >= last for other in others)
            passed = not (alive or level) if kind == "clear" else not (alive and behind and begins)
            if kind == "snapshot" and passed:
                self.primary = event.line
                if behind:
                    for other in self.lines.values():
                        if other is not line:
                            other.has_book, other.sequence = False, None
        if not passed:
            counts["duplicates" if kind in {"update", "snapshot"} else "standby"] += 1
            return None
        if kind == "snapshot" or (kind == "update" and number is not None):
            self.sequence = number
        return event


def _is_usable(line: BookLine, event: BookUpdate, counts: Counter[str]) -> bool:
    if event.kind == "update" and not line.has_book:
        counts["delta_before_snapshot"] += 1
        return False
    line.has_book = event.kind == "snapshot" or (line.has_book and event.kind != "clear")
    line.reason = "" if event.valid else event.reason or GAP
    if event.sequence is not None and line.has_book:
        line.sequence = event.sequence
    return True


def _recency(lines: Mapping[str, BookLine]) -> Callable[[str], tuple[int, str]]:
    """Return a sort key: the time of a line's last event, then its name, so that the order is deterministic."""
    return lambda name: (lines[name].ts, name)
