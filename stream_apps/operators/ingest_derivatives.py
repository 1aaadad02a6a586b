"""Derivatives: validated, and each value and each liquidation published once, whichever line sent it.

1. Lines send the same messages. A field that has passed with a newer time from another line is left out, and so is an
   event that repeats what has passed. Messages of different channels are not in order of time, so each field is judged
   by its own time.
2. A liquidation is known by its id, or by its time, side, price and size where it has none; several equal ones in one
   message are several liquidations.
3. When input records are lost, an invalid event without values passes, and the next valid event closes the gap on the
   ledger: values come again, but liquidations in the gap are lost.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.events import AnyEvent, Derivative, FeedStatus, Liquidation
from marketdata.operator import Lost
from stream_apps.operators import losses
from stream_apps.operators.arbitration import LineReports
from stream_apps.operators.trade_ids import RecentKeys, key_of, no_keys
from stream_apps.operators.validation import DERIVATIVE_FIELDS, check_derivative, is_empty

# Duplicates from a lagging line are recognised among this many events.
EVENTS_REMEMBERED = 256


class Passed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """When a field passed last, and from which line."""

    ts: int
    line: str


class IngestDerivativesState(msgspec.Struct):
    """What has passed of one symbol: the last events by content, the fields by time, and liquidations by key."""

    lines: LineReports
    liquidations: RecentKeys
    recent: dict[str, None] = {}
    fields: dict[str, Passed] = {}
    line: str = ""
    ts: int = 0
    reason: str = ""
    gaps: list[FeedStatus] = []


class IngestDerivatives:
    """The operator."""

    name = "ingest_derivatives"
    input = "md.ingest.derivatives"
    outputs: tuple[str, ...] = ("md.derivatives", "md.status", "md.dead_letters")
    state = IngestDerivativesState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> IngestDerivativesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return IngestDerivativesState(lines=LineReports(), liquidations=no_keys())

    def step(self, state: IngestDerivativesState, event: AnyEvent) -> tuple[IngestDerivativesState, list[AnyEvent]]:
        """Return what of the event is valid and new, and a dead letter for each invalid field and liquidation."""
        assert isinstance(event, Derivative)  # noqa: S101 - the topic's schema
        good, letters = check_derivative(event)
        out: list[AnyEvent] = [*letters]
        for refused in letters:
            self.counts[refused.reason] += 1
        passed = None if good is None else self._passed(state, good)
        if passed is None:
            return state, out
        out.insert(0, passed)
        out += losses.resume(state, passed)
        return state, out

    def _passed(self, state: IngestDerivativesState, event: Derivative) -> Derivative | None:
        live = event.origin == "live"
        reason = event.reason
        if live:
            reason = state.lines.update(event.line, event.ts_event, valid=event.valid, reason=event.reason)
            if not event.valid and not reason:
                self.counts["line_down"] += 1
                return None
        content = _content(event)
        changes = live and reason != state.reason
        if content in state.recent and not changes:
            self.counts["duplicates"] += 1
            return None
        state.recent[content] = None
        if len(state.recent) > EVENTS_REMEMBERED:
            del state.recent[next(iter(state.recent))]
        passed = msgspec.structs.replace(
            event,
            **(self._older(state, event) if live else {}),
            liquidations=self._new_liquidations(state, event),
        )
        if is_empty(passed) and not is_empty(event) and not changes:
            return None
        if live:
            state.line, state.ts, state.reason = event.line, max(state.ts, event.ts_event), reason
            passed = msgspec.structs.replace(passed, valid=not reason, reason=reason)
        return passed

    def _older(self, state: IngestDerivativesState, event: Derivative) -> dict[str, None]:
        """Return the fields to leave out, and remember the time of the others."""
        older: dict[str, None] = {}
        for field in DERIVATIVE_FIELDS:
            if getattr(event, field) is None:
                continue
            last = state.fields.get(field)
            if last is not None and last.line != event.line and event.ts_event < last.ts:
                older[field] = None
                self.counts["older_than_last"] += 1
            else:
                state.fields[field] = Passed(event.ts_event, event.line)
        return older

    def _new_liquidations(self, state: IngestDerivativesState, event: Derivative) -> tuple[Liquidation, ...]:
        new: list[Liquidation] = []
        equal: Counter[str] = Counter()
        for one in event.liquidations:
            name = _name(one)
            equal[name] += 1
            key = key_of(f"{name}\0{equal[name]}")
            if state.liquidations.has(key):
                self.counts["duplicates"] += 1
                continue
            state.liquidations.add(key, one.ts_event)
            new.append(one)
        return tuple(new)

    def lost(
        self, state: IngestDerivativesState, key: str, loss: Lost
    ) -> tuple[IngestDerivativesState, list[AnyEvent]]:
        """Return an invalid event without values, and the gap that the next valid event closes."""
        self.counts["lost"] += 1
        return state, losses.interrupt(state, key, loss, "derivatives", Derivative)


def _content(event: Derivative) -> str:
    values = "|".join([str(getattr(event, field)) for field in DERIVATIVE_FIELDS])
    liquidations = "|".join(map(_name, event.liquidations))
    return f"{event.ts_event}|{event.reason}|{values}|{liquidations}"


def _name(one: Liquidation) -> str:
    """Return what identifies a liquidation."""
    if one.liquidation_id is not None:
        return f"id\0{one.liquidation_id}"
    return f"{one.ts_event}\0{one.side}\0{one.price}\0{one.size}"
