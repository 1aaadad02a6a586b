"""Anomalies of feeds: gaps, silent feeds and failed connections (see `anomaly`)."""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.events import Anomaly, AnyEvent, FeedStatus
from stream_apps.operators.anomaly import Reports, make_anomaly

# Lines whose last reports are remembered. Beyond this the line with the oldest report is evicted; it may then be
# reported again within the cooldown.
LINES_MAX = 64


class AnomaliesStatusState(msgspec.Struct):
    """The last reports of each line of one symbol, or of a venue's connections; at most `LINES_MAX` lines."""

    reports: dict[str, Reports] = {}
    halted: bool = False


class AnomaliesStatus:
    """The operator."""

    name = "anomalies_status"
    input = "md.status"
    outputs: tuple[str, ...] = ("md.anomalies",)
    state = AnomaliesStatusState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> AnomaliesStatusState:  # noqa: ARG002 - the protocol's
        """Return the state of a key that was never seen."""
        return AnomaliesStatusState()

    def step(self, state: AnomaliesStatusState, event: AnyEvent) -> tuple[AnomaliesStatusState, list[AnyEvent]]:
        """Return the anomaly that a status indicates."""
        assert isinstance(event, FeedStatus)  # noqa: S101 - the topic's schema
        if event.kind in {"halted", "resumed"}:
            state.halted = event.kind == "halted"
        found = _of_status(event)
        if found is None or (state.halted and found.kind == "stale"):
            return state, []
        reports = state.reports.pop(event.line, None) or Reports()
        state.reports[event.line] = reports
        if len(state.reports) > LINES_MAX:
            del state.reports[next(iter(state.reports))]
        return state, [found] if reports.is_due(found.kind, event.ts_event, self.counts) else []


def _of_status(event: FeedStatus) -> Anomaly | None:
    evidence = {
        name: str(value)
        for name, value in (
            ("reason", event.reason),
            ("detail", event.detail),
            ("channel", event.channel),
            ("gap_id", event.gap_id),
            ("expected", event.expected),
            ("received", event.received),
        )
        if value not in {None, ""}
    }
    if event.kind == "gap":
        missing = 1
        if event.expected is not None and event.received is not None:
            missing = max(1, event.received - event.expected)
        return make_anomaly(event, "gap", "warning", f"missing:{event.line}", value=str(missing), limit="0", **evidence)
    if event.kind == "heartbeat_missed":
        return make_anomaly(event, "stale", "warning", f"heartbeats:{event.line}", value="1", limit="0", **evidence)
    if event.kind in {"breaker_open", "refused", "given_up"}:
        return make_anomaly(event, "stale", "critical", f"connect:{event.line}", value="1", limit="0", **evidence)
    return None
