"""Book updates: validated, and merged from several lines into one stream.

An unusable update becomes a dead letter. Without it every later book of its line would be wrong, so the line's book is
cleared in the same step. When input records are lost, the books of all lines are cleared. If no other line has the
book, the stream is cleared, a gap opens on the ledger, and the next snapshot that passes closes it.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import CONNECTION, GAP, SYMBOL, AnyEvent, BookUpdate, FeedStatus
from marketdata.operator import Lost
from stream_apps.operators import losses
from stream_apps.operators.arbitration import BookLines
from stream_apps.operators.validation import check_book, escaped, letter, time_or

CHANNEL = "books"


class IngestBooksState(msgspec.Struct):
    """The lines of one symbol, and the open gaps that the next snapshot closes."""

    lines: BookLines
    gaps: list[FeedStatus] = []


class IngestBooks:
    """The operator."""

    name = "ingest_books"
    input = "md.ingest.books"
    outputs: tuple[str, ...] = ("md.book_updates", "md.status", "md.dead_letters")
    state = IngestBooksState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> IngestBooksState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return IngestBooksState(lines=BookLines())

    def step(self, state: IngestBooksState, event: AnyEvent) -> tuple[IngestBooksState, list[AnyEvent]]:
        """Return the update when it passes, a snapshot when another line takes over, and dead letters."""
        assert isinstance(event, BookUpdate)  # noqa: S101 - the topic's schema
        out: list[AnyEvent] = []
        error = check_book(event)
        if error is not None:
            self.counts[error.reason] += 1
            out.append(letter(event, error))
            broken = state.lines.lines.get(event.line) if type(event.line) is str else None
            if broken is None or not broken.has_book:
                return state, out
            scope = SYMBOL if event.sequence_scope == SYMBOL else CONNECTION
            event = _clear(event.venue, event.symbol, event.line, broken.ts, time_or(event.ts_recv, broken.ts))
            event = msgspec.structs.replace(event, sequence_scope=scope)
        passed = state.lines.passed(event, self.counts)
        if passed is None:
            return state, out
        out.append(passed)
        if error is not None and passed.kind == "clear":
            self._open(state, _refused(passed, error), out)
        elif state.gaps and passed.kind == "snapshot":
            out += [losses.closed(gap, ts=passed.ts_event, ts_recv=passed.ts_recv) for gap in state.gaps]
            state.gaps = []
        return state, out

    @staticmethod
    def _open(state: IngestBooksState, gap: FeedStatus, out: list[AnyEvent]) -> None:
        if len(state.gaps) < losses.GAPS_MAX:
            state.gaps.append(gap)
            out.append(gap)

    def lost(self, state: IngestBooksState, key: str, loss: Lost) -> tuple[IngestBooksState, list[AnyEvent]]:
        """Return the clear of the book, and the gap that the next snapshot will close."""
        self.counts["lost"] += 1
        lines = state.lines
        out: list[AnyEvent] = []
        if lines.primary:
            venue, _, symbol = key.partition(":")
            ts = lines.ts or lines.lines[lines.primary].ts
            out.append(_clear(venue, symbol, lines.primary, ts, loss.ts))
        lines.lose()
        self._open(state, losses.gap(loss, key, CHANNEL, ts_from=lines.ts or None), out)
        return state, out


def _clear(venue: str, symbol: str, line: str, ts: int, ts_recv: int) -> BookUpdate:
    return BookUpdate(
        venue=venue, symbol=symbol, ts_event=ts, ts_recv=ts_recv, line=line, valid=False, reason=GAP, kind="clear"
    )


def _refused(clear: BookUpdate, error: BadEvent) -> FeedStatus:
    """Return the gap that a refused update opens."""
    return FeedStatus(
        venue=clear.venue,
        symbol=clear.symbol,
        ts_event=clear.ts_event,
        ts_recv=clear.ts_recv,
        line=clear.line,
        kind="gap",
        reason=GAP,
        detail=escaped(f"a book update was refused: {error}"),
        channel=CHANNEL,
        gap_id=f"{clear.line}/{clear.symbol}/{clear.ts_recv}/refused",
        ts_from=clear.ts_event,
    )
