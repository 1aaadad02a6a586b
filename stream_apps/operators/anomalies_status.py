"""Anomalies of feeds: gaps, silent feeds and failed connections (see `anomaly`).

1. A gap is open until every gap of its line that the anomaly contains is resynced. Its value is how many messages are
   missing; one gap after another within `COOLDOWN_NS` of the start is only on the ledger, not another anomaly.
2. A line that receives nothing, or cannot connect, is stale until it is connected. A symbol that fell silent by itself
   is stale until its line has it again. A halted symbol is never stale: its silence has a reason.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.events import AnyEvent, FeedStatus
from stream_apps.operators.anomaly import Episodes, Finding

# Lines that are remembered. Beyond this the line that reported longest ago is forgotten, and its anomalies end.
LINES_MAX = 64
# Open gaps of one line that are remembered; beyond this the oldest counts as closed.
GAPS_MAX = 64
COOLDOWN_NS = 60 * SECOND_NS

# Where candles are missing, the trades had a gap, or there were none: a listing of old trades jumps over them.
_CANDLES = "candles"
_SILENT = "heartbeat_missed"
_SILENT_ALONE = "silent"
_NO_CONNECTION = frozenset({"breaker_open", "refused", "given_up"})
_CONNECTED = frozenset({"connected", "breaker_closed"})


class Line(msgspec.Struct):
    """The gaps of one line that are open, how many messages are missing, and when the last anomaly of each began."""

    gaps: dict[str, None] = {}
    missing: int = 0
    started: dict[str, int] = {}


class AnomaliesStatusState(msgspec.Struct):
    """The lines of one symbol, or of a venue's connections, at most `LINES_MAX`, and which anomalies are open."""

    episodes: Episodes
    lines: dict[str, Line] = {}
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
        return AnomaliesStatusState(episodes=Episodes())

    def step(self, state: AnomaliesStatusState, event: AnyEvent) -> tuple[AnomaliesStatusState, list[AnyEvent]]:
        """Return what begins, worsens or ends with a status."""
        assert isinstance(event, FeedStatus)  # noqa: S101 - the topic's schema
        episodes = state.episodes
        out = episodes.settle(event)
        if event.kind in {"halted", "resumed"}:
            state.halted = event.kind == "halted"
        if event.kind == "gap" and event.channel != _CANDLES:
            out += self._gap(state, event)
        elif event.kind == "resynced":
            out += self._resynced(state, event)
            out += episodes.within(event, "stale", f"silence:{event.line}")
        elif event.kind == _SILENT and not state.halted:
            text = event.detail or "nothing was received for too long"
            out += self._stale(state, event, f"heartbeats:{event.line}", severity="warning", text=text)
        elif event.kind == _SILENT_ALONE and not state.halted:
            text = event.detail or "nothing came, though the rest of the connection goes on"
            out += self._stale(state, event, f"silence:{event.line}", severity="warning", text=text)
        elif event.kind in _NO_CONNECTION and not state.halted:
            text = event.detail or event.kind.replace("_", " ")
            out += self._stale(state, event, f"connect:{event.line}", severity="critical", text=text)
        if event.kind in _CONNECTED:
            out += episodes.within(event, "stale", f"connect:{event.line}")
        if event.kind in _CONNECTED - {"breaker_closed"}:
            out += episodes.within(event, "stale", f"heartbeats:{event.line}")
        return state, out

    def _gap(self, state: AnomaliesStatusState, event: FeedStatus) -> list[AnyEvent]:
        metric = f"missing:{event.line}"
        line, out = self._line(state, event)
        if not self._is_due(state, line, "gap", metric):
            return out
        missing = 1
        if event.expected is not None and event.received is not None:
            missing = max(1, event.received - event.expected)
        line.missing += missing
        text = event.detail or f"{missing} messages are missing"
        finding = _finding(event, "gap", metric, severity="warning", value=line.missing, text=text)
        out += state.episodes.exceeded(event, finding, self.counts, 0)
        if event.gap_id is None:
            if not line.gaps:
                out += self._close(state, line, event)
            return out
        line.gaps[event.gap_id] = None
        if len(line.gaps) > GAPS_MAX:
            del line.gaps[next(iter(line.gaps))]
        return out

    def _resynced(self, state: AnomaliesStatusState, event: FeedStatus) -> list[AnyEvent]:
        line = state.lines.get(event.line)
        if line is None or event.gap_id not in line.gaps:
            return []
        del line.gaps[event.gap_id]
        return [] if line.gaps else self._close(state, line, event)

    @staticmethod
    def _close(state: AnomaliesStatusState, line: Line, event: FeedStatus) -> list[AnyEvent]:
        line.missing = 0
        return state.episodes.within(event, "gap", f"missing:{event.line}")

    def _stale(
        self, state: AnomaliesStatusState, event: FeedStatus, metric: str, *, severity: str, text: str
    ) -> list[AnyEvent]:
        line, out = self._line(state, event)
        if self._is_due(state, line, "stale", metric):
            finding = _finding(event, "stale", metric, severity=severity, value=1, text=text)
            out += state.episodes.exceeded(event, finding, self.counts, 0)
        return out

    def _is_due(self, state: AnomaliesStatusState, line: Line, kind: str, metric: str) -> bool:
        """Return whether an anomaly is open, or may begin."""
        if f"{kind}|{metric}" in state.episodes.open:
            return True
        last = line.started.get(metric)
        if last is not None and state.episodes.now - last < COOLDOWN_NS:
            self.counts["held_back"] += 1
            return False
        line.started[metric] = state.episodes.now
        return True

    @staticmethod
    def _line(state: AnomaliesStatusState, event: FeedStatus) -> tuple[Line, list[AnyEvent]]:
        """Return the line of a status, and the ends of the anomalies of a line that is forgotten for it."""
        line = state.lines.pop(event.line, None) or Line()
        state.lines[event.line] = line
        out: list[AnyEvent] = []
        if len(state.lines) > LINES_MAX:
            forgotten = next(iter(state.lines))
            del state.lines[forgotten]
            for kind, what in (("gap", "missing"), ("stale", "heartbeats"), ("stale", "connect")):
                out += state.episodes.within(event, kind, f"{what}:{forgotten}")
        return line, out


def _finding(event: FeedStatus, kind: str, metric: str, *, severity: str, value: int, text: str) -> Finding:
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
    return Finding(
        kind=kind,
        metric=metric,
        severity=severity,
        size=float(value),
        value=str(value),
        limit="0",
        usual="0",
        text=text,
        evidence=evidence,
    )
