"""Book updates: validated, and of several lines made one stream.

A change that cannot be used is a dead letter. Without it every later book of its line would be wrong, so the line's
book is cleared in the same step. When input records are lost, every line's book is: the stream is cleared, a gap opens
on the ledger, and the next snapshot that passes closes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from marketdata.events import GAP, AnyEvent, BookUpdate, FeedStatus
from marketdata.operator import Lost
from stream_apps.operators import losses
from stream_apps.operators.arbitration import SEQUENCE_SCOPES, BookLines, Scope
from stream_apps.operators.validation import check_book, letter, time_or

# Gaps that wait for one snapshot. Further losses before it are covered by the last of these.
GAPS_MAX = 16


class IngestBooksState(msgspec.Struct):
    """The lines of one symbol, and the gaps of lost records that the next snapshot closes."""

    lines: BookLines
    gaps: list[FeedStatus] = []


class IngestBooks:
    """The operator. `sequence_scopes` names the venues whose sequence numbers belong to the symbol."""

    name = "ingest_books"
    input = "md.ingest.books"
    outputs: tuple[str, ...] = ("md.book_updates", "md.status", "md.dead_letters")
    state = IngestBooksState

    def __init__(self, sequence_scopes: Mapping[str, Scope] = SEQUENCE_SCOPES) -> None:
        self.counts: Counter[str] = Counter()
        self._scopes = sequence_scopes

    def start(self, key: str) -> IngestBooksState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return IngestBooksState(lines=BookLines())

    def step(self, state: IngestBooksState, event: AnyEvent) -> tuple[IngestBooksState, list[AnyEvent]]:
        """Return the change when it passes, a snapshot when another line takes over, and dead letters."""
        assert isinstance(event, BookUpdate)  # noqa: S101 - the topic's schema
        out: list[AnyEvent] = []
        error = check_book(event)
        if error is not None:
            self.counts[error.reason] += 1
            out.append(letter(event, error))
            broken = state.lines.lines.get(event.line) if type(event.line) is str else None
            if broken is None or not broken.has_book:
                return state, out
            event = BookUpdate(
                venue=event.venue,
                symbol=event.symbol,
                ts_event=broken.ts,
                ts_recv=time_or(event.ts_recv, broken.ts),
                line=event.line,
                valid=False,
                reason=GAP,
                kind="clear",
            )
        passed = state.lines.passed(event, self._scopes.get(event.venue, "connection"), self.counts)
        if passed is not None:
            out.append(passed)
            if state.gaps and passed.kind == "snapshot":
                out += [losses.closed(gap, ts=passed.ts_event, ts_recv=passed.ts_recv) for gap in state.gaps]
                state.gaps = []
        return state, out

    def lost(self, state: IngestBooksState, key: str, loss: Lost) -> tuple[IngestBooksState, list[AnyEvent]]:
        """Return the book cleared until the next snapshot, and the gap that the snapshot will close."""
        self.counts["lost"] += 1
        lines = state.lines
        out: list[AnyEvent] = []
        if lines.primary:
            venue, _, symbol = key.partition(":")
            out.append(
                BookUpdate(
                    venue=venue,
                    symbol=symbol,
                    ts_event=lines.ts or lines.lines[lines.primary].ts,
                    ts_recv=loss.ts,
                    line=lines.primary,
                    valid=False,
                    reason=GAP,
                    kind="clear",
                )
            )
        lines.lose()
        if len(state.gaps) < GAPS_MAX:
            gap = losses.gap(loss, key, "books", ts_from=lines.ts or None)
            state.gaps.append(gap)
            out.append(gap)
        return state, out
