"""Settles the gaps that no feed will close any more: of a process that is gone, and of a line that was retired. Pure.

Theory of operation. A feed closes the gaps that it opened when the product is whole again. When its process is killed
(or told to stop) before that, or a successor took over its line, nobody would, and the ledger would show them for ever.

1. At its start the producer reads what producers said of its venue before (`producers.past`): gaps that were opened
   and never closed are left over.
2. A gap that is left over is closed by the first whole book of its symbol that any line of this process brings, be it a
   new line's or that of a successor which has one already. Where no book comes for `PATIENCE_NS`, as where only trades
   or quotes are had, any valid event of the symbol does.
3. No book brings trades back. What may have been traded between the last good value before the gap and now is told as
   a gap of its own, with both ends, so that it can be repaired from the venue's history.
4. Gaps of trades that have a range or the ids that are missing are left alone: they wait for history anyhow.
5. A process that was killed told of no gap. Where its last word of a symbol's trades was that they are whole, and no
   ids would show what was traded since, they are told to be missing (`cut_off`): candles are not valid then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from marketdata.clock import SECOND_NS
from marketdata.events import GAP, AnyEvent, BookUpdate, FeedStatus, Quote, RawFrame, Trades
from producers.connection import Sink
from producers.repair import TRADE_CHANNELS, TRADES

PATIENCE_NS = 60 * SECOND_NS
# More than one process ever opens between two starts; the oldest are given up first.
GAPS_MAX = 10_000

RESTARTED, SUCCEEDED = "restarted", "succeeded"

_LOG = structlog.get_logger()


class Gaps:
    """The open gaps of one process, pure: told every status and what may settle a gap; returns what to tell."""

    def __init__(self) -> None:
        self._open: dict[str, FeedStatus] = {}
        self._left: dict[str, dict[str, tuple[FeedStatus, str]]] = {}  # by symbol and id, with what settles it
        self._whole: dict[str, set[str]] = {}  # by symbol the lines that have a book
        self._since: int | None = None

    def left_over(self, gaps: Iterable[FeedStatus]) -> None:
        """Take in what an earlier process left open."""
        for gap in gaps:
            self._leave(gap, RESTARTED)

    def cut_off(self, last: Iterable[Trades], ts: int) -> list[Trades]:
        """Take in what an earlier process told last of each symbol's trades; return that they are whole no more."""
        told: list[Trades] = []
        for event in last:
            if not event.valid:
                continue  # it ended in order, or within a gap
            gap = FeedStatus(
                venue=event.venue, symbol=event.symbol, line=event.line, ts_event=event.ts_event, ts_recv=ts,
                kind="gap", channel=TRADES, gap_id=f"{event.line}/{event.symbol}/{event.ts_recv}/cut_off",
                ts_from=event.ts_event,
            )  # fmt: skip
            self._leave(gap, "")
            more: dict[str, Any] = {"trades": (), "complete_from": None, "valid": False, "reason": GAP}
            told.append(msgspec.structs.replace(event, ts_recv=ts, sequence=None, **more))
        return told

    @property
    def waiting(self) -> bool:
        """Whether any gap is left over."""
        return bool(self._left)

    def status(self, event: FeedStatus) -> list[FeedStatus]:
        """Note what a line says of itself."""
        if event.kind == "gap" and event.gap_id is not None:
            self._open[event.gap_id] = event
            if len(self._open) > GAPS_MAX:
                del self._open[next(iter(self._open))]
        elif event.kind == "resynced" and event.gap_id is not None:
            self._open.pop(event.gap_id, None)
        elif event.kind == "ended" and event.reason == "retired":
            return self._retired(event)
        return []

    def book(self, event: BookUpdate) -> list[FeedStatus]:
        """Note which lines have a book, and settle what that settles."""
        if event.kind == "clear":
            self._whole.get(event.symbol, set()).discard(event.line)
            return []
        if event.kind == "snapshot":
            self._whole.setdefault(event.symbol, set()).add(event.line)
            return self._settle(event)
        return self.other(event)

    def other(self, event: BookUpdate | Quote | Trades) -> list[FeedStatus]:
        """Settle what a symbol without a book leaves open."""
        if self._since is None:
            self._since = event.ts_recv
        is_late = event.ts_recv - self._since >= PATIENCE_NS
        return self._settle(event) if is_late and event.valid and event.symbol in self._left else []

    def _retired(self, event: FeedStatus) -> list[FeedStatus]:
        told: list[FeedStatus] = []
        for lines in self._whole.values():
            lines.discard(event.line)
        for gap in [gap for gap in self._open.values() if gap.line == event.line]:
            del self._open[gap.gap_id or ""]
            self._leave(gap, SUCCEEDED)
            others = self._whole.get(gap.symbol)
            if others:
                told += self._settle(msgspec.structs.replace(event, symbol=gap.symbol, line=min(others)))
        return told

    def _leave(self, gap: FeedStatus, by: str) -> None:
        if gap.channel in TRADE_CHANNELS and (gap.ts_to is not None or gap.expected is not None):
            return  # history's
        self._left.setdefault(gap.symbol, {})[gap.gap_id or ""] = (gap, by)

    def _settle(self, event: BookUpdate | Quote | Trades | FeedStatus) -> list[FeedStatus]:
        told: list[FeedStatus] = []
        now: dict[str, Any] = {"ts_event": event.ts_event, "ts_recv": event.ts_recv, "ts_to": event.ts_event}
        trades: FeedStatus | None = None  # of several lines the one that tells the longest time
        for gap, by in self._left.pop(event.symbol, {}).values():
            detail = f"by {event.line}, which is whole"
            if by:  # else it was told to nobody yet
                told.append(
                    msgspec.structs.replace(gap, **now, sequence=None, kind="resynced", reason=by, detail=detail)
                )
            is_longest = gap.ts_from is not None and (trades is None or gap.ts_from < (trades.ts_from or 0))
            if is_longest and (gap.channel is None or gap.channel in TRADE_CHANNELS):
                trades = msgspec.structs.replace(
                    gap, **now, sequence=None, line=event.line, reason=GAP, channel=TRADES, expected=None,
                    received=None, detail=f"trades may be missing since {gap.gap_id}", gap_id=f"{gap.gap_id}/{TRADES}",
                )  # fmt: skip
        return [*told, trades] if trades is not None else told


class Settling:
    """A sink before another one: what settles a gap is followed by the gap's end."""

    def __init__(self, sink: Sink, gaps: Gaps) -> None:
        self._sink = sink
        self._gaps = gaps

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Hand over, as the sink behind does."""
        records = list(events)
        told: list[FeedStatus] = []
        for event in records:
            if type(event) is FeedStatus:
                told += self._gaps.status(event)
            elif type(event) is BookUpdate:
                if event.kind != "update" or self._gaps.waiting:
                    told += self._gaps.book(event)
            elif self._gaps.waiting and isinstance(event, Quote | Trades):
                told += self._gaps.other(event)
        if told:
            _LOG.info("gaps are settled", line=line, gaps=[one.gap_id for one in told if one.kind == "resynced"])
        await self._sink.write(line, [*records, *told] if told else records, t_recv, raw)
