"""Ledger entries for input records that can never be read, deterministic and unique for each symbol."""

from __future__ import annotations

from typing import Protocol

import msgspec

from marketdata.events import GAP, AnyEvent, Derivative, FeedStatus, Quote
from marketdata.operator import Lost

# The reason of a gap that is closed at once, because there is nothing to repair.
PASSED_OVER = "passed_over"
# Gaps that one event closes. Further losses before that event are covered by the last of these.
GAPS_MAX = 16


class Interrupted(Protocol):
    """The state of a stream of values: its line, time and validity, and the gaps that its next valid event closes."""

    line: str
    ts: int
    reason: str
    gaps: list[FeedStatus]


def gap(loss: Lost, key: str, channel: str, *, ts_from: int | None = None, ts_to: int | None = None) -> FeedStatus:
    """Return the entry that opens the gap of a loss for one symbol.

    `key` is `venue:symbol`; `ts_from` and `ts_to` are the bounds of the affected time, where known.
    """
    venue, _, symbol = key.partition(":")
    if loss.count is None:
        what = f"records from offset {loss.offset} on are lost"
    elif loss.count == 1:
        what = f"the record of offset {loss.offset} is lost"
    else:
        what = f"{loss.count} records from offset {loss.offset} on are lost"
    return FeedStatus(
        venue=venue,
        symbol=symbol,
        ts_event=loss.ts,
        ts_recv=loss.ts,
        line=f"{loss.topic}/{loss.partition}",
        kind="gap",
        reason=GAP,
        detail=f"{what}: {loss.reason}",
        channel=channel,
        gap_id=f"{loss.topic}|{loss.partition}|{loss.offset}|{key}",
        ts_from=ts_from,
        ts_to=ts_to,
    )


def closed(opened: FeedStatus, *, ts: int, ts_recv: int, reason: str = "", detail: str = "") -> FeedStatus:
    """Return the entry that closes a gap; `ts` is the event time from which the data is complete again."""
    return msgspec.structs.replace(
        opened, kind="resynced", ts_event=ts, ts_recv=ts_recv, ts_to=ts, reason=reason, detail=detail
    )


def interrupt(state: Interrupted, key: str, loss: Lost, channel: str, kind: type[Quote | Derivative]) -> list[AnyEvent]:
    """Return an invalid event without values, and the gap that the next valid event closes."""
    out: list[AnyEvent] = []
    if state.ts:
        venue, _, symbol = key.partition(":")
        state.reason = GAP
        out.append(
            kind(
                venue=venue,
                symbol=symbol,
                ts_event=state.ts,
                ts_recv=loss.ts,
                line=state.line,
                valid=False,
                reason=GAP,
            )
        )
    if len(state.gaps) < GAPS_MAX:
        opened = gap(loss, key, channel, ts_from=state.ts or None)
        state.gaps.append(opened)
        out.append(opened)
    return out


def resume(state: Interrupted, passed: Quote | Derivative) -> list[FeedStatus]:
    """Return the entries that close the gaps when a valid live event has passed; none when nothing is closed."""
    if not state.gaps or not passed.valid or passed.origin != "live":
        return []
    gaps, state.gaps = state.gaps, []
    return [closed(each, ts=passed.ts_event, ts_recv=passed.ts_recv) for each in gaps]


def passed_over(opened: FeedStatus, detail: str = "nothing to repair") -> list[FeedStatus]:
    """Return a gap and the entry that closes it at once, so that nothing tries to repair it."""
    return [opened, msgspec.structs.replace(opened, kind="resynced", reason=PASSED_OVER, detail=detail)]
