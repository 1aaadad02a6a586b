"""Feed statuses: validated and de-duplicated per line, because the ledger contains the history of each line.

When input records are lost, the ledger gets an entry that closes at once, because nothing downstream depends on
statuses.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.events import AnyEvent, FeedStatus
from marketdata.operator import Lost
from stream_apps.operators import losses
from stream_apps.operators.trade_ids import key_of
from stream_apps.operators.validation import check_status, letter

STATUSES_REMEMBERED = 1_000


class IngestStatusState(msgspec.Struct):
    """The last statuses of one symbol, or of a venue's connections, as digests of their identity."""

    recent: dict[bytes, None] = {}


class IngestStatus:
    """The operator."""

    name = "ingest_status"
    input = "md.ingest.status"
    outputs: tuple[str, ...] = ("md.status", "md.dead_letters")
    state = IngestStatusState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> IngestStatusState:  # noqa: ARG002 - the protocol's
        """Return the state of a key that was never seen."""
        return IngestStatusState()

    def step(self, state: IngestStatusState, event: AnyEvent) -> tuple[IngestStatusState, list[AnyEvent]]:
        """Return the status when it is valid and new, or its dead letter."""
        assert isinstance(event, FeedStatus)  # noqa: S101 - the topic's schema
        error = check_status(event)
        if error is not None:
            self.counts[error.reason] += 1
            return state, [letter(event, error)]
        # A gap opens once and closes once; statuses without a gap_id are equal only when every field is.
        same = f"{event.line}|{event.kind}|{event.gap_id}"
        if event.gap_id is None:
            same += f"|{event.ts_event}|{event.sequence}|{event.channel}|{event.reason}|{event.detail}"
        key = key_of(same)
        if key in state.recent:
            self.counts["duplicates"] += 1
            return state, []
        state.recent[key] = None
        if len(state.recent) > STATUSES_REMEMBERED:
            del state.recent[next(iter(state.recent))]
        return state, [event]

    def lost(self, state: IngestStatusState, key: str, loss: Lost) -> tuple[IngestStatusState, list[AnyEvent]]:
        """Return a ledger entry, closed at once."""
        self.counts["lost"] += 1
        return state, [*losses.passed_over(losses.gap(loss, key, "status"))]
