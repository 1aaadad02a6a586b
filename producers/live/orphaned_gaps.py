"""Closes the gaps that no feed will close any more: of a process that is gone, and of a line that was retired. Pure.

Theory of operation. A feed closes the gaps that it opened when the product is complete again. When its process is
killed (or stopped) before that, or a successor took over its line, no feed would, and the ledger would show them open
for ever.

1. At its start the producer reads what producers of its venue published before (`live.previous_run`). Each feed
   continues from there: it opens a gap of its own for each symbol (`kit.published`).
2. A gap that an earlier process left open is closed when a feed of this process closes its own gap of that symbol: the
   book is whole then, and what is missing of the trades has a gap of its own.
3. Lines of the earlier process that this one does not have (there are fewer now, or a successor had taken over) would
   count as alive for a few seconds more. They are reported as interrupted: their trades as not valid, their books as
   cleared.
4. The gap of a retired line is closed by the first whole book of its symbol that another line has, at once where it
   has one already. Where no book comes for `PATIENCE_NS`, as where only trades or quotes are had, any valid event of
   the symbol does. No book brings trades back: what may have been traded between the last good value before the gap
   and now becomes a gap of its own, with both ends, so that it can be repaired from the venue's history.
5. Gaps of trades that have a range or the ids that are missing are left alone: they wait for history anyhow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec
import structlog

from marketdata.clock import SECOND_NS
from marketdata.events import GAP, AnyEvent, BookUpdate, FeedStatus, Quote, RawFrame, Trades
from producers.live.connection import Sink
from producers.venues import TRADES, is_of_trades
from producers.venues.kit.published import RESTARTED, PreviousRun
from producers.venues.kit.venue import Venue

PATIENCE_NS = 60 * SECOND_NS
# More than one process ever opens between two starts; the oldest are given up first.
GAPS_MAX = 10_000

SUCCEEDED = "succeeded"

_LOG = structlog.get_logger()


class OrphanedGaps:
    """The open gaps of one process, pure: takes every status and what may close a gap; returns what to publish."""

    def __init__(self) -> None:
        self._open: dict[str, FeedStatus] = {}
        self._previous: dict[str, list[FeedStatus]] = {}  # by symbol, of earlier processes
        self._continued: dict[str, set[str]] = {}  # by symbol, the gaps of this process that continue those
        self._retired: dict[str, dict[str, FeedStatus]] = {}  # by symbol and id
        self._whole: dict[str, set[str]] = {}  # by symbol the lines that have a book
        self._since: int | None = None
        self._started: int | None = None

    def start(self, previous: PreviousRun, symbols: Collection[str] | None, lines: Collection[str],
              venue: Venue, ts: int) -> list[AnyEvent]:  # fmt: skip
        """Take what earlier processes left of these symbols (None: of all); return what is to be published of it.

        `lines` are the names of this process's lines, `ts` is now (UTC ns).
        """
        self._started = ts
        for gap in previous.gaps:
            is_ours = symbols is None or gap.symbol in symbols
            if not is_ours or _is_for_history(gap):
                continue
            if gap.symbol in previous.symbols:
                self._previous.setdefault(gap.symbol, []).append(gap)
            else:  # nothing good was ever published, so that no feed has anything to continue
                self._retired.setdefault(gap.symbol, {})[gap.gap_id or ""] = gap
        events: list[AnyEvent] = []
        for symbol, last in previous.symbols.items():
            if symbols is not None and symbol not in symbols:
                continue
            for line in sorted(last.lines - set(lines)):
                head: dict[str, Any] = {"venue": venue.name, "symbol": symbol, "line": line, "ts_event": last.ts_whole,
                                        "ts_recv": ts, "valid": False, "reason": GAP}  # fmt: skip
                cleared = BookUpdate(**head, sequence_scope=venue.sequence_scope, kind="clear")
                events += [Trades(**head, amendable=venue.amends_trades), cleared]
        return events

    @property
    def waiting(self) -> bool:
        """Whether any gap is open that a whole book or a valid event closes."""
        return bool(self._retired)

    def status(self, event: FeedStatus) -> list[FeedStatus]:
        """Take what a line reports of itself."""
        if event.kind == "gap" and event.gap_id is not None:
            self._open[event.gap_id] = event
            if event.reason == RESTARTED:
                self._continued.setdefault(event.symbol, set()).add(event.gap_id)
            if len(self._open) > GAPS_MAX:
                del self._open[next(iter(self._open))]
        elif event.kind == "resynced" and event.gap_id is not None:
            self._open.pop(event.gap_id, None)
            if event.gap_id in self._continued.get(event.symbol, ()):
                del self._continued[event.symbol]
                return [_closed(gap, event, RESTARTED) for gap in self._previous.pop(event.symbol, ())]
        elif event.kind == "ended" and event.reason == "retired":
            return self._retire(event)
        return []

    def book(self, event: BookUpdate) -> list[FeedStatus]:
        """Note which lines have a book, and close what that closes."""
        if event.kind == "clear":
            self._whole.get(event.symbol, set()).discard(event.line)
            return []
        if event.kind == "snapshot":
            self._whole.setdefault(event.symbol, set()).add(event.line)
            return self._close(event)
        return self.other(event)

    def other(self, event: BookUpdate | Quote | Trades) -> list[FeedStatus]:
        """Close what a symbol without a book leaves open."""
        if self._since is None:
            self._since = event.ts_recv
        is_late = event.ts_recv - self._since >= PATIENCE_NS
        return self._close(event) if is_late and event.valid and event.symbol in self._retired else []

    def _retire(self, event: FeedStatus) -> list[FeedStatus]:
        closed: list[FeedStatus] = []
        for lines in self._whole.values():
            lines.discard(event.line)
        for gap in [gap for gap in self._open.values() if gap.line == event.line]:
            del self._open[gap.gap_id or ""]
            if _is_for_history(gap):
                continue
            self._retired.setdefault(gap.symbol, {})[gap.gap_id or ""] = gap
            others = self._whole.get(gap.symbol)
            if others:
                closed += self._close(msgspec.structs.replace(event, symbol=gap.symbol, line=min(others)))
        return closed

    def _close(self, event: BookUpdate | Quote | Trades | FeedStatus) -> list[FeedStatus]:
        closed: list[FeedStatus] = []
        trades: FeedStatus | None = None  # of several lines the one with the longest time
        for gap in self._retired.pop(event.symbol, {}).values():
            is_own = self._started is None or gap.ts_recv >= self._started
            closed.append(_closed(gap, event, SUCCEEDED if is_own else RESTARTED))
            is_longest = gap.ts_from is not None and (trades is None or gap.ts_from < (trades.ts_from or 0))
            if is_longest and (gap.channel is None or is_of_trades(gap.venue, gap.channel)):
                trades = msgspec.structs.replace(
                    gap, ts_event=event.ts_event, ts_recv=event.ts_recv, ts_to=event.ts_event, sequence=None,
                    line=event.line, reason=GAP, channel=TRADES, expected=None, received=None,
                    detail=f"trades may be missing since {gap.gap_id}", gap_id=f"{gap.gap_id}/{TRADES}",
                )  # fmt: skip
        return [*closed, trades] if trades is not None else closed


def _is_for_history(gap: FeedStatus) -> bool:
    return is_of_trades(gap.venue, gap.channel) and (gap.ts_to is not None or gap.expected is not None)


def _closed(gap: FeedStatus, event: BookUpdate | Quote | Trades | FeedStatus, reason: str) -> FeedStatus:
    return msgspec.structs.replace(
        gap, ts_event=event.ts_event, ts_recv=event.ts_recv, ts_to=event.ts_event, sequence=None, kind="resynced",
        reason=reason, detail=f"by {event.line}, which is whole",
    )  # fmt: skip


class ClosingSink:
    """A sink before another one: what closes an orphaned gap is followed by the gap's end."""

    def __init__(self, sink: Sink, gaps: OrphanedGaps) -> None:
        self._sink = sink
        self._gaps = gaps

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Hand over, as the sink behind does."""
        records = list(events)
        closed: list[FeedStatus] = []
        for event in records:
            if type(event) is FeedStatus:
                closed += self._gaps.status(event)
            elif type(event) is BookUpdate:
                if event.kind != "update" or self._gaps.waiting:
                    closed += self._gaps.book(event)
            elif self._gaps.waiting and isinstance(event, Quote | Trades):
                closed += self._gaps.other(event)
        if closed:
            _LOG.info("gaps are closed", line=line, gaps=[one.gap_id for one in closed if one.kind == "resynced"])
        await self._sink.write(line, [*records, *closed] if closed else records, t_recv, raw)
