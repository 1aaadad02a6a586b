"""Quotes: validated, de-duplicated across lines by content and time, and never older than the last from another line.

When input records are lost, the quote is invalid until the next valid one passes, which closes the gap on the ledger.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.events import SYMBOL, AnyEvent, FeedStatus, Quote
from marketdata.operator import Lost
from stream_apps.operators import losses
from stream_apps.operators.arbitration import LineReports
from stream_apps.operators.validation import check_quote, letter

# Duplicates from a lagging line are recognised among this many quotes.
QUOTES_REMEMBERED = 256


class IngestQuotesState(msgspec.Struct):
    """The last quotes of one symbol by content, and the time and validity of the last one that passed."""

    lines: LineReports
    recent: dict[str, None] = {}
    line: str = ""
    ts: int = 0
    reason: str = ""
    gaps: list[FeedStatus] = []


class IngestQuotes:
    """The operator."""

    name = "ingest_quotes"
    input = "md.ingest.quotes"
    outputs: tuple[str, ...] = ("md.quotes", "md.status", "md.dead_letters")
    state = IngestQuotesState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> IngestQuotesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return IngestQuotesState(lines=LineReports())

    def step(self, state: IngestQuotesState, event: AnyEvent) -> tuple[IngestQuotesState, list[AnyEvent]]:
        """Return the quote when it is valid and new, or its dead letter."""
        assert isinstance(event, Quote)  # noqa: S101 - the topic's schema
        error = check_quote(event)
        if error is not None:
            self.counts[error.reason] += 1
            return state, [letter(event, error)]
        passed = self._passed(state, event)
        if passed is None:
            return state, []
        out: list[AnyEvent] = [passed]
        out += losses.resume(state, passed)
        return state, out

    def _passed(self, state: IngestQuotesState, event: Quote) -> Quote | None:
        if event.origin != "live":  # history does not affect the state of the lines
            return event
        reason = state.lines.update(event.line, event.ts_event, valid=event.valid, reason=event.reason)
        if not event.valid and not reason:
            self.counts["line_down"] += 1
            return None
        content = _content(event)
        if event.line != state.line and event.ts_event < state.ts:
            self.counts["duplicates" if content in state.recent else "older_than_last"] += 1
            return None
        if content in state.recent and reason == state.reason:
            self.counts["duplicates"] += 1
            return None
        state.recent[content] = None
        if len(state.recent) > QUOTES_REMEMBERED:
            del state.recent[next(iter(state.recent))]
        state.line, state.ts, state.reason = event.line, max(state.ts, event.ts_event), reason
        if event.valid == (not reason) and event.reason == reason:
            return event
        return msgspec.structs.replace(event, valid=not reason, reason=reason)

    def lost(self, state: IngestQuotesState, key: str, loss: Lost) -> tuple[IngestQuotesState, list[AnyEvent]]:
        """Return an invalid quote without prices, and the gap that the next valid quote closes."""
        self.counts["lost"] += 1
        return state, losses.interrupt(state, key, loss, "quotes", Quote)


def _content(event: Quote) -> str:
    # Several quotes may have the same time, and a later one may equal an earlier one; a per-symbol sequence decides.
    number = event.sequence if event.sequence_scope == SYMBOL else None
    return (
        f"{number}|{event.ts_event}|{event.reason}|{event.bid}|{event.bid_size}|{event.ask}|{event.ask_size}|{event.last}"
        f"|{event.volume_24h}|{event.high_24h}|{event.low_24h}|{event.change_24h}"
    )
